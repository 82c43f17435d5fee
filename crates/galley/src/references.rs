//! What Istio's objects name, and what is not there: warnings, since the other half may still come.
//! (Istio's analysers call these IST0101, ReferencedResourceNotFound.)

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::Service;

use crate::istio::virtual_service::{Delegate, Destination, HttpRoute, delegated};
use crate::istio::{DestinationRule, Gateway, ServiceEntry, VirtualService};
use crate::kind::Kind;
use crate::object::{Config, Object, Resource};
use crate::problem::FieldProblem;
use crate::snapshot::Snapshot;

/// The mesh's DNS domain, as Kubernetes' by default.
const DOMAIN: &str = "cluster.local";

/// What objects of a snapshot can name.
pub struct References<'a> {
    snapshot: &'a Snapshot,
    /// By full host name, and those with a wildcard by what follows the `*`.
    entries: ByHost<&'a ServiceEntry>,
    rules: ByHost<&'a DestinationRule>,
}

struct ByHost<T> {
    exact: HashMap<String, Vec<T>>,
    suffix: Vec<(String, T)>,
}

impl<T: Copy> ByHost<T> {
    fn new(items: impl Iterator<Item = (String, T)>) -> Self {
        let mut hosts = Self { exact: HashMap::new(), suffix: Vec::new() };
        for (host, item) in items {
            match host.strip_prefix('*') {
                Some(suffix) => hosts.suffix.push((suffix.to_owned(), item)),
                None => hosts.exact.entry(host).or_default().push(item),
            }
        }
        hosts
    }

    fn of(&self, host: &str) -> impl Iterator<Item = T> {
        let exact = self.exact.get(host).into_iter().flatten().copied();
        let within = |suffix: &str| host.len() > suffix.len() && host.ends_with(suffix);
        exact.chain(self.suffix.iter().filter(move |(suffix, _)| within(suffix)).map(|(_, item)| *item))
    }
}

impl<'a> References<'a> {
    /// Collects the hosts that there are; worth doing once for many objects.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let entries = snapshot.list::<Config<ServiceEntry>>().flat_map(|entry| {
            let hosts = entry.spec.hosts.iter();
            hosts.map(|host| (host.trim_end_matches('.').to_ascii_lowercase(), &entry.spec))
        });
        let rules = snapshot.list::<Config<DestinationRule>>().map(|rule| {
            (full_name(&rule.spec.host, rule.metadata.namespace.as_deref().unwrap_or_default()), &rule.spec)
        });
        Self { snapshot, entries: ByHost::new(entries), rules: ByHost::new(rules) }
    }

    /// Everything an object names that is not there.
    pub fn check(&self, object: &Object) -> Vec<FieldProblem> {
        let mut finder = Finder { references: self, own: object.namespace(), missing: Vec::new() };
        match object.resource() {
            Resource::VirtualService(config) => finder.virtual_service(&config.spec),
            Resource::DestinationRule(config) => {
                finder.host("spec.host", &config.spec.host);
            }
            _ => {}
        }
        finder.missing
    }

    /// Whether objects of this kind name others that are looked for here.
    pub fn concern(kind: Kind) -> bool {
        matches!(kind, Kind::VirtualService | Kind::DestinationRule)
    }
}

struct Finder<'a> {
    references: &'a References<'a>,
    own: &'a str,
    missing: Vec<FieldProblem>,
}

impl Finder<'_> {
    fn virtual_service(&mut self, spec: &VirtualService) {
        self.gateways("spec.gateways", &spec.gateways);
        for (index, route) in spec.http.iter().enumerate() {
            let at = format!("spec.http[{index}]");
            for (index, matched) in route.matches.iter().enumerate() {
                self.gateways(&format!("{at}.match[{index}].gateways"), &matched.gateways);
            }
            for (index, weighted) in route.route.iter().enumerate() {
                self.destination(&format!("{at}.route[{index}].destination"), weighted.destination.as_ref());
            }
            self.destination(&format!("{at}.mirror"), route.mirror.as_ref());
            for (index, mirror) in route.mirrors.iter().enumerate() {
                self.destination(&format!("{at}.mirrors[{index}].destination"), mirror.destination.as_ref());
            }
            if let Some(to) = &route.delegate {
                self.delegate(&format!("{at}.delegate"), route, to);
            }
        }
        for (index, route) in spec.tls.iter().enumerate() {
            for (to, weighted) in route.route.iter().enumerate() {
                self.destination(&format!("spec.tls[{index}].route[{to}].destination"), weighted.destination.as_ref());
            }
        }
        for (index, route) in spec.tcp.iter().enumerate() {
            for (to, weighted) in route.route.iter().enumerate() {
                self.destination(&format!("spec.tcp[{index}].route[{to}].destination"), weighted.destination.as_ref());
            }
        }
    }

    fn gateways(&mut self, path: &str, names: &[String]) {
        for (index, given) in names.iter().enumerate().filter(|(_, name)| *name != "mesh") {
            let (namespace, name) = match given.split_once('/') {
                Some(parts) => parts,
                None => match given.split_once('.') {
                    Some((name, rest)) => (rest.split('.').next().unwrap_or_default(), name),
                    None => (self.own, given.as_str()),
                },
            };
            if self.references.snapshot.typed::<Config<Gateway>>(namespace, name).is_none() {
                let message = format!("there is no Gateway {namespace}/{name}");
                self.missing.push(FieldProblem::new(format!("{path}[{index}]"), message));
            }
        }
    }

    fn delegate(&mut self, path: &str, root: &HttpRoute, to: &Delegate) {
        let namespace = if to.namespace.is_empty() { self.own } else { &to.namespace };
        let name = &to.name;
        let found = self.references.snapshot.typed::<Config<VirtualService>>(namespace, name);
        let message = match found.map(|config| &config.spec) {
            None => format!("there is no VirtualService {namespace}/{name}"),
            Some(spec) if !spec.hosts.is_empty() => {
                format!("VirtualService {namespace}/{name} has hosts, and so is no delegate")
            }
            Some(spec) => {
                // Gateways have several names: they are not compared here.
                let mut root = root.clone();
                root.matches.iter_mut().for_each(|block| block.gateways.clear());
                let conflicts = delegated(&root, &spec.http).conflicts;
                if conflicts.is_empty() {
                    return;
                }
                let routes = conflicts.iter().map(|index| format!("spec.http[{index}]")).collect::<Vec<_>>().join(", ");
                format!("{routes} of {namespace}/{name} matches what this route does not, and is left out")
            }
        };
        self.missing.push(FieldProblem::new(path, message));
    }

    fn destination(&mut self, path: &str, destination: Option<&Destination>) {
        let Some(destination) = destination else { return };
        let Some(ports) = self.host(&format!("{path}.host"), &destination.host) else { return };
        if let Some(port) = destination.port.filter(|port| !ports.contains(&port.number)) {
            let known = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("{:?} has no port {}; it has {known}", destination.host, port.number);
            self.missing.push(FieldProblem::new(format!("{path}.port.number"), message));
        }
        if !destination.subset.is_empty() && !self.has_subset(&destination.host, &destination.subset) {
            let message =
                format!("no DestinationRule for {:?} has the subset {:?}", destination.host, destination.subset);
            self.missing.push(FieldProblem::new(format!("{path}.subset"), message));
        }
    }

    /// The ports of a host of the registry; says so if there is none.
    fn host(&mut self, path: &str, host: &str) -> Option<BTreeSet<u32>> {
        let ports = self.ports(host);
        if ports.is_none() {
            let full = full_name(host, self.own);
            self.missing.push(FieldProblem::new(path, format!("there is no service {full:?}")));
        }
        ports
    }

    fn ports(&self, host: &str) -> Option<BTreeSet<u32>> {
        let full = full_name(host, self.own);
        if let Some((name, namespace)) = kubernetes_name(&full)
            && let Some(service) = self.references.snapshot.typed::<Service>(namespace, name)
        {
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            return Some(ports.filter_map(|port| u32::try_from(port.port).ok()).collect());
        }
        if full.starts_with('*') {
            // A wildcard rule is for whatever services there are, or will be.
            return Some(BTreeSet::new());
        }
        let mut ports = None;
        for entry in self.references.entries.of(&full) {
            ports.get_or_insert_with(BTreeSet::new).extend(entry.ports.iter().map(|port| port.number));
        }
        ports
    }

    fn has_subset(&self, host: &str, subset: &str) -> bool {
        let full = full_name(host, self.own);
        self.references.rules.of(&full).any(|rule| rule.subsets.iter().any(|known| known.name == subset))
    }
}

/// A short name belongs to the namespace of the object that uses it; a name with a dot is whole (Istio's rule).
fn full_name(host: &str, namespace: &str) -> String {
    if host.contains('.') || host.starts_with('*') {
        host.trim_end_matches('.').to_ascii_lowercase()
    } else {
        format!("{}.{namespace}.svc.{DOMAIN}", host.to_ascii_lowercase())
    }
}

fn kubernetes_name(full: &str) -> Option<(&str, &str)> {
    full.strip_suffix(DOMAIN)?.strip_suffix(".svc.")?.split_once('.')
}
