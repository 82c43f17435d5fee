//! Making resources smaller, one piece at a time.

use serde_json::Value;

/// The rules without the piece at position `from` in the order of all pieces, whole objects first, and where to go on.
/// `None` when there is no such piece.
pub fn smaller(rules: &[Value], from: usize) -> Option<(Vec<Value>, usize)> {
    if from < rules.len() {
        let mut left = rules.to_vec();
        left.remove(from);
        return Some((left, from + 1));
    }
    let mut at = from - rules.len();
    let mut left = rules.to_vec();
    for rule in &mut left {
        // A ConfigMap has none.
        let Some(spec) = rule.get_mut("spec") else { continue };
        match take(spec, at) {
            Ok(()) => return Some((left, from + 1)),
            Err(counted) => at -= counted,
        }
    }
    None
}

/// Where to go on when the piece before `next` is gone: what came behind it has moved up.
pub fn back(next: usize) -> usize {
    next.saturating_sub(1)
}

/// Takes away piece number `at`, parts before their insides; else says how many there are.
fn take(value: &mut Value, at: usize) -> Result<(), usize> {
    let mut counted = 0;
    match value {
        Value::Array(items) => {
            for index in 0..items.len() {
                if at == counted {
                    items.remove(index);
                    return Ok(());
                }
                counted += 1;
                match take(&mut items[index], at - counted) {
                    Ok(()) => return Ok(()),
                    Err(inside) => counted += inside,
                }
            }
        }
        Value::Object(fields) => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            for key in keys {
                if at == counted {
                    fields.remove(&key);
                    return Ok(());
                }
                counted += 1;
                match take(&mut fields[&key], at - counted) {
                    Ok(()) => return Ok(()),
                    Err(inside) => counted += inside,
                }
            }
        }
        _ => {}
    }
    Err(counted)
}

/// Removes what a path like `spec.http[2].fault` names; the parent where it is an item's only word.
pub fn remove(value: &mut Value, path: &str) -> bool {
    let mut steps: Vec<String> = Vec::new();
    for part in path.split('.') {
        let mut pieces = part.split('[');
        steps.extend(pieces.next().filter(|name| !name.is_empty()).map(str::to_owned));
        steps.extend(pieces.map(|piece| piece.trim_end_matches(']').to_owned()));
    }
    let Some(last) = steps.pop() else { return false };
    let mut at = value;
    for step in steps {
        let next = match at {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
            Value::Object(fields) => fields.get_mut(&step),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            // What is missing cannot be what is too much: an earlier removal took it along.
            None => return true,
        }
    }
    match at {
        Value::Array(items) => match last.parse::<usize>() {
            Ok(index) if index < items.len() => {
                items.remove(index);
                true
            }
            _ => false,
        },
        Value::Object(fields) => fields.remove(&last).is_some(),
        _ => false,
    }
}
