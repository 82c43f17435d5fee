//! The HTTP codecs' settings, of listeners and, as far as they share them, of clusters.
//!
//! - reject: what changes which messages are valid
//! - note: tuning

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, KeepaliveSettings, http1_protocol_options,
};
use lateen_traffic::cluster::Http2Keepalive;
use lateen_traffic::hcm::{HeaderCase, Http1Settings, Http2Settings};

use super::address::{duration, percent, text};
use super::reject::{At as _, Notes, Reject, note_if_set, reject_if_set};

pub(super) fn http1(options: Http1ProtocolOptions, notes: &mut Notes) -> Result<Http1Settings, Reject> {
    let Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = options;
    reject_if_set!(
        enable_trailers,
        allow_chunked_length,
        send_fully_qualified_url,
        allow_custom_methods,
        ignore_http_11_upgrade
    );
    note_if_set!(notes, "Http1ProtocolOptions": override_stream_error_on_invalid_http_message, use_balsa_parser);
    if allow_absolute_url.is_some_and(|on| !on.value) {
        return Err(Reject::field("allow_absolute_url", "cannot be switched off yet"));
    }
    use http1_protocol_options::header_key_format::HeaderFormat;
    let header_case = match header_key_format.and_then(|format| format.header_format) {
        None => HeaderCase::Lower,
        Some(HeaderFormat::ProperCaseWords(_)) => HeaderCase::ProperWords,
        Some(HeaderFormat::StatefulFormatter(_)) => {
            return Err(Reject::field("header_key_format.stateful_formatter", "not supported yet"));
        }
    };
    Ok(Http1Settings { accept_http_10, default_host: text(default_host_for_http_10), header_case })
}

pub(super) fn http2(options: Http2ProtocolOptions, notes: &mut Notes) -> Result<Http2Settings, Reject> {
    let Common2 {
        max_concurrent_streams,
        stream_window,
        connection_window,
        keepalive,
        allow_connect,
        override_stream_error,
    } = common2(options, notes)?;
    let defaults = Http2Settings::default();
    Ok(Http2Settings {
        max_concurrent_streams: max_concurrent_streams.unwrap_or(defaults.max_concurrent_streams),
        stream_window: stream_window.unwrap_or(defaults.stream_window),
        connection_window: connection_window.unwrap_or(defaults.connection_window),
        allow_connect,
        override_stream_error,
        keepalive,
    })
}

/// HTTP/2 settings of either side.
pub(super) struct Common2 {
    pub max_concurrent_streams: Option<u32>,
    pub stream_window: Option<u32>,
    pub connection_window: Option<u32>,
    pub keepalive: Option<Http2Keepalive>,
    pub allow_connect: bool,
    pub override_stream_error: bool,
}

pub(super) fn common2(options: Http2ProtocolOptions, notes: &mut Notes) -> Result<Common2, Reject> {
    let Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = options;
    reject_if_set!(allow_metadata, custom_settings_parameters);
    note_if_set!(notes, "Http2ProtocolOptions":
        hpack_table_size, max_outbound_frames, max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload, max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent, use_oghttp2_codec,
        max_metadata_size, enable_huffman_encoding, max_header_field_size_kb, disallow_obs_text, stream_reset_burst,
        stream_reset_rate);
    let window = |field, value: Option<envoy_types::pb::google::protobuf::UInt32Value>| match value {
        None => Ok(None),
        Some(value) if (65_535..=0x7fff_ffff).contains(&value.value) => Ok(Some(value.value)),
        Some(value) => Err(Reject::field(field, format_args!("{} is not in 65535..=2147483647", value.value))),
    };
    let streams = max_concurrent_streams.map(|streams| streams.value);
    if streams.is_some_and(|streams| streams == 0 || streams > 0x7fff_ffff) {
        return Err(Reject::field("max_concurrent_streams", "not in 1..=2147483647"));
    }
    Ok(Common2 {
        max_concurrent_streams: streams,
        stream_window: window("initial_stream_window_size", initial_stream_window_size)?,
        connection_window: window("initial_connection_window_size", initial_connection_window_size)?,
        keepalive: connection_keepalive.map(keepalive).transpose().at("connection_keepalive")?.flatten(),
        allow_connect,
        override_stream_error: override_stream_error_on_invalid_http_message
            .map_or(stream_error_on_invalid_http_messaging, |on| on.value),
    })
}

/// `None`: there are no PINGs.
fn keepalive(settings: KeepaliveSettings) -> Result<Option<Http2Keepalive>, Reject> {
    let KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval } = settings;
    reject_if_set!(connection_idle_interval);
    let timeout = duration("timeout", timeout.ok_or_else(|| Reject::field("timeout", "missing"))?)?;
    let interval = interval.map(|value| duration("interval", value)).transpose()?.filter(|length| !length.is_zero());
    let least = std::time::Duration::from_millis(1);
    if timeout < least || interval.is_some_and(|interval| interval < least) {
        return Err(Reject::new("intervals must be at least 1 ms"));
    }
    let jitter = interval_jitter.map_or(Ok(15.0), |share| percent("interval_jitter", share))?;
    // An interval is at most 10,000 years, so its share is a duration.
    Ok(interval.map(|interval| Http2Keepalive { interval, timeout, jitter: interval.mul_f64(jitter / 100.0) }))
}
