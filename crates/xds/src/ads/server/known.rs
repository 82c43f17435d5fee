//! What a client has of one type, as far as its server knows: what it accepted, what it refused, what is in doubt.
//!
//! A mesh has thousands of clients that have all its resources: what one accepted is the very map it was told from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::status::Refusal;
use crate::resource::{Resources, same_version};
use crate::{Resource, Version};

/// What a client has been told about a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Told {
    #[default]
    Nothing,
    /// It has some content from an earlier stream, not one of ours at hand.
    Foreign,
    Absent,
    Present(Resource),
}

impl Told {
    pub fn of(resource: Option<Resource>) -> Told {
        resource.map_or(Told::Absent, Told::Present)
    }

    fn version(&self) -> Option<Version> {
        match self {
            Told::Present(resource) => Some(resource.version()),
            Told::Nothing | Told::Foreign | Told::Absent => None,
        }
    }

    /// Whether telling `wanted` would be no news.
    pub fn is(&self, wanted: Option<&Resource>) -> bool {
        match (self, wanted) {
            (Told::Present(told), Some(wanted)) => told.version() == wanted.version(),
            (Told::Absent, None) => true,
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Content accepted.
    present: Resources,
    /// Names without content of ours: what the client has instead.
    otherwise: BTreeMap<Arc<str>, Told>,
    /// Names that were part of a refused response, of which the client may have taken this part nevertheless.
    uncertain: BTreeSet<Arc<str>>,
    /// Content the client refused, held back until there is other content, and what it said.
    refused: BTreeMap<Arc<str>, (Told, String)>,
}

impl Known {
    /// What the client was last told about a name, and answered.
    pub fn told(&self, name: &str) -> Told {
        if let Some((refused, _)) = self.refused.get(name) {
            return refused.clone();
        }
        if self.uncertain.contains(name) {
            return Told::Foreign;
        }
        let present = self.present.get(name).map(|resource| Told::Present(resource.clone()));
        present.or_else(|| self.otherwise.get(name).cloned()).unwrap_or_default()
    }

    /// The client has this from before.
    pub fn resume(&mut self, name: Arc<str>, told: Told) {
        match told {
            Told::Present(resource) => {
                self.otherwise.remove(&name);
                self.present.insert(name, resource);
            }
            told => {
                self.present.remove(&name);
                self.otherwise.insert(name, told);
            }
        }
    }

    /// The client accepted all that it was told; `all` are the resources it was told of then.
    pub fn accept(&mut self, told: impl IntoIterator<Item = (Arc<str>, Told)>, all: &Resources) {
        let mut first = Vec::new();
        let afresh = self.present.is_empty();
        for (name, told) in told {
            self.uncertain.remove(&name);
            self.refused.remove(&name);
            match told {
                Told::Present(resource) if afresh => {
                    self.otherwise.remove(&name);
                    first.push((name, resource));
                }
                told => self.resume(name, told),
            }
        }
        if !first.is_empty() {
            self.present = first.into_iter().collect();
        }
        self.share(all);
    }

    /// Keeps these resources in place of the client's own list, if they are the same.
    fn share(&mut self, all: &Resources) {
        if self.present.len() == all.len() && self.present.diff(all, same_version).next().is_none() {
            self.present = all.clone();
        }
    }

    /// The client refused what it was told about a name.
    pub fn refuse(&mut self, name: Arc<str>, told: Told, message: &str) {
        self.refused.insert(name, (told, message.to_owned()));
    }

    /// The client may or may not have taken what it was told about a name.
    pub fn doubt(&mut self, name: &Arc<str>) {
        self.uncertain.insert(Arc::clone(name));
    }

    pub fn forget(&mut self, name: &str) {
        self.present.remove(name);
        self.otherwise.remove(name);
        self.uncertain.remove(name);
        self.refused.remove(name);
    }

    pub fn retain(&mut self, stays: impl Fn(&Arc<str>) -> bool) {
        self.present.retain(|name, _| stays(name));
        self.otherwise.retain(|name, _| stays(name));
        self.uncertain.retain(|name| stays(name));
        self.refused.retain(|name, _| stays(name));
    }

    /// All names of which something is known.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.otherwise.keys().chain(&self.uncertain).chain(self.refused.keys());
        self.present.keys().chain(others)
    }

    /// Content that the client has accepted.
    pub fn present(&self) -> impl Iterator<Item = (&Arc<str>, &Resource)> {
        self.present.iter()
    }

    /// Whether the client goes on with older content of some name, because it refused the newer.
    pub fn holds_back(&self) -> bool {
        !self.refused.is_empty()
    }

    pub fn refusals(&self) -> BTreeMap<Arc<str>, Refusal> {
        let refusal = |(name, (told, message)): (&Arc<str>, &(Told, String))| {
            (Arc::clone(name), Refusal { version: told.version(), message: message.clone() })
        };
        self.refused.iter().map(refusal).collect()
    }
}
