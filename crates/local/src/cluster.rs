//! The cluster on one machine: everything in this crate put together and kept running by one supervisor,
//! with the control plane as a child process and all pods in the node.

mod control_plane;
mod progress;
mod state_dir;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lateen_galley::{Kind, Problem, ReadOptions, Snapshot, Store, StoreSettings, read_manifests};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::admission::Admission;
use crate::client::Client;
use crate::controllers::{self, LoadBalancers, Views};
use crate::files::{Files, FilesError};
use crate::hosts::{Backends, Dialer, Endpoint, GatewayListeners, HostListeners, Inside, Relay};
use crate::kubelet::{ImageCommands, Kubelet, Settings};
use crate::node::{Listen, NodeError, NodeHandle, Place};
use crate::tokens::{NoKey, Tokens};
use crate::{api, dns, network};

pub use control_plane::LISTENER_DESCRIPTOR;
pub use progress::{Progress, Waiting};
pub use state_dir::API_SOCKET;

use control_plane::ControlPlane;
use state_dir::StateDir;

/// Where the control plane serves proxies, with TLS (Istio's port for xDS and certificates). There is no port without.
const CONTROL_PLANE_PORT: u16 = 15012;
/// Where pods reach another authority, if one signs their certificates: it need not be reachable from their network.
const AUTHORITY_PORT: u16 = 15013;
/// Time pods have to end when the cluster is shut down, whatever their own grace period is.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Descriptors this process may need: pods, relays, listeners.
const DESCRIPTORS: u64 = 1 << 16;

/// What every cluster has, and its ingress gateway.
pub(crate) const BUILT_IN: [(&str, &str); 2] = [
    ("namespaces", include_str!("../manifests/namespaces.yaml")),
    ("ingress gateway", include_str!("../manifests/ingress-gateway.yaml")),
];

/// How host clients reach gateways that run this program's own proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GatewayEntry {
    /// Through the supervisor, which copies. Always so for gateways that run another proxy.
    #[default]
    Relay,
    /// The gateway's process accepts on the host's listeners itself; they are passed to it (sd_listen_fds(3))
    /// under the names `port-N`, N being the port of the pod that they stand for.
    Inherit,
}

/// An authority outside of the cluster that signs workloads' certificates: a server of Istio's certificate service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideAuthority {
    /// As this machine reaches it.
    pub host: String,
    pub port: u16,
    /// The name in its certificate.
    pub name: String,
}

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory; two clusters cannot share one.
    pub state_dir: PathBuf,
    /// Manifests: files, folders, or `-`.
    pub paths: Vec<PathBuf>,
    /// What `-` stands for.
    pub input: Option<Vec<u8>>,
    /// Namespace of objects that name none.
    pub namespace: String,
    /// What to run for images.
    pub images: ImageCommands,
    /// Program and arguments of the control plane. It finds the listener for proxies as descriptor
    /// [`LISTENER_DESCRIPTOR`], and the API at [`API_SOCKET`] in the state directory.
    pub control_plane: Vec<OsString>,
    /// Who signs workloads' certificates in place of the control plane.
    pub authority: Option<OutsideAuthority>,
    /// `PATH` of containers.
    pub search_path: String,
    /// Where containers start that say nothing else.
    pub working_directory: PathBuf,
    /// The host's resolv.conf: whom to ask about names outside of the cluster.
    pub resolv_conf: PathBuf,
    /// How host clients reach gateways.
    pub gateway_entry: GatewayEntry,
}

/// Why a cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The state directory belongs to a running cluster.
    #[error("a cluster is already running with {}{}", path.display(), .pid.map_or_else(String::new, |pid| format!(" (process {pid})")))]
    Running {
        /// The directory.
        path: PathBuf,
        /// The other's process.
        pid: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}: {source}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The manifests are wrong: each place, one a line.
    #[error("{0}")]
    Files(#[from] FilesError),
    /// The node does not do what a cluster needs.
    #[error("{0}")]
    Node(#[from] NodeError),
    /// There is no key for tokens.
    #[error("{0}")]
    Tokens(#[from] NoKey),
    /// A program to run is not known.
    #[error("{}", problems.join("\n"))]
    Images {
        /// One line a container.
        problems: Vec<String>,
    },
    /// A built-in manifest is wrong: a mistake in this program.
    #[error("a built-in manifest is not accepted: {0}")]
    BuiltIn(String),
}

/// A running cluster. Dropping it ends it without grace.
#[derive(Debug)]
pub struct Cluster {
    admission: Admission,
    kubelet: Kubelet,
    node: NodeHandle,
    client: Client,
    warnings: Vec<Problem>,
    control_plane_pid: watch::Receiver<Option<u32>>,
    stop: watch::Sender<bool>,
    control_plane: JoinHandle<()>,
    running: JoinSet<()>,
    controllers: JoinSet<()>,
    state: StateDir,
}

impl Cluster {
    /// Starts everything. Manifests are applied, pods are starting when this returns; [`Self::ready`] waits for them.
    /// What happens meanwhile is told to `progress`.
    ///
    /// # Errors
    /// When the state directory is taken, the manifests are wrong, or the node lacks something.
    pub async fn start(
        options: Options,
        node: NodeHandle,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<Self, ClusterError> {
        raise_descriptor_limit();
        let state = StateDir::claim(&options.state_dir)?;
        let seed = [rand::random(), rand::random()];
        let admission =
            Admission::new(Store::new(StoreSettings { seed, first_revision: 1, ..StoreSettings::default() }));
        for (name, text) in BUILT_IN {
            apply_built_in(&admission, name, text)?;
        }
        let mut files = Files::new(options.paths, options.namespace, options.input);
        let applied = files.apply(&admission)?;
        check_images(&admission.store().snapshot(), &options.images)?;
        // Nobody listening is nobody's loss.
        let _ = progress.send(Progress::Applied { objects: applied.outcomes.len() });

        let host = IpAddr::V4(network::NODE);
        let control_plane_address = SocketAddr::new(host, CONTROL_PLANE_PORT);
        let authority_address = SocketAddr::new(host, AUTHORITY_PORT);
        let tokens = Tokens::new()?;
        let (zone, zone_reader) = watch::channel(Arc::default());
        let (backends, backends_reader) = watch::channel(Arc::<Backends>::default());
        let relay = Relay::new(backends_reader, Dialer::new(node.clone()));
        let listeners = Arc::new(Mutex::new(HostListeners::new(relay.clone())));
        // Gateways that inherit the host's listeners must find them open.
        let mut balancers = LoadBalancers::new(admission.store().clone(), Arc::clone(&listeners));
        balancers.reconcile(&admission.store().snapshot());

        let inherit =
            (options.gateway_entry == GatewayEntry::Inherit).then(|| GatewayListeners::new(Arc::clone(&listeners)));
        let settings = Settings {
            images: options.images,
            search_path: options.search_path,
            working_directory: options.working_directory.display().to_string(),
            logs: state.logs(),
            state_dir: options.state_dir,
            volumes: state.volumes(),
            node_name: network::NODE_NAME.to_owned(),
            host,
            control_plane: control_plane_address,
            authority: options.authority.as_ref().map(|authority| (authority_address, authority.name.clone())),
            tokens: tokens.clone(),
        };
        let kubelet = Kubelet::new(admission.store().clone(), node.clone(), settings, inherit);

        let inside = Inside::new(zone_reader.clone(), relay.clone());
        let mut running = JoinSet::new();
        let api = UnixListener::bind(state.api_socket())
            .map_err(|source| ClusterError::StateDir { path: state.api_socket(), source })?;
        running.spawn(must_go_on(
            "the API",
            api::serve(api, api::Server::new(admission.clone(), Some(kubelet.clone()), tokens).with_network(inside)),
        ));

        let (stop, stopped) = watch::channel(false);
        let (pid, control_plane_pid) = watch::channel(None);
        let listener = node.listen(Listen::tcp(Place::Node, control_plane_address)).await?;
        let control_plane = ControlPlane { argv: options.control_plane, listener };
        let control_plane = tokio::spawn(control_plane.supervise(stopped, pid));

        let dns = dns::Server::new(zone_reader, dns::Upstream::from_resolv_conf(&options.resolv_conf));
        let dns_address = SocketAddr::new(host, 53);
        let udp = node.udp_socket(Place::Node, dns_address).await?;
        let tcp = node.tcp_listener(Place::Node, dns_address).await?;
        running.spawn(must_go_on("DNS over UDP", dns.clone().serve_udp(udp)));
        running.spawn(must_go_on("DNS over TCP", dns.serve_tcp(tcp)));
        let relay_address = SocketAddr::new(host, crate::node::NodeConfig::default().relay_port);
        let redirected = node.tcp_listener(Place::Node, relay_address).await?;
        running.spawn(must_go_on("the relay of virtual addresses", relay.clone().serve_redirected(redirected)));
        if let Some(OutsideAuthority { host, port, name: _ }) = options.authority {
            let asked = node.tcp_listener(Place::Node, authority_address).await?;
            let place = host.parse().map_or_else(
                |_| Endpoint::Name(host.clone(), port),
                |address| Endpoint::Address(SocketAddr::new(address, port)),
            );
            running.spawn(must_go_on("the way to the authority", relay.serve_outside(asked, place)));
        }

        let controllers = controllers::start(&admission, balancers, Views { zone, backends });
        running.spawn(kubelet.clone().follow());
        running.spawn(progress::follow_pods(admission.store().clone(), progress.clone()));
        let (changes, changes_reader) = mpsc::unbounded_channel();
        running.spawn(files.follow(admission.clone(), changes));
        running.spawn(progress::follow_files(changes_reader, progress));

        let client = Client::new(state.api_socket());
        Ok(Self {
            admission,
            kubelet,
            node,
            client,
            warnings: applied.warnings,
            control_plane_pid,
            stop,
            control_plane,
            running,
            controllers,
            state,
        })
    }

    /// A client of its API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What was accepted in the manifests and yet looks wrong.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The control plane's process, while there is one.
    pub fn control_plane_pid(&self) -> Option<u32> {
        *self.control_plane_pid.borrow()
    }

    /// Waits until every Deployment has all its pods ready and every other pod is ready or done. The mesh
    /// is up then: a sidecar is ready only when it has its configuration.
    pub async fn ready(&self) {
        let mut revisions = self.admission.store().revisions();
        loop {
            revisions.mark_unchanged();
            if progress::waiting(&self.admission.store().snapshot()).is_empty() {
                return;
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is not ready yet, and why as far as is known.
    pub fn waiting(&self) -> Vec<Waiting> {
        progress::waiting(&self.admission.store().snapshot())
    }

    /// Resolves when the node has ended by itself, and every pod with it.
    pub async fn broken(&self) {
        self.node.closed().await;
    }

    /// Ends everything, pods within two seconds, and leaves nothing.
    pub async fn shutdown(mut self) {
        // Nobody is to follow, or to repair, what is taken down.
        self.stop.send_replace(true);
        self.controllers.shutdown().await;
        self.running.shutdown().await;
        self.kubelet.stop_all(SHUTDOWN_GRACE).await;
        // It ends by itself, or is killed with us.
        let _ = self.control_plane.await;
        self.node.shutdown().await;
        if let Err(error) = self.state.clear() {
            tracing::warn!(%error, "cannot clear the state directory");
        }
    }
}

async fn must_go_on(what: &'static str, served: impl Future<Output = io::Result<()>>) {
    if let Err(error) = served.await {
        tracing::error!(%error, "{what} broke");
    }
}

fn apply_built_in(admission: &Admission, name: &str, text: &str) -> Result<(), ClusterError> {
    let wrong = |error: &dyn std::fmt::Display| ClusterError::BuiltIn(error.to_string());
    let manifests = read_manifests(name, text.as_bytes(), ReadOptions::default()).complete();
    let manifests = manifests.map_err(|problems| wrong(&problems))?;
    let upsert =
        |manifest: lateen_galley::Manifest| (lateen_galley::Change::Upsert(manifest.object), Some(manifest.origin));
    admission.commit(manifests.into_iter().map(upsert).collect()).map_err(|refused| wrong(&refused))?;
    Ok(())
}

/// Refuses manifests with containers that could never start for want of a program.
fn check_images(snapshot: &Snapshot, images: &ImageCommands) -> Result<(), ClusterError> {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    let mut problems = Vec::new();
    let mut check = |kind: Kind, namespace: &Option<String>, name: &Option<String>, spec: &PodSpec| {
        for container in &spec.containers {
            if container.name == crate::admission::PROXY_CONTAINER {
                continue;
            }
            let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
            let image = container.image.as_deref().unwrap_or_default();
            if let Err(error) = images.words(image, &words(&container.command), &words(&container.args)) {
                let object =
                    format!("{}/{}", namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
                problems.push(format!("{} {object}: container {}: {error}", kind.name(), container.name));
            }
        }
    };
    for deployment in snapshot.list::<Deployment>() {
        if let Some(spec) = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) {
            check(Kind::Deployment, &deployment.metadata.namespace, &deployment.metadata.name, spec);
        }
    }
    for pod in snapshot.list::<Pod>() {
        if let Some(spec) = &pod.spec {
            check(Kind::Pod, &pod.metadata.namespace, &pod.metadata.name, spec);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ClusterError::Images { problems }) }
}

/// Takes as many descriptors as the machine gives, up to what is useful.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a valid rlimit; a refusal leaves the limit as it was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < DESCRIPTORS {
            limit.rlim_cur = limit.rlim_max.min(DESCRIPTORS);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
