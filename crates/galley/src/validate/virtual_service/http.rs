//! HTTP routes.

use super::connection;
use crate::istio::virtual_service::{
    AbortError, Body, CorsPolicy, DelayKind, HeaderOperations, Headers, HttpDirectResponse, HttpFaultInjection,
    HttpMatchRequest, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination, RedirectPort, grpc_status,
};
use crate::istio::{Percent, StringMatch};
use crate::validate::{Findings, headers, names, shared};
use std::collections::BTreeMap;

/// What `retryOn` may say besides status codes: Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const MEBIBYTE: usize = 1 << 20;

pub(super) fn check(path: &str, route: &HttpRoute, gateway: bool, findings: &mut Findings) {
    action(path, route, findings);
    for (index, matched) in route.matches.iter().enumerate() {
        request(&format!("{path}.match[{index}]"), matched, gateway, findings);
    }
    let edits = route.header_edits();
    headers::check(&format!("{path}.headers"), edits.as_ref(), findings);
    older_spellings(path, route, findings);
    let rewrites = route.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
    if headers::authorities(edits.as_ref()) + usize::from(rewrites) > 1 {
        findings.error(format!("{path}.headers"), "the authority is set more than once");
    }
    destinations(path, route, findings);
    mirrors(path, route, findings);
    shared::given_duration(&format!("{path}.timeout"), route.timeout, findings);
    if let Some(given) = &route.cors_policy {
        cors(&format!("{path}.corsPolicy"), given, findings);
    }
    if let Some(given) = &route.fault {
        fault(&format!("{path}.fault"), given, findings);
    }
    if let Some(given) = &route.redirect {
        redirect(&format!("{path}.redirect"), given, &route.matches, findings);
    }
    if let Some(given) = &route.direct_response {
        direct_response(&format!("{path}.directResponse"), given, findings);
    }
    if let Some(given) = &route.retries {
        retries(&format!("{path}.retries"), given, findings);
    }
    if let Some(given) = &route.rewrite {
        rewrite(&format!("{path}.rewrite"), given, findings);
    }
}

/// Exactly one action, and nothing beside it that it has no use for.
fn action(path: &str, route: &HttpRoute, findings: &mut Findings) {
    let actions: Vec<&str> = [
        ("delegate", route.delegate.is_some()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("route", !route.route.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    match actions.as_slice() {
        [] => findings.error(path, "one of route, redirect, directResponse, delegate is needed"),
        [answer @ ("redirect" | "directResponse")] => {
            for (name, given) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
                if given {
                    findings.error(format!("{path}.{name}"), format!("has no meaning beside {answer}"));
                }
            }
        }
        // A root's fixed answer goes before its delegate's destinations.
        [_] | ["delegate", "directResponse"] => {}
        several => findings.error(path, format!("only one of {} can be given", several.join(", "))),
    }
}

fn request(path: &str, matched: &HttpMatchRequest, gateway: bool, findings: &mut Findings) {
    if let Some(StringMatch::Regex(expression)) = &matched.uri {
        // Unlike the others, a path may have an empty prefix.
        findings.check(&format!("{path}.uri"), shared::regex(expression));
    }
    for (name, given) in [("scheme", &matched.scheme), ("method", &matched.method), ("authority", &matched.authority)] {
        if let Some(given) = given {
            findings.check(&format!("{path}.{name}"), shared::string_match(given));
        }
    }
    for (field, map, star) in [("headers", &matched.headers, false), ("withoutHeaders", &matched.without_headers, true)]
    {
        for (name, given) in map {
            let at = format!("{path}.{field}[{name:?}]");
            findings.check(&at, headers::matched_name(name));
            if headers::is_claim(name) && !gateway {
                findings.error(&at, "claims of tokens are matched at gateways only, and this VirtualService has none");
            }
            // `*` is not an expression: it means that the header is there.
            if !(star && *given == StringMatch::Regex("*".to_owned())) {
                findings.check(&at, shared::string_match(given));
            }
        }
    }
    for (name, given) in &matched.query_params {
        findings.check(&format!("{path}.queryParams[{name:?}]"), shared::string_match(given));
    }
    connection(path, matched.port, &matched.source_labels, &matched.gateways, &matched.source_namespace, findings);
}

fn destinations(path: &str, route: &HttpRoute, findings: &mut Findings) {
    let path = format!("{path}.route");
    for (index, weighted) in route.route.iter().enumerate() {
        let at = format!("{path}[{index}]");
        match &weighted.destination {
            Some(destination) => shared::destination(&format!("{at}.destination"), destination, findings),
            None => findings.error(format!("{at}.destination"), "required"),
        }
        headers::check(&format!("{at}.headers"), weighted.header_edits().as_ref(), findings);
        let HttpRouteDestination { append_request_headers, remove_request_headers, .. } = weighted;
        let HttpRouteDestination { append_response_headers, remove_response_headers, .. } = weighted;
        let (request, response) = operations(weighted.headers.as_ref());
        overruled(
            &at,
            &[
                ("appendRequestHeaders", append_request_headers, "headers.request.add", request),
                ("appendResponseHeaders", append_response_headers, "headers.response.add", response),
            ],
            findings,
        );
        deprecated(
            &at,
            &[
                ("appendRequestHeaders", append_request_headers.is_empty(), "headers.request.add"),
                ("removeRequestHeaders", remove_request_headers.is_empty(), "headers.request.remove"),
                ("appendResponseHeaders", append_response_headers.is_empty(), "headers.response.add"),
                ("removeResponseHeaders", remove_response_headers.is_empty(), "headers.response.remove"),
            ],
            findings,
        );
    }
    shared::weights(&path, route.route.iter().map(|weighted| weighted.weight), findings);
}

/// What Istio has renamed since 1.0.
fn older_spellings(path: &str, route: &HttpRoute, findings: &mut Findings) {
    let (request, response) = operations(route.headers.as_ref());
    overruled(
        path,
        &[
            ("appendHeaders", &route.append_headers, "headers.request.add", request),
            ("appendRequestHeaders", &route.append_request_headers, "headers.request.add", request),
            ("appendResponseHeaders", &route.append_response_headers, "headers.response.add", response),
        ],
        findings,
    );
    if route.websocket_upgrade {
        findings.warning(format!("{path}.websocketUpgrade"), "deprecated: every route takes WebSocket");
    }
    deprecated(
        path,
        &[
            ("appendHeaders", route.append_headers.is_empty(), "headers.request.add"),
            ("appendRequestHeaders", route.append_request_headers.is_empty(), "headers.request.add"),
            ("removeRequestHeaders", route.remove_request_headers.is_empty(), "headers.request.remove"),
            ("appendResponseHeaders", route.append_response_headers.is_empty(), "headers.response.add"),
            ("removeResponseHeaders", route.remove_response_headers.is_empty(), "headers.response.remove"),
        ],
        findings,
    );
}

fn operations(headers: Option<&Headers>) -> (Option<&HeaderOperations>, Option<&HeaderOperations>) {
    headers.map_or((None, None), |headers| (headers.request.as_ref(), headers.response.as_ref()))
}

/// Older spelling, what it adds, today's spelling, what stands there.
type Older<'a> = (&'a str, &'a BTreeMap<String, String>, &'a str, Option<&'a HeaderOperations>);

/// Of what is added by the older spelling and by today's, only today's is.
fn overruled(path: &str, older: &[Older<'_>], findings: &mut Findings) {
    for (field, older, today, operations) in older {
        let added = operations.map(|operations| &operations.add);
        for name in older.keys().filter(|name| added.is_some_and(|added| added.contains_key(*name))) {
            let message = format!("has no effect: {today} names this header too");
            findings.warning(format!("{path}.{field}[{name:?}]"), message);
        }
    }
}

fn deprecated(path: &str, fields: &[(&str, bool, &str)], findings: &mut Findings) {
    for (field, _, today) in fields.iter().filter(|(_, empty, _)| !empty) {
        findings.warning(format!("{path}.{field}"), format!("deprecated, use {today}"));
    }
}

fn mirrors(path: &str, route: &HttpRoute, findings: &mut Findings) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        findings.error(path, "only one of mirror, mirrors can be given");
    }
    if let Some(mirror) = &route.mirror {
        shared::destination(&format!("{path}.mirror"), mirror, findings);
    }
    if let Some(percent) = route.mirror_percent {
        older_share(&format!("{path}.mirrorPercent"), "mirrorPercentage", route.mirror_percentage, findings);
        percentage(&format!("{path}.mirrorPercent"), percent.into(), findings);
    }
    if let Some(percent) = route.mirror_percentage {
        percentage(&format!("{path}.mirrorPercentage.value"), percent.value, findings);
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let at = format!("{path}.mirrors[{index}]");
        match &mirror.destination {
            Some(destination) => shared::destination(&format!("{at}.destination"), destination, findings),
            None => findings.error(format!("{at}.destination"), "required"),
        }
        if let Some(percent) = mirror.percentage {
            percentage(&format!("{at}.percentage.value"), percent.value, findings);
        }
    }
}

fn percentage(path: &str, value: f64, findings: &mut Findings) {
    if !(0.0..=100.0).contains(&value) {
        findings.error(path, format!("{value} is not a percentage: 0 to 100"));
    }
}

fn cors(path: &str, policy: &CorsPolicy, findings: &mut Findings) {
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let at = format!("{path}.allowOrigins[{index}]");
        match origin {
            StringMatch::Present => findings.error(at, "one of exact, prefix, regex is needed"),
            StringMatch::Exact(text) | StringMatch::Prefix(text) if text.is_empty() => {
                findings.error(at, "must not be empty");
            }
            StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
            StringMatch::Regex(expression) => findings.check(&at, shared::regex(expression)),
        }
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
        if !known.contains(&method.as_str()) {
            findings.error(format!("{path}.allowMethods[{index}]"), format!("{method:?} is not a method"));
        }
    }
    for (field, list) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (index, name) in list.iter().enumerate() {
            if !headers::is_token(name) {
                findings.error(format!("{path}.{field}[{index}]"), format!("{name:?} is not a header's name"));
            }
        }
    }
    if let Some(age) = policy.max_age {
        findings.check(&format!("{path}.maxAge"), shared::duration(age));
        if age.get().subsec_nanos() != 0 {
            findings.error(format!("{path}.maxAge"), "must be whole seconds");
        }
    }
}

fn fault(path: &str, fault: &HttpFaultInjection, findings: &mut Findings) {
    if fault.abort.is_none() && fault.delay.is_none() {
        findings.error(path, "one of delay, abort is needed");
    }
    if let Some(delay) = &fault.delay {
        match delay.kind {
            Some(DelayKind::Fixed(length)) => {
                findings.check(&format!("{path}.delay.fixedDelay"), shared::duration(length));
            }
            Some(DelayKind::Exponential(_)) => {
                findings.error(format!("{path}.delay.exponentialDelay"), "Istio does not carry this out either");
            }
            None => findings.error(format!("{path}.delay.fixedDelay"), "required"),
        }
        share(&format!("{path}.delay"), delay.percent, delay.percentage, findings);
    }
    if let Some(abort) = &fault.abort {
        match &abort.error {
            Some(AbortError::HttpStatus(status)) => {
                status_code(&format!("{path}.abort.httpStatus"), i64::from(*status), findings);
            }
            Some(AbortError::GrpcStatus(status)) => {
                if grpc_status(status).is_none() {
                    findings.error(format!("{path}.abort.grpcStatus"), format!("{status:?} is no status of gRPC"));
                }
            }
            Some(AbortError::Http2Error(_)) => {
                findings.error(format!("{path}.abort.http2Error"), "Istio does not carry this out either");
            }
            None => findings.warning(format!("{path}.abort"), "no error is named, so nothing is aborted"),
        }
        share(&format!("{path}.abort"), abort.percent, abort.percentage, findings);
    }
}

/// The share of a fault, in today's form or in the older one of whole percents.
fn share(path: &str, percent: i32, percentage: Option<Percent>, findings: &mut Findings) {
    match percentage {
        Some(share) => self::percentage(&format!("{path}.percentage.value"), share.value, findings),
        None if percent == 0 => findings.warning(path, "no percentage: no request is hit"),
        None => {}
    }
    let at = format!("{path}.percent");
    if !(0..=100).contains(&percent) {
        findings.error(at, format!("{percent} is not a percentage: 0 to 100"));
    } else if percent != 0 {
        older_share(&at, "percentage", percentage, findings);
    }
}

/// A share is given by a field of whole percents. As in Istio it counts only without its `successor`.
fn older_share(at: &str, successor: &str, value: Option<Percent>, findings: &mut Findings) {
    match value {
        Some(Percent { value }) => {
            findings.warning(at, format!("without effect: {successor} is given, too, and counts ({value})"));
        }
        None => findings.warning(at, format!("deprecated: write {successor}.value")),
    }
}

fn status_code(path: &str, status: i64, findings: &mut Findings) {
    if !(200..=599).contains(&status) {
        findings.error(path, format!("{status} is not a final status code: 200 to 599"));
    }
}

fn redirect(path: &str, redirect: &HttpRedirect, matches: &[HttpMatchRequest], findings: &mut Findings) {
    let HttpRedirect { uri, prefix_rewrite, authority, port, scheme, redirect_code } = redirect;
    if !uri.is_empty() && !prefix_rewrite.is_empty() {
        findings.error(path, "only one of uri, prefixRewrite can be given");
    }
    if !prefix_rewrite.is_empty() {
        for (index, matched) in matches.iter().enumerate() {
            if !matches!(matched.uri, None | Some(StringMatch::Prefix(_))) {
                let message = format!("goes with prefix matches only, and match[{index}].uri is another");
                findings.error(format!("{path}.prefixRewrite"), message);
            }
        }
    }
    if [uri, prefix_rewrite, authority, scheme].iter().all(|part| part.is_empty()) && port.is_none() {
        findings.error(path, "one of uri, prefixRewrite, authority, scheme, port, derivePort is needed");
    }
    // Istio takes any 3xx, and Envoy knows these alone.
    if ![0, 301, 302, 303, 307, 308].contains(redirect_code) {
        findings
            .error(format!("{path}.redirectCode"), format!("{redirect_code} is not one of 301, 302, 303, 307, 308"));
    }
    if !["", "http", "https"].contains(&scheme.as_str()) {
        findings.error(format!("{path}.scheme"), format!("{scheme:?} is neither http nor https"));
    }
    if let Some(RedirectPort::Number(number)) = port {
        findings.check(&format!("{path}.port"), names::port(i64::from(*number)));
    }
}

fn direct_response(path: &str, response: &HttpDirectResponse, findings: &mut Findings) {
    status_code(&format!("{path}.status"), response.status.into(), findings);
    let bytes = match &response.body {
        None | Some(Body::Empty) => 0,
        Some(Body::String(text)) => text.len(),
        Some(Body::Bytes(bytes)) => bytes.len(),
    };
    if bytes > MEBIBYTE {
        findings.error(format!("{path}.body"), format!("{bytes} bytes are more than 1 MiB"));
    } else if bytes > 100 << 10 {
        findings.warning(format!("{path}.body"), "large bodies are sent to every proxy");
    }
}

pub(crate) fn retries(path: &str, retries: &HttpRetry, findings: &mut Findings) {
    if retries.attempts < 0 {
        findings.error(format!("{path}.attempts"), format!("{} is less than 0", retries.attempts));
    }
    let configured =
        retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && configured {
        findings.error(format!("{path}.attempts"), "0 turns retries off, and the other fields configure them");
    }
    shared::given_duration(&format!("{path}.perTryTimeout"), retries.per_try_timeout, findings);
    shared::given_duration(&format!("{path}.backoff"), retries.backoff, findings);
    if retries.retry_on.is_empty() {
        return;
    }
    for condition in retries.retry_on.split(',') {
        if condition == "retriable-headers" {
            let meant = "retries nothing by itself: which headers is asked for in x-envoy-retriable-header-names, by \
                         clients that may or by headers.request.add";
            findings.warning(format!("{path}.retryOn"), format!("{condition:?} {meant}"));
        }
        let is_code = condition.parse::<u16>().is_ok_and(|code| (100..=599).contains(&code));
        if !is_code && !RETRY_ON.contains(&condition) {
            let meant = crate::nearest::did_you_mean(condition, RETRY_ON);
            findings
                .error(format!("{path}.retryOn"), format!("{condition:?} is not a condition or status code{meant}"));
        }
    }
}

fn rewrite(path: &str, rewrite: &HttpRewrite, findings: &mut Findings) {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = rewrite;
    if !uri.is_empty() && uri_regex_rewrite.is_some() {
        findings.error(path, "only one of uri, uriRegexRewrite can be given");
    }
    if uri.is_empty() && authority.is_empty() && uri_regex_rewrite.is_none() {
        findings.error(path, "one of uri, authority, uriRegexRewrite is needed");
    }
    if let Some(regex) = uri_regex_rewrite {
        findings.check(&format!("{path}.uriRegexRewrite.match"), shared::regex(&regex.pattern));
        if regex.rewrite.is_empty() {
            findings.error(format!("{path}.uriRegexRewrite.rewrite"), "required");
        }
    }
}

/// Rules after one that takes every request are a mistake.
pub(super) fn unreachable(path: &str, routes: &[HttpRoute], findings: &mut Findings) {
    let Some(first) = routes.iter().position(|route| route.matches.is_empty()) else { return };
    for index in first + 1..routes.len() {
        let message = format!("never used: {path}[{first}] takes every request");
        findings.warning(format!("{path}[{index}]"), message);
    }
}
