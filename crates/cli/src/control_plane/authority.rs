//! The authority as the control plane's pages show it: once it works, and what keeps it from that or from what a person
//! brought it, which nobody would look for in a log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lateen_citadel::serve::Ca;

/// What can be in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What is kept on disk, or was brought before anything was kept: without it nothing is signed.
    Kept,
    /// The Secret `cacerts`.
    Brought,
    /// The lists of revoked certificates in it.
    Revoked,
}

/// The authority, once it works. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Authority(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ca: OnceLock<Arc<Ca>>,
    troubles: Mutex<BTreeMap<Part, String>>,
}

impl Authority {
    /// It works from now on.
    pub fn works(&self, ca: Arc<Ca>) {
        let _ = self.0.ca.set(ca);
    }

    /// The authority, if it works.
    pub fn get(&self) -> Option<&Arc<Ca>> {
        self.0.ca.get()
    }

    /// What is wrong with a part now; tells whether that is news.
    pub fn note(&self, part: Part, trouble: Option<String>) -> bool {
        let mut troubles = self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) => troubles.insert(part, trouble.clone()) != Some(trouble),
            None => troubles.remove(&part).is_some(),
        }
    }

    /// All that is wrong, in words.
    pub fn troubles(&self) -> Vec<String> {
        self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_news_once_and_end() {
        let authority = Authority::default();
        assert!(authority.note(Part::Brought, Some("no key".to_owned())));
        assert!(!authority.note(Part::Brought, Some("no key".to_owned())));
        assert!(authority.note(Part::Revoked, Some("no list".to_owned())));
        assert_eq!(authority.troubles(), ["no key", "no list"]);
        assert!(authority.note(Part::Brought, None));
        assert_eq!(authority.troubles(), ["no list"]);
    }
}
