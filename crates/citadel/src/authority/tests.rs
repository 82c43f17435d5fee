use std::process::{Command, Stdio};

use super::*;
use crate::certificate::Facts;
use crate::key::{Key, KeyType};
use crate::request;

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn identity(account: &str) -> Identity {
    Identity::new(domain(), "shop", account).unwrap()
}

fn settings() -> Settings {
    Settings {
        default_ttl: Duration::from_secs(24 * 3600),
        max_ttl: Duration::from_secs(48 * 3600),
        announce: Duration::from_secs(60),
        ..Settings::default()
    }
}

fn root(now: SystemTime) -> Issuer {
    Issuer::self_signed(&domain(), KeyType::EcdsaP256, Duration::from_secs(365 * 24 * 3600), now).unwrap()
}

fn authority(now: SystemTime) -> Authority {
    Authority::new(settings(), root(now))
}

/// A signed certificate's chain, and its key.
fn signed(authority: &mut Authority, ttl: Option<Duration>, now: SystemTime) -> (Signed, Key) {
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let csr = request::write(&key, &identity("web")).unwrap();
    let request = SigningRequest::read(&csr).unwrap();
    (authority.sign(&request, &identity("web"), ttl, now).unwrap(), key)
}

fn openssl(arguments: &[&str]) -> String {
    let run = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(run.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn a_certificate_is_what_x509_svid_says() {
    let now = SystemTime::now();
    let mut authority = authority(now);
    let (made, key) = signed(&mut authority, Some(Duration::from_secs(10)), now);
    let facts = Facts::read(&made.chain[0]).unwrap();
    assert_eq!(facts.identity().unwrap(), identity("web"));
    assert_eq!(facts.public_key, key.public());
    assert!(!facts.is_authority);
    assert!(facts.not_after <= now + Duration::from_secs(10));
    assert!(facts.not_before < now);
    // A new serial each time.
    assert_ne!(facts.serial, Facts::read(&signed(&mut authority, None, now).0.chain[0]).unwrap().serial);
    certificate::verify(&made.chain, &authority.roots(), now).unwrap();
    let later = now + Duration::from_secs(11);
    assert!(certificate::verify(&made.chain, &authority.roots(), later).is_err());
}

#[test]
fn openssl_reads_and_verifies_what_is_signed() {
    let now = SystemTime::now();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let mut authority = authority(now);
    let (made, _) = signed(&mut authority, None, now);
    std::fs::write(path("leaf.pem"), certificate::to_pem(&made.chain[..1])).unwrap();
    std::fs::write(path("root.pem"), authority.bundle()).unwrap();
    let root = path("root.pem");
    for purpose in ["sslclient", "sslserver"] {
        openssl(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", &root, &path("leaf.pem")]);
    }
    let text = openssl(&["x509", "-noout", "-text", "-in", &path("leaf.pem")]);
    for line in [
        "X509v3 Subject Alternative Name: critical",
        "URI:spiffe://cluster.local/ns/shop/sa/web",
        "X509v3 Key Usage: critical",
        "Digital Signature, Key Encipherment",
        "CA:FALSE",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    let text = openssl(&["x509", "-noout", "-text", "-in", &root]);
    for line in ["CA:TRUE", "Certificate Sign, CRL Sign", "URI:spiffe://cluster.local", "O = cluster.local"] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[test]
fn a_life_is_never_longer_than_allowed() {
    let now = SystemTime::now();
    let mut authority = authority(now);
    let mut life = |ttl| signed(&mut authority, ttl, now).0.not_after.duration_since(now).unwrap();
    assert_eq!(life(None), settings().default_ttl);
    assert_eq!(life(Some(Duration::from_secs(3600))), Duration::from_secs(3600));
    assert_eq!(life(Some(Duration::from_secs(1 << 40))), settings().max_ttl);
    assert_eq!(life(Some(Duration::ZERO)), SHORTEST);
    // Nor than that of the one who signs.
    let short = Issuer::self_signed(&domain(), KeyType::EcdsaP256, Duration::from_secs(600), now).unwrap();
    let mut brief = Authority::new(settings(), short);
    assert!(signed(&mut brief, None, now).0.not_after <= now + Duration::from_secs(600));
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let request = SigningRequest::read(&request::write(&key, &identity("web")).unwrap()).unwrap();
    let expired = brief.sign(&request, &identity("web"), None, now + Duration::from_secs(601));
    assert!(matches!(expired, Err(SignError::Expired)));
}

#[test]
fn nobody_gets_another_s_identity() {
    let now = SystemTime::now();
    let mut authority = authority(now);
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let request = SigningRequest::read(&request::write(&key, &identity("api")).unwrap()).unwrap();
    let refused = authority.sign(&request, &identity("web"), None, now).unwrap_err();
    assert!(matches!(refused, SignError::Request(RequestError::Identity { .. })), "{refused}");
    let elsewhere = identity("web").within("other.example".parse().unwrap());
    let request = SigningRequest::read(&request::write(&key, &elsewhere).unwrap()).unwrap();
    assert!(authority.sign(&request, &identity("web"), None, now).is_err());
}

#[test]
fn requests_signed_badly_damaged_or_too_long_are_refused() {
    use base64::Engine as _;
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let csr = request::write(&key, &identity("web")).unwrap();
    let body: String = csr.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut der = der.clone();
        change(&mut der);
        SigningRequest::read(&certificate::block("CERTIFICATE REQUEST", &der)).unwrap_err()
    };
    // Somewhere in the signature, which is at the end.
    assert_eq!(damaged(&|der| *der.last_mut().unwrap() ^= 1), RequestError::Signature);
    // In the name: what was signed was another text.
    let name = der.windows(3).position(|window| window == b"web").unwrap();
    assert_eq!(damaged(&|der| der[name] = b'b'), RequestError::Signature);
    assert!(matches!(damaged(&|der| der.truncate(40)), RequestError::Unreadable(_)));
    assert!(matches!(damaged(&|der| der.push(0)), RequestError::Unreadable(_)));
    let long = SigningRequest::read(&"x".repeat(request::MAX_BYTES + 1)).unwrap_err();
    assert_eq!(long, RequestError::TooLong(request::MAX_BYTES + 1));
    assert!(matches!(SigningRequest::read("").unwrap_err(), RequestError::Unreadable(_)));
}

#[test]
fn weak_keys_and_other_names_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csr.pem").display().to_string();
    let key = directory.path().join("key.pem").display().to_string();
    let made = |new: &[&str], name: &str| {
        let fixed = ["req", "-new", "-nodes", "-subj", "/", "-keyout", &key, "-out", &path, "-addext", name];
        openssl(&[&fixed[..], new].concat());
        SigningRequest::read(&std::fs::read_to_string(&path).unwrap())
    };
    let own = "subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/web";
    for good in [&["-newkey", "rsa:2048"][..], &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]] {
        made(good, own).unwrap().identity(&identity("web"), &domain().into()).unwrap();
    }
    assert_eq!(made(&["-newkey", "rsa:1024"], own).unwrap_err(), RequestError::Key);
    assert_eq!(made(&["-newkey", "rsa:2048", "-sha1"], own).unwrap_err(), RequestError::SignatureAlgorithm);
    assert!(made(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"], own).is_err());
    assert!(made(&["-newkey", "ed25519"], own).is_err());
    let p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    for other in ["subjectAltName=DNS:shop.example", &format!("{own},DNS:shop.example"), "subjectAltName=IP:10.0.0.1"] {
        let refused = made(&p256, other).unwrap().identity(&identity("web"), &domain().into()).unwrap_err();
        assert!(matches!(refused, RequestError::Identity { .. }), "{other}: {refused}");
    }
    for long in ["URI:spiffe://", "DNS:"].map(|kind| format!("subjectAltName={kind}{}", "a".repeat(8000))) {
        let refused = made(&p256, &long).unwrap().identity(&identity("web"), &domain().into()).unwrap_err();
        assert!(refused.to_string().len() < 400, "{refused}");
    }
}

#[test]
fn an_intermediate_is_proven_before_it_signs() {
    let directory = tempfile::tempdir().unwrap();
    let files = Brought::make(directory.path());
    let now = SystemTime::now();
    let issuer = Issuer::from_files(&files, &domain(), now).unwrap();
    let mut authority = Authority::new(settings(), issuer);
    let (made, _) = signed(&mut authority, None, now);
    assert_eq!(made.chain.len(), 2);
    certificate::verify(&made.chain, &authority.roots(), now).unwrap();
    // Read back from its own files it is the same.
    let again = Issuer::from_files(&authority.signing().to_files(), &domain(), now).unwrap();
    assert_eq!(again.certificate(), authority.signing().certificate());

    let other = root(now).to_files();
    let wrong = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        Issuer::from_files(&files, &domain(), now).unwrap_err().to_string()
    };
    assert_eq!(wrong(&|files| files.key = other.key.clone()), "ca-key.pem is not the key of ca-cert.pem");
    assert!(wrong(&|files| files.root = other.root.clone()).contains("does not lead to root-cert.pem"));
    assert!(wrong(&|files| files.certificate.clear()).starts_with("ca-cert.pem: no certificate"));
    assert!(wrong(&|files| files.root = "garbage".to_owned()).starts_with("root-cert.pem: "));
    assert!(wrong(&|files| files.key.clear()).starts_with("ca-key.pem: "));
    let leaf = Files {
        certificate: certificate::to_pem(&made.chain[..1]),
        key: signed(&mut authority, None, now).1.to_pem(),
        ..files.clone()
    };
    assert!(Issuer::from_files(&leaf, &domain(), now).is_err());
    let far = now + Duration::from_secs(400 * 24 * 3600);
    assert!(matches!(Issuer::from_files(&files, &domain(), far), Err(IssuerError::Expired)));
}

/// A root and an intermediate as people make them with openssl.
struct Brought;

impl Brought {
    fn make(directory: &std::path::Path) -> Files {
        let path = |name: &str| directory.join(name).display().to_string();
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        let (root, root_key, csr) = (path("root.pem"), path("root.key"), path("ca.csr"));
        let authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
        let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=root"];
        openssl(&[&made[..], &authority, &["-keyout", &root_key, "-out", &root]].concat());
        let request = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mesh", "-keyout", &path("ca.key")];
        openssl(&[&request[..], &authority, &["-out", &csr]].concat());
        let signed = ["x509", "-req", "-in", &csr, "-CA", &root, "-CAkey", &root_key, "-days", "300"];
        openssl(&[&signed[..], &["-copy_extensions", "copyall", "-out", &path("ca.pem")]].concat());
        Files { certificate: read("ca.pem"), key: read("ca.key").into(), root: read("root.pem"), chain: read("ca.pem") }
    }
}

#[test]
fn one_root_follows_another_without_a_gap() {
    let mut now = SystemTime::now();
    let mut authority = authority(now);
    let old = authority.signing().certificate().clone();
    let (before, _) = signed(&mut authority, None, now);
    let next = root(now);
    let new = next.certificate().clone();
    assert!(authority.follow(next, now));
    // Announced: both are trusted, the old one signs.
    assert_eq!(authority.roots(), [old.clone(), new.clone()]);
    assert_eq!(authority.next_step(), Some(now + settings().announce));
    assert!(!authority.advance(now));
    let (meanwhile, _) = signed(&mut authority, None, now);
    certificate::verify(&meanwhile.chain, std::slice::from_ref(&old), now).unwrap();
    // Signing: both are trusted, the new one signs.
    now += settings().announce;
    assert!(authority.advance(now));
    assert_eq!(authority.roots(), [new.clone(), old.clone()]);
    let (after, _) = signed(&mut authority, None, now);
    certificate::verify(&after.chain, std::slice::from_ref(&new), now).unwrap();
    certificate::verify(&before.chain, &authority.roots(), now).unwrap();
    // Done: nothing signed under the old root holds any more.
    now += settings().max_ttl;
    assert!(authority.advance(now));
    assert_eq!(authority.roots(), [new]);
    assert_eq!(authority.next_step(), None);
    assert!(certificate::verify(&meanwhile.chain, &[old], now).is_err());
}

#[test]
fn an_old_root_is_trusted_for_as_long_as_what_it_has_signed() {
    let now = SystemTime::now();
    let mut authority = authority(now);
    let old = authority.signing().certificate().clone();
    let life = Duration::from_secs(10);
    signed(&mut authority, Some(life), now);
    authority.follow(root(now), now);
    // While the new one is announced the old one signs on.
    let later = now + Duration::from_secs(30);
    let (last, _) = signed(&mut authority, Some(life), later);
    let from = now + settings().announce;
    assert!(authority.advance(from));
    assert_eq!(authority.retiring(), [], "what it has signed has expired already");
    certificate::verify(&last.chain, &[old], later).unwrap();

    // One that comes back takes with it what it has signed before.
    let files = authority.signing().to_files();
    let (long, _) = signed(&mut authority, Some(Duration::from_secs(3600)), from);
    authority.follow(root(from), from);
    let second = from + settings().announce;
    assert!(authority.advance(second));
    assert_eq!(authority.retiring()[0].until, long.not_after);
    assert!(authority.follow(Issuer::from_files(&files, &domain(), second).unwrap(), second));
    assert!(authority.retiring().is_empty() && authority.issued_until() == long.not_after);
}

#[test]
fn a_root_of_its_own_is_followed_before_it_ends() {
    let now = SystemTime::now();
    let life = Duration::from_secs(1000);
    let own = || Issuer::self_signed(&domain(), KeyType::EcdsaP256, life, now).unwrap();
    let moments: Vec<Duration> =
        (0..8).map(|_| Authority::new(settings(), own()).rotates_at().unwrap().duration_since(now).unwrap()).collect();
    // A fifth of its life is left, and up to a twentieth more.
    assert!(moments.iter().all(|at| (749..=800).contains(&at.as_secs())), "{moments:?}");
    assert!(moments.iter().any(|at| *at != moments[0]), "not all at the same moment");
    let hasty = Settings { announce: Duration::from_secs(300), ..settings() };
    assert_eq!(Authority::new(hasty, own()).rotates_at().unwrap().duration_since(now).unwrap().as_secs(), 499);
    let mut authority = Authority::new(settings(), own());
    assert_eq!(authority.rotates_at(), authority.rotates_at());
    authority.follow(own(), now);
    assert_eq!(authority.rotates_at(), None, "one is under way");
    let directory = tempfile::tempdir().unwrap();
    let files = Brought::make(directory.path());
    let brought = Issuer::from_files(&files, &domain(), SystemTime::now()).unwrap();
    assert_eq!(Authority::new(settings(), brought).rotates_at(), None, "that is its owner's to do");
}

#[test]
fn a_workload_keeps_its_name_while_the_mesh_gets_another() {
    let now = SystemTime::now();
    let mut authority = authority(now);
    let new: TrustDomain = "new.example".parse().unwrap();
    let mut named = |caller: &Identity, asked: &Identity, mesh: &TrustDomains| {
        authority.rename(mesh.clone());
        let key = Key::generate(KeyType::EcdsaP256).unwrap();
        let request = SigningRequest::read(&request::write(&key, asked).unwrap()).unwrap();
        let signed = authority.sign(&request, caller, None, now)?;
        Ok::<_, SignError>(Facts::read(&signed.chain[0]).unwrap().identity().unwrap())
    };
    let moved = TrustDomains { own: new.clone(), aliases: vec![domain()] };
    let (old_name, new_name) = (identity("web"), identity("web").within(new.clone()));
    // By token: it is the mesh's own name that the caller has proven.
    assert_eq!(named(&new_name, &new_name, &moved).unwrap(), new_name);
    assert_eq!(named(&new_name, &old_name, &moved).unwrap(), old_name);
    // By its certificate of before.
    assert_eq!(named(&old_name, &old_name, &moved).unwrap(), old_name);
    assert_eq!(named(&old_name, &new_name, &moved).unwrap(), new_name);
    assert!(named(&new_name, &identity("api"), &moved).is_err());
    let elsewhere = identity("web").within("other.example".parse().unwrap());
    assert!(named(&new_name, &elsewhere, &moved).is_err());
    assert!(named(&new_name, &old_name, &new.into()).is_err(), "without the alias");
}

#[test]
fn the_same_issuer_again_is_no_rotation_and_a_way_back_is_one() {
    let now = SystemTime::now();
    let mut authority = authority(now);
    let files = authority.signing().to_files();
    let same = || Issuer::from_files(&files, &domain(), now).unwrap();
    assert!(!authority.follow(same(), now));
    let next = root(now);
    let next_files = next.to_files();
    assert!(authority.follow(next, now));
    assert!(!authority.follow(Issuer::from_files(&next_files, &domain(), now).unwrap(), now));
    // Back before the new one signs: its root is trusted for as long as anything could have been signed under it.
    assert!(authority.follow(same(), now));
    assert!(authority.announced().is_none());
    assert_eq!(authority.roots().len(), 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever becomes of a request on its way is refused, or changes nothing of what it asks for.
    #[test]
    fn damaged_requests_are_refused(changes in proptest::collection::vec((0_usize..400, proptest::num::u8::ANY), 1..4)) {
        static REQUEST: std::sync::LazyLock<(Vec<u8>, Vec<u8>)> = std::sync::LazyLock::new(|| {
            use base64::Engine as _;
            let key = Key::generate(KeyType::EcdsaP256).unwrap();
            let csr = request::write(&key, &identity("web")).unwrap();
            let body: String = csr.lines().filter(|line| !line.starts_with('-')).collect();
            (base64::engine::general_purpose::STANDARD.decode(body).unwrap(), key.public())
        });
        let (mut der, key) = REQUEST.clone();
        for (at, byte) in changes {
            let at = at % der.len();
            der[at] = byte;
        }
        if let Ok(request) = SigningRequest::read(&certificate::block("CERTIFICATE REQUEST", &der)) {
            use rcgen::PublicKeyData as _;
            proptest::prop_assert_eq!(request.public_key.subject_public_key_info(), key);
            proptest::prop_assert_eq!(request.identity(&identity("web"), &domain().into()).unwrap(), identity("web"));
        }
    }

    /// Nor does anything else that is sent in its place do harm.
    #[test]
    fn no_text_is_more_than_a_refused_request(text in ".{0,200}", body in "[A-Za-z0-9+/=]{0,400}") {
        let _ = SigningRequest::read(&text);
        let framed = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        proptest::prop_assert!(SigningRequest::read(&framed).is_err());
        let _ = certificate::read_pem(&framed.replace(" REQUEST", ""));
        let _ = certificate::revocations(&framed.replace("CERTIFICATE REQUEST", "X509 CRL"));
    }
}
