//! What picks hosts: made of a cluster's settings and hosts, with tables that all workers share.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lateen_traffic::balance::{HostSet, Hosts, LocalityShare, Part, Standing, Table};
use lateen_traffic::cluster::{Cluster, HashTable, Hashing, LbPolicy};

use super::{ClusterShared, Host};

/// Since when a host is known.
#[derive(Debug, Clone, Copy)]
pub struct Since(Instant);

impl Default for Since {
    fn default() -> Self {
        Self(Instant::now())
    }
}

/// Where a host stands in the endpoints it came with.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// Index of its locality.
    pub locality: usize,
    /// Stands for its address in tables, if set.
    pub hash_key: Option<Arc<str>>,
}

/// The tables of a cluster that some worker uses.
#[derive(Debug, Default)]
pub(super) struct Tables(Mutex<Vec<Weak<Table>>>);

impl Tables {
    /// The table for these hosts. Whoever asks first makes it, while the others wait for it.
    fn get(&self, hashing: Hashing, parts: Vec<Part>) -> Arc<Table> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|table| table.strong_count() > 0);
        if let Some(known) = tables.iter().filter_map(Weak::upgrade).find(|table| table.is_of(hashing.kind, &parts)) {
            return known;
        }
        let made = Arc::new(hashing.table(parts));
        tables.push(Arc::downgrade(&made));
        made
    }
}

impl ClusterShared {
    /// How the places of its tables are shared out, in Envoy's words; of one of the tables, if there are several.
    pub fn table_gauges(&self) -> Vec<(Cow<'static, str>, u64)> {
        let tables = self.tables.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = tables.iter().find_map(Weak::upgrade) else { return Vec::new() };
        match table.counts() {
            (HashTable::Ring { .. }, counts) => vec![
                ("ring_hash_lb.size".into(), counts.places),
                ("ring_hash_lb.min_hashes_per_host".into(), counts.fewest),
                ("ring_hash_lb.max_hashes_per_host".into(), counts.most),
            ],
            (HashTable::Maglev { .. }, counts) => vec![
                ("maglev_lb.min_entries_per_host".into(), counts.fewest),
                ("maglev_lb.max_entries_per_host".into(), counts.most),
            ],
        }
    }
}

/// Sorts hosts, whose standing is told in their order.
pub(super) fn host_set(
    cluster: &Cluster,
    hosts: &[Rc<Host>],
    standing: impl Iterator<Item = Standing>,
    tables: &Tables,
) -> HostSet {
    let settings = &cluster.settings;
    let factor = cluster.endpoints.overprovisioning_factor;
    let mut set = HostSet::new(standing, settings.panic_threshold, factor)
        .with_weights(hosts.iter().map(|host| host.weight.get()))
        .with_slow_start(settings.slow_start);
    if settings.locality_weighted {
        let mut shares = LocalityShare::of(&cluster.endpoints);
        shares.of_host = hosts.iter().map(|host| host.place.borrow().locality).collect();
        set = set.with_localities(&shares, factor);
    }
    if let LbPolicy::Hash(hashing) = settings.lb {
        let part = |host: usize| part(&hosts[host], hashing.by_hostname);
        set = set.with_tables(part, |parts| tables.get(hashing, parts));
    }
    set
}

fn part(host: &Host, by_hostname: bool) -> Part {
    let key = match &host.place.borrow().hash_key {
        Some(key) => Arc::clone(key),
        None if by_hostname && !host.hostname.is_empty() => Arc::clone(&host.hostname),
        None => host.target.to_string().into(),
    };
    Part { key, weight: f64::from(host.weight.get()) }
}

/// Hosts as the balancer sees them.
pub(super) struct Flat<'a>(pub &'a [Rc<Host>]);

impl Hosts for Flat<'_> {
    fn weight(&self, host: usize) -> u32 {
        self.0[host].weight.get()
    }
    fn active(&self, host: usize) -> u32 {
        self.0[host].shared.active.load(Ordering::Relaxed)
    }
    fn age(&self, host: usize) -> Duration {
        self.0[host].shared.since.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_shared_as_long_as_somebody_has_them() {
        let tables = Tables::default();
        let hashing = Hashing { kind: lateen_traffic::cluster::HashTable::Maglev { size: 11 }, by_hostname: false };
        let parts = |names: &[&str]| names.iter().map(|name| Part { key: (*name).into(), weight: 0.5 }).collect();
        let first = tables.get(hashing, parts(&["a", "b"]));
        assert!(Arc::ptr_eq(&first, &tables.get(hashing, parts(&["a", "b"]))));
        assert!(!Arc::ptr_eq(&first, &tables.get(hashing, parts(&["a", "c"]))));
        drop(first);
        tables.get(hashing, parts(&["a"]));
        assert_eq!(tables.0.lock().unwrap().len(), 1);
    }
}
