//! Certificates and authorities that proxies are told by the control plane: Kubernetes' Secrets, by the names that Istio
//! gives them in TLS contexts.
//!
//! A proxy is told those of its own namespace only. Keys are for the service accounts that may read the namespace's
//! Secrets, authorities for everybody. What is not there, or not for the proxy, is left out; what is broken is not told,
//! and what was told before stays. Knows of no proxy but the one it is asked for.
//!
//! Source: Istio `pilot/pkg/xds/sds.go`, `pilot/pkg/credentials/kube/secrets.go`, `pilot/pkg/model/credentials/resource.go`.

mod content;
mod dates;
mod names;

pub use dates::Dated;
pub use names::{authorities_name, resource_name};

use crate::node::Node;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use lateen_galley::{Kind, Object, Snapshot};
use lateen_xds::{Resource, ResourceSet, ResourceType, Resources};
use names::{Name, Source};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Kinds of objects that they are made of, or that say who may have them.
pub const KINDS: [Kind; 3] = [Kind::Secret, Kind::ConfigMap, Kind::ServiceAccount];

/// Why a proxy is not told something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("{0:?} is no name of a credential")]
    Name(String),
    #[error("{0} is not there")]
    NotThere(String),
    #[error("{0} is of another namespace than the proxy")]
    Elsewhere(String),
    #[error("{0} is not for the service account {1}")]
    NotAllowed(String, String),
    #[error("{0} cannot be used: {1}")]
    Unusable(String, String),
}

/// A resource, and when it is good.
type Usable = (Resource, Option<Dated>);

/// An object, and what was made of it, or why nothing can be.
type Known = (Arc<Object>, Result<Usable, String>);

/// What was made of objects, by the namespace and name that they were asked for by, kept until they change.
#[derive(Debug, Default)]
pub struct Made(HashMap<(String, String), Known>);

impl Made {
    /// Forgets what is made of objects that are no more.
    pub fn retain_those_of(&mut self, snapshot: &Snapshot) {
        self.0.retain(|_, (object, _)| {
            let now = snapshot.find(object.kind(), object.namespace(), object.name());
            now.is_some_and(|now| Arc::ptr_eq(now, object))
        });
    }
}

/// What a proxy is told of credentials.
#[derive(Debug, Default)]
pub struct Told {
    pub resources: Resources,
    /// Why it is not told some.
    pub missing: Vec<Missing>,
    /// When those are good that it is told.
    pub dated: Vec<Dated>,
}

/// The credentials of these names as a proxy is told them. `before` is what it was told last.
pub fn resources(
    names: &BTreeSet<String>,
    node: &Node,
    snapshot: &Snapshot,
    before: &ResourceSet,
    made: &mut Made,
) -> Told {
    let mut told = Told::default();
    for name in names {
        match resource(name, node, snapshot, made) {
            Ok((resource, dated)) => {
                told.resources.insert(Arc::clone(resource.name()), resource);
                told.dated.extend(dated);
            }
            Err(why) => {
                if let (Missing::Unusable(..), Some(last)) = (&why, before.get(&ResourceType::Secret, name)) {
                    told.resources.insert(Arc::clone(last.name()), last.clone());
                }
                told.missing.push(why);
            }
        }
    }
    told
}

fn resource(name: &str, node: &Node, snapshot: &Snapshot, made: &mut Made) -> Result<Usable, Missing> {
    let parsed = Name::parse(name, &node.namespace).ok_or_else(|| Missing::Name(name.to_owned()))?;
    if parsed.source == Source::Secret {
        if parsed.namespace != node.namespace {
            return Err(Missing::Elsewhere(parsed.to_string()));
        }
        if !parsed.authorities && !may_read(snapshot, node, &parsed.object) {
            let account = node.proven_account.clone().unwrap_or_else(|| "(none is proven)".to_owned());
            return Err(Missing::NotAllowed(parsed.to_string(), account));
        }
    }
    let (object, content) = content::of(&parsed, snapshot).ok_or_else(|| Missing::NotThere(parsed.to_string()))?;
    let key = (parsed.namespace.clone(), name.to_owned());
    let known = made.0.get(&key).filter(|(known, _)| Arc::ptr_eq(known, object));
    let result = match known {
        Some((_, result)) => result.clone(),
        None => {
            let result = content.and_then(|content| {
                let dated = Dated::of(&parsed, &content);
                Ok((content.resource(name)?, dated))
            });
            made.0.insert(key, (Arc::clone(object), result.clone()));
            result
        }
    };
    result.map_err(|reason| Missing::Unusable(parsed.to_string(), reason))
}

/// Whether a proxy's service account may read a Secret of its namespace. On a cluster that is a question of roles, which
/// installations give to gateways; where there are none, it may if it is that of a gateway, or names the Secret as one of
/// its own.
fn may_read(snapshot: &Snapshot, node: &Node, secret: &str) -> bool {
    let Some(account) = node.proven_account.as_deref() else { return false };
    let names_it = snapshot.typed::<ServiceAccount>(&node.namespace, account).is_some_and(|account| {
        account.secrets.iter().flatten().any(|reference| reference.name.as_deref() == Some(secret))
    });
    names_it || snapshot.list_in::<Pod>(&node.namespace).any(|pod| is_gateway_of(pod, account))
}

fn is_gateway_of(pod: &Pod, account: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let runs_as = spec.service_account_name.as_deref().unwrap_or("default");
    runs_as == account
        && spec.containers.iter().any(|container| {
            container.name == "istio-proxy" && container.args.iter().flatten().any(|word| word == "router")
        })
}

#[cfg(test)]
#[path = "credentials/tests.rs"]
mod tests;
