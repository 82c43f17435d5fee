//! The commands, one file each: its arguments, and a `run` that does it.

pub mod agent;
pub mod app;
pub mod apply;
pub mod ca;
pub mod control_plane;
pub mod delete;
pub mod demo;
pub mod down;
pub mod exec;
pub mod get;
pub mod ingress;
pub mod load;
pub mod logs;
pub mod proxy;
pub mod run;
pub mod send;
pub mod test;
pub mod up;

use std::time::Duration;

use lateen_galley::store::Done;
use lateen_galley::{KindInfo, Manifest, kind};
use lateen_local::api::batch::Made;
use lateen_local::client::Client;
use serde_json::Value;

use crate::error::Error;
use crate::state_dir::StateDir;
use crate::terminal;
use crate::waiting::{self, Troubles};

/// What `lateen` can do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Start a mesh on this machine, from manifests
    Up(up::Arguments),
    /// Stop a mesh
    Down(down::Arguments),
    /// Make the mesh what manifests say
    Apply(apply::Arguments),
    /// Remove what manifests name
    Delete(delete::Arguments),
    /// Show objects of the mesh
    Get(get::Arguments),
    /// Print where the ingress gateway answers
    Ingress(ingress::Arguments),
    /// Run a program of this machine inside a pod's network
    Exec(exec::Arguments),
    /// Show what a pod wrote
    Logs(logs::Arguments),
    /// Make any program of this machine a pod of the mesh
    Run(run::Arguments),
    /// Send what traffic tests say, and judge what comes back
    Test(test::Arguments),
    /// Run an example before your eyes, and judge what comes back
    Demo(demo::Arguments),
    /// Show the certificate authority, or have a new root follow the one it has
    Ca(ca::Arguments),
    /// Run the data plane alone, from an Envoy bootstrap file
    Proxy(proxy::Arguments),
    /// Run another proxy, an Envoy say, with the workload's identity and configuration at hand
    Agent(agent::Arguments),
    /// Run discovery and the certificate authority alone
    ControlPlane(control_plane::Arguments),
    /// Run the sample service the examples use: HTTP/1.1, HTTP/2, gRPC and WebSocket on one port, TCP echo on another
    App(app::Arguments),
    /// Send HTTP/1.1 requests and count what comes back, per status, version and pod
    Load(load::Arguments),
    /// Send what standard input says, and print what came back, as JSON
    #[command(hide = true)]
    Send,
}

/// Runs a command that talks to a mesh. Threads that still wait for input when it is done are left behind.
fn block_on<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("cannot start"))?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// Makes the mesh what manifests say, or changes nothing, and tells of each object and of what looks wrong.
async fn apply(client: &Client, manifests: &[Manifest], dry_run: bool) -> Result<Vec<Made>, Error> {
    let applied = client.apply_all(manifests, dry_run).await?;
    applied.warnings.iter().for_each(terminal::warn);
    for Made { done, object } in &applied.items {
        println!("{} {done}{}", name(object), if dry_run { " (dry run)" } else { "" });
    }
    Ok(applied.items)
}

/// The same, and waits until it is in force.
async fn apply_in_force(
    client: &Client,
    state: &StateDir,
    manifests: &[Manifest],
    patience: Duration,
) -> Result<(), Error> {
    let before = Troubles::now(state).await;
    let made = apply(client, manifests, false).await?;
    // What is the same as before is to be in force, whatever kept it from that.
    let changed = made.iter().any(|made| made.done != Done::Unchanged);
    let before = if changed { before } else { Troubles::default() };
    let objects: Vec<Value> = made.into_iter().map(|made| made.object).collect();
    let standing = waiting::in_force(client, state, &objects, &before, patience).await?;
    standing.iter().for_each(terminal::warn);
    Ok(())
}

/// As kubectl prints a kind before a name: `virtualservice.networking.istio.io`.
fn label(kind: &KindInfo) -> String {
    if kind.group.is_empty() { kind.singular.to_string() } else { format!("{}.{}", kind.singular, kind.group) }
}

/// As kubectl prints an object's name: `virtualservice.networking.istio.io/helloworld`.
fn name(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    match kind::by_api_version(text("/apiVersion"), kind) {
        Ok(kind) => format!("{}/{name}", label(kind.info())),
        Err(_) => format!("{kind}/{name}"),
    }
}
