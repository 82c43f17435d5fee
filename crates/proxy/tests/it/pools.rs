use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::cluster::{ClusterSettings, UpstreamProtocol};

use crate::world::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn world(upstream: Upstream, change: impl FnOnce(&mut ClusterSettings)) -> World {
    let world = World::new(upstream, forward_all(|_| ()));
    let mut up = cluster("up", &[world.upstream.address]);
    change(Arc::make_mut(&mut up.settings));
    world.proxy.configure(config(world.address, forward_all(|_| ()), vec![up]));
    while !world.proxy.is_settled() {
        std::thread::yield_now();
    }
    world
}

/// Sends requests until the upstream has seen a second connection.
fn a_second_connection_comes(world: &World) {
    while *world.upstream.connections.lock().unwrap() < 2 {
        assert!(world.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "hello").ends_with("hello"));
    }
}

#[test]
fn connections_that_were_idle_are_not_used_again() {
    a_second_connection_comes(&world(Upstream::answering(OK), |settings| {
        settings.idle_timeout = Some(Duration::from_millis(1));
    }));
}

#[test]
fn connections_that_are_old_are_not_used_again() {
    a_second_connection_comes(&world(Upstream::answering(OK), |settings| {
        settings.max_connection_duration = Some(Duration::from_millis(1));
    }));
}

#[test]
fn idle_connections_are_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent =
        Upstream { address: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default() };
    let world = world(silent, |settings| settings.idle_timeout = Some(Duration::from_millis(1)));
    let mut client = TcpStream::connect(world.address).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    read_until(&mut upstream, "\r\n\r\n");
    upstream.write_all(OK.as_bytes()).unwrap();
    assert!(read_until(&mut client, "hello").ends_with("hello"));
    // The client's connection stays, the upstream's ends.
    assert_eq!(upstream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_connection_takes_no_more_streams_than_allowed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent =
        Upstream { address: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default() };
    let world = world(silent, |settings| {
        settings.protocol = UpstreamProtocol::Http2;
        settings.http2.max_concurrent_streams = 1;
    });
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(world.address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        // Nobody answers, so each request needs a connection of its own.
        clients.push((client, listener.accept().unwrap()));
    }
}
