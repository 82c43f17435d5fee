//! What is in a Secret, by Istio's keys or by Kubernetes', and the message it becomes.

use super::names::{AUTHORITIES, Name, Source};
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret as Message, TlsCertificate, secret::Type,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use lateen_galley::{Kind, Object, Snapshot};
use lateen_xds::Resource;
use lateen_xds::convert::{self, Notes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of a certificate: its chain, its private key, a stapled answer of OCSP, if there can be one.
const PAIRS: [(&str, &str, &str); 2] = [("cert", "key", ""), ("tls.crt", "tls.key", "tls.ocsp-staple")];
/// Keys of authorities and of the list of what they revoked.
const ROOTS: [(&str, &str); 2] = [("cacert", "crl"), ("ca.crt", "ca.crl")];

/// A credential.
pub enum Content {
    Certificate { chain: Vec<u8>, key: Vec<u8>, staple: Option<Vec<u8>> },
    Authorities { roots: Vec<u8>, revocations: Option<Vec<u8>> },
}

/// The object that has what is named, and what it has; `None` if there is no such object.
pub fn of<'a>(name: &Name, snapshot: &'a Snapshot) -> Option<(&'a Arc<Object>, Result<Content, String>)> {
    let Name { source, namespace, object: named, authorities } = name;
    let without = named.strip_suffix(AUTHORITIES).unwrap_or(named);
    let find = |kind, name: &str| snapshot.find(kind, namespace, name);
    let object = match source {
        Source::ConfigMap => find(Kind::ConfigMap, without),
        Source::Secret => find(Kind::Secret, named).or_else(|| find(Kind::Secret, without)),
    }?;
    let content = match (object.typed::<Secret>(), object.typed::<ConfigMap>()) {
        (Some(secret), _) => {
            let data = secret.data.iter().flatten().map(|(key, ByteString(bytes))| (key.as_str(), bytes.as_slice()));
            read(&data.collect(), *authorities)
        }
        (None, Some(map)) => {
            let data = map.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes()));
            read(&data.collect(), *authorities)
        }
        (None, None) => return None,
    };
    Some((object, content))
}

fn read(data: &BTreeMap<&str, &[u8]>, authorities: bool) -> Result<Content, String> {
    let value = |key: &str| data.get(key).filter(|value| !value.is_empty()).map(|value| value.to_vec());
    let there = || match data.keys().copied().collect::<Vec<_>>().as_slice() {
        [] => "nothing".to_owned(),
        keys => keys.join(", "),
    };
    if authorities {
        let found = ROOTS.iter().find_map(|(roots, list)| Some((value(roots)?, value(list))));
        return match found {
            Some((roots, revocations)) => Ok(Content::Authorities { roots, revocations }),
            None => Err(format!("it has neither cacert nor ca.crt, but {}", there())),
        };
    }
    let found = PAIRS.iter().find_map(|(chain, key, staple)| Some((value(chain)?, value(key)?, value(staple))));
    match found {
        Some((chain, key, staple)) => Ok(Content::Certificate { chain, key, staple }),
        None => Err(format!("it has neither tls.crt and tls.key nor cert and key, but {}", there())),
    }
}

impl Content {
    /// As a resource of that name, if it is one that a proxy can use.
    pub fn resource(&self, name: &str) -> Result<Resource, String> {
        let message = self.message(name);
        convert::secret(message.clone(), &mut Notes::default()).map_err(|refused| refused.to_string())?;
        Ok(Resource::secret(message))
    }

    fn message(&self, name: &str) -> Message {
        let inline = |bytes: &[u8]| {
            Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..Default::default() })
        };
        let of_type = match self {
            Content::Certificate { chain, key, staple } => Type::TlsCertificate(TlsCertificate {
                certificate_chain: inline(chain),
                private_key: inline(key),
                ocsp_staple: staple.as_deref().and_then(inline),
                ..Default::default()
            }),
            Content::Authorities { roots, revocations } => Type::ValidationContext(CertificateValidationContext {
                trusted_ca: inline(roots),
                crl: revocations.as_deref().and_then(inline),
                ..Default::default()
            }),
        };
        Message { name: name.to_owned(), r#type: Some(of_type) }
    }
}
