//! What becomes of heads in Envoy's connection manager and router: of a request before it is routed and before it goes
//! upstream, of an answer before it goes down. Who carries exchanges out calls these in the order of this file.

use std::time::Duration;

use crate::cluster::ClusterSettings;
use crate::edit::HeaderEdits;
use crate::filter::cors::Grant;
use crate::format::Facts;
use crate::forwarding;
use crate::hashing::NewCookies;
use crate::hcm::{Hcm, ServerHeader};
use crate::message::{RequestHead, ResponseHead};
use crate::outlier::status_of_grpc;
use crate::path::Normalized;
use crate::record::{Flags, Record};
use crate::reply::{self, LocalReply};
use crate::retry::RetryPolicy;
use crate::route::{Forward, HostRewrite, RouteConfig, Routed, rewrite_path, substitute, without_port};

/// A head that is answered before it is routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAccepted {
    /// With this.
    Reply(LocalReply),
    /// Its path cannot be normalised.
    Path,
    /// Its path is to be asked for as this location says.
    Redirect { location: String },
}

impl NotAccepted {
    /// The answer.
    pub fn reply(&self) -> LocalReply {
        match self {
            Self::Reply(reply) => reply.clone(),
            Self::Path => reply::PATH_NORMALIZATION_FAILED,
            Self::Redirect { .. } => LocalReply::fixed(307, "", Flags::NONE, "path_normalization_failed"),
        }
    }
}

/// Cleans the authority and the path of a request.
///
/// # Errors
/// When it is to be answered at once.
pub fn accept(request: &mut RequestHead, hcm: &Hcm) -> Result<(), NotAccepted> {
    let tunnel = request.path.is_empty() && request.is_connect();
    if !tunnel && !request.path.starts_with('/') {
        return Err(NotAccepted::Reply(reply::ABSOLUTE_PATH_REJECTED));
    }
    let takes_host = |v: &[u8]| v.split(|b| *b == b',').any(|n| n.trim_ascii().eq_ignore_ascii_case(b"host"));
    if request.headers.get_all("connection").any(takes_host) {
        request.authority.clear();
        request.authority_missing = true;
        return Err(NotAccepted::Reply(reply::MISSING_HOST));
    }
    if matches!(request.upgrade.as_str(), "h2c" | "http/2.0") {
        // Not offered: the request is served as it is (RFC 9110 section 7.8).
        request.upgrade.clear();
        request.headers.remove("http2-settings");
    }
    let host = &hcm.host;
    if let Some(port) = host.strip_port {
        let bare = without_port(&request.authority).len();
        if port.is_none_or(|p| request.authority[bare..] == format!(":{p}")) {
            request.authority.truncate(bare);
        }
    }
    let bare = without_port(&request.authority).len();
    if host.strip_trailing_dot && request.authority[..bare].ends_with('.') {
        request.authority.remove(bare - 1);
    }
    if tunnel {
        return Ok(());
    }
    match hcm.path.apply(&request.path) {
        Normalized::Same => Ok(()),
        Normalized::Changed(path) => {
            request.path = path;
            Ok(())
        }
        Normalized::Rejected(path) => {
            if let Some(path) = path {
                request.path = path;
            }
            Err(NotAccepted::Path)
        }
        Normalized::Redirect(location) => {
            request.path.clone_from(&location);
            Err(NotAccepted::Redirect { location })
        }
    }
}

/// A request that is to be forwarded, and by what.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// The connection manager.
    pub hcm: &'a Hcm,
    /// The route configuration.
    pub routes: &'a RouteConfig,
    /// The route.
    pub routed: Routed<'a>,
    /// What the route does.
    pub forward: &'a Forward,
    /// When it is tried again.
    pub retry: Option<&'a RetryPolicy>,
    /// For the whole exchange; [`Duration::ZERO`] is never, too.
    pub timeout: Option<Duration>,
    /// For each try.
    pub per_try: PerTry,
}

/// How long one try may take, where that is less than the whole, and how long nothing of it may move.
#[derive(Debug, Clone, Copy, Default)]
pub struct PerTry {
    pub whole: Option<Duration>,
    pub idle: Option<Duration>,
}

/// Whether a request may become this upgrade, or `connect`, on its route.
pub fn upgrade_allowed(hcm: &Hcm, forward: &Forward, name: &str) -> bool {
    match forward.upgrades.iter().find(|(n, _)| **n == *name) {
        Some((_, enabled)) => *enabled,
        None => matches!(name, "h2c" | "http/2.0") || hcm.upgrades.iter().any(|u| **u == *name),
    }
}

/// The time for the whole exchange (`timeout`, `max_grpc_timeout`).
fn timeout(forward: &Forward, request: &RequestHead) -> Option<Duration> {
    let Some(most) = forward.max_grpc_timeout.filter(|_| request.is_grpc()) else { return forward.timeout };
    let asked = request.headers.get_str("grpc-timeout").and_then(grpc_timeout);
    match (asked, most) {
        (asked, Duration::ZERO) => asked,
        (Some(asked), most) => Some(asked.min(most)),
        (None, most) => Some(most),
    }
}

impl<'a> Forwarding<'a> {
    /// What a request is forwarded by. What an internal client asks of its time goes from its headers.
    pub fn new(
        hcm: &'a Hcm,
        routes: &'a RouteConfig,
        routed: Routed<'a>,
        forward: &'a Forward,
        request: &mut RequestHead,
    ) -> Self {
        let mut timeout = timeout(forward, request);
        let retry = forward.retry.as_deref().or(routed.virtual_host.retry.as_deref());
        let mut per_try = PerTry {
            whole: retry.and_then(|retry| retry.per_try_timeout),
            idle: retry.and_then(|retry| retry.per_try_idle_timeout),
        };
        if forwarding::is_internal(&request.headers) {
            let headers = &mut request.headers;
            let asked = |name| headers.get_str(name).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
            timeout = asked("x-envoy-upstream-rq-timeout-ms").or(timeout);
            per_try.whole = asked("x-envoy-upstream-rq-per-try-timeout-ms").or(per_try.whole);
            forwarding::remove_steering(headers);
        }
        per_try.whole = per_try.whole.filter(|limit| timeout.is_none_or(|all| *limit < all));
        Self { hcm, routes, routed, forward, retry, timeout, per_try }
    }

    /// What the request asks for retries with, once it is prepared: a route's edits can do so too. It is for
    /// [`Forwarding::retry_as`].
    pub fn asked(&self, request: &mut RequestHead) -> Option<RetryPolicy> {
        RetryPolicy::asked(self.retry, &mut request.headers)
    }

    /// Tries again as `asked`, or else as the route says, if the request is one of those that may be tried again.
    pub fn retry_as(&mut self, asked: Option<&'a RetryPolicy>, request: &RequestHead) {
        self.retry = asked.or(self.retry).filter(|policy| policy.is_for(request));
    }

    /// Edits and rewrites the head for the upstream. `record` is what is known by now.
    pub fn prepare(&self, request: &mut RequestHead, record: &Record) {
        let Forwarding { hcm, routes, routed, forward, .. } = self;
        let mut layers = [
            routed.weighted.map(|w| &w.request_edits),
            Some(&routed.route.request_edits),
            Some(&routed.virtual_host.request_edits),
            Some(&routes.request_edits),
        ];
        if routes.most_specific_edits_win {
            layers.reverse();
        }
        let envoy_headers = !hcm.suppress_envoy_headers;
        self.tell_timeout(request, self.per_try.whole.or(self.timeout));
        if routed.virtual_host.attempt_count_in_request {
            request.headers.set("x-envoy-attempt-count", "1");
        }
        for edits in layers.into_iter().flatten().filter(|e| !e.is_empty()) {
            let values = edits.values(Facts { record, request, response: None });
            edits.apply(&mut request.headers, &values);
            request.headers.join();
        }
        let host = routed.weighted.and_then(|w| w.host_rewrite.as_deref()).map(str::to_owned);
        let host = match &forward.host_rewrite {
            HostRewrite::Literal(host) => Some(host.to_string()),
            HostRewrite::Header(name) => request.headers.get_str(name).map(str::to_owned).or(host),
            HostRewrite::Path { pattern, substitution } => Some(substitute(request.path_only(), pattern, substitution)),
            HostRewrite::Auto | HostRewrite::None => host,
        };
        if let Some(host) = host {
            self.rewrite_host(request, host);
        }
        if let Some(path) = rewrite_path(&request.path, &routed.route.matches, &forward.path_rewrite) {
            if envoy_headers {
                let old = std::mem::take(&mut request.path);
                request.headers.set("x-envoy-original-path", old);
            }
            request.path = path;
        }
    }

    /// The host that was chosen has a name: with automatic rewriting the authority becomes it.
    pub fn name_host(&self, request: &mut RequestHead, hostname: &str) {
        if matches!(self.forward.host_rewrite, HostRewrite::Auto) && !hostname.is_empty() {
            self.rewrite_host(request, hostname.to_owned());
        }
    }

    fn rewrite_host(&self, request: &mut RequestHead, host: String) {
        if host == request.authority {
            return;
        }
        let old = std::mem::replace(&mut request.authority, host);
        if !self.hcm.suppress_envoy_headers {
            request.headers.set("x-envoy-original-host", &old);
        }
        if self.forward.append_x_forwarded_host {
            forwarding::add_to_list(&mut request.headers, "x-forwarded-host", &old, ",");
        }
    }

    /// Another try tells its number, and what is left of the time, if that is limited.
    pub fn prepare_again(&self, request: &mut RequestHead, retries: u32, left: Option<Duration>) {
        if self.routed.virtual_host.attempt_count_in_request {
            request.headers.set("x-envoy-attempt-count", (retries + 1).to_string());
        }
        // 0 would mean that there is no limit.
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        self.tell_timeout(request, [left, self.per_try.whole].into_iter().flatten().min());
    }

    /// Tells the upstream how much time it has.
    fn tell_timeout(&self, request: &mut RequestHead, time: Option<Duration>) {
        let Some(ms) = time.map(|time| time.as_millis()).filter(|ms| *ms > 0) else { return };
        if !self.hcm.suppress_envoy_headers {
            request.headers.set("x-envoy-expected-rq-timeout-ms", ms.to_string());
        }
        if self.forward.tells_grpc_timeout && request.is_grpc() {
            request.headers.set("grpc-timeout", grpc_timeout_of(ms));
        }
    }

    /// What the upstream's head gets on its way down, before [`complete_response`]. `served` is how long it took, if
    /// the client is to be told.
    pub fn answered(
        &self,
        request: &RequestHead,
        record: &Record,
        response: &mut ResponseHead,
        served: Option<Duration>,
        cookies: &NewCookies,
    ) {
        if let Some(served) = served.filter(|_| !self.hcm.suppress_envoy_headers) {
            response.headers.set("x-envoy-upstream-service-time", served.as_millis().to_string());
        }
        for cookie in cookies.iter() {
            response.headers.append("set-cookie", cookie);
        }
        edit_response(self.routes, self.routed, request, record, response);
        if self.routed.virtual_host.attempt_count_in_response {
            response.headers.set("x-envoy-attempt-count", record.attempts.to_string());
        }
        if self.hcm.tracing.is_some()
            && let Some(operation) = &self.routed.route.decorator
            && !request.headers.contains("x-envoy-decorator-operation")
        {
            response.headers.set("x-envoy-decorator-operation", operation.as_bytes());
        }
    }

    /// How many attempts there were, if the virtual host wants it told.
    pub fn count_attempts(&self, record: &Record, response: &mut ResponseHead) {
        if self.routed.virtual_host.attempt_count_in_response {
            response.headers.append("x-envoy-attempt-count", record.attempts.to_string());
        }
    }
}

/// Header edits of weighted cluster, route, virtual host and route configuration on a response.
pub fn edit_response(
    routes: &RouteConfig,
    routed: Routed<'_>,
    request: &RequestHead,
    record: &Record,
    response: &mut ResponseHead,
) {
    let mut layers: [Option<&HeaderEdits>; 4] = [
        routed.weighted.map(|w| &w.response_edits),
        Some(&routed.route.response_edits),
        Some(&routed.virtual_host.response_edits),
        Some(&routes.response_edits),
    ];
    if routes.most_specific_edits_win {
        layers.reverse();
    }
    for edits in layers.into_iter().flatten().filter(|e| !e.is_empty()) {
        let values = edits.values(Facts { record, request, response: Some(response) });
        edits.apply(&mut response.headers, &values);
    }
}

/// What every response gets on its way out: no hop-by-hop fields unless it is our `own`, what CORS grants, `date` (as
/// `date` tells it, where there is none), `server`, `via`.
pub fn complete_response<D: AsRef<str>>(
    hcm: &Hcm,
    request: &RequestHead,
    response: &mut ResponseHead,
    own: bool,
    grant: Option<&Grant>,
    date: impl FnOnce() -> D,
) {
    let switched = response.status == 101;
    let headers = &mut response.headers;
    if !own {
        forwarding::remove_hop_by_hop(headers, false, switched);
    }
    if let Some(grant) = grant {
        grant.apply(headers);
    }
    if !headers.contains("date") {
        headers.append("date", date().as_ref());
    }
    match hcm.server_header {
        ServerHeader::Overwrite => headers.set("server", hcm.server_name.as_bytes()),
        ServerHeader::AppendIfAbsent if !headers.contains("server") => {
            headers.append("server", hcm.server_name.as_bytes())
        }
        ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
    }
    if let Some(via) = &hcm.via {
        forwarding::add_to_list(headers, "via", via, ", ");
    }
    // Only internal clients can ask for a trace; they get its id.
    if (hcm.edge.request_id_in_response || request.headers.contains("x-envoy-force-trace"))
        && let Some(id) = request.headers.get("x-request-id")
    {
        headers.set("x-request-id", id);
    }
}

/// The status that an answer counts as in outlier detection. `grpc`: the request was gRPC's.
pub fn judged(settings: &ClusterSettings, grpc: bool, response: &ResponseHead) -> u16 {
    let status = match grpc.then(|| response.headers.get_str("grpc-status")).flatten() {
        Some(status) => status_of_grpc(status.parse().unwrap_or(u32::MAX)),
        None => response.status,
    };
    match &settings.outlier_errors {
        Some(errors) => errors.judge(response, status),
        None => status,
    }
}

/// A time as `grpc-timeout` has it: in the finest unit that has room for it.
fn grpc_timeout_of(ms: u128) -> String {
    const MOST: u128 = 99_999_999;
    let units = [(1, 'm'), (1000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let fitting = units.iter().find(|(unit, _)| ms / unit <= MOST);
    fitting.map_or_else(|| format!("{MOST}H"), |(unit, letter)| format!("{}{letter}", ms / unit))
}

/// `grpc-timeout`: up to 8 digits and a unit (gRPC's HTTP/2 protocol document).
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(n * 3600),
        'M' => Duration::from_secs(n * 60),
        'S' => Duration::from_secs(n),
        'm' => Duration::from_millis(n),
        'u' => Duration::from_micros(n),
        'n' => Duration::from_nanos(n),
        _ => return None,
    })
}
