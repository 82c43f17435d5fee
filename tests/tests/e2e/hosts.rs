//! Hosts outside the mesh: by an egress gateway, by the names that requests bring along, and not at all.

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;

/// What the client sees of one request: status, the mark of the egress gateway, and the address it connected to.
async fn seen(mesh: &Mesh, client: &str, arguments: &[&str]) -> String {
    let format = "%{http_code} %header{x-went-through} %{remote_ip}";
    let mut command =
        vec!["exec", "-n", "shop", client, "--", "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", format];
    command.extend(arguments);
    String::from_utf8_lossy(&mesh.run(&command).await.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_the_mesh() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("hosts.yaml"), include_str!("hosts.yaml")).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &[]);
    mesh.ready("istio-system", 2).await;
    let client = mesh.pod("shop", "client-").await;

    // The host has an address that only the cluster's name server knows, and its way leads through the gateway.
    wait::until("the egress gateway serves", || async {
        let seen = seen(&mesh, &client, &["http://ext.test/"]).await;
        seen.starts_with("200 egress 240.240.").then_some(())
    })
    .await;
    let world = "http://outside.world.svc.cluster.local";
    let named = seen(&mesh, &client, &[&format!("{world}/")]).await;
    assert!(named.starts_with("200  10."), "a host that the request names: {named}");
    let unknown = seen(&mesh, &client, &["-H", "host: other.test", &format!("{world}/")]).await;
    assert!(unknown.starts_with("502 "), "a host nobody declared: {unknown}");
    let closed = seen(&mesh, &client, &[&format!("{world}:9000/")]).await;
    assert!(closed.starts_with("000 "), "a port nobody declared: {closed}");

    let dump = mesh.control_plane(&format!("/debug/config_dump?proxyID={client}.shop")).await;
    assert!(
        !dump.contains("outbound|80||outside.world.svc.cluster.local"),
        "what the Sidecar does not import is not sent"
    );
    mesh.down().await;
}
