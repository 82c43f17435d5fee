//! `/stats/prometheus`: the text exposition format, with Envoy's metric names and labels.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::Tags;
use super::snapshot::{Kind, Scope, Snapshot, Value, buckets};

/// Metrics come sorted by type, then name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// What a statistic's name says: the metric it belongs to, and labels that were parts of the name.
struct Parsed<'a> {
    metric: String,
    worker: Option<&'a str>,
    code: Option<&'a str>,
    class: Option<&'a str>,
    /// Prefix and policy of rules about access.
    rbac: (&'a str, &'a str),
}

impl Snapshot {
    /// Text exposition format; one piece a metric.
    pub fn prometheus(self) -> impl Iterator<Item = String> + Send {
        let mut metrics: BTreeMap<(Type, String), Vec<(u32, u32)>> = BTreeMap::new();
        // Thousands of clusters share some sixty names: each is worked out once.
        let mut known: HashMap<(&str, &str), (Type, String)> = HashMap::new();
        for (s, scope) in self.scopes.iter().enumerate() {
            for (e, entry) in scope.entries.iter().enumerate() {
                let prefix = scope.metric_prefix();
                let key = known.entry((prefix, entry.name.as_ref())).or_insert_with(|| {
                    let kind = match entry.value {
                        Value::Counter(_) => Type::Counter,
                        Value::Gauge { .. } => Type::Gauge,
                        Value::Histogram(_) => Type::Histogram,
                    };
                    (kind, parse(scope, &entry.name).metric)
                });
                let at = (s as u32, e as u32);
                match metrics.get_mut(key) {
                    Some(list) => list.push(at),
                    None => {
                        metrics.insert(key.clone(), vec![at]);
                    }
                }
            }
        }
        drop(known);
        let snapshot = self;
        metrics.into_iter().map(move |((kind, metric), places)| {
            let mut out = String::new();
            let word = match kind {
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram => "histogram",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# TYPE {metric} {word}");
            let mut labels = String::new();
            for (s, e) in places {
                let scope = &snapshot.scopes[s as usize];
                let entry = &scope.entries[e as usize];
                labels.clear();
                write_labels(snapshot.tags, scope.kind, &scope.name, &parse(scope, &entry.name), &mut labels);
                let _ = match &entry.value {
                    Value::Counter(n) => writeln!(out, "{metric}{{{labels}}} {n}"),
                    Value::Gauge { value, .. } => writeln!(out, "{metric}{{{labels}}} {value}"),
                    Value::Histogram(d) => {
                        let comma = if labels.is_empty() { "" } else { "," };
                        for (bound, count) in buckets(d, true) {
                            let _ = writeln!(out, "{metric}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
                        }
                        let count = d.count();
                        let _ = writeln!(out, "{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
                        let _ = writeln!(out, "{metric}_sum{{{labels}}} {}", d.sum_us as f64 / 1000.0);
                        writeln!(out, "{metric}_count{{{labels}}} {count}")
                    }
                };
            }
            out
        })
    }
}

fn parse<'a>(scope: &Scope, entry: &'a str) -> Parsed<'a> {
    let mut parsed = Parsed { metric: String::from("envoy_"), worker: None, code: None, class: None, rbac: ("", "") };
    push_sanitised(scope.metric_prefix(), &mut parsed.metric);
    parsed.metric.push('_');
    let mut rest = entry;
    if scope.kind == Kind::Listener
        && let Some((worker, tail)) = entry.strip_prefix("worker_").and_then(|t| t.split_once('.'))
    {
        parsed.worker = Some(worker);
        parsed.metric.push_str("worker_");
        rest = tail;
    }
    let of_rules = match scope.kind {
        Kind::Http => rest.strip_prefix("rbac."),
        Kind::Rbac => Some(rest),
        _ => None,
    };
    if let Some((prefix, policy, result)) = of_rules.and_then(of_policy) {
        parsed.rbac = (prefix, policy);
        let rbac = if scope.kind == Kind::Http { "rbac_" } else { "" };
        parsed.metric.push_str(rbac);
        parsed.metric.push_str(if policy.is_empty() { "" } else { "policy_" });
        parsed.metric.push_str(result);
    } else if let Some((head, tail)) = rest.rsplit_once('_')
        && head.ends_with("_rq")
        && tail.len() == 3
        && tail.as_bytes()[0].is_ascii_digit()
    {
        push_sanitised(head, &mut parsed.metric);
        if tail.ends_with("xx") {
            parsed.class = Some(&tail[..1]);
            parsed.metric.push_str("_xx");
        } else {
            parsed.code = Some(tail);
        }
    } else {
        push_sanitised(rest, &mut parsed.metric);
    }
    parsed
}

/// `PREFIX.policy.NAME.RESULT`, of which the first three parts may be missing.
fn of_policy(entry: &str) -> Option<(&str, &str, &str)> {
    let (head, result) = entry.rsplit_once('.').unwrap_or(("", entry));
    if !["allowed", "denied", "shadow_allowed", "shadow_denied"].contains(&result) {
        return None;
    }
    let (prefix, policy) = match head.strip_prefix("policy.") {
        Some(policy) => ("", policy),
        None => head.split_once(".policy.").unwrap_or((head, "")),
    };
    Some((prefix, policy, result))
}

fn push_sanitised(name: &str, out: &mut String) {
    out.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
}

fn write_labels(tags: Tags, kind: Kind, name: &str, parsed: &Parsed<'_>, out: &mut String) {
    let mut label = |key: &str, value: &str| {
        if !out.is_empty() {
            out.push(',');
        }
        if tags == Tags::Envoy {
            out.push_str("envoy_");
        }
        out.push_str(key);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    };
    if let Some(code) = parsed.code {
        label("response_code", code);
    }
    if let Some(class) = parsed.class {
        label("response_code_class", class);
    }
    if let Some(worker) = parsed.worker {
        label("worker_id", worker);
    }
    let (prefix, policy) = parsed.rbac;
    for (key, value) in [("rbac_http_prefix", prefix), ("rbac_policy_name", policy)] {
        if !value.is_empty() {
            label(key, value);
        }
    }
    if kind == Kind::Route
        && let Some((host, route)) = name.rsplit_once(".route.")
    {
        label("virtual_host", host);
        label("route", route);
        return;
    }
    let key = match kind {
        Kind::Cluster => "cluster_name",
        Kind::Http => "http_conn_manager_prefix",
        Kind::Listener => "listener_address",
        Kind::Tcp => "tcp_prefix",
        _ => return,
    };
    label(key, name.split(';').next().unwrap_or(name));
}
