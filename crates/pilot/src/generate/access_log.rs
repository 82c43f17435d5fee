//! The access log in Istio's default text format.
//!
//! Source: Istio `pilot/pkg/model/telemetry_logging.go` (EnvoyTextLogFormat), `core/accesslog.go`.

use super::wire;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log::ConfigType, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier, substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};

/// One line per request or connection.
pub const TEXT_FORMAT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" "#,
    r#"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "#,
    r#""%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% "#,
    r#"%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
    r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" "#,
    r#"%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% "#,
    r#"%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%"#,
    "\n"
);

/// Logs for a connection manager or TCP proxy, written to `path`; none when the log is off.
pub fn full(path: Option<&str>) -> Vec<AccessLog> {
    path.map(|path| file(path, None)).into_iter().collect()
}

/// Logs for a listener: only connections no chain takes, since chains log their own.
pub fn unmatched(path: Option<&str>) -> Vec<AccessLog> {
    let filter = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec!["NR".to_owned()],
        })),
    };
    path.map(|path| file(path, Some(filter))).into_iter().collect()
}

fn file(path: &str, filter: Option<AccessLogFilter>) -> AccessLog {
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(DataSource {
            specifier: Some(Specifier::InlineString(TEXT_FORMAT.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let log = FileAccessLog { path: path.to_owned(), access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter,
        config_type: Some(ConfigType::TypedConfig(wire::any(&log))),
    }
}
