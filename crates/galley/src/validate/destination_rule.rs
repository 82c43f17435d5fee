//! DestinationRule: istio `pkg/config/validation/validation.go` and `agent/validation.go`.

mod balancing;
mod tls;

pub(crate) use balancing::localities;

use std::collections::BTreeSet;

use super::{Findings, names, shared};
use crate::istio::DestinationRule;
use crate::istio::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, LoadBalancerSettings, OutlierDetection,
    TcpSettings, TrafficPolicy, TunnelSettings,
};

pub(super) fn check(own_namespace: &str, spec: &DestinationRule, findings: &mut Findings) {
    if spec.host.is_empty() {
        findings.error("spec.host", "required");
    } else {
        findings.check("spec.host", names::wildcard_host(&spec.host));
    }
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy("spec.trafficPolicy", policy, findings);
    }
    let mut seen = BTreeSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let at = format!("spec.subsets[{index}]");
        let name = format!("{at}.name");
        if subset.name.is_empty() {
            findings.error(&name, "required");
        } else if !seen.insert(&subset.name) {
            findings.error(&name, format!("{:?} is given twice", subset.name));
        } else {
            findings.check(&name, names::label(&subset.name));
        }
        shared::labels(&format!("{at}.labels"), &subset.labels, findings);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&format!("{at}.trafficPolicy"), policy, findings);
        }
    }
    if spec.workload_selector.is_none() {
        tls::credentials_of_gateways(spec, findings);
    }
    shared::export_to(own_namespace, &spec.export_to, false, findings);
    if let Some(selector) = &spec.workload_selector {
        shared::selector("spec.workloadSelector.matchLabels", &selector.match_labels, findings);
        if spec.export_to.iter().any(|namespace| namespace != "." && namespace != own_namespace) {
            findings.error("spec.exportTo", "with a workloadSelector, a rule is for its own namespace only");
        }
    }
}

fn traffic_policy(path: &str, policy: &TrafficPolicy, findings: &mut Findings) {
    let TrafficPolicy {
        load_balancer,
        connection_pool,
        outlier_detection,
        tls,
        port_level_settings,
        tunnel,
        proxy_protocol,
        retry_budget,
    } = policy;
    let nothing = load_balancer.is_none() && connection_pool.is_none() && outlier_detection.is_none() && tls.is_none();
    let nothing_more = tunnel.is_none() && proxy_protocol.is_none() && retry_budget.is_none();
    if nothing && nothing_more && port_level_settings.is_empty() {
        findings.error(path, "is empty");
    }
    if tunnel.is_some() && proxy_protocol.is_some() {
        findings.error(path, "only one of tunnel, proxyProtocol can be given");
    }
    settings(
        path,
        load_balancer.as_ref(),
        connection_pool.as_ref(),
        outlier_detection.as_ref(),
        tls.as_ref(),
        findings,
    );
    if port_level_settings.len() > 4096 {
        findings.error(format!("{path}.portLevelSettings"), "has more than 4096 entries");
    }
    let mut seen = BTreeSet::new();
    for (index, port) in port_level_settings.iter().enumerate() {
        let at = format!("{path}.portLevelSettings[{index}]");
        match port.port {
            None => findings.error(format!("{at}.port"), "required"),
            Some(selector) => {
                shared::port_selector(&format!("{at}.port"), selector, findings);
                if !seen.insert(selector.number) {
                    findings
                        .warning(format!("{at}.port"), format!("{} is given twice, the first wins", selector.number));
                }
            }
        }
        let (balancer, pool, outliers, tls) =
            (&port.load_balancer, &port.connection_pool, &port.outlier_detection, &port.tls);
        if balancer.is_none() && pool.is_none() && outliers.is_none() && tls.is_none() {
            findings.error(&at, "is empty");
        }
        settings(&at, balancer.as_ref(), pool.as_ref(), outliers.as_ref(), tls.as_ref(), findings);
    }
    if let Some(tunnel) = tunnel {
        tunnel_settings(&format!("{path}.tunnel"), tunnel, findings);
    }
    if let Some(budget) = retry_budget {
        if budget.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            findings.error(format!("{path}.retryBudget.percent"), "is not a percentage: 0 to 100");
        }
        shared::given_duration(&format!("{path}.retryBudget.budgetInterval"), budget.budget_interval, findings);
    }
}

/// What a policy and its port-level settings have in common.
fn settings(
    path: &str,
    balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPoolSettings>,
    outliers: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    findings: &mut Findings,
) {
    if let Some(balancer) = balancer {
        balancing::check(&format!("{path}.loadBalancer"), balancer, outliers.is_some(), findings);
    }
    if let Some(pool) = pool {
        connection_pool(&format!("{path}.connectionPool"), pool, findings);
    }
    if let Some(outliers) = outliers {
        outlier_detection(&format!("{path}.outlierDetection"), outliers, findings);
    }
    if let Some(tls) = tls {
        tls::check(&format!("{path}.tls"), tls, findings);
    }
}

fn not_negative(path: &str, field: &str, value: i32, findings: &mut Findings) {
    if value < 0 {
        findings.error(format!("{path}.{field}"), format!("{value} is less than 0"));
    }
}

pub(super) fn connection_pool(path: &str, pool: &ConnectionPoolSettings, findings: &mut Findings) {
    if pool.tcp.is_none() && pool.http.is_none() {
        findings.error(path, "one of tcp, http is needed");
    }
    if let Some(tcp) = &pool.tcp {
        let at = format!("{path}.tcp");
        let TcpSettings { max_connections, connect_timeout, tcp_keepalive, max_connection_duration, idle_timeout } =
            tcp;
        not_negative(&at, "maxConnections", *max_connections, findings);
        shared::given_duration(&format!("{at}.connectTimeout"), *connect_timeout, findings);
        shared::given_duration(&format!("{at}.maxConnectionDuration"), *max_connection_duration, findings);
        // 0s turns it off.
        let idle = idle_timeout.filter(|idle| !idle.get().is_zero());
        shared::given_duration(&format!("{at}.idleTimeout"), idle, findings);
        if let Some(keepalive) = tcp_keepalive {
            shared::given_duration(&format!("{at}.tcpKeepalive.time"), keepalive.time, findings);
            shared::given_duration(&format!("{at}.tcpKeepalive.interval"), keepalive.interval, findings);
        }
    }
    if let Some(http) = &pool.http {
        http_settings(&format!("{path}.http"), http, findings);
    }
}

fn http_settings(path: &str, http: &HttpSettings, findings: &mut Findings) {
    for (field, value) in [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ] {
        not_negative(path, field, value, findings);
    }
    shared::given_duration(&format!("{path}.idleTimeout"), http.idle_timeout, findings);
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        findings.error(format!("{path}.useClientProtocol"), "contradicts h2UpgradePolicy UPGRADE");
    }
    if let Some(keepalive) = &http.http2_keep_alive {
        for (field, length) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
            let at = format!("{path}.http2KeepAlive.{field}");
            match length {
                Some(length) => findings.check(&at, shared::duration(length)),
                None => findings.error(at, "required"),
            }
        }
    }
}

fn outlier_detection(path: &str, outliers: &OutlierDetection, findings: &mut Findings) {
    shared::given_duration(&format!("{path}.interval"), outliers.interval, findings);
    shared::given_duration(&format!("{path}.baseEjectionTime"), outliers.base_ejection_time, findings);
    if outliers.consecutive_errors != 0 {
        findings.warning(
            format!("{path}.consecutiveErrors"),
            "deprecated, taken as consecutiveGatewayErrors unless that or consecutive5xxErrors is given",
        );
    }
    let local = outliers.consecutive_local_origin_failures.is_some_and(|count| count > 0);
    if local && !outliers.split_external_local_origin_errors {
        findings
            .error(format!("{path}.consecutiveLocalOriginFailures"), "needs splitExternalLocalOriginErrors to be true");
    }
    for (field, percent) in
        [("maxEjectionPercent", outliers.max_ejection_percent), ("minHealthPercent", outliers.min_health_percent)]
    {
        if !(0..=100).contains(&percent) {
            findings.error(format!("{path}.{field}"), format!("{percent} is not a percentage: 0 to 100"));
        }
    }
    for (index, code) in outliers.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(code) {
            let at = format!("{path}.outlierDetectionHttpErrorCodes[{index}]");
            findings.error(at, format!("{code} is not a status code: 100 to 599"));
        }
    }
}

fn tunnel_settings(path: &str, tunnel: &TunnelSettings, findings: &mut Findings) {
    if !["", "CONNECT", "POST"].contains(&tunnel.protocol.as_str()) {
        findings.error(format!("{path}.protocol"), format!("{:?} is neither CONNECT nor POST", tunnel.protocol));
    }
    if names::fqdn(&tunnel.target_host).is_err() && !names::is_ip(&tunnel.target_host) {
        let message = format!("{:?} is neither a host name nor an IP address", tunnel.target_host);
        findings.error(format!("{path}.targetHost"), message);
    }
    findings.check(&format!("{path}.targetPort"), names::port(tunnel.target_port.into()));
}
