//! Serves ADS for a file of manifests: `cargo run -p lateen-pilot --example serve -- FILE ADDRESS`.
//!
//! For looking at what a real Envoy makes of pilot's output. Objects are taken as they are written: addresses of
//! services, pods and slices must be in the file.

use lateen_galley::{ReadOptions, Snapshot, read_manifests};
use lateen_pilot::{Config, Pilot};
use std::error::Error;
use std::sync::Arc;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FILE ADDRESS".into());
    };
    let manifests = read_manifests(&file, &std::fs::read(&file)?, ReadOptions::default()).complete()?;
    let mut snapshot = Snapshot::default();
    for manifest in manifests {
        snapshot.insert(Arc::new(manifest.object));
    }
    let pilot = Pilot::new(Config::default())?;
    pilot.update(Arc::new(snapshot));
    let listener = tokio::net::TcpListener::bind(address).await?;
    let reporter = pilot.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            reporter.look(|state| {
                for proxy in state.proxies() {
                    println!("{} synced={} {:?}", proxy.node.id, proxy.status.borrow().synced(), proxy.problems);
                    for (kind, status) in &proxy.status.borrow().types {
                        println!(
                            "  {kind} rejects={} waiting={} {:?}",
                            status.rejects, status.waiting, status.last_error
                        );
                    }
                }
            });
        }
    });
    lateen_xds::ads::server::serve(listener, Arc::new(pilot), std::future::pending()).await?;
    Ok(())
}
