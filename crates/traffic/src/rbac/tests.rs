use super::*;
use crate::matcher::{HeaderCheck, StringPattern};
use crate::tls::{Certificate, TlsVersion};

pub(crate) fn peer() -> Peer<'static> {
    Peer {
        source: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 2].into(),
        remote: [10, 0, 0, 3].into(),
        local: ([10, 0, 0, 4], 8080).into(),
        server_name: Some("a.test"),
        tls: None,
    }
}

fn holds(condition: &Condition, request: Option<&RequestHead>) -> bool {
    condition.holds(&Facts { peer: peer(), request, metadata: &Metadata::default() })
}

fn request(path: &str) -> RequestHead {
    RequestHead { method: "GET".into(), path: path.into(), authority: "a".into(), ..RequestHead::default() }
}

fn range(last: u8) -> Cidr {
    Cidr::new([10, 0, 0, last].into(), 32).unwrap()
}

#[test]
fn each_condition_looks_at_its_fact() {
    let get = request("/a/b?c=/d");
    let yes = [
        Condition::Any,
        Condition::Source(range(1)),
        Condition::Direct(range(2)),
        Condition::Remote(range(3)),
        Condition::Destination(range(4)),
        Condition::DestinationPorts(8080, 8081),
        Condition::ServerName(StringMatcher::exact("a.test")),
        Condition::Path(StringMatcher::exact("/a/b")),
        Condition::PathTemplate(path_template("/*/b").unwrap()),
        Condition::Not(Box::new(Condition::Authenticated(None))),
        Condition::All(Box::new([Condition::Any, Condition::Source(range(1))])),
        Condition::OneOf(Box::new([Condition::Source(range(9)), Condition::Any])),
    ];
    for condition in &yes {
        assert!(holds(condition, Some(&get)), "{condition:?}");
    }
    let no = [
        Condition::Source(range(2)),
        Condition::Direct(range(1)),
        Condition::DestinationPorts(8081, 9000),
        Condition::DestinationPorts(80, 8080),
        Condition::Path(StringMatcher::exact("/a/b?c=/d")),
        Condition::All(Box::new([Condition::Any, Condition::Source(range(9))])),
    ];
    for condition in &no {
        assert!(!holds(condition, Some(&get)), "{condition:?}");
    }
}

#[test]
fn connections_of_bytes_have_no_header_and_no_path() {
    let header = |check, missing_as_empty| {
        Condition::Header(HeaderMatcher { name: ":method".into(), check, invert: false, missing_as_empty })
    };
    let anything = StringMatcher { pattern: StringPattern::Prefix(String::new()), ignore_case: false };
    assert!(!holds(&Condition::Path(anything.clone()), None));
    assert!(!holds(&Condition::PathTemplate(path_template("/**").unwrap()), None));
    assert!(!holds(&header(HeaderCheck::Present(true), false), None));
    assert!(holds(&header(HeaderCheck::Present(false), false), None));
    assert!(!holds(&header(HeaderCheck::Value(anything.clone()), false), None));
    assert!(holds(&header(HeaderCheck::Value(anything), true), None));
}

#[test]
fn each_name_of_a_certificate_counts() {
    let certificate = Certificate {
        uri_names: vec!["spiffe://td/ns/n/sa/s".into()],
        dns_names: vec!["s.n".into()],
        ip_names: vec![],
        email_names: vec![],
        subject: "CN=s".into(),
        issuer: String::new(),
        serial: String::new(),
        fingerprint: String::new(),
        not_before: std::time::UNIX_EPOCH,
        not_after: std::time::UNIX_EPOCH,
        chain: vec![],
    };
    let mut tls = TlsConnection {
        version: TlsVersion::Tls13,
        peer: Some(Arc::new(certificate)),
        peer_validated: true,
        ..TlsConnection::default()
    };
    let metadata = Metadata::default();
    let is = |tls: &TlsConnection, name: Option<&str>| {
        let facts = Facts { peer: Peer { tls: Some(tls), ..peer() }, request: None, metadata: &metadata };
        Condition::Authenticated(name.map(StringMatcher::exact)).holds(&facts)
    };
    for name in ["spiffe://td/ns/n/sa/s", "s.n", "CN=s"] {
        assert!(is(&tls, Some(name)), "{name}");
    }
    assert!(is(&tls, None) && !is(&tls, Some("spiffe://td/ns/n/sa/t")));
    tls.peer = None;
    assert!(is(&tls, None), "TLS is enough where no name is asked for");
    assert!(!is(&tls, Some("CN=s")));
}

fn policy(name: &str, path: &str) -> Policy {
    Policy {
        name: name.into(),
        permissions: Box::new([Condition::Path(StringMatcher::exact(path))]),
        principals: Box::new([Condition::Any]),
    }
}

#[test]
fn the_first_policy_by_name_is_named() {
    let rules = |action| Rules::new(action, vec![policy("b", "/x"), policy("a b", "/x"), policy("c", "/y")]);
    let decide = |action, path: &str| {
        let decision = rules(action).decide(&Facts {
            peer: peer(),
            request: Some(&request(path)),
            metadata: &Metadata::default(),
        });
        (decision.allowed, decision.policy.as_deref().map(str::to_owned), decision.details())
    };
    let details = |name: &str| format!("rbac_access_denied_matched_policy[{name}]");
    assert_eq!(decide(Action::Allow, "/x"), (true, Some("a b".into()), details("a_b")));
    assert_eq!(decide(Action::Allow, "/z"), (false, None, details("none")));
    assert_eq!(decide(Action::Deny, "/y"), (false, Some("c".into()), details("c")));
    assert!(decide(Action::Deny, "/z").0);
    assert_eq!(decide(Action::Log, "/y"), (true, Some("c".into()), details("c")));
}

#[test]
fn what_is_only_tried_is_told() {
    let tried = Rules::new(Action::Deny, vec![policy("p", "/x")]);
    let rbac = Rbac::new("f", Some(Rules::new(Action::Log, vec![policy("q", "/x")])), Some(tried), ("", "dry_"));
    let mut metadata = Metadata::default();
    let verdict = rbac.decide(peer(), Some(&request("/x")), &mut metadata);
    assert_eq!(verdict.denial(), None);
    assert!(!verdict.shadow.unwrap().allowed);
    let text = |key: &str| metadata.get("f", &[key]).and_then(Value::as_text).map(str::to_owned);
    assert_eq!(text("dry_shadow_effective_policy_id").as_deref(), Some("p"));
    assert_eq!(text("dry_shadow_engine_result").as_deref(), Some("denied"));
    assert_eq!(text("enforced_effective_policy_id").as_deref(), Some("q"));
    assert_eq!(text("enforced_engine_result").as_deref(), Some("allowed"));
    assert_eq!(metadata.get("envoy.common", &["access_log_hint"]), Some(&Value::Bool(true)));
}

#[test]
fn templates_match_segments() {
    for (template, yes, no) in [
        (
            "/foo/*/baz",
            &["/foo/b.r/baz", "/foo/%2F/baz", "/foo/*/baz", "/foo/a=b/baz"][..],
            &["/foo/baz", "/foo/a/b/baz", "/foo//baz"][..],
        ),
        ("/foo/**", &["/foo/", "/foo/a/b", "/foo/a=b"], &["/foo", "/fooo/"]),
        ("/**/x", &["/a/b/x", "//x"], &["/x", "/a/y"]),
        ("/{a}/{b=*/c}", &["/1/2/c"], &["/1/2/d", "/1/c"]),
        ("/*.txt", &["/a.txt", "/a.b.txt"], &["/atxt", "/.txt/a"]),
        ("/a/", &["/a/"], &["/a"]),
        ("/v{x}/b", &["/v1/b"], &["/v/b", "/w1/b"]),
        ("/{x}.json/{y=**}", &["/a.json/", "/a.json/b/c"], &["/.json/b", "/a.jsonb/"]),
        ("/a*b", &["/a*b"], &["/axb"]),
        ("/a.b", &["/a.b"], &["/aXb"]),
    ] {
        let pattern = path_template(template).unwrap();
        for path in yes {
            assert!(pattern.is_match(path), "{template} {path}");
        }
        for path in no {
            assert!(!pattern.is_match(path), "{template} {path}");
        }
    }
}

#[test]
fn bad_templates_are_refused() {
    use TemplateError::*;
    for (template, error) in [
        ("a", NoPath),
        ("/a b", NoPath),
        ("/\u{e9}", NoPath),
        ("/a//b", Segment(String::new())),
        ("/a|b", Segment("a|b".into())),
        ("/*.mpd/b", Segment(".mpd/b".into())),
        ("/{x}{y}", Segment("{y}".into())),
        ("/{a", Variable("{a".into())),
        ("/{1}", Variable("{1}".into())),
        ("/{a=}", Variable("{a=}".into())),
        ("/v{x=a/*}", Variable("v{x=a/*}".into())),
        ("/{a}/{a}", Variables),
        ("/{a}/{b}/{c}/{d}/{e}/{f}", Variables),
        ("/**/*", AfterAnyNumber),
        ("/**/{a}", AfterAnyNumber),
    ] {
        assert_eq!(path_template(template).unwrap_err(), error, "{template}");
    }
}

proptest::proptest! {
    #[test]
    fn templates_never_panic(template in "/[a-z*{}=/.%\\[\\](|]{0,24}") {
        let _ = path_template(&template);
    }
}
