//! Cipher suites and groups of TLS, by the names that Envoy's configuration has for them: which are spoken, and which are
//! names at all.
//!
//! Suites without forward secrecy or authenticated encryption are known to Istio and not spoken here: a peer that speaks
//! TLS 1.2 at all speaks one of the others. Those of TLS 1.3 are not chosen.

/// Suites of TLS 1.2 that are spoken.
const SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Suites that Istio knows beyond these (`pkg/config/security/security.go`).
const WEAK: [&str; 9] = [
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// Groups that are spoken.
const GROUPS: [&str; 4] = ["X25519MLKEM768", "X25519", "P-256", "P-384"];

/// The suites of a list that are spoken, each once.
pub fn spoken(list: &[String]) -> Vec<String> {
    let mut spoken: Vec<String> = Vec::new();
    for name in list {
        if SUITES.contains(&name.as_str()) && !spoken.contains(name) {
            spoken.push(name.clone());
        }
    }
    spoken
}

use crate::validate::Findings;

/// Checks a list of suites. As with Istio, those that are none are left out with a warning.
pub(crate) fn check_suites(path: &str, list: &[String], findings: &mut Findings) {
    for (index, name) in list.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let name = name.as_str();
        if WEAK.contains(&name) {
            findings.warning(at, format!("{name:?} is left out: it is not spoken, as it is weak"));
        } else if !SUITES.contains(&name) {
            findings.warning(at, format!("{name:?} is left out: it is no cipher suite"));
        } else if list.iter().take(index).any(|before| before == name) {
            findings.warning(at, format!("{name:?} is given twice"));
        }
    }
    if !list.is_empty() && spoken(list).is_empty() {
        findings.error(path, format!("none is spoken; there are {}", SUITES.join(", ")));
    }
}

/// Checks a list of groups.
pub(crate) fn check_groups(path: &str, list: &[String], findings: &mut Findings) {
    for (index, name) in list.iter().enumerate().filter(|(_, name)| !GROUPS.contains(&name.as_str())) {
        findings.error(format!("{path}[{index}]"), format!("{name:?} is not spoken; there are {}", GROUPS.join(", ")));
    }
}
