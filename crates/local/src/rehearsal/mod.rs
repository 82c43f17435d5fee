//! The cluster that manifests would make, without a machine under it: the same API that completes and refuses them, pods
//! that are all there and ready at once, and what the controllers make of those. Nothing runs.

mod program;

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use lateen_galley::store::Batch;
use lateen_galley::{Change, Kind, Manifest, Object, Problem, Problems, Snapshot, Store, StoreSettings};
use serde_json::Value;

use crate::admission::Admission;
use crate::controllers::{self, write_status};
use crate::dns::{Found, Zone};
use crate::hosts::{Backends, Endpoint};
use crate::kubelet;
use crate::network::{self, PODS};

pub use program::Program;

/// Addresses behind a name that stands for another name, at most so far.
const ALIASES: usize = 8;

/// The objects of a cluster in which everything that can run does.
#[derive(Debug)]
pub struct Rehearsal {
    /// What the control plane would see.
    pub snapshot: Snapshot,
    /// What was accepted and yet looks wrong.
    pub warnings: Vec<Problem>,
}

/// Puts manifests into an empty cluster. The same manifests always make the same cluster, names and addresses included.
///
/// # Errors
/// What the API would refuse, all of it.
pub fn rehearse(manifests: Vec<Manifest>) -> Result<Rehearsal, Problems> {
    let admission = Admission::new(Store::new(StoreSettings { first_revision: 1, ..StoreSettings::default() }));
    for (name, text) in crate::cluster::BUILT_IN {
        let read = lateen_galley::read_manifests(name, text.as_bytes(), Default::default());
        admission.commit(batch(read.complete()?)).map_err(|refused| refused.problems())?;
    }
    let committed = admission.commit(batch(manifests)).map_err(|refused| refused.problems())?;
    controllers::deployments::complete(&admission, &admission.store().snapshot());
    run_pods(admission.store());
    controllers::addresses::reconcile(admission.store(), &admission.store().snapshot());
    controllers::endpoints::reconcile(&admission, &admission.store().snapshot());
    Ok(Rehearsal { snapshot: admission.store().snapshot(), warnings: committed.warnings })
}

fn batch(manifests: Vec<Manifest>) -> Batch {
    let upsert = |manifest: Manifest| (Change::Upsert(manifest.object), Some(manifest.origin));
    manifests.into_iter().map(upsert).collect()
}

/// Gives every pod an address and makes it ready.
fn run_pods(store: &Store) {
    let mut used = std::collections::BTreeSet::new();
    let mut last = None;
    for object in store.snapshot().objects(Kind::Pod) {
        let Some(pod) = object.typed::<Pod>() else { continue };
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let address = if host_network { Some(network::NODE) } else { PODS.allocate(&used, last) };
        let Some(address) = address else { continue };
        if !host_network {
            used.insert(address);
            last = Some(address);
        }
        write_status(store, object, kubelet::ready_status(pod, IpAddr::V4(address), IpAddr::V4(network::NODE)));
    }
}

/// A pod, as far as it says what it runs.
#[derive(Debug, Clone)]
pub struct Cast {
    pub name: String,
    pub namespace: String,
    /// The IPv4 one first.
    pub addresses: Vec<IpAddr>,
    /// The bootstrap of its proxy, if it has one; a valid Envoy bootstrap.
    pub bootstrap: Option<Value>,
    /// What its containers run, without the proxy.
    pub programs: Vec<Program>,
}

/// The pods that can be reached.
pub fn cast(snapshot: &Snapshot) -> Vec<Cast> {
    snapshot.objects(Kind::Pod).filter_map(|object| cast_one(snapshot, object)).collect()
}

fn cast_one(snapshot: &Snapshot, object: &Object) -> Option<Cast> {
    let pod = object.typed::<Pod>()?;
    if controllers::selection::is_over(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let texts = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    Some(Cast {
        name: object.name().to_owned(),
        namespace: object.namespace().to_owned(),
        bootstrap: kubelet::bootstrap(object, pod, &addresses, network::NODE_NAME),
        programs: program::programs(snapshot, pod, &addresses),
        addresses,
    })
}

/// What names and virtual addresses lead to.
#[derive(Debug)]
pub struct Directory {
    zone: Zone,
    backends: Backends,
}

impl Directory {
    /// Of a cluster with these objects.
    pub fn new(snapshot: &Snapshot) -> Directory {
        Directory { zone: controllers::views::zone(snapshot), backends: controllers::views::backends(snapshot) }
    }

    /// The addresses of a name as a pod of `namespace` looks it up; `None` if the cluster knows nothing of it, and so the
    /// outside is asked.
    pub fn addresses(&self, name: &str, namespace: &str) -> Option<Vec<IpAddr>> {
        // As many dots as resolv.conf's `ndots:5` asks for make a name whole, and so does one at its end.
        let domains = [
            format!(".{namespace}.svc.{0}", crate::dns::CLUSTER_DOMAIN),
            format!(".svc.{0}", crate::dns::CLUSTER_DOMAIN),
            format!(".{0}", crate::dns::CLUSTER_DOMAIN),
        ];
        let searched = domains.iter().map(|domain| format!("{name}{domain}"));
        let whole = name.ends_with('.') || name.matches('.').count() >= 5;
        let searched = searched.filter(|_| !whole).chain([name.to_owned()]);
        searched.filter_map(|candidate| self.addresses_of(candidate)).find(|found| !found.is_empty())
    }

    fn addresses_of(&self, mut name: String) -> Option<Vec<IpAddr>> {
        for _ in 0..ALIASES {
            let Found::Records(records) = self.zone.find(&name) else { return None };
            match &records.alias {
                Some(target) => name.clone_from(target),
                None => {
                    let v4 = records.v4.iter().copied().map(IpAddr::V4);
                    return Some(v4.chain(records.v6.iter().copied().map(IpAddr::V6)).collect());
                }
            }
        }
        None
    }

    /// Where connections to a virtual address go; `None` if it is none. Names are those of the outside.
    pub fn behind(&self, address: SocketAddr) -> Option<Vec<SocketAddr>> {
        let port = self.backends.behind(address)?;
        let resolved = |endpoint: &Endpoint| match endpoint {
            Endpoint::Address(address) => vec![*address],
            Endpoint::Name(name, port) => {
                let found = self.addresses(name, "").unwrap_or_default();
                found.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect()
            }
        };
        Some(self.backends.of(port).iter().flat_map(resolved).collect())
    }
}

#[cfg(test)]
mod tests;
