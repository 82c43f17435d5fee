//! A node, pods in it and apps in them, as the cases need them.

use lateen_local::node::*;
use std::future::Future;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Starts a node and runs a case on it; afterwards the node must end by itself.
pub fn with_node<F: Future<Output = ()>>(case: impl FnOnce(NodeHandle) -> F) {
    let node = start_or_explain();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = node.into_handle().unwrap();
        case(node.clone()).await;
        node.shutdown().await;
    });
}

pub fn start_or_explain() -> Node {
    start(NodeConfig::default()).unwrap_or_else(|error| panic!("{error}"))
}

pub fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, last)
}

pub fn v6(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, last.into())
}

pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// A pod with addresses ending in `last`.
pub fn pod(name: &str, last: u8) -> CreatePod {
    CreatePod {
        namespace: "test".to_owned(),
        name: name.to_owned(),
        hostname: name.to_owned(),
        ipv4: Some(v4(last)),
        ipv6: Some(v6(last)),
        ..CreatePod::default()
    }
}

/// The same with a sidecar's redirect rules.
pub fn redirected(name: &str, last: u8) -> CreatePod {
    CreatePod { redirect: true, ..pod(name, last) }
}

pub const APP: Role = Role::App { user: None, group: None };

/// This binary as an app.
pub fn app(place: Place, role: Role, words: &[&str]) -> Spawn {
    let argv = ["node-test", "--app"].iter().chain(words).map(|word| word.to_string());
    Spawn { program: Program::Own, role, ..Spawn::new(place, argv) }
}

/// Runs an app to its end and returns what it printed.
pub async fn output(node: &NodeHandle, place: Place, role: Role, words: &[&str]) -> String {
    output_of(node, app(place, role, words)).await
}

pub async fn output_of(node: &NodeHandle, spawn: Spawn) -> String {
    let (reader, writer) = std::io::pipe().unwrap();
    let (errors, error_writer) = std::io::pipe().unwrap();
    let what = format!("{:?}", spawn.argv);
    let spawn = Spawn { stdout: Some(writer.into()), stderr: Some(error_writer.into()), ..spawn };
    let mut container = node.spawn(spawn).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let (text, errors) = (read(reader.into()), read(errors.into()));
    let (text, errors) = (text.await, errors.await);
    assert_eq!(container.wait().await.unwrap(), ExitStatus::Code(0), "{what}: {text}\n{errors}");
    text
}

/// All that comes out of a pipe until its other end is closed.
pub async fn read(pipe: OwnedFd) -> String {
    let read = move || {
        let mut text = String::new();
        std::fs::File::from(pipe).read_to_string(&mut text).unwrap();
        text
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Accepts one connection, answers with `answer`, and returns the peer and where the connection was meant for.
pub async fn serve_one(listener: &TcpListener, answer: &str) -> (SocketAddr, SocketAddr) {
    let (mut stream, peer) = listener.accept().await.unwrap();
    let mut question = String::new();
    stream.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "hello");
    stream.write_all(answer.as_bytes()).await.unwrap();
    let socket = socket2::SockRef::from(&stream);
    let original = socket.original_dst_v4().or_else(|_| socket.original_dst_v6());
    let meant = match original {
        Ok(address) => address.as_socket().unwrap(),
        Err(_) => stream.local_addr().unwrap(),
    };
    (peer, meant)
}

/// One app asks `to`, `listener` serves it: who came, and what it was meant for.
pub async fn ask(node: &NodeHandle, from: Spawn, listener: &TcpListener) -> (SocketAddr, SocketAddr) {
    let (answer, who) = tokio::join!(output_of(node, from), serve_one(listener, "answered"));
    assert_eq!(answer, "answered");
    who
}
