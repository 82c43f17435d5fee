//! `lateen run`: any program of this machine becomes a pod of a running mesh, with a service in front.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use lateen_galley::Object;
use serde_json::{Value, json};

use crate::duration;
use crate::error::Error;
use crate::state_dir::StateDir;
use crate::waiting;

#[derive(clap::Args)]
#[command(
    after_help = "The program gets this directory and this environment, and PORT, POD_NAME, POD_NAMESPACE, POD_IP and HOST_IP."
)]
pub struct Arguments {
    /// Name of the pod, of its service and of its `app` label
    #[arg(long)]
    name: String,
    /// Further labels
    #[arg(long = "label", value_name = "K=V", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// The port the program listens on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The protocol on that port, by Istio's names: http, http2, grpc, tcp ...
    #[arg(long, default_value = "http")]
    protocol: String,
    /// The service's port, if not the program's
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    service_port: Option<u16>,
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Print the manifests instead of applying them
    #[arg(long)]
    print: bool,
    /// How long to wait until it is ready
    #[arg(long, default_value = "60s", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    state_dir: StateDir,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}

/// Applies a Pod and a Service and waits until the pod serves.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let directory = std::env::current_dir().map_err(Error::io("the current directory"))?;
    let directory =
        directory.to_str().ok_or_else(|| Error::Usage("the current directory's name is not UTF-8".into()))?;
    // What is not UTF-8 cannot be said in a manifest.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let manifests = manifests(&arguments, directory, environment);
    if arguments.print {
        for manifest in &manifests {
            print!("---\n{}", serde_norway::to_string(manifest).map_err(Error::unreadable)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for manifest in &manifests {
        // The mesh would refuse what is wrong too, but only after the first of the two was made.
        Object::decode(manifest.clone()).map_err(|error| Error::Usage(error.to_string()))?;
    }
    let client = arguments.state_dir.client();
    super::block_on(async {
        let mut objects = Vec::new();
        for manifest in &manifests {
            let applied = client.apply(manifest, &arguments.namespace, false).await?;
            println!("{} {}", super::name(&applied.object), if applied.created { "created" } else { "configured" });
            objects.push(applied.object);
        }
        waiting::in_force(&client, &arguments.state_dir, &objects, arguments.timeout).await?;
        let port = arguments.service_port.unwrap_or(arguments.port);
        println!("{0} serves in the mesh as {0}.{1}:{port}", arguments.name, arguments.namespace);
        Ok(ExitCode::SUCCESS)
    })
}

fn manifests(
    arguments: &Arguments,
    directory: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> [Value; 2] {
    let Arguments { name, namespace, port, protocol, command, .. } = arguments;
    let mut labels: BTreeMap<&str, &str> = BTreeMap::from([("app", name.as_str())]);
    labels.extend(arguments.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let environment: Vec<Value> = environment
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| {
            // A manifest's `$(NAME)` stands for a variable; what the caller has is meant as it is.
            json!({"name": name, "value": value.replace("$(", "$$(")})
        })
        .collect();
    let command: Vec<String> = command.iter().map(|word| word.replace("$(", "$$(")).collect();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "selector": {"app": name},
            "ports": [{
                "name": protocol,
                "port": arguments.service_port.unwrap_or(*port),
                "targetPort": port,
            }],
        },
    });
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "containers": [{
                "name": name,
                "command": command,
                "workingDir": directory,
                "env": environment,
                "ports": [{"containerPort": port}],
            }],
        },
    });
    [service, pod]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_manifests_are_valid_and_mean_what_was_typed() {
        let typed =
            ["run", "--name", "files", "--port", "8000", "--label", "version=v2", "--", "sh", "-c", "echo $(X)"];
        let arguments = Typed::parse_from(typed).arguments;
        let environment = [("HOME".to_string(), "/$(home)".to_string())];
        let [service, pod] = manifests(&arguments, "/work dir", environment.into_iter());
        for manifest in [&service, &pod] {
            Object::decode(manifest.clone()).unwrap();
        }
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["sh", "-c", "echo $$(X)"]));
        assert_eq!(container["workingDir"], "/work dir");
        assert_eq!(container["env"], json!([{"name": "HOME", "value": "/$$(home)"}]));
        assert_eq!(pod["metadata"]["labels"], json!({"app": "files", "version": "v2"}));
        assert_eq!(service["spec"]["ports"], json!([{"name": "http", "port": 8000, "targetPort": 8000}]));
    }
}
