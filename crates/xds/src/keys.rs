//! Private keys inside secrets' messages: where they are, and how they are overwritten in memory before they are let go of.
//!
//! What decodes and encodes messages (prost, tonic, h2) has buffers of its own, which are freed as they are.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use zeroize::Zeroize as _;

/// Overwrites what is secret in a message, and says this in its place. Names of files stay.
pub(crate) fn overwrite(secret: &mut Secret, instead: &str) {
    if let Some(Type::TlsCertificate(pair)) = &mut secret.r#type {
        for source in [&mut pair.private_key, &mut pair.password, &mut pair.pkcs12].into_iter().flatten() {
            overwrite_source(source, instead);
        }
    }
}

fn overwrite_source(source: &mut DataSource, instead: &str) {
    match &mut source.specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes.zeroize(),
        Some(Specifier::InlineString(text)) => text.zeroize(),
        _ => return,
    }
    source.specifier = Some(Specifier::InlineString(instead.to_owned()));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message as _;

    use super::*;
    use crate::state::{Received, Update};
    use crate::{Resource, ResourceSet, ResourceType};

    const KEY: &str = "a private key";

    fn secret() -> Secret {
        let inline = |bytes: &str| {
            Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.into())), ..Default::default() })
        };
        let file = DataSource { specifier: Some(Specifier::Filename("/a/password".to_owned())), ..Default::default() };
        let pair = TlsCertificate {
            certificate_chain: inline("a certificate"),
            private_key: inline(KEY),
            password: Some(file),
            ..Default::default()
        };
        Secret { name: "own".to_owned(), r#type: Some(Type::TlsCertificate(pair)) }
    }

    fn update() -> Update {
        let body = Any { type_url: ResourceType::Secret.url().to_owned(), value: secret().encode_to_vec() };
        let received = Received { name: "own".into(), version: "1".into(), body };
        let nonce = Arc::from("1");
        Update {
            r#type: ResourceType::Secret,
            version: "1".into(),
            nonce,
            resources: vec![received],
            removed: Vec::new(),
        }
    }

    #[test]
    fn keys_are_overwritten_and_nothing_else() {
        let mut secret = secret();
        overwrite(&mut secret, "[redacted]");
        let Some(Type::TlsCertificate(pair)) = secret.r#type else { panic!() };
        let said = |source: Option<DataSource>| match source.unwrap().specifier.unwrap() {
            Specifier::InlineString(text) | Specifier::Filename(text) => text,
            other => format!("{other:?}"),
        };
        assert_eq!((said(pair.private_key), said(pair.password)), ("[redacted]".to_owned(), "/a/password".to_owned()));
        assert!(said(pair.certificate_chain).contains("InlineBytes"));
        let mut update = update();
        update.overwrite_secrets();
        assert!(update.resources[0].body.value.is_empty());
    }

    #[test]
    fn what_holds_a_secret_does_not_show_it() {
        let resource = Resource::secret(secret());
        assert_eq!(Secret::decode(resource.body().clone()).unwrap(), secret());
        assert_eq!(resource.version(), Resource::new("own", &secret()).version());
        let set = ResourceSet::new("1").with(ResourceType::Secret, [resource.clone()]);
        for shown in [format!("{resource:?}"), format!("{set:?}"), format!("{:?}", update())] {
            assert!(shown.contains("own"), "{shown}");
            let bytes = format!("{:?}", KEY.as_bytes());
            assert!(!shown.contains(KEY) && !shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
        }
    }
}
