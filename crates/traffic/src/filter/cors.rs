//! Cross-origin resource sharing (Envoy's filter `envoy.filters.http.cors`; the Fetch standard, "CORS protocol").
//!
//! The policies of weighted cluster, route, virtual host and route configuration are taken together: each field comes
//! from the most specific one that has it.

use std::sync::Arc;

use super::Asked;
use super::fault::Percentage;
use crate::Dice;
use crate::headers::Headers;
use crate::matcher::StringMatcher;
use crate::message::ResponseHead;
use crate::route::Action;

/// Envoy's `CorsPolicy`. Empty texts are not set.
#[derive(Debug, Clone, Default)]
pub struct CorsPolicy {
    /// Origins that may.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`; `*`: whatever is asked for.
    pub allow_methods: Arc<str>,
    /// `access-control-allow-headers`; `*`: whatever is asked for.
    pub allow_headers: Arc<str>,
    /// `access-control-expose-headers`.
    pub expose_headers: Arc<str>,
    /// `access-control-max-age`.
    pub max_age: Arc<str>,
    /// `access-control-allow-credentials`.
    pub allow_credentials: Option<bool>,
    /// `access-control-allow-private-network`.
    pub allow_private_network: Option<bool>,
    /// Preflight requests of other origins go upstream. Default true.
    pub forward_unmatched_preflights: Option<bool>,
    /// The share of requests for which the policy acts; all, if not set.
    pub enabled: Option<Percentage>,
    /// The share of requests that are only counted where the policy does not act; none, if not set.
    pub shadow: Option<Percentage>,
}

/// What is said of a request with an origin.
#[derive(Debug)]
pub struct Decision {
    /// The origin may.
    pub allowed: bool,
    /// The answer to a preflight request.
    pub preflight: Option<ResponseHead>,
    /// What the response is to say, whoever gives it.
    pub grant: Option<Grant>,
}

/// What a response says to a client of another origin.
#[derive(Debug, Clone)]
pub struct Grant {
    origin: Box<[u8]>,
    credentials: bool,
    expose_headers: Arc<str>,
}

impl Grant {
    /// Says it.
    pub fn apply(&self, headers: &mut Headers) {
        headers.set("access-control-allow-origin", &self.origin);
        if self.credentials {
            headers.set("access-control-allow-credentials", "true");
        }
        if !self.expose_headers.is_empty() {
            headers.set("access-control-expose-headers", self.expose_headers.as_bytes());
        }
    }
}

/// Decides on a request by the policies that concern it, most specific first. `None`: it is none of theirs.
pub(super) fn decide<'p>(
    policies: impl Iterator<Item = &'p CorsPolicy> + Clone,
    asked: &Asked<'_>,
    dice: &mut dyn Dice,
) -> Option<Decision> {
    let first = policies.clone().next()?;
    if !matches!(asked.routed?.route.action, Action::Forward(_)) {
        return None;
    }
    let enabled = first.enabled.is_none_or(|share| share.hits(dice));
    if !enabled && !first.shadow.is_some_and(|share| share.hits(dice)) {
        return None;
    }
    let request = asked.request;
    let origin = request.headers.get("origin").filter(|origin| !origin.is_empty())?;
    let origins = policies.clone().map(|p| &p.allow_origins).find(|all| !all.is_empty());
    let text = String::from_utf8_lossy(origin);
    let allowed = origins.is_some_and(|all| all.iter().any(|one| one.matches("*") || one.matches(&text)));
    if !enabled {
        return Some(Decision { allowed, preflight: None, grant: None });
    }
    let flag = |pick: fn(&CorsPolicy) -> Option<bool>, default| policies.clone().find_map(pick).unwrap_or(default);
    let words = |pick: fn(&CorsPolicy) -> &Arc<str>| policies.clone().map(pick).find(|text| !text.is_empty());
    let grant = allowed.then(|| Grant {
        origin: origin.into(),
        credentials: flag(|p| p.allow_credentials, false),
        expose_headers: words(|p| &p.expose_headers).cloned().unwrap_or_default(),
    });
    let asked_for = |name| request.headers.get(name).unwrap_or_default();
    let method = asked_for("access-control-request-method");
    let preflight = request.method == "OPTIONS" && !method.is_empty();
    if !preflight || !allowed && flag(|p| p.forward_unmatched_preflights, true) {
        return Some(Decision { allowed, preflight: None, grant });
    }
    let mut response = ResponseHead::new(200);
    let headers = &mut response.headers;
    if allowed {
        headers.append("access-control-allow-origin", origin);
    }
    if flag(|p| p.allow_credentials, false) {
        headers.append("access-control-allow-credentials", "true");
    }
    let mut list = |name, value: Option<&Arc<str>>, asked_for: &[u8]| match value.map(|v| v.as_bytes()) {
        None => {}
        Some(b"*") => headers.append(name, asked_for),
        Some(value) => headers.append(name, value),
    };
    list("access-control-allow-methods", words(|p| &p.allow_methods), method);
    list("access-control-allow-headers", words(|p| &p.allow_headers), asked_for("access-control-request-headers"));
    if let Some(age) = words(|p| &p.max_age) {
        headers.append("access-control-max-age", age.as_bytes());
    }
    if flag(|p| p.allow_private_network, false) && asked_for("access-control-request-private-network") == b"true" {
        headers.append("access-control-allow-private-network", "true");
    }
    Some(Decision { allowed, preflight: Some(response), grant })
}
