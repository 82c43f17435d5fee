//! One container kept running: started, watched, restarted, stopped.
//!
//! A container that ends is restarted as its pod's `restartPolicy` says: the first time at once, then after
//! 100 ms, doubling up to 10 s (Kubernetes: 10 s doubling to 5 min); a run of 10 s or more starts that anew.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::bootstrap::ProxyType;
use super::command::{expand, expand_shell};
use super::environment::{self, environment};
use super::logs::{ContainerLog, Stream};
use super::probe::{Plan, Target, until_failure, until_success};
use super::status::{ContainerState, Doing, Ending, PodState};
use super::{Context, agent, exec};
use crate::admission::PROXY_CONTAINER;
use crate::node::{self, ExitStatus, NodeError, Place, Program, Role, Spawn};

/// First and longest pause before a restart.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A run of this length proves that restarting helps.
const STABLE: Duration = Duration::from_secs(10);
/// A deleted pod's application goes on for so long before it is told to end: by then every proxy has heard that the pod
/// takes no more requests, and those already on their way are answered. (Kubernetes tells both at once, and people
/// put a sleep of this kind into `preStop`.)
const FAREWELL: Duration = Duration::from_millis(500);
/// The name by which a manifest runs this very program.
const OWN_NAME: &str = "lateen";

/// One container of one pod.
#[derive(Debug, Clone)]
pub struct Job {
    /// What all pods share.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// Where the pod is.
    pub place: Place,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Set for the mesh's own proxy: which part it plays.
    pub proxy: Option<ProxyType>,
    /// Where its state is told.
    pub report: watch::Sender<PodState>,
    /// When it must be gone; set once.
    pub stop: watch::Receiver<Option<Instant>>,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// However it ended.
    Always,
    /// Unless it ended with 0.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// The pod's.
    pub fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            _ => Self::Always,
        }
    }

    /// An init container's: it runs until it succeeds once, unless it is a sidecar or its pod never restarts.
    pub fn of_init(container: &Container, pod: &Pod) -> Self {
        match (container.restart_policy.as_deref(), Self::of(pod)) {
            (Some("Always"), _) => Self::Always,
            (_, Self::Never) => Self::Never,
            _ => Self::OnFailure,
        }
    }

    fn restarts(self, exit: ExitStatus) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit.code() != 0,
            Self::Never => false,
        }
    }
}

/// Why a run did not even begin.
struct NotStarted {
    reason: &'static str,
    message: String,
}

impl NotStarted {
    fn config(error: impl std::fmt::Display) -> Self {
        Self { reason: "CreateContainerConfigError", message: error.to_string() }
    }

    fn run(error: impl std::fmt::Display) -> Self {
        Self { reason: "RunContainerError", message: error.to_string() }
    }
}

impl Job {
    fn update(&self, change: impl FnOnce(&mut ContainerState)) {
        self.report.send_if_modified(|pod| {
            let state = pod.containers.entry(self.container.name.clone()).or_default();
            let before = state.clone();
            change(state);
            *state != before
        });
    }

    /// Runs the container until it has ended for good.
    pub async fn supervise(mut self, policy: RestartPolicy) {
        self.run(policy).await;
        if let Some(hosts) = self.context.inherit_from.as_ref().filter(|_| self.proxy == Some(ProxyType::Router)) {
            hosts.gateway_ended(&self.pod);
        }
    }

    async fn run(&mut self, policy: RestartPolicy) {
        let log = self.context.logs.of(self.pod.metadata.uid.as_deref().unwrap_or_default(), &self.container.name);
        let mut pause = Duration::ZERO;
        let mut run = 0;
        loop {
            let started = crate::clock::now();
            let begun = Instant::now();
            let (exit, message) = match self.start(&log, run).await {
                Ok(container) => (Some(self.attend(container, &log).await), String::new()),
                Err(failed) => {
                    tracing::debug!(container = self.container.name, message = failed.message, "not started");
                    let (reason, message) = (failed.reason.to_owned(), failed.message);
                    self.update(|state| {
                        state.doing = Doing::Waiting { reason, message: message.clone() };
                        state.ready = false;
                    });
                    (None, message)
                }
            };
            log.end();
            let stopping = self.stop.borrow().is_some();
            if let Some(exit) = exit {
                let ending = Ending { exit, started, finished: crate::clock::now(), message };
                let again = policy.restarts(exit);
                self.update(|state| {
                    (state.ready, state.started) = (false, false);
                    state.last = Some(ending.clone());
                    if stopping || !again {
                        state.doing = Doing::Ended(ending);
                    }
                });
                if !again {
                    return;
                }
            }
            if stopping {
                return;
            }
            if begun.elapsed() >= STABLE {
                pause = Duration::ZERO;
            }
            if exit.is_some() && !pause.is_zero() {
                let message = format!("back-off {pause:?} restarting failed container={}", self.container.name);
                self.update(|state| state.doing = Doing::Waiting { reason: "CrashLoopBackOff".to_owned(), message });
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop.wait_for(Option::is_some) => return,
            }
            pause = (pause * 2).clamp(BACK_OFF.0, BACK_OFF.1);
            if exit.is_some() {
                run += 1;
                self.update(|state| state.restarts = run);
            }
        }
    }

    /// Begins one run.
    async fn start(&self, log: &Arc<ContainerLog>, run: u32) -> Result<node::Container, NotStarted> {
        let mut spawn = self.spawn()?;
        log.begin(run).map_err(NotStarted::run)?;
        for (stream, end) in [(Stream::Stdout, &mut spawn.stdout), (Stream::Stderr, &mut spawn.stderr)] {
            let (read, write) = io::pipe().map_err(NotStarted::run)?;
            let read = pipe::Receiver::from_owned_fd(read.into()).map_err(NotStarted::run)?;
            *end = Some(write.into());
            tokio::spawn(Arc::clone(log).copy(read, stream));
        }
        self.context.node.spawn(spawn).await.map_err(NotStarted::run)
    }

    /// What to run, without streams.
    fn spawn(&self) -> Result<Spawn, NotStarted> {
        let context = &self.context;
        let snapshot = context.store.snapshot();
        let mut env = environment(&self.pod, &self.container, &snapshot, context.running(&self.addresses))
            .map_err(NotStarted::config)?;
        let image = self.container.image.as_deref().unwrap_or_default();
        let given = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
        let mapped = context.images.of(image).is_some();
        let hidden = self.hidden();
        let (argv, program, role, mut listeners);
        listeners = Vec::new();
        if let Some(kind) = &self.proxy {
            let bootstrap = agent::bootstrap();
            environment::set(&mut env, "BOOTSTRAP", bootstrap.clone());
            let told = agent::arguments(context, &self.pod, &snapshot);
            role = Role::Proxy;
            if mapped {
                let words = context.images.of(image).unwrap_or_default();
                let expanded = words.iter().map(|word| expand_shell(word, |name| environment::get(&env, name)));
                let agent = [OWN_NAME, "agent"].map(str::to_owned).into_iter().chain(told);
                argv = agent.chain(["--".to_owned()]).chain(expanded).collect::<Vec<_>>();
                if *kind == ProxyType::Router
                    && let Some(hosts) = &context.inherit_from
                {
                    hosts.relay_to_gateway(&snapshot, &self.pod);
                }
            } else {
                argv = [OWN_NAME, "proxy", "-c", &bootstrap].map(str::to_owned).into_iter().chain(told).collect();
                if *kind == ProxyType::Router {
                    listeners = self.inherited_listeners();
                }
            }
            program = Program::Own;
        } else {
            let words = context.images.words(image, &given(&self.container.command), &given(&self.container.args));
            let words = words.map_err(|error| NotStarted { reason: "ErrImagePull", message: error.to_string() })?;
            let value = |name: &str| environment::get(&env, name);
            let expanded = |word: &String| if mapped { expand_shell(word, value) } else { expand(word, value) };
            argv = words.iter().map(expanded).collect::<Vec<_>>();
            program = program_of(&argv);
            role = self.user();
        }
        let cwd = self.container.working_dir.clone().filter(|directory| !directory.is_empty());
        let cwd = Some(cwd.unwrap_or_else(|| context.working_directory.clone()));
        Ok(Spawn { program, env, cwd, role, listeners, hidden, ..Spawn::new(self.place, argv) })
    }

    /// Where the proxy's volumes are that this container does not mount: they hold the pod's identity, and the
    /// containers of a pod have one view of its files.
    fn hidden(&self) -> Vec<String> {
        let places = |container: &Container| -> Vec<String> {
            container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()).collect()
        };
        let own = places(&self.container);
        let containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
        let proxies = containers.filter(|container| container.name == PROXY_CONTAINER);
        let of_proxy = proxies.flat_map(places);
        if self.proxy.is_some() { Vec::new() } else { of_proxy.filter(|place| !own.contains(place)).collect() }
    }

    fn inherited_listeners(&self) -> Vec<(String, OwnedFd)> {
        let Some(hosts) = &self.context.inherit_from else { return Vec::new() };
        let snapshot = self.context.store.snapshot();
        hosts.for_gateway(&snapshot, &self.pod)
    }

    fn user(&self) -> Role {
        let container = self.container.security_context.as_ref();
        let pod = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let user = container.and_then(|context| context.run_as_user).or(pod.and_then(|context| context.run_as_user));
        let group = container.and_then(|context| context.run_as_group).or(pod.and_then(|context| context.run_as_group));
        let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
        Role::App { user: id(user), group: id(group) }
    }

    /// Watches a run to its end.
    async fn attend(&mut self, mut container: node::Container, log: &Arc<ContainerLog>) -> ExitStatus {
        let _ = log;
        self.update(|state| state.doing = Doing::Running(crate::clock::now()));
        let mut stop = self.stop.clone();
        let exit = {
            let unhealthy = self.health();
            tokio::select! {
                biased;
                exit = container.wait() => Some(exit),
                _ = stop.wait_for(Option::is_some) => None,
                () = unhealthy => None,
            }
        };
        let exit = match exit {
            Some(exit) => exit,
            None => self.terminate(&mut container).await,
        };
        // Without the node every process is gone, as by SIGKILL.
        exit.unwrap_or(ExitStatus::Signal(libc::SIGKILL))
    }

    /// Keeps `started` and `ready` up to date; returns when the container must be restarted.
    async fn health(&self) {
        let env = environment(
            &self.pod,
            &self.container,
            &self.context.store.snapshot(),
            self.context.running(&self.addresses),
        );
        let Some(address) = self.addresses.first().copied() else { return std::future::pending().await };
        let target =
            Target { node: self.context.node.clone(), place: self.place, address, env: env.unwrap_or_default() };
        let plan = |probe: &Option<_>| probe.as_ref().and_then(|probe| Plan::of_probe(probe, &self.container));
        if let Some(startup) = plan(&self.container.startup_probe)
            && !until_success(&startup, &target, true).await
        {
            return;
        }
        self.update(|state| state.started = true);
        let liveness = plan(&self.container.liveness_probe);
        let readiness = match (&self.proxy, plan(&self.container.readiness_probe)) {
            (_, Some(plan)) => plan,
            (Some(_), None) => Plan::proxy(),
            (None, None) => Plan::declared_ports(&self.container),
        };
        let dead = async {
            match &liveness {
                Some(plan) => {
                    // Its delay, and then as long as it takes to be alive for the first time.
                    if until_success(plan, &target, true).await {
                        until_failure(plan, &target).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let ready = async {
            loop {
                until_success(&readiness, &target, false).await;
                self.update(|state| state.ready = true);
                until_failure(&readiness, &target).await;
                self.update(|state| state.ready = false);
            }
        };
        tokio::select! {
            () = dead => tracing::info!(container = self.container.name, "unhealthy: restarting"),
            () = ready => {}
        }
    }

    /// Asks the container to end, and makes it end when its time is over.
    async fn terminate(&self, container: &mut node::Container) -> Result<ExitStatus, NodeError> {
        let own = Instant::now() + super::grace(&self.pod);
        let deadline = self.stop.borrow().unwrap_or(own);
        if self.context.leaving.load(Ordering::Relaxed) && !handles_term(container) {
            let _ = self.context.node.kill(container.id(), libc::SIGKILL).await;
            return container.wait().await;
        }
        if Instant::now() < deadline {
            let deleted = self.stop.borrow().is_some() && !self.context.leaving.load(Ordering::Relaxed);
            let stopped = async {
                if deleted && self.proxy.is_none() {
                    sleep(FAREWELL).await;
                }
                self.before_stop().await;
                // It may have ended meanwhile.
                let _ = self.context.node.kill(container.id(), libc::SIGTERM).await;
            };
            let _ = timeout_at(deadline, stopped).await;
        }
        let mut stop = self.stop.clone();
        loop {
            let deadline = stop.borrow_and_update().unwrap_or(own);
            tokio::select! {
                exit = container.wait() => return exit,
                () = sleep_until(deadline) => {
                    let _ = self.context.node.kill(container.id(), libc::SIGKILL).await;
                    return container.wait().await;
                }
                // The deadline may be brought forward.
                Ok(()) = stop.changed() => {}
            }
        }
    }

    /// The `preStop` hook.
    async fn before_stop(&self) {
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let Some(hook) = hook else { return };
        if let Some(pause) = &hook.sleep {
            sleep(super::seconds(pause.seconds)).await;
        }
        let words = hook.exec.as_ref().and_then(|exec| exec.command.clone()).unwrap_or_default();
        if !words.is_empty() {
            let command = exec::Command { words, stdin: false, tty: false };
            match self.exec(&command).await {
                Ok(mut running) => drop(running.wait().await),
                Err(error) => tracing::warn!(container = self.container.name, %error, "the preStop hook failed"),
            }
        }
    }

    /// Runs a command with this container's environment and user.
    pub async fn exec(&self, command: &exec::Command) -> Result<exec::Running, exec::ExecError> {
        let snapshot = self.context.store.snapshot();
        let env = environment(&self.pod, &self.container, &snapshot, self.context.running(&self.addresses))?;
        let cwd = self.container.working_dir.clone().unwrap_or_else(|| self.context.working_directory.clone());
        let role = self.user();
        let program = program_of(&command.words);
        let hidden = self.hidden();
        let words = command.words.iter().cloned();
        let spawn = Spawn { program, env, cwd: Some(cwd), role, hidden, ..Spawn::new(self.place, words) };
        exec::Running::start(self.context.node.clone(), spawn, command).await
    }
}

/// Whether a container's first process would do anything at all about SIGTERM: as process 1 it is not ended by it.
/// Unknown counts as yes.
fn handles_term(container: &node::Container) -> bool {
    let status = container.host_pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let caught = status.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("SigCgt:")));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_none_or(|mask| mask & (1 << (libc::SIGTERM - 1)) != 0)
}

fn program_of(words: &[String]) -> Program {
    if words.first().map(String::as_str) == Some(OWN_NAME) { Program::Own } else { Program::Argv }
}
