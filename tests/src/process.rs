//! Child processes that end with the test, whatever way the test ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wait;

/// A child whose output goes to a file. Dropping it kills the child by its pid and reaps it; should
/// the test itself be killed, the kernel kills the child.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard output and error in `DIR/NAME.log`.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start(mut command: Command, name: &str, dir: &Path) -> Process {
        let log = dir.join(format!("{name}.log"));
        // Appending: a program that opens its own standard output again must not be written over.
        let out = File::options().append(true).create(true).open(&log).expect("a log file in the test's directory");
        out.set_len(0).expect("an empty log file");
        let err = out.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe {
            command.pre_exec(|| {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: cannot start {command:?}: {error}"));
        Process { child, name: name.to_owned(), log }
    }

    /// The child's pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal to this child alone.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been reaped (that needs &mut self), so the pid is still its own.
        unsafe {
            libc::kill(self.pid(), signal);
        }
    }

    /// Everything it wrote so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the child to end by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn exit(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, || {
            let ended = self.ended();
            async move { ended }
        })
        .await
    }

    /// What the process has cost so far: user plus system time in microseconds, resident memory in
    /// KiB, both from /proc.
    pub fn cost(&self) -> Option<Cost> {
        Cost::of(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time and memory of one process, all threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// User and system time, microseconds (the kernel counts in clock ticks, usually 10 ms).
    pub cpu_us: u64,
    /// Resident set, KiB.
    pub rss_kib: u64,
}

impl Cost {
    /// Reads `/proc/PID/stat` and `/proc/PID/statm`; `None` when there is no such process.
    pub fn of(pid: i32) -> Option<Cost> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in brackets, and may hold blanks.
        let after = &stat[stat.rfind(')')? + 2..];
        let fields: Vec<&str> = after.split(' ').collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        // SAFETY: sysconf only reads constants.
        let (hz, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        Some(Cost { cpu_us: ticks * 1_000_000 / hz as u64, rss_kib: pages * page as u64 / 1024 })
    }
}
