//! Running a test against a mesh.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lateen_galley::Kind;
use lateen_local::client::{Client, Exec, LogOptions, Selection, Streams};
use serde_json::Value;
use tokio::io::AsyncWrite;

use super::certificates::Certificates;
use super::kind::{INGRESS, Step, TrafficTest};
use super::outcome::Outcomes;
use super::who::{Pod, Who};
use super::{Outcome, Plan, Ran, judge, sending};
use crate::commands::ingress::Ingress;
use crate::error::Error;
use crate::state_dir::StateDir;
use crate::terminal;
use crate::waiting::{self, Troubles};

/// How long proxies may take to write down what they did. Envoy keeps lines back for up to ten seconds.
const LOG_PATIENCE: Duration = Duration::from_secs(15);
/// How long proxies may take to have the test's Secrets.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at their logs.
const PAUSE: Duration = Duration::from_millis(50);
/// The sidecar's container.
const PROXY: &str = "istio-proxy";

/// A mesh to test.
pub struct Live {
    client: Client,
    state: StateDir,
    /// Where certificates are left for people, if they are.
    folder: Option<PathBuf>,
    /// Of the test that is run.
    certificates: Certificates,
    who: Who,
    /// Tells this run's requests from everybody else's.
    run: u32,
    /// Steps sent so far.
    steps: u32,
}

impl Live {
    /// Looks at who is there.
    ///
    /// # Errors
    /// When no mesh answers.
    pub async fn new(state: StateDir, folder: Option<PathBuf>) -> Result<Live, Error> {
        let client = state.client();
        let list = async |kind| -> Result<Vec<Value>, Error> {
            let mut list = client.list(kind, &Selection::default()).await?;
            Ok(match list.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            })
        };
        let (pods, rules) = (list(Kind::Pod).await?, list(Kind::DestinationRule).await?);
        let over = |pod: &&Value| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let who = Who::new(pods.iter().filter(over), &rules);
        Ok(Live { client, state, folder, certificates: Certificates::default(), who, run: rand::random(), steps: 0 })
    }

    /// Makes a test's certificates, and waits until proxies have what it puts into the mesh.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn prepare(&mut self, test: &TrafficTest) -> Result<(), Error> {
        if test.spec.certificates.is_empty() {
            return Ok(());
        }
        self.certificates = Certificates::make(&test.spec)?;
        if let Some(folder) = &self.folder {
            self.certificates.write(folder)?;
        }
        let before = Troubles::now(&self.state).await;
        let mut applied = Vec::new();
        for secret in self.certificates.secrets(&test.spec, &test.metadata.namespace)? {
            let made = self.client.apply(&secret, &test.metadata.namespace, false).await?;
            made.warnings.iter().for_each(terminal::warn);
            applied.push(made.object);
        }
        waiting::in_force(&self.client, &self.state, &applied, &before, PATIENCE).await.map(drop)
    }

    /// Runs a step; `done` counts the requests that have been answered.
    ///
    /// # Errors
    /// When requests cannot be sent at all.
    pub async fn step(&mut self, step: &Step, namespace: &str, done: Rc<Cell<u64>>) -> Result<Ran, Error> {
        tokio::time::sleep(step.wait.0).await;
        self.steps += 1;
        let mark = format!("lateen-test/{:08x}.{}", self.run, self.steps);
        let mut plan = Plan::of(&step.send, &mark, &self.certificates)?;
        let began = Instant::now();
        let requests = if step.send.from == INGRESS {
            let authority = Ingress::find(&self.client).await?.authority(plan.port.into())?;
            plan.address = Some(authority.parse().map_err(Error::unreadable)?);
            sending::run(plan, done).await
        } else {
            self.send_from_pod(&step.send.from, namespace, &plan).await?
        };
        let took = began.elapsed();
        let mut outcomes = Outcomes { requests, received: BTreeMap::new() };
        let judged = |outcomes: &Outcomes| judge::judge(&step.expect, outcomes, &self.who, namespace);
        if step.expect.received.is_empty() {
            let verdicts = judged(&outcomes);
            return Ok(Ran::of(step, took, verdicts));
        }
        let deadline = Instant::now() + LOG_PATIENCE;
        loop {
            outcomes.received = self.received(&mark).await?;
            let verdicts = judged(&outcomes);
            let so_far = verdicts.iter().all(|verdict| verdict.passed || !verdict.what.starts_with("received"));
            // What has not arrived may still be on its way: a mirrored copy is nobody's answer.
            if so_far || Instant::now() >= deadline {
                return Ok(Ran::of(step, took, verdicts));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends from inside a pod, where this program runs as `lateen send`.
    async fn send_from_pod(&self, name: &str, namespace: &str, plan: &Plan) -> Result<Vec<Outcome>, Error> {
        let pod = self.who.workload(name, namespace).into_iter().next().ok_or_else(|| {
            Error::Usage(format!("there is no workload {name} in namespace {namespace} to send from"))
        })?;
        let exec = Exec {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: None,
            command: vec!["lateen".to_owned(), "send".to_owned()],
            tty: false,
        };
        let input = serde_json::to_vec(plan).map_err(Error::unreadable)?;
        let (output, errors) = (Sink::default(), Sink::default());
        let streams = Streams {
            stdin: Some(Box::new(io::Cursor::new(input))),
            stdout: Box::new(output.clone()),
            stderr: Box::new(errors.clone()),
        };
        let code = self.client.exec(&exec, streams).await?;
        if code != 0 {
            let said = errors.text();
            return Err(Error::Usage(format!("sending from {}/{} failed: {}", pod.namespace, pod.name, said.trim())));
        }
        serde_json::from_str(&output.text()).map_err(Error::unreadable)
    }

    /// How many requests with this mark each pod's sidecar let in.
    async fn received(&self, mark: &str) -> Result<BTreeMap<String, u64>, Error> {
        let mark = format!("\"{mark}\"");
        let mut received = BTreeMap::new();
        for pod in self.who.pods().iter().filter(|pod| pod.proxied) {
            let count = self.inbound(pod, &mark).await?;
            if count > 0 {
                received.insert(pod.name.clone(), count);
            }
        }
        Ok(received)
    }

    async fn inbound(&self, pod: &Pod, mark: &str) -> Result<u64, Error> {
        let options = LogOptions { container: Some(PROXY.to_owned()), ..LogOptions::default() };
        let mut log = self.client.logs(&pod.namespace, &pod.name, &options).await?;
        let mut text = Vec::new();
        while let Some(piece) = log.next().await? {
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| line.contains(mark) && line.contains(" inbound|"));
        Ok(lines.count() as u64)
    }
}

/// What a command in a pod writes.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
