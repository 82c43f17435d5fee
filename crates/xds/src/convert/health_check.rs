//! Active health checks of clusters, and what endpoints say about theirs.
//!
//! - reject: checkers by extension, HTTP/3, TLS of their own, another port for all hosts; endpoints' addresses that are not ready
//!   to connect to
//! - note: logs of events

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version as PbVersion;
use envoy_types::pb::envoy::config::core::v3::{
    self as core, HealthCheck as PbHealthCheck, RequestMethod,
    health_check::{self as pb, HealthChecker, payload::Payload},
};
use envoy_types::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use lateen_traffic::cluster::CheckedAs;
use lateen_traffic::edit::HeaderEdits;
use lateen_traffic::health_check::{GrpcProbe, HealthCheck, HttpProbe, Probe, Statuses, TcpProbe};
use lateen_traffic::proxy_protocol::Version;

use super::address::{duration, endpoint_address, port};
use super::alpn;
use super::cluster::transport_labels;
use super::matcher::{self, edits};
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

const DEFAULT_NO_TRAFFIC_INTERVAL: Duration = Duration::from_secs(60);
const DEFAULT_LOOK_AT: u64 = 1024;

/// Bytes of a body that are looked at where there shall be no limit.
const MOST_LOOKED_AT: usize = 1 << 20;

/// The checks of a cluster: none or one, as with Envoy. `http2`: the cluster's hosts speak HTTP/2.
pub(super) fn health_check(
    mut checks: Vec<PbHealthCheck>,
    http2: bool,
    notes: &mut Notes,
) -> Result<Option<HealthCheck>, Reject> {
    let Some(check) = checks.pop() else { return Ok(None) };
    if !checks.is_empty() {
        return Err(Reject::field("health_checks", "multiple health checks not supported"));
    }
    one(check, http2, notes).at("health_checks[0]").map(Some)
}

fn one(check: PbHealthCheck, http2: bool, notes: &mut Notes) -> Result<HealthCheck, Reject> {
    let PbHealthCheck {
        timeout,
        interval,
        initial_jitter,
        interval_jitter,
        interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        alt_port,
        reuse_connection,
        no_traffic_interval,
        no_traffic_healthy_interval,
        unhealthy_interval,
        unhealthy_edge_interval,
        healthy_edge_interval,
        event_log_path,
        event_logger,
        event_service,
        always_log_health_check_failures,
        always_log_health_check_success,
        tls_options,
        transport_socket_match_criteria,
        health_checker,
    } = check;
    reject_if_set!(alt_port);
    let alpn = tls_options
        .map(|pb::TlsOptions { alpn_protocols }| each("alpn_protocols", alpn_protocols, alpn::name))
        .transpose()
        .at("tls_options")?
        .filter(|names| !names.is_empty());
    let transport_labels =
        transport_socket_match_criteria.map(transport_labels).transpose().at("transport_socket_match_criteria")?;
    note_if_set!(notes, "HealthCheck":
        event_log_path, event_logger, event_service, always_log_health_check_failures, always_log_health_check_success);
    let needed = |field: &str, value| above_zero(field, value)?.ok_or_else(|| Reject::field(field, "missing"));
    let jitter =
        |field: &str, value: Option<ProtoDuration>| value.map_or(Ok(Duration::ZERO), |value| duration(field, value));
    let threshold = |field: &str, value: Option<envoy_types::pb::google::protobuf::UInt32Value>| {
        value.map(|value| value.value).ok_or_else(|| Reject::field(field, "missing"))
    };
    let interval = needed("interval", interval)?;
    let no_traffic_interval =
        above_zero("no_traffic_interval", no_traffic_interval)?.unwrap_or(DEFAULT_NO_TRAFFIC_INTERVAL);
    let unhealthy_interval = above_zero("unhealthy_interval", unhealthy_interval)?.unwrap_or(interval);
    Ok(HealthCheck {
        timeout: needed("timeout", timeout)?,
        interval,
        initial_jitter: jitter("initial_jitter", initial_jitter)?,
        interval_jitter: jitter("interval_jitter", interval_jitter)?,
        interval_jitter_percent,
        unhealthy_threshold: threshold("unhealthy_threshold", unhealthy_threshold)?,
        healthy_threshold: threshold("healthy_threshold", healthy_threshold)?,
        reuse_connection: reuse_connection.is_none_or(|reuse| reuse.value),
        no_traffic_interval,
        no_traffic_healthy_interval: above_zero("no_traffic_healthy_interval", no_traffic_healthy_interval)?
            .unwrap_or(no_traffic_interval),
        unhealthy_interval,
        unhealthy_edge_interval: above_zero("unhealthy_edge_interval", unhealthy_edge_interval)?
            .unwrap_or(unhealthy_interval),
        healthy_edge_interval: above_zero("healthy_edge_interval", healthy_edge_interval)?.unwrap_or(interval),
        alpn: alpn.map(Into::into),
        transport_labels,
        probe: match health_checker {
            Some(HealthChecker::HttpHealthCheck(check)) => Probe::Http(http(check).at("http_health_check")?),
            Some(HealthChecker::TcpHealthCheck(check)) => Probe::Tcp(tcp(check).at("tcp_health_check")?),
            Some(HealthChecker::GrpcHealthCheck(_)) if !http2 => {
                return Err(Reject::field("grpc_health_check", "the cluster must speak HTTP/2 for it"));
            }
            Some(HealthChecker::GrpcHealthCheck(check)) => Probe::Grpc(grpc(check).at("grpc_health_check")?),
            Some(HealthChecker::CustomHealthCheck(custom)) => {
                let pb::CustomHealthCheck { name, config_type: _ } = custom;
                return Err(Reject::field("custom_health_check", format_args!("{name:?} is not supported yet")));
            }
            None => return Err(Reject::field("health_checker", "missing")),
        },
    })
}

fn above_zero(field: &str, value: Option<ProtoDuration>) -> Result<Option<Duration>, Reject> {
    match value.map(|value| duration(field, value)).transpose()? {
        Some(Duration::ZERO) => Err(Reject::field(field, "must be above 0")),
        value => Ok(value),
    }
}

fn http(check: pb::HttpHealthCheck) -> Result<HttpProbe, Reject> {
    let pb::HttpHealthCheck {
        host,
        path,
        send,
        receive,
        response_buffer_size,
        request_headers_to_add,
        request_headers_to_remove,
        expected_statuses,
        retriable_statuses,
        codec_client_type,
        service_name_matcher,
        method,
    } = check;
    if path.is_empty() {
        return Err(Reject::field("path", "missing"));
    }
    for (field, value) in [("path", &path), ("host", &host)] {
        if value.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(Reject::field(field, format_args!("{value:?} has characters that it may not have")));
        }
    }
    let body = send.map(payload).transpose().at("send")?.unwrap_or_default();
    let method = match RequestMethod::try_from(method) {
        Ok(RequestMethod::MethodUnspecified) => RequestMethod::Get,
        Ok(RequestMethod::Connect) => return Err(Reject::field("method", "CONNECT is none for checks")),
        Ok(method) => method,
        Err(_) => return Err(Reject::field("method", format_args!("{method} is not known"))),
    };
    use RequestMethod::{Delete, Get, Head, Trace};
    if !body.is_empty() && matches!(method, Get | Head | Delete | Trace) {
        return Err(Reject::field("send", format_args!("a request with method {} has no body", method.as_str_name())));
    }
    let receive = each("receive", receive, payload)?;
    let wanted: usize = receive.iter().map(Vec::len).sum();
    let look_at = match response_buffer_size.map_or(DEFAULT_LOOK_AT, |size| size.value) {
        0 => MOST_LOOKED_AT,
        size => usize::try_from(size).unwrap_or(usize::MAX),
    };
    if look_at > MOST_LOOKED_AT {
        return Err(Reject::field("response_buffer_size", format_args!("more than {MOST_LOOKED_AT} bytes")));
    }
    if wanted > look_at {
        let reason = format_args!("{wanted} bytes are expected and only {look_at} would be looked at");
        return Err(Reject::field("response_buffer_size", reason));
    }
    let mut expected = statuses("expected_statuses", expected_statuses)?;
    if expected.0.is_empty() {
        expected.0.push(200..201);
    }
    Ok(HttpProbe {
        http2: match CodecClientType::try_from(codec_client_type) {
            Ok(CodecClientType::Http1) => false,
            Ok(CodecClientType::Http2) => true,
            Ok(CodecClientType::Http3) => return Err(Reject::field("codec_client_type", "HTTP3 is not supported yet")),
            Err(_) => return Err(Reject::field("codec_client_type", format_args!("{codec_client_type} is not known"))),
        },
        method: method.as_str_name().into(),
        host: host.into(),
        path: path.into(),
        edits: edits(
            ("request_headers_to_add", request_headers_to_add),
            ("request_headers_to_remove", request_headers_to_remove),
        )?,
        body,
        expected,
        retriable: statuses("retriable_statuses", retriable_statuses)?,
        receive,
        look_at,
        service_name: service_name_matcher.map(matcher::string).transpose().at("service_name_matcher")?,
    })
}

fn statuses(field: &str, ranges: Vec<Int64Range>) -> Result<Statuses, Reject> {
    let ranges = each(field, ranges, |range| {
        let Int64Range { start, end } = range;
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(from @ 100..), Ok(to @ ..=600)) if from < to => Ok(from..to),
            _ => Err(Reject::new(format_args!("{start} to {end} is no range of statuses from 100 to 599"))),
        }
    })?;
    Ok(Statuses(ranges))
}

fn tcp(check: pb::TcpHealthCheck) -> Result<TcpProbe, Reject> {
    let pb::TcpHealthCheck { send, receive, proxy_protocol_config } = check;
    let proxy_protocol = proxy_protocol_config.map(|config| {
        let core::ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = config;
        // Checks tell of no client, and so of nothing about one.
        reject_if_set!(pass_through_tlvs, added_tlvs);
        match PbVersion::try_from(version) {
            Ok(PbVersion::V1) => Ok(Version::V1),
            Ok(PbVersion::V2) => Ok(Version::V2),
            Err(_) => Err(Reject::field("version", "not known")),
        }
    });
    Ok(TcpProbe {
        send: send.map(payload).transpose().at("send")?.unwrap_or_default(),
        receive: each("receive", receive, payload)?,
        proxy_protocol: proxy_protocol.transpose().at("proxy_protocol_config")?,
    })
}

fn grpc(check: pb::GrpcHealthCheck) -> Result<GrpcProbe, Reject> {
    let pb::GrpcHealthCheck { service_name, authority, initial_metadata } = check;
    let HeaderEdits { add, remove } = edits(("initial_metadata", initial_metadata), ("", Vec::new()))?;
    Ok(GrpcProbe { service: service_name.into(), authority: authority.into(), edits: HeaderEdits { add, remove } })
}

/// Bytes, or two hexadecimal digits a byte.
fn payload(payload: pb::Payload) -> Result<Vec<u8>, Reject> {
    let pb::Payload { payload } = payload;
    match payload {
        Some(Payload::Binary(bytes)) => Ok(bytes),
        Some(Payload::Text(text)) => {
            let digits: Option<Vec<u8>> =
                text.chars().map(|digit| digit.to_digit(16).and_then(|n| u8::try_from(n).ok())).collect();
            match digits {
                Some(digits) if !digits.is_empty() && digits.len() % 2 == 0 => {
                    Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
                }
                _ => Err(Reject::field("text", format_args!("{text:?} is not hexadecimal"))),
            }
        }
        None => Err(Reject::field("payload", "missing")),
    }
}

/// What an endpoint says about its checks; nothing if that is nothing.
pub(super) fn checked_as(config: HealthCheckConfig) -> Result<Option<Arc<CheckedAs>>, Reject> {
    let HealthCheckConfig { port_value, hostname, address, disable_active_health_check } = config;
    let address = address.map(endpoint_address).transpose().at("address")?;
    if let Some(address @ lateen_traffic::cluster::EndpointAddress::Dns { .. }) = &address {
        return Err(Reject::field("address", format_args!("{address} is no IP address")));
    }
    let checked = CheckedAs {
        never: disable_active_health_check,
        address,
        port: Some(port("port_value", port_value)?).filter(|port| *port != 0),
        hostname: hostname.into(),
    };
    Ok((checked != CheckedAs::default()).then(|| Arc::new(checked)))
}
