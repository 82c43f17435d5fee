//! Machines that cannot run pods say why.

use crate::Case;
use lateen_local::node::*;
use std::path::Path;
use std::process::{Command, ExitCode};

pub const CASES: &[Case] = &[
    ("a_machine_without_namespaces_is_explained", a_machine_without_namespaces_is_explained),
    ("a_chroot_is_explained", a_chroot_is_explained),
    ("a_container_that_forbids_namespaces_is_explained", a_container_that_forbids_namespaces_is_explained),
];

/// Plays such a machine: `node.rs` calls it in a process of its own.
pub fn play(words: &[&str]) -> ExitCode {
    match words {
        ["no-namespaces"] => without_namespaces(),
        ["chroot", root] => in_a_chroot(Path::new(root)),
        ["seccomp"] => behind_a_filter(),
        _ => panic!("no such machine: {words:?}"),
    }
}

fn said_by(words: &[&str]) -> String {
    let output = Command::new(std::env::current_exe().unwrap()).arg("--machine").args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes this process, of one thread, the root of a user namespace (and more).
fn enter_user_namespace(more: i32) {
    // SAFETY: no arguments, cannot fail; then new namespaces for this process.
    unsafe {
        let (user, group) = (libc::geteuid(), libc::getegid());
        assert_eq!(libc::unshare(libc::CLONE_NEWUSER | more), 0, "{}", std::io::Error::last_os_error());
        std::fs::write("/proc/self/setgroups", "deny").unwrap();
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).unwrap();
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).unwrap();
    }
}

/// Makes this process the root of a user namespace in which only so many network namespaces may exist.
pub fn limit_network_namespaces(limit: u32) {
    enter_user_namespace(0);
    std::fs::write("/proc/sys/user/max_net_namespaces", limit.to_string()).unwrap();
}

/// An ordinary machine on which network namespaces are forbidden.
fn without_namespaces() -> ExitCode {
    limit_network_namespaces(0);
    say_how_it_starts()
}

fn a_machine_without_namespaces_is_explained() {
    let output = Command::new(std::env::current_exe().unwrap()).args(["--machine", "no-namespaces"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("create the node's namespaces") && text.contains("user.max_net_namespaces=0"), "{text}");
}

/// A root that is a plain directory, with all of the machine bound into it.
fn in_a_chroot(root: &Path) -> ExitCode {
    // SAFETY: no arguments, cannot fail.
    let privileged = unsafe { libc::geteuid() } == 0;
    if privileged {
        // SAFETY: new mounts for this process alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        mount("none", "/", libc::MS_REC | libc::MS_PRIVATE);
    } else {
        enter_user_namespace(libc::CLONE_NEWNS);
    }
    for entry in std::fs::read_dir("/").unwrap().flatten() {
        let target = root.join(entry.file_name());
        if entry.file_type().unwrap().is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            mount(entry.path().to_str().unwrap(), target.to_str().unwrap(), libc::MS_BIND | libc::MS_REC);
        }
    }
    std::os::unix::fs::chroot(root).unwrap();
    std::env::set_current_dir("/").unwrap();
    say_how_it_starts()
}

fn say_how_it_starts() -> ExitCode {
    match start(NodeConfig::default()) {
        Ok(_) => println!("started"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}

fn mount(source: &str, target: &str, flags: libc::c_ulong) {
    let (source, target) = (std::ffi::CString::new(source).unwrap(), std::ffi::CString::new(target).unwrap());
    // SAFETY: C strings that outlive the call.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    assert_eq!(done, 0, "{target:?}: {}", std::io::Error::last_os_error());
}

fn a_chroot_is_explained() {
    let root = tempfile::tempdir_in("/tmp").unwrap();
    let text = said_by(&["chroot", root.path().to_str().unwrap()]);
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let step = if root { "make the mounts private" } else { "create the node's namespaces" };
    assert!(text.contains(step) && text.contains("chroot"), "{text}");
}

/// What a container runtime's default filter does to a process without `CAP_SYS_ADMIN`.
fn behind_a_filter() -> ExitCode {
    const NAMESPACES: u32 = 0x7e02_0000;
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let any = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // The call's number, then for clone and unshare the low half of its first argument.
        step(load, 0, 0, 0),
        step(equal, libc::SYS_clone as u32, 1, 0),
        step(equal, libc::SYS_unshare as u32, 0, 3),
        step(load, 16, 0, 0),
        step(any, NAMESPACES, 0, 1),
        step(answer, refuse, 0, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` describes `filter`; both live until the calls return. An ordinary user installs its own filter.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
        }
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
    say_how_it_starts()
}

fn a_container_that_forbids_namespaces_is_explained() {
    let text = said_by(&["seccomp"]);
    assert!(
        text.contains("create the node's namespaces") && text.contains("--security-opt seccomp=unconfined"),
        "{text}"
    );
}
