//! The authority and agents over loopback: what each caller gets, and what is refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::{Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use lateen_xds::ads::server::{Connection, Peer, StreamStatus};
use lateen_xds::{ResourceSet, ResourceType};
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;
use crate::agent::certificates::{AskError, Once, ask};
use crate::agent::control_plane::connect;
use crate::agent::keeper::Svid;
use crate::agent::{Address, Agent, Options, Server};
use crate::authority::{Authority, Files, Issuer, Settings};
use crate::certificate::{self, Facts};
use crate::key::{Key, KeyType};
use crate::request;
use crate::spiffe::{Identity, TrustDomain};
use crate::store::Store;

const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Longer than anything here takes on the slowest machine; reached only when something is wrong.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn identity(account: &str) -> Identity {
    Identity::new(domain(), "shop", account).unwrap()
}

/// Says what tokens are: `NAMESPACE:ACCOUNT` is that account's, for the audience.
fn reviewer() -> Reviewer {
    Arc::new(|token| {
        Box::pin(async move {
            let (user, audience) = match token.as_str() {
                "unreachable" => return Err(ReviewError("the API is away".to_owned())),
                "forged" => (Err("the signature is wrong".to_owned()), AUDIENCE),
                "for-others" => (Ok("system:serviceaccount:shop:web".to_owned()), "vault"),
                "person" => (Ok("alice".to_owned()), AUDIENCE),
                account => (Ok(format!("system:serviceaccount:{account}")), AUDIENCE),
            };
            Ok(Review { user, audiences: vec![audience.to_owned()] })
        })
    })
}

/// A control plane that has nothing to say, and remembers who came.
#[derive(Default)]
struct Visitors(Mutex<Vec<Peer>>);

impl Discovery for Visitors {
    fn connect(&self, _: &Node, peer: &Peer) -> Result<Connection, Status> {
        self.0.lock().unwrap().push(peer.clone());
        let (status, _) = watch::channel(StreamStatus::default());
        let (sender, resources) = watch::channel(Arc::new(ResourceSet::new("1")));
        // The stream goes on as long as its sender does.
        std::mem::forget(sender);
        Ok(Connection { resources, status })
    }
}

struct World {
    ca: Arc<Ca>,
    address: SocketAddr,
    visitors: Arc<Visitors>,
    directory: tempfile::TempDir,
}

impl World {
    async fn start(announce: Duration) -> World {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            default_ttl: Duration::from_secs(600),
            max_ttl: Duration::from_secs(3600),
            announce,
            ..Settings::default()
        };
        let store = Store::at(directory.path().join("ca")).unwrap();
        let authority = store.load(settings, None, SystemTime::now()).unwrap();
        let ca = Ca::new(authority, store);
        tokio::spawn(Arc::clone(&ca).tend());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let visitors = Arc::new(Visitors::default());
        tokio::spawn(serve(listener, Arc::clone(&ca), reviewer(), visitors.clone(), std::future::pending()));
        let world = World { ca, address, visitors, directory };
        // As the kubelet keeps the mounted ConfigMap.
        let (path, mut bundle) = (world.roots_file(), world.ca.bundle());
        tokio::spawn(async move {
            loop {
                let roots = bundle.borrow_and_update().to_string();
                std::fs::write(path.with_extension("new"), roots).unwrap();
                std::fs::rename(path.with_extension("new"), &path).unwrap();
                if bundle.changed().await.is_err() {
                    return;
                }
            }
        });
        world
    }

    fn roots_file(&self) -> PathBuf {
        self.directory.path().join("root-cert.pem")
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        certificate::read_pem(&self.ca.bundle().borrow()).unwrap()
    }

    fn server(&self) -> Server {
        Server { address: Address::Socket(self.address), name: SERVER_NAMES[0].to_owned() }
    }

    fn agent(&self, ttl: Duration) -> Options {
        let path = |name: &str| self.directory.path().join(name);
        std::fs::write(path("token"), "shop:web\n").unwrap();
        Options {
            identity: identity("web"),
            authority: self.server(),
            discovery: self.server(),
            roots: self.roots_file(),
            federated: path("federated-roots.pem"),
            revocations: path("ca-crl.pem"),
            token: path("token"),
            secrets_socket: path("secrets"),
            discovery_socket: path("discovery"),
            ttl: Some(ttl),
            key_type: KeyType::EcdsaP256,
            mark: None,
        }
    }

    /// Asks for a certificate.
    async fn ask(&self, svid: Option<&Svid>, token: Option<&str>, csr: String) -> Result<Vec<String>, AskError> {
        let stream = connect(&self.server(), &self.roots(), svid, None).await?;
        let token = token.map(|token| token.to_owned().into());
        tokio::time::timeout(FAR_TOO_LONG, ask(stream, csr, None, token)).await.unwrap()
    }

    async fn refused(&self, token: Option<&str>, csr: String) -> (Code, String) {
        match self.ask(None, token, csr).await.unwrap_err() {
            AskError::Refused(status) => (status.code(), status.message().to_owned()),
            other => panic!("{other}"),
        }
    }
}

fn csr(account: &str) -> String {
    request::write(&Key::generate(KeyType::EcdsaP256).unwrap(), &identity(account)).unwrap()
}

/// A certificate that `authority` would sign at a time, with its key.
fn svid(issuer: Issuer, identity: &Identity, ttl: Duration, now: SystemTime) -> Svid {
    let settings = Settings { default_ttl: ttl, max_ttl: ttl, ..Settings::default() };
    let mut authority = Authority::new(settings, issuer);
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let request = request::SigningRequest::read(&request::write(&key, identity).unwrap()).unwrap();
    let signed = authority.sign(&request, identity, None, now).unwrap();
    Svid { chain: signed.chain, key, not_after: signed.not_after, roots: authority.roots() }
}

/// The world's own issuer, read back from where it is kept.
fn issuer(world: &World) -> Issuer {
    let read = |name: &str| std::fs::read_to_string(world.directory.path().join("ca").join(name)).unwrap();
    let files = Files {
        certificate: read("ca-cert.pem"),
        key: read("ca-key.pem").into(),
        root: read("root-cert.pem"),
        chain: read("cert-chain.pem"),
    };
    Issuer::from_files(&files, &domain(), SystemTime::now()).unwrap()
}

#[tokio::test]
async fn a_token_gets_its_own_certificate() {
    let world = World::start(Duration::ZERO).await;
    let answer = world.ask(None, Some("shop:web"), csr("web")).await.unwrap();
    assert_eq!(answer.len(), 2, "certificate and root: the root signs itself");
    let chain = certificate::read_pem(&answer[0]).unwrap();
    assert_eq!(Facts::read(&chain[0]).unwrap().identity().unwrap(), identity("web"));
    certificate::verify(&chain, &world.roots(), SystemTime::now()).unwrap();
}

#[tokio::test]
async fn callers_without_proof_are_refused() {
    let world = World::start(Duration::ZERO).await;
    for (token, why) in [
        (None, "neither a certificate nor a bearer token"),
        (Some("forged"), "the signature is wrong"),
        (Some("for-others"), "not meant for istio-ca"),
        (Some("person"), "no service account"),
        (Some(&*"x".repeat(9 << 10)), "bytes"),
    ] {
        let (code, message) = world.refused(token, csr("web")).await;
        assert_eq!(code, Code::Unauthenticated, "{message}");
        assert!(message.contains(why), "{message}");
    }
    assert_eq!(world.refused(Some("unreachable"), csr("web")).await.0, Code::Unavailable);
}

#[tokio::test]
async fn one_address_does_not_take_all_places_for_handshakes() {
    let world = World::start(Duration::ZERO).await;
    let from = async |host: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::IpAddr::from(host), 0).into()).unwrap();
        socket.connect(world.address).await.unwrap()
    };
    // What is told of bytes that are no handshake; nothing, if it was closed unheard.
    let answer = async |mut stream: tokio::net::TcpStream| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut told: Vec<u8> = Vec::new();
        let _ = stream.write_all(b"no handshake, and longer than a record's head").await;
        let _ = tokio::time::timeout(FAR_TOO_LONG, stream.read_to_end(&mut told)).await.unwrap();
        told
    };
    let mut idle = Vec::new();
    for _ in 0..listener::OF_ONE {
        idle.push(from([127, 0, 0, 1]).await);
    }
    assert!(answer(from([127, 0, 0, 1]).await).await.is_empty());
    assert!(!answer(from([127, 0, 0, 2]).await).await.is_empty(), "another is heard");
    drop(idle);
    while answer(from([127, 0, 0, 1]).await).await.is_empty() {}
}

#[tokio::test]
async fn nobody_gets_another_s_certificate() {
    let world = World::start(Duration::ZERO).await;
    let (code, message) = world.refused(Some("shop:web"), csr("api")).await;
    assert_eq!(code, Code::PermissionDenied, "{message}");
    let (code, _) = world.refused(Some("other:web"), csr("web")).await;
    assert_eq!(code, Code::PermissionDenied);
    for damaged in [String::new(), "x".repeat(request::MAX_BYTES + 1), csr("web").replace('M', "N")] {
        assert_eq!(world.refused(Some("shop:web"), damaged).await.0, Code::InvalidArgument);
    }
    // Longer than any request: not even read.
    let (code, _) = world.refused(Some("shop:web"), "x".repeat(1 << 20)).await;
    assert_eq!(code, Code::OutOfRange);
}

#[tokio::test]
async fn a_certificate_gets_the_next_one() {
    let world = World::start(Duration::ZERO).await;
    let now = SystemTime::now();
    let good = svid(issuer(&world), &identity("web"), Duration::from_secs(60), now);
    world.ask(Some(&good), None, csr("web")).await.unwrap();
    // It goes before a token.
    let refused = world.ask(Some(&good), Some("shop:api"), csr("api")).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused(status) if status.code() == Code::PermissionDenied));
}

#[tokio::test]
async fn certificates_that_do_not_hold_prove_nothing() {
    let world = World::start(Duration::ZERO).await;
    let now = SystemTime::now();
    let root = || Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, now).unwrap();
    let ttl = Duration::from_secs(60);
    let expired = svid(issuer(&world), &identity("web"), ttl, now - Duration::from_secs(3600));
    let early = svid(issuer(&world), &identity("web"), ttl, now + Duration::from_secs(3600));
    let other_authority = svid(root(), &identity("web"), ttl, now);
    for (bad, what) in [(expired, "expired"), (early, "early"), (other_authority, "another authority's")] {
        let error = world.ask(Some(&bad), Some("shop:web"), csr("web")).await.unwrap_err();
        assert!(!matches!(error, AskError::Refused(ref status) if status.code() == Code::PermissionDenied), "{what}");
    }
    let elsewhere = identity("web").within("other.example".parse().unwrap());
    let other_domain = svid(issuer(&world), &elsewhere, ttl, now);
    let error = world.ask(Some(&other_domain), None, csr("web")).await.unwrap_err();
    assert!(error.to_string().contains("another trust domain"), "{error}");
}

#[tokio::test]
async fn a_revoked_certificate_proves_nothing() {
    let world = World::start(Duration::ZERO).await;
    let now = SystemTime::now();
    let make = || svid(issuer(&world), &identity("web"), Duration::from_secs(600), now);
    let (revoked, other) = (make(), make());
    world.ask(Some(&revoked), None, csr("web")).await.unwrap();
    let mut certificates = Vec::new();
    for byte in Facts::read(&revoked.chain[0]).unwrap().serial.as_bytes().chunks(2) {
        certificates.push(u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 16).unwrap());
    }
    let read = |name: &str| std::fs::read_to_string(world.directory.path().join("ca").join(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca-key.pem")).unwrap();
    let list = list_of(&certificates, &rcgen::Issuer::from_ca_cert_pem(&read("ca-cert.pem"), key).unwrap());
    world.ca.revoke(Some(&list)).unwrap();
    // The server takes it up a moment later.
    let refused = async { while world.ask(Some(&revoked), None, csr("web")).await.is_ok() {} };
    tokio::time::timeout(FAR_TOO_LONG, refused).await.unwrap();
    world.ask(Some(&other), None, csr("web")).await.unwrap();
    assert!(world.ca.revoke(Some("no list")).is_err());
    assert!(world.ask(Some(&revoked), None, csr("web")).await.is_err(), "what is damaged changes nothing");
    world.ca.revoke(None).unwrap();
    let accepted = async { while world.ask(Some(&revoked), None, csr("web")).await.is_err() {} };
    tokio::time::timeout(FAR_TOO_LONG, accepted).await.unwrap();
}

#[tokio::test]
async fn where_another_authority_signs_this_one_knows_its_certificates_and_signs_none() {
    let world = World::start(Duration::ZERO).await;
    let now = SystemTime::now();
    let other = Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, now).unwrap();
    let roots = other.roots().to_vec();
    let certified = svid(other, &identity("web"), Duration::from_secs(600), now);
    let unknown = world.ask(Some(&certified), None, csr("web")).await.unwrap_err().to_string();
    assert!(!unknown.contains("another authority"), "the handshake fails: {unknown}");
    world.ca.sign_elsewhere(roots);
    // The server takes it up a moment later.
    let status = async {
        loop {
            if let Err(AskError::Refused(status)) = world.ask(Some(&certified), None, csr("web")).await
                && status.code() == Code::FailedPrecondition
            {
                return status.message().to_owned();
            }
        }
    };
    let message = tokio::time::timeout(FAR_TOO_LONG, status).await.unwrap();
    assert!(message.contains("another authority"), "{message}");
    assert_eq!(world.refused(Some("shop:web"), csr("web")).await.0, Code::FailedPrecondition);
    assert_eq!(world.ca.status().signer, Signer::External);
}

#[tokio::test]
async fn a_root_is_changed_on_demand_and_before_it_ends() {
    let world = World::start(Duration::from_millis(200)).await;
    let (mut bundle, first) = (world.ca.bundle(), world.roots());
    let status = world.ca.rotate().unwrap();
    assert_eq!((status.step, status.roots.len()), (Step::Announced, 2));
    assert!(matches!(world.ca.rotate(), Err(RotateError::UnderWay(_))));
    let gone = bundle.wait_for(|pem| certificate::read_pem(pem).is_ok_and(|roots| !roots.contains(&first[0])));
    tokio::time::timeout(FAR_TOO_LONG, gone).await.unwrap().unwrap();
    assert_eq!(world.ca.status().step, Step::Done);

    // Whose issuer a person brings is told to change it there.
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { root_life: Duration::from_secs(2), announce: Duration::ZERO, ..Settings::default() };
    let store = Store::at(directory.path().join("ca")).unwrap();
    let brief = Ca::new(store.load(settings, None, SystemTime::now()).unwrap(), store);
    let first = brief.bundle().borrow().clone();
    assert!(brief.status().rotates.is_some());
    let mut bundle = brief.bundle();
    tokio::spawn(Arc::clone(&brief).tend());
    let changed = bundle.wait_for(|now| *now != first);
    tokio::time::timeout(FAR_TOO_LONG, changed).await.unwrap().unwrap();
    let brought = Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap();
    brief.follow(&brought.to_files()).unwrap();
    assert!(matches!(brief.rotate(), Err(RotateError::Brought)));
    assert_eq!((brief.status().signer, brief.status().rotates), (Signer::Brought, None));
    let broken = Files { key: String::new().into(), ..brought.to_files() };
    assert!(matches!(brief.follow(&broken), Err(FollowError::Issuer(_))));
    assert_eq!(brief.status().signer, Signer::Brought, "the one before was brought");
}

#[test]
fn an_issuer_is_brought_once_it_is_proven_and_kept_when_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let load = || {
        let store = Store::at(directory.path().to_owned()).unwrap();
        let authority = store.load(Settings::default(), None, SystemTime::now()).unwrap();
        Ca::new(authority, store)
    };
    let ca = load();
    let brought = Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap().to_files();
    let broken = Files { key: String::new().into(), ..brought.clone() };
    assert!(matches!(ca.follow(&broken), Err(FollowError::Issuer(_))));
    assert_eq!(ca.status().signer, Signer::Own);
    assert!(ca.status().rotates.is_some(), "its own root is still followed by another");

    // A file where a directory is to be.
    std::fs::write(directory.path().join("announced"), "").unwrap();
    assert!(matches!(ca.follow(&brought), Err(FollowError::Store(_))));
    std::fs::remove_file(directory.path().join("announced")).unwrap();
    assert_eq!(load().status().roots.len(), 1);
    assert!(!ca.follow(&brought).unwrap(), "it is followed already");
    assert_eq!(load().status().roots.len(), 2);
}

#[tokio::test]
async fn roots_of_others_are_told_to_proxies_and_prove_no_control_plane() {
    let world = World::start(Duration::ZERO).await;
    let partner = Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap();
    let options = world.agent(Duration::from_secs(60));
    let (secrets, federated) = (options.secrets_socket.clone(), options.federated.clone());
    std::fs::write(&federated, partner.to_files().root).unwrap();
    begin(options);
    let mut sds = Sds::open(&secrets).await;
    while !sds.roots().contains(&partner.roots()[0]) {
        sds.next().await;
    }
    assert!(sds.roots().contains(&world.roots()[0]));
    std::fs::remove_file(&federated).unwrap();
    while sds.roots().contains(&partner.roots()[0]) {
        sds.next().await;
    }
    // An agent that knows the control plane's root as somebody else's only is not served by it.
    let options = world.agent(Duration::from_secs(60));
    let held = crate::agent::keeper::trusted(partner.roots(), None);
    assert!(connect(&options.authority, &held, None, None).await.is_err());
}

#[tokio::test]
async fn agents_know_the_control_plane() {
    let world = World::start(Duration::ZERO).await;
    let other = Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap();
    connect(&world.server(), &world.roots(), None, None).await.unwrap();
    connect(&world.server(), other.roots(), None, None).await.unwrap_err();
    let name = Server { name: "istiod.elsewhere.svc".to_owned(), ..world.server() };
    connect(&name, &world.roots(), None, None).await.unwrap_err();
}

async fn unix(path: &Path) -> Channel {
    Endpoint::from_static("http://agent").connect_with_connector(Unix(path.to_owned())).await.unwrap()
}

/// Connects to a unix socket, whatever the address.
struct Unix(PathBuf);

impl tonic::codegen::Service<http::Uri> for Unix {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = futures::future::BoxFuture<'static, std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}

/// What a proxy knows from SDS.
struct Sds {
    answers: tonic::Streaming<discovery::DiscoveryResponse>,
    requests: mpsc::Sender<discovery::DiscoveryRequest>,
    secrets: BTreeMap<String, Secret>,
    names: Vec<String>,
}

impl Sds {
    async fn open(socket: &Path) -> Sds {
        Sds::open_for(socket, &["default", "ROOTCA"]).await
    }

    async fn open_for(socket: &Path, names: &[&str]) -> Sds {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (requests, receiver) = mpsc::channel(8);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let first = discovery::DiscoveryRequest {
            node: Some(Node { id: "proxy".to_owned(), ..Node::default() }),
            resource_names: names.clone(),
            type_url: ResourceType::Secret.url().to_owned(),
            ..Default::default()
        };
        requests.send(first).await.unwrap();
        let mut client = SecretDiscoveryServiceClient::new(unix(socket).await);
        let answers = client.stream_secrets(stream).await.unwrap().into_inner();
        Sds { answers, requests, secrets: BTreeMap::new(), names }
    }

    /// Takes the next answer in.
    async fn next(&mut self) {
        let answer = tokio::time::timeout(FAR_TOO_LONG, self.answers.message()).await.unwrap().unwrap().unwrap();
        for any in &answer.resources {
            let secret = Secret::decode(any.value.as_slice()).unwrap();
            self.secrets.insert(secret.name.clone(), secret);
        }
        let accepted = discovery::DiscoveryRequest {
            version_info: answer.version_info,
            response_nonce: answer.nonce,
            resource_names: self.names.clone(),
            type_url: answer.type_url,
            ..Default::default()
        };
        self.requests.send(accepted).await.unwrap();
    }

    fn text(specifier: Option<&Specifier>) -> String {
        match specifier {
            Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The certificate's chain, if there is one, whose key is proven to be the one beside it.
    fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        let Some(secret::Type::TlsCertificate(found)) = &self.secrets.get("default")?.r#type else { panic!() };
        let text = |source: &Option<_>| {
            let source: &envoy_types::pb::envoy::config::core::v3::DataSource = source.as_ref().unwrap();
            Sds::text(source.specifier.as_ref())
        };
        let chain = certificate::read_pem(&text(&found.certificate_chain)).unwrap();
        let key = Key::from_pem(&text(&found.private_key)).unwrap();
        assert_eq!(Facts::read(&chain[0]).unwrap().public_key, key.public());
        Some(chain)
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        match self.secrets.get("ROOTCA").and_then(|secret| secret.r#type.as_ref()) {
            Some(secret::Type::ValidationContext(found)) => {
                let source = found.trusted_ca.as_ref().unwrap();
                certificate::read_pem(&Sds::text(source.specifier.as_ref())).unwrap()
            }
            _ => Vec::new(),
        }
    }
}

/// Of certificates that are renewed before one's eyes: after four of it, so that a busy machine has the other six to come
/// to it.
const LIFE: Duration = Duration::from_secs(10);

fn begin(options: Options) {
    let agent = Agent::start(options).unwrap();
    tokio::spawn(async move { agent.run().await.unwrap() });
}

#[tokio::test]
async fn a_proxy_is_handed_its_certificate_and_each_next_one() {
    let world = World::start(Duration::ZERO).await;
    let options = world.agent(LIFE);
    let (secrets, token) = (options.secrets_socket.clone(), options.token.clone());
    begin(options);
    let mut sds = Sds::open(&secrets).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        sds.next().await;
        let Some(chain) = sds.chain() else { continue };
        certificate::verify(&chain, &world.roots(), SystemTime::now()).unwrap();
        assert_eq!(Facts::read(&chain[0]).unwrap().identity().unwrap(), identity("web"));
        if !seen.contains(&chain) {
            seen.push(chain);
            // From now on the certificate alone proves who it is.
            let _ = std::fs::remove_file(&token);
        }
    }
    assert_eq!(sds.roots(), world.roots());
}

#[tokio::test]
async fn a_root_is_followed_without_a_moment_of_distrust() {
    let world = World::start(LIFE / 2).await;
    let options = world.agent(LIFE);
    let secrets = options.secrets_socket.clone();
    begin(options);
    let mut sds = Sds::open(&secrets).await;
    while sds.chain().is_none() {
        sds.next().await;
    }
    let old = world.roots();
    let next = Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap();
    let new = next.roots().to_vec();
    assert!(world.ca.follow(&next.to_files()).unwrap());
    let mut both = false;
    loop {
        sds.next().await;
        let (chain, roots) = (sds.chain().unwrap(), sds.roots());
        let now = SystemTime::now();
        // A peer that has heard the least or the most there is to hear trusts it.
        certificate::verify(&chain, &roots, now).unwrap();
        certificate::verify(&chain, &world.roots(), now).unwrap();
        let signed_by_new = certificate::verify(&chain, &new, now).is_ok();
        both |= roots.contains(&old[0]) && roots.contains(&new[0]);
        if signed_by_new {
            break;
        }
        certificate::verify(&chain, &old, now).unwrap();
    }
    assert!(both, "the new root was trusted before anything was signed under it");
    assert!(world.roots().contains(&old[0]), "and the old one is, after");
    let kept = Store::at(world.directory.path().join("ca")).unwrap();
    let settings = Settings {
        default_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(1),
        announce: Duration::ZERO,
        ..Settings::default()
    };
    let kept = kept.load(settings, None, SystemTime::now()).unwrap();
    assert_eq!(kept.roots(), world.roots());
}

#[tokio::test]
async fn files_are_told_by_name_and_followed() {
    let world = World::start(Duration::ZERO).await;
    let options = world.agent(Duration::from_secs(60));
    let (secrets, file) = (options.secrets_socket.clone(), world.directory.path().join("file.pem"));
    let roots = || Issuer::self_signed(&domain(), KeyType::EcdsaP256, ROOT_LIFE, SystemTime::now()).unwrap();
    let (one, other) = (roots().to_files().root, roots().to_files().root);
    std::fs::write(&file, &one).unwrap();
    begin(options);
    let name = format!("file-root:{}", file.display());
    let mut sds = Sds::open_for(&secrets, &["ROOTCA", &name]).await;
    let told = |sds: &Sds| match sds.secrets.get(&name).and_then(|secret| secret.r#type.clone()) {
        Some(secret::Type::ValidationContext(found)) => Sds::text(found.trusted_ca.unwrap().specifier.as_ref()),
        _ => String::new(),
    };
    while told(&sds) != one {
        sds.next().await;
    }
    std::fs::write(&file, &other).unwrap();
    while told(&sds) != other {
        sds.next().await;
    }
}

#[tokio::test]
async fn lists_beside_roots_in_files_are_followed() {
    let world = World::start(Duration::ZERO).await;
    let options = world.agent(Duration::from_secs(60));
    let path = |name: &str| world.directory.path().join(name);
    let (secrets, lists) = (options.secrets_socket.clone(), path("lists.pem"));
    let (one, other) = (revocations(), revocations());
    std::fs::write(&lists, &one).unwrap();
    begin(options);
    let name = format!("file-root:{}~{}", world.roots_file().display(), lists.display());
    let mut sds = Sds::open_for(&secrets, &["ROOTCA", &name]).await;
    let told = |sds: &Sds| match sds.secrets.get(&name).and_then(|secret| secret.r#type.clone()) {
        Some(secret::Type::ValidationContext(found)) => {
            assert!(found.trusted_ca.is_some());
            found.crl.map(|source| Sds::text(source.specifier.as_ref()))
        }
        _ => None,
    };
    for now in [&one, &other] {
        // One that is damaged changes nothing: what is told next is the good one after it.
        std::fs::write(&lists, "damaged").unwrap();
        std::fs::write(&lists, now).unwrap();
        while told(&sds).as_ref() != Some(now) {
            sds.next().await;
        }
    }
}

#[tokio::test]
async fn lists_of_revoked_certificates_are_told_while_there_are_any() {
    let world = World::start(Duration::ZERO).await;
    let options = world.agent(Duration::from_secs(60));
    let (secrets, file) = (options.secrets_socket.clone(), options.revocations.clone());
    begin(options);
    let mut sds = Sds::open(&secrets).await;
    let told = |sds: &Sds| match sds.secrets.get("ROOTCA").and_then(|secret| secret.r#type.clone()) {
        Some(secret::Type::ValidationContext(found)) => found.crl.map(|source| Sds::text(source.specifier.as_ref())),
        _ => None,
    };
    while sds.chain().is_none() {
        sds.next().await;
    }
    assert_eq!(told(&sds), None);
    let list = revocations();
    std::fs::write(&file, &list).unwrap();
    while told(&sds).as_ref() != Some(&list) {
        sds.next().await;
    }
    std::fs::write(&file, "damaged").unwrap();
    std::fs::remove_file(&file).unwrap();
    while told(&sds).is_some() {
        sds.next().await;
    }
}

/// A list with one certificate, in PEM.
fn revocations() -> String {
    let params = rcgen::CertificateParams::default();
    list_of(&[7], &rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap()))
}

fn list_of(serial: &[u8], issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) -> String {
    let now = time::OffsetDateTime::now_utc();
    let revoked = rcgen::RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: now,
        next_update: now + Duration::from_secs(3600),
        crl_number: rcgen::SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn another_authority_may_sign() {
    let world = World::start(Duration::ZERO).await;
    let other = World::start(Duration::ZERO).await;
    let options = Options { authority: other.server(), ..world.agent(Duration::from_secs(60)) };
    // Roots of both: the control plane's, and the authority's.
    let both = world.ca.bundle().borrow().to_string() + &other.ca.bundle().borrow();
    let roots = world.directory.path().join("both.pem");
    std::fs::write(&roots, both).unwrap();
    let options = Options { roots, ..options };
    let secrets = options.secrets_socket.clone();
    begin(options);
    let mut sds = Sds::open(&secrets).await;
    while sds.chain().is_none() {
        sds.next().await;
    }
    certificate::verify(&sds.chain().unwrap(), &other.roots(), SystemTime::now()).unwrap();
}

#[tokio::test]
async fn discovery_knows_whom_it_talks_to() {
    let world = World::start(Duration::ZERO).await;
    let options = world.agent(Duration::from_secs(60));
    let socket = options.discovery_socket.clone();
    begin(options);
    let ask = |channel: Channel, token: Option<&'static str>| async move {
        let first = discovery::DeltaDiscoveryRequest {
            node: Some(Node { id: "proxy".to_owned(), ..Node::default() }),
            type_url: ResourceType::Cluster.url().to_owned(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(tokio_stream::iter([first]));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let mut answers = client.delta_aggregated_resources(request).await?.into_inner();
        answers.message().await.map(drop)
    };
    // By the agent, with the workload's certificate.
    ask(unix(&socket).await, None).await.unwrap();
    // By itself, with a token, and with nothing.
    let direct = || async {
        let stream = connect(&world.server(), &world.roots(), None, None).await.unwrap();
        Endpoint::from_static("http://istiod").connect_with_connector(Once(Some(stream))).await.unwrap()
    };
    ask(direct().await, Some("shop:api")).await.unwrap();
    assert_eq!(ask(direct().await, None).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(ask(direct().await, Some("forged")).await.unwrap_err().code(), Code::Unauthenticated);
    let visitors = world.visitors.0.lock().unwrap();
    let names: Vec<_> = visitors.iter().map(|peer| peer.identity.clone().unwrap()).collect();
    assert_eq!(names, [identity("web").to_string(), identity("api").to_string()]);
}
