//! What passes between two pods, as somebody sees it who holds the wire.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use lateen_tests::mesh::{Mesh, Running};
use lateen_tests::peers;
use serde_json::{Value, json};

use super::{HTTP, HTTP2, KINDS, SHOP, Stand, caller, mode, server};

/// Said by callers in every way, and by services: the sample service tells its version.
const MARK: &str = "a-secret-that-all-may-know";

/// Hears every packet of a network until its input ends, and prints them in hexadecimal. What was sent before that is
/// all there.
const LISTENER: &str = "
import select, socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
wire.setblocking(False)
print('listening', flush=True)
heard = []
ended = False
while True:
    ready, _, _ = select.select([wire] if ended else [wire, sys.stdin], [], [], 0 if ended else None)
    if wire in ready:
        heard.append(wire.recv(1 << 17))
    elif ended:
        break
    if sys.stdin in ready and not sys.stdin.buffer.raw.read(100):
        ended = True
for packet in heard:
    print(packet.hex())
print('lost', struct.unpack('II', wire.getsockopt(263, 6, 8))[1])
";

/// Somebody who listens between the pods.
struct Listener {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Listener {
    /// Listens from now on.
    fn start(mesh: &Mesh) -> Listener {
        // The node, whose network has the bridge that all pods' cables lead to.
        let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let running = mesh.processes();
        let within = |process: &Running| process.line.contains(" up ") && !process.namespaces.contains(&own("net"));
        let (node, _) = running.iter().find(|(_, process)| within(process)).expect("the node");
        let mut command = Command::new(peers::program("nsenter"));
        command.args(["--net", "--target", &node.to_string()]);
        // An ordinary user is root in the node's user namespace alone.
        if std::fs::read_link(format!("/proc/{node}/ns/user")).unwrap().display().to_string() != own("user") {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--", "python3", "-c", LISTENER]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        assert_eq!(first, "listening\n");
        Listener { child, input, output }
    }

    /// What has passed between two addresses, by connection and direction.
    fn heard(mut self, ends: [Ipv4Addr; 2]) -> Vec<Vec<u8>> {
        drop(self.input);
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success());
        let (packets, lost) = text.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(lost, "lost 0");
        let mut ways: BTreeMap<_, Vec<Segment>> = BTreeMap::new();
        for segment in packets.lines().filter_map(|line| Segment::read(&bytes(line))) {
            if ends.contains(&segment.from.0) && ends.contains(&segment.to.0) {
                ways.entry((segment.from, segment.to)).or_default().push(segment);
            }
        }
        // What began before may still be ending.
        ways.into_values().filter(|segments| segments.iter().any(|segment| segment.begins)).map(in_order).collect()
    }
}

fn bytes(line: &str) -> Vec<u8> {
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
}

/// A segment of TCP.
struct Segment {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    begins: bool,
    number: u32,
    payload: Vec<u8>,
}

impl Segment {
    /// Reads an Ethernet frame, if it has one.
    fn read(frame: &[u8]) -> Option<Segment> {
        let short = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let packet = frame.get(14..).filter(|_| short(frame, 12) == Some(0x0800))?;
        let whole = packet.get(..short(packet, 2)?.into())?;
        let segment = whole.get(usize::from(whole.first()? & 15) * 4..).filter(|_| whole.get(9) == Some(&6))?;
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(whole.get(at..at + 4)?).ok()?));
        Some(Segment {
            from: (address(12)?, short(segment, 0)?),
            to: (address(16)?, short(segment, 2)?),
            begins: segment.get(13)? & 2 != 0,
            number: u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?),
            payload: segment.get(usize::from(segment.get(12)? >> 4) * 4..)?.to_vec(),
        })
    }
}

/// One direction of a connection from its first byte on.
fn in_order(segments: Vec<Segment>) -> Vec<u8> {
    let begin = segments.iter().find(|segment| segment.begins).unwrap().number;
    let mut said = Vec::new();
    for segment in segments.into_iter().filter(|segment| !segment.payload.is_empty()) {
        let at = segment.number.wrapping_sub(begin).wrapping_sub(1) as usize;
        said.resize(said.len().max(at + segment.payload.len()), 0);
        said[at..at + segment.payload.len()].copy_from_slice(&segment.payload);
    }
    said
}

fn shows(said: &[u8]) -> bool {
    said.windows(MARK.len()).any(|window| window == MARK.as_bytes())
}

/// The records of TLS: kind and content.
fn records(mut said: &[u8]) -> Vec<(u8, &[u8])> {
    let mut records = Vec::new();
    while let [kind, 3, 1 | 3, high, low, rest @ ..] = said {
        let (content, rest) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        records.push((*kind, content));
        said = rest;
    }
    assert!(said.is_empty(), "no record of TLS: {said:02x?}");
    records
}

/// Whether it is one side of TLS 1.3: a hello in clear, and then nothing but what is encrypted.
fn is_tls_13(said: &[u8]) -> bool {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    let records = records(said);
    let Some(((HANDSHAKE, hello), rest)) = records.split_first() else { return false };
    // A server says which version it has chosen (extension 43), a client which ones it speaks.
    let chosen = hello[0] == 1 || hello.windows(6).any(|window| window == [0, 43, 0, 2, 3, 4]);
    let hidden = rest.iter().filter(|(kind, _)| *kind == APPLICATION_DATA).count();
    let other = rest.iter().filter(|(kind, content)| *kind == CHANGE_CIPHER_SPEC && *content == [1]).count();
    chosen && hidden >= 2 && hidden + other == rest.len()
}

/// Has a caller say the mark to a server in every way; what has passed between the two.
async fn said(stand: &Stand, from: &str, to: &str) -> Vec<Vec<u8>> {
    let ends = [stand.address(from).await, stand.address(to).await].map(|address| address.parse().unwrap());
    let listener = Listener::start(&stand.mesh);
    for (client, port) in [("--http1.1", HTTP), ("--http2-prior-knowledge", HTTP2)] {
        let (header, url) = (format!("x-mark: {MARK}"), format!("http://{to}:{port}/echo"));
        let asked = [client, "-H", &header, "--data", MARK];
        assert_eq!(stand.ask(from, &asked, &url).await, ("200".to_owned(), json!(MARK)), "{from} {to} {client}");
    }
    assert_eq!(stand.echo(from, to, MARK).await, MARK, "{from} {to}");
    listener.heard(ends)
}

/// Every request has a connection of its own, so that all of each is heard.
fn rule(to: &str, tls: Option<&str>) -> Value {
    let mut policy = json!({"connectionPool": {"http": {"maxRequestsPerConnection": 1}}});
    if let Some(mode) = tls {
        policy["tls"] = json!({"mode": mode});
    }
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": to, "namespace": SHOP}, "spec": {"host": to, "trafficPolicy": policy}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_what_is_said_is_seen_on_the_wire() {
    let _alone = crate::one_mesh_at_a_time().await;
    let mut stand = Stand::up(vec![]).await;
    let all = || KINDS.iter().flat_map(|from| KINDS.map(|to| (caller(*from), server(to))));
    // Auto mTLS, and the same when it is demanded.
    for asked in [None, Some("ISTIO_MUTUAL")] {
        let rules = KINDS.map(|kind| rule(&server(kind), asked));
        stand.put(&[&[mode("STRICT")], &rules[..]].concat()).await;
        for (from, to) in all() {
            let heard = said(&stand, &from, &to).await;
            assert!(heard.len() >= 6, "three connections from {from} to {to}: {}", heard.len());
            for one in heard {
                assert!(!shows(&one) && is_tls_13(&one), "{from} {to}: {}", String::from_utf8_lossy(&one));
            }
        }
    }
    // The same without: so it would be seen.
    let rules = KINDS.map(|kind| rule(&server(kind), Some("DISABLE")));
    stand.put(&[&[mode("PERMISSIVE")], &rules[..]].concat()).await;
    for (from, to) in all() {
        let heard = said(&stand, &from, &to).await;
        let shown = heard.iter().filter(|one| shows(one)).count();
        assert!(shown >= 6, "both sides of three connections from {from} to {to}: {shown} of {}", heard.len());
    }
    stand.mesh.down().await;
}
