//! A data plane as a process: Envoy or ours, from the same file.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::message::{Message, Reader, Side};
use crate::peers;
use crate::process::Process;
use crate::wait;

/// Which data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Envoy,
    Lateen,
}

impl Kind {
    /// As a word for files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Envoy => "envoy",
            Kind::Lateen => "lateen",
        }
    }
}

/// A running proxy, with one worker if nothing else is said.
pub struct Proxy {
    pub process: Process,
    pub kind: Kind,
    admin: u16,
}

impl Proxy {
    /// Writes the bootstrap to `DIR/KIND.json` and starts the proxy on it, without waiting.
    pub fn spawn(kind: Kind, bootstrap: &Value, admin: u16, dir: &Path) -> Proxy {
        Proxy::spawn_workers(kind, bootstrap, admin, dir, 1)
    }

    /// The same, with so many workers.
    pub fn spawn_workers(kind: Kind, bootstrap: &Value, admin: u16, dir: &Path, workers: usize) -> Proxy {
        let file = dir.join(format!("{}.json", kind.name()));
        let text = serde_json::to_string_pretty(bootstrap).expect("JSON");
        std::fs::write(&file, text).expect("the bootstrap is written");
        let mut command = match kind {
            Kind::Envoy => {
                let mut command = Command::new(peers::envoy());
                command.args(["--disable-hot-restart", "--log-level", "warning"]);
                command.args(["--file-flush-interval-msec", "20"]);
                command
            }
            Kind::Lateen => {
                let mut command = Command::new(peers::lateen());
                command.arg("proxy");
                command
            }
        };
        command.arg("-c").arg(&file).args(["--concurrency", &workers.to_string()]);
        Proxy { process: Process::start(command, kind.name(), dir), kind, admin }
    }

    /// Starts and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or does not become ready; the message holds its output.
    pub async fn start(kind: Kind, bootstrap: &Value, admin: u16, dir: &Path) -> Proxy {
        let mut proxy = Proxy::spawn(kind, bootstrap, admin, dir);
        proxy.ready().await;
        proxy
    }

    /// Waits until the admin port says that it is live.
    ///
    /// # Panics
    /// When it ends or does not become ready; the message holds its output.
    pub async fn ready(&mut self) {
        let deadline = std::time::Instant::now() + wait::PATIENCE;
        loop {
            if let Some(answer) = admin(self.admin, "GET", "/ready").await
                && answer.status() == 200
            {
                return;
            }
            if let Some(status) = self.process.ended() {
                panic!("{} ended ({status}):\n{}", self.kind.name(), self.process.output());
            }
            if std::time::Instant::now() > deadline {
                panic!("{} is not ready:\n{}", self.kind.name(), self.process.output());
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits until all it was asked is through, and, if `upstream`, all that it asks by itself too. What it keeps for
    /// later requests may stay. Where an upstream holds a connection whose client is gone, that is never, and enough is
    /// enough.
    pub async fn let_go(&self, upstream: bool) {
        const GAUGES: &str = "/stats?filter=(%5Elistener.*downstream_cx%7C%5Ehttp.*downstream_(cx%7Crq)%7C\
                              %5Ecluster.*upstream_rq(_pending)%3F)_active%24";
        const NOT_ASKED: [&str; 3] = ["listener.admin.", "http.admin.", "cluster.xds."];
        wait::within(std::time::Duration::from_secs(10), || async {
            let text = self.admin(GAUGES).await.text();
            let gauges: Vec<(&str, u64)> = text
                .lines()
                .filter(|line| !line.contains(".worker_") && !NOT_ASKED.iter().any(|other| line.starts_with(other)))
                .filter_map(|line| line.rsplit_once(": ").and_then(|(name, value)| Some((name, value.parse().ok()?))))
                .collect();
            let sum = |start: &str, end: &str| -> u64 {
                let own = gauges.iter().filter(|(name, _)| name.starts_with(start) && name.ends_with(end));
                own.map(|(_, value)| value).sum()
            };
            // What is no connection of HTTP is a stream that goes on.
            let served =
                sum("listener.", "_cx_active") <= sum("http.", "_cx_active") && sum("http.", "_rq_active") == 0;
            (served && !(upstream && sum("cluster.", "_active") > 0)).then_some(())
        })
        .await;
    }

    /// Asks the admin port for `path`.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn admin(&self, path: &str) -> Message {
        admin(self.admin, "GET", path)
            .await
            .unwrap_or_else(|| panic!("no answer from {}'s admin port to {path}", self.kind.name()))
    }

    /// A counter or gauge by its whole name; 0 while there is none.
    pub async fn stat(&self, name: &str) -> u64 {
        let text = self.admin(&format!("/stats?filter=%5E{name}%24")).await.text();
        text.trim().rsplit_once(": ").and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
    }
}

/// One request to 127.0.0.1:`port`, closed after the answer.
pub async fn admin(port: u16, method: &str, path: &str) -> Option<Message> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let message = Reader::new(stream).message(Side::Response).await?;
    (!message.cut).then_some(message)
}
