//! The HTTP connection manager of every HTTP filter chain.
//!
//! Source: Istio `core/listener_builder.go` (buildHTTPConnectionManager), `core/listener_inbound.go`, `core/gateway.go`
//! (buildGatewayConnectionManager). Of Istio's filters that are not in a plain Envoy only `istio.alpn` is written, and only for
//! proxies that have it.

use super::{access_log, alpn, authorization, named_hosts, request_authentication, route_filters, wire};
use crate::config::LogFile;
use crate::node::Families;
use crate::rules::Access;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::{grpc_web::v3::GrpcWeb, router::v3::Router};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as hcm, HttpConnectionManager, HttpFilter, Rds, RequestIdExtension, http_connection_manager::RouteSpecifier,
    http_filter,
};
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use lateen_galley::mesh::{CertDetails, Disabled, ForwardClientCert, Normalization, ProxyHeaders, Topology};
use std::sync::Arc;
use std::time::Duration;

use hcm::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, ServerHeaderTransformation,
    SetCurrentClientCertDetails, UpgradeConfig,
};

/// Which side of a proxy an HTTP chain serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    SidecarOutbound,
    /// `http2`: the port is declared to speak it.
    SidecarInbound {
        http2: bool,
    },
    Gateway,
}

/// What a proxy's own settings put into every connection manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpSettings {
    /// Where access logs are written; none is nowhere.
    pub access_log: Option<Arc<LogFile>>,
    pub accept_http_10: bool,
    pub idle_timeout: Option<Duration>,
    pub normalization: Normalization,
    /// How long a connection may say nothing until it counts as not HTTP; zero is for ever.
    pub detection_timeout: Duration,
    /// What stands in front of a gateway.
    pub topology: Topology,
    pub headers: ProxyHeaders,
    /// The proxy knows the filter `istio.alpn`.
    pub alpn: bool,
    /// Some services' hosts are those that requests name: which addresses of these are used.
    pub named_hosts: Option<Families>,
}

/// A connection manager that takes its routes from RDS under `route_name`.
pub fn with_rds(
    side: Side,
    stat_prefix: &str,
    route_name: &str,
    grpc_web: bool,
    access: &Access,
    settings: &HttpSettings,
) -> Filter {
    let rds = Rds { config_source: Some(wire::ads()), route_config_name: route_name.to_owned() };
    manager(side, stat_prefix, RouteSpecifier::Rds(rds), grpc_web, access, settings)
}

/// A connection manager with its routes written in.
pub fn with_routes(
    side: Side,
    stat_prefix: &str,
    routes: RouteConfiguration,
    access: &Access,
    settings: &HttpSettings,
) -> Filter {
    manager(side, stat_prefix, RouteSpecifier::RouteConfig(routes), false, access, settings)
}

fn manager(
    side: Side,
    stat_prefix: &str,
    routes: RouteSpecifier,
    grpc_web: bool,
    access: &Access,
    settings: &HttpSettings,
) -> Filter {
    let inbound = matches!(side, Side::SidecarInbound { .. });
    let gateway = side == Side::Gateway;
    let HttpSettings { headers, topology, .. } = settings;
    let server = headers.server.as_ref();
    let hide_server = server.and_then(|server| server.disabled).unwrap_or(false);
    let server_name = match server.map(|server| server.value.as_str()) {
        _ if hide_server => "",
        Some(name) if !name.is_empty() => name,
        _ if inbound || gateway => "istio-envoy",
        _ => "",
    };
    let mut filters: Vec<HttpFilter> = authorization::custom_http_filters(access);
    filters.extend(request_authentication::filter(access, gateway));
    filters.extend(authorization::http_filters(access));
    if grpc_web {
        filters.push(http_filter("envoy.filters.http.grpc_web", wire::any(&GrpcWeb::default())));
    }
    if settings.alpn && !inbound {
        filters.push(http_filter(alpn::FILTER, alpn::config()));
    }
    filters.extend(route_filters::filters());
    let router = Router { suppress_envoy_headers: Disabled::is(headers.envoy_debug_headers), ..Default::default() };
    if let Some(families) = settings.named_hosts.filter(|_| !inbound) {
        filters.push(http_filter(named_hosts::HTTP_FILTER, named_hosts::http_filter(families)));
    }
    filters.push(http_filter("envoy.filters.http.router", wire::any(&router)));

    let client_cert = match side {
        Side::SidecarOutbound => ForwardClientCertDetails::Sanitize,
        Side::SidecarInbound { .. } => {
            forwarded(headers.forwarded_client_cert, ForwardClientCertDetails::AppendForward)
        }
        Side::Gateway => forwarded(topology.forward_client_cert_details, ForwardClientCertDetails::SanitizeSet),
    };
    let manager = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        // Statistics tags are cut out at the semicolon by the bootstrap's expressions.
        stat_prefix: format!("{stat_prefix};"),
        route_specifier: Some(routes),
        http_filters: filters,
        server_name: server_name.to_owned(),
        server_header_transformation: if hide_server {
            ServerHeaderTransformation::PassThrough
        } else {
            ServerHeaderTransformation::Overwrite
        }
        .into(),
        generate_request_id: Disabled::is(headers.request_id).then(|| wire::truth(false)),
        common_http_protocol_options: settings.idle_timeout.map(|timeout| core::HttpProtocolOptions {
            idle_timeout: Some(wire::duration(timeout)),
            ..Default::default()
        }),
        http_protocol_options: (gateway || settings.accept_http_10)
            .then(|| core::Http1ProtocolOptions { accept_http_10: settings.accept_http_10, ..Default::default() }),
        http2_protocol_options: matches!(side, Side::SidecarInbound { http2: true })
            .then(core::Http2ProtocolOptions::default),
        use_remote_address: Some(wire::truth(gateway)),
        xff_num_trusted_hops: if gateway { topology.num_trusted_proxies } else { 0 },
        forward_client_cert_details: client_cert.into(),
        set_current_client_cert_details: match side {
            Side::SidecarOutbound => None,
            Side::SidecarInbound { .. } => Some(certificate_details(headers.set_current_client_cert_details)),
            // Only where there is something to write.
            Side::Gateway => {
                matches!(client_cert, ForwardClientCertDetails::SanitizeSet | ForwardClientCertDetails::AppendForward)
                    .then(|| SetCurrentClientCertDetails {
                        subject: Some(wire::truth(true)),
                        cert: true,
                        uri: true,
                        dns: true,
                        ..Default::default()
                    })
            }
        },
        normalize_path: Some(wire::truth(settings.normalization != Normalization::None)),
        merge_slashes: matches!(
            settings.normalization,
            Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes
        ),
        path_with_escaped_slashes_action: match settings.normalization {
            Normalization::DecodeAndMergeSlashes => PathWithEscapedSlashesAction::UnescapeAndForward,
            _ => PathWithEscapedSlashesAction::KeepUnchanged,
        }
        .into(),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        stream_idle_timeout: Some(wire::duration(Duration::ZERO)),
        proxy_100_continue: true,
        access_log: access_log::full(settings.access_log.as_deref()),
        request_id_extension: Some(RequestIdExtension {
            typed_config: Some(wire::any(&UuidRequestIdConfig {
                use_request_id_for_trace_sampling: Some(wire::truth(true)),
                ..Default::default()
            })),
        }),
        ..Default::default()
    };
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(ConfigType::TypedConfig(wire::any(&manager))),
    }
}

fn forwarded(given: ForwardClientCert, usual: ForwardClientCertDetails) -> ForwardClientCertDetails {
    match given {
        ForwardClientCert::Undefined => usual,
        ForwardClientCert::Sanitize => ForwardClientCertDetails::Sanitize,
        ForwardClientCert::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        ForwardClientCert::AppendForward => ForwardClientCertDetails::AppendForward,
        ForwardClientCert::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        ForwardClientCert::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    }
}

/// What a sidecar writes of its client's certificate: without a word on it subject, URIs and DNS names.
fn certificate_details(given: Option<CertDetails>) -> SetCurrentClientCertDetails {
    let CertDetails { subject, cert, chain, dns, uri } = given.unwrap_or_default();
    SetCurrentClientCertDetails {
        subject: Some(wire::truth(subject.unwrap_or(true))),
        uri: uri.unwrap_or(true),
        dns: dns.unwrap_or(true),
        cert: cert.unwrap_or(false),
        chain: chain.unwrap_or(false),
        ..Default::default()
    }
}

fn http_filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
