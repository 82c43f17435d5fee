use std::path::PathBuf;
use std::sync::Mutex;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What an issuer of the tests answers, by path; what it was asked.
#[derive(Clone, Default)]
struct Issuers {
    answers: Arc<Mutex<BTreeMap<String, String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuers {
    fn answers(&self, path: &str, status: &str, head: &str, body: &str) {
        let text = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{head}\r\n{body}", body.len());
        self.answers.lock().unwrap().insert(path.to_owned(), text);
    }

    async fn serve(&self, mut stream: impl Stream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        self.asked.lock().unwrap().push(format!("{host}{path}"));
        let answer = self.answers.lock().unwrap().get(&path).cloned();
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap_or_default(),
            // An issuer that never answers.
            None => std::future::pending().await,
        }
        let _ = stream.shutdown().await;
    }

    async fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let issuers = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let issuers = issuers.clone();
                tokio::spawn(async move { issuers.serve(stream).await });
            }
        });
        port
    }
}

/// Every host is this port here.
fn fetcher(port: u16, roots: Option<PathBuf>) -> Fetcher {
    let dial: Dialer = Arc::new(move |_, _| {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(("127.0.0.1", port)).await?) as Box<dyn Stream>) })
    });
    let check = |text: &str| if text.contains("kty") { Ok(()) } else { Err("has no key".to_owned()) };
    Fetcher { dial, roots, check }
}

fn address(text: &str) -> Source {
    Source::Address(text.into())
}

#[tokio::test]
async fn keys_are_read_where_they_are_said_to_be() {
    let issuers = Issuers::default();
    let fetcher = fetcher(issuers.listen().await, None);
    issuers.answers("/keys?v=1", "200", "", r#"{"keys": [{"kty": "b"}, {"kty": "a"}], "other": 1}"#);
    let got = fetcher.fetch(&address("http://keys.test:81/keys?v=1"), PATIENCE).await.unwrap();
    assert_eq!(&*got, r#"{"keys":[{"kty":"a"},{"kty":"b"}]}"#);

    issuers.answers("/realm/.well-known/openid-configuration", "200", "", r#"{"jwks_uri": "http://keys.test/moved"}"#);
    issuers.answers("/moved", "302", "location: there\r\n", "");
    issuers.answers("/there", "200", "", r#"{"keys": [{"kty": "c"}]}"#);
    let got = fetcher.fetch(&Source::Issuer("http://issuer.test/realm/".into()), PATIENCE).await.unwrap();
    assert_eq!(&*got, r#"{"keys":[{"kty":"c"}]}"#);
    let asked = issuers.asked.lock().unwrap().clone();
    let expected = [
        "keys.test:81/keys?v=1",
        "issuer.test/realm/.well-known/openid-configuration",
        "keys.test/moved",
        "keys.test/there",
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn what_is_no_key_set_or_no_answer_is_a_failure() {
    let issuers = Issuers::default();
    let fetcher = fetcher(issuers.listen().await, None);
    issuers.answers("/error", "503", "", r#"{"keys": [{"kty": "a"}]}"#);
    issuers.answers("/text", "200", "", "<html>");
    issuers.answers("/empty", "200", "", r#"{"keys": []}"#);
    issuers.answers("/long", "200", "", &format!(r#"{{"keys": [{{"kty": "{}"}}]}}"#, "a".repeat(1 << 20)));
    issuers.answers("/loop", "301", "location: /loop\r\n", "");
    issuers.answers("/.well-known/openid-configuration", "200", "", r#"{"jwks_uri": ""}"#);
    let failure = async |source: Source, patience| fetcher.fetch(&source, patience).await.unwrap_err().to_string();
    for (path, why) in [
        ("error", "the answer's status is 503 Service Unavailable"),
        ("text", "the answer is no JSON Web Key Set"),
        ("empty", "the answer has no key"),
        ("long", "the answer is longer than 1048576 bytes"),
        ("loop", "more than 10 redirections"),
    ] {
        assert_eq!(failure(address(&format!("http://a.test/{path}")), PATIENCE).await, why);
    }
    let described = failure(Source::Issuer("http://a.test".into()), PATIENCE).await;
    assert_eq!(described, "the issuer's description names no jwks_uri");
    let late = failure(address("http://a.test/silent"), Duration::from_millis(50)).await;
    assert_eq!(late, "nothing came within 50ms");
    for wrong in ["ftp://a", "a.test", "http://u@a.test/"] {
        assert_eq!(failure(address(wrong), PATIENCE).await, format!("{wrong:?} is no address of HTTP"));
    }
}

fn certified(of: &str, signed_by: Option<(&Certificate, &KeyPair)>) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![of.to_owned()]).unwrap();
    let certificate = match signed_by {
        Some((issuer, issuer_key)) => {
            params.signed_by(&key, &Issuer::from_ca_cert_der(issuer.der(), issuer_key).unwrap()).unwrap()
        }
        None => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.self_signed(&key).unwrap()
        }
    };
    (certificate, key)
}

#[tokio::test]
async fn over_tls_the_issuer_has_to_prove_its_name() {
    let (root, root_key) = certified("root", None);
    let (leaf, leaf_key) = certified("issuer.test", Some((&root, &root_key)));
    let config = rustls::ServerConfig::builder_with_provider(crate::certificate::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], leaf_key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let issuers = Issuers::default();
    issuers.answers("/keys", "200", "", r#"{"keys": [{"kty": "a"}]}"#);
    issuers.answers("/down", "307", "location: http://issuer.test/keys\r\n", "");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = issuers.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                serving.serve(stream).await;
            }
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roots.pem");
    std::fs::write(&path, root.pem()).unwrap();
    let trusting = fetcher(port, Some(path));
    let good = trusting.fetch(&address("https://issuer.test/keys"), PATIENCE).await.unwrap();
    assert_eq!(&*good, r#"{"keys":[{"kty":"a"}]}"#);
    let down = trusting.fetch(&address("https://issuer.test/down"), PATIENCE).await.unwrap_err();
    assert_eq!(down.to_string(), "https led to http");
    let description = "/.well-known/openid-configuration";
    let of = Source::Issuer("https://issuer.test".into());
    issuers.answers(description, "200", "", r#"{"jwks_uri": "http://issuer.test/keys"}"#);
    assert_eq!(trusting.fetch(&of, PATIENCE).await.unwrap_err().to_string(), "https led to http");
    issuers.answers(description, "200", "", r#"{"jwks_uri": "https://issuer.test/keys"}"#);
    assert_eq!(trusting.fetch(&of, PATIENCE).await.unwrap(), good);
    assert!(trusting.fetch(&address("https://other.test/keys"), PATIENCE).await.is_err());
    assert!(fetcher(port, None).fetch(&address("https://issuer.test/keys"), PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_keeper_follows_an_issuer_and_keeps_the_last_good_keys() {
    let issuers = Issuers::default();
    issuers.answers("/keys", "500", "", "");
    let keeper = Keeper::start(fetcher(issuers.listen().await, None), Duration::from_millis(20));
    let mut known = keeper.known();
    let source = address("http://issuer.test/keys");
    keeper.want([(source.clone(), PATIENCE)].into());
    assert_eq!(known.wait_for(|known| known.asked.contains(&source)).await.unwrap().keys.len(), 0);
    let mut has = async |kid: &str| {
        let whole = format!(r#"{{"keys":[{{"kid":"{kid}","kty":"a"}}]}}"#);
        known.wait_for(|known| known.keys.get(&source).is_some_and(|keys| **keys == *whole)).await.unwrap();
    };
    for kid in ["one", "two"] {
        issuers.answers("/keys", "200", "", &format!(r#"{{"keys": [{{"kty": "a", "kid": "{kid}"}}]}}"#));
        has(kid).await;
        issuers.answers("/keys", "200", "", "broken");
        let asked = issuers.asked.lock().unwrap().len();
        while issuers.asked.lock().unwrap().len() < asked + 3 {
            tokio::task::yield_now().await;
        }
        has(kid).await;
    }
    keeper.want(Wanted::new());
    known.wait_for(|known| *known == Known::default()).await.unwrap();
}
