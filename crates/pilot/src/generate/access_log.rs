//! Access logs, in the formats that Istio has and those of the mesh's own.
//!
//! Source: Istio `pilot/pkg/model/telemetry_logging.go` (EnvoyTextLogFormat, EnvoyJSONLogFormatIstio), `core/accesslog.go`.

use super::wire;
use crate::config::{LogFile, LogLines};
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log::ConfigType, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier, substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use serde_json::Value;

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

/// What an object says of a request or connection.
const JSON_FORMAT: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// Logs for a connection manager or TCP proxy; none when the log is off.
pub fn full(log: Option<&LogFile>) -> Vec<AccessLog> {
    log.map(|log| file(log, None)).into_iter().collect()
}

/// Logs for a listener: only connections no chain takes, since chains log their own.
pub fn unmatched(log: Option<&LogFile>) -> Vec<AccessLog> {
    let filter = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec!["NR".to_owned()],
        })),
    };
    log.map(|log| file(log, Some(filter))).into_iter().collect()
}

fn file(log: &LogFile, filter: Option<AccessLogFilter>) -> AccessLog {
    let format = SubstitutionFormatString { format: Some(format(&log.lines)), ..Default::default() };
    let log = FileAccessLog { path: log.path.clone(), access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter,
        config_type: Some(ConfigType::TypedConfig(wire::any(&log))),
    }
}

fn format(lines: &LogLines) -> Format {
    match lines {
        LogLines::Text(text) => {
            let text = match text.as_str() {
                "" => TEXT_FORMAT.to_owned(),
                line if line.ends_with('\n') => line.to_owned(),
                line => format!("{line}\n"),
            };
            Format::TextFormatSource(DataSource {
                specifier: Some(Specifier::InlineString(text)),
                ..Default::default()
            })
        }
        // What is no object is as good as nothing.
        LogLines::Json(text) => Format::JsonFormat(match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => wire::json(fields),
            _ => wire::structure(JSON_FORMAT.map(|(name, value)| (name, wire::text(value)))),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> std::collections::HashMap<String, envoy_types::pb::google::protobuf::Value> {
        match format(&LogLines::Json(text.to_owned())) {
            Format::JsonFormat(object) => object.fields,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn objects_are_the_meshs_own_or_those_of_istio() {
        let own = object(r#"{"status": "%RESPONSE_CODE%", "of": {"route": "%ROUTE_NAME%"}, "mesh": true}"#);
        assert_eq!(own["status"], wire::text("%RESPONSE_CODE%"));
        assert_eq!(own.len(), 3);
        for text in ["", "{", "[]", "\"{}\""] {
            assert_eq!(object(text)["path"], wire::text("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"));
            assert_eq!(object(text).len(), JSON_FORMAT.len());
        }
    }

    #[test]
    fn a_text_ends_its_line() {
        let text = |format: &Format| match format {
            Format::TextFormatSource(DataSource { specifier: Some(Specifier::InlineString(text)), .. }) => text.clone(),
            other => panic!("{other:?}"),
        };
        let written = |text_of: &str| text(&format(&LogLines::Text(text_of.to_owned())));
        assert_eq!(written("%RESPONSE_CODE%"), "%RESPONSE_CODE%\n");
        assert_eq!(written("%RESPONSE_CODE%\n"), "%RESPONSE_CODE%\n");
        assert_eq!(written(""), TEXT_FORMAT);
    }
}
