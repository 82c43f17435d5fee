//! What a person is told of a change: that it is in force, or what keeps it from that.

use std::path::Path;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;

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
    // Once as what was changed, once as what was so before and is asked for again.
    for _ in 0..2 {
        let (taken, errors) = apply(&mesh, elsewhere.path(), LOST, "2s").await;
        assert!(!taken && errors.contains(secret) && errors.contains("istio-ingressgateway"), "{errors}");
    }
    assert!(mesh.control_plane("/debug/problemz").await.contains(secret));

    // Another's change is not to blame for it.
    let (taken, errors) = apply(&mesh, elsewhere.path(), OTHER, &patience).await;
    assert!(taken && errors.lines().any(|line| line.starts_with("Warning: ") && line.contains(secret)), "{errors}");
    mesh.prints(&["delete", "gateways", "lost", "-n", "istio-system"]).await;
    let (taken, errors) = apply(&mesh, elsewhere.path(), OTHER, &patience).await;
    assert!(taken && errors.is_empty(), "{errors}");
    mesh.down().await;
}
