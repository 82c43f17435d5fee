//! The node: one small single-threaded process, pid 1 of its own namespaces, in which all pods of this machine live.
//!
//! The supervisor (`lateen up`) starts it before any thread exists, and then drives it over a socket pair: make a pod,
//! run a program in it, hand over a listener that lives in a pod's network. The supervisor itself never changes
//! namespace and needs no privilege. When either of the two dies, by whatever means, the kernel ends every process of
//! every pod and frees every link, mount and namespace; nothing of it is visible in the host's own network or files.
//!
//! Nothing here knows Kubernetes objects, services, xDS or the proxy: a pod is two addresses, some files and an
//! optional set of redirect rules; a container is a program with descriptors.
//!
//! ```no_run
//! # use lateen_local::node::{self, *};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = node::start(NodeConfig::default())?; // before the runtime
//! let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
//! runtime.block_on(async move {
//!     let node = node.into_handle()?;
//!     let pod = node.create_pod(CreatePod { name: "web".into(), ipv4: Some("10.244.0.2".parse()?), ..CreatePod::default() }).await?;
//!     let mut web = node.spawn(Spawn::new(Place::Pod(pod), ["sleep", "1"])).await?;
//!     println!("{:?}", web.wait().await);
//!     Ok(())
//! })
//! # }
//! ```

mod container;
mod failure;
mod handle;
mod inside;
mod kernel;
mod link;
mod netlink;
mod pod;
mod privilege;
mod redirect;
mod request;
mod start;
mod view;
mod wire;

pub use failure::{Failure, NodeError};
pub use handle::{Container, NodeHandle};
pub use request::{
    ContainerId, CreatePod, ExitStatus, Family, Listen, Mount, MountContent, MountedFile, Place, PodId, Program, Role,
    Socket, Spawn, Transport,
};
pub use start::start;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

/// The mark (`SO_MARK`) by which a sidecar's own connections pass the redirect rules of its pod.
pub const SIDECAR_MARK: u32 = 1337;
/// Where a pod's outgoing TCP is redirected to (Istio's `virtualOutbound`).
pub const OUTBOUND_PORT: u16 = 15001;
/// Where a pod's incoming TCP is redirected to (Istio's `virtualInbound`).
pub const INBOUND_PORT: u16 = 15006;

/// The node's own network.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct NodeConfig {
    /// Host name seen by processes that run in the node itself (`hostNetwork` pods).
    pub hostname: String,
    /// The bridge's address: every pod's gateway and DNS server.
    pub ipv4: Ipv4Addr,
    /// Prefix length of the pod network, in bits.
    pub ipv4_prefix: u8,
    /// The bridge's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Prefix length of the IPv6 pod network, in bits.
    pub ipv6_prefix: u8,
    /// TCP from pods to any address outside the pod network (service VIPs, the real network) arrives at this port of
    /// the bridge; `SO_ORIGINAL_DST` tells what it was meant for. Pods with redirect rules get there only by their
    /// sidecar's marked connections.
    pub relay_port: u16,
    /// The cluster DNS service's VIP: port 53 of it, UDP and TCP, is redirected to port 53 of the bridge.
    pub dns_vip: Option<Ipv4Addr>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            hostname: "lateen".to_owned(),
            ipv4: Ipv4Addr::new(10, 244, 0, 1),
            ipv4_prefix: 16,
            ipv6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1),
            ipv6_prefix: 64,
            relay_port: 16001,
            dns_vip: Some(Ipv4Addr::new(10, 96, 0, 10)),
        }
    }
}

/// How the node's namespaces are owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// By the machine's root: containers run under the user ids asked for.
    Root,
    /// By an ordinary user, in a user namespace: there is one real user id; each app sees the id asked for.
    User,
}

/// A running node, before there is a runtime. Dropping it ends the node and everything in it.
#[derive(Debug)]
pub struct Node {
    socket: OwnedFd,
    pid: libc::pid_t,
    mode: Mode,
    ipv6: bool,
    notes: Vec<String>,
}

impl Node {
    /// The node's process id, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Whether it was started as root or as an ordinary user.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this kernel gives pods IPv6; without it [`CreatePod::ipv6`] must be `None`.
    pub fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// What the machine did not allow and the node does without, one line each (for the log at debug level).
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Hands the node over to the running tokio runtime.
    ///
    /// # Errors
    /// [`NodeError::Supervisor`] outside a runtime with I/O enabled.
    pub fn into_handle(self) -> Result<NodeHandle, NodeError> {
        NodeHandle::new(self)
    }
}
