use super::ask::as_text;
use super::*;
use crate::headers::Headers;
use crate::message::{RequestHead, ResponseHead};
use crate::metadata::Value;
use crate::record::Record;

fn names(all: &[&str]) -> Names {
    Names(all.iter().map(|name| StringMatcher::exact(*name)).collect())
}

fn http() -> HttpService {
    HttpService {
        cluster: "auth".into(),
        timeout: None,
        path: AskedPath::Prefixed("".into()),
        adds: HeaderEdits::default(),
        upstream: names(&["x-user"]),
        upstream_added: names(&["x-more"]),
        client: None,
        client_on_success: names(&["set-cookie"]),
        metadata: names(&["x-told"]),
    }
}

fn filter(service: Service) -> ExtAuthz {
    ExtAuthz {
        service: Arc::new(service),
        when: When { share: Percentage { numerator: 1, denominator: 1 }, metadata: None, refuses_others: false },
        body: None,
        told: Told {
            only: Some(names(&[":authority", ":method", ":path", "authorization", "x-a"])),
            ..Told::default()
        },
        failure: OnFailure { allows: false, tells: false, status: 403 },
        taken: Taken { strictly: false, metadata: true, reroutes: false, most_body: None },
        stat_prefix: "".into(),
        counts_refusals: true,
    }
}

fn request(path: &str, fields: &[(&str, &str)]) -> RequestHead {
    RequestHead {
        method: "POST".into(),
        scheme: "http".into(),
        authority: "shop.test".into(),
        path: path.into(),
        headers: fields.iter().copied().collect(),
        ..RequestHead::default()
    }
}

fn shown(headers: &Headers) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value))).collect()
}

fn record() -> Record {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    Record::begin(std::time::SystemTime::UNIX_EPOCH, nowhere, nowhere)
}

#[test]
fn a_service_is_told_what_is_allowed_and_nothing_else() {
    let fields = [("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("content-length", "9"), ("authorization", "me")];
    let filter = filter(Service::Http(http()));
    let asked = http().ask(&filter.told, &request("/p?q=1", &fields), &record(), None, false);
    assert_eq!((asked.method.as_str(), asked.authority.as_str(), asked.path.as_str()), ("POST", "shop.test", "/p?q=1"));
    assert_eq!(shown(&asked.headers), ["content-length=0", "x-a=1,3", "authorization=me", "x-envoy-internal=true"]);
    let prefixed = HttpService { path: AskedPath::Prefixed("/check".into()), ..http() };
    assert_eq!(prefixed.ask(&filter.told, &request("/p", &[]), &record(), None, false).path, "/check/p");
    let elsewhere = HttpService { path: AskedPath::Instead("/x".into()), ..http() };
    assert_eq!(elsewhere.ask(&filter.told, &request("/p", &[]), &record(), None, false).path, "/x");
}

#[test]
fn nobody_else_says_whether_a_body_is_whole() {
    let filter = ExtAuthz { told: Told::default(), ..filter(Service::Http(http())) };
    let forged = request("/", &[("x-envoy-auth-partial-body", "false")]);
    assert!(!filter.told.fields(&forged, None).contains("x-envoy-auth-partial-body"));
    let body = Gathered { bytes: b"ab".to_vec(), partial: true };
    assert_eq!(filter.told.fields(&forged, Some(&body)).get("x-envoy-auth-partial-body"), Some(&b"true"[..]));
    let asked = http().ask(&filter.told, &forged, &record(), Some(&body), false);
    assert_eq!(asked.headers.get("content-length"), Some(&b"2"[..]));
}

#[test]
fn a_body_is_gathered_to_its_limit() {
    let part = BodySettings { most: 4, part: true, bytes: false };
    let mut gathered = Gathered::default();
    assert!(gathered.take(b"abc", part));
    assert!(!gathered.take(b"de", part));
    assert_eq!((gathered.bytes.as_slice(), gathered.partial), (&b"abcd"[..], true));
    let mut just = Gathered::default();
    assert!(!just.take(b"abcd", part), "no more is told, whatever there is");
    assert!(!just.partial);
    let whole = BodySettings { part: false, ..part };
    let mut gathered = Gathered::default();
    assert!(gathered.take(b"abcd", whole));
    assert!(!gathered.take(b"e", whole) && gathered.partial);
}

#[test]
fn what_is_no_text_is_marked() {
    assert_eq!(as_text(b"a\xff\xc3b\xc3\xa9"), "a!!b\u{e9}");
}

fn answer(status: u16, fields: &[(&str, &str)]) -> Reply {
    let head = ResponseHead { status, headers: fields.iter().copied().collect(), ..ResponseHead::default() };
    http().understand(head, b"body".to_vec())
}

fn allowed(reply: Reply) -> Allowed {
    match reply.answer {
        Answer::Allowed(allowed) => allowed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_200_allows_and_5xx_is_no_answer() {
    let fields = [("x-user", "me"), ("x-other", "1"), ("x-envoy-auth-headers-to-remove", "X-Gone, x-user ,")];
    let good = allowed(answer(200, &fields));
    assert_eq!(good.remove, ["x-gone", "x-user"]);
    assert_eq!(good.edits, [Edit { name: "x-user".into(), value: b"me".to_vec(), how: How::Set }]);
    assert!(matches!(answer(201, &fields).answer, Answer::Denied(Denied { status: 201, .. })));
    assert!(matches!(answer(302, &fields).answer, Answer::Denied(Denied { status: 302, .. })));
    assert_eq!(answer(503, &fields).answer, Answer::Failed(Failed::default()));
    let told = answer(401, &[("x-told", "why")]);
    assert_eq!(told.metadata, [("x-told".into(), Value::Text("why".into()))]);
}

#[test]
fn edits_are_carried_out() {
    let edit = |name: &str, value: &str, how| Edit { name: name.into(), value: value.into(), how };
    let allowed = Allowed {
        edits: vec![
            edit("x-a", "new", How::Set),
            edit("x-b", "2", How::Add),
            edit("x-b", "3", How::Append),
            edit("x-c", "4", How::Append),
            edit("x-d", "5", How::SetIfThere),
            edit("x-b", "6", How::AddIfAbsent),
            edit(":path", "/other", How::Set),
            edit("content-length", "1000", How::Set),
        ],
        remove: vec!["x-gone".into(), ":path".into(), "host".into(), "content-length".into()],
        ..Allowed::default()
    };
    let mut changed = request("/", &[("x-a", "old"), ("x-b", "1"), ("x-gone", "0"), ("content-length", "3")]);
    allowed.apply(&mut changed, false).unwrap();
    assert_eq!(shown(&changed.headers), ["x-b=1,3", "content-length=3", "x-a=new", "x-b=2"]);
    assert_eq!((changed.path.as_str(), changed.authority.as_str()), ("/other", "shop.test"));
}

#[test]
fn what_is_not_sound_is_not_carried_out() {
    for (name, value) in [("x-a", "1\r\nx-b: 2"), ("x a", "1"), ("", "1"), (":path", "/a b"), (":nonsense", "1")] {
        let edit = Edit { name: name.into(), value: value.into(), how: How::Set };
        let allowed = Allowed { edits: vec![edit.clone()], ..Allowed::default() };
        assert_eq!(allowed.apply(&mut request("/", &[]), false), Err(NotSound), "{name} {value:?}");
    }
    let query = Allowed { query: vec![("a".into(), "b c".into())], ..Allowed::default() };
    assert_eq!(query.apply(&mut request("/", &[]), false), Err(NotSound));
}

#[test]
fn queries_are_changed() {
    let change = |path: &str, set: &[(&str, &str)], remove: &[&str]| {
        let query = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let query_remove = remove.iter().map(|name| (*name).to_owned()).collect();
        let mut request = request(path, &[]);
        Allowed { query, query_remove, ..Allowed::default() }.apply(&mut request, true).unwrap();
        request.path
    };
    assert_eq!(change("/p?b=1&a=2&b=3", &[("c", "4")], &[]), "/p?a=2&b=1&b=3&c=4");
    assert_eq!(change("/p?b=1&a=2&b=3", &[("b", "4")], &["a"]), "/p?b=4");
    assert_eq!(change("/p?a=2", &[], &["a"]), "/p");
    assert_eq!(change("/p?&b", &[("a", "1")], &[]), "/p?=&a=1&b=");
    let strictly = Allowed { query: vec![("a".into(), "%20".into())], ..Allowed::default() };
    assert_eq!(strictly.apply(&mut request("/", &[]), true), Err(NotSound));
    assert_eq!(strictly.apply(&mut request("/", &[]), false), Ok(()));
}

#[test]
fn the_most_specific_settings_decide_and_context_is_gathered() {
    let base = Arc::new(filter(Service::Http(http())));
    let body = BodySettings { most: 1, part: false, bytes: false };
    let context = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let route = CheckSettings { context: context(&[("a", "route")]), ..CheckSettings::default() };
    let host = CheckSettings {
        context: context(&[("a", "host"), ("b", "host")]),
        body: Some(body),
        ..CheckSettings::default()
    };
    let question = Question::new(&base, Some(&route), [&route, &host].into_iter());
    assert_eq!(question.body, None, "the host's does not count where the route says anything");
    assert_eq!(question.context, [("a".into(), "route".into()), ("b".into(), "host".into())]);
    let question = Question::new(&base, Some(&host), [&host].into_iter());
    assert_eq!(question.body, Some(body));
}
