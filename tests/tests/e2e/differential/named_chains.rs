//! A TLS server that says which of its filter chains a connection came by.

use std::path::Path;

use lateen_tests::bootstrap::{self, Layout, http, listener};
use lateen_tests::proxy::{Kind, Proxy};
use lateen_tests::tls::downstream;
use serde_json::{Value, json};

/// A proxy on a fixed configuration, and its ports.
pub struct Running {
    pub layout: Layout,
    _proxy: Proxy,
}

pub async fn start(kind: Kind, dir: &Path, layout: Layout, listeners: &[Value], clusters: &[Value]) -> Running {
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, listeners, clusters), layout.admin, dir).await;
    Running { layout, _proxy: proxy }
}

/// Answers every request, at the listener `in`, with the name of the chain that it came by: one of `names`, which
/// `criterion` chooses by, or `none`.
pub async fn server(kind: Kind, dir: &Path, names: &[&str], criterion: &str, common: Value) -> Running {
    let layout = Layout::new(dir, &["in"], &[]);
    let chain = |name: &str| {
        let routes = json!([{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": name}}}]}]);
        let mut one = listener(&layout, "in", http(&layout, "in", routes, json!({})))["filter_chains"][0].take();
        one["transport_socket"] = downstream(json!({"common_tls_context": common}));
        one["name"] = name.into();
        one
    };
    let chosen = names.iter().map(|name| {
        let mut one = chain(name);
        one["filter_chain_match"] = json!({criterion: [name]});
        one
    });
    let mut only = listener(&layout, "in", Value::Null);
    only["listener_filters"] = json!([{"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
    only["filter_chains"] = chosen.collect();
    only["default_filter_chain"] = chain("none");
    start(kind, dir, layout, &[only], &[]).await
}
