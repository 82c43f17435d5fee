//! TLS handshakes of clients.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lateen_traffic::tls::DownstreamTls;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Accepted;
use crate::io::{Io, Socket};
use crate::stats::ListenerStats;
use crate::timer::Timer;
use crate::tls;
use crate::tls::failure::Cause;
use crate::tls::handshake::HandshakeError;

/// Time allowed where the filter chain does not say: a client that never speaks must not be waited for for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the handshake; `None` if there is none to be made, and the connection is over.
pub(super) async fn of_client(
    accepted: &Accepted,
    settings: &Arc<DownstreamTls>,
    timeout: Option<Duration>,
    stats: &ListenerStats,
    stream: TcpStream,
    prefix: BytesMut,
) -> Option<Io> {
    let worker = &accepted.worker;
    let server = match worker.process.upstreams.tls.server(settings, &worker.config().secrets) {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(peer = %accepted.peer, %error, "no TLS handshake");
            stats.tls().failed(Cause::NoSecret);
            return None;
        }
    };
    let patience = timeout.unwrap_or(PATIENCE);
    let handshake = tls::accept(&server, Socket::Tcp(stream), prefix);
    let made = crate::timer::before(&mut Timer::default(), Some(Instant::now() + patience), handshake).await;
    match made.unwrap_or(Err(HandshakeError::Late(patience))) {
        Ok((stream, facts)) => {
            stats.tls().established(&facts);
            Some(Io::tls(stream, Arc::new(facts)))
        }
        Err(error) => {
            tracing::debug!(peer = %accepted.peer, %error, "a TLS handshake failed");
            stats.tls().failed(Cause::of(&error));
            None
        }
    }
}
