//! Routes: from a request to what is done with it (Envoy's `RouteConfiguration`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use regex::Regex;

use crate::Dice;
use crate::edit::HeaderEdits;
use crate::filter::Overrides;
use crate::hashing::HashPolicy;
use crate::matcher::{HeaderMatcher, QueryMatcher, same};
use crate::message::RequestHead;
use crate::metadata::{Metadata, MetadataMatcher};
use crate::mirror::Mirror;
use crate::retry::RetryPolicy;

mod rewrite;

pub use rewrite::{Rewritten, direct_location, redirect_location, rewrite_path, substitute};

/// Envoy's `RouteConfiguration`.
#[derive(Debug, Clone, Default)]
pub struct RouteConfig {
    /// Name, for example `80` or `http.8080`.
    pub name: Arc<str>,
    /// Virtual hosts.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// A port in the request's authority does not count when a virtual host is chosen.
    pub ignore_port: bool,
    /// Edits of requests, after the route's and the virtual host's own.
    pub request_edits: HeaderEdits,
    /// Edits of responses, likewise.
    pub response_edits: HeaderEdits,
    /// Apply edits from the route configuration inwards, so that the most specific wins.
    pub most_specific_edits_win: bool,
    /// Settings of HTTP filters for all of it.
    pub filters: Overrides,
    /// Headers removed from requests of external clients.
    pub internal_only_headers: Vec<Arc<str>>,
    /// Copies of requests whose route and virtual host have no mirrors of their own.
    pub mirrors: Vec<Mirror>,
    /// Which virtual host has which domain; made by [`RouteConfig::index`].
    pub domains: DomainIndex,
    /// The names of its routes' statistics; made by [`RouteConfig::index`].
    pub stats: Vec<Arc<str>>,
}

/// Domains of a route configuration, ordered for look-up.
#[derive(Debug, Clone, Default)]
pub struct DomainIndex {
    exact: HashMap<String, usize>,
    // Longest first.
    suffixes: Vec<(String, usize)>,
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
}

/// Why a route configuration is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RouteError {
    /// Two virtual hosts claim the same domain.
    #[error("virtual_hosts: domain {domain:?} is in both {first:?} and {second:?}")]
    DuplicateDomain { domain: String, first: String, second: String },
}

/// Envoy's `VirtualHost`.
#[derive(Debug, Clone, Default)]
pub struct VirtualHost {
    /// Name, for example `reviews.default.svc.cluster.local:80`.
    pub name: Arc<str>,
    /// `host`, `*.suffix`, `prefix.*` or `*`; letter case does not count.
    pub domains: Vec<String>,
    /// Routes in order; the first match wins.
    pub routes: Vec<Arc<Route>>,
    /// Requests that must come over TLS are redirected.
    pub require_tls: RequireTls,
    /// Edits of requests.
    pub request_edits: HeaderEdits,
    /// Edits of responses.
    pub response_edits: HeaderEdits,
    /// Tell the upstream the number of the attempt (`x-envoy-attempt-count`).
    pub attempt_count_in_request: bool,
    /// Tell the client how many attempts there were.
    pub attempt_count_in_response: bool,
    /// Retry policy of routes without one.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies of requests whose route has no mirrors of its own.
    pub mirrors: Vec<Mirror>,
    /// Settings of HTTP filters for its routes.
    pub filters: Overrides,
}

/// Which plaintext requests are redirected to https.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireTls {
    /// None.
    #[default]
    None,
    /// Those of external clients.
    ExternalOnly,
    /// All.
    All,
}

/// Envoy's `Route`.
#[derive(Debug, Clone)]
pub struct Route {
    /// Name, for the access log; empty if none.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: RouteMatch,
    /// What is done.
    pub action: Action,
    /// The name of its own statistics, if it keeps any: `VIRTUAL_HOST.route.PREFIX`.
    pub stats: Option<Arc<str>>,
    /// Edits of requests.
    pub request_edits: HeaderEdits,
    /// Edits of responses.
    pub response_edits: HeaderEdits,
    /// Operation name for tracing, as `x-envoy-decorator-operation` tells it; `None` if there is none or it must
    /// not be propagated.
    pub decorator: Option<Arc<str>>,
    /// Settings of HTTP filters for its requests.
    pub filters: Overrides,
}

/// Envoy's `RouteMatch`.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Letter case of the path counts.
    pub case_sensitive: bool,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// All must match.
    pub query: Vec<QueryMatcher>,
    /// All must match what filters found out.
    pub metadata: Vec<MetadataMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// Part of the requests, per million, if set.
    pub fraction: Option<u32>,
}

/// How a path is compared.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// The raw beginning of path and query: `/pre` takes `/prefix`.
    Prefix(String),
    /// The whole path without query.
    Exact(String),
    /// The whole path without query.
    Regex(Regex),
    /// Whole segments: `/seg` takes `/seg` and `/seg/x`, not `/segx`.
    SegmentPrefix(String),
    /// CONNECT requests, plain and extended.
    Connect,
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send the request to a cluster.
    Forward(Arc<Forward>),
    /// Answer with a redirect.
    Redirect(Arc<Redirect>),
    /// Answer with this.
    Direct(Arc<DirectResponse>),
}

/// Envoy's `RouteAction`.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Where to.
    pub target: Target,
    /// Status when the cluster does not exist. Default 503.
    pub cluster_not_found_status: u16,
    /// Change of the path.
    pub path_rewrite: PathRewrite,
    /// Change of the authority.
    pub host_rewrite: HostRewrite,
    /// Keep the old authority in `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// For the whole exchange, retries included; `None` is never. Envoy's default is 15 s.
    pub timeout: Option<Duration>,
    /// Upper limit of `grpc-timeout`, which then replaces `timeout`; `Some(0)` takes it unlimited, `None` ignores it.
    pub max_grpc_timeout: Option<Duration>,
    /// gRPC servers are told the time they have.
    pub tells_grpc_timeout: bool,
    /// Replaces the connection manager's stream idle timeout; `Some(None)` switches it off.
    pub idle_timeout: Option<Option<Duration>>,
    /// Replaces the connection manager's maximal stream duration; `Some(None)` switches it off.
    pub max_stream_duration: Option<Option<Duration>>,
    /// Retry policy; else the virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies of its requests; else the virtual host's.
    pub mirrors: Vec<Mirror>,
    /// Upgrades that differ from the connection manager's: (lower-case name, enabled).
    pub upgrades: Vec<(Arc<str>, bool)>,
    /// CONNECT requests end here and their bytes go to the cluster.
    pub terminate_connect: bool,
    /// What of a request decides about the host, in clusters that hash.
    pub hash_policies: Vec<HashPolicy>,
    /// What decides between weighted clusters.
    pub weighted_by: WeightedBy,
}

/// What decides between weighted clusters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WeightedBy {
    /// Chance.
    #[default]
    Chance,
    /// A number in this request header, if there is one and it holds one; else chance.
    Header(Arc<str>),
    /// The hash that decides about the host, so that equal requests go to the same cluster; without one chance.
    Hash,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            target: Target::Cluster("".into()),
            cluster_not_found_status: 503,
            path_rewrite: PathRewrite::None,
            host_rewrite: HostRewrite::None,
            append_x_forwarded_host: false,
            timeout: Some(Duration::from_secs(15)),
            max_grpc_timeout: None,
            tells_grpc_timeout: false,
            idle_timeout: None,
            max_stream_duration: None,
            retry: None,
            mirrors: Vec::new(),
            upgrades: Vec::new(),
            terminate_connect: false,
            hash_policies: Vec::new(),
            weighted_by: WeightedBy::Chance,
        }
    }
}

/// The cluster of a route.
#[derive(Debug, Clone)]
pub enum Target {
    /// One cluster.
    Cluster(Arc<str>),
    /// Chosen by weight for each request. The total is not 0.
    Weighted(Vec<WeightedCluster>),
    /// Named by a request header.
    Header(Arc<str>),
}

/// One of several clusters.
#[derive(Debug, Clone, Default)]
pub struct WeightedCluster {
    /// Cluster name.
    pub name: Arc<str>,
    /// Relative weight.
    pub weight: u32,
    /// Edits of requests to it, before the route's.
    pub request_edits: HeaderEdits,
    /// Edits of responses from it.
    pub response_edits: HeaderEdits,
    /// Replaces the authority.
    pub host_rewrite: Option<Arc<str>>,
    /// Settings of HTTP filters for requests to it.
    pub filters: Overrides,
}

/// Change of the path before the request goes upstream.
#[derive(Debug, Clone, Default)]
pub enum PathRewrite {
    /// None.
    #[default]
    None,
    /// Replaces what the path match consumed (prefix, segment prefix or exact path).
    Prefix(String),
    /// Replaces all matches of a pattern in the path without query; `\1` refers to a group.
    Regex { pattern: Regex, substitution: String },
}

/// Change of the authority before the request goes upstream.
#[derive(Debug, Clone, Default)]
pub enum HostRewrite {
    /// None.
    #[default]
    None,
    /// To this.
    Literal(Arc<str>),
    /// To the value of this header.
    Header(Arc<str>),
    /// To the host name of the chosen endpoint.
    Auto,
    /// To the path without query, all matches of the pattern in it replaced; `\1` refers to a group.
    Path { pattern: Regex, substitution: String },
}

/// Envoy's `RedirectAction`.
#[derive(Debug, Clone, Default)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Replaces the scheme.
    pub scheme: Option<Arc<str>>,
    /// Replaces the host and its port.
    pub host: Option<Arc<str>>,
    /// Written out as the port.
    pub port: Option<u16>,
    /// Replaces path and, if it has one, query.
    pub path: Option<Arc<str>>,
    /// Changes the path, if `path` does not replace it.
    pub path_rewrite: PathRewrite,
    /// Drop the query.
    pub strip_query: bool,
}

/// Envoy's `DirectResponseAction`.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// Where a request was routed to.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'a> {
    /// The virtual host.
    pub virtual_host: &'a VirtualHost,
    /// Its route.
    pub route: &'a Route,
    /// Which of several clusters, once [`Forward::pick_weighted`] has picked one.
    pub weighted: Option<&'a WeightedCluster>,
}

impl<'a> Routed<'a> {
    /// The name of the cluster that the request goes to, if it is to be forwarded. It may not exist.
    pub fn cluster<'r>(&self, request: &'r RequestHead) -> Option<&'r str>
    where
        'a: 'r,
    {
        let Action::Forward(forward) = &self.route.action else { return None };
        Some(match &forward.target {
            Target::Cluster(name) => name,
            Target::Weighted(_) => self.weighted.map_or("", |one| &one.name),
            Target::Header(name) => request.headers.get_str(name).unwrap_or_default(),
        })
    }
}

/// Nothing fits a request.
#[derive(Debug, Clone, Copy)]
pub enum NotRouted<'a> {
    /// No virtual host or no route: 404.
    NotFound,
    /// The virtual host wants TLS: redirect to https.
    TlsRequired(&'a VirtualHost),
}

impl RouteConfig {
    /// Makes the domain index and the list of statistics; call it once `virtual_hosts` is filled.
    ///
    /// # Errors
    /// When two virtual hosts have the same domain.
    pub fn index(mut self) -> Result<Self, RouteError> {
        let mut index = DomainIndex::default();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (at, host) in self.virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                let domain = domain.to_ascii_lowercase();
                if let Some(first) = seen.insert(domain.clone(), at) {
                    let name = |at: usize| self.virtual_hosts[at].name.to_string();
                    return Err(RouteError::DuplicateDomain { domain, first: name(first), second: name(at) });
                }
                if domain == "*" {
                    index.any = Some(at);
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    index.suffixes.push((suffix.to_owned(), at));
                } else if let Some(prefix) = domain.strip_suffix('*') {
                    index.prefixes.push((prefix.to_owned(), at));
                } else {
                    index.exact.insert(domain, at);
                }
            }
        }
        index.suffixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
        index.prefixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
        self.domains = index;
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        self.stats = routes.filter_map(|route| route.stats.clone()).collect();
        Ok(self)
    }

    /// The virtual host for an authority: exact domain, longest suffix wildcard, longest prefix wildcard, `*`.
    pub fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        let index = &self.domains;
        if self.virtual_hosts.len() == 1 && index.any.is_some() {
            return self.virtual_hosts.first();
        }
        let host = if self.ignore_port { without_port(authority) } else { authority };
        let lower;
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        let at = index
            .exact
            .get(host)
            .or_else(|| {
                // A wildcard stands for at least one character.
                index
                    .suffixes
                    .iter()
                    .find(|(s, _)| host.len() > s.len() && host.ends_with(s.as_str()))
                    .map(|(_, at)| at)
            })
            .or_else(|| {
                index
                    .prefixes
                    .iter()
                    .find(|(p, _)| host.len() > p.len() && host.starts_with(p.as_str()))
                    .map(|(_, at)| at)
            })
            .or(index.any.as_ref())?;
        self.virtual_hosts.get(*at)
    }

    /// Finds the route of a request of which no filter found out anything yet; as [`RouteConfig::reroute`].
    ///
    /// # Errors
    /// [`NotRouted`] when nothing fits, or TLS is wanted.
    pub fn route<'a>(
        &'a self,
        request: &RequestHead,
        tls: bool,
        internal: bool,
        dice: &mut dyn Dice,
    ) -> Result<Routed<'a>, NotRouted<'a>> {
        self.reroute(request, &Metadata::default(), tls, internal, dice)
    }

    /// Finds the route of a request, by what filters found out too. `tls`: the client came over TLS; `internal`: it counts as
    /// internal.
    ///
    /// # Errors
    /// [`NotRouted`] when nothing fits, or TLS is wanted.
    pub fn reroute<'a>(
        &'a self,
        request: &RequestHead,
        metadata: &Metadata,
        tls: bool,
        internal: bool,
        dice: &mut dyn Dice,
    ) -> Result<Routed<'a>, NotRouted<'a>> {
        let virtual_host = self.virtual_host(&request.authority).ok_or(NotRouted::NotFound)?;
        let wants_tls = match virtual_host.require_tls {
            RequireTls::None => false,
            RequireTls::ExternalOnly => !internal,
            RequireTls::All => true,
        };
        // A request that an earlier proxy took over TLS says so in x-forwarded-proto.
        if wants_tls && !tls && request.headers.get("x-forwarded-proto") != Some(b"https") {
            return Err(NotRouted::TlsRequired(virtual_host));
        }
        let route = virtual_host
            .routes
            .iter()
            .find(|r| r.matches.matches(request, metadata, dice))
            .ok_or(NotRouted::NotFound)?;
        Ok(Routed { virtual_host, route, weighted: None })
    }
}

impl Forward {
    /// Picks one of several clusters by what decides between them. `hash` is the request's, needed for
    /// [`WeightedBy::Hash`] alone.
    pub fn pick_weighted<'a>(
        &self,
        clusters: &'a [WeightedCluster],
        request: &RequestHead,
        hash: Option<u64>,
        dice: &mut dyn Dice,
    ) -> Option<&'a WeightedCluster> {
        let number = match &self.weighted_by {
            WeightedBy::Chance => None,
            WeightedBy::Header(name) => {
                let mut values = request.headers.get_all(name);
                let only = values.next().filter(|_| values.next().is_none());
                only.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
            }
            WeightedBy::Hash => hash,
        };
        match number {
            Some(number) => pick_weighted_by(clusters, number),
            None => pick_weighted(clusters, dice),
        }
    }
}

impl RouteMatch {
    /// Matches every request whose path begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            path: PathMatch::Prefix(prefix.to_owned()),
            case_sensitive: true,
            headers: Vec::new(),
            query: Vec::new(),
            metadata: Vec::new(),
            grpc: false,
            fraction: None,
        }
    }

    /// Whether a request matches.
    pub fn matches(&self, request: &RequestHead, metadata: &Metadata, dice: &mut dyn Dice) -> bool {
        self.path_matches(request)
            && (!self.grpc || request.is_grpc())
            && self.headers.iter().all(|m| m.matches(request))
            && (self.query.is_empty() || self.query.iter().all(|m| m.matches(request.query())))
            && self.metadata.iter().all(|m| m.matches(metadata))
            && self.fraction.is_none_or(|per_million| dice.below(1_000_000) < u64::from(per_million))
    }

    fn path_matches(&self, request: &RequestHead) -> bool {
        // A CONNECT without a path is only for routes that ask for CONNECT.
        if request.path.is_empty() || matches!(self.path, PathMatch::Connect) {
            return matches!(self.path, PathMatch::Connect) && request.is_connect();
        }
        let fold = !self.case_sensitive;
        match &self.path {
            PathMatch::Prefix(p) => starts_with(&request.path, p, fold),
            PathMatch::Exact(p) => same(request.path_only().as_bytes(), p.as_bytes(), fold),
            PathMatch::Regex(r) => r.is_match(request.path_only()),
            PathMatch::SegmentPrefix(p) => {
                let path = request.path_only();
                starts_with(path, p, fold) && (path.len() == p.len() || path.as_bytes()[p.len()] == b'/')
            }
            PathMatch::Connect => false,
        }
    }
}

fn starts_with(text: &str, prefix: &str, fold: bool) -> bool {
    text.len() >= prefix.len() && same(&text.as_bytes()[..prefix.len()], prefix.as_bytes(), fold)
}

/// The authority without its port; brackets of IPv6 addresses stay.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

/// Picks one of several clusters by weight; `None` if the total is 0.
pub fn pick_weighted<'a>(clusters: &'a [WeightedCluster], dice: &mut dyn Dice) -> Option<&'a WeightedCluster> {
    let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    at_weight(clusters, dice.below(total))
}

/// The cluster that a number stands for, by weight; the same for the same number.
pub fn pick_weighted_by(clusters: &[WeightedCluster], number: u64) -> Option<&WeightedCluster> {
    let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    at_weight(clusters, number.checked_rem(total)?)
}

fn at_weight(clusters: &[WeightedCluster], mut at: u64) -> Option<&WeightedCluster> {
    clusters.iter().find(|c| {
        let hit = at < u64::from(c.weight);
        at = at.saturating_sub(u64::from(c.weight));
        hit
    })
}

#[cfg(test)]
mod tests;
