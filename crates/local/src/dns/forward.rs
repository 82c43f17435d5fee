//! Questions the cluster cannot answer, asked of the host's resolvers over the host's network.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Time one resolver has for an answer before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Resolvers used at most, as in glibc (MAXNS).
const RESOLVER_LIMIT: usize = 3;

/// The host's resolvers, in the order they are asked.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    resolvers: Vec<SocketAddr>,
}

impl Upstream {
    /// Resolvers at these addresses.
    pub fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers }
    }

    /// The `nameserver` lines of a resolv.conf; none if the file cannot be read.
    pub fn from_resolv_conf(path: &Path) -> Self {
        std::fs::read_to_string(path).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let resolvers = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("nameserver")?.split_whitespace().next())
            .filter_map(|address| address.parse::<IpAddr>().ok())
            .take(RESOLVER_LIMIT)
            .map(|address| SocketAddr::new(address, 53))
            .collect();
        Self { resolvers }
    }

    /// Whether there is nobody to ask.
    pub fn is_empty(&self) -> bool {
        self.resolvers.is_empty()
    }

    /// Asks each resolver in turn; `None` if none of them answered in time.
    pub async fn ask(&self, query: &Message, tcp: bool) -> Option<Message> {
        for &resolver in &self.resolvers {
            let asked = async { if tcp { ask_tcp(resolver, query).await } else { ask_udp(resolver, query).await } };
            if let Ok(Some(mut reply)) = timeout(PATIENCE, asked).await {
                reply.metadata.id = query.metadata.id;
                return Some(reply);
            }
        }
        None
    }
}

/// The query as we send it: a fresh id, so that one client's ids say nothing about ours.
fn own_query(query: &Message) -> Message {
    let mut own = query.clone();
    own.metadata.id = rand::random();
    own.metadata.recursion_desired = true;
    own
}

async fn ask_udp(resolver: SocketAddr, query: &Message) -> Option<Message> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(resolver).await.ok()?;
    let own = own_query(query);
    socket.send(&own.to_vec().ok()?).await.ok()?;
    let mut buffer = [0u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        let Some(reply) = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok()) else {
            continue;
        };
        if answers(&own, &reply) {
            return Some(reply);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &Message) -> Option<Message> {
    let mut stream = TcpStream::connect(resolver).await.ok()?;
    let own = own_query(query);
    let bytes = own.to_vec().ok()?;
    stream.write_all(&u16::try_from(bytes.len()).ok()?.to_be_bytes()).await.ok()?;
    stream.write_all(&bytes).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.ok()?;
    Message::from_vec(&bytes).ok().filter(|reply| answers(&own, reply))
}

fn answers(query: &Message, reply: &Message) -> bool {
    let same = |a: &Query, b: &Query| a.name() == b.name() && a.query_type() == b.query_type();
    reply.metadata.id == query.metadata.id
        && match (query.queries.first(), reply.queries.first()) {
            (Some(asked), Some(answered)) => same(asked, answered),
            // Some resolvers leave the question out of errors.
            (_, None) => true,
            (None, Some(_)) => false,
        }
}
