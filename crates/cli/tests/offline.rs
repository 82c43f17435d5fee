//! `lateen test --offline`: every example's promise kept without a mesh, and a promise that is not kept told, with why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Runs `lateen test --offline` where no mesh is.
fn offline(arguments: &[&str]) -> Output {
    let nowhere = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_lateen"))
        .args(["test", "--offline", "--state-dir"])
        .arg(nowhere.path())
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_example_keeps_its_promise() {
    let folders = std::fs::read_dir(examples()).unwrap().flatten().map(|entry| entry.path());
    let folders: Vec<PathBuf> = folders.filter(|folder| folder.join("test.yaml").is_file()).collect();
    assert!(folders.len() > 10, "{folders:?}");
    for folder in folders {
        let output = offline(&["-f", folder.to_str().unwrap()]);
        let (out, errors) = said(&output);
        assert!(output.status.success(), "{}\n{out}{errors}", folder.display());
        // Nothing was refused by a proxy.
        assert!(!errors.contains("Warning: pod"), "{errors}");
    }
}

/// The canary example's test with something else expected.
fn canary(from: &str, to: &str) -> tempfile::NamedTempFile {
    changed("canary", from, to)
}

/// An example's test with something else said.
fn changed(example: &str, from: &str, to: &str) -> tempfile::NamedTempFile {
    let text = std::fs::read_to_string(examples().join(example).join("test.yaml")).unwrap();
    assert!(text.contains(from));
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), text.replace(from, to)).unwrap();
    file
}

#[test]
fn a_broken_promise_is_told_and_explained() {
    let test = canary("helloworld/v1: 90%", "helloworld/v1: 50%");
    let manifests = examples().join("canary");
    let output = offline(&["-f", test.path().to_str().unwrap(), "--manifests", manifests.to_str().unwrap()]);
    let (out, errors) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{out}{errors}");
    for line in [
        "✗ answeredBy helloworld/v1",
        "why 200 from helloworld-v2",
        "cluster outbound|8080|v2|helloworld.canary.svc.cluster.local, by weight 10 of 100",
        "virtual host inbound|http|8080, route 0 (default)",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
}

#[test]
fn whoever_is_turned_away_from_tls_is_told_why() {
    let manifests = examples().join("gateway-tls");
    for (from, to, expected) in [
        ("https://shop.test/, tls: {}", "https://shop.test/, tls: {authority: elsewhere}", "which is not believed"),
        ("https://shop.test/, tls: {}", "https://shop.test/, tls: {serverName: admin.test}", "shows no certificate"),
        ("hosts: [shop.test]", "hosts: [shop.example]", "certificate is not for shop.test"),
        ("shop: {hosts: [shop.test]}", "shop: {hosts: [shop.test], expired: true}", "certificate has expired"),
        ("- {name: shop-credential,", "- {name: soap-credential,", "certificate is none of the authority test"),
        ("certificate: admin, authorities: [test]", "certificate: admin, authorities: [elsewhere]", "is not believed"),
    ] {
        let test = changed("gateway-tls", from, to);
        let (path, manifests) = (test.path().to_str().unwrap(), manifests.to_str().unwrap());
        let output = offline(&["-f", path, "--manifests", manifests, "--explain"]);
        let (out, errors) = said(&output);
        let steps = out.split("\n  who comes without TLS").next().unwrap();
        let steps = if from.starts_with("certificate: admin") { &out } else { steps };
        assert!(!output.status.success() && steps.contains(expected), "{to}\n{out}{errors}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let folder = examples().join("canary");
    let seen = |seed: &str| {
        let (out, _) = said(&offline(&["-f", folder.to_str().unwrap(), "--explain", "--seed", seed]));
        // The last line has the time it took.
        out.lines().take_while(|line| !line.contains(" kept,")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = seen("7");
    assert!(first.len() > 10);
    assert_eq!(first, seen("7"));
    assert_ne!(first, seen("8"));
}

#[test]
fn what_cannot_be_run_is_said() {
    let cases = [
        ("canary/test.yaml", "there are no manifests in these files"),
        ("canary/app.yaml", "no traffic test is in these files"),
    ];
    for (file, expected) in cases {
        let output = offline(&["-f", examples().join(file).to_str().unwrap()]);
        let (out, errors) = said(&output);
        assert!(!output.status.success() && errors.contains(expected), "{file}: {out}{errors}");
    }
    let test = canary("from: helloworld-v2", "from: helloworld-v9");
    let manifests = examples().join("canary");
    let output = offline(&["-f", test.path().to_str().unwrap(), "--manifests", manifests.to_str().unwrap()]);
    let (out, _) = said(&output);
    assert!(out.contains("there is no workload helloworld-v9 in namespace canary to send from"), "{out}");
}

#[test]
fn what_the_mesh_would_refuse_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["app.yaml", "routing.yaml", "test.yaml"] {
        let text = std::fs::read_to_string(examples().join("canary").join(file)).unwrap();
        std::fs::write(folder.path().join(file), text.replace("weight: 90", "weight: -90")).unwrap();
    }
    let output = offline(&["-f", folder.path().to_str().unwrap()]);
    let (_, errors) = said(&output);
    assert!(!output.status.success() && errors.contains("spec.http[0].route[0].weight"), "{errors}");
}

/// A gateway that expects PROXY protocol headers, a client whose name they tell, and one that sends none.
const TOLD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "defaultConfig: {gatewayTopology: {proxyProtocol: {}}}"}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: one, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{from: [{source: {remoteIpBlocks: [203.0.113.9]}}]}]
---
apiVersion: test.lateen.dev/v1alpha1
kind: TrafficTest
metadata: {name: told, namespace: canary}
spec:
  steps:
  - {name: who is let in, send: {url: "http://helloworld.test/", proxyProtocol: 203.0.113.9}, expect: {status: 200, json: {/headers/x-forwarded-for: 203.0.113.9}}}
  - {name: who is not, send: {url: "http://helloworld.test/", proxyProtocol: 203.0.113.8}, expect: {status: 403}}
  - {name: who tells nothing, send: {url: "http://helloworld.test/"}, expect: {status: none}}
"#;

#[test]
fn clients_are_who_the_proxy_before_them_says() {
    let (folder, manifests) = (tempfile::tempdir().unwrap(), examples().join("canary"));
    let test = folder.path().join("told.yaml");
    std::fs::write(&test, TOLD).unwrap();
    let manifest = |file: &str| manifests.join(file).to_str().unwrap().to_owned();
    let (app, routing) = (manifest("app.yaml"), manifest("routing.yaml"));
    let output = offline(&["-f", test.to_str().unwrap(), "--manifests", &app, "--manifests", &routing]);
    let (out, errors) = said(&output);
    assert!(output.status.success(), "{out}{errors}");
}

#[test]
fn that_a_tunnel_is_asked_for_is_told_as_not_computed() {
    let (folder, example) = (tempfile::tempdir().unwrap(), examples().join("tcp-routing"));
    for file in ["app.yaml", "routing.yaml", "test.yaml"] {
        std::fs::copy(example.join(file), folder.path().join(file)).unwrap();
    }
    let routing = std::fs::read_to_string(example.join("routing.yaml")).unwrap();
    let tunnel = "  trafficPolicy: {tunnel: {targetHost: elsewhere.test, targetPort: 9000}}\n  subsets:\n";
    assert!(routing.contains("  subsets:\n"));
    std::fs::write(folder.path().join("routing.yaml"), routing.replace("  subsets:\n", tunnel)).unwrap();
    let (_, errors) = said(&offline(&["-f", folder.path().to_str().unwrap()]));
    let told = |line: &&str| line.contains("|v1|") && line.contains("asked for a tunnel is not computed");
    assert_eq!(errors.lines().filter(told).count(), 1, "{errors}");
}
