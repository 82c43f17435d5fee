//! Listeners on the host's loopback, kept in step with the services that want one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Relay, ServicePort, bind};
use crate::controllers::selection::{selects, target_port};

/// The open listeners. Dropping it closes them; relayed connections go on.
#[derive(Debug)]
pub struct HostListeners {
    relay: Relay,
    open: BTreeMap<SocketAddr, Open>,
}

#[derive(Debug)]
struct Open {
    port: ServicePort,
    /// Our own hold on the socket, so that it can be handed to a gateway's process, again and again.
    socket: OwnedFd,
    relaying: Option<JoinHandle<()>>,
    /// Who has it, by the uid of a gateway's pod.
    holders: BTreeSet<String>,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(relaying) = &self.relaying {
            relaying.abort();
        }
    }
}

impl HostListeners {
    /// No listener yet; those to come relay through `relay`.
    pub fn new(relay: Relay) -> Self {
        Self { relay, open: BTreeMap::new() }
    }

    /// What an open listener stands for.
    pub fn port_at(&self, address: SocketAddr) -> Option<&ServicePort> {
        self.open.get(&address).map(|open| &open.port)
    }

    /// Opens listeners for all of these ports, or for none of them; those already open for the same
    /// port are kept.
    ///
    /// # Errors
    /// The first address that cannot be bound, and why. An address open for another port is in use.
    pub fn open_all(&mut self, wanted: &[(SocketAddr, ServicePort)]) -> Result<(), (SocketAddr, io::Error)> {
        let mut bound = Vec::new();
        for (address, port) in wanted {
            match self.open.get(address) {
                Some(open) if open.port == *port => {}
                Some(_) => return Err((*address, io::ErrorKind::AddrInUse.into())),
                None => bound.push((*address, port, bind(*address).map_err(|error| (*address, error))?)),
            }
        }
        for (address, port, listener) in bound {
            let socket = listener.as_fd().try_clone_to_owned().map_err(|error| (address, error))?;
            let relaying = self.relay_on(listener, port.clone());
            self.open.insert(
                address,
                Open { port: port.clone(), socket, relaying: Some(relaying), holders: BTreeSet::new() },
            );
        }
        Ok(())
    }

    /// Closes every listener that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(SocketAddr, &ServicePort) -> bool) {
        self.open.retain(|address, open| keep(*address, &open.port));
    }

    /// The listeners of a service's port for a holder that accepts on them itself; the relay lets go of them.
    ///
    /// # Errors
    /// When a socket cannot be duplicated.
    pub fn hand_over(&mut self, port: &ServicePort, holder: &str) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        for open in self.open.values_mut().filter(|open| open.port == *port) {
            sockets.push(open.socket.try_clone()?);
            open.holders.insert(holder.to_owned());
            if let Some(relaying) = open.relaying.take() {
                relaying.abort();
            }
        }
        Ok(sockets)
    }

    /// Relays on the listeners of a service's port, also where somebody accepts on them.
    ///
    /// # Errors
    /// When a socket cannot be duplicated.
    pub fn take_back(&mut self, port: &ServicePort) -> io::Result<()> {
        self.relay_where(|open| open.port == *port)
    }

    /// A holder accepts no more: listeners that nobody else holds are relayed on again.
    ///
    /// # Errors
    /// When a socket cannot be duplicated.
    pub fn release(&mut self, holder: &str) -> io::Result<()> {
        let mut released = false;
        for open in self.open.values_mut() {
            released |= open.holders.remove(holder);
        }
        if released { self.relay_where(|open| open.holders.is_empty()) } else { Ok(()) }
    }

    fn relay_where(&mut self, wanted: impl Fn(&Open) -> bool) -> io::Result<()> {
        let idle = self.open.iter().filter(|(_, open)| open.relaying.is_none() && wanted(open));
        for address in idle.map(|(address, _)| *address).collect::<Vec<_>>() {
            let Some(open) = self.open.get(&address) else { continue };
            let listener = TcpListener::from_std(open.socket.try_clone()?.into())?;
            let relaying = self.relay_on(listener, open.port.clone());
            if let Some(open) = self.open.get_mut(&address) {
                open.relaying = Some(relaying);
            }
        }
        Ok(())
    }

    fn relay_on(&self, listener: TcpListener, port: ServicePort) -> JoinHandle<()> {
        let relay = self.relay.clone();
        tokio::spawn(async move {
            let address = listener.local_addr().ok();
            if let Err(error) = relay.serve_port(listener, port).await {
                tracing::error!(%error, ?address, "a host listener broke");
            }
        })
    }
}

/// The host's listeners as gateways see them: those of the Services that select a gateway's pod.
#[derive(Debug, Clone)]
pub struct GatewayListeners {
    listeners: std::sync::Arc<std::sync::Mutex<HostListeners>>,
}

impl GatewayListeners {
    /// Hands over from these listeners.
    pub fn new(listeners: std::sync::Arc<std::sync::Mutex<HostListeners>>) -> Self {
        Self { listeners }
    }

    /// The sockets a gateway's process is to accept on itself, each named `port-N` after the port of the
    /// pod that it stands for.
    pub fn for_gateway(&self, snapshot: &lateen_galley::Snapshot, pod: &Pod) -> Vec<(String, OwnedFd)> {
        let mut listeners = self.locked();
        let mut handed = Vec::new();
        for (port, target) in ports_to(snapshot, pod) {
            match listeners.hand_over(&port, holder(pod)) {
                Ok(sockets) => handed.extend(sockets.into_iter().map(|socket| (format!("port-{target}"), socket))),
                Err(error) => tracing::warn!(%error, ?port, "a listener cannot be handed to the gateway"),
            }
        }
        handed
    }

    /// A gateway's process begins that cannot accept by itself: it is relayed to, even if another one accepts beside it.
    pub fn relay_to_gateway(&self, snapshot: &lateen_galley::Snapshot, pod: &Pod) {
        let mut listeners = self.locked();
        for (port, _) in ports_to(snapshot, pod) {
            if let Err(error) = listeners.take_back(&port) {
                tracing::warn!(%error, ?port, "a listener cannot be taken back from the gateway");
            }
        }
    }

    /// A gateway's process has ended for good.
    pub fn gateway_ended(&self, pod: &Pod) {
        if let Err(error) = self.locked().release(holder(pod)) {
            tracing::warn!(%error, "listeners cannot be taken back from the gateway");
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HostListeners> {
        self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn holder(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The ports of Services that lead to a pod, each with the pod's port.
fn ports_to(snapshot: &lateen_galley::Snapshot, pod: &Pod) -> Vec<(ServicePort, u16)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut ports = Vec::new();
    for service in snapshot.list_in::<Service>(namespace) {
        let Some(spec) = &service.spec else { continue };
        let selects = spec.selector.as_ref().is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()));
        for port in spec.ports.iter().flatten().filter(|_| selects) {
            let (Ok(number), Some(target)) = (u16::try_from(port.port), target_port(port, pod)) else { continue };
            let service = service.metadata.name.clone().unwrap_or_default();
            ports.push((ServicePort { namespace: namespace.to_owned(), service, port: number }, target));
        }
    }
    ports
}
