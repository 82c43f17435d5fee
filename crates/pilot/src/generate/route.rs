//! Routes: those a VirtualService asks for, and the one a service has without any.
//!
//! Source: Istio `core/route/route.go` (BuildHTTPRoutesForVirtualService, TranslateRoute).

use super::{balancing, mirror, retry, route_filters, route_match, wire};
use crate::rules::{HashBy, Merged, VirtualServiceRule};
use crate::{host, names};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source::Specifier, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    Decorator, DirectResponseAction, RedirectAction, Route, RouteAction, RouteMatch, WeightedCluster,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    route::Action,
    route_action::{ClusterSpecifier, HostRewriteSpecifier},
    route_match::PathSpecifier,
    weighted_cluster::{ClusterWeight, cluster_weight},
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use lateen_galley::istio::virtual_service::{
    Body, Destination, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRetry,
    HttpRoute, HttpRouteDestination, RedirectPort, RedirectPortSelection,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::registry::{Labels, selects};

/// What a route needs to know of a service it sends to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host its clusters are named after: another one for aliases.
    pub host: String,
    /// The only port, if there is but one.
    pub only_port: Option<u16>,
    pub hashing: Hashing,
}

/// What may make a service's endpoints be chosen by hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hashing {
    /// Its rule, as far as it counts here.
    pub rule: Option<Arc<Merged>>,
    /// Its clients stay with one endpoint, unless the rule says how endpoints are chosen.
    pub affinity: bool,
}

impl Hashing {
    /// What of a request is hashed, if anything is.
    fn by(&self, subset: &str, port: u16) -> Option<HashBy> {
        let policy = || self.rule.as_ref().map(|rule| rule.policy(subset, port)).unwrap_or_default();
        match (&self.rule, self.affinity) {
            (None, false) => None,
            (_, false) => policy().hash,
            (_, true) => policy().with_client_affinity().hash,
        }
    }
}

/// Services by host.
pub type Targets = BTreeMap<String, Target>;

/// For whom and where routes are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteScope {
    /// The port clients talk to.
    pub port: u16,
    /// Names of the gateways the routes are bound to: `mesh`, or `NAMESPACE/NAME`.
    pub gateways: Vec<String>,
    /// Of the proxy.
    pub namespace: String,
    /// Of the proxy, those that rules ask for.
    pub labels: Labels,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Whether clients talk TLS to the proxy.
    pub tls: bool,
    /// Of routes that say nothing of retries; Istio's own policy if none.
    pub retries: Option<HttpRetry>,
    /// Tell the upstream which host was asked for, where it is rewritten.
    pub forwarded_host: bool,
    /// Tell the upstream how often the request was tried.
    pub attempt_count: bool,
}

/// The routes of a rule in order, up to the first that takes everything. Empty if none is for this proxy and port.
pub fn of_rule(rule: &VirtualServiceRule, scope: &RouteScope, targets: &Targets) -> Vec<Route> {
    let mut routes = Vec::new();
    for http in &rule.spec().http {
        if http.matches.is_empty() {
            routes.push(route(rule, http, None, route_match::everything(), scope, targets));
            return routes;
        }
        for block in &http.matches {
            if !scope.admits(block, rule) {
                continue;
            }
            let Some(matches) = route_match::translate(block) else { continue };
            let last = route_match::is_everything(&matches);
            routes.push(route(rule, http, Some(block), matches, scope, targets));
            if last {
                return routes;
            }
        }
    }
    routes
}

/// The route of a service no rule speaks of. It is called `default`.
pub fn default(cluster: String, operation: String, retries: Option<&HttpRetry>, hash: Option<&HashBy>) -> Route {
    let zero = Some(wire::duration(Duration::ZERO));
    Route {
        name: "default".to_owned(),
        r#match: Some(route_match::everything()),
        decorator: Some(Decorator { operation, ..Default::default() }),
        action: Some(Action::Route(with_timeout(
            RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
                retry_policy: retry::of(retries),
                hash_policy: hash.map(balancing::hash_policy).into_iter().collect(),
                ..Default::default()
            },
            zero,
        ))),
        ..Default::default()
    }
}

impl RouteScope {
    fn admits(&self, block: &HttpMatchRequest, rule: &VirtualServiceRule) -> bool {
        if block.port != 0 && block.port != u32::from(self.port) {
            return false;
        }
        if !block.gateways.is_empty() {
            return block.gateways.iter().any(|gateway| self.gateways.contains(&rule.gateway_name(gateway)));
        }
        selects(&block.source_labels, &self.labels)
            && (block.source_namespace.is_empty() || block.source_namespace == self.namespace)
    }
}

fn route(
    rule: &VirtualServiceRule,
    http: &HttpRoute,
    block: Option<&HttpMatchRequest>,
    matches: RouteMatch,
    scope: &RouteScope,
    targets: &Targets,
) -> Route {
    let mut name = http.name.clone();
    if let Some(block) = block.filter(|block| !block.name.is_empty()) {
        name = format!("{name}.{}", block.name);
    }
    let edits = Edits::of(http.header_edits().as_ref());
    let mut route = Route {
        name,
        metadata: Some(wire::config_metadata(&rule.config_path())),
        stat_prefix: block.map(|block| block.stat_prefix.clone()).unwrap_or_default(),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        typed_per_filter_config: route_filters::of(http),
        ..Default::default()
    };
    let mut destination = None;
    if let Some(redirect) = &http.redirect {
        route.action = Some(Action::Redirect(redirect_action(redirect, scope)));
    } else if let Some(response) = &http.direct_response {
        route.action = Some(Action::DirectResponse(direct_response(response)));
    } else {
        let lookup = |destination: Option<&Destination>| cluster_of(destination, rule, scope, targets);
        let mut action = forward(http, edits.authority, &lookup, scope, &mut route);
        let hash = |destination: Option<&Destination>| hash_of(destination, rule, scope, targets);
        balancing::add_hash_policies(&mut action, http, rule.sticky_weights(), &hash);
        if let Some(ClusterSpecifier::Cluster(cluster)) = &action.cluster_specifier {
            destination = host_port_of(cluster);
        }
        route.action = Some(Action::Route(action));
    }
    let destination = destination.unwrap_or_else(|| format!("{}:{}", rule.name(), scope.port));
    route.decorator =
        Some(Decorator { operation: format!("{destination}{}", operation_path(&matches)), ..Default::default() });
    route.r#match = Some(matches);
    route
}

fn operation_path(matches: &RouteMatch) -> String {
    match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".to_owned(),
    }
}

/// `HOST:PORT` of an outbound cluster's name.
fn host_port_of(cluster: &str) -> Option<String> {
    let mut parts = cluster.split('|');
    let (_, port, _, host) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{host}:{port}"))
}

/// The cluster of a destination. A port left out is the service's only one, else the port clients talk to.
pub fn cluster_of(
    destination: Option<&Destination>,
    rule: &VirtualServiceRule,
    scope: &RouteScope,
    targets: &Targets,
) -> String {
    let Some(destination) = destination.filter(|destination| !destination.host.is_empty()) else {
        return names::UNKNOWN_SERVICE.to_owned();
    };
    let host = host::resolve(&destination.host, rule.namespace(), &scope.domain);
    let target = targets.get(&host);
    let port = port_of(destination, target, scope);
    let host = target.map_or(host.as_str(), |target| target.host.as_str());
    names::outbound_cluster(port, &destination.subset, host)
}

fn port_of(destination: &Destination, target: Option<&Target>, scope: &RouteScope) -> u16 {
    match destination.port {
        Some(port) if port.number != 0 => u16::try_from(port.number).unwrap_or(scope.port),
        _ => target.and_then(|target| target.only_port).unwrap_or(scope.port),
    }
}

/// What of a request to a destination is hashed, if its endpoints are chosen by that.
fn hash_of(
    destination: Option<&Destination>,
    rule: &VirtualServiceRule,
    scope: &RouteScope,
    targets: &Targets,
) -> Option<HashBy> {
    let destination = destination?;
    let target = targets.get(&host::resolve(&destination.host, rule.namespace(), &scope.domain))?;
    target.hashing.by(&destination.subset, port_of(destination, Some(target), scope))
}

fn forward(
    http: &HttpRoute,
    authority: Option<String>,
    cluster: &dyn Fn(Option<&Destination>) -> String,
    scope: &RouteScope,
    route: &mut Route,
) -> RouteAction {
    let timeout = http.timeout.map_or(Duration::ZERO, |timeout| timeout.get());
    let mut action = with_timeout(RouteAction::default(), Some(wire::duration(timeout)));
    let mut authority = authority;
    if let Some(rewrite) = &http.rewrite {
        action.append_x_forwarded_host = scope.forwarded_host;
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(route_match::regex_matcher(&regex.pattern)),
                substitution: regex.rewrite.clone(),
            });
        } else {
            action.prefix_rewrite = rewrite.uri.clone();
        }
        if !rewrite.authority.is_empty() {
            authority = Some(rewrite.authority.clone());
        }
    }
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    action.retry_policy = retry::of(http.retries.as_ref().or(scope.retries.as_ref()));
    action.request_mirror_policies = mirror::of(http, cluster);
    let weighted: Vec<&HttpRouteDestination> = http.route.iter().filter(|to| to.weight > 0).collect();
    action.cluster_specifier = Some(match (http.route.as_slice(), weighted.as_slice()) {
        ([only], _) => {
            let edits = Edits::of(only.header_edits().as_ref());
            route.request_headers_to_add.extend(edits.request_add);
            route.request_headers_to_remove.extend(edits.request_remove);
            route.response_headers_to_add.extend(edits.response_add);
            route.response_headers_to_remove.extend(edits.response_remove);
            if action.host_rewrite_specifier.is_none() {
                action.host_rewrite_specifier = edits.authority.map(HostRewriteSpecifier::HostRewriteLiteral);
            }
            ClusterSpecifier::Cluster(cluster(only.destination.as_ref()))
        }
        (_, []) => ClusterSpecifier::Cluster(names::UNKNOWN_SERVICE.to_owned()),
        (_, weighted) => {
            let shift = weight_shift(weighted.iter().map(|to| to.weight));
            ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: weighted
                    .iter()
                    .map(|to| weighted_cluster(to, cluster(to.destination.as_ref()), shift))
                    .collect(),
                ..Default::default()
            })
        }
    });
    action
}

/// How far weights must be shifted down for their sum to fit 32 bits, beyond which Envoy refuses it.
pub fn weight_shift(weights: impl Iterator<Item = i32>) -> u32 {
    let mut sum: u64 = weights.map(|weight| u64::try_from(weight).unwrap_or(0)).sum();
    let mut shift = 0;
    while sum > u64::from(u32::MAX) {
        sum >>= 1;
        shift += 1;
    }
    shift
}

fn weighted_cluster(to: &HttpRouteDestination, name: String, shift: u32) -> ClusterWeight {
    let edits = Edits::of(to.header_edits().as_ref());
    ClusterWeight {
        name,
        weight: Some(wire::number(u32::try_from(to.weight).unwrap_or(0) >> shift)),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        host_rewrite_specifier: edits.authority.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

// The newer field does not honour a caller's gRPC timeout the same way; istiod writes this one.
#[allow(deprecated)]
fn with_timeout(action: RouteAction, timeout: Option<envoy_types::pb::google::protobuf::Duration>) -> RouteAction {
    RouteAction { timeout, max_grpc_timeout: timeout, ..action }
}

fn redirect_action(redirect: &HttpRedirect, scope: &RouteScope) -> RedirectAction {
    let scheme = match redirect.scheme.as_str() {
        "" if scope.tls => "https",
        "" => "http",
        scheme => scheme,
    };
    let port = match redirect.port {
        Some(RedirectPort::Number(port)) => port,
        Some(RedirectPort::Derive(RedirectPortSelection::FromRequestPort)) => u32::from(scope.port),
        Some(RedirectPort::Derive(RedirectPortSelection::FromProtocolDefault)) | None => 0,
    };
    // Envoy would write the scheme's own port into the location.
    let port = if matches!((port, scheme), (80, "http") | (443, "https")) { 0 } else { port };
    RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: port,
        response_code: match redirect.redirect_code {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        }
        .into(),
        path_rewrite_specifier: Some(if redirect.prefix_rewrite.is_empty() {
            PathRewriteSpecifier::PathRedirect(redirect.uri.clone())
        } else {
            PathRewriteSpecifier::PrefixRewrite(redirect.prefix_rewrite.clone())
        }),
        scheme_rewrite_specifier: (!redirect.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(redirect.scheme.clone())),
        ..Default::default()
    }
}

fn direct_response(response: &HttpDirectResponse) -> DirectResponseAction {
    let body = match &response.body {
        Some(Body::String(text)) => Some(Specifier::InlineString(text.clone())),
        Some(Body::Bytes(bytes)) => Some(Specifier::InlineBytes(bytes.clone())),
        Some(Body::Empty) | None => None,
    };
    DirectResponseAction {
        status: response.status,
        body: body.map(|specifier| DataSource { specifier: Some(specifier), ..Default::default() }),
        ..Default::default()
    }
}

/// Header operations as a route carries them.
#[derive(Default)]
struct Edits {
    request_add: Vec<HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<HeaderValueOption>,
    response_remove: Vec<String>,
    /// Value given to `host` or `:authority`, which are no headers to Envoy.
    authority: Option<String>,
}

impl Edits {
    fn of(headers: Option<&Headers>) -> Edits {
        let Some(headers) = headers else { return Edits::default() };
        let (request, response) = (headers.request.as_ref(), headers.response.as_ref());
        let authority = |values: &BTreeMap<String, String>| {
            values.iter().rev().find(|(name, _)| is_authority(name)).map(|(_, value)| value.clone())
        };
        Edits {
            request_add: request.map(additions).unwrap_or_default(),
            request_remove: request.map(removals).unwrap_or_default(),
            response_add: response.map(additions).unwrap_or_default(),
            response_remove: response.map(removals).unwrap_or_default(),
            authority: request.and_then(|request| authority(&request.set).or_else(|| authority(&request.add))),
        }
    }
}

fn additions(operations: &HeaderOperations) -> Vec<HeaderValueOption> {
    let options = |values: &BTreeMap<String, String>, action: HeaderAppendAction| {
        values
            .iter()
            .filter(|(name, _)| !is_internal(name))
            .map(|(name, value)| HeaderValueOption {
                header: Some(HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() }),
                append_action: action.into(),
                ..Default::default()
            })
            .collect::<Vec<_>>()
    };
    let mut all = options(&operations.set, HeaderAppendAction::OverwriteIfExistsOrAdd);
    all.extend(options(&operations.add, HeaderAppendAction::AppendIfExistsOrAdd));
    all
}

fn removals(operations: &HeaderOperations) -> Vec<String> {
    operations.remove.iter().filter(|name| !is_internal(name)).cloned().collect()
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}
