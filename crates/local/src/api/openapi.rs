//! As much of OpenAPI as kubectl asks for before it writes: that the server validates fields itself, which it does
//! strictly whatever it is asked. Schemas are not described.

use lateen_galley::Kind;
use lateen_galley::kind::KindInfo;
use serde_json::{Map, Value, json};

/// The path of a version's resources, without the first `/`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`.
pub fn index() -> Value {
    let mut paths = Map::new();
    for info in Kind::all().map(|kind| kind.info()) {
        for version in info.versions {
            let root = root(info.group, version);
            let at = format!("/openapi/v3/{root}");
            paths.insert(root, json!({"serverRelativeURL": at}));
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`.
pub fn of(group: &str, version: &str) -> Option<Value> {
    let served = Kind::all().map(|kind| kind.info()).filter(|i| i.group == group && i.versions.contains(&version));
    let paths: Map<String, Value> = served.map(|info| patching(info, version)).collect();
    if paths.is_empty() {
        return None;
    }
    Some(json!({"openapi": "3.0.0", "info": {"title": "Lateen", "version": "v1"}, "paths": paths}))
}

/// How objects of a kind are patched: the operation in which kubectl looks for the parameter.
fn patching(info: &KindInfo, version: &str) -> (String, Value) {
    let namespace = if info.namespaced { "namespaces/{namespace}/" } else { "" };
    let path = format!("/{}/{namespace}{}/{{name}}", root(info.group, version), info.plural);
    let parameters =
        ["dryRun", "fieldValidation"].map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}));
    let operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": info.group, "version": version, "kind": info.name},
    });
    (path, json!({"patch": operation}))
}
