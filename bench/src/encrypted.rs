//! Two sidecars with mutual TLS between them, each a process of its own as in a mesh: what is counted is the cost of both.

use std::path::Path;

use lateen_tests::bootstrap::{self, Layout, http2_upstream, merge};
use lateen_tests::tls::{Authority, Certified, downstream, upstream};
use serde_json::{Value, json};

use crate::contender::{Ports, filter};
use crate::job::Job;

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

/// What the two are told.
pub struct Pair {
    job: Job,
    ports: Ports,
    // Where the one beside the server takes TLS.
    inner: u16,
    pki: Pki,
}

impl Pair {
    pub fn new(job: Job, ports: Ports) -> Pair {
        Pair { job, ports, inner: lateen_tests::ports::free(), pki: Pki::new() }
    }

    /// Where each listens and what it forwards to: first the one beside the server, then the one beside the client.
    pub fn ports(&self) -> [Ports; 2] {
        [Ports { front: self.inner, ..self.ports }, Ports { backend: self.inner, ..self.ports }]
    }

    fn protocols(&self) -> &'static [&'static str] {
        match self.job {
            Job::MtlsHttp2 => &["h2"],
            Job::MtlsTcp => &[],
            _ => &["http/1.1"],
        }
    }

    /// A bootstrap of the one beside the server, as heavy as a sidecar's.
    pub fn inbound(&self, layout: &Layout) -> Value {
        let client = json!({"authenticated": {"principal_name": {"exact": "spiffe://mesh.test/ns/x/sa/client"}}});
        let mut listener = self.listener(layout, "in", self.inner, "backend", Some(client));
        let context = self.pki.context(&self.pki.server, json!({"prefix": "spiffe://mesh.test/"}), self.protocols());
        listener["filter_chains"][0]["transport_socket"] =
            downstream(json!({"common_tls_context": context, "require_client_certificate": true}));
        bootstrap::fixed(layout, &[listener], &[bootstrap::cluster(layout, "backend", &["backend"], json!({}))])
    }

    /// The same of the one beside the client.
    pub fn outbound(&self, layout: &Layout) -> Value {
        let theirs = json!({"exact": "spiffe://mesh.test/ns/x/sa/server"});
        let context = self.pki.context(&self.pki.client, theirs, self.protocols());
        let mut context = json!({"common_tls_context": context, "sni": "outbound_.80_._.x"});
        // Enough for all connections that are made at a time: a session of TLS 1.3 is continued once.
        context["max_session_keys"] = if self.job == Job::Handshakes { 0 } else { 256 }.into();
        let mut peer = bootstrap::cluster(layout, "peer", &["backend"], json!({}));
        peer["transport_socket"] = upstream(context);
        match self.job {
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
        bootstrap::fixed(layout, &[self.listener(layout, "out", self.ports.front, "peer", None)], &[peer])
    }

    fn listener(&self, layout: &Layout, name: &str, port: u16, cluster: &str, callers: Option<Value>) -> Value {
        json!({
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [filter(self.job, layout, name, cluster, callers)]}],
        })
    }

    /// The same two of HAProxy, in the order of [`Pair::ports`].
    pub fn haproxy(&self, dir: &Path) -> [String; 2] {
        let write = |name: &str, text: String| {
            let file = dir.join(name);
            std::fs::write(&file, text).expect("a file is written");
            file.display().to_string()
        };
        let own = |name: &str, own: &Certified| write(name, format!("{}{}", own.certificate, own.key));
        let (client, server) = (own("client.pem", &self.pki.client), own("server.pem", &self.pki.server));
        let authority = write("authority.pem", self.pki.authority.pem.clone());
        // Without it each new client has a connection made for its first request, which the others do not.
        let reuse = "\n  http-reuse always";
        let (mode, alpn, reuse) = match self.job {
            Job::MtlsTcp => ("tcp", "", ""),
            Job::MtlsHttp2 => ("http", " alpn h2", reuse),
            _ => ("http", " alpn http/1.1", reuse),
        };
        let tls = |own: &str| format!(" ssl crt {own} ca-file {authority} verify required{alpn}");
        let both = [(tls(&server), String::new()), (String::new(), tls(&client))];
        let mut both = both.into_iter().zip(self.ports()).map(|((taken, made), Ports { front, backend })| {
            // The suite that the others agree on; OpenSSL would take AES-256.
            format!(
                "global\n  nbthread 1\n  maxconn 1024\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
                 ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  \
                 ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n\
                 defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s{reuse}\n\
                 listen bench\n  bind 127.0.0.1:{front}{taken}\n  server next 127.0.0.1:{backend}{made}\n"
            )
        });
        [both.next(), both.next()].map(|text| text.expect("a text for each"))
    }
}
