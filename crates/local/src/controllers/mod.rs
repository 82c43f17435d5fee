//! The cluster's controllers (the role of Kubernetes' kube-controller-manager): each looks at a snapshot
//! and makes one kind of thing so. They are level-triggered: what they do depends on what is there, never
//! on which event came.

pub(crate) mod addresses;
pub(crate) mod deployments;
pub(crate) mod endpoints;
mod garbage;
mod load_balancers;
mod rollout;
pub(crate) mod selection;
pub(crate) mod views;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_galley::{Change, Kind, Object, Snapshot, Store};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admission::Admission;
use crate::dns::Zone;
use crate::hosts::Backends;

pub use load_balancers::{HOST_PORTS_BOUND, LoadBalancers, unbound};

/// How often ports of the host that belong to somebody else are tried again.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// What the controllers work for: readers of names and of endpoints.
#[derive(Debug)]
pub struct Views {
    /// What DNS answers.
    pub zone: watch::Sender<Arc<Zone>>,
    /// Where relays connect to.
    pub backends: watch::Sender<Arc<Backends>>,
}

/// Starts all controllers; they end when the set is dropped.
pub fn start(admission: &Admission, mut balancers: LoadBalancers, views: Views) -> JoinSet<()> {
    let mut running = JoinSet::new();
    let store = admission.store().clone();
    let own = || (admission.clone(), store.clone());

    let (admitting, _) = own();
    let kinds = &[Kind::Namespace, Kind::ServiceAccount];
    running.spawn(on_change(store.clone(), kinds, move |snapshot| service_accounts(&admitting, snapshot)));

    let (admitting, _) = own();
    let kinds = &[Kind::Deployment, Kind::Pod];
    running.spawn(on_change(store.clone(), kinds, move |snapshot| deployments::reconcile(&admitting, snapshot)));

    let (admitting, _) = own();
    let kinds = &[Kind::Service, Kind::Pod, Kind::Endpoints, Kind::EndpointSlice];
    running.spawn(on_change(store.clone(), kinds, move |snapshot| endpoints::reconcile(&admitting, snapshot)));

    let (_, writing) = own();
    let kinds = &[Kind::ServiceEntry];
    running.spawn(on_change(store.clone(), kinds, move |snapshot| addresses::reconcile(&writing, snapshot)));

    let (admitting, _) = own();
    let kinds = &[Kind::Deployment, Kind::Service, Kind::Pod, Kind::EndpointSlice];
    running.spawn(on_change(store.clone(), kinds, move |snapshot| garbage::reconcile(&admitting, snapshot)));

    let services = store.clone();
    running.spawn(async move {
        let mut revisions = services.revisions();
        let mut retry = tokio::time::interval(BIND_RETRY);
        let mut seen: Option<Snapshot> = None;
        loop {
            revisions.mark_unchanged();
            let snapshot = services.snapshot();
            if seen.as_ref().is_none_or(|seen| !seen.same(&snapshot, Kind::Service)) {
                balancers.reconcile(&snapshot);
                seen = Some(snapshot);
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                _ = retry.tick(), if balancers.wants_retry() => seen = None,
            }
        }
    });

    let kinds = &[Kind::Service, Kind::EndpointSlice, Kind::ServiceEntry, Kind::WorkloadEntry, Kind::Pod];
    running.spawn(on_change(store, kinds, move |snapshot| {
        views.backends.send_replace(Arc::new(views::backends(snapshot)));
        views.zone.send_if_modified(|zone| {
            let new = views::zone(snapshot);
            let changed = **zone != new;
            if changed {
                *zone = Arc::new(new);
            }
            changed
        });
    }));
    running
}

/// Of which kinds [`behind`] looks at objects.
pub const FOLLOWED: [Kind; 5] = [Kind::Service, Kind::Pod, Kind::Endpoints, Kind::EndpointSlice, Kind::ServiceEntry];

/// What these controllers have still to do before requests find their way, in words; nothing once they are done.
pub fn behind(snapshot: &Snapshot) -> Option<String> {
    endpoints::behind(snapshot).or_else(|| addresses::behind(snapshot))
}

/// Calls `reconcile` now and whenever objects of these kinds have changed; changes that come together
/// are seen together.
async fn on_change(store: Store, kinds: &[Kind], mut reconcile: impl FnMut(&Snapshot)) {
    let mut revisions = store.revisions();
    let mut seen: Option<Snapshot> = None;
    loop {
        revisions.mark_unchanged();
        let snapshot = store.snapshot();
        if seen.as_ref().is_none_or(|seen| kinds.iter().any(|kind| !seen.same(&snapshot, *kind))) {
            reconcile(&snapshot);
            seen = Some(snapshot);
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Every namespace has a service account `default`.
fn service_accounts(admission: &Admission, snapshot: &Snapshot) {
    for namespace in snapshot.objects(Kind::Namespace) {
        if snapshot.find(Kind::ServiceAccount, namespace.name(), "default").is_some() {
            continue;
        }
        let account = serde_json::json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace.name()},
        });
        create(admission, account);
    }
}

/// Creates an object of a controller's making; whether it is there now.
fn create(admission: &Admission, raw: Value) -> bool {
    match Object::decode(raw) {
        Ok(object) => {
            let key = object.key();
            let created = admission.write(Change::Create(object));
            if let Err(refusal) = &created {
                tracing::warn!(%key, %refusal, "cannot create an object");
            }
            created.is_ok()
        }
        Err(error) => {
            tracing::error!(%error, "a controller made an object that is none");
            false
        }
    }
}

/// Writes an object's status, unless it has gone or is another one by now. `true` if it is so now.
pub(crate) fn write_status(store: &Store, object: &Object, status: Value) -> bool {
    if object.raw().get("status") == Some(&status) {
        return true;
    }
    let mut raw = object.raw().clone();
    if let Value::Object(fields) = &mut raw {
        fields.insert("status".to_owned(), status);
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            // Whoever writes a status knows it better than anybody who changed the object meanwhile.
            metadata.remove("resourceVersion");
        }
    }
    match Object::decode(raw) {
        Ok(object) => match store.write(Change::UpdateStatus(object), SystemTime::now()) {
            Ok(_) => true,
            Err(refusal) => {
                tracing::debug!(%refusal, "a status was not written");
                false
            }
        },
        Err(error) => {
            tracing::error!(%error, "a controller made a status that is none");
            false
        }
    }
}

/// An object's status to be changed.
fn status_of(object: &Object) -> Map<String, Value> {
    object.raw().get("status").and_then(Value::as_object).cloned().unwrap_or_default()
}
