//! Serves ADS for a file of manifests: `cargo run -p lateen-pilot --example serve -- FILE ADDRESS`.
//!
//! For looking at what a real Envoy makes of pilot's output; the file is read again when it changes. Objects are taken as they are written: addresses of
//! services, pods and slices must be in the file.

use lateen_galley::{ReadOptions, Snapshot, read_manifests};
use lateen_pilot::{Config, Pilot};
use std::error::Error;
use std::sync::Arc;

fn read(file: &str) -> Result<Arc<Snapshot>, Box<dyn Error>> {
    let manifests = read_manifests(file, &std::fs::read(file)?, ReadOptions::default()).complete()?;
    let mut snapshot = Snapshot::default();
    for manifest in manifests {
        snapshot.insert(Arc::new(manifest.object));
    }
    Ok(Arc::new(snapshot))
}

/// What proxies made of what they were sent.
fn report(pilot: &Pilot) -> String {
    let mut text = String::new();
    pilot.look(|state| {
        for proxy in state.proxies() {
            let status = proxy.status.borrow();
            text += &format!("{} synced={}\n", proxy.node.id, status.synced());
            text.extend(proxy.problems().map(|problem| format!("  problem: {problem}\n")));
            for (kind, of_type) in &status.types {
                if of_type.rejects > 0 {
                    text += &format!("  {kind} rejects={} {:?}\n", of_type.rejects, of_type.last_error);
                }
            }
        }
    });
    text
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FILE ADDRESS".into());
    };
    let pilot = Pilot::new(Config::default())?;
    pilot.update(read(&file)?);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let watching = pilot.clone();
    tokio::spawn(async move {
        let modified = |file: &str| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        let (mut seen, mut said) = (modified(&file), String::new());
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let now = modified(&file);
            if now != seen {
                seen = now;
                match read(&file) {
                    Ok(snapshot) => watching.update(snapshot),
                    Err(error) => println!("{error}"),
                }
            }
            let report = report(&watching);
            if report != said {
                println!("{report}");
                said = report;
            }
        }
    });
    lateen_xds::ads::server::serve(listener, Arc::new(pilot), std::future::pending()).await?;
    Ok(())
}
