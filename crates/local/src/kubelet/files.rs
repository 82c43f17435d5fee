//! The files a pod sees in place of the host's: its name resolution and its volumes. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, DownwardAPIVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
    SecretVolumeSource, Volume,
};
use lateen_galley::{Kind, Snapshot};

use super::environment::{EnvironmentError, binary_data};
use crate::dns::CLUSTER_DOMAIN;
use crate::node::{Mount, MountContent, MountedFile};

/// A volume that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// A ConfigMap or Secret is missing.
    #[error("volume {volume:?}: {source}")]
    Missing {
        /// The volume.
        volume: String,
        /// What is missing.
        source: EnvironmentError,
    },
    /// A container mounts a volume that the pod does not have.
    #[error("no volume is named {0:?}")]
    Unknown(String),
    /// A kind of volume that one machine does not have.
    #[error(
        "volume {0:?} is of a kind that is not supported here: use configMap, secret, projected, emptyDir, hostPath or downwardAPI"
    )]
    Unsupported(String),
    /// Containers of a pod see the same files.
    #[error("containers mount different volumes at {0:?}")]
    Conflict(String),
    /// A part of a volume that is none.
    #[error("subPath {0:?} leads out of its volume")]
    Outside(String),
}

/// The pod's `/etc/resolv.conf`; `None` leaves it the host's.
pub fn resolv_conf(pod: &Pod, server: IpAddr) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let host_network = spec.host_network == Some(true);
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => {}
        "Default" => return None,
        // As in Kubernetes, pods on the node's network ask the node's resolvers unless they say otherwise.
        "ClusterFirst" if host_network => return None,
        _ => {
            servers.push(server.to_string());
            let own = format!("{namespace}.svc.{CLUSTER_DOMAIN}");
            searches = vec![own, format!("svc.{CLUSTER_DOMAIN}"), CLUSTER_DOMAIN.to_owned()];
            options.push("ndots:5".to_owned());
        }
    }
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let text = option.value.as_ref().map_or_else(|| name.to_owned(), |value| format!("{name}:{value}"));
            options.retain(|known| known.split(':').next() != Some(name));
            options.push(text);
        }
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    Some(text)
}

/// The pod's `/etc/hosts`.
pub fn hosts(pod: &Pod, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let name = super::pod_hostname(pod);
    let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.as_deref());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let full = subdomain.map(|subdomain| format!("{name}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}\t"));
    for address in addresses {
        text.push_str(&format!("{address}\t{}{name}\n", full.as_deref().unwrap_or_default()));
    }
    for alias in pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// What the pod's containers mount, all of them together: they share one view of the files. Volumes that follow objects
/// are in `written` on the host, a directory for each.
///
/// # Errors
/// When a volume cannot be had, or two containers want different ones at one place.
pub fn mounts(pod: &Pod, snapshot: &Snapshot, written: &Path) -> Result<Vec<Mount>, VolumeError> {
    let Some(spec) = &pod.spec else { return Ok(Vec::new()) };
    let mut mounts: BTreeMap<String, Mount> = BTreeMap::new();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    for mount in containers.flat_map(|container: &Container| container.volume_mounts.iter().flatten()) {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| VolumeError::Unknown(mount.name.clone()))?;
        let sub_path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
        if sub_path.is_some_and(|path| !Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))) {
            return Err(VolumeError::Outside(mount.sub_path.clone().unwrap_or_default()));
        }
        let content = content(pod, volume, sub_path, mount.read_only == Some(true), snapshot, written)?;
        let made = Mount { path: mount.mount_path.clone(), content };
        match mounts.get(&mount.mount_path) {
            Some(known) if *known != made => return Err(VolumeError::Conflict(mount.mount_path.clone())),
            _ => drop(mounts.insert(mount.mount_path.clone(), made)),
        }
    }
    Ok(mounts.into_values().collect())
}

fn content(
    pod: &Pod,
    volume: &Volume,
    sub_path: Option<&str>,
    read_only: bool,
    snapshot: &Snapshot,
    written: &Path,
) -> Result<MountContent, VolumeError> {
    if volume.empty_dir.is_some() {
        return Ok(MountContent::Empty);
    }
    if let Some(host) = &volume.host_path {
        let path = match sub_path {
            Some(sub_path) => format!("{}/{sub_path}", host.path.trim_end_matches('/')),
            None => host.path.clone(),
        };
        return Ok(MountContent::Host { path, read_only });
    }
    let files = volume_files(pod, volume, snapshot)?.ok_or_else(|| VolumeError::Unsupported(volume.name.clone()))?;
    let whole = written.join(&volume.name);
    let path = match sub_path {
        None => whole,
        Some(sub_path) => {
            // A projected volume has tokens too, which are not known here.
            let there = |file: &MountedFile| Path::new(&file.path).starts_with(sub_path);
            if volume.projected.is_none() && !files.iter().any(there) {
                let source = EnvironmentError::Missing { kind: "key", name: sub_path.to_owned() };
                return Err(VolumeError::Missing { volume: volume.name.clone(), source });
            }
            whole.join(sub_path)
        }
    };
    Ok(MountContent::Host { path: path.display().to_string(), read_only: true })
}

/// The files of a volume that follows objects, but for tokens, which are issued; `None` if it is of another kind.
///
/// # Errors
/// When one that is not optional cannot be had.
pub fn volume_files(pod: &Pod, volume: &Volume, snapshot: &Snapshot) -> Result<Option<Vec<MountedFile>>, VolumeError> {
    if let Some(projected) = &volume.projected {
        return projected_files(pod, &volume.name, projected, snapshot).map(Some);
    }
    let (map, secret, downward) = (&volume.config_map, &volume.secret, &volume.downward_api);
    if map.is_none() && secret.is_none() && downward.is_none() {
        return Ok(None);
    }
    sources(pod, &volume.name, map.as_ref(), secret.as_ref(), downward.as_ref(), snapshot).map(Some)
}

/// The files of the one of these that is given.
fn sources(
    pod: &Pod,
    volume: &str,
    config_map: Option<&ConfigMapVolumeSource>,
    secret: Option<&SecretVolumeSource>,
    downward_api: Option<&DownwardAPIVolumeSource>,
    snapshot: &Snapshot,
) -> Result<Vec<MountedFile>, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let missing = |kind, name: &str| VolumeError::Missing {
        volume: volume.to_owned(),
        source: EnvironmentError::Missing { kind, name: name.to_owned() },
    };
    let files = if let Some(map) = config_map {
        let optional = map.optional == Some(true);
        match snapshot.find(Kind::ConfigMap, namespace, &map.name) {
            Some(object) => chosen(binary_data(object), map.items.as_deref(), map.default_mode),
            None if optional => Vec::new(),
            None => return Err(missing("configmap", &map.name)),
        }
    } else if let Some(secret) = secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        match snapshot.find(Kind::Secret, namespace, name) {
            Some(object) => chosen(binary_data(object), secret.items.as_deref(), secret.default_mode),
            None if secret.optional == Some(true) => Vec::new(),
            None => return Err(missing("secret", name)),
        }
    } else if let Some(downward) = downward_api {
        let lines = |map: &Option<BTreeMap<String, String>>| {
            let texts: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
            texts.join("\n")
        };
        let mut files = Vec::new();
        for item in downward.items.iter().flatten() {
            let path = item.field_ref.as_ref().map_or("", |reference| reference.field_path.as_str());
            let text = match path {
                "metadata.labels" => lines(&pod.metadata.labels),
                "metadata.annotations" => lines(&pod.metadata.annotations),
                "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
                "metadata.namespace" => namespace.to_owned(),
                "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
                _ => return Err(VolumeError::Unsupported(volume.to_owned())),
            };
            files.push(file(item.path.clone(), text.into_bytes(), item.mode.or(downward.default_mode)));
        }
        files
    } else {
        return Err(VolumeError::Unsupported(volume.to_owned()));
    };
    Ok(files)
}

fn projected_files(
    pod: &Pod,
    volume: &str,
    projected: &ProjectedVolumeSource,
    snapshot: &Snapshot,
) -> Result<Vec<MountedFile>, VolumeError> {
    let mut files = Vec::new();
    let default_mode = projected.default_mode;
    for source in projected.sources.iter().flatten() {
        let config_map = source.config_map.clone().map(|map| ConfigMapVolumeSource {
            default_mode,
            items: map.items,
            name: map.name,
            optional: map.optional,
        });
        let secret = source.secret.clone().map(|secret| SecretVolumeSource {
            default_mode,
            items: secret.items,
            secret_name: Some(secret.name),
            optional: secret.optional,
        });
        let downward = source.downward_api.clone();
        let downward = downward.map(|downward| DownwardAPIVolumeSource { default_mode, items: downward.items });
        if source.service_account_token.is_none() {
            files.extend(sources(pod, volume, config_map.as_ref(), secret.as_ref(), downward.as_ref(), snapshot)?);
        }
    }
    Ok(files)
}

fn chosen(all: Vec<(String, Vec<u8>)>, items: Option<&[KeyToPath]>, mode: Option<i32>) -> Vec<MountedFile> {
    let Some(items) = items else { return all.into_iter().map(|(key, bytes)| file(key, bytes, mode)).collect() };
    items
        .iter()
        .filter_map(|item| {
            let (_, bytes) = all.iter().find(|(key, _)| *key == item.key)?;
            Some(file(item.path.clone(), bytes.clone(), item.mode.or(mode)))
        })
        .collect()
}

fn file(path: String, bytes: Vec<u8>, mode: Option<i32>) -> MountedFile {
    MountedFile { path, bytes, mode: mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644) & 0o777 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_are_searched_in_the_pods_own_namespace_first() {
        let server = "10.244.0.1".parse().unwrap();
        let plain = resolv_conf(&pod(json!({"containers": []})), server).unwrap();
        assert_eq!(
            plain,
            "nameserver 10.244.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&pod(json!({"containers": [], "hostNetwork": true})), server), None);
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "options": [{"name": "ndots", "value": "1"}]}});
        assert_eq!(resolv_conf(&pod(own), server).unwrap(), "nameserver 192.0.2.1\noptions ndots:1\n");
    }

    #[test]
    fn the_pod_knows_its_own_name() {
        let named = pod(json!({"containers": [], "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
        let text = hosts(&named, &["10.244.0.5".parse().unwrap()]);
        assert!(text.contains("10.244.0.5\tweb-1\n") && text.contains("192.0.2.9\ta\tb\n"), "{text}");
    }

    #[test]
    fn volumes_that_cannot_be_had_say_why() {
        let volume = |volume: serde_json::Value| {
            let mut volume = volume;
            volume["name"] = json!("v");
            pod(
                json!({"containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [volume]}),
            )
        };
        let none = Snapshot::default();
        let empty = mounts(&volume(json!({"emptyDir": {}})), &none, Path::new("/p")).unwrap();
        assert_eq!(empty, [Mount { path: "/v".to_owned(), content: MountContent::Empty }]);
        let missing = mounts(&volume(json!({"configMap": {"name": "c"}})), &none, Path::new("/p")).unwrap_err();
        assert_eq!(missing.to_string(), "volume \"v\": configmap \"c\" not found");
        let projected = mounts(&volume(json!({"projected": {"sources": []}})), &none, Path::new("/p")).unwrap();
        let content = MountContent::Host { path: "/p/v".to_owned(), read_only: true };
        assert_eq!(projected, [Mount { path: "/v".to_owned(), content }]);
        let data = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"},
            "data": {"a.txt": "x"}});
        let mut known = Snapshot::default();
        known.insert(std::sync::Arc::new(lateen_galley::Object::decode(data).unwrap()));
        let part = |sub_path: &str| {
            let mut pod = volume(json!({"configMap": {"name": "c"}}));
            let containers = &mut pod.spec.as_mut().unwrap().containers;
            containers[0].volume_mounts.as_mut().unwrap()[0].sub_path = Some(sub_path.to_owned());
            mounts(&pod, &known, Path::new("/p"))
        };
        let content = MountContent::Host { path: "/p/v/a.txt".to_owned(), read_only: true };
        assert_eq!(part("a.txt").unwrap(), [Mount { path: "/v".to_owned(), content }]);
        assert_eq!(part("b").unwrap_err().to_string(), "volume \"v\": key \"b\" not found");
        for outside in ["../x", "/etc", "a/../../b"] {
            assert_eq!(part(outside).unwrap_err(), VolumeError::Outside(outside.to_owned()));
        }
        let nfs = mounts(&volume(json!({"nfs": {"server": "a", "path": "/"}})), &none, Path::new("/p")).unwrap_err();
        assert_eq!(nfs, VolumeError::Unsupported("v".to_owned()));
    }
}
