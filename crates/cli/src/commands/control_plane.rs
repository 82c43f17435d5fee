//! `lateen control-plane`: discovery and certificates alone, for the cluster that started it or any other API at a socket.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lateen_citadel::authority::Settings;
use lateen_citadel::key::KeyType;
use lateen_citadel::spiffe::TrustDomain;

use super::agent::key_type;
use crate::control_plane::{self, Options, Place, identity, keys};
use crate::duration;
use crate::error::Error;

#[derive(clap::Args)]
pub struct Arguments {
    /// Socket of the Kubernetes API
    #[arg(long, value_name = "PATH")]
    api_socket: PathBuf,
    /// A listening TCP socket inherited by number: proxies are served there without TLS, whoever they are
    #[arg(long, value_name = "NUMBER", conflicts_with = "xds_address")]
    xds_fd: Option<RawFd>,
    /// An address to listen at for the same
    #[arg(long, value_name = "IP:PORT")]
    xds_address: Option<SocketAddr>,
    /// A listening TCP socket inherited by number: proxies are served there with TLS, and get certificates
    #[arg(long, value_name = "NUMBER", conflicts_with = "secure_address", requires = "ca_dir")]
    secure_fd: Option<RawFd>,
    /// An address to listen at for the same
    #[arg(long, value_name = "IP:PORT", requires = "ca_dir")]
    secure_address: Option<SocketAddr>,
    /// Where the certificate authority is kept; its root is made there at the first start
    #[arg(long, value_name = "DIR", help_heading = "Certificates")]
    ca_dir: Option<PathBuf>,
    /// The first part of all identities: spiffe://TRUST_DOMAIN/…
    #[arg(long, value_name = "NAME", default_value = "cluster.local", help_heading = "Certificates")]
    trust_domain: TrustDomain,
    /// Life of a certificate when its request says nothing
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse, help_heading = "Certificates")]
    cert_ttl: Duration,
    /// Longest life of a certificate, whatever its request says
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse, help_heading = "Certificates")]
    max_cert_ttl: Duration,
    /// How long a new root is told everybody before it signs
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration::parse, help_heading = "Certificates")]
    announce_root: Duration,
    /// Life of a root that is made; the next follows it when a fifth of it is left [default: ten years]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, help_heading = "Certificates")]
    root_ttl: Option<Duration>,
    /// Roots, PEM, of another authority that signs for workloads in place of this one; followed as they change
    #[arg(long, value_name = "FILE", requires = "ca_dir", help_heading = "Certificates")]
    external_ca_roots: Option<PathBuf>,
    /// Key of a root that is made: ecdsa or rsa
    #[arg(long, value_name = "KIND", default_value = "ecdsa", value_parser = key_type, help_heading = "Certificates")]
    ca_key_type: KeyType,
    /// How often keys are fetched that RequestAuthentications name by address
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = duration::parse, help_heading = "Tokens")]
    jwks_refresh: Duration,
    /// File of certificates (PEM) to trust there beside the system's
    #[arg(long, value_name = "PATH", help_heading = "Tokens")]
    jwks_roots: Option<PathBuf>,
    /// Socket to make, at which /ready, /metrics and pages under /debug are answered
    #[arg(long, value_name = "PATH")]
    http_socket: Option<PathBuf>,
    /// Address at which the same is answered
    #[arg(long, value_name = "IP:PORT")]
    http_address: Option<SocketAddr>,
    /// trace, debug, info, warn, error or off
    #[arg(short, long, default_value = "info", value_name = "LEVEL")]
    log_level: tracing_subscriber::filter::LevelFilter,
}

/// Serves until SIGTERM.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let place = |descriptor: Option<RawFd>, address: Option<SocketAddr>| {
        descriptor.map(Place::Inherited).or(address.map(Place::Address))
    };
    let plain = place(arguments.xds_fd, arguments.xds_address);
    let trust_domain = arguments.trust_domain;
    let settings = Settings {
        trust_domains: trust_domain.clone().into(),
        default_ttl: arguments.cert_ttl,
        max_ttl: arguments.max_cert_ttl,
        announce: arguments.announce_root,
        key_type: arguments.ca_key_type,
        ..Settings::default()
    };
    let settings = Settings { root_life: arguments.root_ttl.unwrap_or(settings.root_life), ..settings };
    let external = arguments.external_ca_roots;
    let identity = arguments.ca_dir.map(|directory| identity::Options { directory, settings, external });
    let secure = place(arguments.secure_fd, arguments.secure_address).zip(identity);
    if plain.is_none() && secure.is_none() {
        let needed = "one of --secure-fd, --secure-address, --xds-fd and --xds-address is needed";
        return Err(Error::Usage(needed.to_string()));
    }
    tracing_subscriber::fmt()
        .with_max_level(arguments.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the control plane"))?;
    runtime.block_on(control_plane::run(Options {
        api: arguments.api_socket,
        secure,
        plain,
        pages: arguments.http_socket,
        http: arguments.http_address,
        keys: keys::Options { refresh: arguments.jwks_refresh, roots: arguments.jwks_roots },
        trust_domain,
    }))?;
    Ok(ExitCode::SUCCESS)
}
