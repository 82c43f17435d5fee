//! Who may use a connection (Envoy's network filters `envoy.filters.network.rbac` and `envoy.filters.network.ext_authz`), asked
//! when a client's first bytes, or its end, have come.

use std::sync::Arc;

use bytes::BytesMut;
use lateen_traffic::ext_authz::{self, Answer, Attributes, ConnectionAuthz, Reply};
use lateen_traffic::listener::Gate;
use lateen_traffic::metadata::Metadata;
use lateen_traffic::rbac::Peer;
use lateen_traffic::record::{Flags, Record};
use lateen_xds::check;
use tokio::time::Instant;

use crate::io::Io;
use crate::listener::Accepted;
use crate::refusals::Refusal;
use crate::router::call::{Call, MOST_ANSWER};
use crate::stats::ConnectionAuthzStats;

/// Why a connection may not go on.
pub enum Denial {
    /// By rules; the details name them.
    Rules(String),
    /// By a service, or for want of its answer.
    Service(&'static str),
}

impl Denial {
    /// What the record says of it.
    pub fn tell(self, record: &mut Record) {
        match self {
            Self::Rules(details) => record.termination_details = details.into(),
            Self::Service(details) => {
                record.flags.add(Flags::UNAUTHORIZED);
                record.details = details.into();
            }
        }
    }
}

/// Asks at the gates in their order.
///
/// # Errors
/// The first that does not let the connection pass.
pub async fn admit(accepted: &Accepted, gates: &[Gate], metadata: &mut Metadata) -> Result<(), Denial> {
    let peer = Peer {
        source: accepted.peer.ip(),
        direct: accepted.direct.ip(),
        remote: accepted.peer.ip(),
        local: accepted.local,
        server_name: accepted.server_name.as_deref(),
        tls: accepted.tls.as_deref(),
    };
    for gate in gates {
        match gate {
            Gate::Rules(rbac) => {
                let verdict = rbac.decide(peer, None, metadata);
                let stats = &accepted.worker.stats;
                stats.rbac(&rbac.stat_scope).count(rbac, rbac, &verdict);
                if let Some(denial) = verdict.denial() {
                    stats.refused(Refusal::new(std::time::SystemTime::now(), &peer, None, denial.policy.clone()));
                    return Err(Denial::Rules(denial.details()));
                }
            }
            Gate::Ask(filter) => {
                let stats = accepted.worker.stats.ext_authz(&filter.stat_scope);
                if filter.metadata.as_ref().is_none_or(|wanted| wanted.matches(metadata)) {
                    // Apart, so that connections that nobody is asked about need no room for it.
                    Box::pin(ask(accepted, filter, peer, metadata, stats)).await?;
                } else {
                    stats.disabled.inc();
                }
            }
        }
    }
    Ok(())
}

/// A question under way, also until it is let go.
struct Asking(Arc<ConnectionAuthzStats>);

impl Asking {
    fn begin(stats: Arc<ConnectionAuthzStats>) -> Self {
        stats.total.inc();
        stats.active.inc();
        Self(stats)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

async fn ask(
    accepted: &Accepted,
    filter: &ConnectionAuthz,
    peer: Peer<'_>,
    metadata: &mut Metadata,
    stats: Arc<ConnectionAuthzStats>,
) -> Result<(), Denial> {
    let (worker, service) = (&accepted.worker, &filter.service);
    let (asking, asked_at) = (Asking::begin(stats), Instant::now());
    let attributes =
        Attributes { told: &filter.told, context: &[], source: accepted.peer, peer, metadata, request: None };
    let record = Record::begin(std::time::SystemTime::now(), accepted.local, accepted.peer);
    let called = match worker.upstream(&service.cluster, &worker.config()) {
        None => None,
        Some(upstream) => {
            let call = Call {
                worker,
                request: service.ask(None, &record, worker.process.own_address, upstream.settings().speaks_tls()),
                upstream: &upstream,
                body: check::question(&attributes).into(),
                timeout: service.timeout,
                most: service.most.map_or(MOST_ANSWER, |most| most.min(MOST_ANSWER)),
                original: accepted.original,
            };
            call.make().await
        }
    };
    let reply = called.and_then(|called| check::answer(called.grpc_message()?));
    let stats = &asking.0;
    let answer = reply.as_ref().map(|reply| &reply.answer);
    match answer {
        Some(Answer::Allowed(_)) => stats.ok.inc(),
        Some(Answer::Denied(_)) => stats.denied.inc(),
        Some(Answer::Failed(_)) | None => stats.error.inc(),
    }
    let denial = filter.denial(answer);
    let failed = !matches!(answer, Some(Answer::Allowed(_) | Answer::Denied(_)));
    if let Some(Reply { answer, metadata: told, .. }) = reply {
        answer.tell(ext_authz::CONNECTION_FILTER, told, asked_at.elapsed(), metadata);
    }
    match denial {
        Some(details) => {
            stats.cx_closed.inc();
            let policy = filter.metadata.as_ref().and_then(|of| of.text(metadata)).cloned();
            worker.stats.refused(Refusal::new(record.start, &peer, None, policy));
            Err(Denial::Service(details))
        }
        None => {
            if failed {
                stats.failure_mode_allowed.inc();
            }
            Ok(())
        }
    }
}

/// Waits for a client's first bytes, which stay to be read, and asks at the gates.
pub async fn admits(accepted: &Accepted, gates: &[Gate], io: &Io) -> bool {
    let mut first = BytesMut::with_capacity(4096);
    tokio::select! {
        biased;
        // An error is found again by who reads next.
        _ = io.read_into(&mut first) => io.put_back(first.freeze()),
        () = accepted.drain.unused_ends() => return false,
    }
    admit(accepted, gates, &mut Metadata::default()).await.is_ok()
}
