//! Every example keeps its promise: its traffic test, run against a mesh of our proxies and one of Envoys. All share a
//! mesh, each in namespaces of its own, one after the other.

use std::path::Path;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::peers;

use crate::real_envoy::envoy;

/// Host clients of an Envoy come through a relay, so that it cannot tell their addresses apart.
const ONE_ADDRESS: (&str, &str) = (
    "    expect:\n      status: 200\n      samePod: client\n      pods: 3\n",
    "    expect:\n      status: 200\n      samePod: client\n",
);

fn names() -> Vec<String> {
    let folders = std::fs::read_dir(peers::root().join("examples")).unwrap().flatten();
    let mut names: Vec<String> = folders
        .filter(|entry| entry.path().join("test.yaml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    names
}

/// The example in a place of its own.
fn copy(name: &str, to: &Path, relayed: bool) {
    std::fs::create_dir(to).unwrap();
    for file in ["app.yaml", "routing.yaml", "test.yaml"] {
        let text = std::fs::read_to_string(peers::root().join("examples").join(name).join(file)).unwrap();
        let text =
            if relayed && name == "session-affinity" { text.replacen(ONE_ADDRESS.0, ONE_ADDRESS.1, 1) } else { text };
        std::fs::write(to.join(file), text).unwrap();
    }
}

async fn all(options: &[&str]) {
    let dir = Mesh::place(User::Invoker);
    let examples = dir.path().join("examples");
    std::fs::create_dir(&examples).unwrap();
    std::fs::create_dir(dir.path().join("manifests")).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, options);
    mesh.ready("istio-system", 1).await;
    let mut broken = Vec::new();
    for name in names() {
        let folder = examples.join(&name);
        copy(&name, &folder, !options.is_empty());
        let folder = folder.to_str().unwrap();
        mesh.prints(&["apply", "-f", folder, "--wait"]).await;
        let tested = mesh.run(&["test", "-f", folder]).await;
        if !tested.status.success() {
            let (said, errors) = (String::from_utf8_lossy(&tested.stdout), String::from_utf8_lossy(&tested.stderr));
            broken.push(format!("{said}{errors}"));
        }
        mesh.prints(&["delete", "-f", folder]).await;
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live() {
    let _alone = crate::one_mesh_at_a_time().await;
    all(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_envoys() {
    let _alone = crate::one_mesh_at_a_time().await;
    all(&["--image", &format!("auto={}", envoy())]).await;
}
