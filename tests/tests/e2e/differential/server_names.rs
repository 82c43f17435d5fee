//! Which server is asked for by TLS, and whom its certificate has to be of, where requests say it (`auto_sni`,
//! `auto_san_validation`): the server chooses its filter chain by the name, and says which it was.

use std::path::Path;

use lateen_tests::bootstrap::{Layout, cluster, http, listener};
use lateen_tests::message::{Message, Reader, Side};
use lateen_tests::proxy::Kind;
use lateen_tests::tls::{Authority, upstream};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::named_chains::{self, Running, start};

/// Names that the server has a chain for. Its certificate is of the first.
const NAMES: [&str; 4] = ["a.test", "b.test", "given.test", "rewritten.test"];

async fn server(kind: Kind, dir: &Path, authority: &Authority) -> Running {
    let certified = authority.sign(NAMES[0], "spiffe://mesh.test/ns/x/sa/server");
    named_chains::server(kind, dir, &NAMES, "server_names", json!({"tls_certificates": [certified.json()]})).await
}

fn options(auto: Value) -> Value {
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}}, "upstream_http_protocol_options": auto,
    }}})
}

/// Goes to clusters by the path's name.
async fn client(kind: Kind, dir: &Path, server: &Running, authority: &Authority) -> Running {
    let layout = Layout::new(dir, &["main"], &[("in", server.layout.listener("in"))]);
    let one = |name: &str, sni: &str, names: &[&str], auto: Value| {
        let mut made = cluster(&layout, name, &["in"], options(auto));
        let names: Vec<Value> = names.iter().map(|name| json!({"exact": name})).collect();
        made["transport_socket"] = upstream(json!({"sni": sni, "common_tls_context": {"validation_context": {
            "trusted_ca": {"inline_string": authority.pem}, "match_subject_alt_names": names}}}));
        made
    };
    let both = json!({"auto_sni": true, "auto_san_validation": true});
    let clusters = [
        one("asked", "", &[], json!({"auto_sni": true})),
        one("over", "given.test", &[], json!({"auto_sni": true})),
        one("both", "", &[], both.clone()),
        one("verified", "given.test", &[], json!({"auto_san_validation": true})),
        one("and-listed", "", &["a.test", "other.test"], both.clone()),
        one("and-unlisted", "", &["other.test"], both),
    ];
    let names = clusters.iter().filter_map(|cluster| cluster["name"].as_str());
    let mut routes: Vec<Value> =
        names.map(|name| json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}})).collect();
    routes.push(json!({"match": {"path": "/rewritten"},
        "route": {"cluster": "asked", "host_rewrite_literal": "rewritten.test:80"}}));
    let routes = json!([{"name": "all", "domains": ["*"], "routes": routes}]);
    let main = listener(&layout, "main", http(&layout, "main", routes, json!({})));
    start(kind, dir, layout, &[main], &clusters).await
}

impl Running {
    async fn ask(&self, path: &str, host: &str) -> Message {
        let port = self.layout.listener("main");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the proxy");
        let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        Reader::new(stream).message(Side::Response).await.expect("an answer")
    }
}

const REFUSED: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_say_which_server_is_asked_for_and_whose_certificate_is_taken() {
    let rows = [
        ("asked", "a.test", 200, "a.test"),
        ("asked", "b.test:8443", 200, "b.test"),
        ("asked", "B.test", 200, "b.test"),
        ("asked", "192.0.2.1:80", 200, "none"),
        ("asked", "nobody.test", 200, "none"),
        ("rewritten", "a.test", 200, "rewritten.test"),
        ("over", "b.test", 200, "b.test"),
        ("both", "a.test", 200, "a.test"),
        ("both", "b.test", 503, REFUSED),
        ("both", "192.0.2.1", 503, REFUSED),
        ("verified", "a.test:1", 200, "given.test"),
        ("verified", "b.test", 503, REFUSED),
        ("and-listed", "a.test", 200, "a.test"),
        ("and-listed", "b.test", 503, REFUSED),
        ("and-unlisted", "a.test", 503, REFUSED),
    ];
    let (dir, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let authority = Authority::new("ours");
    let server = server(Kind::Envoy, dir.path(), &authority).await;
    for kind in [Kind::Envoy, Kind::Lateen] {
        let client = client(kind, other.path(), &server, &authority).await;
        // What was agreed on for one name is of no use for another, be it the connection or its session.
        for round in 0..2 {
            for (path, host, status, body) in rows {
                let answer = client.ask(path, host).await;
                let seen = (answer.status(), answer.text());
                assert_eq!(seen, (status, body.to_owned()), "{} {path} {host}, round {round}", kind.name());
            }
        }
    }
}
