//! Secrets: certificates with their keys, and rules for the other side's certificate; from SDS, or inside a TLS context.
//!
//! - reject: malformed PEM, a key that is not the certificate's, keys kept elsewhere or under a password, other sorts of
//!   secrets, files that cannot be read, custom validators
//! - note: directories to watch, limits on the length of chains
//!
//! A file that a resource names is read here, once, when the resource comes.

use std::io::Read as _;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    self as pb, certificate_validation_context::TrustChainVerification, secret::Type as SecretType,
    subject_alt_name_matcher::SanType,
};
use lateen_traffic::tls::{
    KeyPair, NameKind, NameMatcher, PrivateKey, PrivateKeyFormat, Secret, Validation, as_version3,
};
use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use super::matcher::string;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};

/// Largest file or text of certificates: all authorities of an operating system fit several times.
const MAX_BYTES: u64 = 4 << 20;

/// Converts a secret, from SDS or the bootstrap.
pub fn secret(secret: pb::Secret, notes: &mut Notes) -> Result<Secret, Reject> {
    let pb::Secret { name: _, r#type } = secret;
    match r#type {
        Some(SecretType::TlsCertificate(pair)) => {
            key_pair(pair).at("tls_certificate").map(|pair| Secret::KeyPair(Arc::new(pair)))
        }
        Some(SecretType::ValidationContext(context)) => {
            let rules = validation(context, notes).and_then(whole).at("validation_context")?;
            Ok(Secret::Validation(Arc::new(rules)))
        }
        Some(SecretType::SessionTicketKeys(_)) => Err(Reject::field("session_ticket_keys", "not supported yet")),
        Some(SecretType::GenericSecret(_)) => Err(Reject::field("generic_secret", "not supported yet")),
        None => Err(Reject::new("no secret in it")),
    }
}

/// A certificate with its key.
pub(super) fn key_pair(certificate: pb::TlsCertificate) -> Result<KeyPair, Reject> {
    let pb::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        // Read once; a new resource comes with a new certificate.
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = certificate;
    reject_if_set!(pkcs12, watched_directory, private_key_provider, password, signed_certificate_timestamp, tls_params,);
    let file = certificate_chain.as_ref().and_then(file_of);
    let chain = bytes(certificate_chain.ok_or_else(|| Reject::field("certificate_chain", "missing"))?)
        .and_then(|pem| certificates(&pem))
        .at("certificate_chain")?;
    let mut key = bytes(private_key.ok_or_else(|| Reject::field("private_key", "missing"))?)
        .map(Zeroizing::new)
        // What the library finds wrong may be told with a part of the key.
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|_| Reject::new("no private key in PEM")))
        .at("private_key")?;
    let ocsp = ocsp_staple.map(bytes).transpose().at("ocsp_staple")?.map(Vec::into_boxed_slice);
    let usable = usable(&chain, &key);
    let format = match &key {
        PrivateKeyDer::Pkcs1(_) => Ok(PrivateKeyFormat::Pkcs1),
        PrivateKeyDer::Sec1(_) => Ok(PrivateKeyFormat::Sec1),
        PrivateKeyDer::Pkcs8(_) => Ok(PrivateKeyFormat::Pkcs8),
        _ => Err(Reject::field("private_key", "of a kind that is not known")),
    };
    let kept = format.map(|format| PrivateKey::new(format, key.secret_der().to_vec()));
    key.zeroize();
    usable?;
    Ok(KeyPair { chain, key: kept?, ocsp, file })
}

/// Loading it shows that the key is usable and the certificate's, which is the chain's first.
fn usable(chain: &[Box<[u8]>], key: &PrivateKeyDer<'_>) -> Result<(), Reject> {
    let key =
        any_supported_type(key).map_err(|error| Reject::field("private_key", format_args!("not usable: {error}")))?;
    let own = chain.first().map(|der| CertificateDer::from(as_version3(der).into_owned()));
    match CertifiedKey::new(own.into_iter().collect(), key).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Reject::field("private_key", "not the key of the certificate")),
        Err(other) => Err(Reject::field("certificate_chain", format_args!("not usable: {other}"))),
    }
}

/// Rules for the other side's certificate, or a part of them.
pub(super) fn validation(context: pb::CertificateValidationContext, notes: &mut Notes) -> Result<Validation, Reject> {
    let pb::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = context;
    reject_if_set!(
        ca_certificate_provider_instance,
        watched_directory,
        require_signed_certificate_timestamp,
        custom_validator_config,
    );
    // Chains are limited by the library, to six authorities.
    note_if_set!(notes, "CertificateValidationContext": max_verify_depth);
    let file = trusted_ca.as_ref().and_then(file_of);
    let mut authorities = match trusted_ca {
        Some(source) => bytes(source).and_then(|pem| certificates(&pem)).at("trusted_ca")?,
        None => Vec::new(),
    };
    if system_root_certs.is_some() {
        authorities.extend(system_authorities().at("system_root_certs")?);
    }
    for authority in &authorities {
        webpki::anchor_from_trusted_cert(&CertificateDer::from_slice(authority))
            .map_err(|e| Reject::field("trusted_ca", format_args!("a certificate is malformed: {e}")))?;
    }
    let revocations = match crl {
        Some(source) => bytes(source).and_then(|pem| revocations(&pem)).at("crl")?,
        None => Vec::new(),
    };
    let mut names = each("match_typed_subject_alt_names", match_typed_subject_alt_names, |matcher| {
        let pb::SubjectAltNameMatcher { san_type, matcher, oid } = matcher;
        reject_if_set!(oid);
        let kind = match SanType::try_from(san_type) {
            Ok(SanType::Email) => NameKind::Email,
            Ok(SanType::Dns) => NameKind::Dns,
            Ok(SanType::Uri) => NameKind::Uri,
            Ok(SanType::IpAddress) => NameKind::Ip,
            Ok(SanType::OtherName) => return Err(Reject::field("san_type", "OTHER_NAME is not supported yet")),
            Ok(SanType::Unspecified) | Err(_) => return Err(Reject::field("san_type", "missing or not known")),
        };
        let matcher = string(matcher.ok_or_else(|| Reject::field("matcher", "missing"))?).at("matcher")?;
        Ok(NameMatcher { kind: Some(kind), matcher })
    })?;
    names.extend(each("match_subject_alt_names", match_subject_alt_names, |matcher| {
        Ok(NameMatcher { kind: None, matcher: string(matcher)? })
    })?);
    let accept_untrusted = match TrustChainVerification::try_from(trust_chain_verification) {
        Ok(TrustChainVerification::VerifyTrustChain) => false,
        Ok(TrustChainVerification::AcceptUntrusted) => true,
        Err(_) => return Err(Reject::field("trust_chain_verification", "not known")),
    };
    Ok(Validation {
        authorities,
        file,
        names,
        certificate_pins: each("verify_certificate_hash", verify_certificate_hash, |pin| hexadecimal(&pin))?,
        key_pins: each("verify_certificate_spki", verify_certificate_spki, |pin| base64(&pin))?,
        revocations,
        revocation_of_leaf_only: only_verify_leaf_cert_crl,
        allow_expired: allow_expired_certificate,
        accept_untrusted,
        hide_authorities: suppress_client_ca_list,
    })
}

/// Rules that no others are added to.
pub(super) fn whole(rules: Validation) -> Result<Validation, Reject> {
    if !rules.revocations.is_empty() && rules.authorities.is_empty() {
        return Err(Reject::field("crl", "belongs to a trusted_ca, and there is none"));
    }
    Ok(rules)
}

/// The file that a data source names.
fn file_of(source: &DataSource) -> Option<Arc<str>> {
    match &source.specifier {
        Some(Specifier::Filename(path)) => Some(path.as_str().into()),
        _ => None,
    }
}

/// What a data source holds.
fn bytes(source: DataSource) -> Result<Vec<u8>, Reject> {
    // What is watched is said beside the sources that are files.
    let DataSource { watched_directory, specifier } = source;
    reject_if_set!(watched_directory);
    match specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(path)) => {
            read(&path).map_err(|e| Reject::field("filename", format_args!("{path}: {e}")))
        }
        Some(Specifier::EnvironmentVariable(_)) => Err(Reject::field("environment_variable", "not supported")),
        None => Err(Reject::new("empty")),
    }
}

fn read(path: &str) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX_BYTES {
        true => Err(std::io::Error::other("longer than 4 MiB")),
        false => Ok(content),
    }
}

/// Authorities that the system trusts, where distributions keep them.
fn system_authorities() -> Result<Vec<Box<[u8]>>, Reject> {
    const PLACES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let found = PLACES.iter().find_map(|path| read(path).ok());
    certificates(&found.ok_or_else(|| Reject::new("the system keeps no list of authorities"))?)
}

fn certificates(pem: &[u8]) -> Result<Vec<Box<[u8]>>, Reject> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| Reject::new(format_args!("not PEM: {e}")))?;
    if all.is_empty() {
        return Err(Reject::new("no certificate in it"));
    }
    Ok(all.into_iter().map(|der| der.to_vec().into_boxed_slice()).collect())
}

fn revocations(pem: &[u8]) -> Result<Vec<Box<[u8]>>, Reject> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| Reject::new(format_args!("not PEM: {e}")))?;
    if all.is_empty() {
        return Err(Reject::new("no list of revoked certificates in it"));
    }
    for list in &all {
        webpki::BorrowedCertRevocationList::from_der(list).map_err(|e| Reject::new(format_args!("malformed: {e}")))?;
    }
    Ok(all.into_iter().map(|der| der.to_vec().into_boxed_slice()).collect())
}

/// SHA-256 in hexadecimal, with or without colons.
fn hexadecimal(text: &str) -> Result<[u8; 32], Reject> {
    let bad = || Reject::new(format_args!("{text:?} is no SHA-256 in hexadecimal"));
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    let mut hash = [0u8; 32];
    if digits.len() != 64 {
        return Err(bad());
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16).ok_or_else(bad);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| bad())?;
    }
    Ok(hash)
}

/// SHA-256 in base64.
fn base64(text: &str) -> Result<[u8; 32], Reject> {
    use base64::Engine as _;
    let bad = || Reject::new(format_args!("{text:?} is no SHA-256 in base64"));
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| bad())?;
    bytes.try_into().map_err(|_| bad())
}
