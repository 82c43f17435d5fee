use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use crate::world::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[test]
fn inherited_sockets_are_served_by_the_listener_of_their_port_or_refused() {
    let served = TcpListener::bind(free_address()).unwrap();
    let unserved = TcpListener::bind(free_address()).unwrap();
    let (served_at, unserved_at) = (served.local_addr().unwrap(), unserved.local_addr().unwrap());
    let address = free_address();
    let inherited = vec![(address.port(), served.into()), (1, unserved.into())];
    let world = World::at(address, Upstream::answering(OK), forward_all(|_| ()), inherited);

    // Nobody knows yet whether a listener for it is still to come: it waits.
    let mut waiting = TcpStream::connect(unserved_at).unwrap();
    world.proxy.ready();
    assert!(!matches!(waiting.read(&mut [0]), Ok(n) if n > 0));

    let mut stream = TcpStream::connect(served_at).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert!(read_until(&mut stream, "hello").ends_with("hello"));
}
