//! The proxy as a program: from a bootstrap file to served traffic, until a signal ends it.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::cluster::UpstreamBind;
use lateen_xds::ads::client::{Client, Handle, connector};
use lateen_xds::bootstrap::{Bootstrap, BootstrapError};
use lateen_xds::convert::Reject;
use lateen_xds::json::{JsonError, Schema};
use lateen_xds::state::Bind;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::access_log::LogFiles;
use crate::admin::{self, Action, AdminState, ServerFacts, ServerState, memory};
use crate::dns::Resolver;
use crate::health_check;
use crate::listener;
use crate::logging::Logging;
use crate::proxy::{Proxy, Settings};
use crate::readiness::{self, Readiness};
use crate::stats::Stats;
use crate::view;

/// Downstream connections allowed at once where the bootstrap does not say: in effect the limit of file descriptors.
const MAX_CONNECTIONS: usize = i32::MAX as usize;

/// Time for access logs to reach their files at the end.
const SETTLE: Duration = Duration::from_secs(1);

/// How the program is run.
pub struct Options {
    /// The bootstrap, YAML or JSON.
    pub bootstrap: String,
    /// Worker threads, at least 1.
    pub concurrency: usize,
    /// Time that connections have to end after SIGTERM.
    pub drain_time: Duration,
    /// Sockets opened for us, by the port of the listener they stand for.
    pub inherited: Vec<(u16, OwnedFd)>,
    /// Log levels, which the admin page changes.
    pub logging: Logging,
    /// How the workload is asked whether it is well, if the control plane is to know.
    pub readiness: Option<Readiness>,
    /// The command line as the admin page shows it (Envoy's `CommandLineOptions` in JSON).
    pub command_line: serde_json::Value,
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bootstrap is not usable.
    #[error("bootstrap: {0}")]
    Bootstrap(#[from] BootstrapError),
    /// Something in its static resources is not usable.
    #[error("bootstrap: {0}")]
    Rejected(#[from] Reject),
    /// The protobuf schema built into the program is not usable.
    #[error("schema: {0}")]
    Schema(#[from] JsonError),
    /// The system refuses something.
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |error| RunError::System { what, error }
}

/// Runs the proxy until SIGTERM or SIGINT (drains first), or until the admin page ends it.
///
/// # Errors
/// When it cannot start.
pub fn run(options: Options) -> Result<(), RunError> {
    let (bootstrap, node) = {
        // What describes all of Envoy's messages weighs more than all else of a proxy that does nothing: it is not kept.
        let schema = Schema::load()?;
        let bootstrap = Bootstrap::parse(&options.bootstrap, &schema)?;
        let node = schema.to_json(&bootstrap.node)?;
        (bootstrap, node)
    };
    memory::give_back();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("cannot make a runtime"))?;
    // Health checks share connections with nobody, and the futures that use them stay on this thread.
    tokio::task::LocalSet::new().block_on(&runtime, serve(options, bootstrap, node))
}

async fn serve(options: Options, bootstrap: Bootstrap, node: serde_json::Value) -> Result<(), RunError> {
    let stats = Stats::new(options.concurrency.max(1));
    let logs = LogFiles::new(Arc::clone(&stats));
    let bind = bootstrap.upstream_bind.clone();
    let inherited = options.inherited.iter().map(|(port, _)| *port).collect();
    let settings = Settings {
        workers: options.concurrency,
        max_connections: bootstrap.max_connections.unwrap_or(MAX_CONNECTIONS),
        default_bind: bind.clone(),
        inherited: options.inherited,
        static_clusters: bootstrap.clusters.iter().map(|c| c.name.clone()).collect(),
    };
    let proxy = Proxy::start(settings, Arc::clone(&stats), &logs).map_err(system("cannot start a worker"))?;
    let client = Client::new(bootstrap.clone(), bind_listeners(inherited))?;
    let handle = client.handle();

    tokio::spawn(follow_connection(handle.clone(), Arc::clone(&stats)));
    let resolver = Arc::new(Resolver::new(Arc::clone(&stats)));
    tokio::spawn(discover(client, bind.clone(), Arc::clone(&proxy), Arc::clone(&resolver)));
    tokio::spawn(pass_on_addresses(resolver, Arc::clone(&proxy)));
    tokio::spawn({
        let (proxy, mut dice) = (Arc::clone(&proxy), SmallRng::from_os_rng());
        async move { proxy.upstreams().tend(move || dice.next_u64()).await }
    });
    tokio::task::spawn_local({
        let proxy = Arc::clone(&proxy);
        async move { health_check::tend(proxy.upstreams()).await }
    });
    let (state, state_seen) = watch::channel(ServerState::PreInitializing);
    tokio::spawn(follow_state(handle.clone(), Arc::clone(&proxy), state.clone()));
    if let Some(readiness) = options.readiness {
        let (mut state, bind, handle) = (state_seen.clone(), bind.clone(), handle.clone());
        tokio::task::spawn_local(async move {
            // As long as the proxy does not serve, the workload does not either.
            if state.wait_for(|state| *state == ServerState::Live).await.is_ok() {
                readiness::watch(readiness, bind, handle).await;
            }
        });
    }
    let (actions, mut asked) = mpsc::channel(16);
    if let Some(address) = bootstrap.admin {
        let socket = TcpListener::bind(address).await.map_err(system("cannot listen on the admin address"))?;
        let facts = ServerFacts {
            version: admin::version(env!("CARGO_PKG_VERSION")),
            node,
            command_line_options: options.command_line,
        };
        let state = AdminState {
            stats,
            config: Box::new({
                let proxy = Arc::clone(&proxy);
                move || proxy.config()
            }),
            config_dump: Box::new(move |endpoints| {
                let dump = Schema::load().and_then(|schema| handle.config_dump(endpoints, &schema));
                memory::give_back();
                dump.map_err(|e| e.to_string())
            }),
            cluster_facts: Box::new({
                let proxy = Arc::clone(&proxy);
                move |cluster| view::facts(&proxy, cluster)
            }),
            clusters: Box::new({
                let proxy = Arc::clone(&proxy);
                move || view::clusters(&proxy)
            }),
            listeners: Box::new({
                let proxy = Arc::clone(&proxy);
                move || view::listeners(&proxy)
            }),
            logging: options.logging,
            log_files: Arc::clone(&logs),
            server: facts,
            state: state_seen,
            health_failed: watch::Sender::new(false),
            actions,
        };
        tokio::spawn(admin::serve(socket, Arc::new(state)));
    }

    let mut reopen = signal(SignalKind::user_defined1()).map_err(system("cannot listen to signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("cannot listen to signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("cannot listen to signals"))?;
    loop {
        tokio::select! {
            _ = reopen.recv() => logs.reopen(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(action) = asked.recv() => match action {
                Action::Quit => {
                    proxy.stop();
                    logs.settle(SETTLE);
                    return Ok(());
                }
                Action::DrainListeners { graceful, inbound_only, skip_exit } => {
                    proxy.drain(inbound_only, !graceful && !skip_exit);
                    if graceful && !skip_exit {
                        let (proxy, time) = (Arc::clone(&proxy), options.drain_time);
                        tokio::spawn(async move {
                            tokio::time::sleep(time).await;
                            proxy.drain(inbound_only, true);
                        });
                    }
                }
            },
        }
    }
    state.send_replace(ServerState::Draining);
    tracing::info!(seconds = options.drain_time.as_secs(), "draining");
    tokio::select! {
        () = proxy.drained(options.drain_time) => {}
        // A second signal means now.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    proxy.stop();
    logs.settle(SETTLE);
    Ok(())
}

/// Follows the control plane; every new configuration goes to the workers.
async fn discover(client: Client, bind: Option<UpstreamBind>, proxy: Arc<Proxy>, resolver: Arc<Resolver>) {
    let connect = connector(move |address| {
        let bind = bind.clone();
        async move { crate::upstream::connect(address, bind.as_ref(), None).await }
    });
    client
        .run(connect, |config| {
            resolver.watch(&config);
            proxy.configure(config);
        })
        .await;
}

/// Takes listeners' addresses, so that workers can have them too. A port that a socket was inherited for is served by that
/// one where ours cannot be had.
fn bind_listeners(inherited: HashSet<u16>) -> Bind {
    Box::new(move |address| match listener::bind(address) {
        Ok(socket) => Ok(Box::new(socket)),
        Err(_) if inherited.contains(&address.port()) => Ok(Box::new(())),
        Err(error) => Err(error),
    })
}

/// Shows whether the control plane is there.
async fn follow_connection(client: Handle, stats: Arc<Stats>) {
    let mut status = client.status();
    loop {
        stats.control_plane.connected_state.set(i64::from(status.borrow_and_update().connected));
        if status.changed().await.is_err() {
            return;
        }
    }
}

async fn pass_on_addresses(resolver: Arc<Resolver>, proxy: Arc<Proxy>) {
    let mut answers = resolver.answers();
    while answers.changed().await.is_ok() {
        proxy.resolve(Arc::clone(&answers.borrow_and_update()));
    }
}

/// What the proxy is doing, as the admin page tells it.
async fn follow_state(client: Handle, proxy: Arc<Proxy>, state: watch::Sender<ServerState>) {
    let mut status = client.status();
    loop {
        if status.borrow_and_update().ready {
            break;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
    state.send_replace(ServerState::Initializing);
    // Hosts are checked, and workers open their sockets, within a moment; nothing wakes on it.
    let mut look = tokio::time::interval(Duration::from_millis(2));
    while !proxy.upstreams().is_checked() {
        look.tick().await;
    }
    proxy.ready();
    while !proxy.is_settled() {
        look.tick().await;
    }
    state.send_if_modified(|now| {
        let waiting = *now == ServerState::Initializing;
        if waiting {
            *now = ServerState::Live;
        }
        waiting
    });
}
