//! TCP through HTTP proxies: `tunneling_config` of the TCP proxy.

use lateen_tests::bootstrap::{Layout, cluster, http2_upstream, listener, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use lateen_tests::h2_upstream::H2Act;
use lateen_tests::upstream::{Act, Script, send};
use serde_json::json;

/// Listeners, with the cluster each goes to and the method it asks by. A request cannot say of which case it is but by a
/// header of its tunnel, so each case has a listener.
const TUNNELS: [(&str, &str, bool); 18] = [
    ("granted", "h1", false),
    ("granted with data", "h1", false),
    ("granted by 204", "h1", false),
    ("granted with a length", "h1", false),
    ("granted after 100", "h1", false),
    ("upstream ends", "h1", false),
    ("upstream resets", "h1", false),
    ("refused", "h1", false),
    ("refused, then granted", "h1", false),
    ("no HTTP", "h1", false),
    ("ended", "h1", false),
    ("nobody there", "dead", false),
    ("no host", "empty", false),
    ("posted", "h1", true),
    ("posted and refused", "h1", true),
    ("over h2", "h2", false),
    ("over h2, refused", "h2", false),
    ("over h2, posted", "h2", true),
];

const LISTENERS: [&str; TUNNELS.len()] = {
    let mut names = [""; TUNNELS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = TUNNELS[at].0;
        at += 1;
    }
    names
};

fn resources(layout: &Layout) -> Resources {
    let of = |(name, cluster, post): (&str, &str, bool)| {
        let mut tunnel = json!({
            "hostname": "target.test:443",
            "use_post": post,
            "headers_to_add": [{"header": {"key": "x-case", "value": name}}],
        });
        if name == "posted" {
            tunnel["post_path"] = "/way?on".into();
        }
        let attempts = if name.contains("then") { 2 } else { 1 };
        let more = json!({"cluster": cluster, "tunneling_config": tunnel, "max_connect_attempts": attempts});
        listener(layout, name, tcp(layout, name, more))
    };
    let clusters = vec![
        cluster(layout, "h1", &["h1"], json!({})),
        cluster(layout, "h2", &["h2"], http2_upstream()),
        cluster(layout, "dead", &["dead"], json!({})),
        cluster(layout, "empty", &[], json!({})),
    ];
    (TUNNELS.map(of).to_vec(), clusters)
}

const GRANT: &str = "HTTP/1.1 200 OK\r\n\r\n";
const REFUSAL: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";

/// What the HTTP/1 upstream does.
fn script(name: &str) -> Script {
    let echo = |head: &str| vec![send(head), Act::EchoRaw];
    match name {
        "granted with data" => vec![echo(&format!("{GRANT}hello"))],
        "granted by 204" => vec![echo("HTTP/1.1 204 No Content\r\n\r\n")],
        "granted with a length" => vec![echo("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")],
        "granted after 100" => vec![echo(&format!("HTTP/1.1 100 Continue\r\n\r\n{GRANT}"))],
        "upstream ends" => vec![vec![send(GRANT), send("bye"), Act::Fin]],
        "upstream resets" => vec![vec![send(GRANT), send("bye"), Act::AwaitCue, Act::Reset]],
        "refused" | "posted and refused" => vec![vec![send(REFUSAL), Act::Hang]],
        "refused, then granted" => vec![vec![send(REFUSAL), Act::Hang], echo(GRANT)],
        "no HTTP" => vec![vec![send("hello\r\n\r\n"), Act::Hang]],
        "ended" => vec![vec![Act::Fin]],
        "posted" => vec![echo("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")],
        _ => vec![echo(GRANT)],
    }
}

fn cases() -> Vec<Case> {
    let case = |(name, ..): (&'static str, &str, bool)| {
        let echoed = vec![say("ping"), Do::Exactly(4), say("more"), Do::Exactly(4), Do::FinishWriting, Do::End];
        let acts = match name {
            "granted with data" => vec![Do::Exactly(5), Do::FinishWriting, Do::End],
            "upstream ends" => vec![Do::Exactly(3), Do::FinishWriting, Do::End],
            "upstream resets" => vec![Do::Exactly(3), Do::Cue, Do::End],
            "refused" | "posted and refused" | "over h2, refused" | "no HTTP" | "ended" => vec![Do::End],
            "nobody there" | "no host" => vec![Do::End],
            _ => echoed,
        };
        Case::of(name).on(name).client(acts).tries(script(name))
    };
    TUNNELS.map(case).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels() {
    let world = World {
        name: "tunnels",
        listeners: &LISTENERS,
        upstreams: &["h1"],
        h2_upstreams: &["h2"],
        resources,
        cases: cases(),
        h2_scripts: vec![
            ("over h2".to_owned(), vec![H2Act::Tunnel(200)]),
            ("over h2, refused".to_owned(), vec![H2Act::Tunnel(403)]),
            ("over h2, posted".to_owned(), vec![H2Act::Tunnel(200)]),
        ],
    };
    compare(&world, Source::File).await;
}
