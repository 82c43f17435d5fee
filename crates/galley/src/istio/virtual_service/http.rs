//! HTTP routes: what they match, and what they do to a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Destination;
use super::oneof::{BodyFields, RedirectFields};
use super::policy::{CorsPolicy, HttpFaultInjection, HttpMirrorPolicy};
use crate::istio::{Duration, Percent, StringMatch};

/// One rule. At most one of `route`, `redirect`, `direct_response` and `delegate` is its action.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    /// For access logs and stats.
    pub name: String,
    /// Any of these suffices; empty matches every request.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go, by weight.
    pub route: Vec<HttpRouteDestination>,
    /// Answer with a redirect.
    pub redirect: Option<HttpRedirect>,
    /// Answer with a fixed response.
    pub direct_response: Option<HttpDirectResponse>,
    /// Another VirtualService's rules are used here.
    pub delegate: Option<Delegate>,
    /// Applied before the request is passed on.
    pub rewrite: Option<HttpRewrite>,
    /// For the whole request, with its retries. Absent: none.
    pub timeout: Option<Duration>,
    /// Absent: the mesh's default policy.
    pub retries: Option<HttpRetry>,
    /// Delays and aborts put in on purpose.
    pub fault: Option<HttpFaultInjection>,
    /// A copy of the requests goes here too.
    pub mirror: Option<Destination>,
    /// Copies of the requests go here too.
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Deprecated form of `mirror_percentage`, whole percents.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    /// How much of the requests is copied to `mirror`. Absent: all.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin requests.
    pub cors_policy: Option<CorsPolicy>,
    /// Header edits for all destinations.
    pub headers: Option<Headers>,
    /// Of Istio 1.0; every route takes WebSocket since.
    pub websocket_upgrade: bool,
    /// `append_request_headers` in Istio 1.0.
    pub append_headers: BTreeMap<String, String>,
    /// `headers.request.add` up to Istio 1.2.
    pub append_request_headers: BTreeMap<String, String>,
    /// `headers.request.remove` likewise.
    pub remove_request_headers: Vec<String>,
    /// `headers.response.add` likewise.
    pub append_response_headers: BTreeMap<String, String>,
    /// `headers.response.remove` likewise.
    pub remove_response_headers: Vec<String>,
}

impl HttpRoute {
    /// Header edits for all destinations, however they are spelt.
    pub fn header_edits(&self) -> Option<Headers> {
        let mut edits = self.headers.clone();
        add(&mut edits, Headers::request_mut, &self.append_headers);
        add(&mut edits, Headers::request_mut, &self.append_request_headers);
        add(&mut edits, Headers::response_mut, &self.append_response_headers);
        remove(&mut edits, Headers::request_mut, &self.remove_request_headers);
        remove(&mut edits, Headers::response_mut, &self.remove_response_headers);
        edits
    }
}

/// All that is given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatchRequest {
    /// Joined to the route's name in access logs.
    pub name: String,
    /// The path, without query. `Prefix` is a plain string prefix.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// `GET`, `POST`, …
    pub method: Option<StringMatch>,
    /// The Host header or `:authority`.
    pub authority: Option<StringMatch>,
    /// By lower-case name. `@request.auth.claims…` names a claim of the request's token.
    pub headers: BTreeMap<String, StringMatch>,
    /// The port addressed; 0 is any.
    pub port: u32,
    /// Labels the client's workload must have.
    pub source_labels: BTreeMap<String, String>,
    /// Overrides the VirtualService's own list.
    pub gateways: Vec<String>,
    /// By name, case matters.
    pub query_params: BTreeMap<String, StringMatch>,
    /// For `uri` exact and prefix only.
    pub ignore_uri_case: bool,
    /// Headers that must not match so.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// The client workload's namespace.
    pub source_namespace: String,
    /// Prefix of this route's own statistics.
    pub stat_prefix: String,
}

/// A weighted destination of requests.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteDestination {
    /// Required.
    pub destination: Option<Destination>,
    /// Relative to the sum of its siblings'; 0 gets nothing unless it is the only one.
    pub weight: i32,
    /// Edits for this destination alone, applied after the route's.
    pub headers: Option<Headers>,
    /// `headers.request.add` up to Istio 1.2.
    pub append_request_headers: BTreeMap<String, String>,
    /// `headers.request.remove` likewise.
    pub remove_request_headers: Vec<String>,
    /// `headers.response.add` likewise.
    pub append_response_headers: BTreeMap<String, String>,
    /// `headers.response.remove` likewise.
    pub remove_response_headers: Vec<String>,
}

impl HttpRouteDestination {
    /// Edits for this destination alone, however they are spelt.
    pub fn header_edits(&self) -> Option<Headers> {
        let mut edits = self.headers.clone();
        add(&mut edits, Headers::request_mut, &self.append_request_headers);
        add(&mut edits, Headers::response_mut, &self.append_response_headers);
        remove(&mut edits, Headers::request_mut, &self.remove_request_headers);
        remove(&mut edits, Headers::response_mut, &self.remove_response_headers);
        edits
    }
}

type Side = fn(&mut Headers) -> &mut HeaderOperations;

/// What today's spelling says of a header goes before what an older one does.
fn add(edits: &mut Option<Headers>, side: Side, older: &BTreeMap<String, String>) {
    if !older.is_empty() {
        let operations = side(edits.get_or_insert_default());
        for (name, value) in older {
            operations.add.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

fn remove(edits: &mut Option<Headers>, side: Side, older: &[String]) {
    if !older.is_empty() {
        side(edits.get_or_insert_default()).remove.extend_from_slice(older);
    }
}

/// Header edits both ways.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    /// Before the request is passed on.
    pub request: Option<HeaderOperations>,
    /// Before the response is given back.
    pub response: Option<HeaderOperations>,
}

impl Headers {
    fn request_mut(&mut self) -> &mut HeaderOperations {
        self.request.get_or_insert_default()
    }

    fn response_mut(&mut self) -> &mut HeaderOperations {
        self.response.get_or_insert_default()
    }
}

/// Edits of one message's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Replace, or put in.
    pub set: BTreeMap<String, String>,
    /// Append a value.
    pub add: BTreeMap<String, String>,
    /// Take out.
    pub remove: Vec<String>,
}

/// Answer with `Location`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "RedirectFields", into = "RedirectFields")]
pub struct HttpRedirect {
    /// The new path; `%PREFIX()%` stands for nothing here. Empty keeps the old one.
    pub uri: String,
    /// Replaces the matched prefix of the path. Empty keeps it.
    pub prefix_rewrite: String,
    /// The new host. Empty keeps the old one.
    pub authority: String,
    /// The new port.
    pub port: Option<RedirectPort>,
    /// The new scheme. Empty keeps the old one.
    pub scheme: String,
    /// 301, 302, 303, 307 or 308; 0 means 301.
    pub redirect_code: u32,
}

/// Where the port of a redirect comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// This one.
    Number(u32),
    /// As `derivePort` says.
    Derive(RedirectPortSelection),
}

/// How the port of a redirect is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// The port of the request.
    FromRequestPort,
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpDirectResponse {
    /// The status code.
    pub status: u32,
    /// At most 1 MiB.
    pub body: Option<Body>,
}

/// The body of a fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BodyFields", into = "BodyFields")]
pub enum Body {
    /// `{}`.
    Empty,
    /// Text.
    String(String),
    /// Any bytes (base64 in the manifest).
    Bytes(Vec<u8>),
}

/// Names another VirtualService.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; empty is the root's.
    pub namespace: String,
}

/// Changes to the path and host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRewrite {
    /// The new path, or what replaces the matched prefix.
    pub uri: String,
    /// The new host.
    pub authority: String,
    /// Replaces what an expression matches.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// An RE2 expression and its substitution (`\1` for groups).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegexRewrite {
    /// The RE2 expression.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What replaces its matches.
    pub rewrite: String,
}

/// When and how often a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRetry {
    /// How many retries; 0 is none.
    pub attempts: i32,
    /// For each try, the first included. Absent: the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions and status codes, joined with commas. Empty: the mesh's default.
    pub retry_on: String,
    /// Whether retries may leave the locality.
    pub retry_remote_localities: Option<bool>,
    /// Whether retries avoid hosts already tried. Absent: yes.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// The smallest back-off. Absent: 25 ms.
    pub backoff: Option<Duration>,
}
