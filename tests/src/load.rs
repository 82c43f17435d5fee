//! Steady requests while something else happens, every one accounted for.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::message::{Message, Reader, Side};

/// How long one request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
    /// The client's own address; `None` leaves it to the kernel.
    pub source: Option<Ipv4Addr>,
}

impl Target {
    pub fn new(address: SocketAddr, host: &str, path: &str) -> Target {
        Target { address, host: host.to_owned(), path: path.to_owned(), source: None }
    }

    /// The same from an address of this machine.
    pub fn from(self, source: Ipv4Addr) -> Target {
        Target { source: Some(source), ..self }
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = self.source {
            socket.bind((source, 0).into())?;
        }
        socket.connect(self.address).await
    }

    fn request(&self) -> Vec<u8> {
        format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", self.path, self.host).into_bytes()
    }

    /// One request on a connection of its own.
    pub async fn ask(&self) -> Result<Message, String> {
        let mut connection = None;
        self.on(&mut connection).await
    }

    /// One request on the connection kept, or a new one. A kept connection that the server has ended
    /// in the meantime is replaced: HTTP allows the server that, and every client does so.
    async fn on(&self, kept: &mut Option<Reader<TcpStream>>) -> Result<Message, String> {
        let reused = kept.is_some();
        let mut answer = tokio::time::timeout(PATIENCE, self.once(kept)).await.unwrap_or(Err("no answer".to_owned()));
        if reused && answer.as_ref().is_err_and(|error| error == ENDED) {
            *kept = None;
            answer = tokio::time::timeout(PATIENCE, self.once(kept)).await.unwrap_or(Err("no answer".to_owned()));
        }
        if !answer.as_ref().is_ok_and(|message| !message.says_close() && !message.cut) {
            *kept = None;
        }
        answer
    }

    async fn once(&self, kept: &mut Option<Reader<TcpStream>>) -> Result<Message, String> {
        if kept.is_none() {
            let stream = self.connect().await.map_err(|error| format!("connect: {error}"))?;
            let _ = stream.set_nodelay(true);
            *kept = Some(Reader::new(stream));
        }
        let Some(reader) = kept else { return Err(ENDED.to_owned()) };
        reader.get_mut().write_all(&self.request()).await.map_err(|_| ENDED.to_owned())?;
        match reader.message(Side::Response).await {
            Some(message) if message.cut => Err(format!("cut answer: {}", message.start)),
            Some(message) => Ok(message),
            None => Err(ENDED.to_owned()),
        }
    }
}

const ENDED: &str = "connection ended without an answer";

/// One answer, or why there was none.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the load began.
    pub at: Duration,
    pub outcome: Result<Message, String>,
}

impl Sample {
    /// Whether it was answered with 200.
    pub fn is_good(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|message| message.status() == 200)
    }
}

/// Requests being sent on some connections, one after another on each.
pub struct Load {
    start: Instant,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins to send.
    pub fn start(target: &Target, connections: usize) -> Load {
        let start = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (target, stop, samples) = (target.clone(), stop.clone(), samples.clone());
            tasks.spawn(async move {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let outcome = target.on(&mut kept).await;
                    let failed = outcome.is_err();
                    samples.lock().unwrap().push(Sample { at: start.elapsed(), outcome });
                    if failed {
                        // Nobody listens: do not spin.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            });
        }
        Load { start, stop, samples, tasks }
    }

    /// Begins to send to these in turn, so many a second in all. Each connection carries some requests, then another
    /// is made.
    pub fn paced(targets: &[Target], connections: u32, per_second: u32) -> Load {
        const REQUESTS: usize = 25;
        let start = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for index in 0..connections {
            let (targets, stop, samples) = (targets.to_vec(), stop.clone(), samples.clone());
            let mut pace = tokio::time::interval(Duration::from_secs(1) * connections / per_second);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            tasks.spawn(async move {
                let mut kept: Vec<Option<Reader<TcpStream>>> = targets.iter().map(|_| None).collect();
                let mut count = index as usize;
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let at = count % targets.len();
                    if count % (REQUESTS * targets.len()) < targets.len() {
                        kept[at] = None;
                    }
                    let outcome = targets[at].on(&mut kept[at]).await;
                    samples.lock().unwrap().push(Sample { at: start.elapsed(), outcome });
                    count += 1;
                }
            });
        }
        Load { start, stop, samples, tasks }
    }

    /// How many requests have been done.
    pub fn count(&self) -> usize {
        self.samples.lock().unwrap().len()
    }

    /// Since the load began.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The newest of what has been answered, at most so much.
    pub fn last(&self, count: usize) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap();
        samples[samples.len().saturating_sub(count)..].to_vec()
    }

    /// Waits until `more` further requests have been done.
    pub async fn passes(&self, more: usize) {
        let goal = self.count() + more;
        crate::wait::until("the load goes on", || async { (self.count() >= goal).then_some(()) }).await;
    }

    /// Ends it and gives all samples.
    pub async fn finish(mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.samples.lock().unwrap())
    }
}

/// Everything that went wrong, counted by kind.
pub fn failures(samples: &[Sample]) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for sample in samples.iter().filter(|sample| !sample.is_good()) {
        let kind = match &sample.outcome {
            Ok(message) => format!("{}: {}", message.start, message.text()),
            Err(error) => error.clone(),
        };
        *out.entry(kind).or_default() += 1;
    }
    out
}
