//! Serving an HTTP/2 connection: many requests at once, on the `h2` crate's framing and flow control.

mod frames;
pub mod keepalive;
pub mod spare;

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use lateen_traffic::hcm::Underscores;
use lateen_traffic::record::Flags;
use lateen_traffic::{Protocol, RequestHead};
use tokio::time::Instant;

pub use self::frames::Frames;
use self::frames::Refused;
use self::spare::Scratch;
use crate::connection::Connection;
use crate::http1::head::Framing;
use crate::http1::target::valid_authority;
use crate::io::{Io, OwnedIo, Turns};
use crate::router::body::Source;
use crate::router::respond::{Http2Responder, Responder};
use crate::router::{self, Exchange, Filtered, Incoming};
use crate::timer::Timer;

/// The client's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams a client may open and reset again before the connection is closed (rapid reset).
const MAX_PENDING_RESETS: usize = 100;

/// Serves a connection to its end.
pub async fn serve(io: Rc<Io>, connection: Connection) {
    let turns = Turns::default();
    turns.count(drive(io, connection, &turns)).await;
}

async fn drive(io: Rc<Io>, connection: Connection, turns: &Turns) {
    connection.stats.downstream_cx_http2_total.inc();
    let hcm = &connection.hcm;
    let settings = hcm.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(u32::try_from(hcm.limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(1024))
        .max_send_buffer_size(256 * 1024);
    if settings.allow_connect {
        builder.enable_connect_protocol();
    }
    let frames = Rc::new(Frames::new());
    let watched = OwnedIo::watched(Rc::clone(&io), turns, Rc::clone(&frames));
    let Ok(mut http2) = builder.handshake::<_, Bytes>(watched).await else {
        connection.stats.downstream_cx_protocol_error.inc();
        return;
    };
    let connection = Rc::new(connection);
    let opened = Instant::now();
    let pings = settings.keepalive.and_then(|_| http2.ping_pong());
    let unanswered = keepalive::unanswered(pings, settings.keepalive, io);
    let mut unanswered = std::pin::pin!(unanswered);
    let mut timer = Timer::default();
    let open_streams = Rc::new(std::cell::Cell::new(0usize));
    let mut draining = false;
    let mut idle_since = Instant::now();
    loop {
        tell(&connection, &frames);
        let timeouts = &connection.hcm.timeouts;
        let idle_at = timeouts.idle.filter(|_| open_streams.get() == 0).map(|t| idle_since + t);
        let age_at = timeouts.max_connection_duration.map(|t| opened + t);
        let deadline = if draining { None } else { [idle_at, age_at].into_iter().flatten().min() };
        let accepted = tokio::select! {
            biased;
            accepted = poll_fn(|cx| match http2.poll_accept(cx) {
                Poll::Pending if frames.has_refused() => Poll::Ready(None),
                polled => polled.map(Some),
            }) => match accepted {
                Some(accepted) => accepted,
                None => continue,
            },
            () = &mut unanswered => return,
            () = connection.drain.begun(), if !draining => {
                connection.stats.downstream_cx_drain_close.inc();
                draining = true;
                http2.graceful_shutdown();
                continue;
            }
            () = timer.until(deadline), if deadline.is_some() => {
                if idle_at.is_some_and(|at| at <= Instant::now()) && open_streams.get() > 0 {
                    idle_since = Instant::now();
                    continue;
                }
                connection.stats.downstream_cx_idle_timeout.inc();
                draining = true;
                http2.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => {
                frames.accepted(respond.stream_id().as_u32());
                idle_since = Instant::now();
                open_streams.set(open_streams.get() + 1);
                let (connection, open_streams) = (Rc::clone(&connection), Rc::clone(&open_streams));
                tokio::task::spawn_local(async move {
                    // Apart: the runtime moves a task several times, and this one is large.
                    Box::pin(stream(&connection, request, respond)).await;
                    open_streams.set(open_streams.get() - 1);
                });
            }
            Some(Err(error)) => {
                tell(&connection, &frames);
                if !error.is_io() {
                    connection.stats.downstream_cx_protocol_error.inc();
                    // What could not be decoded was to begin a request.
                    for _ in 0..frames.abandoned() {
                        connection.worker.stats.all().http2.rx_messaging_error.inc();
                        refused(&connection, 0, Flags::DOWNSTREAM_PROTOCOL_ERROR, "http2.invalid.header.field");
                    }
                }
                return;
            }
            None => return tell(&connection, &frames),
        }
    }
}

/// Counts what passed, and records the requests that the library refused since it was last asked.
fn tell(connection: &Connection, frames: &Frames) {
    let stats = &connection.worker.stats.all().http2;
    let (received, sent) = frames.resets();
    if received + sent > 0 {
        stats.rx_reset.add(received);
        stats.tx_reset.add(sent);
    }
    while let Some(of) = frames.next_refused() {
        match of {
            Refused::Malformed => {
                stats.rx_messaging_error.inc();
                connection.stats.downstream_cx_protocol_error.inc();
                refused(connection, 0, Flags::DOWNSTREAM_PROTOCOL_ERROR, VIOLATION);
            }
            Refused::TooLarge => {
                stats.header_overflow.inc();
                refused(connection, 431, Flags::DOWNSTREAM_RESET, "http2.header_list_size_too_large");
            }
        }
    }
}

/// Records a request that came to nothing before it was read. `code`: what its client was told.
fn refused(connection: &Connection, code: u16, flags: Flags, details: &'static str) {
    let mut record = connection.record();
    record.code = code;
    record.protocol = Some(Protocol::Http2);
    record.flags.add(flags);
    record.details = Cow::Borrowed(details);
    router::record_unread(connection, &record);
}

async fn stream(connection: &Connection, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let started = Instant::now();
    let (parts, mut body) = request.into_parts();
    let mut scratch = connection.worker.spare.take();
    let Scratch { request: head, response, timer } = &mut scratch;
    head.protocol = Protocol::Http2;
    let framing = match read_head(&parts, &body, connection, head) {
        Ok(framing) => framing,
        Err(wrong) => {
            let stats = &connection.worker.stats.all().http2;
            let (reason, flags) = match wrong {
                TOO_MANY => {
                    stats.header_overflow.inc();
                    (h2::Reason::INTERNAL_ERROR, Flags::DOWNSTREAM_RESET)
                }
                _ => {
                    stats.rx_messaging_error.inc();
                    connection.stats.downstream_cx_protocol_error.inc();
                    (h2::Reason::PROTOCOL_ERROR, Flags::DOWNSTREAM_PROTOCOL_ERROR)
                }
            };
            respond.send_reset(reason);
            return refused(connection, 0, flags, wrong);
        }
    };
    let mut responder = Responder::Http2(Http2Responder { respond, stream: None });
    let expects_continue = head.headers.get("expect").is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    let mut exchange = Exchange {
        connection,
        request: head,
        body: Incoming::new(Source::Http2(&mut body), framing, expects_continue),
        responder: &mut responder,
        timer,
        response,
        record: connection.record(),
        filtered: Filtered::default(),
        started,
        new_cookies: Default::default(),
        named: None,
    };
    exchange.serve().await;
    drop(exchange);
    connection.worker.spare.give(scratch);
}

/// More header fields than the listener takes, in Envoy's words for the access log.
const TOO_MANY: &str = "http2.too_many_headers";
/// A request against the rules of RFC 9113, section 8, likewise.
const VIOLATION: &str = "http2.violation.of.messaging.rule";

/// The head as the router takes it; else what is wrong with it, for the access log.
fn read_head(
    parts: &http::request::Parts,
    body: &RecvStream,
    connection: &Connection,
    head: &mut RequestHead,
) -> Result<Framing, &'static str> {
    let limits = &connection.hcm.limits;
    if parts.headers.len() > limits.max_headers {
        return Err(TOO_MANY);
    }
    head.method.push_str(parts.method.as_str());
    head.scheme.push_str(parts.uri.scheme_str().unwrap_or("http"));
    if let Some(authority) = parts.uri.authority() {
        head.authority.push_str(authority.as_str());
    }
    if let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() {
        head.upgrade.push_str(&protocol.as_str().to_ascii_lowercase());
    }
    if !(head.is_connect() && head.upgrade.is_empty()) {
        head.path.push_str(parts.uri.path_and_query().map_or("/", |p| p.as_str()));
    }
    let mut cookies: Vec<u8> = Vec::new();
    let mut hosts = 0;
    for (name, value) in &parts.headers {
        // The next server may speak HTTP/1, where blanks around a value are none of it.
        let (name, value) = (name.as_str(), value.as_bytes().trim_ascii());
        match name {
            "host" => {
                let host = std::str::from_utf8(value).map_err(|_| VIOLATION)?;
                // Which of two counts would be anybody's guess.
                if hosts > 0 {
                    return Err(VIOLATION);
                }
                hosts += 1;
                if head.authority.is_empty() {
                    head.authority.push_str(host);
                }
                continue;
            }
            // Split for compression only (RFC 9113 section 8.2.3).
            "cookie" => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
                continue;
            }
            _ if name.contains('_') => match limits.underscores {
                Underscores::Allow => {}
                Underscores::Reject => return Err("http2.unexpected_underscore"),
                Underscores::Drop => continue,
            },
            _ => {}
        }
        head.headers.add(name, value);
    }
    if !cookies.is_empty() {
        head.headers.append("cookie", &cookies);
    }
    // A user there might be taken for the host (RFC 9113 section 8.3.1).
    if head.authority.is_empty() || !valid_authority(&head.authority) || head.authority.contains('@') {
        return Err(VIOLATION);
    }
    Ok(if body.is_end_stream() { Framing::None } else { Framing::Chunked })
}
