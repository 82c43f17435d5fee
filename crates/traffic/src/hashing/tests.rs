use super::*;

fn downstream() -> Downstream {
    Downstream {
        client: "10.0.0.9".parse().unwrap(),
        peer: "10.0.0.9:4000".parse().unwrap(),
        local: "10.0.0.1:80".parse().unwrap(),
    }
}

fn request(path: &str, fields: &[(&str, &str)]) -> RequestHead {
    RequestHead {
        path: path.into(),
        authority: "a.test".into(),
        headers: fields.iter().copied().collect(),
        ..Default::default()
    }
}

fn header(name: &str) -> HashPolicy {
    HashPolicy { source: HashSource::Header { name: name.into(), rewrite: None }, terminal: false }
}

fn cookie(ttl: Option<u64>) -> HashPolicy {
    let cookie = HashCookie { name: "user".into(), path: "/p".into(), ttl, attributes: Vec::new() };
    HashPolicy { source: HashSource::Cookie(Arc::new(cookie)), terminal: false }
}

fn of(policies: &[HashPolicy], request: &RequestHead) -> Option<u64> {
    hash(policies, request, &downstream(), &mut NewCookies::default())
}

#[test]
fn headers_are_hashed_value_by_value_in_alphabetical_order() {
    assert_eq!(of(&[header("x")], &request("/", &[("x", "a")])), Some(xxhash(b"a", 0)));
    let both = Some(xxhash(b"b", xxhash(b"a", 0)));
    assert_eq!(of(&[header("x")], &request("/", &[("x", "a"), ("x", "b")])), both);
    assert_eq!(of(&[header("x")], &request("/", &[("x", "b"), ("x", "a")])), both);
    assert_eq!(of(&[header("x")], &request("/", &[])), None);
    assert_eq!(of(&[header(":authority")], &request("/", &[])), Some(xxhash(b"a.test", 0)));
}

#[test]
fn a_header_may_be_rewritten_first() {
    let rewrite = Some((Regex::new("-.*").unwrap(), "!".to_owned()));
    let policy = HashPolicy { source: HashSource::Header { name: "x".into(), rewrite }, terminal: false };
    assert_eq!(of(&[policy], &request("/", &[("x", "a-1")])), Some(xxhash(b"a!", 0)));
}

#[test]
fn several_policies_are_combined_until_a_terminal_one() {
    let request = request("/", &[("x", "a"), ("y", "b")]);
    let (a, b) = (xxhash(b"a", 0), xxhash(b"b", 0));
    assert_eq!(of(&[header("x"), header("y")], &request), Some(a.rotate_left(1) ^ b));
    assert_eq!(of(&[header("x"), header("none")], &request), Some(a));
    let terminal = |name| HashPolicy { terminal: true, ..header(name) };
    assert_eq!(of(&[terminal("x"), header("y")], &request), Some(a));
    assert_eq!(of(&[terminal("none"), header("y")], &request), Some(b));
}

#[test]
fn addresses_and_queries() {
    let source = |source| HashPolicy { source, terminal: false };
    assert_eq!(of(&[source(HashSource::SourceIp)], &request("/", &[])), Some(xxhash(b"10.0.0.9", 0)));
    let query = source(HashSource::Query("k".into()));
    assert_eq!(of(std::slice::from_ref(&query), &request("/?a=1&k=v%20&k=w", &[])), Some(xxhash(b"v%20", 0)));
    assert_eq!(of(std::slice::from_ref(&query), &request("/?k", &[])), Some(xxhash(b"", 0)));
    assert_eq!(of(&[query], &request("/?K=v", &[])), None);
}

#[test]
fn cookies_are_read_without_quotes() {
    for (sent, value) in [("a=1; user=x", "x"), ("user=\"x\"", "x"), ("user=x; user=y", "x"), ("users=1;user=x", "x")] {
        assert_eq!(
            of(&[cookie(None)], &request("/", &[("cookie", sent)])),
            Some(xxhash(value.as_bytes(), 0)),
            "{sent}"
        );
    }
    assert_eq!(of(&[cookie(None)], &request("/", &[("cookie", "user=")])), None);
}

#[test]
fn a_cookie_is_made_once_a_request_and_the_same_for_a_connection() {
    let mut cookies = NewCookies::default();
    let first = hash(&[cookie(Some(60))], &request("/", &[]), &downstream(), &mut cookies);
    let again = hash(&[cookie(Some(60))], &request("/", &[]), &downstream(), &mut cookies);
    assert_eq!(first, again);
    let made: Vec<&str> = cookies.iter().collect();
    let value = format!("{:016x}", xxhash(b"10.0.0.9:400010.0.0.1:80", 0));
    assert_eq!(made, [format!("user=\"{value}\"; Max-Age=60; Path=/p; HttpOnly")]);
    // The client that sends it back is the same.
    let back = request("/", &[("cookie", &format!("user=\"{value}\""))]);
    assert_eq!(of(&[cookie(Some(60))], &back), first);
    assert_eq!(of(&[cookie(None)], &request("/", &[])), None);
}

#[test]
fn attributes_stand_before_http_only() {
    let cookie = HashCookie {
        name: "s".into(),
        path: String::new(),
        ttl: Some(0),
        attributes: vec![("SameSite".into(), "Strict".into()), ("Secure".into(), String::new())],
    };
    assert_eq!(set_cookie(&cookie, "1f", 0), "s=\"1f\"; SameSite=Strict; Secure; HttpOnly");
}
