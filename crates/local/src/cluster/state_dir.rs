//! The directory of a running cluster: its lock, its API socket, its logs and its pods' volumes.
//! What a killed one left there is taken away; a running one's is never touched.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ClusterError;

/// The API's socket in a state directory.
pub const API_SOCKET: &str = "api.sock";
const LOCK: &str = "lock";

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Its lock goes with the descriptor, however the process ends.
    _lock: File,
}

impl StateDir {
    /// Takes a directory, made if it is not there, and clears away what an earlier cluster left in it.
    ///
    /// # Errors
    /// When another cluster is running with it, or it cannot be written.
    pub fn claim(path: &Path) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::StateDir { path: path.to_owned(), source };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed)?;
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            options
        };
        let mut lock = options().open(path.join(LOCK)).map_err(failed)?;
        // SAFETY: flock on a descriptor we hold.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(failed(error));
            }
            let mut holder = String::new();
            // Who holds it is only a hint for people.
            let _ = lock.read_to_string(&mut holder);
            return Err(ClusterError::Running { path: path.to_owned(), pid: holder.trim().parse().ok() });
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        let state = Self { path: path.to_owned(), _lock: lock };
        state.clear().map_err(failed)?;
        for directory in [state.logs(), state.volumes()] {
            DirBuilder::new().mode(0o700).create(directory).map_err(failed)?;
        }
        Ok(state)
    }

    /// Takes away everything a cluster makes here.
    pub fn clear(&self) -> io::Result<()> {
        let missing_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        missing_is_fine(fs::remove_file(self.api_socket()))?;
        missing_is_fine(fs::remove_dir_all(self.logs()))?;
        missing_is_fine(fs::remove_dir_all(self.volumes()))
    }

    /// Where the API is served.
    pub fn api_socket(&self) -> PathBuf {
        self.path.join(API_SOCKET)
    }

    /// Where logs are kept.
    pub fn logs(&self) -> PathBuf {
        self.path.join("pods")
    }

    /// Where volumes are written that change while their pod runs.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cluster_at_a_time_and_leftovers_are_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = StateDir::claim(&path).unwrap();
        fs::write(first.api_socket(), "left").unwrap();
        fs::write(first.volumes().join("left"), "left").unwrap();
        let second = StateDir::claim(&path).unwrap_err();
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        drop(first);
        let third = StateDir::claim(&path).unwrap();
        assert!(!third.api_socket().exists());
        assert!(!third.volumes().join("left").exists());
    }
}
