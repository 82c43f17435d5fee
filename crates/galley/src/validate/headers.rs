//! Names and values of headers (istio `pkg/config/validation`, Envoy's header formatter).

use super::Findings;
use crate::istio::virtual_service::{HeaderOperations, Headers};

/// RFC 9110 token.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

const PSEUDO: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

/// A header that is matched: pseudo headers and claims of tokens too.
pub(super) fn matched_name(name: &str) -> Result<(), String> {
    if is_claim(name) { Ok(()) } else { read_name(name) }
}

/// A header that is read: pseudo headers too.
pub(super) fn read_name(name: &str) -> Result<(), String> {
    if is_token(name) || PSEUDO.contains(&name) {
        return Ok(());
    }
    Err(format!("{name:?} is not a header's name"))
}

/// `@request.auth.claims.sub` or `@request.auth.claims[a][b]`.
pub(crate) fn is_claim(name: &str) -> bool {
    name.get(..20).is_some_and(|head| head.eq_ignore_ascii_case("@request.auth.claims"))
        && name[20..].starts_with(['.', '['])
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

pub(super) fn check(path: &str, headers: Option<&Headers>, findings: &mut Findings) {
    let Some(headers) = headers else { return };
    if let Some(request) = &headers.request {
        operations(&format!("{path}.request"), request, true, findings);
    }
    if let Some(response) = &headers.response {
        operations(&format!("{path}.response"), response, false, findings);
    }
}

/// How often a request's authority is set.
pub(super) fn authorities(headers: Option<&Headers>) -> usize {
    let request = headers.and_then(|headers| headers.request.as_ref());
    request.map_or(0, |request| request.set.keys().chain(request.add.keys()).filter(|name| is_authority(name)).count())
}

fn operations(path: &str, operations: &HeaderOperations, authority: bool, findings: &mut Findings) {
    for (what, edits) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, text) in edits {
            let at = format!("{path}.{what}[{name:?}]");
            if !(authority && is_authority(name)) {
                findings.check(&at, edited_name(name));
            }
            findings.check(&at, value(text));
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        findings.check(&format!("{path}.remove[{index}]"), edited_name(name));
    }
}

fn edited_name(name: &str) -> Result<(), String> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(format!("the header {name:?} cannot be edited here"));
    }
    if is_token(name) { Ok(()) } else { Err(format!("{name:?} is not a header's name")) }
}

/// No control characters, and `%` only as `%%` or around a variable: `%NAME%`, `%NAME(arguments)%`.
fn value(text: &str) -> Result<(), String> {
    if text.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err("a header's value has no control characters".to_owned());
    }
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(literal) = after.strip_prefix('%') {
            rest = literal;
            continue;
        }
        let open = || Err(format!("a % of {text:?} is not closed; write %% for a percent sign"));
        let Some(end) = after.find(['%', '(']) else { return open() };
        let Some(arguments) = after[end..].strip_prefix('(') else {
            rest = &after[end + 1..];
            continue;
        };
        let Some((_, closed)) = arguments.split_once(")%").or_else(|| arguments.split_once("):")) else {
            return open();
        };
        // `%REQ(X):10%` cuts the value off at a length.
        rest = if arguments.len() - closed.len() >= 2 && arguments[..arguments.len() - closed.len()].ends_with("):") {
            let Some((_, after_length)) = closed.split_once('%') else { return open() };
            after_length
        } else {
            closed
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for good in ["", "foo", "100%%", "%HOSTNAME%", "a %REQ(X-A)% b", "%REQ(:path):10%", "\ta"] {
            assert_eq!(value(good), Ok(()), "{good}");
        }
        for bad in ["%", "abc%123", "%START_TIME%%", "%REQ(", "%REQ(x)", "a\nb", "\0"] {
            assert!(value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn claims() {
        assert!(is_claim("@request.auth.claims.sub"));
        assert!(is_claim("@request.auth.claims[a][b]"));
        assert!(!is_claim("@request.auth.claims"));
        assert!(!is_claim("request.auth.claims.sub.and.more"));
    }
}
