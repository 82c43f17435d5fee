//! Configuration: Kubernetes' and Istio's kinds, what makes them valid, and the store that keeps them.
//! Knows no network, no file and no clock: bytes, names and times are handed in.
//!
//! The life of a manifest: bytes → [`read_manifests`] (types, unknown fields) → [`Change`]s → [`Store::commit`] (defaults,
//! [`validate`], all or nothing) → [`Snapshot`], and an [`store::Event`] for whoever watches.
//!
//! ```
//! use std::time::SystemTime;
//!
//! use k8s_openapi::api::core::v1::Service;
//! use lateen_galley::istio::VirtualService;
//! use lateen_galley::store::Filter;
//! use lateen_galley::{Change, Config, Kind, ReadOptions, Store, StoreSettings, read_manifests};
//!
//! let text = "
//! apiVersion: v1
//! kind: Namespace
//! metadata: {name: shop}
//! ---
//! apiVersion: v1
//! kind: Service
//! metadata: {name: cart, namespace: shop}
//! spec: {selector: {app: cart}, ports: [{name: http, port: 80}]}
//! ---
//! apiVersion: networking.istio.io/v1
//! kind: VirtualService
//! metadata: {name: cart, namespace: shop}
//! spec:
//!   hosts: [cart]
//!   http: [{route: [{destination: {host: cart}}]}]
//! ";
//! let manifests = read_manifests("shop.yaml", text.as_bytes(), ReadOptions::default()).complete()?;
//!
//! let store = Store::new(StoreSettings::default());
//! let mut watch = store.watch(store.revision(), Filter::kind(Kind::VirtualService));
//! let batch = manifests.into_iter().map(|manifest| (Change::Upsert(manifest.object), Some(manifest.origin))).collect();
//! store.commit(batch, SystemTime::now())?;
//!
//! // Whoever reads takes a snapshot: it never changes, and costs next to nothing.
//! let snapshot = store.snapshot();
//! let cart: &Service = snapshot.typed("shop", "cart").ok_or("no such service")?;
//! assert_eq!(cart.metadata.name.as_deref(), Some("cart"));
//! for rule in snapshot.list::<Config<VirtualService>>() {
//!     assert_eq!(rule.spec.http[0].route[0].destination.as_ref().map(|to| to.host.as_str()), Some("cart"));
//! }
//!
//! // Whoever follows gets each change once, in order.
//! let event = watch.try_next()?.ok_or("nothing happened")?;
//! assert_eq!(event.kind.as_str(), "ADDED");
//! assert_eq!(event.object.to_json("v1beta1")["apiVersion"], "networking.istio.io/v1beta1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - Names on the command line and in REST paths: [`kind::by_typed_name`], [`kind::by_path`], [`Kind::info`].
//! - Settings of the mesh and of single proxies, which are text inside other objects: [`mesh`].
//! - Objects that name what is not there: [`references::References`]; a batch's warnings hold them for the objects it changed.
//! - A file set that changes: [`source::files::FileSet`].
//! - A reader in another process: decode each listed object with [`Object::decode`], [`Snapshot::insert`] it, set
//!   [`Snapshot::set_revision`], then insert and remove as the watch says.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod beside;
pub mod ciphers;
mod decode;
mod defaults;
pub mod istio;
pub mod kind;
pub mod mesh;
mod nearest;
mod object;
mod problem;
#[cfg(test)]
mod properties;
pub mod references;
mod snapshot;
pub mod source;
pub mod store;
mod strict;
pub mod support;
pub mod validate;
mod yaml;

pub use beside::read_beside;
pub use decode::{Manifest, Manifests, ReadOptions, read_json, read_manifests};
pub use kind::{Kind, KindInfo};
pub use object::{Config, DecodeError, Object, Resource, Typed};
pub use problem::{FieldProblem, Key, Origin, Problem, Problems, Subject};
pub use snapshot::Snapshot;
pub use store::{Change, Store, StoreSettings};
pub use yaml::{DOCUMENT_BYTES, SOURCE_BYTES};
