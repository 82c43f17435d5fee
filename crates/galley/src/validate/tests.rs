//! Golden pairs: `x-in.yaml` is stored into a store that has the namespaces `default` and
//! `istio-system` alone; `x-err.txt` is every error and
//! warning, one a line. `LATEEN_BLESS=1` writes the second files anew.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::{Change, Object, ReadOptions, Store, StoreSettings, read_manifests};

fn findings(source: &str, bytes: &[u8]) -> String {
    let store = Store::new(StoreSettings::default());
    for name in ["default", "istio-system"] {
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        store.write(Change::Create(Object::decode(namespace).unwrap()), SystemTime::UNIX_EPOCH).unwrap();
    }
    let read = read_manifests(source, bytes, ReadOptions::default());
    let batch =
        read.manifests.into_iter().map(|manifest| (Change::Upsert(manifest.object), Some(manifest.origin))).collect();
    let mut lines: Vec<String> = read.problems.0.iter().map(ToString::to_string).collect();
    lines.extend(read.passed_over.iter().map(|warning| format!("warning: {warning}")));
    match store.commit(batch, SystemTime::UNIX_EPOCH) {
        Ok(committed) => lines.extend(committed.warnings.iter().map(|warning| format!("warning: {warning}"))),
        Err(refused) => lines.extend(refused.problems().0.iter().map(ToString::to_string)),
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[test]
fn golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let bless = std::env::var_os("LATEEN_BLESS").is_some();
    let mut pairs = 0;
    let mut entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for input in entries {
        let name = input.file_name().unwrap().to_str().unwrap();
        let Some(case) = name.strip_suffix("-in.yaml") else { continue };
        pairs += 1;
        let found = findings(name, &fs::read(&input).unwrap());
        let golden = folder.join(format!("{case}-err.txt"));
        if bless {
            fs::write(&golden, &found).unwrap();
        }
        let wanted = fs::read_to_string(&golden).unwrap();
        assert!(found == wanted, "{case}:\nfound:\n{found}\nwanted:\n{wanted}");
    }
    assert!(pairs >= 8, "only {pairs} golden pairs in {}", folder.display());
}

/// What is shown to people as an example is without a fault.
#[test]
fn examples_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut folders = vec![folder];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        let entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.extend(entries.iter().filter(|path| path.is_dir()).cloned());
        let mut manifests: Vec<_> =
            entries.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
        manifests.sort();
        // The files of one folder belong together, and every mesh has this namespace.
        let mut whole = b"{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}\n---\n".to_vec();
        for manifest in manifests {
            read += 1;
            whole.extend(fs::read(&manifest).unwrap());
            whole.extend(b"\n---\n");
        }
        assert_eq!(findings(&folder.display().to_string(), &whole), "");
    }
    assert!(read > 0);
}
