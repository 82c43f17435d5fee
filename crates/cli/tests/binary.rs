//! The binary as a person or a script runs it: the sample service and the load generator. Everything that needs a mesh is
//! in the workspace's end-to-end tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn lateen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lateen"))
}

/// A running sample service, killed when dropped.
struct App {
    child: Child,
    address: SocketAddr,
    tcp: SocketAddr,
}

impl App {
    fn start(options: &[&str]) -> App {
        let [address, tcp] = free_ports();
        let child = lateen()
            .args(["app", "--version", "v7", "--pod", "pod-1"])
            .args(["--port", &address.port().to_string(), "--tcp-port", &tcp.port().to_string()])
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let app = App { child, address, tcp };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(app.address).is_err() {
            assert!(Instant::now() < deadline, "the service does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        app
    }

    fn terminate(&self) {
        // SAFETY: the child has not been waited for, so its number is still its own.
        unsafe { libc::kill(self.child.id().try_into().unwrap(), libc::SIGTERM) };
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports nobody listens on. They lie below the range of outgoing connections: a connection to a port of that range that
/// nobody listens on yet may get the same port as its own, reach itself, and keep the service from listening.
fn free_ports() -> [SocketAddr; 2] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 200) as u16 * 100;
    let free = || {
        std::iter::repeat_with(|| 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000)
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .find(|address| TcpListener::bind(address).is_ok())
            .unwrap()
    };
    [free(), free()]
}

/// Sends one HTTP/1.1 request of plain text and returns all that comes back until the connection closes.
fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> (String, Value) {
    let answer = raw(address, &format!("GET {path} HTTP/1.1\r\nhost: test\r\nx-a: 1\r\nconnection: close\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_string(), serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn the_service_tells_what_it_saw() {
    let app = App::start(&[]);
    let (status, seen) = get(app.address, "/a/b?c=d");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for (field, value) in
        [("pod", "pod-1"), ("version", "v7"), ("path", "/a/b"), ("query", "c=d"), ("host", "test"), ("method", "GET")]
    {
        assert_eq!(seen[field], value, "{field} in {seen}");
    }
    assert_eq!(seen["headers"]["x-a"], "1");
    let (_, next) = get(app.address, "/");
    assert_eq!(next["call"].as_u64(), seen["call"].as_u64().map(|call| call + 1));
}

#[test]
fn options_hold_and_queries_override_them() {
    let app = App::start(&["--status", "404", "--response-size", "500"]);
    let (status, seen) = get(app.address, "/");
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert!(seen.to_string().len() > 450);
    assert_eq!(get(app.address, "/?status=201").0, "HTTP/1.1 201 Created");
    assert_eq!(get(app.address, "/?fail-rate=1").0, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(get(app.address, "/?status=x").0, "HTTP/1.1 400 Bad Request");
    let began = Instant::now();
    get(app.address, "/?delay=120ms");
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[test]
fn tcp_comes_back() {
    let app = App::start(&[]);
    let mut stream = TcpStream::connect(app.tcp).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"back, please").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"back, please");
}

#[test]
fn bodies_and_trailers_are_echoed() {
    let app = App::start(&[]);
    let request = "POST /echo HTTP/1.1\r\nhost: test\r\nte: trailers\r\ntrailer: x-end\r\nconnection: close\r\n\
                   transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-end: yes\r\n\r\n";
    let answer = raw(app.address, request);
    assert!(answer.contains("abc"), "{answer}");
    assert!(answer.contains("x-end: yes"), "{answer}");
}

#[test]
fn a_websocket_is_opened_as_the_rfc_says() {
    let app = App::start(&[]);
    let mut stream = TcpStream::connect(app.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    // A masked text message "hi", with a mask of zeros.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).unwrap();
    let mut answer = Vec::new();
    let expected = b"\r\n\r\n\x81\x02hi";
    while !answer.ends_with(expected) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    // The answer to that key is in RFC 6455, section 1.3.
    assert!(String::from_utf8_lossy(&answer).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

#[tokio::test]
async fn grpc_calls_are_answered_with_trailers() {
    let app = App::start(&[]);
    let stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Two messages: EchoRequest { message: "hi" }, and one with status 5.
    let mut call = async |method: &str, messages: &'static [u8]| {
        let request = Request::post(format!("http://test/lateen.sample.Echo/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(messages)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let head = response.headers().clone();
        let body = response.into_body().collect().await.unwrap();
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).or(head.get("grpc-status"));
        (status.unwrap().to_str().unwrap().to_string(), body.to_bytes())
    };
    let (status, reply) = call("Echo", b"\0\0\0\0\x04\x0a\x02hi").await;
    assert_eq!(status, "0");
    assert_eq!(&reply[5..9], b"\x0a\x02hi");
    assert_eq!(call("EchoStream", b"\0\0\0\0\x04\x0a\x02hi\0\0\0\0\x02\x10\x05").await.0, "5");
    assert_eq!(call("Other", b"").await.0, "12");
    assert_eq!(call("Echo", b"\0\0\0\0\x09").await.0, "13");
}

#[tokio::test]
async fn sigterm_lets_requests_finish() {
    let mut app = App::start(&[]);
    let stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Its answer begins at once and ends when its body does: the request is surely under way when SIGTERM comes.
    let (mut body, rest) = Channel::<Bytes>::new(1);
    let request = Request::post("/echo").header("host", "test").body(rest).unwrap();
    body.send_data(Bytes::from_static(b"first ")).await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    app.terminate();
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(app.address).is_ok() {
        assert!(Instant::now() < deadline, "the service still takes connections");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    body.send_data(Bytes::from_static(b"last")).await.unwrap();
    drop(body);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "first last");
    assert!(app.child.wait().unwrap().success());
}

fn load(arguments: &[&str]) -> (Output, Value) {
    let output = lateen().arg("load").args(arguments).arg("--json").output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (output, report)
}

#[test]
fn load_counts_what_comes_back() {
    let app = App::start(&["--fail-rate", "1"]);
    let (output, report) = load(&[&format!("http://{}/", app.address), "-n", "300", "-c", "7"]);
    assert!(output.status.success());
    assert_eq!(report["answered"], 300);
    assert_eq!(report["statuses"], serde_json::json!({"503": 300}));
    assert_eq!(report["versions"], serde_json::json!({"v7": 300}));
    assert_eq!(report["pods"], serde_json::json!({"pod-1": 300}));
}

#[test]
fn load_tells_what_fails() {
    let [nobody, _] = free_ports();
    let (output, report) = load(&[&format!("http://{nobody}/"), "-n", "3", "-c", "1"]);
    assert!(!output.status.success());
    assert_eq!(report["failures"], serde_json::json!({"connect": 3}));
}

#[test]
fn without_a_mesh_commands_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| lateen().args(arguments).arg("--state-dir").arg(directory.path()).output().unwrap();
    let get = run(&["get", "pods"]);
    assert!(!get.status.success());
    assert!(String::from_utf8_lossy(&get.stderr).contains("lateen up"), "{get:?}");
    let down = run(&["down"]);
    assert!(down.status.success());
}
