//! Ports whose protocol is found out, and servers that speak before their clients do.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lateen_traffic::Config;
use lateen_traffic::cluster::EndpointAddress;
use lateen_traffic::listener::{ChainMatch, FilterChain, Inspector, Listener, Terminal, TransportProtocol};
use lateen_traffic::tcp::{TcpProxy, TcpTarget};

use crate::world::*;

/// A listener as sidecars have it for a port of undeclared protocol; it looks for ever.
fn sniffing(address: SocketAddr, cluster: &str) -> Listener {
    let plain = Listener::clone(&config(address, forward_all(|_| ()), Vec::new()).listeners["test"]);
    let http = Arc::new(FilterChain {
        matches: ChainMatch {
            transport_protocol: Some(TransportProtocol::RawBuffer),
            application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
            ..ChainMatch::default()
        },
        ..FilterChain::clone(&plain.chains[0])
    });
    let tcp = TcpProxy {
        stat_prefix: cluster.into(),
        target: TcpTarget::Cluster(cluster.into()),
        idle_timeout: None,
        max_connect_attempts: 1,
        named_port: Default::default(),
        tunnel: None,
        max_downstream_connection_duration: None,
        hash_source_ip: false,
        access_log: Vec::new(),
    };
    Listener {
        name: address.to_string().into(),
        http_inspector: Some(Inspector::default()),
        continue_on_inspect_timeout: true,
        chains: vec![http],
        default_chain: Some(Arc::new(FilterChain {
            name: "".into(),
            matches: ChainMatch::default(),
            gates: Box::default(),
            tls: None,
            handshake_timeout: None,
            terminal: Terminal::Tcp(Arc::new(tcp)),
        })),
        ..plain
    }
}

fn configured(world: &World, listeners: Vec<Listener>, clusters: &[(&str, SocketAddr)]) {
    let clusters: HashMap<_, _> =
        clusters.iter().map(|(name, address)| (Arc::from(*name), Arc::new(cluster(name, &[*address])))).collect();
    let listeners: BTreeMap<_, _> = listeners.into_iter().map(|l| (Arc::clone(&l.name), Arc::new(l))).collect();
    world.proxy.configure(Arc::new(Config {
        secrets: Arc::default(),
        listeners: Arc::new(listeners),
        routes: Arc::default(),
        clusters: clusters.into_iter().collect(),
    }));
    while !world.proxy.is_settled() {
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_through_two_proxies() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let database = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"5.7.0-ready\n").unwrap();
            let mut asked = [0u8; 5];
            if stream.read_exact(&mut asked).is_ok() {
                stream.write_all(&asked).unwrap();
            }
        }
    });
    let world = World::new(Upstream::answering(""), forward_all(|_| ()));
    let (first, second) = (free_address(), free_address());
    configured(
        &world,
        vec![sniffing(first, "next"), sniffing(second, "database")],
        &[("next", second), ("database", database)],
    );
    let mut client = TcpStream::connect(first).unwrap();
    assert_eq!(read_until(&mut client, "\n"), "5.7.0-ready\n");
    client.write_all(b"query").unwrap();
    assert_eq!(read_until(&mut client, "query"), "query");
}

#[test]
fn a_server_that_comes_late_is_heard() {
    let world = World::new(Upstream::answering(""), forward_all(|_| ()));
    let (address, database) = (free_address(), free_address());
    configured(&world, vec![sniffing(address, "database")], &[("database", database)]);
    let mut client = TcpStream::connect(address).unwrap();
    let refused = || {
        let host = world.proxy.upstreams().cluster(&"database".into()).known_host(&EndpointAddress::Socket(database));
        host.is_some_and(|host| host.connect_failures.load(Ordering::Relaxed) > 0)
    };
    while !refused() {
        std::thread::yield_now();
    }
    let server = TcpListener::bind(database).unwrap();
    std::thread::spawn(move || server.accept().unwrap().0.write_all(b"5.7.0-ready\n").unwrap());
    client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    assert_eq!(read_until(&mut client, "\n"), "5.7.0-ready\n");
}

#[test]
fn a_client_that_hesitates_is_still_found_to_speak_http() {
    let world =
        World::new(Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"), forward_all(|_| ()));
    let address = free_address();
    configured(&world, vec![sniffing(address, "up")], &[("up", world.upstream.address)]);
    let mut client = TcpStream::connect(address).unwrap();
    // The server was connected to, and says nothing.
    while *world.upstream.connections.lock().unwrap() == 0 {
        std::thread::yield_now();
    }
    client.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    let answer = read_until(&mut client, "hello");
    assert!(answer.contains("x-envoy-upstream-service-time"), "{answer}");
}
