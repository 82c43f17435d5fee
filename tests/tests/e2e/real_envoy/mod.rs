//! The real Envoy in place of our proxy, driven by our control plane: it accepts everything it is
//! told and gives the same answers.

mod answers;

use lateen_tests::load::Load;
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::{peers, wait};
use serde_json::Value;

use crate::canary::{assert_all_good, assert_share, edit, example, served, through_own_sidecar};

pub fn envoy() -> String {
    format!(
        "{} --disable-hot-restart -l warning --file-flush-interval-msec 50 --concurrency 1 -c $BOOTSTRAP",
        peers::envoy().display()
    )
}

/// Waits until every proxy has acknowledged all it was sent; at least `count` are connected.
pub async fn acknowledged(mesh: &Mesh, count: usize) {
    let synced = wait::within(wait::PATIENCE, || async {
        let proxies: Vec<Value> = serde_json::from_str(&mesh.control_plane("/debug/syncz").await).ok()?;
        (proxies.len() >= count && proxies.iter().all(in_step)).then_some(())
    })
    .await;
    if synced.is_none() {
        panic!("not everything is acknowledged: {}", mesh.control_plane("/debug/syncz").await);
    }
}

/// Everything sent is acknowledged, and nothing was ever refused.
fn in_step(proxy: &Value) -> bool {
    let Some(types) = proxy["types"].as_object() else { return false };
    let told =
        ["CDS", "EDS", "LDS", "RDS"].iter().all(|kind| types.get(*kind).is_some_and(|of_kind| of_kind["sent"] != ""));
    told && proxy["synced"] == true
        && types.values().all(|of_kind| {
            of_kind["sent"] == of_kind["acked"] && of_kind["rejects"] == 0 && of_kind["last_error"].is_null()
        })
}

/// The example's promises hold with whatever proxies the mesh runs.
async fn serves(mesh: &Mesh) {
    let target = served(mesh).await;
    let load = Load::start(&target, 4);
    load.passes(1000).await;
    let samples = load.finish().await;
    assert_all_good(&samples);
    assert_share(&samples, "v1", 0.9);
    through_own_sidecar(mesh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_every_proxy() {
    let _alone = crate::one_mesh_at_a_time().await;
    let image = format!("auto={}", envoy());
    let mut mesh = Mesh::up(example(User::Invoker), User::Invoker, &["--image", &image]);
    serves(&mesh).await;
    let running = mesh.processes();
    let ours = running.values().filter(|process| process.line.contains("lateen proxy")).count();
    let theirs = running
        .values()
        .filter(|process| process.line.contains("_bin/envoy") || process.line.contains("/envoy "))
        .count();
    assert_eq!((ours, theirs >= 3), (0, true), "every proxy is Envoy: {running:#?}");
    acknowledged(&mesh, 3).await;

    edit(&mesh, "weight: 90", "weight: 0");
    let target = mesh.answers("any.test", "/").await;
    wait::until("Envoy follows a changed rule", || async {
        let load = Load::start(&target, 2);
        load.passes(50).await;
        let samples = load.finish().await;
        (crate::canary::share(&samples, "v2").0 == samples.len()).then_some(())
    })
    .await;
    acknowledged(&mesh, 3).await;
    mesh.down().await;
}

/// One version has Envoy beside it, the other one ours; the gateway is ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_ours() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = example(User::Invoker);
    let app = dir.path().join("manifests/app.yaml");
    let text = std::fs::read_to_string(&app).unwrap();
    let labels = "      labels:\n        app: helloworld\n        version: v2\n";
    let (head, tail) = text.rsplit_once(labels).expect("the second version's pod template");
    let annotated = format!("{head}      annotations:\n        sidecar.istio.io/proxyImage: envoy\n{labels}{tail}");
    std::fs::write(&app, annotated).unwrap();
    let image = format!("envoy={}", envoy());
    let mut mesh = Mesh::up(dir, User::Invoker, &["--image", &image]);
    serves(&mesh).await;
    let running = mesh.processes();
    let ours = running.values().filter(|process| process.line.contains("lateen proxy")).count();
    assert!(ours >= 2, "the gateway and the other sidecar are ours: {running:#?}");
    acknowledged(&mesh, 3).await;
    mesh.down().await;
}
