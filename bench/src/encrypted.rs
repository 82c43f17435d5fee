//! Two sidecars with mutual TLS between them, in one process: what is counted is the cost of both.

use std::path::Path;

use lateen_tests::bootstrap::{self, Layout, http2_upstream, merge};
use lateen_tests::tls::{Authority, Certified, downstream, upstream};
use serde_json::{Value, json};

use crate::contender::{Ports, filter};
use crate::job::Job;

/// The name of the listener that takes TLS.
pub const INNER: &str = "in";

struct Pki {
    authority: Authority,
    client: Certified,
    server: Certified,
}

impl Pki {
    fn new() -> Pki {
        let authority = Authority::new("mesh");
        Pki {
            client: authority.sign("", "spiffe://mesh.test/ns/x/sa/client"),
            server: authority.sign("", "spiffe://mesh.test/ns/x/sa/server"),
            authority,
        }
    }

    fn context(&self, own: &Certified, peer: Value, protocols: &[&str]) -> Value {
        json!({
            // Envoy speaks no newer version than 1.2 to hosts unless it is told to.
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [own.json()],
            "alpn_protocols": protocols,
            "validation_context": {
                "trusted_ca": {"inline_string": self.authority.pem},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
            },
        })
    }
}

/// A bootstrap of both, each as heavy as a sidecar.
pub fn pair(job: Job, layout: &Layout, front: u16) -> Value {
    let pki = Pki::new();
    let protocols: &[&str] = match job {
        Job::MtlsHttp2 => &["h2"],
        Job::MtlsTcp => &[],
        _ => &["http/1.1"],
    };
    let listener = |name: &str, port: u16, cluster: &str| {
        json!({
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [filter(job, layout, name, cluster)]}],
        })
    };
    let inner = layout.listener(INNER);
    let mut inbound = listener(INNER, inner, "backend");
    let ours = json!({"prefix": "spiffe://mesh.test/"});
    inbound["filter_chains"][0]["transport_socket"] = downstream(json!({
        "common_tls_context": pki.context(&pki.server, ours, protocols), "require_client_certificate": true}));
    let theirs = json!({"exact": "spiffe://mesh.test/ns/x/sa/server"});
    let mut context =
        json!({"common_tls_context": pki.context(&pki.client, theirs, protocols), "sni": "outbound_.80_._.x"});
    // Enough for all connections that are made at a time: a session of TLS 1.3 is continued once.
    context["max_session_keys"] = if job == Job::Handshakes { 0 } else { 256 }.into();
    let mut peer = bootstrap::cluster(layout, "peer", &[], json!({}));
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": inner}});
    peer["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
    peer["transport_socket"] = upstream(context);
    match job {
        Job::MtlsHttp2 => merge(&mut peer, http2_upstream()),
        Job::Handshakes | Job::Resumptions => merge(
            &mut peer,
            json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"max_requests_per_connection": 1},
            }}}),
        ),
        _ => {}
    }
    let backend = bootstrap::cluster(layout, "backend", &["backend"], json!({}));
    bootstrap::fixed(layout, &[inbound, listener("out", front, "peer")], &[peer, backend])
}

/// The same for HAProxy.
pub fn haproxy(job: Job, Ports { front, backend }: Ports, inner: u16, dir: &Path) -> String {
    let pki = Pki::new();
    let write = |name: &str, text: String| {
        let file = dir.join(name);
        std::fs::write(&file, text).expect("a file is written");
        file.display().to_string()
    };
    let own = |name: &str, own: &Certified| write(name, format!("{}{}", own.certificate, own.key));
    let (client, server) = (own("client.pem", &pki.client), own("server.pem", &pki.server));
    let authority = write("authority.pem", pki.authority.pem.clone());
    let (mode, alpn) = match job {
        Job::MtlsTcp => ("tcp", ""),
        Job::MtlsHttp2 => ("http", " alpn h2"),
        _ => ("http", " alpn http/1.1"),
    };
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen out\n  bind 127.0.0.1:{front}\n  \
         server peer 127.0.0.1:{inner} ssl crt {client} ca-file {authority} verify required{alpn}\n\
         listen in\n  bind 127.0.0.1:{inner} ssl crt {server} ca-file {authority} verify required{alpn}\n  \
         server backend 127.0.0.1:{backend}\n"
    )
}
