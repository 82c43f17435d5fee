//! The PROXY protocol: headers as clients send them, and those the proxy writes, which the same proxy reads.

use lateen_tests::bootstrap::{Layout, cluster, http, listener, merge, tcp};
use lateen_tests::case::{Case, Do, say};
use lateen_tests::differential::{Resources, Source, World, compare};
use serde_json::{Value, json};

const LISTENERS: &[&str] = &["in", "perhaps", "in-tcp", "out-v1", "out-v2", "out-tcp"];

/// A listener that expects a header; `more` is part of the filter.
fn expecting(layout: &Layout, name: &str, filter: Value, more: Value) -> Value {
    let mut config =
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"});
    merge(&mut config, more);
    let mut listener = listener(layout, name, filter);
    merge(
        &mut listener,
        json!({"listener_filters": [{"name": "envoy.filters.listener.proxy_protocol", "typed_config": config}]}),
    );
    listener
}

/// A cluster that is one of the proxy's own listeners, and is told who the client is.
fn telling(layout: &Layout, name: &str, target: &str, version: &str) -> Value {
    let mut out = cluster(layout, name, &[], json!({}));
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": layout.listener(target)}});
    merge(
        &mut out,
        json!({
            "load_assignment": {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
            "transport_socket": {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": {
                "@type":
                    "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
                "config": {"version": version},
                "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}},
            }},
        }),
    );
    out
}

fn resources(layout: &Layout) -> Resources {
    let edge = |name: &str, cluster: &str| {
        let routes = json!([{"name": "all", "domains": ["*"], "routes": [{
        "match": {"prefix": "/"}, "route": {"cluster": cluster},
        "request_headers_to_add": [
            {"header": {"key": "x-remote", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}},
            {"header": {"key": "x-direct", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}},
            {"header": {"key": "x-local", "value": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"}},
        ]}]}]);
        http(layout, name, routes, json!({"use_remote_address": true, "generate_request_id": false}))
    };
    let listeners = vec![
        expecting(layout, "in", edge("in", "up"), json!({})),
        expecting(layout, "perhaps", edge("perhaps", "up"), json!({"allow_requests_without_proxy_protocol": true})),
        expecting(layout, "in-tcp", tcp(layout, "in-tcp", json!({"cluster": "up"})), json!({})),
        listener(layout, "out-v1", edge("out-v1", "told-v1")),
        listener(layout, "out-v2", edge("out-v2", "told-v2")),
        listener(layout, "out-tcp", tcp(layout, "out-tcp", json!({"cluster": "told-tcp"}))),
    ];
    let clusters = vec![
        cluster(layout, "up", &["up"], json!({})),
        telling(layout, "told-v1", "in", "V1"),
        telling(layout, "told-v2", "in", "V2"),
        telling(layout, "told-tcp", "in-tcp", "V2"),
    ];
    (listeners, clusters)
}

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family, 0, body.len() as u8]);
    header.extend(body);
    header
}

fn cases() -> Vec<Case> {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n";
    let v4 = [10, 1, 2, 3, 10, 4, 5, 6, 0x10, 0, 0, 80];
    let with_tlv = [&v4[..], &[4, 0, 2, b'x', b'y']].concat();
    let v6: Vec<u8> = (0..36).collect();
    let good: Vec<(&str, Vec<u8>)> = vec![
        ("TCP4", b"PROXY TCP4 10.1.2.3 10.4.5.6 4096 80\r\n".to_vec()),
        ("TCP6", b"PROXY TCP6 2001:db8::1 2001:db8::2 4096 443\r\n".to_vec()),
        ("UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec()),
        ("UNKNOWN with addresses", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec()),
        ("v2 IPv4", binary(0x21, 0x11, &v4)),
        ("v2 IPv4 and a TLV", binary(0x21, 0x11, &with_tlv)),
        ("v2 IPv6", binary(0x21, 0x21, &v6)),
        ("v2 IPv4, UDP", binary(0x21, 0x12, &v4)),
        ("v2 LOCAL", binary(0x20, 0x00, &[])),
        ("v2 LOCAL with addresses", binary(0x20, 0x11, &v4)),
    ];
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("no header", Vec::new()),
        ("port too large", b"PROXY TCP4 10.1.2.3 10.4.5.6 66000 80\r\n".to_vec()),
        ("too few parts", b"PROXY TCP4 10.1.2.3 10.4.5.6 80\r\n".to_vec()),
        ("wrong family", b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec()),
        ("no family", b"PROXY UDP4 10.1.2.3 10.4.5.6 1 2\r\n".to_vec()),
        ("a line without end", [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat()),
        ("v2 version", binary(0x31, 0x11, &v4)),
        ("v2 command", binary(0x22, 0x11, &v4)),
        ("v2 short", binary(0x21, 0x11, &v4[..8])),
        ("v2 neither TCP nor UDP", binary(0x21, 0x13, &v4)),
    ];
    let mut cases = Vec::new();
    for (name, header) in good {
        for listener in ["in", "perhaps"] {
            cases.push(Case::raw(&format!("{name} on {listener}"), [&header, REQUEST].concat()).on(listener));
        }
    }
    for (name, header) in bad {
        let case = Case::of(&format!("bad: {name}")).on("in");
        cases.push(case.client(vec![Do::Send([&header, REQUEST].concat()), Do::End]));
    }
    cases.push(Case::raw("no header, perhaps", REQUEST).on("perhaps"));
    cases.push(Case::raw("told in a line", REQUEST).on("out-v1").then(vec![Do::Send(REQUEST.to_vec()), Do::Answer]));
    cases.push(Case::raw("told in bytes", REQUEST).on("out-v2"));
    cases.push(Case::of("told by TCP").on("out-tcp").client(vec![
        say("x-case: told by TCP\r\n\r\n"),
        Do::FinishWriting,
        Do::End,
    ]));
    cases
}

fn world() -> World {
    World {
        name: "proxy_protocol",
        listeners: LISTENERS,
        upstreams: &["up"],
        h2_upstreams: &[],
        resources,
        cases: cases(),
        h2_scripts: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_protocol() {
    compare(&world(), Source::File).await;
}
