//! One object: its JSON as the API gives it out, and the same thing typed.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::istio::authentication::{MeshPolicy, Policy};
use crate::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, IstioStatus, PeerAuthentication, RequestAuthentication,
    ServiceEntry, Sidecar, VirtualService, WorkloadEntry, WorkloadGroup,
};
use crate::kind::{self, Kind, LookupError};
use crate::problem::{FieldProblem, Key, Subject};
use crate::strict;

/// An object of one of Istio's kinds, shaped as Kubernetes' own types are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config<S> {
    /// As it was written: any served version.
    pub api_version: String,
    /// The kind's name.
    pub kind: String,
    /// Name, namespace, labels and so on.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
    /// What the control plane says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<IstioStatus>,
}

/// Why a JSON value is not an object of a known kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The kind is not known, or not in that version.
    #[error("{subject}: {error}")]
    Kind {
        /// The object meant.
        subject: Subject,
        /// Why.
        error: Box<LookupError>,
    },
    /// Fields are unknown or of the wrong type.
    #[error("{subject}: {}", show(problems))]
    Fields {
        /// The object meant.
        subject: Subject,
        /// Each field.
        problems: Vec<FieldProblem>,
    },
}

fn show(problems: &[FieldProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A type that objects of one kind have.
pub trait Typed: Sized + 'static {
    /// The kind.
    const KIND: Kind;

    /// The type's view of an object; `None` for objects of other kinds.
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! resources {
    ($($kind:ident => $type:ty),* $(,)?) => {
        /// An object, typed by its kind.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum Resource {
            $($kind(Box<$type>),)*
        }

        impl Resource {
            fn decode(kind: Kind, raw: &Value) -> Result<Self, Vec<FieldProblem>> {
                match kind {
                    $(Kind::$kind => strict::decode::<$type>(raw).map(|typed| Self::$kind(Box::new(typed))),)*
                }
            }

            /// Which kind it is.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// Name, namespace, labels and so on.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(typed) => &typed.metadata,)*
                }
            }
        }

        $(impl Typed for $type {
            const KIND: Kind = Kind::$kind;

            fn of(object: &Object) -> Option<&Self> {
                match &object.resource {
                    Resource::$kind(typed) => Some(typed.as_ref()),
                    _ => None,
                }
            }
        })*
    };
}

resources! {
    Namespace => Namespace,
    ServiceAccount => ServiceAccount,
    Secret => Secret,
    ConfigMap => ConfigMap,
    Service => Service,
    Endpoints => Endpoints,
    EndpointSlice => EndpointSlice,
    Pod => Pod,
    Deployment => Deployment,
    Gateway => Config<Gateway>,
    VirtualService => Config<VirtualService>,
    DestinationRule => Config<DestinationRule>,
    ServiceEntry => Config<ServiceEntry>,
    WorkloadEntry => Config<WorkloadEntry>,
    WorkloadGroup => Config<WorkloadGroup>,
    Sidecar => Config<Sidecar>,
    AuthorizationPolicy => Config<AuthorizationPolicy>,
    RequestAuthentication => Config<RequestAuthentication>,
    PeerAuthentication => Config<PeerAuthentication>,
    MeshPolicy => Config<MeshPolicy>,
    Policy => Config<Policy>,
}

/// An object that never changes; a changed one is another object. Share it in an `Arc`.
#[derive(Clone, PartialEq)]
pub struct Object {
    raw: Value,
    resource: Resource,
    revision: u64,
}

/// Of a Secret only which it is.
impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Object");
        shown.field("kind", &self.kind()).field("namespace", &self.namespace()).field("name", &self.name());
        shown.field("revision", &self.revision);
        if self.kind() != Kind::Secret {
            shown.field("raw", &self.raw);
        }
        shown.finish_non_exhaustive()
    }
}

impl Object {
    /// Decodes an object of any known kind and served version. Unknown fields and wrong types are errors; whether what it
    /// says makes sense is [`crate::validate`]'s to tell.
    ///
    /// # Errors
    /// [`DecodeError`], with every field that is wrong.
    pub fn decode(raw: Value) -> Result<Self, DecodeError> {
        let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind_name) = (text("apiVersion"), text("kind"));
        let fields = |problems| DecodeError::Fields { subject: subject_of(&raw), problems };
        let missing: Vec<FieldProblem> = [("apiVersion", api_version), ("kind", kind_name)]
            .iter()
            .filter(|(_, given)| given.is_empty())
            .map(|(name, _)| FieldProblem::new(*name, "required"))
            .collect();
        if !raw.is_object() {
            return Err(fields(vec![FieldProblem::new("", "expected a Kubernetes object")]));
        }
        if !missing.is_empty() {
            return Err(fields(missing));
        }
        let kind = kind::by_api_version(api_version, kind_name)
            .map_err(|error| DecodeError::Kind { subject: subject_of(&raw), error: Box::new(error) })?;
        let resource = Resource::decode(kind, &raw).map_err(fields)?;
        let revision = resource.metadata().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self { raw, resource, revision })
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.resource.kind()
    }

    /// Kind, namespace and name.
    pub fn key(&self) -> Key {
        Key::new(self.kind(), self.namespace(), self.name())
    }

    /// Name, namespace, labels and so on.
    pub fn metadata(&self) -> &ObjectMeta {
        self.resource.metadata()
    }

    /// `metadata.name`; empty if it has none yet.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`; empty for kinds without, and for manifests that leave it to the reader.
    pub fn namespace(&self) -> &str {
        if self.kind().info().namespaced { self.metadata().namespace.as_deref().unwrap_or_default() } else { "" }
    }

    /// `metadata.uid`; empty before it is stored.
    pub fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    /// `metadata.resourceVersion` as a number; 0 before it is stored.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// `metadata.generation`; 0 for kinds that do not count.
    pub fn generation(&self) -> i64 {
        self.metadata().generation.unwrap_or(0)
    }

    /// `metadata.labels`, if there are any.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.metadata().labels.as_ref()
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels().and_then(|labels| labels.get(name)).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata().annotations.as_ref().and_then(|annotations| annotations.get(name)).map(String::as_str)
    }

    /// The object, typed.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The object as a `T`; `None` if it is of another kind.
    pub fn typed<T: Typed>(&self) -> Option<&T> {
        T::of(self)
    }

    /// The whole object as JSON, in the version it was written in.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// The whole object as JSON, for making another of it.
    pub fn into_raw(self) -> Value {
        self.raw
    }

    /// The whole object as JSON, in the given version of its group. All versions of a group have one schema.
    pub fn to_json(&self, version: &str) -> Value {
        let mut raw = self.raw.clone();
        if let Value::Object(fields) = &mut raw {
            fields.insert("apiVersion".to_owned(), self.kind().info().api_version_in(version).into());
        }
        raw
    }
}

/// What can be said of an object before it is decoded.
pub(crate) fn subject_of(raw: &Value) -> Subject {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let metadata = |name: &str| text(raw.get("metadata").and_then(|metadata| metadata.get(name)));
    Subject { kind: text(raw.get("kind")), namespace: metadata("namespace"), name: metadata("name") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_does_not_show_what_is_in_it() {
        let metadata = json!({"name": "own", "namespace": "shop"});
        let data = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"tls.key": "c2VjcmV0"}});
        let shown = format!("{:?}", Object::decode(data).unwrap());
        assert!(shown.contains("own") && !shown.contains("c2VjcmV0"), "{shown}");
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "told"}});
        assert!(format!("{:?}", Object::decode(map).unwrap()).contains("told"));
    }
}
