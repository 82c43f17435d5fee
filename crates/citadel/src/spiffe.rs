//! Names of workloads: SPIFFE ids as Istio forms them. Source: the SPIFFE ID standard, section 2, and Istio's
//! `pkg/spiffe`.

use std::fmt;
use std::str::FromStr;

/// Longest id, in bytes (SPIFFE ID 2.3).
const MAX_BYTES: usize = 2048;
/// Longest trust domain, in bytes (SPIFFE ID 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: TrustDomain,
    namespace: String,
    service_account: String,
}

/// The part of the world whose names one authority gives: `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// The names of one mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    /// Under which new names are given.
    pub own: TrustDomain,
    /// Under which its workloads have names too: from before, say.
    pub aliases: Vec<TrustDomain>,
}

impl TrustDomains {
    /// Whether names under it are of this mesh's workloads.
    pub fn contain(&self, domain: &TrustDomain) -> bool {
        self.own == *domain || self.aliases.contains(domain)
    }
}

impl From<TrustDomain> for TrustDomains {
    fn from(own: TrustDomain) -> Self {
        Self { own, aliases: Vec::new() }
    }
}

/// What is no name of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The trust domain has other characters than `a-z`, `0-9`, `.`, `-` and `_`, or is empty or too long.
    #[error("{0:?} is no trust domain: lower-case letters, digits, dots, dashes and underscores are allowed")]
    TrustDomain(String),
    /// Not of the form.
    #[error("{0:?} is not spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    Form(String),
}

impl Default for TrustDomain {
    /// Istio's own.
    fn default() -> Self {
        Self("cluster.local".to_owned())
    }
}

impl TrustDomain {
    /// Its name, such as `cluster.local`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_BYTES || !text.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomain(shortened(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Identity {
    /// The identity of a service account.
    ///
    /// # Errors
    /// When a name cannot be a part of a SPIFFE id.
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(SpiffeError::Form(shortened(&form(&trust_domain, namespace, service_account))));
        }
        Ok(Self { trust_domain, namespace: namespace.to_owned(), service_account: service_account.to_owned() })
    }

    /// Whose authority names it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The service account's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account's name.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The same service account, named by another authority.
    pub fn within(&self, trust_domain: TrustDomain) -> Self {
        Self { trust_domain, ..self.clone() }
    }
}

impl FromStr for Identity {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let wrong = || SpiffeError::Form(shortened(text));
        if text.len() > MAX_BYTES {
            return Err(wrong());
        }
        let parts: Vec<&str> = text.strip_prefix("spiffe://").ok_or_else(wrong)?.split('/').collect();
        let &[trust_domain, "ns", namespace, "sa", service_account] = parts.as_slice() else { return Err(wrong()) };
        Self::new(trust_domain.parse()?, namespace, service_account).map_err(|_| wrong())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&form(&self.trust_domain, &self.namespace, &self.service_account))
    }
}

fn form(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

/// SPIFFE ID 2.2: no escapes, no dot segments.
fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}

/// For messages: a peer's text may be long.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_written() {
        let text = "spiffe://cluster.local/ns/shop/sa/web-1";
        let identity: Identity = text.parse().unwrap();
        assert_eq!((identity.namespace(), identity.service_account()), ("shop", "web-1"));
        assert_eq!(identity.to_string(), text);
        assert_eq!(
            identity.within("old.example".parse().unwrap()).to_string(),
            "spiffe://old.example/ns/shop/sa/web-1"
        );
    }

    #[test]
    fn what_could_be_taken_for_another_identity_is_none() {
        for text in [
            "",
            "spiffe://",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/ns/a/sa/..",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a%2f/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:1/ns/a/sa/b",
            "spiffe://u@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b\0",
            "spiffe://cluster.local/sa/b/ns/a",
            "spiffe://cluster.local",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
        let long = format!("spiffe://a/ns/{}/sa/b", "x".repeat(3000));
        let error = long.parse::<Identity>().unwrap_err();
        assert!(error.to_string().len() < 400);
    }
}
