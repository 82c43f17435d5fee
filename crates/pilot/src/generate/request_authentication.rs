//! The filter that verifies tokens, by RequestAuthentications.
//!
//! Source: Istio `pilot/pkg/security/authn/policy_applier.go` (convertToEnvoyJwtConfig). A request without a token passes,
//! one with a bad one does not.

use super::wire;
use crate::rules::{Access, JwtKeys};
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList,
    JwtRequirementOrList, RequirementRule, jwt_provider::JwksSourceSpecifier, jwt_provider::NormalizePayload,
    jwt_requirement::RequiresType, requirement_rule::RequirementType,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use std::collections::BTreeSet;

/// The filter's name, under which other filters find what tokens say.
pub const FILTER: &str = "envoy.filters.http.jwt_authn";
/// The key under which they find it.
pub const PAYLOAD: &str = "payload";

/// A key set with one key that nobody has the private part of: it verifies nothing.
const NO_KEYS: &str = concat!(
    r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"keys-that-could-not-be-had","#,
    r#""x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#
);

/// The filter; none if there are no tokens to verify. `reroutes`: routes may ask for what tokens say.
pub fn filter(access: &Access, reroutes: bool) -> Option<HttpFilter> {
    if access.tokens.is_empty() {
        return None;
    }
    let mut config = JwtAuthentication { bypass_cors_preflight: true, ..Default::default() };
    let (mut each, mut or_missing) = (Vec::new(), Vec::new());
    for (index, keys) in access.tokens.iter().enumerate() {
        let name = format!("origins-{index}");
        config.providers.insert(name.clone(), provider(keys, reroutes));
        let good = requirement(RequiresType::ProviderName(name));
        or_missing.push(any(vec![good.clone(), requirement(RequiresType::AllowMissing(Default::default()))]));
        each.push(good);
    }
    let requires = match or_missing.pop() {
        Some(only) if or_missing.is_empty() => only,
        last => {
            or_missing.extend(last);
            // Providers that read the same place would each refuse the other's tokens.
            each.push(requirement(RequiresType::RequiresAll(JwtRequirementAndList { requirements: or_missing })));
            any(each)
        }
    };
    config.rules.push(RequirementRule {
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }),
        requirement_type: Some(RequirementType::Requires(requires)),
    });
    Some(HttpFilter {
        name: FILTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(wire::any(&config))),
        ..Default::default()
    })
}

fn requirement(requires: RequiresType) -> JwtRequirement {
    JwtRequirement { requires_type: Some(requires) }
}

fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requirement(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
}

fn provider(JwtKeys { rule, keys }: &JwtKeys, reroutes: bool) -> JwtProvider {
    let keys = match keys {
        Some(keys) => keys.to_string(),
        None => NO_KEYS.to_owned(),
    };
    let split: BTreeSet<String> =
        ["permission", "scope"].map(str::to_owned).into_iter().chain(rule.space_delimited_claims.clone()).collect();
    JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        forward_payload_header: rule.output_payload_to_header.clone(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload { space_delimited_claims: split.into_iter().collect() }),
        clear_route_cache: reroutes,
        claim_to_headers: rule
            .output_claim_to_headers
            .iter()
            .map(|claim| JwtClaimToHeader {
                header_name: claim.header.clone(),
                claim_name: claim.claim.clone(),
                ..Default::default()
            })
            .collect(),
        from_headers: rule
            .from_headers
            .iter()
            .map(|header| JwtHeader { name: header.name.clone(), value_prefix: header.prefix.clone() })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(keys)),
            ..Default::default()
        })),
        ..Default::default()
    }
}
