use super::*;

const FULL: &str = "Name:\tx\nCapEff:\t000001fffeffffff\nSeccomp:\t0\nSeccomp_filters:\t0\n";
const DOCKER: &str = "Name:\tx\nCapEff:\t00000000a80425fb\nSeccomp:\t2\nSeccomp_filters:\t1\n";

const ALL: &str = "         0          0 4294967295\n";

fn rights(root: bool, status: &str) -> Rights {
    Rights::read(root, status, ALL, "allow\n")
}

#[test]
fn root_with_its_capabilities_needs_no_user_namespace() {
    assert!(rights(true, FULL).can_be_root());
    assert!(!rights(false, FULL).can_be_root());
    assert!(!rights(true, DOCKER).can_be_root());
    assert!(!rights(true, "").can_be_root());
}

#[test]
fn the_only_user_of_a_user_namespace_is_no_root() {
    assert!(!Rights::read(true, FULL, "         0       1000          1\n", "deny\n").can_be_root());
    assert!(!Rights::read(true, FULL, ALL, "deny\n").can_be_root());
    // As rootless containers have it.
    let subordinate = "         0       1000          1\n         1     100000      65536\n";
    assert!(Rights::read(true, FULL, subordinate, "allow\n").can_be_root());
}

#[test]
fn a_container_that_forbids_namespaces_is_named_as_the_cause() {
    let refused = io::Error::from_raw_os_error(libc::EPERM);
    assert!(rights(true, DOCKER).explain_clone(&refused).contains("seccomp"));
    assert!(!rights(true, FULL).explain_clone(&refused).contains("seccomp"));
}

#[test]
fn used_up_namespaces_are_shown_with_the_limits() {
    let why = rights(true, FULL).explain_clone(&io::Error::from_raw_os_error(libc::ENOSPC));
    assert!(why.contains("user.max_user_namespaces="), "{why}");
}

#[test]
fn a_program_with_threads_is_refused() {
    let started = std::thread::spawn(|| start(NodeConfig::default())).join().unwrap();
    assert!(matches!(started, Err(NodeError::Threads(threads)) if threads > 1));
}

#[test]
fn configuration_out_of_range_is_refused() {
    let config = NodeConfig { ipv4_prefix: 31, ..NodeConfig::default() };
    assert!(check(&config).unwrap_err().to_string().contains("prefix"));
    assert!(check(&NodeConfig::default()).is_ok());
}
