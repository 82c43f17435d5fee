//! Authorities as people make them, with openssl: their keys, the way to their roots, and when each ends.

use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::certificate::Facts;
use crate::key::Key;
use crate::request;

const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE";

/// A directory of files that openssl makes.
struct Openssl<'a>(&'a Path);

impl Openssl<'_> {
    fn run(&self, line: &str) {
        let run =
            Command::new("openssl").args(line.split(' ')).current_dir(self.0).stdin(Stdio::null()).output().unwrap();
        assert!(run.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&run.stderr));
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn root(&self, constraints: &str) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key";
        let names = format!("-subj /CN=root -addext {constraints} -addext keyUsage=critical,keyCertSign");
        self.run(&format!("req -x509 -days 365 {key} -out root.pem {names}"));
    }

    /// `name.pem`, whose key is in `name.key`, signed by `by`.
    fn signed(&self, name: &str, by: &str, constraints: &str, days: u32) {
        let names = format!("-subj /CN={name} -addext {constraints} -addext keyUsage=critical,keyCertSign");
        self.run(&format!("req -new -key {name}.key -out {name}.csr {names}"));
        let by = format!("-CA {by}.pem -CAkey {by}.key -days {days}");
        self.run(&format!("x509 -req -in {name}.csr {by} -copy_extensions copyall -out {name}.pem"));
    }

    fn key(&self, name: &str) {
        self.run(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
    }

    fn files(&self, name: &str, chain: &[&str]) -> Files {
        Files {
            certificate: self.read(&format!("{name}.pem")),
            key: self.read(&format!("{name}.key")).into(),
            root: self.read("root.pem"),
            chain: chain.iter().map(|name| self.read(&format!("{name}.pem"))).collect(),
        }
    }
}

fn domain() -> TrustDomain {
    TrustDomain::default()
}

/// A certificate of this issuer's, at a time.
fn sign(issuer: Issuer, ttl: Duration, now: SystemTime) -> Result<Signed, SignError> {
    let settings = Settings { max_ttl: ttl, ..Settings::default() };
    let caller = Identity::new(domain(), "shop", "web").unwrap();
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let request = SigningRequest::read(&request::write(&key, &caller).unwrap()).unwrap();
    Authority::new(settings, issuer).sign(&request, &caller, Some(ttl), now)
}

#[test]
fn keys_of_every_kind_and_form_sign() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = Openssl(directory.path());
    openssl.root(AUTHORITY);
    for (name, make) in [
        ("sec1", "ecparam -name prime256v1 -genkey -noout -out sec1.key"),
        ("p384", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.key"),
        ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key"),
        ("pkcs1", "genrsa -traditional -out pkcs1.key 2048"),
    ] {
        openssl.run(make);
        openssl.signed(name, "root", AUTHORITY, 100);
        let now = SystemTime::now();
        let issuer = Issuer::from_files(&openssl.files(name, &[]), &domain(), now).unwrap();
        let signed = sign(issuer, Duration::from_secs(60), now).unwrap();
        let root = certificate::read_pem(&openssl.read("root.pem")).unwrap();
        certificate::verify(&signed.chain, &root, now).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_path_is_no_longer_than_its_authorities_allow() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = Openssl(directory.path());
    for name in ["middle", "last"] {
        openssl.key(name);
    }
    let read = |files: &Files| Issuer::from_files(files, &domain(), SystemTime::now()).map(drop);
    // One that allows no other below it, and is the last: good.
    openssl.root(AUTHORITY);
    openssl.signed("last", "root", &format!("{AUTHORITY},pathlen:0"), 100);
    read(&openssl.files("last", &[])).unwrap();
    // The same in the middle: not good.
    openssl.signed("middle", "root", &format!("{AUTHORITY},pathlen:0"), 100);
    openssl.signed("last", "middle", AUTHORITY, 100);
    let error = read(&openssl.files("last", &["middle"])).unwrap_err();
    assert!(matches!(error, IssuerError::Chain(_)), "{error}");
    openssl.signed("middle", "root", &format!("{AUTHORITY},pathlen:1"), 100);
    openssl.signed("last", "middle", AUTHORITY, 100);
    read(&openssl.files("last", &["middle"])).unwrap();
    // The way to the root has a gap.
    let error = read(&openssl.files("last", &[])).unwrap_err();
    assert!(matches!(error, IssuerError::Chain(_)), "{error}");
}

#[test]
fn nothing_outlives_what_is_between_it_and_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = Openssl(directory.path());
    openssl.root(AUTHORITY);
    for name in ["middle", "last"] {
        openssl.key(name);
    }
    // The one in the middle ends first.
    openssl.signed("middle", "root", AUTHORITY, 1);
    openssl.signed("last", "middle", AUTHORITY, 100);
    let now = SystemTime::now();
    let files = openssl.files("last", &["middle"]);
    let issuer = || Issuer::from_files(&files, &domain(), now).unwrap();
    let end = Facts::read(&certificate::read_pem(&openssl.read("middle.pem")).unwrap()[0]).unwrap().not_after;
    assert_eq!(issuer().not_after(), end);
    let day = Duration::from_secs(24 * 3600);
    let leaf = sign(issuer(), 10 * day, now).unwrap();
    assert_eq!(leaf.not_after, end);
    assert_eq!(Facts::read(&leaf.chain[0]).unwrap().not_after, end);
    assert!(matches!(sign(issuer(), day, end), Err(SignError::Expired)));
    // Nor does it begin before the one that signs it, and clocks that are behind are thought of.
    let facts = Facts::read(&leaf.chain[0]).unwrap();
    assert!(facts.not_before >= issuer().facts().not_before && facts.not_before <= now);
    let late = now + Duration::from_secs(3600);
    let begins = Facts::read(&sign(issuer(), day, late).unwrap().chain[0]).unwrap().not_before;
    assert!(late.duration_since(begins).unwrap() >= BACK_DATING);
}

#[test]
fn an_authority_of_tomorrow_does_not_sign_today() {
    let directory = tempfile::tempdir().unwrap();
    let openssl = Openssl(directory.path());
    openssl.root(AUTHORITY);
    openssl.key("last");
    openssl.signed("last", "root", AUTHORITY, 100);
    let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
    let error = Issuer::from_files(&openssl.files("last", &[]), &domain(), yesterday).unwrap_err();
    assert!(matches!(error, IssuerError::Chain(_)), "{error}");
}

#[test]
fn serial_numbers_are_positive_and_never_twice() {
    let now = SystemTime::now();
    let issuer = || Issuer::self_signed(&domain(), KeyType::EcdsaP256, Duration::from_secs(3600), now).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut authority = Authority::new(Settings::default(), issuer());
    let caller = Identity::new(domain(), "shop", "web").unwrap();
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let request = SigningRequest::read(&request::write(&key, &caller).unwrap()).unwrap();
    for _ in 0..200 {
        let signed = authority.sign(&request, &caller, None, now).unwrap();
        let serial = Facts::read(&signed.chain[0]).unwrap().serial;
        // 16 bytes, the first bit clear and the second set (RFC 5280 4.1.2.2).
        assert_eq!(serial.len(), 32);
        assert!(('4'..='7').contains(&serial.chars().next().unwrap()), "{serial}");
        assert!(seen.insert(serial));
    }
}

#[test]
fn names_that_kubernetes_allows_are_certified_as_they_are() {
    let now = SystemTime::now();
    let issuer = Issuer::self_signed(&domain(), KeyType::EcdsaP256, Duration::from_secs(3600), now).unwrap();
    let mut authority = Authority::new(Settings::default(), issuer);
    let long = "a".repeat(63);
    for (namespace, account) in [("a", "b.c-d.e"), ("0", "0-0.1"), (long.as_str(), &format!("{long}.{long}.{long}"))] {
        let caller = Identity::new(domain(), namespace, account).unwrap();
        let key = Key::generate(KeyType::EcdsaP256).unwrap();
        let request = SigningRequest::read(&request::write(&key, &caller).unwrap()).unwrap();
        let signed = authority.sign(&request, &caller, None, now).unwrap();
        assert_eq!(Facts::read(&signed.chain[0]).unwrap().identity().unwrap(), caller);
    }
    for (namespace, account) in
        [("a", "b/c"), ("a b", "c"), ("a", "ä"), ("a", "b%2f"), ("a", "b:c"), ("", "b"), ("a", "")]
    {
        assert!(Identity::new(domain(), namespace, account).is_err(), "{namespace} {account}");
    }
}
