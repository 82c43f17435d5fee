//! Which HTTP a cluster's hosts are spoken to, and how.
//!
//! - reject: HTTP/3, choice by ALPN, filters, mirroring and retries of a cluster's own
//! - note: limits on response heads, the HTTP/1 codec's tuning

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, UpstreamHttpProtocolOptions,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, OutlierDetection, UpstreamProtocolOptions, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    },
};
use lateen_traffic::cluster::{Http2Upstream, UpstreamProtocol};
use lateen_traffic::outlier::ErrorMatch;
use lateen_traffic::tls::NamesOfRequests;

use super::address::timeout;
use super::codec::{Common2, common2};
use super::outlier::error_match;
use super::reject::{At as _, Notes, Reject, note_if_set, reject_if_set};

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a cluster's HTTP options come to.
pub(super) struct UpstreamHttp {
    pub protocol: UpstreamProtocol,
    pub http2: Http2Upstream,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub outlier_errors: Option<ErrorMatch>,
    pub names_of_requests: NamesOfRequests,
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        UpstreamHttp {
            protocol: UpstreamProtocol::Http1,
            http2: Http2Upstream::default(),
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            max_connection_duration: None,
            max_requests_per_connection: None,
            outlier_errors: None,
            names_of_requests: NamesOfRequests::default(),
        }
    }
}

/// Which names of servers come from requests.
pub(super) fn names_of_requests(options: UpstreamHttpProtocolOptions) -> Result<NamesOfRequests, Reject> {
    let UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } = options;
    reject_if_set!(override_auto_sni_header);
    Ok(NamesOfRequests { asked_for: auto_sni, verified: auto_san_validation })
}

impl UpstreamHttp {
    /// The `envoy.extensions.upstreams.http.v3.HttpProtocolOptions` of a cluster.
    pub fn typed(options: HttpProtocolOptions, notes: &mut Notes) -> Result<UpstreamHttp, Reject> {
        let HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = options;
        reject_if_set!(http_filters, header_validation_config, request_mirror_policies, retry_policy);
        note_if_set!(notes, "HttpProtocolOptions": hash_policy);
        let mut all = UpstreamHttp::default();
        if let Some(options) = upstream_http_protocol_options {
            all.names_of_requests = names_of_requests(options).at("upstream_http_protocol_options")?;
        }
        if let Some(OutlierDetection { error_matcher: Some(matcher) }) = outlier_detection {
            all.outlier_errors = Some(error_match(matcher).at("outlier_detection.error_matcher")?);
        }
        match upstream_protocol_options {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config })) => {
                match protocol_config {
                    Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                        http1(options, notes).at("explicit_http_config.http_protocol_options")?
                    }
                    Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                        all.protocol = UpstreamProtocol::Http2;
                        all.http2(options, notes).at("explicit_http_config.http2_protocol_options")?;
                    }
                    Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                        return Err(Reject::field("explicit_http_config.http3_protocol_options", "not supported yet"));
                    }
                    None => return Err(Reject::field("explicit_http_config", "empty")),
                }
            }
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                let UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options, http3_protocol_options } =
                    config;
                // Used only for requests that come by HTTP/3, and none do.
                note_if_set!(notes, "UseDownstreamHttpConfig": http3_protocol_options);
                all.protocol = UpstreamProtocol::Downstream;
                if let Some(options) = http_protocol_options {
                    http1(options, notes).at("use_downstream_protocol_config.http_protocol_options")?;
                }
                if let Some(options) = http2_protocol_options {
                    all.http2(options, notes).at("use_downstream_protocol_config.http2_protocol_options")?;
                }
            }
            Some(UpstreamProtocolOptions::AutoConfig(_)) => {
                return Err(Reject::field("auto_config", "not supported yet"));
            }
            None => return Err(Reject::new("no upstream protocol options")),
        }
        if let Some(options) = common_http_protocol_options {
            all.common(options, notes).at("common_http_protocol_options")?;
        }
        Ok(all)
    }

    pub fn http2(&mut self, options: Http2ProtocolOptions, notes: &mut Notes) -> Result<(), Reject> {
        let Common2 {
            max_concurrent_streams,
            stream_window,
            connection_window,
            keepalive,
            allow_connect,
            // Answers are judged stream by stream already.
            override_stream_error: _,
        } = common2(options, notes)?;
        notes.add_if(allow_connect, "Cluster.http2_protocol_options.allow_connect");
        let defaults = Http2Upstream::default();
        self.http2 = Http2Upstream {
            max_concurrent_streams: max_concurrent_streams.unwrap_or(defaults.max_concurrent_streams),
            stream_window: stream_window.unwrap_or(defaults.stream_window),
            connection_window: connection_window.unwrap_or(defaults.connection_window),
            keepalive,
        };
        Ok(())
    }

    pub fn common(&mut self, options: CommonOptions, notes: &mut Notes) -> Result<(), Reject> {
        let CommonOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = options;
        reject_if_set!(max_stream_duration);
        note_if_set!(notes, "Cluster.common_http_protocol_options":
            max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
            headers_with_underscores_action);
        if let Some(value) = timeout("idle_timeout", idle_timeout)? {
            self.idle_timeout = value;
        }
        self.max_connection_duration = timeout("max_connection_duration", max_connection_duration)?.flatten();
        if let Some(count) = max_requests_per_connection {
            self.max_requests_per_connection = Some(count.value).filter(|count| *count != 0);
        }
        Ok(())
    }
}

pub(super) fn http1(options: Http1ProtocolOptions, notes: &mut Notes) -> Result<(), Reject> {
    let Http1ProtocolOptions {
        // What concerns requests has no meaning towards an upstream.
        allow_absolute_url: _,
        accept_http_10: _,
        default_host_for_http_10: _,
        ignore_http_11_upgrade: _,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
    } = options;
    reject_if_set!(header_key_format, enable_trailers, allow_chunked_length, send_fully_qualified_url);
    note_if_set!(notes, "Cluster.http_protocol_options":
        override_stream_error_on_invalid_http_message, use_balsa_parser, allow_custom_methods);
    Ok(())
}
