//! VirtualService: istio `pkg/config/validation/{validation,virtualservice}.go`.

mod http;

pub(crate) use http::retries;

use super::{Findings, headers, names, shared};
use crate::istio::VirtualService;
use crate::istio::virtual_service::{
    Delegate, HttpRoute, L4MatchAttributes, RouteDestination, STICKY_WEIGHTS, StickyWeights, TcpRoute,
    TlsMatchAttributes, TlsRoute,
};

pub(super) fn check(own_namespace: &str, spec: &VirtualService, findings: &mut Findings) {
    if spec.hosts.is_empty() {
        delegate(spec, findings);
    }
    hosts(spec, findings);
    shared::gateway_names("spec.gateways", &spec.gateways, findings);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        findings.error("spec", "one of http, tls, tcp is needed");
    }
    // Whoever delegates decides where a delegate's routes are bound.
    let gateway = binds_to_gateway(spec) || spec.hosts.is_empty();
    for (index, route) in spec.http.iter().enumerate() {
        http::check(&format!("spec.http[{index}]"), route, gateway, findings);
        if let Some(to) = &route.delegate {
            delegation(&format!("spec.http[{index}].delegate"), to, spec.hosts.is_empty(), findings);
        }
    }
    http::unreachable("spec.http", &spec.http, findings);
    for (index, route) in spec.tls.iter().enumerate() {
        tls(&format!("spec.tls[{index}]"), route, spec, findings);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        tcp(&format!("spec.tcp[{index}]"), route, findings);
    }
    shared::export_to(own_namespace, &spec.export_to, false, findings);
}

/// The annotation by which weighted destinations are sticky.
pub(super) fn sticky_weights(annotation: Option<&str>, spec: &VirtualService, findings: &mut Findings) {
    let Some(text) = annotation else { return };
    let at = format!("metadata.annotations[{STICKY_WEIGHTS}]");
    match text.parse() {
        Err(message) => findings.error(at, format!("{message}")),
        Ok(StickyWeights::Header(name)) => findings.check(&at, headers::read_name(&name)),
        Ok(StickyWeights::Cookie(name)) if !headers::is_token(&name) => {
            findings.error(at, format!("{name:?} is not the name of a cookie"));
        }
        Ok(_) => {
            let weighted = |http: &HttpRoute| http.route.len() > 1 || http.delegate.is_some();
            if !spec.http.iter().any(weighted) {
                findings.warning(at, "no HTTP route has several destinations: nothing is sticky");
            }
        }
    }
}

fn binds_to_gateway(spec: &VirtualService) -> bool {
    spec.gateways.iter().any(|name| name != "mesh")
}

fn delegate(spec: &VirtualService, findings: &mut Findings) {
    for (field, given) in
        [("gateways", !spec.gateways.is_empty()), ("tls", !spec.tls.is_empty()), ("tcp", !spec.tcp.is_empty())]
    {
        if given {
            findings
                .error(format!("spec.{field}"), "a VirtualService without hosts is a delegate, and has none of these");
        }
    }
}

fn delegation(path: &str, to: &Delegate, is_delegate: bool, findings: &mut Findings) {
    if is_delegate {
        findings.error(path, "a delegate's routes cannot be delegated again");
    }
    if to.name.is_empty() {
        findings.error(format!("{path}.name"), "required");
    }
}

/// Hosts are compared with each other, so their number has to end somewhere.
const MOST_HOSTS: usize = 1024;

fn hosts(spec: &VirtualService, findings: &mut Findings) {
    if spec.hosts.len() > MOST_HOSTS {
        findings.error("spec.hosts", format!("{} hosts are more than {MOST_HOSTS}", spec.hosts.len()));
        return;
    }
    let mut all_valid = true;
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = format!("spec.hosts[{index}]");
        if names::is_ip(host) {
            continue;
        }
        if let Err(message) = names::wildcard_host(host) {
            findings.error(&at, message);
            all_valid = false;
        } else if host == "*" && !binds_to_gateway(spec) {
            findings.error(&at, "\"*\" is allowed only together with gateways, not for the mesh");
            all_valid = false;
        }
    }
    if !all_valid {
        return;
    }
    for (second, inner) in spec.hosts.iter().enumerate() {
        for (first, outer) in spec.hosts.iter().enumerate().take(second) {
            if names::covers(outer, inner) || names::covers(inner, outer) {
                findings.error(
                    format!("spec.hosts[{second}]"),
                    format!("{inner:?} overlaps with {outer:?} (spec.hosts[{first}])"),
                );
            }
        }
    }
}

fn tls(path: &str, route: &TlsRoute, spec: &VirtualService, findings: &mut Findings) {
    if route.matches.is_empty() {
        findings.error(format!("{path}.match"), "required: at least one match with sniHosts");
    }
    for (index, matched) in route.matches.iter().enumerate() {
        let at = format!("{path}.match[{index}]");
        let TlsMatchAttributes { sni_hosts, destination_subnets, port, source_labels, gateways, source_namespace } =
            matched;
        if sni_hosts.is_empty() {
            findings.error(format!("{at}.sniHosts"), "required: at least one host");
        }
        for (index, host) in sni_hosts.iter().enumerate() {
            sni_host(&format!("{at}.sniHosts[{index}]"), host, spec, findings);
        }
        subnets(&at, destination_subnets, findings);
        connection(&at, *port, source_labels, gateways, source_namespace, findings);
    }
    destinations(path, &route.route, findings);
}

fn sni_host(path: &str, host: &str, spec: &VirtualService, findings: &mut Findings) {
    if names::is_ip(host) {
        findings.warning(path, "clients send no server name for an IP address, so this is unlikely to match");
        return;
    }
    if let Err(message) = names::wildcard_host(host) {
        findings.error(path, message);
    } else if !spec.hosts.iter().any(|outer| names::covers(outer, host)) {
        findings
            .error(path, format!("{host:?} is not one of the hosts of this VirtualService: {}", spec.hosts.join(", ")));
    }
}

fn tcp(path: &str, route: &TcpRoute, findings: &mut Findings) {
    for (index, matched) in route.matches.iter().enumerate() {
        let at = format!("{path}.match[{index}]");
        let L4MatchAttributes { destination_subnets, port, source_subnet, source_labels, gateways, source_namespace } =
            matched;
        subnets(&at, destination_subnets, findings);
        if !source_subnet.is_empty() {
            findings.check(&format!("{at}.sourceSubnet"), names::ip_or_block(source_subnet));
        }
        connection(&at, *port, source_labels, gateways, source_namespace, findings);
    }
    destinations(path, &route.route, findings);
}

fn subnets(path: &str, subnets: &[String], findings: &mut Findings) {
    for (index, subnet) in subnets.iter().enumerate() {
        findings.check(&format!("{path}.destinationSubnets[{index}]"), names::ip_or_block(subnet));
    }
}

/// The conditions on a connection that all three protocols share.
fn connection(
    path: &str,
    port: u32,
    source_labels: &std::collections::BTreeMap<String, String>,
    gateways: &[String],
    source_namespace: &str,
    findings: &mut Findings,
) {
    if port != 0 {
        findings.check(&format!("{path}.port"), names::port(port.into()));
    }
    shared::labels(&format!("{path}.sourceLabels"), source_labels, findings);
    shared::gateway_names(&format!("{path}.gateways"), gateways, findings);
    if !source_namespace.is_empty() {
        findings.check(&format!("{path}.sourceNamespace"), names::label(source_namespace));
    }
}

fn destinations(path: &str, route: &[RouteDestination], findings: &mut Findings) {
    let path = format!("{path}.route");
    if route.is_empty() {
        findings.error(&path, "required: at least one destination");
    }
    for (index, weighted) in route.iter().enumerate() {
        let at = format!("{path}[{index}].destination");
        match &weighted.destination {
            Some(destination) => shared::destination(&at, destination, findings),
            None => findings.error(at, "required"),
        }
    }
    shared::weights(&path, route.iter().map(|weighted| weighted.weight), findings);
}
