//! The administration interface: Envoy's pages, read by people, Istio's tools and Prometheus.
//!
//! Serves what it is given: handles to statistics and logs, closures that tell of configuration, hosts and listeners,
//! and a channel for what shall be done. It has no authentication, as in Envoy: bind it to loopback.

mod certs;
mod config_dump;
pub mod memory;
mod pages;
mod query;
mod views;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use lateen_traffic::Config;
use lateen_traffic::cluster::Cluster;
use serde_json::Value as Json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::access_log::LogFiles;
use crate::logging::Logging;
use crate::stats::{ClusterFacts, Stats};

pub use views::{ClusterView, HostView, ListenerView};

/// Connections served at once; more wait.
const CONNECTIONS: usize = 64;

/// Bytes of a request's head.
const HEAD: usize = 16 * 1024;

/// Fields of a request's head.
const FIELDS: usize = 64;

/// Time for a request's head to arrive, and for a kept connection to send its next one.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// A connection takes no further request at this age,
const AGE: Duration = Duration::from_secs(300);

/// and is cut when it is not done this much later.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// Answers a question of the admin interface.
pub type Tell<T> = Box<dyn Fn() -> T + Send + Sync>;

/// What the admin interface shows and does.
pub struct AdminState {
    /// Statistics.
    pub stats: Arc<Stats>,
    /// The configuration that is served.
    pub config: Tell<Arc<Config>>,
    /// Envoy's `ConfigDump` as JSON, with endpoints if asked; an error is shown to who asked.
    pub config_dump: Box<dyn Fn(bool) -> Result<Json, String> + Send + Sync>,
    /// What is known of a cluster besides what workers count.
    pub cluster_facts: Box<dyn Fn(&Cluster) -> ClusterFacts + Send + Sync>,
    /// Clusters and their hosts.
    pub clusters: Tell<Vec<ClusterView>>,
    /// Listeners that are served.
    pub listeners: Tell<Vec<ListenerView>>,
    /// Log levels.
    pub logging: Logging,
    /// Access-log files, for `/reopen_logs`.
    pub log_files: Arc<LogFiles>,
    /// What `/server_info` says of the process.
    pub server: ServerFacts,
    /// What the proxy is doing.
    pub state: watch::Receiver<ServerState>,
    /// Whether health checks shall fail; written by `/healthcheck/fail` and `/healthcheck/ok`.
    pub health_failed: watch::Sender<bool>,
    /// What is asked for and is not the admin interface's to do.
    pub actions: mpsc::Sender<Action>,
}

/// What does not change while the process runs.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// As [`version`] writes it.
    pub version: String,
    /// Envoy's `Node` as JSON.
    pub node: Json,
    /// Envoy's `CommandLineOptions` as JSON, as far as we have them.
    pub command_line_options: Json,
}

/// The version as Envoy writes it, with `lateen` for the state of the tree: `REVISION/VERSION/lateen/BUILD/TLS`.
pub fn version(revision: &str) -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("{revision}/{}/lateen/{build}/none", env!("CARGO_PKG_VERSION"))
}

/// What the proxy is doing (Envoy's `ServerInfo.State`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live,
    /// Ending, or failing its health checks on purpose.
    Draining,
    /// Clusters are not known yet.
    PreInitializing,
    /// Clusters are known, listeners are not.
    Initializing,
}

impl ServerState {
    /// Envoy's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// Envoy's number, for `server.state`.
    fn number(self) -> i64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}

/// What somebody asks the proxy to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Drain listeners.
    DrainListeners {
        /// Let connections end before the listeners are closed.
        graceful: bool,
        /// Inbound listeners only.
        inbound_only: bool,
        /// Drain connections, but keep the listeners open.
        skip_exit: bool,
    },
    /// End the process.
    Quit,
}

impl AdminState {
    /// What `/ready` answers by: the proxy's state, or draining while health checks are told to fail.
    fn state(&self) -> ServerState {
        match *self.state.borrow() {
            ServerState::Live if *self.health_failed.borrow() => ServerState::Draining,
            state => state,
        }
    }
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("server", &self.server).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// Serves the admin interface until it is dropped.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed. Whoever is not let in yet waits in the accept queue.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = state.clone();
                tokio::spawn(async move {
                    serve_connection(stream, state).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: trying at once would only burn time.
                tracing::warn!(%error, "admin connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<AdminState>) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD)
        .max_headers(FIELDS)
        .serve_connection(TokioIo::new(stream), service_fn(|request| answer(request, state.clone())));
    let mut connection = std::pin::pin!(connection);
    let ended = match tokio::time::timeout(AGE, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_ANSWER, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, state: Arc<AdminState>) -> Result<Response<Body>, Infallible> {
    let (head, _) = request.into_parts();
    let path = head.uri.path().to_owned();
    // Adding up thousands of clusters takes long enough to be in the way of the control plane's stream.
    let done = tokio::task::spawn_blocking(move || pages::respond(&state, &head)).await;
    Ok(done.unwrap_or_else(|error| {
        tracing::error!(%error, %path, "admin page failed");
        pages::text(hyper::StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
    }))
}

#[cfg(test)]
mod tests;
