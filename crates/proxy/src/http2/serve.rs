//! Serving a client's connection: many requests at once.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use lateen_traffic::Protocol;
use lateen_traffic::record::Flags;
use tokio::time::Instant;

use super::connection::{Connection as Http2, Event};
use super::core::{End, Settings};
use super::head::{Rules, Wrong};
use super::keepalive;
use super::spare::{Parts, Scratch};
use super::stream::Stream;
use crate::connection::Connection;
use crate::http1::head::Framing;
use crate::io::Io;
use crate::router::body::Source;
use crate::router::respond::{Http2Responder, Responder};
use crate::router::{self, Exchange, Filtered, Incoming};
use crate::timer::Timer;

/// The least time in which a client takes something of what is left for it.
const UNREAD: Duration = Duration::from_secs(5);

/// Serves a connection to its end.
pub async fn serve(io: Rc<Io>, connection: Connection) {
    connection.stats.downstream_cx_http2_total.inc();
    let hcm = &connection.hcm;
    let settings = Settings {
        stream_window: hcm.http2.stream_window,
        connection_window: hcm.http2.connection_window,
        max_streams: hcm.http2.max_concurrent_streams,
        rules: Rules {
            max_bytes: hcm.limits.max_head_bytes,
            max_fields: hcm.limits.max_headers,
            underscores: hcm.limits.underscores,
            extended_connect: hcm.http2.allow_connect,
        },
    };
    let pinged = hcm.http2.keepalive;
    let mut http2 = Http2::server(Rc::clone(&io), settings, Rc::clone(&connection.worker.spare));
    let connection = Rc::new(connection);
    let opened = Instant::now();
    let mut served = 0u32;
    let mut unanswered = std::pin::pin!(keepalive::unanswered(http2.pings(), pinged, Rc::clone(&io)));
    let mut timer = Timer::default();
    let busy = Rc::new(Busy { streams: Cell::new(0), since: Cell::new(opened) });
    // When it was told that we leave, and what it had read when it was told so for the last time.
    let mut leaving = None;
    let mut left = None;
    loop {
        count_resets(&connection, &http2);
        let timeouts = &connection.hcm.timeouts;
        let age_at = timeouts.max_connection_duration.map(|t| opened + t);
        let deadline = match leaving {
            Some(since) if left.is_some() => Some(since + timeouts.drain.max(UNREAD)),
            Some(since) => Some(since + timeouts.drain),
            None => [busy.idle_at(timeouts.idle), age_at].into_iter().flatten().min(),
        };
        let event = tokio::select! {
            biased;
            event = poll_fn(|cx| http2.poll_event(cx)) => event,
            () = &mut unanswered => return,
            () = connection.drain.begun(), if leaving.is_none() => {
                connection.stats.downstream_cx_drain_close.inc();
                leaving = Some(Instant::now());
                http2.leave();
                continue;
            }
            () = timer.until(deadline) => {
                let now = Instant::now();
                let is_old = age_at.is_some_and(|at| at <= now);
                if leaving.is_some() {
                    if http2.is_done() && left == Some(io.sent()) {
                        // It has all the time taken nothing of what is left to be read.
                        return;
                    }
                    (leaving, left) = (Some(now), Some(io.sent()));
                    http2.leave_now();
                } else if is_old || busy.is_idle(timeouts.idle, now) {
                    let stats = &connection.stats;
                    let counter =
                        if is_old { &stats.downstream_cx_max_duration_reached } else { &stats.downstream_cx_idle_timeout };
                    counter.inc();
                    leaving = Some(now);
                    http2.leave();
                }
                continue;
            }
        };
        match event {
            Event::Request(stream, scratch) => {
                let now = Instant::now();
                busy.begins(now);
                served = served.saturating_add(1);
                if connection.hcm.limits.max_requests_per_connection.is_some_and(|most| served >= most)
                    && leaving.is_none()
                {
                    connection.stats.downstream_cx_max_requests_reached.inc();
                    leaving = Some(now);
                    http2.leave();
                }
                let (connection, busy) = (Rc::clone(&connection), Rc::clone(&busy));
                tokio::task::spawn_local(async move {
                    // Apart: the runtime moves a task several times, and this one is large.
                    Box::pin(exchange(&connection, stream, scratch, now)).await;
                    busy.ends();
                });
            }
            Event::Refused(wrong) => refused(&connection, wrong),
            Event::End(end) => {
                count_resets(&connection, &http2);
                if let End::Broken { undecodable } = end {
                    connection.stats.downstream_cx_protocol_error.inc();
                    if undecodable {
                        connection.worker.stats.all().http2.rx_messaging_error.inc();
                        record_unread(
                            &connection,
                            0,
                            Flags::DOWNSTREAM_PROTOCOL_ERROR,
                            "codec_error:COMPRESSION_ERROR",
                        );
                    }
                }
                drop(http2);
                return io.close(&mut timer, connection.hcm.timeouts.delayed_close).await;
            }
        }
    }
}

/// What streams are open on a connection, and since when that is so.
struct Busy {
    streams: Cell<usize>,
    since: Cell<Instant>,
}

impl Busy {
    fn begins(&self, now: Instant) {
        self.streams.set(self.streams.get() + 1);
        self.since.set(now);
    }

    fn ends(&self) {
        self.streams.set(self.streams.get() - 1);
        self.since.set(Instant::now());
    }

    /// When it is time to look whether the connection is idle.
    fn idle_at(&self, timeout: Option<Duration>) -> Option<Instant> {
        timeout.map(|timeout| self.since.get() + timeout)
    }

    /// Whether nothing has happened on it for so long. If something does happen, it is time to look later.
    fn is_idle(&self, timeout: Option<Duration>, now: Instant) -> bool {
        if self.streams.get() > 0 {
            self.since.set(now);
        }
        self.idle_at(timeout).is_some_and(|at| at <= now)
    }
}

/// Counts what was reset.
fn count_resets(connection: &Connection, http2: &Http2) {
    let (received, sent) = http2.resets();
    if received + sent > 0 {
        let stats = &connection.worker.stats.all().http2;
        stats.rx_reset.add(received);
        stats.tx_reset.add(sent);
    }
}

/// Counts and records a request that was refused before the router saw it.
fn refused(connection: &Connection, wrong: Wrong) {
    let stats = &connection.worker.stats.all().http2;
    let (code, flags) = match wrong {
        Wrong::TooLarge => (431, Flags::DOWNSTREAM_RESET),
        Wrong::TooMany => (0, Flags::DOWNSTREAM_RESET),
        Wrong::Field | Wrong::Message | Wrong::Underscore => {
            stats.rx_messaging_error.inc();
            connection.stats.downstream_cx_protocol_error.inc();
            return record_unread(connection, 0, Flags::DOWNSTREAM_PROTOCOL_ERROR, wrong.details());
        }
    };
    stats.header_overflow.inc();
    record_unread(connection, code, flags, wrong.details());
}

/// Records a request that came to nothing before it was read. `code`: what its client was told.
fn record_unread(connection: &Connection, code: u16, flags: Flags, details: &'static str) {
    let mut record = connection.record();
    record.code = code;
    record.protocol = Some(Protocol::Http2);
    record.flags.add(flags);
    record.details = Cow::Borrowed(details);
    router::record_unread(connection, &record);
}

async fn exchange(connection: &Connection, stream: Stream, mut scratch: Scratch, started: Instant) {
    let Parts { request, response, timer } = &mut *scratch;
    request.protocol = Protocol::Http2;
    let framing = if stream.is_ended() { Framing::None } else { Framing::Chunked };
    let mut responder = Responder::Http2(Http2Responder { stream: &stream, begun: false });
    let expects_continue = request.headers.get("expect").is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
    let mut exchange = Exchange {
        connection,
        request,
        body: Incoming::new(Source::Http2(&stream), framing, expects_continue),
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
