//! `lateen run`: any program of this machine becomes a pod of a running mesh, with a service in front, or a workload of a
//! WorkloadGroup, as if it ran on a machine outside the cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use lateen_galley::istio::workload_group::MEMBER_ANNOTATION;
use lateen_galley::{Kind, Manifest, Object, Origin, mesh};
use serde_json::{Value, json};

use crate::duration;
use crate::error::Error;
use crate::state_dir::StateDir;

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
    /// Join this WorkloadGroup as a machine outside the cluster would: no Service is made, and the mesh knows of it by the
    /// WorkloadEntry that the control plane writes. The group's probe tells whether it gets requests
    #[arg(long, value_name = "NAME", conflicts_with_all = ["service_port", "protocol"])]
    group: Option<String>,
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

/// Applies a Pod, and a Service unless it is one of a group, and waits until the pod serves.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let directory = std::env::current_dir().map_err(Error::io("the current directory"))?;
    let directory =
        directory.to_str().ok_or_else(|| Error::Usage("the current directory's name is not UTF-8".into()))?;
    // What is not UTF-8 cannot be said in a manifest.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let client = arguments.state_dir.client();
    let group = match &arguments.group {
        Some(name) => {
            let found =
                super::block_on(async { Ok(client.get(Kind::WorkloadGroup, &arguments.namespace, name).await?) })?;
            Some(found)
        }
        None => None,
    };
    let manifests = manifests(&arguments, group.as_ref(), directory, environment);
    if arguments.print {
        for manifest in &manifests {
            print!("---\n{}", serde_norway::to_string(manifest).map_err(Error::unreadable)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut decoded = Vec::with_capacity(manifests.len());
    for (index, manifest) in manifests.into_iter().enumerate() {
        let object = Object::decode(manifest).map_err(|error| Error::Usage(error.to_string()))?;
        decoded.push(Manifest { origin: Origin { source: "lateen run".into(), document: index + 1 }, object });
    }
    super::block_on(async {
        super::apply_in_force(&client, &arguments.state_dir, &decoded, arguments.timeout).await?;
        match &arguments.group {
            Some(group) => println!("{} runs and joins the group {group}", arguments.name),
            None => {
                let port = arguments.service_port.unwrap_or(arguments.port);
                println!("{0} serves in the mesh as {0}.{1}:{port}", arguments.name, arguments.namespace);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `group` is the WorkloadGroup that is joined, if one is.
fn manifests(
    arguments: &Arguments,
    group: Option<&Value>,
    directory: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Vec<Value> {
    let Arguments { name, namespace, port, protocol, command, .. } = arguments;
    // A member's labels are its group's, and what is said here.
    let own = group.is_none().then_some(("app", name.as_str()));
    let mut labels: BTreeMap<&str, &str> = own.into_iter().collect();
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
    let mut pod = json!({
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
    let Some(group) = group else { return vec![service, pod] };
    join(&mut pod, group);
    vec![pod]
}

/// What `istioctl x workload entry configure` writes for a machine is said here by the pod's annotations.
fn join(pod: &mut Value, group: &Value) {
    let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let mut settings = json!({"proxyMetadata": {"ISTIO_META_AUTO_REGISTER_GROUP": name}});
    if let Some(probe) = group.pointer("/spec/probe") {
        settings["readinessProbe"] = probe.clone();
    }
    // JSON is YAML.
    pod["metadata"]["annotations"] = json!({MEMBER_ANNOTATION: name, mesh::ANNOTATION: settings.to_string()});
    if let Some(account) = group.pointer("/spec/template/serviceAccount") {
        pod["spec"]["serviceAccountName"] = account.clone();
    }
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
        let made = manifests(&arguments, None, "/work dir", environment.into_iter());
        for manifest in &made {
            Object::decode(manifest.clone()).unwrap();
        }
        let [service, pod] = &made[..] else { panic!("{made:?}") };
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["sh", "-c", "echo $$(X)"]));
        assert_eq!(container["workingDir"], "/work dir");
        assert_eq!(container["env"], json!([{"name": "HOME", "value": "/$$(home)"}]));
        assert_eq!(pod["metadata"]["labels"], json!({"app": "files", "version": "v2"}));
        assert_eq!(service["spec"]["ports"], json!([{"name": "http", "port": 8000, "targetPort": 8000}]));
    }

    #[test]
    fn a_member_of_a_group_is_told_so_and_how_it_is_probed() {
        let typed = ["run", "--name", "vm1", "--port", "8000", "--group", "machines", "--", "serve"];
        let arguments = Typed::parse_from(typed).arguments;
        let group = json!({
            "metadata": {"name": "machines"},
            "spec": {"template": {"serviceAccount": "vm"}, "probe": {"tcpSocket": {"port": 8000}}},
        });
        let made = manifests(&arguments, Some(&group), "/", std::iter::empty());
        let [pod] = &made[..] else { panic!("{made:?}") };
        Object::decode(pod.clone()).unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({}));
        assert_eq!(pod["spec"]["serviceAccountName"], "vm");
        assert_eq!(pod["metadata"]["annotations"][MEMBER_ANNOTATION], "machines");
        let settings = pod["metadata"]["annotations"][mesh::ANNOTATION].as_str().unwrap();
        let (read, findings) = mesh::proxy_config(settings, "");
        assert!(findings.warnings.is_empty() && findings.errors.is_empty());
        assert_eq!(read.unwrap().readiness_probe.unwrap().tcp_socket.unwrap().port, 8000);
    }
}
