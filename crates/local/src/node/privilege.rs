//! What a container may do. The point of it all: an app must not be able to pass its pod's redirect rules or change
//! the pod's network, whatever user it runs as.

use super::Mode;
use super::failure::{Failure, failed};
use super::kernel;
use super::request::Role;
use std::fs;
use std::io;
use std::path::Path;

/// Capability numbers of linux/capability.h.
const CAP_NET_RAW: u8 = 13;
/// What a container keeps when it runs as root: the set container runtimes give, without `CAP_MKNOD` (no device
/// filter here) and without `CAP_NET_RAW` (it allows `SO_MARK`). Ports below 1024 need none (sysctl of the pod).
const KEPT: [u8; 11] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    18, // SYS_CHROOT
    31, // SETFCAP
];
const HIGHEST_CAPABILITY: u8 = 63;
/// Paths by which uid 0 changes the machine without any capability.
const MACHINE_CONTROLS: [&str; 2] = ["/proc/sys", "/proc/sysrq-trigger"];

/// Makes the machine's controls read-only in the current mount namespace (the container's own). Needed when the app's
/// uid 0 is the machine's.
pub(super) fn protect_machine(mode: Mode) -> Result<(), Failure> {
    if mode == Mode::User {
        return Ok(());
    }
    for path in MACHINE_CONTROLS.map(Path::new).into_iter().filter(|path| path.exists()) {
        let flags = libc::MS_BIND | libc::MS_REC;
        let protected = kernel::mount(path, path, "", flags, "").and_then(|()| {
            let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | kernel::mount_flags(path)?;
            kernel::mount(Path::new(""), path, "", flags, "")
        });
        protected.map_err(failed(format!("make {} read-only", path.display())))?;
    }
    Ok(())
}

/// Takes on the role for good; the next step is exec.
pub(super) fn assume(role: Role, mode: Mode) -> Result<(), Failure> {
    match (role, mode) {
        (Role::Proxy, _) => limit(Some(CAP_NET_RAW)),
        (Role::App { user, group }, Mode::Root) => {
            limit(None)?;
            become_user(user.unwrap_or(0), group.unwrap_or(0))
        }
        // One more user namespace: whatever the app is in there, it has no right over the pod's network out here.
        (Role::App { user, group }, Mode::User) => {
            kernel::unshare(libc::CLONE_NEWUSER).map_err(failed("make the app's user namespace"))?;
            // Denied already for the node; writing it again is needed for the map.
            let _ = fs::write("/proc/self/setgroups", "deny");
            let map = |id: Option<u32>| format!("{} 0 1", id.unwrap_or(0));
            fs::write("/proc/self/uid_map", map(user)).map_err(failed("map the app's user"))?;
            fs::write("/proc/self/gid_map", map(group)).map_err(failed("map the app's group"))
        }
    }
}

/// Drops every capability that a container does not keep, so that exec cannot bring it back.
fn limit(also: Option<u8>) -> Result<(), Failure> {
    // SAFETY: prctl with integers only.
    let prctl = |option, argument: libc::c_ulong| unsafe { libc::prctl(option, argument, 0, 0, 0) };
    for capability in (0..=HIGHEST_CAPABILITY).filter(|it| !KEPT.contains(it) && Some(*it) != also) {
        // EINVAL: the kernel does not know so many.
        let known = prctl(libc::PR_CAPBSET_READ, capability.into());
        if known == 1 && prctl(libc::PR_CAPBSET_DROP, capability.into()) < 0 {
            return Err(failed("drop the capabilities")(io::Error::last_os_error()));
        }
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong);
    clear_inheritable().map_err(failed("drop the inheritable capabilities"))
}

/// Empties the inheritable set, which exec as root would otherwise add to what the bounding set allows.
fn clear_inheritable() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two words a set.
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: the layouts are capget(2)'s, for version 3.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for word in &mut data {
        word.inheritable = 0;
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn become_user(user: u32, group: u32) -> Result<(), Failure> {
    // SAFETY: integers, and an empty list of groups.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(group, group, group) == 0
            && libc::setresuid(user, user, user) == 0
    };
    if done { Ok(()) } else { Err(failed(format!("become user {user}, group {group}"))(io::Error::last_os_error())) }
}
