//! Forwarding: which cluster a request goes to, and how its head is changed for it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::Config;
use lateen_traffic::cluster::{ClusterSettings, Discovery, LbPolicy};
use lateen_traffic::edit::HeaderEdits;
use lateen_traffic::format::Facts;
use lateen_traffic::forwarding;
use lateen_traffic::hashing::{self, Downstream};
use lateen_traffic::hcm::Hcm;
use lateen_traffic::reply;
use lateen_traffic::retry::RetryPolicy;
use lateen_traffic::route::{
    Action, Forward, HostRewrite, RouteConfig, Routed, Target, WeightedBy, WeightedCluster, rewrite_path, substitute,
};

use super::Exchange;
use crate::upstream::Upstream;

/// What a request is forwarded by.
pub(super) struct Plan<'a> {
    pub hcm: &'a Hcm,
    pub routes: &'a RouteConfig,
    pub routed: Routed<'a>,
    pub forward: &'a Forward,
    pub cluster_edits: Option<&'a HeaderEdits>,
    pub retry: Option<&'a RetryPolicy>,
    pub timeout: Option<Duration>,
    pub upstream: Rc<Upstream>,
    pub settings: Arc<ClusterSettings>,
    /// What the request is hashed to, if its cluster hashes.
    pub hash: Option<u64>,
}

impl<'a> Exchange<'a, '_> {
    pub(super) async fn forward(
        &mut self,
        hcm: &Hcm,
        config: &Config,
        routes: &Arc<RouteConfig>,
        routed: Routed<'_>,
        forward: &Forward,
    ) {
        let worker = Rc::clone(&self.connection.worker);
        let weighted = routed.weighted;
        let name = routed.cluster(self.request).unwrap_or_default();
        let Some(upstream) = worker.upstream(name, config) else {
            self.connection.stats.no_cluster.inc();
            self.edit_response(routes, routed, weighted.map(|w| &w.response_edits));
            self.reply(&reply::cluster_not_found(forward.cluster_not_found_status)).await;
            return;
        };
        let settings = upstream.settings();
        self.record.upstream_cluster = Some(Arc::clone(&settings.name));
        self.record.upstream_cluster_alt = settings.alt_stat_name.clone();
        let upgrade = match self.request.upgrade.as_str() {
            "" if self.request.is_connect() => "connect",
            other => other,
        };
        if !upgrade.is_empty() && !upgrade_allowed(hcm, forward, upgrade) {
            self.connection.stats.downstream_rq_ws_on_non_ws_route.inc();
            self.edit_response(routes, routed, weighted.map(|w| &w.response_edits));
            self.reply(&reply::UPGRADE_FAILED).await;
            return;
        }
        let mut timeout = self.timeout(forward);
        let mut retry = forward.retry.as_deref().or(routed.virtual_host.retry.as_deref());
        let asked;
        if forwarding::is_internal(&self.request.headers) {
            let headers = &mut self.request.headers;
            if let Some(ms) = headers.get_str("x-envoy-upstream-rq-timeout-ms").and_then(|ms| ms.parse().ok()) {
                timeout = Some(Duration::from_millis(ms));
            }
            asked = RetryPolicy::asked(retry, headers);
            retry = asked.as_ref();
            forwarding::remove_steering(headers);
        }
        let mut plan = Plan {
            hcm,
            routes,
            routed,
            forward,
            cluster_edits: weighted.map(|w| &w.response_edits),
            retry,
            timeout,
            upstream,
            settings,
            hash: None,
        };
        self.prepare_upstream(&plan, weighted);
        if matches!(plan.settings.lb, LbPolicy::Hash(_)) {
            // Of the head as it goes upstream, as in Envoy.
            plan.hash = self.hash(forward);
        }
        if let Discovery::Named(cache) = &plan.settings.discovery {
            // Plain HTTP's port: there is no TLS towards upstreams yet.
            match worker.process.upstreams.names.resolve(cache, &self.request.authority, 80).await {
                Ok(address) => self.named = Some(address),
                Err(failure) => {
                    self.reply(&failure.reply()).await;
                    return;
                }
            }
        }
        if self.request.is_connect() || !self.request.upgrade.is_empty() {
            self.tunnel(&plan).await;
            return;
        }
        self.attempts(&plan).await;
    }

    /// Which of a route's clusters the request goes to; filters may have settings for each.
    pub(super) fn pick_weighted<'p>(&mut self, routed: Routed<'p>) -> Option<&'p WeightedCluster> {
        let Action::Forward(forward) = &routed.route.action else { return None };
        let Target::Weighted(clusters) = &forward.target else { return None };
        let hash = if forward.weighted_by == WeightedBy::Hash { self.hash(forward) } else { None };
        forward.pick_weighted(clusters, self.request, hash, &mut self.connection.worker.dice())
    }

    /// What the request is hashed to; cookies made for it go out with the answer.
    fn hash(&mut self, forward: &Forward) -> Option<u64> {
        if forward.hash_policies.is_empty() {
            return None;
        }
        let connection = self.connection;
        let client = self.record.downstream_remote.ip();
        let downstream = Downstream { client, peer: connection.peer, local: connection.local };
        hashing::hash(&forward.hash_policies, self.request, &downstream, &mut self.new_cookies)
    }

    /// The time for the whole exchange (Envoy's router: `timeout`, `max_grpc_timeout`).
    fn timeout(&self, forward: &Forward) -> Option<Duration> {
        let Some(most) = forward.max_grpc_timeout.filter(|_| self.request.is_grpc()) else { return forward.timeout };
        let asked = self.request.headers.get_str("grpc-timeout").and_then(grpc_timeout);
        match (asked, most) {
            (asked, Duration::ZERO) => asked,
            (Some(asked), most) => Some(asked.min(most)),
            (None, most) => Some(most),
        }
    }

    /// Tells the upstream how much time it has.
    pub(super) fn tell_timeout(&mut self, plan: &Plan<'_>, time: Option<Duration>) {
        let Some(ms) = time.map(|time| time.as_millis()).filter(|ms| *ms > 0) else { return };
        if !plan.hcm.suppress_envoy_headers {
            self.request.headers.set("x-envoy-expected-rq-timeout-ms", ms.to_string());
        }
        if plan.forward.tells_grpc_timeout && self.request.is_grpc() {
            self.request.headers.set("grpc-timeout", grpc_timeout_of(ms));
        }
    }

    /// Edits and rewrites the head for the upstream.
    fn prepare_upstream(&mut self, plan: &Plan<'_>, weighted: Option<&WeightedCluster>) {
        let Plan { hcm, routes, routed, forward, .. } = plan;
        let mut layers = [
            weighted.map(|w| &w.request_edits),
            Some(&routed.route.request_edits),
            Some(&routed.virtual_host.request_edits),
            Some(&routes.request_edits),
        ];
        if routes.most_specific_edits_win {
            layers.reverse();
        }
        let envoy_headers = !hcm.suppress_envoy_headers;
        let per_try =
            plan.retry.and_then(|r| r.per_try_timeout).filter(|t| plan.timeout.is_none_or(|whole| *t < whole));
        self.tell_timeout(plan, per_try.or(plan.timeout));
        if routed.virtual_host.attempt_count_in_request {
            self.request.headers.set("x-envoy-attempt-count", "1");
        }
        for edits in layers.into_iter().flatten().filter(|e| !e.is_empty()) {
            let values = edits.values(Facts { record: &self.record, request: self.request, response: None });
            edits.apply(&mut self.request.headers, &values);
            self.request.headers.join();
        }
        let host = weighted.and_then(|w| w.host_rewrite.as_deref()).map(str::to_owned);
        let host = match &forward.host_rewrite {
            HostRewrite::Literal(host) => Some(host.to_string()),
            HostRewrite::Header(name) => self.request.headers.get_str(name).map(str::to_owned).or(host),
            HostRewrite::Path { pattern, substitution } => {
                Some(substitute(self.request.path_only(), pattern, substitution))
            }
            HostRewrite::Auto | HostRewrite::None => host,
        };
        if let Some(host) = host {
            self.rewrite_host(forward, envoy_headers, host);
        }
        if let Some(path) = rewrite_path(&self.request.path, &routed.route.matches, &forward.path_rewrite) {
            if envoy_headers {
                let old = std::mem::take(&mut self.request.path);
                self.request.headers.set("x-envoy-original-path", old);
            }
            self.request.path = path;
        }
    }

    pub(super) fn rewrite_host(&mut self, forward: &Forward, envoy_headers: bool, host: String) {
        if host == self.request.authority {
            return;
        }
        let old = std::mem::replace(&mut self.request.authority, host);
        if envoy_headers {
            self.request.headers.set("x-envoy-original-host", &old);
        }
        if forward.append_x_forwarded_host {
            forwarding::add_to_list(&mut self.request.headers, "x-forwarded-host", &old, ",");
        }
    }

    /// The address of clusters that go where the client was going, or to the host it names.
    pub(super) fn original(&self, settings: &ClusterSettings) -> Option<SocketAddr> {
        if let Discovery::Named(_) = settings.discovery {
            return self.named;
        }
        if let Discovery::OriginalDst { use_http_header: true, .. } = settings.discovery
            && let Some(address) =
                self.request.headers.get_str("x-envoy-original-dst-host").and_then(|h| h.parse().ok())
        {
            return Some(address);
        }
        self.connection.original
    }
}

pub(super) fn upgrade_allowed(hcm: &Hcm, forward: &Forward, name: &str) -> bool {
    match forward.upgrades.iter().find(|(n, _)| **n == *name) {
        Some((_, enabled)) => *enabled,
        None => matches!(name, "h2c" | "http/2.0") || hcm.upgrades.iter().any(|u| **u == *name),
    }
}

/// The same the other way round: in the finest unit that has room for it.
fn grpc_timeout_of(ms: u128) -> String {
    const MOST: u128 = 99_999_999;
    let units = [(1, 'm'), (1000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let fitting = units.iter().find(|(unit, _)| ms / unit <= MOST);
    fitting.map_or_else(|| format!("{MOST}H"), |(unit, letter)| format!("{}{letter}", ms / unit))
}

/// `grpc-timeout`: up to 8 digits and a unit (gRPC's HTTP/2 protocol document).
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}
