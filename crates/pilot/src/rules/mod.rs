//! Istio's rules as pilot holds them: identified by content, ordered by age, with names made whole.
//!
//! Knows nothing of proxies or xDS.

mod access;
mod balancing;
mod destination_rule;
mod outlier;
mod peers;
mod policy;
mod sidecar;
mod virtual_service;

pub use access::{Access, AccessPolicy, AccessRules, JwtKeys, Keys, KeysAt, Provider, keys_wanted};
pub use balancing::{Balancing, HashBy, Warmup};
pub use destination_rule::{DestinationRules, Merged};
pub use outlier::Outlier;
pub use peers::{PeerMode, PeerModes, PeerRules};
pub use policy::{Budget, Connections, Keepalive, Pings, Policy};
pub use sidecar::{Imports, SidecarRule, Sidecars};
pub use virtual_service::VirtualServiceRule;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lateen_galley::Object;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Seconds since 1970 at which an object was made; objects without a date count as the oldest.
pub fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Objects in the order in which they were made.
pub fn oldest_first<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<&'a Arc<Object>> {
    let mut objects: Vec<&Arc<Object>> = objects.collect();
    objects.sort_by(|a, b| {
        let age = |object: &Object| created(object.metadata());
        age(a).cmp(&age(b)).then_with(|| a.name().cmp(b.name())).then_with(|| a.namespace().cmp(b.namespace()))
    });
    objects
}

/// A hash of all that an object says, leaving out what changes without meaning (resource version, managed fields).
pub fn digest(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.kind().hash(&mut hasher);
    object.namespace().hash(&mut hasher);
    object.name().hash(&mut hasher);
    created(object.metadata()).hash(&mut hasher);
    object.labels().hash(&mut hasher);
    object.metadata().annotations.hash(&mut hasher);
    for part in ["spec", "status"] {
        if let Some(value) = object.raw().get(part) {
            value.hash(&mut hasher);
        }
    }
    hasher.finish()
}
