//! One set of Istio rules, one set of requests: through a mesh of our proxies and through a mesh of
//! Envoys the same must come back, from the gateway and between pods.

use std::collections::BTreeMap;

use lateen_tests::load::Target;
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::message::{Reader, Side};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::canary::example;

const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: helloworld-gateway, namespace: canary}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.test, "*.wild.test"]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: helloworld, namespace: canary}
spec:
  host: helloworld
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: canary}
spec:
  hosts: [a.test, "*.wild.test"]
  gateways: [helloworld-gateway]
  http:
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /new, authority: c.test}
  - match: [{uri: {prefix: /secure}}]
    redirect: {scheme: https, redirectCode: 308}
  - match: [{uri: {prefix: /pre/}}]
    rewrite: {uri: /post/, authority: inner.test}
    route: [{destination: {host: helloworld, subset: v1}}]
  - match: [{headers: {x-user: {exact: jason}}}, {queryParams: {user: {exact: jason}}}]
    route: [{destination: {host: helloworld, subset: v2}}]
  - match: [{method: {exact: POST}, uri: {regex: "/post/[0-9]+"}}]
    headers:
      request: {set: {x-set: "1"}, add: {x-add: "2"}, remove: [x-gone]}
      response: {set: {x-version: hidden}, add: {y-add: "3"}, remove: [content-type]}
    route: [{destination: {host: helloworld, subset: v2}}]
  - match: [{withoutHeaders: {x-known: {}}, uri: {prefix: /without}}]
    route: [{destination: {host: helloworld, subset: v2}}]
  - match: [{uri: {exact: /any-case}, ignoreUriCase: true}]
    route: [{destination: {host: helloworld, subset: v2}}]
  - match: [{uri: {prefix: /late}}]
    timeout: 0.5s
    route: [{destination: {host: helloworld, subset: v1}}]
  - match: [{uri: {prefix: /again}}]
    retries: {attempts: 2, retryOn: 5xx}
    route: [{destination: {host: helloworld, subset: v1}}]
  - match: [{uri: {prefix: /subsetless}}]
    route: [{destination: {host: helloworld, subset: v9}}]
  - route: [{destination: {host: helloworld, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inside, namespace: canary}
spec:
  hosts: [helloworld]
  http:
  - match: [{uri: {prefix: /two}}]
    route: [{destination: {host: helloworld, subset: v2}}]
  - match: [{uri: {prefix: /moved}}]
    redirect: {uri: /x}
  - match: [{uri: {prefix: /late}}]
    timeout: 0.5s
    route: [{destination: {host: helloworld, subset: v1}}]
  - route: [{destination: {host: helloworld, subset: v1}}]
"#;

/// Method, host, path, more header lines.
const OUTSIDE: &[(&str, &str, &str, &str)] = &[
    ("GET", "a.test", "/", ""),
    ("GET", "A.Test:80", "/x?y=z", ""),
    ("GET", "x.wild.test", "/", ""),
    ("GET", "b.test", "/", ""),
    ("GET", "a.test", "/old?q=1", ""),
    ("GET", "a.test", "/older", ""),
    ("GET", "a.test:80", "/secure/x?q=1", ""),
    ("GET", "a.test", "/pre/fix?q=1", ""),
    ("GET", "a.test", "/prefix", ""),
    ("GET", "a.test", "/", "x-user: jason\r\n"),
    ("GET", "a.test", "/", "x-user: jasons\r\n"),
    ("GET", "a.test", "/?user=jason", ""),
    ("POST", "a.test", "/post/17", "x-gone: 1\r\nx-set: 0\r\nx-add: 0\r\n"),
    ("POST", "a.test", "/post/17a", "x-gone: 1\r\n"),
    ("GET", "a.test", "/without", ""),
    ("GET", "a.test", "/without", "x-known: 1\r\n"),
    ("GET", "a.test", "/ANY-case", ""),
    ("GET", "a.test", "/late?delay=5s", ""),
    ("GET", "a.test", "/again?status=503", ""),
    ("GET", "a.test", "/other?status=503", ""),
    ("GET", "a.test", "/subsetless", ""),
    ("HEAD", "a.test", "/", ""),
    ("OPTIONS", "a.test", "/", "origin: http://o.test\r\naccess-control-request-method: GET\r\n"),
    ("GET", "a.test", "/a/../b//c", ""),
    ("GET", "a.test", "/", "x-forwarded-proto: https\r\nx-envoy-retry-on: 5xx\r\nx-envoy-internal: true\r\n"),
    ("POST", "a.test", "/", "content-type: application/grpc\r\nte: trailers\r\n"),
    ("GET", "a.test", "/", "connection: upgrade\r\nupgrade: websocket\r\n"),
];

/// Asked by a pod of the mesh, with curl.
const INSIDE: &[&str] = &[
    "http://helloworld:8080/",
    "http://helloworld.canary:8080/two",
    "http://helloworld.canary.svc.cluster.local:8080/moved?q=1",
    "http://helloworld:8080/late?delay=5s",
    "http://helloworld:8080/?status=404",
    "http://helloworld:9999/",
];

/// A port of the service that it does not have.
const NOBODY: &str = ":9999/";

async fn outcomes(options: &[&str]) -> BTreeMap<String, Vec<String>> {
    let dir = example(User::Invoker);
    std::fs::write(dir.path().join("manifests/routing.yaml"), RULES).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, options);
    mesh.ready("canary", 2).await;
    let target = mesh.answers("a.test", "/").await;
    mesh.answers("a.test", "/?user=jason").await;
    let mut outcomes = BTreeMap::new();
    for (method, host, path, lines) in OUTSIDE {
        let facts = outside(&target, method, host, path, lines).await;
        outcomes.insert(format!("{method} {host}{path} {lines:?}"), facts);
    }
    let pod = mesh.pod("canary", "helloworld-v2-").await;
    for url in INSIDE {
        let output = mesh.run(&["exec", "-n", "canary", &pod, "--", "curl", "-sSi", url]).await;
        let answer = Reader::new(&output.stdout[..]).message(Side::Response).await;
        let code = match output.status.code() {
            // The end may come before curl has looked whether it is connected, before it has asked, or after.
            Some(7 | 52) if url.contains(NOBODY) => Some(56),
            code => code,
        };
        let mut facts = vec![format!("curl ends with {code:?}")];
        facts.extend(answer.into_iter().flat_map(|message| facts_of(&message)));
        outcomes.insert(format!("inside {url}"), facts);
    }
    mesh.down().await;
    outcomes
}

async fn outside(target: &Target, method: &str, host: &str, path: &str, lines: &str) -> Vec<String> {
    let mut stream = TcpStream::connect(target.address).await.unwrap();
    let length = if method == "POST" { "content-length: 0\r\n" } else { "" };
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{lines}{length}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let side = if method == "HEAD" { Side::ResponseToHead } else { Side::Response };
    let mut reader = Reader::new(stream);
    let answer = tokio::time::timeout(lateen_tests::wait::PATIENCE, reader.message(side)).await;
    answer.ok().flatten().map_or_else(|| vec!["no answer".to_owned()], |message| facts_of(&message))
}

/// What must be the same: all of an answer apart from names, times and lengths that differ from run to run.
fn facts_of(message: &lateen_tests::message::Message) -> Vec<String> {
    let mut facts = vec![message.start.clone()];
    for (name, value) in &message.headers {
        let value = match name.as_str() {
            "date" | "x-envoy-upstream-service-time" | "content-length" => "*",
            _ => value,
        };
        facts.push(format!("{name}: {value}"));
    }
    match serde_json::from_slice::<Value>(&message.body) {
        Ok(Value::Object(body)) => {
            for (key, value) in body {
                match (key.as_str(), value) {
                    ("headers", Value::Object(headers)) => {
                        facts.extend(headers.iter().map(|(name, value)| format!("> {name}: {}", settled(name, value))));
                    }
                    ("version" | "path" | "method" | "query" | "protocol", value) => {
                        facts.push(format!("> {key} = {value}"))
                    }
                    _ => {}
                }
            }
        }
        _ => facts.push(message.text()),
    }
    facts
}

/// Where the client is depends on who took its connection: the host gives ours the socket, and relays to Envoy. Each mesh has
/// certificates of its own.
fn settled(name: &str, value: &Value) -> String {
    match name {
        "x-request-id" | "x-forwarded-for" | "x-envoy-external-address" | "x-envoy-expected-rq-timeout-ms" => {
            "*".to_owned()
        }
        "x-forwarded-client-cert" => {
            let value = value.to_string();
            let parts = value.split(';').map(|part| if part.starts_with("Hash=") { "Hash=*" } else { part });
            parts.collect::<Vec<_>>().join(";")
        }
        _ => value.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn are_the_same() {
    let _alone = crate::one_mesh_at_a_time().await;
    let ours = outcomes(&[]).await;
    let image = format!("auto={}", super::envoy());
    let theirs = outcomes(&["--image", &image]).await;
    let mut different = Vec::new();
    for (request, theirs) in &theirs {
        let ours = &ours[request];
        if theirs != ours {
            let only = |a: &[String], b: &[String], mark: &str| -> String {
                a.iter().filter(|fact| !b.contains(fact)).map(|fact| format!("    {mark} {fact}\n")).collect()
            };
            different.push(format!("{request}\n{}{}", only(theirs, ours, "-"), only(ours, theirs, "+")));
        }
    }
    assert!(different.is_empty(), "{} of {} answers differ\n{}", different.len(), theirs.len(), different.join("\n"));
}
