//! Both state machines against each other over an imagined wire, and over a real one.

mod files;
mod loopback;
mod property;
mod proportion;
mod secrets;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use lateen_traffic::Config;

use super::Protocol;
use super::client::{Ask, ClientSession};
use super::server::{Push, ServerStream};
use crate::state::State;
use crate::{ResourceSet, ResourceType};

/// A client and a server, and what is under way between them.
struct Wire {
    protocol: Protocol,
    now: Instant,
    session: ClientSession,
    state: State,
    stream: ServerStream,
    set: Arc<ResourceSet>,
    to_server: VecDeque<Ask>,
    to_client: VecDeque<Push>,
    /// Responses sent to the client, by type.
    sent: BTreeMap<ResourceType, usize>,
}

impl Wire {
    fn new(protocol: Protocol, set: ResourceSet) -> Wire {
        let set = Arc::new(set);
        let wildcards = [ResourceType::Cluster, ResourceType::Listener];
        let mut wire = Wire {
            protocol,
            now: Instant::now(),
            session: ClientSession::new(protocol, Node::default(), wildcards),
            state: State::default(),
            stream: ServerStream::new(protocol, Arc::clone(&set)),
            set,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            sent: BTreeMap::new(),
        };
        wire.reconnect();
        wire
    }

    /// Everything under way is lost, and the server forgets the client.
    fn reconnect(&mut self) {
        self.to_client.clear();
        self.stream = ServerStream::new(self.protocol, Arc::clone(&self.set));
        self.to_server = self.session.connected(|r#type| self.state.wanted(r#type)).into();
    }

    fn update(&mut self, set: ResourceSet) {
        self.set = Arc::new(set);
        let pushes = self.stream.on_update(Arc::clone(&self.set), self.now);
        self.push(pushes);
    }

    fn push(&mut self, pushes: Vec<Push>) {
        for push in pushes {
            *self.sent.entry(push.r#type.clone()).or_default() += 1;
            self.to_client.push_back(push);
        }
    }

    /// The server reads one request.
    fn serve(&mut self) -> bool {
        let Some(ask) = self.to_server.pop_front() else { return false };
        let pushes = match self.protocol {
            Protocol::Delta => self.stream.on_delta_request(ask.to_delta(), self.now),
            Protocol::StateOfTheWorld => self.stream.on_request(ask.to_state_of_the_world(), self.now),
        };
        self.push(pushes.unwrap());
        true
    }

    /// The client reads one response.
    fn receive(&mut self) -> bool {
        let Some(push) = self.to_client.pop_front() else { return false };
        let update = match self.protocol {
            Protocol::Delta => self.session.on_delta_response(push.to_delta()),
            Protocol::StateOfTheWorld => self.session.on_response(push.to_state_of_the_world()),
        };
        let refused = self.state.apply(&update, SystemTime::UNIX_EPOCH);
        self.to_server.extend(self.session.answer(&update, &refused, |r#type| self.state.wanted(r#type)));
        true
    }

    /// Nobody has anything to say: time passes, until the server has waited long enough.
    fn wait(&mut self) -> bool {
        let Some(deadline) = self.stream.deadline() else { return false };
        assert!(deadline > self.now, "a deadline that has passed");
        self.now = deadline;
        let pushes = self.stream.on_deadline(deadline);
        self.push(pushes);
        true
    }

    fn step(&mut self) -> bool {
        self.serve() || self.receive() || self.wait()
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 10_000, "they never come to rest: {:?}", self.stream.status());
        }
    }

    fn config(&mut self) -> Arc<Config> {
        self.state.config()
    }

    /// How many responses of each type it takes until nobody has anything to say: CDS, EDS, LDS, RDS.
    fn settle_counting(&mut self) -> [usize; 4] {
        self.sent.clear();
        self.settle();
        ResourceType::CORE.map(|r#type| self.sent.get(&r#type).copied().unwrap_or_default())
    }
}
