//! A whole mesh on this machine, as a person would run it: `lateen up` and the commands beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::load::Target;
use crate::message::{Reader, Side};
use crate::peers;
use crate::process::Process;
use crate::wait;

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Invoker,
    /// An ordinary user without any privilege (uid 65534).
    Nobody,
}

const NOBODY: u32 = 65534;

/// A running mesh.
pub struct Mesh {
    supervisor: Process,
    user: User,
    dir: TempDir,
}

impl Mesh {
    /// A directory for a mesh: manifests are written to it and the state dir is inside.
    pub fn place(user: User) -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if user == User::Nobody {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("give the directory away (run as root)");
        }
        // Pods' processes of other users pass through it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        dir
    }

    /// Starts `lateen up` on the manifests in `DIR/manifests`, without waiting for anything.
    pub fn up(dir: TempDir, user: User, options: &[&str]) -> Mesh {
        let supervisor = Mesh::supervise(dir.path(), user, options);
        Mesh { supervisor, user, dir }
    }

    fn supervise(dir: &Path, user: User, options: &[&str]) -> Process {
        let mut command = lateen(user);
        command.arg("up").arg(dir.join("manifests")).arg("--state-dir").arg(dir.join("state")).args(options);
        Process::start(command, "up", dir)
    }

    /// Starts it again, in the same place, after it was ended.
    pub fn up_again(&mut self, options: &[&str]) {
        self.supervisor = Mesh::supervise(self.dir.path(), self.user, options);
    }

    /// The manifests it watches.
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn supervisor(&mut self) -> &mut Process {
        &mut self.supervisor
    }

    /// Everything `lateen up` wrote.
    pub fn output(&self) -> String {
        self.supervisor.output()
    }

    /// A `lateen` command for this mesh, `--state-dir` put before `--`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = lateen(self.user);
        let split = arguments.iter().position(|word| *word == "--").unwrap_or(arguments.len());
        command.args(&arguments[..split]).arg("--state-dir").arg(self.state()).args(&arguments[split..]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        output.expect("a thread to wait").expect("lateen starts")
    }

    /// Runs it and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn prints(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lateen {arguments:?}: {}\n{text}{errors}", output.status);
        text
    }

    /// Where the ingress gateway answers, once it is told.
    pub async fn ingress(&self) -> SocketAddr {
        wait::until("`lateen ingress` names an address", || async {
            let output = self.run(&["ingress"]).await;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.trim().strip_prefix("http://")?.parse().ok()
        })
        .await
    }

    /// Waits until the ingress gateway answers 200.
    ///
    /// # Panics
    /// With what `lateen up` wrote, when it does not.
    pub async fn answers(&self, host: &str, path: &str) -> Target {
        let target = Target::new(self.ingress().await, host, path);
        let good = wait::within(wait::PATIENCE, || async {
            let answer = target.ask().await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
        if good.is_none() {
            panic!("{target:?}: no 200, last {:?}\n{}", target.ask().await, self.output());
        }
        target
    }

    /// The pods of a namespace as the API tells them.
    pub async fn pods(&self, namespace: &str) -> Vec<Value> {
        let text = self.prints(&["get", "pods", "-n", namespace, "-o", "json"]).await;
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        match list.get("items") {
            Some(Value::Array(items)) => items.clone(),
            _ => vec![list],
        }
    }

    /// Waits until so many pods of a namespace are there, all of them ready, and everything is in force: Services lead to
    /// their pods, and every proxy knows.
    ///
    /// # Panics
    /// With what `lateen up` wrote, when they are not.
    pub async fn ready(&self, namespace: &str, count: usize) {
        let ready = wait::within(wait::PATIENCE, || async {
            let output = self.run(&["get", "pods", "-n", namespace, "-o", "json"]).await;
            let list: Value = serde_json::from_slice(&output.stdout).ok()?;
            let pods = list.get("items")?.as_array()?;
            (pods.len() == count && pods.iter().all(is_ready)).then_some(())
        })
        .await;
        assert!(
            ready.is_some(),
            "{count} ready pods in {namespace}: {:#?}\n{}",
            self.pods(namespace).await,
            self.output()
        );
        let (manifests, patience) = (self.manifests(), format!("{}s", wait::PATIENCE.as_secs()));
        self.prints(&["apply", "-f", &manifests.to_string_lossy(), "--wait", "--timeout", &patience]).await;
    }

    /// The name of the only pod of a namespace whose name begins so.
    pub async fn pod(&self, namespace: &str, prefix: &str) -> String {
        let names: Vec<String> = self
            .pods(namespace)
            .await
            .iter()
            .filter_map(|pod| pod.pointer("/metadata/name")?.as_str().map(str::to_owned))
            .filter(|name| name.starts_with(prefix))
            .collect();
        assert_eq!(names.len(), 1, "pods {prefix}* in {namespace}: {names:?}");
        names[0].clone()
    }

    /// A page of the control plane.
    ///
    /// # Panics
    /// When it does not answer 200.
    pub async fn control_plane(&self, path: &str) -> String {
        let socket = self.state().join("control-plane.sock");
        let mut stream =
            UnixStream::connect(&socket).await.unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the request is taken");
        let answer = Reader::new(stream).message(Side::Response).await.expect("an answer of the control plane");
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        answer.text()
    }

    /// Every process that belongs to it, the supervisor with its descendants, by pid.
    pub fn processes(&self) -> BTreeMap<i32, Running> {
        descendants(self.supervisor.pid())
    }

    /// The only process of it whose command line holds all these words.
    ///
    /// # Panics
    /// When there is none or there are several.
    pub fn process(&self, words: &[&str]) -> i32 {
        let found: Vec<i32> = self
            .processes()
            .into_iter()
            .filter(|(_, process)| words.iter().all(|word| process.line.contains(word)))
            .map(|(pid, _)| pid)
            .collect();
        assert_eq!(found.len(), 1, "processes with {words:?} among {:#?}", self.processes());
        found[0]
    }

    /// `lateen down`.
    pub async fn down(&mut self) {
        self.prints(&["down"]).await;
        let status = self.supervisor.exit().await;
        assert!(status.success(), "`lateen up` ended with {status} after `lateen down`:\n{}", self.output());
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn lateen(user: User) -> Command {
    match user {
        User::Invoker => Command::new(peers::lateen()),
        User::Nobody => {
            let mut command = Command::new(peers::program("setpriv"));
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(peers::lateen());
            command.env("HOME", "/").env_remove("XDG_RUNTIME_DIR");
            command
        }
    }
}

/// A process as seen in /proc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its command line, blanks between the words.
    pub line: String,
    /// When it started, in ticks since boot: with the pid, its identity.
    pub started: u64,
    /// Its network, mount and pid namespaces.
    pub namespaces: BTreeSet<String>,
}

fn look(pid: i32) -> Option<(i32, Running)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let namespaces = ["net", "mnt", "pid"]
        .iter()
        .filter_map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let running = Running {
        line: String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned(),
        started: fields.get(19)?.parse().ok()?,
        namespaces,
    };
    Some((fields.get(1)?.parse().ok()?, running))
}

fn everything() -> BTreeMap<i32, (i32, Running)> {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, look(pid)?)))
        .collect()
}

fn descendants(root: i32) -> BTreeMap<i32, Running> {
    let all = everything();
    let mut found = BTreeSet::from([root]);
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, (parent, _))| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    all.into_iter().filter(|(pid, _)| found.contains(pid)).map(|(pid, (_, running))| (pid, running)).collect()
}

/// What a mesh has made on this machine, to check that all of it goes away.
#[derive(Debug)]
pub struct Traces {
    processes: BTreeMap<i32, Running>,
    /// Namespaces of the mesh that are not the test's own.
    namespaces: BTreeSet<String>,
    /// The host's links before.
    links: BTreeSet<String>,
}

impl Traces {
    /// Looks at a running mesh. `links` are the host's before it was started.
    pub fn of(mesh: &Mesh, links: BTreeSet<String>) -> Traces {
        let processes = mesh.processes();
        let own = look(std::process::id() as i32).map(|(_, own)| own.namespaces).unwrap_or_default();
        let namespaces = processes
            .values()
            .flat_map(|process| process.namespaces.iter().cloned())
            .filter(|ns| !own.contains(ns))
            .collect();
        Traces { processes, namespaces, links }
    }

    /// Which namespaces it had of its own.
    pub fn namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// What is still there.
    pub fn left(&self, state: &Path) -> Vec<String> {
        let all = everything();
        let mut left = Vec::new();
        for (pid, before) in &self.processes {
            if let Some((_, now)) = all.get(pid)
                && now.started == before.started
            {
                left.push(format!("process {pid}: {}", before.line));
            }
        }
        for (pid, (_, process)) in &all {
            for namespace in process.namespaces.intersection(&self.namespaces) {
                left.push(format!("{namespace}, held by {pid}: {}", process.line));
            }
        }
        for link in links().difference(&self.links) {
            left.push(format!("link {link}"));
        }
        let state = state.to_string_lossy();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(state.as_ref())).map(|line| format!("mount {line}")));
        left
    }

    /// Waits until nothing is left.
    ///
    /// # Panics
    /// With what is left.
    pub async fn vanish(&self, state: &Path) {
        let gone = wait::within(wait::PATIENCE, || async { self.left(state).is_empty().then_some(()) }).await;
        assert!(gone.is_some(), "left behind: {:#?}", self.left(state));
    }
}

/// The host's network links.
pub fn links() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
