//! A workload of a group joins, is probed, and goes: nobody writes its WorkloadEntry but the control plane.

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;
use serde_json::Value;

const ENTRY: &str = "machines-10-244";

/// The entries of the group, as the API tells them.
async fn entries(mesh: &Mesh) -> Vec<Value> {
    let text = mesh.prints(&["get", "workloadentries", "-n", "shop", "-o", "json"]).await;
    let read: Value = serde_json::from_str(&text).unwrap_or_default();
    match read.get("items") {
        Some(Value::Array(items)) => items.clone(),
        _ if read.get("kind").is_some_and(|kind| kind == "WorkloadEntry") => vec![read],
        _ => Vec::new(),
    }
}

/// What the condition `Healthy` of the one entry says.
async fn health(mesh: &Mesh) -> Option<String> {
    let entries = entries(mesh).await;
    let conditions = entries.first()?.pointer("/status/conditions")?.as_array()?.clone();
    let healthy = conditions.iter().find(|condition| condition["type"] == "Healthy")?;
    healthy["status"].as_str().map(str::to_owned)
}

/// The status that the client gets from the group's name.
async fn status(mesh: &Mesh) -> String {
    let curl = ["curl", "-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "http://machines.test/state/file"];
    let command: Vec<&str> = ["exec", "-n", "shop", "client", "--"].into_iter().chain(curl).collect();
    String::from_utf8_lossy(&mesh.run(&command).await.stdout).into_owned()
}

async fn answers(mesh: &Mesh, wanted: &str) {
    wait::until(&format!("the client gets {wanted}"), || async { (status(mesh).await == wanted).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_joins_its_group_is_probed_and_goes() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("groups.yaml"), include_str!("workload_groups.yaml")).unwrap();
    let served = tempfile::tempdir().unwrap();
    let state = served.path().join("state");
    std::fs::create_dir(&state).unwrap();
    for file in ["file", "ready"] {
        std::fs::write(state.join(file), "here").unwrap();
    }
    let mut mesh = Mesh::up(dir, User::Invoker, &[]);
    mesh.ready("shop", 1).await;
    answers(&mesh, "503").await;

    let directory = served.path().display().to_string();
    let arguments = ["run", "--name", "vm1", "--port", "8080", "--group", "machines", "-n", "shop", "--"];
    let program = ["python3", "-m", "http.server", "8080", "--directory", &directory];
    mesh.prints(&[&arguments[..], &program[..]].concat()).await;
    answers(&mesh, "200").await;
    let all = entries(&mesh).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let (metadata, spec) = (&all[0]["metadata"], &all[0]["spec"]);
    let name = metadata["name"].as_str().unwrap().replace('.', "-");
    assert!(name.starts_with(ENTRY), "{name}");
    assert_eq!(spec["labels"]["app"], "machine");
    assert_eq!(spec["labels"]["version"], "v1");
    assert_eq!(metadata["annotations"]["istio.io/autoRegistrationGroup"], "machines");
    assert_eq!(metadata["annotations"]["note"], "from the group");
    assert_eq!(metadata["ownerReferences"][0]["kind"], "WorkloadGroup");
    assert_eq!(health(&mesh).await.as_deref(), Some("True"));

    // Its probe fails: no requests go there, though it would answer them.
    std::fs::remove_file(state.join("ready")).unwrap();
    answers(&mesh, "503").await;
    assert_eq!(health(&mesh).await.as_deref(), Some("False"));
    let told = entries(&mesh).await[0]["status"].to_string();
    assert!(told.contains("status 404"), "{told}");
    std::fs::write(state.join("ready"), "again").unwrap();
    answers(&mesh, "200").await;

    // It goes, and so does what was written of it.
    mesh.prints(&["delete", "pod", "vm1", "-n", "shop"]).await;
    wait::until("the entry is gone", || async { entries(&mesh).await.is_empty().then_some(()) }).await;
    answers(&mesh, "503").await;
    mesh.down().await;
}
