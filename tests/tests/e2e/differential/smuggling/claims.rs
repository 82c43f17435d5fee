//! What outsiders say of themselves in fields that proxies write: the workload is to hear none of it.

use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::show;
use lateen_tests::stand::Role;
use serde_json::json;

use super::super::attempts::understood;
use super::{Row, played};

/// Where the workload hears of a field.
#[derive(Clone, Copy, PartialEq)]
enum Heard {
    Never,
    /// From inside the mesh, where a plain client is taken at its word, as by Envoy.
    Inside,
    /// Nobody relies on it alone: what a gateway adds to it stands last.
    Always,
}
use Heard::{Always, Inside, Never};

const CLAIMS: &[(&str, Heard)] = &[
    ("x-forwarded-client-cert", Never),
    ("x-forwarded-for", Always),
    ("x-forwarded-proto", Inside),
    ("x-forwarded-host", Always),
    ("x-forwarded-port", Always),
    ("x-real-ip", Always),
    ("forwarded", Always),
    ("x-request-id", Inside),
    ("x-user", Never),
    ("x-payload", Never),
    ("x-envoy-internal", Never),
    ("x-envoy-external-address", Inside),
    ("x-envoy-original-path", Inside),
    ("x-envoy-original-host", Inside),
    ("x-envoy-decorator-operation", Inside),
    ("x-envoy-downstream-service-cluster", Inside),
    ("x-envoy-downstream-service-node", Inside),
    ("x-envoy-peer-metadata", Always),
    ("x-envoy-peer-metadata-id", Always),
    ("x-envoy-attempt-count", Inside),
    ("x-envoy-expected-rq-timeout-ms", Never),
    ("x-envoy-upstream-rq-timeout-ms", Never),
    ("x-envoy-upstream-rq-per-try-timeout-ms", Never),
    ("x-envoy-upstream-rq-timeout-alt-response", Never),
    ("x-envoy-upstream-alt-stat-name", Never),
    ("x-envoy-max-retries", Never),
    ("x-envoy-retry-on", Never),
    ("x-envoy-retry-grpc-on", Never),
    ("x-envoy-retriable-status-codes", Never),
    ("x-envoy-retriable-header-names", Never),
    ("x-envoy-hedge-on-per-try-timeout", Never),
    ("x-envoy-is-timeout-retry", Always),
    ("x-envoy-ip-tags", Never),
    ("x-envoy-force-trace", Never),
    ("x-envoy-auth-partial-body", Always),
];

/// Each field in another letter case.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (field, _) in CLAIMS {
        let name = field.to_ascii_uppercase();
        let request = format!("GET /public HTTP/1.1\r\nhost: client.shop\r\n@@\r\n{name}: forged\r\n\r\n");
        let acts = Case::of(field).client(vec![say(request), Do::Answer]).client;
        rows.push(Row { name: (*field).to_owned(), acts, apart: None, roughly: false });
    }
    rows
}

async fn unheard(test: &str, role: Role) {
    let mut at_the_edge = understood();
    at_the_edge["metadata"] = json!({"name": "edge", "namespace": "istio-system"});
    at_the_edge["spec"]["selector"] = json!({"matchLabels": {"istio": "ingressgateway"}});
    let rules = [understood(), at_the_edge];
    let Some((_, ours, differences)) = played(test, role, &rules, &rows()).await else { return };
    let mut failures = differences;
    for (field, heard) in CLAIMS {
        let outcome = &ours[*field];
        assert!(!outcome.upstream.is_empty(), "{field}: {}", show(outcome));
        let heard = *heard == Always || (*heard == Inside && role == Role::Sidecar);
        if outcome.upstream.iter().any(|line| line.contains("forged")) != heard {
            failures.push(format!("{field} is heard of: {}\n{}", !heard, show(outcome)));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), CLAIMS.len(), failures.join("\n"));
}

#[tokio::test]
async fn at_a_sidecar() {
    unheard("claims::at_a_sidecar", Role::Sidecar).await;
}

#[tokio::test]
async fn at_a_gateway() {
    unheard("claims::at_a_gateway", Role::Gateway).await;
}
