//! A network of a test's own, in which every address is this machine's and redirect rules lead to a sidecar's
//! ports, as they do in a pod.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::{names, peers};

/// Clients' addresses: what comes from here is redirected, what a proxy sends is not.
pub const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 16, 0, 0);
/// Length of the clients' common prefix, in bits.
const CLIENTS_PREFIX: u8 = 12;

/// Moves the calling thread, with every thread and process it starts from now on, into a new network. There
/// connections from [`CLIENTS`] to `pod` arrive at port 15006 and those to any other address at 15001, apart from
/// those to `direct`, which arrive where they are sent. Names are asked of [`names::SERVER`].
///
/// # Panics
/// When the kernel refuses: it takes root, or a user namespace in which one is root.
pub fn enter(pod: Ipv4Addr, direct: Ipv4Addr) {
    // SAFETY: concerns the calling thread alone.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(entered, 0, "namespaces of its own (run as root): {}", std::io::Error::last_os_error());
    run("mount", &["--make-rprivate", "/"]);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), format!("nameserver {}\n", names::SERVER)).expect("it can be written");
    run("mount", &["--bind", &file.path().to_string_lossy(), "/etc/resolv.conf"]);
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["route", "add", "local", "0.0.0.0/0", "dev", "lo"]);
    let clients = format!("{CLIENTS}/{CLIENTS_PREFIX}");
    let rules = format!(
        "table inet test {{ chain out {{ type nat hook output priority -100;\n\
         ip saddr != {clients} accept\n\
         ip daddr {direct} accept\n\
         meta l4proto tcp ip daddr {pod} redirect to :15006\n\
         meta l4proto tcp redirect to :15001\n\
         }}\n}}"
    );
    run("nft", &[&rules]);
}

/// Whether this process may [`enter`] a network. If not, because an ordinary user runs it, it is run again with
/// `arguments` where that user is root, and only its success counts.
///
/// # Panics
/// When it fails there.
pub fn may_enter(arguments: &[String]) -> bool {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    let program = std::env::current_exe().expect("the path of this program");
    let mut again = Command::new(peers::program("unshare"));
    let status = again.arg("--map-root-user").arg(program).args(arguments).status().expect("unshare starts");
    assert!(status.success(), "as root of a user namespace: {status}");
    false
}

/// The same for the calling test.
///
/// # Panics
/// When it fails there.
pub fn test_may_enter() -> bool {
    let own = std::thread::current();
    may_enter(&["--exact", own.name().unwrap_or_default(), "--nocapture"].map(str::to_owned))
}

/// The calling test, in a network of its own as [`enter`] makes it.
///
/// # Panics
/// When the network cannot be made, and with the test.
pub fn alone(pod: Ipv4Addr, direct: Ipv4Addr, test: impl Future<Output = ()>) {
    if test_may_enter() {
        enter(pod, direct);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(test);
    }
}

/// The address of client number `index`.
pub fn client(index: u32) -> Ipv4Addr {
    let room = 1 << (32 - CLIENTS_PREFIX);
    Ipv4Addr::from(u32::from(CLIENTS) + 1 + index % (room - 2))
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(peers::program(program)).args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
