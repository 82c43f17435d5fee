//! The CORS policies of routes.
//!
//! - reject: malformed patterns
//! - note: runtime keys (there is no runtime)

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy as PbCorsPolicy;
use lateen_traffic::filter::cors::CorsPolicy;
use lateen_traffic::filter::fault::Percentage;

use super::fault::share;
use super::matcher::string;
use super::reject::{At as _, Notes, Reject, each, note_if_set};

pub(super) fn cors_policy(value: PbCorsPolicy, notes: &mut Notes) -> Result<CorsPolicy, Reject> {
    let PbCorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    } = value;
    Ok(CorsPolicy {
        allow_origins: each("allow_origin_string_match", allow_origin_string_match, string)?,
        allow_methods: allow_methods.into(),
        allow_headers: allow_headers.into(),
        expose_headers: expose_headers.into(),
        max_age: max_age.into(),
        allow_credentials: allow_credentials.map(|on| on.value),
        allow_private_network: allow_private_network_access.map(|on| on.value),
        forward_unmatched_preflights: forward_not_matching_preflights.map(|on| on.value),
        enabled: fraction(filter_enabled, notes).at("filter_enabled")?,
        shadow: fraction(shadow_enabled, notes).at("shadow_enabled")?,
    })
}

fn fraction(value: Option<RuntimeFractionalPercent>, notes: &mut Notes) -> Result<Option<Percentage>, Reject> {
    let Some(RuntimeFractionalPercent { default_value, runtime_key }) = value else { return Ok(None) };
    note_if_set!(notes, "CorsPolicy": runtime_key);
    share(default_value).at("default_value").map(Some)
}
