//! Hash policies of routes: what of a request decides about its host.
//!
//! - reject: filter state, because no filter here makes any

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::route_action::{HashPolicy as PbHashPolicy, hash_policy as pb};
use envoy_types::pb::envoy::r#type::v3::{HashPolicy as PbTcpHashPolicy, hash_policy as tcp};
use lateen_traffic::hashing::{HashCookie, HashPolicy, HashSource};

use super::address::duration;
use super::matcher::{field_name, substitution};
use super::reject::{At as _, Reject};

/// `None`: it looks at nothing.
pub(super) fn hash_policy(policy: PbHashPolicy) -> Result<Option<HashPolicy>, Reject> {
    let PbHashPolicy { terminal, policy_specifier } = policy;
    let source = match policy_specifier {
        Some(pb::PolicySpecifier::Header(pb::Header { header_name, regex_rewrite })) => HashSource::Header {
            name: field_name(&header_name).at("header.header_name")?,
            rewrite: regex_rewrite.map(substitution).transpose().at("header.regex_rewrite")?,
        },
        Some(pb::PolicySpecifier::Cookie(cookie)) => HashSource::Cookie(Arc::new(self::cookie(cookie).at("cookie")?)),
        Some(pb::PolicySpecifier::ConnectionProperties(pb::ConnectionProperties { source_ip: true })) => {
            HashSource::SourceIp
        }
        Some(pb::PolicySpecifier::ConnectionProperties(pb::ConnectionProperties { source_ip: false })) => {
            return Ok(None);
        }
        Some(pb::PolicySpecifier::QueryParameter(pb::QueryParameter { name })) => {
            if name.is_empty() {
                return Err(Reject::field("query_parameter.name", "empty"));
            }
            HashSource::Query(name.into())
        }
        Some(pb::PolicySpecifier::FilterState(_)) => return Err(Reject::field("filter_state", "not supported yet")),
        None => return Err(Reject::new("no policy specifier")),
    };
    Ok(Some(HashPolicy { source, terminal }))
}

fn cookie(cookie: pb::Cookie) -> Result<HashCookie, Reject> {
    let pb::Cookie { name, ttl, path, attributes } = cookie;
    if name.is_empty() {
        return Err(Reject::field("name", "empty"));
    }
    let attributes: Vec<(String, String)> =
        attributes.into_iter().map(|pb::CookieAttribute { name, value }| (name, value)).collect();
    let parts = attributes.iter().flat_map(|(name, value)| [name, value]).chain([&name, &path]);
    if parts.into_iter().any(|part| part.contains(|c: char| c == ';' || c.is_control())) {
        return Err(Reject::new("name, path and attributes cannot hold semicolons or control characters"));
    }
    // Parts of a second do not count, as in Envoy.
    let ttl = ttl.map(|ttl| duration("ttl", ttl)).transpose()?.map(|ttl| ttl.as_secs());
    Ok(HashCookie { name, path, ttl, attributes })
}

/// Whether a TCP proxy hashes the client's address.
pub(super) fn hashes_source_ip(policies: Vec<PbTcpHashPolicy>) -> Result<bool, Reject> {
    let mut found = false;
    for PbTcpHashPolicy { policy_specifier } in policies {
        match policy_specifier {
            Some(tcp::PolicySpecifier::SourceIp(tcp::SourceIp {})) => found = true,
            Some(tcp::PolicySpecifier::FilterState(_)) => {
                return Err(Reject::field("hash_policy.filter_state", "not supported yet"));
            }
            None => return Err(Reject::field("hash_policy", "no policy specifier")),
        }
    }
    Ok(found)
}
