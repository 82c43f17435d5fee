//! Listeners made of chains: the per-service outbound ones, the virtual outbound one, and those of gateways.
//!
//! Each is a pure function of its input struct, which is also its cache key. Source: Istio `core/listener.go`
//! (buildListenerFromEntry, buildGatewayListener), `core/listener_builder.go` (buildVirtualOutboundListener).

use super::http::{self, HttpSettings, Side};
use super::server_tls::ServerTls;
use super::tcp::{self, TcpRoute};
use super::{access_log, authorization, proxy_protocol, wire};
use crate::names;
use crate::registry::Cidr;
use crate::rules::Access;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{
    AdditionalAddress, FilterChain, FilterChainMatch, Listener, ListenerFilter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::listener::{
    http_inspector::v3::HttpInspector, tls_inspector::v3::TlsInspector,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a chain takes; empty takes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChainMatch {
    pub server_names: Vec<String>,
    pub destinations: Vec<Cidr>,
    pub application_protocols: Vec<&'static str>,
    /// `raw_buffer` or `tls`; empty for either.
    pub transport_protocol: &'static str,
}

/// What the inspectors find in plain HTTP.
pub const PLAINTEXT_HTTP: [&str; 2] = ["http/1.1", "h2c"];
/// Transport protocol of a connection without TLS.
pub const RAW_BUFFER: &str = "raw_buffer";

impl ChainMatch {
    /// Plain HTTP as the inspector recognises it.
    pub fn plaintext_http() -> ChainMatch {
        ChainMatch {
            application_protocols: PLAINTEXT_HTTP.to_vec(),
            transport_protocol: RAW_BUFFER,
            ..ChainMatch::default()
        }
    }

    /// Takes every connection.
    pub fn is_everything(&self) -> bool {
        self.canonical() == ChainMatch::default()
    }

    /// The same match with its parts in order and those that narrow nothing left out.
    pub fn canonical(&self) -> ChainMatch {
        let mut server_names: Vec<String> = self.server_names.iter().map(|name| name.to_ascii_lowercase()).collect();
        server_names.sort();
        server_names.dedup();
        if server_names.iter().any(|name| name == "*") {
            server_names.clear();
        }
        let mut destinations: Vec<Cidr> = self.destinations.iter().map(|block| block.masked()).collect();
        destinations.sort();
        destinations.dedup();
        if destinations.iter().any(|block| block.prefix == 0) {
            destinations.clear();
        }
        ChainMatch { server_names, destinations, ..self.clone() }
    }

    /// The single matches a match stands for, as Envoy files them: it refuses two chains that share one.
    pub fn atoms(&self) -> impl Iterator<Item = Atom> {
        fn or_any<T>(list: Vec<T>) -> Vec<Option<T>> {
            if list.is_empty() { vec![None] } else { list.into_iter().map(Some).collect() }
        }
        let ChainMatch { server_names, destinations, application_protocols, transport_protocol } = self.canonical();
        let (names, protocols) = (or_any(server_names), or_any(application_protocols));
        or_any(destinations).into_iter().flat_map(move |destination| {
            let protocols = protocols.clone();
            names.clone().into_iter().flat_map(move |server_name| {
                protocols.clone().into_iter().map(move |application_protocol| Atom {
                    destination,
                    server_name: server_name.clone(),
                    transport_protocol,
                    application_protocol,
                })
            })
        })
    }

    /// What is left of a match when some of its atoms are taken: as many matches as it takes, none if nothing is.
    pub fn without(&self, taken: impl Fn(&Atom) -> bool) -> Vec<ChainMatch> {
        let mut free: BTreeMap<Option<String>, Vec<Cidr>> = BTreeMap::new();
        let mut anywhere: Vec<Option<String>> = Vec::new();
        let mut lost = false;
        for atom in self.atoms() {
            if taken(&atom) {
                lost = true;
                continue;
            }
            match atom.destination {
                Some(block) => free.entry(atom.server_name).or_default().push(block),
                None => anywhere.push(atom.server_name),
            }
        }
        if !lost {
            return vec![self.clone()];
        }
        let mut by_blocks: BTreeMap<Vec<Cidr>, Vec<String>> = BTreeMap::new();
        for (name, mut blocks) in free {
            blocks.dedup();
            by_blocks.entry(blocks).or_default().extend(name);
        }
        if !anywhere.is_empty() {
            by_blocks.entry(Vec::new()).or_default().extend(anywhere.into_iter().flatten());
        }
        by_blocks
            .into_iter()
            .map(|(destinations, mut server_names)| {
                server_names.dedup();
                ChainMatch { server_names, destinations, ..self.clone() }
            })
            .collect()
    }

    fn message(&self) -> FilterChainMatch {
        let canonical = self.canonical();
        FilterChainMatch {
            server_names: canonical.server_names,
            prefix_ranges: canonical.destinations.into_iter().map(wire::cidr).collect(),
            application_protocols: self.application_protocols.iter().map(|name| (*name).to_owned()).collect(),
            transport_protocol: self.transport_protocol.to_owned(),
            ..Default::default()
        }
    }
}

/// One single match: any value where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Atom {
    destination: Option<Cidr>,
    server_name: Option<String>,
    transport_protocol: &'static str,
    application_protocol: Option<&'static str>,
}

/// What a chain does with its connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChainAction {
    Http { route_name: String, grpc_web: bool },
    Tcp(TcpRoute),
}

/// A filter chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    pub matches: ChainMatch,
    pub action: ChainAction,
    /// Path of the resource it was written for, if one was.
    pub origin: Option<String>,
}

impl Chain {
    fn message(&self, side: Side, stat_prefix: &str, access: &Access, settings: &HttpSettings) -> FilterChain {
        let filters = match &self.action {
            ChainAction::Http { route_name, grpc_web } => {
                vec![http::with_rds(side, stat_prefix, route_name, *grpc_web, access, settings)]
            }
            ChainAction::Tcp(route) => {
                let mut filters = authorization::network_filters(access);
                filters.extend(tcp::filters(route, settings.access_log.as_deref()));
                filters
            }
        };
        FilterChain {
            filter_chain_match: (!self.matches.is_everything()).then(|| self.matches.message()),
            filters,
            metadata: self.origin.as_deref().map(wire::config_metadata),
            transport_socket_connect_timeout: Some(wire::duration(Duration::from_secs(15))),
            ..Default::default()
        }
    }
}

/// A sidecar's listener for one address and port that clients talk to. It opens no socket of its own
/// unless `bound`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundListener {
    /// At least one; the first names the listener.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// No two with equal matches.
    pub chains: Vec<Chain>,
    /// Cluster for what no chain takes.
    pub catch_all: String,
    pub bound: bool,
    pub settings: HttpSettings,
}

impl OutboundListener {
    /// `ADDRESS_PORT`.
    pub fn name(&self) -> String {
        names::listener(primary(&self.addresses), self.port)
    }

    /// The listener.
    pub fn build(&self) -> Listener {
        let name = self.name();
        let stat_prefix = format!("outbound_{name}");
        let tls = self.chains.iter().any(|chain| !chain.matches.server_names.is_empty());
        let sniff = self.chains.iter().any(|chain| !chain.matches.application_protocols.is_empty());
        let mut listener_filters = Vec::new();
        if tls {
            listener_filters.push(tls_inspector());
        }
        if sniff {
            listener_filters.push(http_inspector());
        }
        let (mut all, mut some): (Vec<_>, Vec<_>) = self.chains.iter().partition(|chain| chain.matches.is_everything());
        // A match-all chain beside others would shadow nothing in Envoy, yet connections that begin to match
        // another and fail later would be dropped; as the default chain it takes those too.
        let default = match (all.pop(), some.is_empty()) {
            (Some(only), true) => {
                some.push(only);
                None
            }
            (Some(default), false) => {
                Some(default.message(Side::SidecarOutbound, &stat_prefix, &Access::default(), &self.settings))
            }
            (None, _) => Some(FilterChain {
                filter_chain_match: Some(FilterChainMatch::default()),
                name: names::PASSTHROUGH_FILTER_CHAIN.to_owned(),
                filters: vec![catch_all(&self.catch_all, &self.settings)],
                ..Default::default()
            }),
        };
        Listener {
            name,
            address: Some(wire::address(primary(&self.addresses), self.port)),
            additional_addresses: additional(&self.addresses, self.port),
            filter_chains: some
                .iter()
                .map(|chain| chain.message(Side::SidecarOutbound, &stat_prefix, &Access::default(), &self.settings))
                .collect(),
            default_filter_chain: default,
            listener_filters,
            // Without a look at first bytes there is nothing to time.
            listener_filters_timeout: Some(wire::duration(if sniff {
                self.settings.detection_timeout
            } else {
                Duration::ZERO
            })),
            continue_on_listener_filters_timeout: true,
            traffic_direction: TrafficDirection::Outbound.into(),
            bind_to_port: (!self.bound).then(|| wire::truth(false)),
            max_connections_to_accept_per_socket_event: self.bound.then(|| wire::number(1)),
            ..Default::default()
        }
    }
}

/// The listener redirected connections arrive at; it hands each to the listener of its original destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualOutbound {
    /// Wildcards of the proxy's families; at least one.
    pub addresses: Vec<IpAddr>,
    /// Keeps the client's source address (TPROXY).
    pub transparent: bool,
    /// Cluster for destinations no listener has.
    pub catch_all: String,
    pub settings: HttpSettings,
}

/// Port that outbound connections are redirected to.
pub const OUTBOUND_PORT: u16 = 15001;

impl VirtualOutbound {
    /// The listener.
    pub fn build(&self) -> Listener {
        let blackhole = FilterChain {
            name: "virtualOutbound-blackhole".to_owned(),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: Some(wire::number(u32::from(OUTBOUND_PORT))),
                ..Default::default()
            }),
            filters: vec![tcp::proxy(&TcpRoute::to(names::BLACK_HOLE_CLUSTER), None)],
            ..Default::default()
        };
        let rest = FilterChain {
            name: "virtualOutbound-catchall-tcp".to_owned(),
            filters: vec![catch_all(&self.catch_all, &self.settings)],
            ..Default::default()
        };
        Listener {
            name: names::VIRTUAL_OUTBOUND.to_owned(),
            address: Some(wire::address(primary(&self.addresses), OUTBOUND_PORT)),
            additional_addresses: additional(&self.addresses, OUTBOUND_PORT),
            transparent: self.transparent.then(|| wire::truth(true)),
            use_original_dst: Some(wire::truth(true)),
            filter_chains: vec![blackhole, rest],
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::number(1)),
            access_log: access_log::unmatched(self.settings.access_log.as_deref()),
            ..Default::default()
        }
    }
}

/// A filter chain of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayChain {
    pub chain: Chain,
    /// How TLS is spoken, if it ends here.
    pub tls: Option<ServerTls>,
    /// What its statistics are called; after the listener if empty.
    pub name: String,
    /// No policy of the gateway's holds: who comes is for the service to see.
    pub open: bool,
}

impl GatewayChain {
    /// Whether connections have to be looked at before a chain can be told: for the server name, or what they speak.
    fn inspects(&self) -> bool {
        self.tls.is_some() || !self.chain.matches.server_names.is_empty()
    }

    fn message(&self, listener: &str, access: &Access, settings: &HttpSettings) -> FilterChain {
        let of_listener = format!("outbound_{listener}");
        let stat_prefix = if self.name.is_empty() { &of_listener } else { &self.name };
        let none = Access::default();
        let access = if self.open { &none } else { access };
        FilterChain {
            transport_socket: self.tls.as_ref().map(ServerTls::socket),
            ..self.chain.message(Side::Gateway, stat_prefix, access, settings)
        }
    }
}

/// A gateway's listener for one port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayListener {
    /// At least one; the first names the listener.
    pub addresses: Vec<IpAddr>,
    /// The port of the gateway's workload.
    pub port: u16,
    /// At least one, no two with equal matches.
    pub chains: Vec<GatewayChain>,
    pub access: Arc<Access>,
    pub settings: HttpSettings,
}

impl GatewayListener {
    /// `ADDRESS_PORT`.
    pub fn name(&self) -> String {
        names::listener(primary(&self.addresses), self.port)
    }

    /// The listener.
    pub fn build(&self) -> Listener {
        let name = self.name();
        let tls = self.chains.iter().any(GatewayChain::inspects);
        Listener {
            address: Some(wire::address(primary(&self.addresses), self.port)),
            additional_addresses: additional(&self.addresses, self.port),
            filter_chains: self.chains.iter().map(|chain| chain.message(&name, &self.access, &self.settings)).collect(),
            listener_filters: [
                self.settings.topology.proxy_protocol.map(|_| proxy_protocol::filter()),
                tls.then(tls_inspector),
            ]
            .into_iter()
            .flatten()
            .collect(),
            traffic_direction: TrafficDirection::Outbound.into(),
            max_connections_to_accept_per_socket_event: Some(wire::number(1)),
            access_log: access_log::unmatched(self.settings.access_log.as_deref()),
            name,
            ..Default::default()
        }
    }
}

/// Recognises TLS and reads its server name. Starts with a small buffer, as most hellos are small.
pub fn tls_inspector() -> ListenerFilter {
    let config = TlsInspector { initial_read_buffer_size: Some(wire::number(512)), ..Default::default() };
    listener_filter("envoy.filters.listener.tls_inspector", wire::any(&config))
}

/// Recognises HTTP by its first bytes.
pub fn http_inspector() -> ListenerFilter {
    listener_filter("envoy.filters.listener.http_inspector", wire::any(&HttpInspector::default()))
}

/// A listener filter of this name and configuration.
pub fn listener_filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn catch_all(cluster: &str, settings: &HttpSettings) -> envoy_types::pb::envoy::config::listener::v3::Filter {
    tcp::proxy(
        &TcpRoute { idle_timeout: settings.idle_timeout, ..TcpRoute::to(cluster) },
        settings.access_log.as_deref(),
    )
}

/// The first address, or the IPv4 wildcard where a caller gave none.
pub fn primary(addresses: &[IpAddr]) -> IpAddr {
    addresses.first().copied().unwrap_or(wire::ANY_V4)
}

/// The further addresses of a listener.
pub fn additional(addresses: &[IpAddr], port: u16) -> Vec<AdditionalAddress> {
    addresses
        .iter()
        .skip(1)
        .map(|ip| AdditionalAddress { address: Some(wire::address(*ip, port)), ..Default::default() })
        .collect()
}
