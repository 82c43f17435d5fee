//! Which of a cluster's hosts are checked, and what came of it. The checks themselves are made elsewhere: whoever makes
//! them is given a [`Check`] for each host.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::Dice;
use lateen_traffic::cluster::{CheckedAs, Cluster, ClusterSettings, Endpoint, EndpointAddress, TransportLabels};
use lateen_traffic::health::{HealthFlag, HostHealth};
use lateen_traffic::health_check::{Change, Counts, HealthCheck, Judged, Probe, Session};
use lateen_traffic::tls::TransportSocket;
use tokio::sync::oneshot;

use super::ClusterShared;

/// The checks of one cluster.
pub(super) struct Checks {
    settings: Arc<HealthCheck>,
    hosts: HashMap<EndpointAddress, Checked>,
    counts: Counts,
}

struct Checked {
    session: Session,
    checked_as: Option<Arc<CheckedAs>>,
    labels: TransportLabels,
    // Whoever checks the host stops when this goes.
    _until: oneshot::Sender<Infallible>,
}

/// A host that is to be checked.
pub struct Check {
    /// How and when.
    pub settings: Arc<HealthCheck>,
    /// Of its cluster: how connections are made.
    pub cluster: Arc<ClusterSettings>,
    /// The host.
    pub host: EndpointAddress,
    /// Where it is asked.
    pub at: EndpointAddress,
    /// The host name that is asked for.
    pub name: Arc<str>,
    /// The host's own name, if it has one.
    pub hostname: Arc<str>,
    /// What connections are made of.
    pub transport: TransportSocket,
    shared: Arc<ClusterShared>,
}

/// Ends when the host is checked no longer, or in another way. Nothing is ever sent.
pub type Until = oneshot::Receiver<Infallible>;

impl Check {
    /// A check begins.
    pub fn begins(&self) {
        if let Some(checks) = self.shared.health.lock().as_mut().and_then(|watch| watch.checks.as_mut()) {
            checks.counts.attempt += 1;
        }
    }

    /// A check is through. Tells when the next one is due.
    pub fn ended(&self, judged: Judged, dice: &mut dyn Dice) -> Duration {
        let change = self.shared.judge(&self.host, judged).unwrap_or(Change::None);
        self.settings.wait(judged.outcome, change, self.shared.had_traffic(), dice)
    }
}

impl Checks {
    /// Follows the cluster and its hosts as they are now; new ones are added to `begin`. `known` tells of hosts that took
    /// requests before anybody checked them: they go on doing so until a check fails.
    pub(super) fn follow(
        this: &mut Option<Self>,
        (cluster, shared): (&Cluster, &Arc<ClusterShared>),
        hosts: &[(EndpointAddress, Arc<Endpoint>, Arc<HostHealth>)],
        known: &dyn Fn(&EndpointAddress) -> bool,
        begin: &mut Vec<(Check, Until)>,
    ) {
        let mut before = this.take();
        let mut known_before = before.as_mut().map(|checks| std::mem::take(&mut checks.hosts)).unwrap_or_default();
        let Some(settings) = &cluster.settings.health_check else {
            for (_, _, health) in hosts {
                forget(health);
            }
            return;
        };
        let same = before.as_ref().is_some_and(|checks| Arc::ptr_eq(&checks.settings, settings));
        let mut checks = Self {
            settings: Arc::clone(settings),
            hosts: HashMap::with_capacity(hosts.len()),
            counts: before.map(|checks| checks.counts).unwrap_or_default(),
        };
        for (target, endpoint, health) in hosts {
            let checked_as = endpoint.checked_as.clone();
            if checked_as.as_ref().is_some_and(|checked_as| checked_as.never) {
                forget(health);
                continue;
            }
            let session = match known_before.remove(target) {
                Some(checked)
                    if same && checked.checked_as == checked_as && checked.labels == endpoint.transport_labels =>
                {
                    checks.hosts.insert(target.clone(), checked);
                    continue;
                }
                Some(checked) => checked.session,
                None if known(target) => Session::default(),
                None => Session::begin(health, cluster.settings.ignore_unchecked_hosts),
            };
            let (until_sender, until) = oneshot::channel();
            let labels = settings.transport_labels.as_ref().unwrap_or(&endpoint.transport_labels);
            let check = Check {
                settings: Arc::clone(settings),
                cluster: Arc::clone(&cluster.settings),
                host: target.clone(),
                at: asked_at(target, checked_as.as_deref()),
                name: name(cluster, checked_as.as_deref(), settings),
                hostname: Arc::clone(&endpoint.hostname),
                transport: cluster.settings.transport_for(labels).clone(),
                shared: Arc::clone(shared),
            };
            begin.push((check, until));
            checks.hosts.insert(
                target.clone(),
                Checked { session, checked_as, labels: endpoint.transport_labels.clone(), _until: until_sender },
            );
        }
        *this = Some(checks);
    }

    /// Takes up what came of a check; tells too whether it was the host's first. `None` if the host is not checked.
    pub(super) fn judge(
        &mut self,
        host: &EndpointAddress,
        health: &HostHealth,
        judged: Judged,
    ) -> Option<(Change, bool)> {
        let checked = self.hosts.get_mut(host)?;
        let first = !checked.session.is_checked();
        self.counts.count(judged);
        if judged.leave_alone {
            health.set(HealthFlag::EXCLUDED_BY_ANSWER, true);
        }
        Some((checked.session.judge(&self.settings, health, judged.outcome), first))
    }

    /// Whether every host was checked.
    pub(super) fn are_through(&self) -> bool {
        self.hosts.values().all(|checked| checked.session.is_checked())
    }

    /// Hosts that are checked.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &EndpointAddress> {
        self.hosts.keys()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// Nothing is known of the host by checks any longer.
fn forget(health: &HostHealth) {
    for flag in HealthFlag::OF_CHECKS {
        health.set(flag, false);
    }
}

/// Where a host is asked.
fn asked_at(host: &EndpointAddress, checked_as: Option<&CheckedAs>) -> EndpointAddress {
    let Some(checked_as) = checked_as else { return host.clone() };
    match (checked_as.address.as_ref().unwrap_or(host), checked_as.port) {
        (EndpointAddress::Socket(address), Some(port)) => EndpointAddress::ip(address.ip(), port),
        (address, _) => address.clone(),
    }
}

/// What a host is called in what it is asked.
fn name(cluster: &Cluster, checked_as: Option<&CheckedAs>, settings: &HealthCheck) -> Arc<str> {
    let of_endpoint = checked_as.map(|checked_as| &checked_as.hostname);
    let of_probe = match &settings.probe {
        Probe::Http(probe) => Some(&probe.host),
        Probe::Grpc(probe) => Some(&probe.authority),
        Probe::Tcp(_) => None,
    };
    let said = [of_endpoint, of_probe].into_iter().flatten().find(|name| !name.is_empty());
    Arc::clone(said.unwrap_or(&cluster.settings.name))
}
