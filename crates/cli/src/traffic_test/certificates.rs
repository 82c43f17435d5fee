//! Certificates of a test: made anew for each run by authorities of its own, so that none can be too old, and put into the
//! mesh as Secrets.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_galley::FieldProblem;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, RevokedCertParams, SerialNumber,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::kind::Spec;
use crate::error::Error;

/// The authority of certificates that do not name another.
pub const USUAL: &str = "test";
/// How long they hold: nobody is to rely on them.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Clocks may differ by this.
const LEEWAY: Duration = Duration::from_secs(3600);

/// A certificate to be made.
#[derive(Debug, Clone, Deserialize)]
pub struct Wanted {
    /// Names of hosts that it is for; a client's may have none.
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub key: Key,
    /// Who signs it.
    #[serde(default = "usual")]
    pub authority: String,
    /// It held until yesterday.
    #[serde(default)]
    pub expired: bool,
    /// Its authority has taken it back.
    #[serde(default)]
    pub revoked: bool,
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Key {
    #[default]
    Ecdsa,
    Rsa,
}

/// A Secret to be put into the mesh.
#[derive(Debug, Clone, Deserialize)]
pub struct WantedSecret {
    pub name: String,
    /// The test's own if it is not said.
    #[serde(default)]
    pub namespace: String,
    /// `tls.crt` and `tls.key`.
    #[serde(default)]
    pub certificate: String,
    /// `ca.crt`, and `ca.crl` if they have taken any certificate back.
    #[serde(default)]
    pub authorities: Vec<String>,
}

pub fn usual() -> String {
    USUAL.to_owned()
}

/// What is wrong with the certificates and Secrets of a test.
pub fn problems(spec: &Spec, problems: &mut Vec<FieldProblem>) {
    let known: Vec<&str> = spec.certificates.values().map(|wanted| wanted.authority.as_str()).collect();
    let mut tell = |path: String, message: String| problems.push(FieldProblem::new(path, message));
    for (name, wanted) in &spec.certificates {
        for (what, text) in [("", name), (".authority", &wanted.authority)] {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                tell(
                    format!("spec.certificates.{name}{what}"),
                    format!("{text:?} is not made of letters, digits and -"),
                );
            }
        }
        if CertificateParams::new(wanted.hosts.clone()).is_err() {
            tell(format!("spec.certificates.{name}.hosts"), "one of them is no host".to_owned());
        }
    }
    for (index, secret) in spec.secrets.iter().enumerate() {
        let at = format!("spec.secrets[{index}]");
        if !secret.certificate.is_empty() && !spec.certificates.contains_key(&secret.certificate) {
            tell(format!("{at}.certificate"), format!("there is no certificate {:?}", secret.certificate));
        }
        for authority in secret.authorities.iter().filter(|authority| !known.contains(&authority.as_str())) {
            tell(format!("{at}.authorities"), format!("no certificate is of the authority {authority:?}"));
        }
    }
    for (index, step) in spec.steps.iter().enumerate() {
        let at = format!("spec.steps[{index}].send.tls");
        let Some(tls) = &step.send.tls else { continue };
        if !known.contains(&tls.authority.as_str()) {
            tell(format!("{at}.authority"), format!("no certificate is of the authority {:?}", tls.authority));
        }
        if !tls.certificate.is_empty() && !spec.certificates.contains_key(&tls.certificate) {
            tell(format!("{at}.certificate"), format!("there is no certificate {:?}", tls.certificate));
        }
    }
}

/// All certificates of a test.
#[derive(Default)]
pub struct Certificates {
    authorities: BTreeMap<String, Authority>,
    pairs: BTreeMap<String, Pair>,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    revoked: Vec<SerialNumber>,
}

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Certificates {
    /// Makes what a test wants.
    ///
    /// # Errors
    /// When a certificate cannot be made.
    pub fn make(spec: &Spec) -> Result<Certificates, Error> {
        let mut made = Certificates::default();
        for (name, wanted) in &spec.certificates {
            made.add(name, wanted).map_err(Error::unreadable)?;
        }
        Ok(made)
    }

    fn add(&mut self, name: &str, wanted: &Wanted) -> Result<(), rcgen::Error> {
        if !self.authorities.contains_key(&wanted.authority) {
            self.authorities.insert(wanted.authority.clone(), Authority::new(&wanted.authority)?);
        }
        let Some(authority) = self.authorities.get_mut(&wanted.authority) else { return Ok(()) };
        let key = match wanted.key {
            Key::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            Key::Rsa => KeyPair::generate_for(&PKCS_RSA_SHA256)?,
        };
        let mut params = CertificateParams::new(wanted.hosts.clone())?;
        params.distinguished_name = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let serial = SerialNumber::from(rand::random::<u64>());
        params.serial_number = Some(serial.clone());
        let now = if wanted.expired { SystemTime::now() - 2 * LIFE } else { SystemTime::now() };
        (params.not_before, params.not_after) = validity(now);
        let certificate = params.signed_by(&key, &authority.issuer)?.pem();
        if wanted.revoked {
            authority.revoked.push(serial);
        }
        self.pairs.insert(name.to_owned(), Pair { certificate, key: key.serialize_pem() });
        Ok(())
    }

    /// An authority's own certificate, in PEM.
    pub fn authority(&self, name: &str) -> Option<&str> {
        self.authorities.get(name).map(|authority| authority.pem.as_str())
    }

    pub fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs.get(name)
    }

    /// The Secrets that a test wants; `namespace` is its own.
    ///
    /// # Errors
    /// When a list of what was taken back cannot be made.
    pub fn secrets(&self, spec: &Spec, namespace: &str) -> Result<Vec<Value>, Error> {
        spec.secrets.iter().map(|secret| self.secret(secret, namespace).map_err(Error::unreadable)).collect()
    }

    fn secret(&self, wanted: &WantedSecret, own: &str) -> Result<Value, rcgen::Error> {
        let mut data = Map::new();
        let mut put = |key: &str, text: &str| drop(data.insert(key.to_owned(), json!(STANDARD.encode(text))));
        let pair = self.pair(&wanted.certificate);
        if let Some(Pair { certificate, key }) = pair {
            put("tls.crt", certificate);
            put("tls.key", key);
        }
        let authorities = || wanted.authorities.iter().filter_map(|name| self.authorities.get(name));
        let roots: String = authorities().map(|authority| authority.pem.as_str()).collect();
        if !roots.is_empty() {
            put("ca.crt", &roots);
        }
        if authorities().any(|authority| !authority.revoked.is_empty()) {
            // Where there is a list at all, every authority needs one.
            let lists: Result<String, rcgen::Error> = authorities().map(Authority::revocations).collect();
            put("ca.crl", &lists?);
        }
        let namespace = if wanted.namespace.is_empty() { own } else { &wanted.namespace };
        let r#type = if pair.is_some() { "kubernetes.io/tls" } else { "Opaque" };
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "type": r#type,
            "metadata": {"name": wanted.name, "namespace": namespace}, "data": data,
        }))
    }

    /// Writes all of them into a folder, for its owner alone: `AUTHORITY-ca.crt`, `NAME.crt` and `NAME.key`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, Permissions::from_mode(0o700))?;
            let authorities =
                self.authorities.iter().map(|(name, authority)| (format!("{name}-ca.crt"), &authority.pem));
            let pairs = self.pairs.iter().flat_map(|(name, pair)| {
                [(format!("{name}.crt"), &pair.certificate), (format!("{name}.key"), &pair.key)]
            });
            for (name, text) in authorities.chain(pairs) {
                let path = folder.join(name);
                // A file of before may be readable by others.
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                file.write_all(text.as_bytes())?;
            }
            Ok(())
        };
        write().map_err(Error::io(folder.display().to_string()))
    }
}

impl Authority {
    fn new(name: &str) -> Result<Authority, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("{name} authority"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let (began, ends) = validity(SystemTime::now());
        // Older than what it signed, even that which has expired.
        (params.not_before, params.not_after) = (began - 3 * LIFE, ends);
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { pem, issuer: Issuer::new(params, key), revoked: Vec::new() })
    }

    /// What it has taken back, in PEM.
    fn revocations(&self) -> Result<String, rcgen::Error> {
        let (began, ends) = validity(SystemTime::now());
        let revoked = self.revoked.iter().map(|serial| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: began,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: began,
            next_update: ends,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer)?.pem()
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn validity(now: SystemTime) -> (OffsetDateTime, OffsetDateTime) {
    (OffsetDateTime::from(now - LEEWAY), OffsetDateTime::from(now + LIFE))
}

#[cfg(test)]
mod tests {
    use lateen_galley::Object;

    use super::*;
    use crate::traffic_test;

    const TEST: &str = "
apiVersion: test.lateen.dev/v1alpha1
kind: TrafficTest
metadata: {name: a, namespace: shop}
spec:
  certificates:
    web: {hosts: [web.test, '*.web.test', 127.0.0.1], key: rsa}
    alice: {}
    old: {expired: true}
    bob: {authority: other, revoked: true}
  secrets:
  - {name: web, namespace: istio-system, certificate: web, authorities: [test, other]}
  - {name: roots, authorities: [test]}
  steps:
  - name: one
    send: {url: 'https://web.test/', tls: {certificate: alice}}
    expect: {status: 200}
";

    #[test]
    fn secrets_are_made_of_certificates_and_are_objects() {
        let test = &traffic_test::read("t.yaml", TEST.as_bytes()).unwrap()[0].test;
        let made = Certificates::make(&test.spec).unwrap();
        let secrets = made.secrets(&test.spec, &test.metadata.namespace).unwrap();
        for secret in &secrets {
            Object::decode(secret.clone()).unwrap();
        }
        let keys = |secret: &Value| secret["data"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(secrets[0]["type"], "kubernetes.io/tls");
        assert_eq!(keys(&secrets[0]), ["ca.crl", "ca.crt", "tls.crt", "tls.key"]);
        assert_eq!(secrets[1]["metadata"]["namespace"], "shop");
        assert_eq!(keys(&secrets[1]), ["ca.crt"], "no list where nothing was taken back");
        let folder = tempfile::tempdir().unwrap();
        made.write(folder.path()).unwrap();
        made.write(folder.path()).unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("web.key"), mode("alice.crt"), mode("other-ca.crt")), (0o600, 0o600, 0o600));
    }

    #[test]
    fn what_is_not_there_is_told() {
        for (from, to, expected) in [
            ("certificate: web,", "certificate: wbe,", "spec.secrets[0].certificate: there is no certificate \"wbe\""),
            ("[test, other]", "[tset]", "spec.secrets[0].authorities: no certificate is of the authority \"tset\""),
            ("certificate: alice", "certificate: eve", "spec.steps[0].send.tls.certificate: there is no certificate"),
            ("certificate: alice", "authority: x", "spec.steps[0].send.tls.authority: no certificate is of"),
            ("authority: other", "authority: ../x", "spec.certificates.bob.authority"),
            ("https://web.test", "http://web.test", "spec.steps[0].send.tls: only https:// has it"),
        ] {
            let text = TEST.replacen(from, to, 1);
            assert_ne!(text, TEST, "{from}");
            let told = traffic_test::read("t.yaml", text.as_bytes()).unwrap_err().to_string();
            assert!(told.contains(expected), "{to}: {told}");
        }
    }
}
