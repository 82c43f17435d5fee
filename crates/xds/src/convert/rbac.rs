//! Access control: the filters' rules.
//!
//! - reject: everything that decides and is not carried out: expressions (CEL), trees of matchers, extensions, filter
//!   state, audit loggers, delayed and repeated enforcement

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::rbac::v3::{
    self as pb, MetadataSource, Permission, Principal, SourcedMetadata, permission, permission::Rule, principal,
    principal::Identifier, rbac::Action as PbAction,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac as HttpRbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use lateen_traffic::filter::Override;
use lateen_traffic::matcher::StringMatcher;
use lateen_traffic::rbac::{Action, Condition, Policy, Rbac, Rules, path_template};

use super::address::{cidr, type_name, unpack};
use super::matcher::{header, string};
use super::metadata::metadata;
use super::reject::{At as _, IsSet as _, Reject, each, reject_if_set};

/// The filter of a connection manager.
pub(super) fn http(rbac: HttpRbac) -> Result<Rbac, Reject> {
    let HttpRbac {
        rules,
        rules_stat_prefix,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        track_per_rule_stats,
    } = rbac;
    reject_if_set!(matcher, shadow_matcher);
    let prefixes = (&*rules_stat_prefix, &*shadow_rules_stat_prefix);
    let rbac = filter("envoy.filters.http.rbac", rules, shadow_rules, prefixes)?;
    Ok(rbac.counting_policies(track_per_rule_stats))
}

/// What a route says of the filter: other rules, or none at all.
pub(super) fn per_route(value: RbacPerRoute) -> Result<Override, Reject> {
    let RbacPerRoute { rbac } = value;
    let rbac = rbac.map(http).transpose().at("rbac")?.filter(Rbac::has_rules);
    Ok(rbac.map_or(Override::Off, |rbac| Override::Rbac(Arc::new(rbac))))
}

/// The filter of connections, with the prefix of its statistics. `None`: it has no rules, and does nothing.
pub(super) fn network(rbac: NetworkRbac) -> Result<Option<Rbac>, Reject> {
    let NetworkRbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = rbac;
    reject_if_set!(matcher, shadow_matcher);
    if rules.is_set() || shadow_rules.is_set() {
        reject_if_set!(enforcement_type, delay_deny);
    }
    if stat_prefix.is_empty() {
        return Err(Reject::field("stat_prefix", "empty"));
    }
    let rbac = filter("envoy.filters.network.rbac", rules, shadow_rules, ("", &shadow_rules_stat_prefix))?;
    // As in Envoy, a dot is put between the prefix and the name unless it ends in one. Envoy cannot count single policies
    // here, so there is nothing to ask for it with.
    let scope = format!("{}.rbac", stat_prefix.strip_suffix('.').unwrap_or(&stat_prefix));
    Ok(rbac.has_rules().then(|| rbac.counted_under(&scope).counting_policies(true)))
}

fn filter(
    name: &str,
    enforced: Option<pb::Rbac>,
    shadow: Option<pb::Rbac>,
    prefixes: (&str, &str),
) -> Result<Rbac, Reject> {
    let enforced = enforced.map(rules).transpose().at("rules")?;
    let shadow = shadow.map(rules).transpose().at("shadow_rules")?;
    Ok(Rbac::new(name, enforced, shadow, prefixes))
}

fn rules(value: pb::Rbac) -> Result<Rules, Reject> {
    let pb::Rbac { action, policies, audit_logging_options } = value;
    if let Some(pb::rbac::AuditLoggingOptions { audit_condition, logger_configs }) = audit_logging_options {
        (|| {
            reject_if_set!(audit_condition, logger_configs);
            Ok(())
        })()
        .at("audit_logging_options")?;
    }
    let action = match PbAction::try_from(action) {
        Ok(PbAction::Allow) => Action::Allow,
        Ok(PbAction::Deny) => Action::Deny,
        Ok(PbAction::Log) => Action::Log,
        Err(_) => return Err(Reject::field("action", format_args!("{action} is not known"))),
    };
    let mut all = Vec::with_capacity(policies.len());
    for (name, policy) in policies {
        let at = format!("policies[{name:?}]");
        all.push(self::policy(name, policy).at(&at)?);
    }
    Ok(Rules::new(action, all))
}

fn policy(name: String, value: pb::Policy) -> Result<Policy, Reject> {
    let pb::Policy { permissions, principals, condition, checked_condition, cel_config } = value;
    reject_if_set!(condition, checked_condition, cel_config);
    Ok(Policy {
        name: name.into(),
        permissions: some("permissions", permissions, permission)?,
        principals: some("principals", principals, principal)?,
    })
}

/// A list that must not be empty.
fn some<T>(field: &str, list: Vec<T>, convert: fn(T) -> Result<Condition, Reject>) -> Result<Box<[Condition]>, Reject> {
    if list.is_empty() {
        return Err(Reject::field(field, "empty"));
    }
    Ok(each(field, list, convert)?.into())
}

fn permission(value: Permission) -> Result<Condition, Reject> {
    let Permission { rule } = value;
    Ok(match rule {
        Some(Rule::AndRules(permission::Set { rules })) => {
            Condition::All(some("rules", rules, permission).at("and_rules")?)
        }
        Some(Rule::OrRules(permission::Set { rules })) => {
            Condition::OneOf(some("rules", rules, permission).at("or_rules")?)
        }
        Some(Rule::Any(any)) => self::any(any)?,
        Some(Rule::Header(value)) => Condition::Header(header(value).at("header")?),
        Some(Rule::UrlPath(value)) => Condition::Path(path(value).at("url_path")?),
        Some(Rule::DestinationIp(range)) => Condition::Destination(cidr(range).at("destination_ip")?),
        Some(Rule::DestinationPort(port)) if port <= u32::from(u16::MAX) => Condition::DestinationPorts(port, port + 1),
        Some(Rule::DestinationPort(port)) => {
            return Err(Reject::field("destination_port", format_args!("{port} is no port")));
        }
        Some(Rule::DestinationPortRange(Int32Range { start, end })) => {
            let bound = |value: i32| u32::try_from(value).ok().filter(|value| *value <= 65536);
            match (bound(start), bound(end)) {
                (Some(from), Some(to)) if from < to => Condition::DestinationPorts(from, to),
                _ => return Err(Reject::field("destination_port_range", format_args!("{start}..{end} is no range"))),
            }
        }
        Some(Rule::Metadata(value)) => Condition::Metadata(metadata(value).at("metadata")?),
        Some(Rule::NotRule(rule)) => Condition::Not(Box::new(permission(*rule).at("not_rule")?)),
        Some(Rule::RequestedServerName(value)) => Condition::ServerName(string(value).at("requested_server_name")?),
        Some(Rule::UriTemplate(value)) => uri_template(value).at("uri_template")?,
        Some(Rule::SourcedMetadata(value)) => sourced(value).at("sourced_metadata")?,
        Some(Rule::Matcher(_)) => return Err(Reject::field("matcher", "not supported yet")),
        None => return Err(Reject::new("no rule")),
    })
}

fn principal(value: Principal) -> Result<Condition, Reject> {
    let Principal { identifier } = value;
    Ok(match identifier {
        Some(Identifier::AndIds(principal::Set { ids })) => Condition::All(some("ids", ids, principal).at("and_ids")?),
        Some(Identifier::OrIds(principal::Set { ids })) => Condition::OneOf(some("ids", ids, principal).at("or_ids")?),
        Some(Identifier::Any(any)) => self::any(any)?,
        Some(Identifier::Authenticated(principal::Authenticated { principal_name })) => {
            let name = principal_name.map(string).transpose().at("principal_name").at("authenticated")?;
            Condition::Authenticated(name)
        }
        Some(Identifier::SourceIp(range)) => Condition::Source(cidr(range).at("source_ip")?),
        Some(Identifier::DirectRemoteIp(range)) => Condition::Direct(cidr(range).at("direct_remote_ip")?),
        Some(Identifier::RemoteIp(range)) => Condition::Remote(cidr(range).at("remote_ip")?),
        Some(Identifier::Header(value)) => Condition::Header(header(value).at("header")?),
        Some(Identifier::UrlPath(value)) => Condition::Path(path(value).at("url_path")?),
        Some(Identifier::Metadata(value)) => Condition::Metadata(metadata(value).at("metadata")?),
        Some(Identifier::NotId(id)) => Condition::Not(Box::new(principal(*id).at("not_id")?)),
        Some(Identifier::SourcedMetadata(value)) => sourced(value).at("sourced_metadata")?,
        Some(Identifier::FilterState(_)) => return Err(Reject::field("filter_state", "not supported yet")),
        Some(Identifier::Custom(_)) => return Err(Reject::field("custom", "not supported yet")),
        None => return Err(Reject::new("no identifier")),
    })
}

fn any(any: bool) -> Result<Condition, Reject> {
    if any { Ok(Condition::Any) } else { Err(Reject::field("any", "must be true")) }
}

fn path(value: PathMatcher) -> Result<StringMatcher, Reject> {
    let PathMatcher { rule } = value;
    match rule {
        Some(path_matcher::Rule::Path(value)) => string(value).at("path"),
        None => Err(Reject::field("path", "missing")),
    }
}

fn uri_template(value: TypedExtensionConfig) -> Result<Condition, Reject> {
    let TypedExtensionConfig { name, typed_config } = value;
    let any = typed_config.ok_or_else(|| Reject::field("typed_config", format_args!("missing for {name:?}")))?;
    let Some(UriTemplateMatchConfig { path_template: template }) = unpack(&any).at("typed_config")? else {
        let reason = format_args!("{} is not supported yet", type_name(&any.type_url));
        return Err(Reject::field("typed_config", reason));
    };
    let template = path_template(&template).map_err(|e| Reject::field("typed_config.path_template", e))?;
    Ok(Condition::PathTemplate(template))
}

fn sourced(value: SourcedMetadata) -> Result<Condition, Reject> {
    let SourcedMetadata { metadata_matcher, metadata_source } = value;
    if metadata_source != MetadataSource::Dynamic as i32 {
        return Err(Reject::field("metadata_source", "only DYNAMIC is supported"));
    }
    let matcher = metadata_matcher.ok_or_else(|| Reject::field("metadata_matcher", "missing"))?;
    Ok(Condition::Metadata(metadata(matcher).at("metadata_matcher")?))
}
