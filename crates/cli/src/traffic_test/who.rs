//! Who is meant by a name in a test: a workload, a subset, or everybody with some labels.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A pod of the mesh.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    /// The Deployment it belongs to, or its own name.
    pub workload: String,
    pub labels: BTreeMap<String, String>,
    /// It has a proxy beside it, or is one.
    pub proxied: bool,
}

/// A subset of a DestinationRule.
#[derive(Debug, Clone)]
struct Subset {
    namespace: String,
    host: String,
    name: String,
    labels: BTreeMap<String, String>,
}

/// Everybody a test can name.
#[derive(Debug, Clone, Default)]
pub struct Who {
    pods: Vec<Pod>,
    subsets: Vec<Subset>,
}

/// The key that stands for answers that no pod gave: a proxy's own.
pub const NOBODY: &str = "nobody";

impl Who {
    /// From the mesh's objects as its API tells them.
    pub fn new<'a>(pods: impl IntoIterator<Item = &'a Value>, rules: impl IntoIterator<Item = &'a Value>) -> Who {
        let subsets = rules.into_iter().flat_map(|rule| {
            let text = |pointer: &str| rule.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (namespace, host) = (text("/metadata/namespace"), text("/spec/host"));
            let subsets = rule.pointer("/spec/subsets").and_then(Value::as_array).into_iter().flatten();
            subsets.map(move |subset| Subset {
                namespace: namespace.clone(),
                host: host.clone(),
                name: subset["name"].as_str().unwrap_or_default().to_owned(),
                labels: labels(&subset["labels"]),
            })
        });
        Who { pods: pods.into_iter().map(pod).collect(), subsets: subsets.collect() }
    }

    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pods of a workload, `NAME` or `NAME.NAMESPACE`, a pod's own name included.
    pub fn workload<'a>(&'a self, name: &str, namespace: &str) -> Vec<&'a Pod> {
        let elsewhere = name.split_once('.');
        let is_meant = |pod: &&Pod| {
            let is =
                |name: &str, namespace: &str| pod.namespace == namespace && (pod.workload == name || pod.name == name);
            is(name, namespace) || elsewhere.is_some_and(|(name, namespace)| is(name, namespace))
        };
        self.pods.iter().filter(is_meant).collect()
    }

    /// The names of the pods that a key of `answeredBy` or `received` means: a workload, `HOST/SUBSET`, or `LABEL=VALUE`,
    /// several with commas between. Names of pods are told apart by chance alone, so namespaces do not count.
    ///
    /// # Errors
    /// When nobody is meant.
    pub fn meant<'a>(&'a self, key: &str, namespace: &str) -> Result<BTreeSet<&'a str>, String> {
        let found: BTreeSet<&str> = if let Some((host, subset)) = key.split_once('/') {
            let fits = |candidate: &&Subset| {
                let short = candidate.host.split('.').next().unwrap_or_default();
                candidate.name == subset
                    && (candidate.host == host || (short == host && candidate.namespace == namespace))
            };
            let Some(subset) = self.subsets.iter().find(fits) else {
                return Err(format!("no DestinationRule has the subset {key}"));
            };
            let app = self.pods.iter().filter(|pod| pod.namespace == subset.namespace);
            app.filter(|pod| has(pod, &subset.labels)).map(|pod| pod.name.as_str()).collect()
        } else if key.contains('=') {
            let pairs = key.split(',').filter_map(|pair| pair.split_once('='));
            let labels = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
            let there = self.pods.iter().filter(|pod| pod.namespace == namespace);
            there.filter(|pod| has(pod, &labels)).map(|pod| pod.name.as_str()).collect()
        } else {
            self.workload(key, namespace).into_iter().map(|pod| pod.name.as_str()).collect()
        };
        if found.is_empty() {
            let known: BTreeSet<&str> =
                self.pods.iter().filter(|pod| pod.namespace == namespace).map(|pod| pod.workload.as_str()).collect();
            let known: Vec<&str> = known.into_iter().collect();
            return Err(format!("{key} is nobody in namespace {namespace}; there are {}", known.join(", ")));
        }
        Ok(found)
    }

    /// The workload of a pod, for people; the name itself if it is not known.
    pub fn workload_of<'a>(&'a self, pod: &'a str) -> &'a str {
        self.pods.iter().find(|candidate| candidate.name == pod).map_or(pod, |found| found.workload.as_str())
    }
}

fn has(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(name, value)| pod.labels.get(name) == Some(value))
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn pod(object: &Value) -> Pod {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text("/metadata/name");
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let owner = owners.filter(|owner| owner["controller"] == true).find_map(|owner| owner["name"].as_str());
    let containers = object.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    Pod {
        workload: owner.unwrap_or(&name).to_owned(),
        namespace: text("/metadata/namespace"),
        labels: labels(&object["metadata"]["labels"]),
        proxied: containers.into_iter().any(|container| container["name"] == "istio-proxy"),
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn who() -> Who {
        let pod = |name: &str, owner: &str, version: &str| {
            json!({
                "metadata": {
                    "name": name, "namespace": "shop", "labels": {"app": "web", "version": version},
                    "ownerReferences": [{"kind": "Deployment", "name": owner, "controller": true}],
                },
            })
        };
        let rule = json!({
            "metadata": {"namespace": "shop"},
            "spec": {"host": "web.shop.svc.cluster.local", "subsets": [{"name": "two", "labels": {"version": "v2"}}]},
        });
        let pods = [pod("web-v1-a", "web-v1", "v1"), pod("web-v1-b", "web-v1", "v1"), pod("web-v2-a", "web-v2", "v2")];
        Who::new(&pods, [&rule])
    }

    #[test]
    fn names_of_many_kinds() {
        let who = who();
        let meant = |key: &str| who.meant(key, "shop").unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(meant("web-v1"), ["web-v1-a", "web-v1-b"]);
        assert_eq!(meant("web-v1.shop"), ["web-v1-a", "web-v1-b"]);
        assert_eq!(meant("web-v1-b"), ["web-v1-b"]);
        assert_eq!(meant("web/two"), ["web-v2-a"]);
        assert_eq!(meant("version=v1, app=web"), ["web-v1-a", "web-v1-b"]);
        assert_eq!(who.workload_of("web-v2-a"), "web-v2");
        let told = who.meant("web-v3", "shop").unwrap_err();
        assert!(told.contains("there are web-v1, web-v2"), "{told}");
        assert!(who.meant("web/three", "shop").is_err() && who.meant("web-v1", "elsewhere").is_err());
    }
}
