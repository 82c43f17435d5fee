//! The demo: an example run before one's eyes, and held to what it promises.

mod canary;
mod mesh;
mod promise;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use lateen_galley::Kind;
use lateen_local::client::{Client, ClientError, Selection};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::ingress::Ingress;
use crate::error::Error;
use crate::load::{self, Report};
use crate::state_dir::StateDir;
use crate::terminal::Style;
use crate::waiting::is_pod_ready;
use mesh::Mesh;
use promise::Promise;
use view::{Steps, grouped};

/// Between two looks at a mesh that starts.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a mesh may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const HTTP: u64 = 80;

/// How to run the demo.
pub struct Options {
    /// Leave the mesh running.
    pub keep: bool,
    /// Its state directory; a temporary one when it is not kept.
    pub state: StateDir,
    pub requests: u64,
    pub concurrency: usize,
}

/// Runs the canary example.
///
/// # Errors
/// When the mesh does not start, a request is not answered, the answers do not keep the example's promise, or the mesh
/// does not end.
pub async fn canary(options: Options) -> Result<(), Error> {
    let style = Style::of_stdout();
    let directory = options.state.create()?;
    let folder = canary::folder(&directory)?;
    let manifests = canary::manifests(&folder)?;
    let promise = Promise::read(&manifests).ok_or_else(|| {
        Error::Usage(format!("{} promises no split by weight", folder.join(canary::ROUTING).display()))
    })?;

    println!(
        "{}  {}\n",
        style.bold("lateen demo canary"),
        style.dim("one service, two versions, traffic split by weight")
    );
    let steps = Steps::new(style);
    let mut mesh = Mesh::start(options.state.clone(), &folder, options.keep)?;
    let outcome = tokio::select! {
        outcome = sail(&mut mesh, &promise, &options, steps) => outcome,
        () = asked_to_stop() => Err(Error::Usage("interrupted".to_string())),
    };
    if options.keep && outcome.is_ok() {
        println!("\n{}", how_to_reach(&options, style, &folder.join(canary::ROUTING).display().to_string()));
        return outcome;
    }
    let began = Instant::now();
    let stopped = mesh.stop(PATIENCE).await;
    if outcome.is_ok() && stopped.is_ok() {
        println!("\n  {} taken down in {}, nothing is left", style.good("✓"), view::duration(began.elapsed()));
    }
    outcome.and(stopped)
}

/// Waits for Ctrl-C or SIGTERM: a demo that is broken off takes its mesh down too.
async fn asked_to_stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        // Without the handler SIGTERM ends the demo at once, and the mesh follows it.
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// Everything between start and end.
async fn sail(mesh: &mut Mesh, promise: &Promise, options: &Options, mut steps: Steps) -> Result<(), Error> {
    let style = Style::of_stdout();
    let began = Instant::now();
    let (address, authority) = match start(mesh, promise, &mut steps).await {
        Ok(found) => found,
        Err(error) => {
            steps.erase();
            return Err(error);
        }
    };
    let up = began.elapsed();

    let report = send(address, &authority, options, &steps).await?;
    steps.done(
        "requests",
        &format!(
            "{} through the ingress gateway, {} a second",
            grouped(report.answered() + report.failed()),
            grouped(report.rate() as u64)
        ),
    );
    let parts = promise.compare(&report.versions);
    println!("\n{}", view::result(style, &report, &parts));
    println!(
        "    {}",
        style.dim(&format!("up in {}; a split is kept within four standard deviations", view::duration(up)))
    );
    judge(&report, &parts)
}

/// Waits for the mesh, its pods and its ingress gateway. Returns where that answers, as an address and as HTTP says it.
async fn start(mesh: &mut Mesh, promise: &Promise, steps: &mut Steps) -> Result<(SocketAddr, String), Error> {
    let deadline = Instant::now() + PATIENCE;
    let client = mesh.state().client();
    steps.doing("starting a node and a control plane");
    loop {
        match client.list(Kind::Namespace, &Selection::default()).await {
            Ok(_) => break,
            Err(error) => still(mesh, deadline, &error.to_string()).await?,
        }
    }
    steps.done("mesh", "a node in namespaces of its own, and the control plane");

    let expected = promise.shares.len();
    loop {
        let (ready, all, names) = pods(&client, canary::NAMESPACE).await?;
        let (gateways_ready, gateways, _) = pods(&client, "istio-system").await?;
        if all >= expected && ready == all && gateways > 0 && gateways_ready == gateways {
            steps.done("pods", &format!("{}, each with a sidecar", names.join(", ")));
            break;
        }
        steps.doing(&format!("pods: {} of {} ready", ready + gateways_ready, all.max(expected) + gateways.max(1)));
        still(mesh, deadline, "pods did not become ready").await?;
    }

    let authority = Ingress::find(&client).await?.authority(HTTP)?;
    let address: SocketAddr = authority.parse().map_err(Error::unreadable)?;
    steps.doing(&format!("waiting for an answer at http://{authority}"));
    loop {
        let probe = load::run(load_options(address, &authority, 1, 1)?, Arc::default()).await;
        if probe.statuses.get(&200) == Some(&1) {
            break;
        }
        let seen = probe.statuses.keys().next().map_or("no answer".to_string(), |status| format!("status {status}"));
        still(mesh, deadline, &format!("the ingress gateway at http://{authority}: {seen}")).await?;
    }
    mesh.settled().await?;
    steps.done("ingress", &format!("http://{authority}"));
    Ok((address, authority))
}

/// Lets some time pass for a mesh that starts, unless it ended or there is none left.
async fn still(mesh: &mut Mesh, deadline: Instant, missing: &str) -> Result<(), Error> {
    mesh.check()?;
    if Instant::now() >= deadline {
        return Err(Error::Usage(format!("the mesh did not start in time: {missing}\n{}", mesh.last_lines())));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// How many pods of a namespace are ready, how many there are, and the names of the Deployments or pods they belong to.
async fn pods(client: &Client, namespace: &str) -> Result<(usize, usize, Vec<String>), ClientError> {
    let selection = Selection { namespace: Some(namespace.to_string()), ..Selection::default() };
    let list = client.list(Kind::Pod, &selection).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = items.iter().filter(|pod| is_pod_ready(pod)).count();
    // A Deployment's pod is named after it, its template and chance.
    let name = |pod: &Value| {
        let name = pod.pointer("/metadata/name")?.as_str()?;
        Some(name.rsplitn(3, '-').last().unwrap_or(name).to_string())
    };
    Ok((ready, items.len(), items.iter().filter_map(name).collect()))
}

async fn send(address: SocketAddr, authority: &str, options: &Options, steps: &Steps) -> Result<Report, Error> {
    let sent = Arc::new(AtomicU64::new(0));
    let options = load_options(address, authority, options.requests, options.concurrency)?;
    let requests = options.requests.unwrap_or(0);
    let mut running = std::pin::pin!(load::run(options, sent.clone()));
    loop {
        let shown = tokio::time::sleep(Duration::from_millis(50));
        tokio::select! {
            report = &mut running => return Ok(report),
            () = shown => {
                let now = sent.load(Ordering::Relaxed).min(requests);
                let share = now as f64 / requests.max(1) as f64;
                steps.doing(&format!("requests {} {}", view::bar(share), grouped(now)));
            }
        }
    }
}

fn load_options(target: SocketAddr, host: &str, requests: u64, concurrency: usize) -> Result<load::Options, Error> {
    Ok(load::Options {
        target,
        host: HeaderValue::from_str(host).map_err(Error::unreadable)?,
        path: "/hello".to_string(),
        headers: Vec::new(),
        requests: Some(requests),
        duration: None,
        concurrency,
        rate: None,
        timeout: Duration::from_secs(10),
    })
}

fn judge(report: &Report, parts: &[promise::Part]) -> Result<(), Error> {
    if report.failed() > 0 {
        let kinds: Vec<_> =
            report.failures.iter().map(|(failure, count)| format!("{count} {}", failure.name())).collect();
        return Err(Error::Usage(format!("{} requests were not answered ({})", report.failed(), kinds.join(", "))));
    }
    let refused: Vec<_> = report.statuses.iter().filter(|(status, _)| **status != 200).collect();
    if !refused.is_empty() {
        let statuses: Vec<_> = refused.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        return Err(Error::Usage(format!("not every answer was 200: {}", statuses.join(", "))));
    }
    let answers = report.versions.values().sum::<u64>();
    if answers != report.answered() {
        return Err(Error::Usage(format!("{} answers did not come from the example", report.answered() - answers)));
    }
    match parts.iter().find(|part| !part.kept(answers)) {
        None => Ok(()),
        Some(part) => Err(Error::Usage(format!(
            "{} answered {} of {} requests; promised are {:.0}, give or take {:.0}",
            part.version,
            part.count,
            answers,
            part.share * answers as f64,
            part.tolerance
        ))),
    }
}

fn how_to_reach(options: &Options, style: Style, routing: &str) -> String {
    let default = StateDir::default().path() == options.state.path();
    let at = if default { String::new() } else { format!(" --state-dir {}", options.state.path().display()) };
    let lateen = own_name();
    let lines = [
        (format!("curl $({lateen} ingress{at})/hello"), "a request through the ingress gateway"),
        (format!("{lateen} get pods -n canary{at}"), "what runs"),
        (format!("$EDITOR {routing}"), "change the weights: saved is applied"),
        (format!("{lateen} down{at}"), "take it down"),
    ];
    let width = lines.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    let shown =
        lines.iter().map(|(command, what)| format!("    {command:<width$}   {}", style.dim(&format!("# {what}"))));
    format!("  It is still running:\n\n{}", shown.collect::<Vec<_>>().join("\n"))
}

/// How this program is called here: by its name if that is found, else by its path.
fn own_name() -> String {
    let name = || {
        let program = std::env::current_exe().ok()?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|directory| directory.join("lateen")).find(|file| file.is_file());
        if found.is_some_and(|found| found.canonicalize().is_ok_and(|found| found == program)) {
            return None;
        }
        let here = std::env::current_dir().ok()?;
        Some(program.strip_prefix(here).unwrap_or(&program).display().to_string())
    };
    name().unwrap_or_else(|| "lateen".to_string())
}
