//! Mirroring of requests.
//!
//! - reject: what would send copies elsewhere, or more of them, than meant
//! - note: runtime keys (there is no runtime), traces of copies (there are no traces yet)

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use lateen_traffic::mirror::{Mirror, MirrorHost, MirrorTarget, Mutation};

use super::address::{per_million, text};
use super::matcher::{edits, field_name, string};
use super::reject::{At as _, Notes, Reject, each, note_if_set};

/// The mirrors of a route, a virtual host or a route configuration.
pub(super) fn mirrors(policies: Vec<RequestMirrorPolicy>, notes: &mut Notes) -> Result<Vec<Mirror>, Reject> {
    each("request_mirror_policies", policies, |policy| mirror(policy, notes))
}

fn mirror(policy: RequestMirrorPolicy, notes: &mut Notes) -> Result<Mirror, Reject> {
    let RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
    } = policy;
    notes.add_if(trace_sampled.is_some_and(|on| on.value), "RequestMirrorPolicy.trace_sampled");
    let target = match (text(cluster), cluster_header.is_empty()) {
        (Some(name), true) => MirrorTarget::Cluster(name),
        (None, false) => MirrorTarget::Header(field_name(&cluster_header).at("cluster_header")?),
        (None, true) => return Err(Reject::new("no cluster")),
        (Some(_), false) => return Err(Reject::field("cluster_header", "cluster is set too")),
    };
    let fraction = match runtime_fraction {
        None => 1_000_000,
        Some(RuntimeFractionalPercent { default_value, runtime_key }) => {
            note_if_set!(notes, "RequestMirrorPolicy.runtime_fraction": runtime_key);
            let share = default_value.ok_or_else(|| Reject::field("runtime_fraction.default_value", "missing"))?;
            per_million(share).at("runtime_fraction.default_value")?
        }
    };
    let host = match (text(host_rewrite_literal), disable_shadow_host_suffix_append) {
        (Some(host), _) => MirrorHost::Literal(host),
        (None, true) => MirrorHost::Same,
        (None, false) => MirrorHost::Shadow,
    };
    let mutations = each("request_headers_mutations", request_headers_mutations, mutation)?;
    Ok(Mirror { target, fraction, host, mutations })
}

fn mutation(value: HeaderMutation) -> Result<Mutation, Reject> {
    let HeaderMutation { action } = value;
    Ok(match action {
        Some(header_mutation::Action::Remove(name)) => {
            Mutation::Edit(edits(("append", Vec::new()), ("remove", vec![name]))?)
        }
        Some(header_mutation::Action::Append(option)) => {
            Mutation::Edit(edits(("append", vec![option]), ("remove", Vec::new()))?)
        }
        Some(header_mutation::Action::RemoveOnMatch(header_mutation::RemoveOnMatch { key_matcher })) => {
            let matcher = key_matcher.ok_or_else(|| Reject::field("remove_on_match.key_matcher", "missing"))?;
            Mutation::RemoveMatching(string(matcher).at("remove_on_match.key_matcher")?)
        }
        None => return Err(Reject::new("no action")),
    })
}
