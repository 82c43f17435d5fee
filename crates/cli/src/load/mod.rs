//! A load generator: HTTP/1.1 requests over keep-alive connections, and what came back of them.
//!
//! Answers of the sample service are read for the version and the pod that gave them. It knows nothing of the mesh.

mod client;
mod histogram;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

pub use report::Report;

/// What to send.
#[derive(Clone)]
pub struct Options {
    pub target: SocketAddr,
    /// The Host header.
    pub host: HeaderValue,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Stop after so many requests.
    pub requests: Option<u64>,
    /// Start no request after this time.
    pub duration: Option<Duration>,
    /// Connections, each with one request under way at a time.
    pub concurrency: usize,
    /// Requests per second over all connections; without it each connection sends as soon as it has its answer.
    pub rate: Option<f64>,
    /// How long one request, with its connection if it needs a new one, may take.
    pub timeout: Duration,
}

/// Hands out turns to send.
struct Turns {
    start: Instant,
    taken: Arc<AtomicU64>,
    requests: u64,
    end: Option<Instant>,
    rate: Option<f64>,
}

impl Turns {
    /// Waits for the next turn and says when it was due, or `None` when the run is over.
    ///
    /// With a rate, a latency counts from the time a request was due: a slow server is not asked less for being slow.
    async fn next(&self) -> Option<Instant> {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        if turn >= self.requests {
            return None;
        }
        let due = match self.rate {
            Some(rate) => {
                let due = self.start + Duration::from_secs_f64(turn as f64 / rate);
                if self.end.is_some_and(|end| due >= end) {
                    return None;
                }
                tokio::time::sleep_until(due).await;
                due
            }
            None => Instant::now(),
        };
        match self.end {
            Some(end) if due >= end => None,
            _ => Some(due),
        }
    }
}

/// Sends as `options` say and returns when all is answered or failed. `sent` counts the requests begun, for a progress
/// display.
pub async fn run(options: Options, sent: Arc<AtomicU64>) -> Report {
    let start = Instant::now();
    let turns = Arc::new(Turns {
        start,
        taken: sent,
        requests: options.requests.unwrap_or(u64::MAX),
        end: options.duration.map(|duration| start + duration),
        rate: options.rate,
    });
    let options = Arc::new(options);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..options.concurrency {
        clients.spawn(client::run(options.clone(), turns.clone()));
    }
    let mut report = Report::default();
    while let Some(one) = clients.join_next().await {
        // A client task neither panics nor is it cancelled; were it so, its requests would be missing in the sum.
        if let Ok(one) = one {
            report.merge(&one);
        }
    }
    report.elapsed = start.elapsed();
    report
}
