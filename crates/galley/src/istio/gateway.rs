//! `Gateway`: what a load balancer at the edge of the mesh listens for.
//! Schema: istio/api `networking/v1alpha3/gateway.proto`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Servers of the workloads that the selector picks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    /// What is listened for.
    pub servers: Vec<Server>,
    /// Labels of the gateway's pods, in any namespace. Empty picks every proxy.
    pub selector: BTreeMap<String, String>,
}

/// One port and the hosts served on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Server {
    /// Required.
    pub port: Option<Port>,
    /// IP address or unix socket to listen at; empty is every address.
    pub bind: String,
    /// `host`, `namespace/host`, `./host` or `*/host`; a host may be `*` or `*.suffix`. At least one.
    pub hosts: Vec<String>,
    /// For ports that speak TLS, or that send clients there.
    pub tls: Option<ServerTlsSettings>,
    /// Not carried out by Istio either.
    pub default_endpoint: String,
    /// For statistics; unique among a gateway's servers.
    pub name: String,
}

/// A port of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// 1 to 65535 (0 only with a unix socket in `bind`).
    pub number: u32,
    /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS.
    pub protocol: String,
    /// Required.
    pub name: String,
    /// Deprecated, and not carried out by Istio.
    pub target_port: u32,
}

/// TLS of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTlsSettings {
    /// Answer plain requests with a redirect to https.
    pub https_redirect: bool,
    /// Who ends TLS, and whether clients show a certificate.
    pub mode: ServerTlsMode,
    /// File with the certificate chain.
    pub server_certificate: String,
    /// File with the private key.
    pub private_key: String,
    /// File with the authorities for client certificates.
    pub ca_certificates: String,
    /// File with revoked certificates.
    pub ca_crl: String,
    /// Secret with certificate, key and, for mutual modes, authorities.
    pub credential_name: String,
    /// Secrets, one a kind of key.
    pub credential_names: Vec<String>,
    /// Secret with the authorities for client certificates.
    pub ca_cert_credential_name: String,
    /// Files, one set a kind of key.
    pub tls_certificates: Vec<TlsCertificate>,
    /// Names a client's certificate must have.
    pub subject_alt_names: Vec<String>,
    /// Base64 SHA-256 of accepted public keys.
    pub verify_certificate_spki: Vec<String>,
    /// Hex SHA-256 of accepted certificates.
    pub verify_certificate_hash: Vec<String>,
    /// The oldest version accepted.
    pub min_protocol_version: TlsProtocol,
    /// The newest version accepted.
    pub max_protocol_version: TlsProtocol,
    /// In order of preference; empty is the default list.
    pub cipher_suites: Vec<String>,
    /// Groups of key exchange, in order of preference; empty is the default list.
    pub ecdh_curves: Vec<String>,
    /// Accept client certificates of any authority.
    pub insecure_skip_verify: Option<bool>,
}

/// Files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsCertificate {
    /// File with the certificate chain.
    pub server_certificate: String,
    /// File with the private key.
    pub private_key: String,
    /// File with the authorities for client certificates.
    pub ca_certificates: String,
}

/// Who ends TLS, and whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// The service does; routed by server name with `tls` routes.
    #[default]
    Passthrough,
    /// The gateway does.
    Simple,
    /// The gateway does, and clients must show a certificate.
    Mutual,
    /// As `Passthrough`, the server name itself names the service.
    AutoPassthrough,
    /// As `Mutual`, with the mesh's own certificates.
    IstioMutual,
    /// As `Mutual`, but clients without a certificate pass.
    OptionalMutual,
}

impl ServerTlsMode {
    /// TLS is passed on as it is.
    pub fn passes_on(self) -> bool {
        matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }

    /// Certificates of clients are looked at.
    pub fn looks_at_clients(self) -> bool {
        matches!(self, Self::Mutual | Self::OptionalMutual | Self::IstioMutual)
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum TlsProtocol {
    /// The mesh's default (1.2 and newer for servers).
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.0
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// TLS 1.1
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// TLS 1.2
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
