//! The system calls of this module that the standard library does not have, with errors instead of -1.

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A string for the kernel; one with a NUL inside is `InvalidInput`.
pub(super) fn c_string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(text).map_err(|error: NulError| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_encoded_bytes())
}

/// Forks with namespaces: 0 in the child. Plain `clone`, as seccomp profiles answer `clone3` with ENOSYS.
///
/// # Safety
/// As `fork`: with other threads in this process, the child may only make async-signal-safe calls.
pub(super) unsafe fn fork(namespaces: libc::c_int) -> io::Result<libc::pid_t> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: no stack, no tids, no tls: the kernel does what fork does. (The first two arguments are swapped on
    // s390x only, which has no build of this program.)
    let pid = check_long(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    libc::pid_t::try_from(pid).map_err(io::Error::other)
}

/// How long to wait for namespaces that a node just killed is still giving back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tries again while the limit on namespaces is used up: the kernel frees those of ended processes some time later.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// A connected pair of seqpacket sockets.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both are new and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A new close-on-exec socket.
pub(super) fn socket(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option whose value is plain data.
pub(super) fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<T>() as libc::socklen_t)
    })
    .map(drop)
}

pub(super) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: changes this process's namespaces only; the node has one thread.
    check(unsafe { libc::unshare(namespaces) }).map(drop)
}

pub(super) fn setns(namespace: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: as `unshare`.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) }).map(drop)
}

pub(super) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Dies with the thread that made this process.
pub(super) fn die_with_parent() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

pub(super) fn mount(source: &Path, target: &Path, kind: &str, flags: libc::c_ulong, options: &str) -> io::Result<()> {
    let (source, target) = (c_path(source)?, c_path(target)?);
    let (kind, options) = (c_string(kind)?, c_string(options)?);
    // SAFETY: all four are C strings that live until the call returns.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) })
        .map(drop)
}

/// Takes a mount out of sight; it lives on where it is still used.
pub(super) fn detach(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: a C string.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }).map(drop)
}

pub(super) fn pivot_root(new: &Path, old: &Path) -> io::Result<()> {
    let (new, old) = (c_path(new)?, c_path(old)?);
    // SAFETY: two C strings.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) }).map(drop)
}

/// The flags of the mount that `path` lies on, as `mount` wants them back when remounting.
pub(super) fn mount_flags(path: &Path) -> io::Result<libc::c_ulong> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid statvfs.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a place for the answer.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut found) })?;
    let pairs = [
        (libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (libc::ST_RELATIME, libc::MS_RELATIME),
    ];
    Ok(pairs.iter().filter(|(seen, _)| found.f_flag & seen != 0).fold(0, |flags, (_, flag)| flags | flag))
}

/// A descriptor that becomes readable when a child ends; SIGCHLD is blocked from now on.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: sigset_t is plain data, filled by sigemptyset before use.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?
    };
    // SAFETY: new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Back to what a program expects when it starts: nothing blocked, nothing ignored, nothing caught.
pub(super) fn reset_signals() {
    // SAFETY: sets default dispositions and an empty mask; errors (SIGKILL, SIGSTOP, numbers that do not exist) leave
    // things as they are.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Makes `target` a copy of `fd` that survives exec.
pub(super) fn duplicate_to(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 closes whatever `target` was; callers pass numbers they own.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// A close-on-exec copy with a number of at least `lowest`.
pub(super) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on an open descriptor.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Closes every descriptor above standard error but one.
///
/// # Safety
/// Nothing may use or drop an owner of any other descriptor afterwards.
pub(super) unsafe fn close_all_but(kept: RawFd) {
    let close_range = |from: RawFd, to: libc::c_uint| {
        // SAFETY: the caller's promise; an empty range is an error without effect.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) == 0 }
    };
    let below = kept <= 3 || close_range(3, (kept - 1) as libc::c_uint);
    if below && close_range(kept + 1, libc::c_uint::MAX) {
        return;
    }
    // Before Linux 5.9.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in numbers.into_iter().filter(|fd| *fd > 2 && *fd != kept) {
        // SAFETY: the caller's promise.
        unsafe { libc::close(fd) };
    }
}

/// A pidfd of a child, where the kernel has them.
pub(super) fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn kill(pid: libc::pid_t, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A child that has ended, with its wait status; `None` if none has.
pub(super) fn wait_any() -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: a valid place for the status.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Waits for the end of one child.
pub(super) fn wait_for(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: a valid place for the status.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Waits until one of the descriptors is readable (or closed at the other end).
pub(super) fn wait_readable<const N: usize>(fds: [BorrowedFd<'_>; N]) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: pointer and length describe `polled`.
        match check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) }) {
            Ok(_) => return Ok(polled.map(|fd| fd.revents != 0)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The limit on open descriptors.
pub(super) fn descriptor_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(limit)
}

pub(super) fn set_descriptor_limit(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: a valid limit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

/// A session of its own, without controlling terminal.
pub(super) fn new_session() {
    // SAFETY: no arguments; fails only for a process group leader, which a new child is not.
    unsafe { libc::setsid() };
}

/// Makes a terminal the controlling one of this session.
pub(super) fn control_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}
