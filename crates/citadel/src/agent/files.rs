//! Secrets in files of the pod, by the names Istio gives them (`security/pkg/credentials`, `pilot/pkg/security/model`):
//! `file-cert:CERTIFICATE~KEY` and `file-root:ROOTS`; `file-root:system` are the roots of the system. And what Istio has no
//! name for, the roots with lists of what they revoked: `file-root:ROOTS~LISTS`.

use std::io;
use std::path::Path;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use zeroize::Zeroizing;

use super::secrets::inline;
use crate::certificate::{self, CertificateError};
use crate::key::{Key, KeyError};

const CERTIFICATE: &str = "file-cert:";
const ROOTS: &str = "file-root:";
const SYSTEM: &str = "system";
/// Where systems have their roots: Debian and most others, Fedora and its kin, Alpine.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Longer files are none of these.
const MAX_BYTES: u64 = 4 << 20;

/// Why a secret cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the name is not {CERTIFICATE}CERTIFICATE~KEY with two paths")]
    Name,
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0}: {1}")]
    Certificate(String, CertificateError),
    #[error("{0}: {1}")]
    Key(String, KeyError),
    #[error("{0} is not the key of {1}")]
    OtherKey(String, String),
}

/// Whether a secret of this name is in files.
pub fn is_file(name: &str) -> bool {
    name.starts_with(CERTIFICATE) || name.starts_with(ROOTS)
}

/// Reads a secret. A certificate and a key that do not belong together (one of them was replaced, the other not yet) are
/// not told.
pub async fn read(name: &str) -> Result<Secret, FileError> {
    let r#type = match name.strip_prefix(CERTIFICATE) {
        Some(paths) => certificate(paths).await?,
        None => roots(name.strip_prefix(ROOTS).unwrap_or_default()).await?,
    };
    Ok(Secret { name: name.to_owned(), r#type: Some(r#type) })
}

async fn certificate(paths: &str) -> Result<secret::Type, FileError> {
    let (certificate_path, key_path) = paths.split_once('~').ok_or(FileError::Name)?;
    let (chain, key) = (text(certificate_path).await?, text(key_path).await?);
    let broken = |error| FileError::Certificate(certificate_path.to_owned(), error);
    let read = certificate::read_pem(&chain).map_err(broken)?;
    let facts = certificate::Facts::read(&read[0]).map_err(broken)?;
    let parsed = Key::from_pem(&key).map_err(|error| FileError::Key(key_path.to_owned(), error))?;
    if parsed.public() != facts.public_key {
        return Err(FileError::OtherKey(key_path.to_owned(), certificate_path.to_owned()));
    }
    Ok(secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(chain.as_bytes().to_vec())),
        private_key: Some(inline(key.as_bytes().to_vec())),
        ..TlsCertificate::default()
    }))
}

async fn roots(paths: &str) -> Result<secret::Type, FileError> {
    let (path, lists) = paths.split_once('~').map_or((paths, None), |(path, lists)| (path, Some(lists)));
    let path = if path == SYSTEM { system_roots() } else { Path::new(path) };
    let path = &path.display().to_string();
    let roots = text(path).await?;
    certificate::read_roots(&roots).map_err(|error| FileError::Certificate(path.to_owned(), error))?;
    let crl = match lists {
        Some(path) => {
            let lists = text(path).await?;
            certificate::revocations(&lists).map_err(|error| FileError::Certificate(path.to_owned(), error))?;
            Some(inline(lists.as_bytes().to_vec()))
        }
        None => None,
    };
    Ok(secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(roots.as_bytes().to_vec())),
        crl,
        ..CertificateValidationContext::default()
    }))
}

/// Where this system has its roots.
pub(crate) fn system_roots() -> &'static Path {
    Path::new(SYSTEM_ROOTS.into_iter().find(|path| Path::new(path).exists()).unwrap_or(SYSTEM_ROOTS[0]))
}

async fn text(path: &str) -> Result<Zeroizing<String>, FileError> {
    let failed = |error| FileError::Io(path.to_owned(), error);
    if tokio::fs::metadata(path).await.map_err(failed)?.len() > MAX_BYTES {
        return Err(failed(io::Error::other(format!("more than {MAX_BYTES} bytes"))));
    }
    tokio::fs::read_to_string(path).await.map(Zeroizing::new).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::authority::Issuer;
    use crate::key::KeyType;

    #[tokio::test]
    async fn files_are_read_by_their_names_and_proven() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let domain = "cluster.local".parse().unwrap();
        let issuer = || {
            Issuer::self_signed(&domain, KeyType::EcdsaP256, Duration::from_secs(60), SystemTime::now())
                .unwrap()
                .to_files()
        };
        let (one, other) = (issuer(), issuer());
        std::fs::write(path("cert.pem"), &one.certificate).unwrap();
        std::fs::write(path("key.pem"), &*one.key).unwrap();
        std::fs::write(path("other.pem"), &*other.key).unwrap();
        let name = |key: &str| format!("file-cert:{}~{}", path("cert.pem"), path(key));
        let secret = read(&name("key.pem")).await.unwrap();
        assert_eq!(secret.name, name("key.pem"));
        assert!(matches!(secret.r#type, Some(secret::Type::TlsCertificate(_))));
        assert!(matches!(read(&name("other.pem")).await, Err(FileError::OtherKey(..))));
        assert!(matches!(read(&name("none.pem")).await, Err(FileError::Io(..))));
        assert!(matches!(read("file-cert:one").await, Err(FileError::Name)));
        let roots = read(&format!("file-root:{}", path("cert.pem"))).await.unwrap();
        assert!(matches!(roots.r#type, Some(secret::Type::ValidationContext(_))));
        assert!(read(&format!("file-root:{}", path("key.pem"))).await.is_err());
        assert!(is_file("file-root:system") && !is_file("default"));
    }
}
