//! What a pod's containers would run.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use lateen_galley::Snapshot;

use crate::admission::PROXY_CONTAINER;
use crate::kubelet::{self, ImageCommands};
use crate::network;

/// A container's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub container: String,
    /// Its image, whatever is in it.
    pub image: String,
    /// The command and its arguments, variables replaced; empty if only the image says what it is.
    pub words: Vec<String>,
    /// Its environment; empty if something it is made of is not there.
    pub environment: Vec<(String, String)>,
}

/// Programs of a pod's containers, without its proxy.
pub(super) fn programs(snapshot: &Snapshot, pod: &Pod, addresses: &[IpAddr]) -> Vec<Program> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let own = containers.filter(|container| container.name != PROXY_CONTAINER);
    own.map(|container| program(snapshot, pod, container, addresses)).collect()
}

fn program(snapshot: &Snapshot, pod: &Pod, container: &Container, addresses: &[IpAddr]) -> Program {
    let running =
        kubelet::Surroundings { addresses, host: IpAddr::V4(network::NODE), node: network::NODE_NAME, search_path: "" };
    let environment = kubelet::environment(pod, container, snapshot, running).unwrap_or_default();
    let given = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    let words = ImageCommands::default().words(&image, &given(&container.command), &given(&container.args));
    let value = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let words = words.unwrap_or_default().iter().map(|word| kubelet::expand(word, value)).collect();
    Program { container: container.name.clone(), image, words, environment }
}
