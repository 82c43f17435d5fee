//! Certificates that are not the mesh's, as far as anybody judges one: who signed it, for whom, and whether it still holds.
//! Keys and seals have no part.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use lateen_pilot::credentials::{authorities_name, resource_name};
use lateen_traffic::tls::Certificate;

/// A certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Whose it is.
    pub certificate: Arc<Certificate>,
    /// Who signed it.
    pub authority: String,
    /// Its time is over.
    pub expired: bool,
    /// Its authority has taken it back.
    pub revoked: bool,
}

/// What a Secret holds.
#[derive(Debug, Clone, Default)]
pub struct Credential {
    pub certificate: Option<Issued>,
    /// Those whose certificates are taken, and of whom it is known what they took back.
    pub authorities: Vec<String>,
}

/// What proxies of one namespace are told, by the names that TLS contexts have for it.
pub(crate) type Known = HashMap<String, Credential>;

/// What proxies are told, by their namespace.
#[derive(Debug, Default)]
pub struct Credentials(HashMap<String, Rc<Known>>);

impl Credentials {
    /// What a mesh with these Secrets tells; each with its namespace and name.
    pub fn new(secrets: impl IntoIterator<Item = (String, String, Credential)>) -> Credentials {
        let mut known: HashMap<String, Known> = HashMap::new();
        let mut whole = Vec::new();
        for (namespace, name, credential) in secrets {
            whole.push((namespace.clone(), authorities_name(&name), credential.clone()));
            known.entry(namespace).or_default().insert(resource_name(&name), credential);
        }
        // A Secret of authorities alone comes before what another one holds beside its certificate.
        for (namespace, name, credential) in whole {
            known.entry(namespace).or_default().entry(name).or_insert(credential);
        }
        Credentials(known.into_iter().map(|(namespace, known)| (namespace, Rc::new(known))).collect())
    }

    pub(crate) fn of(&self, namespace: &str) -> Rc<Known> {
        self.0.get(namespace).cloned().unwrap_or_default()
    }
}

impl Issued {
    /// Whether one who believes these authorities takes it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn is_taken(&self, authorities: &[String]) -> Result<(), String> {
        if !authorities.contains(&self.authority) {
            return Err(format!("the certificate is of the authority {}, which is not believed", self.authority));
        }
        match (self.expired, self.revoked) {
            (true, _) => Err("the certificate has expired".to_owned()),
            (_, true) => Err("the certificate was taken back".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_of_their_own_come_first() {
        let of = |authority: &str| Credential { certificate: None, authorities: vec![authority.to_owned()] };
        let secret = |name: &str, authority| ("gateways".to_owned(), name.to_owned(), of(authority));
        let told = Credentials::new([secret("a", "beside"), secret("a-cacert", "own"), secret("b", "beside")]);
        let known = told.of("gateways");
        let authorities = |name: &str| known.get(name).map(|credential| credential.authorities.join(","));
        assert_eq!(authorities("kubernetes://a-cacert").as_deref(), Some("own"));
        assert_eq!(authorities("kubernetes://b-cacert").as_deref(), Some("beside"));
        assert_eq!(authorities("kubernetes://c-cacert"), None);
        assert!(told.of("elsewhere").is_empty());
    }
}
