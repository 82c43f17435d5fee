//! The state directory: where a running mesh has its socket and its logs, and how other commands find it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use lateen_local::client::Client;

use crate::error::Error;

/// The API's socket in it.
pub const SOCKET: &str = "api.sock";
/// The control plane's socket in it.
pub const CONTROL_PLANE: &str = "control-plane.sock";

/// The directory of commands that name one.
#[derive(clap::Args, Clone, Default)]
pub struct StateDir {
    /// Where the mesh has its socket and logs [default: $XDG_RUNTIME_DIR/lateen, else /tmp/lateen-UID]
    #[arg(long, env = "LATEEN_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateDir {
    /// Takes this directory instead of the usual one.
    pub fn at(path: PathBuf) -> StateDir {
        StateDir { state_dir: Some(path) }
    }

    /// Whether a directory was named.
    pub fn is_given(&self) -> bool {
        self.state_dir.is_some()
    }

    /// The directory, absolute; it need not exist.
    pub fn path(&self) -> PathBuf {
        let path = match (&self.state_dir, std::env::var_os("XDG_RUNTIME_DIR")) {
            (Some(path), _) => path.clone(),
            (None, Some(runtime)) if !runtime.is_empty() => Path::new(&runtime).join("lateen"),
            (None, _) => PathBuf::from(format!("/tmp/lateen-{}", user())),
        };
        std::path::absolute(&path).unwrap_or(path)
    }

    /// The socket of the mesh's API.
    pub fn socket(&self) -> PathBuf {
        self.path().join(SOCKET)
    }

    /// The socket at which the control plane shows what it is doing.
    pub fn control_plane(&self) -> PathBuf {
        self.path().join(CONTROL_PLANE)
    }

    /// A client of the mesh.
    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    /// The directory, made if it is missing, for nobody but the user.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to somebody else: in /tmp anyone may have made it first.
    pub fn create(&self) -> Result<PathBuf, Error> {
        let path = self.path();
        let failed = |source: io::Error| Error::Io { what: format!("state directory {}", path.display()), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let found = fs::symlink_metadata(&path).map_err(failed)?;
        if !found.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        if found.uid() != user() {
            return Err(Error::Usage(format!(
                "state directory {} belongs to user {}: name another one with --state-dir",
                path.display(),
                found.uid()
            )));
        }
        Ok(path)
    }
}

fn user() -> u32 {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_for_the_user_alone() {
        let parent = tempfile::tempdir().unwrap();
        let asked = StateDir::at(parent.path().join("a/b"));
        let made = asked.create().unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        assert_eq!(asked.create().unwrap(), made);
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(parent.path(), parent.path().join("link")).unwrap();
        assert!(StateDir::at(parent.path().join("file")).create().is_err());
        assert!(StateDir::at(parent.path().join("link")).create().is_err());
    }
}
