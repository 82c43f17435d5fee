//! AuthorizationPolicy: istio `pkg/config/validation/validation.go` (ValidateAuthorizationPolicy),
//! `pkg/config/security/security.go`.

use super::{Findings, names, policy_target};
use crate::istio::AuthorizationPolicy;
use crate::istio::authorization_policy::{Action, Condition, Operation, Source};

/// Istio's limit on service accounts of one list, and on the length of one.
const MOST_ACCOUNTS: usize = 16;
const LONGEST_ACCOUNT: usize = 320;

pub(super) fn check(spec: &AuthorizationPolicy, dry_run: Option<&str>, findings: &mut Findings) {
    policy_target::check(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, findings);
    let custom = spec.action == Action::Custom;
    let named = spec.provider.as_ref().is_some_and(|provider| !provider.name.is_empty());
    if spec.provider.is_some() && !custom {
        findings.error("spec.provider", "is for the action CUSTOM only");
    }
    if custom && !spec.rules.is_empty() && !named {
        findings.error("spec.provider.name", "required for the action CUSTOM");
    }
    if spec.rules.is_empty() && matches!(spec.action, Action::Deny | Action::Custom) {
        let message =
            "without rules this action never happens; add an empty rule {} to have it happen to every request";
        findings.error("spec.rules", message);
    }
    // Go's strconv.ParseBool.
    let truths = ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];
    if let Some(text) = dry_run.filter(|text| !truths.contains(text)) {
        let at = "metadata.annotations[\"istio.io/dry-run\"]";
        findings.error(at, format!("{text:?} is neither \"true\" nor \"false\""));
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        for (index, from) in rule.from.iter().enumerate() {
            let at = format!("{at}.from[{index}].source");
            match &from.source {
                None => findings.error(at, "required"),
                Some(given) => source(&at, given, custom, findings),
            }
        }
        for (index, to) in rule.to.iter().enumerate() {
            let at = format!("{at}.to[{index}].operation");
            match &to.operation {
                None => findings.error(at, "required"),
                Some(given) => operation(&at, given, findings),
            }
        }
        for (index, when) in rule.when.iter().enumerate() {
            condition(&format!("{at}.when[{index}]"), when, custom, findings);
        }
        let tcp_source = rule.from.iter().filter_map(|from| from.source.as_ref()).any(knows_connections);
        let tcp_operation = rule.to.iter().filter_map(|to| to.operation.as_ref()).any(knows_ports);
        let only_http =
            !rule.from.is_empty() && rule.to.is_empty() && !tcp_source || !rule.to.is_empty() && !tcp_operation;
        if spec.action == Action::Deny && only_http {
            findings.warning(
                at,
                "on TCP ports this denies everything, for it speaks of HTTP alone; name the ports it is for",
            );
        }
    }
}

fn source(path: &str, given: &Source, custom: bool, findings: &mut Findings) {
    let lists = [
        ("principals", &given.principals, true),
        ("notPrincipals", &given.not_principals, true),
        ("requestPrincipals", &given.request_principals, true),
        ("notRequestPrincipals", &given.not_request_principals, true),
        ("namespaces", &given.namespaces, true),
        ("notNamespaces", &given.not_namespaces, true),
        ("serviceAccounts", &given.service_accounts, true),
        ("notServiceAccounts", &given.not_service_accounts, true),
        ("trustDomains", &given.trust_domains, true),
        ("notTrustDomains", &given.not_trust_domains, true),
        ("ipBlocks", &given.ip_blocks, false),
        ("notIpBlocks", &given.not_ip_blocks, false),
        ("remoteIpBlocks", &given.remote_ip_blocks, false),
        ("notRemoteIpBlocks", &given.not_remote_ip_blocks, false),
    ];
    if lists.iter().all(|(_, list, _)| list.is_empty()) {
        findings.error(path, "must not be empty");
    }
    for (name, list, identity) in lists {
        let at = format!("{path}.{name}");
        not_empty(&at, list, findings);
        if custom && identity && !list.is_empty() {
            findings.error(&at, "is not supported with the action CUSTOM");
        }
        if name.ends_with("pBlocks") {
            addresses(&at, list, findings);
        }
    }
    let accounts = [("serviceAccounts", &given.service_accounts), ("notServiceAccounts", &given.not_service_accounts)];
    for (name, list) in accounts {
        service_accounts(&format!("{path}.{name}"), list, findings);
    }
    for (name, list) in [("trustDomains", &given.trust_domains), ("notTrustDomains", &given.not_trust_domains)] {
        wildcards(&format!("{path}.{name}"), list, findings);
        for (index, _) in list.iter().enumerate().filter(|(_, domain)| domain.contains('/')) {
            findings.error(format!("{path}.{name}[{index}]"), "a trust domain has no /");
        }
    }
    let others = [&given.principals, &given.not_principals, &given.namespaces, &given.not_namespaces];
    if accounts.iter().any(|(_, list)| !list.is_empty()) && others.iter().any(|list| !list.is_empty()) {
        findings.error(path, "service accounts cannot be combined with namespaces or principals");
    }
}

fn operation(path: &str, given: &Operation, findings: &mut Findings) {
    let lists = [
        ("hosts", &given.hosts),
        ("notHosts", &given.not_hosts),
        ("ports", &given.ports),
        ("notPorts", &given.not_ports),
        ("methods", &given.methods),
        ("notMethods", &given.not_methods),
        ("paths", &given.paths),
        ("notPaths", &given.not_paths),
    ];
    if lists.iter().all(|(_, list)| list.is_empty()) {
        findings.error(path, "must not be empty");
    }
    for (name, list) in lists {
        let at = format!("{path}.{name}");
        not_empty(&at, list, findings);
        match name {
            "ports" | "notPorts" => ports(&at, list, findings),
            "paths" | "notPaths" => {
                for (index, path) in list.iter().enumerate() {
                    findings.check(&format!("{at}[{index}]"), template(path));
                }
            }
            _ => {}
        }
    }
}

fn condition(path: &str, given: &Condition, custom: bool, findings: &mut Findings) {
    let key_at = format!("{path}.key");
    let key = given.key.as_str();
    if key.is_empty() {
        return findings.error(key_at, "required");
    }
    if given.values.is_empty() && given.not_values.is_empty() {
        findings.error(path, "one of values and notValues is needed");
    }
    let identities = ["source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal"];
    if custom && (identities.contains(&key) || key.starts_with("request.auth.")) {
        findings.error(&key_at, format!("{key} is not supported with the action CUSTOM"));
    }
    let mut bracketed = |allowed: bool| {
        let name = key.find('[').filter(|open| *open > 0 && key.ends_with(']') && open + 2 < key.len());
        if !allowed || name.is_none() {
            findings.error(&key_at, format!("{key:?} should be of the form a[b]"));
        }
    };
    for head in ["request.headers", "request.auth.claims", "experimental.envoy.filters."] {
        if let Some(rest) = key.strip_prefix(head) {
            bracketed(head.ends_with('.') || rest.starts_with('['));
        }
    }
    for (name, list) in [("values", &given.values), ("notValues", &given.not_values)] {
        let at = format!("{path}.{name}");
        not_empty(&at, list, findings);
        match key {
            "source.ip" | "remote.ip" | "destination.ip" => addresses(&at, list, findings),
            "destination.port" => ports(&at, list, findings),
            "source.serviceAccount" => service_accounts(&at, list, findings),
            "source.trustDomain" => wildcards(&at, list, findings),
            _ => {}
        }
    }
    findings.check(&key_at, known(key));
}

fn known(key: &str) -> Result<(), String> {
    const KEYS: [&str; 12] = [
        "source.ip",
        "remote.ip",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
        "source.principal",
        "request.auth.principal",
        "request.auth.audiences",
        "request.auth.presenter",
        "destination.ip",
        "destination.port",
        "connection.sni",
    ];
    const FAMILIES: [&str; 3] = ["request.headers", "request.auth.claims", "experimental.envoy.filters."];
    if KEYS.contains(&key) || FAMILIES.iter().any(|family| key.starts_with(family)) {
        return Ok(());
    }
    Err(match key {
        "destination.namespace" => "use the policy's own namespace instead".to_owned(),
        key if key.starts_with("destination.labels") => "use the policy's selector instead".to_owned(),
        _ => format!(
            "{key:?} is no attribute; use one of {}, {}",
            KEYS.join(", "),
            FAMILIES.map(|f| format!("{f}[…]")).join(", ")
        ),
    })
}

fn not_empty(path: &str, list: &[String], findings: &mut Findings) {
    for (index, _) in list.iter().enumerate().filter(|(_, value)| value.is_empty()) {
        findings.error(format!("{path}[{index}]"), "must not be empty");
    }
}

fn addresses(path: &str, list: &[String], findings: &mut Findings) {
    for (index, text) in list.iter().enumerate() {
        findings.check(&format!("{path}[{index}]"), names::ip_or_block(text));
    }
}

fn ports(path: &str, list: &[String], findings: &mut Findings) {
    for (index, text) in list.iter().enumerate() {
        if !text.bytes().all(|b| b.is_ascii_digit()) || text.parse::<u16>().is_err() {
            findings.error(format!("{path}[{index}]"), format!("{text:?} is no port"));
        }
    }
}

fn service_accounts(path: &str, list: &[String], findings: &mut Findings) {
    if list.len() > MOST_ACCOUNTS {
        findings.error(path, format!("more than {MOST_ACCOUNTS}"));
    }
    for (index, text) in list.iter().enumerate() {
        let (namespace, account) = text.split_once('/').unwrap_or(("-", text));
        let good = !namespace.is_empty() && !account.is_empty() && !account.contains('/') && !text.contains('*');
        if !good || text.len() > LONGEST_ACCOUNT {
            let message = format!("{text:?} is neither ACCOUNT nor NAMESPACE/ACCOUNT (without wildcards)");
            findings.error(format!("{path}[{index}]"), message);
        }
    }
}

fn wildcards(path: &str, list: &[String], findings: &mut Findings) {
    for (index, text) in list.iter().enumerate() {
        let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
        if inner.contains('*') {
            findings.error(format!("{path}[{index}]"), "has one wildcard at most, at its beginning or its end");
        }
    }
}

/// A path, maybe with `{*}` for a segment and one `{**}`, the last, for any number of them.
fn template(path: &str) -> Result<(), String> {
    let is_template = path.contains("{*}") || path.contains("{**}");
    let mut any_number = false;
    for segment in path.trim_matches('/').split('/') {
        let literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
        match segment {
            "{*}" | "{**}" if any_number => return Err("{**} must be the last wildcard".to_owned()),
            "{*}" => {}
            "{**}" => any_number = true,
            other if other.contains(['{', '}']) => {
                return Err(format!("{other:?}: only {{*}} and {{**}}, as whole segments, may have braces"));
            }
            other if is_template && (other.is_empty() || !other.bytes().all(literal)) => {
                return Err(format!("{other:?} is no segment of a template"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a source can be told without HTTP.
fn knows_connections(source: &Source) -> bool {
    let lists = [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
        &source.service_accounts,
        &source.not_service_accounts,
        &source.ip_blocks,
        &source.not_ip_blocks,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
    ];
    lists.iter().any(|list| !list.is_empty())
}

fn knows_ports(operation: &Operation) -> bool {
    !operation.ports.is_empty() || !operation.not_ports.is_empty()
}
