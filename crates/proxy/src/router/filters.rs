//! Carrying out what HTTP filters decide of a request before the router has it.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use lateen_traffic::ext_authz::Edit;
use lateen_traffic::filter::alpn::Alpn;
use lateen_traffic::filter::cors::Grant;
use lateen_traffic::filter::grpc_web::Bridge;
use lateen_traffic::filter::{Asked, Step, Walk};
use lateen_traffic::hcm::Hcm;
use lateen_traffic::jwt::Outcome;
use lateen_traffic::record::Flags;
use lateen_traffic::reply::{self, LocalReply};
use lateen_traffic::route::{Action, RouteConfig, Routed};

use lateen_traffic::Config;
use tokio::time::Instant;

use super::authorize::GoesOn;
use super::deadlines::{Deadlines, Expired};
use super::relay::READ_AHEAD;
use super::{Exchange, Found};
use crate::refusals::Refusal;
use crate::stats::HttpStats;

/// What filters left to do for the rest of an exchange.
#[derive(Default)]
pub struct Filtered {
    /// What the response says to a client of another origin.
    pub(super) grant: Option<Grant>,
    /// What the exchange is for its client, which cannot speak gRPC.
    pub(super) bridge: Option<Bridge>,
    /// What connections to hosts offer by ALPN.
    pub(super) alpn: Option<Arc<Alpn>>,
    /// When a delay ended: the router's times begin then.
    pub(super) delayed_to: Option<Instant>,
    /// What an authorization service adds to the response.
    pub(super) edits: Vec<Edit>,
    fault: Option<ActiveFault>,
}

/// Counts a request that suffers an injected fault, to its end.
struct ActiveFault(Arc<HttpStats>);

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.fault().active_faults.dec();
    }
}

/// Why there is no need to wait any longer for what a filter waits for.
pub(super) enum Stopped {
    /// The client is gone.
    ClientGone,
    /// The client broke the protocol inside its body.
    Broken,
    /// The client's body does not say what it is to say.
    Refused(Box<LocalReply>),
    /// A limit of the stream itself is reached.
    Expired(Expired),
}

/// Where a request is on its way through the filters.
#[derive(Clone, Copy)]
pub(super) struct On<'a> {
    pub hcm: &'a Hcm,
    pub config: &'a Config,
    pub routes: &'a RouteConfig,
    pub routed: Option<Routed<'a>>,
}

impl On<'_> {
    /// The stream's own limits there.
    pub(super) fn deadlines(&self, started: Instant) -> Deadlines {
        let forward = self.routed.and_then(|r| match &r.route.action {
            Action::Forward(forward) => Some(&**forward),
            Action::Redirect(_) | Action::Direct(_) => None,
        });
        Deadlines::of_stream(&self.hcm.timeouts, forward, started)
    }
}

impl Exchange<'_, '_> {
    /// Walks the filters, and gives the route, which they may have had chosen anew. `None`: one of them answered, or the
    /// client is gone.
    pub(super) async fn filters<'p>(
        &mut self,
        hcm: &Hcm,
        config: &Config,
        routes: &'p RouteConfig,
        mut found: Found<'p>,
        internal: bool,
    ) -> Option<Found<'p>> {
        let connection = self.connection;
        let stats = &connection.stats;
        let mut walk = Walk::new(&hcm.filters);
        loop {
            let routed = found.ok();
            let on = On { hcm, config, routes, routed };
            let active_faults = || connection.worker.stats.all().active_faults(&hcm.stat_prefix);
            let peer = connection.ends(self.record.downstream_remote.ip());
            let asked = Asked { request: self.request, peer, routes, routed, active_faults: &active_faults };
            match walk.next(&asked, &mut self.record.metadata, &mut connection.worker.dice()) {
                Step::Route => return Some(found),
                Step::Delay(wait) => {
                    self.suffers_fault();
                    self.name_cluster(config, routed);
                    stats.fault().delays_injected.inc();
                    self.record.flags.add(Flags::DELAY_INJECTED);
                    match self.unless_over(on, tokio::time::sleep(wait)).await {
                        Ok(()) => self.filtered.delayed_to = Some(Instant::now()),
                        Err(stopped) => {
                            self.stopped(on, stopped).await;
                            return None;
                        }
                    }
                }
                Step::Abort(reply) => {
                    self.suffers_fault();
                    self.name_cluster(config, routed);
                    self.edit_reply(routes, routed);
                    stats.fault().aborts_injected.inc();
                    self.reply(&reply).await;
                    return None;
                }
                Step::Jwt(jwt, of_route) => {
                    let now = self.record.start.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                    let metadata = &mut self.record.metadata;
                    let outcome =
                        jwt.check(self.request, of_route.as_ref(), now, metadata, &mut connection.worker.dice());
                    match outcome {
                        Outcome::Passes { reroute } => {
                            stats.jwt_authn().allowed.inc();
                            if reroute {
                                found = self.find_route(routes, internal);
                            }
                        }
                        Outcome::Preflight => {
                            stats.jwt_authn().cors_preflight_bypassed.inc();
                            stats.jwt_authn().allowed.inc();
                        }
                        Outcome::Refused(reply, challenge) => {
                            stats.jwt_authn().denied.inc();
                            self.name_cluster(config, routed);
                            if let Some(challenge) = challenge {
                                self.response.headers.append("www-authenticate", challenge);
                            }
                            self.edit_reply(routes, routed);
                            self.reply(&reply).await;
                            return None;
                        }
                    }
                }
                Step::Rbac { filter, rules, verdict } => {
                    stats.rbac().count(&filter, &rules, &verdict);
                    if let Some(denial) = verdict.denial() {
                        let refusal = Refusal::new(self.record.start, &peer, Some(self.request), denial.policy.clone());
                        connection.worker.stats.refused(refusal);
                        self.answer_instead(on, &denial.reply()).await;
                        return None;
                    }
                }
                // Apart, so that requests that nobody is asked about need no room for it.
                Step::Ask(question) => match Box::pin(self.authorize(on, &question)).await {
                    None => return None,
                    Some(GoesOn { reroute: true }) => found = self.find_route(routes, internal),
                    Some(GoesOn { reroute: false }) => {}
                },
                Step::NotAsked(filter, reply) => {
                    stats.ext_authz(&filter.stat_prefix).disabled.inc();
                    if let Some(reply) = reply {
                        self.answer_instead(on, &reply).await;
                        return None;
                    }
                }
                Step::GrpcWeb => {
                    if let Err(reply) = self.bridge() {
                        self.reply(&reply).await;
                        return None;
                    }
                }
                Step::Alpn(alpn) => self.filtered.alpn = Some(alpn),
                Step::FaultsOverflow => stats.fault().faults_overflow.inc(),
                Step::Cors(decision) => {
                    let counter =
                        if decision.allowed { &stats.cors().origin_valid } else { &stats.cors().origin_invalid };
                    counter.inc();
                    self.filtered.grant = decision.grant;
                    if let Some(preflight) = decision.preflight {
                        self.name_cluster(config, routed);
                        *self.response = preflight;
                        self.record.details = "cors_response".into();
                        // Unlike other answers of our own it does not care whether the client speaks gRPC.
                        self.send_whole(Bytes::new()).await;
                        return None;
                    }
                }
            }
        }
    }

    /// Answers in the route's stead.
    pub(super) async fn answer_instead(&mut self, on: On<'_>, reply: &LocalReply) {
        self.name_cluster(on.config, on.routed);
        self.edit_reply(on.routes, on.routed);
        self.reply(reply).await;
    }

    /// The record names the cluster that the request would have gone to.
    pub(super) fn name_cluster(&mut self, config: &Config, routed: Option<Routed<'_>>) {
        let cluster = routed.and_then(|r| r.cluster(self.request)).and_then(|name| config.clusters.get(name));
        if let Some(cluster) = cluster {
            self.record.upstream_cluster = Some(Arc::clone(&cluster.settings.name));
            self.record.upstream_cluster_alt = cluster.settings.alt_stat_name.clone();
        }
    }

    /// As in Envoy, a route that forwards edits the answers that are given in its stead.
    pub(super) fn edit_reply(&mut self, routes: &RouteConfig, routed: Option<Routed<'_>>) {
        if let Some(routed) = routed.filter(|r| matches!(r.route.action, Action::Forward(_))) {
            self.edit_response(routes, routed);
        }
    }

    fn suffers_fault(&mut self) {
        let stats = &self.connection.stats;
        self.filtered.fault.get_or_insert_with(|| {
            stats.fault().active_faults.inc();
            ActiveFault(Arc::clone(stats))
        });
    }

    /// Waits for `work`, unless the client goes or the stream's time is over. What arrives meanwhile of the body stays
    /// where it is.
    pub(super) async fn unless_over<T>(&mut self, on: On<'_>, work: impl Future<Output = T>) -> Result<T, Stopped> {
        let deadlines = on.deadlines(self.started);
        if self.body.ended {
            deadlines.request_ended(self.started);
        }
        tokio::select! {
            done = work => Ok(done),
            () = self.responder.gone() => Err(Stopped::ClientGone),
            () = self.body.source.gone(READ_AHEAD) => Err(Stopped::ClientGone),
            expired = deadlines.wait(self.timer) => Err(Stopped::Expired(expired)),
        }
    }

    /// The end of a request that a filter need not wait for any longer.
    pub(super) async fn stopped(&mut self, on: On<'_>, stopped: Stopped) {
        match stopped {
            Stopped::ClientGone => self.client_gone(),
            Stopped::Refused(reply) => self.reply(&reply).await,
            Stopped::Broken => {
                self.connection.stats.downstream_cx_protocol_error.inc();
                self.reply(&reply::BROKEN_BODY).await;
            }
            Stopped::Expired(what) => {
                let reply = self.stream_expired(what);
                self.edit_reply(on.routes, on.routed);
                self.reply(&reply).await;
            }
        }
    }

    /// The answer when a limit of the stream itself is reached before a response began.
    pub(super) fn stream_expired(&self, what: Expired) -> LocalReply {
        let stats = &self.connection.stats;
        match what {
            Expired::Idle => {
                stats.downstream_rq_idle_timeout.inc();
                if self.body.ended { reply::STREAM_IDLE_UPSTREAM } else { reply::STREAM_IDLE_DOWNSTREAM }
            }
            Expired::Stream => {
                stats.downstream_rq_max_duration_reached.inc();
                reply::MAX_STREAM_DURATION
            }
            // The router's own limits are none of the stream's.
            Expired::Request | Expired::Route | Expired::Try | Expired::TryIdle => {
                stats.downstream_rq_timeout.inc();
                reply::REQUEST_TIMEOUT
            }
        }
    }
}
