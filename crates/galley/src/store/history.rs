//! What changed, in order, as far back as is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::object::Object;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It is different.
    Modified,
    /// It is gone.
    Deleted,
}

impl EventKind {
    /// As watch streams write it: `ADDED`, `MODIFIED`, `DELETED`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The store's revision after it; also the object's `resourceVersion`, of deleted ones too.
    pub revision: u64,
    /// The object after it, or its last state.
    pub object: Arc<Object>,
    /// The object before it: whoever selects by labels must know whether it was selected.
    pub previous: Option<Arc<Object>>,
    /// Bytes of the object as JSON.
    pub(super) bytes: usize,
}

/// The history does not reach back to that revision: list again, then watch from there. HTTP's 410.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Expired {
    /// Where a watch was to start.
    pub asked: u64,
    /// Where one can start.
    pub oldest: u64,
}

#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Event>,
    /// Events up to this revision are gone.
    gone: u64,
    newest: u64,
    most_events: usize,
    most_bytes: usize,
    bytes: usize,
}

impl History {
    pub(super) fn new(first: u64, most_events: usize, most_bytes: usize) -> Self {
        Self { events: VecDeque::new(), gone: first, newest: first, most_events, most_bytes, bytes: 0 }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.newest = event.revision;
        self.bytes += event.bytes;
        self.events.push_back(event);
        while self.events.len() > self.most_events || self.bytes > self.most_bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.gone = oldest.revision;
            self.bytes -= oldest.bytes;
        }
    }

    pub(super) fn after(&self, revision: u64, most: usize) -> Result<Vec<Event>, Expired> {
        // A revision from the future is of another store: its holder must list again too.
        if revision < self.gone || revision > self.newest {
            return Err(Expired { asked: revision, oldest: self.gone });
        }
        let start = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.events.range(start..).take(most).cloned().collect())
    }
}
