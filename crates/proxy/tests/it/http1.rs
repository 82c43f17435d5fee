use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;

use lateen_traffic::hcm::RouteSource;

use crate::world::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[test]
fn a_request_goes_through_and_back() {
    let world = World::new(Upstream::answering(OK), forward_all(|_| ()));
    let answer = world.send("GET /x HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\n\r\n", "hello");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-envoy-upstream-service-time: "), "{answer}");
    assert!(answer.contains("\r\nserver: envoy\r\n"), "{answer}");
    let seen = world.upstream.seen.lock().unwrap()[0].clone();
    assert!(
        seen.starts_with("GET /x HTTP/1.1\r\nhost: a.test\r\nx-a: 1\r\nx-forwarded-proto: http\r\nx-request-id: "),
        "{seen}"
    );
}

#[test]
fn connections_are_kept_on_both_sides() {
    let world = World::new(Upstream::answering(OK), forward_all(|_| ()));
    let mut stream = TcpStream::connect(world.address).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert!(read_until(&mut stream, "hello").ends_with("hello"));
    }
    // Pipelined.
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(read_until(&mut stream, "").matches("hello").count(), 2);
    assert_eq!(*world.upstream.connections.lock().unwrap(), 1);
}

#[test]
fn an_upstream_that_is_not_there_is_told() {
    let upstream = Upstream::answering(OK);
    let mut world = World::new(upstream, forward_all(|_| ()));
    let dead = free_address();
    world.proxy.configure(config(world.address, forward_all(|_| ()), vec![cluster("up", &[dead])]));
    let answer = loop {
        let answer = world.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "");
        if !answer.contains("hello") {
            break answer;
        }
    };
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 98\r\ncontent-type: text/plain\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("reset reason: remote connection failure"), "{answer}");
    world.upstream.seen.lock().unwrap().clear();
    let _ = &mut world;
}

#[test]
fn bodies_go_both_ways() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let world = World::new(Upstream::answering(chunked), forward_all(|_| ()));
    let answer = world.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody", "0\r\n\r\n");
    assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
    assert!(answer.replace("\r\n", "").contains("abc") && answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn smuggling_is_refused() {
    let world = World::new(Upstream::answering(OK), forward_all(|_| ()));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "501"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", "426"),
        ("FOO / HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        ("\x16\x03\x01", "400"),
    ] {
        let answer = world.send(request, "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("connection: close"),
            "{request:?}: {answer}"
        );
    }
    assert!(world.upstream.seen.lock().unwrap().is_empty());
}

#[test]
fn internal_only_headers_of_outside_clients_end_here() {
    let mut hcm = forward_all(|_| ());
    if let RouteSource::Inline(routes) = &mut hcm.routes {
        Arc::make_mut(routes).internal_only_headers = vec!["x-secret".into()];
    }
    let world = World::new(Upstream::answering(OK), hcm);
    world.send("GET / HTTP/1.1\r\nhost: a\r\nX-Secret: 1\r\nx-open: 2\r\n\r\n", "hello");
    let seen = world.upstream.seen.lock().unwrap()[0].clone();
    assert!(!seen.contains("x-secret") && seen.contains("x-open: 2"), "{seen}");
}

#[test]
fn a_slow_upstream_runs_into_the_timeout() {
    // Answers nothing at all.
    let world =
        World::new(Upstream::answering(""), forward_all(|f| f.timeout = Some(std::time::Duration::from_millis(50))));
    let answer = world.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "timeout");
    assert!(
        answer.starts_with("HTTP/1.1 504 Gateway Timeout") && answer.ends_with("upstream request timeout"),
        "{answer}"
    );
}
