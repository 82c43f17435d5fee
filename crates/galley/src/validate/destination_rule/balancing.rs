//! Load balancing.

use std::collections::BTreeSet;

use crate::istio::destination_rule::{
    ConsistentHashLb, Failover, HashAlgorithm, HashKey, LbPolicy, LoadBalancerSettings, LocalityLoadBalancerSetting,
    SimpleLb, WarmupConfiguration,
};
use crate::validate::{Findings, headers, shared};

/// Labels that Istio derives from a locality.
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Envoy's largest ring.
const LARGEST_RING: u64 = 8 << 20;
/// Envoy's largest Maglev table.
const LARGEST_TABLE: u64 = 5_000_011;

pub(super) fn check(path: &str, settings: &LoadBalancerSettings, detects_outliers: bool, findings: &mut Findings) {
    if let Some(LbPolicy::ConsistentHash(hash)) = &settings.policy {
        consistent_hash(&format!("{path}.consistentHash"), hash, findings);
    }
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        findings.error(path, "only one of localityLbSetting, zoneAwareLbSetting can be given");
    }
    if let Some(locality) = &settings.locality_lb_setting {
        localities(&format!("{path}.localityLbSetting"), locality, detects_outliers, findings);
    }
    if let Some(zones) = &settings.zone_aware_lb_setting {
        let at = format!("{path}.zoneAwareLbSetting");
        for label in &zones.failover_priority {
            if TOPOLOGY.contains(&label.as_str()) {
                findings.error(format!("{at}.failoverPriority"), format!("{label:?} is taken into account already"));
            }
        }
        failover(&at, &zones.failover, findings);
        if zones.min_cluster_size == Some(0) {
            findings.error(format!("{at}.minClusterSize"), "1 at least");
        }
    }
    if let Some(warmup) = &settings.warmup {
        warm_up(&format!("{path}.warmup"), warmup, findings);
    }
    shared::given_duration(&format!("{path}.warmupDurationSecs"), settings.warmup_duration_secs, findings);
    let takes_turns = match settings.policy {
        Some(LbPolicy::ConsistentHash(_)) => false,
        Some(LbPolicy::Simple(simple)) => !matches!(simple, SimpleLb::Random | SimpleLb::Passthrough),
        None => true,
    };
    let given =
        [("warmup", settings.warmup.is_some()), ("warmupDurationSecs", settings.warmup_duration_secs.is_some())];
    for (field, _) in given.into_iter().filter(|(_, given)| *given && !takes_turns) {
        findings.warning(format!("{path}.{field}"), "acts with LEAST_REQUEST and ROUND_ROBIN alone, as in Envoy");
    }
}

fn consistent_hash(path: &str, hash: &ConsistentHashLb, findings: &mut Findings) {
    match &hash.key {
        None => {
            findings.error(path, "one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName is needed")
        }
        Some(HashKey::HttpCookie(cookie)) => {
            if cookie.name.is_empty() {
                findings.error(format!("{path}.httpCookie.name"), "required");
            }
            let mut seen = BTreeSet::new();
            let texts = cookie.attributes.iter().flat_map(|attribute| [&attribute.name, &attribute.value]);
            if texts.chain([&cookie.name, &cookie.path]).any(|text| text.contains(|c: char| c == ';' || c.is_control()))
            {
                findings.error(
                    format!("{path}.httpCookie"),
                    "name, path and attributes cannot hold semicolons or control characters",
                );
            }
            for (index, attribute) in cookie.attributes.iter().enumerate() {
                let at = format!("{path}.httpCookie.attributes[{index}].name");
                if attribute.name.is_empty() {
                    findings.error(at, "required");
                } else if !seen.insert(&attribute.name) {
                    findings.error(at, format!("{:?} is given twice", attribute.name));
                }
            }
        }
        Some(HashKey::HttpHeaderName(name)) => {
            findings.check(&format!("{path}.httpHeaderName"), headers::read_name(name));
        }
        Some(HashKey::HttpQueryParameterName(name)) if name.is_empty() => {
            findings.error(format!("{path}.httpQueryParameterName"), "required");
        }
        Some(HashKey::HttpQueryParameterName(_) | HashKey::UseSourceIp(_)) => {}
    }
    if hash.minimum_ring_size != 0 {
        findings.warning(format!("{path}.minimumRingSize"), "deprecated, use ringHash.minimumRingSize");
        if hash.algorithm.is_some() {
            findings.error(path, "only one of minimumRingSize, ringHash, maglev can be given");
        }
    }
    for (field, size) in [
        ("minimumRingSize", hash.minimum_ring_size),
        match &hash.algorithm {
            Some(HashAlgorithm::RingHash(ring)) => ("ringHash.minimumRingSize", ring.minimum_ring_size),
            Some(HashAlgorithm::Maglev(_)) | None => ("", 0),
        },
    ] {
        if size > LARGEST_RING {
            findings.error(format!("{path}.{field}"), format!("{size} places are more than {LARGEST_RING}"));
        }
    }
    if let Some(HashAlgorithm::Maglev(maglev)) = &hash.algorithm {
        let size = maglev.table_size;
        if size == 0 || size >= LARGEST_TABLE || !is_prime(size) {
            let message = format!("{size} is not a prime number below {LARGEST_TABLE}");
            findings.error(format!("{path}.maglev.tableSize"), message);
        }
    }
}

/// By trial division; only asked below [`LARGEST_TABLE`].
fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

pub(crate) fn localities(
    path: &str,
    setting: &LocalityLoadBalancerSetting,
    detects_outliers: bool,
    findings: &mut Findings,
) {
    let LocalityLoadBalancerSetting { distribute, failover: regions, failover_priority, enabled: _ } = setting;
    if !distribute.is_empty() && !regions.is_empty() {
        findings.error(path, "only one of distribute, failover can be given");
    }
    if !regions.is_empty() && failover_priority.iter().any(|label| TOPOLOGY.contains(&label.as_str())) {
        findings.error(format!("{path}.failoverPriority"), "topology labels do not go together with failover");
    }
    let mut sources = Vec::new();
    for (index, share) in distribute.iter().enumerate() {
        let at = format!("{path}.distribute[{index}]");
        sources.push(share.from.as_str());
        let total: u64 = share.to.values().map(|percent| u64::from(*percent)).sum();
        if total != 100 || share.to.values().any(|percent| *percent == 0) {
            findings.error(format!("{at}.to"), "the shares must be 1 to 100 each and 100 together");
        }
        overlaps(&format!("{at}.to"), share.to.keys().map(String::as_str), findings);
    }
    overlaps(&format!("{path}.distribute"), sources.into_iter(), findings);
    if (!regions.is_empty() || !failover_priority.is_empty()) && !detects_outliers {
        findings.warning(path, "failover needs outlierDetection to find out that endpoints fail");
    }
    failover(path, regions, findings);
}

fn overlaps<'a>(path: &str, localities: impl Iterator<Item = &'a str>, findings: &mut Findings) {
    let mut seen: Vec<&str> = Vec::new();
    for locality in localities {
        let bare = locality.strip_suffix('*').map_or(locality, |rest| rest.trim_end_matches('/'));
        let broken = bare.contains('*')
            || (locality != "*" && bare.split('/').any(str::is_empty))
            || bare.split('/').count() > 3;
        if broken {
            findings.error(path, format!("{locality:?} is not a locality: region/zone/subzone, * at the end"));
            continue;
        }
        let within = |outer: &str, inner: &str| {
            outer.is_empty() || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if let Some(other) = seen.iter().find(|other| within(other, bare) || within(bare, other)) {
            findings.error(path, format!("{locality:?} overlaps with {other:?}"));
        }
        seen.push(bare);
    }
}

fn failover(path: &str, regions: &[Failover], findings: &mut Findings) {
    for (index, region) in regions.iter().enumerate() {
        let at = format!("{path}.failover[{index}]");
        if region.from == region.to {
            findings.error(&at, "from and to must differ");
        }
        if [&region.from, &region.to].iter().any(|name| name.contains(['/', '*'])) {
            findings.error(&at, "from and to are regions: no zone, no wildcard");
        }
    }
}

fn warm_up(path: &str, warmup: &WarmupConfiguration, findings: &mut Findings) {
    match warmup.duration {
        Some(length) => findings.check(&format!("{path}.duration"), shared::duration(length)),
        None => findings.error(format!("{path}.duration"), "required"),
    }
    if warmup.minimum_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        findings.error(format!("{path}.minimumPercent"), "is not a percentage: 0 to 100");
    }
    if warmup.aggression.is_some_and(|aggression| aggression < 1.0) {
        findings.error(format!("{path}.aggression"), "1 at least");
    }
}
