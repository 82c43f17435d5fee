//! JSON Web Tokens: providers, and what is required of requests.
//!
//! - reject: keys that the proxy would have to fetch itself, requirements by filter state, tokens taken without being
//!   verified, what is told of failures
//! - note: the cache of verified tokens, statistics

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    self as pb, jwt_claim_to_header::PathSegment, jwt_provider::JwksSourceSpecifier, jwt_provider::NormalizePayload,
    jwt_requirement::RequiresType, per_route_config::RequirementSpecifier, requirement_rule::RequirementType,
};
use lateen_traffic::filter::Override;
use lateen_traffic::jwt::{JwtAuthn, KeySet, PerRoute, Place, Provider, Requirement};

use super::address::{duration, text};
use super::matcher::{field_name, string};
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::route::route_match;

/// Seconds by which clocks may differ unless it is said.
const LEEWAY: u64 = 60;

pub(super) fn jwt_authn(value: pb::JwtAuthentication, notes: &mut Notes) -> Result<JwtAuthn, Reject> {
    let pb::JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        bypass_cors_preflight,
        requirement_map,
        strip_failure_response,
        stat_prefix,
    } = value;
    reject_if_set!(filter_state_rules);
    note_if_set!(notes, "JwtAuthentication": stat_prefix);
    let mut all = Vec::with_capacity(providers.len());
    for (name, provider) in providers {
        let at = format!("providers[{name:?}]");
        all.push((Arc::from(name), self::provider(provider, notes).at(&at)?));
    }
    // The order decides which of two with the same issuer counts.
    all.sort_by(|(a, _), (b, _): &(Arc<str>, Provider)| a.cmp(b));
    let mut named: Vec<(Arc<str>, Requirement)> = Vec::with_capacity(requirement_map.len());
    for (name, value) in requirement_map {
        let at = format!("requirement_map[{name:?}]");
        // What demands nothing is always met.
        let requirement = requirement(value, &all, &[]).at(&at)?.unwrap_or(Requirement::All(Vec::new()));
        named.push((name.into(), requirement));
    }
    let rules = each("rules", rules, |rule| {
        let pb::RequirementRule { r#match, requirement_type } = rule;
        let matches = r#match.ok_or_else(|| Reject::field("match", "missing"))?;
        let requirement = match requirement_type {
            None => None,
            Some(RequirementType::Requires(value)) => requirement(value, &all, &[]).at("requires")?,
            Some(RequirementType::RequirementName(name)) => {
                let known = named.iter().find(|(n, _)| **n == *name).map(|(_, requirement)| requirement.clone());
                let unknown = || Reject::field("requirement_name", format_args!("{name:?} is not in requirement_map"));
                Some(known.ok_or_else(unknown)?)
            }
        };
        Ok((route_match(matches, notes).at("match")?, requirement))
    })?;
    Ok(JwtAuthn {
        providers: all,
        rules,
        named,
        bypass_preflight: bypass_cors_preflight,
        silent: strip_failure_response,
        filter: "envoy.filters.http.jwt_authn".into(),
    })
}

/// What a route says of the filter.
pub(super) fn per_route(value: pb::PerRouteConfig) -> Result<Override, Reject> {
    let pb::PerRouteConfig { requirement_specifier } = value;
    Ok(Override::Jwt(match requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => PerRoute::Nothing,
        Some(RequirementSpecifier::Disabled(false)) => return Err(Reject::field("disabled", "must be true")),
        Some(RequirementSpecifier::RequirementName(name)) => PerRoute::Named(name.into()),
        None => return Err(Reject::new("neither disabled nor requirement_name")),
    }))
}

fn provider(value: pb::JwtProvider, notes: &mut Notes) -> Result<Provider, Reject> {
    let pb::JwtProvider {
        issuer,
        audiences,
        subjects,
        require_expiration,
        max_lifetime,
        forward,
        from_headers,
        from_params,
        from_cookies,
        forward_payload_header,
        pad_forward_payload_header,
        payload_in_metadata,
        normalize_payload_in_metadata,
        header_in_metadata,
        failed_status_in_metadata,
        clock_skew_seconds,
        jwt_cache_config,
        claim_to_headers,
        clear_route_cache,
        jwks_source_specifier,
    } = value;
    reject_if_set!(failed_status_in_metadata);
    note_if_set!(notes, "JwtProvider": jwt_cache_config);
    let keys = match jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => keys(source).at("local_jwks")?,
        Some(JwksSourceSpecifier::RemoteJwks(_)) => return Err(Reject::field("remote_jwks", "not supported yet")),
        None => return Err(Reject::field("local_jwks", "missing")),
    };
    let mut places = each("from_headers", from_headers, |header| {
        let pb::JwtHeader { name, value_prefix } = header;
        Ok(Place::Header(field_name(&name).at("name")?, value_prefix))
    })?;
    places.extend(from_params.into_iter().map(Place::Param));
    places.extend(from_cookies.into_iter().map(Place::Cookie));
    if places.is_empty() {
        places = Place::usual();
    }
    let claim_headers = each("claim_to_headers", claim_to_headers, |claim| {
        let pb::JwtClaimToHeader { header_name, claim_name, claim_path } = claim;
        let path: Vec<String> = match (claim_name.is_empty(), claim_path.is_empty()) {
            (false, true) => claim_name.split('.').map(str::to_owned).collect(),
            (true, false) => claim_path.into_iter().map(|PathSegment { key }| key).collect(),
            _ => return Err(Reject::new("exactly one of claim_name and claim_path must be set")),
        };
        Ok((field_name(&header_name).at("header_name")?, path))
    })?;
    let payload_header = (!forward_payload_header.is_empty())
        .then(|| field_name(&forward_payload_header).at("forward_payload_header"))
        .transpose()?;
    let split_claims = normalize_payload_in_metadata
        .map(|NormalizePayload { space_delimited_claims }| space_delimited_claims)
        .unwrap_or_default();
    Ok(Provider {
        issuer,
        audiences,
        subjects: subjects.map(string).transpose().at("subjects")?,
        keys,
        places,
        require_expiration,
        max_lifetime: max_lifetime.map(|value| duration("max_lifetime", value)).transpose()?.map(|d| d.as_secs()),
        leeway: if clock_skew_seconds == 0 { LEEWAY } else { u64::from(clock_skew_seconds) },
        forward,
        payload_header,
        pad_payload: pad_forward_payload_header,
        claim_headers,
        payload_key: text(payload_in_metadata),
        split_claims,
        header_key: text(header_in_metadata),
        reroutes: clear_route_cache,
    })
}

fn keys(source: DataSource) -> Result<Arc<KeySet>, Reject> {
    let DataSource { specifier, watched_directory } = source;
    reject_if_set!(watched_directory);
    let text = match specifier {
        Some(Specifier::InlineString(text)) => text,
        Some(Specifier::InlineBytes(bytes)) => {
            String::from_utf8(bytes).map_err(|_| Reject::field("inline_bytes", "is no text"))?
        }
        Some(Specifier::Filename(_)) => return Err(Reject::field("filename", "not supported yet")),
        Some(Specifier::EnvironmentVariable(_)) => {
            return Err(Reject::field("environment_variable", "not supported yet"));
        }
        None => return Err(Reject::new("empty")),
    };
    KeySet::parse(&text).map(Arc::new).map_err(Reject::new)
}

type Providers = [(Arc<str>, Provider)];

/// `None`: nothing is required. `beside`: the providers that stand in a list with it.
fn requirement(
    value: pb::JwtRequirement,
    providers: &Providers,
    beside: &[usize],
) -> Result<Option<Requirement>, Reject> {
    let pb::JwtRequirement { requires_type } = value;
    let index = |name: &str| {
        let position = providers.iter().position(|(known, _)| **known == *name);
        position.ok_or_else(|| Reject::new(format_args!("required provider {name:?} is not configured")))
    };
    Ok(Some(match requires_type {
        None => return Ok(None),
        Some(RequiresType::ProviderName(name)) => Requirement::Provider(index(&name).at("provider_name")?, None),
        Some(RequiresType::ProviderAndAudiences(pb::ProviderWithAudiences { provider_name, audiences })) => {
            let index = index(&provider_name).at("provider_and_audiences.provider_name")?;
            Requirement::Provider(index, Some(audiences).filter(|audiences| !audiences.is_empty()))
        }
        Some(RequiresType::RequiresAny(pb::JwtRequirementOrList { requirements })) => {
            Requirement::Any(any(requirements, providers).at("requires_any")?)
        }
        Some(RequiresType::RequiresAll(pb::JwtRequirementAndList { requirements })) => {
            two(&requirements).at("requires_all")?;
            let all = each("requirements", requirements, |one| requirement(one, providers, &[])).at("requires_all")?;
            // What is not required is met.
            Requirement::All(all.into_iter().flatten().collect())
        }
        Some(RequiresType::AllowMissing(_)) => Requirement::AllowMissing(beside.to_vec()),
        Some(RequiresType::AllowMissingOrFailed(_)) => Requirement::AllowFailed(beside.to_vec()),
        Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
            return Err(Reject::field("extract_only_without_validation", "not supported yet"));
        }
    }))
}

fn two(requirements: &[pb::JwtRequirement]) -> Result<(), Reject> {
    if requirements.len() < 2 { Err(Reject::field("requirements", "must be at least two")) } else { Ok(()) }
}

/// As in Envoy, what lets requests without tokens pass comes last, and looks where the providers of its list do.
fn any(requirements: Vec<pb::JwtRequirement>, providers: &Providers) -> Result<Vec<Requirement>, Reject> {
    two(&requirements)?;
    let name = |one: &pb::JwtRequirement| match &one.requires_type {
        Some(RequiresType::ProviderName(name)) => Some(name.clone()),
        Some(RequiresType::ProviderAndAudiences(provider)) => Some(provider.provider_name.clone()),
        _ => None,
    };
    let indices: HashMap<&str, usize> = providers.iter().enumerate().map(|(at, (name, _))| (&**name, at)).collect();
    let beside: Vec<usize> =
        requirements.iter().filter_map(name).filter_map(|name| indices.get(&*name).copied()).collect();
    let all = each("requirements", requirements, |one| requirement(one, providers, &beside))?;
    let mut regular = Vec::with_capacity(all.len());
    let mut bypass: Option<Requirement> = None;
    for one in all {
        match one {
            // One without a demand is always met.
            None => return Ok(vec![Requirement::All(Vec::new())]),
            Some(one @ Requirement::AllowFailed(_)) => bypass = Some(one),
            Some(one @ Requirement::AllowMissing(_)) => bypass = Some(bypass.unwrap_or(one)),
            Some(one) => regular.push(one),
        }
    }
    regular.extend(bypass);
    Ok(regular)
}
