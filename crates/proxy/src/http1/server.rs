//! Serving an HTTP/1.1 connection: one request after the other.

use std::rc::Rc;

use bytes::Buf as _;
use lateen_traffic::{RequestHead, ResponseHead};
use tokio::time::Instant;

use super::head::{BadRequest, RequestRules, Wire, parse_request};
use super::{Reader, Writer};
use crate::connection::Connection;
use crate::io::Io;
use crate::router::body::Source;
use crate::router::respond::{Http1Responder, Responder};
use crate::router::{Exchange, Filtered, Incoming, refuse};
use crate::timer::Timer;

/// What came of waiting for a request.
enum Next {
    Request(Wire),
    Bad(BadRequest),
    /// Time for the head is over.
    Late,
    /// The connection is over: closed by the client, idle for too long, or drained.
    Over,
}

/// Serves a connection to its end.
pub async fn serve(io: Rc<Io>, connection: Connection) {
    connection.stats.downstream_cx_http1_total.inc();
    let mut reader = Reader::new(Rc::clone(&io));
    let mut writer = Writer::new(Rc::clone(&io));
    let mut timer = Timer::default();
    let mut request = RequestHead::default();
    let mut response = ResponseHead::default();
    let opened = Instant::now();
    let hcm = std::sync::Arc::clone(&connection.hcm);
    let mut served = 0u32;
    loop {
        let next = next_request(&mut reader, &mut timer, &connection, &mut request, (opened, served > 0)).await;
        let mut responder = Responder::Http1(Http1Responder {
            writer: &mut writer,
            close: false,
            http10: false,
            head_request: false,
            proper_case: hcm.http1.header_case == lateen_traffic::hcm::HeaderCase::ProperWords,
        });
        match next {
            Next::Over => return,
            Next::Bad(bad) => {
                if matches!(bad, BadRequest::TooLarge | BadRequest::TooManyHeaders) {
                    connection.stats.downstream_rq_too_large.inc();
                }
                if bad != BadRequest::MissingHost {
                    request.clear();
                }
                refuse(&connection, &mut responder, &bad.reply(), &mut request).await;
                break;
            }
            Next::Late => {
                connection.stats.downstream_rq_header_timeout.inc();
                request.clear();
                refuse(&connection, &mut responder, &lateen_traffic::reply::REQUEST_HEADER_TIMEOUT, &mut request).await;
                break;
            }
            Next::Request(wire) => {
                served += 1;
                let last = hcm.limits.max_requests_per_connection.is_some_and(|limit| served >= limit);
                if last {
                    connection.stats.downstream_cx_max_requests_reached.inc();
                }
                if let Responder::Http1(r) = &mut responder {
                    r.close = !wire.keep_alive || last;
                    r.head_request = request.method == "HEAD";
                    r.http10 = request.protocol == lateen_traffic::Protocol::Http10;
                }
                reader.start_body(wire.framing);
                let mut exchange = Exchange {
                    connection: &connection,
                    request: &mut request,
                    body: Incoming::new(Source::Http1(&mut reader), wire.framing, wire.expects_continue),
                    responder: &mut responder,
                    timer: &mut timer,
                    response: &mut response,
                    record: connection.record(),
                    filtered: Filtered::default(),
                    started: Instant::now(),
                    new_cookies: Default::default(),
                    named: None,
                };
                exchange.serve().await;
                drop(exchange);
                let close = matches!(&responder, Responder::Http1(r) if r.close);
                if close || !reader.body_done() {
                    break;
                }
            }
        }
    }
    io.close(&mut timer, hcm.timeouts.delayed_close).await;
}

async fn next_request(
    reader: &mut Reader,
    timer: &mut Timer,
    connection: &Connection,
    request: &mut RequestHead,
    (opened, used): (Instant, bool),
) -> Next {
    let hcm = &connection.hcm;
    // At the edge, a URL of https in clear is a lie.
    let edge = hcm.edge.use_remote_address && hcm.edge.xff_num_trusted_hops == 0;
    let https = !edge || connection.tls.is_some();
    let rules = RequestRules { limits: &hcm.limits, http1: &hcm.http1, https };
    let mut looked_at = 0;
    let mut head_deadline = None;
    let idle_deadline = hcm.timeouts.idle.map(|t| Instant::now() + t);
    let age_deadline = hcm.timeouts.max_connection_duration.map(|t| opened + t);
    loop {
        // A head that comes in drops is parsed when its end is there, or when there is twice as much to look at.
        let fresh = reader.buffer.len() > looked_at;
        if fresh && (looked_at == 0 || ends(&reader.buffer, looked_at) || reader.buffer.len() > 2 * looked_at) {
            looked_at = reader.buffer.len();
            match parse_request(&reader.buffer, rules, request) {
                Ok(Some(wire)) => {
                    reader.buffer.advance(wire.length);
                    return Next::Request(wire);
                }
                Ok(None) => {}
                Err(bad) => return Next::Bad(bad),
            }
        }
        let waiting = !reader.buffer.is_empty();
        if waiting && head_deadline.is_none() {
            head_deadline = hcm.timeouts.request_headers.map(|t| Instant::now() + t);
        }
        let deadline = if waiting { head_deadline } else { [idle_deadline, age_deadline].into_iter().flatten().min() };
        let read = async {
            tokio::select! {
                biased;
                read = reader.fill() => Some(read),
                () = connection.drain.idle_ends(), if used && !waiting => None,
                () = connection.drain.unused_ends(), if !used && !waiting => None,
            }
        };
        match crate::timer::before(timer, deadline, read).await {
            Some(Some(Ok(n))) if n > 0 => {}
            Some(Some(_)) => return Next::Over,
            Some(None) => {
                connection.stats.downstream_cx_drain_close.inc();
                return Next::Over;
            }
            None if waiting => return Next::Late,
            None => {
                if age_deadline.is_some_and(|at| at <= Instant::now()) {
                    connection.stats.downstream_cx_max_duration_reached.inc();
                } else {
                    connection.stats.downstream_cx_idle_timeout.inc();
                }
                return Next::Over;
            }
        }
    }
}

/// Whether an empty line is in the part of `buffer` that was not looked at before.
fn ends(buffer: &[u8], looked_at: usize) -> bool {
    let fresh = &buffer[looked_at.saturating_sub(3)..];
    fresh.windows(2).any(|w| w == b"\n\n") || fresh.windows(4).any(|w| w == b"\r\n\r\n")
}
