//! Access control: what rules mean, and what is refused of them.

use lateen_traffic::RequestHead;
use lateen_traffic::filter::FilterKind;
use lateen_traffic::listener::Gate;
use lateen_traffic::metadata::Metadata;
use lateen_traffic::rbac::{Action, Peer, Rbac};

use super::{listener, manager, routes};

const ROUTER: &str =
    "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

fn filter(settings: &str) -> Result<std::sync::Arc<Rbac>, String> {
    let fields = format!(
        "http_filters: [{{name: r, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, \
         {settings}}}}}, {ROUTER}]"
    );
    let (hcm, _) = manager(&fields).map_err(|e| e.to_string())?;
    match &hcm.filters[0].kind {
        FilterKind::Rbac(rbac) => Ok(rbac.clone()),
        other => panic!("{other:?}"),
    }
}

fn peer() -> Peer<'static> {
    Peer {
        source: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        local: ([10, 0, 0, 2], 80).into(),
        server_name: Some("a.test"),
        tls: None,
    }
}

/// Whether a request passes rules with this permission and principal.
fn passes(permission: &str, principal: &str) -> bool {
    let rules = format!("rules: {{policies: {{p: {{permissions: [{permission}], principals: [{principal}]}}}}}}");
    let rbac = filter(&rules).unwrap();
    let request =
        RequestHead { method: "GET".into(), path: "/a/b?c".into(), authority: "a".into(), ..Default::default() };
    rbac.decide(peer(), Some(&request), &mut Metadata::default()).denial().is_none()
}

#[test]
fn rules_mean_what_envoys_do() {
    let any = "{any: true}";
    let template = "{uri_template: {name: t, typed_config: {'@type': type.googleapis.com/\
                    envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/*/b'}}}";
    for permission in [
        "{header: {name: ':method', string_match: {exact: GET}}}",
        "{url_path: {path: {exact: /a/b}}}",
        template,
        "{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 30}}",
        "{destination_port: 80}",
        "{destination_port_range: {start: 80, end: 81}}",
        "{requested_server_name: {suffix: .test}}",
        "{and_rules: {rules: [{any: true}, {destination_port: 80}]}}",
        "{or_rules: {rules: [{destination_port: 81}, {any: true}]}}",
        "{not_rule: {destination_port: 81}}",
        "{metadata: {filter: f, path: [{key: k}], value: {null_match: {}}, invert: true}}",
        "{sourced_metadata: {metadata_matcher: {filter: f, path: [{key: k}], value: {bool_match: true}, invert: true}}}",
    ] {
        assert!(passes(permission, any), "{permission}");
        assert!(!passes(&format!("{{not_rule: {permission}}}"), any), "{permission}");
    }
    for principal in [
        "{source_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}",
        "{direct_remote_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}",
        "{remote_ip: {address_prefix: 10.0.0.1, prefix_len: 32}}",
        "{header: {name: x, present_match: false}}",
        "{url_path: {path: {prefix: /a}}}",
        "{and_ids: {ids: [{any: true}]}}",
        "{or_ids: {ids: [{authenticated: {}}, {any: true}]}}",
        "{not_id: {authenticated: {principal_name: {exact: a}}}}",
    ] {
        assert!(passes(any, principal), "{principal}");
        assert!(!passes(any, &format!("{{not_id: {principal}}}")), "{principal}");
    }
}

#[test]
fn what_decides_and_cannot_be_carried_out_is_refused() {
    let at = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
    let policy = |fields: &str| format!("rules: {{policies: {{p: {{{fields}}}}}}}");
    let permission = |one: &str| policy(&format!("permissions: [{one}], principals: [{{any: true}}]"));
    let principal = |one: &str| policy(&format!("permissions: [{{any: true}}], principals: [{one}]"));
    for (settings, said) in [
        ("matcher: {}".to_owned(), "matcher: not supported yet"),
        (
            "rules: {audit_logging_options: {audit_condition: ON_DENY}}".to_owned(),
            "rules.audit_logging_options.audit_condition: not supported yet",
        ),
        (policy("principals: [{any: true}]"), "rules.policies[\"p\"].permissions: empty"),
        (
            policy("permissions: [{any: true}], principals: [{any: true}], cel_config: {}"),
            "rules.policies[\"p\"].cel_config: not supported yet",
        ),
        (permission("{}"), "rules.policies[\"p\"].permissions[0]: no rule"),
        (permission("{and_rules: {}}"), "rules.policies[\"p\"].permissions[0].and_rules.rules: empty"),
        (
            permission("{destination_port: 65536}"),
            "rules.policies[\"p\"].permissions[0].destination_port: 65536 is no port",
        ),
        (
            permission("{destination_port_range: {start: 9, end: 9}}"),
            "rules.policies[\"p\"].permissions[0].destination_port_range: 9..9 is no range",
        ),
        (permission("{matcher: {name: m}}"), "rules.policies[\"p\"].permissions[0].matcher: not supported yet"),
        (
            permission("{metadata: {filter: f, path: [{key: k}], value: {or_match: {}}}}"),
            "rules.policies[\"p\"].permissions[0].metadata.value.or_match.value_matchers: must be at least two",
        ),
        (
            principal("{filter_state: {key: k, string_match: {exact: a}}}"),
            "rules.policies[\"p\"].principals[0].filter_state: not supported yet",
        ),
        (principal("{custom: {name: m}}"), "rules.policies[\"p\"].principals[0].custom: not supported yet"),
        (
            principal("{not_id: {remote_ip: {address_prefix: x}}}"),
            "rules.policies[\"p\"].principals[0].not_id.remote_ip.address_prefix: \"x\" is no IP address",
        ),
    ] {
        assert_eq!(filter(&settings).unwrap_err(), format!("{at}.{said}"), "{settings}");
    }
}

#[test]
fn rules_of_connections_stand_before_what_ends_the_chain() {
    let chain = |fields: &str| {
        listener(&format!(
            "{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 80}}}}, filter_chains: [{{filters: [\
             {{name: r, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, \
             {fields}}}}}, {{name: t, typed_config: {{'@type': type.googleapis.com/\
             envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}}}]}}]}}"
        ))
    };
    let (found, _) = chain("stat_prefix: tcp., rules: {action: DENY}, shadow_rules_stat_prefix: dry_").unwrap();
    let [Gate::Rules(rbac)] = &*found.chains[0].gates else { panic!("{:?}", found.chains) };
    assert_eq!(&*rbac.stat_scope, "tcp.rbac");
    assert_eq!(rbac.rules.as_ref().unwrap().action, Action::Deny);
    let (found, _) = chain("stat_prefix: tcp., enforcement_type: CONTINUOUS").unwrap();
    assert!(found.chains[0].gates.is_empty());
    let refused = chain("stat_prefix: tcp., rules: {}, enforcement_type: CONTINUOUS").unwrap_err().to_string();
    assert!(refused.ends_with("typed_config.enforcement_type: not supported yet"), "{refused}");
}

#[test]
fn a_route_without_rules_turns_the_filter_off() {
    let (config, _) = routes(
        "{virtual_hosts: [{name: a, domains: ['*'], typed_per_filter_config: {r: {'@type': \
         type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}}}]}",
    )
    .unwrap();
    assert!(format!("{:?}", config.virtual_hosts[0].filters).contains("Off"), "{:?}", config.virtual_hosts[0].filters);
}
