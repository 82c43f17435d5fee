//! TLS that proxies end or begin, as far as anything is decided by it: which server is asked for, what is offered by ALPN,
//! and whether either side takes the other for whom it wants. Nothing is sealed, and files of certificates are not read:
//! proxies believe who shows one of those.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_traffic::tls::{
    Certificate, CertificateSource, DownstreamTls, TlsConnection, TlsSettings, TlsVersion, UpstreamTls,
    ValidationSource, Wanted,
};

use crate::credentials::{Issued, Known};

/// What Istio's agent calls the workload's own certificate, and the mesh's authorities.
const OWN: &str = "default";
const AUTHORITIES: &str = "ROOTCA";

/// What a client says that begins TLS, and whom it wants to hear.
pub(crate) struct Greeting {
    /// The server it asks for.
    pub server_name: Option<Arc<str>>,
    /// What it offers by ALPN.
    pub application_protocols: Vec<String>,
    wants: Wants,
    shown: Shown,
}

/// How a client that is no proxy speaks TLS.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// The server it asks for, and whose certificate it must be: a host or an IP address.
    pub server: String,
    /// Whose certificates it believes.
    pub authority: String,
    /// Shown if it is asked for.
    pub certificate: Option<Issued>,
}

/// Whom a client wants to hear.
enum Wants {
    /// Whom a proxy's settings want.
    Settings(Arc<UpstreamTls>, Rc<Known>),
    Client(ClientTls),
}

/// What a proxy has to show, and what it is told to judge by.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// Its workload's.
    pub certificate: &'a Arc<Certificate>,
    pub known: &'a Rc<Known>,
}

/// The certificate that one side shows.
#[derive(Clone)]
enum Shown {
    Nothing,
    /// That of a workload of the mesh.
    Workload(Arc<Certificate>),
    /// One that is known.
    Issued(Issued),
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
    fn of(settings: &TlsSettings, own: &Side<'_>) -> Shown {
        match settings.certificates.first() {
            None => Shown::Nothing,
            Some(CertificateSource::Named(secret)) if *secret.name.name == *OWN => {
                Shown::Workload(Arc::clone(own.certificate))
            }
            Some(CertificateSource::Named(secret)) => {
                let issued = own.known.get(&*secret.name.name).and_then(|credential| credential.certificate.clone());
                issued.map_or(Shown::Other, Shown::Issued)
            }
            Some(_) => Shown::Other,
        }
    }

    fn certificate(&self) -> Option<&Arc<Certificate>> {
        match self {
            Shown::Workload(certificate) | Shown::Issued(Issued { certificate, .. }) => Some(certificate),
            Shown::Nothing | Shown::Other => None,
        }
    }

    /// Whether it is one that a proxy takes which is told `known`, as far as can be told.
    fn satisfies(&self, asked: &ValidationSource, known: &Known) -> Result<(), String> {
        let named = asked.named.as_ref().map(|secret| &*secret.name.name);
        let of_mesh = named == Some(AUTHORITIES);
        let believed = named.and_then(|name| known.get(name)).map(|credential| &credential.authorities);
        match (self, believed) {
            (Shown::Issued(_) | Shown::Other, _) if of_mesh => Err("the certificate is none of the mesh's".to_owned()),
            (Shown::Workload(_), Some(_)) => Err("the certificate is the mesh's".to_owned()),
            (Shown::Issued(issued), Some(authorities)) => issued.is_taken(authorities),
            _ => Ok(()),
        }?;
        match (self.certificate(), &asked.inline) {
            (Some(certificate), Some(rules)) if !rules.names_match(certificate) => {
                let names = [&certificate.uri_names[..], &certificate.dns_names].concat();
                Err(format!("SAN matcher, certificate SANs are [{}]", names.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

impl ClientTls {
    /// Whether it takes the server that shows this.
    fn takes(&self, shown: &Shown) -> Result<(), String> {
        let Shown::Issued(issued) = shown else {
            return Err(format!("the server's certificate is none of the authority {}", self.authority));
        };
        issued.is_taken(std::slice::from_ref(&self.authority))?;
        if issued.certificate.is_of_server(&self.server) {
            return Ok(());
        }
        Err(format!("the server's certificate is not for {}", self.server))
    }
}

impl Greeting {
    /// That of a client that is no proxy and speaks HTTP/1.1.
    pub fn of_client(client: ClientTls) -> Greeting {
        let named = client.server.parse::<IpAddr>().is_err();
        Greeting {
            server_name: named.then(|| client.server.to_ascii_lowercase().into()),
            application_protocols: vec!["http/1.1".to_owned()],
            shown: client.certificate.clone().map_or(Shown::Nothing, Shown::Issued),
            wants: Wants::Client(client),
        }
    }

    /// That of a proxy.
    pub fn new(settings: &Arc<UpstreamTls>, own: &Side<'_>, wanted: &Wanted) -> Greeting {
        let offered = wanted.protocols.as_deref().unwrap_or(&settings.settings.application_protocols);
        Greeting {
            server_name: wanted.server_name.clone().or_else(|| settings.server_name.clone()),
            application_protocols: offered.iter().map(|name| name.to_string()).collect(),
            shown: Shown::of(&settings.settings, own),
            wants: Wants::Settings(Arc::clone(settings), Rc::clone(own.known)),
        }
    }

    /// What a server with these settings finds out; or why there is no connection.
    ///
    /// # Errors
    /// In words, when either side does not want the other.
    pub fn meets(&self, server: &DownstreamTls, own: &Side<'_>) -> Result<TlsConnection, String> {
        let asks = &server.settings.validation;
        let shown = Shown::of(&server.settings, own);
        match &self.wants {
            Wants::Settings(settings, known) => shown.satisfies(&settings.settings.validation, known)?,
            Wants::Client(client) => client.takes(&shown)?,
        }
        if server.require_client_certificate && matches!(self.shown, Shown::Nothing) {
            return Err("the client shows no certificate".to_owned());
        }
        self.shown.satisfies(asks, own.known)?;
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
