//! DestinationRules: which one holds for a service, seen from a proxy.
//!
//! Source: Istio `pilot/pkg/model/push_context.go` (destinationRule), `pilot/pkg/model/destination_rule.go`.

use super::{Policy, digest, oldest_first};
use crate::registry::{ExportTo, Labels, selects};
use crate::{host, names};
use lateen_galley::istio::DestinationRule;
use lateen_galley::istio::destination_rule::{
    ConnectionPoolSettings, LbPolicy, LoadBalancerSettings, Subset, TrafficPolicy, TunnelSettings,
};
use lateen_galley::{Config, Kind, Object, Snapshot};
use lateen_persistent::Map;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Rules of one namespace for one host, merged: subsets of all, the traffic policy of the oldest that has one.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Made whole, lower case; may begin with `*`.
    host: String,
    namespace: String,
    /// Name of the oldest.
    name: String,
    export_to: ExportTo,
    /// Proxies it is for; all without one.
    selector: Option<Labels>,
    subsets: Vec<Subset>,
    policy: Option<TrafficPolicy>,
    digest: u64,
}

impl Merged {
    /// Names and labels of the subsets, in order.
    pub fn subsets(&self) -> impl Iterator<Item = (&str, &Labels)> {
        self.subsets.iter().map(|subset| (subset.name.as_str(), &subset.labels))
    }

    /// Whether it is for some of the proxies only.
    pub fn selects_clients(&self) -> bool {
        self.selector.is_some()
    }

    /// Whether anything of it concerns more than the clusters of its host's services: how requests come to have what their
    /// endpoint is chosen by, how connections are passed on, and what is asked of the hosts.
    pub fn shapes_routes(&self) -> bool {
        let of_tcp = |pool: &Option<ConnectionPoolSettings>| {
            let tcp = pool.as_ref().and_then(|pool| pool.tcp.as_ref());
            tcp.is_some_and(|tcp| tcp.idle_timeout.is_some() || tcp.max_connection_duration.is_some())
        };
        self.hashes()
            || self.policies().any(|policy| {
                let of_ports = policy.port_level_settings.iter().map(|entry| &entry.connection_pool);
                policy.tunnel.is_some() || of_ports.chain([&policy.connection_pool]).any(of_tcp)
            })
    }

    /// The host it is for; may begin with `*`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it chooses any endpoints by hash.
    pub fn hashes(&self) -> bool {
        self.balancers().any(|balancer| matches!(balancer.policy, Some(LbPolicy::ConsistentHash(_))))
    }

    /// All that it says of how endpoints are chosen.
    fn balancers(&self) -> impl Iterator<Item = &LoadBalancerSettings> {
        self.policies().flat_map(|policy| {
            let of_ports = policy.port_level_settings.iter().filter_map(|entry| entry.load_balancer.as_ref());
            policy.load_balancer.iter().chain(of_ports)
        })
    }

    fn policies(&self) -> impl Iterator<Item = &TrafficPolicy> {
        self.policy.iter().chain(self.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()))
    }

    /// The policy for a service port; `subset` is empty for the whole service.
    pub fn policy(&self, subset: &str, port: u16) -> Policy {
        let subset = self.subsets.iter().find(|entry| !subset.is_empty() && entry.name == subset);
        Policy::of(self.policy.as_ref(), subset.and_then(|subset| subset.traffic_policy.as_ref()), port)
    }

    /// What hosts are asked for as HTTP proxies. A subset says it for itself.
    pub fn tunnel(&self, subset: &str) -> Option<&TunnelSettings> {
        let policy = match subset {
            "" => self.policy.as_ref(),
            _ => self.subsets.iter().find(|entry| entry.name == subset)?.traffic_policy.as_ref(),
        };
        policy?.tunnel.as_ref()
    }

    /// The policy for a port of the service's own workload, with these limits in place of its own.
    pub fn policy_of_workload(&self, port: u16, pool: Option<&ConnectionPoolSettings>) -> Policy {
        Policy::of_workload(self.policy.as_ref(), port, pool)
    }

    /// Path of the oldest of the resources, for metadata.
    pub fn config_path(&self) -> String {
        names::config_path("destination-rule", &self.namespace, &self.name)
    }

    /// Kept to its own namespace.
    fn is_private(&self) -> bool {
        matches!(&self.export_to, ExportTo::Namespaces(list) if list.iter().all(|entry| *entry == self.namespace))
    }

    fn absorb(&mut self, younger: &DestinationRule, digest: u64) {
        let known: HashSet<String> = self.subsets.iter().map(|subset| subset.name.clone()).collect();
        self.subsets.extend(younger.subsets.iter().filter(|subset| !known.contains(&subset.name)).cloned());
        if self.policy.is_none() {
            self.policy.clone_from(&younger.traffic_policy);
        }
        self.digest = self.digest.rotate_left(7) ^ digest;
    }
}

impl PartialEq for Merged {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.host == other.host
            && self.namespace == other.namespace
            && self.name == other.name
            && self.export_to == other.export_to
            && self.selector == other.selector
            && self.subsets == other.subsets
            && self.policy == other.policy
    }
}

impl Eq for Merged {}

impl Hash for Merged {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// Which rules of a namespace are looked at.
type Counts = fn(&Merged) -> bool;

/// All rules, by namespace. Those of hosts of which nothing changed are shared with the rules of before.
#[derive(Clone, Debug, Default)]
pub struct DestinationRules {
    by_namespace: Map<String, OfNamespace>,
    root: String,
}

#[derive(Clone, Debug, Default)]
struct OfNamespace {
    exact: Map<String, OfHost>,
    /// The most specific first.
    wildcard: Vec<(String, OfHost)>,
}

type OfHost = Arc<[Arc<Merged>]>;

impl DestinationRules {
    /// Reads all rules of a snapshot.
    pub fn new(snapshot: &Snapshot, mesh: &crate::Config) -> DestinationRules {
        DestinationRules::default().follow(&Snapshot::default(), snapshot, mesh)
    }

    /// The rules of a later snapshot, made from these, which are those of the snapshot before.
    pub fn follow(&self, before: &Snapshot, now: &Snapshot, mesh: &crate::Config) -> DestinationRules {
        let mut changed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let changes = now.changes(before, Kind::DestinationRule).into_iter();
        for object in changes.flat_map(|(was, is)| was.into_iter().chain(is)) {
            changed.entry(object.namespace()).or_default().extend(host_of(object, mesh));
        }
        let mut rules = DestinationRules { root: mesh.root_namespace.clone(), ..self.clone() };
        for (namespace, hosts) in changed {
            let mut of_namespace = rules.by_namespace.get(namespace).cloned().unwrap_or_default();
            let mut read = read(namespace, &hosts, now, mesh);
            for host in hosts {
                let of_host = read.remove(&host).map(|rules| rules.into_iter().map(Arc::new).collect());
                of_namespace.set(host, of_host);
            }
            match of_namespace.exact.is_empty() && of_namespace.wildcard.is_empty() {
                true => rules.by_namespace.remove(namespace),
                false => rules.by_namespace.insert(namespace.to_owned(), of_namespace),
            };
        }
        rules
    }

    /// The rule for a service, seen from a proxy: one of the proxy's namespace, else of the service's, else of the
    /// root namespace; in each the one for the most specific host. A rule with a matching workload selector goes
    /// before one without.
    pub fn find(
        &self,
        proxy_namespace: &str,
        proxy_labels: &Labels,
        service_host: &str,
        service_namespace: &str,
    ) -> Option<&Arc<Merged>> {
        // In the root namespace only rules kept to it are its own: the others are meant for every namespace, and a
        // service's namespace goes before those.
        let own: Counts = if proxy_namespace == self.root { Merged::is_private } else { |_| true };
        // What is kept to another namespace does not hide what that one exports.
        let exported: Counts = |rule| !rule.is_private();
        let places = [(proxy_namespace, own), (service_namespace, exported), (self.root.as_str(), exported)];
        places.into_iter().find_map(|(namespace, counts)| {
            let rules = self.by_namespace.get(namespace)?.most_specific(service_host, counts)?;
            let visible = |rule: &&Arc<Merged>| counts(rule) && rule.export_to.visible_in(proxy_namespace);
            let selected = rules.iter().filter(visible).find(|rule| {
                rule.selector
                    .as_ref()
                    .is_some_and(|selector| namespace == proxy_namespace && selects(selector, proxy_labels))
            });
            selected.or_else(|| rules.iter().filter(visible).find(|rule| rule.selector.is_none()))
        })
    }

    /// Rules that are others than before, as they were and as they are.
    pub fn changes_since(&self, before: &DestinationRules) -> Vec<Arc<Merged>> {
        let same = |was: &OfNamespace, is: &OfNamespace| was.exact.same(&is.exact) && was.wildcard == is.wildcard;
        let nothing = OfNamespace::default();
        let mut changes: Vec<Arc<Merged>> = Vec::new();
        for (_, was, is) in before.by_namespace.diff(&self.by_namespace, same) {
            let (was, is) = (was.unwrap_or(&nothing), is.unwrap_or(&nothing));
            for (_, was, is) in was.exact.diff(&is.exact, |was, is| Arc::ptr_eq(was, is) || was == is) {
                changes.extend(was.into_iter().chain(is).flat_map(|rules| rules.iter().cloned()));
            }
            let gone = was.wildcard.iter().filter(|entry| !is.wildcard.contains(entry));
            let new = is.wildcard.iter().filter(|entry| !was.wildcard.contains(entry));
            changes.extend(gone.chain(new).flat_map(|(_, rules)| rules.iter().cloned()));
        }
        changes
    }

    /// Keys of labels by which rules and what they prefer differ from proxy to proxy.
    pub fn label_keys(&self) -> impl Iterator<Item = &str> {
        let selectors = self.all().flat_map(|rule| rule.selector.iter().flat_map(|selector| selector.keys()));
        selectors.map(String::as_str).chain(self.preferred_labels())
    }

    /// Whether any endpoints are preferred by where they are.
    pub fn prefer_localities(&self) -> bool {
        self.all().any(|rule| {
            rule.balancers().any(|balancer| balancer.locality_lb_setting.is_some())
                || rule.policies().any(|policy| {
                    let of_ports = policy.port_level_settings.iter();
                    policy.outlier_detection.is_some()
                        || of_ports.into_iter().any(|entry| entry.outlier_detection.is_some())
                })
        })
    }

    /// Whether any endpoints are preferred by this label.
    pub fn prefer_label(&self, label: &str) -> bool {
        self.preferred_labels().any(|preferred| preferred == label)
    }

    fn preferred_labels(&self) -> impl Iterator<Item = &str> {
        let settings = self.all().flat_map(|rule| rule.balancers()).filter_map(|b| b.locality_lb_setting.as_ref());
        settings.flat_map(|setting| &setting.failover_priority).map(|label| label.split('=').next().unwrap_or(label))
    }

    fn all(&self) -> impl Iterator<Item = &Merged> {
        let of_namespaces = self.by_namespace.values();
        let of_hosts =
            of_namespaces.flat_map(|rules| rules.exact.values().chain(rules.wildcard.iter().map(|(_, rules)| rules)));
        of_hosts.flat_map(|rules| rules.iter()).map(Arc::as_ref)
    }
}

/// The host that an object is for, made whole.
fn host_of(object: &Object, mesh: &crate::Config) -> Option<String> {
    let config: &Config<DestinationRule> = object.typed()?;
    Some(host::resolve(&config.spec.host, object.namespace(), &mesh.domain))
}

/// The rules of a namespace for these hosts.
fn read(
    namespace: &str,
    hosts: &BTreeSet<String>,
    snapshot: &Snapshot,
    mesh: &crate::Config,
) -> BTreeMap<String, Vec<Merged>> {
    let mut merged: BTreeMap<String, Vec<Merged>> = BTreeMap::new();
    for object in oldest_first(snapshot.objects_in(Kind::DestinationRule, namespace)) {
        let Some(config) = object.typed::<Config<DestinationRule>>() else { continue };
        let Some(host) = host_of(object, mesh).filter(|host| hosts.contains(host)) else { continue };
        let export_to = ExportTo::parse(&config.spec.export_to, namespace, &mesh.export_to.destination_rule);
        let selector = config.spec.workload_selector.as_ref().map(|selector| selector.match_labels.clone());
        let of_host = merged.entry(host.clone()).or_default();
        match of_host.iter_mut().find(|rule| rule.export_to == export_to && rule.selector == selector) {
            Some(older) => older.absorb(&config.spec, digest(object)),
            None => of_host.push(Merged {
                host,
                namespace: namespace.to_owned(),
                name: object.name().to_owned(),
                export_to,
                selector,
                subsets: config.spec.subsets.clone(),
                policy: config.spec.traffic_policy.clone(),
                digest: digest(object),
            }),
        }
    }
    merged
}

impl OfNamespace {
    fn set(&mut self, host: String, rules: Option<OfHost>) {
        if host::is_wildcard(&host) {
            self.wildcard.retain(|(other, _)| *other != host);
            self.wildcard.extend(rules.map(|rules| (host, rules)));
            self.wildcard.sort_by(|(a, _), (b, _)| host::most_specific_first(a, b));
        } else {
            match rules {
                Some(rules) => self.exact.insert(host, rules),
                None => self.exact.remove(&host),
            };
        }
    }

    /// The rules for the most specific host, of those that count.
    fn most_specific(&self, service_host: &str, counts: Counts) -> Option<&OfHost> {
        let any = |rules: &&OfHost| rules.iter().any(|rule| counts(rule));
        self.exact.get(service_host).filter(any).or_else(|| {
            let fits = |(host, _): &&(String, OfHost)| host::is_subset_of(service_host, host);
            self.wildcard.iter().filter(fits).map(|(_, rules)| rules).find(any)
        })
    }
}

#[cfg(test)]
#[path = "destination_rule_tests.rs"]
mod tests;
