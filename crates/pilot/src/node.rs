//! Who a connected proxy is, read from the node it names on its first message.
//!
//! Knows nothing of services or rules. Source: Istio `pilot/pkg/model/context.go` (ParseServiceNodeWithMetadata),
//! `pkg/model/proxy.go` (NodeMetadata).

use crate::registry::{Labels, Locality, NETWORK};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use lateen_galley::mesh::{self, ProxyConfig};
use std::net::IpAddr;
use std::time::Duration;

/// Why a node was refused. All are the client's fault (gRPC InvalidArgument).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("missing node information: the first request carries no node")]
    Missing,
    #[error("missing node ID")]
    EmptyId,
    #[error("missing parts in the service node {0:?}: TYPE~IP~ID~DOMAIN is expected")]
    Parts(String),
    #[error("invalid node type (valid types: sidecar, router) in the service node {0:?}")]
    Type(String),
    #[error("no valid IP address in the node id {0:?} or its metadata")]
    Address(String),
    #[error("{identity} is not the identity of a proxy of namespace {namespace}, service account {service_account:?}")]
    Identity { identity: String, namespace: String, service_account: String },
}

/// What a proxy is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeType {
    /// Next to one workload.
    Sidecar,
    /// A gateway.
    Router,
}

/// How traffic reaches a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Interception {
    #[default]
    Redirect,
    Tproxy,
    /// Not at all: the proxy binds the ports it serves.
    None,
}

/// Address families of a proxy's workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Families {
    V4,
    V6,
    Dual,
}

/// A connected proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// As sent: `TYPE~IP~POD.NAMESPACE~DOMAIN`.
    pub id: String,
    pub node_type: NodeType,
    /// At least one; the first is the primary address.
    pub addresses: Vec<IpAddr>,
    /// Third part of the id: `POD.NAMESPACE`.
    pub workload: String,
    /// Namespace whose configuration holds for it.
    pub namespace: String,
    /// DNS domain clients behind it search: `NAMESPACE.svc.cluster.local`.
    pub dns_domain: String,
    /// From metadata; what the registry knows of the pod goes before these.
    pub labels: Labels,
    pub interception: Interception,
    /// Clients behind it see the addresses the mesh's name server gives to entries without any.
    pub dns_capture: bool,
    pub accept_http_10: bool,
    /// HTTP connections and TCP streams idle for this long are closed.
    pub idle_timeout: Option<Duration>,
    pub unprivileged: bool,
    /// It is Lateen's own, and so has Istio's filters beside Envoy's.
    pub own: bool,
    /// What its pod says of it, to go over the mesh's settings for proxies.
    pub proxy_config: ProxyConfig,
    pub locality: Locality,
    /// Name of the machine it is on, if it says so.
    pub node_name: Option<String>,
    /// The service account its workload runs as, if it says so.
    pub service_account: Option<String>,
    /// The service account that it has proven to be of, if it has proven anything.
    pub proven_account: Option<String>,
    /// The WorkloadGroup that its workload joins, if it is no pod.
    pub register_group: Option<String>,
    /// The network its workload is in, if it says so.
    pub network: Option<String>,
}

impl Node {
    /// Reads a node message.
    pub fn parse(node: &core::Node) -> Result<Node, NodeError> {
        if node.id.is_empty() {
            return Err(NodeError::EmptyId);
        }
        let parts: Vec<&str> = node.id.split('~').collect();
        let &[kind, address, workload, domain] = parts.as_slice() else {
            return Err(NodeError::Parts(node.id.clone()));
        };
        let node_type = match kind {
            "sidecar" => NodeType::Sidecar,
            "router" => NodeType::Router,
            _ => return Err(NodeError::Type(node.id.clone())),
        };
        let empty = Struct::default();
        let metadata = Metadata(node.metadata.as_ref().unwrap_or(&empty));
        let mut addresses: Vec<IpAddr> =
            metadata.list("INSTANCE_IPS").iter().filter_map(|address| address.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(address.parse::<IpAddr>());
        }
        if addresses.is_empty() {
            return Err(NodeError::Address(node.id.clone()));
        }
        let namespace = match metadata.text("NAMESPACE") {
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => domain.split('.').next().unwrap_or_default().to_owned(),
        };
        let mut labels = metadata.map("STATIC_LABELS");
        labels.extend(metadata.map("LABELS"));
        let network = metadata.text("NETWORK").filter(|name| !name.is_empty());
        labels.extend(network.iter().map(|network| (NETWORK.to_owned(), network.clone())));
        let locality = match (labels.get("istio-locality"), &node.locality) {
            // Label values cannot hold a slash, so the label separates with dots.
            (Some(label), _) => Locality::parse(&label.replace('.', "/")),
            (None, Some(locality)) => Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                subzone: locality.sub_zone.clone(),
            },
            (None, None) => Locality::default(),
        };
        Ok(Node {
            id: node.id.clone(),
            node_type,
            addresses,
            workload: workload.to_owned(),
            namespace,
            dns_domain: domain.to_owned(),
            labels,
            interception: match metadata.text("INTERCEPTION_MODE").as_deref() {
                Some("TPROXY") => Interception::Tproxy,
                Some("NONE") => Interception::None,
                _ => Interception::Redirect,
            },
            dns_capture: metadata.truth("DNS_CAPTURE"),
            accept_http_10: metadata.text("HTTP10").as_deref() == Some("1"),
            idle_timeout: metadata.text("IDLE_TIMEOUT").and_then(|text| parse_duration(&text)),
            unprivileged: metadata.truth("UNPRIVILEGED_POD"),
            own: node.user_agent_name == "lateen",
            proxy_config: metadata.proxy_config(),
            locality,
            node_name: metadata.text("NODE_NAME").filter(|name| !name.is_empty()),
            register_group: metadata.text("AUTO_REGISTER_GROUP").filter(|name| !name.is_empty()),
            network,
            service_account: metadata.text("SERVICE_ACCOUNT").filter(|name| !name.is_empty()),
            proven_account: None,
        })
    }

    /// Takes note of a proven SPIFFE id, which has to be that of this proxy's workload: what it is told is its namespace's
    /// alone. As Istio (`pilot/pkg/xds/auth.go`), a proxy that does not name its service account may be any of its
    /// namespace.
    ///
    /// # Errors
    /// When it is somebody else's.
    pub fn prove(&mut self, identity: &str) -> Result<(), NodeError> {
        let path = identity.strip_prefix("spiffe://").and_then(|rest| Some(rest.split_once('/')?.1));
        let parts: Vec<&str> = path.unwrap_or_default().split('/').collect();
        let own = |account: &str| self.service_account.as_deref().is_none_or(|named| named == account);
        match parts.as_slice() {
            ["ns", namespace, "sa", account] if *namespace == self.namespace && own(account) => {
                self.proven_account = Some((*account).to_owned());
                Ok(())
            }
            _ => Err(NodeError::Identity {
                identity: identity.to_owned(),
                namespace: self.namespace.clone(),
                service_account: self.service_account.clone().unwrap_or_default(),
            }),
        }
    }

    /// The families it can be reached on.
    pub fn families(&self) -> Families {
        let v4 = self.addresses.iter().any(IpAddr::is_ipv4);
        let v6 = self.addresses.iter().any(IpAddr::is_ipv6);
        match (v4, v6) {
            (true, true) => Families::Dual,
            (false, true) => Families::V6,
            _ => Families::V4,
        }
    }

    /// `(POD, NAMESPACE)` as the third part of the id names them.
    pub fn pod(&self) -> Option<(&str, &str)> {
        // Pod names may hold dots, namespaces may not.
        self.workload.rsplit_once('.')
    }
}

/// Reads a Go duration made of one or more `NUMBER UNIT` parts, as `1h30m`; `None` if it is not one.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok()
}

struct Metadata<'a>(&'a Struct);

impl Metadata<'_> {
    fn kind(&self, key: &str) -> Option<&Kind> {
        self.0.fields.get(key).and_then(|value| value.kind.as_ref())
    }

    fn text(&self, key: &str) -> Option<String> {
        scalar(self.kind(key)?)
    }

    /// From the agent, else from the pod's annotation. What cannot be read says nothing.
    fn proxy_config(&self) -> ProxyConfig {
        let annotations = self.map("ANNOTATIONS");
        let text = match self.kind("PROXY_CONFIG") {
            // JSON is YAML.
            Some(kind) => json(kind).to_string(),
            None => annotations.get(mesh::ANNOTATION).cloned().unwrap_or_default(),
        };
        mesh::proxy_config(&text, "").0.unwrap_or_default()
    }

    fn truth(&self, key: &str) -> bool {
        matches!(self.text(key).as_deref(), Some("true" | "1" | "TRUE" | "True"))
    }

    /// A list of strings, or one string with commas.
    fn list(&self, key: &str) -> Vec<String> {
        match self.kind(key) {
            Some(Kind::ListValue(list)) => {
                list.values.iter().filter_map(|value| scalar(value.kind.as_ref()?)).collect()
            }
            Some(Kind::StringValue(text)) => {
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    fn map(&self, key: &str) -> Labels {
        match self.kind(key) {
            Some(Kind::StructValue(fields)) => fields
                .fields
                .iter()
                .filter_map(|(key, Value { kind })| Some((key.clone(), scalar(kind.as_ref()?)?)))
                .collect(),
            _ => Labels::new(),
        }
    }
}

fn json(kind: &Kind) -> serde_json::Value {
    let value = |value: &Value| value.kind.as_ref().map_or(serde_json::Value::Null, json);
    match kind {
        Kind::NullValue(_) => serde_json::Value::Null,
        // Numbers of a Struct are all floating.
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() < 1e15 => (*number as i64).into(),
        Kind::NumberValue(number) => (*number).into(),
        Kind::StringValue(text) => text.clone().into(),
        Kind::BoolValue(truth) => (*truth).into(),
        Kind::StructValue(fields) => fields.fields.iter().map(|(name, field)| (name.clone(), value(field))).collect(),
        Kind::ListValue(list) => list.values.iter().map(value).collect(),
    }
}

fn scalar(kind: &Kind) -> Option<String> {
    match kind {
        Kind::StringValue(text) => Some(text.clone()),
        Kind::BoolValue(truth) => Some(truth.to_string()),
        Kind::NumberValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
