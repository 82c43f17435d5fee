//! TLS with clients and with hosts.
//!
//! rustls makes the handshakes ([`handshake`]) in contexts that are made of configuration and secrets ([`context`]); the
//! bytes after it are sealed and opened here ([`record`], [`stream`]), so that nothing is allocated for a record and many
//! go out in one write.

pub mod certificate;
pub mod context;
pub mod failure;
pub mod handshake;
pub mod held;
mod readable;
pub mod record;
mod seen;
mod session;
pub mod stream;
mod turns;
pub mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use lateen_traffic::tls::{Certificate, TlsConnection, TlsVersion};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, HandshakeKind, ProtocolVersion};
use tokio::io::AsyncReadExt as _;

use self::context::{Client, Server};
use self::handshake::{HandshakeError, Spoken, finish, shake};
use self::stream::TlsStream;
use self::verify::Verifier;
use crate::inspect::{Inspection, tls_client_hello};
use crate::io::Socket;

/// A connection, and what its handshake found out.
pub type Established = (TlsStream, TlsConnection);

/// Answers a client's handshake. `read` was read from the socket before. What is known of a connection that does not
/// come about is left in `so_far`.
///
/// # Errors
/// When there is no connection to be had.
pub async fn accept(
    server: &Server,
    mut socket: Socket,
    mut read: BytesMut,
    so_far: &mut TlsConnection,
) -> Result<Established, HandshakeError> {
    so_far.local.clone_from(&server.local);
    let (offered, named) = client_hello(&mut socket, &mut read).await?;
    so_far.server_name.clone_from(&named);
    if server.require_sni && named.is_none() {
        return Err(HandshakeError::Tls(rustls::Error::General("the client names no server".into())));
    }
    let config = server.for_client(&offered);
    let mut side = UnbufferedServerConnection::new(config).map_err(HandshakeError::Tls)?;
    let said = match shake(&mut side, &mut socket, &mut read).await {
        Ok(said) => said,
        Err(error) => {
            so_far.version = version(&side);
            so_far.cipher = side.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite()));
            if let HandshakeError::Refused(_, peer) = &error {
                so_far.peer.clone_from(peer);
            }
            return Err(error);
        }
    };
    let facts = facts(&side, named, &server.local, server.verifier.as_deref(), false)?;
    let tls13 = facts.version == TlsVersion::Tls13;
    let handshaken = finish(side, tls13, read, said)?;
    Ok((stream(socket, handshaken)?, facts))
}

/// Makes a handshake with a host. `name` is the server's name that is asked for.
///
/// # Errors
/// When there is no connection to be had.
pub async fn connect(
    client: &Client,
    config: Arc<ClientConfig>,
    name: Option<&str>,
    mut socket: Socket,
) -> Result<Established, HandshakeError> {
    // Not sent where there is no name.
    let asked = name.unwrap_or("unnamed.invalid");
    let server_name = ServerName::try_from(asked.to_owned())
        .map_err(|_| HandshakeError::Tls(rustls::Error::General(format!("{asked:?} is no server name"))))?;
    let mut side = UnbufferedClientConnection::new(config, server_name).map_err(HandshakeError::Tls)?;
    let mut read = BytesMut::new();
    let said = shake(&mut side, &mut socket, &mut read).await?;
    let named = name.map(Arc::from);
    let facts = facts(&side, named, &client.local, Some(&client.verifier), true)?;
    let tls13 = facts.version == TlsVersion::Tls13;
    let handshaken = finish(side, tls13, read, said)?;
    Ok((stream(socket, handshaken)?, facts))
}

fn stream(socket: Socket, handshaken: stream::Handshaken) -> Result<TlsStream, HandshakeError> {
    TlsStream::new(socket, handshaken).map_err(|error| HandshakeError::Tls(rustls::Error::General(error.to_string())))
}

/// Application protocols that the client offers, and the server it names. Reads until the whole hello is there.
async fn client_hello(
    socket: &mut Socket,
    read: &mut BytesMut,
) -> Result<(Vec<String>, Option<Arc<str>>), HandshakeError> {
    loop {
        match tls_client_hello(read) {
            Inspection::NeedMore => {}
            // Somebody who does not speak TLS is not answered in it.
            Inspection::NotTls => return Err(HandshakeError::Other(Spoken::of(read))),
            // The handshake will say what is wrong.
            Inspection::Bad(_) => return Ok((Vec::new(), None)),
            Inspection::ClientHello(hello) => return Ok((hello.alpn, hello.server_name.map(Arc::from))),
        }
        read.reserve(4096);
        match socket.read_buf(read).await {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(_) => {}
            Err(error) => return Err(HandshakeError::Io(error)),
        }
    }
}

/// What a handshake that is over found out. A session that was continued is held to the dates of its certificate.
fn facts(
    side: &CommonState,
    server_name: Option<Arc<str>>,
    local: &Option<Arc<Certificate>>,
    verifier: Option<&Verifier>,
    of_server: bool,
) -> Result<TlsConnection, HandshakeError> {
    let resumed = side.handshake_kind() == Some(HandshakeKind::Resumed);
    let chain = side.peer_certificates();
    // Who has no verifier asks for no certificate.
    let peer = match (chain, verifier) {
        (Some([first, rest @ ..]), Some(verifier)) => {
            let read = verifier.read(first, rest);
            let read = read.ok_or(HandshakeError::Tls(rustls::CertificateError::BadEncoding.into()))?;
            if resumed {
                verifier.check_dates(&read, SystemTime::now()).map_err(HandshakeError::Tls)?;
            }
            Some(read)
        }
        _ => None,
    };
    let peer_validated = match (chain, verifier) {
        (Some([first, rest @ ..]), Some(verifier)) if verifier.asks_for_anything() => {
            verifier.accepts_only_good() || is_good(verifier, first, rest, server_name.as_deref(), of_server)
        }
        _ => false,
    };
    Ok(TlsConnection {
        version: version(side),
        cipher: side.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
        group: side.negotiated_key_exchange_group().map_or("", |group| group_name(group.name())),
        server_name,
        application_protocol: side.alpn_protocol().map(|name| String::from_utf8_lossy(name).as_ref().into()),
        peer,
        peer_validated,
        local: local.clone(),
        resumed,
    })
}

fn version(side: &CommonState) -> TlsVersion {
    match side.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
        _ => TlsVersion::Tls12,
    }
}

fn is_good(
    verifier: &Verifier,
    first: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    name: Option<&str>,
    of_server: bool,
) -> bool {
    verifier.check(first, rest, name.filter(|_| of_server), of_server, UnixTime::now()).is_ok()
}

/// The group's name as Envoy's statistics have it.
fn group_name(group: rustls::NamedGroup) -> &'static str {
    match group {
        rustls::NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        rustls::NamedGroup::X25519 => "X25519",
        rustls::NamedGroup::secp256r1 => "P-256",
        rustls::NamedGroup::secp384r1 => "P-384",
        _ => "",
    }
}

/// The suite's name as Envoy's logs have it: OpenSSL's.
fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        S::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        S::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "",
    }
}
