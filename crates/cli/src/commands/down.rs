//! `lateen down`: stops a mesh and waits until it is gone.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::duration;
use crate::error::Error;
use crate::state_dir::StateDir;

#[derive(clap::Args)]
pub struct Arguments {
    /// Kill what has not stopped by then: the kernel cleans up
    #[arg(long, default_value = "15s", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    state_dir: StateDir,
}

/// Stops the mesh; none running is no error.
pub fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let socket = arguments.state_dir.socket();
    match Mesh::at(&socket).map_err(Error::io(socket.display().to_string()))? {
        None => println!("no mesh is running in {}", arguments.state_dir.path().display()),
        Some(mesh) => {
            let gently = mesh.stop(arguments.timeout).map_err(Error::io("cannot stop the mesh"))?;
            println!("{}", if gently { "the mesh is down" } else { "the mesh did not stop in time and was killed" });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A running mesh: the process that serves a socket. Its number cannot be mistaken for another process's, as it is held.
pub struct Mesh(OwnedFd);

impl Mesh {
    /// The mesh that serves a socket, if one does.
    ///
    /// # Errors
    /// When the socket cannot be asked, because it is another user's for instance.
    pub fn at(socket: &Path) -> io::Result<Option<Mesh>> {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the socket is open, and the kernel writes at most `length` bytes into the struct.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut peer).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: plain system call; the descriptor it returns is nobody else's.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, peer.pid, 0) };
        match libc::c_int::try_from(descriptor) {
            // SAFETY: as above.
            Ok(descriptor) if descriptor >= 0 => Ok(Some(Mesh(unsafe { OwnedFd::from_raw_fd(descriptor) }))),
            _ => match io::Error::last_os_error() {
                // It ended meanwhile.
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Asks it to end, waits, and kills it when it has not ended in `patience`. Says whether it ended by itself.
    ///
    /// # Errors
    /// When it is not this user's to stop.
    pub fn stop(&self, patience: Duration) -> io::Result<bool> {
        self.signal(libc::SIGTERM)?;
        if self.ended(patience)? {
            return Ok(true);
        }
        self.signal(libc::SIGKILL)?;
        self.ended(Duration::from_secs(10))?;
        Ok(false)
    }

    fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: the descriptor is open; no siginfo is passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(()),
            // Gone is what was wanted.
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    fn ended(&self, patience: Duration) -> io::Result<bool> {
        let mut wait = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        loop {
            // SAFETY: one pollfd, which lives through the call.
            match unsafe { libc::poll(&raw mut wait, 1, milliseconds) } {
                result if result >= 0 => return Ok(result > 0),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}
