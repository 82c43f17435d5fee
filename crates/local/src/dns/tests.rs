use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::{Outcome, Server, Upstream, Zone, answer};

fn zone() -> Zone {
    let mut zone = Zone::default();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    zone.add_addresses("reviews.default.svc.cluster.local", [address("10.96.0.5")]);
    zone.add_service_port("_http._tcp.reviews.default.svc.cluster.local", 9080, "reviews.default.svc.cluster.local");
    zone.add_addresses("db.default.svc.cluster.local", [address("10.244.0.7"), address("10.244.0.8")]);
    zone.add_addresses("dual.default.svc.cluster.local", [address("10.96.0.6"), address("fd00::6")]);
    zone.add_alias("ext.default.svc.cluster.local", "Reviews.default.svc.cluster.local.");
    zone.add_alias("away.default.svc.cluster.local", "example.com");
    zone.add_alias("loop.default.svc.cluster.local", "loop.default.svc.cluster.local");
    zone.add_addresses("api.example.com", [address("240.240.0.1")]);
    zone.add_addresses("*.wild.example.com", [address("240.240.0.2")]);
    zone.add_addresses("*.deep.wild.example.com", [address("240.240.0.3")]);
    zone.add_addresses("*.wild.svc.cluster.local", [address("240.240.0.4")]);
    zone.add_pointer(address("10.96.0.5"), "reviews.default.svc.cluster.local");
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

fn reply(name: &str, kind: RecordType) -> Message {
    match answer(&zone(), &query(name, kind)) {
        Outcome::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn addresses(reply: &Message) -> Vec<String> {
    reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.to_string()),
            RData::AAAA(address) => Some(address.to_string()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_service_answers_with_its_address() {
    let found = reply("Reviews.DEFAULT.svc.cluster.local", RecordType::A);
    assert_eq!(found.metadata.response_code, ResponseCode::NoError);
    assert!(found.metadata.authoritative);
    assert_eq!(addresses(&found), ["10.96.0.5"]);
    assert!(found.authorities.is_empty());
}

#[test]
fn a_name_without_that_type_is_no_data_and_not_missing() {
    let found = reply("reviews.default.svc.cluster.local", RecordType::AAAA);
    assert_eq!(found.metadata.response_code, ResponseCode::NoError);
    assert!(found.answers.is_empty());
    assert_eq!(found.authorities.len(), 1, "the SOA lets resolvers keep the negative answer");
    let parent = reply("default.svc.cluster.local", RecordType::A);
    assert_eq!(parent.metadata.response_code, ResponseCode::NoError, "names exist below it");
}

#[test]
fn an_unknown_name_in_the_cluster_does_not_exist() {
    let found = reply("nobody.default.svc.cluster.local", RecordType::A);
    assert_eq!(found.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(found.authorities.len(), 1);
}

#[test]
fn both_families_and_every_pod_of_a_headless_service_answer() {
    assert_eq!(addresses(&reply("dual.default.svc.cluster.local", RecordType::AAAA)), ["fd00::6"]);
    assert_eq!(addresses(&reply("db.default.svc.cluster.local", RecordType::A)), ["10.244.0.7", "10.244.0.8"]);
}

#[test]
fn aliases_are_followed_inside_chased_outside_and_never_for_ever() {
    let inside = reply("ext.default.svc.cluster.local", RecordType::A);
    assert_eq!(inside.answers.len(), 2);
    assert_eq!(addresses(&inside), ["10.96.0.5"]);
    match answer(&zone(), &query("away.default.svc.cluster.local", RecordType::A)) {
        Outcome::Chase { reply, target } => {
            assert_eq!(target.to_ascii(), "example.com.");
            assert_eq!(reply.answers.len(), 1);
        }
        other => panic!("{other:?}"),
    }
    assert!(reply("loop.default.svc.cluster.local", RecordType::A).answers.len() < 20);
    assert_eq!(reply("away.default.svc.cluster.local", RecordType::CNAME).answers.len(), 1);
}

#[test]
fn service_entry_hosts_and_the_most_specific_wildcard_answer() {
    assert_eq!(addresses(&reply("api.example.com", RecordType::A)), ["240.240.0.1"]);
    assert_eq!(addresses(&reply("a.b.wild.example.com", RecordType::A)), ["240.240.0.2"]);
    assert_eq!(addresses(&reply("a.deep.wild.example.com", RecordType::A)), ["240.240.0.3"]);
    assert_eq!(addresses(&reply("a.wild.svc.cluster.local", RecordType::A)), ["240.240.0.4"]);
    assert!(matches!(answer(&zone(), &query("wild.example.com", RecordType::A)), Outcome::Forward));
    assert!(matches!(answer(&zone(), &query("example.org", RecordType::A)), Outcome::Forward));
    assert!(matches!(answer(&zone(), &query("notcluster.local", RecordType::A)), Outcome::Forward));
}

#[test]
fn named_ports_and_addresses_lead_back_to_the_service() {
    let found = reply("_http._tcp.reviews.default.svc.cluster.local", RecordType::SRV);
    match &found.answers.first().unwrap().data {
        RData::SRV(service) => {
            assert_eq!(service.port, 9080);
            assert_eq!(service.target.to_ascii(), "reviews.default.svc.cluster.local.");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(found.additionals.len(), 1, "with the target's address along");
    let pointer = reply("5.0.96.10.in-addr.arpa", RecordType::PTR);
    assert!(matches!(&pointer.answers.first().unwrap().data, RData::PTR(_)));
}

#[test]
fn large_answers_are_truncated_on_udp_alone() {
    let mut zone = Zone::default();
    let name = "many.default.svc.cluster.local";
    zone.add_addresses(name, (0..200u8).map(|i| IpAddr::V4(Ipv4Addr::new(10, 244, 1, i))));
    let asked = query(name, RecordType::A);
    let Outcome::Reply(reply) = answer(&zone, &asked) else { panic!() };
    let udp = Message::from_vec(&super::answer::encode(&reply, &asked, true).unwrap()).unwrap();
    assert!(udp.metadata.truncation && udp.answers.is_empty());
    let tcp = Message::from_vec(&super::answer::encode(&reply, &asked, false).unwrap()).unwrap();
    assert_eq!(tcp.answers.len(), 200);
}

async fn exchange(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(30), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn start(zone: Zone, upstream: Upstream) -> (SocketAddr, SocketAddr) {
    let (_, receiver) = watch::channel(Arc::new(zone));
    let server = Server::new(receiver, upstream);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    tokio::spawn(server.clone().serve_udp(udp));
    tokio::spawn(server.serve_tcp(tcp));
    addresses
}

#[tokio::test]
async fn unknown_names_go_upstream_with_their_answers_coming_back() {
    let mut outer = Zone::default();
    outer.add_addresses("example.com", ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    let (host, _) = start(outer, Upstream::default()).await;
    let (server, _) = start(zone(), Upstream::new(vec![host])).await;
    let asked = query("example.com", RecordType::A);
    let found = exchange(server, &asked).await;
    assert_eq!(found.metadata.id, asked.metadata.id);
    assert_eq!(addresses(&found), ["192.0.2.7"]);
    let chased = exchange(server, &query("away.default.svc.cluster.local", RecordType::A)).await;
    assert_eq!(addresses(&chased), ["192.0.2.7"]);
    assert_eq!(chased.answers.len(), 2);
    let missing = exchange(server, &query("nowhere.example.org", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain, "the outer server knows nobody to ask");
}

#[tokio::test]
async fn tcp_takes_several_queries_a_connection_and_survives_junk() {
    let (udp, tcp) = start(zone(), Upstream::default()).await;
    let mut junk = TcpStream::connect(tcp).await.unwrap();
    junk.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(junk.read(&mut [0; 8]).await.unwrap(), 0, "junk closes its own connection");
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    for _ in 0..3 {
        let bytes = query("reviews.default.svc.cluster.local", RecordType::A).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(addresses(&Message::from_vec(&reply).unwrap()), ["10.96.0.5"]);
    }
    UdpSocket::bind("127.0.0.1:0").await.unwrap().send_to(b"junk", udp).await.unwrap();
    let found = exchange(udp, &query("api.example.com", RecordType::A)).await;
    assert_eq!(addresses(&found), ["240.240.0.1"]);
}

proptest! {
    #[test]
    fn no_bytes_panic_the_server(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(query) = Message::from_vec(&bytes)
            && let Outcome::Reply(reply) = answer(&zone(), &query)
        {
            let _ = super::answer::encode(&reply, &query, true);
        }
    }

    #[test]
    fn every_name_gets_an_answer_that_can_be_sent(labels in proptest::collection::vec("[a-zA-Z0-9_][a-zA-Z0-9_-]{0,20}", 1..8)) {
        let asked = query(&labels.join("."), RecordType::A);
        if let Outcome::Reply(reply) = answer(&zone(), &asked) {
            prop_assert!(super::answer::encode(&reply, &asked, true).is_some());
        }
    }
}
