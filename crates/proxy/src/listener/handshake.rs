//! TLS handshakes of clients.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lateen_traffic::record::Record;
use lateen_traffic::tls::{DownstreamTls, TlsConnection};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Accepted;
use crate::io::{Io, Socket};
use crate::stats::ListenerStats;
use crate::timer::Timer;
use crate::tls;
use crate::tls::failure::{self, Cause};
use crate::tls::handshake::HandshakeError;

/// Time allowed where the filter chain does not say: a client that never speaks must not be waited for for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Handshakes under way on one worker. Each may keep some ten kilobytes for as long as its client is patient.
const MOST: usize = 4096;

/// One of those under way, counted until it is dropped.
struct UnderWay<'a>(&'a Cell<usize>);

impl<'a> UnderWay<'a> {
    fn begin(of_worker: &'a Cell<usize>) -> Option<Self> {
        let now = of_worker.get();
        if now >= MOST {
            return None;
        }
        of_worker.set(now + 1);
        Some(Self(of_worker))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Makes the handshake; `None` if there is none to be made, for the reason that is put down, and the connection is over.
pub(super) async fn of_client(
    accepted: &Accepted,
    settings: &Arc<DownstreamTls>,
    timeout: Option<Duration>,
    stats: &ListenerStats,
    (stream, prefix): (TcpStream, BytesMut),
    record: &mut Record,
) -> Option<Io> {
    let worker = &accepted.worker;
    let Some(_under_way) = UnderWay::begin(&worker.handshakes) else {
        stats.downstream_cx_overload_reject.inc();
        record.downstream_failure = "too_many_TLS_handshakes".into();
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return None;
    };
    let server = match worker.process.upstreams.tls.server(settings, &worker.config().secrets) {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(peer = %accepted.peer, %error, "no TLS handshake");
            stats.tls().failed(Cause::NoSecret);
            record.downstream_failure = failure::words_without_context(&error).replace(' ', "_").into();
            return None;
        }
    };
    let patience = timeout.unwrap_or(PATIENCE);
    let mut so_far = TlsConnection::default();
    let handshake = tls::accept(&server, Socket::Tcp(stream), prefix, &mut so_far);
    let made = crate::timer::before(&mut Timer::default(), Some(Instant::now() + patience), handshake).await;
    match made.unwrap_or(Err(HandshakeError::Late(patience))) {
        Ok((stream, facts)) => {
            stats.tls().established(&facts);
            Some(Io::tls(stream, Arc::new(facts)))
        }
        Err(error) => {
            tracing::debug!(peer = %accepted.peer, %error, "a TLS handshake failed");
            stats.tls().failed(Cause::of(&error));
            if matches!(error, HandshakeError::Late(_)) {
                stats.downstream_cx_transport_socket_connect_timeout.inc();
                record.termination_details = "transport socket timeout was reached".into();
            }
            record.downstream_failure = failure::words(&error).replace(' ', "_").into();
            record.downstream_tls = Some(Arc::new(so_far));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_under_way_are_bounded() {
        let of_worker = Cell::new(0);
        let mut all: Vec<_> = (0..MOST).map(|_| UnderWay::begin(&of_worker).unwrap()).collect();
        assert!(UnderWay::begin(&of_worker).is_none());
        all.pop();
        assert!(UnderWay::begin(&of_worker).is_some());
        drop(all);
        assert_eq!(of_worker.get(), 0);
    }
}
