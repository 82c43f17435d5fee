use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Backends, Dialer, Endpoint, HostListeners, Relay, ServicePort};

fn port(service: &str) -> ServicePort {
    ServicePort { namespace: "default".to_owned(), service: service.to_owned(), port: 80 }
}

/// A server that answers with its name once the client has closed its side.
async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut sent = Vec::new();
                stream.read_to_end(&mut sent).await.unwrap();
                stream.write_all(format!("{name}:{}", sent.len()).as_bytes()).await.unwrap();
            });
        }
    });
    address
}

async fn ask(address: SocketAddr, bytes: usize) -> std::io::Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&vec![7; bytes]).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap()
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_listener_follows_the_endpoints_and_passes_half_closes_on() {
    let (sender, receiver) = watch::channel(Arc::new(Backends::default()));
    let mut listeners = HostListeners::new(Relay::new(receiver, Dialer::host_only()));
    let address = free_address();
    listeners.open_all(&[(address, port("a"))]).unwrap();
    assert!(ask(address, 3).await.is_err(), "no endpoint: the client is reset");
    for name in ["one", "two"] {
        let endpoint = Endpoint::Address(server(name).await);
        let mut backends = Backends::default();
        // The first endpoint is gone: the relay goes on to the next.
        backends.add(port("a"), vec![Endpoint::Address(free_address()), endpoint]);
        sender.send_replace(Arc::new(backends));
        assert_eq!(ask(address, 300_000).await.unwrap(), format!("{name}:300000"));
    }
}

#[tokio::test]
async fn a_reset_of_either_side_is_one_for_the_other() {
    let (sender, receiver) = watch::channel(Arc::new(Backends::default()));
    let mut listeners = HostListeners::new(Relay::new(receiver, Dialer::host_only()));
    let address = free_address();
    listeners.open_all(&[(address, port("a"))]).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut backends = Backends::default();
    backends.add(port("a"), vec![Endpoint::Address(server.local_addr().unwrap())]);
    sender.send_replace(Arc::new(backends));
    for server_resets in [true, false] {
        let client = TcpStream::connect(address).await.unwrap();
        let (served, _) = server.accept().await.unwrap();
        let (mut first, mut second) = if server_resets { (served, client) } else { (client, served) };
        // Part of what was to come arrives.
        first.write_all(b"part").await.unwrap();
        let mut part = [0; 4];
        second.read_exact(&mut part).await.unwrap();
        super::relay::reset(first);
        let end = tokio::time::timeout(Duration::from_secs(60), second.read(&mut part)).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{server_resets}");
    }
}

#[tokio::test]
async fn all_listeners_of_a_service_open_or_none() {
    let (_sender, receiver) = watch::channel(Arc::new(Backends::default()));
    let mut listeners = HostListeners::new(Relay::new(receiver, Dialer::host_only()));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken) = (free_address(), taken.local_addr().unwrap());
    let (failed, _) = listeners.open_all(&[(free, port("a")), (taken, port("b"))]).unwrap_err();
    assert_eq!(failed, taken);
    assert_eq!(listeners.port_at(free), None);
    listeners.open_all(&[(free, port("a"))]).unwrap();
    listeners.open_all(&[(free, port("a"))]).unwrap();
    assert!(listeners.open_all(&[(free, port("b"))]).is_err());
    listeners.retain(|_, _| false);
    assert_eq!(listeners.port_at(free), None);
}

#[tokio::test]
async fn a_handed_over_listener_is_served_by_its_holders_alone() {
    let (sender, receiver) = watch::channel(Arc::new(Backends::default()));
    let mut backends = Backends::default();
    backends.add(port("a"), vec![Endpoint::Address(server("relayed").await)]);
    sender.send_replace(Arc::new(backends));
    let mut listeners = HostListeners::new(Relay::new(receiver, Dialer::host_only()));
    let address = free_address();
    listeners.open_all(&[(address, port("a"))]).unwrap();
    assert_eq!(ask(address, 1).await.unwrap(), "relayed:1");
    let sockets = listeners.hand_over(&port("a"), "gateway").unwrap();
    let owner = TcpListener::from_std(sockets.into_iter().next().unwrap().into()).unwrap();
    let owner = tokio::spawn(async move {
        while let Ok((mut stream, _)) = owner.accept().await {
            let mut sent = Vec::new();
            stream.read_to_end(&mut sent).await.unwrap();
            stream.write_all(b"own").await.unwrap();
        }
    });
    assert_eq!(ask(address, 1).await.unwrap(), "own");
    owner.abort();
    assert!(owner.await.unwrap_err().is_cancelled());
    // Another one holds it still, who takes its time.
    listeners.hand_over(&port("a"), "other").unwrap();
    listeners.release("gateway").unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), ask(address, 1)).await.is_err());
    listeners.release("other").unwrap();
    assert_eq!(ask(address, 1).await.unwrap(), "relayed:1");

    // And somebody who cannot accept is relayed to, whoever holds it.
    listeners.hand_over(&port("a"), "gateway").unwrap();
    listeners.take_back(&port("a")).unwrap();
    assert_eq!(ask(address, 1).await.unwrap(), "relayed:1");
}
