//! Nothing is left, whoever is killed.

use crate::Case;
use crate::app::{forever, print_now};
use crate::world::*;
use lateen_local::node::*;
use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    ("a_killed_supervisor_leaves_nothing", a_killed_supervisor_leaves_nothing),
    ("a_killed_supervisor_takes_a_stopped_node_along", a_killed_supervisor_takes_a_stopped_node_along),
    ("a_killed_node_leaves_nothing_and_is_noticed", a_killed_node_leaves_nothing_and_is_noticed),
    ("kills_while_starting_leave_nothing", kills_while_starting_leave_nothing),
    ("namespaces_are_given_back", namespaces_are_given_back),
    ("dropping_the_handle_ends_the_node", dropping_the_handle_ends_the_node),
    ("a_handle_without_node_says_so", a_handle_without_node_says_so),
];

/// A supervisor to be killed: a node with two pods, each with a sidecar and an app that leaves daemons behind.
pub fn supervise(words: &[&str]) -> ExitCode {
    match words {
        ["few-namespaces"] => return with_few_namespaces(),
        ["full"] => return fill_all_namespaces(),
        _ => {}
    }
    let node = start_or_explain();
    print_now(&format!("node {}", node.pid()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let node = node.into_handle().unwrap();
        for last in 2..4 {
            let pod = node.create_pod(redirected("a", last)).await.unwrap();
            // Each says so when its own processes are there.
            for role in [Role::Proxy, APP, Role::App { user: Some(1000), group: None }] {
                let (from, stdout) = std::io::pipe().unwrap();
                let spawn = Spawn { stdout: Some(stdout.into()), ..app(Place::Pod(pod), role, &["daemons"]) };
                node.spawn(spawn).await.unwrap();
                let mut line = String::new();
                BufReader::new(std::fs::File::from(std::os::fd::OwnedFd::from(from))).read_line(&mut line).unwrap();
            }
        }
        print_now("ready");
        if words == ["drop"] {
            drop(node);
            let mut line = String::new();
            // Stays alive itself.
            std::io::stdin().read_line(&mut line).unwrap();
            return;
        }
        node.closed().await;
        print_now("closed");
        forever();
    });
    ExitCode::SUCCESS
}

pub struct Supervisor {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    node: u32,
}

impl Supervisor {
    pub fn start(words: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--supervisor")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let node = line.trim().strip_prefix("node ").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Self { child, output, node }
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // A failed case must not leave it behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes by pid and start time, so that a reused number is no surprise.
type Processes = BTreeSet<(u32, String)>;

/// All living processes (no zombies: they wait for their parent, which need not be ours), with their parent.
fn processes() -> HashMap<(u32, String), u32> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        if !["Z", "X"].contains(&fields[0]) {
            found.insert((pid, fields[19].to_owned()), fields[1].parse().unwrap());
        }
    }
    found
}

/// A process and all below it.
fn family(root: u32) -> Processes {
    let all = processes();
    let mut family: Processes = all.keys().filter(|(pid, _)| *pid == root).cloned().collect();
    loop {
        let more: Vec<_> = all
            .iter()
            .filter(|(id, parent)| !family.contains(*id) && family.iter().any(|(pid, _)| pid == *parent))
            .map(|(id, _)| id.clone())
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn gone(family: &Processes) {
    wait_until("all processes are gone", || {
        let all = processes();
        !family.iter().any(|id| all.contains_key(id))
    });
}

/// What the host shows of its own network and mounts.
fn host() -> (String, Vec<String>) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut links: Vec<_> = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // Other programs come and go with links of these kinds.
        .filter(|name| name == "br0" || name == "v1" || name == "v2" || name == "eth0")
        .collect();
    links.sort();
    (mounts, links)
}

/// Supervisor, node, and in each of two pods three containers of three processes.
const FAMILY: usize = 2 + 2 * 3 * 3;

fn whole_family(supervisor: &mut Supervisor) -> Processes {
    supervisor.expect("ready");
    let found = family(supervisor.child.id());
    assert_eq!(found.len(), FAMILY, "{found:?}");
    found
}

fn a_killed_supervisor_leaves_nothing() {
    let before = host();
    let mut supervisor = Supervisor::start(&[]);
    let family = whole_family(&mut supervisor);
    assert_eq!(host(), before, "the host sees nothing of the node");
    let since = Instant::now();
    supervisor.kill();
    gone(&family);
    print_now(&format!("measured: {} processes gone {:.1?} after kill -9", family.len(), since.elapsed()));
    assert_eq!(host(), before);
    // And the next one starts at once.
    let mut supervisor = Supervisor::start(&[]);
    let family = whole_family(&mut supervisor);
    supervisor.kill();
    gone(&family);
}

fn a_killed_supervisor_takes_a_stopped_node_along() {
    let mut supervisor = Supervisor::start(&[]);
    let family = whole_family(&mut supervisor);
    // SAFETY: a signal to a process of ours.
    assert_eq!(unsafe { libc::kill(supervisor.node as i32, libc::SIGSTOP) }, 0);
    supervisor.kill();
    gone(&family);
}

fn a_killed_node_leaves_nothing_and_is_noticed() {
    let mut supervisor = Supervisor::start(&[]);
    whole_family(&mut supervisor);
    let node = family(supervisor.node);
    assert_eq!(node.len(), FAMILY - 1);
    // SAFETY: a signal to a process of ours.
    assert_eq!(unsafe { libc::kill(supervisor.node as i32, libc::SIGKILL) }, 0);
    supervisor.expect("closed");
    gone(&node);
    supervisor.kill();
}

fn kills_while_starting_leave_nothing() {
    let before = host();
    for round in 0..30u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--supervisor")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the first milliseconds: wherever it is, the outcome must be the same.
        let until = Instant::now() + Duration::from_micros(round * 700);
        let mut seen = Processes::new();
        while Instant::now() < until {
            seen.extend(family(child.id()));
        }
        seen.extend(family(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        gone(&seen);
    }
    assert_eq!(host(), before);
}

fn dropping_the_handle_ends_the_node() {
    let mut supervisor = Supervisor::start(&["drop"]);
    supervisor.expect("ready");
    wait_until("only the supervisor is left", || family(supervisor.child.id()).len() == 1);
    supervisor.kill();
}

/// Ten nodes one after the other, each killed when it has used up all namespaces there are.
fn with_few_namespaces() -> ExitCode {
    crate::machines::limit_network_namespaces(4);
    for _ in 0..10 {
        let mut supervisor = Supervisor::start(&["full"]);
        supervisor.expect("ready");
        supervisor.kill();
    }
    let mut supervisor = Supervisor::start(&["full"]);
    supervisor.expect("ready");
    // One too many.
    use std::io::Write;
    supervisor.child.stdin.take().unwrap().write_all(b"more\n").unwrap();
    let mut text = String::new();
    supervisor.output.read_line(&mut text).unwrap();
    print_now(&text);
    supervisor.kill();
    ExitCode::SUCCESS
}

fn fill_all_namespaces() -> ExitCode {
    let node = start_or_explain();
    print_now(&format!("node {}", node.pid()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = node.into_handle().unwrap();
        for last in 2..5 {
            let pod = node.create_pod(redirected("a", last)).await.unwrap();
            // Apps work here too, although this process is no root that could give them users.
            let role = Role::App { user: Some(1000), group: Some(1000) };
            node.spawn(app(Place::Pod(pod), role, &["hold"])).await.unwrap();
        }
        print_now("ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        match node.create_pod(pod("more", 9)).await {
            Ok(_) => print_now("one more"),
            Err(error) => print_now(&error.to_string()),
        }
        node.closed().await;
    });
    ExitCode::SUCCESS
}

fn namespaces_are_given_back() {
    let output =
        Command::new(std::env::current_exe().unwrap()).args(["--supervisor", "few-namespaces"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("create pod test/more: make the namespaces") && text.contains("used up"), "{text}");
}

fn a_handle_without_node_says_so() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("a", 2)).await.unwrap();
        let mut held = node.spawn(app(Place::Pod(pod), APP, &["hold"])).await.unwrap();
        let waiting = tokio::spawn(async move { (held.wait().await, held.status()) });
        // SAFETY: a signal to a process of ours.
        assert_eq!(unsafe { libc::kill(node.pid() as i32, libc::SIGKILL) }, 0);
        node.closed().await;
        let (ended, status) = waiting.await.unwrap();
        assert!(matches!(ended, Err(NodeError::Gone)) && status.is_none(), "{ended:?}");
        assert!(matches!(node.delete_pod(pod).await, Err(NodeError::Gone)));
        assert!(matches!(node.spawn(Spawn::new(Place::Node, ["true"])).await, Err(NodeError::Gone)));
        // Reaped: not even a zombie.
        assert!(!std::path::Path::new(&format!("/proc/{}", node.pid())).exists());
    });
}
