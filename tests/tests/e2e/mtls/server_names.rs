//! A peer with a good certificate that asks for another server than it has come to: our sidecar does what Envoy does.

use serde_json::{Value, json};

use super::shown::{FRIEND, REQUEST, Shown};
use super::{HTTP, KINDS, SHOP, TCP, UNNAMED, identity, mode, server};

/// A server name that a policy forbids.
const FORBIDDEN: &str = "outbound_.9_._.forbidden.shop.svc.cluster.local";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_another_server_is_taken_as_envoy_takes_it() {
    let _alone = crate::one_mesh_at_a_time().await;
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "names", "namespace": SHOP},
        "spec": {"action": "DENY", "rules": [{"when": [{"key": "connection.sni", "values": [FORBIDDEN]}]}]}});
    let mut shown = Shown::up(vec![mode("STRICT"), policy]).await;
    let http = "istio-http/1.1,istio,http/1.1";
    let ways = [
        (HTTP, http, REQUEST),
        (HTTP, "istio", REQUEST),
        (UNNAMED, http, REQUEST),
        (UNNAMED, "istio", REQUEST),
        (TCP, "istio", "no protocol"),
    ];
    for (port, protocols, words) in ways {
        let mut seen = Vec::new();
        for kind in KINDS {
            let to = server(kind);
            let host = format!("{to}.{SHOP}.svc.cluster.local");
            let own = format!("outbound_.{port}_._.{host}");
            let elsewhere = format!("outbound_.{port}_._.caller-lateen.{SHOP}.svc.cluster.local");
            let asked = [&own, "", &host, &elsewhere, "nobody.test", "UPPER.test", FORBIDDEN];
            let address = shown.stand.address(&to).await;
            let outcomes = shown.says(&address, port, protocols, words, &asked).await;
            for outcome in &outcomes {
                if let Some(names) = outcome.get("names") {
                    assert_eq!(*names, json!([["URI", identity(&to)]]));
                }
            }
            served(&outcomes, &to, words);
            seen.push(outcomes.iter().map(|outcome| plain(outcome, &to)).collect::<Vec<_>>());
        }
        assert_eq!(seen[0], seen[1], "ours and Envoy's at {port} with {protocols}");
    }
    shown.stand.mesh.down().await;
}

/// Every name is served but the forbidden one.
fn served(outcomes: &[Value], to: &str, words: &str) {
    let (forbidden, others) = outcomes.split_last().unwrap();
    for outcome in others {
        let answer = outcome["answer"].as_str().unwrap_or_default();
        let right = answer == words || answer.starts_with("HTTP/1.1 200 OK\r\n");
        assert!(right, "{to}: {outcome}");
        if answer.contains("x-forwarded-client-cert") {
            assert!(answer.contains(&format!("URI={}\"", identity(FRIEND))), "{to}: {outcome}");
        }
    }
    let answer = forbidden["answer"].as_str().unwrap_or_default();
    assert!(answer != words && !answer.contains(" 200 "), "{to}: {forbidden}");
}

/// An outcome without what is each server's own.
fn plain(outcome: &Value, to: &str) -> Value {
    let mut outcome = outcome.clone();
    if let Some(answer) = outcome.get("answer").and_then(Value::as_str) {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or(("", answer));
        let own = ["date:", "x-envoy-upstream-service-time:", "content-length:"];
        let head: Vec<&str> = head.lines().filter(|line| !own.iter().any(|name| line.starts_with(name))).collect();
        let mut body: Value = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
        if let Some(headers) = body.get_mut("headers").and_then(Value::as_object_mut) {
            headers.retain(|name, _| name != "x-request-id");
        }
        outcome["answer"] = json!([head, body]);
    }
    serde_json::from_str(&outcome.to_string().replace(to, "SERVER")).unwrap()
}
