//! `/stats` as text and as JSON.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::cells::Distribution;
use super::snapshot::{Buckets, Snapshot, Value, buckets};

/// The quantiles Envoy shows, in percent.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

impl Snapshot {
    /// Lines of `name: value`, histograms last; one piece a scope. Values over Envoy's "interval" are not kept and
    /// written as `nan`, as Envoy does for an interval without samples.
    pub fn text(self, style: Buckets) -> impl Iterator<Item = String> + Send {
        let scopes = Arc::new(self.scopes);
        let again = scopes.clone();
        let plain = (0..scopes.len()).map(move |at| {
            let (scope, mut out) = (&scopes[at], String::new());
            for entry in &scope.entries {
                let value = match &entry.value {
                    Value::Counter(n) => i128::from(*n),
                    Value::Gauge { value, .. } => i128::from(*value),
                    Value::Histogram(_) => continue,
                };
                scope.full_name(entry, &mut out);
                // Writing to a String cannot fail.
                let _ = writeln!(out, ": {value}");
            }
            out
        });
        let histograms = (0..again.len()).map(move |at| {
            let (scope, mut out) = (&again[at], String::new());
            for entry in &scope.entries {
                if let Value::Histogram(d) = &entry.value {
                    scope.full_name(entry, &mut out);
                    out.push_str(": ");
                    write_histogram(d, style, &mut out);
                    out.push('\n');
                }
            }
            out
        });
        plain.chain(histograms).filter(|piece| !piece.is_empty())
    }

    /// The same as JSON, in Envoy's shape.
    pub fn json(self, style: Buckets) -> Json {
        let mut stats = Vec::new();
        let mut histograms = Vec::new();
        for scope in &self.scopes {
            for entry in &scope.entries {
                let mut name = String::new();
                scope.full_name(entry, &mut name);
                match &entry.value {
                    Value::Counter(n) => stats.push(json!({"name": name, "value": n})),
                    Value::Gauge { value, .. } => stats.push(json!({"name": name, "value": value})),
                    Value::Histogram(d) => histograms.push(json_histogram(&name, d, style)),
                }
            }
        }
        if !histograms.is_empty() {
            stats.push(match style {
                Buckets::Summary => json!({"histograms": {
                    "supported_quantiles": QUANTILES,
                    "computed_quantiles": histograms,
                }}),
                Buckets::Cumulative | Buckets::Disjoint => json!({"histograms": histograms}),
            });
        }
        json!({"stats": stats})
    }
}

fn write_histogram(d: &Distribution, style: Buckets, out: &mut String) {
    if d.count() == 0 {
        out.push_str("No recorded values");
        return;
    }
    match style {
        Buckets::Summary => {
            for (i, percent) in QUANTILES.into_iter().enumerate() {
                let space = if i == 0 { "" } else { " " };
                let value = d.quantile_ms(percent / 100.0).unwrap_or(0.0);
                let _ = write!(out, "{space}P{percent}(nan,{value})");
            }
        }
        Buckets::Cumulative | Buckets::Disjoint => {
            for (i, (bound, count)) in buckets(d, style == Buckets::Cumulative).enumerate() {
                let space = if i == 0 { "" } else { " " };
                let _ = write!(out, "{space}B{bound}(0,{count})");
            }
        }
    }
}

fn json_histogram(name: &str, d: &Distribution, style: Buckets) -> Json {
    match style {
        Buckets::Summary => {
            let values: Vec<Json> = QUANTILES
                .into_iter()
                .map(|percent| json!({"interval": null, "cumulative": d.quantile_ms(percent / 100.0)}))
                .collect();
            json!({"name": name, "values": values})
        }
        Buckets::Cumulative | Buckets::Disjoint => {
            let list: Vec<Json> = buckets(d, style == Buckets::Cumulative)
                .map(|(bound, count)| json!({"upper_bound": bound, "interval": 0, "cumulative": count}))
                .collect();
            json!({"name": name, "buckets": list})
        }
    }
}
