//! Rules about connections (Envoy's network filter `envoy.filters.network.rbac`), asked when a client's first bytes, or its
//! end, have come.

use std::sync::Arc;

use bytes::BytesMut;
use lateen_traffic::metadata::Metadata;
use lateen_traffic::rbac::{Decision, Peer, Rbac};

use crate::io::Io;
use crate::listener::Accepted;

/// Asks the rules in their order. The decision that denies, if one does.
pub fn denial(accepted: &Accepted, rules: &[Arc<Rbac>], metadata: &mut Metadata) -> Option<Decision> {
    let peer = Peer {
        source: accepted.peer.ip(),
        direct: accepted.direct.ip(),
        remote: accepted.peer.ip(),
        local: accepted.local,
        server_name: accepted.server_name.as_deref(),
        tls: accepted.tls.as_deref(),
    };
    rules.iter().find_map(|rbac| {
        let verdict = rbac.decide(peer, None, metadata);
        accepted.worker.stats.rbac(&rbac.stat_scope).count(rbac, &verdict);
        verdict.denial().cloned()
    })
}

/// Waits for a client's first bytes, which stay to be read, and asks the rules.
pub async fn admits(accepted: &Accepted, rules: &[Arc<Rbac>], io: &Io) -> bool {
    let mut first = BytesMut::with_capacity(4096);
    tokio::select! {
        biased;
        // An error is found again by who reads next.
        _ = io.read_into(&mut first) => io.put_back(first.freeze()),
        // Nothing was asked yet: the connection is idle.
        () = accepted.drain.begun() => return false,
    }
    denial(accepted, rules, &mut Metadata::default()).is_none()
}
