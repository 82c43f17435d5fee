//! `lateen apply` against a cluster's API alone: what a person reads of what was done, and of what was not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use lateen_galley::{Kind, Object, Snapshot, Store, StoreSettings, store::Change};
use lateen_local::admission::Admission;
use lateen_local::api::{Server, serve};
use lateen_local::tokens::Tokens;
use serde_json::json;
use tokio::net::UnixListener;

const GOOD: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: good}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}
---
";
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, type: LoadBalancer, loadBalancerIP: 192.0.2.1, ports: [{name: http, port: 80}]}
";

/// The API of a cluster in which nothing runs.
struct Cluster {
    admission: Admission,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn serve() -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let admission = Admission::new(Store::new(StoreSettings::default()));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        admission.write(Change::Upsert(Object::decode(namespace).unwrap())).unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        tokio::spawn(serve(listener, Server::new(admission.clone(), None, Tokens::new().unwrap())));
        Cluster { admission, directory }
    }

    fn snapshot(&self) -> Snapshot {
        self.admission.store().snapshot()
    }

    async fn apply(&self, file: &Path, options: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lateen"));
        command.args(["apply", "-f"]).arg(file).arg("--state-dir").arg(self.directory.path()).args(options);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn what_looks_wrong_is_told_on_standard_error() {
    let cluster = Cluster::serve();
    let file = cluster.directory.path().join("a.yaml");
    std::fs::write(&file, format!("{GOOD}{SERVICE}")).unwrap();
    for (options, suffix) in [(&["--dry-run"][..], " (dry run)"), (&[], "")] {
        let (out, errors) = said(&cluster.apply(&file, options).await);
        let lines: Vec<&str> = errors.lines().collect();
        let [subset, address] = lines[..] else { panic!("{out}{errors}") };
        let place = file.display();
        assert!(subset.starts_with(&format!("Warning: {place}, document 2, VirtualService default/web: ")), "{errors}");
        assert_eq!(
            address,
            format!(
                "Warning: {place}, document 3, Service default/web: spec.loadBalancerIP: the address is chosen here"
            )
        );
        let names = ["configmap/good", "virtualservice.networking.istio.io/web", "service/web"];
        assert_eq!(out, names.map(|name| format!("{name} created{suffix}\n")).concat());
    }
}

#[tokio::test]
async fn nothing_is_applied_when_one_document_is_refused() {
    let cluster = Cluster::serve();
    let file = cluster.directory.path().join("a.yaml");
    std::fs::write(&file, format!("{GOOD}{}", SERVICE.replace("port: 80", "port: 70000"))).unwrap();
    let output = cluster.apply(&file, &[]).await;
    let (out, errors) = said(&output);
    assert_eq!((output.status.code(), out.as_str()), (Some(1), ""));
    assert!(errors.contains("nothing was changed") && errors.contains("document 3, Service default/web"), "{errors}");
    assert!(cluster.snapshot().find(Kind::ConfigMap, "default", "good").is_none());
}
