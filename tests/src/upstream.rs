//! An upstream that does what a test's script says, byte for byte, and keeps what it received.
//!
//! A request carries `x-case: NAME`; the script of that name says what happens to its first try, its
//! second, and so on (the last entry serves all later ones). Requests without a script get a plain
//! 200. TCP cases work the same: they begin with `x-case: NAME` and a blank line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::message::{End, Message, Reader, Side};

/// One thing the upstream does with a request whose head it has read.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Reads the request's body to its end.
    ReadBody,
    /// Writes these bytes.
    Send(Vec<u8>),
    /// Writes `count` bytes of filler.
    Fill(usize),
    /// Does nothing for this long: longer than the proxy is told to wait.
    Pause(std::time::Duration),
    /// Waits until the client of the case says so (`Do::Cue`).
    AwaitCue,
    /// Sends raw bytes back as they come, until the peer ends; then ends too.
    EchoRaw,
    /// Reads everything until the peer ends its side.
    ReadToEnd,
    /// Ends the sending side, then the connection.
    Fin,
    /// Resets the connection.
    Reset,
    /// Does nothing until the peer ends the connection.
    Hang,
}

/// What to do with the first try, the second, …
pub type Script = Vec<Vec<Act>>;

/// A request an upstream received.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The name of the upstream it reached.
    pub upstream: String,
    pub message: Message,
    /// Bytes that came after the request (an upgraded connection, TCP).
    pub raw: Vec<u8>,
    /// The body was read to its end, or to where it was cut.
    pub whole: bool,
}

/// The scripts of a run and what was received, shared by all its upstreams.
#[derive(Default)]
pub struct Stage {
    scripts: Mutex<HashMap<String, Script>>,
    // What one upstream does apart from the others, by case and upstream.
    own: Mutex<HashMap<(String, String), Script>>,
    received: Mutex<HashMap<String, Vec<Received>>>,
    cues: Mutex<HashMap<String, Arc<tokio::sync::Semaphore>>>,
    connections: Mutex<HashMap<String, usize>>,
}

impl Stage {
    /// Sets what happens to requests of `case`.
    pub fn script(&self, case: &str, script: Script) {
        self.scripts.lock().unwrap().insert(case.to_owned(), script);
    }

    /// Sets what happens to requests of `case` at one upstream, whatever the others do.
    pub fn script_at(&self, case: &str, upstream: &str, script: Script) {
        self.own.lock().unwrap().insert((case.to_owned(), upstream.to_owned()), script);
    }

    /// What has been received for `case` so far, in order.
    pub fn received(&self, case: &str) -> Vec<Received> {
        self.received.lock().unwrap().get(case).cloned().unwrap_or_default()
    }

    /// Forgets every script and everything received.
    pub fn clear(&self) {
        self.scripts.lock().unwrap().clear();
        self.received.lock().unwrap().clear();
        self.cues.lock().unwrap().clear();
        self.connections.lock().unwrap().clear();
    }

    /// Lets one [`Act::AwaitCue`] of `case` go on.
    pub fn cue(&self, case: &str) {
        self.semaphore(case).add_permits(1);
    }

    /// Waits for one cue of `case`.
    pub(crate) async fn cued(&self, case: &str) {
        let semaphore = self.semaphore(case);
        if let Ok(permit) = semaphore.acquire().await {
            permit.forget();
        }
    }

    /// How many connections the upstream of that name has accepted.
    pub fn connections(&self, upstream: &str) -> usize {
        self.connections.lock().unwrap().get(upstream).copied().unwrap_or(0)
    }

    fn semaphore(&self, case: &str) -> Arc<tokio::sync::Semaphore> {
        let mut cues = self.cues.lock().unwrap();
        cues.entry(case.to_owned()).or_insert_with(|| Arc::new(tokio::sync::Semaphore::new(0))).clone()
    }

    /// Files a request and says where.
    pub(crate) fn arrive(&self, case: &str, received: Received) -> usize {
        let mut all = self.received.lock().unwrap();
        let list = all.entry(case.to_owned()).or_default();
        list.push(received);
        list.len() - 1
    }

    /// Which try of its case a filed request is. Copies a proxy makes on the side (it calls them internal) are none.
    pub(crate) fn attempt(&self, case: &str, index: usize) -> usize {
        let received = self.received.lock().unwrap();
        let before = received.get(case).and_then(|all| all.get(..index)).unwrap_or_default();
        before.iter().filter(|earlier| earlier.message.header("x-envoy-internal").is_none()).count()
    }

    fn amend(&self, case: &str, index: usize, change: impl FnOnce(&mut Received)) {
        if let Some(entry) = self.received.lock().unwrap().get_mut(case).and_then(|l| l.get_mut(index)) {
            change(entry);
        }
    }

    /// The acts of `upstream` for what arrived at `index`.
    fn acts(&self, case: &str, upstream: &str, index: usize) -> Vec<Act> {
        if let Some(script) = self.own.lock().unwrap().get(&(case.to_owned(), upstream.to_owned())) {
            let received = self.received(case);
            let attempt = received[..index].iter().filter(|earlier| earlier.upstream == upstream).count();
            return script[attempt.min(script.len() - 1)].clone();
        }
        self.shared_acts(case, self.attempt(case, index))
    }

    fn shared_acts(&self, case: &str, attempt: usize) -> Vec<Act> {
        let scripts = self.scripts.lock().unwrap();
        match scripts.get(case) {
            Some(script) if !script.is_empty() => script[attempt.min(script.len() - 1)].clone(),
            _ => vec![Act::ReadBody, answer("200 OK", &[], b"ok")],
        }
    }
}

/// A whole response with content-length.
pub fn answer(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Act {
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    Act::Send(bytes)
}

/// Bytes as they are.
pub fn send(bytes: impl AsRef<[u8]>) -> Act {
    Act::Send(bytes.as_ref().to_vec())
}

/// Serves `stage` under `name` on the listener until the task is dropped with its runtime.
pub fn serve(stage: Arc<Stage>, name: &str, listener: std::net::TcpListener) {
    listener.set_nonblocking(true).expect("a listener that does not block");
    let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
    let name = name.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *stage.connections.lock().unwrap().entry(name.clone()).or_default() += 1;
            tokio::spawn(connection(stage.clone(), name.clone(), stream));
        }
    });
}

pub(crate) async fn connection(stage: Arc<Stage>, name: String, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    while let Some(message) = reader.start(Side::Request).await {
        if message.cut {
            return;
        }
        let mut message = message;
        let case = match message.header("x-case") {
            Some(case) => case.to_owned(),
            None => message.start.strip_prefix("x-case: ").unwrap_or("").to_owned(),
        };
        let arrived = Received { upstream: name.clone(), message: message.clone(), raw: Vec::new(), whole: false };
        let index = stage.arrive(&case, arrived);
        for act in stage.acts(&case, &name, index) {
            match act {
                Act::ReadBody => {
                    reader.body(&mut message).await;
                    let whole = message.clone();
                    stage.amend(&case, index, |received| {
                        received.message = whole;
                        received.whole = true;
                    });
                    if message.cut {
                        return;
                    }
                }
                Act::Send(bytes) => {
                    if write.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Act::Fill(count) => {
                    if fill(&mut write, count).await.is_err() {
                        return;
                    }
                }
                Act::Pause(time) => tokio::time::sleep(time).await,
                Act::AwaitCue => stage.cued(&case).await,
                Act::EchoRaw => {
                    loop {
                        let bytes = reader.some().await;
                        if bytes.is_empty() {
                            break;
                        }
                        stage.amend(&case, index, |received| received.raw.extend_from_slice(&bytes));
                        if write.write_all(&bytes).await.is_err() {
                            break;
                        }
                    }
                    return;
                }
                Act::ReadToEnd => {
                    let bytes = reader.rest().await;
                    stage.amend(&case, index, |received| received.raw = bytes);
                    if reader.end == Some(End::Reset) {
                        return;
                    }
                }
                Act::Fin => {
                    let _ = write.shutdown().await;
                    return;
                }
                Act::Reset => {
                    let _ = SockRef::from(write.as_ref()).set_linger(Some(std::time::Duration::ZERO));
                    return;
                }
                Act::Hang => {
                    reader.rest().await;
                    return;
                }
            }
        }
    }
}

async fn fill(write: &mut tokio::net::tcp::OwnedWriteHalf, mut count: usize) -> std::io::Result<()> {
    let block = vec![b'x'; 65536];
    while count > 0 {
        let n = count.min(block.len());
        write.write_all(&block[..n]).await?;
        count -= n;
    }
    Ok(())
}
