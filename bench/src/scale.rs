//! A mesh of many services: what the proxies that know all of them weigh, what one weighs that a Sidecar resource
//! lets know three, and what a change of one endpoint, or of one rule, costs each process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::process::Cost;
use lateen_tests::{peers, wait};
use serde_json::Value;

/// Endpoints of each service.
const ENDPOINTS: usize = 5;
/// Services the scoped client may know.
const SCOPED_TO: usize = 3;
/// Changes of one endpoint each, one after the other.
const CHANGES: usize = 200;
/// Edits of one rule each, one after the other.
const EDITS: usize = 50;
const NAMESPACE: &str = "scale";
/// Processes that are compared: a name, and whose process it is.
const CLIENTS: [&str; 3] = ["lateen", "scoped", "envoy"];

/// What was found at one number of services.
pub struct Found {
    services: usize,
    parts: BTreeMap<&'static str, Part>,
}

/// What was found of one process.
#[derive(Clone, Copy, Default)]
struct Part {
    /// Resident before there were any services, MiB.
    empty: f64,
    /// Resident with all of them, MiB.
    full: f64,
    /// CPU from no service to all of them, milliseconds.
    load: f64,
    /// CPU for one change of one endpoint, milliseconds.
    change: f64,
    /// CPU for one edit of one rule, milliseconds.
    edit: f64,
}

/// Starts a mesh with three clients, gives it so many services, changes endpoints, measures, takes it down.
pub async fn measure(services: usize) -> Found {
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a directory");
    std::fs::write(manifests.join("clients.yaml"), clients()).expect("the clients are written");
    let envoy =
        format!("envoy={} --disable-hot-restart -l warning --concurrency 1 -c $BOOTSTRAP", peers::envoy().display());
    let mut mesh = Mesh::up(dir, User::Invoker, &["--image", &envoy]);
    mesh.ready(NAMESPACE, CLIENTS.len()).await;
    acknowledged(&mesh).await;
    let pids = pids(&mesh).await;
    let costs = |pids: &BTreeMap<&'static str, i32>| -> BTreeMap<&'static str, Cost> {
        pids.iter().map(|(name, pid)| (*name, Cost::of(*pid).expect("it still runs"))).collect()
    };

    let empty = costs(&pids);
    apply(&mesh, &mesh.state().join("services.yaml"), &world(services)).await;
    let full = costs(&pids);
    let file = mesh.state().join("change.yaml");
    for change in 0..CHANGES {
        // Of a service that all of them know.
        apply(&mesh, &file, &endpoints(0, change + 1)).await;
    }
    let changed = costs(&pids);
    for turn in 0..EDITS {
        apply(&mesh, &file, &rule(0, turn + 1)).await;
    }
    let edited = costs(&pids);
    mesh.down().await;

    let mib = |cost: &Cost| cost.rss_kib as f64 / 1024.0;
    let cpu = |before: &Cost, after: &Cost| (after.cpu_us - before.cpu_us) as f64 / 1e3;
    let parts = pids.keys().map(|name| {
        let (empty, full, changed, edited) = (&empty[name], &full[name], &changed[name], &edited[name]);
        let change = cpu(full, changed) / CHANGES as f64;
        let edit = cpu(changed, edited) / EDITS as f64;
        (*name, Part { empty: mib(empty), full: mib(full), load: cpu(empty, full), change, edit })
    });
    Found { services, parts: parts.collect() }
}

/// Where a proxy finds its bootstrap.
const BOOTSTRAP: &str = "/etc/istio/proxy/envoy-rev.json";

/// Which process plays which part. A proxy's bootstrap file, in its own file system, names its pod.
async fn pids(mesh: &Mesh) -> BTreeMap<&'static str, i32> {
    let mut pids = BTreeMap::from([("control plane", mesh.process(&["lateen control-plane"]))]);
    for pod in mesh.pods(NAMESPACE).await {
        let said = |at: &str| pod.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = CLIENTS.into_iter().find(|name| *name == said("/metadata/labels/app")).expect("a client");
        let pod = said("/metadata/name");
        // Beside an Envoy its agent runs, which is told how to start it.
        let proxies = mesh
            .processes()
            .into_iter()
            .filter(|(_, process)| process.line.contains(BOOTSTRAP) && !process.line.starts_with("lateen agent"));
        let found = proxies.map(|(pid, _)| pid).find(|pid| {
            let bootstrap = std::fs::read_to_string(format!("/proc/{pid}/root{BOOTSTRAP}"));
            bootstrap.is_ok_and(|text| text.contains(&pod))
        });
        pids.insert(name, found.expect("the pod's proxy"));
    }
    pids
}

/// Applies manifests and waits until every proxy has taken what follows from them.
async fn apply(mesh: &Mesh, file: &Path, text: &str) {
    std::fs::write(file, text).expect("the manifests are written");
    mesh.prints(&["apply", "--wait", "-f", &file.display().to_string()]).await;
    acknowledged(mesh).await;
}

async fn acknowledged(mesh: &Mesh) {
    wait::until("every proxy has acknowledged all it was sent", || async {
        let proxies: Vec<Value> = serde_json::from_str(&mesh.control_plane("/debug/syncz").await).ok()?;
        let synced = |proxy: &Value| proxy["synced"] == true;
        (proxies.len() > CLIENTS.len() && proxies.iter().all(synced)).then_some(())
    })
    .await;
}

/// Three clients that differ in their sidecars.
fn clients() -> String {
    let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    for name in CLIENTS {
        let image = if name == "envoy" { "{sidecar.istio.io/proxyImage: envoy}" } else { "{}" };
        let _ = write!(
            text,
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n\
             \x20 selector: {{matchLabels: {{app: {name}}}}}\n  template:\n\
             \x20   metadata: {{labels: {{app: {name}}}, annotations: {image}}}\n    spec:\n      containers:\n\
             \x20     - {{name: app, image: lateen, command: [lateen, app], ports: [{{containerPort: 8080}}]}}\n"
        );
    }
    let hosts: String =
        (0..SCOPED_TO).map(|index| format!("    - ./svc-{index}.{NAMESPACE}.svc.cluster.local\n")).collect();
    let _ = write!(
        text,
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: scoped, namespace: {NAMESPACE}}}\nspec:\n\
         \x20 workloadSelector: {{labels: {{app: scoped}}}}\n  egress:\n  - hosts:\n{hosts}"
    );
    text
}

/// So many services, each with two subsets and a rule that divides its requests between them.
fn world(services: usize) -> String {
    let mut text = String::new();
    for index in 0..services {
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: svc-{index}, namespace: {NAMESPACE}}}\nspec:\n\
             \x20 ports: [{{name: http, port: 80, targetPort: 8080}}]\n---\n\
             apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: svc-{index}, namespace: {NAMESPACE}}}\nspec:\n\
             \x20 host: svc-{index}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n---\n\
             {}---\n{}---\n",
            rule(index, 0),
            endpoints(index, 0)
        );
    }
    text
}

/// The rule of a service; with another `turn` its limit is another.
fn rule(index: usize, turn: usize) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{index}, namespace: {NAMESPACE}}}\nspec:\n\
         \x20 hosts: [svc-{index}]\n  http:\n  - timeout: {}s\n    retries: {{attempts: 3, retryOn: \"5xx\"}}\n    route:\n\
         \x20   - {{destination: {{host: svc-{index}, subset: v1}}, weight: 90}}\n\
         \x20   - {{destination: {{host: svc-{index}, subset: v2}}, weight: 10}}\n",
        10 + turn
    )
}

/// The endpoints of a service; with another `turn` the last one is another.
fn endpoints(index: usize, turn: usize) -> String {
    let (high, low) = (index / 250, index % 250 + 1);
    let mut list = String::new();
    for endpoint in 0..ENDPOINTS {
        let (net, first) =
            if endpoint + 1 == ENDPOINTS { (172 + turn / 100, 100 + turn % 100) } else { (172, endpoint) };
        let _ = writeln!(list, "- {{addresses: [{net}.{first}.{high}.{low}], conditions: {{ready: true}}}}");
    }
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: svc-{index}, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: svc-{index}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints:\n{list}"
    )
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "\n{} services of {ENDPOINTS} endpoints, 2 subsets and a rule each", self.services)?;
        writeln!(
            f,
            "  {:<14} {:>12} {:>12} {:>14} {:>20} {:>14}",
            "", "empty, MiB", "full, MiB", "to load, ms", "one endpoint, ms", "one rule, ms"
        )?;
        for (name, part) in &self.parts {
            writeln!(
                f,
                "  {name:<14} {:>12.1} {:>12.1} {:>14.0} {:>20.2} {:>14.2}",
                part.empty, part.full, part.load, part.change, part.edit
            )?;
        }
        if let (Some(ours), Some(scoped), Some(envoy)) =
            (self.parts.get("lateen"), self.parts.get("scoped"), self.parts.get("envoy"))
        {
            writeln!(f, "  memory of ours / Envoy's: {:.2}; of which the services: {:.2}", ours.full / envoy.full, {
                (ours.full - ours.empty) / (envoy.full - envoy.empty)
            })?;
            writeln!(
                f,
                "  scoped to {SCOPED_TO} services, above an empty mesh: {:.1} MiB",
                scoped.full - scoped.empty
            )?;
        }
        Ok(())
    }
}
