//! The HTTP connection manager.
//!
//! - reject: what decides who the client is, what is a valid request, or where it goes, and is not carried out
//! - note: tracing providers and tags, tuning of codecs, logs and flushes

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    HttpProtocolOptions, http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as pb, http_connection_manager as hcm,
};
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use lateen_traffic::hcm::{
    ClientCertDetails, Codec, Edge, ForwardClientCert, Hcm, HcmTimeouts, HostSettings, Http1Settings, Http2Settings,
    RequestLimits, RouteSource, ServerHeader, Tracing, Underscores,
};
use lateen_traffic::path::{EscapedSlashes, PathSettings};

use super::access_log::access_logs;
use super::address::{cidr, config_source, duration, percent, text, timeout, unpack};
use super::codec::{http1, http2};
use super::filter::{HttpFilters, http_filters};
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::route::route_config;

/// What a connection manager needs to know of its listener.
#[derive(Clone, Copy)]
pub(super) struct Surroundings {
    /// The port of the listener's address.
    pub port: u16,
    /// Bytes buffered a connection in each direction.
    pub buffer: usize,
}

pub(super) fn http_connection_manager(
    manager: pb::HttpConnectionManager,
    listener: Surroundings,
    notes: &mut Notes,
) -> Result<Hcm, Reject> {
    let pb::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters: filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = manager;
    reject_if_set!(
        http3_protocol_options,
        scheme_header_transformation,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        forward_client_cert_matcher,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        path_normalization_options,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        forward_proto_config,
    );
    if add_user_agent.is_some_and(|on| on.value) {
        return Err(Reject::field("add_user_agent", "not supported yet"));
    }
    note_if_set!(notes, "HttpConnectionManager":
        http1_safe_max_connection_duration, stream_flush_timeout, drain_timeout_jitter, access_log_flush_interval,
        flush_access_log_on_new_request, access_log_options, append_local_overload,
        add_proxy_protocol_connection_state);
    if stat_prefix.is_empty() {
        return Err(Reject::field("stat_prefix", "empty"));
    }
    if let Some(pb::LocalReplyConfig { mappers, body_format }) = local_reply_config {
        (|| {
            reject_if_set!(mappers, body_format);
            Ok(())
        })()
        .at("local_reply_config")?;
    }
    if let Some(extension) = request_id_extension {
        request_id(extension, notes).at("request_id_extension")?;
    }
    let codec = match hcm::CodecType::try_from(codec_type) {
        Ok(hcm::CodecType::Auto) => Codec::Auto,
        Ok(hcm::CodecType::Http1) => Codec::Http1,
        Ok(hcm::CodecType::Http2) => Codec::Http2,
        Ok(hcm::CodecType::Http3) | Err(_) => return Err(Reject::field("codec_type", "not supported yet")),
    };
    let server_header = match hcm::ServerHeaderTransformation::try_from(server_header_transformation) {
        Ok(hcm::ServerHeaderTransformation::Overwrite) => ServerHeader::Overwrite,
        Ok(hcm::ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Ok(hcm::ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
        Err(_) => return Err(Reject::field("server_header_transformation", "not known")),
    };
    let client_cert = match hcm::ForwardClientCertDetails::try_from(forward_client_cert_details) {
        Ok(hcm::ForwardClientCertDetails::Sanitize) => ForwardClientCert::Sanitize,
        Ok(hcm::ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(hcm::ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
        Ok(hcm::ForwardClientCertDetails::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Ok(hcm::ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Err(_) => return Err(Reject::field("forward_client_cert_details", "not known")),
    };
    use hcm::PathWithEscapedSlashesAction as Slashes;
    let escaped_slashes = match Slashes::try_from(path_with_escaped_slashes_action) {
        Ok(Slashes::ImplementationSpecificDefault | Slashes::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Slashes::RejectRequest) => EscapedSlashes::Reject,
        Ok(Slashes::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(Slashes::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => return Err(Reject::field("path_with_escaped_slashes_action", "not known")),
    };
    let internal_ranges = match internal_address_config {
        None => Vec::new(),
        Some(hcm::InternalAddressConfig { unix_sockets, cidr_ranges }) => {
            note_if_set!(notes, "InternalAddressConfig": unix_sockets);
            each("internal_address_config.cidr_ranges", cidr_ranges, cidr)?
        }
    };
    let strip_port = match strip_port_mode {
        Some(hcm::StripPortMode::StripAnyHostPort(true)) => Some(None),
        Some(hcm::StripPortMode::StripAnyHostPort(false)) | None => {
            strip_matching_host_port.then_some(Some(listener.port))
        }
    };
    let routes = match route_specifier {
        Some(hcm::RouteSpecifier::RouteConfig(config)) => {
            RouteSource::Inline(Arc::new(route_config(config, notes).at("route_config")?))
        }
        Some(hcm::RouteSpecifier::Rds(pb::Rds { config_source: source, route_config_name })) => {
            let source = source.ok_or_else(|| Reject::field("rds.config_source", "missing"))?;
            config_source(source, notes).at("rds.config_source")?;
            RouteSource::Named(text(route_config_name).ok_or_else(|| Reject::field("rds.route_config_name", "empty"))?)
        }
        Some(hcm::RouteSpecifier::ScopedRoutes(_)) => return Err(Reject::field("scoped_routes", "not supported yet")),
        None => return Err(Reject::new("no route_config or rds")),
    };

    let mut limits = RequestLimits {
        per_request_buffer: listener.buffer,
        per_connection_buffer: listener.buffer,
        ..RequestLimits::default()
    };
    let mut timeouts = HcmTimeouts::default();
    if let Some(options) = common_http_protocol_options {
        common_options(options, &mut limits, &mut timeouts, notes).at("common_http_protocol_options")?;
    }
    if let Some(kilobytes) = max_request_headers_kb {
        if !(1..=8192).contains(&kilobytes.value) {
            return Err(Reject::field("max_request_headers_kb", "not in 1..=8192"));
        }
        limits.max_head_bytes = kilobytes.value as usize * 1024;
    }
    if let Some(value) = timeout("stream_idle_timeout", stream_idle_timeout)? {
        timeouts.stream_idle = value;
    }
    timeouts.request = timeout("request_timeout", request_timeout)?.flatten();
    timeouts.request_headers = timeout("request_headers_timeout", request_headers_timeout)?.flatten();
    if let Some(value) = drain_timeout {
        timeouts.drain = duration("drain_timeout", value)?;
    }
    if let Some(value) = delayed_close_timeout {
        timeouts.delayed_close = duration("delayed_close_timeout", value)?;
    }
    let mut http2 = match http2_protocol_options {
        Some(options) => http2(options, notes).at("http2_protocol_options")?,
        None => Http2Settings::default(),
    };
    http2.override_stream_error |= stream_error_on_invalid_http_message.is_some_and(|on| on.value);
    let HttpFilters { filters, suppress_envoy_headers } = http_filters(filters, notes)?;
    Ok(Hcm {
        stat_prefix: stat_prefix.into(),
        codec,
        routes,
        filters: filters.into(),
        server_name: text(server_name).unwrap_or_else(|| "envoy".into()),
        server_header,
        edge: Edge {
            use_remote_address: use_remote_address.is_some_and(|on| on.value),
            xff_num_trusted_hops,
            skip_xff_append,
            internal_ranges,
            client_cert,
            client_cert_details: set_current_client_cert_details
                .map(client_cert_details)
                .transpose()
                .at("set_current_client_cert_details")?
                .unwrap_or_default(),
            generate_request_id: generate_request_id.is_none_or(|on| on.value),
            preserve_external_request_id,
            request_id_in_response: always_set_request_id_in_response,
        },
        path: PathSettings { normalize: normalize_path.is_some_and(|on| on.value), merge_slashes, escaped_slashes },
        host: HostSettings { strip_port, strip_trailing_dot: strip_trailing_host_dot },
        upgrades: upgrades(upgrade_configs)?,
        limits,
        timeouts,
        http1: match http_protocol_options {
            Some(options) => http1(options, notes).at("http_protocol_options")?,
            None => Http1Settings::default(),
        },
        http2,
        access_log: access_logs("access_log", access_log, notes)?,
        proxy_100_continue,
        suppress_envoy_headers,
        via: text(via),
        tracing: tracing.map(|value| self::tracing(value, notes)).transpose().at("tracing")?,
    })
}

fn client_cert_details(details: hcm::SetCurrentClientCertDetails) -> Result<ClientCertDetails, Reject> {
    let hcm::SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } = details;
    reject_if_set!(issuer, format);
    Ok(ClientCertDetails { cert, chain, subject: subject.is_some_and(|on| on.value), uri, dns })
}

fn request_id(extension: pb::RequestIdExtension, notes: &mut Notes) -> Result<(), Reject> {
    let pb::RequestIdExtension { typed_config } = extension;
    let Some(any) = typed_config else { return Ok(()) };
    match unpack::<UuidRequestIdConfig>(&any).at("typed_config")? {
        Some(UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling }) => {
            // Both are about traces, and on by default.
            notes.add_if(pack_trace_reason.is_some_and(|on| !on.value), "UuidRequestIdConfig.pack_trace_reason");
            notes.add_if(
                use_request_id_for_trace_sampling.is_some_and(|on| !on.value),
                "UuidRequestIdConfig.use_request_id_for_trace_sampling",
            );
            Ok(())
        }
        None => Err(Reject::field("typed_config", format_args!("{} is not supported yet", any.type_url))),
    }
}

fn tracing(value: hcm::Tracing, notes: &mut Notes) -> Result<Tracing, Reject> {
    let hcm::Tracing {
        client_sampling,
        random_sampling,
        overall_sampling,
        verbose,
        max_path_tag_length,
        custom_tags,
        provider,
        spawn_upstream_span,
        operation,
        upstream_operation,
        no_context_propagation,
    } = value;
    note_if_set!(notes, "Tracing":
        client_sampling, verbose, max_path_tag_length, custom_tags, provider, spawn_upstream_span, operation,
        upstream_operation, no_context_propagation);
    let share = |field, value: Option<_>| value.map_or(Ok(100.0), |value| percent(field, value));
    let random: f64 = share("random_sampling", random_sampling)?;
    let overall = share("overall_sampling", overall_sampling)?;
    Ok(Tracing { random_sampling: random.min(overall) })
}

fn upgrades(configs: Vec<hcm::UpgradeConfig>) -> Result<Vec<Arc<str>>, Reject> {
    let all = each("upgrade_configs", configs, |config| {
        let hcm::UpgradeConfig { upgrade_type, filters, enabled } = config;
        reject_if_set!(filters);
        if upgrade_type.is_empty() {
            return Err(Reject::field("upgrade_type", "empty"));
        }
        Ok(enabled.is_none_or(|on| on.value).then(|| Arc::from(upgrade_type.to_ascii_lowercase())))
    })?;
    Ok(all.into_iter().flatten().collect())
}

fn common_options(
    options: HttpProtocolOptions,
    limits: &mut RequestLimits,
    timeouts: &mut HcmTimeouts,
    notes: &mut Notes,
) -> Result<(), Reject> {
    let HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = options;
    note_if_set!(notes, "HttpProtocolOptions": max_connection_duration_jitter, max_response_headers_kb);
    if let Some(value) = timeout("idle_timeout", idle_timeout)? {
        timeouts.idle = value;
    }
    timeouts.max_connection_duration = timeout("max_connection_duration", max_connection_duration)?.flatten();
    timeouts.max_stream_duration = timeout("max_stream_duration", max_stream_duration)?.flatten();
    if let Some(count) = max_headers_count {
        if count.value == 0 {
            return Err(Reject::field("max_headers_count", "must be at least 1"));
        }
        limits.max_headers = count.value as usize;
    }
    limits.underscores = match HeadersWithUnderscoresAction::try_from(headers_with_underscores_action) {
        Ok(HeadersWithUnderscoresAction::Allow) => Underscores::Allow,
        Ok(HeadersWithUnderscoresAction::RejectRequest) => Underscores::Reject,
        Ok(HeadersWithUnderscoresAction::DropHeader) => Underscores::Drop,
        Err(_) => return Err(Reject::field("headers_with_underscores_action", "not known")),
    };
    limits.max_requests_per_connection =
        max_requests_per_connection.map(|count| count.value).filter(|count| *count != 0);
    Ok(())
}
