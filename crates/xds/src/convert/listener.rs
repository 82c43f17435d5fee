//! Listeners, their filters, and filter chains.
//!
//! - reject: transparent proxying, other kinds of listeners, network and listener filters other
//!   than those named, matches that would be left out, because a connection would get the wrong treatment
//! - note: statistics, metadata, balancing between workers, tuning of the socket

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::{
    self as pb, filter, listener_filter, listener_filter_chain_match_predicate::Rule,
};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as PbExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as PbRbac;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::FilterConfig as SniDynamicForwardProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use lateen_traffic::listener::{
    ChainMatch, Direction, ExpectHeader, FilterChain, Gate, Inspector, Listener, SourceType, Terminal,
    TransportProtocol,
};
use lateen_traffic::tls::NamedSecret;

use super::access_log::access_logs;
use super::address::{cidr, port, socket_address, timeout, type_name, unpack};
use super::dynamic_forward_proxy;
use super::ext_authz;
use super::hcm::{Surroundings, http_connection_manager};
use super::proxy_protocol;
use super::rbac;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::tcp::tcp_proxy;
use super::tls::downstream;

/// Envoy's default for listener filters.
const DEFAULT_INSPECT_TIMEOUT: Duration = Duration::from_secs(15);
const DEFAULT_BUFFER: usize = 1 << 20;

/// Converts a listener, from LDS or the bootstrap.
pub fn listener(listener: pb::Listener, notes: &mut Notes) -> Result<Listener, Reject> {
    let pb::Listener {
        name,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
        listener_specifier,
    } = listener;
    reject_if_set!(
        fcds_config,
        filter_chain_matcher,
        socket_options,
        udp_listener_config,
        api_listener,
        enable_mptcp,
        listener_specifier,
    );
    for (field, on) in [("transparent", transparent), ("freebind", freebind)] {
        if on.is_some_and(|on| on.value) {
            return Err(Reject::field(field, "not supported yet"));
        }
    }
    note_if_set!(notes, "Listener":
        stat_prefix, stats_matcher, per_connection_buffer_high_watermark_timeout, metadata, drain_type,
        tcp_fast_open_queue_length, connection_balance_config, reuse_port, enable_reuse_port,
        max_connections_to_accept_per_socket_event, bypass_overload_manager, tcp_keepalive);

    let address = address.ok_or_else(|| Reject::field("address", "missing"))?;
    let address = socket_address(address).at("address")?;
    let mut addresses = vec![address];
    addresses.extend(each("additional_addresses", additional_addresses, additional_address)?);
    let bind_to_port = match (bind_to_port, deprecated_v1.and_then(|v1| v1.bind_to_port)) {
        (Some(bind), _) | (None, Some(bind)) => bind.value,
        (None, None) => true,
    };
    let buffer = per_connection_buffer_limit_bytes.map_or(DEFAULT_BUFFER, |limit| limit.value as usize);
    let surroundings = Surroundings { port: address.port(), buffer };
    let filters = self::listener_filters(listener_filters, notes)?;
    let chains = each("filter_chains", filter_chains, |chain| filter_chain(chain, surroundings, notes).map(Arc::new))?;
    refuse_overlap(&chains)?;
    let default_chain = default_filter_chain
        .map(|chain| filter_chain(chain, surroundings, notes).map(Arc::new))
        .transpose()
        .at("default_filter_chain")?;
    if chains.is_empty() && default_chain.is_none() {
        return Err(Reject::field("filter_chains", "no filter chains specified"));
    }
    let direction = match core::TrafficDirection::try_from(traffic_direction) {
        Ok(core::TrafficDirection::Unspecified) => Direction::Unspecified,
        Ok(core::TrafficDirection::Inbound) => Direction::Inbound,
        Ok(core::TrafficDirection::Outbound) => Direction::Outbound,
        Err(_) => return Err(Reject::field("traffic_direction", "not known")),
    };
    let inspect_timeout = timeout("listener_filters_timeout", listener_filters_timeout)?;
    Ok(Listener {
        name: if name.is_empty() { address.to_string().into() } else { name.into() },
        addresses,
        bind_to_port,
        use_original_dst: use_original_dst.is_some_and(|on| on.value),
        original_dst: filters.original_dst,
        tls_inspector: filters.tls_inspector,
        http_inspector: filters.http_inspector,
        proxy_protocol: filters.proxy_protocol,
        inspect_timeout: inspect_timeout.unwrap_or(Some(DEFAULT_INSPECT_TIMEOUT)),
        continue_on_inspect_timeout: continue_on_listener_filters_timeout,
        chains,
        default_chain,
        access_log: access_logs("access_log", access_log, notes)?,
        direction,
        per_connection_buffer: buffer,
        backlog: tcp_backlog_size.map(|size| size.value),
        ignores_global_limit: ignore_global_conn_limit,
    })
}

fn additional_address(value: pb::AdditionalAddress) -> Result<SocketAddr, Reject> {
    let pb::AdditionalAddress { address, socket_options, tcp_keepalive } = value;
    reject_if_set!(socket_options, tcp_keepalive);
    socket_address(address.ok_or_else(|| Reject::field("address", "missing"))?).at("address")
}

/// Two chains for the same connections: which of them would take one is anybody's guess. As Envoy sees it, chains
/// overlap if they share a value, or the absence of any, in every criterion.
fn refuse_overlap(chains: &[Arc<FilterChain>]) -> Result<(), Reject> {
    for (at, chain) in chains.iter().enumerate() {
        if let Some(twin) = chains[..at].iter().position(|earlier| overlap(&earlier.matches, &chain.matches)) {
            let reason = format_args!("[{at}] has matching rules that overlap with those of [{twin}]");
            return Err(Reject::field("filter_chains", reason));
        }
    }
    Ok(())
}

fn overlap(a: &ChainMatch, b: &ChainMatch) -> bool {
    fn share<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        (a.is_empty() && b.is_empty()) || a.iter().any(|value| b.contains(value))
    }
    a.destination_port == b.destination_port
        && a.transport_protocol == b.transport_protocol
        && a.source_type == b.source_type
        && share(&a.server_names, &b.server_names)
        && share(&a.destination_ranges, &b.destination_ranges)
        && share(&a.application_protocols, &b.application_protocols)
        && share(&a.direct_source_ranges, &b.direct_source_ranges)
        && share(&a.source_ranges, &b.source_ranges)
        && share(&a.source_ports, &b.source_ports)
}

#[derive(Default)]
struct ListenerFilters {
    original_dst: bool,
    tls_inspector: Option<Inspector>,
    http_inspector: Option<Inspector>,
    proxy_protocol: Option<ExpectHeader>,
}

fn listener_filters(filters: Vec<pb::ListenerFilter>, notes: &mut Notes) -> Result<ListenerFilters, Reject> {
    let mut all = ListenerFilters::default();
    each("listener_filters", filters, |filter| {
        let pb::ListenerFilter { name, filter_disabled, config_type } = filter;
        let Some(listener_filter::ConfigType::TypedConfig(any)) = config_type else {
            return Err(Reject::field("typed_config", format_args!("missing for {name:?}")));
        };
        let disabled_ports = match filter_disabled {
            Some(predicate) => disabled_ports(predicate).at("filter_disabled")?,
            None => Vec::new(),
        };
        if unpack::<OriginalDst>(&any).at("typed_config")?.is_some() {
            if !disabled_ports.is_empty() {
                return Err(Reject::field("filter_disabled", "not supported for this filter"));
            }
            all.original_dst = true;
        } else if let Some(filter) = unpack::<ProxyProtocol>(&any).at("typed_config")? {
            if !disabled_ports.is_empty() {
                return Err(Reject::field("filter_disabled", "not supported for this filter"));
            }
            // What comes after the header is what the inspectors look at.
            if all.tls_inspector.is_some() || all.http_inspector.is_some() {
                return Err(Reject::new("must come before filters that look at the first bytes"));
            }
            all.proxy_protocol = Some(proxy_protocol::expected(filter, notes).at("typed_config")?);
        } else if let Some(inspector) = unpack::<TlsInspector>(&any).at("typed_config")? {
            let TlsInspector {
                enable_ja3_fingerprinting,
                enable_ja4_fingerprinting,
                initial_read_buffer_size,
                close_connection_on_client_hello_parsing_errors,
                max_client_hello_size,
            } = inspector;
            reject_if_set!(close_connection_on_client_hello_parsing_errors);
            note_if_set!(notes, "TlsInspector":
                enable_ja3_fingerprinting, enable_ja4_fingerprinting, initial_read_buffer_size,
                max_client_hello_size);
            all.tls_inspector = Some(Inspector { disabled_ports });
        } else if type_name(&any.type_url) == "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" {
            all.http_inspector = Some(Inspector { disabled_ports });
        } else {
            let reason = format_args!("{} is not supported yet", type_name(&any.type_url));
            return Err(Reject::field("typed_config", reason));
        }
        Ok(())
    })?;
    Ok(all)
}

/// The ports for which a predicate holds, as inclusive ranges.
fn disabled_ports(predicate: pb::ListenerFilterChainMatchPredicate) -> Result<Vec<(u16, u16)>, Reject> {
    let pb::ListenerFilterChainMatchPredicate { rule } = predicate;
    match rule {
        Some(Rule::AnyMatch(true)) => Ok(vec![(0, u16::MAX)]),
        Some(Rule::AnyMatch(false)) | None => Ok(Vec::new()),
        Some(Rule::DestinationPortRange(Int32Range { start, end })) => {
            let port = |value: i32| u16::try_from(value).ok();
            match (port(start), end.checked_sub(1).and_then(port)) {
                (Some(first), Some(last)) if first <= last => Ok(vec![(first, last)]),
                _ => Err(Reject::field("destination_port_range", format_args!("{start}..{end} is no range of ports"))),
            }
        }
        Some(Rule::OrMatch(pb::listener_filter_chain_match_predicate::MatchSet { rules })) => {
            let ranges = each("or_match.rules", rules, |rule| match rule.rule {
                // One level is what Istio sends; deeper trees need no support.
                Some(Rule::OrMatch(_)) => Err(Reject::field("or_match", "nested too deep")),
                rule => disabled_ports(pb::ListenerFilterChainMatchPredicate { rule }),
            })?;
            Ok(ranges.into_iter().flatten().collect())
        }
        Some(Rule::AndMatch(_)) => Err(Reject::field("and_match", "not supported yet")),
        Some(Rule::NotMatch(predicate)) => disabled_ports(*predicate).at("not_match").map(|ranges| all_but(&ranges)),
    }
}

/// The ports that are in none of these ranges.
fn all_but(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut next = Some(0);
    let mut rest = Vec::new();
    for (first, last) in ranges {
        let Some(from) = next else { break };
        if from < first {
            rest.push((from, first - 1));
        }
        next = last.checked_add(1).map(|after| after.max(from));
    }
    rest.extend(next.map(|from| (from, u16::MAX)));
    rest
}

fn filter_chain(chain: pb::FilterChain, listener: Surroundings, notes: &mut Notes) -> Result<FilterChain, Reject> {
    let pb::FilterChain {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = chain;
    if use_proxy_proto.is_some_and(|on| on.value) {
        return Err(Reject::field("use_proxy_proto", "not supported yet"));
    }
    note_if_set!(notes, "FilterChain": metadata);
    let tls = transport_socket.map(|socket| downstream(socket, notes)).transpose().at("transport_socket")?.flatten();
    let handshake_timeout = timeout("transport_socket_connect_timeout", transport_socket_connect_timeout)?.flatten();
    let matches = match filter_chain_match {
        Some(value) => chain_match(value).at("filter_chain_match")?,
        None => ChainMatch::default(),
    };
    let last = filters.len().checked_sub(1).ok_or_else(|| Reject::field("filters", "empty"))?;
    let mut terminal = None;
    let mut named_port = None;
    let mut gates = Vec::new();
    let mut at = 0;
    each("filters", filters, |filter| {
        let found = match network_filter(filter, listener, notes)? {
            NetworkFilter::Terminal(terminal) => Some(terminal),
            NetworkFilter::Named { port } => {
                named_port = Some(port);
                None
            }
            NetworkFilter::Gate(gate) => {
                gates.push(gate);
                None
            }
            NetworkFilter::Passes => None,
        };
        if found.is_some() != (at == last) {
            return Err(Reject::new("http_connection_manager or tcp_proxy must be the last filter"));
        }
        at += 1;
        terminal = found;
        Ok(())
    })?;
    let mut terminal = terminal.ok_or_else(|| Reject::field("filters", "no terminal filter"))?;
    if let Terminal::Tcp(proxy) = &mut terminal {
        Arc::make_mut(proxy).named_port = named_port;
    }
    Ok(FilterChain { name: name.into(), matches, tls, handshake_timeout, gates: gates.into(), terminal })
}

/// What a network filter does.
enum NetworkFilter {
    /// It ends the chain.
    Terminal(Terminal),
    /// It has the server name a client sends looked up, for a proxy to this port.
    Named { port: u16 },
    /// It says who may go on.
    Gate(Gate),
    /// Nothing, as it is configured.
    Passes,
}

fn network_filter(value: pb::Filter, listener: Surroundings, notes: &mut Notes) -> Result<NetworkFilter, Reject> {
    let pb::Filter { name, config_type } = value;
    let any = match config_type {
        Some(filter::ConfigType::TypedConfig(any)) => any,
        Some(filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(Reject::field("config_discovery", "not supported yet"));
        }
        None => return Err(Reject::field("typed_config", format_args!("missing for {name:?}"))),
    };
    if let Some(manager) = unpack::<HttpConnectionManager>(&any).at("typed_config")? {
        let manager = http_connection_manager(manager, listener, notes).at("typed_config")?;
        return Ok(NetworkFilter::Terminal(Terminal::Http(Arc::new(manager))));
    }
    if let Some(proxy) = unpack::<TcpProxy>(&any).at("typed_config")? {
        let proxy = tcp_proxy(proxy, notes).at("typed_config")?;
        return Ok(NetworkFilter::Terminal(Terminal::Tcp(Arc::new(proxy))));
    }
    if let Some(named) = unpack::<SniDynamicForwardProxy>(&any).at("typed_config")? {
        let port = dynamic_forward_proxy::sni_filter(named, notes).at("typed_config")?;
        return Ok(NetworkFilter::Named { port });
    }
    if let Some(rbac) = unpack::<PbRbac>(&any).at("typed_config")? {
        let rbac = rbac::network(rbac).at("typed_config")?;
        return Ok(rbac.map_or(NetworkFilter::Passes, |rbac| NetworkFilter::Gate(Gate::Rules(Arc::new(rbac)))));
    }
    if let Some(asks) = unpack::<PbExtAuthz>(&any).at("typed_config")? {
        let asks = ext_authz::network(asks).at("typed_config")?;
        return Ok(NetworkFilter::Gate(Gate::Ask(Arc::new(asks))));
    }
    let reason = format_args!("filter {name:?} of type {} is not supported yet", type_name(&any.type_url));
    Err(Reject::field("typed_config", reason))
}

fn chain_match(value: pb::FilterChainMatch) -> Result<ChainMatch, Reject> {
    let pb::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = value;
    reject_if_set!(address_suffix, suffix_len);
    use pb::filter_chain_match::ConnectionSourceType;
    Ok(ChainMatch {
        destination_port: destination_port.map(|value| port("destination_port", value.value)).transpose()?,
        destination_ranges: each("prefix_ranges", prefix_ranges, cidr)?,
        server_names: each("server_names", server_names, |name| {
            let rest = name.strip_prefix("*.").unwrap_or(&name);
            if rest.is_empty() || rest.contains('*') {
                let reason = format_args!("{name:?}: partial wildcards are not supported in server_names");
                return Err(Reject::new(reason));
            }
            Ok(name.to_ascii_lowercase())
        })?,
        transport_protocol: match transport_protocol.as_str() {
            "" => None,
            "raw_buffer" => Some(TransportProtocol::RawBuffer),
            "tls" => Some(TransportProtocol::Tls),
            other => return Err(Reject::field("transport_protocol", format_args!("{other:?} is not supported yet"))),
        },
        application_protocols,
        direct_source_ranges: each("direct_source_prefix_ranges", direct_source_prefix_ranges, cidr)?,
        source_type: match ConnectionSourceType::try_from(source_type) {
            Ok(ConnectionSourceType::Any) => SourceType::Any,
            Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
            Ok(ConnectionSourceType::External) => SourceType::External,
            Err(_) => return Err(Reject::field("source_type", "not known")),
        },
        source_ranges: each("source_prefix_ranges", source_prefix_ranges, cidr)?,
        source_ports: each("source_ports", source_ports, |value| port("", value))?,
    })
}

/// The secrets that a listener's handshakes take.
pub(crate) fn secrets_of_listener(listener: &Listener) -> impl Iterator<Item = &NamedSecret> {
    let chains = listener.chains.iter().chain(&listener.default_chain);
    chains.filter_map(|chain| chain.tls.as_ref()).flat_map(|tls| tls.settings.secrets())
}

/// Names of the route configurations that a listener asks for.
pub(crate) fn route_names(listener: &Listener) -> impl Iterator<Item = &Arc<str>> {
    use lateen_traffic::hcm::RouteSource;
    listener.chains.iter().chain(&listener.default_chain).filter_map(|chain| match &chain.terminal {
        Terminal::Http(manager) => match &manager.routes {
            RouteSource::Named(name) => Some(name),
            RouteSource::Inline(_) => None,
        },
        Terminal::Tcp(_) => None,
    })
}
