//! The certificate authority's wiring: where it is kept, who tells whose a token is, how a brought issuer (the Secret
//! `cacerts`) reaches it, and how its roots reach every namespace (the ConfigMaps `istio-ca-root-cert`
//! and `istio-ca-crl`), all as in Istio.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_citadel::authority::{Files, Settings};
use lateen_citadel::certificate;
use lateen_citadel::key::KeyType;
use lateen_citadel::serve::{AUDIENCE, Ca, Review, ReviewError, Reviewer};
use lateen_citadel::store::Store;
use lateen_galley::{Kind, Snapshot};
use lateen_local::client::{Client, ClientError};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::error::Error;

const SYSTEM_NAMESPACE: &str = "istio-system";
const BROUGHT: &str = "cacerts";
const ROOTS: &str = "istio-ca-root-cert";
const ROOTS_KEY: &str = "root-cert.pem";
const REVOCATIONS: &str = "istio-ca-crl";
const REVOCATIONS_KEY: &str = "ca-crl.pem";
/// How soon a namespace that could not be told is told again.
const RETRY: Duration = Duration::from_secs(1);

/// What a control plane's authority is told.
pub struct Options {
    /// Where it is kept.
    pub directory: PathBuf,
    pub settings: Settings,
    /// What its own root's key is, if it has to make one.
    pub key_type: KeyType,
}

/// The objects of the cluster, as far as they are known.
pub type Snapshots = watch::Receiver<Option<Snapshot>>;

/// Puts the authority to work, once the cluster's objects are known: a brought issuer is there from the start.
pub async fn start(options: Options, client: Client, mut snapshots: Snapshots) -> Result<Arc<Ca>, Error> {
    let brought = match snapshots.wait_for(Option::is_some).await {
        Ok(snapshot) => snapshot.as_ref().and_then(brought),
        Err(_) => None,
    };
    let store = Store::at(options.directory)?;
    let authority = store.load(options.settings, brought.as_ref(), options.key_type, SystemTime::now())?;
    let ca = Ca::new(authority, store);
    tokio::spawn(Arc::clone(&ca).tend());
    tokio::spawn(follow(Arc::clone(&ca), snapshots.clone()));
    tokio::spawn(distribute(client, ca.bundle(), snapshots));
    Ok(ca)
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

/// Has an issuer sign that is brought, or changed, while the authority works.
async fn follow(ca: Arc<Ca>, mut snapshots: Snapshots) {
    let mut seen = None;
    loop {
        let now = snapshots.borrow_and_update().as_ref().and_then(brought);
        if now != seen {
            match now.as_ref().map(|files| ca.follow(files)) {
                Some(Ok(true)) => tracing::info!("the Secret {BROUGHT} has another issuer: its root is announced"),
                Some(Ok(false)) => {}
                Some(Err(error)) => tracing::error!(%error, "the Secret {BROUGHT} is not followed"),
                None => tracing::warn!("the Secret {BROUGHT} is gone; its issuer signs on"),
            }
            seen = now;
        }
        if snapshots.changed().await.is_err() {
            return;
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

/// Keeps the roots, and lists of revoked certificates if there are any, in every namespace.
async fn distribute(client: Client, mut bundle: watch::Receiver<Arc<str>>, mut snapshots: Snapshots) {
    loop {
        let roots = Arc::clone(&bundle.borrow_and_update());
        let snapshot = snapshots.borrow_and_update().clone().unwrap_or_default();
        let revoked = revocations(&snapshot).filter(|pem| match certificate::read_revocations(pem) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "{REVOCATIONS_KEY} in the Secret {BROUGHT} is not told");
                false
            }
        });
        let mut failed = false;
        for (name, key, text) in [(ROOTS, ROOTS_KEY, Some(&*roots)), (REVOCATIONS, REVOCATIONS_KEY, revoked.as_deref())]
        {
            for namespace in untold(&snapshot, name, key, text) {
                if let Err(error) = tell(&client, &namespace, name, key, text).await {
                    tracing::warn!(namespace, name, %error, "a namespace is not told");
                    failed = true;
                }
            }
        }
        let retry = async { if failed { tokio::time::sleep(RETRY).await } else { std::future::pending().await } };
        tokio::select! {
            changed = bundle.changed() => if changed.is_err() { return },
            changed = snapshots.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

/// Makes a namespace's ConfigMap hold this text, or takes it away.
async fn tell(client: &Client, namespace: &str, name: &str, key: &str, text: Option<&str>) -> Result<(), ClientError> {
    let Some(text) = text else {
        return client.delete(Kind::ConfigMap, namespace, name, None).await.map(drop);
    };
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {key: text},
    });
    client.apply(&object, namespace, false).await.map(drop)
}

/// Namespaces whose ConfigMap of this name does not hold this text, or is there where there is none to tell.
fn untold(snapshot: &Snapshot, name: &str, key: &str, text: Option<&str>) -> Vec<String> {
    let namespaces = snapshot.objects(Kind::Namespace);
    let stays = namespaces.filter(|namespace| namespace.metadata().deletion_timestamp.is_none());
    let names = stays.map(|namespace| namespace.name().to_owned());
    let told = |namespace: &String| {
        let map = snapshot.find(Kind::ConfigMap, namespace, name);
        map.map(|map| map.raw().get("data").and_then(|data| data.get(key)?.as_str()).unwrap_or_default()) == text
    };
    names.filter(|namespace| !told(namespace)).collect()
}

#[cfg(test)]
mod tests {
    use lateen_galley::Object;

    use super::*;

    fn snapshot(objects: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for object in objects {
            snapshot.insert(Arc::new(Object::decode(object.clone()).unwrap()));
        }
        snapshot
    }

    #[test]
    fn every_namespace_is_told_the_roots_once() {
        let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let map = |namespace: &str, roots: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOTS, "namespace": namespace},
                "data": {ROOTS_KEY: roots}})
        };
        let objects = [namespace("a"), namespace("b"), namespace("c"), map("a", "new"), map("b", "old")];
        assert_eq!(untold(&snapshot(&objects), ROOTS, ROOTS_KEY, Some("new")), ["b", "c"]);
        assert_eq!(untold(&snapshot(&objects), ROOTS, ROOTS_KEY, None), ["a", "b"]);
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
