//! `lateen app`: the sample service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Args as _, Command, FromArgMatches as _};
use hyper::Uri;

use crate::app::{self, AllowIf, Behaviour, Identity, Options, TlsOptions};
use crate::duration;
use crate::error::Error;

#[derive(clap::Args)]
#[command(
    after_help = "Every request may override --delay, --status, --fail-rate and --response-size by its query: ?delay=100ms&status=503&fail-rate=0.1&size=1024."
)]
pub struct Arguments {
    /// What the service says its version is
    #[arg(long = "version", env = "VERSION", default_value = "v1")]
    version: String,
    /// Port for HTTP/1.1, HTTP/2 with prior knowledge, gRPC and WebSocket (/ws)
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// Port that sends back every byte it gets
    #[arg(long, env = "TCP_PORT")]
    tcp_port: Option<u16>,
    /// Port for the same over TLS
    #[arg(long, env = "TLS_PORT", requires = "tls_certificate", requires = "tls_key")]
    tls_port: Option<u16>,
    /// The certificate that is shown there, and those that lead from it to an authority (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_port")]
    tls_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_port")]
    tls_key: Option<PathBuf>,
    /// Demand a certificate of clients there, by one of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_port")]
    tls_client_authorities: Option<PathBuf>,
    /// Begin answers on the TCP port with a line that names the pod and the version
    #[arg(long, requires = "tcp_port")]
    tcp_says_who: bool,
    /// Ask this service before each answer, and put its answer into the own one; may be given several times
    #[arg(long = "call", value_name = "URL", value_parser = app::parse_url)]
    calls: Vec<Uri>,
    /// Say of every request whether it may pass, and nothing else: 200 if this header has this value, else 403. So it
    /// serves as an authorization service over HTTP
    #[arg(long, env = "ALLOW_IF", value_name = "NAME=VALUE", value_parser = app::parse_allow_if)]
    allow_if: Option<AllowIf>,
    /// Wait this long before each answer
    #[arg(long, env = "DELAY", default_value = "0s", value_parser = duration::parse)]
    delay: Duration,
    /// Answer with this HTTP status
    #[arg(long, env = "STATUS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Share of requests that fail with 503, from 0 to 1
    #[arg(long, env = "FAIL_RATE", default_value = "0", value_parser = app::parse_rate)]
    fail_rate: f64,
    /// Pad each answer's body to at least this many bytes
    #[arg(long, env = "RESPONSE_SIZE", default_value_t = 0, value_parser = app::parse_size)]
    response_size: usize,
    /// What the service says its pod is
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod: String,
    /// On SIGTERM, let requests under way finish for at most this long
    #[arg(long, default_value = "25s", value_parser = duration::parse)]
    grace: Duration,
}

/// The service that a command line would start in a container with this environment, if it is one of the sample service.
pub fn simulated(words: &[String], environment: &[(String, String)]) -> Option<Result<Options, String>> {
    let program = words.first().and_then(|word| Path::new(word).file_name())?;
    let rest = words.get(1..).and_then(|rest| rest.split_first()).filter(|(word, _)| *word == "app")?.1;
    if program != "lateen" {
        return None;
    }
    // The container's environment counts, not this process's.
    let mut given = Vec::new();
    let command = Arguments::augment_args(Command::new("app")).mut_args(|argument| {
        let name = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        let value = environment.iter().find(|(known, _)| Some(known) == name.as_ref()).map(|(_, value)| value);
        if let (Some(value), Some(long)) = (value, argument.get_long()) {
            let flag = format!("--{long}");
            if !rest.iter().any(|word| *word == flag || word.starts_with(&format!("{flag}="))) {
                given.push(format!("{flag}={value}"));
            }
        }
        argument.env(Resettable::Reset)
    });
    let arguments = ["app".to_owned()].into_iter().chain(given).chain(rest.iter().cloned());
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Arguments::from_arg_matches(&matches));
    Some(parsed.map(Arguments::options).map_err(|error| error.to_string()))
}

/// Serves until SIGTERM or SIGINT.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let options = arguments.options();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the service"))?;
    runtime.block_on(app::serve(options))?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn options(self) -> Options {
        let tls = match (self.tls_port, self.tls_certificate, self.tls_key) {
            (Some(port), Some(certificate), Some(key)) => {
                Some(TlsOptions { port, certificate, key, client_authorities: self.tls_client_authorities })
            }
            _ => None,
        };
        Options {
            tls,
            port: self.port,
            tcp_port: self.tcp_port,
            tcp_says_who: self.tcp_says_who,
            calls: self.calls,
            allow_if: self.allow_if,
            grace: self.grace,
            identity: Identity { pod: self.pod, version: self.version },
            behaviour: Behaviour {
                delay: self.delay,
                status: self.status,
                fail_rate: self.fail_rate,
                size: self.response_size,
            },
        }
    }
}
