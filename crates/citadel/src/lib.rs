//! Identity: the certificate authority of a mesh, Istio's API for asking it, and the agent that asks on behalf of a
//! proxy and hands the proxy its certificate by Envoy's SDS.
//!
//! [`authority`], [`request`], [`spiffe`], [`certificate`] and [`agent::renewal`] decide and know no socket; [`store`]
//! knows files, [`serve`], [`agent`] and [`issuers`] (the keys of those whose tokens users bring) sockets. Nothing here
//! knows Kubernetes: who asks for a service-account token's owner is given a function.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod agent;
pub mod authority;
pub mod certificate;
pub mod issuers;
mod istio;
pub mod key;
pub mod request;
pub mod serve;
pub mod spiffe;
pub mod store;
