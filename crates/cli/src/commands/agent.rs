//! `lateen agent`: identity for a proxy that is not ours. It starts the proxy as its child and ends with it. Our own
//! proxy has the agent inside.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lateen_citadel::agent::{Address, Agent, Options, Server};
use lateen_citadel::key::KeyType;
use lateen_citadel::spiffe::Identity;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::duration;
use crate::error::Error;
use crate::secrecy;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// trace, debug, info, warn, error or off
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    agent_log_level: tracing_subscriber::filter::LevelFilter,
    /// The proxy and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// What an agent is told; without an identity there is none.
#[derive(clap::Args)]
#[group(skip)]
pub struct AgentArguments {
    /// Get certificates for this identity: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT
    #[arg(long, value_name = "SPIFFE_ID", requires = "control_plane", help_heading = "Identity")]
    identity: Option<Identity>,
    /// Where the control plane serves proxies with TLS, and certificates
    #[arg(long, value_name = "HOST:PORT", help_heading = "Identity")]
    control_plane: Option<Address>,
    /// The name in the control plane's certificate
    #[arg(long, value_name = "NAME", default_value = "istiod.istio-system.svc", help_heading = "Identity")]
    control_plane_name: String,
    /// Another server of Istio's certificate service, in place of the control plane
    #[arg(long, value_name = "HOST:PORT", help_heading = "Identity")]
    ca_address: Option<Address>,
    /// The name in that server's certificate [default: its host]
    #[arg(long, value_name = "NAME", requires = "ca_address", help_heading = "Identity")]
    ca_name: Option<String>,
    /// Roots to trust, PEM; followed as they change
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/istio/root-cert.pem",
        help_heading = "Identity"
    )]
    roots: PathBuf,
    /// Roots that peers of other meshes have, PEM, if there are any; followed as they change
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/istio/federated-roots.pem",
        help_heading = "Identity"
    )]
    federated_roots: PathBuf,
    /// Lists of revoked certificates, PEM, if there are any; followed as they change
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/istio/crl/ca-crl.pem",
        help_heading = "Identity"
    )]
    revocations: PathBuf,
    /// The service account's token
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/tokens/istio-token", help_heading = "Identity")]
    token: PathBuf,
    /// Unix socket to make, at which the proxy asks for secrets (SDS)
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/run/secrets/workload-spiffe-uds/socket",
        help_heading = "Identity"
    )]
    secrets_socket: PathBuf,
    /// Unix socket to make, at which the proxy asks for its configuration (ADS)
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/run/secrets/workload-spiffe-uds/discovery",
        help_heading = "Identity"
    )]
    discovery_socket: PathBuf,
    /// Life to ask for, such as 1h [default: the authority's]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, help_heading = "Identity")]
    cert_ttl: Option<Duration>,
    /// Keys to make: ecdsa or rsa
    #[arg(long, value_name = "KIND", default_value = "ecdsa", value_parser = key_type, help_heading = "Identity")]
    key_type: KeyType,
    /// SO_MARK of the agent's connections, to pass redirect rules
    #[arg(long, value_name = "MARK", help_heading = "Identity")]
    mark: Option<u32>,
}

/// Reads a kind of key.
pub fn key_type(text: &str) -> Result<KeyType, String> {
    match text {
        "ecdsa" => Ok(KeyType::EcdsaP256),
        "rsa" => Ok(KeyType::Rsa2048),
        _ => Err(format!("{text:?} is neither ecdsa nor rsa")),
    }
}

impl AgentArguments {
    /// What the agent is to be, if there is to be one.
    fn options(&self) -> Option<Options> {
        let control_plane = self.control_plane.clone()?;
        let discovery = Server { address: control_plane, name: self.control_plane_name.clone() };
        let authority = match &self.ca_address {
            Some(address) => {
                let host = match address {
                    Address::Socket(address) => address.ip().to_string(),
                    Address::Name(name, _) => name.clone(),
                };
                Server { address: address.clone(), name: self.ca_name.clone().unwrap_or(host) }
            }
            None => discovery.clone(),
        };
        Some(Options {
            identity: self.identity.clone()?,
            authority,
            discovery,
            roots: self.roots.clone(),
            federated: self.federated_roots.clone(),
            revocations: self.revocations.clone(),
            token: self.token.clone(),
            secrets_socket: self.secrets_socket.clone(),
            discovery_socket: self.discovery_socket.clone(),
            ttl: self.cert_ttl,
            key_type: self.key_type,
            mark: self.mark,
        })
    }

    /// Starts the agent, if there is to be one, on a thread of its own. Its sockets are there when this returns.
    pub fn start(&self) -> Result<(), Error> {
        let Some(options) = self.options() else { return Ok(()) };
        secrecy::no_core_files();
        let agent = Agent::start(options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("cannot start the agent"))?;
        let work = move || {
            if let Err(error) = runtime.block_on(agent.run()) {
                tracing::error!(%error, "the agent has ended; certificates are renewed no more");
            }
        };
        std::thread::Builder::new().name("agent".to_string()).spawn(work).map_err(Error::io("the agent's thread"))?;
        Ok(())
    }
}

/// Runs the proxy until it ends, and ends as it did.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    tracing_subscriber::fmt()
        .with_max_level(arguments.agent_log_level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if arguments.agent.options().is_none() {
        return Err(Error::Usage("--identity and --control-plane are needed".to_string()));
    }
    arguments.agent.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::io("cannot start"))?.block_on(accompany(&arguments.command))
}

/// Starts a program, hands signals on to it, and waits for its end.
async fn accompany(command: &[String]) -> Result<ExitCode, Error> {
    let (program, arguments) = command.split_first().ok_or_else(|| Error::Usage("no proxy is named".to_string()))?;
    let watch = |kind| signal(kind).map_err(Error::io("cannot watch signals"));
    let (mut terminate, mut interrupt) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    let mut reopen = watch(SignalKind::user_defined1())?;
    let mut child = Command::new(program).args(arguments).kill_on_drop(true).spawn().map_err(Error::io(program))?;
    let status = loop {
        let passed = tokio::select! {
            status = child.wait() => break status.map_err(Error::io(program))?,
            _ = terminate.recv() => libc::SIGTERM,
            _ = interrupt.recv() => libc::SIGINT,
            _ = reopen.recv() => libc::SIGUSR1,
        };
        if let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
            // SAFETY: kill(2) on a child that was not waited for yet, so that its number is still its own.
            unsafe { libc::kill(pid, passed) };
        }
    };
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
