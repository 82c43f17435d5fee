//! Health checks of hosts that are spoken to over TLS.

use lateen_tests::bootstrap::{self, Layout, cluster, http, listener, merge};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::tls::{Authority, downstream, upstream};
use lateen_tests::wait;
use serde_json::{Value, json};

/// Clusters, and what is found out of their hosts.
const FOUND: [(&str, &str); 5] = [
    ("known", "healthy"),
    ("stranger", "/failed_active_hc"),
    ("by-alpn", "healthy"),
    ("without-alpn", "/failed_active_hc"),
    ("by-labels", "healthy"),
];

fn resources(layout: &Layout) -> (Vec<Value>, Vec<Value>) {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let own = ours.sign("a.test", "spiffe://mesh.test/ns/x/sa/server");
    let client = ours.sign("", "spiffe://mesh.test/ns/x/sa/client");
    let stranger = theirs.sign("", "spiffe://mesh.test/ns/x/sa/client");
    let context = || {
        downstream(json!({
            "common_tls_context": {"tls_certificates": [own.json()], "alpn_protocols": ["check", "http/1.1"],
                "validation_context": {"trusted_ca": {"inline_string": ours.pem}}},
            "require_client_certificate": true,
        }))
    };
    let answers = |name: &str, status: u16| {
        let routes = json!([{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": status}}]}]);
        let mut one = listener(layout, name, http(layout, name, routes, json!({})));
        one["filter_chains"][0]["transport_socket"] = context();
        one
    };
    let mut chosen = answers("chosen", 200);
    chosen["filter_chains"][0]["filter_chain_match"] = json!({"application_protocols": ["check"]});
    chosen["default_filter_chain"] = answers("chosen", 404)["filter_chains"][0].take();
    chosen["listener_filters"] = json!([{"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
    let checked = |name: &str, to: &str, more: Value, of_check: Value| {
        let mut check = json!({"timeout": "5s", "interval": "0.05s", "no_traffic_interval": "0.05s",
            "unhealthy_threshold": 1, "healthy_threshold": 1, "http_health_check": {"path": "/"}});
        merge(&mut check, of_check);
        let mut one = cluster(layout, name, &[], json!({"health_checks": [check]}));
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener(to)}});
        one["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        merge(&mut one, more);
        one
    };
    let over = |certificate: &lateen_tests::tls::Certified| {
        upstream(json!({"common_tls_context": {"tls_certificates": [certificate.json()],
            "validation_context": {"trusted_ca": {"inline_string": ours.pem}}}, "sni": "a.test"}))
    };
    let socket = |certificate| json!({"transport_socket": over(certificate)});
    let labelled = json!({"transport_socket_matches": [{"name": "t", "match": {"tls": "yes"}, "transport_socket": over(&client)}]});
    let clusters = vec![
        checked("known", "mutual", socket(&client), json!({})),
        checked("stranger", "mutual", socket(&stranger), json!({})),
        checked("by-alpn", "chosen", socket(&client), json!({"tls_options": {"alpn_protocols": ["check"]}})),
        checked("without-alpn", "chosen", socket(&client), json!({})),
        checked("by-labels", "mutual", labelled, json!({"transport_socket_match_criteria": {"tls": "yes"}})),
    ];
    (vec![answers("mutual", 200), chosen], clusters)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_checked_over_tls() {
    for kind in [Kind::Envoy, Kind::Lateen] {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), &["mutual", "chosen"], &[]);
        let (listeners, clusters) = resources(&layout);
        let file = bootstrap::fixed(&layout, &listeners, &clusters);
        let proxy = Proxy::start(kind, &file, layout.admin, dir.path()).await;
        for (name, found) in FOUND {
            wait::until(&format!("{}: {name} is {found}", kind.name()), || async {
                let (clusters, stats) = (proxy.admin("/clusters").await.text(), proxy.admin("/stats").await.text());
                let flags = clusters.lines().find_map(|line| {
                    line.strip_prefix(name)?.strip_prefix("::")?.split_once("::health_flags::").map(|(_, flags)| flags)
                });
                let outcome = if found == "healthy" { "success" } else { "failure" };
                let counted = stats
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("cluster.{name}.health_check.{outcome}: ")))
                    .is_some_and(|count| count != "0" && count != "1");
                (flags == Some(found) && counted).then_some(())
            })
            .await;
        }
    }
}
