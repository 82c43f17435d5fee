//! Manifests from where people keep them: files, folders, standard input.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lateen_galley::{Kind, Manifest, Problems, ReadOptions, SOURCE_BYTES, read_manifests};

use crate::error::Error;
use crate::terminal;

/// Reads every manifest of the paths: a file, a folder (all `.yaml`, `.yml` and `.json` in it, recursively), or `-` for
/// standard input. Namespaces come first, so that what lives in them finds them there; the rest keeps its order. What is
/// none of the mesh's is told on standard error and passed over.
///
/// # Errors
/// Everything that is wrong in any of them: nothing is left half read.
pub fn read(paths: &[PathBuf], options: ReadOptions<'_>) -> Result<Vec<Manifest>, Error> {
    read_sources(&sources(paths)?, options)
}

/// The same of what was read already.
///
/// # Errors
/// Everything that is wrong in any of them.
pub fn read_sources(sources: &[(String, Vec<u8>)], options: ReadOptions<'_>) -> Result<Vec<Manifest>, Error> {
    let mut manifests = Vec::new();
    let mut problems = Problems::default();
    for (source, bytes) in sources {
        let read = read_manifests(source, bytes, options);
        read.passed_over.iter().for_each(terminal::warn);
        manifests.extend(read.manifests);
        problems.0.extend(read.problems.0);
    }
    if !problems.0.is_empty() {
        return Err(Error::Manifests(problems));
    }
    manifests.sort_by_key(|manifest| manifest.object.kind() != Kind::Namespace);
    Ok(manifests)
}

/// Every file of the paths, by its name.
///
/// # Errors
/// When one cannot be read.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(sources_at(path)?);
    }
    Ok(all)
}

fn sources_at(path: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        // One byte more than allowed, so that the reader sees that it is too long.
        let limit = SOURCE_BYTES as u64 + 1;
        io::stdin().take(limit).read_to_end(&mut bytes).map_err(Error::io("standard input"))?;
        return Ok(vec![("standard input".to_string(), bytes)]);
    }
    let mut files = Vec::new();
    find(path, &mut files)?;
    files
        .into_iter()
        .map(|file| {
            let name = file.display().to_string();
            let bytes = fs::read(&file).map_err(Error::io(&name))?;
            Ok((name, bytes))
        })
        .collect()
}

/// Files in order of name, as a person would list them.
fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let named = |error: io::Error| Error::Io { what: path.display().to_string(), source: error };
    if !fs::metadata(path).map_err(named)?.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(named)? {
        entries.push(entry.map_err(named)?.path());
    }
    entries.sort();
    for entry in entries {
        let is_manifest =
            entry.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|one| extension == *one));
        let is_dir = fs::symlink_metadata(&entry).is_ok_and(|found| found.is_dir());
        if is_dir || is_manifest {
            find(&entry, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_recursively_namespaces_first() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let one = |kind: &str, name: &str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n");
        write("b/c.yml", &one("ServiceAccount", "c"));
        write("a.yaml", &one("ServiceAccount", "a"));
        write("z.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"z"}}"#);
        write("notes.txt", "not: [a manifest");
        let read = read(&[folder.path().to_path_buf()], ReadOptions::default()).unwrap();
        let names: Vec<_> = read.iter().map(|manifest| manifest.object.name()).collect();
        assert_eq!(names, ["z", "a", "c"]);
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "kind: [").unwrap();
        fs::write(folder.path().join("b.yaml"), "apiVersion: v1\nkind: Pott\nmetadata: {name: x}\n").unwrap();
        let error = read(&[folder.path().to_path_buf()], ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("a.yaml") && error.contains("b.yaml") && error.contains("Pott"), "{error}");
        assert!(read(&[folder.path().join("none")], ReadOptions::default()).is_err());
    }
}
