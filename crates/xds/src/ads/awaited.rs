//! What a proxy still waits for before all that it has accepted is in force: the files of a certificate, say. A request on the
//! ADS stream of a type that has no resources, as [`WorkloadHealth`] is told, one thing a line in `error_detail`. Envoy says
//! this in its admin pages alone. It is said to a control plane of ours, which names itself; another might end the
//! stream at a type it does not know.
//!
//! [`WorkloadHealth`]: super::WorkloadHealth

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::google::rpc::Status;

/// The type of such requests.
pub(super) const TYPE_URL: &str = "type.googleapis.com/lateen.v1.Awaited";
/// How a control plane of ours names itself.
const IDENTIFIER: &str = "lateen";

/// Things told at most, and the longest, in characters.
const MAX_THINGS: usize = 32;
const MAX_CHARS: usize = 1024;

/// What a control plane of ours says of itself.
pub(super) fn identified() -> Option<ControlPlane> {
    Some(ControlPlane { identifier: IDENTIFIER.to_owned() })
}

/// Whether a control plane is one of ours.
pub(super) fn is_ours(control_plane: Option<&ControlPlane>) -> bool {
    control_plane.is_some_and(|control_plane| control_plane.identifier == IDENTIFIER)
}

/// The text of a request; none if nothing is waited for.
pub(super) fn to_text(awaited: &BTreeSet<String>) -> Option<String> {
    let lines: Vec<String> = awaited.iter().take(MAX_THINGS).map(|thing| thing.replace('\n', " ")).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Reads a request; nothing if it is of another type.
pub(super) fn of_request(type_url: &str, said: Option<&Status>) -> Option<BTreeSet<String>> {
    let lines = said.map(|said| said.message.lines()).into_iter().flatten().take(MAX_THINGS);
    (type_url == TYPE_URL).then(|| lines.map(|line| line.chars().take(MAX_CHARS).collect()).collect())
}
