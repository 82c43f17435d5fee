//! Asking an authorization service about a request, and doing as it says.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use lateen_traffic::Dice as _;
use lateen_traffic::ext_authz::{
    self, Allowed, Answer, AskedRequest, Attributes, BodySettings, Denied, Edit, ExtAuthz, Failed, Gathered,
    GrpcService, Question, Reply, Service,
};
use lateen_traffic::record::Flags;
use lateen_xds::check;
use tokio::time::Instant;

use super::Exchange;
use super::body::{Piece, SourceError};
use super::call::{Call, Called, MOST_ANSWER};
use super::filters::{On, Stopped};
use crate::refusals::Refusal;
use crate::stats::{AuthorizationStats, Counter};

/// A request goes on.
pub(super) struct GoesOn {
    /// Its route is to be chosen anew.
    pub reroute: bool,
}

impl Exchange<'_, '_> {
    /// Asks the service. `None`: the request is answered, or its client is gone.
    pub(super) async fn authorize(&mut self, on: On<'_>, question: &Question) -> Option<GoesOn> {
        let mut body = None;
        let upgrade = !self.request.upgrade.is_empty() || self.request.is_connect();
        if let Some(settings) = question.body.filter(|_| !self.body.ended && !upgrade) {
            match self.gather(on, settings).await {
                Ok(gathered) if gathered.partial && !settings.part => {
                    self.connection.stats.downstream_rq_too_large.inc();
                    self.responder.close_after();
                    self.answer_instead(on, &ext_authz::TOO_LARGE).await;
                    return None;
                }
                Ok(gathered) => body = Some(gathered),
                Err(stopped) => {
                    self.stopped(on, stopped).await;
                    return None;
                }
            }
        }
        let asked_at = Instant::now();
        self.name_cluster(on.config, on.routed);
        let asked = self.ask(on, question, body).await;
        let reply = match asked {
            Ok(reply) => reply,
            Err(stopped) => {
                self.stopped(on, stopped).await;
                return None;
            }
        };
        self.filtered.delayed_to = Some(Instant::now());
        self.obey(on, &question.filter, reply, asked_at).await
    }

    /// Reads as much of the request's body as is told; it stays at hand for the upstream.
    async fn gather(&mut self, on: On<'_>, settings: BodySettings) -> Result<Gathered, Stopped> {
        let mut gathered = Gathered::default();
        for piece in &self.body.replay.pieces {
            if let Piece::Data(data) = piece
                && !gathered.take(data, settings)
            {
                return Ok(gathered);
            }
        }
        let deadlines = on.deadlines(self.started);
        while !self.body.ended {
            let piece = tokio::select! {
                piece = self.body.source.next() => piece,
                () = self.responder.gone() => return Err(Stopped::ClientGone),
                expired = deadlines.wait(self.timer) => return Err(Stopped::Expired(expired)),
            };
            deadlines.touch();
            let piece = piece.map_err(|error| match error {
                SourceError::Refused(reply) => Stopped::Refused(reply),
                SourceError::Framing => Stopped::Broken,
                SourceError::Closed | SourceError::Http2(_) => Stopped::ClientGone,
            })?;
            let more = match &piece {
                Piece::Data(data) => {
                    self.record.bytes_received += data.len() as u64;
                    self.body.replay.size += data.len();
                    gathered.take(data, settings)
                }
                Piece::End(_) => {
                    self.body.ended = true;
                    false
                }
            };
            self.record.bytes_received += self.body.source.take_beyond();
            self.body.replay.pieces.push(piece);
            if !more {
                break;
            }
        }
        Ok(gathered)
    }

    /// What the service says, once it does.
    async fn ask(&mut self, on: On<'_>, question: &Question, body: Option<Gathered>) -> Result<Reply, Stopped> {
        let worker = Rc::clone(&self.connection.worker);
        let failed = || Answer::Failed(Failed::default()).into();
        let Some(upstream) = worker.upstream(question.service.cluster(), on.config) else { return Ok(failed()) };
        let timeout = question.service.timeout();
        let tls = upstream.settings().speaks_tls();
        let (request, body) = match &*question.service {
            Service::Http(http) => {
                let asked = http.ask(&question.filter.told, self.request, &self.record, body.as_ref(), tls);
                (asked, body.map_or_else(Bytes::new, |body| body.bytes.into()))
            }
            Service::Grpc(grpc) => {
                let asked = grpc.ask(Some(self.request), &self.record, worker.process.own_address, tls);
                (asked, check::question(&self.attributes(question, body.as_ref())).into())
            }
        };
        let call = Call {
            worker: &worker,
            upstream: &upstream,
            request,
            body,
            timeout,
            most: match &*question.service {
                Service::Grpc(GrpcService { most: Some(most), .. }) => MOST_ANSWER.min(*most),
                Service::Http(_) | Service::Grpc(_) => MOST_ANSWER,
            },
            original: self.original(&upstream.settings()),
        };
        let called = self.unless_over(on, call.make()).await?;
        Ok(match (called, &*question.service) {
            (None, _) => failed(),
            (Some(Called { head, body, .. }), Service::Http(http)) => http.understand(head, body),
            (Some(called), Service::Grpc(_)) => called.grpc_message().and_then(check::answer).unwrap_or_else(failed),
        })
    }

    /// What a service is told over gRPC.
    fn attributes<'s>(&'s self, question: &'s Question, body: Option<&'s Gathered>) -> Attributes<'s> {
        let connection = self.connection;
        let told = &question.filter.told;
        Attributes {
            told,
            context: &question.context,
            source: connection.peer,
            peer: connection.ends(self.record.downstream_remote.ip()),
            metadata: &self.record.metadata,
            request: Some(AskedRequest {
                id: connection.worker.dice().roll(),
                head: self.request,
                fields: told.fields(self.request, body),
                start: self.record.start,
                received: self.record.bytes_received,
                body,
                bytes: question.body.is_some_and(|settings| settings.bytes),
            }),
        }
    }

    /// Does as the service says.
    async fn obey(&mut self, on: On<'_>, filter: &ExtAuthz, reply: Reply, asked_at: Instant) -> Option<GoesOn> {
        let Reply { answer, metadata, strange } = reply;
        if strange && filter.taken.strictly {
            return self.invalid(on, filter).await;
        }
        if !metadata.is_empty() {
            if filter.taken.metadata {
                answer.tell(ext_authz::FILTER, metadata, asked_at.elapsed(), &mut self.record.metadata);
            } else {
                self.connection.stats.ext_authz(&filter.stat_prefix).ignored_dynamic_metadata.inc();
            }
        }
        match answer {
            Answer::Allowed(allowed) => self.allowed(on, filter, allowed).await,
            Answer::Denied(denied) => {
                self.denied(on, filter, denied).await;
                None
            }
            Answer::Failed(failed) => self.failed(on, filter, failed).await,
        }
    }

    async fn allowed(&mut self, on: On<'_>, filter: &ExtAuthz, allowed: Allowed) -> Option<GoesOn> {
        let reroute = filter.taken.reroutes && allowed.changes();
        if allowed.apply(self.request, filter.taken.strictly).is_err() || on.hcm.limits.exceeded_by(self.request) {
            return self.invalid(on, filter).await;
        }
        self.filtered.edits.extend(allowed.response);
        self.count(on, filter, |stats| &stats.ok);
        if reroute {
            // It may become another.
            self.record.upstream_cluster = None;
            self.record.upstream_cluster_alt = None;
        }
        Some(GoesOn { reroute })
    }

    async fn denied(&mut self, on: On<'_>, filter: &ExtAuthz, denied: Denied) {
        self.count(on, filter, |stats| &stats.denied);
        if let Some(upstream) = self.meant(on).filter(|_| filter.counts_refusals) {
            upstream.stats.response(denied.status);
        }
        let Denied { status, edits, mut body } = denied;
        if let Some(most) = filter.taken.most_body {
            body.truncate(most);
        }
        self.answer_with(on, filter, (status, &edits, body), ext_authz::DENIED).await;
    }

    async fn failed(&mut self, on: On<'_>, filter: &ExtAuthz, failed: Failed) -> Option<GoesOn> {
        self.count(on, filter, |stats| &stats.error);
        if filter.failure.allows {
            self.count(on, filter, |stats| &stats.failure_mode_allowed);
            if filter.failure.tells {
                self.request.headers.append(ext_authz::FAILURE_ALLOWED, "true");
            }
            return Some(GoesOn { reroute: false });
        }
        let Failed { status, edits, body } = failed;
        let status = if status == 0 { filter.failure.status } else { status };
        self.answer_with(on, filter, (status, &edits, body), ext_authz::ERROR).await;
        None
    }

    /// The service's answer goes to the client.
    async fn answer_with(
        &mut self,
        on: On<'_>,
        filter: &ExtAuthz,
        (status, edits, body): (u16, &[Edit], Vec<u8>),
        details: &'static str,
    ) {
        self.edit_reply(on.routes, on.routed);
        if ext_authz::edit_own(edits, &mut self.response.headers).is_err() {
            self.response.headers.clear();
            self.invalid(on, filter).await;
            return;
        }
        self.record.flags.add(Flags::UNAUTHORIZED);
        self.record.details = Cow::Borrowed(details);
        self.note_refusal(filter);
        self.send_own(status, body.into(), None).await;
    }

    /// The service's answer cannot be carried out.
    async fn invalid(&mut self, on: On<'_>, filter: &ExtAuthz) -> Option<GoesOn> {
        self.count(on, filter, |stats| &stats.invalid);
        self.note_refusal(filter);
        self.answer_instead(on, &ext_authz::INVALID).await;
        None
    }

    /// Keeps who was refused, by the policy for which the service was asked.
    fn note_refusal(&self, filter: &ExtAuthz) {
        let policy = filter.when.metadata.as_ref().and_then(|of| of.text(&self.record.metadata)).cloned();
        let peer = self.connection.ends(self.record.downstream_remote.ip());
        let refusal = Refusal::new(self.record.start, &peer, Some(self.request), policy);
        self.connection.worker.stats.refused(refusal);
    }

    /// Counts for the connection manager, and for the cluster that the request is meant for.
    fn count(&self, on: On<'_>, filter: &ExtAuthz, counter: fn(&AuthorizationStats) -> &Counter) {
        counter(self.connection.stats.ext_authz(&filter.stat_prefix)).inc();
        if let Some(upstream) = self.meant(on) {
            counter(upstream.stats.ext_authz(&filter.stat_prefix)).inc();
        }
    }

    /// The cluster that the request is meant for.
    fn meant(&self, on: On<'_>) -> Option<Rc<crate::upstream::Upstream>> {
        let name = on.routed.and_then(|routed| routed.cluster(self.request))?;
        self.connection.worker.upstream(name, on.config)
    }
}
