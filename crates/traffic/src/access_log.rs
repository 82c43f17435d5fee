//! Access logs: which records are written, where to, and in what form.

use std::sync::Arc;

use crate::format::{Facts, Format};
use crate::record::{Flags, Record};

/// One access log of a listener, connection manager or TCP proxy.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Where to.
    pub sink: Sink,
    /// In what form.
    pub format: LogFormat,
    /// Which records.
    pub filter: LogFilter,
}

/// Where an access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(Arc<str>),
}

/// The form of a log line.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// Text; the format brings its own line end.
    Text(Format),
    /// A JSON object on one line.
    Json(Vec<(String, JsonValue)>),
}

/// A value inside a JSON log line.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonValue {
    /// What a format makes: a number, or a string; `null` when its only operator has no value.
    Format(Format),
    /// The same, without numbers.
    Text(Format),
    /// JSON that stays as it is.
    Literal(String),
    /// Several.
    List(Vec<JsonValue>),
    /// An object.
    Object(Vec<(String, JsonValue)>),
}

/// Which records are written.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LogFilter {
    /// All.
    #[default]
    All,
    /// Those with one of these flags.
    ResponseFlags(Flags),
    /// Those with any flag.
    AnyFlag,
}

impl LogFilter {
    /// Whether a record is written.
    pub fn takes(&self, record: &Record) -> bool {
        match self {
            Self::All => true,
            Self::ResponseFlags(flags) => record.flags.intersects(*flags),
            Self::AnyFlag => !record.flags.is_empty(),
        }
    }
}

/// Envoy's default text format.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

impl AccessLog {
    /// Appends the line for a record to `out`, if the filter takes it.
    pub fn write(&self, facts: Facts<'_>, out: &mut String) {
        if !self.filter.takes(facts.record) {
            return;
        }
        match &self.format {
            LogFormat::Text(format) => format.render(facts, "-", out),
            LogFormat::Json(fields) => {
                write_object(fields, facts, out);
                out.push('\n');
            }
        }
    }
}

fn write_object(fields: &[(String, JsonValue)], facts: Facts<'_>, out: &mut String) {
    out.push('{');
    for (i, (name, value)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_string(name, out);
        out.push(':');
        write_value(value, facts, out);
    }
    out.push('}');
}

fn write_value(value: &JsonValue, facts: Facts<'_>, out: &mut String) {
    match value {
        JsonValue::Object(inner) => write_object(inner, facts, out),
        JsonValue::List(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(value, facts, out);
            }
            out.push(']');
        }
        JsonValue::Literal(text) => out.push_str(text),
        JsonValue::Format(format) | JsonValue::Text(format) => {
            let mut text = String::new();
            // A marker that no header can contain tells a missing value from the text "-".
            format.render(facts, "\u{0}", &mut text);
            let number = matches!(value, JsonValue::Format(_)) && format.is_number();
            match text.as_str() {
                "\u{0}" => out.push_str("null"),
                count if number => out.push_str(count),
                text => write_string(&text.replace('\u{0}', "-"), out),
            }
        }
    }
}

/// JSON string syntax (RFC 8259 section 7).
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                out.push_str("\\u00");
                out.push(char::from_digit(c as u32 >> 4, 16).unwrap_or('0'));
                out.push(char::from_digit(c as u32 & 15, 16).unwrap_or('0'));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RequestHead;

    fn line(format: LogFormat, filter: LogFilter, flags: Flags) -> String {
        let address = "10.0.0.1:80".parse().unwrap();
        let mut record = Record::begin(std::time::UNIX_EPOCH, address, address);
        record.flags = flags;
        let mut request = RequestHead { method: "GET".into(), ..Default::default() };
        request.headers.append("x", "a\"\u{1}");
        let mut out = String::new();
        AccessLog { sink: Sink::Stdout, format, filter }
            .write(Facts { record: &record, request: &request, response: None }, &mut out);
        out
    }

    #[test]
    fn json_keeps_types_and_escapes() {
        let f = |t: &str| JsonValue::Format(Format::parse(t).unwrap());
        let json = LogFormat::Json(vec![
            ("m".into(), f("%REQ(:METHOD)%")),
            ("none".into(), f("%UPSTREAM_HOST%")),
            ("in".into(), JsonValue::Object(vec![("x".into(), f("%REQ(X)% %REQ(Y)%"))])),
            (
                "of".into(),
                JsonValue::List(vec![f("%BYTES_SENT%"), f("%BYTES_SENT% B"), JsonValue::Literal("true".into())]),
            ),
            ("text".into(), JsonValue::Text(Format::parse("%BYTES_SENT%").unwrap())),
        ]);
        assert_eq!(
            line(json, LogFilter::All, Flags::NONE),
            "{\"m\":\"GET\",\"none\":null,\"in\":{\"x\":\"a\\\"\\u0001 -\"},\"of\":[0,\"0 B\",true],\"text\":\"0\"}\n"
        );
    }

    #[test]
    fn filters_hold_back() {
        let text = || LogFormat::Text(Format::text("x\n"));
        assert_eq!(line(text(), LogFilter::ResponseFlags(Flags::NO_ROUTE), Flags::NONE), "");
        assert_eq!(line(text(), LogFilter::ResponseFlags(Flags::NO_ROUTE), Flags::NO_ROUTE), "x\n");
        assert!(Format::parse(DEFAULT_FORMAT).is_ok());
    }
}
