//! Following changes of endpoints without reading everything again: an endpoint that comes or goes costs work for the
//! services it belongs to.
//!
//! What follows must be what reading anew would yield; a property test holds it to that.

use super::{
    Entry, PortEndpoints, Registry, Service, ServiceKey, addresses, kubernetes, merge, selects, service_entry, share,
};
use k8s_openapi::api::core::v1;
use lateen_galley::istio::ServiceEntry;
use lateen_galley::{Config, Kind, Snapshot};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

impl Registry {
    /// The registry of a later snapshot, made from this one, which is that of the snapshot before. The services
    /// themselves must be the same in both.
    pub fn follow(&self, before: &Snapshot, now: &Snapshot, mesh: &crate::Config) -> Registry {
        let (workloads, changed) = self.workloads.follow(before, now);
        let domain = &mesh.domain;
        let mut registry = Registry { workloads, ..self.clone() };
        let mut affected: BTreeSet<ServiceKey> = BTreeSet::new();
        let host = |namespace: &str, name: &str| -> ServiceKey {
            (format!("{name}.{namespace}.svc.{domain}").into(), namespace.to_owned())
        };
        for (namespace, name) in registry.slices.follow(before, now) {
            affected.insert(host(&namespace, &name));
        }
        for object in now.changes(before, Kind::Endpoints).into_iter().filter_map(|(was, is)| was.or(is)) {
            affected.insert(host(object.namespace(), object.name()));
        }
        for info in changed {
            let addresses = info.addresses.iter().filter_map(|address| address.ip());
            affected.extend(addresses.filter_map(|ip| self.at_address.get(&ip)).flat_map(|keys| keys.iter().cloned()));
            let selecting = self.selecting.get(&info.identity.namespace).into_iter().flatten().filter(|key| {
                let selector = self.entries.get(*key).and_then(|entry| entry.service.selector.as_ref());
                selector.is_some_and(|selector| selects(selector, &info.labels))
            });
            affected.extend(selecting.cloned());
            affected.extend(self.merged.iter().filter(|key| key.1 == info.identity.namespace).cloned());
        }
        for key in affected {
            let Some(Entry { endpoints: old, .. }) = registry.entries.get(&key) else { continue };
            let Some(endpoints) = registry.read_endpoints(&key, now, mesh) else { continue };
            let endpoints = share(Some(old), endpoints);
            registry.put_endpoints(&key, endpoints);
        }
        registry
    }

    /// The endpoints of one service, from all that declare it.
    fn read_endpoints(&self, key: &ServiceKey, now: &Snapshot, mesh: &crate::Config) -> Option<PortEndpoints> {
        let (service_host, namespace) = key;
        let mut found: Option<(Service, PortEndpoints)> = None;
        let domain = &mesh.domain;
        let suffix = format!(".{namespace}.svc.{domain}");
        let declared = service_host.strip_suffix(&suffix).and_then(|name| now.typed::<v1::Service>(namespace, name));
        if let Some(service) = declared.and_then(|object| kubernetes::service(object, mesh)) {
            let endpoints = self.slices.endpoints(&service, now, &self.workloads);
            found = Some((service, endpoints));
        }
        let names = self.declared.get(key).into_iter().flatten();
        for entry in names.filter_map(|name| now.typed::<Config<ServiceEntry>>(namespace, name)) {
            let services = service_entry::services(entry, mesh).into_iter();
            for service in services.filter(|service| service.host == *service_host) {
                let endpoints = service_entry::endpoints(entry, &service, &self.workloads);
                match &mut found {
                    Some((known, of_known)) => merge(known, of_known, service, endpoints),
                    None => found = Some((service, endpoints)),
                }
            }
        }
        found.map(|(_, endpoints)| endpoints)
    }

    /// Puts endpoints in place of a service's own, and keeps the index of addresses.
    pub(super) fn put_endpoints(&mut self, key: &ServiceKey, endpoints: Arc<PortEndpoints>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if Arc::ptr_eq(&entry.endpoints, &endpoints) {
            return;
        }
        let old: BTreeSet<IpAddr> = addresses(&entry.endpoints).collect();
        let new: BTreeSet<IpAddr> = addresses(&endpoints).collect();
        entry.endpoints = endpoints;
        if old == new {
            return;
        }
        for gone in old.difference(&new) {
            if let Some(keys) = self.at_address.get_mut(gone) {
                Arc::make_mut(keys).remove(key);
                if keys.is_empty() {
                    self.at_address.remove(gone);
                }
            }
        }
        for come in new.difference(&old) {
            let mut keys = self.at_address.get(come).cloned().unwrap_or_default();
            Arc::make_mut(&mut keys).insert(key.clone());
            self.at_address.insert(*come, keys);
        }
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
