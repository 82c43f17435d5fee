//! Mirroring of routes.
//!
//! Source: Istio `core/route/route.go` (MirrorPercent, TranslateRequestMirrorPolicy).

use super::wire;
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use lateen_galley::istio::virtual_service::{Destination, HttpRoute};

/// The mirrors of a route. One with a share of zero is none.
pub fn of(http: &HttpRoute, cluster: &dyn Fn(Option<&Destination>) -> String) -> Vec<RequestMirrorPolicy> {
    let share = match (http.mirror_percentage, http.mirror_percent) {
        (Some(percent), _) => Some(wire::millionths(percent)),
        (None, Some(percent)) => Some(hundredths(percent)),
        (None, None) => Some(hundredths(100)),
    };
    let one = http.mirror.iter().filter_map(|to| Some(policy(cluster(Some(to)), share?)));
    let several = http.mirrors.iter().map(|mirror| {
        policy(
            cluster(mirror.destination.as_ref()),
            mirror.percentage.map_or_else(|| hundredths(100), wire::millionths),
        )
    });
    one.chain(several).filter(|policy| numerator(policy) > 0).collect()
}

fn numerator(policy: &RequestMirrorPolicy) -> u32 {
    policy.runtime_fraction.as_ref().and_then(|share| share.default_value).map_or(0, |share| share.numerator)
}

fn policy(cluster: String, share: FractionalPercent) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster,
        runtime_fraction: Some(RuntimeFractionalPercent { default_value: Some(share), ..Default::default() }),
        trace_sampled: Some(wire::truth(false)),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    }
}

fn hundredths(percent: u32) -> FractionalPercent {
    FractionalPercent { numerator: percent, denominator: DenominatorType::Hundred.into() }
}
