//! What a person is told of a change: that it is in force, or what keeps it from that.

use std::path::Path;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::{peers, wait};

const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: disabled}}
";
/// A gateway's certificate in a file that nobody mounts.
const LOST: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: lost, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - hosts: [lost.test]
    port: {number: 443, name: https, protocol: HTTPS}
    tls: {mode: SIMPLE, serverCertificate: /etc/lost/cert.pem, privateKey: /etc/lost/key.pem}
";
const OTHER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: shop}
spec: {hosts: [other.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS, location: MESH_EXTERNAL}
";

/// Runs `lateen apply --wait` on a manifest; gives whether it succeeded, and what it wrote on standard error.
async fn apply(mesh: &Mesh, folder: &Path, manifest: &str, timeout: &str) -> (bool, String) {
    let file = folder.join("applied.yaml");
    std::fs::write(&file, manifest).unwrap();
    let output = mesh.run(&["apply", "-f", file.to_str().unwrap(), "--wait", "--timeout", timeout]).await;
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_force_is_named() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("namespace.yaml"), NAMESPACE).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &[]);
    mesh.ready("istio-system", 1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let patience = format!("{}s", wait::PATIENCE.as_secs());

    let secret = "waits for the secret file-cert:/etc/lost/cert.pem~/etc/lost/key.pem";
    let (taken, errors) = apply(&mesh, elsewhere.path(), LOST, "1s").await;
    assert!(!taken, "{errors}");
    let told = async || mesh.control_plane("/debug/problemz").await.contains(secret).then_some(());
    wait::until("the gateway says what it waits for", told).await;
    // Asked for again as it is, and with a change that leaves it as broken.
    let (taken, errors) = apply(&mesh, elsewhere.path(), LOST, "1s").await;
    assert!(!taken && errors.contains(secret) && errors.contains("istio-ingressgateway"), "{errors}");
    let (taken, errors) = apply(&mesh, elsewhere.path(), &LOST.replace("lost.test", "gone.test"), "1s").await;
    assert!(!taken, "{errors}");
    wait::until("the gateway says so again", told).await;

    // Another's change is not to blame for it.
    let (taken, errors) = apply(&mesh, elsewhere.path(), OTHER, &patience).await;
    assert!(taken && errors.lines().any(|line| line.starts_with("Warning: ") && line.contains(secret)), "{errors}");
    mesh.prints(&["delete", "gateways", "lost", "-n", "istio-system"]).await;
    let (taken, errors) = apply(&mesh, elsewhere.path(), OTHER, &patience).await;
    assert!(taken && errors.is_empty(), "{errors}");
    mesh.down().await;
}

/// An issuer whose key is none.
const CACERTS: &str = "
apiVersion: v1
kind: Secret
metadata: {name: cacerts, namespace: istio-system}
stringData: {ca-cert.pem: none, ca-key.pem: none, root-cert.pem: none}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_in_trouble_says_so() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("namespace.yaml"), NAMESPACE).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &["--ca-key-type", "rsa"]);
    mesh.ready("istio-system", 1).await;
    assert!(!mesh.prints(&["ca", "status"]).await.contains("trouble"));
    let mut openssl = std::process::Command::new(peers::program("openssl"));
    let root = openssl.args(["x509", "-noout", "-text", "-in"]).arg(mesh.state().join("ca/root-cert.pem")).output();
    let root = String::from_utf8_lossy(&root.unwrap().stdout).into_owned();
    assert!(root.contains("rsaEncryption"), "{root}");

    // One that is brought and does not fit is told until it goes.
    let trouble = "the Secret cacerts is not followed: ";
    let file = manifests.join("cacerts.yaml");
    std::fs::write(&file, CACERTS).unwrap();
    wait::until("the trouble is told", || async {
        let status = mesh.prints(&["ca", "status"]).await;
        status.lines().any(|line| line.starts_with("trouble ") && line.contains(trouble)).then_some(())
    })
    .await;
    assert!(mesh.control_plane("/debug/problemz").await.contains(trouble));
    mesh.down().await;
    mesh.up_again(&[]);
    wait::until("the start warns of it", || async {
        mesh.output().lines().any(|line| line.starts_with("Warning: ") && line.contains(trouble)).then_some(())
    })
    .await;
    std::fs::remove_file(&file).unwrap();
    wait::until("the trouble is over", || async {
        (!mesh.prints(&["ca", "status"]).await.contains("trouble")).then_some(())
    })
    .await;
    mesh.down().await;

    // One that is kept and damaged is not replaced, and is taken when it is whole.
    let key = mesh.state().join("ca/ca-key.pem");
    let whole = std::fs::read(&key).unwrap();
    std::fs::write(&key, "none").unwrap();
    mesh.up_again(&[]);
    let broken = "the certificate authority does not work: ";
    wait::until("the start fails", || async {
        let output = mesh.output();
        output.lines().any(|line| line.contains("cannot become ready") && line.contains(broken)).then_some(())
    })
    .await;
    let asked = mesh.run(&["ca", "status"]).await;
    let errors = String::from_utf8_lossy(&asked.stderr);
    assert!(!asked.status.success() && errors.contains(broken) && errors.contains("ca-key.pem"), "{errors}");
    std::fs::write(&key, whole).unwrap();
    mesh.ready("istio-system", 1).await;
    mesh.down().await;
}
