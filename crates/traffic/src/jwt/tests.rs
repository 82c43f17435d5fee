use std::sync::OnceLock;

use super::*;

/// The tokens that Envoy is asked about too; the keys that signed them were thrown away.
fn fixture() -> &'static serde_json::Value {
    static FIXTURE: OnceLock<serde_json::Value> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        serde_json::from_str(include_str!("../../../../tests/tests/e2e/differential/tokens.json")).unwrap()
    })
}

fn token(name: &str) -> &'static str {
    fixture()["tokens"][name].as_str().unwrap_or_else(|| panic!("no token {name}"))
}

fn provider() -> Provider {
    Provider {
        issuer: "a".into(),
        audiences: vec![],
        subjects: None,
        keys: Arc::new(KeySet::parse(&fixture()["keys"].to_string()).unwrap()),
        places: Place::usual(),
        require_expiration: false,
        max_lifetime: None,
        leeway: 60,
        forward: false,
        payload_header: None,
        pad_payload: false,
        claim_headers: vec![("x-sub".into(), vec!["sub".into()])],
        payload_key: Some("payload".into()),
        split_claims: vec!["scope".into()],
        header_key: None,
        reroutes: false,
    }
}

fn filter(provider: Provider, requirement: Requirement) -> JwtAuthn {
    JwtAuthn {
        providers: vec![("p".into(), provider)],
        rules: vec![(RouteMatch::prefix("/"), Some(requirement))],
        named: vec![],
        bypass_preflight: true,
        silent: false,
        filter: "jwt".into(),
    }
}

fn ask(filter: &JwtAuthn, request: &mut RequestHead, now: u64) -> (Result<(), String>, Metadata) {
    let mut metadata = Metadata::default();
    let outcome = match filter.check(request, None, now, &mut metadata, &mut || 0) {
        Outcome::Passes { .. } | Outcome::Preflight => Ok(()),
        Outcome::Refused(reply, _) => Err(format!("{} {}", reply.status, reply.body)),
    };
    (outcome, metadata)
}

fn with(token: &str) -> RequestHead {
    let mut request = RequestHead { method: "GET".into(), path: "/a".into(), ..RequestHead::default() };
    request.headers.append("authorization", format!("Bearer {token}"));
    request.headers.append("x-sub", "forged");
    request
}

const NOW: u64 = 2_000_000_000;

fn alone() -> JwtAuthn {
    filter(provider(), Requirement::Provider(0, None))
}

#[test]
fn every_algorithm_is_verified() {
    for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "no kid"] {
        let mut request = with(token(name));
        let (outcome, metadata) = ask(&alone(), &mut request, NOW);
        assert_eq!(outcome, Ok(()), "{name}");
        assert!(!request.headers.contains("authorization"), "{name}");
        assert_eq!(request.headers.get_all("x-sub").collect::<Vec<_>>(), [b"me"], "{name}");
        assert_eq!(metadata.get("jwt", &["payload", "sub"]).and_then(Value::as_text), Some("me"));
        assert!(matches!(metadata.get("jwt", &["payload", "scope"]), Some(Value::List(words)) if words.len() == 2));
    }
}

#[test]
fn what_is_not_signed_by_a_key_of_its_kind_is_refused() {
    for (name, said) in [
        ("another's signature", "401 Jwt verification fails"),
        ("payload of another", "401 Jwt verification fails"),
        ("public key as secret", "401 Jwt verification fails"),
        ("alg swapped", "401 Jwt verification fails"),
        ("signature cut", "401 Jwt verification fails"),
        ("alg none, signed", "401 Jwt header [alg] is not supported"),
        ("unknown kid", "401 Jwks doesn't have key to match kid or alg from Jwt"),
        ("alg of another kind", "401 Jwt verification fails"),
        ("issuer b", "401 Jwt issuer is not configured"),
        ("expired", "401 Jwt is expired"),
        ("not yet", "401 Jwt not yet valid"),
        ("exp a text", "401 Jwt payload [exp] field is not an integer"),
    ] {
        let mut request = with(token(name));
        assert_eq!(ask(&alone(), &mut request, NOW).0, Err(said.to_owned()), "{name}");
        assert!(!request.headers.contains("x-sub"), "{name}: a claim nobody vouched for");
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    // A set with a secret of its own does not make the other keys secrets.
    let set = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "oct", "alg": "RS256", "k": "c2VjcmV0"}]}"#;
    let keys = KeySet::parse(set).unwrap();
    let provider = Provider { keys: Arc::new(keys), ..provider() };
    let filter = filter(provider, Requirement::Provider(0, None));
    assert_eq!(ask(&filter, &mut with(token("RS256")), NOW).0, Err("401 Jwt verification fails".into()));
}

#[test]
fn clocks_may_differ_a_little() {
    let end = 1_000_000_000;
    assert_eq!(ask(&alone(), &mut with(token("expired")), end + 60).0, Ok(()));
    assert_eq!(ask(&alone(), &mut with(token("expired")), end + 61).0, Err("401 Jwt is expired".into()));
    let begin = 4_102_444_000;
    assert_eq!(ask(&alone(), &mut with(token("not yet")), begin - 60).0, Ok(()));
    assert_eq!(ask(&alone(), &mut with(token("not yet")), begin - 61).0, Err("401 Jwt not yet valid".into()));
}

#[test]
fn no_token_passes_only_where_it_may() {
    let optional =
        filter(provider(), Requirement::Any(vec![Requirement::Provider(0, None), Requirement::AllowMissing(vec![0])]));
    let mut nothing = RequestHead { method: "GET".into(), path: "/a".into(), ..RequestHead::default() };
    assert_eq!(ask(&alone(), &mut nothing.clone(), NOW).0, Err("401 Jwt is missing".into()));
    assert_eq!(ask(&optional, &mut nothing, NOW).0, Ok(()));
    assert_eq!(ask(&optional, &mut with(token("expired")), NOW).0, Err("401 Jwt is expired".into()));
    let forgiving = filter(provider(), Requirement::AllowFailed(vec![0]));
    assert_eq!(ask(&forgiving, &mut with(token("expired")), NOW).0, Ok(()));
}

#[test]
fn tokens_go_from_the_query_and_the_rest_stays() {
    let mut request =
        RequestHead { path: format!("/a?b=1&access_token={}&c=%20", token("RS256")), ..Default::default() };
    assert_eq!(ask(&alone(), &mut request, NOW).0, Ok(()));
    assert_eq!(request.path, "/a?b=1&c=%20");
}

#[test]
fn what_is_no_key_set_is_told() {
    for (text, said) in [
        ("nonsense", KeySetError::NotASet),
        ("{}", KeySetError::NotASet),
        (r#"{"keys": []}"#, KeySetError::NoKeys),
        (
            r#"{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "AA"}, 5]}"#,
            KeySetError::NoKeys,
        ),
        (r#"{"keys": [{"kty": "RSA", "alg": "ES256", "n": "AQAB", "e": "AQAB"}]}"#, KeySetError::NoKeys),
    ] {
        assert_eq!(KeySet::parse(text).unwrap_err(), said, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_breaks_on_what_is_no_token(text in "[A-Za-z0-9._={}\":,-]{0,60}") {
        let _ = Token::parse(&text);
        let _ = KeySet::parse(&text);
        let mut request = with(&text);
        proptest::prop_assert!(ask(&alone(), &mut request, NOW).0.is_err());
    }
}
