//! Certificates that contexts have, for people to look at.

use lateen_traffic::Config;
use lateen_traffic::cluster::ClusterSettings;
use lateen_traffic::listener::Listener;
use lateen_traffic::tls::{Certificate, CertificateSource, Secret, TlsSettings, TransportSocket};

use super::certificate::certificate;
use super::context::Secrets;

/// A certificate, ours or an authority's.
pub struct Held<'a> {
    /// The secret that it came in; none if the resource brought it.
    pub secret: Option<&'a str>,
    /// The file that it was read from, if it was.
    pub file: Option<&'a str>,
    /// What it says.
    pub certificate: Certificate,
}

/// Those of one context: ours, and the first authority that is trusted.
#[derive(Default)]
pub struct OfContext<'a> {
    /// Ours.
    pub own: Vec<Held<'a>>,
    /// The authority.
    pub authority: Option<Held<'a>>,
}

impl<'a> OfContext<'a> {
    /// By settings and the secrets that they name. What is not there yet is left out.
    pub fn new(settings: &'a TlsSettings, secrets: &'a Secrets) -> Self {
        let own = settings.certificates.iter().filter_map(|source| {
            let (secret, pair) = match source {
                CertificateSource::Inline(pair) => (None, pair),
                CertificateSource::Named(named) => match secrets.get(&named.name) {
                    Some(Secret::KeyPair(pair)) => (Some(&*named.name.name), pair),
                    Some(Secret::Validation(_)) | None => return None,
                },
            };
            Held::read(secret, pair.file.as_deref(), pair.chain.first()?)
        });
        let named = settings.validation.named.as_ref().and_then(|named| match secrets.get(&named.name) {
            Some(Secret::Validation(rules)) => Some((Some(&*named.name.name), rules)),
            Some(Secret::KeyPair(_)) | None => None,
        });
        let inline = settings.validation.inline.as_ref().map(|rules| (None, rules));
        let with_authority = [named, inline].into_iter().flatten().find(|(_, rules)| !rules.authorities.is_empty());
        let authority = with_authority
            .and_then(|(secret, rules)| Held::read(secret, rules.file.as_deref(), rules.authorities.first()?));
        Self { own: own.collect(), authority }
    }
}

impl<'a> Held<'a> {
    fn read(secret: Option<&'a str>, file: Option<&'a str>, der: &[u8]) -> Option<Self> {
        Some(Self { secret, file, certificate: certificate([der])? })
    }
}

/// Settings of a listener's chains.
pub fn of_listener(listener: &Listener) -> impl Iterator<Item = &TlsSettings> {
    let chains = listener.chains.iter().chain(&listener.default_chain);
    chains.filter_map(|chain| chain.tls.as_ref()).map(|tls| &tls.settings)
}

/// Settings of connections to a cluster.
pub fn of_cluster(cluster: &ClusterSettings) -> impl Iterator<Item = &TlsSettings> {
    let matches = cluster.transport_matches.iter().map(|one| &one.transport);
    std::iter::once(&cluster.transport).chain(matches).filter_map(|socket| match socket {
        TransportSocket::Plain => None,
        TransportSocket::Tls(tls) => Some(&tls.settings),
    })
}

/// All contexts' certificates.
pub fn all(config: &Config) -> impl Iterator<Item = OfContext<'_>> {
    let listeners = config.listeners.values().flat_map(|listener| of_listener(listener));
    let clusters = config.clusters.values().flat_map(|cluster| of_cluster(&cluster.settings));
    listeners.chain(clusters).map(|settings| OfContext::new(settings, &config.secrets))
}
