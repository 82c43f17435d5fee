//! A command run beside a pod's containers: `kubectl exec`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use serde_json::Value;
use tokio::net::unix::pipe;

use crate::node::{Container, NodeError, NodeHandle, Spawn};

/// What to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Whether it gets input.
    pub stdin: bool,
    /// Whether it runs on a terminal.
    pub tty: bool,
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The pod is not running here.
    #[error("the pod is not running")]
    NotRunning,
    /// The container's environment cannot be had.
    #[error(transparent)]
    Environment(#[from] super::environment::EnvironmentError),
    /// The kernel gives no pipe or terminal.
    #[error("cannot make the command's streams: {0}")]
    Streams(#[from] io::Error),
    /// The command cannot be started.
    #[error("{0}")]
    Start(#[from] NodeError),
}

/// A running command and our ends of its streams.
#[derive(Debug)]
pub struct Running {
    /// Its input.
    pub stdin: Option<pipe::Sender>,
    /// Its output.
    pub stdout: Option<pipe::Receiver>,
    /// Its error output; none on a terminal.
    pub stderr: Option<pipe::Receiver>,
    terminal: Option<OwnedFd>,
    container: Container,
    node: NodeHandle,
}

impl Running {
    /// Starts a command; `spawn` says everything but its streams.
    pub(super) async fn start(node: NodeHandle, mut spawn: Spawn, command: &Command) -> Result<Self, ExecError> {
        let (mut stdin, mut stderr, mut terminal) = (None, None, None);
        let stdout;
        if command.tty {
            let (master, slave) = open_terminal()?;
            set_nonblocking(&master)?;
            spawn.stdin = Some(slave.try_clone()?);
            spawn.stdout = Some(slave.try_clone()?);
            spawn.stderr = Some(slave);
            spawn.tty = true;
            // A terminal is polled as a pipe is, and both directions are one descriptor.
            stdin = Some(pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?);
            stdout = Some(pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?);
            terminal = Some(master);
        } else {
            if command.stdin {
                let (read, write) = io::pipe()?;
                spawn.stdin = Some(read.into());
                stdin = Some(pipe::Sender::from_owned_fd(write.into())?);
            }
            let (read, write) = io::pipe()?;
            spawn.stdout = Some(write.into());
            stdout = Some(pipe::Receiver::from_owned_fd(read.into())?);
            let (read, write) = io::pipe()?;
            spawn.stderr = Some(write.into());
            stderr = Some(pipe::Receiver::from_owned_fd(read.into())?);
        }
        let container = node.spawn(spawn).await?;
        Ok(Self { stdin, stdout, stderr, terminal, container, node })
    }

    /// Waits for its end and gives its exit code, as shells count it. Dropping the future loses nothing.
    pub async fn wait(&mut self) -> i32 {
        // Without the node nothing runs any more: that is what SIGKILL looks like.
        self.container.wait().await.map_or(128 + libc::SIGKILL, |exit| exit.code())
    }

    /// Ends it.
    pub async fn kill(self) {
        // It may have ended by itself.
        let _ = self.node.kill(self.container.id(), libc::SIGKILL).await;
    }

    /// Tells its terminal the size it is shown at: `{"Width": columns, "Height": rows}`.
    pub fn resize(&self, size: &[u8]) {
        let Some(terminal) = &self.terminal else { return };
        let size: Value = serde_json::from_slice(size).unwrap_or_default();
        let cells = |name| size.get(name).and_then(Value::as_u64).and_then(|cells| u16::try_from(cells).ok());
        let (Some(columns), Some(rows)) = (cells("Width"), cells("Height")) else { return };
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize, and the descriptor is ours. A terminal that is gone needs no size.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }
}

fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: both places are valid; name, settings and size may be null.
    let made = unsafe { libc::openpty(&mut master, &mut slave, none, none.cast(), none.cast()) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty gave us both descriptors, and nobody else knows them.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    for fd in [&master, &slave] {
        // SAFETY: fcntl on a descriptor we hold.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((master, slave))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor we hold.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
