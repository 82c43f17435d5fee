//! Extension providers of the mesh's settings: services that policies of action CUSTOM ask.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::istio::Duration;
use crate::validate::{self, Findings};

/// A provider: a name, and one kind of service. Kinds that are for telemetry are told and taken out before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtensionProvider {
    /// By which policies speak of it.
    pub name: String,
    /// An authorization service that is asked over HTTP.
    pub envoy_ext_authz_http: Option<ExtAuthzHttp>,
    /// One that is asked over gRPC.
    pub envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
}

/// An authorization service over HTTP. Names of header fields may begin or end in `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtAuthzHttp {
    /// `HOST` or `NAMESPACE/HOST` of a service of the mesh.
    pub service: String,
    /// Its port.
    pub port: u32,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
    /// Before the path it is asked for.
    pub path_prefix: String,
    /// Requests may pass when it fails.
    pub fail_open: bool,
    /// A request that it changes may get another route.
    pub clear_route_cache: bool,
    /// The status of the answer when it fails.
    pub status_on_error: String,
    /// Fields of requests that it is told.
    pub include_request_headers_in_check: Vec<String>,
    /// The same; deprecated.
    pub include_headers_in_check: Vec<String>,
    /// Further fields it is told.
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    /// How much of a request's body it is told.
    pub include_request_body_in_check: Option<RequestBody>,
    /// Fields of its answer that requests get that may pass.
    pub headers_to_upstream_on_allow: Vec<String>,
    /// Fields of its answer that clients get whose requests may not.
    pub headers_to_downstream_on_deny: Vec<String>,
    /// Fields of its answer that clients get whose requests may.
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// An authorization service over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtAuthzGrpc {
    /// `HOST` or `NAMESPACE/HOST` of a service of the mesh.
    pub service: String,
    /// Its port.
    pub port: u32,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
    /// Requests may pass when it fails.
    pub fail_open: bool,
    /// A request that it changes may get another route.
    pub clear_route_cache: bool,
    /// The status of the answer when it fails.
    pub status_on_error: String,
    /// How much of a request's body it is told.
    pub include_request_body_in_check: Option<RequestBody>,
}

/// How much of a request's body a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestBody {
    /// So many bytes; longer bodies are refused …
    pub max_request_bytes: u32,
    /// … unless their beginning is told.
    pub allow_partial_message: bool,
    /// As bytes instead of text, over gRPC.
    pub pack_as_bytes: bool,
}

/// Source: Istio `pkg/config/validation/extensionprovider.go`.
pub(super) fn check(at: &str, providers: &[ExtensionProvider], findings: &mut Findings) {
    let mut names = BTreeSet::new();
    for (index, provider) in providers.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if provider.name.is_empty() {
            findings.error(format!("{at}.name"), "required");
        } else if !names.insert(&provider.name) {
            findings.error(format!("{at}.name"), format!("another provider is called {:?} too", provider.name));
        }
        if provider.envoy_ext_authz_http.is_some() && provider.envoy_ext_authz_grpc.is_some() {
            findings.error(&at, "more than one kind of provider");
        }
        if let Some(http) = &provider.envoy_ext_authz_http {
            http.check(&format!("{at}.envoyExtAuthzHttp"), findings);
        }
        if let Some(grpc) = &provider.envoy_ext_authz_grpc {
            let ExtAuthzGrpc { service, port, timeout, status_on_error, include_request_body_in_check: body, .. } =
                grpc;
            asked(&format!("{at}.envoyExtAuthzGrpc"), service, *port, *timeout, status_on_error, *body, findings);
        }
    }
}

impl ExtAuthzHttp {
    fn check(&self, at: &str, findings: &mut Findings) {
        let Self { service, port, timeout, status_on_error, include_request_body_in_check: body, .. } = self;
        asked(at, service, *port, *timeout, status_on_error, *body, findings);
        if !self.path_prefix.is_empty() && !self.path_prefix.starts_with('/') {
            findings.error(format!("{at}.pathPrefix"), "should begin with a slash");
        }
        for (field, list) in [
            ("includeRequestHeadersInCheck", &self.include_request_headers_in_check),
            ("includeHeadersInCheck", &self.include_headers_in_check),
            ("headersToUpstreamOnAllow", &self.headers_to_upstream_on_allow),
            ("headersToDownstreamOnDeny", &self.headers_to_downstream_on_deny),
            ("headersToDownstreamOnAllow", &self.headers_to_downstream_on_allow),
        ] {
            for (index, _) in list.iter().enumerate().filter(|(_, name)| matches!(name.as_str(), "" | "*")) {
                findings.error(format!("{at}.{field}[{index}]"), "should be a name, or one that begins or ends in *");
            }
        }
        for name in self.include_additional_headers_in_check.keys().filter(|name| !validate::is_token(name)) {
            findings.error(format!("{at}.includeAdditionalHeadersInCheck"), format!("{name:?} is no header name"));
        }
    }
}

fn asked(
    at: &str,
    service: &str,
    port: u32,
    timeout: Option<Duration>,
    status: &str,
    body: Option<RequestBody>,
    findings: &mut Findings,
) {
    let host = service.split_once('/').map_or(service, |(_, host)| host);
    if host.is_empty() || service.matches('/').count() > 1 {
        findings.error(format!("{at}.service"), format!("{service:?} is neither HOST nor NAMESPACE/HOST"));
    }
    if !(1..=65535).contains(&port) {
        findings.error(format!("{at}.port"), format!("{port} is no port"));
    }
    if let Some(timeout) = timeout {
        validate::duration(&format!("{at}.timeout"), timeout, findings);
    }
    if !status.is_empty() && !status.parse::<u16>().is_ok_and(is_status) {
        findings.error(format!("{at}.statusOnError"), format!("{status:?} is no HTTP status"));
    }
    if body.is_some_and(|body| body.max_request_bytes == 0) {
        findings.error(format!("{at}.includeRequestBodyInCheck.maxRequestBytes"), "should be above 0");
    }
}

/// Those that Envoy knows.
fn is_status(status: u16) -> bool {
    matches!(status, 100 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511)
}
