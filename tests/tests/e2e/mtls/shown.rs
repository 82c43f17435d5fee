//! Somebody with a certificate of the mesh's and no proxy, who says in TLS what no proxy would; and the authority in
//! the hands of the test that makes it possible.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_tests::tls::Authority;
use serde_json::{Value, json};

use super::{SHOP, Stand, identity, workload};

/// The pod in which it happens, and whom its certificate is for.
const STRANGER: &str = "stranger";
pub const FRIEND: &str = "friend";
const PROGRAM: &str = include_str!("shown.py");

/// What to say to a server of HTTP.
pub const REQUEST: &str = "GET / HTTP/1.1\r\nhost: asked\r\nconnection: close\r\n\r\n";

/// The Secret by which the mesh's certificates come from this authority; `revoked` are its lists.
pub fn brought(authority: &Authority, revoked: Option<&str>) -> Value {
    let mut data = json!({"ca-cert.pem": authority.pem, "ca-key.pem": authority.key, "root-cert.pem": authority.pem,
        "cert-chain.pem": ""});
    if let Some(lists) = revoked {
        data["ca-crl.pem"] = json!(lists);
    }
    for value in data.as_object_mut().unwrap().values_mut() {
        *value = json!(STANDARD.encode(value.as_str().unwrap()));
    }
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "istio-system"},
        "data": data})
}

/// A mesh with such somebody.
pub struct Shown {
    pub stand: Stand,
    files: tempfile::TempDir,
}

impl Shown {
    pub async fn up(more: Vec<Value>) -> Shown {
        let authority = Authority::new("authority");
        let friend = authority.sign("", &identity(FRIEND));
        let files = tempfile::tempdir().unwrap();
        for (name, text) in
            [("root.pem", &authority.pem), ("friend.pem", &friend.certificate), ("friend.key", &friend.key)]
        {
            std::fs::write(files.path().join(name), text).unwrap();
        }
        let mut objects = vec![brought(&authority, None)];
        objects.extend(workload(STRANGER, None));
        objects.extend(more);
        Shown { stand: Stand::up(objects).await, files }
    }

    /// What each server that is asked for (nobody, when it is empty) makes of it: version and protocol of TLS, whom the
    /// server's certificate names, and its answer, or the error.
    pub async fn says(&self, host: &str, port: u16, protocols: &str, words: &str, servers: &[&str]) -> Vec<Value> {
        self.says_in("TLSv1_3", host, port, &[&[protocols, words], servers].concat()).await
    }

    /// The same in no newer version of TLS than this.
    pub async fn says_in(&self, newest: &str, host: &str, port: u16, what: &[&str]) -> Vec<Value> {
        let (files, port) = (self.files.path().join(FRIEND).display().to_string(), port.to_string());
        let command = ["exec", "-n", SHOP, STRANGER, "--", "python3", "-c", PROGRAM, host, &port, &files, newest];
        let text = self.stand.mesh.prints(&[&command[..], what].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }
}
