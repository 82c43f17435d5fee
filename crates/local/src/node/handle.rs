//! The supervisor's side of a running node: requests and their answers, containers and their ends.

use super::failure::NodeError;
use super::request::{ContainerId, CreatePod, ExitStatus, Family, Listen, Place, PodId, Socket, Spawn, Transport};
use super::wire::{self, Answer, Call, Message, Packet, Request, SpawnCall};
use super::{Mode, Node};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};

/// The running node; cheap to clone. When the last clone is dropped, the node and everything in it ends.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    /// Ends the reading task when the last handle goes.
    _alive: Arc<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    pid: libc::pid_t,
    mode: Mode,
    ipv6: bool,
    next: AtomicU64,
    state: Mutex<State>,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<u64, oneshot::Sender<Delivery>>,
    running: HashMap<ContainerId, watch::Sender<Option<ExitStatus>>>,
    gone: bool,
}

type Outcome = Result<Delivered, NodeError>;

/// An answer as the reading task hands it over, with what it registered for it.
#[derive(Debug)]
enum Delivered {
    Pod(PodId),
    Container(Container),
    Socket(OwnedFd),
    Done,
}

/// An outcome on its way to the caller. If the caller has gone away meanwhile, what was made for it is undone.
#[derive(Debug)]
struct Delivery {
    shared: Arc<Shared>,
    outcome: Option<Outcome>,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let call = match &self.outcome {
            Some(Ok(Delivered::Pod(pod))) => Call::DeletePod(*pod),
            Some(Ok(Delivered::Container(container))) => Call::Kill(container.id, libc::SIGKILL),
            _ => return,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(undo(self.shared.clone(), call));
        }
    }
}

/// A container of the node. Dropping this does not end it.
#[derive(Debug, Clone)]
pub struct Container {
    id: ContainerId,
    host_pid: Option<u32>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Container {
    /// Its id, for [`NodeHandle::kill`].
    pub fn id(&self) -> ContainerId {
        self.id
    }

    /// Its process id as the host sees it, if the kernel tells (Linux 5.3).
    pub fn host_pid(&self) -> Option<u32> {
        self.host_pid
    }

    /// How it ended; `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// [`NodeError::Gone`] when the node ended, and so the container too.
    pub async fn wait(&mut self) -> Result<ExitStatus, NodeError> {
        match self.exit.wait_for(Option::is_some).await {
            Ok(status) => status.ok_or(NodeError::Gone),
            Err(_) => Err(NodeError::Gone),
        }
    }
}

impl NodeHandle {
    pub(super) fn new(node: Node) -> Result<Self, NodeError> {
        let Node { socket, pid, mode, ipv6, notes: _ } = node;
        let supervisor = |step| move |source| NodeError::Supervisor { step, source };
        set_nonblocking(&socket).map_err(supervisor("prepare the socket to the node"))?;
        if tokio::runtime::Handle::try_current().is_err() {
            let source = io::Error::other("there is no tokio runtime here");
            return Err(NodeError::Supervisor { step: "watch the socket to the node", source });
        }
        // SAFETY: an OwnedFd is open, is always the same descriptor, and is not taken out of the AsyncFd again.
        let socket = unsafe { AsyncFd::register(socket) }
            .map_err(|error| supervisor("watch the socket to the node")(error.into()))?;
        let shared = Arc::new(Shared {
            socket,
            pid,
            mode,
            ipv6,
            next: AtomicU64::new(1),
            state: Mutex::default(),
            closed: watch::Sender::new(false),
        });
        let (alive, last_handle_dropped) = oneshot::channel();
        tokio::spawn(read(shared.clone(), last_handle_dropped));
        Ok(Self { shared, _alive: Arc::new(alive) })
    }

    /// The node's process id, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.shared.pid.unsigned_abs()
    }

    /// Whether it was started as root or as an ordinary user.
    pub fn mode(&self) -> Mode {
        self.shared.mode
    }

    /// Whether this kernel gives pods IPv6.
    pub fn ipv6(&self) -> bool {
        self.shared.ipv6
    }

    /// Makes a pod: its network, its redirect rules, its files. About two milliseconds.
    ///
    /// # Errors
    /// [`NodeError::Request`] naming the step; nothing of the pod is left then.
    pub async fn create_pod(&self, pod: CreatePod) -> Result<PodId, NodeError> {
        match self.call(Call::CreatePod(pod), Vec::new()).await? {
            Delivered::Pod(pod) => Ok(pod),
            _ => Err(confused()),
        }
    }

    /// Ends every process of a pod (SIGKILL), waits for their end and frees its addresses. Sockets handed out by
    /// [`Self::listen`] and [`Self::socket`] stay open, but reach nothing.
    ///
    /// # Errors
    /// [`NodeError::Request`] when there is no such pod.
    pub async fn delete_pod(&self, pod: PodId) -> Result<(), NodeError> {
        self.call(Call::DeletePod(pod), Vec::new()).await.map(drop)
    }

    /// Runs a program in a pod. Also what `exec` in a running pod is.
    ///
    /// # Errors
    /// [`NodeError::Request`] when there is no such pod or the program cannot be started (errno of `execve`).
    pub async fn spawn(&self, spawn: Spawn) -> Result<Container, NodeError> {
        let Spawn { place, program, argv, env, cwd, role, stdin, stdout, stderr, listeners, hidden, tty } = spawn;
        let stdio = [stdin.is_some(), stdout.is_some(), stderr.is_some()];
        let (names, sockets): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
        let fds = [stdin, stdout, stderr].into_iter().flatten().chain(sockets).collect();
        let call = SpawnCall { place, program, argv, env, cwd, role, stdio, listeners: names, hidden, tty };
        match self.call(Call::Spawn(call), fds).await? {
            Delivered::Container(container) => Ok(container),
            _ => Err(confused()),
        }
    }

    /// Sends a signal to a container's first process. `SIGTERM` does nothing to a program that has no handler for it,
    /// as in any container; `SIGKILL` always works and takes all its descendants along.
    ///
    /// # Errors
    /// [`NodeError::Request`] for a container that is not running or a signal that does not exist.
    pub async fn kill(&self, container: ContainerId, signal: i32) -> Result<(), NodeError> {
        self.call(Call::Kill(container, signal), Vec::new()).await.map(drop)
    }

    /// A bound socket in the node's or a pod's network, listening if TCP; non-blocking. It can be accepted on here, or
    /// handed to [`Spawn::listeners`].
    ///
    /// # Errors
    /// [`NodeError::Request`] with the errno of `bind`.
    pub async fn listen(&self, listen: Listen) -> Result<OwnedFd, NodeError> {
        match self.call(Call::Listen(listen), Vec::new()).await? {
            Delivered::Socket(socket) => Ok(socket),
            _ => Err(confused()),
        }
    }

    /// [`Self::listen`] as a tokio listener.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub async fn tcp_listener(&self, place: Place, address: SocketAddr) -> Result<TcpListener, NodeError> {
        let socket = self.listen(Listen::tcp(place, address)).await?;
        TcpListener::from_std(socket.into()).map_err(watching)
    }

    /// [`Self::listen`] as a tokio UDP socket.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub async fn udp_socket(&self, place: Place, address: SocketAddr) -> Result<UdpSocket, NodeError> {
        let socket = self.listen(Listen::udp(place, address)).await?;
        UdpSocket::from_std(socket.into()).map_err(watching)
    }

    /// An unconnected socket of the node's or a pod's network; non-blocking.
    ///
    /// # Errors
    /// [`NodeError::Request`] when there is no such pod.
    pub async fn socket(&self, socket: Socket) -> Result<OwnedFd, NodeError> {
        match self.call(Call::Socket(socket), Vec::new()).await? {
            Delivered::Socket(socket) => Ok(socket),
            _ => Err(confused()),
        }
    }

    /// Connects from the node's or a pod's network, passing the redirect rules if `mark` says so. From a pod to
    /// 127.0.0.1 reaches its app directly (probes); from the node to a pod's address is what any peer sees. No time
    /// limit of its own.
    ///
    /// # Errors
    /// As [`Self::socket`]; [`NodeError::Supervisor`] when the connection is refused.
    pub async fn connect(&self, place: Place, to: SocketAddr, mark: Option<u32>) -> Result<TcpStream, NodeError> {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = self.socket(Socket { place, transport: Transport::Tcp, family, mark }).await?;
        let socket = TcpSocket::from_std_stream(socket.into());
        socket.connect(to).await.map_err(|source| NodeError::Supervisor { step: "connect", source })
    }

    /// Resolves when the node has ended for whatever reason.
    pub async fn closed(&self) {
        let mut closed = self.shared.closed.subscribe();
        // The sender lives in `shared`.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Ends the node and waits until all its processes are gone. Other clones of the handle only get
    /// [`NodeError::Gone`] from here on.
    pub async fn shutdown(self) {
        // SAFETY: shutdown(2) on a descriptor we hold.
        unsafe { libc::shutdown(self.shared.socket.get_ref().as_raw_fd(), libc::SHUT_RDWR) };
        self.closed().await;
    }

    async fn call(&self, call: Call, fds: Vec<OwnedFd>) -> Outcome {
        let shared = &self.shared;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let packet = Packet::encode(&Request { id, call }, fds)?;
        let (sender, outcome) = oneshot::channel();
        {
            let mut state = shared.state();
            if state.gone {
                return Err(NodeError::Gone);
            }
            state.pending.insert(id, sender);
        }
        let forget = Forget { shared, id };
        let sent = loop {
            let mut ready = match shared.socket.writable().await {
                Ok(ready) => ready,
                Err(_) => break Err(NodeError::Gone),
            };
            match ready.try_io(|socket| wire::send(socket.as_fd(), &packet)) {
                Ok(Ok(())) => break Ok(()),
                Ok(Err(source)) if source.kind() == io::ErrorKind::BrokenPipe => break Err(NodeError::Gone),
                Ok(Err(source)) => break Err(NodeError::Supervisor { step: "send a request to the node", source }),
                Err(_would_block) => {}
            }
        };
        sent?;
        // From here on the node will answer: if our caller stops waiting, the reading task undoes what was done.
        std::mem::forget(forget);
        match outcome.await {
            Ok(mut delivery) => delivery.outcome.take().unwrap_or(Err(NodeError::Gone)),
            Err(_) => Err(NodeError::Gone),
        }
    }
}

/// Forgets a request that was never sent.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state().pending.remove(&self.id);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single insertion or removal: a panic cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, message: Message, mut fds: Vec<OwnedFd>) {
        match message {
            Message::Ready { .. } | Message::Failed(_) => {}
            Message::Exited { container, status } => {
                if let Some(exit) = self.state().running.remove(&container) {
                    exit.send_replace(Some(status));
                }
            }
            Message::Reply { id, result } => {
                let outcome = match result {
                    Err(failure) => Err(NodeError::Request(failure)),
                    Ok(Answer::Done) => Ok(Delivered::Done),
                    Ok(Answer::Pod(pod)) => Ok(Delivered::Pod(pod)),
                    Ok(Answer::Socket) => fds.pop().map(Delivered::Socket).ok_or_else(confused),
                    Ok(Answer::Container(id)) => {
                        let host_pid = fds.pop().and_then(|pidfd| pid_of(&pidfd));
                        let (sender, exit) = watch::channel(None);
                        self.state().running.insert(id, sender);
                        Ok(Delivered::Container(Container { id, host_pid, exit }))
                    }
                };
                let delivery = Delivery { shared: self.clone(), outcome: Some(outcome) };
                let waiting = self.state().pending.remove(&id);
                if let Some(waiting) = waiting {
                    // Nobody waiting: the delivery undoes itself.
                    let _ = waiting.send(delivery);
                }
            }
        }
    }
}

/// Reads what the node sends until it ends or the last handle is dropped, then waits for its process.
async fn read(shared: Arc<Shared>, mut last_handle_dropped: oneshot::Receiver<()>) {
    loop {
        let mut ready = tokio::select! {
            ready = shared.socket.readable() => match ready { Ok(ready) => ready, Err(_) => break },
            _ = &mut last_handle_dropped => break,
        };
        match ready.try_io(|socket| wire::receive::<Message>(socket.as_fd())) {
            Err(_would_block) => {}
            Ok(Ok(Some((message, fds)))) => shared.take(message, fds),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                tracing::error!(%error, "the node sent something unreadable");
                break;
            }
        }
    }
    // SAFETY: shutdown(2) on a descriptor we hold.
    unsafe { libc::shutdown(shared.socket.get_ref().as_raw_fd(), libc::SHUT_RDWR) };
    let pid = shared.pid;
    // The node is pid 1 of its namespace: its end can be waited for only when all its processes have ended.
    let _ = tokio::task::spawn_blocking(move || super::kernel::wait_for(pid)).await;
    {
        let mut state = shared.state();
        state.gone = true;
        state.pending.clear();
        state.running.clear();
    }
    shared.closed.send_replace(true);
}

/// Undoes what was asked by a caller that went away.
async fn undo(shared: Arc<Shared>, call: Call) {
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let Ok(packet) = Packet::encode(&Request { id, call }, Vec::new()) else { return };
    while let Ok(mut ready) = shared.socket.writable().await {
        if ready.try_io(|socket| wire::send(socket.as_fd(), &packet)).is_ok() {
            return;
        }
    }
}

fn confused() -> NodeError {
    let source = io::Error::new(io::ErrorKind::InvalidData, "answer of another kind");
    NodeError::Supervisor { step: "understand the node's answer", source }
}

fn watching(source: io::Error) -> NodeError {
    NodeError::Supervisor { step: "watch a socket of a pod", source }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor we hold.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The process behind a pidfd, numbered as this process sees it (proc_pid_fdinfo(5)).
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}
