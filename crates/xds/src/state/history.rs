//! The history of each resource: what was accepted and when, and what was refused since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::google::protobuf::Any;

use crate::ResourceType;

/// A resource as last accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// Empty for static resources.
    pub version: Arc<str>,
    pub body: Any,
    pub when: SystemTime,
}

/// A resource as last refused.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub version: Arc<str>,
    pub body: Any,
    pub reason: String,
    pub when: SystemTime,
}

#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub accepted: Option<Accepted>,
    pub failure: Option<Failure>,
    /// From the bootstrap: never replaced or removed.
    pub fixed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Histories {
    by_type: BTreeMap<ResourceType, BTreeMap<Arc<str>, History>>,
    versions: BTreeMap<ResourceType, Arc<str>>,
}

impl Histories {
    pub fn of_type(&self, r#type: &ResourceType) -> impl Iterator<Item = (&Arc<str>, &History)> {
        self.by_type.get(r#type).into_iter().flatten()
    }

    /// The version of the last response of a type; empty before the first.
    pub fn last_version(&self, r#type: &ResourceType) -> &str {
        self.versions.get(r#type).map_or("", |version| version)
    }

    /// The version of what was last accepted of a resource; empty if nothing was.
    pub fn accepted_version(&self, r#type: &ResourceType, name: &str) -> &str {
        let accepted = self.get(r#type, name).and_then(|history| history.accepted.as_ref());
        accepted.map_or("", |accepted| &accepted.version)
    }

    fn get(&self, r#type: &ResourceType, name: &str) -> Option<&History> {
        self.by_type.get(r#type)?.get(name)
    }

    fn entry(&mut self, r#type: &ResourceType, name: Arc<str>) -> &mut History {
        self.by_type.entry(r#type.clone()).or_default().entry(name).or_default()
    }

    pub fn is_fixed(&self, r#type: &ResourceType, name: &str) -> bool {
        self.get(r#type, name).is_some_and(|history| history.fixed)
    }

    /// Whether a body is what was accepted last.
    pub fn is_current(&self, r#type: &ResourceType, name: &str, body: &Any) -> bool {
        self.get(r#type, name)
            .is_some_and(|history| !history.fixed && history.accepted.as_ref().is_some_and(|last| last.body == *body))
    }

    pub fn fixed(&mut self, r#type: ResourceType, name: Arc<str>, body: Any, when: SystemTime) {
        let accepted = Some(Accepted { version: "".into(), body, when });
        *self.entry(&r#type, name) = History { accepted, failure: None, fixed: true };
    }

    pub fn accepted(&mut self, r#type: &ResourceType, name: Arc<str>, version: Arc<str>, body: Any, when: SystemTime) {
        let history = self.entry(r#type, name);
        history.accepted = Some(Accepted { version, body, when });
        history.failure = None;
    }

    /// The same content came again, perhaps under a newer version.
    pub fn confirmed(&mut self, r#type: &ResourceType, name: &Arc<str>, version: &Arc<str>) {
        let history = self.entry(r#type, Arc::clone(name));
        history.failure = None;
        if let Some(accepted) = &mut history.accepted {
            accepted.version = Arc::clone(version);
        }
    }

    pub fn refused(
        &mut self,
        r#type: &ResourceType,
        name: Arc<str>,
        version: Arc<str>,
        body: Any,
        reason: String,
        when: SystemTime,
    ) {
        self.entry(r#type, name).failure = Some(Failure { version, body, reason, when });
    }

    pub fn forget(&mut self, r#type: &ResourceType, name: &str) {
        if let Some(of_type) = self.by_type.get_mut(r#type) {
            of_type.remove(name);
        }
    }

    pub fn version(&mut self, r#type: ResourceType, version: Arc<str>) {
        self.versions.insert(r#type, version);
    }
}
