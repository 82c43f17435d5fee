//! TLS that proxies speak, as far as anything is decided by it: which server is asked for, what is offered by ALPN, and
//! whether either side takes the other for whom it wants. Nothing is sealed, and files of certificates are not read: who
//! shows one of those is believed.

use std::sync::Arc;
use std::time::SystemTime;

use lateen_traffic::tls::{
    Certificate, CertificateSource, DownstreamTls, TlsConnection, TlsSettings, TlsVersion, UpstreamTls,
    ValidationSource, Wanted,
};

/// What Istio's agent calls the workload's own certificate, and the mesh's authorities.
const OWN: &str = "default";
const AUTHORITIES: &str = "ROOTCA";

/// What a proxy says that begins TLS, and whom it wants to hear.
pub(crate) struct Greeting {
    /// The server it asks for.
    pub server_name: Option<Arc<str>>,
    /// What it offers by ALPN.
    pub application_protocols: Vec<String>,
    settings: Arc<UpstreamTls>,
    shown: Shown,
}

/// The certificate that one side shows.
#[derive(Clone)]
enum Shown {
    Nothing,
    /// That of a workload of the mesh.
    Workload(Arc<Certificate>),
    /// One from elsewhere.
    Other,
}

/// The certificate that the mesh gives a workload.
pub(crate) fn of_workload(identity: String) -> Arc<Certificate> {
    Arc::new(Certificate {
        uri_names: vec![identity],
        dns_names: Vec::new(),
        ip_names: Vec::new(),
        email_names: Vec::new(),
        subject: String::new(),
        issuer: String::new(),
        serial: String::new(),
        fingerprint: String::new(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
        chain: Vec::new(),
    })
}

impl Shown {
    fn of(settings: &TlsSettings, own: &Arc<Certificate>) -> Shown {
        match settings.certificates.first() {
            None => Shown::Nothing,
            Some(CertificateSource::Named(secret)) if *secret.name.name == *OWN => Shown::Workload(Arc::clone(own)),
            Some(_) => Shown::Other,
        }
    }

    fn certificate(&self) -> Option<&Arc<Certificate>> {
        match self {
            Shown::Workload(certificate) => Some(certificate),
            Shown::Nothing | Shown::Other => None,
        }
    }

    /// Whether it is one that the other side takes, as far as can be told.
    fn satisfies(&self, asked: &ValidationSource) -> Result<(), String> {
        let of_mesh = asked.named.as_ref().is_some_and(|secret| *secret.name.name == *AUTHORITIES);
        match self {
            Shown::Workload(certificate) => match &asked.inline {
                Some(rules) if !rules.names_match(certificate) => {
                    Err(format!("SAN matcher, certificate SANs are [{}]", certificate.uri_names.join(", ")))
                }
                _ => Ok(()),
            },
            Shown::Other if of_mesh => Err("the certificate is none of the mesh's".to_owned()),
            Shown::Other | Shown::Nothing => Ok(()),
        }
    }
}

impl Greeting {
    /// That of a proxy whose own certificate is `own`.
    pub fn new(settings: &Arc<UpstreamTls>, own: &Arc<Certificate>, wanted: &Wanted) -> Greeting {
        let offered = wanted.protocols.as_deref().unwrap_or(&settings.settings.application_protocols);
        Greeting {
            server_name: wanted.server_name.clone().or_else(|| settings.server_name.clone()),
            application_protocols: offered.iter().map(|name| name.to_string()).collect(),
            shown: Shown::of(&settings.settings, own),
            settings: Arc::clone(settings),
        }
    }

    /// What a server with these settings, whose own certificate is `own`, finds out; or why there is no connection.
    ///
    /// # Errors
    /// In words, when either side does not want the other.
    pub fn meets(&self, server: &DownstreamTls, own: &Arc<Certificate>) -> Result<TlsConnection, String> {
        let asks = &server.settings.validation;
        let shown = Shown::of(&server.settings, own);
        shown.satisfies(&self.settings.settings.validation)?;
        if server.require_client_certificate && matches!(self.shown, Shown::Nothing) {
            return Err("the client shows no certificate".to_owned());
        }
        self.shown.satisfies(asks)?;
        if server.require_sni && self.server_name.is_none() {
            return Err("the client asks for no server".to_owned());
        }
        let protocols = &server.settings.application_protocols;
        let agreed = protocols.iter().find(|name| self.application_protocols.iter().any(|offered| *offered == ***name));
        Ok(TlsConnection {
            version: TlsVersion::Tls13,
            cipher: "TLS_AES_128_GCM_SHA256",
            server_name: self.server_name.clone(),
            application_protocol: agreed.cloned(),
            // Servers that ask nothing of certificates do not ask for them.
            peer: self.shown.certificate().filter(|_| asks.inline.is_some() || asks.named.is_some()).cloned(),
            peer_validated: true,
            local: shown.certificate().cloned(),
            ..TlsConnection::default()
        })
    }
}
