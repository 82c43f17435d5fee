//! Outlier detection in clusters.
//!
//! Source: Istio `core/cluster_traffic_policy.go` (applyOutlierDetection, applyOutlierDetectionErrorCodes).

use super::wire;
use crate::rules::Outlier;
use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::envoy::config::common::matcher::v3::{
    HttpHeadersMatch, MatchPredicate,
    match_predicate::{MatchSet, Rule},
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

/// The detection of a cluster.
pub fn detection(outlier: &Outlier) -> OutlierDetection {
    let enforcing = |count: u32| wire::number(if count > 0 { 100 } else { 0 });
    let mut message = OutlierDetection {
        // Istio compares no success rates.
        enforcing_success_rate: Some(wire::number(0)),
        consecutive_5xx: outlier.consecutive_5xx.map(wire::number),
        enforcing_consecutive_5xx: outlier.consecutive_5xx.map(enforcing),
        consecutive_gateway_failure: outlier.consecutive_gateway.map(wire::number),
        enforcing_consecutive_gateway_failure: outlier.consecutive_gateway.map(enforcing),
        interval: outlier.interval.map(wire::duration),
        base_ejection_time: outlier.base_ejection_time.map(wire::duration),
        max_ejection_percent: outlier.max_ejection_percent.map(wire::number),
        ..Default::default()
    };
    if outlier.split_local {
        message.split_external_local_origin_errors = true;
        message.consecutive_local_origin_failure = outlier.consecutive_local.map(wire::number);
        message.enforcing_consecutive_local_origin_failure = outlier.consecutive_local.map(enforcing);
        message.enforcing_local_origin_success_rate = Some(wire::number(0));
    }
    message
}

/// Which answers are failures, if the rule says it.
pub fn failures(outlier: &Outlier) -> Option<http_protocol_options::OutlierDetection> {
    let mut rules: Vec<MatchPredicate> = outlier.statuses.iter().map(|status| is(*status)).collect();
    let error_matcher = match rules.len() {
        0 => return None,
        1 => rules.pop(),
        _ => Some(MatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }),
    };
    Some(http_protocol_options::OutlierDetection { error_matcher })
}

fn is(status: u16) -> MatchPredicate {
    let exact = MatchPattern::Exact(status.to_string());
    let header = HeaderMatcher {
        name: ":status".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(exact),
            ..Default::default()
        })),
        ..Default::default()
    };
    MatchPredicate { rule: Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch { headers: vec![header] })) }
}
