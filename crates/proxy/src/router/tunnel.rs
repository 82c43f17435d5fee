//! Upgrades (WebSocket and others) and CONNECT: after the handshake, bytes both ways.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

use lateen_traffic::ResponseHead;
use lateen_traffic::outlier::Report;
use lateen_traffic::record::Flags;
use lateen_traffic::reply::{self, UpstreamFailure};
use tokio::time::Instant;

use super::Exchange;
use super::body::{CopyError, Piece, Sink, Source, copy};
use super::forward::Plan;
use super::relay::READ_AHEAD;
use super::respond::Responder;
use super::upper::Upper;
use crate::http1::head::{self, Framing, MAX_RESPONSE_HEAD};
use crate::http1::{Reader, Writer};
use crate::upstream::{Again, Host, Http1Lease, Http2Lease, http2_failure};

impl Exchange<'_, '_> {
    /// Carries an upgrade or CONNECT through. There are no retries: bytes may flow as soon as the upstream is there.
    pub(super) async fn tunnel(&mut self, plan: &Plan<'_>) {
        let worker = Rc::clone(&self.connection.worker);
        let original = self.original(&plan.settings);
        let Some(host) = plan.upstream.pick(original, plan.hash, Again::default(), &mut worker.dice()) else {
            self.edit_own(plan);
            self.reply(&reply::NO_HEALTHY_UPSTREAM).await;
            return;
        };
        self.record.upstream_host = Some(host.target.clone());
        self.record.attempts = 1;
        let bind = worker.process.upstreams.default_bind.as_ref();
        if self.request.is_connect() && plan.forward.terminate_connect {
            match plan.upstream.tcp(&host, bind, &plan.wanted).await {
                Ok(lease) => {
                    self.report(plan, &host, Report::Served);
                    self.record.upstream_local = lease.io.local_addr();
                    self.record.upstream_tls = lease.io.facts().cloned();
                    let (mut reader, mut writer) =
                        (Reader::new(Rc::clone(&lease.io)), Writer::new(Rc::clone(&lease.io)));
                    *self.response = ResponseHead::new(200);
                    self.begin_response(plan, Instant::now());
                    self.through_http1(&mut reader, &mut writer, None).await;
                }
                Err(failure) => self.tunnel_failed(plan, &host, &failure).await,
            }
            return;
        }
        let http2 = plan.settings.protocol.is_http2(self.request.protocol);
        plan.count(|c| &c.upstream_rq_total, |r| &r.upstream_rq_total);
        if http2 {
            match plan.upstream.http2(&host, bind, &plan.wanted).await {
                Ok(lease) => self.tunnel_http2(plan, &host, lease).await,
                Err(failure) => self.tunnel_failed(plan, &host, &failure).await,
            }
        } else {
            match plan.upstream.http1(&host, bind, &plan.wanted).await {
                Ok(lease) => self.tunnel_http1(plan, &host, lease).await,
                Err(failure) => self.tunnel_failed(plan, &host, &failure).await,
            }
        }
    }

    async fn tunnel_failed(&mut self, plan: &Plan<'_>, host: &Host, failure: &UpstreamFailure) {
        self.report_failure(plan, host, failure);
        self.record.upstream_failure = failure.transport_reason();
        self.response.headers.clear();
        self.edit_own(plan);
        self.reply(&failure.reply(false)).await;
    }

    async fn tunnel_http1(&mut self, plan: &Plan<'_>, host: &Host, mut lease: Http1Lease) {
        self.report(plan, host, Report::Connected);
        let Some((reader, writer, io)) = lease.parts() else { return };
        self.record.upstream_local = io.local_addr();
        self.record.upstream_tls = io.facts().cloned();
        let sent_at = Instant::now();
        // Extended CONNECT over HTTP/2 is an upgrade request in HTTP/1 (RFC 8441 section 5).
        let extended = self.request.is_connect() && !self.request.upgrade.is_empty();
        if extended {
            self.request.method = "GET".into();
        }
        head::write_request(self.request, Framing::None, &mut writer.buffer);
        let deadline = plan.timeout.filter(|t| !t.is_zero()).map(|t| sent_at + t);
        let connect = self.request.is_connect();
        if writer.flush().await.is_err() {
            self.tunnel_failed(plan, host, &UpstreamFailure::Termination).await;
            return;
        }
        let answer = {
            let response = &mut *self.response;
            let method = if connect { "CONNECT" } else { "GET" };
            let reading = read_answer(reader, method, response);
            tokio::select! {
                answer = reading => Some(answer),
                () = self.responder.gone() => None,
                () = self.body.source.gone(READ_AHEAD) => None,
                () = self.timer.until(deadline) => Some(Err(None)),
            }
        };
        let wire = match answer {
            None => return self.client_gone(),
            Some(Err(None)) => {
                self.report(plan, host, Report::TimedOut);
                self.edit_own(plan);
                return self.reply(&reply::RESPONSE_TIMEOUT).await;
            }
            Some(Err(Some(failure))) => return self.tunnel_failed(plan, host, &failure).await,
            Some(Ok(wire)) => wire,
        };
        self.report_answer(plan, host);
        let status = self.response.status;
        let accepted = if connect { (200..300).contains(&status) } else { status == 101 };
        if accepted && extended {
            self.response.status = 200;
        }
        self.begin_response(plan, sent_at);
        if accepted {
            self.through_http1(reader, writer, None).await;
            return;
        }
        // Not accepted: the answer goes on; Envoy drops the body of a 200 that should have been a 101.
        reader.start_body(wire.framing);
        self.responder.close_after();
        let drop_body = !connect && status == 200;
        if drop_body {
            self.record.details = Cow::Borrowed("websocket_handshake_unsuccessful");
            // There is no content left to describe.
            self.response.headers.remove("content-length");
            self.response.headers.remove("content-type");
        }
        let framing = match wire.framing {
            _ if drop_body => Framing::None,
            Framing::UntilClose => Framing::Chunked,
            other => other,
        };
        let sent = async {
            self.responder.head(self.response, framing, None).map_err(|_| CopyError::Sink)?;
            if framing == Framing::None {
                return self.responder.flush().await.map_err(|_| CopyError::Sink);
            }
            let mut client = self.responder.sink().map_err(|_| CopyError::Sink)?;
            copy(&mut Source::Http1(reader), &mut client, |piece| {
                if let Piece::Data(data) = piece {
                    self.record.bytes_sent += data.len() as u64;
                }
            })
            .await
        }
        .await;
        if sent.is_err() {
            self.responder.abort().await;
        }
    }

    async fn tunnel_http2(&mut self, plan: &Plan<'_>, host: &Host, lease: Http2Lease) {
        self.report(plan, host, Report::Connected);
        self.record.upstream_local = lease.io().local_addr();
        self.record.upstream_tls = lease.io().facts().cloned();
        let sent_at = Instant::now();
        let upgrade = self.request.upgrade.clone();
        if !upgrade.is_empty() {
            self.request.method = "CONNECT".into();
        }
        let stream = match lease.client().send(self.request, false) {
            Ok(stream) => stream,
            Err(failure) => return self.tunnel_failed(plan, host, &http2_failure(failure)).await,
        };
        let deadline = plan.timeout.filter(|t| !t.is_zero()).map(|t| sent_at + t);
        let answer = {
            let mut upper = Upper::Http2(&stream);
            tokio::select! {
                answer = upper.head(self.response, false, async |_| Ok(())) => Some(answer),
                () = self.responder.gone() => None,
                () = self.body.source.gone(READ_AHEAD) => None,
                () = self.timer.until(deadline) => {
                    self.report(plan, host, Report::TimedOut);
                    self.edit_own(plan);
                    return self.reply(&reply::RESPONSE_TIMEOUT).await;
                }
            }
        };
        let framing = match answer {
            None => return self.client_gone(),
            Some(Err(failure)) => return self.tunnel_failed(plan, host, &failure).await,
            Some(Ok(framing)) => framing,
        };
        self.report_answer(plan, host);
        let accepted = (200..300).contains(&self.response.status);
        let http1_upgrade = accepted && !upgrade.is_empty() && matches!(self.responder, Responder::Http1(_));
        if http1_upgrade {
            self.response.status = 101;
        }
        self.begin_response(plan, sent_at);
        let named = http1_upgrade.then_some(upgrade.as_str());
        let (mut up, mut down) = (Sink::Http2(&stream), Source::Http2(&stream));
        if accepted {
            self.through(&mut up, &mut down, named).await;
        } else {
            let sent = async {
                self.responder.head(self.response, framing, None).map_err(|_| CopyError::Sink)?;
                if framing == Framing::None {
                    return self.responder.flush().await.map_err(|_| CopyError::Sink);
                }
                let mut client = self.responder.sink().map_err(|_| CopyError::Sink)?;
                copy(&mut down, &mut client, |_| ()).await
            };
            if sent.await.is_err() {
                self.responder.abort().await;
            }
        }
    }

    async fn through_http1(&mut self, reader: &mut Reader, writer: &mut Writer, upgrade: Option<&str>) {
        reader.start_body(Framing::UntilClose);
        writer.start_body(Framing::UntilClose);
        self.through(&mut Sink::Http1(writer), &mut Source::Http1(reader), upgrade).await;
    }

    /// Sends the final head and copies both ways until both ends, or one fails.
    async fn through(&mut self, up: &mut Sink<'_>, down: &mut Source<'_>, upgrade: Option<&str>) {
        if self.responder.head(self.response, Framing::UntilClose, upgrade).is_err()
            || self.responder.flush().await.is_err()
        {
            self.responder.abort().await;
            return self.client_gone();
        }
        if let Source::Http1(reader) = &mut self.body.source {
            reader.start_body(Framing::UntilClose);
        }
        let stats = &self.connection.stats;
        stats.downstream_cx_upgrades_total.inc();
        stats.downstream_cx_upgrades_active.inc();
        let (received, sent) = (Cell::new(0u64), Cell::new(0u64));
        let count = |cell: &Cell<u64>, piece: &Piece| {
            if let Piece::Data(data) = piece {
                cell.set(cell.get() + data.len() as u64);
            }
        };
        let first = {
            let Ok(mut client) = self.responder.sink() else { return };
            let source = &mut self.body.source;
            let upward = async {
                let ended = copy(source, up, |p| count(&received, p)).await;
                let _ = finish(up).await;
                ended
            };
            let downward = async {
                let ended = copy(down, &mut client, |p| count(&sent, p)).await;
                let _ = finish(&mut client).await;
                ended
            };
            // As in Envoy the first end ends both.
            tokio::select! {
                ended = upward => (Side::Client, ended),
                ended = downward => (Side::Upstream, ended),
            }
        };
        self.connection.stats.downstream_cx_upgrades_active.dec();
        self.record.bytes_received += received.get();
        self.record.bytes_sent += sent.get();
        match first {
            (Side::Client, Ok(()) | Err(CopyError::Source(_))) | (Side::Upstream, Err(CopyError::Sink)) => {
                self.record.flags.add(Flags::DOWNSTREAM_TERMINATION);
                self.record.details = Cow::Borrowed("downstream_remote_disconnect");
            }
            (Side::Upstream, _) | (Side::Client, Err(CopyError::Sink)) => {
                self.record.flags.add(Flags::UPSTREAM_TERMINATION);
                self.record.details = UpstreamFailure::Termination.details_after();
            }
        }
    }
}

/// Which end of a tunnel.
enum Side {
    Client,
    Upstream,
}

/// Passes the end of one direction on.
async fn finish(sink: &mut Sink<'_>) -> Result<(), CopyError> {
    match sink {
        Sink::Http1(writer) => writer.shutdown().await.map_err(|_| CopyError::Sink),
        Sink::Http2(_) => Ok(()),
    }
}

/// Reads the answer to an upgrade or CONNECT; the error is `None` only when time is over, which is the caller's.
async fn read_answer(
    reader: &mut Reader,
    method: &str,
    response: &mut ResponseHead,
) -> Result<head::Wire, Option<UpstreamFailure>> {
    loop {
        if !reader.buffer.is_empty() {
            // A 2xx to CONNECT has no body whatever it says (RFC 9110 section 9.3.6).
            let parsed =
                head::parse_response(&reader.buffer, method, response).map_err(|_| Some(UpstreamFailure::Protocol))?;
            if let Some(wire) = parsed {
                bytes::Buf::advance(&mut reader.buffer, wire.length);
                if !(100..200).contains(&response.status) || response.status == 101 {
                    return Ok(wire);
                }
                continue;
            }
        }
        match reader.fill().await {
            Ok(0) if !reader.buffer.is_empty() => return Err(Some(UpstreamFailure::Protocol)),
            Ok(0) | Err(_) => return Err(Some(UpstreamFailure::Termination)),
            Ok(_) if reader.buffer.len() > MAX_RESPONSE_HEAD => return Err(Some(UpstreamFailure::Protocol)),
            Ok(_) => {}
        }
    }
}
