//! The mesh's certificate authority at work: its root followed by another, its names changed, another authority in its
//! place, and requests that notice nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lateen_citadel::authority::Settings;
use lateen_citadel::serve::{Ca, Review, ReviewError, Reviewer, SERVER_NAMES, serve};
use lateen_citadel::store::Store;
use lateen_pilot::{Config, Pilot};
use lateen_tests::load::{Load, Sample, Target, failures};
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::message::{Reader, Side};
use lateen_tests::wait;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::oneshot;

use crate::canary::{assert_all_good, example};

/// Workloads take mutual TLS alone, and connections inside the mesh are made anew every few requests, so that certificates
/// are shown all the time.
const OFTEN_ANEW: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: canary}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: helloworld, namespace: canary}
spec:
  host: helloworld
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 10}}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

/// The canary example, in which connections do not last.
fn manifests() -> tempfile::TempDir {
    let dir = example(User::Invoker);
    let routing = dir.path().join("manifests/routing.yaml");
    let text = std::fs::read_to_string(&routing).unwrap();
    let rest: Vec<&str> = text.split("---\n").filter(|one| !one.contains("kind: DestinationRule")).collect();
    std::fs::write(routing, [rest.join("---\n"), OFTEN_ANEW.to_owned()].join("---")).unwrap();
    dir
}

async fn status(mesh: &Mesh) -> Value {
    let text = mesh.prints(&["ca", "status", "--json"]).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn fingerprints(status: &Value) -> Vec<String> {
    let roots = status["roots"].as_array().unwrap();
    roots.iter().map(|root| root["fingerprint"].as_str().unwrap().to_owned()).collect()
}

/// Requests while certificates of `life` change: the control plane killed, and not back for `outage`, and the root followed
/// by another. Gives how many requests there were.
async fn certificates_change_under_load(life: Duration, outage: Duration, per_second: u32, length: Duration) -> usize {
    let (announce, life) = (format!("{}s", life.as_secs() / 4), format!("{}s", life.as_secs()));
    let mut mesh = Mesh::up(manifests(), User::Invoker, &["--cert-ttl", &life, "--announce-root", &announce]);
    let target = crate::canary::served(&mesh).await;
    let before = fingerprints(&status(&mesh).await);
    assert_eq!(before.len(), 1);

    let targets: Vec<Target> = vec![target];
    let load = Load::paced(&targets, 16, per_second);
    load.passes(100).await;
    kept_away(&mesh, outage).await;
    load.passes(100).await;
    mesh.prints(&["ca", "rotate", "--wait"]).await;
    assert_eq!(fingerprints(&status(&mesh).await).len(), 2, "the old root has signed what is in use");
    let patience = wait::PATIENCE + outage;
    let followed = wait::within(patience, || async {
        let now = fingerprints(&status(&mesh).await);
        (now.len() == 1 && now != before).then_some(())
    });
    assert!(followed.await.is_some(), "the old root goes with its last certificate: {:#}", status(&mesh).await);
    load.passes(100).await;
    wait::within(length.saturating_sub(load.now()), || async { None::<()> }).await;
    let seconds = load.now().as_secs_f64();
    let samples = load.finish().await;
    println!("{} requests in {seconds:.1} s, failed: {:?}", samples.len(), failures(&samples));
    assert_all_good(&samples);
    let unproven = samples.iter().filter(|sample| !is_proven(sample)).count();
    assert_eq!(unproven, 0, "of {} requests came without mutual TLS", samples.len());
    mesh.down().await;
    samples.len()
}

/// Whether the service was told by its sidecar that the gateway has shown its certificate.
fn is_proven(sample: &Sample) -> bool {
    let Ok(answer) = &sample.outcome else { return false };
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let told = body["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
    told.starts_with("By=spiffe://cluster.local/ns/canary/sa/default;Hash=")
        && told.contains(";URI=spiffe://cluster.local/ns/istio-system/sa/")
}

/// Kills the control plane, and holds back the one that is started in its place.
async fn kept_away(mesh: &Mesh, outage: Duration) {
    const WORDS: [&str; 2] = ["control-plane", "--secure-fd"];
    let find =
        || mesh.processes().into_iter().filter(|(_, running)| WORDS.iter().all(|word| running.line.contains(word)));
    let old = mesh.process(&WORDS);
    signal(old, libc::SIGKILL);
    let next = wait::until("the control plane is started again", || async {
        find().map(|(pid, _)| pid).find(|pid| *pid != old)
    })
    .await;
    signal(next, libc::SIGSTOP);
    tokio::time::sleep(outage).await;
    signal(next, libc::SIGCONT);
    let ready =
        wait::within(wait::PATIENCE, || async { mesh.run(&["ca", "status"]).await.status.success().then_some(()) });
    ready.await.expect("the control plane is back");
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) on a process of the mesh that this test has started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", std::io::Error::last_os_error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_notices_that_certificates_and_their_root_change() {
    let _alone = crate::one_mesh_at_a_time().await;
    certificates_change_under_load(Duration::from_secs(16), Duration::from_secs(1), 100, Duration::ZERO).await;
}

/// The same for two minutes at a thousand requests a second: `make soak`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(feature = "soak")]
async fn no_request_notices_it_in_two_minutes_of_a_thousand_a_second() {
    let _alone = crate::one_mesh_at_a_time().await;
    let (life, outage) = (Duration::from_secs(10), Duration::from_secs(5));
    certificates_change_under_load(life, outage, 1000, Duration::from_secs(120)).await;
}

/// A server of Istio's certificate service beside the mesh, which asks the mesh whose a token is.
struct Outside {
    directory: PathBuf,
    port: u16,
    api: PathBuf,
    /// Tokens it was shown.
    shown: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Outside {
    async fn start(directory: &Path, api: PathBuf) -> Outside {
        let mut outside =
            Outside { directory: directory.to_owned(), port: 0, api, shown: Arc::default(), stop: None, served: None };
        outside.begin().await;
        outside
    }

    /// Begins to serve, where it served before.
    async fn begin(&mut self) {
        let life = Duration::from_secs(6);
        let settings = Settings { default_ttl: life, max_ttl: life, ..Settings::default() };
        let store = Store::at(self.directory.join("outside")).unwrap();
        let ca = Ca::new(store.load(settings, None, SystemTime::now()).unwrap(), store);
        std::fs::write(self.root(), &**ca.bundle().borrow()).unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], self.port).into()).unwrap();
        let listener: TcpListener = socket.listen(64).unwrap();
        self.port = listener.local_addr().unwrap().port();
        let (api, shown) = (self.api.clone(), Arc::clone(&self.shown));
        let reviewer: Reviewer = Arc::new(move |token| {
            shown.fetch_add(1, Ordering::Relaxed);
            Box::pin(review(api.clone(), token))
        });
        let pilot = Arc::new(Pilot::new(Config::default()).unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        self.served = Some(tokio::spawn(async move {
            let end = async { drop(stopped.await) };
            serve(listener, ca, reviewer, pilot, end).await.unwrap();
        }));
    }

    async fn end(&mut self) {
        drop(self.stop.take());
        self.served.take().unwrap().await.unwrap();
    }

    fn root(&self) -> PathBuf {
        self.directory.join("outside-root.pem")
    }
}

/// Asks a mesh's API whose a token is.
async fn review(api: PathBuf, token: String) -> Result<Review, ReviewError> {
    let away = |error: std::io::Error| ReviewError(error.to_string());
    let mut stream = UnixStream::connect(api).await.map_err(away)?;
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["istio-ca"]}})
    .to_string();
    let head = format!(
        "POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.map_err(away)?;
    let answer =
        Reader::new(stream).message(Side::Response).await.ok_or_else(|| ReviewError("no answer".to_owned()))?;
    let answer: Value = serde_json::from_slice(&answer.body).map_err(|error| ReviewError(error.to_string()))?;
    let status = &answer["status"];
    let user = status["user"]["username"].as_str().map(str::to_owned);
    let audiences = status["audiences"].as_array().into_iter().flatten();
    Ok(Review {
        user: user.ok_or_else(|| status["error"].to_string()),
        audiences: audiences.filter_map(|one| one.as_str().map(str::to_owned)).collect(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_signs_and_may_be_away() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = manifests();
    let mut outside = Outside::start(dir.path(), dir.path().join("state/api.sock")).await;
    let address = format!("127.0.0.1:{}", outside.port);
    let root = outside.root().display().to_string();
    let options = ["--ca-address", &address, "--ca-root", &root, "--ca-name", SERVER_NAMES[0], "--log-level", "info"];
    let mut mesh = Mesh::up(dir, User::Invoker, &options);
    // Pods are ready when the control plane has told them what to do, and it knows them by the other's certificates.
    let target = crate::canary::served(&mesh).await;
    let status = status(&mesh).await;
    assert_eq!(status["signer"], "external", "{status:#}");
    assert_eq!(fingerprints(&status).len(), 2, "the control plane's own, and the other's");
    assert!(outside.shown.load(Ordering::Relaxed) >= 3, "each pod has shown its token");
    assert!(!mesh.output().contains("certificate signed"), "{}", mesh.output());

    let load = Load::paced(&[target], 4, 100);
    load.passes(50).await;
    outside.end().await;
    // Each proxy asks again and again.
    wait::until("agents find it away", || async {
        let pod = mesh.pod("canary", "helloworld-v1-").await;
        let log = mesh.prints(&["logs", "-n", "canary", &pod, "-c", "istio-proxy"]).await;
        log.contains("no certificate received").then_some(())
    })
    .await;
    load.passes(50).await;
    let before = outside.shown.load(Ordering::Relaxed);
    outside.begin().await;
    load.passes(50).await;
    assert_all_good(&load.finish().await);
    // Who has a certificate that holds shows that; a pod that begins anew shows its token.
    mesh.prints(&["delete", "pod", "-n", "canary", &mesh.pod("canary", "helloworld-v2-").await]).await;
    wait::until("it is asked again", || async { (outside.shown.load(Ordering::Relaxed) > before).then_some(()) }).await;
    mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_gets_another_name_while_its_workloads_go_on() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = manifests();
    let settings = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": text}})
        .to_string()
    };
    let file = dir.path().join("manifests/mesh.yaml");
    std::fs::write(&file, settings("trustDomain: old.example")).unwrap();
    let options = ["--cert-ttl", "6s", "--log-level", "info"];
    let mut mesh = Mesh::up(dir, User::Invoker, &options);
    let target = crate::canary::served(&mesh).await;
    assert_eq!(status(&mesh).await["trust_domain"], "old.example");
    let signed = |mesh: &Mesh, name: &str| {
        let output = mesh.output();
        output.lines().filter(|line| line.contains("certificate signed") && line.contains(name)).count()
    };
    let old = "caller=spiffe://old.example/ns/canary/sa/default";
    wait::until("names are under it", || async { (signed(&mesh, old) >= 2).then_some(()) }).await;

    let load = Load::paced(&[target], 4, 100);
    std::fs::write(&file, settings("{trustDomain: new.example, trustDomainAliases: [old.example]}")).unwrap();
    wait::until("the mesh has its new name", || async {
        (status(&mesh).await["trust_domain"] == "new.example").then_some(())
    })
    .await;
    let before = signed(&mesh, old);
    wait::until("workloads have their names renewed", || async { (signed(&mesh, old) > before + 2).then_some(()) })
        .await;
    load.passes(100).await;
    assert_all_good(&load.finish().await);
    let pod = mesh.pod("canary", "helloworld-v2-").await;
    mesh.prints(&["delete", "pod", "-n", "canary", &pod]).await;
    let new = "caller=spiffe://new.example/ns/canary/sa/default";
    wait::until("who begins anew has the new name", || async { (signed(&mesh, new) >= 1).then_some(()) }).await;
    assert!(!mesh.output().contains("refused"), "{}", mesh.output());
    mesh.down().await;
}

/// What nobody is to read: the authority's key, and every pod's token.
fn secrets(state: &Path) -> Vec<String> {
    let mut found = vec!["PRIVATE KEY".to_owned()];
    let key = std::fs::read_to_string(state.join("ca/ca-key.pem")).unwrap();
    found.extend(key.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    for pod in std::fs::read_dir(state.join("volumes")).unwrap().flatten() {
        if let Ok(token) = std::fs::read_to_string(pod.path().join("istio-token/istio-token")) {
            // Its signature: the rest is no secret by itself.
            found.extend(token.trim().rsplit('.').next().map(str::to_owned));
        }
    }
    assert!(found.len() >= 4, "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_stay_where_they_belong() {
    use std::os::unix::fs::PermissionsExt as _;
    let _alone = crate::one_mesh_at_a_time().await;
    let mut mesh = Mesh::up(manifests(), User::Invoker, &["--cert-ttl", "4s", "--log-level", "trace"]);
    crate::canary::served(&mesh).await;
    mesh.prints(&["ca", "rotate"]).await;
    let secrets = secrets(&mesh.state());
    let (one, two) = (mesh.pod("canary", "helloworld-v1-").await, mesh.pod("canary", "helloworld-v2-").await);
    let exec = |pod: String, command: &'static [&'static str]| {
        let mut words = vec!["exec".to_owned(), "-n".to_owned(), "canary".to_owned(), pod, "--".to_owned()];
        words.extend(command.iter().map(|word| (*word).to_owned()));
        words
    };

    // Nothing that is written or shown has any of them.
    let mut shown = vec![("lateen up".to_owned(), mesh.output())];
    for page in ["/debug/registryz", "/debug/syncz", "/debug/in_force", "/metrics", "/ca"] {
        shown.push((page.to_owned(), mesh.control_plane(page).await));
    }
    for pod in [&one, &two] {
        let page = format!("/debug/config_dump?proxyID={pod}.canary");
        shown.push((page.clone(), mesh.control_plane(&page).await));
        for container in ["istio-proxy", "helloworld"] {
            let log = mesh.prints(&["logs", "-n", "canary", pod, "-c", container]).await;
            shown.push((format!("{pod}'s log of {container}"), log));
        }
        for page in ["http://127.0.0.1:15000/config_dump?include_eds", "http://127.0.0.1:15000/certs"] {
            let words: Vec<String> = exec(pod.clone(), &["curl", "-sS"]).into_iter().chain([page.to_owned()]).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            shown.push((format!("{pod} {page}"), mesh.prints(&words).await));
        }
    }
    for (place, text) in &shown {
        let found = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert!(found.is_none(), "{place} shows {found:?}");
    }

    // Files are their owner's, and no process with keys leaves a core file.
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(mesh.state()), 0o700);
    for file in ["ca-key.pem", "ca-cert.pem", "issued-until"] {
        assert_eq!(mode(mesh.state().join("ca").join(file)), 0o600, "{file}");
    }
    for pod in std::fs::read_dir(mesh.state().join("volumes")).unwrap().flatten() {
        assert_eq!(mode(pod.path().join("istio-token/istio-token")), 0o600);
    }
    let keepers = mesh.processes().into_iter().filter(|(_, running)| {
        ["control-plane --api", "proxy -c", "lateen up", "/lateen up"].iter().any(|words| running.line.contains(words))
    });
    let mut seen = 0;
    for (pid, running) in keepers {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let none = core.split_whitespace().nth(4) == Some("0");
        // The node is forked before: what pods run may leave core files.
        assert!(none || running.line.contains("up "), "{pid} {}: {core}", running.line);
        seen += usize::from(none);
    }
    assert!(seen >= 5, "the control plane, three proxies, and who has the tokens' key");

    // A pod sees neither the cluster's directory, nor the proxy's token, nor another proxy's admin port.
    let state = mesh.state().display().to_string();
    for path in [state.as_str(), "/var/run/secrets/tokens", "/var/run/secrets/workload-spiffe-uds"] {
        let listed = mesh.prints(&["exec", "-n", "canary", &one, "--", "ls", "-A", path]).await;
        assert_eq!(listed, "", "{path}");
    }
    let pods = mesh.pods("canary").await;
    let other = pods.iter().find(|pod| pod["metadata"]["name"] == two.as_str()).unwrap();
    let address = other["status"]["podIP"].as_str().unwrap();
    for url in [format!("http://{address}:15000/config_dump"), format!("http://{address}:15000/quitquitquit")] {
        let asked =
            mesh.run(&["exec", "-n", "canary", &one, "--", "curl", "-s", "-m", "5", "-f", "-XPOST", &url]).await;
        assert!(!asked.status.success(), "{url}: {}", String::from_utf8_lossy(&asked.stdout));
    }
    // The control plane has no port without TLS, and no page at its port with it.
    for url in ["http://10.244.0.1:15010/", "http://10.244.0.1:8080/ready", "https://10.244.0.1:15012/ca"] {
        let asked = mesh.run(&["exec", "-n", "canary", &one, "--", "curl", "-sk", "-m", "5", "-f", url]).await;
        assert!(asked.stdout.is_empty(), "{url}: {}", String::from_utf8_lossy(&asked.stdout));
    }
    // Nor does another user of this machine get at its sockets.
    for socket in ["api.sock", "control-plane.sock"] {
        let path = mesh.state().join(socket);
        let status = std::process::Command::new(lateen_tests::peers::program("setpriv"))
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "curl", "-s", "-m", "5"])
            .arg("--unix-socket")
            .arg(&path)
            .arg("http://localhost/")
            .status()
            .unwrap();
        assert!(!status.success(), "{}", path.display());
    }
    mesh.down().await;
}
