//! Programs that listen at the loopback address alone, or at their pod's: which of them a mesh's `inboundTrafficPolicy`
//! reaches.

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;

fn policy(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data: {{mesh: \"inboundTrafficPolicy: {{mode: {mode}}}\"}}\n"
    )
}

async fn one_address_each(options: &[&str]) {
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("loopback.yaml"), include_str!("loopback.yaml")).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, options);
    mesh.ready("shop", 3).await;
    let client = mesh.pod("shop", "client-").await;
    let [beside, own] = [mesh.pod("shop", "beside-").await, mesh.pod("shop", "own-").await];
    let status = async |pod: &str, url: &str| {
        let command = ["exec", "-n", "shop", pod, "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url];
        String::from_utf8_lossy(&mesh.run(&command).await.stdout).into_owned()
    };
    wait::until("both programs listen", || async {
        let address = mesh.prints(&["exec", "-n", "shop", &own, "--", "sh", "-c", "echo $POD_IP"]).await;
        let found = [
            status(&beside, "http://127.0.0.1:8000/").await,
            status(&own, &format!("http://{}:8000/", address.trim())).await,
        ];
        (found == ["200", "200"]).then_some(())
    })
    .await;

    let file = mesh.state().join("policy.yaml");
    for (mode, expected) in
        [("LOCALHOST", ["200", "503"]), ("PASSTHROUGH", ["503", "200"]), ("LOCALHOST", ["200", "503"])]
    {
        std::fs::write(&file, policy(mode)).unwrap();
        mesh.prints(&["apply", "--wait", "-f", &file.display().to_string()]).await;
        wait::until(&format!("{mode} leads to {expected:?}"), || async {
            let found = [status(&client, "http://beside/").await, status(&client, "http://own/").await];
            (found == expected).then_some(())
        })
        .await;
    }
    mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_each_with_ours() {
    let _alone = crate::one_mesh_at_a_time().await;
    one_address_each(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_each_with_envoy() {
    let _alone = crate::one_mesh_at_a_time().await;
    let image = format!("auto={}", crate::real_envoy::envoy());
    one_address_each(&["--image", &image]).await;
}
