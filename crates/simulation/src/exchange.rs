//! One request through one proxy: accepted, routed, forwarded or answered, in the order in which the proxy does it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lateen_traffic::Protocol;
use lateen_traffic::cluster::{ClusterSettings, Discovery, LbPolicy};
use lateen_traffic::ext_authz::{self, Edit};
use lateen_traffic::filter::alpn::Alpn;
use lateen_traffic::filter::cors::Grant;
use lateen_traffic::filter::grpc_web::{Bridge, Decoder};
use lateen_traffic::filter::{Asked, Step, Walk};
use lateen_traffic::forwarding::{self, Client};
use lateen_traffic::hashing::{self, NewCookies};
use lateen_traffic::hcm::{Hcm, RouteSource};
use lateen_traffic::jwt::{JwtAuthn, Outcome};
use lateen_traffic::metadata::{Metadata, Value};
use lateen_traffic::record::Flags;
use lateen_traffic::record::Record;
use lateen_traffic::reply::{self, LocalReply, NameFailure, local_response};
use lateen_traffic::route::{
    Action, Forward, NotRouted, PathMatch, RouteConfig, RouteMatch, Routed, Target, WeightedBy, direct_location,
    redirect_location,
};
use lateen_traffic::router::{self, Forwarding, NotAccepted, upgrade_allowed};
use lateen_traffic::tls::Wanted;
use lateen_traffic::{RequestHead, ResponseHead};

use crate::authorize::GoesOn;
use crate::message::{Answer, Heard, Request};
use crate::proxy::{Downstream, Proxy};
use crate::trace::{Decision, Trace};
use crate::upstream::Upstream;
use crate::world::World;

/// A request in a proxy's hands, and the answer as it comes about.
pub(crate) struct Exchange<'a> {
    pub world: &'a Rc<World>,
    pub proxy: &'a Rc<Proxy>,
    pub hcm: &'a Arc<Hcm>,
    pub downstream: &'a Downstream,
    pub trace: &'a Trace,
    pub request: RequestHead,
    pub body: Bytes,
    pub record: Record,
    pub response: ResponseHead,
    pub answer: Bytes,
    pub answered_by: Option<Rc<str>>,
    pub cookies: NewCookies,
    pub started: Duration,
    /// When an injected delay ended: the router's times begin then.
    pub delayed_to: Option<Duration>,
    grant: Option<Grant>,
    /// What the exchange is for a client that cannot speak gRPC.
    pub bridge: Option<Bridge>,
    /// What an authorization service adds to the answer.
    pub edits: Vec<Edit>,
    /// What connections to hosts offer by ALPN.
    alpn: Option<Arc<Alpn>>,
    suffers_fault: bool,
}

/// Where a request goes, or why nowhere.
type Found<'p> = Result<Routed<'p>, NotRouted<'p>>;

/// Where a request is forwarded to.
pub(crate) struct Plan<'a> {
    pub way: Forwarding<'a>,
    pub upstream: Rc<Upstream>,
    pub settings: Arc<ClusterSettings>,
    pub hash: Option<u64>,
    /// What the TLS of its connection is to be in place of what the cluster says.
    pub wanted: Wanted,
    /// The address of the host that the request names, in clusters that look it up.
    pub named: Option<std::net::SocketAddr>,
}

impl<'a> Exchange<'a> {
    /// A request that begins now.
    pub fn new(
        world: &'a Rc<World>,
        proxy: &'a Rc<Proxy>,
        hcm: &'a Arc<Hcm>,
        downstream: &'a Downstream,
        request: Request,
        trace: &'a Trace,
    ) -> Exchange<'a> {
        Exchange {
            record: Record { protocol: Some(request.head.protocol), ..downstream.record(world) },
            world,
            proxy,
            hcm,
            downstream,
            trace,
            request: request.head,
            body: request.body,
            response: ResponseHead::default(),
            answer: Bytes::new(),
            answered_by: None,
            cookies: NewCookies::default(),
            started: world.clock.now(),
            delayed_to: None,
            grant: None,
            bridge: None,
            edits: Vec::new(),
            alpn: None,
            suffers_fault: false,
        }
    }

    /// Serves it to its end.
    pub async fn serve(mut self) -> Heard {
        if self.request.protocol != Protocol::Http2 {
            // It does not say so on the wire.
            self.request.scheme.clear();
        }
        self.read_fields();
        if !self.hcm.proxy_100_continue {
            self.request.headers.remove("expect");
        }
        match self.accept() {
            Ok(client) => {
                let hcm = Arc::clone(self.hcm);
                let routes = match &hcm.routes {
                    RouteSource::Inline(routes) => Arc::clone(routes),
                    RouteSource::Named(name) => self.proxy.config.routes.get(name).cloned().unwrap_or_default(),
                };
                self.route(&hcm, &routes, client).await;
            }
            Err(reply) => self.reply(&reply),
        }
        self.finish()
    }

    /// As a codec reads them: fields that come again become one where HTTP has it so, and cookies of HTTP/2 always do
    /// (RFC 9113 section 8.2.3).
    fn read_fields(&mut self) {
        let http2 = self.request.protocol == Protocol::Http2;
        let sent = std::mem::take(&mut self.request.headers);
        let headers = &mut self.request.headers;
        sent.iter()
            .filter(|(name, _)| !(http2 && *name == "cookie"))
            .for_each(|(name, value)| headers.add(name, value));
        if http2 {
            // Nothing is put before the first that says something.
            let cookies: Vec<_> = sent.get_all("cookie").skip_while(|cookie| cookie.is_empty()).collect();
            let cookies = cookies.join(&b"; "[..]);
            if !cookies.is_empty() {
                headers.add("cookie", cookies.trim_ascii_end());
            }
        }
    }

    fn accept(&mut self) -> Result<Client, LocalReply> {
        if let Err(not_accepted) = router::accept(&mut self.request, self.hcm) {
            if let NotAccepted::Redirect { location } = &not_accepted {
                self.response.headers.append("location", location);
            }
            return Err(not_accepted.reply());
        }
        let Downstream { peer, local, .. } = *self.downstream;
        let dice = &mut self.world.dice();
        let client = forwarding::prepare_request(
            &mut self.request,
            self.hcm,
            peer,
            local.ip(),
            self.downstream.tls.as_deref(),
            dice,
        );
        self.record.downstream_remote = client.address;
        Ok(client)
    }

    async fn route(&mut self, hcm: &Hcm, routes: &RouteConfig, client: Client) {
        if !client.internal {
            for name in &routes.internal_only_headers {
                self.request.headers.remove(name);
            }
        }
        let routed = self.find_route(routes, client.internal);
        let Some(routed) = self.filters(hcm, routes, routed, client.internal).await else { return };
        match routed {
            Ok(routed) => match &routed.route.action {
                Action::Forward(forward) => self.forward(hcm, routes, routed, forward).await,
                Action::Redirect(redirect) => {
                    let location = redirect_location(&self.request, &routed.route.matches, redirect);
                    self.response.headers.append("location", location);
                    self.direct(redirect.status, Bytes::new(), Some((routes, routed)));
                }
                Action::Direct(direct) => {
                    if let Some(location) = direct_location(&self.request, direct.status) {
                        self.response.headers.append("location", location);
                    }
                    self.direct(direct.status, direct.body.clone(), Some((routes, routed)));
                }
            },
            Err(NotRouted::NotFound) => self.reply(&reply::ROUTE_NOT_FOUND),
            Err(NotRouted::TlsRequired(_)) => {
                // Unlike other redirects, these keep every port.
                let location = format!("https://{}{}", self.request.authority, self.request.path);
                self.response.headers.append("location", location);
                self.direct(301, Bytes::new(), None);
            }
        }
    }

    /// The route of the request, by what filters found out so far.
    fn find_route<'p>(&mut self, routes: &'p RouteConfig, internal: bool) -> Found<'p> {
        let tls = self.request.headers.get("x-forwarded-proto") == Some(b"https");
        let metadata = &self.record.metadata;
        let routed = routes.reroute(&self.request, metadata, tls, internal, &mut self.world.dice());
        let routed = routed.map(|routed| {
            let weighted = self.pick_weighted(routed);
            Routed { weighted, ..routed }
        });
        self.tell_route(routes, &routed);
        self.record.route_name =
            routed.ok().filter(|routed| !routed.route.name.is_empty()).map(|routed| Arc::clone(&routed.route.name));
        routed
    }

    /// Walks the filters, and gives the route, which they may have had chosen anew. `None`: one of them answered.
    async fn filters<'p>(
        &mut self,
        hcm: &Hcm,
        routes: &'p RouteConfig,
        mut found: Found<'p>,
        internal: bool,
    ) -> Option<Found<'p>> {
        let mut walk = Walk::new(&hcm.filters);
        loop {
            let routed = found.ok();
            let active_faults = || self.proxy.faults.borrow().get(&hcm.stat_prefix).copied().unwrap_or(0);
            let peer = self.downstream.ends(self.record.downstream_remote.ip());
            let asked = Asked { request: &self.request, peer, routes, routed, active_faults: &active_faults };
            match walk.next(&asked, &mut self.record.metadata, &mut self.world.dice()) {
                Step::Route => return Some(found),
                Step::Delay(wait) => {
                    self.suffer_fault(routed);
                    self.record.flags.add(Flags::DELAY_INJECTED);
                    self.trace.tell(self.world, || Decision::Delayed(wait));
                    self.world.clock.sleep(wait).await;
                    self.delayed_to = Some(self.world.clock.now());
                }
                Step::Abort(reply) => {
                    self.suffer_fault(routed);
                    self.edit_instead(routes, routed);
                    self.reply(&reply);
                    return None;
                }
                Step::GrpcWeb => {
                    let bridge = Bridge::begin(&mut self.request);
                    self.bridge = Some(bridge);
                    if bridge.text_request {
                        match Decoder::whole(&self.body) {
                            Ok(body) => self.body = body.into(),
                            Err(refusal) => {
                                self.reply(&refusal);
                                return None;
                            }
                        }
                    }
                }
                Step::Alpn(alpn) => self.alpn = Some(alpn),
                Step::FaultsOverflow => {}
                Step::Jwt(jwt, of_route) => {
                    let since = self.record.start.duration_since(std::time::UNIX_EPOCH);
                    let now = since.map_or(0, |since| since.as_secs());
                    let metadata = &mut self.record.metadata;
                    let outcome =
                        jwt.check(&mut self.request, of_route.as_ref(), now, metadata, &mut self.world.dice());
                    match outcome {
                        Outcome::Passes { reroute } => {
                            self.trace.tell(self.world, || Decision::Token(token_of(&jwt, &self.record.metadata)));
                            if reroute {
                                found = self.find_route(routes, internal);
                            }
                        }
                        Outcome::Preflight => {}
                        Outcome::Refused(reply, challenge) => {
                            if let Some(challenge) = challenge {
                                self.response.headers.append("www-authenticate", challenge);
                            }
                            self.answer_instead(routes, routed, &reply);
                            return None;
                        }
                    }
                }
                Step::Rbac { filter: _, rules, verdict } => {
                    self.trace.tell_policies(self.world, &rules, &verdict);
                    if let Some(denial) = verdict.denial() {
                        self.answer_instead(routes, routed, &denial.reply());
                        return None;
                    }
                }
                Step::Ask(question) => match Box::pin(self.authorize(routes, routed, &question)).await {
                    None => return None,
                    Some(GoesOn { reroute: true }) => found = self.find_route(routes, internal),
                    Some(GoesOn { reroute: false }) => {}
                },
                Step::NotAsked(_, None) => {}
                Step::NotAsked(_, Some(reply)) => {
                    self.answer_instead(routes, routed, &reply);
                    return None;
                }
                Step::Cors(decision) => {
                    self.grant = decision.grant;
                    if let Some(preflight) = decision.preflight {
                        self.name_cluster(routed);
                        self.record.details = "cors_response".into();
                        let status = preflight.status;
                        self.response = preflight;
                        self.send_own(status, Bytes::new(), None);
                        return None;
                    }
                }
            }
        }
    }

    fn suffer_fault(&mut self, routed: Option<Routed<'_>>) {
        self.name_cluster(routed);
        if !std::mem::replace(&mut self.suffers_fault, true) {
            *self.proxy.faults.borrow_mut().entry(Arc::clone(&self.hcm.stat_prefix)).or_default() += 1;
        }
    }

    /// Answers in the route's stead.
    pub fn answer_instead(&mut self, routes: &RouteConfig, routed: Option<Routed<'_>>, reply: &LocalReply) {
        self.name_cluster(routed);
        self.edit_instead(routes, routed);
        self.reply(reply);
    }

    /// The record names the cluster that the request would have gone to.
    pub fn name_cluster(&mut self, routed: Option<Routed<'_>>) {
        let clusters = &self.proxy.config.clusters;
        let cluster = routed.and_then(|r| r.cluster(&self.request)).and_then(|name| clusters.get(name));
        if let Some(cluster) = cluster {
            self.record.upstream_cluster = Some(Arc::clone(&cluster.settings.name));
            self.record.upstream_cluster_alt = cluster.settings.alt_stat_name.clone();
        }
    }

    /// A route that forwards edits the answers that are given in its stead.
    pub fn edit_instead(&mut self, routes: &RouteConfig, routed: Option<Routed<'_>>) {
        if let Some(routed) = routed.filter(|r| matches!(r.route.action, Action::Forward(_))) {
            self.edit(routes, routed);
        }
    }

    async fn forward(&mut self, hcm: &Hcm, routes: &RouteConfig, routed: Routed<'_>, forward: &Forward) {
        let name = routed.cluster(&self.request).unwrap_or_default().to_owned();
        let Some(upstream) = self.proxy.upstream(self.world, &name) else {
            self.trace.tell(self.world, || Decision::Cluster { name: name.as_str().into(), weight: None });
            self.edit(routes, routed);
            self.reply(&reply::cluster_not_found(forward.cluster_not_found_status));
            return;
        };
        let settings = Arc::clone(upstream.settings());
        self.record.upstream_cluster = Some(Arc::clone(&settings.name));
        self.record.upstream_cluster_alt = settings.alt_stat_name.clone();
        self.trace.tell(self.world, || Decision::Cluster {
            name: Arc::clone(&settings.name),
            weight: routed.weighted.map(|one| (one.weight, total(forward))),
        });
        let upgrade = match self.request.upgrade.as_str() {
            "" if self.request.is_connect() => "connect",
            other => other,
        };
        if !upgrade.is_empty() && !upgrade_allowed(hcm, forward, upgrade) {
            self.edit(routes, routed);
            self.reply(&reply::UPGRADE_FAILED);
            return;
        }
        let mut way = Forwarding::new(hcm, routes, routed, forward, &mut self.request);
        let before = (self.request.authority.clone(), self.request.path.clone());
        way.prepare(&mut self.request, &self.record);
        if (&self.request.authority, &self.request.path) != (&before.0, &before.1) {
            self.trace.tell(self.world, || Decision::Rewritten {
                authority: self.request.authority.clone(),
                path: self.request.path.clone(),
            });
        }
        let asked = way.asked(&mut self.request);
        way.retry_as(asked.as_ref(), &self.request);
        let http2 = settings.protocol.is_http2(self.request.protocol);
        let alpn = self.alpn.as_deref().filter(|_| !settings.keeps_protocols).and_then(|alpn| alpn.of(http2));
        let wanted = Wanted::of(&settings, &self.request.authority, alpn);
        let mut plan = Plan { way, upstream, settings, hash: None, wanted, named: None };
        if matches!(plan.settings.lb, LbPolicy::Hash(_)) {
            // Of the head as it goes upstream.
            plan.hash = self.hash(forward);
        }
        if let Discovery::Named(cache) = &plan.settings.discovery {
            let usual = if plan.settings.speaks_tls() { 443 } else { 80 };
            let (host, port) = match self.request.authority.rsplit_once(':') {
                Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().unwrap_or(usual)),
                _ => (self.request.authority.as_str(), usual),
            };
            let found = match host.trim_matches(['[', ']']).parse() {
                Ok(ip) => vec![ip],
                Err(_) => self.world.addresses(host, &self.proxy.pod.namespace),
            };
            plan.named = cache.family.of(&found).next().map(|ip| std::net::SocketAddr::new(ip, port));
            if plan.named.is_none() {
                self.reply(&NameFailure::Unresolved("no address".into()).reply());
                return;
            }
        }
        self.attempts(&plan).await;
    }

    /// Which of a route's clusters the request goes to.
    fn pick_weighted<'p>(&mut self, routed: Routed<'p>) -> Option<&'p lateen_traffic::route::WeightedCluster> {
        let Action::Forward(forward) = &routed.route.action else { return None };
        let Target::Weighted(clusters) = &forward.target else { return None };
        let hash = if forward.weighted_by == WeightedBy::Hash { self.hash(forward) } else { None };
        forward.pick_weighted(clusters, &self.request, hash, &mut self.world.dice())
    }

    /// What the request is hashed to; cookies made for it go out with the answer.
    fn hash(&mut self, forward: &Forward) -> Option<u64> {
        if forward.hash_policies.is_empty() {
            return None;
        }
        let Downstream { peer, local, .. } = *self.downstream;
        let downstream = hashing::Downstream { client: self.record.downstream_remote.ip(), peer, local };
        hashing::hash(&forward.hash_policies, &self.request, &downstream, &mut self.cookies)
    }

    pub fn edit(&mut self, routes: &RouteConfig, routed: Routed<'_>) {
        router::edit_response(routes, routed, &self.request, &self.record, &mut self.response);
    }

    fn direct(&mut self, status: u16, body: Bytes, by: Option<(&RouteConfig, Routed<'_>)>) {
        self.record.details = "direct_response".into();
        if let Some((routes, routed)) = by {
            self.edit(routes, routed);
        }
        self.send_own(status, body, None);
    }

    /// Answers by itself. The response head may have fields already.
    pub fn reply(&mut self, reply: &LocalReply) {
        self.record.flags.add(reply.flags);
        self.record.details = reply.details.clone();
        self.send_own(reply.status, Bytes::copy_from_slice(reply.body.as_bytes()), reply.grpc_status);
    }

    pub fn send_own(&mut self, status: u16, text: Bytes, grpc_status: Option<u32>) {
        let body = match self.bridge {
            None => local_response(status, &text, &self.request, grpc_status, &mut self.response),
            Some(bridge) => {
                self.response.status = status;
                bridge.answer(&mut self.response, &text).into()
            }
        };
        self.record.code = self.response.status;
        self.complete(true);
        self.answer = if self.request.method == "HEAD" { Bytes::new() } else { body };
        self.trace.tell(self.world, || Decision::Own {
            status: self.record.code,
            flags: self.record.flags,
            details: self.record.details.to_string(),
        });
    }

    /// What every response gets on its way out.
    pub fn complete(&mut self, own: bool) {
        // As if all of a run happened at the beginning of calendars.
        let date = || "Thu, 01 Jan 1970 00:00:00 GMT";
        if !self.edits.is_empty() {
            if let Some(grant) = self.grant.take() {
                grant.apply(&mut self.response.headers);
            }
            // They were found sound before the request went on.
            let _ = ext_authz::edit_response(&self.edits, &mut self.response.headers);
        }
        router::complete_response(self.hcm, &self.request, &mut self.response, own, self.grant.as_ref(), date);
    }

    fn finish(mut self) -> Heard {
        self.record.duration = self.world.clock.now() - self.started;
        self.record.bytes_received = self.body.len() as u64;
        self.record.bytes_sent = self.answer.len() as u64;
        let answer = Answer {
            head: std::mem::take(&mut self.response),
            body: std::mem::take(&mut self.answer),
            by: self.answered_by.take(),
        };
        self.proxy.log.write(&self.hcm.access_log, &self.record, &self.request, Some(&answer.head));
        Heard::Http(answer)
    }

    fn tell_route(&self, routes: &RouteConfig, routed: &Result<Routed<'_>, NotRouted<'_>>) {
        self.trace.tell(self.world, || match routed {
            Ok(Routed { virtual_host, route, .. }) => Decision::Route {
                virtual_host: Arc::clone(&virtual_host.name),
                index: virtual_host.routes.iter().position(|one| std::ptr::eq(&**one, *route)).unwrap_or(0),
                name: Arc::clone(&route.name),
                matches: words(&route.matches),
            },
            Err(NotRouted::NotFound) => Decision::NoRoute {
                authority: self.request.authority.clone(),
                virtual_host: routes.virtual_host(&self.request.authority).map(|host| Arc::clone(&host.name)),
            },
            Err(NotRouted::TlsRequired(host)) => Decision::Route {
                virtual_host: Arc::clone(&host.name),
                index: 0,
                name: "".into(),
                matches: "everything that is not TLS is redirected".to_owned(),
            },
        });
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.suffers_fault
            && let Some(count) = self.proxy.faults.borrow_mut().get_mut(&self.hcm.stat_prefix)
        {
            *count -= 1;
        }
    }
}

/// Who issued a request's token and for whom, as the filter tells others.
fn token_of(jwt: &JwtAuthn, metadata: &Metadata) -> Option<(String, String)> {
    let text = |payload: &Value, name| payload.member(name).and_then(Value::as_text).unwrap_or("?").to_owned();
    let (_, payload) = metadata.of(&jwt.filter).next()?;
    Some((text(payload, "iss"), text(payload, "sub")))
}

fn total(forward: &Forward) -> u64 {
    match &forward.target {
        Target::Weighted(clusters) => clusters.iter().map(|one| u64::from(one.weight)).sum(),
        Target::Cluster(_) | Target::Header(_) => 0,
    }
}

/// What a route takes.
fn words(matches: &RouteMatch) -> String {
    let mut words = match &matches.path {
        PathMatch::Prefix(prefix) => format!("paths that begin with {prefix}"),
        PathMatch::Exact(path) => format!("the path {path}"),
        PathMatch::Regex(pattern) => format!("paths like {pattern}"),
        PathMatch::SegmentPrefix(prefix) => format!("paths at and below {prefix}"),
        PathMatch::Connect => "CONNECT".to_owned(),
    };
    for (number, what) in [(matches.headers.len(), "headers"), (matches.query.len(), "query parameters")] {
        if number > 0 {
            words.push_str(&format!(", {number} {what}"));
        }
    }
    words
}
