//! Checks that several of Istio's kinds have in common.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, names};
use crate::istio::virtual_service::Destination;
use crate::istio::{Duration, PortSelector, StringMatch};

/// Istio's limit; Envoy's programs grow with the expression.
const REGEX_LENGTH: usize = 1024;

/// What a compiled expression may take.
const REGEX_BYTES: usize = 4 << 20;

/// Protocols a port may name (istio `pkg/config/protocol`).
const PROTOCOLS: [&str; 12] =
    ["tcp", "udp", "grpc", "grpc-web", "http", "http_proxy", "http2", "https", "tls", "mongo", "redis", "mysql"];

pub(super) fn protocol(name: &str) -> Result<(), String> {
    if PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let known = PROTOCOLS.map(str::to_ascii_uppercase).join(", ");
    Err(format!("{name:?} is not a protocol; use one of {known}"))
}

pub(super) fn is_tls(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("https") || protocol.eq_ignore_ascii_case("tls")
}

pub(super) fn is_http(protocol: &str) -> bool {
    ["http", "http2", "http_proxy", "grpc", "grpc-web"].iter().any(|known| known.eq_ignore_ascii_case(protocol))
}

/// At least a millisecond, in whole milliseconds.
pub(super) fn duration(length: Duration) -> Result<(), String> {
    let nanos = length.get().as_nanos();
    if nanos < 1_000_000 {
        return Err(format!("{length} is too short: 1ms at least"));
    }
    if !nanos.is_multiple_of(1_000_000) {
        return Err(format!("{length} is finer than a millisecond"));
    }
    Ok(())
}

pub(super) fn given_duration(path: &str, length: Option<Duration>, findings: &mut Findings) {
    if let Some(length) = length {
        findings.check(path, duration(length));
    }
}

/// An RE2 expression. (Rust's `regex` has RE2's syntax and a little more.)
pub(super) fn regex(expression: &str) -> Result<(), String> {
    if expression.is_empty() {
        return Err("an expression must not be empty".to_owned());
    }
    if expression.len() > REGEX_LENGTH {
        return Err(format!("the expression is longer than {REGEX_LENGTH} bytes"));
    }
    match regex::RegexBuilder::new(expression).size_limit(REGEX_BYTES).build() {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err("the expression is too complex".to_owned()),
        Err(error) => {
            let said = error.to_string();
            let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err(format!("{expression:?} is not an RE2 expression: {reason}"))
        }
    }
}

/// A match whose prefix must not be empty.
pub(super) fn string_match(given: &StringMatch) -> Result<(), String> {
    match given {
        StringMatch::Prefix(prefix) if prefix.is_empty() => Err("a prefix must not be empty".to_owned()),
        StringMatch::Regex(expression) => regex(expression),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => Ok(()),
    }
}

pub(super) fn labels(path: &str, labels: &BTreeMap<String, String>, findings: &mut Findings) {
    for (name, value) in labels {
        findings.check(path, names::qualified_name(name));
        findings.check(&format!("{path}[{name:?}]"), names::label_value(value));
    }
}

pub(super) fn selector(path: &str, labels: &BTreeMap<String, String>, findings: &mut Findings) {
    for (name, value) in labels {
        let at = format!("{path}[{name:?}]");
        if name.is_empty() {
            findings.error(path, "a label's name must not be empty");
        }
        if name.contains('*') || value.contains('*') {
            findings.error(&at, "wildcards are not supported here");
        } else if value.len() > 63 {
            findings.error(&at, "a label's value has at most 63 characters");
        }
    }
}

pub(super) fn port_selector(path: &str, port: PortSelector, findings: &mut Findings) {
    findings.check(&format!("{path}.number"), names::port(port.number.into()));
}

pub(super) fn destination(path: &str, destination: &Destination, findings: &mut Findings) {
    let host = format!("{path}.host");
    match destination.host.as_str() {
        "" => findings.error(host, "required"),
        "*" => findings.error(host, "\"*\" is no destination"),
        name => findings.check(&host, names::wildcard_host(name)),
    }
    if !destination.subset.is_empty() {
        findings.check(&format!("{path}.subset"), names::label(&destination.subset));
    }
    if let Some(port) = destination.port {
        port_selector(&format!("{path}.port"), port, findings);
    }
}

/// Where weights may not be negative, nor all be 0 when there are several.
pub(super) fn weights(path: &str, weights: impl Iterator<Item = i32>, findings: &mut Findings) {
    let (mut count, mut total) = (0, 0i64);
    for (index, weight) in weights.enumerate() {
        if weight < 0 {
            findings.error(format!("{path}[{index}].weight"), format!("{weight} is less than 0"));
        }
        count += 1;
        total += i64::from(weight.max(0));
    }
    if count > 1 && total == 0 {
        findings.error(path, "of several destinations, at least one needs a weight above 0");
    }
    if total > i64::from(u32::MAX) {
        findings.error(path, "the sum of the weights is too large");
    }
}

/// `*`, `.` or namespaces; `~` where `nobody` allows it.
pub(super) fn export_to(own: &str, list: &[String], nobody: bool, findings: &mut Findings) {
    let path = "spec.exportTo";
    let mut seen = BTreeSet::new();
    for (index, entry) in list.iter().enumerate() {
        let at = format!("{path}[{index}]");
        match entry.as_str() {
            "*" | "." => {}
            "~" if nobody => {}
            "~" => findings.error(&at, "\"~\" (nobody) is for ServiceEntries only"),
            name if names::is_label(name) => {}
            name => findings.error(&at, format!("{name:?} is not a namespace, \".\" or \"*\"")),
        }
        let meant = if entry == "." { own } else { entry.as_str() };
        if !seen.insert(meant) {
            findings.error(&at, format!("{meant:?} is given twice"));
        }
    }
    if list.len() > 1 {
        for all_or_none in ["*", "~"] {
            if seen.contains(all_or_none) {
                findings.error(path, format!("{all_or_none:?} cannot be combined with anything"));
            }
        }
    }
}

/// `name` or `namespace/name` of gateways.
pub(super) fn gateway_names(path: &str, list: &[String], findings: &mut Findings) {
    for (index, name) in list.iter().enumerate() {
        let at = format!("{path}[{index}]");
        match name.split_once('/') {
            None => {
                if let Some((gateway, rest)) = name.split_once('.') {
                    let namespace = rest.split('.').next().unwrap_or_default();
                    findings.warning(&at, format!("write {name:?} as \"{namespace}/{gateway}\""));
                }
                findings.check(&at, names::fqdn(name));
            }
            Some((namespace, gateway)) => {
                findings.check(&at, names::label(namespace));
                findings.check(&at, names::label(gateway));
            }
        }
    }
}

/// Warns of fields of TLS, each with whether it is given and whether it has an effect, that are given for nothing.
pub(super) fn without_effect(path: &str, mode: &str, fields: &[(&str, bool, bool)], findings: &mut Findings) {
    for (field, given, effect) in fields {
        if *given && !effect {
            findings.warning(format!("{path}.{field}"), format!("has no effect in mode {mode}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for good in ["a", ".*", "/v[12]/(foo|bar)\\.html?", "(?i)abc", "^a$"] {
            assert_eq!(regex(good), Ok(()), "{good}");
        }
        for bad in ["", "*", "(", "a{2,1}", "(?=a)", "\\1"] {
            assert!(regex(bad).is_err(), "{bad}");
        }
        assert_eq!(regex("("), Err("\"(\" is not an RE2 expression: unclosed group".to_owned()));
        assert!(regex(&"a".repeat(1025)).is_err());
        assert_eq!(regex("(a{1000}){1000}"), Err("the expression is too complex".to_owned()));
    }
}
