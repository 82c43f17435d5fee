//! Volumes made of objects (ConfigMaps, Secrets, tokens), kept up to date while the pod runs. They are written on the host, in
//! a directory that no pod sees, and bound into the pod; a service-account token is there for its owner alone, and is
//! replaced long before it ends.
//!
//! All files of a volume change at once, as with Kubernetes' kubelet: they are in a directory of their own, `..data` is a link to
//! that, and every name in the volume a link through it. What was mounted by its `subPath` stays as it was.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection, Volume};
use lateen_galley::{Kind, Object, Snapshot, Store};

use super::files::volume_files;
use crate::node::MountedFile;
use crate::tokens::{Bound, Issued, Named, Tokens};

/// A token is replaced when this part of its life is over, as Kubernetes does.
const PART: f64 = 0.8;
/// Life of a token when the volume says nothing.
const LIFE: Duration = Duration::from_secs(3600);
/// How soon something that failed is tried again when nothing else happens.
const RETRY: Duration = Duration::from_secs(5);
/// The link to the files of the moment.
const DATA: &str = "..data";
/// The same, not yet in its place.
const NEW: &str = "..data_tmp";

/// A pod's volumes.
#[derive(Debug)]
pub struct Volumes {
    store: Store,
    tokens: Tokens,
    object: Arc<Object>,
    pod: Arc<Pod>,
    /// Where they are on the host; a directory for each in it.
    directory: PathBuf,
    issued: Vec<Kept>,
}

/// A token in a volume.
#[derive(Debug)]
struct Kept {
    volume: String,
    path: String,
    issued: Issued,
    replace_at: SystemTime,
}

impl Volumes {
    /// The volumes of a pod, to be written in this directory.
    pub fn new(store: Store, tokens: Tokens, object: Arc<Object>, pod: Arc<Pod>, directory: PathBuf) -> Self {
        Self { store, tokens, object, pod, directory, issued: Vec::new() }
    }

    /// Writes everything as it should be now.
    ///
    /// # Errors
    /// When something that is not optional is missing, or a file cannot be written.
    pub fn write(&mut self) -> Result<(), String> {
        let snapshot = self.store.snapshot();
        let pod = Arc::clone(&self.pod);
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let files = volume_files(&pod, volume, &snapshot).map_err(|error| error.to_string())?;
            let Some(mut files) = files else { continue };
            for wanted in token_sources(volume) {
                // Its account may not have been made yet.
                if let Some(token) = self.token(&volume.name, wanted, &snapshot)? {
                    let bytes = token.into_bytes();
                    files.push(MountedFile { path: wanted.path.clone(), bytes, mode: 0o600 });
                }
            }
            let directory = self.directory.join(&volume.name);
            write_all(&directory, &files).map_err(|error| format!("volume {:?}: {error}", volume.name))?;
        }
        Ok(())
    }

    /// Keeps the files as they should be, for ever.
    pub async fn keep(mut self) {
        let mut revisions = self.store.revisions();
        loop {
            revisions.mark_unchanged();
            let seen = self.store.snapshot();
            let failed = self.write().inspect_err(|error| {
                tracing::warn!(pod = self.object.name(), error, "a volume stays as it was");
            });
            let due = self.issued.iter().map(|kept| kept.replace_at).min();
            let nap = match (failed, due) {
                (Err(_), _) => RETRY,
                (Ok(()), Some(due)) => due.duration_since(SystemTime::now()).unwrap_or_default(),
                (Ok(()), None) => Duration::MAX,
            };
            tokio::select! {
                changed = self.changed(&seen, &mut revisions) => if !changed { return },
                () = tokio::time::sleep(nap.min(Duration::from_secs(3600))) => {}
            }
        }
    }

    /// Waits for a change of what the volumes are made of; false when there will be none.
    async fn changed(&self, seen: &Snapshot, revisions: &mut tokio::sync::watch::Receiver<u64>) -> bool {
        const SOURCES: [Kind; 3] = [Kind::ConfigMap, Kind::Secret, Kind::ServiceAccount];
        loop {
            if revisions.changed().await.is_err() {
                return false;
            }
            let now = self.store.snapshot();
            if SOURCES.iter().any(|kind| !seen.same(&now, *kind)) {
                return true;
            }
        }
    }

    /// A token for this place in a volume: the one there, or a new one.
    fn token(
        &mut self,
        volume: &str,
        wanted: &ServiceAccountTokenProjection,
        snapshot: &Snapshot,
    ) -> Result<Option<String>, String> {
        let now = SystemTime::now();
        let here = |kept: &Kept| kept.volume == volume && kept.path == wanted.path;
        if let Some(kept) = self.issued.iter().find(|kept| here(kept) && kept.replace_at > now) {
            return Ok(Some(kept.issued.token.clone()));
        }
        let namespace = self.object.namespace();
        let name = super::service_account(&self.pod);
        let Some(account) = snapshot.find(Kind::ServiceAccount, namespace, name) else { return Ok(None) };
        let named = |object: &Object| Named { name: object.name().to_owned(), uid: object.uid().to_owned() };
        let bound =
            Bound { namespace: namespace.to_owned(), service_account: named(account), pod: Some(named(&self.object)) };
        let seconds = wanted.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let audiences: Vec<String> = wanted.audience.iter().filter(|name| !name.is_empty()).cloned().collect();
        let life = seconds.map_or(LIFE, Duration::from_secs);
        let issued = self.tokens.issue(bound, &audiences, life, now).map_err(|error| error.to_string())?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let life = Duration::from_secs(issued.expires.saturating_sub(since));
        let token = issued.token.clone();
        self.issued.retain(|kept| !here(kept));
        self.issued.push(Kept {
            volume: volume.to_owned(),
            path: wanted.path.clone(),
            issued,
            replace_at: now + life.mul_f64(PART),
        });
        Ok(Some(token))
    }
}

fn token_sources(volume: &Volume) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref())
}

/// Makes a directory hold these files and no others, all at once.
fn write_all(directory: &Path, files: &[MountedFile]) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut names = BTreeSet::new();
    for MountedFile { path, .. } in files {
        let relative = Path::new(path);
        let first = relative.components().next();
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let Some(Component::Normal(first)) = first.filter(|_| inside && !path.starts_with("..")) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the path {path:?} leads out of it")));
        };
        names.insert(first.to_owned());
    }
    let old = fs::read_link(directory.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| holds(&directory.join(old), files)) {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let new = PathBuf::from(format!("..{}", now.as_nanos()));
    let written = write_files(&directory.join(&new), files).and_then(|()| {
        let link = directory.join(NEW);
        remove(&link)?;
        symlink(&new, &link)?;
        fs::rename(link, directory.join(DATA))
    });
    if let Err(error) = written {
        let _ = fs::remove_dir_all(directory.join(new));
        return Err(error);
    }
    for name in &names {
        match symlink(Path::new(DATA).join(name), directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != DATA && name != new.as_os_str() && !names.contains(&name) {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

fn write_files(directory: &Path, files: &[MountedFile]) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(directory)?;
    for MountedFile { path, bytes, mode } in files {
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// Whether a directory holds these files and no others.
fn holds(directory: &Path, files: &[MountedFile]) -> bool {
    let same = |file: &MountedFile| {
        let path = directory.join(&file.path);
        let mode = fs::metadata(&path).map(|found| found.permissions().mode() & 0o777);
        mode.is_ok_and(|mode| mode == file.mode) && fs::read(path).is_ok_and(|there| there == file.bytes)
    };
    files.iter().all(same) && count(directory).is_ok_and(|count| count == files.len())
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use lateen_galley::StoreSettings;
    use lateen_galley::store::Change;
    use serde_json::{Value, json};

    use super::*;

    fn put(store: &Store, object: Value) -> Arc<Object> {
        let object = Object::decode(object).unwrap();
        let key = object.key();
        store.write(Change::Upsert(object), SystemTime::now()).unwrap();
        store.get(&key).unwrap()
    }

    fn pod() -> Value {
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "audience": "istio-ca", "expirationSeconds": 600}},
            {"configMap": {"name": "roots", "optional": true}},
        ]);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop"}, "spec": {
            "containers": [{"name": "app", "image": "app"}],
            "volumes": [{"name": "identity", "projected": {"sources": sources}}],
        }})
    }

    /// What is in a volume, but for the directory behind the link.
    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name == DATA || !name.starts_with("..")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_volume_changes_all_at_once() {
        let parent = tempfile::tempdir().unwrap();
        let at = parent.path().join("v");
        let file = |path: &str, text: &str| MountedFile { path: path.to_owned(), bytes: text.into(), mode: 0o644 };
        write_all(&at, &[file("a", "1"), file("b/c", "1")]).unwrap();
        let first = fs::read_link(at.join(DATA)).unwrap();
        write_all(&at, &[file("a", "1"), file("b/c", "1")]).unwrap();
        assert_eq!(fs::read_link(at.join(DATA)).unwrap(), first, "nothing has changed");
        // A program that has looked behind the link sees one state or the other.
        let held = fs::File::open(at.join("a")).unwrap();
        write_all(&at, &[file("a", "2"), file("d", "2")]).unwrap();
        assert_ne!(fs::read_link(at.join(DATA)).unwrap(), first);
        assert_eq!(names(&at), [DATA, "a", "d"]);
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "2");
        assert!(!at.join(first).exists());
        assert_eq!(io::read_to_string(held).unwrap(), "1");
        assert_eq!(fs::read_link(at.join("a")).unwrap(), Path::new("..data/a"));
        // Another mode is another file.
        write_all(&at, &[MountedFile { mode: 0o400, ..file("a", "2") }]).unwrap();
        assert_eq!(fs::metadata(at.join("a")).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn a_volume_follows_its_sources() {
        let store = Store::new(StoreSettings::default());
        put(&store, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        let object = put(&store, pod());
        let typed = Arc::new(object.typed::<Pod>().unwrap().clone());
        let parent = tempfile::tempdir().unwrap();
        let tokens = Tokens::new().unwrap();
        let directory = parent.path().join("volumes");
        let mut volumes = Volumes::new(store.clone(), tokens.clone(), object, typed, directory.clone());
        let at = directory.join("identity");

        // Nothing is there yet, and nothing of it is needed.
        volumes.write().unwrap();
        assert_eq!(names(&at), [DATA]);

        put(
            &store,
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": "shop"}}),
        );
        put(
            &store,
            json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "roots", "namespace": "shop"}, "data": {"root.pem": "one", "old": "x"}}),
        );
        volumes.write().unwrap();
        let token = fs::read_to_string(at.join("token")).unwrap();
        let audience = ["istio-ca".to_owned()];
        let reviewed = tokens.review(&token, &audience, &store.snapshot()).unwrap();
        assert_eq!(reviewed.bound.user(), "system:serviceaccount:shop:default");
        assert_eq!(reviewed.bound.pod.unwrap().name, "web-1");
        assert_eq!(fs::metadata(at.join("token")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(at.join("root.pem")).unwrap(), "one");

        put(
            &store,
            json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "roots", "namespace": "shop"}, "data": {"root.pem": "two"}}),
        );
        volumes.write().unwrap();
        assert_eq!(fs::read_to_string(at.join("root.pem")).unwrap(), "two");
        assert!(!at.join("old").exists());
        assert_eq!(fs::read_to_string(at.join("token")).unwrap(), token, "a token lives on");

        volumes.issued[0].replace_at = SystemTime::now();
        volumes.write().unwrap();
        assert_ne!(fs::read_to_string(at.join("token")).unwrap(), token, "until it is replaced");
    }

    #[test]
    fn no_file_leaves_its_volume() {
        let parent = tempfile::tempdir().unwrap();
        let file = |path: &str| [MountedFile { path: path.to_owned(), bytes: Vec::new(), mode: 0o644 }];
        for path in ["../out", "/etc/passwd", "a/../../b", "", "..data"] {
            assert!(write_all(&parent.path().join("v"), &file(path)).is_err(), "{path}");
        }
        write_all(&parent.path().join("v"), &file("a/b")).unwrap();
        assert!(parent.path().join("v/a/b").exists());
    }
}
