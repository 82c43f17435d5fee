//! Starting the node process from the supervisor, and saying why it cannot be.

use super::failure::{Failure, NodeError, failed};
use super::wire::{self, Message, Packet};
use super::{Mode, Node, NodeConfig, inside, kernel};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// `Seccomp` of /proc/self/status: a filter is in force.
const SECCOMP_FILTER: u64 = 2;

/// Starts the node process: as root if this process is (with its capabilities), else as an ordinary user.
///
/// Must be called before any thread exists in this process, so before the runtime is built: it forks. The node's life
/// is bound to the calling *thread* (let it be the main one) and to the returned value. Takes two to three
/// milliseconds; longer, up to two seconds, when the machine is short of namespaces.
///
/// # Errors
/// [`NodeError::Threads`] when called too late, [`NodeError::Start`] when this machine does not allow it: the message
/// says which step failed and what is missing.
pub fn start(config: NodeConfig) -> Result<Node, NodeError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(NodeError::Threads(threads));
    }
    check(&config).map_err(NodeError::Start)?;
    let rights = Rights::of_this_process();
    let mode = if rights.can_be_root() { Mode::Root } else { Mode::User };
    let (ours, theirs) =
        kernel::socket_pair().map_err(failed("make a socket to the node")).map_err(NodeError::Start)?;
    let pid = fork(mode).map_err(|error| {
        let why = rights.explain_clone(&error);
        NodeError::Start(Failure::kernel("create the node's namespaces", &error).because(why))
    })?;
    if pid == 0 {
        run_child(ours, theirs, config, mode);
    }
    // From here on a failure must not leave the child behind: it ends when `ours` is dropped.
    drop(theirs);
    let started = (|| {
        if mode == Mode::User {
            map_ids(pid, &rights)?;
        }
        wake(&ours)
    })();
    let first = started.and_then(|()| {
        let received = wire::receive::<Message>(ours.as_fd()).map_err(failed("hear from the node"))?;
        match received {
            Some((Message::Ready { ipv6, notes }, _)) => Ok((ipv6, notes)),
            Some((Message::Failed(failure), _)) => Err(failure),
            _ => Err(Failure::refused("start the node", "its process ended at once; see standard error")),
        }
    });
    match first {
        Ok((ipv6, notes)) => Ok(Node { socket: ours, pid, mode, ipv6, notes }),
        Err(failure) => {
            drop(ours);
            kernel::wait_for(pid);
            Err(NodeError::Start(failure))
        }
    }
}

fn check(config: &NodeConfig) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::refused("accept the node's configuration", why));
    if !(8..=30).contains(&config.ipv4_prefix) || !(16..=126).contains(&config.ipv6_prefix) {
        return refused("the pod network's prefix must be 8 to 30 bits for IPv4, 16 to 126 for IPv6");
    }
    if config.hostname.is_empty() || config.hostname.len() > 64 {
        return refused("the host name must be of 1 to 64 bytes");
    }
    if config.relay_port == 0 {
        return refused("the relay's port must not be 0");
    }
    Ok(())
}

/// The fork with new namespaces; 0 in the child.
fn fork(mode: Mode) -> io::Result<libc::pid_t> {
    let mut flags =
        libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if mode == Mode::User {
        flags |= libc::CLONE_NEWUSER;
    }
    // SAFETY: this process has one thread, as checked by the caller.
    kernel::patiently(|| unsafe { kernel::fork(flags) })
}

/// The child: never returns to the caller's code, whatever happens.
fn run_child(ours: OwnedFd, theirs: OwnedFd, config: NodeConfig, mode: Mode) -> ! {
    // Before anything waits on `theirs`: with the parent's end open here, the parent's death would not be seen.
    std::mem::forget(ours);
    // SAFETY: of the descriptors closed, none is used in this process: it runs `live` and ends.
    unsafe { kernel::close_all_but(theirs.as_raw_fd()) };
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inside::live(theirs, config, mode)));
    if let Ok(Err(failure)) = &lived {
        eprintln!("lateen node: {failure}");
    }
    // SAFETY: ends this process without running what the parent has registered for its own end.
    unsafe { libc::_exit(i32::from(!matches!(lived, Ok(Ok(()))))) }
}

fn wake(socket: &OwnedFd) -> Result<(), Failure> {
    let packet = Packet::encode(&true, vec![]).map_err(|error| Failure::refused("wake the node", error.to_string()))?;
    wire::send(socket.as_fd(), &packet).map_err(failed("wake the node"))
}

/// Makes this user the root of the node's user namespace.
fn map_ids(pid: libc::pid_t, rights: &Rights) -> Result<(), Failure> {
    // SAFETY: no arguments, cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let lines =
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))];
    for (file, line) in lines {
        fs::write(format!("/proc/{pid}/{file}"), line).map_err(|error| {
            let capless_root = user == 0 && error.raw_os_error() == Some(libc::EPERM);
            let why = if capless_root && !rights.is_full() {
                "uid 0 without CAP_SETFCAP cannot own a user namespace: run as an ordinary user, or keep the capability"
            } else {
                ""
            };
            Failure::kernel(format!("write the node's {file}"), &error).because(why)
        })?;
    }
    Ok(())
}

/// What this process may do, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    /// Its user is 0, in whatever user namespace.
    root: bool,
    /// More users than that one exist here, and groups can be changed: not so in an `unshare --map-root-user`.
    users: bool,
    capabilities: u64,
    seccomp: u64,
}

impl Rights {
    fn of_this_process() -> Self {
        // SAFETY: no arguments, cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let text = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self::read(root, &text("status"), &text("uid_map"), &text("setgroups"))
    }

    fn read(root: bool, status: &str, uid_map: &str, setgroups: &str) -> Self {
        let field =
            |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()));
        let capabilities = field("CapEff").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let seccomp = field("Seccomp").and_then(|text| text.parse().ok()).unwrap_or(0);
        let sizes = uid_map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
        let users = setgroups.trim() != "deny" && sizes.sum::<u64>() > 1;
        Self { root, users, capabilities, seccomp }
    }

    /// Namespaces can be made without a user namespace, and containers can be given other users.
    fn can_be_root(self) -> bool {
        self.root && self.users && self.has(CAP_SYS_ADMIN | CAP_NET_ADMIN)
    }

    fn has(self, capabilities: u64) -> bool {
        self.capabilities & capabilities == capabilities
    }

    /// `CAP_SETFCAP` among the others.
    fn is_full(self) -> bool {
        self.has(1 << 31)
    }

    fn explain_clone(self, error: &io::Error) -> String {
        let setting =
            |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned());
        match error.raw_os_error() {
            Some(libc::EPERM) if self.seccomp == SECCOMP_FILTER && !self.has(CAP_SYS_ADMIN) => {
                "the container this runs in forbids namespaces by its seccomp profile, and there is no way round: start \
                 the container with --privileged, or with --security-opt seccomp=unconfined, or run outside of it"
                    .to_owned()
            }
            Some(libc::EPERM) if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") => {
                "ordinary users may not make namespaces here: set kernel.unprivileged_userns_clone=1, or run as root"
                    .to_owned()
            }
            Some(libc::EPERM) => {
                "a process in a chroot cannot make user namespaces, nor one that a security module keeps from it".to_owned()
            }
            Some(libc::ENOSPC) => {
                let limits = ["user/max_user_namespaces", "user/max_net_namespaces", "user/max_pid_namespaces"];
                let limits = limits.map(|name| format!("{}={}", name.replace('/', "."), setting(name).unwrap_or("?".to_owned())));
                format!("no more namespaces are allowed: {} (0 forbids them, else they are used up)", limits.join(", "))
            }
            Some(libc::EINVAL) => "this kernel is built without one of the namespaces (user, net, pid, ipc, uts)".to_owned(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
