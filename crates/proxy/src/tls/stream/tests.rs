//! What a peer may do on a connection, and what it may not.

use std::io::{Read as _, Write as _};

use bytes::BytesMut;
use lateen_traffic::tls::TlsVersion;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use std::sync::Arc;

use super::*;
use crate::io::Io;
use crate::tls::record::CHANGE_CIPHER_SPEC;
use crate::tls::tests::{Authority, Pair, settings, sides};

const VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

/// Both ends of a connection: one to do wrong with, and one that is looked at.
async fn ends(version: TlsVersion) -> (TlsStream, Io) {
    let ca = Authority::new("ours");
    let pair = ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    let mut ours = settings(Arc::clone(&pair), ca.rules("spiffe://t/"));
    ours.max_version = version;
    let mut both = Pair::new(sides(ours, settings(pair, ca.rules("spiffe://t/"))));
    let (server, client) = both.handshake().await;
    let ((server, facts), (client, _)) = (server.unwrap(), client.unwrap());
    assert_eq!(facts.version, version);
    (client, Io::tls(server, Arc::new(facts)))
}

/// Sends records as they are.
async fn send(from: &mut TlsStream, records: &[(u8, &[u8])]) {
    let mut wire = Vec::new();
    for (kind, plain) in records {
        from.sending.seal(*kind, plain, &mut wire).unwrap();
    }
    from.socket.write_all(&wire).await.unwrap();
}

/// All that can be read, and whether it ended as it should.
async fn all(io: &Io) -> (Vec<u8>, bool) {
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(4096);
        match io.read_into(&mut bytes).await {
            Ok(0) => return (bytes.to_vec(), true),
            Ok(_) => {}
            Err(_) => return (bytes.to_vec(), false),
        }
    }
}

#[tokio::test]
async fn alerts_end_connections_each_in_its_way() {
    for version in VERSIONS {
        for (records, read, well) in [
            (vec![(DATA, &b"a"[..]), (ALERT, &[1, CLOSE_NOTIFY][..]), (DATA, b"b")], "a", true),
            (vec![(ALERT, &[1, USER_CANCELED]), (DATA, b"a"), (ALERT, &[1, CLOSE_NOTIFY])], "a", true),
            (vec![(DATA, b"a"), (ALERT, &[2, 40]), (DATA, b"b")], "a", false),
            (vec![(ALERT, &[2])], "", false),
            (vec![(ALERT, &[])], "", false),
            (vec![(ALERT, &[2, 40, 1])], "", false),
        ] {
            let (mut client, server) = ends(version).await;
            send(&mut client, &records).await;
            assert_eq!(all(&server).await, (read.as_bytes().to_vec(), well), "{version} {records:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_negotiated_anew() {
    for version in VERSIONS {
        for message in [
            // hello_request, client_hello, finished, end_of_early_data, an unknown one, one too long
            &[0, 0, 0, 0][..],
            &[1, 0, 0, 1, 0],
            &[20, 0, 0, 0],
            &[5, 0, 0, 0],
            &[99, 0, 0, 0],
            &[KEY_UPDATE, 1, 0, 1],
            // key_update: of an unknown kind, empty, too long, with more in its record
            &[KEY_UPDATE, 0, 0, 1, 2],
            &[KEY_UPDATE, 0, 0, 0],
            &[KEY_UPDATE, 0, 0, 2, 0, 0],
            &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE],
            // a ticket from a client
            &[NEW_SESSION_TICKET, 0, 0, 0],
        ] {
            let (mut client, server) = ends(version).await;
            send(&mut client, &[(HANDSHAKE, message), (DATA, b"a")]).await;
            assert_eq!(all(&server).await, (Vec::new(), false), "{version} {message:?}");
        }
        let (mut client, server) = ends(version).await;
        send(&mut client, &[(CHANGE_CIPHER_SPEC, &[1]), (DATA, b"a")]).await;
        assert_eq!(all(&server).await, (Vec::new(), false), "{version}");
    }
}

#[tokio::test]
async fn a_peer_may_not_keep_us_busy_for_nothing() {
    for version in VERSIONS {
        for (empty, well) in [(MAX_IDLE_RECORDS, true), (MAX_IDLE_RECORDS + 1, false)] {
            let (mut client, server) = ends(version).await;
            let mut records = vec![(DATA, &b""[..]); empty as usize];
            records.extend([(DATA, &b"a"[..]), (ALERT, &[1, CLOSE_NOTIFY])]);
            send(&mut client, &records).await;
            let read = if well { b"a".to_vec() } else { Vec::new() };
            assert_eq!(all(&server).await, (read, well), "{version} {empty}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_is_over() {
    for version in VERSIONS {
        let (mut client, server) = ends(version).await;
        let mut wire = Vec::new();
        client.sending.seal(DATA, b"whole", &mut wire).unwrap();
        let whole = wire.len();
        client.sending.seal(DATA, b"half", &mut wire).unwrap();
        client.socket.write_all(&wire[..whole + 10]).await.unwrap();
        client.abandon();
        drop(client);
        assert_eq!(all(&server).await.0, b"whole", "{version}");
    }
}

#[tokio::test]
async fn records_come_in_whatever_pieces() {
    for version in VERSIONS {
        for seed in 0..4 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut client, server) = ends(version).await;
            let sent: Vec<u8> = (0..200_000).map(|i| (i % 251) as u8).collect();
            let (mut wire, mut rest) = (Vec::new(), sent.as_slice());
            while !rest.is_empty() {
                let (record, more) = rest.split_at(random.random_range(0..=MAX_PLAIN).min(rest.len()));
                client.sending.seal(DATA, record, &mut wire).unwrap();
                rest = more;
            }
            let write = async {
                let mut rest = wire.as_slice();
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(random.random_range(1..40_000).min(rest.len()));
                    client.socket.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = more;
                }
            };
            let read = async {
                let mut sizes = SmallRng::seed_from_u64(seed + 100);
                let (mut received, mut io) = (Vec::new(), &server);
                while received.len() < sent.len() {
                    let mut buffer = vec![0; sizes.random_range(1..50_000)];
                    let n = io.read(&mut buffer).await.unwrap();
                    assert!(n > 0);
                    received.extend_from_slice(&buffer[..n]);
                }
                received
            };
            let ((), received) = tokio::join!(write, read);
            assert!(received == sent, "{version} {seed}");
        }
    }
}

#[tokio::test]
async fn junk_after_the_handshake_ends_the_connection() {
    for version in VERSIONS {
        for seed in 0..20 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut client, server) = ends(version).await;
            let mut junk = vec![0u8; random.random_range(1..3000)];
            random.fill(junk.as_mut_slice());
            // Half of the time it looks like a record.
            if seed % 2 == 0 {
                let header = [DATA, 3, 3, 0, 40];
                let n = junk.len().min(header.len());
                junk[..n].copy_from_slice(&header[..n]);
            }
            client.socket.write_all(&junk).await.unwrap();
            client.abandon();
            drop(client);
            assert!(all(&server).await.0.is_empty(), "{version} {seed}");
        }
    }
}

/// A peer that is rustls alone changes keys in both directions, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_while_bytes_flow() {
    let ca = Authority::new("ours");
    let pair = ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    let (server, _) = sides(
        settings(Arc::clone(&pair), ca.rules("spiffe://t/")),
        settings(Arc::clone(&pair), ca.rules("spiffe://t/")),
    );
    let server = crate::tls::context::Contexts::default().server(&server, &Default::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = tokio::task::spawn_blocking(move || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der.clone().into()).unwrap();
        let chain = pair.chain.iter().map(|der| der.to_vec().into()).collect();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(pair.key.der().to_vec());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key.into())
            .unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap();
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        for round in 0..50u8 {
            stream.write_all(&[round; 1000]).unwrap();
            let mut back = [0; 1000];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [round; 1000]);
            stream.conn.refresh_traffic_keys().unwrap();
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0, "the end is told, not a cut");
    });
    let (socket, _) = listener.accept().await.unwrap();
    let mut so_far = lateen_traffic::tls::TlsConnection::default();
    let accepted = crate::tls::accept(&server, Socket::Tcp(socket), BytesMut::new(), &mut so_far).await;
    let (stream, facts) = accepted.unwrap();
    let io = Io::tls(stream, Arc::new(facts));
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(4096);
        if io.read_into(&mut bytes).await.unwrap() == 0 {
            break;
        }
        io.write(&bytes.split()).await.unwrap();
    }
    io.shutdown().await.unwrap();
    peer.await.unwrap();
}

/// Our own key is changed before it has sealed too much; in TLS 1.2, where it cannot be, the connection ends.
#[tokio::test]
async fn keys_do_not_wear_out() {
    for version in VERSIONS {
        let (mut client, server) = ends(version).await;
        let aged = client.sending.sequence() + 1;
        client.most_records = aged;
        let client = Io::tls(client, Arc::default());
        client.write(b"young").await.unwrap();
        let old = client.write(b"old").await;
        assert_eq!(old.is_ok(), version == TlsVersion::Tls13, "{version}");
        client.shutdown().await.unwrap();
        let read = if old.is_ok() { "youngold" } else { "young" };
        assert_eq!(all(&server).await, (read.as_bytes().to_vec(), true), "{version}");
    }
}

/// A client's first flight, changed in places or cut, must do no harm.
#[tokio::test]
async fn junk_instead_of_a_handshake_does_no_harm() {
    let ca = Authority::new("ours");
    let pair = ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    let both = Pair::new(sides(
        settings(Arc::clone(&pair), ca.rules("spiffe://t/")),
        settings(Arc::clone(&pair), ca.rules("spiffe://t/")),
    ));
    let hello = both.first_flight();
    let server = both.contexts.server(&both.server, &both.secrets).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bytes = hello.clone();
        match seed % 3 {
            0 => {
                bytes.resize(random.random_range(0..2000), 0);
                random.fill(bytes.as_mut_slice());
            }
            1 => bytes.truncate(random.random_range(0..bytes.len())),
            _ => {
                for _ in 0..random.random_range(1..6) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
        }
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut so_far = lateen_traffic::tls::TlsConnection::default();
        let made = crate::tls::accept(&server, Socket::Tcp(socket), BytesMut::new(), &mut so_far).await;
        assert!(made.is_err(), "{seed}");
    }
}

/// A peer with little to say does so, and ends, in one packet with the end of its handshake; it is answered all the same.
#[tokio::test]
async fn the_end_of_a_handshake_may_be_the_end_of_what_a_peer_says() {
    let ca = Authority::new("ours");
    let pair = ca.pair("spiffe://t/ns/x/sa/a", |_| ());
    let ours = || settings(Arc::clone(&pair), ca.rules("spiffe://t/"));
    let both = Pair::new(sides(ours(), ours()));
    let server = both.contexts.server(&both.server, &both.secrets).unwrap();
    let config = both.contexts.client(&both.client, &both.secrets).unwrap().for_host(true, None);
    for words in [&b"hello"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let config = Arc::new(config.clone());
        let peer = async {
            let mut peer = rustls::ClientConnection::new(config, "a.test".try_into().unwrap()).unwrap();
            let mut bytes = Vec::new();
            peer.write_tls(&mut bytes).unwrap();
            socket.write_all(&bytes).await.unwrap();
            while peer.is_handshaking() {
                bytes.clear();
                socket.read_buf(&mut bytes).await.unwrap();
                let mut read = bytes.as_slice();
                while !read.is_empty() {
                    peer.read_tls(&mut read).unwrap();
                    peer.process_new_packets().unwrap();
                }
            }
            peer.writer().write_all(words).unwrap();
            peer.send_close_notify();
            bytes.clear();
            while peer.wants_write() {
                peer.write_tls(&mut bytes).unwrap();
            }
            socket.write_all(&bytes).await.unwrap();
            peer
        };
        let mut so_far = lateen_traffic::tls::TlsConnection::default();
        let (accepted, mut peer) =
            tokio::join!(crate::tls::accept(&server, Socket::Tcp(far), BytesMut::new(), &mut so_far), peer);
        let (stream, facts) = accepted.unwrap();
        let io = Io::tls(stream, Arc::new(facts));
        assert_eq!(all(&io).await, (words.to_vec(), true));
        io.write(b"bye").await.unwrap();
        io.shutdown().await.unwrap();
        drop(io);
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        let mut read = bytes.as_slice();
        let mut answer = Vec::new();
        while !read.is_empty() {
            peer.read_tls(&mut read).unwrap();
            peer.process_new_packets().unwrap();
        }
        peer.reader().read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"bye");
    }
}
