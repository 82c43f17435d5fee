//! Hosts outside the mesh: by an egress gateway, by the names that requests bring along, and not at all.

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;

/// What the client sees of one request: status, the mark of the egress gateway, and the address it connected to.
async fn seen(mesh: &Mesh, client: &str, arguments: &[&str]) -> String {
    let format = "%{http_code} %header{x-went-through} %{remote_ip}";
    let mut command =
        vec!["exec", "-n", "shop", client, "--", "curl", "-s", "-m", "30", "-o", "/dev/null", "-w", format];
    command.extend(arguments);
    String::from_utf8_lossy(&mesh.run(&command).await.stdout).into_owned()
}

/// Sends a word to `db.test:9000` and prints what comes back.
const CONVERSATION: &str = "
import socket
with socket.create_connection(('db.test', 9000), 30) as server:
    server.sendall(b'echoed')
    server.shutdown(socket.SHUT_WR)
    print(server.recv(100).decode(), end='')
";

async fn outside_the_mesh(options: &[&str]) {
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("hosts.yaml"), include_str!("hosts.yaml")).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, options);
    mesh.ready("istio-system", 2).await;
    let client = mesh.pod("shop", "client-").await;

    // The host has an address that only the cluster's name server knows, and its way leads through the gateway.
    wait::until("the egress gateway serves", || async {
        let seen = seen(&mesh, &client, &["http://ext.test/"]).await;
        seen.starts_with("200 egress 240.240.").then_some(())
    })
    .await;
    let world = "http://outside.world.svc.cluster.local";
    wait::until("a host that the request names serves", || async {
        seen(&mesh, &client, &[&format!("{world}/")]).await.starts_with("200  10.").then_some(())
    })
    .await;
    let unknown = seen(&mesh, &client, &["-H", "host: other.test", &format!("{world}/")]).await;
    assert!(unknown.starts_with("502 "), "a host nobody declared: {unknown}");
    let closed = seen(&mesh, &client, &[&format!("{world}:9000/")]).await;
    assert!(closed.starts_with("000 "), "a port nobody declared: {closed}");

    let outside = mesh.pod("world", "outside-").await;
    let external = ["exec", "-n", "world", &outside, "--", "curl", "-s", "-m", "30", "http://198.51.100.7/"];
    let answer = mesh.prints(&external).await;
    assert!(answer.contains(&outside), "at the Service's external address: {answer}");

    wait::until("a conversation through the egress gateway", || async {
        let echo = mesh.run(&["exec", "-n", "shop", &client, "--", "python3", "-c", CONVERSATION]).await;
        (echo.stdout == b"echoed").then_some(())
    })
    .await;
    let gateway = mesh.pod("istio-system", "istio-egressgateway-").await;
    wait::until("the egress gateway tells of the connection", || async {
        let log = mesh.prints(&["logs", "-n", "istio-system", &gateway]).await;
        log.lines().any(|line| line.contains(" 6 6 ") && line.contains("outbound|9000||db.test")).then_some(())
    })
    .await;

    let dump = mesh.control_plane(&format!("/debug/config_dump?proxyID={client}.shop")).await;
    assert!(
        !dump.contains("outbound|80||outside.world.svc.cluster.local"),
        "what the Sidecar does not import is not sent"
    );
    mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_the_mesh_by_ours() {
    let _alone = crate::one_mesh_at_a_time().await;
    outside_the_mesh(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_the_mesh_by_envoy() {
    let _alone = crate::one_mesh_at_a_time().await;
    let image = format!("auto={}", crate::real_envoy::envoy());
    outside_the_mesh(&["--image", &image]).await;
}
