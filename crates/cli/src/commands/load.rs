//! `lateen load`: sends requests and counts what comes back.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use crate::duration;
use crate::error::Error;
use crate::load::{self, Options, Report};

#[derive(clap::Args)]
#[command(after_help = "Exits 0 when every request was answered, whatever the status.")]
pub struct Arguments {
    /// Where to: http://HOST[:PORT][/PATH]
    url: Uri,
    /// Requests to send; 2000 unless --duration is given
    #[arg(short = 'n', long)]
    requests: Option<u64>,
    /// How long to send
    #[arg(short = 'd', long, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// Connections, each with one request at a time
    #[arg(short = 'c', long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10000))]
    concurrency: u16,
    /// Requests per second over all connections, instead of as many as are answered
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Host header, instead of the URL's host
    #[arg(long)]
    host: Option<String>,
    /// A header to send, as NAME: VALUE
    #[arg(short = 'H', long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// How long one request may take
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err(format!("{text:?} is not a number of requests per second above 0")),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME: VALUE"))?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header name"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| format!("{value:?} is not a header value"))?;
    Ok((name, value))
}

/// Sends, and prints the report.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let authority = match (arguments.url.scheme_str(), arguments.url.authority()) {
        (Some("http"), Some(authority)) => authority,
        _ => return Err(Error::Usage(format!("{} is not a URL of the form http://HOST[:PORT][/PATH]", arguments.url))),
    };
    let host = arguments.host.as_deref().unwrap_or(authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|_| Error::Usage(format!("--host {host:?} is not a host")))?;
    let requests = match (arguments.requests, arguments.duration) {
        (None, None) => Some(2000),
        (requests, _) => requests,
    };
    let options = Options {
        target: resolve(authority.host(), authority.port_u16().unwrap_or(80))?,
        host,
        path: arguments.url.path_and_query().map_or("/", |path| path.as_str()).to_string(),
        headers: arguments.headers,
        requests,
        duration: arguments.duration,
        concurrency: arguments.concurrency.into(),
        rate: arguments.rate,
        timeout: arguments.timeout,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the load generator"))?;
    let report = runtime.block_on(load::run(options, Arc::default()));
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        print(&report);
    }
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, Error> {
    // An IPv6 address stands in brackets in a URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut addresses =
        (host, port).to_socket_addrs().map_err(Error::io(format!("cannot find the address of {host}")))?;
    addresses.next().ok_or_else(|| Error::Usage(format!("{host} has no address")))
}

fn print(report: &Report) {
    let answered = report.answered();
    println!(
        "{answered} answered, {} failed in {:.2} s: {:.0} a second",
        report.failed(),
        report.elapsed.as_secs_f64(),
        report.rate()
    );
    let milliseconds = |share| report.latency.percentile(share).as_secs_f64() * 1e3;
    println!(
        "latency ms: p50 {:.2}, p90 {:.2}, p99 {:.2}, max {:.2}",
        milliseconds(0.5),
        milliseconds(0.9),
        milliseconds(0.99),
        report.latency.max().as_secs_f64() * 1e3
    );
    print_counts("status", &report.statuses, answered);
    print_counts("version", &report.versions, answered);
    print_counts("pod", &report.pods, answered);
    for (failure, count) in &report.failures {
        println!("failed: {} {count}", failure.name());
    }
}

fn print_counts<K: std::fmt::Display>(what: &str, counts: &BTreeMap<K, u64>, of: u64) {
    for (key, count) in counts {
        println!("{what} {key}: {count} ({:.2}%)", *count as f64 * 100.0 / of.max(1) as f64);
    }
}
