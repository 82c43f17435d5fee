//! The manifests a cluster was started with, followed as they change: what the files say now against
//! what they said before is one batch for the store, all of it or nothing.
//!
//! Files are looked at every 200 ms; content decides whether something changed, so that editors that save by
//! renaming, touch files without changing them, or write in several steps are all understood. A change is
//! taken when two looks in a row saw the same.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lateen_galley::source::files::FileSet;
use lateen_galley::store::Committed;
use lateen_galley::{Problems, ReadOptions, SOURCE_BYTES};
use tokio::sync::mpsc;

use crate::admission::Admission;

/// How often files are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Folders inside folders are followed this deep.
const DEPTH: usize = 32;
/// Files read at most.
const COUNT: usize = 10_000;

/// Why files could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// Too much of it.
    #[error("{}: more than {COUNT} files", .0.display())]
    TooMany(PathBuf),
    /// What the files say is wrong: each place, one a line.
    #[error("{0}")]
    Wrong(Problems),
}

/// What became of a change.
#[derive(Debug)]
pub enum Change {
    /// It is in the store.
    Applied(Committed),
    /// It is not, and nothing was changed.
    Refused(FilesError),
}

/// The files and what they said when they were last applied.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    namespace: String,
    /// Standard input, read once.
    input: Option<Vec<u8>>,
    applied: FileSet,
    seen: Contents,
    /// As the files were just before they were read.
    stamps: Stamps,
}

type Contents = BTreeMap<String, Vec<u8>>;
/// What tells a file from its earlier self without reading it.
type Stamps = BTreeMap<PathBuf, (Option<SystemTime>, u64, u64)>;

impl Files {
    /// Follows these files and folders; objects that name no namespace go to `namespace`. `-` is standard
    /// input, whose content is given here and never changes.
    pub fn new(paths: Vec<PathBuf>, namespace: String, input: Option<Vec<u8>>) -> Self {
        Self { paths, namespace, input, applied: FileSet::default(), seen: Contents::new(), stamps: Stamps::new() }
    }

    /// Applies what the files say now.
    ///
    /// # Errors
    /// Everything that is wrong with them; nothing is changed then.
    pub fn apply(&mut self, admission: &Admission) -> Result<Committed, FilesError> {
        self.stamps = self.look();
        let contents = self.read()?;
        let result = self.apply_contents(admission, &contents);
        self.seen = contents;
        result
    }

    /// Applies changes as they come and tells of each, until nobody listens.
    pub async fn follow(mut self, admission: Admission, changes: mpsc::UnboundedSender<Change>) {
        let mut pending: Option<Contents> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            if changes.is_closed() {
                return;
            }
            let now = self.look();
            if now == self.stamps && pending.is_none() {
                continue;
            }
            self.stamps = now;
            let contents = match self.read() {
                Ok(contents) => contents,
                Err(error) => {
                    // A file that is just being replaced is there at the next look.
                    match pending.take() {
                        None => pending = Some(Contents::new()),
                        Some(before) if before.is_empty() => drop(changes.send(Change::Refused(error))),
                        Some(_) => pending = Some(Contents::new()),
                    }
                    continue;
                }
            };
            if contents == self.seen {
                pending = None;
                continue;
            }
            if pending.as_ref() != Some(&contents) {
                pending = Some(contents);
                continue;
            }
            pending = None;
            let change = match self.apply_contents(&admission, &contents) {
                Ok(committed) => Change::Applied(committed),
                Err(error) => Change::Refused(error),
            };
            self.seen = contents;
            if changes.send(change).is_err() {
                return;
            }
        }
    }

    fn apply_contents(&mut self, admission: &Admission, contents: &Contents) -> Result<Committed, FilesError> {
        let options = ReadOptions { namespace: &self.namespace, only_that_namespace: false };
        let files = contents.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        let set = FileSet::read(files, options).map_err(FilesError::Wrong)?;
        let batch = set.changes(&self.applied, &admission.store().snapshot());
        let mut committed = admission.commit(batch).map_err(|refused| FilesError::Wrong(refused.problems()))?;
        if self.applied.passed_over() != set.passed_over() {
            committed.warnings.extend(set.passed_over().iter().cloned());
        }
        self.applied = set;
        Ok(committed)
    }

    fn read(&self) -> Result<Contents, FilesError> {
        let mut contents = Contents::new();
        for path in &self.paths {
            if path.as_os_str() == "-" {
                contents.insert("standard input".to_owned(), self.input.clone().unwrap_or_default());
                continue;
            }
            let mut files = Vec::new();
            find(path, 0, &mut files).map_err(|source| FilesError::Read { path: path.clone(), source })?;
            if files.len() > COUNT {
                return Err(FilesError::TooMany(path.clone()));
            }
            for file in files {
                let failed = |source| FilesError::Read { path: file.clone(), source };
                let mut bytes = Vec::new();
                // One byte over the limit is enough for the reader to refuse it.
                let opened = std::fs::File::open(&file).map_err(failed)?;
                opened.take(SOURCE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
                contents.insert(file.display().to_string(), bytes);
            }
        }
        Ok(contents)
    }

    fn look(&self) -> Stamps {
        use std::os::unix::fs::MetadataExt;
        let mut stamps = Stamps::new();
        for path in self.paths.iter().filter(|path| path.as_os_str() != "-") {
            let mut files = Vec::new();
            // What cannot be looked at now is told when it is read.
            let _ = find(path, 0, &mut files);
            for file in files {
                let stamp = std::fs::metadata(&file).ok();
                let stamp = stamp.map_or((None, 0, 0), |stamp| (stamp.modified().ok(), stamp.len(), stamp.ino()));
                stamps.insert(file, stamp);
            }
        }
        stamps
    }
}

/// The manifests at a path: the file itself, or all `.yaml`, `.yml` and `.json` files below a folder that are
/// not hidden.
fn find(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    if depth > DEPTH || files.len() > COUNT {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let manifest =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => find(&path, depth + 1, files)?,
            Ok(_) if manifest => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_galley::{Kind, Object, Store, StoreSettings};

    const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n";

    fn map(name: &str, value: &str) -> String {
        format!("---\r\napiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {{name: {name}}}\r\ndata: {{x: {value}}}")
    }

    fn value(admission: &Admission, name: &str) -> Option<String> {
        let object = admission.store().snapshot().find(Kind::ConfigMap, "default", name).cloned()?;
        Some(object.raw()["data"]["x"].as_str()?.to_owned())
    }

    #[tokio::test]
    async fn edits_are_applied_broken_ones_are_told_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            // As editors save: a new file in place of the old one.
            let path = folder.path().join(name);
            std::fs::write(path.with_extension("tmp"), text).unwrap();
            std::fs::rename(path.with_extension("tmp"), path).unwrap();
        };
        let admission = Admission::new(Store::new(StoreSettings::default()));
        let namespace: serde_json::Value = serde_norway::from_str(NAMESPACE).unwrap();
        admission.write(lateen_galley::Change::Upsert(Object::decode(namespace).unwrap())).unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        write("a.yaml", &map("a", "one"));
        write("sub/b.yaml", &map("b", "one"));
        write("notes.txt", "not a manifest");
        let mut files = Files::new(vec![folder.path().to_owned()], "default".to_owned(), None);
        files.apply(&admission).unwrap();
        assert_eq!(value(&admission, "b").as_deref(), Some("one"));

        let (sender, mut changes) = mpsc::unbounded_channel();
        tokio::spawn(files.follow(admission.clone(), sender));
        write("a.yaml", &map("a", "two"));
        std::fs::remove_file(folder.path().join("sub/b.yaml")).unwrap();
        assert!(matches!(changes.recv().await.unwrap(), Change::Applied(_)));
        assert_eq!(value(&admission, "a").as_deref(), Some("two"));
        assert_eq!(value(&admission, "b"), None, "what no file says any more goes");

        write("a.yaml", &map("a", "three").replace("\ndata:", "\ndta:"));
        match changes.recv().await.unwrap() {
            Change::Refused(error) => {
                let text = error.to_string();
                assert!(text.contains("a.yaml, document 1, ConfigMap default/a: dta"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(value(&admission, "a").as_deref(), Some("two"));
        write("a.yaml", &map("a", "four"));
        assert!(matches!(changes.recv().await.unwrap(), Change::Applied(_)));
        assert_eq!(value(&admission, "a").as_deref(), Some("four"));
    }
}
