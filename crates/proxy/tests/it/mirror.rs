use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use lateen_traffic::cluster::UpstreamProtocol;
use lateen_traffic::hcm::Hcm;
use lateen_traffic::mirror::{Mirror, MirrorHost, MirrorTarget};

use crate::world::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn mirrored() -> Hcm {
    forward_all(|forward| {
        forward.mirrors = vec![Mirror {
            target: MirrorTarget::Cluster("shadow".into()),
            fraction: 1_000_000,
            host: MirrorHost::Same,
            mutations: Vec::new(),
        }];
    })
}

/// A world whose requests are copied to `shadow`, in the protocol of the client.
fn world(shadow: &TcpListener, up: SocketAddr) -> World {
    let world = World::new(Upstream::answering(OK), mirrored());
    let mut copies = cluster("shadow", &[shadow.local_addr().unwrap()]);
    Arc::make_mut(&mut copies.settings).protocol = UpstreamProtocol::Downstream;
    world.proxy.configure(config(world.address, mirrored(), vec![cluster("up", &[up]), copies]));
    while !world.proxy.is_settled() {
        std::thread::yield_now();
    }
    world
}

/// Answers one request when its body of this length is read.
fn reading_upstream(length: usize) -> (JoinHandle<()>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reading = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_until(&mut stream, "\r\n\r\n");
        let already = head.len() - head.find("\r\n\r\n").unwrap() - 4;
        let rest = (length - already) as u64;
        assert_eq!(std::io::copy(&mut (&mut stream).take(rest), &mut std::io::sink()).unwrap(), rest);
        stream.write_all(OK.as_bytes()).unwrap();
    });
    (reading, address)
}

/// Envoy would wait for the mirror to read.
#[test]
fn a_mirror_that_reads_nothing_holds_nothing_up() {
    let shadow = TcpListener::bind("127.0.0.1:0").unwrap();
    let length: usize = 32 << 20;
    let (reading, address) = reading_upstream(length);
    let world = world(&shadow, address);
    let mut client = TcpStream::connect(world.address).unwrap();
    write!(client, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n").unwrap();
    // The mirror's connection is taken by the system alone; nobody reads what it is sent.
    client.write_all(&vec![b'x'; length]).unwrap();
    assert!(read_until(&mut client, "hello").ends_with("hello"));
    reading.join().unwrap();
    // What the mirror got in the end is a part.
    let (mut copy, _) = shadow.accept().unwrap();
    let mut received = Vec::new();
    let _ = copy.read_to_end(&mut received);
    assert!(received.starts_with(b"POST / HTTP/1.1\r\n") && received.len() < length, "{}", received.len());
}

/// Envoy's copies speak HTTP/1.1 to a cluster that speaks as its clients do: a copy has no client of its own.
#[test]
fn copies_speak_http_1_where_their_cluster_speaks_as_the_client_does() {
    let shadow = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = world(&shadow, Upstream::answering(OK).address);
    let mut client = TcpStream::connect(world.address).unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    // HEADERS of stream 1, whole: GET, http, /, authority `a` (RFC 7541, appendix A: 2, 6, 4; name 1).
    client.write_all(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a").unwrap();
    let mut begin = [0; 24];
    shadow.accept().unwrap().0.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"GET / HTTP/1.1\r\nhost: a\r");
}
