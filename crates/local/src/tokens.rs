//! Service-account tokens, as Kubernetes issues and reviews them: JSON web tokens for an audience, bound to a pod, of
//! short life. The key is made at each start and is never written anywhere: what was issued before is worth nothing.
//!
//! Claims are those of Kubernetes' bound tokens (`iss`, `sub`, `aud`, `exp`, `nbf`, `iat`, `jti`, `kubernetes.io`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use lateen_galley::{Kind, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who issues, and for whom if nobody is named: the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Lives asked for are brought within these (Kubernetes: at least ten minutes).
const LIFE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(24 * 3600));
/// A clock may be this far behind.
const LEEWAY_SECONDS: u64 = 5;
/// Longest token that is looked at, in bytes.
const MAX_BYTES: usize = 16 << 10;

/// Issues and reviews tokens; clones share the key.
#[derive(Clone)]
pub struct Tokens {
    keys: Arc<Keys>,
}

struct Keys {
    id: String,
    /// The point's coordinates, base64url.
    x: String,
    y: String,
    sign: EncodingKey,
    verify: DecodingKey,
}

/// The system has no key to give.
#[derive(Debug, thiserror::Error)]
#[error("no key for service-account tokens can be made")]
pub struct NoKey;

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(rename = "serviceaccount")]
    pub service_account: Named,
    /// The pod it was issued to, with which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
}

/// An object by name, and by uid so that a later one of the same name is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub uid: String,
}

/// A new token.
#[derive(Clone)]
pub struct Issued {
    pub token: String,
    /// Seconds since 1970.
    pub expires: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    bound: Bound,
}

/// A token that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Reviewed {
    pub bound: Bound,
    /// Which of the audiences asked for it is meant for.
    pub audiences: Vec<String>,
}

impl Bound {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account.name)
    }

    /// Whether the objects it is bound to are still there.
    fn holds(&self, snapshot: &Snapshot) -> Result<(), String> {
        let there = |kind, named: &Named| {
            let found = snapshot.find(kind, &self.namespace, &named.name);
            match found.is_some_and(|object| object.uid() == named.uid) {
                true => Ok(()),
                false => Err(format!("{} {}/{} is gone", kind.info().name, self.namespace, named.name)),
            }
        };
        there(Kind::ServiceAccount, &self.service_account)?;
        self.pod.as_ref().map_or(Ok(()), |pod| there(Kind::Pod, pod))
    }
}

impl Tokens {
    /// An issuer with a new key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> Result<Self, NoKey> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| NoKey)?;
        let private = pair.to_pkcs8v1().map_err(|_| NoKey)?;
        // An uncompressed point: 4, x, y.
        let public = pair.public_key().as_ref();
        let coordinates = public.get(1..).filter(|both| both.len() == 64).ok_or(NoKey)?;
        let (x, y) = coordinates.split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let spki = pair.public_key().as_der().map_err(|_| NoKey)?;
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, spki.as_ref()));
        let keys = Keys {
            id,
            verify: DecodingKey::from_ec_components(&x, &y).map_err(|_| NoKey)?,
            sign: EncodingKey::from_ec_der(private.as_ref()),
            x,
            y,
        };
        Ok(Self { keys: Arc::new(keys) })
    }

    /// A token for these audiences, for the API itself if there are none.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue(
        &self,
        bound: Bound,
        audiences: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, jsonwebtoken::errors::Error> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let expires = now + life.clamp(LIFE.0, LIFE.1).as_secs();
        let aud = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences.to_vec() };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: bound.user(),
            aud,
            exp: expires,
            nbf: now,
            iat: now,
            jti: format!("{:032x}", rand::random::<u128>()),
            bound,
        };
        let header = Header { kid: Some(self.keys.id.clone()), ..Header::new(Algorithm::ES256) };
        Ok(Issued { token: jsonwebtoken::encode(&header, &claims, &self.keys.sign)?, expires })
    }

    /// Whose token it is, if it holds: signed here, within its time, for one of the audiences (the API itself if there
    /// are none), of a service account and a pod that exist.
    ///
    /// # Errors
    /// Why it is not accepted, in words.
    pub fn review(&self, token: &str, audiences: &[String], snapshot: &Snapshot) -> Result<Reviewed, String> {
        if token.len() > MAX_BYTES {
            return Err(format!("the token has more than {MAX_BYTES} bytes"));
        }
        let own = [ISSUER.to_owned()];
        let wanted = if audiences.is_empty() { &own } else { audiences };
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(wanted);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let read = jsonwebtoken::decode::<Claims>(token, &self.keys.verify, &validation);
        let claims = read.map_err(|error| format!("invalid bearer token: {error}"))?.claims;
        if claims.sub != claims.bound.user() {
            return Err("the token's subject is not its service account".to_owned());
        }
        claims.bound.holds(snapshot)?;
        let audiences = wanted.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        Ok(Reviewed { bound: claims.bound, audiences })
    }

    /// The public keys (RFC 7517), for whoever checks tokens without asking.
    pub fn jwks(&self) -> Value {
        let Keys { id, x, y, .. } = &*self.keys;
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id, "x": x, "y": y}]})
    }

    /// Where the keys are, and what they are for (OpenID Connect Discovery 1.0).
    pub fn configuration() -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued {{ expires: {} }}", self.expires)
    }
}

#[cfg(test)]
mod tests {
    use lateen_galley::Object;

    use super::*;

    fn bound() -> Bound {
        let named = |name: &str, uid: &str| Named { name: name.to_owned(), uid: uid.to_owned() };
        Bound { namespace: "shop".to_owned(), service_account: named("web", "1"), pod: Some(named("web-1", "2")) }
    }

    fn snapshot(pod: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "web", "namespace": "shop", "uid": "1"}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
            "metadata": {"name": "web-1", "namespace": "shop", "uid": pod}});
        for object in [account, pod] {
            snapshot.insert(Arc::new(Object::decode(object).unwrap()));
        }
        snapshot
    }

    fn audience(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    fn issued(tokens: &Tokens, now: SystemTime) -> String {
        tokens.issue(bound(), &audience("istio-ca"), Duration::from_secs(600), now).unwrap().token
    }

    #[test]
    fn a_token_is_reviewed_as_it_was_issued() {
        let tokens = Tokens::new().unwrap();
        let token = issued(&tokens, SystemTime::now());
        let reviewed = tokens.review(&token, &["other".to_owned(), "istio-ca".to_owned()], &snapshot("2")).unwrap();
        assert_eq!(reviewed, Reviewed { bound: bound(), audiences: audience("istio-ca") });
        assert_eq!(reviewed.bound.user(), "system:serviceaccount:shop:web");
        assert!(!format!("{tokens:?}").contains("key"));
    }

    #[test]
    fn what_is_forged_late_early_or_for_others_is_refused() {
        let (tokens, forger) = (Tokens::new().unwrap(), Tokens::new().unwrap());
        let now = SystemTime::now();
        let refused = |token: &str, name: &str| tokens.review(token, &audience(name), &snapshot("2")).unwrap_err();
        assert!(refused(&issued(&forger, now), "istio-ca").contains("InvalidSignature"));
        assert!(refused(&issued(&tokens, now - Duration::from_secs(700)), "istio-ca").contains("ExpiredSignature"));
        assert!(refused(&issued(&tokens, now + Duration::from_secs(60)), "istio-ca").contains("ImmatureSignature"));
        assert!(refused(&issued(&tokens, now), "vault").contains("InvalidAudience"));
        assert!(tokens.review(&issued(&tokens, now), &[], &snapshot("2")).is_err());
        for damaged in ["", "a.b.c", "..", "\0", &"x".repeat(1 << 20)] {
            refused(damaged, "istio-ca");
        }
        // Signed by nothing, with the payload of one that is.
        let good = issued(&tokens, now);
        let parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        refused(&format!("{none}.{}.", parts[1]), "istio-ca");
        // The public key as the secret of a symmetric algorithm.
        let header = Header::new(Algorithm::HS256);
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let secret = EncodingKey::from_secret(tokens.keys.x.as_bytes());
        refused(&jsonwebtoken::encode(&header, &claims, &secret).unwrap(), "istio-ca");
    }

    #[test]
    fn a_token_ends_with_its_pod() {
        let tokens = Tokens::new().unwrap();
        let token = issued(&tokens, SystemTime::now());
        let error = tokens.review(&token, &audience("istio-ca"), &snapshot("3")).unwrap_err();
        assert_eq!(error, "Pod shop/web-1 is gone");
        assert!(tokens.review(&token, &audience("istio-ca"), &Snapshot::default()).is_err());
    }

    #[test]
    fn lives_are_brought_within_limits() {
        let tokens = Tokens::new().unwrap();
        let life = |asked| {
            let issued = tokens.issue(bound(), &[], Duration::from_secs(asked), SystemTime::UNIX_EPOCH).unwrap();
            issued.expires
        };
        assert_eq!((life(0), life(3600), life(u64::MAX)), (600, 3600, 86400));
    }

    #[test]
    fn the_published_key_verifies() {
        let tokens = Tokens::new().unwrap();
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(tokens.jwks()).unwrap();
        let token = issued(&tokens, SystemTime::now());
        let id = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(set.find(&id).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["istio-ca"]);
        jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
    }
}
