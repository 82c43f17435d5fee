//! Key sets (RFC 7517) and signatures (RFC 7518 section 3, RFC 8037).
//!
//! A key serves the algorithms of its own kind alone: a token cannot have a public RSA key taken for a shared secret.

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use aws_lc_rs::{constant_time, hmac};

use super::Refusal;
use super::token::{Token, base64url, json};
use super::verified::{Mark, Verified};
use crate::metadata::Value;

/// More keys than this are more than a set has.
const MOST_KEYS: usize = 256;

macro_rules! algorithms {
    ($($name:ident = $text:literal,)*) => {
        /// How a token is signed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Algorithm {
            $($name,)*
        }

        impl Algorithm {
            pub(super) fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

algorithms! {
    Rs256 = "RS256",
    Rs384 = "RS384",
    Rs512 = "RS512",
    Ps256 = "PS256",
    Ps384 = "PS384",
    Ps512 = "PS512",
    Es256 = "ES256",
    Es384 = "ES384",
    Es512 = "ES512",
    Hs256 = "HS256",
    Hs384 = "HS384",
    Hs512 = "HS512",
    EdDsa = "EdDSA",
}

/// Keys that verify signatures.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    verified: Verified,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    // The one it is for, if it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point, and the algorithm of its curve.
    Ec(Vec<u8>, Algorithm),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "Rsa",
            Self::Ec(..) => "Ec",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "Secret",
        })
    }
}

/// Why a text is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is no JSON object with `keys`.
    #[error("is no JSON Web Key Set")]
    NotASet,
    /// None of its keys can be used.
    #[error("has no key that can be used")]
    NoKeys,
}

impl KeySet {
    /// Reads a key set. Keys of other kinds than those known, and broken ones, are passed over (RFC 7517 section 5).
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        let set = json(text.as_bytes()).ok_or(KeySetError::NotASet)?;
        let Some(Value::List(keys)) = set.member("keys") else { return Err(KeySetError::NotASet) };
        let keys: Vec<Key> = keys.iter().take(MOST_KEYS).filter_map(Key::read).collect();
        if keys.is_empty() { Err(KeySetError::NoKeys) } else { Ok(Self { keys, verified: Verified::default() }) }
    }

    /// Whether one of the keys signed a token.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Refusal> {
        let mark = Mark::of(&token.signed, &token.signature);
        if self.verified.knows(mark) {
            return Ok(());
        }
        let mut candidate = false;
        for key in &self.keys {
            let other_id = token.key_id.is_some() && key.id.is_some() && key.id != token.key_id;
            if other_id || key.algorithm.is_some_and(|algorithm| algorithm != token.algorithm) {
                continue;
            }
            candidate = true;
            if matches!(key.material, Material::Ed25519(_)) && token.signature.len() != 64 {
                return Err(Refusal::Ed25519Length);
            }
            if key.material.signed(token) {
                self.verified.remember(mark);
                return Ok(());
            }
        }
        Err(if candidate { Refusal::VerificationFails } else { Refusal::NoSuchKey })
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.member(name).and_then(Value::as_text);
        let bytes = |name: &str| base64url(text(name)?).filter(|bytes| !bytes.is_empty());
        let named = text("alg").filter(|name| !name.is_empty());
        let algorithm = match named {
            Some(name) => Some(Algorithm::from_name(name)?),
            None => None,
        };
        use Algorithm::*;
        let (material, fits) = match text("kty")? {
            "RSA" => {
                let trimmed = |name| bytes(name).map(without_leading_zeros);
                let material = Material::Rsa(RsaPublicKeyComponents { n: trimmed("n")?, e: trimmed("e")? });
                let fits = !matches!(algorithm, Some(Es256 | Es384 | Es512 | Hs256 | Hs384 | Hs512 | EdDsa));
                return fits.then(|| Self { id: text("kid").map(str::to_owned), algorithm, material });
            }
            "EC" => {
                let (of_curve, length) = match text("crv") {
                    Some("P-256") => (Es256, 32),
                    Some("P-384") => (Es384, 48),
                    Some("P-521") => (Es512, 66),
                    Some(_) => return None,
                    None => match algorithm {
                        Some(Es384) => (Es384, 48),
                        Some(Es512) => (Es512, 66),
                        _ => (Es256, 32),
                    },
                };
                let mut point = vec![4];
                for coordinate in ["x", "y"] {
                    let bytes = without_leading_zeros(bytes(coordinate)?);
                    point.extend(std::iter::repeat_n(0, usize::checked_sub(length, bytes.len())?));
                    point.extend(bytes);
                }
                (Material::Ec(point, of_curve), of_curve)
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                (Material::Ed25519(bytes("x").filter(|bytes| bytes.len() == 32)?), EdDsa)
            }
            "oct" => {
                if !matches!(algorithm, None | Some(Hs256 | Hs384 | Hs512)) {
                    return None;
                }
                let material = Material::Secret(bytes("k")?);
                return Some(Self { id: text("kid").map(str::to_owned), algorithm, material });
            }
            _ => return None,
        };
        let same = algorithm.is_none_or(|algorithm| algorithm == fits);
        same.then(|| Self { id: text("kid").map(str::to_owned), algorithm, material })
    }
}

fn without_leading_zeros(bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[zeros..].to_vec()
}

impl Material {
    fn signed(&self, token: &Token) -> bool {
        use Algorithm::*;
        let (message, proof) = (token.signed.as_bytes(), &token.signature);
        match (self, token.algorithm) {
            (Self::Rsa(key), algorithm) => {
                let parameters = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                key.verify(parameters, message, proof).is_ok()
            }
            (Self::Ec(point, of_curve), algorithm) if *of_curve == algorithm => {
                let parameters = match algorithm {
                    Es256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => &signature::ECDSA_P521_SHA512_FIXED,
                };
                UnparsedPublicKey::new(parameters, point).verify(message, proof).is_ok()
            }
            (Self::Ed25519(key), EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, proof).is_ok()
            }
            (Self::Secret(secret), algorithm) => {
                let hash = match algorithm {
                    Hs256 => hmac::HMAC_SHA256,
                    Hs384 => hmac::HMAC_SHA384,
                    Hs512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                let expected = hmac::sign(&hmac::Key::new(hash, secret), message);
                constant_time::verify_slices_are_equal(expected.as_ref(), proof).is_ok()
            }
            _ => false,
        }
    }
}
