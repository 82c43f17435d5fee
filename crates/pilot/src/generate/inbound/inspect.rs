//! Which ports' first bytes are looked at, and for what: only where chains tell connections apart by it, as a look delays
//! servers that speak first.
//!
//! Source: Istio `core/listener_builder.go` (populateListenerFilters).

use crate::generate::listener::{self, PLAINTEXT_HTTP};
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain, FilterChainMatch, ListenerFilter, ListenerFilterChainMatchPredicate,
    listener_filter_chain_match_predicate::{MatchSet, Rule},
};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use std::collections::BTreeMap;

/// The inspectors that these chains need.
pub fn inspectors(chains: &[FilterChain]) -> impl Iterator<Item = ListenerFilter> {
    let tls = |matches: &FilterChainMatch| matches.transport_protocol == "tls";
    let http = |matches: &FilterChainMatch| {
        matches.application_protocols.iter().any(|name| PLAINTEXT_HTTP.contains(&name.as_str()))
    };
    let tls = where_needed(listener::tls_inspector(), chains, tls);
    tls.into_iter().chain(where_needed(listener::http_inspector(), chains, http))
}

fn where_needed(
    filter: ListenerFilter,
    chains: &[FilterChain],
    needs: impl Fn(&FilterChainMatch) -> bool,
) -> Option<ListenerFilter> {
    let (mut elsewhere, mut ports) = (false, BTreeMap::new());
    for matches in chains.iter().filter_map(|chain| chain.filter_chain_match.as_ref()) {
        let need = match &matches.destination_port {
            Some(port) => ports.entry(port.value).or_insert(false),
            None => &mut elsewhere,
        };
        *need |= needs(matches);
    }
    let others: Vec<u32> = ports.into_iter().filter(|(_, need)| *need != elsewhere).map(|(port, _)| port).collect();
    let others = match others.as_slice() {
        [] => return elsewhere.then_some(filter),
        [port] => on(*port),
        several => {
            let rules = several.iter().map(|port| on(*port)).collect();
            ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }
        }
    };
    let disabled = match elsewhere {
        true => others,
        false => ListenerFilterChainMatchPredicate { rule: Some(Rule::NotMatch(Box::new(others))) },
    };
    Some(ListenerFilter { filter_disabled: Some(disabled), ..filter })
}

fn on(port: u32) -> ListenerFilterChainMatchPredicate {
    // Ports are far below the bound.
    let start = i32::try_from(port).unwrap_or(i32::MAX - 1);
    ListenerFilterChainMatchPredicate { rule: Some(Rule::DestinationPortRange(Int32Range { start, end: start + 1 })) }
}
