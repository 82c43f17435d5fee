//! RequestAuthentication: istio `pkg/config/validation/validation.go` (ValidateRequestAuthentication), and the limits of
//! its custom resource definition.

use serde_json::Value;

use super::{Findings, headers, policy_target, shared};
use crate::istio::RequestAuthentication;
use crate::istio::request_authentication::JwtRule;

const MOST_RULES: usize = 4096;
const LONGEST_URI: usize = 2048;

pub(super) fn check(spec: &RequestAuthentication, findings: &mut Findings) {
    policy_target::check(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, findings);
    if spec.jwt_rules.len() > MOST_RULES {
        findings.error("spec.jwtRules", format!("more than {MOST_RULES}"));
    }
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        jwt_rule(&format!("spec.jwtRules[{index}]"), rule, findings);
    }
}

fn jwt_rule(path: &str, rule: &JwtRule, findings: &mut Findings) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        findings.error(path, "one of issuer and jwksUri is needed");
    }
    let discovered = rule.jwks_uri.is_empty() && rule.jwks.is_empty() && !rule.issuer.is_empty();
    if discovered && let Err(why) = uri(&rule.issuer) {
        let message = format!("there is neither jwks nor jwksUri, and no keys can be had from the issuer: {why}");
        findings.warning(path, format!("{message}; its tokens will all be refused"));
    }
    if !rule.jwks_uri.is_empty() && !rule.jwks.is_empty() {
        findings.error(path, "only one of jwks and jwksUri may be set");
    }
    if !rule.jwks_uri.is_empty() {
        findings.check(&format!("{path}.jwksUri"), uri(&rule.jwks_uri));
    }
    if !rule.jwks.is_empty() {
        jwks(&format!("{path}.jwks"), &rule.jwks, findings);
    }
    for (name, list) in [
        ("audiences", &rule.audiences),
        ("fromParams", &rule.from_params),
        ("fromCookies", &rule.from_cookies),
        ("spaceDelimitedClaims", &rule.space_delimited_claims),
    ] {
        for (index, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            findings.error(format!("{path}.{name}[{index}]"), "must not be empty");
        }
    }
    for (index, header) in rule.from_headers.iter().enumerate() {
        findings.check(&format!("{path}.fromHeaders[{index}].name"), header_name(&header.name));
    }
    if !rule.output_payload_to_header.is_empty() {
        findings.check(&format!("{path}.outputPayloadToHeader"), header_name(&rule.output_payload_to_header));
    }
    for (index, claim) in rule.output_claim_to_headers.iter().enumerate() {
        let at = format!("{path}.outputClaimToHeaders[{index}]");
        findings.check(&format!("{at}.header"), header_name(&claim.header));
        if claim.claim.is_empty() {
            findings.error(format!("{at}.claim"), "required");
        }
    }
    shared::given_duration(&format!("{path}.timeout"), rule.timeout, findings);
}

fn header_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("required".to_owned()),
        name if headers::is_token(name) => Ok(()),
        name => Err(format!("{name:?} is not a header's name")),
    }
}

fn uri(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_URI {
        return Err(format!("longer than {LONGEST_URI} bytes"));
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else { return Err(format!("{text:?} begins with neither http:// nor https://")) };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() || host.contains('@') || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{text:?} names no host"));
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() => Err(format!("{port:?} is no port")),
        _ => Ok(()),
    }
}

/// A key set (RFC 7517 section 5), or one key alone. Which keys can be used is the proxy's to tell.
fn jwks(path: &str, text: &str, findings: &mut Findings) {
    let Ok(Value::Object(set)) = serde_json::from_str(text) else {
        return findings.error(path, "is no JSON Web Key Set");
    };
    let keys = match set.get("keys") {
        Some(Value::Array(keys)) => keys.clone(),
        None if set.contains_key("kty") => vec![Value::Object(set)],
        _ => return findings.error(path, "is no JSON Web Key Set: it has no keys"),
    };
    let whole = |key: &Value| {
        let given = |names: &[&str]| names.iter().all(|name| key.get(name).and_then(Value::as_str).is_some());
        match key.get("kty").and_then(Value::as_str) {
            Some("RSA") => given(&["n", "e"]),
            Some("EC") => given(&["x", "y"]),
            Some("OKP") => given(&["x"]),
            Some("oct") => given(&["k"]),
            _ => false,
        }
    };
    // Proxies refuse a whole listener for a set without any.
    if !keys.iter().any(whole) {
        findings.error(path, "has no whole key of type RSA, EC, OKP or oct");
    }
    for (index, key) in keys.iter().enumerate() {
        let member = |name: &str| key.get(name).and_then(Value::as_str);
        if member("kty").is_none() {
            findings.error(format!("{path}: keys[{index}]"), "has no kty");
        }
        if ["d", "p", "k"].iter().any(|secret| member(secret).is_some()) {
            let message = "holds a private key; only public keys verify tokens, and every proxy is told this one";
            findings.warning(format!("{path}: keys[{index}]"), message);
        }
    }
}
