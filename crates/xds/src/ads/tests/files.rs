//! Resources from files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::Config;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::ads::client::{Client, connector};
use crate::bootstrap::Bootstrap;
use crate::json::Schema;

const FAR_TOO_LONG: Duration = Duration::from_secs(60);

/// Puts a file in place as `path_config_source` wants it: moved, never seen half written.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[tokio::test]
async fn files_are_read_again_when_they_are_replaced() {
    let folder = std::env::temp_dir().join(format!("lateen-xds-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("cds.yaml");
    let cluster =
        |name: &str| format!("- {{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: {name}}}\n");
    replace(&path, &format!("resources:\n{}{}", cluster("a"), cluster("b")));

    let text = format!("dynamic_resources: {{cds_config: {{path_config_source: {{path: '{}'}}}}}}", path.display());
    let bootstrap = Bootstrap::parse(&text, &Schema::load().unwrap()).unwrap();
    let client = Client::new(bootstrap, Box::new(|_| Ok(Box::new(())))).unwrap();
    let handle = client.handle();
    let (sender, mut configs) = watch::channel(Arc::<Config>::default());
    let task = tokio::spawn(async move {
        match client.run(connector(TcpStream::connect), move |config| drop(sender.send_replace(config))).await {}
    });
    let mut until = async |expected: &[&str]| {
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        let is = |config: &Arc<Config>| config.clusters.keys().map(|name| &**name).collect::<BTreeSet<_>>() == expected;
        drop(tokio::time::timeout(FAR_TOO_LONG, configs.wait_for(is)).await.unwrap().unwrap());
    };
    until(&["a", "b"]).await;
    let mut status = handle.status();
    tokio::time::timeout(FAR_TOO_LONG, status.wait_for(|status| status.ready)).await.unwrap().unwrap();

    replace(&path, &format!("resources:\n{}", cluster("b")));
    until(&["b"]).await;

    // A file that cannot be read changes nothing.
    replace(&path, "resources: [{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, nam: x}]");
    let said = |status: &crate::ads::client::Status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("resources[0].nam: no such field"))
    };
    tokio::time::timeout(FAR_TOO_LONG, status.wait_for(said)).await.unwrap().unwrap();
    until(&["b"]).await;
    replace(&path, &format!("resources:\n{}", cluster("c")));
    until(&["c"]).await;
    task.abort();
    std::fs::remove_dir_all(&folder).unwrap();
}
