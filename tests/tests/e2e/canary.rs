//! The canary example, run as a person runs it.

use lateen_tests::chance::fits;
use lateen_tests::load::{Load, Sample, Target, failures};
use lateen_tests::mesh::{Mesh, Traces, User, links};
use lateen_tests::{peers, wait};
use serde_json::Value;

/// The example's manifests in a directory of their own, where they can be edited.
pub fn example(user: User) -> tempfile::TempDir {
    let dir = Mesh::place(user);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    for entry in std::fs::read_dir(peers::root().join("examples/canary")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            std::fs::copy(&path, manifests.join(entry.file_name())).unwrap();
        }
    }
    dir
}

/// Replaces text in the only manifest that has it.
pub fn edit(mesh: &Mesh, from: &str, to: &str) {
    for entry in std::fs::read_dir(mesh.manifests()).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        if text.contains(from) {
            return std::fs::write(entry.path(), text.replace(from, to)).unwrap();
        }
    }
    panic!("no manifest has {from:?}");
}

const WEIGHTS: &str = "        subset: v1
      weight: 90
    - destination:
        host: helloworld
        subset: v2
      weight: 10";

/// Answers by which one sees who answers now: four connections have some under way.
const RECENT: usize = 40;

fn weights(one: u32, two: u32) -> String {
    WEIGHTS.replace("90", &one.to_string()).replace("10", &two.to_string())
}

/// Which version answered.
pub fn version(sample: &Sample) -> Option<String> {
    let message = sample.outcome.as_ref().ok()?;
    let body: Value = serde_json::from_slice(&message.body).ok()?;
    Some(body["version"].as_str()?.to_owned())
}

/// How many of the answers came from `wanted`.
pub fn share(samples: &[Sample], wanted: &str) -> (usize, usize) {
    let versions: Vec<String> = samples.iter().filter_map(version).collect();
    (versions.iter().filter(|version| *version == wanted).count(), versions.len())
}

pub fn assert_share(samples: &[Sample], wanted: &str, share_wanted: f64) {
    let (found, total) = share(samples, wanted);
    assert!(
        fits(found, total, share_wanted),
        "{found} of {total} from {wanted}, where a share of {share_wanted} was asked"
    );
}

pub fn assert_all_good(samples: &[Sample]) {
    let failures = failures(samples);
    assert!(failures.is_empty(), "of {} requests: {failures:#?}", samples.len());
}

/// Waits until both versions are ready and the gateway answers from both.
pub async fn served(mesh: &Mesh) -> Target {
    mesh.ready("canary", 2).await;
    let target = mesh.answers("any.test", "/").await;
    wait::until("both versions answer", || async {
        let load = Load::start(&target, 2);
        load.passes(50).await;
        let samples = load.finish().await;
        let both = ["v1", "v2"].iter().all(|wanted| share(&samples, wanted).0 > 0);
        (both && samples.iter().all(Sample::is_good)).then_some(())
    })
    .await;
    target
}

/// Everything the example promises, by whoever runs it.
async fn promises(user: User) {
    let before = links();
    let mut mesh = Mesh::up(example(user), user, &[]);
    let target = served(&mesh).await;

    let load = Load::start(&target, 4);
    load.passes(2000).await;
    let samples = load.finish().await;
    assert_all_good(&samples);
    assert_share(&samples, "v1", 0.9);

    tables(&mesh).await;
    through_own_sidecar(&mesh).await;
    split_moves(&mesh, &target).await;
    broken_edit_changes_nothing(&mesh, &target).await;

    let traces = Traces::of(&mesh, before);
    assert!(traces.namespaces() >= 6, "the mesh runs in namespaces of its own: {traces:#?}");
    mesh.down().await;
    traces.vanish(&mesh.state()).await;

    mesh.up_again(&[]);
    served(&mesh).await;
    mesh.down().await;
}

async fn tables(mesh: &Mesh) {
    let text = mesh.prints(&["get", "svc", "istio-ingressgateway", "-n", "istio-system"]).await;
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
    assert_eq!(head, ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"], "{text}");
    let row: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
    assert_eq!(row[..2], ["istio-ingressgateway", "LoadBalancer"], "{text}");
    for port in ["80:31380/TCP", "443:31390/TCP"] {
        assert!(row[4].split(',').any(|word| word == port), "{port} in {text}");
    }
    let address = mesh.ingress().await;
    if row[3] == "<pending>" {
        assert_eq!(address.port(), 31380, "the node port serves where there is no external address: {text}");
    } else {
        assert_eq!(address.ip().to_string(), row[3], "{text}");
    }
    let pods = mesh.prints(&["get", "pods", "-n", "canary"]).await;
    assert_eq!(pods.lines().filter(|line| line.contains("2/2") && line.contains("Running")).count(), 2, "{pods}");
}

/// Neither curl nor the service knows of the mesh, and yet the call goes through the caller's sidecar.
pub async fn through_own_sidecar(mesh: &Mesh) {
    let pod = mesh.pod("canary", "helloworld-v2-").await;
    let count = async || {
        let log = mesh.prints(&["logs", "-n", "canary", &pod, "--proxy"]).await;
        log.lines().filter(|line| line.contains("outbound|8080||helloworld.canary.svc.cluster.local")).count()
    };
    let before = count().await;
    for name in ["helloworld", "helloworld.canary", "helloworld.canary.svc", "helloworld.canary.svc.cluster.local"] {
        let url = format!("http://{name}:8080/");
        let body = mesh.prints(&["exec", "-n", "canary", &pod, "--", "curl", "-sS", "--fail", &url]).await;
        assert!(body.contains("\"version\""), "{url}: {body}");
    }
    wait::until("the caller's sidecar logs the calls", || async { (count().await >= before + 4).then_some(()) }).await;
    let unknown = mesh.run(&["exec", "-n", "canary", &pod, "--", "curl", "-sS", "http://nobody.test:8080/"]).await;
    assert!(!unknown.status.success(), "a name that does not exist resolves");
    let code = mesh.run(&["exec", "-n", "canary", &pod, "--", "sh", "-c", "exit 7"]).await;
    assert_eq!(code.status.code(), Some(7), "exec ends with the program's exit code");
}

/// A saved file moves the split, and no request fails meanwhile.
async fn split_moves(mesh: &Mesh, target: &Target) {
    let load = Load::start(target, 4);
    load.passes(200).await;
    edit(mesh, WEIGHTS, &weights(0, 100));
    let saved = load.now();
    wait::until("the split moves", || async {
        let recent = load.last(RECENT);
        (share(&recent, "v2").0 == RECENT).then_some(())
    })
    .await;
    load.passes(200).await;
    let samples = load.finish().await;
    assert_all_good(&samples);
    let last_old =
        samples.iter().filter(|sample| version(sample).as_deref() == Some("v1")).map(|sample| sample.at).max();
    let took = last_old.unwrap_or(saved).saturating_sub(saved);
    // A second is the promise; an overloaded machine may take longer to do anything at all.
    println!("the last answer of the old version came {took:?} after saving");
    edit(mesh, &weights(0, 100), WEIGHTS);
    wait::until("the split moves back", || async {
        target.ask().await.ok().filter(|message| message.text().contains("\"v1\"")).map(|_| ())
    })
    .await;
}

async fn broken_edit_changes_nothing(mesh: &Mesh, target: &Target) {
    let load = Load::start(target, 2);
    edit(mesh, "      weight: 90", "      wieght: 90");
    wait::until("the broken edit is reported", || async {
        let output = mesh.output();
        let reported = output.contains("routing.yaml") && output.contains("wieght") && output.contains("weight");
        reported.then_some(())
    })
    .await;
    load.passes(500).await;
    let samples = load.finish().await;
    assert_all_good(&samples);
    assert_share(&samples, "v1", 0.9);
    edit(mesh, "      wieght: 90", "      weight: 90");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_whoever_runs_the_tests() {
    let _alone = crate::one_mesh_at_a_time().await;
    promises(User::Invoker).await;
}

/// The same without any privilege.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_an_ordinary_user() {
    let _alone = crate::one_mesh_at_a_time().await;
    promises(User::Nobody).await;
}

/// `up --detach` returns when all is ready, and `down` ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detached() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = example(User::Invoker);
    let state = dir.path().join("state");
    let run = |words: Vec<String>| {
        let mut command = std::process::Command::new(peers::lateen());
        command.args(words).arg("--state-dir").arg(&state);
        let output = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}:\n{text}");
        text
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    run(vec!["up".into(), dir.path().join("manifests").display().to_string(), "--detach".into()]);
    let ingress = run(words("ingress"));
    let address = ingress.trim().strip_prefix("http://").unwrap().parse().unwrap();
    let answer = Target::new(address, "any.test", "/").ask().await;
    run(words("down"));
    assert_eq!(answer.map(|message| message.status()), Ok(200), "ready means that it answers");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "somebody still listens on {address}");
}
