//! Clusters.
//!
//! - reject: subset balancers,
//!   filters, custom cluster types, because requests would go to other hosts, or differently, than meant
//! - note: statistics, metadata, DNS tuning

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{self as pb, circuit_breakers, cluster as pb_cluster};
use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig as DynamicForwardProxy;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use lateen_traffic::cluster::{
    CircuitLimits, ClusterSettings, Discovery, DnsFamily, Endpoints, LbPolicy, RetryBudget, TransportLabels,
    TransportMatch, UpstreamProtocol,
};
use lateen_traffic::tls::{NamedSecret, TransportSocket};

use super::address::{
    config_source, duration, percent, tcp_keepalive, text, timeout, type_name, unpack, upstream_bind,
};
use super::alpn;
use super::balance::balancer;
use super::dynamic_forward_proxy;
use super::endpoint::{Addresses, endpoints};
use super::health_check::health_check;
use super::outlier::outlier;
use super::proxy_protocol;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::upstream_http::{UpstreamHttp, http1, names_of_requests};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_DNS_REFRESH: Duration = Duration::from_secs(5);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster, and its hosts where the resource itself holds them.
#[derive(Clone, Debug)]
pub struct ConvertedCluster {
    pub settings: ClusterSettings,
    /// `None`: EDS tells them.
    pub endpoints: Option<Endpoints>,
}

/// Converts a cluster, from CDS or the bootstrap.
pub fn cluster(cluster: pb::Cluster, notes: &mut Notes) -> Result<ConvertedCluster, Reject> {
    let pb::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = cluster;
    reject_if_set!(
        transport_socket_matcher,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        lb_subset_config,
        filters,
        upstream_config,
        connection_pool_per_downstream_connection,
        queuing_policies,
    );
    note_if_set!(notes, "Cluster":
        stats_matcher, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout,
        dns_jitter, dns_failure_refresh_rate, respect_dns_ttl,
        typed_dns_resolver_config, wait_for_warm_on_init, cleanup_interval, metadata,
        ignore_health_on_host_removal, lrs_server,
        lrs_report_endpoint_metrics, track_timeout_budgets, track_cluster_stats, preconnect_policy);
    if name.is_empty() {
        return Err(Reject::field("name", "empty"));
    }
    let name: Arc<str> = name.into();
    let keeps_protocols =
        metadata.as_ref().and_then(|all| all.filter_metadata.get("istio")).is_some_and(alpn::keeps_off);
    let (header, transport) = match transport_socket {
        Some(socket) => proxy_protocol::spoken(socket, notes).at("transport_socket")?,
        None => (None, TransportSocket::Plain),
    };
    let mut headers = Vec::new();
    let transport_matches = each("transport_socket_matches", transport_socket_matches, |choice| {
        let pb_cluster::TransportSocketMatch { name, r#match, transport_socket } = choice;
        let labels = transport_labels(r#match.unwrap_or_default()).at("match")?;
        let (header, transport) = match transport_socket {
            Some(socket) => proxy_protocol::spoken(socket, notes).at("transport_socket")?,
            None => (None, TransportSocket::Plain),
        };
        headers.push(header);
        Ok(TransportMatch { name: name.into(), labels, transport })
    })?;
    // The cluster's own socket is for hosts that no other fits.
    let own = (!transport_matches.iter().any(|choice| choice.labels.is_empty())).then_some(header);
    let mut headers = own.into_iter().chain(headers);
    let proxy_protocol = headers.next().flatten();
    if headers.any(|header| header != proxy_protocol) {
        return Err(Reject::field("transport_socket_matches", "not all begin with the same PROXY protocol header"));
    }

    let refresh = dns_refresh_rate.map(|value| duration("dns_refresh_rate", value)).transpose()?;
    let refresh = refresh.unwrap_or(DEFAULT_DNS_REFRESH).max(Duration::from_millis(1));
    let family = dns_family(dns_lookup_family)?;
    use pb_cluster::DiscoveryType as Type;
    let mut named = None;
    let discovery_type = match cluster_discovery_type {
        None => Type::Static,
        Some(pb_cluster::ClusterDiscoveryType::Type(number)) => {
            Type::try_from(number).map_err(|_| Reject::field("type", format_args!("{number} is not known")))?
        }
        Some(pb_cluster::ClusterDiscoveryType::ClusterType(custom)) => {
            named = Some(named_hosts(custom, notes).at("cluster_type")?);
            // Like these, it has no hosts to begin with.
            Type::OriginalDst
        }
    };
    if eds_cluster_config.is_some() != (discovery_type == Type::Eds) {
        return Err(Reject::field("eds_cluster_config", "belongs to clusters of type EDS, and to those alone"));
    }
    let lb = balancer(lb_policy, lb_config, load_balancing_policy, common_lb_config, notes)?;
    let discovery = match discovery_type {
        Type::Static => Discovery::Static,
        Type::StrictDns => Discovery::StrictDns { refresh, family },
        Type::LogicalDns => Discovery::LogicalDns { refresh, family },
        Type::Eds => {
            let config = eds_cluster_config.unwrap_or_default();
            let pb_cluster::EdsClusterConfig { eds_config, service_name } = config;
            let source = eds_config.ok_or_else(|| Reject::field("eds_cluster_config.eds_config", "missing"))?;
            config_source(source, notes).at("eds_cluster_config.eds_config")?;
            Discovery::Eds { service_name: text(service_name).unwrap_or_else(|| name.clone()) }
        }
        Type::OriginalDst => {
            if lb.policy != LbPolicy::ClusterProvided {
                return Err(Reject::field("lb_policy", "must be CLUSTER_PROVIDED for clusters of this type"));
            }
            if load_assignment.is_some() {
                return Err(Reject::field("load_assignment", "not for clusters of this type"));
            }
            named.take().unwrap_or(Discovery::OriginalDst {
                use_http_header: lb.original_dst.use_http_header,
                port_override: lb.original_dst.port_override,
            })
        }
    };
    if lb.policy == LbPolicy::ClusterProvided && discovery_type != Type::OriginalDst {
        return Err(Reject::field("lb_policy", "CLUSTER_PROVIDED is only for types that provide hosts themselves"));
    }
    let endpoints = match (discovery_type, load_assignment) {
        (Type::Eds, Some(_)) => return Err(Reject::field("load_assignment", "not for clusters of type EDS")),
        (Type::Eds, None) => None,
        (_, None) => Some(Endpoints { overprovisioning_factor: 140, ..Endpoints::default() }),
        (kind, Some(assignment)) => {
            let allowed = match kind {
                Type::StrictDns | Type::LogicalDns => Addresses::Names,
                Type::Static | Type::Eds | Type::OriginalDst => Addresses::Ready,
            };
            Some(endpoints(assignment, allowed, notes).at("load_assignment")?)
        }
    };
    if discovery_type == Type::LogicalDns {
        let count: usize = endpoints.iter().flat_map(|all| &all.localities).map(|group| group.endpoints.len()).sum();
        if count != 1 {
            return Err(Reject::field("load_assignment", "LOGICAL_DNS clusters must have a single endpoint"));
        }
    }

    let mut typed = None;
    for (key, any) in typed_extension_protocol_options {
        let field = format!("typed_extension_protocol_options[{key:?}]");
        match unpack::<HttpProtocolOptions>(&any).at(&field)? {
            Some(options) if key == HTTP_OPTIONS => typed = Some(UpstreamHttp::typed(options, notes).at(&field)?),
            _ => return Err(Reject::field(&field, format_args!("{} is not supported yet", type_name(&any.type_url)))),
        }
    }
    let mut http = match typed {
        Some(http) => http,
        None => {
            let mut http = UpstreamHttp::default();
            if let Some(options) = http2_protocol_options {
                http.protocol = UpstreamProtocol::Http2;
                http.http2(options, notes).at("http2_protocol_options")?;
            }
            if let Some(options) = http_protocol_options {
                http1(options, notes).at("http_protocol_options")?;
            }
            if protocol_selection == pb_cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32 {
                http.protocol = UpstreamProtocol::Downstream;
            }
            if let Some(options) = common_http_protocol_options {
                http.common(options, notes).at("common_http_protocol_options")?;
            }
            if let Some(options) = upstream_http_protocol_options {
                http.names_of_requests = names_of_requests(options).at("upstream_http_protocol_options")?;
            }
            http
        }
    };
    if http.max_requests_per_connection.is_none() {
        http.max_requests_per_connection =
            max_requests_per_connection.map(|count| count.value).filter(|count| *count != 0);
    }
    let connect_timeout = connect_timeout.map(|value| duration("connect_timeout", value)).transpose()?;
    let connect_timeout = connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    if connect_timeout.is_zero() {
        return Err(Reject::field("connect_timeout", "must be above 0"));
    }
    let keepalive = match upstream_connection_options {
        None => None,
        Some(options) => {
            let pb::UpstreamConnectionOptions {
                tcp_keepalive: keepalive,
                set_local_interface_name_on_upstream_connections,
                happy_eyeballs_config,
            } = options;
            note_if_set!(notes, "UpstreamConnectionOptions":
                set_local_interface_name_on_upstream_connections, happy_eyeballs_config);
            keepalive.map(tcp_keepalive)
        }
    };
    let health_check = health_check(health_checks, http.protocol == UpstreamProtocol::Http2, notes)?;
    if health_check.is_some() && discovery_type == Type::OriginalDst {
        return Err(Reject::field("health_checks", "not supported yet for clusters of this type"));
    }
    let settings = ClusterSettings {
        name,
        alt_stat_name: text(alt_stat_name),
        discovery,
        lb: lb.policy,
        slow_start: lb.slow_start,
        locality_weighted: lb.locality_weighted,
        connect_timeout,
        limits: match circuit_breakers {
            Some(breakers) => limits(breakers, notes).at("circuit_breakers")?,
            None => CircuitLimits::default(),
        },
        protocol: http.protocol,
        http2: http.http2,
        idle_timeout: http.idle_timeout,
        max_connection_duration: http.max_connection_duration,
        max_requests_per_connection: http.max_requests_per_connection,
        bind: upstream_bind_config.map(|bind| upstream_bind(bind, notes)).transpose().at("upstream_bind_config")?,
        tcp_keepalive: keepalive,
        panic_threshold: lb.panic_threshold,
        transport,
        transport_matches,
        names_of_requests: http.names_of_requests,
        keeps_protocols,
        proxy_protocol,
        outlier: outlier_detection.map(|value| outlier(value).map(Arc::new)).transpose().at("outlier_detection")?,
        outlier_errors: http.outlier_errors.map(Arc::new),
        health_check: health_check.map(Arc::new),
        ignore_unchecked_hosts: lb.ignore_unchecked_hosts,
        close_connections_to_unhealthy: close_connections_on_host_health_failure,
        update_merge_window: lb.update_merge_window,
    };
    Ok(ConvertedCluster { settings, endpoints })
}

/// Labels by which a transport is chosen; only text is compared.
pub(super) fn transport_labels(labels: Struct) -> Result<TransportLabels, Reject> {
    let Struct { fields } = labels;
    let mut labels = Vec::new();
    for (key, value) in fields {
        match value.kind {
            Some(Kind::StringValue(text)) => labels.push((key.into(), text.into())),
            _ => return Err(Reject::field(&format!("fields[{key:?}]"), "only strings are supported")),
        }
    }
    labels.sort();
    Ok(labels.into())
}

/// The secrets that connections to a cluster's hosts take.
pub(crate) fn secrets_of_cluster(settings: &ClusterSettings) -> impl Iterator<Item = &NamedSecret> {
    let sockets = settings.transport_matches.iter().map(|choice| &choice.transport);
    std::iter::once(&settings.transport)
        .chain(sockets)
        .flat_map(|socket| match socket {
            TransportSocket::Plain => None,
            TransportSocket::Tls(tls) => Some(tls.settings.secrets()),
        })
        .flatten()
}

/// The one type of cluster that is an extension and supported.
fn named_hosts(custom: pb_cluster::CustomClusterType, notes: &mut Notes) -> Result<Discovery, Reject> {
    let pb_cluster::CustomClusterType { name, typed_config } = custom;
    let config = typed_config.map(|any| unpack::<DynamicForwardProxy>(&any)).transpose().at("typed_config")?;
    match config.flatten() {
        Some(config) => dynamic_forward_proxy::cluster(config, notes).at("typed_config"),
        None => Err(Reject::new(format_args!("{name:?} is not supported yet"))),
    }
}

pub(super) fn dns_family(value: i32) -> Result<DnsFamily, Reject> {
    use pb_cluster::DnsLookupFamily as Family;
    match Family::try_from(value) {
        Ok(Family::Auto) => Ok(DnsFamily::V6Preferred),
        Ok(Family::V4Only) => Ok(DnsFamily::V4),
        Ok(Family::V6Only) => Ok(DnsFamily::V6),
        Ok(Family::V4Preferred) => Ok(DnsFamily::V4Preferred),
        Ok(Family::All) => Ok(DnsFamily::All),
        Err(_) => Err(Reject::field("dns_lookup_family", format_args!("{value} is not known"))),
    }
}

fn retry_budget(budget: circuit_breakers::thresholds::RetryBudget) -> Result<RetryBudget, Reject> {
    let circuit_breakers::thresholds::RetryBudget { budget_percent, budget_interval, min_retry_concurrency } = budget;
    Ok(RetryBudget {
        percent: budget_percent.map_or(Ok(20.0), |share| percent("budget_percent", share))?,
        interval: timeout("budget_interval", budget_interval)?.flatten(),
        min_concurrency: min_retry_concurrency.map_or(3, |least| least.value),
    })
}

fn limits(breakers: pb::CircuitBreakers, notes: &mut Notes) -> Result<CircuitLimits, Reject> {
    let pb::CircuitBreakers { thresholds, per_host_thresholds } = breakers;
    reject_if_set!(per_host_thresholds);
    let mut limits = CircuitLimits::default();
    each("thresholds", thresholds, |threshold| {
        let circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = threshold;
        if priority != RoutingPriority::Default as i32 {
            // Routes of high priority are refused, so nothing counts against these.
            notes.add("Thresholds.priority");
            return Ok(());
        }
        reject_if_set!(max_connection_pools);
        let value = |limit: Option<envoy_types::pb::google::protobuf::UInt32Value>, default| {
            limit.map_or(default, |limit| limit.value)
        };
        let defaults = CircuitLimits::default();
        limits = CircuitLimits {
            max_connections: value(max_connections, defaults.max_connections),
            max_pending_requests: value(max_pending_requests, defaults.max_pending_requests),
            max_requests: value(max_requests, defaults.max_requests),
            max_retries: value(max_retries, defaults.max_retries),
            retry_budget: retry_budget.map(self::retry_budget).transpose().at("retry_budget")?,
            track_remaining,
        };
        Ok(())
    })?;
    Ok(limits)
}
