//! The mesh of a demo: `lateen up` as another process, as a person would start it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::commands::down;
use crate::error::Error;
use crate::state_dir::StateDir;

/// Lines of the mesh's log shown when it fails.
const LAST_LINES: usize = 15;

/// A mesh being started, or running.
pub struct Mesh {
    child: Child,
    state: StateDir,
    log: PathBuf,
    /// It stays when the demo ends.
    kept: bool,
}

impl Mesh {
    /// Starts a mesh with the manifests of a folder. What it writes goes to a file in its state directory.
    ///
    /// # Errors
    /// When another mesh has that directory, or the process cannot be started.
    pub fn start(state: StateDir, manifests: &Path, kept: bool) -> Result<Mesh, Error> {
        let directory = state.create()?;
        if down::Mesh::at(&state.socket()).is_ok_and(|mesh| mesh.is_some()) {
            return Err(Error::Usage(format!(
                "a mesh is running in {} already: stop it with `lateen down`, or name another --state-dir",
                directory.display()
            )));
        }
        let log = directory.join("demo.log");
        let output = File::create(&log).map_err(Error::io(log.display().to_string()))?;
        let errors = output.try_clone().map_err(Error::io(log.display().to_string()))?;
        // The very file that runs, even if it was replaced or is not on PATH.
        let mut command = Command::new("/proc/self/exe");
        command.arg("up").arg(manifests).arg("--state-dir").arg(&directory);
        if kept {
            command.arg("--detach");
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        if !kept {
            // A demo that is killed takes its mesh along.
            // SAFETY: prctl is async-signal-safe and concerns the child alone.
            unsafe {
                command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                });
            }
        }
        let child = command.spawn().map_err(Error::io("cannot start `lateen up`"))?;
        Ok(Mesh { child, state, log, kept })
    }

    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// Fails if the mesh has ended although it should not.
    ///
    /// # Errors
    /// The last lines it wrote.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait().map_err(Error::io("`lateen up`"))? {
            Some(status) if !(self.kept && status.success()) => Err(self.ended(status)),
            _ => Ok(()),
        }
    }

    /// Waits until `lateen up --detach` says that all is ready; a mesh that is not kept says so to nobody.
    ///
    /// # Errors
    /// The last lines it wrote, when it did not start.
    pub async fn settled(&mut self) -> Result<(), Error> {
        if !self.kept {
            return Ok(());
        }
        match self.child.wait().await.map_err(Error::io("`lateen up`"))? {
            status if status.success() => Ok(()),
            status => Err(self.ended(status)),
        }
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Usage(format!("`lateen up` ended with {status}:\n{}", self.last_lines()))
    }

    /// The end of what the mesh wrote.
    pub fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }

    /// Takes it down and waits until it is gone.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn stop(mut self, patience: Duration) -> Result<(), Error> {
        let found = down::Mesh::at(&self.state.socket()).map_err(Error::io("cannot find the mesh"))?;
        let gently = match found {
            Some(mesh) => {
                let stop = tokio::task::spawn_blocking(move || mesh.stop(patience));
                stop.await.map_err(Error::unreadable)?.map_err(Error::io("cannot stop the mesh"))?
            }
            None => {
                // It has no socket yet, or none any more.
                let _ = self.child.start_kill();
                true
            }
        };
        self.child.wait().await.map_err(Error::io("`lateen up`"))?;
        if gently { Ok(()) } else { Err(Error::Usage("the mesh did not stop by itself and was killed".to_string())) }
    }
}
