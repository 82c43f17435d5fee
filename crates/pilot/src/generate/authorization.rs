//! The filters that carry out AuthorizationPolicies.
//!
//! Source: Istio `pilot/pkg/security/authz/builder`. One filter an action, in the order CUSTOM, AUDIT, DENY, ALLOW (tokens are
//! verified after CUSTOM); an action that no policy has gets none. Names, keys and prefixes are Istio's.

mod custom;
mod rule;

use super::wire;
use crate::rules::{Access, AccessPolicy};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter::ConfigType};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission::Rule as PermissionRule, principal::Identifier,
    rbac::Action as Does,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use lateen_galley::istio::authorization_policy::Action;
use std::sync::Arc;

pub use custom::http_filters as custom_http_filters;

/// Statistics and keys of what AUDIT policies mark. Istio has no name for them, so that filters after this one overwrite
/// which policy it was.
const AUDIT: &str = "istio_audit_";

const ACTIONS: [(Action, Does, &str); 3] = [
    (Action::Audit, Does::Log, ""),
    (Action::Deny, Does::Deny, "istio_dry_run_deny_"),
    (Action::Allow, Does::Allow, "istio_dry_run_allow_"),
];

/// The filters of an HTTP chain.
pub fn http_filters(access: &Access) -> Vec<HttpFilter> {
    let filter = |rules: Rules| HttpFilter {
        name: "envoy.filters.http.rbac".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(wire::any(&HttpRbac {
            rules_stat_prefix: if rules.marks() { AUDIT.to_owned() } else { String::new() },
            rules: rules.enforced,
            shadow_rules: rules.tried,
            shadow_rules_stat_prefix: rules.tried_prefix,
            // Istio leaves it off; it says which rule refused, and the log says it too.
            track_per_rule_stats: true,
            ..Default::default()
        }))),
        ..Default::default()
    };
    rules(access, false).into_iter().map(filter).collect()
}

/// The filters of a chain of bytes: what policies say of HTTP is left out, so that less is allowed and more denied.
pub fn network_filters(access: &Access) -> Vec<Filter> {
    let filter = |rules: Rules| Filter {
        name: "envoy.filters.network.rbac".to_owned(),
        config_type: Some(ConfigType::TypedConfig(wire::any(&NetworkRbac {
            rules: rules.enforced,
            shadow_rules: rules.tried,
            shadow_rules_stat_prefix: rules.tried_prefix,
            stat_prefix: "tcp.".to_owned(),
            ..Default::default()
        }))),
    };
    let mut filters = custom::network_filters(access);
    filters.extend(rules(access, true).into_iter().map(filter));
    filters
}

/// What one filter enforces, and what it only tries.
struct Rules {
    enforced: Option<Rbac>,
    tried: Option<Rbac>,
    tried_prefix: String,
}

impl Rules {
    /// They decide nothing.
    fn marks(&self) -> bool {
        self.enforced.as_ref().is_some_and(|rules| rules.action == i32::from(Does::Log))
    }
}

fn rules(access: &Access, tcp: bool) -> Vec<Rules> {
    let of_action = |(action, does, prefix): &(Action, Does, &str)| {
        let of = |dry_run: bool| {
            let of_kind = |policy: &&Arc<AccessPolicy>| policy.action == *action && policy.dry_run == dry_run;
            let policies: Vec<&Arc<AccessPolicy>> = access.policies.iter().filter(of_kind).collect();
            let named = policies.iter().flat_map(|policy| named(policy, access, tcp, ""));
            (!policies.is_empty()).then(|| Rbac {
                action: (*does).into(),
                policies: named.collect(),
                ..Default::default()
            })
        };
        let (enforced, tried) = (of(false), of(true));
        let tried_prefix = if tried.is_some() { (*prefix).to_owned() } else { String::new() };
        (enforced.is_some() || tried.is_some()).then_some(Rules { enforced, tried, tried_prefix })
    };
    ACTIONS.iter().filter_map(of_action).collect()
}

/// A policy's rules by their names. Without any it still stands for its action: as a rule that never matches.
fn named(policy: &AccessPolicy, access: &Access, tcp: bool, prefix: &str) -> Vec<(String, Policy)> {
    let name = |index: usize| format!("{prefix}ns[{}]-policy[{}]-rule[{index}]", policy.namespace, policy.name);
    if policy.rules.is_empty() {
        return vec![(name(0), never())];
    }
    let context = rule::Context {
        namespace: &policy.namespace,
        trust_domains: &access.trust_domains,
        tcp,
        allows: policy.action == Action::Allow,
    };
    let rules = policy.rules.iter().enumerate();
    rules.filter_map(|(index, rule)| Some((name(index), rule::policy(rule, &context)?))).collect()
}

fn never() -> Policy {
    let permission = Permission { rule: Some(PermissionRule::Any(true)) };
    let principal = Principal { identifier: Some(Identifier::Any(true)) };
    Policy {
        permissions: vec![Permission { rule: Some(PermissionRule::NotRule(Box::new(permission))) }],
        principals: vec![Principal { identifier: Some(Identifier::NotId(Box::new(principal))) }],
        ..Default::default()
    }
}
