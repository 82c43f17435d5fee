//! Whether an object that has the right types makes sense: as Kubernetes' API server and Istio's webhook check it.
//! Works on one object at a time; knows nothing of what else there is, nor of what this version can carry out
//! (that is [`crate::support`]).

mod authentication;
mod authorization_policy;
mod change;
mod destination_rule;
mod gateway;
mod headers;
mod metadata;
mod names;
mod peer_authentication;
mod plain;
mod policy_target;
mod request_authentication;
mod service;
mod service_entry;
mod shared;
mod sidecar;
mod virtual_service;
pub(crate) mod workload_group;
mod workloads;

use crate::istio::authorization_policy::DRY_RUN;
use crate::istio::virtual_service::STICKY_WEIGHTS;
use crate::object::{Object, Resource};
use crate::problem::FieldProblem;
pub use change::change;
pub(crate) use destination_rule::localities;
pub(crate) use headers::is_token;
pub(crate) use virtual_service::retries;

/// What was found in one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What makes it unusable.
    pub errors: Vec<FieldProblem>,
    /// What looks like a mistake, and can be used.
    pub warnings: Vec<FieldProblem>,
}

impl Findings {
    pub(crate) fn error(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldProblem::new(path, message));
    }

    /// Adds what was found in a part.
    fn append(&mut self, mut found: Findings) {
        self.errors.append(&mut found.errors);
        self.warnings.append(&mut found.warnings);
    }

    pub(crate) fn warning(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(FieldProblem::new(path, message));
    }

    /// An error if the check fails.
    pub(crate) fn check(&mut self, path: &str, result: Result<(), String>) {
        if let Err(message) = result {
            self.error(path, message);
        }
    }
}

/// A length of time as Istio takes it: at least a millisecond, in whole milliseconds.
pub(crate) fn duration(path: &str, length: crate::istio::Duration, findings: &mut Findings) {
    findings.check(path, shared::duration(length));
}

/// Whether a namespace can be called so.
pub(crate) fn is_namespace(name: &str) -> bool {
    names::is_label(name)
}

/// Checks an object.
pub fn object(object: &Object) -> Findings {
    let mut findings = Findings::default();
    metadata::check(object, &mut findings);
    let own = object.namespace();
    match object.resource() {
        Resource::Namespace(_) | Resource::ServiceAccount(_) => {}
        Resource::Secret(secret) => plain::check_secret(secret, &mut findings),
        Resource::ConfigMap(config) => plain::check_config_map(config, &mut findings),
        Resource::Service(service) => service::check(service, &mut findings),
        Resource::Endpoints(endpoints) => plain::check_endpoints(endpoints, &mut findings),
        Resource::EndpointSlice(slice) => plain::check_endpoint_slice(slice, &mut findings),
        Resource::Pod(pod) => workloads::check_pod(pod, &mut findings),
        Resource::Deployment(deployment) => workloads::check_deployment(deployment, &mut findings),
        Resource::Gateway(config) => gateway::check(&config.spec, &mut findings),
        Resource::VirtualService(config) => {
            virtual_service::check(own, &config.spec, &mut findings);
            virtual_service::sticky_weights(object.annotation(STICKY_WEIGHTS), &config.spec, &mut findings);
        }
        Resource::DestinationRule(config) => destination_rule::check(own, &config.spec, &mut findings),
        Resource::ServiceEntry(config) => service_entry::check(own, &config.spec, &mut findings),
        Resource::WorkloadEntry(config) => service_entry::check_workload(&config.spec, &mut findings),
        Resource::WorkloadGroup(config) => workload_group::check(&config.spec, &mut findings),
        Resource::Sidecar(config) => sidecar::check(own, &config.spec, &mut findings),
        Resource::AuthorizationPolicy(config) => {
            authorization_policy::check(&config.spec, object.annotation(DRY_RUN), &mut findings);
        }
        Resource::RequestAuthentication(config) => request_authentication::check(&config.spec, &mut findings),
        Resource::PeerAuthentication(config) => peer_authentication::check(own, &config.spec, &mut findings),
        Resource::MeshPolicy(config) => authentication::check(object.name(), true, &config.spec.0, &mut findings),
        Resource::Policy(config) => authentication::check(object.name(), false, &config.spec, &mut findings),
    }
    findings
}

#[cfg(test)]
mod tests;
