//! When endpoints are taken out: a DestinationRule's outlierDetection.
//!
//! Source: Istio `core/cluster_traffic_policy.go` (applyOutlierDetection).

use lateen_galley::istio::destination_rule::OutlierDetection;
use std::time::Duration;

/// Outlier detection of a cluster. Counts that are absent are the proxy's to choose; 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outlier {
    pub consecutive_5xx: Option<u32>,
    pub consecutive_gateway: Option<u32>,
    /// Failures without an answer count apart.
    pub split_local: bool,
    pub consecutive_local: Option<u32>,
    pub interval: Option<Duration>,
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_percent: Option<u32>,
    /// With fewer healthy endpoints, in percent, health is disregarded.
    pub min_health_percent: u32,
    /// The statuses that are failures, if not those of 5xx.
    pub statuses: Vec<u16>,
}

impl Outlier {
    /// What a rule says.
    pub fn of(rule: &OutlierDetection) -> Outlier {
        let positive = |value: i32| u32::try_from(value).ok().filter(|value| *value > 0);
        let (mut consecutive_5xx, mut consecutive_gateway) =
            (rule.consecutive_5xx_errors, rule.consecutive_gateway_errors);
        // Rules of Istio 1.4 and before meant answers of 502, 503 and 504, and no others (istio/api pull request 617).
        if let (None, None, Some(errors)) = (consecutive_5xx, consecutive_gateway, positive(rule.consecutive_errors)) {
            (consecutive_5xx, consecutive_gateway) = (Some(0), Some(errors));
        }
        let split_local = rule.split_external_local_origin_errors;
        Outlier {
            consecutive_5xx,
            consecutive_gateway,
            split_local,
            consecutive_local: rule.consecutive_local_origin_failures.filter(|count| split_local && *count > 0),
            interval: rule.interval.map(Into::into),
            base_ejection_time: rule.base_ejection_time.map(Into::into),
            max_ejection_percent: positive(rule.max_ejection_percent),
            min_health_percent: positive(rule.min_health_percent).unwrap_or(0),
            statuses: rule
                .outlier_detection_http_error_codes
                .iter()
                .filter_map(|code| u16::try_from(*code).ok())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_row_meant_those_of_gateways() {
        let of = |rule: OutlierDetection| {
            let outlier = Outlier::of(&rule);
            (outlier.consecutive_5xx, outlier.consecutive_gateway)
        };
        let old = OutlierDetection { consecutive_errors: 3, ..Default::default() };
        assert_eq!(of(old.clone()), (Some(0), Some(3)));
        assert_eq!(of(OutlierDetection { consecutive_5xx_errors: Some(7), ..old.clone() }), (Some(7), None));
        assert_eq!(of(OutlierDetection { consecutive_gateway_errors: Some(0), ..old }), (None, Some(0)));
        assert_eq!(of(OutlierDetection::default()), (None, None));
    }
}
