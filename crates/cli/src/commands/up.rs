//! `lateen up`: a mesh on this machine, from manifests.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use lateen_citadel::agent::Address;
use lateen_citadel::certificate;
use lateen_galley::{Kind, SOURCE_BYTES};
use lateen_local::client::Selection;
use lateen_local::cluster::{Cluster, GatewayEntry, LISTENER_DESCRIPTOR, Options, OutsideAuthority, Progress};
use lateen_local::kubelet::ImageCommands;
use lateen_local::node::{self, Node, NodeConfig};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::down::Mesh;
use super::ingress::Ingress;
use crate::control_plane::AUTHORITY;
use crate::daemon::{self, Outcome, Reporter, Side};
use crate::duration;
use crate::error::Error;
use crate::page;
use crate::secrecy;
use crate::state_dir::StateDir;
use crate::terminal;
use crate::waiting::{self, Troubles};

/// The log of a mesh in the background, in its state directory.
const LOG: &str = "up.log";
/// What the certificate authority is kept in, in the state directory: it stays when the mesh ends.
const AUTHORITY_DIR: &str = "ca";
/// How long a mesh may take to be ready before what is missing is told.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether the certificate authority works.
const LOOK: Duration = Duration::from_millis(200);
/// The Service port of the ingress gateway that is told.
const HTTP: u64 = 80;

#[derive(clap::Args)]
pub struct Arguments {
    /// Manifests: files, folders (read recursively), or - for standard input. Changed files are applied again
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Namespace of what names none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// What to run for an image, which cannot be pulled here: 'quay.io/some/app:v1=python3 app.py --version 1'
    #[arg(long = "image", value_name = "IMAGE=COMMAND")]
    images: Vec<String>,
    /// Return when the mesh is ready, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// trace, debug, info, warn, error or off
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    log_level: LevelFilter,
    /// Life of workloads' certificates, which are renewed long before its end
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = duration::parse)]
    cert_ttl: Duration,
    /// How often keys are fetched that RequestAuthentications name by address
    #[arg(long, default_value = "20m", value_name = "TIME", value_parser = duration::parse)]
    jwks_refresh: Duration,
    /// File of certificates (PEM) to trust there beside the system's
    #[arg(long, value_name = "PATH")]
    jwks_roots: Option<PathBuf>,
    /// How long a new root is told before it signs: here every pod has it within a second
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    announce_root: Duration,
    /// Key of a root that is made: ecdsa or rsa
    #[arg(long, value_name = "KIND", default_value = "ecdsa", value_parser = ["ecdsa", "rsa"])]
    ca_key_type: String,
    /// Another authority signs workloads' certificates: a server of Istio's certificate service
    #[arg(long, value_name = "HOST:PORT", requires = "ca_root")]
    ca_address: Option<Address>,
    /// Its roots, PEM; followed as they change
    #[arg(long, value_name = "FILE", requires = "ca_address")]
    ca_root: Option<PathBuf>,
    /// The name in its certificate [default: its host]
    #[arg(long, value_name = "NAME", requires = "ca_address")]
    ca_name: Option<String>,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Runs a mesh until SIGTERM or SIGINT, or leaves it running.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let options = options(&arguments)?;
    if Mesh::at(&arguments.state_dir.socket()).is_ok_and(|mesh| mesh.is_some()) {
        let state = options.state_dir.display();
        return Err(Error::Usage(format!("a mesh is running in {state} already: `lateen down` stops it")));
    }
    if !arguments.detach {
        return serve(&arguments, options, None);
    }
    let log = options.state_dir.join(LOG);
    // SAFETY: no thread has been started so far.
    match unsafe { daemon::fork(&log) }.map_err(Error::io("cannot go to the background"))? {
        Side::Terminal(start) => {
            let told = start.wait().map_err(Error::io("cannot hear from the mesh"))?;
            told.warnings.iter().for_each(terminal::warn);
            match told.outcome {
                Outcome::Running(text) => {
                    println!("{text}");
                    Ok(ExitCode::SUCCESS)
                }
                Outcome::Failed(text) => Err(Error::Usage(format!("{text}\n(its log is {})", log.display()))),
            }
        }
        Side::Daemon(reporter) => {
            let mut reporter = Some(reporter);
            let result = serve(&arguments, options, Some(&mut reporter));
            if let (Err(error), Some(reporter)) = (&result, reporter) {
                reporter.failed(&error.to_string());
            }
            result
        }
    }
}

/// What the cluster is to be, from the arguments and this process's surroundings.
fn options(arguments: &Arguments) -> Result<Options, Error> {
    let directory = std::env::current_dir().map_err(Error::io("the current directory"))?;
    let program = std::env::current_exe().map_err(Error::io("this program's own file"))?;
    let state_dir = arguments.state_dir.create()?;
    let mut control_plane = vec![program.clone().into_os_string(), "control-plane".into()];
    control_plane.extend(["--api-socket".into(), arguments.state_dir.socket().into_os_string()]);
    control_plane.extend(["--http-socket".into(), arguments.state_dir.control_plane().into_os_string()]);
    control_plane.extend(["--secure-fd".into(), LISTENER_DESCRIPTOR.to_string().into()]);
    control_plane.extend(["--ca-dir".into(), state_dir.join(AUTHORITY_DIR).into_os_string()]);
    let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
    control_plane.extend(["--cert-ttl".into(), seconds(arguments.cert_ttl).into()]);
    control_plane.extend(["--jwks-refresh".into(), seconds(arguments.jwks_refresh).into()]);
    if let Some(roots) = &arguments.jwks_roots {
        control_plane.extend(["--jwks-roots".into(), roots.clone().into_os_string()]);
    }
    control_plane.extend(["--announce-root".into(), seconds(arguments.announce_root).into()]);
    control_plane.extend(["--ca-key-type".into(), arguments.ca_key_type.clone().into()]);
    if let Some(roots) = &arguments.ca_root {
        let roots = std::path::absolute(roots).map_err(Error::io(roots.display().to_string()))?;
        // Told here, where somebody reads it.
        let text = std::fs::read_to_string(&roots).map_err(Error::io(roots.display().to_string()))?;
        certificate::read_pem(&text).map_err(|error| Error::Usage(format!("{}: {error}", roots.display())))?;
        control_plane.extend(["--external-ca-roots".into(), roots.into_os_string()]);
    }
    control_plane.extend(["--log-level".into(), arguments.log_level.to_string().into()]);
    Ok(Options {
        state_dir,
        input: input(&arguments.paths)?,
        paths: arguments.paths.clone(),
        namespace: arguments.namespace.clone(),
        images: ImageCommands::parse(&arguments.images).map_err(|error| Error::Usage(error.to_string()))?,
        control_plane,
        authority: arguments.ca_address.as_ref().map(|address| outside(address, arguments.ca_name.as_deref())),
        search_path: search_path(&program),
        working_directory: directory,
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        gateway_entry: GatewayEntry::Inherit,
    })
}

fn outside(address: &Address, name: Option<&str>) -> OutsideAuthority {
    let (host, port) = match address {
        Address::Socket(address) => (address.ip().to_string(), address.port()),
        Address::Name(name, port) => (name.clone(), *port),
    };
    OutsideAuthority { name: name.unwrap_or(&host).to_string(), host, port }
}

/// What `-` stands for; read before there is a background that has no input.
fn input(paths: &[PathBuf]) -> Result<Option<Vec<u8>>, Error> {
    if !paths.iter().any(|path| path == Path::new("-")) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the reader sees that it is too long.
    let limit = SOURCE_BYTES as u64 + 1;
    std::io::stdin().take(limit).read_to_end(&mut bytes).map_err(Error::io("standard input"))?;
    Ok(Some(bytes))
}

/// Where containers find programs: this one first of all.
fn search_path(program: &Path) -> String {
    let own = program.parent().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let all = own.into_iter().chain(std::env::split_paths(&path));
    // A directory with a colon in its name can stand in no PATH.
    let joined = std::env::join_paths(all).unwrap_or(path);
    joined.to_string_lossy().into_owned()
}

fn serve(arguments: &Arguments, options: Options, reporter: Option<&mut Option<Reporter>>) -> Result<ExitCode, Error> {
    let began = Instant::now();
    let node = node::start(NodeConfig::default())?;
    // After the node: what pods run may leave core files.
    secrecy::no_core_files();
    // What becomes of changed files is told by `tell`.
    let targets = Targets::new()
        .with_default(arguments.log_level)
        .with_target("lateen_local::cluster::progress", LevelFilter::OFF);
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(log).with(targets).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the cluster"))?;
    runtime.block_on(sail(&arguments.state_dir, options, node, began, reporter))
}

/// From start to shutdown.
async fn sail(
    state: &StateDir,
    options: Options,
    node: Node,
    began: Instant,
    mut reporter: Option<&mut Option<Reporter>>,
) -> Result<ExitCode, Error> {
    for note in node.notes() {
        tracing::debug!("{note}");
    }
    let mut stop = Stop::new()?;
    let (sender, progress) = mpsc::unbounded_channel();
    let cluster = tokio::select! {
        cluster = Cluster::start(options, node.into_handle()?, sender) => cluster?,
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    };
    for warning in cluster.warnings() {
        warn(&mut reporter, &warning.to_string());
    }
    tokio::spawn(tell(progress));

    let ended = tokio::select! {
        ended = watch(&cluster, state, began, reporter) => ended,
        () = stop.asked() => Ok(()),
        () = cluster.broken() => Err(Error::Usage("the node ended, and all pods with it".to_string())),
    };
    println!("stopping");
    cluster.shutdown().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Tells what looks wrong, to the terminal that waits for the mesh as well.
fn warn(reporter: &mut Option<&mut Option<Reporter>>, warning: &str) {
    terminal::warn(warning);
    if let Some(reporter) = reporter.as_mut().and_then(|reporter| reporter.as_mut()) {
        reporter.warn(warning);
    }
}

/// Announces the mesh when it is ready, then watches over it for ever.
async fn watch(
    cluster: &Cluster,
    state: &StateDir,
    began: Instant,
    mut reporter: Option<&mut Option<Reporter>>,
) -> Result<(), Error> {
    let ready = async {
        tokio::select! {
            ready = ready(cluster, state) => Ok(ready),
            // Nothing becomes ready without it.
            trouble = authority_fails(state) => Err(trouble),
        }
    };
    let announced = match tokio::time::timeout(PATIENCE, ready).await {
        Ok(Err(trouble)) => Err(format!("the mesh is running, and cannot become ready: {trouble}")),
        Ok(Ok(ready)) => {
            let (ingress, standing) = ready?;
            for warning in &standing {
                warn(&mut reporter, warning);
            }
            let took = began.elapsed().as_secs_f64();
            Ok(match ingress.authority(HTTP) {
                Ok(authority) => format!("the mesh is up in {took:.2} s, its ingress gateway at http://{authority}"),
                Err(error) => format!("the mesh is up in {took:.2} s, its ingress gateway not: {error}"),
            })
        }
        Err(_) => {
            let waiting = cluster.waiting();
            let lines: Vec<_> = waiting.iter().map(|one| format!("  {}: {}", one.object, one.state)).collect();
            Err(format!("the mesh is running, but not ready after {PATIENCE:?}:\n{}", lines.join("\n")))
        }
    };
    match &announced {
        Ok(text) => println!("{text}"),
        Err(text) => eprintln!("{text}"),
    }
    if let Some(reporter) = reporter.and_then(Option::take) {
        match announced {
            Ok(text) => reporter.running(&text),
            Err(text) => reporter.failed(&text),
        }
    }
    std::future::pending().await
}

/// Waits until the certificate authority does not work, and says why.
async fn authority_fails(state: &StateDir) -> String {
    loop {
        if let Ok((StatusCode::INTERNAL_SERVER_ERROR, text)) =
            page::ask(&state.control_plane(), Method::GET, AUTHORITY).await
        {
            return String::from_utf8_lossy(&text).into_owned();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until pods are ready and every proxy has taken what the manifests say; gives where the ingress gateway is, and
/// what does not work yet.
async fn ready(cluster: &Cluster, state: &StateDir) -> Result<(Ingress, Vec<String>), Error> {
    cluster.ready().await;
    let client = cluster.client();
    let now = client.list(Kind::Namespace, &Selection::default()).await?;
    // They serve without it by now, as proxies do that wait for files in vain.
    let awaited = Troubles::awaited(state).await;
    let mut standing = waiting::in_force(client, state, &[now], &awaited, PATIENCE).await?;
    standing.extend(authority_troubles(state).await);
    Ok((Ingress::find(client).await?, standing))
}

/// What keeps the certificate authority from working. It may be starting, or starting again.
async fn authority_troubles(state: &StateDir) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match super::ca::status(state).await {
            Ok(status) => return status.troubles,
            Err(error) if Instant::now() >= deadline => return vec![error.to_string()],
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Tells what happens in words.
async fn tell(mut progress: mpsc::UnboundedReceiver<Progress>) {
    while let Some(event) = progress.recv().await {
        match event {
            Progress::Applied { objects } => println!("{objects} objects applied"),
            Progress::PodReady { namespace, name } => println!("pod {namespace}/{name} is ready"),
            Progress::Trouble { place, message } => eprintln!("pod {place}: {message}"),
            Progress::Changed { objects, warnings } => {
                println!("changed files: {objects} objects are different now");
                warnings.iter().for_each(terminal::warn);
            }
            Progress::Refused(problems) => eprintln!("changed files were refused, nothing was changed:\n{problems}"),
        }
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Stop, Error> {
        let watch = |kind| signal(kind).map_err(Error::io("cannot watch signals"));
        Ok(Stop { terminate: watch(SignalKind::terminate())?, interrupt: watch(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
