//! The control plane's process (the role of istiod): started with the listener for proxies as descriptor 3, and
//! started again when it ends. Proxies that connect meanwhile wait in the listener's queue.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The descriptor the listener is passed as.
pub const LISTENER_DESCRIPTOR: i32 = 3;
/// First and longest pause before it is started again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A run of this length shows that starting again helps.
const STABLE: Duration = Duration::from_secs(5);
/// Time it has to end when it is told to.
const GRACE: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug)]
pub struct ControlPlane {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Where proxies connect.
    pub listener: OwnedFd,
}

impl ControlPlane {
    /// Keeps it running until `stop` says so; `pid` tells which process it is.
    pub async fn supervise(self, mut stop: watch::Receiver<bool>, pid: watch::Sender<Option<u32>>) {
        let mut pause = BACK_OFF.0;
        loop {
            let begun = Instant::now();
            match self.spawn() {
                Ok(mut child) => {
                    pid.send_replace(child.id());
                    let ended = tokio::select! {
                        ended = child.wait() => Some(ended),
                        _ = stop.wait_for(|stop| *stop) => None,
                    };
                    pid.send_replace(None);
                    match ended {
                        None => return end(child).await,
                        Some(Ok(status)) => tracing::warn!(%status, "the control plane ended; starting it again"),
                        Some(Err(error)) => tracing::warn!(%error, "the control plane is lost; starting it again"),
                    }
                }
                Err(error) => {
                    tracing::error!(%error, program = ?self.argv.first(), "the control plane cannot be started")
                }
            }
            if begun.elapsed() >= STABLE {
                pause = BACK_OFF.0;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let (program, arguments) = self
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program is named"))?;
        let listener = self.listener.as_raw_fd();
        let parent = std::process::id();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        // SAFETY: only system calls that are safe between fork and exec, and no memory is touched.
        unsafe {
            command.pre_exec(move || {
                // Nothing of a cluster outlives it, however it ends.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before that took effect.
                if u32::try_from(libc::getppid()).ok() != Some(parent) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let passed = if listener == LISTENER_DESCRIPTOR {
                    // dup2 onto itself would keep close-on-exec.
                    libc::fcntl(listener, libc::F_SETFD, 0)
                } else {
                    libc::dup2(listener, LISTENER_DESCRIPTOR)
                };
                if passed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        command.spawn()
    }
}

async fn end(mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) {
        // SAFETY: kill(2) on a child that was not waited for yet, so that its number is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        // It may have ended this very moment.
        let _ = child.kill().await;
    }
}
