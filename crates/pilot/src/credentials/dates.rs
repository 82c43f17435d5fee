//! From when until when a credential is good.

use super::content::Content;
use super::names::Name;
use k8s_openapi::jiff::Timestamp;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A credential that a proxy is told whatever its dates are: whoever sees it refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    what: String,
    good: RangeInclusive<SystemTime>,
}

impl Dated {
    /// A certificate is good as long as it says itself, authorities as long as one of them is; `None` if nothing can be
    /// read there.
    pub fn of(name: &Name, content: &Content) -> Option<Dated> {
        let of_each = |pem: &[u8]| -> Vec<RangeInclusive<SystemTime>> {
            let read = Pem::iter_from_buffer(pem).map_while(Result::ok);
            read.filter(|pem| pem.label == "CERTIFICATE").filter_map(|pem| good(&pem.contents)).collect()
        };
        let good = match content {
            Content::Certificate { chain, .. } => of_each(chain).into_iter().next(),
            Content::Authorities { roots, .. } => {
                let wider = |a: RangeInclusive<SystemTime>, b: RangeInclusive<SystemTime>| {
                    *a.start().min(b.start())..=*a.end().max(b.end())
                };
                of_each(roots).into_iter().reduce(wider)
            }
        };
        good.map(|good| Dated { what: name.to_string(), good })
    }

    /// What is wrong with it at this time, in words.
    pub fn trouble(&self, now: SystemTime) -> Option<String> {
        let Dated { what, good } = self;
        let text = |time: &SystemTime| Timestamp::try_from(*time).unwrap_or_default().to_string();
        if now > *good.end() {
            return Some(format!("{what} has expired: it was good until {}", text(good.end())));
        }
        (now < *good.start())
            .then(|| format!("{what} is not yet valid: it will be good from {} on", text(good.start())))
    }
}

fn good(der: &[u8]) -> Option<RangeInclusive<SystemTime>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let time = |seconds: i64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some(time(validity.not_before.timestamp())?..=time(validity.not_after.timestamp())?)
}
