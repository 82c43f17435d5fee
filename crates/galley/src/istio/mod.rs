//! Istio's networking API (`networking.istio.io` v1, v1beta1 and v1alpha3: one schema, three names) and security API
//! (`security.istio.io` v1 and v1beta1), typed field by field.
//!
//! These are the `spec`s alone; metadata and status are [`crate::Object`]'s. Proto3's rules hold: a scalar, string, list or
//! map that is absent equals its zero value (`0`, `""`, `[]`, `{}`), so those are plain fields; messages and wrapper types,
//! where absence means something, are `Option`s; a `oneof` is an `Option` of a Rust enum.
//! Which fields this version carries out is `crate::support`'s to say, not this module's.

pub mod authentication;
pub mod authorization_policy;
pub mod destination_rule;
mod duration;
pub mod gateway;
mod matching;
pub mod peer_authentication;
pub mod policy_target;
pub mod request_authentication;
pub mod service_entry;
pub mod sidecar;
pub mod status;
pub mod virtual_service;
pub mod workload_entry;
pub mod workload_group;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use duration::{Duration, InvalidDuration};
pub use gateway::Gateway;
pub use matching::{Percent, PortSelector, StringMatch};
pub use peer_authentication::PeerAuthentication;
pub use request_authentication::RequestAuthentication;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use status::IstioStatus;
pub use virtual_service::VirtualService;
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;

/// What a `oneof` says when two of its fields are set: `"only one of port, derivePort may be set"`.
fn only_one(set: &[(&'static str, bool)]) -> Result<(), String> {
    let names: Vec<&str> = set.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if names.len() > 1 {
        return Err(format!("only one of {} may be set", names.join(", ")));
    }
    Ok(())
}
