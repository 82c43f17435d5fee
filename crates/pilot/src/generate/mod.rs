//! Generators: each a pure function from an input struct, which is all it may know, to an Envoy resource.
//!
//! The input struct is also the key under which the result is kept: what a generator depends on cannot be missing
//! from its key. None does I/O, knows a connected proxy, or looks anything up.

mod access_log;
mod alpn;
mod authorization;
pub mod balancing;
pub mod cluster;
pub mod domains;
pub mod endpoint;
pub mod gateway_routes;
pub mod http;
pub mod inbound;
pub mod listener;
pub mod locality;
mod mirror;
pub mod named_hosts;
mod outlier;
mod proxy_protocol;
mod request_authentication;
mod retry;
pub mod route;
mod route_filters;
mod route_match;
mod secret;
pub mod server_tls;
pub mod sidecar_routes;
pub mod tcp;
pub mod transport;
mod wire;
