//! Asking an authorization service about a request, and doing as it says.

use std::rc::Rc;

use bytes::Bytes;
use lateen_traffic::Dice as _;
use lateen_traffic::ext_authz::{
    self, Allowed, Answer, AskedRequest, Attributes, ConnectionAuthz, Denied, Edit, ExtAuthz, Failed, Gathered,
    Question, Reply, Service,
};
use lateen_traffic::metadata::Metadata;
use lateen_traffic::record::Flags;
use lateen_traffic::route::{RouteConfig, Routed};
use lateen_xds::check;

use crate::call::call;
use crate::exchange::Exchange;
use crate::message::Request;
use crate::proxy::{Downstream, Proxy};
use crate::trace::{Decision, Trace};
use crate::world::World;

/// A request goes on.
pub(crate) struct GoesOn {
    /// Its route is to be chosen anew.
    pub reroute: bool,
}

impl Exchange<'_> {
    /// Asks the service. `None`: the request is answered.
    pub(crate) async fn authorize(
        &mut self,
        routes: &RouteConfig,
        routed: Option<Routed<'_>>,
        question: &Question,
    ) -> Option<GoesOn> {
        let asked_at = self.world.clock.now();
        let mut told = None;
        let upgrade = !self.request.upgrade.is_empty() || self.request.is_connect();
        if let Some(settings) = question.body.filter(|_| !self.body.is_empty() && !upgrade) {
            let mut body = Gathered::default();
            body.take(&self.body, settings);
            if body.partial && !settings.part {
                self.answer_instead(routes, routed, &ext_authz::TOO_LARGE);
                return None;
            }
            told = Some(body);
        }
        self.name_cluster(routed);
        let Reply { answer, metadata, strange } = self.ask(question, told).await;
        self.delayed_to = Some(self.world.clock.now());
        let filter = &question.filter;
        if strange && filter.taken.strictly {
            self.answer_instead(routes, routed, &ext_authz::INVALID);
            return None;
        }
        if filter.taken.metadata {
            answer.tell(ext_authz::FILTER, metadata, self.world.clock.now() - asked_at, &mut self.record.metadata);
        }
        match answer {
            Answer::Allowed(allowed) => self.allowed(routes, routed, filter, allowed),
            Answer::Denied(Denied { status, edits, mut body }) => {
                if let Some(most) = filter.taken.most_body {
                    body.truncate(most);
                }
                self.answer_with(routes, routed, (status, &edits, body), ext_authz::DENIED);
                None
            }
            Answer::Failed(_) if filter.failure.allows => {
                if filter.failure.tells {
                    self.request.headers.append(ext_authz::FAILURE_ALLOWED, "true");
                }
                Some(GoesOn { reroute: false })
            }
            Answer::Failed(Failed { status, edits, body }) => {
                let status = if status == 0 { filter.failure.status } else { status };
                self.answer_with(routes, routed, (status, &edits, body), ext_authz::ERROR);
                None
            }
        }
    }

    /// What the service says, once it does.
    async fn ask(&mut self, question: &Question, body: Option<Gathered>) -> Reply {
        let name = question.service.cluster();
        self.trace.tell(self.world, || Decision::Asked { cluster: name.to_string() });
        let failed = || Answer::Failed(Failed::default()).into();
        let Some(upstream) = self.proxy.upstream(self.world, name) else { return failed() };
        let timeout = question.service.timeout();
        let tls = upstream.settings().speaks_tls();
        let (head, body) = match &*question.service {
            Service::Http(http) => {
                let asked = http.ask(&question.filter.told, &self.request, &self.record, body.as_ref(), tls);
                (asked, body.map_or_else(Bytes::new, |body| body.bytes.into()))
            }
            Service::Grpc(grpc) => {
                let asked = grpc.ask(Some(&self.request), &self.record, self.proxy.pod.address(), tls);
                (asked, check::question(&self.attributes(question, body.as_ref())).into())
            }
        };
        let original = self.meant(&upstream);
        let request = Request { head, body };
        let called = call(self.world, &upstream, original, request, timeout, &self.trace.deeper()).await;
        match (called, &*question.service) {
            (None, _) => failed(),
            (Some(answer), Service::Http(http)) => http.understand(answer.head, answer.body.into()),
            (Some(answer), Service::Grpc(_)) => grpc_reply(&answer).unwrap_or_else(failed),
        }
    }

    /// What a service is told over gRPC.
    fn attributes<'s>(&'s self, question: &'s Question, body: Option<&'s Gathered>) -> Attributes<'s> {
        let told = &question.filter.told;
        Attributes {
            told,
            context: &question.context,
            source: self.downstream.peer,
            peer: self.downstream.ends(self.record.downstream_remote.ip()),
            metadata: &self.record.metadata,
            request: Some(AskedRequest {
                id: self.world.dice().roll(),
                head: &self.request,
                fields: told.fields(&self.request, body),
                start: self.record.start,
                received: self.body.len() as u64,
                body,
                bytes: question.body.is_some_and(|settings| settings.bytes),
            }),
        }
    }

    fn allowed(
        &mut self,
        routes: &RouteConfig,
        routed: Option<Routed<'_>>,
        filter: &ExtAuthz,
        allowed: Allowed,
    ) -> Option<GoesOn> {
        let reroute = filter.taken.reroutes && allowed.changes();
        let sound = allowed.apply(&mut self.request, filter.taken.strictly).is_ok();
        if !sound || self.hcm.limits.exceeded_by(&self.request) {
            self.answer_instead(routes, routed, &ext_authz::INVALID);
            return None;
        }
        self.edits.extend(allowed.response);
        if reroute {
            // It may become another.
            self.record.upstream_cluster = None;
            self.record.upstream_cluster_alt = None;
        }
        Some(GoesOn { reroute })
    }

    /// The service's answer goes to the client.
    fn answer_with(
        &mut self,
        routes: &RouteConfig,
        routed: Option<Routed<'_>>,
        (status, edits, body): (u16, &[Edit], Vec<u8>),
        details: &'static str,
    ) {
        self.edit_instead(routes, routed);
        if ext_authz::edit_own(edits, &mut self.response.headers).is_err() {
            self.response.headers.clear();
            self.answer_instead(routes, routed, &ext_authz::INVALID);
            return;
        }
        self.record.flags.add(Flags::UNAUTHORIZED);
        self.record.details = details.into();
        self.send_own(status, body.into(), None);
    }
}

impl Proxy {
    /// Asks a service about a connection: why it may not go on, if it may not.
    pub(crate) async fn ask(
        &self,
        world: &Rc<World>,
        filter: &ConnectionAuthz,
        downstream: &Downstream,
        metadata: &mut Metadata,
        trace: &Trace,
    ) -> Option<&'static str> {
        let (service, asked_at) = (&filter.service, world.clock.now());
        trace.tell(world, || Decision::Asked { cluster: service.cluster.to_string() });
        let Some(upstream) = self.upstream(world, &service.cluster) else { return filter.denial(None) };
        let attributes = Attributes {
            told: &filter.told,
            context: &[],
            source: downstream.peer,
            peer: downstream.ends(downstream.peer.ip()),
            metadata,
            request: None,
        };
        let tls = upstream.settings().speaks_tls();
        let head = service.ask(None, &downstream.record(world), self.pod.address(), tls);
        let request = Request { head, body: check::question(&attributes).into() };
        let called = call(world, &upstream, downstream.original, request, service.timeout, &trace.deeper()).await;
        let reply = called.as_ref().and_then(grpc_reply);
        let denial = filter.denial(reply.as_ref().map(|reply| &reply.answer));
        if let Some(Reply { answer, metadata: told, .. }) = reply {
            answer.tell(ext_authz::CONNECTION_FILTER, told, world.clock.now() - asked_at, metadata);
        }
        denial
    }
}

/// Whoever answers is a program that says in the head how the call went: there are no trailers here.
fn grpc_reply(answer: &crate::message::Answer) -> Option<Reply> {
    let good = answer.head.status == 200 && answer.head.headers.get("grpc-status") == Some(b"0");
    good.then(|| check::answer(&answer.body)).flatten()
}
