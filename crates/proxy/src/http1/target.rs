//! What a request is for: the target of its first line, in its four forms, and `host` (RFC 9112 section 3.2).

use lateen_traffic::{Protocol, RequestHead};

use super::head::{BadRequest, RequestRules};

/// Works out authority and path from the request target and `host`.
pub fn read(
    target: &str,
    host: Option<&[u8]>,
    rules: RequestRules<'_>,
    head: &mut RequestHead,
) -> Result<(), BadRequest> {
    if !target.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Err(BadRequest::Codec);
    }
    let mut authority: Option<&[u8]> = host;
    if head.method == "CONNECT" {
        if target.contains('/') || !target.contains(':') {
            return Err(BadRequest::Codec);
        }
        authority = Some(host_of(target)?.as_bytes());
    } else if target.starts_with('/') {
        head.path.push_str(target);
    } else if target == "*" {
        if head.method != "OPTIONS" {
            return Err(BadRequest::InvalidUrl);
        }
        head.path.push('*');
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(BadRequest::Codec)?;
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (target_authority, path) = rest.split_at(at);
        authority = Some(host_of(target_authority)?.as_bytes());
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(BadRequest::InvalidScheme);
        }
        head.scheme.push_str(&scheme.to_ascii_lowercase());
        if head.scheme == "https" && !rules.https {
            return Err(BadRequest::HttpsInClear);
        }
        // A query alone is left as it is: no route is found for it.
        head.path.push_str(if path.is_empty() { "/" } else { path });
    }
    let default = rules.http1.default_host.as_deref().filter(|_| head.protocol == Protocol::Http10);
    let authority = match (authority, default) {
        (Some(a), _) => std::str::from_utf8(a).map_err(|_| BadRequest::InvalidAuthority)?,
        (None, Some(default)) => default,
        (None, None) => {
            head.authority_missing = true;
            return Err(BadRequest::MissingHost);
        }
    };
    if !valid_authority(authority) {
        return Err(BadRequest::InvalidAuthority);
    }
    head.authority.push_str(authority);
    Ok(())
}

/// Host and port of a URL's authority: whom the URL names as user is nobody's affair here, and a rule about hosts must
/// not take the user for one (RFC 9110 section 4.2.4).
fn host_of(authority: &str) -> Result<&str, BadRequest> {
    if !valid_authority(authority) {
        return Err(BadRequest::Codec);
    }
    let host = authority.split_once('@').map_or(authority, |(_, host)| host);
    let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or("", |(_, port)| port);
    let named = host.find([':', '@']) != Some(0) && !host.is_empty() && !host.contains('@');
    if named && (port.is_empty() || port.parse::<u16>().is_ok()) { Ok(host) } else { Err(BadRequest::InvalidUrl) }
}

/// Characters an authority may have (RFC 3986 section 3.2).
pub fn valid_authority(authority: &str) -> bool {
    authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]%".contains(&b))
}
