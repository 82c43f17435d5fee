//! `/certs`: Envoy's `Certificates`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_traffic::Config;
use lateen_traffic::format::rfc3339;
use serde_json::{Value as Json, json};

use crate::tls::held::{self, Held};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificates of all contexts.
pub(super) fn json(config: &Config, now: SystemTime) -> Json {
    let contexts: Vec<Json> = held::all(config)
        .map(|of| {
            let own: Vec<Json> = of.own.iter().map(|held| one(held, now)).collect();
            let authority: Vec<Json> = of.authority.iter().map(|held| one(held, now)).collect();
            json!({"ca_cert": authority, "cert_chain": own})
        })
        .collect();
    json!({"certificates": contexts})
}

fn one(held: &Held<'_>, now: SystemTime) -> Json {
    let certificate = &held.certificate;
    let named = |kind: &'static str, name: String| json!({ kind: name });
    let dns = certificate.dns_names.iter().map(|name| named("dns", name.clone()));
    let uris = certificate.uri_names.iter().map(|name| named("uri", name.clone()));
    let addresses = certificate.ip_names.iter().map(|ip| named("ip_address", ip.to_string()));
    let left = certificate.not_after.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs();
    json!({
        "path": held.file.unwrap_or("<inline>"),
        "serial_number": certificate.serial,
        "subject_alt_names": dns.chain(uris).chain(addresses).collect::<Vec<_>>(),
        "days_until_expiration": left.to_string(),
        "valid_from": moment(certificate.not_before),
        "expiration_time": moment(certificate.not_after),
    })
}

/// As protobuf's JSON has it.
fn moment(time: SystemTime) -> String {
    rfc3339(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
