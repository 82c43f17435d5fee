use std::time::SystemTime;

use super::*;
use crate::{Kind, Store, StoreSettings};

fn set(files: &[(&str, &str)]) -> Result<FileSet, Problems> {
    FileSet::read(files.iter().map(|(name, text)| (*name, text.as_bytes())), ReadOptions::default())
}

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: default}}";

fn rule(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: {host}}}\n"
    )
}

#[test]
fn an_edit_becomes_the_changes_it_means() {
    let store = Store::new(StoreSettings::default());
    let first = set(&[("rules.yaml", &(rule("a", "x") + &rule("b", "x"))), ("ns.yaml", NAMESPACE)]).unwrap();
    let batch = first.changes(&FileSet::default(), &store.snapshot());
    assert_eq!(batch.iter().map(|(change, _)| change.key().kind).next(), Some(Kind::Namespace));
    store.commit(batch, SystemTime::UNIX_EPOCH).unwrap();
    assert!(first.changes(&first, &store.snapshot()).is_empty());

    let second = set(&[("rules.yaml", &(rule("b", "y") + &rule("c", "x"))), ("ns.yaml", NAMESPACE)]).unwrap();
    let batch = second.changes(&first, &store.snapshot());
    let said: Vec<String> =
        batch.iter().map(|(change, origin)| format!("{} {}", change.key(), origin.as_ref().unwrap())).collect();
    assert_eq!(
        said,
        [
            "DestinationRule default/b rules.yaml, document 1",
            "DestinationRule default/c rules.yaml, document 2",
            "DestinationRule default/a rules.yaml, document 1",
        ]
    );
    store.commit(batch, SystemTime::UNIX_EPOCH).unwrap();
    let names: Vec<String> =
        store.snapshot().objects(Kind::DestinationRule).map(|object| object.name().to_owned()).collect();
    assert_eq!(names, ["b", "c"]);

    // Somebody has deleted it already: no reason to fail.
    store.write(Change::delete(Key::new(Kind::DestinationRule, "default", "c")), SystemTime::UNIX_EPOCH).unwrap();
    let third = set(&[("ns.yaml", NAMESPACE)]).unwrap();
    let batch = third.changes(&second, &store.snapshot());
    assert_eq!(batch.len(), 1);
    store.commit(batch, SystemTime::UNIX_EPOCH).unwrap();
}

#[test]
fn nothing_is_taken_from_a_set_with_a_problem() {
    let problems = set(&[
        ("a.yaml", &rule("a", "x")),
        ("b.yaml", &(rule("a", "y") + "---\n{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {prts: []}}")),
    ])
    .unwrap_err();
    assert_eq!(
        problems.to_string(),
        "b.yaml, document 2, Service default/s: spec.prts: unknown field, did you mean \"ports\"?\n\
         b.yaml, document 1, DestinationRule default/a: written down twice, first in a.yaml, document 1"
    );
}
