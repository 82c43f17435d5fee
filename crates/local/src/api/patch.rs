//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and Kubernetes' strategic merge patch,
//! as pure functions over JSON.

use serde_json::{Map, Value};

/// A patch that does not fit the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not of the shape its media type promises.
    #[error("the patch is not valid: {0}")]
    Malformed(&'static str),
    /// A JSON patch names a place the object does not have.
    #[error("the patch's operation {index} does not apply: nothing at {path:?}")]
    Missing {
        /// Position of the operation in the patch.
        index: usize,
        /// The JSON pointer it names.
        path: String,
    },
    /// A `test` operation of a JSON patch failed.
    #[error("the patch's operation {index} does not hold: the value at {path:?} differs")]
    TestFailed {
        /// Position of the operation in the patch.
        index: usize,
        /// The JSON pointer it names.
        path: String,
    },
}

/// Applies a JSON merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let mut fields = take_fields(target);
    for (field, patch) in patch {
        if patch.is_null() {
            fields.remove(field);
        } else {
            merge(fields.entry(field.clone()).or_insert(Value::Null), patch);
        }
    }
    *target = Value::Object(fields);
}

/// Applies a strategic merge patch: lists of objects known to have a key are merged by it, all others
/// are replaced, which is what Kubernetes does with kinds that declare no merge keys (all of Istio's).
/// Of the directives, `$patch` and `$retainKeys` are carried out; the order that `$setElementOrder` asks for
/// means nothing in lists merged by key.
pub fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        *target = Value::Object(patch.iter().filter(|(field, _)| !field.starts_with('$')).map(owned).collect());
        return;
    }
    let mut fields = take_fields(target);
    if let Some(Value::Array(retained)) = patch.get("$retainKeys") {
        fields.retain(|field, _| retained.iter().any(|name| name == field.as_str()));
    }
    for (field, patch) in patch.iter().filter(|(field, _)| !field.starts_with('$')) {
        let deleted = patch.get("$patch").and_then(Value::as_str) == Some("delete");
        if patch.is_null() || deleted {
            fields.remove(field);
            continue;
        }
        let old = fields.entry(field.clone()).or_insert(Value::Null);
        match (merge_keys(field), old, patch) {
            (keys @ [_, ..], Value::Array(old), Value::Array(patch)) => merge_lists(keys, old, patch),
            (_, old, patch) => strategic(old, patch),
        }
    }
    *target = Value::Object(fields);
}

fn owned((field, value): (&String, &Value)) -> (String, Value) {
    (field.clone(), value.clone())
}

/// The fields of an object, taken out of it; none if it is something else.
fn take_fields(target: &mut Value) -> Map<String, Value> {
    match target.take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The keys by which a list's items are told apart, from the `patchMergeKey` marks of Kubernetes' own
/// API types. Several: the first one that the items have.
fn merge_keys(field: &str) -> &'static [&'static str] {
    match field {
        "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets" => &["name"],
        "ports" => &["containerPort", "port"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        _ => &[],
    }
}

fn merge_lists(keys: &[&str], target: &mut Vec<Value>, patch: &[Value]) {
    let marked = |item: &Value, mark: &str| item.get("$patch").and_then(Value::as_str) == Some(mark);
    if patch.iter().any(|item| marked(item, "replace")) {
        *target = patch.iter().filter(|item| !marked(item, "replace")).cloned().collect();
        return;
    }
    for item in patch {
        let Some(key) = keys.iter().find(|key| item.get(**key).is_some()) else {
            if !target.contains(item) {
                target.push(item.clone());
            }
            continue;
        };
        let at = target.iter().position(|old| old.get(*key) == item.get(*key));
        match at {
            Some(at) if marked(item, "delete") => {
                target.remove(at);
            }
            Some(at) => {
                if let Some(old) = target.get_mut(at) {
                    strategic(old, item);
                }
            }
            None if marked(item, "delete") => {}
            None => target.push(item.clone()),
        }
    }
}

/// Applies a JSON patch; on an error the target may be half changed.
///
/// # Errors
/// When the patch is none, names places that are not there, or tests something that does not hold.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().ok_or(PatchError::Malformed("a JSON patch is a list of operations"))?;
    for (index, operation) in operations.iter().enumerate() {
        let text = |field| operation.get(field).and_then(Value::as_str);
        let path = text("path").ok_or(PatchError::Malformed("an operation needs a path"))?;
        let value = || operation.get("value").cloned().ok_or(PatchError::Malformed("the operation needs a value"));
        let from = || text("from").ok_or(PatchError::Malformed("the operation needs a from"));
        let missing = |path: &str| PatchError::Missing { index, path: path.to_owned() };
        match text("op") {
            Some("add") => add(target, path, value()?).ok_or_else(|| missing(path))?,
            Some("remove") => drop(remove(target, path).ok_or_else(|| missing(path))?),
            Some("replace") => *target.pointer_mut(path).ok_or_else(|| missing(path))? = value()?,
            Some("move") => {
                let moved = remove(target, from()?).ok_or_else(|| missing(path))?;
                add(target, path, moved).ok_or_else(|| missing(path))?;
            }
            Some("copy") => {
                let copied = target.pointer(from()?).cloned().ok_or_else(|| missing(path))?;
                add(target, path, copied).ok_or_else(|| missing(path))?;
            }
            Some("test") => {
                if target.pointer(path) != Some(&value()?) {
                    return Err(PatchError::TestFailed { index, path: path.to_owned() });
                }
            }
            _ => return Err(PatchError::Malformed("op is one of add, remove, replace, move, copy, test")),
        }
    }
    Ok(())
}

fn split_pointer(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split_pointer(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(object) => {
            object.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at: usize = last.parse().ok().filter(|at| *at <= list.len())?;
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split_pointer(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(object) => object.remove(&last),
        Value::Array(list) => {
            let at: usize = last.parse().ok().filter(|at| *at < list.len())?;
            Some(list.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn merged(mut target: Value, patch: Value) -> Value {
        merge(&mut target, &patch);
        target
    }

    #[test]
    fn merge_patch_follows_the_examples_of_rfc_7386() {
        assert_eq!(merged(json!({"a": "b"}), json!({"a": "c"})), json!({"a": "c"}));
        assert_eq!(merged(json!({"a": "b", "b": "c"}), json!({"a": null})), json!({"b": "c"}));
        assert_eq!(merged(json!({"a": [{"b": "c"}]}), json!({"a": [1]})), json!({"a": [1]}));
        assert_eq!(merged(json!({}), json!({"a": {"bb": {"ccc": null}}})), json!({"a": {"bb": {}}}));
        assert_eq!(merged(json!(["a"]), json!({"a": "b"})), json!({"a": "b"}));
    }

    #[test]
    fn strategic_merge_knows_containers_by_name() {
        let mut target =
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]});
        let patch = json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "$patch": "delete"}]});
        strategic(&mut target, &patch);
        assert_eq!(
            target,
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]})
        );
    }

    #[test]
    fn what_kubectl_apply_adds_to_its_patches_is_understood() {
        let mut target =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}, "ports": [{"port": 80}]}});
        let patch = json!({"spec": {
            "$setElementOrder/ports": [{"port": 80}], "ports": [{"port": 80, "name": "http"}],
            "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
        }});
        strategic(&mut target, &patch);
        assert_eq!(
            target,
            json!({"spec": {"strategy": {"type": "Recreate"}, "ports": [{"port": 80, "name": "http"}]}})
        );
        strategic(&mut target, &json!({"spec": {"strategy": {"$patch": "delete"}}}));
        assert_eq!(target, json!({"spec": {"ports": [{"port": 80, "name": "http"}]}}));
    }

    #[test]
    fn json_patch_adds_moves_tests_and_refuses() {
        let mut target = json!({"a": [1, 2], "b/c": 1});
        let patch = json!([
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "move", "from": "/b~1c", "path": "/d"},
            {"op": "test", "path": "/d", "value": 1},
            {"op": "remove", "path": "/a/0"},
        ]);
        json(&mut target, &patch).unwrap();
        assert_eq!(target, json!({"a": [2, 3], "d": 1}));
        let wrong = json!([{"op": "replace", "path": "/none", "value": 1}]);
        assert_eq!(json(&mut target, &wrong), Err(PatchError::Missing { index: 0, path: "/none".to_owned() }));
        assert!(json(&mut target, &json!({"op": "add"})).is_err());
    }

    proptest! {
        #[test]
        fn merging_a_value_into_itself_changes_nothing(names in proptest::collection::vec("[a-z]{1,4}", 0..6)) {
            let object: Map<String, Value> = names.iter().map(|name| (name.clone(), json!({"x": name}))).collect();
            let object = Value::Object(object);
            prop_assert_eq!(merged(object.clone(), object.clone()), object);
        }
    }
}
