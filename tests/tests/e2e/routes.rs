//! Delegation and the mesh's settings, in a whole mesh.

use lateen_tests::load::Target;
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::canary::example;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delegates_and_the_meshs_settings() {
    let _alone = super::one_mesh_at_a_time().await;
    let dir = example(User::Invoker);
    std::fs::write(dir.path().join("manifests/routes.yaml"), include_str!("routes.yaml")).unwrap();
    let mesh = Mesh::up(dir, User::Invoker, &[]);
    mesh.ready("canary", 2).await;
    mesh.answers("a.test", "/").await;
    let ingress = mesh.ingress().await;

    // Slashes are merged before the root matches and the delegate does.
    let second = Target::new(ingress, "parts.test", "//team///second");
    let answer = wait::until("the delegate's route serves", || async {
        second.ask().await.ok().filter(|answer| answer.status() == 200)
    })
    .await;
    assert!(answer.text().contains("\"v2\""), "{answer:?}");
    assert_eq!(answer.header("server"), Some("ours"));
    for path in ["/team/", "/elsewhere"] {
        let answer = Target::new(ingress, "parts.test", path).ask().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }

    let mut old = TcpStream::connect(ingress).await.unwrap();
    old.write_all(b"GET / HTTP/1.0\r\nhost: a.test\r\n\r\n").await.unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
}

const CLIENT: &str = "
import socket
server = socket.create_connection(('database', 7000), timeout=2)
print(server.recv(100).decode(), end='')
server.sendall(b'query')
print(server.recv(100).decode())
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_is_heard_through_sidecars() {
    let _alone = super::one_mesh_at_a_time().await;
    let dir = example(User::Invoker);
    std::fs::write(dir.path().join("manifests/server-first.yaml"), include_str!("server_first.yaml")).unwrap();
    let mesh = Mesh::up(dir, User::Invoker, &[]);
    mesh.answers("a.test", "/").await;
    let said = wait::until("the database is there", || async {
        let output = mesh.run(&["exec", "client", "-n", "canary", "--", "python3", "-c", CLIENT]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(said)
    })
    .await;
    assert_eq!(said, "5.7-ready\nquery\n");
}
