//! What the contenders have to do, and measuring one of them at it.

use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lateen_tests::process::{Cost, Process};
use lateen_tests::{peers, ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::contender::{self, Contender, Ports};

/// Connections the load generator keeps open.
const CONNECTIONS: usize = 64;
/// Load before anything is counted: caches, pools and branch predictors fill.
const WARM_UP: Duration = Duration::from_secs(1);
/// Concurrent streams of the TCP job.
const STREAMS: usize = 4;

/// A job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// HTTP/1.1 keep-alive, 1 KiB answers
    Http1,
    /// HTTP/2 without TLS on both sides, 1 KiB answers
    H2c,
    /// A TCP stream through the proxy
    Tcp,
    /// HTTP/1.1 through two proxies with mutual TLS between them
    Mtls,
    /// The same with HTTP/2 between them
    MtlsHttp2,
    /// A TCP stream through two proxies with mutual TLS between them
    MtlsTcp,
    /// A new connection of mutual TLS for each request
    Handshakes,
    /// The same, each continuing a session
    Resumptions,
}

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// CPU microseconds of the proxy, or of both of a pair, per request or connection, or per MiB for TCP.
    pub cpu_us: f64,
    /// Requests, connections, or MiB, per second.
    pub rate: f64,
    /// Microseconds; 0 for TCP.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Resident memory of all of them under load, MiB.
    pub rss_mib: f64,
}

impl Job {
    pub fn all() -> &'static [Job] {
        Self::value_variants()
    }

    /// Two proxies, with TLS between them.
    pub fn is_encrypted(self) -> bool {
        !matches!(self, Job::Http1 | Job::H2c | Job::Tcp)
    }

    /// No requests, a stream.
    pub fn is_of_bytes(self) -> bool {
        matches!(self, Job::Tcp | Job::MtlsTcp)
    }

    pub fn title(self) -> &'static str {
        match self {
            Job::Http1 => "HTTP/1.1: 64 keep-alive connections, 1 KiB answers, one worker each",
            Job::H2c => "HTTP/2 without TLS on both sides: 16 connections of 4 streams, 1 KiB answers, one worker each",
            Job::Tcp => "TCP: 4 streams from server to client, one worker each",
            Job::Mtls => "Two proxies, mutual TLS and HTTP/1.1 between them: 64 keep-alive connections, 1 KiB answers",
            Job::MtlsHttp2 => {
                "Two proxies, mutual TLS and HTTP/2 between them: 64 keep-alive connections, 1 KiB answers"
            }
            Job::MtlsTcp => "Two proxies, mutual TLS between them: 4 streams from server to client",
            Job::Handshakes => "New connections of mutual TLS, both ends counted, one for each request of 64 clients",
            Job::Resumptions => "The same, each connection continuing a session",
        }
    }

    pub fn contenders(self) -> &'static [Contender] {
        match self {
            Job::Http1 => &[Contender::Lateen, Contender::Envoy, Contender::Haproxy, Contender::Nginx],
            Job::H2c | Job::Tcp | Job::Mtls | Job::MtlsHttp2 | Job::MtlsTcp => {
                &[Contender::Lateen, Contender::Envoy, Contender::Haproxy]
            }
            Job::Handshakes | Job::Resumptions => &[Contender::Lateen, Contender::Envoy],
        }
    }

    /// What CPU and rate are counted by.
    pub fn unit(self) -> &'static str {
        match self {
            Job::Http1 | Job::H2c | Job::Mtls | Job::MtlsHttp2 => "request",
            Job::Tcp | Job::MtlsTcp => "MiB",
            Job::Handshakes | Job::Resumptions => "connection",
        }
    }
}

impl Figure {
    pub fn line(&self, job: Job) -> String {
        format!("{:.1} us CPU per {unit}, {:.0} {unit}s/s", self.cpu_us, self.rate, unit = job.unit())
    }
}

/// Starts backend and contender afresh, loads them, ends them.
pub async fn measure(job: Job, contender: Contender, duration: Duration) -> Figure {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut backend = None;
    let behind = match job.is_of_bytes() {
        true => source.local_addr().expect("its address").port(),
        false => {
            let port = ports::free();
            backend = Some(contender::backend(job, port, dir.path()).await);
            port
        }
    };
    let pour = tokio::spawn(pour(source));
    let ports = Ports { front: ports::free(), backend: behind };
    let proxies = contender.start(job, ports, dir.path()).await;

    // Streams need less than the generators of requests, which count in whole seconds.
    let (warm_up, duration) = match job.is_of_bytes() {
        true => (WARM_UP / 4, duration / 2),
        false => (WARM_UP, duration),
    };
    load(job, ports.front, warm_up).await;
    let before = cost(contender, &proxies);
    let run = load(job, ports.front, duration).await;
    let after = cost(contender, &proxies);
    pour.abort();
    drop(backend);
    run.figure(before, after)
}

/// Of all processes together.
fn cost(contender: Contender, proxies: &[Process]) -> Cost {
    let cost = |proxy: &Process| {
        proxy.cost().unwrap_or_else(|| panic!("{} did not survive:\n{}", contender.name(), proxy.output()))
    };
    let add = |sum: Cost, one: Cost| Cost { cpu_us: sum.cpu_us + one.cpu_us, rss_kib: sum.rss_kib + one.rss_kib };
    proxies.iter().map(cost).fold(Cost { cpu_us: 0, rss_kib: 0 }, add)
}

/// What a load generator reports.
struct Run {
    count: f64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Run {
    fn figure(&self, before: Cost, after: Cost) -> Figure {
        Figure {
            cpu_us: (after.cpu_us - before.cpu_us) as f64 / self.count,
            rate: self.count / self.seconds,
            p50_us: self.p50_us,
            p99_us: self.p99_us,
            rss_mib: after.rss_kib as f64 / 1024.0,
        }
    }
}

async fn load(job: Job, port: u16, duration: Duration) -> Run {
    match job {
        Job::Tcp | Job::MtlsTcp => drain(port, duration).await,
        Job::H2c => tokio::task::spawn_blocking(move || h2load(port, duration)).await.expect("h2load runs"),
        _ => tokio::task::spawn_blocking(move || wrk(port, duration)).await.expect("wrk runs"),
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn wrk(port: u16, duration: Duration) -> Run {
    // wrk counts in whole seconds.
    let seconds = duration.as_secs().max(1);
    let text = output(
        Command::new(peers::program("wrk"))
            .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "--latency"])
            .arg(format!("http://127.0.0.1:{port}/")),
    );
    assert!(!text.contains("Non-2xx"), "answers other than 200:\n{text}");
    assert!(!text.contains("Socket errors"), "connections failed:\n{text}");
    let line =
        |mark: &str| text.lines().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("wrk says:\n{text}"));
    let words: Vec<&str> = line("requests in").split_whitespace().collect();
    let percentile = |mark: &str| microseconds(line(mark).split_whitespace().nth(1).unwrap_or(""));
    Run {
        count: words[0].parse().expect("a count"),
        seconds: microseconds(words[3].trim_end_matches(',')) / 1e6,
        p50_us: percentile("50%"),
        p99_us: percentile("99%"),
    }
}

/// `1.25ms` and the like.
fn microseconds(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "m" => 60e6,
        _ => 1e6,
    };
    number.parse::<f64>().unwrap_or_else(|_| panic!("{text} is no duration")) * scale
}

fn h2load(port: u16, duration: Duration) -> Run {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("requests");
    let seconds = duration.as_secs_f64().max(1.0);
    let text = output(
        Command::new(peers::program("h2load"))
            .args(["-t1", "-c16", "-m4", "-D", &format!("{seconds:.0}"), "--log-file"])
            .arg(&log)
            .arg(format!("http://127.0.0.1:{port}/")),
    );
    // One line a request: start, status, microseconds.
    let log = std::fs::read_to_string(log).expect("the log of requests");
    let mut times = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let status = fields.next().unwrap_or("");
        assert_eq!(status, "200", "h2load says:\n{text}");
        times.push(fields.next().and_then(|us| us.parse::<f64>().ok()).unwrap_or(0.0));
    }
    assert!(!times.is_empty(), "h2load says:\n{text}");
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Run { count: times.len() as f64, seconds: seconds.round().max(1.0), p50_us: at(0.5), p99_us: at(0.99) }
}

/// Sends bytes to whoever connects, as fast as they are taken.
async fn pour(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let block = vec![0x5a; 256 << 10];
            while stream.write_all(&block).await.is_ok() {}
        });
    }
}

async fn drain(port: u16, duration: Duration) -> Run {
    let start = Instant::now();
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the proxy listens");
                let mut block = vec![0; 256 << 10];
                let mut total = 0;
                while start.elapsed() < duration {
                    match stream.read(&mut block).await {
                        Ok(0) | Err(_) => panic!("the stream ended after {total} bytes"),
                        Ok(n) => total += n,
                    }
                }
                total
            })
        })
        .collect();
    let mut bytes = 0;
    for stream in streams {
        bytes += stream.await.expect("the stream's reader");
    }
    Run { count: bytes as f64 / (1 << 20) as f64, seconds: start.elapsed().as_secs_f64(), p50_us: 0.0, p99_us: 0.0 }
}
