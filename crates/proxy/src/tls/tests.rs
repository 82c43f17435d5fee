//! Both sides of a connection in one process: what the one writes the other reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lateen_traffic::matcher::{StringMatcher, StringPattern};
use lateen_traffic::tls::{
    CertificateSource, CipherSuite, DownstreamTls, KeyPair, NameKind, NameMatcher, NamedSecret, PrivateKey,
    PrivateKeyFormat, Secret, SecretName, SecretOrigin, TlsConnection, TlsSettings, TlsVersion, UpstreamTls,
    Validation, ValidationSource,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair as Key, SanType,
    SigningKey as _,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::context::{Client, Contexts, Secrets};
use super::handshake::HandshakeError;
use super::{Established, accept, connect};
use crate::io::{Io, Socket};

pub(super) struct Authority {
    pub(super) der: Vec<u8>,
    issuer: Issuer<'static, Key>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = Key::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    pub(super) fn pair(&self, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<KeyPair> {
        let key = Key::generate().unwrap();
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().to_vec().into()];
        Arc::new(KeyPair {
            chain,
            key: PrivateKey::new(PrivateKeyFormat::Pkcs8, key.serialize_der()),
            ocsp: None,
            file: None,
        })
    }

    /// What a certificate says without its extensions, as version 1, signed by somebody; with the signature that it has if
    /// nobody is told.
    pub(super) fn version1(new: &[u8], signer: Option<&Authority>) -> Vec<u8> {
        let (_, read) = X509Certificate::from_der(new).unwrap();
        let key = read.public_key().raw;
        let tbs = read.tbs_certificate.as_ref();
        let end = tbs.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len();
        // Its head, and the version.
        let start = if tbs[1] < 0x80 { 2 } else { usize::from(tbs[1] & 0x7f) + 2 } + 5;
        let tbs = element(0x30, &tbs[start..end]);
        let signature = match signer {
            Some(signer) => signer.issuer.key().sign(&tbs).unwrap(),
            None => read.signature_value.data.to_vec(),
        };
        let ecdsa_with_sha256 = element(0x30, &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        element(0x30, &[tbs, ecdsa_with_sha256, element(3, &[&[0], &signature[..]].concat())].concat())
    }

    pub(super) fn rules(&self, uri_prefix: &str) -> Arc<Validation> {
        let matcher = StringMatcher { pattern: StringPattern::Prefix(uri_prefix.to_owned()), ignore_case: false };
        let names = vec![NameMatcher { kind: Some(NameKind::Uri), matcher }];
        Arc::new(Validation { authorities: vec![self.der.clone().into()], names, ..Validation::default() })
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match (high, low) {
        (0, 0..=0x7f) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, content.to_vec()].concat()
}

pub(super) fn settings(pair: Arc<KeyPair>, rules: Arc<Validation>) -> TlsSettings {
    TlsSettings {
        min_version: TlsVersion::Tls12,
        max_version: TlsVersion::Tls13,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
        application_protocols: vec!["h2".into(), "http/1.1".into()],
        certificates: vec![CertificateSource::Inline(pair)],
        validation: ValidationSource { inline: Some(rules), named: None },
    }
}

pub(super) fn sides(ours: TlsSettings, theirs: TlsSettings) -> (Arc<DownstreamTls>, Arc<UpstreamTls>) {
    let server = DownstreamTls {
        settings: ours,
        require_client_certificate: true,
        require_sni: false,
        session_timeout: Duration::from_secs(60),
    };
    let client = UpstreamTls {
        settings: theirs,
        server_name: Some("outbound_.80_._.a.default.svc.cluster.local".into()),
        host_name_as_server_name: false,
        match_server_name: false,
        max_sessions: 2,
    };
    (Arc::new(server), Arc::new(client))
}

type Both = (Result<Established, HandshakeError>, Result<Established, HandshakeError>);

/// Handshakes between contexts that are kept over calls, for sessions to be continued.
pub(super) struct Pair {
    pub(super) contexts: Contexts,
    pub(super) server: Arc<DownstreamTls>,
    pub(super) secrets: Secrets,
    pub(super) client: Arc<UpstreamTls>,
    config: Option<(Arc<Client>, Arc<rustls::ClientConfig>)>,
    /// What the server knew of the client when the last handshake failed.
    so_far: TlsConnection,
}

impl Pair {
    pub(super) fn new((server, client): (Arc<DownstreamTls>, Arc<UpstreamTls>)) -> Self {
        Self {
            contexts: Contexts::default(),
            secrets: Secrets::new(),
            server,
            client,
            config: None,
            so_far: TlsConnection::default(),
        }
    }

    /// What a client says first.
    pub(super) fn first_flight(&self) -> Vec<u8> {
        let config = self.contexts.client(&self.client, &self.secrets).unwrap().for_host(true, None);
        let mut connection = rustls::ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).unwrap();
        hello
    }

    pub(super) async fn handshake(&mut self) -> Both {
        let (near, far) = sockets().await;
        let server = self.contexts.server(&self.server, &self.secrets).unwrap();
        let client = self.contexts.client(&self.client, &self.secrets).unwrap();
        // As hosts keep theirs: as long as the context is the same.
        if self.config.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, &client)) {
            self.config = Some((Arc::clone(&client), Arc::new(client.for_host(true, None))));
        }
        let config = self.config.as_ref().map(|(_, config)| Arc::clone(config)).unwrap();
        let name = self.client.server_name.clone();
        let mut so_far = TlsConnection::default();
        let (accepted, connected) = tokio::join!(
            accept(&server, far, BytesMut::new(), &mut so_far),
            connect(&client, config, name.as_deref(), near)
        );
        self.so_far = so_far;
        (accepted, connected)
    }
}

async fn sockets() -> (Socket, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (Socket::Tcp(near), Socket::Tcp(far))
}

async fn moves(from: &Io, to: &Io, size: usize) {
    let sent: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
    let received = async {
        let mut received = BytesMut::new();
        while received.len() < size {
            received.reserve(5000);
            assert!(to.read_into(&mut received).await.unwrap() > 0);
        }
        received
    };
    let (written, received) = tokio::join!(from.write(&sent), received);
    written.unwrap();
    assert!(received == sent);
}

async fn carries(client: Established, server: Established) -> (TlsConnection, TlsConnection) {
    let ((client, of_client), (server, of_server)) = (client, server);
    let (client, server) = (Io::tls(client, Arc::new(of_client.clone())), Io::tls(server, Arc::new(of_server.clone())));
    for size in [1, 16_384, 16_385, 1 << 20] {
        moves(&client, &server, size).await;
        moves(&server, &client, size).await;
    }
    assert!(!client.is_readable());
    // A half-closed connection still carries the other direction.
    client.shutdown().await.unwrap();
    assert_eq!(server.read_into(&mut BytesMut::with_capacity(10)).await.unwrap(), 0);
    moves(&server, &client, 10).await;
    drop(server);
    assert_eq!(client.read_into(&mut BytesMut::with_capacity(10)).await.unwrap(), 0);
    (of_client, of_server)
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = Authority::new("ours");
    let (a, b) = (ca.pair("spiffe://t/ns/x/sa/a", |_| ()), ca.pair("spiffe://t/ns/x/sa/b", |_| ()));
    let mut pair =
        Pair::new(sides(settings(a, ca.rules("spiffe://t/")), settings(b, ca.rules("spiffe://t/ns/x/sa/a"))));
    for turn in 0..3 {
        let (server, client) = pair.handshake().await;
        let (of_client, of_server) = carries(client.unwrap(), server.unwrap()).await;
        assert_eq!(of_server.peer.as_ref().unwrap().uri_names, ["spiffe://t/ns/x/sa/b"]);
        assert_eq!(of_client.peer.as_ref().unwrap().uri_names, ["spiffe://t/ns/x/sa/a"]);
        assert!(of_server.peer_validated && of_client.peer_validated);
        assert_eq!(of_server.version, TlsVersion::Tls13);
        assert_eq!(of_server.application_protocol.as_deref(), Some("h2"));
        assert_eq!(of_server.server_name.as_deref(), Some("outbound_.80_._.a.default.svc.cluster.local"));
        assert_eq!((of_server.resumed, of_client.resumed), (turn > 0, turn > 0));
    }
}

#[tokio::test]
async fn every_cipher_carries() {
    use CipherSuite as S;
    let ca = Authority::new("ours");
    let pair = ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    for suite in [S::EcdsaAes128Gcm, S::EcdsaAes256Gcm, S::EcdsaChacha20] {
        let mut ours = settings(Arc::clone(&pair), ca.rules("spiffe://t/"));
        ours.max_version = TlsVersion::Tls12;
        ours.cipher_suites = vec![suite];
        let theirs = settings(Arc::clone(&pair), ca.rules("spiffe://t/"));
        let mut both = Pair::new(sides(ours, theirs));
        for turn in 0..2 {
            let (server, client) = both.handshake().await;
            let (_, of_server) = carries(client.unwrap(), server.unwrap()).await;
            assert_eq!(of_server.version, TlsVersion::Tls12);
            assert_eq!(of_server.resumed, turn > 0, "{suite:?}");
            assert_eq!(of_server.peer.as_ref().unwrap().uri_names, ["spiffe://t/ns/x/sa/a"]);
        }
    }
}

fn why(result: Result<Established, HandshakeError>) -> String {
    let error = result.err().expect("no handshake");
    super::failure::words(&error)
}

#[tokio::test]
async fn strangers_are_refused() {
    let (ca, other) = (Authority::new("ours"), Authority::new("theirs"));
    let good = || ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    let rules = || ca.rules("spiffe://t/");
    let verdict = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: ";
    for (pair, reason) in [
        (other.pair("spiffe://t/ns/x/sa/a", |_| ()), "at depth 0: unable to get local issuer certificate"),
        (ca.pair("spiffe://u/ns/x/sa/a", |_| ()), "SAN matcher"),
        (ca.pair("spiffe://t/", |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1)), "certificate has expired"),
        (ca.pair("spiffe://t/", |p| p.not_before = rcgen::date_time_ymd(2090, 1, 1)), "certificate is not yet valid"),
    ] {
        let name = Arc::clone(&pair);
        let mut both = Pair::new(sides(settings(good(), rules()), settings(name, rules())));
        let (server, _) = both.handshake().await;
        let refused = both.so_far.peer.as_ref().expect("who was refused");
        assert_eq!(refused.chain, pair.chain);
        assert_eq!(both.so_far.version, TlsVersion::Tls13);
        let said = why(server);
        assert!(said.starts_with(verdict) && said.contains(reason), "{said}");
        let (_, client) = Pair::new(sides(settings(pair, rules()), settings(good(), rules()))).handshake().await;
        let said = why(client);
        assert!(said.starts_with(verdict) && said.contains(reason), "{said}");
    }
    let mut nobody = settings(good(), rules());
    nobody.certificates.clear();
    let (server, _) = Pair::new(sides(settings(good(), rules()), nobody)).handshake().await;
    assert!(why(server).contains("PEER_DID_NOT_RETURN_A_CERTIFICATE"));
}

#[tokio::test]
async fn a_forged_record_ends_the_connection() {
    let ca = Authority::new("ours");
    let pair = ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    let rules = ca.rules("spiffe://t/");
    let mut both = Pair::new(sides(settings(Arc::clone(&pair), Arc::clone(&rules)), settings(pair, rules)));
    let (server, client) = both.handshake().await;
    let ((server, facts), (client, _)) = (server.unwrap(), client.unwrap());
    let Socket::Tcp(raw) = client.socket() else { unreachable!() };
    raw.try_write(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]).unwrap();
    let server = Io::tls(server, Arc::new(facts));
    let mut buffer = BytesMut::with_capacity(100);
    assert!(server.read_into(&mut buffer).await.is_err());
    let mut io = &server;
    assert_eq!(io.read(&mut [0; 10]).await.unwrap(), 0);
}

/// A side whose certificate and rules are secrets.
fn by_secrets(uri_prefix: &str, ca: &Authority) -> TlsSettings {
    let mut by = settings(ca.pair("spiffe://t/unused", |_| ()), ca.rules(uri_prefix));
    by.certificates = vec![CertificateSource::Named(named("default"))];
    by.validation = ValidationSource { inline: None, named: Some(named("ROOTCA")) };
    by
}

fn named(name: &str) -> NamedSecret {
    NamedSecret { name: secret_name(name), patience: None }
}

fn secret_name(name: &str) -> SecretName {
    SecretName { origin: SecretOrigin::ControlPlane, name: name.into() }
}

#[tokio::test]
async fn secrets_change_under_live_connections() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let both_roots = |prefix: &str| {
        let mut rules = Validation::clone(&old.rules(prefix));
        rules.authorities.push(new.der.clone().into());
        Arc::new(rules)
    };
    let client = settings(old.pair("spiffe://t/ns/x/sa/client", |_| ()), both_roots("spiffe://t/"));
    let mut pair = Pair::new(sides(by_secrets("spiffe://t/", &old), client));
    let tell = |pair: &mut Pair, certificate: &Authority, rules: Arc<Validation>| {
        let certificate = certificate.pair("spiffe://t/ns/x/sa/server", |_| ());
        pair.secrets.insert(secret_name("default"), Secret::KeyPair(certificate));
        pair.secrets.insert(secret_name("ROOTCA"), Secret::Validation(rules));
    };
    let issuer = |facts: &TlsConnection| facts.peer.as_ref().unwrap().issuer.clone();

    tell(&mut pair, &old, old.rules("spiffe://t/"));
    let (server, client) = pair.handshake().await;
    let ((server, _), (client, first)) = (server.unwrap(), client.unwrap());
    let (server, client) = (Io::tls(server, Arc::default()), Io::tls(client, Arc::default()));
    moves(&server, &client, 1000).await;
    assert_eq!(issuer(&first), "CN=old");

    // Another certificate: the connection stays, what is new has it, and nothing is continued of before.
    tell(&mut pair, &new, both_roots("spiffe://t/"));
    let (again, connected) = pair.handshake().await;
    let (connected, again) = carries(connected.unwrap(), again.unwrap()).await;
    assert_eq!((issuer(&connected), connected.resumed, again.resumed), ("CN=new".to_owned(), false, false));
    moves(&server, &client, 1000).await;
    let (again, _) = pair.handshake().await;
    assert!(again.unwrap().1.resumed, "sessions of now are continued");

    // The client's authority is trusted no more: its sessions are worth nothing.
    tell(&mut pair, &new, new.rules("spiffe://t/"));
    let (refused, _) = pair.handshake().await;
    let said = why(refused);
    assert!(said.contains("unable to get local issuer certificate"), "{said}");
    moves(&client, &server, 1000).await;

    // Nothing to serve with.
    pair.secrets.remove(&secret_name("ROOTCA"));
    assert!(pair.contexts.server(&pair.server, &pair.secrets).is_err());
}

#[tokio::test]
async fn nothing_is_said_early() {
    let ca = Authority::new("ours");
    let side = || settings(ca.pair("spiffe://t/ns/x/sa/a", |_| ()), ca.rules("spiffe://t/"));
    let mut pair = Pair::new(sides(side(), side()));
    let (server, client) = pair.handshake().await;
    // The client has the ticket once it has read something.
    carries(client.unwrap(), server.unwrap()).await;
    let client = pair.contexts.client(&pair.client, &pair.secrets).unwrap();
    let (of, config) = pair.config.take().unwrap();
    assert!(Arc::ptr_eq(&of, &client) && !config.enable_early_data);
    let mut eager = rustls::ClientConfig::clone(&config);
    eager.enable_early_data = true;
    let name = "outbound_.80_._.a.default.svc.cluster.local".try_into().unwrap();
    let mut eager = rustls::ClientConnection::new(Arc::new(eager), name).unwrap();
    assert!(eager.early_data().is_none(), "the ticket allows none");
}
