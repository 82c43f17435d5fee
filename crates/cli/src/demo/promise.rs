//! What an example promises: how its VirtualService divides requests between versions, and whether what came back keeps
//! to it.

use std::collections::BTreeMap;

use serde_json::Value;

/// Standard deviations an honest split may be off: more happens once in 15,000 runs.
const TOLERANCE: f64 = 4.0;

/// The share of requests each version is to get; shares sum to 1.
#[derive(Debug, PartialEq)]
pub struct Promise {
    pub shares: BTreeMap<String, f64>,
}

/// One version's part in what came back.
#[derive(Debug, PartialEq)]
pub struct Part {
    pub version: String,
    /// Promised, from 0 to 1.
    pub share: f64,
    pub count: u64,
    /// How many answers more or less than promised are chance.
    pub tolerance: f64,
}

impl Part {
    /// Whether the count is what chance makes of the promise.
    pub fn kept(&self, answers: u64) -> bool {
        (self.count as f64 - answers as f64 * self.share).abs() <= self.tolerance
    }
}

impl Promise {
    /// Reads the weights of the first route of the first VirtualService; a subset stands for the version its
    /// DestinationRule's labels name. `None` when the manifests hold no weighted route of that shape.
    pub fn read(manifests: &[Value]) -> Option<Promise> {
        let of_kind = |kind: &'static str| manifests.iter().filter(move |manifest| manifest["kind"] == kind);
        let version_of = |subset: &str| {
            of_kind("DestinationRule")
                .filter_map(|rule| rule.pointer("/spec/subsets")?.as_array())
                .flatten()
                .find(|candidate| candidate["name"] == subset)
                .and_then(|found| found.pointer("/labels/version")?.as_str())
        };
        let routes = of_kind("VirtualService").next()?.pointer("/spec/http/0/route")?.as_array()?;
        let mut shares = BTreeMap::new();
        for route in routes {
            let version = version_of(route.pointer("/destination/subset")?.as_str()?)?;
            *shares.entry(version.to_string()).or_insert(0.0) += route["weight"].as_f64()?;
        }
        let sum: f64 = shares.values().sum();
        if sum <= 0.0 {
            return None;
        }
        shares.values_mut().for_each(|share| *share /= sum);
        Some(Promise { shares })
    }

    /// Compares the promise with the answers by version. A version nobody promised has a part with share 0.
    pub fn compare(&self, answers: &BTreeMap<String, u64>) -> Vec<Part> {
        let total: u64 = answers.values().sum();
        let mut parts: Vec<Part> = self
            .shares
            .iter()
            .map(|(version, &share)| Part {
                version: version.clone(),
                share,
                count: answers.get(version).copied().unwrap_or(0),
                tolerance: TOLERANCE * (total as f64 * share * (1.0 - share)).sqrt(),
            })
            .collect();
        let strangers = answers.iter().filter(|(version, _)| !self.shares.contains_key(*version));
        parts.extend(strangers.map(|(version, &count)| Part {
            version: version.clone(),
            share: 0.0,
            count,
            tolerance: 0.0,
        }));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_example_promises_90_to_10() {
        let elsewhere = tempfile::tempdir().unwrap();
        let folder = super::super::canary::folder(elsewhere.path()).unwrap();
        let promise = Promise::read(&super::super::canary::manifests(&folder).unwrap()).unwrap();
        assert_eq!(promise.shares, BTreeMap::from([("v1".to_string(), 0.9), ("v2".to_string(), 0.1)]));
    }

    #[test]
    fn a_promise_is_kept_within_four_deviations() {
        let promise = Promise { shares: BTreeMap::from([("v1".to_string(), 0.9), ("v2".to_string(), 0.1)]) };
        let kept = |v1: u64, v2: u64| {
            let answers = BTreeMap::from([("v1".to_string(), v1), ("v2".to_string(), v2)]);
            promise.compare(&answers).iter().all(|part| part.kept(v1 + v2))
        };
        // 2000 * 0.9 * 0.1 = 180, whose root is 13.4: 53 more or less are chance.
        assert!(kept(1800, 200) && kept(1853, 147) && kept(1747, 253));
        assert!(!kept(1854, 146) && !kept(1746, 254) && !kept(2000, 0));
    }

    #[test]
    fn a_version_nobody_promised_breaks_it() {
        let promise = Promise { shares: BTreeMap::from([("v1".to_string(), 1.0)]) };
        let parts = promise.compare(&BTreeMap::from([("v1".to_string(), 99), ("v3".to_string(), 1)]));
        assert_eq!(parts.iter().filter(|part| part.kept(100)).count(), 0);
    }

    #[test]
    fn what_promises_nothing() {
        assert_eq!(Promise::read(&[]), None);
        let weightless = serde_json::json!({"kind": "VirtualService", "spec": {"http": [{"route": [
            {"destination": {"host": "a"}}]}]}});
        assert_eq!(Promise::read(&[weightless]), None);
    }
}
