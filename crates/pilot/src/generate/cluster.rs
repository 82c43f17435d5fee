//! Clusters: those of services and their subsets, and the fixed ones every proxy has.
//!
//! Each is a pure function of its input struct, which is also its cache key. Source: Istio `core/cluster.go`,
//! `core/cluster_builder.go`, `core/cluster_traffic_policy.go`.

use super::balancing;
use super::endpoint::{self, Assignment};
use super::locality::Preference;
use super::named_hosts;
use super::outlier;
use super::transport::Transport;
use super::wire;
use crate::names;
use crate::node::Families;
use crate::registry::EndpointAddress;
use crate::rules::{Balancing, Connections, Policy};
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, UpstreamConnectionOptions,
    circuit_breakers::{Thresholds, thresholds::RetryBudget},
    cluster::{ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy},
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
    },
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value, value::Kind};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How a cluster comes by its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// Sent apart, under the cluster's name.
    Eds,
    /// Names in the assignment resolved by the proxy, all addresses used.
    StrictDns(Assignment),
    /// A name resolved by the proxy, its first address used for new connections.
    LogicalDns(Assignment),
    /// The connection's original destination; with another port if the workloads listen on one.
    OriginalDst { port: Option<u16> },
    /// The host that a request names.
    Named,
}

/// What is spoken to the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// HTTP/1.1, or bytes.
    Http1,
    Http2,
    /// What the client speaks.
    AsClient,
}

/// The service a cluster belongs to, as telemetry shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceLabel {
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// A cluster for a service port, or for a subset of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundCluster {
    pub name: String,
    pub discovery: Discovery,
    pub upstream: Upstream,
    pub transport: Transport,
    pub policy: Policy,
    /// Of the proxy: which addresses are resolved.
    pub families: Families,
    pub service: ServiceLabel,
    /// Empty for the whole service.
    pub subset: String,
    /// Path of the rule in effect.
    pub config: Option<String>,
    pub mesh_external: bool,
    /// Which endpoints the client prefers, if any; needed where they are in the cluster itself.
    pub preference: Option<Arc<Preference>>,
    /// Localities take requests by their weights.
    pub locality_weighted: bool,
    /// How often names are resolved anew.
    pub dns_refresh_rate: Duration,
}

impl OutboundCluster {
    /// The cluster.
    pub fn build(&self) -> Cluster {
        let discovery = match (&self.discovery, self.policy.balancing) {
            (Discovery::Named | Discovery::OriginalDst { .. }, _) | (_, Balancing::Passthrough) => {
                DiscoveryType::OriginalDst
            }
            (discovery, _) => discovery_type(discovery),
        };
        let mut cluster = Cluster {
            name: self.name.clone(),
            alt_stat_name: format!("{};", self.name),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
            lb_policy: LbPolicy::ClusterProvided.into(),
            common_lb_config: Some(CommonLbConfig {
                // Endpoints that are not ready are sent as such, and never used in place of those that are, unless the
                // rule asks for that: then they are not sent.
                healthy_panic_threshold: Some(Percent {
                    value: self.policy.outlier.as_ref().map_or(0.0, |outlier| outlier.min_health_percent.into()),
                }),
                locality_config_specifier: self
                    .locality_weighted
                    .then_some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})),
                ..Default::default()
            }),
            ..Default::default()
        };
        if discovery != DiscoveryType::OriginalDst {
            balancing::apply(&mut cluster, &self.policy);
        }
        match (&self.discovery, discovery) {
            (Discovery::Eds, DiscoveryType::Eds) => {
                cluster.eds_cluster_config =
                    Some(EdsClusterConfig { eds_config: Some(wire::ads()), service_name: self.name.clone() });
            }
            (
                Discovery::StrictDns(assignment) | Discovery::LogicalDns(assignment),
                DiscoveryType::StrictDns | DiscoveryType::LogicalDns,
            ) => {
                resolve(&mut cluster, assignment, self.preference.as_deref(), self.families, self.dns_refresh_rate);
            }
            (Discovery::OriginalDst { port: Some(port) }, _) => {
                use envoy_types::pb::envoy::config::cluster::v3::cluster::{LbConfig, OriginalDstLbConfig};
                cluster.lb_config = Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
                    upstream_port_override: Some(wire::number(u32::from(*port))),
                    ..Default::default()
                }));
            }
            (Discovery::Named, _) => {
                let verified = matches!(&self.transport, Transport::Own(own) if !own.trusts_anybody());
                cluster.cluster_discovery_type = Some(named_hosts::cluster_type(self.families, !verified));
            }
            _ => {}
        }
        apply_pool(&mut cluster, &self.policy, self.upstream, &self.transport);
        let http2 = spoken(&self.policy, self.upstream) == Upstream::Http2;
        self.transport.apply(&mut cluster, http2, self.policy.proxy_protocol);
        cluster.outlier_detection = self.policy.outlier.as_ref().map(outlier::detection);
        let mut istio = HashMap::new();
        if let Some(config) = &self.config {
            istio.insert("config".to_owned(), wire::text(config));
        }
        if !self.subset.is_empty() {
            istio.insert("subset".to_owned(), wire::text(&self.subset));
        }
        if self.mesh_external {
            istio.insert("external".to_owned(), Value { kind: Some(Kind::BoolValue(true)) });
        }
        if matches!(self.transport, Transport::Own(_)) {
            istio.insert("alpn_override".to_owned(), wire::text("false"));
        }
        istio.insert("services".to_owned(), services(std::slice::from_ref(&self.service)));
        cluster.metadata = Some(istio_metadata(istio));
        cluster
    }
}

/// A cluster for a port of the proxy's own workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundCluster {
    /// The port of its listener; the workload's, unless `workload_at` names another.
    pub port: u16,
    /// Where the workload listens, if not where clients go.
    pub workload_at: Option<(EndpointAddress, u16)>,
    pub upstream: Upstream,
    /// Of a rule for the service: the receiving side has the same limits as the sending one.
    pub policy: Policy,
    pub families: Families,
    /// The services that have this port; the first gave the protocol.
    pub services: Vec<ServiceLabel>,
    /// Path of the rule in effect.
    pub config: Option<String>,
}

impl InboundCluster {
    /// `inbound|PORT||`.
    pub fn name(&self) -> String {
        names::inbound_cluster(self.port)
    }

    /// Whether connections need an address that redirect rules let through: all but those to loopback.
    fn passes_redirects(&self) -> bool {
        !matches!(&self.workload_at, Some((EndpointAddress::Ip(ip), _)) if ip.is_loopback())
    }

    /// The cluster.
    pub fn build(&self) -> Cluster {
        let name = self.name();
        let mut cluster = Cluster {
            alt_stat_name: format!("{name};"),
            name,
            common_lb_config: Some(CommonLbConfig::default()),
            upstream_bind_config: self.passes_redirects().then(|| pass_through_bind(self.families)),
            ..Default::default()
        };
        match &self.workload_at {
            None => {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
                cluster.lb_policy = LbPolicy::ClusterProvided.into();
                // The longest whole number of seconds in 64 bits of nanoseconds: endpoints are never cleaned up.
                cluster.cleanup_interval = Some(wire::duration(Duration::from_secs(9_223_372_035)));
            }
            Some((address, port)) => {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
                cluster.load_assignment = Some(endpoint::single(&cluster.name, address, *port));
            }
        }
        apply_pool(&mut cluster, &self.policy, self.upstream, &Transport::Plain);
        let mut istio = HashMap::new();
        if let Some(config) = &self.config {
            istio.insert("config".to_owned(), wire::text(config));
        }
        istio.insert("services".to_owned(), services(&self.services));
        cluster.metadata = Some(istio_metadata(istio));
        cluster
    }
}

/// A cluster that belongs to no service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FixedCluster {
    pub kind: FixedKind,
    pub connections: Connections,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FixedKind {
    BlackHole,
    Passthrough,
    /// With the source address redirect rules let through to the workload.
    InboundPassthrough(Families),
}

impl FixedCluster {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self.kind {
            FixedKind::BlackHole => names::BLACK_HOLE_CLUSTER,
            FixedKind::Passthrough => names::PASSTHROUGH_CLUSTER,
            FixedKind::InboundPassthrough(_) => names::INBOUND_PASSTHROUGH_CLUSTER,
        }
    }

    /// The cluster.
    pub fn build(&self) -> Cluster {
        let mut cluster = Cluster {
            name: self.name().to_owned(),
            // The inbound one keeps the name of the one it is a copy of, as istiod has it.
            alt_stat_name: match self.kind {
                FixedKind::BlackHole => format!("{};", names::BLACK_HOLE_CLUSTER),
                _ => format!("{};", names::PASSTHROUGH_CLUSTER),
            },
            connect_timeout: Some(wire::duration(self.connections.connect_timeout)),
            ..Default::default()
        };
        if self.kind == FixedKind::BlackHole {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
            cluster.lb_policy = LbPolicy::RoundRobin.into();
            return cluster;
        }
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
        cluster.lb_policy = LbPolicy::ClusterProvided.into();
        let policy = Policy { idle_timeout: Some(Duration::from_secs(300)), ..Policy::default() };
        let policy = policy.in_mesh(&self.connections, false);
        apply_pool(&mut cluster, &policy, Upstream::AsClient, &Transport::Plain);
        if let FixedKind::InboundPassthrough(families) = self.kind {
            cluster.upstream_bind_config = Some(pass_through_bind(families));
        }
        cluster
    }
}

fn discovery_type(discovery: &Discovery) -> DiscoveryType {
    match discovery {
        Discovery::Eds => DiscoveryType::Eds,
        Discovery::StrictDns(_) => DiscoveryType::StrictDns,
        Discovery::LogicalDns(_) => DiscoveryType::LogicalDns,
        Discovery::OriginalDst { .. } | Discovery::Named => DiscoveryType::OriginalDst,
    }
}

// The fields newer Envoys read from a cluster extension are still what istiod writes.
#[allow(deprecated)]
fn resolve(
    cluster: &mut Cluster,
    assignment: &Assignment,
    preference: Option<&Preference>,
    families: Families,
    refresh_rate: Duration,
) {
    cluster.load_assignment = Some(endpoint::message(&cluster.name, assignment, preference));
    cluster.dns_lookup_family = named_hosts::lookup_family(families).into();
    cluster.dns_refresh_rate = Some(wire::duration(refresh_rate));
    cluster.dns_jitter = Some(wire::duration(Duration::from_millis(100)));
    cluster.respect_dns_ttl = true;
    let cares = CaresDnsResolverConfig { udp_max_queries: Some(wire::number(100)), ..Default::default() };
    cluster.typed_dns_resolver_config = Some(core::TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        typed_config: Some(wire::any(&cares)),
    });
}

fn apply_pool(cluster: &mut Cluster, policy: &Policy, upstream: Upstream, transport: &Transport) {
    cluster.connect_timeout = policy.connect_timeout.map(wire::duration);
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: Some(wire::number(policy.max_connections)),
            max_pending_requests: Some(wire::number(policy.max_pending_requests)),
            max_requests: Some(wire::number(policy.max_requests)),
            max_retries: Some(wire::number(policy.max_retries)),
            track_remaining: true,
            retry_budget: policy.retry_budget.as_ref().map(|budget| RetryBudget {
                budget_percent: Some(Percent { value: f64::from(budget.millipercent) / 1000.0 }),
                budget_interval: budget.interval.map(wire::duration),
                min_retry_concurrency: Some(wire::number(budget.min_retry_concurrency)),
            }),
            ..Default::default()
        }],
        ..Default::default()
    });
    if let Some(keepalive) = &policy.keepalive {
        let seconds = |time: Duration| wire::number(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_probes: keepalive.probes.map(wire::number),
                keepalive_time: keepalive.time.map(seconds),
                keepalive_interval: keepalive.interval.map(seconds),
            }),
            ..Default::default()
        });
    }
    if let Some(options) = http_options(policy, spoken(policy, upstream), transport) {
        cluster
            .typed_extension_protocol_options
            .insert("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), options);
    }
}

/// What is spoken to endpoints as the policy has it.
fn spoken(policy: &Policy, upstream: Upstream) -> Upstream {
    match upstream {
        _ if policy.use_client_protocol => Upstream::AsClient,
        _ if policy.upgrade_to_http2 == Some(true) => Upstream::Http2,
        upstream => upstream,
    }
}

fn http_options(policy: &Policy, spoken: Upstream, transport: &Transport) -> Option<Any> {
    let common = (policy.idle_timeout.is_some()
        || policy.max_connection_duration.is_some()
        || policy.max_requests_per_connection.is_some()
        || policy.max_concurrent_streams.is_some()
        || policy.pings.is_some())
    .then(|| core::HttpProtocolOptions {
        idle_timeout: policy.idle_timeout.map(wire::duration),
        max_connection_duration: policy.max_connection_duration.map(wire::duration),
        max_requests_per_connection: policy.max_requests_per_connection.map(wire::number),
        ..Default::default()
    });
    let http2 = || core::Http2ProtocolOptions {
        max_concurrent_streams: policy.max_concurrent_streams.map(wire::number),
        connection_keepalive: policy.pings.as_ref().map(|pings| core::KeepaliveSettings {
            interval: pings.interval.map(wire::duration),
            timeout: pings.timeout.map(wire::duration),
            ..Default::default()
        }),
        ..Default::default()
    };
    let outlier_detection = policy.outlier.as_ref().and_then(outlier::failures);
    let upstream_http_protocol_options = transport.http_options();
    let said = common.is_some() || outlier_detection.is_some() || upstream_http_protocol_options.is_some();
    let protocol = match spoken {
        // Envoy wants the choice written once the options are there at all.
        Upstream::Http1 if !said => return None,
        Upstream::Http1 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())),
        }),
        Upstream::Http2 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2())),
        }),
        Upstream::AsClient => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2()),
            ..Default::default()
        }),
    };
    Some(wire::any(&HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_http_protocol_options,
        outlier_detection,
        upstream_protocol_options: Some(protocol),
        ..Default::default()
    }))
}

/// Connections from these addresses are left alone by the redirect rules, so they reach the workload.
fn pass_through_bind(families: Families) -> core::BindConfig {
    const V4: &str = "127.0.0.6";
    const V6: &str = "::6";
    core::BindConfig {
        source_address: Some(wire::socket_address(if families == Families::V6 { V6 } else { V4 }, 0)),
        extra_source_addresses: if families == Families::Dual {
            vec![core::ExtraSourceAddress { address: Some(wire::socket_address(V6, 0)), socket_options: None }]
        } else {
            Vec::new()
        },
        ..Default::default()
    }
}

fn services(services: &[ServiceLabel]) -> Value {
    let values = services
        .iter()
        .map(|service| {
            let fields = wire::structure([
                ("host", wire::text(&service.host)),
                ("name", wire::text(&service.name)),
                ("namespace", wire::text(&service.namespace)),
            ]);
            Value { kind: Some(Kind::StructValue(fields)) }
        })
        .collect();
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}

fn istio_metadata(fields: HashMap<String, Value>) -> core::Metadata {
    core::Metadata { filter_metadata: [("istio".to_owned(), Struct { fields })].into(), ..Default::default() }
}
