//! A VirtualService, identified by its content.

use super::{created, digest};
use crate::registry::ExportTo;
use crate::{host, names};
use lateen_galley::istio::VirtualService;
use lateen_galley::istio::virtual_service::{STICKY_WEIGHTS, StickyWeights, delegated};
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
    /// Some of its routes are another's: what it says changes without its object changing.
    delegates: bool,
}

impl VirtualServiceRule {
    /// Takes a VirtualService in; `None` for objects of other kinds.
    pub fn new(object: &Arc<Object>, mesh: &crate::Config) -> Option<VirtualServiceRule> {
        let config: &Config<VirtualService> = object.typed()?;
        let namespace = object.namespace();
        let hosts = config.spec.hosts.iter().map(|host| host::resolve(host, namespace, &mesh.domain)).collect();
        let gateways = if config.spec.gateways.is_empty() {
            vec![names::MESH_GATEWAY.to_owned()]
        } else {
            config.spec.gateways.iter().map(|gateway| gateway_name(gateway, namespace)).collect()
        };
        Some(VirtualServiceRule {
            spec: Arc::new(config.spec.clone()),
            digest: digest(object),
            created: created(object.metadata()),
            export_to: ExportTo::parse(&config.spec.export_to, namespace, &mesh.export_to.virtual_service),
            hosts,
            gateways,
            delegates: config.spec.http.iter().any(|http| http.delegate.is_some()),
            object: Arc::clone(object),
        })
    }

    /// Whether it has no hosts: its routes are there for others to delegate to.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether some of its routes are another's.
    pub fn delegates(&self) -> bool {
        self.delegates
    }

    /// The rule with its delegates' routes in place of those that delegate. A delegate that is not there, or not
    /// exported to this rule's namespace, takes its route with it. Delegates do not delegate in turn.
    pub fn with_delegates<'a>(
        &self,
        find: impl Fn(&str, &str) -> Option<&'a VirtualServiceRule>,
        domain: &str,
    ) -> VirtualServiceRule {
        let mut spec = self.qualified(domain);
        let mut digest = self.digest;
        let mut routes = Vec::with_capacity(spec.http.len());
        for http in spec.http {
            let Some(to) = &http.delegate else {
                routes.push(http);
                continue;
            };
            let namespace = if to.namespace.is_empty() { self.namespace() } else { &to.namespace };
            let delegate = find(namespace, &to.name).filter(|delegate| delegate.visible_in(self.namespace()));
            let Some(delegate) = delegate else { continue };
            digest = digest.rotate_left(7) ^ delegate.digest;
            routes.extend(delegated(&http, &delegate.qualified(domain).http).routes);
        }
        spec.http = routes;
        VirtualServiceRule { spec: Arc::new(spec), digest, ..self.clone() }
    }

    /// Its spec with the names in HTTP routes made whole, so that they mean the same in another namespace.
    fn qualified(&self, domain: &str) -> VirtualService {
        let mut spec = (*self.spec).clone();
        for http in &mut spec.http {
            let destinations = http.route.iter_mut().filter_map(|to| to.destination.as_mut());
            let mirrors = http.mirrors.iter_mut().filter_map(|to| to.destination.as_mut());
            for destination in destinations.chain(mirrors).chain(&mut http.mirror) {
                destination.host = host::resolve(&destination.host, self.namespace(), domain);
            }
            for gateway in http.matches.iter_mut().flat_map(|block| &mut block.gateways) {
                *gateway = self.gateway_name(gateway);
            }
        }
        spec
    }

    /// The object it was made of.
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    pub fn spec(&self) -> &VirtualService {
        &self.spec
    }

    /// By what the same client is sent to the same one of several weighted destinations, if it is.
    pub fn sticky_weights(&self) -> Option<StickyWeights> {
        // What cannot be read was refused when it was written.
        self.object.annotation(STICKY_WEIGHTS)?.parse().ok()
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
        let mirrors = self.spec.http.iter().flat_map(|http| &http.mirrors).map(|to| &to.destination);
        let mirrors = mirrors.chain(self.spec.http.iter().map(|http| &http.mirror));
        let tls = self.spec.tls.iter().flat_map(|tls| &tls.route).map(|to| &to.destination);
        let tcp = self.spec.tcp.iter().flat_map(|tcp| &tcp.route).map(|to| &to.destination);
        let destinations = http.chain(mirrors).chain(tls).chain(tcp).flatten();
        destinations.map(move |destination| host::resolve(&destination.host, self.namespace(), domain))
    }

    /// Hosts it sends clients of `namespace` to, made whole, and at which port; 0 if it names none.
    pub fn destinations_from(&self, namespace: &str, domain: &str) -> impl Iterator<Item = (String, u16)> {
        let holds = move |from: &str| from.is_empty() || from == namespace;
        let http = self.spec.http.iter().filter(move |http| {
            http.matches.is_empty() || http.matches.iter().any(|block| holds(&block.source_namespace))
        });
        let http = http.flat_map(|http| {
            let routes = http.route.iter().filter_map(|to| to.destination.as_ref());
            let mirrors = http.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
            routes.chain(&http.mirror).chain(mirrors)
        });
        let tls = self.spec.tls.iter().flat_map(|tls| &tls.route).filter_map(|to| to.destination.as_ref());
        let tcp = self.spec.tcp.iter().flat_map(|tcp| &tcp.route).filter_map(|to| to.destination.as_ref());
        http.chain(tls).chain(tcp).map(move |destination| {
            let port = destination.port.and_then(|port| u16::try_from(port.number).ok()).unwrap_or(0);
            (host::resolve(&destination.host, self.namespace(), domain), port)
        })
    }

    /// Whether proxies of `namespace` may see it.
    pub fn visible_in(&self, namespace: &str) -> bool {
        self.export_to.visible_in(namespace)
    }

    /// Where it stands among the rules that proxies of `namespace` see: the namespace's own private rules go before
    /// those exported to it, and these before public ones.
    pub fn closeness(&self, namespace: &str) -> u8 {
        match self.export_to {
            ExportTo::All => 2,
            ExportTo::Namespaces(_) => u8::from(self.namespace() != namespace),
        }
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
    // The form of old: NAME.NAMESPACE.svc.cluster.local.
    match gateway.split_once('.') {
        Some((name, rest)) => format!("{}/{name}", rest.split('.').next().unwrap_or_default()),
        None => format!("{namespace}/{gateway}"),
    }
}

impl PartialEq for VirtualServiceRule {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.object, &other.object) && Arc::ptr_eq(&self.spec, &other.spec))
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
