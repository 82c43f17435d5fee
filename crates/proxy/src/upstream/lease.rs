//! A connection for one request, of whichever protocol the cluster speaks, and the request counted while it lasts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lateen_traffic::Protocol;
use lateen_traffic::cluster::{ClusterSettings, UpstreamBind};
use lateen_traffic::reply::UpstreamFailure;
use lateen_traffic::tls::Wanted;

use super::{Host, Http1Lease, Http2Lease, Permit, Upstream};
use crate::stats::ClusterStats;

/// A connection for one request.
pub enum Lease {
    /// For this request alone.
    Http1(Http1Lease),
    /// Shared with others.
    Http2(Http2Lease),
}

impl Upstream {
    /// A connection to `host` for a request of a client that speaks `client`; one whose TLS is as `wanted`.
    ///
    /// # Errors
    /// When there is none to be had, or a limit is reached.
    pub async fn lease(
        &self,
        host: &Rc<Host>,
        client: Protocol,
        bind: Option<&UpstreamBind>,
        wanted: &Wanted,
    ) -> Result<Lease, UpstreamFailure> {
        let leased = if self.settings().protocol.is_http2(client) {
            self.http2(host, bind, wanted).await.map(Lease::Http2)
        } else {
            self.http1(host, bind, wanted).await.map(Lease::Http1)
        };
        if leased.is_err() {
            host.shared.errors.fetch_add(1, Ordering::Relaxed);
        }
        leased
    }
}

impl Lease {
    /// Gives a connection back that no request was sent on.
    pub fn give_back(self) {
        match self {
            Self::Http1(lease) => lease.give_back(),
            Self::Http2(_) => {}
        }
    }
}

impl Upstream {
    /// Retries allowed at once, as things are now. `over`: the attempt to be made again has left its connection, and
    /// still counts as a request.
    pub fn most_retries(&self, settings: &ClusterSettings, over: bool) -> u32 {
        let count = |of: &AtomicU32| of.load(Ordering::Relaxed);
        let active = count(&self.shared.requests).saturating_add(count(&self.shared.pending));
        let begun =
            |interval| self.shared.begun.get().map_or(0, |begun| begun.count(interval, self.shared.pulse.now()));
        settings.limits.retries(active.saturating_add(u32::from(over)), begun)
    }
}

/// A request at a host, counted as active while this lives, however it ends.
pub struct InFlight {
    _permit: Permit,
    host: Rc<Host>,
    stats: Arc<ClusterStats>,
}

impl InFlight {
    /// A request has got its connection; `None` if there are as many requests as there may be.
    pub fn begin(upstream: &Upstream, host: &Rc<Host>, settings: &ClusterSettings) -> Option<Self> {
        let Some(permit) = Permit::take(&upstream.shared, |s| &s.requests, settings.limits.max_requests) else {
            upstream.stats.upstream_rq_active_overflow.inc();
            return None;
        };
        if let Some(interval) = settings.limits.retry_budget.and_then(|budget| budget.interval) {
            upstream.shared.begun.get_or_init(Box::default).begin(interval, upstream.shared.pulse.now());
        }
        upstream.stats.upstream_rq_total.inc();
        upstream.stats.upstream_rq_active.inc();
        host.shared.requests.fetch_add(1, Ordering::Relaxed);
        host.shared.active.fetch_add(1, Ordering::Relaxed);
        Some(Self { _permit: permit, host: Rc::clone(host), stats: Arc::clone(&upstream.stats) })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.host.shared.active.fetch_sub(1, Ordering::Relaxed);
        self.stats.upstream_rq_active.dec();
    }
}
