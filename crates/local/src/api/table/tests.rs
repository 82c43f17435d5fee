use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::render;

fn row(group: &str, resource: &str, object: Value) -> Vec<(String, String)> {
    let now: Timestamp = "2026-08-01T12:00:00Z".parse().unwrap();
    let table = render(group, resource, &[object], "7", true, now);
    let titles = table["columnDefinitions"].as_array().unwrap().clone();
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(titles.len(), cells.len());
    let text = |cell: Value| cell.as_str().map_or(cell.to_string(), str::to_owned);
    titles.into_iter().map(|title| text(title["name"].clone())).zip(cells.into_iter().map(text)).collect()
}

fn cell(group: &str, resource: &str, object: Value, title: &str) -> String {
    let cells = row(group, resource, object);
    cells.into_iter().find(|(name, _)| name == title).unwrap().1
}

#[test]
fn the_gateway_service_reads_as_on_any_cluster() {
    let service = json!({
        "metadata": {"name": "istio-ingressgateway", "creationTimestamp": "2026-08-01T11:55:00Z"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.9", "selector": {"istio": "ingressgateway"},
            "ports": [{"port": 80, "nodePort": 31380, "protocol": "TCP"}, {"port": 443, "nodePort": 31390}],
        },
    });
    let cells: Vec<String> = row("", "services", service.clone()).into_iter().map(|(_, cell)| cell).collect();
    assert_eq!(
        cells,
        [
            "istio-ingressgateway",
            "LoadBalancer",
            "10.96.0.9",
            "<pending>",
            "80:31380/TCP,443:31390/TCP",
            "5m",
            "istio=ingressgateway"
        ]
    );
    let mut reached = service;
    reached["status"] = json!({"loadBalancer": {"ingress": [{"ip": "127.0.0.11"}]}});
    assert_eq!(cell("", "services", reached, "External-IP"), "127.0.0.11");
}

#[test]
fn external_names_and_headless_services_say_so() {
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    assert_eq!(cell("", "services", external.clone(), "External-IP"), "example.com");
    assert_eq!(cell("", "services", external.clone(), "Cluster-IP"), "<none>");
    assert_eq!(cell("", "services", external, "Port(s)"), "<none>");
    let headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
    assert_eq!(cell("", "services", headless, "Cluster-IP"), "None");
}

#[test]
fn pods_show_the_reason_that_matters() {
    let pod = |state: Value| {
        json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "a"}, {"name": "istio-proxy"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"ready": false, "restartCount": 2, "state": state,
                 "lastState": {"terminated": {"finishedAt": "2026-08-01T11:59:30Z"}}},
                {"ready": true, "restartCount": 0, "state": {"running": {}}},
            ]},
        })
    };
    let broken = pod(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    assert_eq!(cell("", "pods", broken.clone(), "Status"), "CrashLoopBackOff");
    assert_eq!(cell("", "pods", broken.clone(), "Ready"), "1/2");
    assert_eq!(cell("", "pods", broken, "Restarts"), "2 (30s ago)");
    assert_eq!(cell("", "pods", pod(json!({"terminated": {"exitCode": 3}})), "Status"), "ExitCode:3");
    let mut gone = pod(json!({"running": {}}));
    assert_eq!(cell("", "pods", gone.clone(), "Status"), "Running");
    gone["metadata"]["deletionTimestamp"] = json!("2026-08-01T12:00:00Z");
    assert_eq!(cell("", "pods", gone, "Status"), "Terminating");
}

#[test]
fn istio_kinds_have_the_columns_of_their_definitions() {
    let virtual_service = json!({"metadata": {"name": "v"}, "spec": {"gateways": ["g"], "hosts": ["a", "b"]}});
    let cells = row("networking.istio.io", "virtualservices", virtual_service);
    let texts: Vec<(&str, &str)> = cells.iter().map(|(title, cell)| (title.as_str(), cell.as_str())).collect();
    assert_eq!(texts, [("Name", "v"), ("Gateways", "[\"g\"]"), ("Hosts", "[\"a\",\"b\"]"), ("Age", "<unknown>")]);
    assert_eq!(row("networking.istio.io", "gateways", json!({})).len(), 2);
}

#[test]
fn later_events_of_a_watch_carry_no_headers() {
    let table = render("", "pods", &[json!({})], "1", false, Timestamp::UNIX_EPOCH);
    assert_eq!(table["columnDefinitions"], json!([]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}
