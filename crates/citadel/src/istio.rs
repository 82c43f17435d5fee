//! `istio.v1.auth.IstioCertificateService`: its messages, and gRPC's path to its one method. Source: Istio's
//! `security/v1alpha1/ca.proto` in istio/api.

use prost_types::Struct;

/// The method's path.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// The service's name.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";

/// Asks for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PEM of a PKCS #10 request.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// In seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// What the caller wants to tell; asks for nothing here.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// The answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM: the certificate, then what is between it and the root, last the roots to trust.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
