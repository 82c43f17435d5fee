//! Why a request went where it went: the decisions made for it, in order, each with the depth of the proxy that made it.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lateen_traffic::rbac::{Action, Rbac, Verdict};
use lateen_traffic::record::Flags;

use crate::world::World;

/// One decision.
#[derive(Debug, Clone)]
pub enum Decision {
    /// A program looked a host up.
    Resolved { host: String, address: SocketAddr },
    /// A proxy took the connection.
    Listener { at: String, listener: Arc<str>, chain: Arc<str>, http: bool },
    /// No filter chain takes it.
    NoChain { at: String, listener: Arc<str> },
    /// The request has a route: its virtual host, its place among that one's routes, its name, and what it matches.
    Route { virtual_host: Arc<str>, index: usize, name: Arc<str>, matches: String },
    /// It has none.
    NoRoute { authority: String, virtual_host: Option<Arc<str>> },
    /// It goes to this cluster, one of several if there is a weight: its own, and that of all.
    Cluster { name: Arc<str>, weight: Option<(u32, u64)> },
    /// Its head was changed on the way.
    Rewritten { authority: String, path: String },
    /// Whom its token speaks of, by a claim of the issuer and one of the subject; none if it brings no token.
    Token(Option<(String, String)>),
    /// What policies of one action say; `tried`: of those that are only tried.
    Policies { action: Action, policy: Option<Arc<str>>, tried: bool },
    /// It waits, since a fault is injected.
    Delayed(Duration),
    /// A try, from 1, at a host.
    Try { number: u32, host: String, pod: Option<Rc<str>>, secured: Option<String> },
    /// The try failed, or brought nothing good.
    TryFailed(String),
    /// Before the next try.
    Pause(Duration),
    /// A copy goes to another cluster.
    Mirror { cluster: String },
    /// An authorization service is asked.
    Asked { cluster: String },
    /// A proxy answered by itself.
    Own { status: u16, flags: Flags, details: String },
    /// A pod's program has it, and answers with this status, or in no HTTP.
    Program { pod: Rc<str>, status: Option<u16> },
    /// It left the cluster.
    Outside,
}

/// The decisions made for one request. Clones share them.
#[derive(Debug, Clone)]
pub struct Trace {
    told: Option<Rc<RefCell<Vec<Told>>>>,
    depth: u8,
}

#[derive(Debug)]
struct Told {
    depth: u8,
    at: Duration,
    decision: Decision,
}

impl Trace {
    /// Nobody wants to know.
    pub fn none() -> Trace {
        Trace { told: None, depth: 0 }
    }

    /// Nothing decided so far.
    pub fn new() -> Trace {
        Trace { told: Some(Rc::default()), depth: 0 }
    }

    /// The same for whoever is next on the way.
    pub(crate) fn deeper(&self) -> Trace {
        Trace { told: self.told.clone(), depth: self.depth.saturating_add(1) }
    }

    pub(crate) fn tell(&self, world: &World, decision: impl FnOnce() -> Decision) {
        if let Some(told) = &self.told {
            let at = world.clock.now();
            told.borrow_mut().push(Told { depth: self.depth, at, decision: decision() });
        }
    }

    /// Tells what policies said.
    pub(crate) fn tell_policies(&self, world: &World, rbac: &Rbac, verdict: &Verdict) {
        let said = [(&rbac.rules, &verdict.enforced, false), (&rbac.shadow, &verdict.shadow, true)];
        for (rules, decision, tried) in said {
            if let (Some(rules), Some(decision)) = (rules, decision) {
                let (action, policy) = (rules.action, decision.policy.clone());
                self.tell(world, || Decision::Policies { action, policy, tried });
            }
        }
    }

    /// The decisions so far.
    pub fn decisions(&self) -> Vec<Decision> {
        self.told
            .iter()
            .flat_map(|told| told.borrow().iter().map(|one| one.decision.clone()).collect::<Vec<_>>())
            .collect()
    }
}

/// A policy's rule, whose id is `ns[NAMESPACE]-policy[NAME]-rule[NUMBER]` where Istio's conventions hold.
struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = || {
            let (namespace, rest) = self.0.strip_prefix("ns[")?.split_once("]-policy[")?;
            let (name, number) = rest.split_once("]-rule[")?;
            Some((namespace, name, number.strip_suffix(']')?))
        };
        match parts() {
            Some((namespace, name, number)) => write!(f, "AuthorizationPolicy {namespace}/{name}, rules[{number}]"),
            None => write!(f, "policy {}", self.0),
        }
    }
}

impl Default for Trace {
    fn default() -> Trace {
        Trace::new()
    }
}

impl fmt::Display for Trace {
    /// A line each, indented by depth, with the time since the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(told) = &self.told else { return Ok(()) };
        let told = told.borrow();
        let begin = told.first().map_or(Duration::ZERO, |first| first.at);
        for Told { depth, at, decision } in told.iter() {
            let ms = at.saturating_sub(begin).as_secs_f64() * 1e3;
            writeln!(f, "{ms:>9.2} ms  {:indent$}{decision}", "", indent = usize::from(*depth) * 2)?;
        }
        Ok(())
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved { host, address } => write!(f, "{host} is {address}"),
            Self::Listener { at, listener, chain, http } => {
                write!(f, "{at}: listener {listener}")?;
                if !chain.is_empty() {
                    write!(f, ", filter chain {chain}")?;
                }
                f.write_str(if *http { "" } else { ", as plain TCP" })
            }
            Self::NoChain { at, listener } => write!(f, "{at}: listener {listener} has no filter chain for it: reset"),
            Self::Route { virtual_host, index, name, matches } => {
                write!(f, "virtual host {virtual_host}, route {index}")?;
                if !name.is_empty() {
                    write!(f, " ({name})")?;
                }
                write!(f, ": {matches}")
            }
            Self::NoRoute { authority, virtual_host: None } => write!(f, "no virtual host for {authority:?}"),
            Self::NoRoute { virtual_host: Some(host), .. } => write!(f, "no route of virtual host {host} fits"),
            Self::Cluster { name, weight: None } => write!(f, "cluster {name}"),
            Self::Cluster { name, weight: Some((weight, all)) } => {
                write!(f, "cluster {name}, by weight {weight} of {all}")
            }
            Self::Rewritten { authority, path } => write!(f, "goes up as {authority}{path}"),
            Self::Token(None) => f.write_str("brings no token"),
            Self::Token(Some((issuer, subject))) => write!(f, "brings a good token of {issuer} for {subject}"),
            Self::Policies { action, policy, tried } => {
                f.write_str(if *tried { "dry run: " } else { "" })?;
                match (action, policy) {
                    (Action::Allow, None) => f.write_str("no ALLOW policy matches, so it is denied"),
                    (Action::Deny, None) => f.write_str("no DENY policy matches"),
                    (Action::Log, None) => f.write_str("no AUDIT policy matches"),
                    (Action::Allow, Some(id)) => write!(f, "allowed by {}", Named(id)),
                    (Action::Deny, Some(id)) => write!(f, "denied by {}", Named(id)),
                    (Action::Log, Some(id)) => write!(f, "audited by {}", Named(id)),
                }
            }
            Self::Delayed(time) => write!(f, "waits {time:?}, an injected fault"),
            Self::Try { number, host, pod, secured } => {
                write!(f, "try {number}: host {host}")?;
                pod.as_ref().map_or(Ok(()), |pod| write!(f, " ({pod})"))?;
                secured.as_ref().map_or(Ok(()), |secured| write!(f, ", {secured}"))
            }
            Self::TryFailed(why) => write!(f, "failed: {why}"),
            Self::Pause(time) => write!(f, "tries again after {time:.1?}"),
            Self::Mirror { cluster } => write!(f, "a copy goes to {cluster}"),
            Self::Asked { cluster } => write!(f, "the authorization service {cluster} is asked"),
            Self::Own { status, flags, details } => {
                write!(f, "answers {status} itself: {details}")?;
                if flags.is_empty() { Ok(()) } else { write!(f, " ({flags})") }
            }
            Self::Program { pod, status: Some(status) } => write!(f, "{pod} answers {status}"),
            Self::Program { pod, status: None } => write!(f, "{pod} has it, and gives no HTTP back"),
            Self::Outside => f.write_str("outside of the cluster"),
        }
    }
}
