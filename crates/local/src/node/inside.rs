//! The node process: pid 1 of its namespaces, one thread, blocking calls, one request after the other.
//!
//! It ends when its parent ends, by signal or by the closed socket, and the kernel then ends every process in it.

use super::container::{self, Origin};
use super::failure::{Failure, failed};
use super::kernel;
use super::link::{self, LOOPBACK};
use super::netlink::Netlink;
use super::pod::{self, Bridge, PodNamespaces};
use super::redirect;
use super::request::{ContainerId, CreatePod, ExitStatus, Family, Listen, Place, PodId, Socket, Transport};
use super::wire::{self, Answer, Call, Message, Packet, Request, SpawnCall};
use super::{Mode, NodeConfig};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const BRIDGE: &str = "br0";
/// Connections waiting to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The node's whole life, in the forked child. Never to be followed by any code of the parent's.
pub(super) fn live(socket: OwnedFd, config: NodeConfig, mode: Mode) -> Result<(), Failure> {
    kernel::die_with_parent().map_err(failed("bind the node's life to its parent's"))?;
    // The parent may have died before that, and the id maps are the parent's to write: wait for its word. Asking for
    // the parent's pid would not do, it is 0 in a pid namespace.
    if !matches!(wire::receive::<bool>(socket.as_fd()), Ok(Some((true, _)))) {
        return Ok(());
    }
    let mut node = match settle(config, mode) {
        Ok(node) => node,
        Err(failure) => return tell(&socket, &Message::Failed(failure), vec![]),
    };
    let notes = std::mem::take(&mut node.notes);
    tell(&socket, &Message::Ready { ipv6: node.bridge.ipv6, notes }, vec![])?;
    node.serve(&socket)
}

fn tell(socket: &OwnedFd, message: &Message, fds: Vec<OwnedFd>) -> Result<(), Failure> {
    let broken = |why: String| Failure::refused("answer the supervisor", why);
    let packet = Packet::encode(message, fds).map_err(|error| broken(error.to_string()))?;
    wire::send(socket.as_fd(), &packet).map_err(failed("answer the supervisor"))
}

struct NodeProcess {
    config: NodeConfig,
    origin: Origin,
    home: PodNamespaces,
    bridge: Bridge,
    children: OwnedFd,
    notes: Vec<String>,
    pods: HashMap<PodId, Pod>,
    containers: HashMap<libc::pid_t, Running>,
    last_pod: u32,
    last_container: u32,
}

struct Pod {
    namespaces: PodNamespaces,
    /// `namespace/name`, for messages.
    name: String,
    /// The request to answer when its last container has ended.
    deleting: Option<u64>,
}

#[derive(Clone, Copy)]
struct Running {
    id: ContainerId,
    place: Place,
}

/// Makes the node's own world.
fn settle(config: NodeConfig, mode: Mode) -> Result<NodeProcess, Failure> {
    kernel::new_session();
    // SAFETY: no pointers.
    unsafe { libc::umask(0o022) };
    std::env::set_current_dir("/").map_err(failed("enter the root directory"))?;
    let children = kernel::child_signals().map_err(failed("watch for ended containers"))?;
    let own_binary = container::own_binary().map_err(failed("open the running binary"))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed("open /dev/null"))?;
    for stream in [0, 1] {
        kernel::duplicate_to(null.as_fd(), stream).map_err(failed("let go of standard input and output"))?;
    }
    let descriptor_limit = kernel::descriptor_limit().map_err(failed("read the limit on descriptors"))?;
    let most = libc::rlimit { rlim_cur: descriptor_limit.rlim_max, ..descriptor_limit };
    kernel::set_descriptor_limit(most).map_err(failed("raise the limit on descriptors"))?;

    // Nothing mounted from here on is seen outside, and nothing new outside is seen here.
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    kernel::mount(Path::new("none"), Path::new("/"), "", flags, "").map_err(|error| {
        let chroot = error.raw_os_error() == Some(libc::EINVAL);
        let why = if chroot { "the root directory is no mount: this runs in a chroot, run it outside" } else { "" };
        restricted(mode, Failure::kernel("make the mounts private", &error).because(why))
    })?;
    let mut notes = Vec::new();
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    if let Err(error) = kernel::mount(Path::new("proc"), Path::new("/proc"), "proc", flags, "") {
        notes.push(format!("mounting a new /proc: {error} (processes see the host's numbers)"));
    }
    kernel::set_hostname(&config.hostname).map_err(failed("set the node's host name"))?;
    notes.extend(pod::settings(mode));
    // Else packets between pods would pass the node's own rules. Not there unless br_netfilter is loaded.
    pod::write_settings(&[("net/bridge/bridge-nf-call-iptables", "0"), ("net/bridge/bridge-nf-call-ip6tables", "0")]);
    let bridge = network(&config, &mut notes).map_err(|failure| restricted(mode, failure))?;
    let home = PodNamespaces::current()?;
    let origin = Origin { mode, own_binary, null: null.into(), descriptor_limit };
    Ok(NodeProcess {
        config,
        origin,
        home,
        bridge,
        children,
        notes,
        pods: HashMap::new(),
        containers: HashMap::new(),
        last_pod: 0,
        last_container: 0,
    })
}

/// The bridge and the node's rules.
fn network(config: &NodeConfig, notes: &mut Vec<String>) -> Result<Bridge, Failure> {
    let mut ipv6 = kernel::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0).is_ok();
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE).map_err(failed("open a netlink socket"))?;
    link::up(&mut netlink, LOOPBACK)?;
    link::create_bridge(&mut netlink, BRIDGE, link::mac_of(config.ipv4))?;
    let index = link::index_of(&mut netlink, BRIDGE)?;
    link::add_address(&mut netlink, index, config.ipv4.into(), config.ipv4_prefix)?;
    // Switched off by a sysctl that cannot be written here, if not by the kernel's build.
    let added = link::add_address(&mut netlink, index, config.ipv6.into(), config.ipv6_prefix);
    if let (true, Err(failure)) = (ipv6, added) {
        notes.push(format!("{failure} (pods have no IPv6)"));
        ipv6 = false;
    }
    let mut rules = Netlink::open(libc::NETLINK_NETFILTER).map_err(|error| {
        Failure::kernel("open a netfilter socket", &error).because("this kernel lacks netfilter (module nfnetlink)")
    })?;
    redirect::install(&mut rules, &redirect::node_rules(config))?;
    Ok(Bridge { netlink, index, ipv6 })
}

/// Explains a refusal by AppArmor, which lets user namespaces be made, but not used.
fn restricted(mode: Mode, failure: Failure) -> Failure {
    let denied = matches!(failure.errno, Some(libc::EPERM | libc::EACCES));
    let setting = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if denied && mode == Mode::User && setting.is_ok_and(|value| value.trim() == "1") {
        return failure.because(
            "AppArmor keeps ordinary users from using user namespaces here: set \
             kernel.apparmor_restrict_unprivileged_userns=0, add a profile for this binary, or run as root",
        );
    }
    failure
}

impl NodeProcess {
    fn serve(&mut self, socket: &OwnedFd) -> Result<(), Failure> {
        loop {
            let waited = kernel::wait_readable([socket.as_fd(), self.children.as_fd()]);
            let [asked, ended] = waited.map_err(failed("wait for requests"))?;
            if ended {
                self.reap(socket)?;
            }
            if asked {
                let received = wire::receive::<Request>(socket.as_fd()).map_err(failed("read a request"))?;
                let Some((request, fds)) = received else { return Ok(()) };
                self.take(socket, request, fds)?;
            }
        }
    }

    fn take(&mut self, socket: &OwnedFd, request: Request, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let Request { id, call } = request;
        let mut out = Vec::new();
        let result = match call {
            Call::CreatePod(pod) => self.create_pod(&pod).map(Answer::Pod),
            Call::DeletePod(pod) => match self.delete_pod(id, pod) {
                Ok(()) => return self.finish_deletion(socket, pod),
                Err(failure) => Err(failure),
            },
            Call::Spawn(call) => self.spawn(&call, fds).map(|(container, pid)| {
                out.extend(kernel::pidfd(pid).ok());
                Answer::Container(container)
            }),
            Call::Kill(container, signal) => self.kill(container, signal).map(|()| Answer::Done),
            Call::Listen(listen) => self.listen(listen).map(|socket| {
                out.push(socket);
                Answer::Socket
            }),
            Call::Socket(socket) => self.socket(socket).map(|socket| {
                out.push(socket);
                Answer::Socket
            }),
        };
        tell(socket, &Message::Reply { id, result }, out)
    }

    fn create_pod(&mut self, pod: &CreatePod) -> Result<PodId, Failure> {
        let name = format!("{}/{}", pod.namespace, pod.name);
        self.last_pod += 1;
        let Self { config, origin, home, bridge, last_pod, .. } = self;
        let namespaces = pod::create(config, origin.mode, home, bridge, *last_pod, pod)
            .map_err(|failure| restricted(origin.mode, failure).within(format!("create pod {name}")))?;
        let id = PodId(self.last_pod);
        self.pods.insert(id, Pod { namespaces, name, deleting: None });
        Ok(id)
    }

    /// Begins the end of a pod; the answer comes when its last container has ended.
    fn delete_pod(&mut self, request: u64, id: PodId) -> Result<(), Failure> {
        let pod = self.pods.get_mut(&id).filter(|pod| pod.deleting.is_none());
        let pod = pod.ok_or_else(|| Failure::refused("delete a pod", format!("there is no pod {}", id.0)))?;
        pod.deleting = Some(request);
        for (pid, _) in self.containers.iter().filter(|(_, running)| running.place == Place::Pod(id)) {
            // It may have ended meanwhile; then its end is about to be noticed.
            let _ = kernel::kill(*pid, libc::SIGKILL);
        }
        pod::disconnect(&mut self.bridge, id.0);
        Ok(())
    }

    fn finish_deletion(&mut self, socket: &OwnedFd, id: PodId) -> Result<(), Failure> {
        if self.containers.values().any(|running| running.place == Place::Pod(id)) {
            return Ok(());
        }
        let Some(request) = self.pods.get(&id).and_then(|pod| pod.deleting) else { return Ok(()) };
        self.pods.remove(&id);
        tell(socket, &Message::Reply { id: request, result: Ok(Answer::Done) }, vec![])
    }

    fn spawn(&mut self, call: &SpawnCall, fds: Vec<OwnedFd>) -> Result<(ContainerId, libc::pid_t), Failure> {
        let pid = match call.place {
            Place::Node => container::start(&self.origin, None, call, fds),
            Place::Pod(id) => {
                let pod = self.pod(id)?;
                container::start(&self.origin, Some(pod.namespaces.borrow()), call, fds)
                    .map_err(|failure| failure.within(format!("in pod {}", pod.name)))
            }
        }?;
        self.last_container += 1;
        let id = ContainerId(self.last_container);
        self.containers.insert(pid, Running { id, place: call.place });
        Ok((id, pid))
    }

    fn pod(&self, id: PodId) -> Result<&Pod, Failure> {
        let pod = self.pods.get(&id).filter(|pod| pod.deleting.is_none());
        pod.ok_or_else(|| Failure::refused("find the pod", format!("there is no pod {}", id.0)))
    }

    fn kill(&mut self, container: ContainerId, signal: i32) -> Result<(), Failure> {
        let step = || format!("send signal {signal} to container {}", container.0);
        let running = self.containers.iter().find(|(_, running)| running.id == container);
        let (pid, _) = running.ok_or_else(|| Failure::refused(step(), "it is not running"))?;
        kernel::kill(*pid, signal).map_err(failed(step()))
    }

    /// Makes a socket where it belongs: it stays there wherever its descriptor goes.
    fn make<T>(&self, place: Place, make: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        match place {
            Place::Node => make(),
            Place::Pod(id) => self.home.visit_network(self.pod(id)?.namespaces.network.as_fd(), make),
        }
    }

    fn listen(&self, listen: Listen) -> Result<OwnedFd, Failure> {
        let Listen { place, address, transport, v6_only, reuse_port } = listen;
        let step = || format!("listen on {address}");
        let bind = || {
            let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(domain, kind(transport).nonblocking(), None)?;
            if transport == Transport::Tcp {
                socket.set_reuse_address(true)?;
            }
            if reuse_port {
                socket.set_reuse_port(true)?;
            }
            if let SocketAddr::V6(_) = address {
                socket.set_only_v6(v6_only)?;
            }
            socket.bind(&address.into())?;
            if transport == Transport::Tcp {
                socket.listen(BACKLOG)?;
            }
            Ok(socket.into())
        };
        self.make(place, || bind().map_err(failed(step())))
    }

    fn socket(&self, socket: Socket) -> Result<OwnedFd, Failure> {
        let Socket { place, transport, family, mark } = socket;
        let domain = match family {
            Family::V4 => socket2::Domain::IPV4,
            Family::V6 => socket2::Domain::IPV6,
        };
        let open = || {
            let socket = socket2::Socket::new(domain, kind(transport).nonblocking(), None)?;
            if let Some(mark) = mark {
                socket.set_mark(mark)?;
            }
            Ok(socket.into())
        };
        self.make(place, || open().map_err(failed("make a socket")))
    }

    /// Reports containers that have ended.
    fn reap(&mut self, socket: &OwnedFd) -> Result<(), Failure> {
        // The signals are only a wake-up: several ends may be one signal.
        let mut buffer = [0u8; 512];
        if let Ok(copy) = self.children.try_clone() {
            let _ = File::from(copy).read(&mut buffer);
        }
        while let Some((pid, status)) = kernel::wait_any() {
            let Some(Running { id, place }) = self.containers.remove(&pid) else { continue };
            let status = if libc::WIFEXITED(status) {
                ExitStatus::Code(libc::WEXITSTATUS(status))
            } else {
                ExitStatus::Signal(libc::WTERMSIG(status))
            };
            tell(socket, &Message::Exited { container: id, status }, vec![])?;
            if let Place::Pod(pod) = place {
                self.finish_deletion(socket, pod)?;
            }
        }
        Ok(())
    }
}

fn kind(transport: Transport) -> socket2::Type {
    match transport {
        Transport::Tcp => socket2::Type::STREAM,
        Transport::Udp => socket2::Type::DGRAM,
    }
}
