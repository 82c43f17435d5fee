//! Which groups, versions and resources there are.

use lateen_galley::Kind;
use lateen_galley::kind::KindInfo;
use serde_json::{Value, json};

use super::authentication;

/// The Kubernetes version whose API this is; what `kubectl version` shows as the server's.
const KUBERNETES: (&str, &str) = ("1", "33");

/// `/version`.
pub fn version() -> Value {
    let (major, minor) = KUBERNETES;
    let git = format!("v{major}.{minor}.0+lateen.{}", env!("CARGO_PKG_VERSION"));
    json!({"major": major, "minor": minor, "gitVersion": git, "platform": "linux/amd64", "compiler": "rustc"})
}

/// `/api`.
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`.
pub fn groups() -> Value {
    let mut names: Vec<&str> = Vec::new();
    for info in Kind::all().map(|kind| kind.info()).filter(|info| !info.group.is_empty()) {
        if !names.contains(&info.group) {
            names.push(info.group);
        }
    }
    names.push(authentication::GROUP);
    let groups: Vec<Value> = names.into_iter().filter_map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub fn group(name: &str) -> Option<Value> {
    if name == authentication::GROUP {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        let versions = [&version];
        return Some(
            json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": version}),
        );
    }
    let info = Kind::all().map(|kind| kind.info()).find(|info| info.group == name && !name.is_empty())?;
    let version = |version: &str| json!({"groupVersion": info.api_version_in(version), "version": version});
    let versions: Vec<Value> = info.versions.iter().map(|name| version(name)).collect();
    let preferred = versions.first().cloned();
    Some(
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred}),
    )
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    if group == authentication::GROUP {
        return authentication::resources(version);
    }
    let serves = |info: &&KindInfo| info.group == group && info.versions.contains(&version);
    let served: Vec<&KindInfo> = Kind::all().map(|kind| kind.info()).filter(serves).collect();
    let first = served.first()?;
    let resources: Vec<Value> = served.iter().flat_map(|info| of_kind(info)).collect();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version_in(version), "resources": resources,
    }))
}

fn of_kind(info: &KindInfo) -> Vec<Value> {
    let entry = |name: String, verbs: &[&str]| json!({"name": name, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.name, "verbs": verbs});
    let mut main = entry(info.plural.to_owned(), &["create", "delete", "get", "list", "patch", "update", "watch"]);
    if let Value::Object(fields) = &mut main {
        fields.insert("shortNames".to_owned(), json!(info.short_names));
        fields.insert("categories".to_owned(), json!(info.categories));
    }
    let mut entries = vec![main];
    if info.has_status {
        entries.push(entry(format!("{}/status", info.plural), &["get", "patch", "update"]));
    }
    if info.kind == Kind::ServiceAccount {
        entries.push(entry("serviceaccounts/token".to_owned(), &["create"]));
    }
    if info.kind == Kind::Pod {
        entries.push(entry("pods/log".to_owned(), &["get"]));
        entries.push(entry("pods/exec".to_owned(), &["create", "get"]));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_in_every_version_it_is_served_in() {
        for info in Kind::all().map(|kind| kind.info()) {
            for version in info.versions {
                let list = resources(info.group, version).unwrap();
                let names: Vec<&str> =
                    list["resources"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
                assert!(names.contains(&info.plural), "{names:?}");
            }
        }
        assert!(resources("apps", "v9").is_none());
        let istio = group("networking.istio.io").unwrap();
        assert_eq!(istio["preferredVersion"]["version"], "v1");
        assert!(group("").is_none());
    }
}
