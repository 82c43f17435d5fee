//! Access logs to files and standard streams.
//!
//! - reject: filters other than by response flag; formats that cannot be carried out
//! - note: log services and other sinks that are not there yet, which lose no request

use envoy_types::pb::envoy::config::accesslog::v3::{self as accesslog, access_log_filter::FilterSpecifier};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier, substitution_format_string,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use lateen_traffic::access_log::{AccessLog, DEFAULT_FORMAT, JsonValue, LogFilter, LogFormat, Sink};
use lateen_traffic::format::Format;
use lateen_traffic::record::Flags;

use super::address::unpack;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

/// The logs that are written; those noted are left out.
pub(super) fn access_logs(
    field: &str,
    logs: Vec<accesslog::AccessLog>,
    notes: &mut Notes,
) -> Result<Vec<AccessLog>, Reject> {
    Ok(each(field, logs, |log| access_log(log, notes))?.into_iter().flatten().collect())
}

fn access_log(log: accesslog::AccessLog, notes: &mut Notes) -> Result<Option<AccessLog>, Reject> {
    let accesslog::AccessLog { name: _, filter, config_type } = log;
    let Some(accesslog::access_log::ConfigType::TypedConfig(any)) = config_type else {
        return Err(Reject::field("typed_config", "missing"));
    };
    let sink = if let Some(file) = unpack::<FileAccessLog>(&any).at("typed_config")? {
        Some(file_log(file, notes).at("typed_config")?)
    } else if let Some(log) = unpack::<StdoutAccessLog>(&any).at("typed_config")? {
        let StdoutAccessLog { access_log_format } = log;
        let format = access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
        Some((Sink::Stdout, optional_format(format, notes).at("typed_config.log_format")?))
    } else if let Some(log) = unpack::<StderrAccessLog>(&any).at("typed_config")? {
        let StderrAccessLog { access_log_format } = log;
        let format = access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(format)| format);
        Some((Sink::Stderr, optional_format(format, notes).at("typed_config.log_format")?))
    } else {
        None
    };
    let Some((sink, format)) = sink else {
        notes.add("AccessLog.typed_config");
        return Ok(None);
    };
    let filter = filter.map(log_filter).transpose().at("filter")?.unwrap_or_default();
    Ok(Some(AccessLog { sink, format, filter }))
}

fn file_log(log: FileAccessLog, notes: &mut Notes) -> Result<(Sink, LogFormat), Reject> {
    let FileAccessLog { path, access_log_format } = log;
    let sink = match path.as_str() {
        "" => return Err(Reject::field("path", "empty")),
        "/dev/stdout" => Sink::Stdout,
        "/dev/stderr" => Sink::Stderr,
        path => Sink::File(path.into()),
    };
    let format = match access_log_format {
        None => text(DEFAULT_FORMAT)?,
        Some(file_access_log::AccessLogFormat::Format(format)) if format.is_empty() => text(DEFAULT_FORMAT)?,
        Some(file_access_log::AccessLogFormat::Format(format)) => text(&format).at("format")?,
        Some(file_access_log::AccessLogFormat::JsonFormat(fields)) => {
            json(fields, JsonValue::Text).at("json_format")?
        }
        Some(file_access_log::AccessLogFormat::TypedJsonFormat(fields)) => {
            json(fields, JsonValue::Format).at("typed_json_format")?
        }
        Some(file_access_log::AccessLogFormat::LogFormat(format)) => log_format(format, notes).at("log_format")?,
    };
    Ok((sink, format))
}

fn optional_format(format: Option<SubstitutionFormatString>, notes: &mut Notes) -> Result<LogFormat, Reject> {
    match format {
        Some(format) => log_format(format, notes),
        None => text(DEFAULT_FORMAT),
    }
}

fn log_format(format: SubstitutionFormatString, notes: &mut Notes) -> Result<LogFormat, Reject> {
    let SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } = format;
    reject_if_set!(formatters, omit_empty_values);
    note_if_set!(notes, "SubstitutionFormatString": content_type, json_format_options);
    match format {
        Some(substitution_format_string::Format::TextFormat(format)) => text(&format).at("text_format"),
        Some(substitution_format_string::Format::JsonFormat(fields)) => {
            json(fields, JsonValue::Format).at("json_format")
        }
        Some(substitution_format_string::Format::TextFormatSource(source)) => {
            text(&inline(source).at("text_format_source")?).at("text_format_source")
        }
        None => Err(Reject::new("no format")),
    }
}

/// The text of a data source that needs no file or environment.
pub(super) fn inline(source: DataSource) -> Result<String, Reject> {
    let DataSource { watched_directory, specifier } = source;
    reject_if_set!(watched_directory);
    match specifier {
        Some(Specifier::InlineString(text)) => Ok(text),
        Some(Specifier::InlineBytes(bytes)) => {
            String::from_utf8(bytes).map_err(|_| Reject::field("inline_bytes", "not UTF-8, which is not supported"))
        }
        Some(Specifier::Filename(_)) => Err(Reject::field("filename", "not supported yet")),
        Some(Specifier::EnvironmentVariable(_)) => Err(Reject::field("environment_variable", "not supported yet")),
        None => Err(Reject::new("no data")),
    }
}

fn text(format: &str) -> Result<LogFormat, Reject> {
    Format::parse(format).map(LogFormat::Text).map_err(Reject::new)
}

/// `made`: how the results of formats are written.
fn json(fields: Struct, made: fn(Format) -> JsonValue) -> Result<LogFormat, Reject> {
    json_fields(fields, made).map(LogFormat::Json)
}

fn json_fields(fields: Struct, made: fn(Format) -> JsonValue) -> Result<Vec<(String, JsonValue)>, Reject> {
    let Struct { fields } = fields;
    let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
    // Protobuf maps have no order; Envoy writes keys sorted.
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields.into_iter().map(|(name, value)| Ok((name.clone(), json_value(value, made).at(&name)?))).collect()
}

fn json_value(value: Value, made: fn(Format) -> JsonValue) -> Result<JsonValue, Reject> {
    let Value { kind } = value;
    match kind {
        Some(Kind::StringValue(format)) => Format::parse(&format).map(made).map_err(Reject::new),
        Some(Kind::StructValue(inner)) => json_fields(inner, made).map(JsonValue::Object),
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().map(|value| json_value(value, made));
            values.collect::<Result<_, _>>().map(JsonValue::List)
        }
        Some(Kind::NumberValue(number)) if number.is_finite() => Ok(JsonValue::Literal(number.to_string())),
        Some(Kind::NumberValue(_)) => Err(Reject::new("not a number of JSON")),
        Some(Kind::BoolValue(value)) => Ok(JsonValue::Literal(value.to_string())),
        Some(Kind::NullValue(_)) | None => Ok(JsonValue::Literal("null".to_owned())),
    }
}

fn log_filter(filter: accesslog::AccessLogFilter) -> Result<LogFilter, Reject> {
    let accesslog::AccessLogFilter { filter_specifier } = filter;
    let Some(FilterSpecifier::ResponseFlagFilter(accesslog::ResponseFlagFilter { flags })) = filter_specifier else {
        return Err(Reject::new("only response_flag_filter is supported"));
    };
    if flags.is_empty() {
        return Ok(LogFilter::AnyFlag);
    }
    let mut all = Flags::NONE;
    for flag in flags {
        let flag = Flags::from_short(&flag)
            .ok_or_else(|| Reject::field("response_flag_filter.flags", format_args!("{flag:?} is no response flag")))?;
        all.add(flag);
    }
    Ok(LogFilter::ResponseFlags(all))
}
