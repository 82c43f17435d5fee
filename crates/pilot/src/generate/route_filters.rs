//! What routes say of HTTP filters: faults, and cross-origin requests.
//!
//! Source: Istio `core/route/route.go` (TranslateFault, TranslateCORSPolicy).

use super::{route_match, wire};
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy as EnvoyCorsPolicy};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::Any;
use lateen_galley::istio::virtual_service::{
    Abort, AbortError, CorsPolicy, Delay, DelayKind, HttpFaultInjection, HttpRoute, UnmatchedPreflights, grpc_status,
};
use lateen_galley::istio::{Percent, StringMatch};
use std::collections::HashMap;

const FAULT: &str = "envoy.filters.http.fault";
const CORS: &str = "envoy.filters.http.cors";

/// The filters that routes speak to. By themselves they do nothing.
pub fn filters() -> [HttpFilter; 2] {
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    [filter(FAULT, wire::any(&HttpFault::default())), filter(CORS, wire::any(&Cors::default()))]
}

/// What a route says of them.
pub fn of(http: &HttpRoute) -> HashMap<String, Any> {
    let fault = http.fault.as_ref().map(|fault| (FAULT.to_owned(), wire::any(&self::fault(fault))));
    let cors = http.cors_policy.as_ref().map(|policy| (CORS.to_owned(), wire::any(&cors(policy))));
    fault.into_iter().chain(cors).collect()
}

fn fault(fault: &HttpFaultInjection) -> HttpFault {
    HttpFault {
        delay: fault.delay.as_ref().and_then(delay),
        abort: fault.abort.as_ref().and_then(abort),
        ..Default::default()
    }
}

fn delay(delay: &Delay) -> Option<FaultDelay> {
    let Some(DelayKind::Fixed(time)) = delay.kind else { return None };
    Some(FaultDelay {
        percentage: Some(share(delay.percentage, delay.percent)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(wire::duration(time.get()))),
    })
}

fn abort(abort: &Abort) -> Option<FaultAbort> {
    let error = match abort.error.as_ref()? {
        AbortError::HttpStatus(status) => ErrorType::HttpStatus(u32::try_from(*status).ok()?),
        AbortError::GrpcStatus(name) => ErrorType::GrpcStatus(grpc_status(name)?),
        AbortError::Http2Error(_) => return None,
    };
    Some(FaultAbort {
        percentage: Some(share(abort.percentage, abort.percent)),
        error_type: Some(error),
        ..Default::default()
    })
}

/// Today's form in millionths, else the older one in percents. Neither is never.
fn share(percentage: Option<Percent>, percent: i32) -> FractionalPercent {
    match percentage {
        Some(share) => wire::millionths(share),
        None => FractionalPercent {
            numerator: u32::try_from(percent).unwrap_or(0),
            denominator: DenominatorType::Hundred.into(),
        },
    }
}

#[allow(deprecated)]
fn cors(policy: &CorsPolicy) -> EnvoyCorsPolicy {
    let exact = |origin: &String| MatchPattern::Exact(origin.clone());
    let origins: Vec<MatchPattern> = if policy.allow_origins.is_empty() {
        policy.allow_origin.iter().map(exact).collect()
    } else {
        policy.allow_origins.iter().filter_map(pattern).collect()
    };
    EnvoyCorsPolicy {
        allow_origin_string_match: origins
            .into_iter()
            .map(|pattern| StringMatcher { match_pattern: Some(pattern), ..Default::default() })
            .collect(),
        allow_methods: policy.allow_methods.join(","),
        allow_headers: policy.allow_headers.join(","),
        expose_headers: policy.expose_headers.join(","),
        max_age: policy.max_age.map(|age| age.get().as_secs().to_string()).unwrap_or_default(),
        allow_credentials: policy.allow_credentials.map(wire::truth),
        filter_enabled: Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() }),
            ..Default::default()
        }),
        forward_not_matching_preflights: Some(wire::truth(policy.unmatched_preflights != UnmatchedPreflights::Ignore)),
        ..Default::default()
    }
}

fn pattern(origin: &StringMatch) -> Option<MatchPattern> {
    Some(match origin {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(route_match::regex_matcher(regex)),
        StringMatch::Present => return None,
    })
}
