//! What a pod's `status` says of its containers. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::node::ExitStatus;

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// Not running, and why.
    Waiting {
        /// In one word, such as `CrashLoopBackOff`.
        reason: String,
        /// In words.
        message: String,
    },
    /// Running since.
    Running(Timestamp),
    /// Ended for good.
    Ended(Ending),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// By itself or by a signal.
    pub exit: ExitStatus,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Why, where it could not even start.
    pub message: String,
}

/// A container as its supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// What it is doing.
    pub doing: Doing,
    /// How its last run ended.
    pub last: Option<Ending>,
    /// Runs after the first.
    pub restarts: u32,
    /// Whether its startup probe has succeeded, if it has one.
    pub started: bool,
    /// Whether it can take traffic.
    pub ready: bool,
}

impl Default for ContainerState {
    fn default() -> Self {
        let doing = Doing::Waiting { reason: "ContainerCreating".to_owned(), message: String::new() };
        Self { doing, last: None, restarts: 0, started: false, ready: false }
    }
}

/// A pod as its worker knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodState {
    /// Every container by name.
    pub containers: BTreeMap<String, ContainerState>,
    /// The pod's addresses, the IPv4 one first; empty until it has a network.
    pub addresses: Vec<IpAddr>,
    /// When it was taken on.
    pub begun: Option<Timestamp>,
    /// Why it has no network, if it cannot get one.
    pub trouble: Option<String>,
    /// Whether init containers are done, or there are none.
    pub initialized: bool,
}

/// The `status` of a pod whose containers all run and can take traffic.
pub fn ready_status(pod: &Pod, address: IpAddr, host: IpAddr) -> Value {
    let now = crate::clock::now();
    let ready = ContainerState { doing: Doing::Running(now), started: true, ready: true, ..ContainerState::default() };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let state = PodState {
        containers: containers.map(|container| (container.name.clone(), ready.clone())).collect(),
        addresses: vec![address],
        begun: Some(now),
        initialized: true,
        ..PodState::default()
    };
    state.status(pod, None, host, now)
}

impl PodState {
    /// Whether every one of the pod's containers can take traffic.
    pub fn ready(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        !self.addresses.is_empty()
            && spec
                .containers
                .iter()
                .all(|container| self.containers.get(&container.name).is_some_and(|state| state.ready))
    }

    fn phase(&self, pod: &Pod) -> &'static str {
        let Some(spec) = &pod.spec else { return "Pending" };
        let states: Vec<&ContainerState> =
            spec.containers.iter().filter_map(|container| self.containers.get(&container.name)).collect();
        let ended = |state: &ContainerState| matches!(state.doing, Doing::Ended(_));
        let failed = |state: &ContainerState| matches!(&state.doing, Doing::Ended(ending) if ending.exit.code() != 0);
        let begun = |state: &ContainerState| !matches!(state.doing, Doing::Waiting { .. }) || state.last.is_some();
        if !states.is_empty() && states.iter().all(|state| ended(state)) {
            if states.iter().any(|state| failed(state)) { "Failed" } else { "Succeeded" }
        } else if !states.is_empty() && states.iter().all(|state| begun(state)) {
            "Running"
        } else {
            "Pending"
        }
    }

    /// The pod's `status`. `old` is the one it has: conditions that stay as they are keep their times.
    pub fn status(&self, pod: &Pod, old: Option<&Value>, host: IpAddr, now: Timestamp) -> Value {
        let ready = self.ready(pod);
        let time = |condition: &str, holds: bool| {
            let conditions = old.and_then(|old| old.get("conditions")?.as_array());
            let same = conditions.into_iter().flatten().find(|known| {
                known.get("type") == Some(&json!(condition)) && known.get("status") == Some(&json!(truth(holds)))
            });
            same.and_then(|same| same.get("lastTransitionTime").cloned()).unwrap_or_else(|| seconds(now))
        };
        let condition = |name: &str, holds: bool, reason: &str, message: &str| {
            let mut condition = json!({"type": name, "status": truth(holds), "lastTransitionTime": time(name, holds)});
            if let Value::Object(fields) = &mut condition {
                for (field, text) in [("reason", reason), ("message", message)] {
                    if !holds && !text.is_empty() {
                        fields.insert(field.to_owned(), json!(text));
                    }
                }
            }
            condition
        };
        let unready = self.unready(pod);
        let mut status = Map::new();
        status.insert("phase".to_owned(), json!(self.phase(pod)));
        let trouble = self.trouble.as_deref().unwrap_or_default();
        status.insert(
            "conditions".to_owned(),
            json!([
                condition("PodScheduled", true, "", ""),
                condition("PodReadyToStartContainers", !self.addresses.is_empty(), "FailedCreatePodSandBox", trouble),
                condition("Initialized", self.initialized, "ContainersNotInitialized", ""),
                condition("ContainersReady", ready, "ContainersNotReady", &unready),
                condition("Ready", ready, "ContainersNotReady", &unready),
            ]),
        );
        status.insert("hostIP".to_owned(), json!(host.to_string()));
        if let Some(first) = self.addresses.first() {
            status.insert("podIP".to_owned(), json!(first.to_string()));
            let all: Vec<Value> = self.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
            status.insert("podIPs".to_owned(), Value::Array(all));
        }
        if let Some(begun) = self.begun {
            status.insert("startTime".to_owned(), seconds(begun));
        }
        if let Some(spec) = &pod.spec {
            let statuses = |list: &[k8s_openapi::api::core::v1::Container]| {
                let one = |container: &k8s_openapi::api::core::v1::Container| {
                    let state = self.containers.get(&container.name).cloned().unwrap_or_default();
                    container_status(&container.name, container.image.as_deref().unwrap_or_default(), &state)
                };
                Value::Array(list.iter().map(one).collect())
            };
            status.insert("containerStatuses".to_owned(), statuses(&spec.containers));
            if let Some(init) = &spec.init_containers {
                status.insert("initContainerStatuses".to_owned(), statuses(init));
            }
        }
        if let Some(trouble) = &self.trouble {
            status.insert("message".to_owned(), json!(trouble));
        }
        Value::Object(status)
    }

    fn unready(&self, pod: &Pod) -> String {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let names: Vec<&str> = containers
            .map(|container| container.name.as_str())
            .filter(|name| self.containers.get(*name).is_none_or(|state| !state.ready))
            .collect();
        format!("containers with unready status: [{}]", names.join(" "))
    }
}

fn truth(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

/// A time as Kubernetes writes it: whole seconds.
fn seconds(time: Timestamp) -> Value {
    json!(Timestamp::from_second(time.as_second()).unwrap_or(time).to_string())
}

fn container_status(name: &str, image: &str, state: &ContainerState) -> Value {
    let doing = match &state.doing {
        Doing::Waiting { reason, message } if message.is_empty() => json!({"waiting": {"reason": reason}}),
        Doing::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        Doing::Running(since) => json!({"running": {"startedAt": seconds(*since)}}),
        Doing::Ended(ending) => json!({"terminated": terminated(ending)}),
    };
    let last = state.last.as_ref().map_or_else(|| json!({}), |ending| json!({"terminated": terminated(ending)}));
    json!({
        "name": name, "image": image, "imageID": "", "ready": state.ready, "started": state.started,
        "restartCount": state.restarts, "state": doing, "lastState": last,
    })
}

fn terminated(ending: &Ending) -> Value {
    let mut fields = json!({
        "exitCode": ending.exit.code(), "startedAt": seconds(ending.started), "finishedAt": seconds(ending.finished),
        "reason": match ending.exit {
            _ if !ending.message.is_empty() => "StartError",
            ExitStatus::Code(0) => "Completed",
            _ => "Error",
        },
    });
    if let Value::Object(fields) = &mut fields {
        if let ExitStatus::Signal(signal) = ending.exit {
            fields.insert("signal".to_owned(), json!(signal));
        }
        if !ending.message.is_empty() {
            fields.insert("message".to_owned(), json!(ending.message));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b"}]}})).unwrap()
    }

    fn running(ready: bool) -> ContainerState {
        ContainerState {
            doing: Doing::Running(Timestamp::UNIX_EPOCH),
            ready,
            started: true,
            ..ContainerState::default()
        }
    }

    fn state(a: ContainerState, b: ContainerState) -> PodState {
        PodState {
            containers: BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]),
            addresses: vec!["10.244.0.2".parse().unwrap()],
            initialized: true,
            ..PodState::default()
        }
    }

    fn condition(status: &Value, name: &str) -> Value {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|condition| condition["type"] == name).unwrap().clone()
    }

    #[test]
    fn a_pod_is_ready_when_all_its_containers_are() {
        let host = "10.244.0.1".parse().unwrap();
        let first: Timestamp = "2026-08-01T12:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-08-01T12:00:09Z".parse().unwrap();
        let half = state(running(true), running(false)).status(&pod(), None, host, first);
        assert_eq!(half["phase"], "Running");
        assert_eq!(condition(&half, "Ready")["status"], "False");
        assert_eq!(condition(&half, "Ready")["message"], "containers with unready status: [b]");
        let whole = state(running(true), running(true)).status(&pod(), Some(&half), host, later);
        assert_eq!(condition(&whole, "Ready")["lastTransitionTime"], "2026-08-01T12:00:09Z");
        assert_eq!(condition(&whole, "Initialized")["lastTransitionTime"], "2026-08-01T12:00:00Z");
        assert_eq!(whole["podIP"], "10.244.0.2");
        serde_json::from_value::<k8s_openapi::api::core::v1::PodStatus>(whole).unwrap();
    }

    #[test]
    fn phases_follow_what_containers_do() {
        let phase = |a, b| state(a, b).phase(&pod());
        let ending = |code| Ending {
            exit: ExitStatus::Code(code),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            message: String::new(),
        };
        let ended = |code| ContainerState { doing: Doing::Ended(ending(code)), ..ContainerState::default() };
        assert_eq!(phase(running(true), ContainerState::default()), "Pending");
        let crashing = ContainerState { last: Some(ending(1)), ..ContainerState::default() };
        assert_eq!(phase(running(true), crashing), "Running");
        assert_eq!(phase(ended(0), ended(0)), "Succeeded");
        assert_eq!(phase(ended(0), ended(3)), "Failed");
        assert_eq!(phase(ended(0), running(true)), "Running");
    }
}
