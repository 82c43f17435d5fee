//! Going on in the background, and telling the terminal how the start went.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Which side of the fork this is.
pub enum Side {
    /// The process the terminal waits for.
    Terminal(Start),
    /// The process that stays.
    Daemon(Reporter),
}

/// The start of a daemon, seen from the terminal.
pub struct Start(File);

/// The daemon's way to say how the start went. Dropping it unused says that it failed.
pub struct Reporter(File);

/// How a start went.
pub enum Outcome {
    /// It runs; the text is for the terminal.
    Running(String),
    /// It does not run; the text says why.
    Failed(String),
}

const RUNNING: u8 = b'+';
const FAILED: u8 = b'-';

/// Forks. The daemon has a session of its own, no input, and writes to `log`, which begins anew.
///
/// # Errors
/// When the log cannot be made or the system has no room for another process.
///
/// # Safety
/// No other thread may exist: the daemon goes on with this thread alone.
pub unsafe fn fork(log: &Path) -> io::Result<Side> {
    let log = OpenOptions::new().create(true).write(true).truncate(true).open(log)?;
    let nothing = File::open("/dev/null")?;
    let mut ends = [0; 2];
    // SAFETY: pipe2 fills the two descriptors, which nothing else owns.
    let (reader, writer) = unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    // SAFETY: the caller vouches that there is no other thread, so the child may do anything.
    match unsafe { check(libc::fork())? } {
        0 => {
            drop(reader);
            // SAFETY: all descriptors are open; standard ones may be replaced at any time.
            unsafe {
                check(libc::setsid())?;
                check(libc::dup2(nothing.as_raw_fd(), libc::STDIN_FILENO))?;
                check(libc::dup2(log.as_raw_fd(), libc::STDOUT_FILENO))?;
                check(libc::dup2(log.as_raw_fd(), libc::STDERR_FILENO))?;
            }
            Ok(Side::Daemon(Reporter(File::from(writer))))
        }
        _ => Ok(Side::Terminal(Start(File::from(reader)))),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Start {
    /// Waits until the daemon says how it went.
    ///
    /// # Errors
    /// When the daemon cannot be heard.
    pub fn wait(mut self) -> io::Result<Outcome> {
        let mut said = Vec::new();
        self.0.read_to_end(&mut said)?;
        let text = |rest: &[u8]| String::from_utf8_lossy(rest).into_owned();
        Ok(match said.split_first() {
            Some((&RUNNING, rest)) => Outcome::Running(text(rest)),
            Some((_, rest)) => Outcome::Failed(text(rest)),
            None => Outcome::Failed("it ended without saying why".to_string()),
        })
    }
}

impl Reporter {
    /// Says that all is well. A terminal that does not listen any more changes nothing.
    pub fn running(self, text: &str) {
        self.say(RUNNING, text);
    }

    /// Says why the start failed.
    pub fn failed(self, text: &str) {
        self.say(FAILED, text);
    }

    fn say(mut self, how: u8, text: &str) {
        let mut message = vec![how];
        message.extend_from_slice(text.as_bytes());
        let _ = self.0.write_all(&message);
    }
}
