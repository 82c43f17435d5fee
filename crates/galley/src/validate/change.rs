//! What may not change while an object lives.

use crate::object::{Object, Resource};
use crate::problem::FieldProblem;

/// Checks what may not change between two states of one object.
pub fn change(old: &Object, new: &Object) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut fixed = |path: &str| problems.push(FieldProblem::new(path, "cannot be changed; delete the object first"));
    match (old.resource(), new.resource()) {
        (Resource::Service(old), Resource::Service(new)) => {
            let address = |service: &k8s_openapi::api::core::v1::Service| {
                service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()).filter(|address| !address.is_empty())
            };
            let (before, after) = (address(old), address(new));
            if before.is_some() && after.is_some() && before != after {
                fixed("spec.clusterIP");
            }
        }
        (Resource::Deployment(old), Resource::Deployment(new)) => {
            let selector = |deployment: &k8s_openapi::api::apps::v1::Deployment| {
                deployment.spec.as_ref().map(|spec| spec.selector.clone())
            };
            if selector(old) != selector(new) {
                fixed("spec.selector");
            }
        }
        (Resource::ConfigMap(old), Resource::ConfigMap(new)) => {
            let data =
                |config: &k8s_openapi::api::core::v1::ConfigMap| (config.data.clone(), config.binary_data.clone());
            if old.immutable == Some(true) && data(old) != data(new) {
                fixed("data");
            }
        }
        (Resource::Secret(old), Resource::Secret(new)) => {
            if old.type_ != new.type_ {
                fixed("type");
            }
            if old.immutable == Some(true) && (&old.data, &old.string_data) != (&new.data, &new.string_data) {
                fixed("data");
            }
        }
        (Resource::EndpointSlice(old), Resource::EndpointSlice(new)) if old.address_type != new.address_type => {
            fixed("addressType");
        }
        _ => {}
    }
    problems
}
