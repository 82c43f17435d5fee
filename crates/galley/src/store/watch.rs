//! Following the store's changes.

use std::collections::VecDeque;

use super::{Event, Expired, Store};
use crate::kind::Kind;

/// How many changes are taken at once while the store is locked.
const AT_ONCE: usize = 256;

/// Which changes are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this kind alone.
    pub kind: Option<Kind>,
    /// In this namespace alone.
    pub namespace: Option<String>,
    /// Of this name alone.
    pub name: Option<String>,
}

impl Filter {
    /// All objects of a kind.
    pub fn kind(kind: Kind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }

    /// Whether a change is wanted.
    pub fn passes(&self, event: &Event) -> bool {
        let object = &event.object;
        self.kind.is_none_or(|kind| kind == object.kind())
            && self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace())
            && self.name.as_deref().is_none_or(|name| name == object.name())
    }
}

/// Changes, one after the other.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    revisions: tokio::sync::watch::Receiver<u64>,
    seen: u64,
    filter: Filter,
    waiting: VecDeque<Event>,
}

impl Watch {
    pub(super) fn new(store: Store, revisions: tokio::sync::watch::Receiver<u64>, seen: u64, filter: Filter) -> Self {
        Self { store, revisions, seen, filter, waiting: VecDeque::new() }
    }

    /// The revision up to which everything wanted has been given out: what a bookmark says.
    pub fn revision(&self) -> u64 {
        self.waiting.front().map_or(self.seen, |event| event.revision.saturating_sub(1))
    }

    /// The next change that is already there, if one is.
    ///
    /// # Errors
    /// [`Expired`] when this watch fell so far behind that changes are lost to it.
    pub fn try_next(&mut self) -> Result<Option<Event>, Expired> {
        while self.waiting.is_empty() {
            let events = self.store.events_after(self.seen, AT_ONCE)?;
            let Some(last) = events.last() else { return Ok(None) };
            self.seen = last.revision;
            self.waiting.extend(events.into_iter().filter(|event| self.filter.passes(event)));
        }
        Ok(self.waiting.pop_front())
    }

    /// The next change, when it comes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Expired`] when this watch fell so far behind that changes are lost to it.
    pub async fn next(&mut self) -> Result<Event, Expired> {
        loop {
            if let Some(event) = self.progress().await? {
                return Ok(event);
            }
        }
    }

    /// The next change, or nothing when others were made that are not wanted: [`Self::revision`] has grown then. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// [`Expired`] when this watch fell so far behind that changes are lost to it.
    pub async fn progress(&mut self) -> Result<Option<Event>, Expired> {
        loop {
            self.revisions.mark_unchanged();
            let before = self.seen;
            let event = self.try_next()?;
            if event.is_some() || self.seen > before {
                return Ok(event);
            }
            // The sender lives in the store this watch holds, so it cannot be gone.
            if self.revisions.changed().await.is_err() {
                return Err(Expired { asked: self.seen, oldest: self.seen });
            }
        }
    }
}
