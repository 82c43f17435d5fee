//! Forwarding: which cluster a request goes to, and what goes with it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::Config;
use lateen_traffic::cluster::{ClusterSettings, Discovery, LbPolicy};
use lateen_traffic::hashing::{self, Downstream};
use lateen_traffic::hcm::Hcm;
use lateen_traffic::reply;
use lateen_traffic::route::{Action, Forward, RouteConfig, Routed, Target, WeightedBy, WeightedCluster};
use lateen_traffic::router::{Forwarding, upgrade_allowed};
use lateen_traffic::tls::Wanted;

use super::Exchange;
use crate::stats::{ClusterStats, Counter, RouteStats};
use crate::upstream::Upstream;

/// What a request is forwarded by, and where to.
pub(super) struct Plan<'a> {
    pub way: Forwarding<'a>,
    pub upstream: Rc<Upstream>,
    pub settings: Arc<ClusterSettings>,
    /// Statistics of its route, if that keeps any.
    pub stats: Option<Arc<RouteStats>>,
    /// What the request is hashed to, if its cluster hashes.
    pub hash: Option<u64>,
    /// What the TLS of its connection is to be in place of what the cluster says.
    pub wanted: Wanted,
}

impl<'a> Deref for Plan<'a> {
    type Target = Forwarding<'a>;

    fn deref(&self) -> &Forwarding<'a> {
        &self.way
    }
}

impl Plan<'_> {
    /// Counts what happens for the cluster, and for the route if it keeps statistics.
    pub(super) fn count(&self, of_cluster: fn(&ClusterStats) -> &Counter, of_route: fn(&RouteStats) -> &Counter) {
        of_cluster(&self.upstream.stats).inc();
        if let Some(stats) = &self.stats {
            of_route(stats).inc();
        }
    }

    /// Counts an answer, of the upstream's or in its stead.
    pub(super) fn count_answer(&self, status: u16) {
        self.upstream.stats.response(status);
        if let Some(stats) = &self.stats {
            stats.response(status);
        }
    }
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
        let name = routed.cluster(self.request).unwrap_or_default();
        let Some(upstream) = worker.upstream(name, config) else {
            self.connection.stats.no_cluster.inc();
            self.edit_response(routes, routed);
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
            self.edit_response(routes, routed);
            self.reply(&reply::UPGRADE_FAILED).await;
            return;
        }
        let mut way = Forwarding::new(hcm, routes, routed, forward, self.request);
        way.prepare(self.request, &self.record);
        let asked = way.asked(self.request);
        way.retry_as(asked.as_ref(), self.request);
        let stats = routed.route.stats.as_ref().map(|name| worker.stats.route(name));
        let http2 = settings.protocol.is_http2(self.request.protocol);
        let alpn = self.filtered.alpn.as_deref().filter(|_| !settings.keeps_protocols).and_then(|alpn| alpn.of(http2));
        let wanted = Wanted::of(&settings, &self.request.authority, alpn);
        let mut plan = Plan { way, upstream, stats, hash: None, wanted, settings };
        if matches!(plan.settings.lb, LbPolicy::Hash(_)) {
            // Of the head as it goes upstream, as in Envoy.
            plan.hash = self.hash(forward);
        }
        if let Discovery::Named(cache) = &plan.settings.discovery {
            let port = if plan.settings.speaks_tls() { 443 } else { 80 };
            match worker.process.upstreams.names.resolve(cache, &self.request.authority, port).await {
                Ok(address) => self.named = Some(address),
                Err(failure) => {
                    // Its body came in while the name was looked up.
                    self.read_at_hand().await;
                    self.reply(&failure.reply()).await;
                    return;
                }
            }
        }
        if self.request.is_connect() || !self.request.upgrade.is_empty() {
            // Apart, so that requests that are none need no room for it.
            Box::pin(self.tunnel(&plan)).await;
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
