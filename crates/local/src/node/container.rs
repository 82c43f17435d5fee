//! Starting one program: from a fork of the node to exec, in a pod's namespaces and a pid namespace of its own.

use super::Mode;
use super::failure::{Failure, failed};
use super::kernel::{self, c_string};
use super::privilege;
use super::request::Program;
use super::wire::SpawnCall;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// First descriptor passed by the socket-activation convention (sd_listen_fds(3)).
const LISTEN_FDS_START: RawFd = 3;
/// Descriptors that a container's start itself needs have numbers from here on, above all listeners' ones.
const RESERVED: RawFd = 128;
/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every container of this node starts from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) mode: Mode,
    /// The binary the node runs, opened at its start.
    pub(super) own_binary: OwnedFd,
    pub(super) null: OwnedFd,
    /// The limit on descriptors that the node was started with, before it raised its own.
    pub(super) descriptor_limit: libc::rlimit,
}

/// The namespaces a container enters; `None` keeps the node's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namespaces<'a> {
    pub(super) network: BorrowedFd<'a>,
    pub(super) names: BorrowedFd<'a>,
    pub(super) ipc: BorrowedFd<'a>,
    pub(super) files: BorrowedFd<'a>,
}

/// Starts the program and returns when it runs: after a successful exec, or with the reason why not.
pub(super) fn start(
    origin: &Origin,
    namespaces: Option<Namespaces<'_>>,
    call: &SpawnCall,
    fds: Vec<OwnedFd>,
) -> Result<libc::pid_t, Failure> {
    let step = || format!("run {}", call.argv.first().map_or("a program", String::as_str));
    if call.argv.is_empty() {
        return Err(Failure::refused(step(), "the command is empty"));
    }
    let wanted = call.stdio.iter().filter(|given| **given).count() + call.listeners.len();
    if fds.len() != wanted {
        return Err(Failure::refused(step(), "the message and its descriptors do not match"));
    }
    let (mut news, report) = io::pipe().map_err(failed(step()))?;
    // SAFETY: the node has one thread.
    let pid = unsafe { kernel::fork(libc::CLONE_NEWPID) }.map_err(failed("fork a container"))?;
    if pid == 0 {
        drop(news);
        let reporter = kernel::duplicate_above(report.as_fd(), RESERVED);
        // Its number may be given to a listener; both copies close on exec.
        std::mem::forget(report);
        // A panic must not unwind into the node's loop, of which this process is a copy.
        let run = std::panic::AssertUnwindSafe(|| become_program(origin, namespaces, call, fds));
        let failure = match std::panic::catch_unwind(run) {
            Ok(failure) => failure,
            Err(_) => Failure::refused("prepare the container", "internal error, see standard error"),
        };
        if let (Ok(reporter), Ok(text)) = (reporter, serde_json::to_vec(&failure)) {
            let _ = File::from(reporter).write_all(&text);
        }
        // SAFETY: ends this process without running anything of the node's.
        unsafe { libc::_exit(127) };
    }
    drop((report, fds));
    let mut text = Vec::new();
    let read = news.read_to_end(&mut text);
    if text.is_empty() && read.is_ok() {
        return Ok(pid);
    }
    let _ = kernel::kill(pid, libc::SIGKILL);
    kernel::wait_for(pid);
    let failure = serde_json::from_slice(&text).unwrap_or_else(|_| Failure::refused("start", "it died on the way"));
    Err(failure.within(step()))
}

/// In the child: returns only if it fails.
fn become_program(origin: &Origin, namespaces: Option<Namespaces<'_>>, call: &SpawnCall, fds: Vec<OwnedFd>) -> Failure {
    match prepare(origin, namespaces, call, fds).and_then(|environment| exec(origin, call, &environment)) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn prepare(
    origin: &Origin,
    namespaces: Option<Namespaces<'_>>,
    call: &SpawnCall,
    fds: Vec<OwnedFd>,
) -> Result<Vec<(String, String)>, Failure> {
    kernel::reset_signals();
    kernel::new_session();
    if let Some(Namespaces { network, names, ipc, files }) = namespaces {
        kernel::setns(network, libc::CLONE_NEWNET).map_err(failed("enter the pod's network"))?;
        kernel::setns(names, libc::CLONE_NEWUTS).map_err(failed("enter the pod's host name"))?;
        kernel::setns(ipc, libc::CLONE_NEWIPC).map_err(failed("enter the pod's IPC namespace"))?;
        kernel::setns(files, libc::CLONE_NEWNS).map_err(failed("enter the pod's files"))?;
    }
    kernel::unshare(libc::CLONE_NEWNS).map_err(failed("make the container's mount namespace"))?;
    // EPERM in a container that masks /proc: the node's /proc still works, only the numbers in it differ.
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let _ = kernel::mount(Path::new("proc"), Path::new("/proc"), "proc", flags, "");
    if namespaces.is_none() {
        // A pod's view has its own already; here the host's would show the host's links.
        let _ = kernel::mount(Path::new("sysfs"), Path::new("/sys"), "sysfs", flags | libc::MS_RDONLY, "");
    }
    for path in &call.hidden {
        // What is mounted here the program cannot take away: it has no right over this namespace.
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        kernel::mount(Path::new("tmpfs"), Path::new(path), "tmpfs", flags, "mode=0555,size=4k")
            .map_err(failed(format!("hide {path}")))?;
    }
    privilege::protect_machine(origin.mode)?;
    let environment = place_descriptors(origin, call, fds)?;
    let _ = kernel::set_descriptor_limit(origin.descriptor_limit);
    privilege::assume(call.role, origin.mode)?;
    let directory = call.cwd.as_deref().unwrap_or("/");
    std::env::set_current_dir(directory).map_err(failed(format!("enter the directory {directory}")))?;
    Ok(environment)
}

/// Puts the descriptors where the program expects them and returns its environment.
fn place_descriptors(origin: &Origin, call: &SpawnCall, fds: Vec<OwnedFd>) -> Result<Vec<(String, String)>, Failure> {
    let step = || failed("pass the descriptors on");
    let count = call.listeners.len() as RawFd;
    // First all out of the way, so that no target is the number of another one's source.
    let above = LISTEN_FDS_START + count;
    let mut moved = fds.iter().map(|fd| kernel::duplicate_above(fd.as_fd(), above));
    let mut sources = Vec::new();
    for given in call.stdio {
        let source = if given { moved.next() } else { Some(kernel::duplicate_above(origin.null.as_fd(), above)) };
        sources.extend(source.transpose().map_err(step())?);
    }
    for source in moved {
        sources.push(source.map_err(step())?);
    }
    // Before their numbers are given to others.
    drop(fds);
    let mut environment: Vec<_> = call.env.iter().filter(|(name, _)| !name.starts_with("LISTEN_")).cloned().collect();
    for (target, source) in (0..).zip(&sources) {
        kernel::duplicate_to(source.as_fd(), target).map_err(step())?;
    }
    if call.tty {
        let terminal = sources.first().ok_or_else(|| Failure::refused("pass the terminal on", "there is none"))?;
        kernel::control_terminal(terminal.as_fd()).map_err(failed("make the terminal the controlling one"))?;
    }
    if count > 0 {
        environment.push(("LISTEN_FDS".to_owned(), count.to_string()));
        environment.push(("LISTEN_PID".to_owned(), std::process::id().to_string()));
        environment.push(("LISTEN_FDNAMES".to_owned(), call.listeners.join(":")));
    }
    Ok(environment)
}

fn exec(origin: &Origin, call: &SpawnCall, environment: &[(String, String)]) -> Result<Infallible, Failure> {
    let strings = |texts: Vec<String>| -> Result<Vec<CString>, Failure> {
        texts.into_iter().map(|text| c_string(text).map_err(failed("pass arguments and environment on"))).collect()
    };
    let argv = strings(call.argv.clone())?;
    let envp = strings(environment.iter().map(|(name, value)| format!("{name}={value}")).collect())?;
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&argv), pointers(&envp));
    match call.program {
        Program::Own => {
            // SAFETY: NULL-terminated arrays of C strings, all alive; on success this does not return.
            unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    origin.own_binary.as_raw_fd(),
                    c"".as_ptr(),
                    argv.as_ptr(),
                    envp.as_ptr(),
                    libc::AT_EMPTY_PATH,
                )
            };
            Err(failed("execute this very binary")(io::Error::last_os_error()))
        }
        Program::Argv => {
            let name = call.argv.first().map_or("", String::as_str);
            let path = environment.iter().rev().find(|(name, _)| name == "PATH");
            let mut denied = None;
            for candidate in candidates(name, path.map_or(DEFAULT_PATH, |(_, path)| path)) {
                let candidate = c_string(candidate).map_err(failed("execute it"))?;
                // SAFETY: as above.
                unsafe { libc::execve(candidate.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR) => {}
                    // As execvp: go on looking, but remember.
                    Some(libc::EACCES) => denied = Some(error),
                    _ => return Err(failed("execute it")(error)),
                }
            }
            Err(failed("execute it")(denied.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))))
        }
    }
}

/// Where a program of this name may be.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.split(':').map(|directory| format!("{}/{name}", if directory.is_empty() { "." } else { directory })).collect()
}

/// Keeps a descriptor of the running binary: the file may be replaced while the node runs.
pub(super) fn own_binary() -> io::Result<OwnedFd> {
    kernel::duplicate_above(File::open("/proc/self/exe")?.as_fd(), RESERVED)
}
