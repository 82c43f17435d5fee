//! Failed handshakes in Envoy's words, which are BoringSSL's: logs and dashboards look for them.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::context::NoContext;
use super::handshake::{HandshakeError, Spoken};
use super::verify::Unwanted;

/// Why there is no TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The peer's certificate is not trusted, out of its dates, or revoked.
    Chain,
    /// It is of somebody else.
    Names,
    /// It is not one of those that are pinned.
    Pins,
    /// The peer brought none.
    NoCertificate,
    /// Anything else in the protocol.
    Protocol,
    /// The peer ended the connection, or it broke.
    Closed,
    /// It took too long.
    Late,
    /// A secret is missing.
    NoSecret,
}

impl Cause {
    /// What kind of failure it is.
    pub fn of(error: &HandshakeError) -> Cause {
        match error {
            HandshakeError::Closed | HandshakeError::Io(_) => Cause::Closed,
            HandshakeError::Late(_) => Cause::Late,
            HandshakeError::Other(_) => Cause::Protocol,
            HandshakeError::Tls(error) | HandshakeError::Refused(error, _) => Cause::of_tls(error),
        }
    }

    fn of_tls(error: &Error) -> Cause {
        match error {
            Error::NoCertificatesPresented => Cause::NoCertificate,
            Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<Unwanted>() {
                Some(Unwanted::Names(_) | Unwanted::NotNamed) => Cause::Names,
                Some(Unwanted::Pins) => Cause::Pins,
                Some(Unwanted::Issuer) | None => Cause::Chain,
            },
            Error::InvalidCertificate(_) => Cause::Chain,
            _ => Cause::Protocol,
        }
    }
}

/// The reason as Envoy's `%UPSTREAM_TRANSPORT_FAILURE_REASON%` has it.
pub fn words(error: &HandshakeError) -> String {
    let detail = match error {
        // Envoy says nothing of a peer that just went.
        HandshakeError::Closed | HandshakeError::Io(_) | HandshakeError::Late(_) => return String::new(),
        HandshakeError::Other(spoken) => match spoken {
            Spoken::Http => ssl(268_435_612, "HTTP_REQUEST"),
            Spoken::HttpToProxy => ssl(268_435_611, "HTTPS_PROXY_REQUEST"),
            Spoken::Unknown => ssl(268_435_703, "WRONG_VERSION_NUMBER"),
        },
        HandshakeError::Tls(error) | HandshakeError::Refused(error, _) => detail(error),
    };
    format!("TLS_error:|{detail}:TLS_error_end")
}

/// The reason for a context that is not there.
pub fn words_without_context(error: &NoContext) -> String {
    format!("TLS_error:_{error}")
}

fn ssl(number: u32, name: &str) -> String {
    format!("{number}:SSL routines:OPENSSL_internal:{name}")
}

fn detail(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(reason) => {
            format!("{}:verify cert failed: {}", ssl(268_435_581, "CERTIFICATE_VERIFY_FAILED"), verification(reason))
        }
        Error::NoCertificatesPresented => {
            let what = ssl(268_435_648, "PEER_DID_NOT_RETURN_A_CERTIFICATE");
            format!("{what}:peer did not provide required client certificate")
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => ssl(268_435_703, "WRONG_VERSION_NUMBER"),
        Error::AlertReceived(alert) => {
            let number = 268_436_456 + u32::from(u8::from(*alert));
            ssl(number, &alert_name(*alert))
        }
        Error::PeerIncompatible(reason) => match reason {
            PeerIncompatible::NoCipherSuitesInCommon => ssl(268_435_640, "NO_SHARED_CIPHER"),
            PeerIncompatible::NoKxGroupsInCommon => ssl(268_435_722, "NO_SHARED_GROUP"),
            PeerIncompatible::NoSignatureSchemesInCommon => ssl(268_435_709, "NO_COMMON_SIGNATURE_ALGORITHMS"),
            _ => ssl(268_435_696, "UNSUPPORTED_PROTOCOL"),
        },
        Error::DecryptError => ssl(268_435_591, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        other => format!("{other}"),
    }
}

fn verification(reason: &CertificateError) -> String {
    let text = match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate is not yet valid",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownIssuer => "unable to get local issuer certificate",
        CertificateError::UnknownRevocationStatus => "unable to get certificate CRL",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "CRL has expired"
        }
        CertificateError::BadSignature => "certificate signature failure",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsuitable certificate purpose"
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<Unwanted>() {
            Some(unwanted) => return unwanted.to_string(),
            None => return format!("X509_verify_cert: certificate verification error: {}", other.0),
        },
        other => return format!("X509_verify_cert: certificate verification error: {other}"),
    };
    format!("X509_verify_cert: certificate verification error at depth 0: {text}")
}

/// As OpenSSL's and BoringSSL's tables have them.
fn alert_name(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let name = match alert {
        A::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        A::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        A::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        A::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        A::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        A::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        A::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        A::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        A::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        A::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        A::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        A::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        A::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        A::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        A::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        A::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        A::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        A::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        A::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => return format!("TLSV1_ALERT_{}", u8::from(alert)),
    };
    name.to_owned()
}
