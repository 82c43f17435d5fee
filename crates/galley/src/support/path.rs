//! Walking a path with wildcards through a JSON value.

use serde_json::Value;

/// Calls `found` with every place the path leads to. The last field may be absent, those before it may not.
pub(super) fn visit(value: &Value, path: &str, found: &mut dyn FnMut(String, Option<&Value>)) {
    let steps: Vec<&str> = path.split('.').collect();
    walk(Some(value), &steps, String::new(), found);
}

fn walk(value: Option<&Value>, steps: &[&str], at: String, found: &mut dyn FnMut(String, Option<&Value>)) {
    let Some((step, rest)) = steps.split_first() else {
        found(at, value);
        return;
    };
    let Some(value) = value else { return };
    let name = step.trim_end_matches("[]");
    let inner = value.get(name);
    let at = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    if name.len() == step.len() {
        walk(inner, rest, at, found);
        return;
    }
    for (index, item) in inner.and_then(Value::as_array).into_iter().flatten().enumerate() {
        walk(Some(item), rest, format!("{at}[{index}]"), found);
    }
}
