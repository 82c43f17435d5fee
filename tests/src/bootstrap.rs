//! Envoy bootstraps as JSON: the one file that both proxies of a comparison read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ports;

/// Everything about one proxy's surroundings that a bootstrap names.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Where the access log and the process' output go.
    pub dir: PathBuf,
    pub admin: u16,
    /// The ADS server, when configuration comes from one.
    pub ads: Option<u16>,
    listeners: BTreeMap<&'static str, u16>,
    upstreams: BTreeMap<&'static str, u16>,
}

impl Layout {
    /// Ports for the given listeners; the upstreams are there already.
    pub fn new(dir: &Path, listeners: &[&'static str], upstreams: &[(&'static str, u16)]) -> Layout {
        Layout {
            dir: dir.to_path_buf(),
            admin: ports::free(),
            ads: None,
            listeners: listeners.iter().map(|name| (*name, ports::free())).collect(),
            upstreams: upstreams.iter().copied().collect(),
        }
    }

    /// The port of a listener.
    pub fn listener(&self, name: &str) -> u16 {
        *self.listeners.get(name).unwrap_or_else(|| panic!("no listener {name}"))
    }

    /// The port of an upstream. `dead` is always there and nobody listens on it.
    pub fn upstream(&self, name: &str) -> u16 {
        *self.upstreams.get(name).unwrap_or_else(|| panic!("no upstream {name}"))
    }

    /// Where the access log goes.
    pub fn access_log(&self) -> PathBuf {
        self.dir.join("access.log")
    }

    /// Replaces this layout's ports by their names, so that two proxies' texts can be compared.
    pub fn nameless(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, port) in self.listeners.iter().chain(&self.upstreams) {
            text = text.replace(&format!(":{port}"), &format!(":<{name}>"));
        }
        text
    }
}

/// The fields of the access log that the differential suite compares, one line a request. The peer's
/// address is the case's own and comes first.
pub const LOG_FORMAT: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\t%RESPONSE_CODE%\t%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\t\
%BYTES_RECEIVED%\t%BYTES_SENT%\t%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %REQ(:AUTHORITY)%\t%ROUTE_NAME%\t\
%UPSTREAM_CLUSTER_RAW%\t%UPSTREAM_HOST%\t%CONNECTION_TERMINATION_DETAILS%\t%UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

/// A file access log in the given format.
pub fn file_log(path: &Path, format: &str) -> Value {
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string": format}},
        }
    }])
}

/// The router, last of every HTTP filter chain.
pub fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    })
}

/// An HTTP connection manager with the differential suite's log; `more` is merged over it.
pub fn http(layout: &Layout, name: &str, routes: Value, more: Value) -> Value {
    let mut hcm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"name": name, "validate_clusters": false, "virtual_hosts": routes},
        "http_filters": [router()],
        "access_log": file_log(&layout.access_log(), LOG_FORMAT),
    });
    merge(&mut hcm, more);
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm})
}

/// A TCP proxy with the differential suite's log; `more` is merged over it.
pub fn tcp(layout: &Layout, name: &str, more: Value) -> Value {
    let mut tcp = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "access_log": file_log(&layout.access_log(), LOG_FORMAT),
    });
    merge(&mut tcp, more);
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp})
}

/// A listener with one filter chain of one filter.
pub fn listener(layout: &Layout, name: &str, filter: Value) -> Value {
    json!({
        "name": name,
        "address": address(layout.listener(name)),
        "filter_chains": [{"filters": [filter]}],
    })
}

/// A static cluster over upstreams of the layout; `more` is merged over it.
pub fn cluster(layout: &Layout, name: &str, upstreams: &[&str], more: Value) -> Value {
    let endpoints: Vec<Value> =
        upstreams.iter().map(|upstream| json!({"endpoint": {"address": address(layout.upstream(upstream))}})).collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0.0}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    merge(&mut cluster, more);
    cluster
}

/// Cluster options for HTTP/2 with prior knowledge.
pub fn http2_upstream() -> Value {
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }}})
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// A bootstrap with everything static.
pub fn fixed(layout: &Layout, listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": address(layout.admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// Which flavour of ADS a bootstrap asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    StateOfTheWorld,
    Delta,
}

/// A bootstrap that takes listeners and clusters from the layout's ADS server.
///
/// # Panics
/// When the layout has none.
pub fn from_ads(layout: &Layout, flavour: Flavour) -> Value {
    let port = layout.ads.expect("the layout has an ADS server");
    let mut xds = json!({
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "xds", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}
        ]},
    });
    merge(&mut xds, http2_upstream());
    let api_type = match flavour {
        Flavour::StateOfTheWorld => "GRPC",
        Flavour::Delta => "DELTA_GRPC",
    };
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": address(layout.admin)},
        "dynamic_resources": {
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
        },
        "static_resources": {"clusters": [xds]},
    })
}

/// Merges `more` over `base`: objects key by key, all else replaced.
pub fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, more) => *base = more,
    }
}
