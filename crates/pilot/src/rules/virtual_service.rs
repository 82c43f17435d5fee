//! A VirtualService, identified by its content.

use super::{created, digest};
use crate::registry::ExportTo;
use crate::{host, names};
use lateen_galley::istio::VirtualService;
use lateen_galley::{Config, Object};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A VirtualService with its host and gateway names made whole. Two are equal if they say the same.
#[derive(Clone, Debug)]
pub struct VirtualServiceRule {
    object: Arc<Object>,
    spec: Arc<VirtualService>,
    digest: u64,
    created: i64,
    export_to: ExportTo,
    hosts: Vec<String>,
    gateways: Vec<String>,
}

impl VirtualServiceRule {
    /// Takes a VirtualService in; `None` for objects of other kinds. `domain` is the cluster's.
    pub fn new(object: &Arc<Object>, domain: &str) -> Option<VirtualServiceRule> {
        let config: &Config<VirtualService> = object.typed()?;
        let namespace = object.namespace();
        let hosts = config.spec.hosts.iter().map(|host| host::resolve(host, namespace, domain)).collect();
        let gateways = if config.spec.gateways.is_empty() {
            vec![names::MESH_GATEWAY.to_owned()]
        } else {
            config.spec.gateways.iter().map(|gateway| gateway_name(gateway, namespace)).collect()
        };
        Some(VirtualServiceRule {
            spec: Arc::new(config.spec.clone()),
            digest: digest(object),
            created: created(object.metadata()),
            export_to: ExportTo::parse(&config.spec.export_to, namespace),
            hosts,
            gateways,
            object: Arc::clone(object),
        })
    }

    /// The object it was made of.
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    pub fn spec(&self) -> &VirtualService {
        &self.spec
    }

    pub fn name(&self) -> &str {
        self.object.name()
    }

    pub fn namespace(&self) -> &str {
        self.object.namespace()
    }

    /// Lower case, short names completed.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Whether it is bound to the gateway: `mesh`, or `NAMESPACE/NAME`.
    pub fn is_bound_to(&self, gateway: &str) -> bool {
        self.gateways.iter().any(|bound| bound == gateway)
    }

    /// A gateway's name as this rule means it, made whole.
    pub fn gateway_name(&self, gateway: &str) -> String {
        gateway_name(gateway, self.namespace())
    }

    /// Hosts its routes send to, made whole; some more than once.
    pub fn destination_hosts<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = String> + 'a {
        let http = self.spec.http.iter().flat_map(|http| &http.route).map(|to| &to.destination);
        let tls = self.spec.tls.iter().flat_map(|tls| &tls.route).map(|to| &to.destination);
        let tcp = self.spec.tcp.iter().flat_map(|tcp| &tcp.route).map(|to| &to.destination);
        let destinations = http.chain(tls).chain(tcp).flatten();
        destinations.map(move |destination| host::resolve(&destination.host, self.namespace(), domain))
    }

    /// Whether proxies of `namespace` may see it.
    pub fn visible_in(&self, namespace: &str) -> bool {
        self.export_to.visible_in(namespace)
    }

    /// Path of the resource, for metadata.
    pub fn config_path(&self) -> String {
        names::config_path("virtual-service", self.namespace(), self.name())
    }

    /// The older first; of the same age, by name and namespace.
    pub fn by_age(&self, other: &VirtualServiceRule) -> Ordering {
        let key = |rule: &VirtualServiceRule| rule.created;
        key(self)
            .cmp(&key(other))
            .then_with(|| self.name().cmp(other.name()))
            .then_with(|| self.namespace().cmp(other.namespace()))
    }
}

fn gateway_name(gateway: &str, namespace: &str) -> String {
    if gateway == names::MESH_GATEWAY || gateway.contains('/') {
        return gateway.strip_prefix("./").map_or_else(|| gateway.to_owned(), |name| format!("{namespace}/{name}"));
    }
    format!("{namespace}/{gateway}")
}

impl PartialEq for VirtualServiceRule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
            || (self.digest == other.digest
                && self.created == other.created
                && self.name() == other.name()
                && self.namespace() == other.namespace()
                && self.spec == other.spec)
    }
}

impl Eq for VirtualServiceRule {}

impl Hash for VirtualServiceRule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}
