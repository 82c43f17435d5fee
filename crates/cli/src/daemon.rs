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

/// How a start went, and what looked wrong meanwhile.
pub struct Told {
    pub warnings: Vec<String>,
    pub outcome: Outcome,
}

/// How a start went.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// It runs; the text is for the terminal.
    Running(String),
    /// It does not run; the text says why.
    Failed(String),
}

const RUNNING: u8 = b'+';
const FAILED: u8 = b'-';
const WARNING: u8 = b'!';
/// After each thing said.
const END: u8 = 0;

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
    pub fn wait(mut self) -> io::Result<Told> {
        let mut said = Vec::new();
        self.0.read_to_end(&mut said)?;
        Ok(understand(&said))
    }
}

fn understand(said: &[u8]) -> Told {
    let mut told = Told { warnings: Vec::new(), outcome: Outcome::Failed("it ended without saying why".to_string()) };
    for one in said.split(|byte| *byte == END) {
        let Some((how, text)) = one.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match *how {
            WARNING => told.warnings.push(text),
            RUNNING => told.outcome = Outcome::Running(text),
            _ => told.outcome = Outcome::Failed(text),
        }
    }
    told
}

impl Reporter {
    /// Says what looks wrong, before how the start went.
    pub fn warn(&mut self, text: &str) {
        self.say(WARNING, text);
    }

    /// Says that all is well. A terminal that does not listen any more changes nothing.
    pub fn running(mut self, text: &str) {
        self.say(RUNNING, text);
    }

    /// Says why the start failed.
    pub fn failed(mut self, text: &str) {
        self.say(FAILED, text);
    }

    fn say(&mut self, how: u8, text: &str) {
        let mut message = vec![how];
        message.extend(text.bytes().filter(|byte| *byte != END));
        message.push(END);
        let _ = self.0.write_all(&message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_hears_warnings_and_how_it_went() {
        let (reader, writer) = io::pipe().unwrap();
        let mut reporter = Reporter(File::from(OwnedFd::from(writer)));
        reporter.warn("one\0");
        reporter.warn("two\nlines");
        reporter.running("up");
        let told = Start(File::from(OwnedFd::from(reader))).wait().unwrap();
        assert_eq!(
            (told.warnings.as_slice(), told.outcome),
            (&["one".into(), "two\nlines".into()][..], Outcome::Running("up".into()))
        );
        let told = understand(b"!one\0");
        assert!(matches!(told.outcome, Outcome::Failed(_)) && told.warnings == ["one"]);
    }
}
