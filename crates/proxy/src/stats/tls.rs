//! What became of TLS handshakes, under Envoy's names.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use lateen_traffic::Config;
use lateen_traffic::tls::{TlsConnection, TlsVersion};

use super::cells::{Cell as _, Counter};
use super::snapshot::{Entry, Value};
use crate::tls::failure::Cause;
use crate::tls::held::{self, OfContext};

/// Handshakes of a listener or cluster on one worker (`listener.ADDRESS.ssl.`, `cluster.NAME.ssl.`).
#[derive(Debug, Default)]
pub struct TlsStats {
    /// `handshake`: those that succeeded.
    pub handshake: Counter,
    connection_error: Counter,
    secrets_not_ready: Counter,
    session_reused: Counter,
    no_certificate: Counter,
    fail_verify_no_cert: Counter,
    fail_verify_error: Counter,
    fail_verify_san: Counter,
    fail_verify_cert_hash: Counter,
    tls12: Counter,
    tls13: Counter,
    ciphers: [Counter; CIPHERS.len()],
    curves: [Counter; CURVES.len()],
}

const CURVES: [&str; 4] = ["ssl.curves.X25519MLKEM768", "ssl.curves.X25519", "ssl.curves.P-256", "ssl.curves.P-384"];

const CIPHERS: [&str; 9] = [
    "ssl.ciphers.TLS_AES_128_GCM_SHA256",
    "ssl.ciphers.TLS_AES_256_GCM_SHA384",
    "ssl.ciphers.TLS_CHACHA20_POLY1305_SHA256",
    "ssl.ciphers.ECDHE-ECDSA-AES128-GCM-SHA256",
    "ssl.ciphers.ECDHE-ECDSA-AES256-GCM-SHA384",
    "ssl.ciphers.ECDHE-ECDSA-CHACHA20-POLY1305",
    "ssl.ciphers.ECDHE-RSA-AES128-GCM-SHA256",
    "ssl.ciphers.ECDHE-RSA-AES256-GCM-SHA384",
    "ssl.ciphers.ECDHE-RSA-CHACHA20-POLY1305",
];

impl TlsStats {
    /// Counts a handshake that succeeded.
    pub fn established(&self, facts: &TlsConnection) {
        self.handshake.inc();
        if facts.resumed {
            self.session_reused.inc();
        }
        if facts.peer.is_none() {
            self.no_certificate.inc();
        }
        match facts.version {
            TlsVersion::Tls12 => self.tls12.inc(),
            TlsVersion::Tls13 => self.tls13.inc(),
        }
        let cipher = CIPHERS.iter().position(|name| name.strip_prefix("ssl.ciphers.") == Some(facts.cipher));
        if let Some(at) = cipher {
            self.ciphers[at].inc();
        }
        let curve = CURVES.iter().position(|name| name.strip_prefix("ssl.curves.") == Some(facts.group));
        if let Some(at) = curve {
            self.curves[at].inc();
        }
    }

    /// Counts a connection that came about and was broken later.
    pub fn broken(&self) {
        self.connection_error.inc();
    }

    /// Counts one that failed.
    pub fn failed(&self, cause: Cause) {
        match cause {
            Cause::Chain => self.fail_verify_error.inc(),
            Cause::Names => self.fail_verify_san.inc(),
            Cause::Pins => self.fail_verify_cert_hash.inc(),
            Cause::NoCertificate => self.fail_verify_no_cert.inc(),
            Cause::Protocol => self.connection_error.inc(),
            Cause::NoSecret => self.secrets_not_ready.inc(),
            // As in Envoy, of whom just went there is nothing to count.
            Cause::Closed | Cause::Late => {}
        }
    }
}

/// When the certificates of a context expire, in seconds since 1970, by the name of the secret that they came in.
pub(super) fn expirations(of: &OfContext<'_>, out: &mut Vec<Entry>) {
    let own = of.own.iter().map(|held| (held, "unnamed_cert"));
    for (held, unnamed) in own.chain(of.authority.iter().map(|held| (held, "unnamed_ca_cert"))) {
        // Envoy adds the beginning of the SHA-256 of a name, which is empty.
        let name = held.secret.map_or_else(|| format!("{unnamed}_e3b0c442"), str::to_owned);
        let name = format!("ssl.certificate.{name}.expiration_unix_time_seconds");
        let seconds = held.certificate.not_after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if out.iter().all(|entry| entry.name != name) {
            let value = Value::Gauge { value: i64::try_from(seconds).unwrap_or(i64::MAX), used: true };
            out.push(Entry { name: name.into(), value });
        }
    }
}

/// Days until the first certificate of all contexts expires: 0 when one has, and `u32::MAX` when there is none (Envoy's
/// values).
pub(super) fn days_left(config: &Config, now: SystemTime) -> u64 {
    let all = held::all(config).flat_map(|of| of.own.into_iter().chain(of.authority));
    days_until_first(all.map(|held| held.certificate.not_after), now)
}

fn days_until_first(ends: impl Iterator<Item = SystemTime>, now: SystemTime) -> u64 {
    const DAY: u64 = 24 * 60 * 60;
    let days = ends.map(|end| end.duration_since(now).map_or(0, |left| left.as_secs() / DAY));
    days.min().unwrap_or_else(|| u32::MAX.into())
}

/// Counted once there was a handshake.
#[derive(Debug, Default)]
pub(super) struct TlsCounts(pub(super) OnceLock<Box<TlsStats>>);

impl TlsCounts {
    /// `secrets_not_ready` is the name, which differs, of how often there was no context for a handshake.
    pub(super) fn read(&self, secrets_not_ready: &'static str, out: &mut Vec<Entry>) {
        let Some(stats) = self.0.get() else { return };
        let named = [
            ("ssl.handshake", &stats.handshake),
            ("ssl.connection_error", &stats.connection_error),
            ("ssl.session_reused", &stats.session_reused),
            ("ssl.no_certificate", &stats.no_certificate),
            ("ssl.fail_verify_no_cert", &stats.fail_verify_no_cert),
            ("ssl.fail_verify_error", &stats.fail_verify_error),
            ("ssl.fail_verify_san", &stats.fail_verify_san),
            ("ssl.fail_verify_cert_hash", &stats.fail_verify_cert_hash),
            (secrets_not_ready, &stats.secrets_not_ready),
        ];
        out.extend(named.into_iter().map(|(name, counter)| Entry::new(name, counter.value())));
        // As in Envoy, these come into being with the first of their kind.
        let versions = [("ssl.versions.TLSv1.2", &stats.tls12), ("ssl.versions.TLSv1.3", &stats.tls13)];
        let seen = versions
            .into_iter()
            .chain(CIPHERS.into_iter().zip(&stats.ciphers))
            .chain(CURVES.into_iter().zip(&stats.curves));
        let seen = seen.map(|(name, counter)| Entry::new(name, counter.value()));
        out.extend(seen.filter(|entry| entry.value != Value::Counter(0)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_certificate_to_expire_counts_in_whole_days() {
        let now = SystemTime::now();
        let hours = |hours: &[u64]| {
            let ends = hours.iter().map(|hours| now + Duration::from_secs(hours * 3600));
            days_until_first(ends, now)
        };
        assert_eq!((hours(&[]), hours(&[100, 49, 50]), hours(&[23])), (u64::from(u32::MAX), 2, 0));
        assert_eq!(days_until_first([now - Duration::from_secs(1)].into_iter(), now), 0);
    }
}
