//! Clients that play a case against a proxy and write down what came back, one line a fact.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::case::{Case, Do, H2Request};
use crate::message::{End, Framing, Message, Reader, Side, latin1};
use crate::upstream::Stage;
use crate::wait;

/// How long one case may take as a whole.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plays the client's part of `case` against `to`, from a loopback address of its own, by which
/// the access log's lines are found again.
pub async fn play(case: &Case, source: Ipv4Addr, to: SocketAddr, stage: &Stage) -> Vec<String> {
    play_as(None, case, source, to, stage).await
}

/// The same over TLS, if its client speaks it.
pub async fn play_as(
    tls: Option<&TlsConnector>,
    case: &Case,
    source: Ipv4Addr,
    to: SocketAddr,
    stage: &Stage,
) -> Vec<String> {
    let mut facts = Vec::new();
    let played = async {
        match &case.h2 {
            Some(request) => h2(tls, case, request, source, to, stage, &mut facts).await,
            None => raw(tls, case, source, to, stage, &mut facts).await,
        }
    };
    if tokio::time::timeout(PATIENCE, played).await.is_err() {
        facts.push(format!("STUCK for {PATIENCE:?}"));
    }
    facts
}

async fn connect(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What cases are played over, in clear or not.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The connection as the client speaks on it.
async fn wired(tls: Option<&TlsConnector>, stream: TcpStream) -> std::io::Result<Box<dyn Wire>> {
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    Ok(Box::new(tls.connect(ServerName::from(stream.peer_addr()?.ip()), stream).await?))
}

async fn raw(
    tls: Option<&TlsConnector>,
    case: &Case,
    source: Ipv4Addr,
    to: SocketAddr,
    stage: &Stage,
    facts: &mut Vec<String>,
) {
    let stream = match connect(source, to).await {
        Ok(stream) => stream,
        // Taken and thrown out before anything could be sent.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return facts.push("end: RST".to_owned()),
        Err(error) => return facts.push(format!("connect: {error}")),
    };
    let socket = SockRef::from(&stream).try_clone().expect("a socket");
    let stream = match wired(tls, stream).await {
        Ok(stream) => stream,
        Err(_) => return facts.push("no TLS".to_owned()),
    };
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = Reader::new(read);
    let mut closes = false;
    for act in &case.client {
        match act {
            // A refused or answered request may have its rest thrown back: what was answered counts.
            Do::Send(bytes) => {
                let _ = write.write_all(bytes).await;
            }
            Do::Fill(count) => {
                let _ = write.write_all(&vec![b'y'; *count]).await;
            }
            Do::Answer | Do::AnswerToHead => {
                let side = match act {
                    Do::AnswerToHead => Side::ResponseToHead,
                    _ => Side::Response,
                };
                loop {
                    let Some(message) = reader.message(side).await else {
                        facts.push("no answer".to_owned());
                        closes = true;
                        break;
                    };
                    describe(&message, "<", case.ignore_body, facts);
                    let status = message.status();
                    if (100..200).contains(&status) && status != 101 {
                        continue;
                    }
                    closes |= message.says_close() || message.cut || message.framing == Framing::UntilClose;
                    break;
                }
            }
            Do::Answers => {
                while let Some(message) = reader.message(Side::Response).await {
                    describe(&message, "<", case.ignore_body, facts);
                }
                closes = true;
            }
            Do::Interim => match reader.message(Side::Response).await {
                Some(message) => describe(&message, "<", false, facts),
                None => facts.push("no interim answer".to_owned()),
            },
            Do::Head => match reader.start(Side::Response).await {
                Some(message) => describe(&message, "<", true, facts),
                None => facts.push("no head of an answer".to_owned()),
            },
            Do::Exactly(count) => {
                let bytes = reader.exactly(*count).await;
                facts.push(format!("< raw {}", show(&bytes)));
            }
            Do::Arrival(number) => {
                wait::until("the request reaches the upstream", || async {
                    (stage.received(&case.name).len() >= *number).then_some(())
                })
                .await;
            }
            Do::Whole(number) => {
                let read = wait::within(PATIENCE / 2, || async {
                    let whole = stage.received(&case.name).iter().filter(|received| received.whole).count();
                    (whole >= *number).then_some(())
                });
                if read.await.is_none() {
                    facts.push(format!("not {number} requests read by the upstreams"));
                }
            }
            Do::Cue => stage.cue(&case.name),
            Do::FinishWriting => {
                let _ = write.shutdown().await;
            }
            Do::End => {
                let bytes = reader.rest().await;
                if !bytes.is_empty() {
                    facts.push(format!("< raw {}", show(&bytes)));
                }
                closes = true;
            }
            Do::Frames => closes = !frames(&mut reader, Until::Pong, facts).await,
            Do::Stream => closes = !frames(&mut reader, Until::StreamEnd, facts).await,
            Do::Reset => {
                let _ = socket.set_linger(Some(Duration::ZERO));
                facts.push("reset by the client".to_owned());
                return;
            }
        }
    }
    if !closes {
        return facts.push("end: open".to_owned());
    }
    let rest = reader.rest().await;
    if !rest.is_empty() {
        facts.push(format!("< more {}", show(&rest)));
    }
    facts.push(match (case.exact_end, reader.end) {
        (true, Some(End::Reset)) => "end: RST".to_owned(),
        (true, _) => "end: FIN".to_owned(),
        (false, _) => "end: closed".to_owned(),
    });
}

/// A message as lines: start line, headers in order, body, trailers.
pub fn describe(message: &Message, arrow: &str, ignore_body: bool, facts: &mut Vec<String>) {
    facts.push(format!("{arrow} {}", message.start));
    for (name, value) in &message.headers {
        facts.push(format!("{arrow} {name}: {value}"));
    }
    let framing = match message.framing {
        Framing::None => "no body",
        Framing::Length(_) => "by length",
        Framing::Chunked => "chunked",
        Framing::UntilClose => "until close",
    };
    let cut = if message.cut { ", cut" } else { "" };
    if ignore_body {
        facts.push(format!("{arrow} body {framing}{cut}"));
    } else {
        facts.push(format!("{arrow} body {framing}{cut}: {}", show(&message.body)));
    }
    for (name, value) in &message.trailers {
        facts.push(format!("{arrow} trailer {name}: {value}"));
    }
}

/// Short bytes as text, long ones as length and a checksum.
pub fn show(bytes: &[u8]) -> String {
    if bytes.len() <= 2000 {
        return format!("({}) {:?}", bytes.len(), latin1(bytes));
    }
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("({}) #{hash:016x}", bytes.len())
}

/// What ends the reading of frames on a connection that lives.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// A PING is acknowledged.
    Pong,
    /// A stream has ended.
    StreamEnd,
}

/// Kinds and codes of HTTP/2 frames until what is waited for (`true`), or to the end. SETTINGS and WINDOW_UPDATE are the connection's own affair and left
/// out.
async fn frames<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    until: Until,
    facts: &mut Vec<String>,
) -> bool {
    loop {
        let head = reader.exactly(9).await;
        if head.len() < 9 {
            return false;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = reader.exactly(length).await;
        let code = |at: usize| payload.get(at + 3).copied().unwrap_or(255);
        match head[3] {
            // In how many frames is the sender's affair.
            0 if facts.last().is_some_and(|fact| fact == "< DATA") => {}
            0 => facts.push("< DATA".to_owned()),
            // The first octet of our answers' header blocks is `:status`, indexed when it is a common one.
            1 => facts.push(format!("< HEADERS {:#x}", payload.first().copied().unwrap_or(0))),
            3 => facts.push(format!("< RST_STREAM {}", code(0))),
            6 if head[4] & 1 == 1 && until == Until::Pong => return true,
            7 => facts.push(format!("< GOAWAY {}", code(4))),
            _ => {}
        }
        let ended = head[3] == 3 || (head[3] < 2 && head[4] & 1 == 1);
        if ended && until == Until::StreamEnd {
            return true;
        }
    }
}

async fn h2(
    tls: Option<&TlsConnector>,
    case: &Case,
    request: &H2Request,
    source: Ipv4Addr,
    to: SocketAddr,
    stage: &Stage,
    facts: &mut Vec<String>,
) {
    let begun = || stage.cue(&case.name);
    if let Err(error) = h2_exchange(tls, request, source, to, begun, facts).await {
        let error = error.downcast_ref::<h2::Error>();
        // How a connection that ends shows itself depends on what was being done with it.
        let code = error.and_then(h2::Error::reason).map_or("connection lost".to_owned(), |r| u32::from(r).to_string());
        facts.push(format!("h2 error {code}"));
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn h2_exchange(
    tls: Option<&TlsConnector>,
    request: &H2Request,
    source: Ipv4Addr,
    to: SocketAddr,
    begun: impl Fn(),
    facts: &mut Vec<String>,
) -> Result<(), AnyError> {
    let stream = wired(tls, connect(source, to).await?).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let mut head = http::Request::builder()
        .version(http::Version::HTTP_2)
        .method(request.method.as_str())
        .uri(request.uri.as_str());
    for (name, value) in &request.headers {
        head = head.header(name.as_str(), value.as_str());
    }
    let bodiless = request.body.is_empty() && request.trailers.is_empty();
    let (response, mut body) = sender.send_request(head.body(())?, bodiless)?;
    if !bodiless {
        // A peer that has answered may not want the rest any more: the answer is what counts.
        let _ = send_body(&mut body, request);
    }
    let (head, mut incoming) = response.await?.into_parts();
    facts.push(format!("< {}", head.status.as_u16()));
    push_headers("<", &head.headers, facts);
    let mut data = Vec::new();
    let mut failed = None;
    while let Some(chunk) = incoming.data().await {
        match chunk {
            Ok(chunk) => {
                let _ = incoming.flow_control().release_capacity(chunk.len());
                data.extend_from_slice(&chunk);
                begun();
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    facts.push(format!("< body {}", show(&data)));
    if let Some(error) = failed {
        return Err(error.into());
    }
    if let Some(trailers) = incoming.trailers().await? {
        push_headers("< trailer", &trailers, facts);
    }
    drop(sender);
    driver.abort();
    Ok(())
}

fn send_body(body: &mut h2::SendStream<Bytes>, request: &H2Request) -> Result<(), AnyError> {
    let last = request.trailers.is_empty();
    body.send_data(Bytes::from(request.body.clone()), last)?;
    if !last {
        let mut trailers = http::HeaderMap::new();
        for (name, value) in &request.trailers {
            trailers.append(http::HeaderName::try_from(name)?, value.parse()?);
        }
        body.send_trailers(trailers)?;
    }
    Ok(())
}

/// The lines of a header map, in its order.
pub fn push_headers(arrow: &str, headers: &http::HeaderMap, facts: &mut Vec<String>) {
    for (name, value) in headers {
        facts.push(format!("{arrow} {name}: {}", latin1(value.as_bytes())));
    }
}
