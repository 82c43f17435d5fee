//! The certificate authority's wiring: where it is kept, who tells whose a token is, how a brought issuer (the Secret
//! `cacerts`) and the mesh's names reach it, and how roots reach every namespace (the ConfigMaps `istio-ca-root-cert`
//! and `istio-ca-crl`), all as in Istio.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_citadel::agent::watched;
use lateen_citadel::authority::{Files, Settings};
use lateen_citadel::certificate;
use lateen_citadel::serve::{AUDIENCE, Ca, Review, ReviewError, Reviewer};
use lateen_citadel::spiffe::{TrustDomain, TrustDomains};
use lateen_citadel::store::Store;
use lateen_galley::{Kind, Snapshot, mesh};
use lateen_local::client::{Client, ClientError};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::authority::{Authority, Part};
use crate::error::Error;

/// Kinds of which the authority hears.
const CONCERNED: [Kind; 3] = [Kind::Secret, Kind::ConfigMap, Kind::Namespace];

const SYSTEM_NAMESPACE: &str = "istio-system";
const BROUGHT: &str = "cacerts";
const ROOTS: &str = "istio-ca-root-cert";
const ROOTS_KEY: &str = "root-cert.pem";
/// Beside them, what only peers are known by: Istio's agents are told it over their own stream.
const FEDERATED_KEY: &str = "federated-roots.pem";
const REVOCATIONS: &str = "istio-ca-crl";
const REVOCATIONS_KEY: &str = "ca-crl.pem";
/// How soon what failed is tried again: a namespace that could not be told, an issuer that is not valid yet.
const RETRY: Duration = Duration::from_secs(1);

/// What a control plane's authority is told.
pub struct Options {
    /// Where it is kept.
    pub directory: PathBuf,
    /// The trust domain holds unless the mesh's settings name another.
    pub settings: Settings,
    /// File with the roots of another authority that signs for workloads in place of this one.
    pub external: Option<PathBuf>,
}

/// The objects of the cluster, as far as they are known.
pub type Snapshots = watch::Receiver<Option<Snapshot>>;

/// Puts the authority to work, once the cluster's objects are known: a brought issuer is there from the start. While what is kept,
/// or brought, is none, it is looked at again and again: nothing is replaced unasked.
pub async fn start(
    options: Options,
    client: Client,
    mut snapshots: Snapshots,
    shown: Authority,
) -> Result<Arc<Ca>, Error> {
    let _ = snapshots.wait_for(Option::is_some).await;
    let Options { directory, mut settings, external } = options;
    let own = settings.trust_domains.own.clone();
    let store = Store::at(directory)?;
    let (snapshot, authority) = loop {
        let snapshot = current(&mut snapshots);
        settings.trust_domains = trust_domains(&snapshot, &own);
        match store.load(settings.clone(), brought(&snapshot).as_ref(), SystemTime::now()) {
            Ok(authority) => break (snapshot, authority),
            Err(error) => {
                let error = error.to_string();
                if shown.note(Part::Kept, Some(error.clone())) {
                    tracing::error!(error, "the certificate authority does not work");
                }
            }
        }
        sleep(RETRY).await;
    };
    shown.note(Part::Kept, None);
    let ca = Ca::new(authority, store);
    if let Some(path) = external {
        let what = || format!("the roots of the external authority: {}", path.display());
        let text = std::fs::read_to_string(&path).map_err(Error::io(what()))?;
        let roots = certificate::read_pem(&text).map_err(|error| Error::io(what())(io::Error::other(error)))?;
        ca.sign_elsewhere(roots.clone());
        let mut roots = watched::follow(path, roots, None, certificate::read_pem);
        let ca = Arc::clone(&ca);
        tokio::spawn(async move {
            while roots.changed().await.is_ok() {
                ca.sign_elsewhere(roots.borrow_and_update().clone());
            }
        });
    }
    let mut seen = Brought::new(shown.clone());
    seen.follow(&ca, &snapshot, &own);
    shown.works(Arc::clone(&ca));
    tokio::spawn(Arc::clone(&ca).tend());
    tokio::spawn(follow(Arc::clone(&ca), snapshots.clone(), seen, own));
    tokio::spawn(distribute(client, ca.bundle(), snapshots));
    Ok(ca)
}

/// The mesh's names: its settings' word goes over what the control plane was started with.
fn trust_domains(snapshot: &Snapshot, own: &TrustDomain) -> TrustDomains {
    let mesh = mesh::of_snapshot(snapshot).unwrap_or_default();
    // What is no trust domain is refused when the settings come.
    let own = mesh.trust_domain.and_then(|name| name.parse().ok()).unwrap_or_else(|| own.clone());
    let aliases = mesh.trust_domain_aliases.iter().filter_map(|name| name.parse().ok());
    TrustDomains { aliases: aliases.filter(|alias| *alias != own).collect(), own }
}

/// Asks the cluster whose a token is.
pub fn reviewer(client: Client) -> Reviewer {
    Arc::new(move |token| {
        let client = client.clone();
        Box::pin(async move {
            let status = client.review_token(&token, &[AUDIENCE]).await;
            let status = status.map_err(|error| ReviewError(error.to_string()))?;
            let user = status.user.and_then(|user| user.username).filter(|_| status.authenticated == Some(true));
            let user = user.ok_or_else(|| status.error.unwrap_or_else(|| "it is not known".to_owned()));
            Ok(Review { user, audiences: status.audiences.unwrap_or_default() })
        })
    })
}

/// Has the authority follow what people change while it works.
async fn follow(ca: Arc<Ca>, mut snapshots: Snapshots, mut seen: Brought, own: TrustDomain) {
    let mut snapshot = current(&mut snapshots);
    loop {
        seen.follow(&ca, &snapshot, &own);
        let again = async { if seen.trouble { sleep(RETRY).await } else { pending().await } };
        tokio::select! {
            next = changed(&mut snapshots, &snapshot) => match next {
                Some(next) => snapshot = next,
                None => return,
            },
            () = again => {}
        }
    }
}

/// Of what there is now, the kinds that concern the authority: all else may go when it changes.
fn current(snapshots: &mut Snapshots) -> Snapshot {
    snapshots.borrow_and_update().as_ref().map(|now| Snapshot::default().with(&CONCERNED, now)).unwrap_or_default()
}

/// The same of the next snapshot in which these are others than in `last`; nothing when there are no more.
async fn changed(snapshots: &mut Snapshots, last: &Snapshot) -> Option<Snapshot> {
    loop {
        snapshots.changed().await.ok()?;
        let now = current(snapshots);
        if CONCERNED.iter().any(|kind| !now.same(last, *kind)) {
            return Some(now);
        }
    }
}

/// What a person has brought in the Secret `cacerts`, as it was seen last.
struct Brought {
    /// Where it is told why something is not followed.
    shown: Authority,
    issuer: Option<Files>,
    /// It is not followed: it may not be valid yet, say, and is tried again.
    trouble: bool,
    revoked: Option<String>,
}

impl Brought {
    fn new(shown: Authority) -> Self {
        Self { shown, issuer: None, trouble: false, revoked: None }
    }

    fn follow(&mut self, ca: &Ca, snapshot: &Snapshot, own: &TrustDomain) {
        ca.rename(trust_domains(snapshot, own));
        let issuer = brought(snapshot);
        if issuer != self.issuer || self.trouble {
            let mut trouble = None;
            match issuer.as_ref().map(|files| ca.follow(files)) {
                Some(Ok(true)) => tracing::info!("the Secret {BROUGHT} has another issuer: its root is announced"),
                Some(Ok(false)) => {}
                Some(Err(error)) => {
                    trouble = Some(format!("the Secret {BROUGHT} is not followed: {error}"));
                }
                None => {
                    ca.left_alone();
                    tracing::warn!("the Secret {BROUGHT} is gone; its issuer signs on");
                }
            }
            (self.issuer, self.trouble) = (issuer, trouble.is_some());
            self.tell(Part::Brought, trouble);
        }
        let revoked = revocations(snapshot);
        if revoked != self.revoked {
            let trouble = ca.revoke(revoked.as_deref()).err();
            let told = |error| format!("{REVOCATIONS_KEY} in the Secret {BROUGHT} is not followed: {error}");
            self.tell(Part::Revoked, trouble.map(told));
            self.revoked = revoked;
        }
    }

    fn tell(&self, part: Part, trouble: Option<String>) {
        if self.shown.note(part, trouble.clone())
            && let Some(trouble) = trouble
        {
            tracing::error!("{trouble}");
        }
    }
}

/// A file of the Secret a person brings; empty if it is not there.
fn file(secret: &Value, name: &str) -> String {
    if let Some(text) = secret.get("stringData").and_then(|data| data.get(name)).and_then(Value::as_str) {
        return text.to_owned();
    }
    let encoded = secret.get("data").and_then(|data| data.get(name)).and_then(Value::as_str).unwrap_or_default();
    STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// The lists of revoked certificates that a person brings.
fn revocations(snapshot: &Snapshot) -> Option<String> {
    let secret = snapshot.find(Kind::Secret, SYSTEM_NAMESPACE, BROUGHT)?.raw();
    Some(file(secret, REVOCATIONS_KEY)).filter(|text| !text.trim().is_empty())
}

/// The issuer that a person brings.
fn brought(snapshot: &Snapshot) -> Option<Files> {
    let secret = snapshot.find(Kind::Secret, SYSTEM_NAMESPACE, BROUGHT)?.raw();
    let text = |name: &str| file(secret, name);
    Some(Files {
        certificate: text("ca-cert.pem"),
        key: text("ca-key.pem").into(),
        root: text(ROOTS_KEY),
        chain: text("cert-chain.pem"),
    })
}

/// Roots of others that the mesh's settings trust; those that cannot be roots are left out, and told in the log.
fn federated(snapshot: &Snapshot) -> String {
    let mut roots = String::new();
    let mesh = mesh::of_snapshot(snapshot).unwrap_or_default();
    for (index, data) in mesh.ca_certificates.iter().enumerate() {
        let read = certificate::read_pem(&data.pem).and_then(|read| certificate::root_store(&read).map(|_| read));
        match read {
            Ok(read) => roots.push_str(&certificate::to_pem(&read)),
            Err(error) => tracing::error!(%error, "caCertificates[{index}].pem of the mesh's settings is not trusted"),
        }
    }
    roots
}

/// Keeps the roots, and lists of revoked certificates if there are any, in every namespace.
async fn distribute(client: Client, mut bundle: watch::Receiver<Arc<str>>, mut snapshots: Snapshots) {
    let mut last = None;
    let mut snapshot = current(&mut snapshots);
    loop {
        let roots = Arc::clone(&bundle.borrow_and_update());
        // Where a list is damaged the one before stays in force.
        let revoked = match revocations(&snapshot) {
            Some(pem) if certificate::revocations(&pem).is_err() => last.clone(),
            list => Some(list),
        };
        last.clone_from(&revoked);
        let files = [(ROOTS_KEY, roots.to_string()), (FEDERATED_KEY, federated(&snapshot))];
        let roots = Data::from_iter(files.into_iter().filter(|(_, text)| !text.is_empty()));
        let revoked = revoked.map(|list| list.map(|text| Data::from([(REVOCATIONS_KEY, text)])));
        let mut failed = false;
        let told = revoked.as_ref().map(|list| (REVOCATIONS, list.as_ref()));
        for (name, data) in std::iter::once((ROOTS, Some(&roots))).chain(told) {
            for namespace in untold(&snapshot, name, data) {
                if let Err(error) = tell(&client, &namespace, name, data).await {
                    tracing::warn!(namespace, name, %error, "a namespace is not told");
                    failed = true;
                }
            }
        }
        let retry = async { if failed { sleep(RETRY).await } else { pending().await } };
        tokio::select! {
            changed = bundle.changed() => if changed.is_err() { return },
            next = changed(&mut snapshots, &snapshot) => match next {
                Some(next) => snapshot = next,
                None => return,
            },
            () = retry => {}
        }
    }
}

/// What a ConfigMap holds.
type Data = BTreeMap<&'static str, String>;

/// Makes a namespace's ConfigMap hold this, or takes it away.
async fn tell(client: &Client, namespace: &str, name: &str, data: Option<&Data>) -> Result<(), ClientError> {
    let Some(data) = data else {
        return client.delete(Kind::ConfigMap, namespace, name, None).await.map(drop);
    };
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": data,
    });
    client.apply(&object, namespace, false).await.map(drop)
}

/// Namespaces whose ConfigMap of this name does not hold this, or is there where there is nothing to tell.
fn untold(snapshot: &Snapshot, name: &str, data: Option<&Data>) -> Vec<String> {
    let namespaces = snapshot.objects(Kind::Namespace);
    let stays = namespaces.filter(|namespace| namespace.metadata().deletion_timestamp.is_none());
    let names = stays.map(|namespace| namespace.name().to_owned());
    let wanted = data.map(|data| json!(data));
    let told = |namespace: &String| {
        let map = snapshot.find(Kind::ConfigMap, namespace, name);
        map.map(|map| map.raw().get("data").cloned().unwrap_or_default()) == wanted
    };
    names.filter(|namespace| !told(namespace)).collect()
}

#[cfg(test)]
mod tests {
    use lateen_citadel::authority::Issuer;
    use lateen_citadel::key::KeyType;
    use lateen_galley::Object;

    use super::*;

    fn snapshot(objects: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for object in objects {
            snapshot.insert(Arc::new(Object::decode(object.clone()).unwrap()));
        }
        snapshot
    }

    #[tokio::test]
    async fn what_concerns_other_kinds_passes_by() {
        let of = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "a"}});
        let first = snapshot(&[of("Secret", "a")]);
        let second = first.with(&[Kind::ServiceAccount], &snapshot(&[of("ServiceAccount", "a")]));
        let third = second.with(&[Kind::Secret], &snapshot(&[of("Secret", "b")]));
        let (teller, mut snapshots) = watch::channel(Some(first.clone()));
        teller.send_replace(Some(second));
        let (next, ()) = tokio::join!(changed(&mut snapshots, &first), async {
            teller.send_replace(Some(third.clone()));
        });
        let next = next.unwrap();
        assert!(next.same(&third, Kind::Secret) && !next.same(&third, Kind::ServiceAccount));
        drop(teller);
        assert!(changed(&mut snapshots, &third).await.is_none());
    }

    #[test]
    fn every_namespace_is_told_the_roots_once() {
        let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let map = |namespace: &str, roots: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOTS, "namespace": namespace},
                "data": {ROOTS_KEY: roots}})
        };
        let objects = [namespace("a"), namespace("b"), namespace("c"), map("a", "new"), map("b", "old")];
        let data = Data::from([(ROOTS_KEY, "new".to_owned())]);
        assert_eq!(untold(&snapshot(&objects), ROOTS, Some(&data)), ["b", "c"]);
        assert_eq!(untold(&snapshot(&objects), ROOTS, None), ["a", "b"]);
    }

    #[test]
    fn the_mesh_s_settings_name_it_and_the_roots_it_trusts() {
        let own: TrustDomain = "cluster.local".parse().unwrap();
        assert_eq!(trust_domains(&snapshot(&[]), &own), own.clone().into());
        let root = Issuer::self_signed(&own, KeyType::EcdsaP256, Duration::from_secs(60), SystemTime::now()).unwrap();
        let root = root.to_files().root;
        let no_root = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let mesh = json!({"trustDomain": "new.example", "trustDomainAliases": ["cluster.local", "new.example"],
            "caCertificates": [{"pem": no_root}, {"pem": root}]});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": mesh::NAME, "namespace": mesh::NAMESPACE}, "data": {"mesh": mesh.to_string()}});
        let snapshot = snapshot(&[map]);
        let named = TrustDomains { own: "new.example".parse().unwrap(), aliases: vec![own.clone()] };
        assert_eq!(trust_domains(&snapshot, &own), named);
        assert_eq!(federated(&snapshot), root);
    }

    #[test]
    fn an_issuer_is_brought_in_istio_s_secret() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": BROUGHT, "namespace": SYSTEM_NAMESPACE},
            "data": {"ca-cert.pem": STANDARD.encode("cert"), "ca-key.pem": STANDARD.encode("key"),
                "root-cert.pem": STANDARD.encode("root")}});
        let found = brought(&snapshot(&[secret])).unwrap();
        let expected = Files {
            certificate: "cert".to_owned(),
            key: "key".to_owned().into(),
            root: "root".to_owned(),
            chain: String::new(),
        };
        assert_eq!(found, expected);
        assert_eq!(brought(&snapshot(&[])), None);
    }
}
