//! Certificates of a test as a computed mesh knows them: what is judged by them, and no keys.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_simulation::{ClientTls, Credential, Credentials, Issued};
use lateen_traffic::tls::Certificate;

use super::certificates::Wanted;
use super::kind::{Send, TrafficTest};

/// What a test puts into the mesh.
pub fn credentials(test: &TrafficTest) -> Credentials {
    Credentials::new(test.spec.secrets.iter().map(|secret| {
        let namespace = if secret.namespace.is_empty() { &test.metadata.namespace } else { &secret.namespace };
        let credential =
            Credential { certificate: issued(test, &secret.certificate), authorities: secret.authorities.clone() };
        (namespace.clone(), secret.name.clone(), credential)
    }))
}

/// How a step speaks TLS, if it does; `host` is its URL's.
pub fn client(test: &TrafficTest, send: &Send, host: &str) -> Option<ClientTls> {
    let tls = send.tls.as_ref()?;
    let server = if tls.server_name.is_empty() { host } else { &tls.server_name };
    Some(ClientTls {
        server: server.to_owned(),
        authority: tls.authority.clone(),
        certificate: issued(test, &tls.certificate),
    })
}

fn issued(test: &TrafficTest, name: &str) -> Option<Issued> {
    let Wanted { hosts, key: _, authority, expired, revoked } = test.spec.certificates.get(name)?;
    let (addresses, names): (Vec<&String>, Vec<&String>) =
        hosts.iter().partition(|host| host.parse::<IpAddr>().is_ok());
    let certificate = Certificate {
        uri_names: Vec::new(),
        dns_names: names.into_iter().cloned().collect(),
        ip_names: addresses.into_iter().filter_map(|host| host.parse().ok()).collect(),
        email_names: Vec::new(),
        subject: format!("CN={name}"),
        issuer: format!("CN={authority} authority"),
        serial: String::new(),
        fingerprint: String::new(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
        chain: Vec::new(),
    };
    Some(Issued {
        certificate: Arc::new(certificate),
        authority: authority.clone(),
        expired: *expired,
        revoked: *revoked,
    })
}
