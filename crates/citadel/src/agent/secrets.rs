//! The workload's secrets as Envoy's SDS tells them: `default`, its certificate and key, `ROOTCA`, the roots, and
//! whatever files are asked for by name. Told anew whenever one changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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

use super::keeper::{Held, Svid, trusted};
use super::{Roots, files};
use crate::certificate;

/// The workload's own certificate.
const OWN: &str = "default";
/// The roots its peers are verified by.
const ROOTS: &str = "ROOTCA";

/// What there is to tell.
pub type Told = watch::Receiver<Arc<ResourceSet>>;

/// Makes secrets of certificate and roots as they change.
pub fn follow(
    mut roots: watch::Receiver<Roots>,
    mut federated: watch::Receiver<Roots>,
    mut revoked: watch::Receiver<Option<Arc<str>>>,
    mut svid: Held,
) -> Told {
    let (sender, told) = watch::channel(Arc::new(ResourceSet::new("")));
    tokio::spawn(async move {
        for number in 1_u64.. {
            let own = svid.borrow_and_update().clone();
            let bundle = Arc::clone(&roots.borrow_and_update());
            let mut trusted = trusted(&bundle, own.as_deref());
            trusted.extend(federated.borrow_and_update().iter().cloned());
            let revoked_now = revoked.borrow_and_update().clone();
            let trusted =
                (!trusted.is_empty()).then(|| of_roots(&certificate::to_pem(&trusted), revoked_now.as_deref()));
            let secrets = own.as_deref().map(of_svid).into_iter().chain(trusted);
            let set = ResourceSet::new(number.to_string()).with(ResourceType::Secret, secrets);
            sender.send_replace(Arc::new(set));
            tokio::select! {
                changed = svid.changed() => if changed.is_err() { return },
                changed = roots.changed() => if changed.is_err() { return },
                changed = federated.changed() => if changed.is_err() { return },
                changed = revoked.changed() => if changed.is_err() { return },
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
    Resource::secret(Secret { name: OWN.to_owned(), r#type })
}

fn of_roots(pem: &str, revoked: Option<&str>) -> Resource {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(pem.as_bytes().to_vec())),
        crl: revoked.map(|pem| inline(pem.as_bytes().to_vec())),
        // There need not be a list of every authority on the way to the root: workloads' certificates are short-lived.
        only_verify_leaf_cert_crl: revoked.is_some(),
        ..CertificateValidationContext::default()
    };
    let r#type = Some(secret::Type::ValidationContext(context));
    Resource::secret(Secret { name: ROOTS.to_owned(), r#type })
}

pub(super) fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..DataSource::default() }
}

/// Serves SDS, both protocols, for ever. Whoever can open the socket is told the key.
///
/// # Errors
/// When the socket cannot be listened at any more.
pub async fn serve(listener: UnixListener, mut told: Told) -> Result<(), tonic::transport::Error> {
    // Until there is a certificate, proxies wait in the listener's queue: to say that there is none would be an answer,
    // and Envoy refuses it.
    let _ = told.wait_for(|set| set.get(&ResourceType::Secret, OWN).is_some()).await;
    let service = AdsService::new(Arc::new(Everyone { told }));
    tonic::transport::Server::builder()
        .add_service(service.into_secret_server())
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
}

/// How often the files of secrets are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Tells one client what all are told, and the files it asks for, as they change.
async fn complete(mut told: Told, mut asked: watch::Receiver<StreamStatus>, sender: watch::Sender<Arc<ResourceSet>>) {
    let mut seen: BTreeMap<Arc<str>, Resource> = BTreeMap::new();
    loop {
        let base = Arc::clone(&told.borrow_and_update());
        let mut names = asked.borrow_and_update().secrets.clone();
        names.retain(|name| files::is_file(name));
        seen.retain(|name, _| names.contains(name));
        for name in &names {
            match files::read(name).await {
                Ok(secret) => drop(seen.insert(Arc::clone(name), Resource::secret(secret))),
                // One that was good stays.
                Err(error) => tracing::warn!(name = &**name, %error, "a secret's files cannot be read"),
            }
        }
        let all = base.of_type(&ResourceType::Secret).chain(seen.values()).cloned().collect::<Vec<_>>();
        let set = base.as_ref().clone().with(ResourceType::Secret, all);
        sender.send_if_modified(|now| {
            let versions = |set: &ResourceSet| -> Vec<_> {
                set.of_type(&ResourceType::Secret).map(|one| (Arc::clone(one.name()), one.version())).collect()
            };
            let changed = versions(now) != versions(&set);
            if changed {
                *now = Arc::new(set);
            }
            changed
        });
        let look =
            async { if names.is_empty() { std::future::pending().await } else { tokio::time::sleep(LOOK).await } };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            changed = asked.changed() => if changed.is_err() { return },
            () = look => {}
        }
    }
}

/// Tells everyone the same, but for files.
struct Everyone {
    told: Told,
}

impl Discovery for Everyone {
    fn connect(&self, _: &Node, _: &Peer) -> Result<Connection, Status> {
        let (status, asked) = watch::channel(StreamStatus::default());
        let (sender, resources) = watch::channel(Arc::clone(&self.told.borrow()));
        tokio::spawn(complete(self.told.clone(), asked, sender));
        Ok(Connection { resources, status })
    }
}
