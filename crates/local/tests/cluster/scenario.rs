//! One cluster's life.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use lateen_galley::Kind;
use lateen_local::client::{Client, ClientError, Exec, LogOptions, Selection, Streams};
use lateen_local::cluster::{Cluster, GatewayEntry, Options, Progress};
use lateen_local::kubelet::ImageCommands;
use lateen_local::node::{NodeConfig, start};
use serde_json::Value;
use tokio::sync::mpsc;

use super::app;

/// For any one thing to come about; each takes a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Node ports nobody on this machine uses: other meshes may be running.
#[derive(Clone, Copy)]
struct Ports {
    web: u16,
    gateway: u16,
}

impl Ports {
    fn free() -> Self {
        let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let mut ports = (0..).map(|_| rand::random_range(30000..=32767)).filter(free);
        Self { web: ports.next().unwrap(), gateway: ports.next().unwrap() }
    }
}

fn manifests(image: &str, ports: Ports) -> String {
    let Ports { web, gateway } = ports;
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: istio-ingressgateway, namespace: istio-system}}
spec:
  type: LoadBalancer
  selector: {{istio: ingressgateway}}
  ports: [{{name: http2, port: 80, targetPort: 8080, nodePort: {gateway}}}]
---
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{istio-injection: disabled}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: greeting, namespace: shop}}
data: {{text: hello}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http, nodePort: {web}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: pods, namespace: shop}}
spec: {{clusterIP: None, selector: {{app: web}}, ports: [{{name: http, port: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {image}
        ports: [{{name: http, containerPort: 8080}}]
        env:
        - {{name: GREETING, valueFrom: {{configMapKeyRef: {{name: greeting, key: text}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: client, image: none, command: [sleep, '1000']}}
"
    )
}

/// Every scenario.
pub const NAMES: [&str; 2] = ["life", "inherited_listeners"];

pub fn run(name: &str) {
    let node = start(NodeConfig::default()).unwrap_or_else(|error| panic!("{error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shop.yaml");
        let ports = Ports::free();
        std::fs::write(&file, manifests("web:v1", ports)).unwrap();
        let inherit = name == "inherited_listeners";
        let gateway_entry = if inherit { GatewayEntry::Inherit } else { GatewayEntry::Relay };
        let options = Options { gateway_entry, ..options(directory.path(), &file) };
        let (sender, mut progress) = mpsc::unbounded_channel();
        let begun = Instant::now();
        let cluster = Cluster::start(options.clone(), node.into_handle().unwrap(), sender).await.unwrap();
        if tokio::time::timeout(PATIENCE, cluster.ready()).await.is_err() {
            let pods = cluster.client().list(Kind::Pod, &Selection::default()).await.unwrap();
            panic!("not ready: {:?}\n{pods:#}", cluster.waiting());
        }
        println!("ready after {} ms", begun.elapsed().as_millis());
        let client = cluster.client().clone();

        if inherit {
            the_gateway_accepts_host_clients_itself(&client, ports).await;
            within("the end", cluster.shutdown()).await;
            return;
        }
        names_and_addresses_lead_to_pods(&client).await;
        host_ports_lead_to_pods_and_the_gateway(&client, ports).await;
        commands_run_in_pods(&client).await;
        logs_are_kept(&client).await;
        a_crashed_container_is_restarted(&client).await;
        a_new_template_replaces_pods_without_a_failed_request(&client, &file, ports, &mut progress).await;

        a_changed_pod_begins_anew(&client).await;
        manifests_mean_what_they_say(&client).await;
        what_is_deleted_ends(&client).await;

        let begun = Instant::now();
        within("the end", cluster.shutdown()).await;
        println!("down after {} ms", begun.elapsed().as_millis());
        let left: Vec<_> =
            std::fs::read_dir(&options.state_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    });
}

fn options(directory: &Path, file: &Path) -> Options {
    Options {
        state_dir: directory.join("state"),
        paths: vec![file.to_owned()],
        input: None,
        namespace: "default".to_owned(),
        images: ImageCommands::parse(["web:v1=lateen serve v1", "web:v2=lateen serve v2"]).unwrap(),
        control_plane: vec!["sleep".into(), "1000".into()],
        authority: None,
        search_path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
        working_directory: "/".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        gateway_entry: GatewayEntry::Relay,
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Asks again and again until the answer is what it should be.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn exec(client: &Client, words: &[&str], input: Option<&'static [u8]>) -> (i32, String, String) {
    let (stdout, mut out) = tokio::io::duplex(1 << 20);
    let (stderr, mut err) = tokio::io::duplex(1 << 20);
    let streams = Streams {
        stdin: input.map(|input| Box::new(input) as Box<dyn tokio::io::AsyncRead + Send + Unpin>),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
    };
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    let exec = Exec { namespace: "shop".to_owned(), pod: "client".to_owned(), command, ..Exec::default() };
    let code = within("a command", client.exec(&exec, streams)).await.unwrap();
    let (mut output, mut errors) = (String::new(), String::new());
    tokio::io::AsyncReadExt::read_to_string(&mut out, &mut output).await.unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut err, &mut errors).await.unwrap();
    (code, output, errors)
}

async fn names_and_addresses_lead_to_pods(client: &Client) {
    for url in ["web:80/", "web.shop:80/", "web.shop.svc.cluster.local:80/", "pods:8080/", "web.shop.svc:80/"] {
        let (code, output, errors) = exec(client, &["lateen", "fetch", url], None).await;
        assert!(code == 0 && output.starts_with("v1 web-"), "{url}: {code} {output:?} {errors:?}");
    }
    let (code, _, errors) = exec(client, &["lateen", "fetch", "nobody:80/"], None).await;
    assert_ne!(code, 0, "{errors}");
}

async fn host_ports_lead_to_pods_and_the_gateway(client: &Client, ports: Ports) {
    assert!(asked(format!("127.0.0.1:{}/", ports.web)).await.unwrap().starts_with("v1 web-"));
    assert_eq!(asked(format!("127.0.0.1:{}/", ports.gateway)).await.unwrap(), "gateway");
    let gateway = client.get(Kind::Service, "istio-system", "istio-ingressgateway").await.unwrap();
    let balancer = gateway.pointer("/status/loadBalancer/ingress/0/ip").and_then(Value::as_str);
    if let Some(ip) = balancer {
        assert_eq!(asked(format!("{ip}:80/")).await.unwrap(), "gateway");
    }
    let everywhere = Selection { namespace: Some("istio-system".to_owned()), ..Selection::default() };
    let table = client.table(Kind::Service, &everywhere, None).await.unwrap();
    let cells = &table["rows"][0]["cells"];
    assert_eq!(cells[3], balancer.unwrap_or("<pending>"));
    assert_eq!(cells[4], format!("80:{}/TCP", ports.gateway));
}

async fn the_gateway_accepts_host_clients_itself(client: &Client, ports: Ports) {
    let gateway = client.get(Kind::Service, "istio-system", "istio-ingressgateway").await.unwrap();
    let mut addresses = vec![format!("127.0.0.1:{}/", ports.gateway)];
    let balancer = gateway.pointer("/status/loadBalancer/ingress/0/ip").and_then(Value::as_str);
    addresses.extend(balancer.map(|ip| format!("{ip}:80/")));
    for address in addresses {
        assert_eq!(asked(address.clone()).await.unwrap(), "inheritor");
        // Its process goes and another one takes its place: who connects meanwhile waits in the listener's queue.
        assert!(asked(address.replace('/', "/crash")).await.is_err());
        assert_eq!(asked(address).await.unwrap(), "inheritor");
    }
}

async fn a_changed_pod_begins_anew(client: &Client) {
    let mut pod = client.get(Kind::Pod, "shop", "client").await.unwrap();
    let uid = pod["metadata"]["uid"].clone();
    pod["spec"]["containers"][0]["env"] = serde_json::json!([{"name": "CHANGED", "value": "yes"}]);
    client.replace(Kind::Pod, "shop", "client", &pod).await.unwrap();
    let command = || Exec {
        namespace: "shop".to_owned(),
        pod: "client".to_owned(),
        command: ["sh", "-c", "test $CHANGED = yes"].map(str::to_owned).to_vec(),
        ..Exec::default()
    };
    let nowhere = || Streams { stdin: None, stdout: Box::new(tokio::io::sink()), stderr: Box::new(tokio::io::sink()) };
    eventually("the changed pod", || async { matches!(client.exec(&command(), nowhere()).await, Ok(0)) }).await;
    assert_eq!(client.get(Kind::Pod, "shop", "client").await.unwrap()["metadata"]["uid"], uid);
}

/// A pod that uses what manifests can say of containers.
fn elaborate() -> Value {
    let volumes = serde_json::json!([
        {"name": "shared", "emptyDir": {}},
        {"name": "greeting", "configMap": {"name": "greeting"}},
    ]);
    let mounts = serde_json::json!([
        {"name": "shared", "mountPath": "/shared"},
        {"name": "greeting", "mountPath": "/etc/greeting"},
    ]);
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "elaborate"},
        "spec": {
            "terminationGracePeriodSeconds": 0, "volumes": volumes,
            "initContainers": [{
                "name": "first", "image": "none", "volumeMounts": mounts,
                "command": ["sh", "-c", "cat /etc/greeting/text > /shared/file"],
            }],
            "containers": [{
                "name": "app", "image": "none", "volumeMounts": mounts, "workingDir": "/shared",
                "command": ["sh", "-c", "cat file; echo; touch alive; exec sleep 1000"],
                "readinessProbe": {"exec": {"command": ["test", "-e", "/shared/ready"]}, "periodSeconds": 1},
                "livenessProbe": {"exec": {"command": ["test", "-e", "/shared/alive"]}, "periodSeconds": 1, "failureThreshold": 1},
            }],
        },
    })
}

async fn manifests_mean_what_they_say(client: &Client) {
    client.apply(&elaborate(), "shop", false).await.unwrap();
    let state = |index: usize| async move {
        let pod = client.get(Kind::Pod, "shop", "elaborate").await.unwrap();
        pod["status"]["containerStatuses"][index].clone()
    };
    eventually("the application after its init container", || async {
        log(client, "elaborate", LogOptions::default()).await.is_ok_and(|text| text.starts_with("hello"))
    })
    .await;
    assert_eq!(state(0).await["ready"], false, "its probe says no");
    let touch = |file: &str, command: &str| Exec {
        namespace: "shop".to_owned(),
        pod: "elaborate".to_owned(),
        command: [command, file].map(str::to_owned).to_vec(),
        ..Exec::default()
    };
    let nowhere = || Streams { stdin: None, stdout: Box::new(tokio::io::sink()), stderr: Box::new(tokio::io::sink()) };
    assert_eq!(client.exec(&touch("/shared/ready", "touch"), nowhere()).await.unwrap(), 0);
    eventually("readiness", || async { state(0).await["ready"] == true }).await;
    assert_eq!(client.exec(&touch("/shared/alive", "rm"), nowhere()).await.unwrap(), 0);
    eventually("the restart of what is not alive", || async { state(0).await["restartCount"] == 1 }).await;

    for (name, code, phase) in [("good", "0", "Succeeded"), ("bad", "3", "Failed")] {
        let once = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "containers": [
                {"name": "once", "image": "none", "command": ["sh", "-c", "exit $(CODE)"], "env": [{"name": "CODE", "value": code}]},
            ]},
        });
        client.apply(&once, "shop", false).await.unwrap();
        eventually(phase, || async { client.get(Kind::Pod, "shop", name).await.unwrap()["status"]["phase"] == phase })
            .await;
    }

    let unmapped = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "unmapped"},
        "spec": {"containers": [{"name": "app", "image": "quay.io/some/app:v1"}]},
    });
    client.apply(&unmapped, "shop", false).await.unwrap();
    eventually("what to do about an image", || async {
        let pod = client.get(Kind::Pod, "shop", "unmapped").await.unwrap();
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "ErrImagePull"
            && waiting["message"].as_str().unwrap().contains("--image 'quay.io/some/app:v1=COMMAND'")
    })
    .await;
}

async fn what_is_deleted_ends(client: &Client) {
    client.merge_patch(Kind::Deployment, "shop", "web", &serde_json::json!({"spec": {"replicas": 1}})).await.unwrap();
    eventually("one pod alone", || async { pods(client).await.len() == 1 }).await;
    let last = pods(client).await.remove(0);
    client.delete(Kind::Pod, "shop", name(&last), Some(0)).await.unwrap();
    eventually("another pod in its place", || async {
        let pods = pods(client).await;
        let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        pods.len() == 1 && pods.iter().all(ready) && name(&pods[0]) != name(&last)
    })
    .await;
    client.delete(Kind::Deployment, "shop", "web", None).await.unwrap();
    eventually("no pod", || async { pods(client).await.is_empty() }).await;
    client.delete(Kind::Namespace, "", "shop", None).await.unwrap();
    let gone = client.get(Kind::Pod, "shop", "client").await.unwrap_err();
    assert!(gone.is_not_found());
}

async fn asked(url: String) -> std::io::Result<String> {
    tokio::task::spawn_blocking(move || app::ask(&url)).await.unwrap()
}

async fn commands_run_in_pods(client: &Client) {
    let (code, output, errors) = exec(client, &["sh", "-c", "cat; echo $POD_NAME >&2; exit 7"], Some(b"given")).await;
    assert_eq!((code, output.as_str(), errors.as_str()), (7, "given", "client\n"));
    let (code, output, _) = exec(client, &["hostname"], None).await;
    assert_eq!((code, output.as_str()), (0, "client\n"));
    let command = Exec {
        namespace: "shop".to_owned(),
        pod: "client".to_owned(),
        command: vec!["none".to_owned()],
        ..Exec::default()
    };
    let nowhere = || Streams { stdin: None, stdout: Box::new(tokio::io::sink()), stderr: Box::new(tokio::io::sink()) };
    assert!(matches!(client.exec(&command, nowhere()).await, Err(ClientError::Refused(_))));
    let missing = Exec { pod: "nobody".to_owned(), ..command };
    assert!(client.exec(&missing, nowhere()).await.unwrap_err().is_not_found());
}

async fn pods(client: &Client) -> Vec<Value> {
    let selection =
        Selection { namespace: Some("shop".to_owned()), labels: "app=web".to_owned(), ..Selection::default() };
    client.list(Kind::Pod, &selection).await.unwrap()["items"].as_array().unwrap().clone()
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

async fn log(client: &Client, pod: &str, options: LogOptions) -> Result<String, ClientError> {
    let mut log = client.logs("shop", pod, &options).await?;
    let mut text = String::new();
    while let Some(piece) = log.next().await? {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    Ok(text)
}

async fn logs_are_kept(client: &Client) {
    for pod in pods(client).await {
        assert_eq!(log(client, name(&pod), LogOptions::default()).await.unwrap(), "serving v1 at 8080 for hello\n");
    }
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    assert_eq!(log(client, "client", previous).await.unwrap_err().code(), Some(400));
}

async fn a_crashed_container_is_restarted(client: &Client) {
    let pod = pods(client).await.remove(0);
    let address = pod["status"]["podIP"].as_str().unwrap();
    let (code, ..) = exec(client, &["lateen", "fetch", &format!("{address}:8080/crash")], None).await;
    assert_ne!(code, 0);
    let name = name(&pod);
    eventually("the restart", || async {
        let pod = client.get(Kind::Pod, "shop", name).await.unwrap();
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true && status["lastState"]["terminated"]["exitCode"] == 3
    })
    .await;
    let previous = LogOptions { previous: true, ..LogOptions::default() };
    assert!(log(client, name, previous).await.unwrap().starts_with("serving v1"));
}

async fn a_new_template_replaces_pods_without_a_failed_request(
    client: &Client,
    file: &Path,
    ports: Ports,
    progress: &mut mpsc::UnboundedReceiver<Progress>,
) {
    let url = format!("127.0.0.1:{}/", ports.web);
    std::fs::write(file, manifests("web:v2", ports)).unwrap();
    let mut old = 0;
    within("the new version alone", async {
        loop {
            let answer = asked(url.clone()).await.unwrap();
            if answer.starts_with("v1 ") {
                old += 1;
            }
            let pods = pods(client).await;
            let new = |pod: &Value| pod["spec"]["containers"][0]["image"] == "web:v2";
            if pods.len() == 2 && pods.iter().all(new) {
                break;
            }
        }
    })
    .await;
    assert!(old > 0, "the old version served until the new one could");
    assert!(asked(url).await.unwrap().starts_with("v2 "));
    let mut seen = Vec::new();
    while let Ok(event) = progress.try_recv() {
        seen.push(event);
    }
    assert!(seen.iter().any(|event| matches!(event, Progress::Changed { objects: 1, .. })), "{seen:?}");

    std::fs::write(file, manifests("web:v2", ports).replace("replicas: 2", "replicsa: 2")).unwrap();
    let refused = within("the refusal", async {
        loop {
            if let Progress::Refused(text) = progress.recv().await.unwrap() {
                return text;
            }
        }
    })
    .await;
    assert!(refused.contains("shop.yaml, document 6") && refused.contains("replicsa"), "{refused}");
}
