//! `lateen proxy`: the data plane alone, with Envoy's command line as far as it means something here.

use std::num::NonZero;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lateen_galley::istio::workload_group::ReadinessProbe;
use lateen_proxy::logging::{Level, Logging};
use lateen_proxy::readiness::{Check, Readiness};
use serde_json::{Value, json};

use super::agent::AgentArguments;
use crate::error::Error;

/// The first descriptor of sd_listen_fds(3).
const FIRST_DESCRIPTOR: RawFd = 3;

#[derive(clap::Args)]
#[command(after_help = "Options of Envoy's that are not in this list are refused: none is accepted and ignored.")]
pub struct Arguments {
    /// An Envoy bootstrap, YAML or JSON: static resources, ADS, or both
    #[arg(short, long, value_name = "FILE")]
    config_path: PathBuf,
    /// Worker threads; as many as the machine has cores when not given
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// What is logged on standard error: trace, debug, info, warning, error, critical or off
    #[arg(short, long, default_value = "info", value_name = "LEVEL")]
    log_level: Level,
    /// Levels of single components, as in upstream:debug,router:trace
    #[arg(long, value_name = "LEVELS", default_value = "", value_parser = component_levels)]
    component_log_level: ComponentLevels,
    /// The node's id, instead of the bootstrap's
    #[arg(long, value_name = "ID", default_value = "")]
    service_node: String,
    /// The node's cluster, instead of the bootstrap's
    #[arg(long, value_name = "NAME", default_value = "")]
    service_cluster: String,
    /// The node's zone, instead of the bootstrap's
    #[arg(long, value_name = "ZONE", default_value = "")]
    service_zone: String,
    /// On SIGTERM and when a listener goes, connections get this many seconds to end
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u64,
    #[command(flatten)]
    agent: AgentArguments,
    // There is no hot restart here and no memory that proxies of one machine share: what follows asks for no more.
    #[arg(long, hide = true)]
    disable_hot_restart: bool,
    #[arg(long, hide = true)]
    base_id: Option<u32>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(u32).range(0..=0))]
    restart_epoch: Option<u32>,
}

/// Serves until SIGTERM.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let logging = Logging::start(arguments.log_level)?;
    let components: Vec<_> =
        arguments.component_log_level.0.iter().map(|(name, level)| (name.as_str(), *level)).collect();
    logging.set(&components)?;
    let path = &arguments.config_path;
    let bootstrap = std::fs::read_to_string(path).map_err(Error::io(path.display().to_string()))?;
    let node = [
        (&["id"] as &[_], &arguments.service_node),
        (&["cluster"], &arguments.service_cluster),
        (&["locality", "zone"], &arguments.service_zone),
    ];
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let concurrency = arguments.concurrency.unwrap_or(cores).max(1);
    arguments.agent.start()?;
    let command_line = command_line(&arguments, concurrency);
    let bootstrap = with_node(bootstrap, &node)?;
    lateen_proxy::run(lateen_proxy::Options {
        readiness: readiness(&bootstrap)?,
        bootstrap,
        concurrency,
        drain_time: Duration::from_secs(arguments.drain_time_s),
        inherited: inherited()?,
        logging,
        command_line,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The command line as Envoy's `/server_info` shows its own (`envoy.admin.v3.CommandLineOptions`).
fn command_line(arguments: &Arguments, concurrency: usize) -> Value {
    json!({
        "base_id": arguments.base_id.unwrap_or(0).to_string(),
        "concurrency": concurrency,
        "config_path": arguments.config_path,
        "log_level": arguments.log_level.as_str(),
        "service_cluster": arguments.service_cluster,
        "service_node": arguments.service_node,
        "service_zone": arguments.service_zone,
        "mode": "Serve",
        "drain_time": format!("{}s", arguments.drain_time_s),
        "disable_hot_restart": true,
    })
}

/// Levels by component.
#[derive(Clone)]
struct ComponentLevels(Vec<(String, Level)>);

fn component_levels(text: &str) -> Result<ComponentLevels, String> {
    let one = |pair: &str| {
        let (name, level) = pair.split_once(':').ok_or_else(|| format!("{pair:?} is not COMPONENT:LEVEL"))?;
        Ok((name.to_string(), level.parse::<Level>().map_err(|error| error.to_string())?))
    };
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs.map(one).collect::<Result<_, String>>().map(ComponentLevels)
}

/// Sets fields of a bootstrap's node; empty values leave what is there, as in Envoy.
fn with_node(bootstrap: String, fields: &[(&[&str], &String)]) -> Result<String, Error> {
    if fields.iter().all(|(_, value)| value.is_empty()) {
        return Ok(bootstrap);
    }
    let unreadable = |error: &dyn std::fmt::Display| Error::Usage(format!("the bootstrap is not understood: {error}"));
    let mut read: Value = serde_norway::from_str(&bootstrap).map_err(|error| unreadable(&error))?;
    for (path, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let mut place = &mut read;
        for name in std::iter::once(&"node").chain(*path) {
            let Value::Object(fields) = place else { return Err(unreadable(&format!("{name} has no place in it"))) };
            place = fields.entry(*name).or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
        *place = Value::String((*value).clone());
    }
    Ok(read.to_string())
}

/// How the workload is asked whether it is well: the `readinessProbe` of the proxy's settings in its node's metadata.
fn readiness(bootstrap: &str) -> Result<Option<Readiness>, Error> {
    // What is no bootstrap is refused with its reason elsewhere.
    let Ok(read) = serde_norway::from_str::<Value>(bootstrap) else { return Ok(None) };
    let Some(metadata) = read.pointer("/node/metadata") else { return Ok(None) };
    let Some(probe) = metadata.pointer("/PROXY_CONFIG/readinessProbe") else { return Ok(None) };
    let refused =
        |why: &dyn std::fmt::Display| Error::Usage(format!("node.metadata.PROXY_CONFIG.readinessProbe: {why}"));
    let probe: ReadinessProbe = serde_json::from_value(probe.clone()).map_err(|error| refused(&error))?;
    let port = |port: u32| match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(refused(&format!("{port} is no port"))),
    };
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let check = if let Some(http) = &probe.http_get {
        let tls = http.scheme.eq_ignore_ascii_case("https");
        let path = if http.path.starts_with('/') { http.path.clone() } else { format!("/{}", http.path) };
        let headers = http.http_headers.iter().map(|header| (header.name.clone(), header.value.clone()));
        Check::Http { tls, host: given(&http.host), port: port(http.port)?, path, headers: headers.collect() }
    } else if let Some(tcp) = &probe.tcp_socket {
        Check::Tcp { host: given(&tcp.host), port: port(tcp.port)? }
    } else if let Some(exec) = &probe.exec {
        Check::Exec(exec.command.clone())
    } else if let Some(grpc) = &probe.grpc {
        Check::Grpc { port: port(grpc.port)?, service: grpc.service.clone() }
    } else {
        return Err(refused(&"one of httpGet, tcpSocket, exec, grpc is needed"));
    };
    let or = |given: i32, default: u32| u32::try_from(given).ok().filter(|given| *given > 0).unwrap_or(default);
    let seconds = |given: i32, default: u32| Duration::from_secs(or(given, default).into());
    let addresses = metadata.get("INSTANCE_IPS").and_then(Value::as_str).unwrap_or_default();
    Ok(Some(Readiness {
        address: addresses.split(',').find_map(|address| address.trim().parse().ok()),
        delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10),
        timeout: seconds(probe.timeout_seconds, 1),
        successes: or(probe.success_threshold, 1),
        failures: or(probe.failure_threshold, 3),
        check,
    }))
}

/// Listening sockets that were opened for this process, by the port they stand for, as sd_listen_fds(3) passes them
/// with the names `port-N`.
fn inherited() -> Result<Vec<(u16, OwnedFd)>, Error> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count: usize = variable("LISTEN_FDS").parse().unwrap_or(0);
    let names = variable("LISTEN_FDNAMES");
    let mut sockets = Vec::new();
    for (descriptor, name) in (FIRST_DESCRIPTOR..).zip(names.split(':')).take(count) {
        let port = name.strip_prefix("port-").and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| Error::Usage(format!("the inherited socket {name:?} is not named port-N")))?;
        // SAFETY: fcntl only marks the descriptor, or says that it is none.
        if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(Error::io(format!("the inherited socket {name}"))(std::io::Error::last_os_error()));
        }
        // SAFETY: it is open, and by that protocol it is this process's own.
        sockets.push((port, unsafe { OwnedFd::from_raw_fd(descriptor) }));
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> String {
        value.to_string()
    }

    #[test]
    fn flags_replace_what_the_bootstrap_says_of_the_node() {
        let set = |bootstrap: &str| {
            let (id, zone) = (text("mine"), text("z1"));
            with_node(text(bootstrap), &[(&["id"], &id), (&["cluster"], &text("")), (&["locality", "zone"], &zone)])
        };
        let read: Value = serde_json::from_str(&set("node: {id: theirs, cluster: c}\nadmin: {}").unwrap()).unwrap();
        let node = serde_json::json!({"id": "mine", "cluster": "c", "locality": {"zone": "z1"}});
        assert_eq!(read, serde_json::json!({"node": node, "admin": {}}));
        assert!(set("{}").unwrap().contains("mine"));
        assert!(set("node: 7").is_err());
        assert!(set("- no bootstrap").is_err());
    }

    #[test]
    fn the_probe_is_that_of_the_proxys_settings() {
        let with = |probe: &str| {
            readiness(&format!(
                "node: {{metadata: {{INSTANCE_IPS: 10.0.0.7, PROXY_CONFIG: {{readinessProbe: {{{probe}}}}}}}}}"
            ))
        };
        let probe = with("periodSeconds: 2, httpGet: {port: 8080, path: ready}").unwrap().unwrap();
        assert_eq!((probe.period.as_secs(), probe.timeout.as_secs(), probe.failures), (2, 1, 3));
        assert_eq!(probe.address, Some([10, 0, 0, 7].into()));
        let path = text("/ready");
        assert_eq!(probe.check, Check::Http { tls: false, host: None, port: 8080, path, headers: Vec::new() });
        let encrypted = with("httpGet: {port: 8080, scheme: HTTPS}").unwrap().unwrap().check;
        assert!(matches!(encrypted, Check::Http { tls: true, .. }), "{encrypted:?}");
        assert!(with("tcpSocket: {port: 70000}").is_err());
        assert!(with("").is_err());
        assert_eq!(readiness("node: {id: a}").unwrap(), None);
    }

    #[test]
    fn without_flags_the_bootstrap_stays_as_it_is() {
        let bootstrap = text("not: [even, yaml");
        assert_eq!(with_node(bootstrap.clone(), &[(&["id"], &text(""))]).unwrap(), bootstrap);
    }
}
