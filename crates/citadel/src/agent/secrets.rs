//! The workload's secrets as Envoy's SDS tells them: `default`, its certificate and key, and `ROOTCA`, the roots. Told
//! anew whenever one changes.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use lateen_xds::ads::server::{AdsService, Connection, Discovery, Peer, StreamStatus};
use lateen_xds::{Resource, ResourceSet, ResourceType};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

use super::keeper::{Held, Svid};
use super::roots::Roots;
use crate::certificate;

/// The workload's own certificate.
const OWN: &str = "default";
/// The roots its peers are verified by.
const ROOTS: &str = "ROOTCA";

/// What there is to tell.
pub type Told = watch::Receiver<Arc<ResourceSet>>;

/// Makes secrets of certificate and roots as they change.
pub fn follow(mut roots: Roots, mut svid: Held) -> Told {
    let (sender, told) = watch::channel(Arc::new(ResourceSet::new("")));
    tokio::spawn(async move {
        for number in 1_u64.. {
            let own = svid.borrow_and_update().clone();
            let bundle = Arc::clone(&roots.borrow_and_update());
            let mut trusted = bundle.to_vec();
            // The authority's word is as good as the file's, and may come sooner.
            let more = own.iter().flat_map(|svid| &svid.roots);
            more.for_each(|root| {
                if !trusted.contains(root) {
                    trusted.push(root.clone());
                }
            });
            let trusted = (!trusted.is_empty()).then(|| of_roots(&certificate::to_pem(&trusted)));
            let secrets = own.as_deref().map(of_svid).into_iter().chain(trusted);
            let set = ResourceSet::new(number.to_string()).with(ResourceType::Secret, secrets);
            sender.send_replace(Arc::new(set));
            tokio::select! {
                changed = svid.changed() => if changed.is_err() { return },
                changed = roots.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    told
}

fn of_svid(svid: &Svid) -> Resource {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(certificate::to_pem(&svid.chain).into_bytes())),
        private_key: Some(inline(svid.key.to_pem().as_bytes().to_vec())),
        ..TlsCertificate::default()
    };
    let r#type = Some(secret::Type::TlsCertificate(certificate));
    Resource::new(OWN, &Secret { name: OWN.to_owned(), r#type })
}

fn of_roots(pem: &str) -> Resource {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(pem.as_bytes().to_vec())),
        ..CertificateValidationContext::default()
    };
    let r#type = Some(secret::Type::ValidationContext(context));
    Resource::new(ROOTS, &Secret { name: ROOTS.to_owned(), r#type })
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..DataSource::default() }
}

/// Serves SDS, both protocols, for ever. Whoever can open the socket is told the key.
///
/// # Errors
/// When the socket cannot be listened at any more.
pub async fn serve(listener: UnixListener, told: Told) -> Result<(), tonic::transport::Error> {
    let service = AdsService::new(Arc::new(Everyone { told }));
    tonic::transport::Server::builder()
        .add_service(service.into_secret_server())
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
}

/// Tells everyone the same.
struct Everyone {
    told: Told,
}

impl Discovery for Everyone {
    fn connect(&self, _: &Node, _: &Peer) -> Result<Connection, Status> {
        let (status, _) = watch::channel(StreamStatus::default());
        Ok(Connection { resources: self.told.clone(), status })
    }
}
