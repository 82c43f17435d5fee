//! TLS handshakes that fail, and what remains of them: lines in logs of listeners and of TCP proxies, statistics, and what
//! the admin page says of certificates.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lateen_tests::bootstrap::{self, Layout, cluster, file_log, http, listener, merge, tcp};
use lateen_tests::proxy::{Kind, Proxy, admin};
use lateen_tests::tls::{Authority, Certified, downstream, upstream};
use lateen_tests::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const FORMAT: &str = "%DOWNSTREAM_LOCAL_ADDRESS%\t%RESPONSE_CODE% %RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS%\t\
%DOWNSTREAM_TRANSPORT_FAILURE_REASON%\t%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SERIAL%\t\
%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_LOCAL_SUBJECT%\t%PROTOCOL% %UPSTREAM_CLUSTER%\t%BYTES_RECEIVED% %BYTES_SENT%\n";

/// Connections to the listeners that have a log.
const LINES: usize = 13;

struct Pki {
    ours: Authority,
    server: Certified,
    // What each client shows, if anything.
    clients: Vec<(&'static str, Option<Certified>)>,
}

impl Pki {
    fn new() -> Pki {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let expired = ours.sign_with("", "spiffe://mesh.test/ns/x/sa/expired", |params| {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        });
        Pki {
            server: ours.sign("a.test", "spiffe://mesh.test/ns/x/sa/server"),
            clients: vec![
                ("good", Some(ours.sign("c.test", "spiffe://mesh.test/ns/x/sa/client"))),
                ("stranger", Some(theirs.sign("c.test", "spiffe://mesh.test/ns/x/sa/client"))),
                ("foreign", Some(ours.sign("c.test", "spiffe://other.test/ns/x/sa/client"))),
                ("expired", Some(expired)),
                ("nobody", None),
            ],
            ours,
        }
    }
}

fn resources(layout: &Layout, pki: &Pki, dir: &Path) -> (Vec<Value>, Vec<Value>) {
    let file = dir.join("server.pem");
    std::fs::write(&file, &pki.server.certificate).expect("a file");
    let context = |version: &str| {
        downstream(json!({
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": {"filename": file},
                    "private_key": {"inline_string": pki.server.key}}],
                "tls_params": {"tls_maximum_protocol_version": version},
                "validation_context": {"trusted_ca": {"inline_string": pki.ours.pem}, "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"prefix": "spiffe://mesh.test/"}}]},
            },
            "require_client_certificate": true,
        }))
    };
    let routes = json!([{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]);
    let logged = |name: &str, filter: Value, context: Value| {
        let mut one = listener(layout, name, filter);
        one["access_log"] = file_log(&dir.join("listeners.log"), FORMAT);
        one["filter_chains"][0]["transport_socket"] = context;
        one
    };
    let mut slow = logged("slow", http(layout, "slow", routes.clone(), json!({})), context("TLSv1_3"));
    slow["filter_chains"][0]["transport_socket_connect_timeout"] = "0.1s".into();
    let bytes = json!({"cluster": "silent", "access_log": file_log(&dir.join("bytes.log"), FORMAT)});
    let mut listeners = vec![
        logged("mutual", http(layout, "mutual", routes.clone(), json!({})), context("TLSv1_3")),
        logged("bytes", tcp(layout, "bytes", bytes), context("TLSv1_3")),
        slow,
    ];
    let once = || {
        json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"max_requests_per_connection": 1}}}})
    };
    let mut clusters = vec![cluster(layout, "silent", &["silent"], json!({}))];
    let mut ways = Vec::new();
    let mut add = |name: String, to: &str, certified: Option<&Certified>, version: &str| {
        let mut common = json!({"tls_params": {"tls_maximum_protocol_version": version}});
        if let Some(certified) = certified {
            common["tls_certificates"] = json!([certified.json()]);
        }
        let mut one = cluster(layout, &name, &[], once());
        one["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": {"socket_address":
            {"address": "127.0.0.1", "port_value": layout.listener(to)}}}}]}]);
        merge(&mut one, json!({"transport_socket": upstream(json!({"common_tls_context": common, "sni": "a.test"}))}));
        ways.push(json!({"match": {"path": format!("/{name}")}, "route": {"cluster": name}}));
        clusters.push(one);
    };
    for (name, certified) in &pki.clients {
        add((*name).to_owned(), "mutual", certified.as_ref(), "TLSv1_3");
    }
    add("old".to_owned(), "mutual", pki.clients[0].1.as_ref(), "TLSv1_2");
    add("bytes-stranger".to_owned(), "bytes", pki.clients[1].1.as_ref(), "TLSv1_3");
    let ways = json!([{"name": "all", "domains": ["*"], "routes": ways}]);
    listeners.push(listener(layout, "main", http(layout, "main", ways, json!({}))));
    (listeners, clusters)
}

/// Says something to a listener, and takes what comes until the end.
async fn say(port: u16, words: &[u8], hang_up: bool) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream.write_all(words).await.expect("words are taken");
    if !hang_up {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    listeners: Vec<String>,
    bytes: Vec<String>,
    statistics: BTreeMap<String, u64>,
    certificates: Vec<String>,
}

/// Those that tell of TLS and are not zero.
fn statistics(text: &str, layout: &Layout) -> BTreeMap<String, u64> {
    let port = |name: &str| (format!("127.0.0.1_{}", layout.listener(name)), name.to_owned());
    let names = ["mutual", "bytes", "slow", "main"].map(port);
    let counted = text.lines().filter_map(|line| line.rsplit_once(": ")).filter_map(|(name, value)| {
        let opened = ["http.mutual", "http.slow", "tcp.bytes"].iter().any(|scope| name.starts_with(scope))
            && name.ends_with("downstream_cx_total");
        let counted = opened || name.contains(".ssl.") || name.contains("_ssl_") || name.contains("transport_socket");
        let left_out = ["sigalgs", "http.admin", "_ssl_active"].iter().any(|part| name.contains(part));
        let value: u64 = value.parse().ok()?;
        let name = names.iter().fold(name.to_owned(), |name, (port, known)| name.replace(port, known));
        (counted && !left_out && value > 0).then_some((name, value))
    });
    counted.collect()
}

async fn play(kind: Kind, pki: &Pki, expected: Option<&BTreeMap<String, u64>>) -> Seen {
    let dir = tempfile::tempdir().expect("a directory");
    // Takes connections and never speaks.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent.local_addr().expect("its address").port();
    let layout = Layout::new(dir.path(), &["mutual", "bytes", "slow", "main"], &[("silent", silent_port)]);
    let (listeners, clusters) = resources(&layout, pki, dir.path());
    let proxy = Proxy::start(kind, &bootstrap::fixed(&layout, &listeners, &clusters), layout.admin, dir.path()).await;
    for name in ["good", "stranger", "foreign", "expired", "nobody", "old", "bytes-stranger"] {
        let answer = admin(layout.listener("main"), "GET", &format!("/{name}")).await.expect("an answer");
        let wanted = if ["good", "old"].contains(&name) { 200 } else { 503 };
        assert_eq!(answer.status(), wanted, "{}: {name}: {}", kind.name(), answer.text());
    }
    let mutual = layout.listener("mutual");
    say(mutual, b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n", false).await;
    say(mutual, b"CONNECT a.test:443 HTTP/1.1\r\n\r\n", false).await;
    say(mutual, b"something else", false).await;
    say(mutual, b"", true).await;
    say(mutual, &[22, 3, 1, 2, 0, 1, 0], true).await;
    say(layout.listener("slow"), b"", false).await;
    let lines = |file: &str| {
        let text = std::fs::read_to_string(dir.path().join(file)).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(|line| layout.nameless(line)).collect();
        lines.sort();
        lines
    };
    wait::until("all lines", || async {
        (lines("listeners.log").len() >= LINES && !lines("bytes.log").is_empty()).then_some(())
    })
    .await;
    let now = || async { statistics(&proxy.admin("/stats").await.text(), &layout) };
    // What is counted of a connection may be so after its line is written.
    if let Some(expected) = expected {
        wait::within(Duration::from_secs(10), || async { (now().await == *expected).then_some(()) }).await;
    }
    let statistics = now().await;
    let certificates: Value = serde_json::from_str(&proxy.admin("/certs").await.text()).expect("JSON");
    let certificates = certificates["certificates"].as_array().expect("a list");
    let own = dir.path().display().to_string();
    let mut certificates: Vec<String> = certificates.iter().map(|one| one.to_string().replace(&own, "DIR")).collect();
    certificates.sort();
    drop(silent);
    Seen { listeners: lines("listeners.log"), bytes: lines("bytes.log"), statistics, certificates }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_fail_are_told_of() {
    let pki = Pki::new();
    let theirs = play(Kind::Envoy, &pki, None).await;
    let ours = play(Kind::Lateen, &pki, Some(&theirs.statistics)).await;
    assert_eq!(theirs.listeners.len(), LINES, "{:#?}", theirs.listeners);
    assert_eq!(theirs.listeners, ours.listeners, "{:#?}\n{:#?}", theirs.listeners, ours.listeners);
    assert_eq!(theirs.bytes, ours.bytes);
    assert_eq!(theirs.certificates, ours.certificates);
    let names: std::collections::BTreeSet<&String> = theirs.statistics.keys().chain(ours.statistics.keys()).collect();
    let different: Vec<String> = names
        .into_iter()
        .filter(|name| theirs.statistics.get(*name) != ours.statistics.get(*name))
        .map(|name| format!("{name}: Envoy {:?}, ours {:?}", theirs.statistics.get(name), ours.statistics.get(name)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// However many clients begin a handshake and say no more, who is there already is served, and who comes after them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_beginners_starves_nobody() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().expect("a directory");
    let layout =
        Layout::new(dir.path(), &["mutual", "bytes", "slow", "main"], &[("silent", lateen_tests::ports::free())]);
    let (listeners, clusters) = resources(&layout, &pki, dir.path());
    let file = bootstrap::fixed(&layout, &listeners, &clusters);
    let _proxy = Proxy::start(Kind::Lateen, &file, layout.admin, dir.path()).await;
    let mut crowd = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(("127.0.0.1", layout.listener("mutual"))).await.expect("a connection");
        stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.expect("words are taken");
        crowd.push(stream);
    }
    let served = async {
        for _ in 0..5 {
            let answer = admin(layout.listener("main"), "GET", "/good").await.expect("an answer");
            assert_eq!(answer.status(), 200);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.expect("somebody is served");
}
