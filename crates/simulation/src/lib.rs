//! A mesh that is only computed: what its proxies would do with requests, decided by `lateen-traffic` on the
//! configuration that `lateen-pilot` makes of a cluster's objects, converted by `lateen-xds` as a proxy converts it.
//!
//! No socket is opened and no time is lost: the clock jumps to whatever is waited for next, and chance is drawn from a
//! seed, so that a run is the same each time. What is simulated, and what is not, is said in docs/traffic-tests.md.
//!
//! - [`World`]: the pods of a cluster, and where its addresses lead
//! - [`Target`], [`ClientTls`], [`Said`], [`Heard`]: a client, and what it hears
//! - [`Credentials`]: certificates that the mesh does not give
//! - [`Application`]: what a pod's program answers
//! - [`Trace`][]: why
//!
//! Knows nothing of the machine, of the proxy that carries decisions out, and of tests that judge them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod application;
mod attempts;
mod authorize;
mod call;
mod client;
mod clock;
pub mod compile;
mod credentials;
mod exchange;
mod log;
mod message;
mod mirror;
mod pool;
mod proxy;
mod tcp;
mod tls;
mod trace;
mod upstream;
mod world;

pub use application::{Application, Place, Spoken, Unknown};
pub use client::Target;
pub use clock::Clock;
pub use credentials::{Credential, Credentials, Issued};
pub use log::Log;
pub use message::{Answer, Broken, Heard, Hello, Request, Said};
pub use proxy::Proxy;
pub use tls::ClientTls;
pub use trace::{Decision, Trace};
pub use world::{Cast, Directory, Pod, World};
