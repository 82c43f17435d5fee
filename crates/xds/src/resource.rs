//! What a control plane has to say: resources, and immutable sets of them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Any;
use lateen_persistent::Map;
use prost::{Message, Name};
use zeroize::Zeroizing;

use crate::ResourceType;
use crate::canonical::canonical;
use crate::keys;

/// A resource's version: a hash of its content, the same in every process of the same build. Equal versions of a
/// name mean equal content, so a client that comes back with what it has is sent only what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(NonZeroU64);

impl Version {
    fn of(content: &[u8]) -> Version {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Version(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }

    /// Reads back what [`fmt::Display`] wrote; `None` for versions another server gave.
    pub fn parse(text: &str) -> Option<Version> {
        u64::from_str_radix(text, 16).ok().and_then(NonZeroU64::new).map(Version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One named resource, encoded once and shared by every set and stream that holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    name: Arc<str>,
    version: Version,
    body: Bytes,
}

/// Without its content: it may be a secret.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({:?}, {}, {} bytes)", self.name, self.version, self.body.len())
    }
}

impl Resource {
    /// Encodes `message`; `name` is the one clients subscribe to.
    pub fn new<M: Message + Name>(name: impl Into<Arc<str>>, message: &M) -> Resource {
        Resource::from_encoded(name, &M::full_name(), message.encode_to_vec())
    }

    /// A resource whose message is encoded already. `type_name` is the message's full name.
    pub fn from_encoded(name: impl Into<Arc<str>>, type_name: &str, encoded: Vec<u8>) -> Resource {
        let body = Bytes::from(canonical(type_name, encoded));
        Resource { name: name.into(), version: Version::of(&body), body }
    }

    /// Encodes a secret by its own name. The message's key is overwritten, and what is encoded will be when the last copy
    /// goes.
    pub fn secret(mut secret: Secret) -> Resource {
        // Its maps are in extensions that nobody here makes: it needs no canonical form, which would be one more copy.
        let encoded = Zeroizing::new(secret.encode_to_vec());
        keys::overwrite(&mut secret, "");
        let body = Bytes::from_owner(encoded);
        Resource { name: secret.name.into(), version: Version::of(&body), body }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The encoded message.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The resource as responses carry it.
    pub fn to_any(&self, r#type: &ResourceType) -> Any {
        Any { type_url: r#type.url().to_owned(), value: self.body.to_vec() }
    }
}

/// All resources of one type, by name. Versions share what they have in common.
pub type Resources = Map<Arc<str>, Resource>;

/// Whether two resources of one name are the same.
pub fn same_version(a: &Resource, b: &Resource) -> bool {
    a.version == b.version
}

/// Resources as they are now, put in place of those of before: what did not change is shared with them.
pub fn follow(before: &Resources, now: Resources) -> Resources {
    let changes: Vec<_> = before.diff(&now, same_version).collect();
    if changes.len() > now.len() / 2 {
        return now;
    }
    let mut followed = before.clone();
    for (name, _, change) in changes {
        match change {
            Some(resource) => followed.insert(Arc::clone(name), resource.clone()),
            None => followed.remove(name),
        };
    }
    followed
}

/// Everything one client may be told, at one moment. Immutable; cheap to clone; what did not change is shared with the
/// set before, and what is shared costs nothing to compare.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    version: Arc<str>,
    by_type: BTreeMap<ResourceType, Resources>,
}

impl ResourceSet {
    /// An empty set. `version` is the push's name for people and for `version_info`; it decides nothing.
    pub fn new(version: impl Into<Arc<str>>) -> ResourceSet {
        ResourceSet { version: version.into(), by_type: BTreeMap::new() }
    }

    /// This set under another version, sharing all resources.
    pub fn at(&self, version: impl Into<Arc<str>>) -> ResourceSet {
        ResourceSet { version: version.into(), by_type: self.by_type.clone() }
    }

    /// This set with all resources of one type replaced. If none differs from before, the type stays as it was.
    pub fn with(self, r#type: ResourceType, resources: impl IntoIterator<Item = Resource>) -> ResourceSet {
        self.with_all(r#type, resources.into_iter().map(|r| (Arc::clone(&r.name), r)).collect())
    }

    /// The same. Costs work for what the resources do not share with those there were.
    pub fn with_all(mut self, r#type: ResourceType, resources: Resources) -> ResourceSet {
        let differs = |before: &Resources| before.diff(&resources, same_version).next().is_some();
        if self.by_type.get(&r#type).is_none_or(differs) {
            self.by_type.insert(r#type, resources);
        }
        self
    }

    /// Whether every type is the very same as in another set: then they hold the same resources.
    pub fn shares_all_with(&self, other: &ResourceSet) -> bool {
        self.by_type.len() == other.by_type.len()
            && self.by_type.iter().zip(&other.by_type).all(|((a, of_a), (b, of_b))| a == b && of_a.same(of_b))
    }

    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    pub fn get(&self, r#type: &ResourceType, name: &str) -> Option<&Resource> {
        self.by_type.get(r#type)?.get(name)
    }

    /// The resources of one type, in order of name.
    pub fn of_type(&self, r#type: &ResourceType) -> impl Iterator<Item = &Resource> {
        self.by_type.get(r#type).into_iter().flat_map(|resources| resources.values())
    }

    /// The resources of one type; a copy costs one counter.
    pub fn all_of(&self, r#type: &ResourceType) -> Resources {
        self.by_type.get(r#type).cloned().unwrap_or_default()
    }
}
