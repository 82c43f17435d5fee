//! What the supervisor can ask of the node.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// A pod of this node; never reused during the node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodId(pub u32);

/// A container of this node; never reused during the node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub u32);

/// Whose network (and files) something happens in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The node itself: its bridge reaches every pod.
    Node,
    /// One pod.
    Pod(PodId),
}

/// A new pod. Empty by default: no address, no redirect, the host's own files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CreatePod {
    /// For error messages.
    pub namespace: String,
    /// For error messages.
    pub name: String,
    /// What `gethostname` answers, at most 64 bytes.
    pub hostname: String,
    /// Lives in the node's own network (`hostNetwork: true`): then no address and no redirect may be asked for.
    pub host_network: bool,
    /// The pod's address in the node's pod network.
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address in the node's pod network.
    pub ipv6: Option<Ipv6Addr>,
    /// Text of `/etc/resolv.conf`; the host's file when `None`.
    pub resolv_conf: Option<String>,
    /// Text of `/etc/hosts`; the host's file when `None`.
    pub hosts: Option<String>,
    /// Sidecar interception: TCP out to [`super::OUTBOUND_PORT`], TCP in to [`super::INBOUND_PORT`].
    pub redirect: bool,
    /// Volumes, mounted in this order. Mount points need not exist on the host.
    pub mounts: Vec<Mount>,
}

/// A volume of a pod, made of memory; gone with the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the pod. What the host has there is hidden from the pod.
    pub path: String,
    /// What is there.
    pub content: MountContent,
}

/// The content of a [`Mount`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountContent {
    /// A read-only directory of files (ConfigMap, Secret, service-account token).
    Directory(Vec<MountedFile>),
    /// One read-only file (a `subPath` mount). `MountedFile::path` is not used and must be empty.
    File(MountedFile),
    /// An empty directory anyone may write to (`emptyDir`).
    Empty,
    /// A directory or file of the host (`hostPath`).
    Host {
        /// Absolute path on the host.
        path: String,
        /// Not to be written to.
        read_only: bool,
    },
}

/// A file of a [`Mount`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedFile {
    /// Path relative to the mount point, without `..`.
    pub path: String,
    /// Content.
    #[serde(with = "base64_bytes")]
    pub bytes: Vec<u8>,
    /// Permission bits, usually `0o644`.
    pub mode: u32,
}

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// `argv[0]`, searched in `PATH` of the given environment when it has no slash.
    Argv,
    /// The binary this node was started from, even if the file was replaced since.
    Own,
}

/// What a container may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// An application: no capability over the pod's network, so it cannot pass the redirect rules.
    App {
        /// User id (`runAsUser`); 0 when `None`.
        user: Option<u32>,
        /// Group id (`runAsGroup`); 0 when `None`.
        group: Option<u32>,
    },
    /// The proxy: may mark its connections (`SO_MARK`) and so pass the redirect rules. Runs as the supervisor's user.
    Proxy,
}

/// A program to run in a pod. It is pid 1 of its own pid namespace: when it ends, its descendants end.
#[derive(Debug)]
pub struct Spawn {
    /// In which pod; [`Place::Node`] runs beside the pods, with the host's files.
    pub place: Place,
    /// What to run.
    pub program: Program,
    /// Arguments, the program's name first.
    pub argv: Vec<String>,
    /// The whole environment; `PATH` is not added.
    pub env: Vec<(String, String)>,
    /// Working directory, `/` when `None`.
    pub cwd: Option<String>,
    /// User and rights.
    pub role: Role,
    /// `/dev/null` when `None`.
    pub stdin: Option<OwnedFd>,
    /// `/dev/null` when `None`.
    pub stdout: Option<OwnedFd>,
    /// `/dev/null` when `None`.
    pub stderr: Option<OwnedFd>,
    /// Passed on as descriptors 3, 4, ... with `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` set as by systemd
    /// (sd_listen_fds(3)): a name each, without colon.
    pub listeners: Vec<(String, OwnedFd)>,
    /// Directories of the pod's volumes that are not this program's to see: it finds empty ones there.
    pub hidden: Vec<String>,
    /// Standard input is a terminal nobody else controls (the slave of a new pty): make it the controlling terminal.
    pub tty: bool,
}

impl Spawn {
    /// An application with nothing but its arguments.
    pub fn new<S: Into<String>>(place: Place, argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            place,
            program: Program::Argv,
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            role: Role::App { user: None, group: None },
            stdin: None,
            stdout: None,
            stderr: None,
            listeners: Vec::new(),
            hidden: Vec::new(),
            tty: false,
        }
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6; reaches IPv4 too by mapped addresses.
    V6,
}

/// A bound socket: listening if TCP. Non-blocking, `SO_REUSEADDR` set for TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// In whose network.
    pub place: Place,
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// `IPV6_V6ONLY`; without it `[::]` takes IPv4 too. Ignored by the kernel's nature for IPv4 addresses.
    pub v6_only: bool,
    /// `SO_REUSEPORT`: several sockets share the port.
    pub reuse_port: bool,
}

impl Listen {
    /// A TCP listener.
    pub fn tcp(place: Place, address: SocketAddr) -> Self {
        Self { place, address, transport: Transport::Tcp, v6_only: false, reuse_port: false }
    }

    /// A UDP socket.
    pub fn udp(place: Place, address: SocketAddr) -> Self {
        Self { transport: Transport::Udp, ..Self::tcp(place, address) }
    }
}

/// An unbound, unconnected, non-blocking socket: connect it from the supervisor and it leaves from `place`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// In whose network.
    pub place: Place,
    /// TCP or UDP.
    pub transport: Transport,
    /// IPv4 or IPv6.
    pub family: Family,
    /// `SO_MARK`, to pass a pod's redirect rules ([`super::SIDECAR_MARK`]).
    pub mark: Option<u32>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The code Kubernetes and shells show: the exit code, or 128 + the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
