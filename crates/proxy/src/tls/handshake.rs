//! Handshakes, driven by rustls. What is sent in one go is written in one go.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use lateen_traffic::tls::Certificate;
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, ExtractedSecrets};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stream::{Handshaken, Kernel};
use super::turns::Turn;
use crate::io::Socket;

/// Most bytes a peer may have us hold during the handshake; as much as BoringSSL takes of a chain of certificates.
const MAX_HELD: usize = 100 * 1024;
/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer ended the connection.
    #[error("the peer ended the connection")]
    Closed,
    /// The connection broke.
    #[error("{0}")]
    Io(io::Error),
    /// One side does not want to go on.
    #[error("{0}")]
    Tls(Error),
    /// The peer's certificate, which is told, is not good.
    #[error("{0}")]
    Refused(Error, Option<Arc<Certificate>>),
    /// The peer does not speak TLS.
    #[error("the peer speaks {0:?} instead of TLS")]
    Other(Spoken),
    /// It took too long.
    #[error("no handshake within {0:?}")]
    Late(Duration),
}

/// What somebody speaks who was to speak TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP.
    Http,
    /// HTTP, to a proxy.
    HttpToProxy,
    /// Anything else.
    Unknown,
}

impl Spoken {
    /// By the first bytes, of which BoringSSL looks at five.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.get(..5).unwrap_or(bytes) {
            [b'G', b'E', b'T', b' ', ..] | [b'P', b'U', b'T', b' ', ..] | b"POST " | b"HEAD " => Self::Http,
            b"CONNE" => Self::HttpToProxy,
            _ => Self::Unknown,
        }
    }
}

/// One side of a handshake.
pub trait Handshake {
    /// What rustls keeps for the side.
    type Data;

    /// Goes as far as it can.
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Ends it.
    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error>;
}

impl Handshake for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        let (secrets, kernel): (_, KernelConnection<_>) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Kernel::Client(Box::new(kernel))))
    }
}

impl Handshake for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn finish(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        let (secrets, kernel): (_, KernelConnection<_>) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Kernel::Server(Box::new(kernel))))
    }
}

/// What to do next.
enum Next {
    Again,
    Read,
    Done,
    Failed(Error, Option<Arc<Certificate>>),
    Closed,
}

impl Next {
    fn failed(error: Error) -> Self {
        Self::Failed(error, super::verify::refused())
    }
}

/// What the peer said with the end of its handshake.
#[derive(Debug, Default)]
pub struct Said {
    plain: Vec<u8>,
    // That was its last word.
    ended: bool,
}

/// Makes the handshake. `incoming` was read from the socket before; afterwards it holds what came after the handshake.
///
/// # Errors
/// When it fails. The peer was told why, if it can be.
pub async fn shake<H: Handshake>(
    side: &mut H,
    socket: &mut Socket,
    incoming: &mut BytesMut,
) -> Result<Said, HandshakeError> {
    let mut outgoing = Vec::new();
    let mut said = Said::default();
    let mut turn = Turn::take().await;
    loop {
        let UnbufferedStatus { discard, state, .. } = side.step(incoming);
        let next = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => match encode(data, &mut outgoing) {
                Ok(()) => Next::Again,
                Err(error) => Next::failed(error),
            },
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Next::Again
            }
            Ok(ConnectionState::BlockedHandshake) if said.ended => Next::Closed,
            Ok(ConnectionState::BlockedHandshake) => Next::Read,
            // Who has little to say does so, and ends, in one packet with the end of the handshake.
            Ok(ConnectionState::PeerClosed) => {
                said.ended = true;
                Next::Again
            }
            Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
            Ok(ConnectionState::ReadTraffic(mut data)) => {
                let mut failed = None;
                while let Some(record) = data.next_record() {
                    match record {
                        Ok(record) => said.plain.extend_from_slice(record.payload),
                        Err(error) => failed = Some(error),
                    }
                }
                failed.map_or(Next::Again, Next::failed)
            }
            Ok(_) => Next::Closed,
            Err(error) => Next::failed(error),
        };
        incoming.advance(discard);
        match next {
            Next::Again => continue,
            Next::Closed => return Err(HandshakeError::Closed),
            Next::Failed(error, peer) => {
                // There may be an alert to send.
                if let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } = side.step(&mut []) {
                    let _ = encode(data, &mut outgoing);
                }
                drop(turn);
                let _ = socket.write_all(&outgoing).await;
                return Err(match error {
                    Error::InvalidCertificate(_) => HandshakeError::Refused(error, peer),
                    _ => HandshakeError::Tls(error),
                });
            }
            Next::Read | Next::Done => {
                if let Some(turn) = turn.take() {
                    turn.over().await;
                }
                if !outgoing.is_empty() {
                    let sent = socket.write_all(&outgoing).await;
                    outgoing.clear();
                    // A peer that is gone may have left word why.
                    if let (Err(error), Next::Done) = (sent, &next) {
                        return Err(HandshakeError::Io(error));
                    }
                }
            }
        }
        if matches!(next, Next::Done) {
            return Ok(said);
        }
        if incoming.len() >= MAX_HELD {
            return Err(HandshakeError::Tls(Error::General("the peer sends too much".into())));
        }
        incoming.reserve(READ);
        match socket.read_buf(incoming).await {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(_) => {}
            Err(error) => return Err(HandshakeError::Io(error)),
        }
        turn = Turn::take().await;
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let start = outgoing.len();
    outgoing.resize(start + 4096, 0);
    loop {
        match data.encode(&mut outgoing[start..]) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(more)) => outgoing.resize(start + more.required_size, 0),
            Err(error @ EncodeError::AlreadyEncoded) => return Err(Error::General(error.to_string())),
        }
    }
}

/// What the handshake leaves for the connection.
///
/// # Errors
/// When it is not over.
pub fn finish<H: Handshake>(
    side: H,
    tls13: bool,
    incoming: BytesMut,
    said: Said,
) -> Result<Handshaken, HandshakeError> {
    let (secrets, kernel) = side.finish().map_err(HandshakeError::Tls)?;
    let Said { plain, ended } = said;
    Ok(Handshaken { kernel, secrets, tls13, sealed: incoming.to_vec(), plain, ended })
}
