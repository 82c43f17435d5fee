//! What a proxy still waits for before all that it has accepted is in force: the files of a certificate, say. A request on the
//! ADS stream of a type that has no resources, as [`WorkloadHealth`] is told, one thing a line in `error_detail`. Envoy says
//! this in its admin pages alone. It is said to a control plane of ours, which names itself; another might end the
//! stream at a type it does not know.
//!
//! [`WorkloadHealth`]: super::WorkloadHealth

use std::collections::BTreeSet;
use std::fmt;

use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::google::rpc::Status;

/// The type of such requests.
pub(super) const TYPE_URL: &str = "type.googleapis.com/lateen.v1.Awaited";
/// How a control plane of ours names itself.
const IDENTIFIER: &str = "lateen";

/// Things told at most, those that concern listeners first, and the longest text of one, in characters.
const MAX_THINGS: usize = 256;
const MAX_CHARS: usize = 1024;
/// Between the parts of a thing.
const SEPARATOR: char = '\t';
const PARTS: usize = 4;

/// A listener or a cluster that was accepted and is not in force as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Awaited {
    /// Of a cluster, else of a listener.
    pub of_cluster: bool,
    /// The resource's name.
    pub name: String,
    /// The version of its content.
    pub version: String,
    /// The secret it lacks; none if it waits for something else.
    pub secret: Option<String>,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.of_cluster { "cluster" } else { "listener" };
        match &self.secret {
            Some(secret) => write!(f, "{what} {} waits for the secret {secret}", self.name),
            None => write!(f, "{what} {} is warming", self.name),
        }
    }
}

impl Awaited {
    fn line(&self) -> String {
        let kind = if self.of_cluster { "cluster" } else { "listener" };
        let parts: [&str; PARTS] = [kind, &self.name, &self.version, self.secret.as_deref().unwrap_or_default()];
        parts.map(|part| part.replace([SEPARATOR, '\n', '\r'], " ")).join(&SEPARATOR.to_string())
    }

    /// Reads a line; `None` if it is none of these.
    fn read(line: &str) -> Option<Awaited> {
        let mut parts = line.splitn(PARTS, SEPARATOR).map(|part| part.chars().take(MAX_CHARS).collect::<String>());
        let of_cluster = match parts.next()?.as_str() {
            "listener" => false,
            "cluster" => true,
            _ => return None,
        };
        let (name, version) = (parts.next()?, parts.next()?);
        let secret = parts.next().filter(|secret| !secret.is_empty());
        Some(Awaited { of_cluster, name, version, secret })
    }
}

/// What a control plane of ours says of itself.
pub(super) fn identified() -> Option<ControlPlane> {
    Some(ControlPlane { identifier: IDENTIFIER.to_owned() })
}

/// Whether a control plane is one of ours.
pub(super) fn is_ours(control_plane: Option<&ControlPlane>) -> bool {
    control_plane.is_some_and(|control_plane| control_plane.identifier == IDENTIFIER)
}

/// The text of a request; none if nothing is waited for.
pub(super) fn to_text(awaited: &BTreeSet<Awaited>) -> Option<String> {
    let lines: Vec<String> = awaited.iter().take(MAX_THINGS).map(Awaited::line).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Reads a request; nothing if it is of another type.
pub(super) fn of_request(type_url: &str, said: Option<&Status>) -> Option<BTreeSet<Awaited>> {
    let lines = said.map(|said| said.message.lines()).into_iter().flatten().take(MAX_THINGS);
    (type_url == TYPE_URL).then(|| lines.filter_map(Awaited::read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_listeners_first() {
        let one = |of_cluster, name: &str, secret: Option<&str>| Awaited {
            of_cluster,
            name: name.to_owned(),
            version: "7".to_owned(),
            secret: secret.map(str::to_owned),
        };
        let told = BTreeSet::from([one(true, "a", Some("s")), one(false, "b", None), one(false, "c", Some("t"))]);
        let message = to_text(&told).unwrap();
        assert!(message.starts_with("listener\tb"), "{message}");
        let heard = |message: String| of_request(TYPE_URL, Some(&Status { message, ..Status::default() })).unwrap();
        assert_eq!(heard(message), told);
        assert_eq!(heard("nothing\tknown\t7\t".to_owned()), BTreeSet::new());
        assert_eq!(to_text(&BTreeSet::new()), None);
        assert_eq!(of_request("another", None), None);

        let many = (0..1000).map(|number| one(true, &format!("a{number}"), None));
        let heard = heard(to_text(&many.chain(told).collect()).unwrap());
        assert_eq!(heard.len(), MAX_THINGS);
        assert_eq!(heard.first().map(ToString::to_string).as_deref(), Some("listener b is warming"));
    }
}
