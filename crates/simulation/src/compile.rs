//! From a proxy's bootstrap to the configuration it would serve by: pilot generates, xDS converts, as over the wire.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_galley::Snapshot;
use lateen_pilot::assemble::{self, Memo, Outbound};
use lateen_pilot::discovery::Discovery;
use lateen_pilot::node::{Node, NodeError, NodeType};
use lateen_pilot::scope::ScopeKey;
use lateen_pilot::world::World;
use lateen_traffic::Config;
use lateen_xds::ads::client::introduced;
use lateen_xds::bootstrap::Bootstrap;
use lateen_xds::convert::Reject;
use lateen_xds::state::{Received, State, Update};
use lateen_xds::{ResourceSet, ResourceType};

/// Why there is no configuration for a proxy.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Its bootstrap has a static resource that is refused.
    #[error("its bootstrap: {0}")]
    Bootstrap(#[from] Reject),
    /// It does not say who it is.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A proxy's configuration.
pub struct Compiled {
    pub config: Arc<Config>,
    pub node_type: NodeType,
    /// Who its workload is, as its certificate says.
    pub identity: String,
    /// What it could not be given, and what it would refuse, in words.
    pub problems: Vec<String>,
}

/// Makes configurations. Proxies alike share what they can.
pub struct Compiler {
    world: World,
    memo: RefCell<Memo>,
    outbound: RefCell<HashMap<ScopeKey, Rc<Outbound>>>,
}

impl Compiler {
    /// For the proxies of a cluster.
    pub fn new(snapshot: Arc<Snapshot>, config: lateen_pilot::Config) -> Compiler {
        let known = Discovery::default().see(snapshot);
        let world = World::empty(Arc::new(config)).advance(known);
        Compiler { world, memo: RefCell::default(), outbound: RefCell::default() }
    }

    /// What a proxy with this bootstrap serves by.
    ///
    /// # Errors
    /// When it could not even start.
    pub fn compile(&self, bootstrap: &Bootstrap) -> Result<Compiled, CompileError> {
        let node = Node::parse(&introduced(bootstrap.node.clone()))?;
        let key = ScopeKey::new(&node, &assemble::labels(&node, &self.world), &self.world);
        let mut memo = self.memo.borrow_mut();
        let mut known = self.outbound.borrow_mut();
        let outbound =
            known.entry(key.clone()).or_insert_with(|| Rc::new(assemble::outbound(&self.world, &key, None, &mut memo)));
        let assembled = assemble::assemble(&self.world, &node, &key, outbound, &ResourceSet::new("1"), &mut memo);
        let mut problems = assembled.problems;
        let mut state = State::new(bootstrap, Box::new(|_| Ok(Box::new(()))), SystemTime::UNIX_EPOCH)?;
        problems.extend(apply(&mut state, &assembled.resources));
        let identity = format!(
            "spiffe://{}/ns/{}/sa/{}",
            self.world.config.trust_domain,
            node.namespace,
            node.service_account.as_deref().unwrap_or("default")
        );
        Ok(Compiled { config: state.config(), node_type: node.node_type, identity, problems })
    }
}

/// Tells a proxy's state a set of resources; gives what it refuses, in words.
pub fn apply(state: &mut State, resources: &ResourceSet) -> Vec<String> {
    let types = [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];
    let mut problems = Vec::new();
    for r#type in types {
        let received = |resource: &lateen_xds::Resource| Received {
            name: Arc::clone(resource.name()),
            version: resource.version().to_string().into(),
            body: resource.to_any(&r#type),
        };
        let update = Update {
            version: "1".into(),
            nonce: "".into(),
            resources: resources.of_type(&r#type).map(received).collect(),
            removed: Vec::new(),
            r#type: r#type.clone(),
        };
        let refused = state.apply(&update, SystemTime::UNIX_EPOCH);
        problems.extend(refused.iter().map(|refused| format!("refuses {type} {}: {}", refused.name, refused.reason)));
    }
    // Secrets are not told here; handshakes are decided without.
    for secret in state.awaited_secrets().into_keys() {
        state.give_up(&secret);
    }
    problems.extend(state.warming().map(|name| format!("{name} waits for what it was not told")));
    problems
}
