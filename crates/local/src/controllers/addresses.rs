//! Addresses for ServiceEntries that have none (Istio's automatic allocation), told in their status.
//!
//! As in Istio: not for resolution NONE, whose connections go where the client addressed them; not for wildcard
//! hosts; not if the label `networking.istio.io/enable-autoallocate-ip` says false.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use lateen_galley::istio::ServiceEntry;
use lateen_galley::istio::service_entry::Resolution;
use lateen_galley::{Config, Kind, Object, Snapshot, Store};
use serde_json::{Value, json};

use super::{status_of, write_status};
use crate::network::SERVICE_ENTRIES;

/// Gives every host that should have an address one, and takes back what is no longer wanted.
pub fn reconcile(store: &Store, snapshot: &Snapshot) {
    let entries = || {
        let typed = |object: &'_ std::sync::Arc<Object>| {
            Some((object.clone(), object.typed::<Config<ServiceEntry>>()?.clone()))
        };
        snapshot.objects(Kind::ServiceEntry).filter_map(typed)
    };
    let mut used: BTreeSet<Ipv4Addr> = BTreeSet::new();
    for (_, entry) in entries() {
        let given = entry.status.iter().flat_map(|status| &status.addresses).map(|address| address.value.as_str());
        used.extend(
            given
                .chain(entry.spec.addresses.iter().map(String::as_str))
                .filter_map(|text| text.parse::<Ipv4Addr>().ok()),
        );
    }
    let mut last = used.iter().rfind(|address| SERVICE_ENTRIES.contains(**address)).copied();
    for (object, entry) in entries() {
        let given: BTreeMap<&str, &str> = entry
            .status
            .iter()
            .flat_map(|status| &status.addresses)
            .map(|address| (address.host.as_str(), address.value.as_str()))
            .collect();
        let mut addresses = Vec::new();
        for host in hosts(&object, &entry.spec) {
            let address = match given.get(host) {
                Some(address) => (*address).to_owned(),
                None => {
                    let Some(free) = SERVICE_ENTRIES.allocate(&used, last) else {
                        tracing::error!(host, "no address is free for a service entry");
                        continue;
                    };
                    used.insert(free);
                    last = Some(free);
                    free.to_string()
                }
            };
            addresses.push(json!({"value": address, "host": host}));
        }
        let mut status = status_of(&object);
        if addresses.is_empty() {
            status.remove("addresses");
        } else {
            status.insert("addresses".to_owned(), Value::Array(addresses));
        }
        if !(status.is_empty() && object.raw().get("status").is_none()) {
            write_status(store, &object, Value::Object(status));
        }
    }
}

/// An entry of which a host has no address yet.
pub fn behind(snapshot: &Snapshot) -> Option<String> {
    let lacks = |object: &&std::sync::Arc<Object>| {
        let Some(entry) = object.typed::<Config<ServiceEntry>>() else { return false };
        let given = || entry.status.iter().flat_map(|status| &status.addresses);
        hosts(object, &entry.spec).iter().any(|host| given().all(|address| address.host != *host))
    };
    let entry = snapshot.objects(Kind::ServiceEntry).find(lacks)?;
    Some(format!("the hosts of {} have no addresses yet", entry.key()))
}

/// The hosts of an entry that an address is to be found for.
fn hosts<'a>(object: &Object, entry: &'a ServiceEntry) -> Vec<&'a str> {
    let opted_out = object
        .label("networking.istio.io/enable-autoallocate-ip")
        .is_some_and(|said| said.eq_ignore_ascii_case("false"));
    if opted_out || entry.resolution == Resolution::None || !entry.addresses.is_empty() {
        return Vec::new();
    }
    let mut hosts: Vec<&str> = entry.hosts.iter().map(String::as_str).filter(|host| !host.contains('*')).collect();
    hosts.dedup();
    hosts
}
