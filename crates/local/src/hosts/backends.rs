//! Who serves what: services by name and by virtual address, with the endpoints of the moment.
//! Plain data; it knows nothing of sockets or the store.

use std::collections::HashMap;
use std::net::SocketAddr;

/// One port of one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The service's namespace.
    pub namespace: String,
    /// The service's name; a ServiceEntry's host.
    pub service: String,
    /// The service's port.
    pub port: u16,
}

/// Where a connection can be taken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An address, in the pod network or outside.
    Address(SocketAddr),
    /// A name of the outside world, resolved when it is used.
    Name(String, u16),
}

/// The services of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    services: HashMap<ServicePort, Vec<Endpoint>>,
    virtual_addresses: HashMap<SocketAddr, ServicePort>,
}

impl Backends {
    /// Says who serves a port; an empty list means that nobody does now.
    pub fn add(&mut self, port: ServicePort, endpoints: Vec<Endpoint>) {
        self.services.insert(port, endpoints);
    }

    /// Says which port a virtual address stands for; the first one keeps it.
    pub fn add_virtual_address(&mut self, address: SocketAddr, port: ServicePort) {
        self.virtual_addresses.entry(address).or_insert(port);
    }

    /// The endpoints of a service's port.
    pub fn of(&self, port: &ServicePort) -> &[Endpoint] {
        self.services.get(port).map_or(&[], Vec::as_slice)
    }

    /// The port a virtual address stands for, if it is one.
    pub fn behind(&self, address: SocketAddr) -> Option<&ServicePort> {
        self.virtual_addresses.get(&address)
    }
}
