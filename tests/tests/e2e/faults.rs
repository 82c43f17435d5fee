//! Parts of a mesh die under load: what can still be served is served, and everything comes back by
//! itself.

use lateen_tests::load::{Load, failures};
use lateen_tests::mesh::{Mesh, Traces, User, links};
use lateen_tests::wait;

use crate::canary::{assert_all_good, assert_share, example, served, share, version};

fn kill(pid: i32) {
    // SAFETY: the pid was just found among the descendants of a process of this test.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
    }
}

/// Waits until many requests in a row are good and both versions answer.
async fn recovered(load: &Load) {
    wait::until("everything is served again", || async {
        let recent = load.last(200);
        let both = ["v1", "v2"].iter().all(|wanted| share(&recent, wanted).0 > 0);
        (recent.iter().all(|sample| sample.is_good()) && both).then_some(())
    })
    .await;
}

/// Kills a part under load; gives what failed meanwhile.
async fn killed(mesh: &Mesh, pid: i32, what: &str) -> std::collections::BTreeMap<String, usize> {
    let target = mesh.answers("any.test", "/").await;
    let load = Load::start(&target, 4);
    load.passes(200).await;
    kill(pid);
    load.passes(100).await;
    recovered(&load).await;
    let samples = load.finish().await;
    let failed = failures(&samples);
    println!("{what} killed: {} requests, failed {failed:?}", samples.len());
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_part_may_die() {
    let _alone = crate::one_mesh_at_a_time().await;
    let before = links();
    let mut mesh = Mesh::up(example(User::Invoker), User::Invoker, &[]);
    served(&mesh).await;

    let control_plane = mesh.process(&["lateen control-plane"]);
    let failed = killed(&mesh, control_plane, "the control plane").await;
    assert!(failed.is_empty(), "proxies keep their last good configuration: {failed:#?}");
    wait::until("another control plane runs", || async {
        let found = mesh.processes().into_iter().find(|(_, process)| process.line.contains("lateen control-plane"));
        found.filter(|(pid, _)| *pid != control_plane)
    })
    .await;
    config_still_flows(&mesh).await;

    // Its requests in flight die with it; later ones must find another way or the next instance.
    let app = mesh.process(&["lateen", "app", "--version v1"]);
    answered(&killed(&mesh, app, "the application v1").await);
    let sidecar = sidecar(&mesh, "helloworld-v1-").await;
    answered(&killed(&mesh, sidecar, "the sidecar of v1").await);
    let gateway = sidecar_of(&mesh, "istio-system", "istio-ingressgateway-").await;
    killed(&mesh, gateway, "the gateway").await;

    let traces = Traces::of(&mesh, before);
    let supervisor = mesh.supervisor().pid();
    kill(supervisor);
    mesh.supervisor().exit().await;
    traces.vanish(&mesh.state()).await;
    mesh.up_again(&[]);
    let target = served(&mesh).await;
    let load = Load::start(&target, 4);
    load.passes(1000).await;
    let samples = load.finish().await;
    assert_all_good(&samples);
    assert_share(&samples, "v1", 0.9);
    mesh.down().await;
}

/// The gateway answered everything, if only that there is nobody to answer.
fn answered(failed: &std::collections::BTreeMap<String, usize>) {
    assert!(failed.keys().all(|kind| kind.starts_with("HTTP/1.1 503")), "requests without an answer: {failed:#?}");
}

/// A changed rule reaches the gateway from the new control plane.
async fn config_still_flows(mesh: &Mesh) {
    let target = mesh.answers("any.test", "/").await;
    crate::canary::edit(mesh, "weight: 90", "weight: 0");
    wait::until("only v2 answers", || async {
        let load = Load::start(&target, 2);
        load.passes(50).await;
        let samples = load.finish().await;
        samples.iter().all(|sample| version(sample).as_deref() == Some("v2")).then_some(())
    })
    .await;
    crate::canary::edit(mesh, "weight: 0", "weight: 90");
}

async fn sidecar(mesh: &Mesh, prefix: &str) -> i32 {
    sidecar_of(mesh, "canary", prefix).await
}

/// The proxy process of a pod: the one that shares the pod's network namespace.
async fn sidecar_of(mesh: &Mesh, namespace: &str, prefix: &str) -> i32 {
    let pod = mesh.pod(namespace, prefix).await;
    let link = mesh.prints(&["exec", "-n", namespace, &pod, "--", "readlink", "/proc/self/ns/net"]).await;
    let found: Vec<i32> = mesh
        .processes()
        .into_iter()
        .filter(|(_, process)| process.namespaces.contains(link.trim()) && process.line.contains("lateen proxy"))
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(found.len(), 1, "proxies of {pod}");
    found[0]
}
