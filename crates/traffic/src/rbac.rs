//! Who may do what: role-based access control (Envoy's filters `envoy.filters.http.rbac` and
//! `envoy.filters.network.rbac`; "RBAC" in Envoy's documentation).
//!
//! Rules are compiled once. A decision reads facts of connection and request and allocates nothing; it names the policy
//! that made it.

mod template;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use regex::Regex;

use crate::matcher::{Cidr, HeaderMatcher, StringMatcher};
use crate::message::RequestHead;
use crate::metadata::{Metadata, MetadataMatcher, Value};
use crate::record::Flags;
use crate::reply::LocalReply;
use crate::tls::TlsConnection;

pub use template::{TemplateError, path_template};

/// The ends of a connection, as rules see them.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// The other end of the connection, or the client a PROXY header named.
    pub source: IpAddr,
    /// The other end of the connection itself.
    pub direct: IpAddr,
    /// The client, as far as the one who is connected is trusted to say who that is.
    pub remote: IpAddr,
    /// The address the client meant.
    pub local: SocketAddr,
    /// The server's name the client asked for (SNI).
    pub server_name: Option<&'a str>,
    /// What the TLS handshake found out.
    pub tls: Option<&'a TlsConnection>,
}

/// All that rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The connection.
    pub peer: Peer<'a>,
    /// The request; none for a connection of bytes, which has no header and no path.
    pub request: Option<&'a RequestHead>,
    /// What earlier filters found out.
    pub metadata: &'a Metadata,
}

/// What is asked of facts: Envoy's permissions and principals in one.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Nothing.
    Any,
    /// All of these hold.
    All(Box<[Condition]>),
    /// One of these holds.
    OneOf(Box<[Condition]>),
    /// This does not hold.
    Not(Box<Condition>),
    /// A header or pseudo header matches.
    Header(HeaderMatcher),
    /// The path without query matches.
    Path(StringMatcher),
    /// The path without query fits a template, see [`path_template`].
    PathTemplate(Regex),
    /// The address the client meant is in the range.
    Destination(Cidr),
    /// The port the client meant is at least the first, and below the second.
    DestinationPorts(u32, u32),
    /// [`Peer::source`] is in the range.
    Source(Cidr),
    /// [`Peer::direct`] is in the range.
    Direct(Cidr),
    /// [`Peer::remote`] is in the range.
    Remote(Cidr),
    /// The server name asked for matches; it is empty if there is none.
    ServerName(StringMatcher),
    /// The connection is TLS; if a name is asked for, it is one of the peer's certificate.
    Authenticated(Option<StringMatcher>),
    /// What an earlier filter found out matches.
    Metadata(MetadataMatcher),
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        let peer = &facts.peer;
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|one| one.holds(facts)),
            Self::OneOf(all) => all.iter().any(|one| one.holds(facts)),
            Self::Not(one) => !one.holds(facts),
            Self::Header(header) => match facts.request {
                Some(request) => header.matches(request),
                None => header.matches_nothing(),
            },
            Self::Path(path) => facts.path().is_some_and(|p| path.matches(p)),
            Self::PathTemplate(template) => facts.path().is_some_and(|p| template.is_match(p)),
            Self::Destination(range) => range.contains(peer.local.ip()),
            Self::DestinationPorts(from, to) => (*from..*to).contains(&u32::from(peer.local.port())),
            Self::Source(range) => range.contains(peer.source),
            Self::Direct(range) => range.contains(peer.direct),
            Self::Remote(range) => range.contains(peer.remote),
            Self::ServerName(name) => name.matches(peer.server_name.unwrap_or_default()),
            Self::Authenticated(name) => peer.tls.is_some_and(|tls| is_authenticated(tls, name.as_ref())),
            Self::Metadata(matcher) => matcher.matches(facts.metadata),
        }
    }
}

impl<'a> Facts<'a> {
    /// A request for no path (CONNECT) has none that could match.
    fn path(&self) -> Option<&'a str> {
        self.request.filter(|request| !request.path.is_empty()).map(RequestHead::path_only)
    }
}

/// As in Envoy, each of the certificate's names counts: URIs, DNS names, and the subject.
fn is_authenticated(tls: &TlsConnection, name: Option<&StringMatcher>) -> bool {
    let Some(name) = name else { return true };
    match tls.peer.as_deref() {
        Some(peer) => {
            let names = peer.uri_names.iter().chain(&peer.dns_names);
            names.chain(std::iter::once(&peer.subject)).any(|own| name.matches(own))
        }
        None => name.matches(""),
    }
}

/// A named rule.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name, for example `ns[foo]-policy[bar]-rule[0]`.
    pub name: Arc<str>,
    /// What is done: one of these must hold.
    pub permissions: Box<[Condition]>,
    /// By whom: one of these must hold.
    pub principals: Box<[Condition]>,
}

impl Policy {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.permissions.iter().any(|one| one.holds(facts)) && self.principals.iter().any(|one| one.holds(facts))
    }
}

/// What happens when a policy matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Only what matches goes on.
    Allow,
    /// What matches goes no further.
    Deny,
    /// All goes on; metadata tells what matched.
    Log,
}

/// Policies with one action.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The action.
    pub action: Action,
    // By name: the first that matches is the one that is named.
    policies: Box<[Policy]>,
}

/// What rules say of a request or connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// It may go on.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<Arc<str>>,
}

impl Rules {
    /// Policies with one action.
    pub fn new(action: Action, mut policies: Vec<Policy>) -> Self {
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Self { action, policies: policies.into() }
    }

    /// What they say.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let matched = self.policies.iter().find(|policy| policy.matches(facts));
        let allowed = match self.action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => true,
        };
        Decision { allowed, policy: matched.map(|policy| policy.name.clone()) }
    }
}

/// The filter: rules that are enforced, and rules that are only tried.
#[derive(Debug, Clone)]
pub struct Rbac {
    /// Those that are enforced.
    pub rules: Option<Rules>,
    /// Those whose outcome is only told.
    pub shadow: Option<Rules>,
    /// Where the filter's statistics are, for filters of connections: for example `tcp.rbac`.
    pub stat_scope: Arc<str>,
    /// Prefix of statistics of those that are enforced: empty, or with a dot at its end.
    pub stat_prefix: Arc<str>,
    /// Prefix of statistics of those that are tried, likewise.
    pub shadow_stat_prefix: Arc<str>,
    /// What single policies decided is counted by their names.
    pub counts_policies: bool,
    keys: Keys,
    shadow_keys: Keys,
    names: Arc<Names>,
}

/// Keys under which later filters and logs are told what rules said.
#[derive(Debug, Clone)]
struct Keys {
    policy: Arc<str>,
    result: Arc<str>,
}

impl Keys {
    fn new(prefix: &str, of: &str) -> Self {
        let key = |what: &str| format!("{prefix}{of}_{what}").into();
        Self { policy: key("effective_policy_id"), result: key("engine_result") }
    }

    /// Has rules decide, and tells what they say.
    fn decide(
        &self,
        rules: &Rules,
        facts: (Peer<'_>, Option<&RequestHead>),
        names: &Names,
        metadata: &mut Metadata,
    ) -> Decision {
        let (peer, request) = facts;
        let decision = rules.decide(&Facts { peer, request, metadata });
        if let Some(policy) = &decision.policy {
            metadata.set(&names.filter, &self.policy, Value::Text(policy.clone()));
        }
        let result = if decision.allowed { &names.allowed } else { &names.denied };
        metadata.set(&names.filter, &self.result, Value::Text(result.clone()));
        decision
    }
}

/// Names in metadata.
#[derive(Debug)]
struct Names {
    filter: Arc<str>,
    common: Arc<str>,
    hint: Arc<str>,
    allowed: Arc<str>,
    denied: Arc<str>,
}

/// What the filter says of a request or connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Of the rules that are only tried.
    pub shadow: Option<Decision>,
    /// Of the rules that are enforced.
    pub enforced: Option<Decision>,
}

impl Rbac {
    /// A filter. `filter` is the name under which it keeps what it finds out, of the kind of filter it is.
    pub fn new(filter: &str, rules: Option<Rules>, shadow: Option<Rules>, prefixes: (&str, &str)) -> Self {
        let (stat_prefix, shadow_stat_prefix) = prefixes;
        let names = Names {
            filter: filter.into(),
            common: "envoy.common".into(),
            hint: "access_log_hint".into(),
            allowed: "allowed".into(),
            denied: "denied".into(),
        };
        Self {
            rules,
            shadow,
            keys: Keys::new(stat_prefix, "enforced"),
            shadow_keys: Keys::new(shadow_stat_prefix, "shadow"),
            stat_scope: "rbac".into(),
            stat_prefix: dotted(stat_prefix),
            shadow_stat_prefix: dotted(shadow_stat_prefix),
            counts_policies: false,
            names: Arc::new(names),
        }
    }

    /// The same filter, counting single policies if asked.
    #[must_use]
    pub fn counting_policies(self, counts_policies: bool) -> Self {
        Self { counts_policies, ..self }
    }

    /// Whether there is anything to decide.
    pub fn has_rules(&self) -> bool {
        self.rules.is_some() || self.shadow.is_some()
    }

    /// The names of all its policies.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().chain(&self.shadow).flat_map(|rules| &rules.policies).map(|policy| &policy.name)
    }

    /// The same filter with its statistics elsewhere.
    #[must_use]
    pub fn counted_under(self, scope: &str) -> Self {
        Self { stat_scope: scope.into(), ..self }
    }

    /// Decides, and writes down what is to be told to later filters and to logs.
    pub fn decide(&self, peer: Peer<'_>, request: Option<&RequestHead>, metadata: &mut Metadata) -> Verdict {
        self.decide_in_place_of(self, peer, request, metadata)
    }

    /// The same as a route's rules: what has no prefix of its own is told under that of the route's filter.
    pub fn decide_in_place_of(
        &self,
        filter: &Self,
        peer: Peer<'_>,
        request: Option<&RequestHead>,
        metadata: &mut Metadata,
    ) -> Verdict {
        let (names, facts) = (&*self.names, (peer, request));
        let keys = if self.stat_prefix.is_empty() { &filter.keys } else { &self.keys };
        let shadow_keys = if self.shadow_stat_prefix.is_empty() { &filter.shadow_keys } else { &self.shadow_keys };
        let shadow = self.shadow.as_ref().map(|rules| shadow_keys.decide(rules, facts, names, metadata));
        let enforced = self.rules.as_ref().map(|rules| {
            let decision = keys.decide(rules, facts, names, metadata);
            if rules.action == Action::Log {
                metadata.set(&names.common, &names.hint, Value::Bool(decision.policy.is_some()));
            }
            decision
        });
        Verdict { shadow, enforced }
    }
}

/// As Envoy joins names of statistics: with one dot between them.
fn dotted(prefix: &str) -> Arc<str> {
    if prefix.is_empty() || prefix.ends_with('.') { prefix.into() } else { format!("{prefix}.").into() }
}

impl Verdict {
    /// Why it goes no further, if it does not.
    pub fn denial(&self) -> Option<&Decision> {
        self.enforced.as_ref().filter(|decision| !decision.allowed)
    }
}

impl Decision {
    /// What logs say of a denial.
    pub fn details(&self) -> String {
        // A blank would end the field of a log line.
        let name = self.policy.as_deref().unwrap_or("none").replace(|c: char| c.is_ascii_whitespace(), "_");
        format!("rbac_access_denied_matched_policy[{name}]")
    }

    /// The answer to a request that is denied: it says nothing of why.
    pub fn reply(&self) -> LocalReply {
        LocalReply { details: self.details().into(), ..LocalReply::fixed(403, "RBAC: access denied", Flags::NONE, "") }
    }
}

#[cfg(test)]
pub(crate) mod tests;
