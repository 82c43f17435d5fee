//! Private keys: made here, or read from a file; overwritten in memory when they are let go of.

use rcgen::{KeyPair, PublicKeyData, RsaKeySize};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

/// What new keys are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA over P-256: small and quick.
    #[default]
    EcdsaP256,
    /// RSA of 2048 bits, for peers that know nothing else.
    Rsa2048,
}

/// A key that cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No PEM with a private key (PKCS #8, PKCS #1 or SEC1) in it.
    #[error("no private key is found in the PEM text")]
    NotPem,
    /// A kind of key that nothing here signs with, or not a key at all.
    #[error("the private key cannot be used: {0}")]
    Unusable(rcgen::Error),
    /// The system gives no random numbers, say.
    #[error("no key can be made: {0}")]
    NotMade(rcgen::Error),
}

/// A private key and its public half.
pub struct Key(KeyPair);

impl Key {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(kind: KeyType) -> Result<Self, KeyError> {
        let made = match kind {
            KeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        made.map(Self).map_err(KeyError::NotMade)
    }

    /// The first private key in a PEM text.
    ///
    /// # Errors
    /// When there is none, or none that can sign.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NotPem)?;
        let pair = KeyPair::try_from(&der).map_err(KeyError::Unusable);
        wipe(der);
        pair.map(Self)
    }

    /// PKCS #8 or, for a key that was read in another form, that form, in PEM.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// For a TLS stack.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialized_der().to_vec()))
    }

    /// The public half as certificates carry it (`SubjectPublicKeyInfo`).
    pub fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

fn wipe(der: PrivateKeyDer<'static>) {
    match der {
        PrivateKeyDer::Pkcs1(mut key) => key.zeroize(),
        PrivateKeyDer::Sec1(mut key) => key.zeroize(),
        PrivateKeyDer::Pkcs8(mut key) => key.zeroize(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Files;

    #[test]
    fn keys_survive_their_file_and_do_not_show_themselves() {
        for kind in [KeyType::EcdsaP256, KeyType::Rsa2048] {
            let key = Key::generate(kind).unwrap();
            let again = Key::from_pem(&key.to_pem()).unwrap();
            assert_eq!(key.public(), again.public(), "{kind:?}");
            assert_eq!(format!("{key:?}"), "Key(..)");
            let files = Files { key: key.to_pem(), root: "a root".to_owned(), ..Files::default() };
            let shown = format!("{files:?}");
            assert!(shown.contains("a root") && !shown.contains("PRIVATE KEY"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(Key::from_pem("no key"), Err(KeyError::NotPem)));
        let empty = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(Key::from_pem(empty), Err(KeyError::Unusable(_))));
    }
}
