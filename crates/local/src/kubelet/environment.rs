//! The environment of a container, as its manifest describes it. Pure: ConfigMaps and Secrets come from
//! a snapshot.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use lateen_galley::Snapshot;

use super::command::expand;

/// A variable that cannot be given its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// A ConfigMap or Secret that is not there.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key that the ConfigMap or Secret does not have.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field or resource that variables cannot be taken from.
    #[error("env {variable}: {path:?} cannot be had here")]
    Unsupported {
        /// The variable.
        variable: String,
        /// What it refers to.
        path: String,
    },
}

/// What the pod knows only once it runs.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// The pod's addresses, the first one being `status.podIP`.
    pub addresses: &'a [IpAddr],
    /// The node's address.
    pub host: IpAddr,
    /// The node's name.
    pub node: &'a str,
    /// Directories programs are searched in.
    pub search_path: &'a str,
}

type Variables = Vec<(String, String)>;

/// The variables of a container: `PATH` and `HOSTNAME`, `PORT` and the pod's own data, then `envFrom`,
/// then `env`; later ones win.
///
/// # Errors
/// When a value that is not optional cannot be had.
pub fn environment(
    pod: &Pod,
    container: &Container,
    snapshot: &Snapshot,
    running: Running<'_>,
) -> Result<Variables, EnvironmentError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut variables = Variables::new();
    set(&mut variables, "PATH", running.search_path.to_owned());
    set(&mut variables, "HOSTNAME", super::pod_hostname(pod).to_owned());
    set(&mut variables, "HOME", "/".to_owned());
    if let Some(port) = container.ports.iter().flatten().next() {
        set(&mut variables, "PORT", port.container_port.to_string());
    }
    set(&mut variables, "POD_NAME", name.to_owned());
    set(&mut variables, "POD_NAMESPACE", namespace.to_owned());
    set(&mut variables, "POD_IP", running.addresses.first().map(IpAddr::to_string).unwrap_or_default());
    set(&mut variables, "HOST_IP", running.host.to_string());
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match snapshot.typed::<ConfigMap>(namespace, &reference.name) {
                Some(map) => {
                    map.data
                        .iter()
                        .flatten()
                        .for_each(|(key, value)| set(&mut variables, &format!("{prefix}{key}"), value.clone()));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError::Missing { kind: "configmap", name: reference.name.clone() }),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match snapshot.typed::<Secret>(namespace, &reference.name) {
                Some(secret) => {
                    for (key, value) in secret_data(secret) {
                        set(&mut variables, &format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError::Missing { kind: "secret", name: reference.name.clone() }),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value_from, &variable.value) {
            (Some(source), _) => from_source(pod, &variable.name, source, snapshot, running)?,
            (None, value) => Some(expand(value.as_deref().unwrap_or_default(), |name| get(&variables, name))),
        };
        if let Some(value) = value {
            set(&mut variables, &variable.name, value);
        }
    }
    Ok(variables)
}

/// A variable's value.
pub fn get(variables: &[(String, String)], name: &str) -> Option<String> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// Sets a variable, in its old place if it has one.
pub fn set(variables: &mut Variables, name: &str, value: String) {
    match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => variables.push((name.to_owned(), value)),
    }
}

/// A Secret's keys and texts; `stringData` wins, as it does when the API server merges it in.
pub fn secret_data(secret: &Secret) -> impl Iterator<Item = (String, String)> + '_ {
    let bytes =
        secret.data.iter().flatten().map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()));
    bytes.chain(secret.string_data.iter().flatten().map(|(key, value)| (key.clone(), value.clone())))
}

fn from_source(
    pod: &Pod,
    variable: &str,
    source: &EnvVarSource,
    snapshot: &Snapshot,
    running: Running<'_>,
) -> Result<Option<String>, EnvironmentError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = snapshot.typed::<ConfigMap>(namespace, &reference.name) else {
            let missing = EnvironmentError::Missing { kind: "configmap", name: reference.name.clone() };
            return if optional { Ok(None) } else { Err(missing) };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return require(value, optional, "ConfigMap", namespace, &reference.name, &reference.key);
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = snapshot.typed::<Secret>(namespace, &reference.name) else {
            let missing = EnvironmentError::Missing { kind: "secret", name: reference.name.clone() };
            return if optional { Ok(None) } else { Err(missing) };
        };
        let value = secret_data(secret).filter(|(key, _)| *key == reference.key).last().map(|(_, value)| value);
        return require(value, optional, "Secret", namespace, &reference.name, &reference.key);
    }
    let unsupported =
        |path: &str| EnvironmentError::Unsupported { variable: variable.to_owned(), path: path.to_owned() };
    if let Some(reference) = &source.field_ref {
        let path = reference.field_path.as_str();
        return field(pod, path, running).map(Some).ok_or_else(|| unsupported(path));
    }
    let path = source.resource_field_ref.as_ref().map_or("valueFrom", |reference| reference.resource.as_str());
    Err(unsupported(path))
}

fn require(
    value: Option<String>,
    optional: bool,
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, EnvironmentError> {
    if value.is_some() || optional {
        return Ok(value);
    }
    let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
    Err(EnvironmentError::MissingKey { kind, namespace, name, key })
}

/// The fields the downward API offers.
fn field(pod: &Pod, path: &str, running: Running<'_>) -> Option<String> {
    let metadata = &pod.metadata;
    let keyed = |map: &Option<std::collections::BTreeMap<String, String>>, prefix: &str| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => Some(running.node.to_owned()),
        "spec.serviceAccountName" => Some(super::service_account(pod).to_owned()),
        "status.podIP" => running.addresses.first().map(IpAddr::to_string),
        "status.podIPs" => Some(running.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")),
        "status.hostIP" | "status.hostIPs" => Some(running.host.to_string()),
        _ => keyed(&metadata.labels, "metadata.labels['")
            .or_else(|| keyed(&metadata.annotations, "metadata.annotations['")),
    }
}

/// The files of a ConfigMap or Secret: keys and bytes.
pub fn binary_data(object: &lateen_galley::Object) -> Vec<(String, Vec<u8>)> {
    if let Some(map) = object.typed::<ConfigMap>() {
        let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let bytes = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        return text.chain(bytes).collect();
    }
    let secret = object.typed::<Secret>();
    let bytes = secret.into_iter().flat_map(|secret| secret.data.iter().flatten());
    let text = secret.into_iter().flat_map(|secret| secret.string_data.iter().flatten());
    let bytes = bytes.map(|(key, value)| (key.clone(), value.0.clone()));
    bytes.chain(text.map(|(key, value)| (key.clone(), value.clone().into_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lateen_galley::Object;
    use serde_json::{Value, json};

    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "m", "namespace": "shop"}, "data": {"A": "one", "B": "two"}});
        // "three" in base64.
        let secret =
            json!({"kind": "Secret", "metadata": {"name": "s", "namespace": "shop"}, "data": {"C": "dGhyZWU="}});
        for mut object in [map, secret] {
            object["apiVersion"] = json!("v1");
            snapshot.insert(Arc::new(Object::decode(object).unwrap()));
        }
        snapshot
    }

    fn variables(env: Value, env_from: Value) -> Result<Variables, EnvironmentError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "env": env, "envFrom": env_from, "ports": [{"containerPort": 8080}]}]},
        }))
        .unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        let addresses = ["10.244.0.5".parse().unwrap()];
        let running =
            Running { addresses: &addresses, host: "10.244.0.1".parse().unwrap(), node: "lateen", search_path: "/bin" };
        environment(&pod, &container, &snapshot(), running)
    }

    #[test]
    fn a_container_knows_its_pod() {
        let variables = variables(json!([]), json!([])).unwrap();
        for (name, value) in [
            ("PORT", "8080"),
            ("POD_NAME", "web-1"),
            ("POD_NAMESPACE", "shop"),
            ("POD_IP", "10.244.0.5"),
            ("HOST_IP", "10.244.0.1"),
            ("HOSTNAME", "web-1"),
            ("PATH", "/bin"),
        ] {
            assert_eq!(get(&variables, name).as_deref(), Some(value), "{name}");
        }
    }

    #[test]
    fn values_come_from_where_the_manifest_says_and_later_ones_win() {
        let env = json!([
            {"name": "PORT", "value": "9090"},
            {"name": "URL", "value": "http://$(POD_IP):$(PORT)/$(P_A)$(NONE)"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "C"}}},
            {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": true}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ]);
        let from = json!([{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}]);
        let variables = variables(env, from).unwrap();
        for (name, value) in [
            ("URL", "http://10.244.0.5:9090/one$(NONE)"),
            ("P_B", "two"),
            ("C", "three"),
            ("SECRET", "three"),
            ("LABEL", "web"),
            ("NODE", "lateen"),
        ] {
            assert_eq!(get(&variables, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(get(&variables, "MAYBE"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |env: Value| variables(env, json!([])).unwrap_err().to_string();
        let key = json!([{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "Z"}}}]);
        assert_eq!(missing(key), "couldn't find key Z in ConfigMap shop/m");
        let map = json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "none", "key": "Z"}}}]);
        assert_eq!(missing(map), "secret \"none\" not found");
        let field = json!([{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.color"}}}]);
        assert!(missing(field).contains("spec.color"));
    }
}
