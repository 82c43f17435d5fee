//! TLS contexts made ready for handshakes: keys loaded, authorities read. Made at the first handshake that needs one and
//! kept until its configuration or one of its secrets changes; connections that are open keep what they have.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_traffic::tls::{
    Certificate, CertificateSource, CipherSuite, DownstreamTls, Group, KeyPair, PrivateKeyFormat, Secret, SecretName,
    TlsSettings, TlsVersion, UpstreamTls, Validation, ValidationSource,
};
use rustls::client::{ResolvesClientCert, Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::certificate::certificate;
use super::session::HostSessions;
use super::verify::{Named, Verifier};

/// Secrets by name.
pub type Secrets = HashMap<SecretName, Secret>;

/// All contexts of a proxy, shared by its workers: a handshake takes the lock once.
#[derive(Default)]
pub struct Contexts {
    servers: Mutex<HashMap<usize, Kept<DownstreamTls, Server>>>,
    clients: Mutex<HashMap<usize, Kept<UpstreamTls, Client>>>,
    // As they are now, for whoever is told of no configuration.
    secrets: Mutex<Arc<Secrets>>,
}

/// A context, what it was made of, and what it was made into.
struct Kept<T, R> {
    // Keeps the address, by which it is found, its own.
    settings: Arc<T>,
    parts: Parts,
    ready: Arc<R>,
}

/// What a context takes of secrets.
#[derive(Clone)]
struct Parts {
    pairs: Vec<Arc<KeyPair>>,
    inline: Option<Arc<Validation>>,
    named: Option<Arc<Validation>>,
}

/// Why there is no context to make a handshake with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoContext {
    /// A secret is not there.
    #[error("Secret is not supplied by SDS")]
    NoSecret,
    /// The library refuses what was configured.
    #[error("{0}")]
    Unusable(String),
}

/// TLS with clients, ready for handshakes.
pub struct Server {
    with_protocols: Arc<ServerConfig>,
    without_protocols: Arc<ServerConfig>,
    /// Checks clients' certificates; `None` if none is asked for.
    pub verifier: Option<Arc<Verifier>>,
    /// Our own certificate; the first if there are several, as they differ in the kind of key.
    pub local: Option<Arc<Certificate>>,
    /// A client must name a server.
    pub require_sni: bool,
}

/// TLS with hosts, ready for handshakes.
pub struct Client {
    config: ClientConfig,
    max_sessions: usize,
    /// Checks hosts' certificates.
    pub verifier: Arc<Verifier>,
    /// Our own certificate, if there is one.
    pub local: Option<Arc<Certificate>>,
}

impl Contexts {
    /// The context of a filter chain.
    ///
    /// # Errors
    /// When a secret is missing, or the context cannot be used.
    pub fn server(&self, settings: &Arc<DownstreamTls>, secrets: &Secrets) -> Result<Arc<Server>, NoContext> {
        kept(&self.servers, settings, &settings.settings, secrets, |parts| Server::new(settings, parts))
    }

    /// The context of a cluster.
    ///
    /// # Errors
    /// When a secret is missing, or the context cannot be used.
    pub fn client(&self, settings: &Arc<UpstreamTls>, secrets: &Secrets) -> Result<Arc<Client>, NoContext> {
        kept(&self.clients, settings, &settings.settings, secrets, |parts| Client::new(settings, parts))
    }

    /// Secrets as they are now.
    pub fn secrets(&self) -> Arc<Secrets> {
        Arc::clone(&self.secrets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Secrets are these from now on. Forgets contexts that nothing is configured with any longer.
    pub fn follow(&self, secrets: &Arc<Secrets>) {
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(secrets);
        fn retain<T, R>(kept: &Mutex<HashMap<usize, Kept<T, R>>>) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|_, kept| Arc::strong_count(&kept.settings) > 1);
        }
        retain(&self.servers);
        retain(&self.clients);
    }
}

fn kept<T, R>(
    all: &Mutex<HashMap<usize, Kept<T, R>>>,
    settings: &Arc<T>,
    common: &TlsSettings,
    secrets: &Secrets,
    make: impl FnOnce(&Parts) -> Result<R, NoContext>,
) -> Result<Arc<R>, NoContext> {
    let parts = Parts::of(common, secrets)?;
    let key = Arc::as_ptr(settings) as usize;
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = all.get(&key).filter(|kept| kept.parts.are(&parts)) {
        return Ok(Arc::clone(&kept.ready));
    }
    let ready = Arc::new(make(&parts)?);
    all.insert(key, Kept { settings: Arc::clone(settings), parts, ready: Arc::clone(&ready) });
    Ok(ready)
}

impl Parts {
    fn of(settings: &TlsSettings, secrets: &Secrets) -> Result<Self, NoContext> {
        let pair = |source: &CertificateSource| match source {
            CertificateSource::Inline(pair) => Ok(Arc::clone(pair)),
            CertificateSource::Named(secret) => match secrets.get(&secret.name) {
                Some(Secret::KeyPair(pair)) => Ok(Arc::clone(pair)),
                Some(Secret::Validation(_)) | None => Err(NoContext::NoSecret),
            },
        };
        let ValidationSource { inline, named } = &settings.validation;
        let named = match named.as_ref().map(|secret| secrets.get(&secret.name)) {
            None => None,
            Some(Some(Secret::Validation(rules))) => Some(Arc::clone(rules)),
            Some(Some(Secret::KeyPair(_)) | None) => return Err(NoContext::NoSecret),
        };
        let pairs = settings.certificates.iter().map(pair).collect::<Result<_, _>>()?;
        Ok(Self { pairs, inline: inline.clone(), named })
    }

    fn are(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Validation>>, b: &Option<Arc<Validation>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        self.pairs.len() == other.pairs.len()
            && self.pairs.iter().zip(&other.pairs).all(|(a, b)| Arc::ptr_eq(a, b))
            && same(&self.inline, &other.inline)
            && same(&self.named, &other.named)
    }

    fn rules(&self) -> Option<Validation> {
        match (&self.inline, &self.named) {
            (Some(inline), Some(named)) => Some(inline.with(named)),
            (Some(only), None) | (None, Some(only)) => Some((**only).clone()),
            (None, None) => None,
        }
    }

    fn keys(&self) -> Result<Vec<Arc<CertifiedKey>>, NoContext> {
        self.pairs.iter().map(|pair| certified(pair).map(Arc::new)).collect()
    }

    fn local(&self) -> Option<Arc<Certificate>> {
        let first = self.pairs.first()?;
        certificate(first.chain.iter().map(|der| &**der)).map(Arc::new)
    }
}

fn unusable(error: impl fmt::Display) -> NoContext {
    NoContext::Unusable(error.to_string())
}

fn certified(pair: &KeyPair) -> Result<CertifiedKey, NoContext> {
    let chain = pair.chain.iter().map(|der| CertificateDer::from_slice(der).into_owned()).collect();
    let der = pair.key.der();
    let key = match pair.key.format {
        PrivateKeyFormat::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
        PrivateKeyFormat::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
        PrivateKeyFormat::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
    };
    // Its bytes are not copied for it. That it is the certificate's was seen when the two came.
    let mut key = CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&key).map_err(unusable)?);
    key.ocsp = pair.ocsp.as_deref().map(<[u8]>::to_vec);
    Ok(key)
}

/// Ciphers and groups as they are asked for.
fn provider(settings: &TlsSettings) -> CryptoProvider {
    use aws_lc_rs::{cipher_suite as suite, kx_group};
    let mut provider = aws_lc_rs::default_provider();
    // Where AES is in hardware the smaller key is the faster one, and as good as any.
    let small = |suite: &SupportedCipherSuite| {
        use rustls::CipherSuite as S;
        matches!(
            suite.suite(),
            S::TLS13_AES_128_GCM_SHA256
                | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(|suite| !small(suite));
    if !settings.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(settings.cipher_suites.iter().map(|name| match name {
            CipherSuite::EcdsaAes128Gcm => suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::EcdsaAes256Gcm => suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::EcdsaChacha20 => suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::RsaAes128Gcm => suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::RsaAes256Gcm => suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::RsaChacha20 => suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        }));
    }
    if !settings.groups.is_empty() {
        provider.kx_groups = settings
            .groups
            .iter()
            .map(|group| match group {
                Group::X25519MlKem768 => kx_group::X25519MLKEM768,
                Group::X25519 => kx_group::X25519,
                Group::P256 => kx_group::SECP256R1,
                Group::P384 => kx_group::SECP384R1,
            })
            .collect();
    }
    provider
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)];
    let spoken = all.into_iter().filter(|(version, _)| (settings.min_version..=settings.max_version).contains(version));
    spoken.map(|(_, version)| version).collect()
}

fn protocols(settings: &TlsSettings) -> Vec<Vec<u8>> {
    settings.application_protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
}

impl Server {
    fn new(tls: &DownstreamTls, parts: &Parts) -> Result<Self, NoContext> {
        let settings = &tls.settings;
        let provider = Arc::new(provider(settings));
        let algorithms = provider.signature_verification_algorithms;
        let verifier = match (parts.rules(), tls.require_client_certificate) {
            (None, false) => None,
            (rules, mandatory) => {
                let verifier = Verifier::new(rules.unwrap_or_default(), algorithms, mandatory, false);
                // A certificate that nothing is asked of is not asked for.
                (mandatory || verifier.asks_for_anything()).then(|| Arc::new(verifier))
            }
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings))
            .map_err(unusable)?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier) as Arc<_>),
            None => builder.with_no_client_auth(),
        };
        let keys = parts.keys()?;
        let names = parts.pairs.iter().map(|pair| certificate(pair.chain.iter().map(|der| &**der))).collect();
        let mut config = builder.with_cert_resolver(Arc::new(ServerKeys { keys, names }));
        config.ignore_client_order = true;
        config.enable_secret_extraction = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if tls.session_timeout.is_zero() {
            config.send_tls13_tickets = 0;
        } else {
            // One to continue with for each connection, so that they do not run out; a second costs both sides for nothing.
            config.send_tls13_tickets = 1;
            let inner = aws_lc_rs::Ticketer::new().map_err(unusable)?;
            config.ticketer = Arc::new(Tickets { inner, lifetime: tls.session_timeout });
        }
        let without_protocols = Arc::new(config.clone());
        config.alpn_protocols = protocols(settings);
        Ok(Self {
            with_protocols: Arc::new(config),
            without_protocols,
            verifier,
            local: parts.local(),
            require_sni: tls.require_sni,
        })
    }

    /// How to answer a client that offers these application protocols. As with Envoy, one that offers none of ours is
    /// served all the same, without agreeing on any.
    pub fn for_client(&self, offered: &[String]) -> Arc<ServerConfig> {
        let ours = &self.with_protocols.alpn_protocols;
        let shared = ours.iter().any(|name| offered.iter().any(|offer| offer.as_bytes() == name.as_slice()));
        Arc::clone(if shared { &self.with_protocols } else { &self.without_protocols })
    }
}

impl Client {
    fn new(tls: &UpstreamTls, parts: &Parts) -> Result<Self, NoContext> {
        let settings = &tls.settings;
        let provider = Arc::new(provider(settings));
        let algorithms = provider.signature_verification_algorithms;
        let rules = parts.rules().unwrap_or_default();
        let verifier = Arc::new(Verifier::new(rules, algorithms, true, tls.match_server_name));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings))
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<_>);
        let mut config = match parts.keys()?.pop() {
            Some(key) => builder.with_client_cert_resolver(Arc::new(ClientKey(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols(settings);
        config.enable_secret_extraction = true;
        config.resumption = Resumption::disabled();
        let max_sessions = usize::try_from(tls.max_sessions).unwrap_or(usize::MAX);
        Ok(Self { config, max_sessions, verifier, local: parts.local() })
    }

    /// What is offered by ALPN.
    pub fn protocols(&self) -> &[Vec<u8>] {
        &self.config.alpn_protocols
    }

    /// How to speak to one host: it has sessions of its own, since no other could continue them. `verified_name`: one that
    /// its certificate must have.
    pub fn for_host(&self, names_server: bool, verified_name: Option<&Arc<str>>) -> ClientConfig {
        let mut config = self.config.clone();
        if let Some(name) = verified_name {
            let verifier = Named { verifier: Arc::clone(&self.verifier), name: Arc::clone(name) };
            config.dangerous().set_certificate_verifier(Arc::new(verifier));
        }
        config.enable_sni = names_server;
        if self.max_sessions > 0 {
            let sessions = Arc::new(HostSessions::new(self.max_sessions));
            config.resumption = Resumption::store(sessions).tls12_resumption(Tls12Resumption::SessionIdOrTickets);
        }
        config
    }
}

/// The certificates of a server.
struct ServerKeys {
    keys: Vec<Arc<CertifiedKey>>,
    names: Vec<Option<Certificate>>,
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKeys({})", self.keys.len())
    }
}

impl ResolvesServerCert for ServerKeys {
    /// One that the client can check; rather one of the name it asks for, then rather one of ECDSA, then the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let rank = |(at, key): &(usize, &Arc<CertifiedKey>)| {
            let named = match (hello.server_name(), &self.names[*at]) {
                (Some(name), Some(certificate)) => certificate.is_of_server(name),
                _ => false,
            };
            let ecdsa = key.key.algorithm() == SignatureAlgorithm::ECDSA;
            (named, ecdsa, std::cmp::Reverse(*at))
        };
        let checkable = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let best = self.keys.iter().enumerate().filter(|(_, key)| checkable(key)).max_by_key(rank);
        best.map(|(_, key)| Arc::clone(key))
    }
}

/// The certificate of a client.
struct ClientKey(Arc<CertifiedKey>);

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey")
    }
}

impl ResolvesClientCert for ClientKey {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Tickets that clients may use for a limited time.
#[derive(Debug)]
struct Tickets {
    inner: Arc<dyn ProducesTickets>,
    lifetime: Duration,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime().min(u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(plain)
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.inner.decrypt(sealed)
    }
}
