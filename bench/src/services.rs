//! A mesh of many services: how long until a new configuration answers, and what it weighs.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use lateen_tests::load::Target;
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::process::Cost;
use lateen_tests::{peers, wait};
use serde_json::Value;

/// How many services, each with two endpoints.
const SERVICES: usize = 200;

/// What was found.
pub struct Found {
    /// From `lateen up` to the first answer of the example.
    up: Duration,
    /// From handing over the services to the first answer of the last one.
    load: Duration,
    /// From changing the route of every service to the first answer of the last one that shows it.
    change: Duration,
    /// Part and resident memory.
    memory: Vec<(&'static str, f64)>,
}

/// Starts a mesh, loads the services, changes one, measures, takes it down.
pub async fn measure() -> Found {
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a directory");
    for name in ["app.yaml", "routing.yaml"] {
        std::fs::copy(peers::root().join("examples/canary").join(name), manifests.join(name)).expect("the example");
    }
    let start = Instant::now();
    let mut mesh = Mesh::up(dir, User::Invoker, &[]);
    let first = mesh.answers("any.test", "/").await;
    let up = start.elapsed();

    let endpoints = addresses(&mesh).await;
    let file = mesh.state().join("services.yaml");
    std::fs::write(&file, services(&endpoints, "")).expect("the services are written");
    let last = Target::new(first.address, &format!("svc-{}.test", SERVICES - 1), "/");
    let load = applied(&mesh, &file, &last, None).await;
    std::fs::write(&file, services(&endpoints, "changed")).expect("the services are written");
    let change = applied(&mesh, &file, &last, Some("changed")).await;

    let processes = mesh.processes();
    let rss = |pid: i32| Cost::of(pid).map_or(0.0, |cost| cost.rss_kib as f64 / 1024.0);
    let mut weights = vec![("supervisor", rss(mesh.supervisor().pid()))];
    if let Some((pid, _)) = processes.iter().find(|(_, process)| process.line.contains("lateen control-plane")) {
        weights.push(("control plane", rss(*pid)));
    }
    let proxies: Vec<f64> = processes
        .iter()
        .filter(|(_, process)| process.line.contains("lateen proxy"))
        .map(|(pid, _)| rss(*pid))
        .collect();
    weights.push(("largest proxy", proxies.iter().copied().fold(0.0, f64::max)));
    weights.push(("smallest proxy", proxies.iter().copied().fold(f64::INFINITY, f64::min)));
    mesh.down().await;
    Found { up, load, change, memory: weights }
}

/// Applies the file and waits until the target answers 200, with the mark in a header if one is wanted.
async fn applied(mesh: &Mesh, file: &std::path::Path, target: &Target, mark: Option<&str>) -> Duration {
    let start = Instant::now();
    let file = file.display().to_string();
    let arguments = ["apply", "-f", &file];
    let output = mesh.run(&arguments);
    let answer = wait::until("the last service answers", || async {
        let message = target.ask().await.ok()?;
        let marked = mark.is_none_or(|mark| message.header("x-mark") == Some(mark));
        (message.status() == 200 && marked).then_some(())
    });
    let (output, ()) = tokio::join!(output, answer);
    assert!(output.status.success(), "lateen apply: {}", String::from_utf8_lossy(&output.stderr));
    start.elapsed()
}

/// The addresses of the example's two pods.
async fn addresses(mesh: &Mesh) -> Vec<String> {
    let pods: Vec<Value> = mesh.pods("canary").await;
    let found: Vec<String> =
        pods.iter().filter_map(|pod| Some(pod.pointer("/status/podIP")?.as_str()?.to_owned())).collect();
    assert_eq!(found.len(), 2, "two pods with addresses: {pods:?}");
    found
}

/// As many ServiceEntries, and a route from the gateway to each.
fn services(endpoints: &[String], mark: &str) -> String {
    let list: String = endpoints.iter().map(|address| format!("  - address: {address}\n")).collect();
    let mut text = String::new();
    for index in 0..SERVICES {
        let headers = match mark {
            "" => String::new(),
            mark => format!("    headers: {{response: {{set: {{x-mark: {mark}}}}}}}\n"),
        };
        let _ = write!(
            text,
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: svc-{index}, namespace: canary}}\nspec:\n\
             \x20 hosts: [svc-{index}.test]\n  location: MESH_INTERNAL\n  resolution: STATIC\n\
             \x20 ports: [{{number: 8080, name: http, protocol: HTTP}}]\n  endpoints:\n{list}---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{index}, namespace: canary}}\nspec:\n\
             \x20 hosts: [svc-{index}.test]\n  gateways: [helloworld-gateway]\n  http:\n\
             \x20 - route: [{{destination: {{host: svc-{index}.test, port: {{number: 8080}}}}}}]\n{headers}---\n"
        );
    }
    text
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "  mesh up to first answer              {:>8.0} ms", self.up.as_secs_f64() * 1e3)?;
        writeln!(f, "  {SERVICES} services applied to first answer {:>8.0} ms", self.load.as_secs_f64() * 1e3)?;
        writeln!(f, "  all of them changed, to first answer {:>8.0} ms", self.change.as_secs_f64() * 1e3)?;
        for (name, mib) in &self.memory {
            writeln!(f, "  memory of the {name:<16} {mib:>14.1} MiB")?;
        }
        Ok(())
    }
}
