use super::*;

fn parse(bytes: &[u8]) -> Result<Option<(RequestHead, Wire)>, BadRequest> {
    let (limits, http1) = (RequestLimits::default(), Http1Settings::default());
    let mut head = RequestHead::default();
    let wire = parse_request(bytes, RequestRules { limits: &limits, http1: &http1, https: false }, &mut head)?;
    Ok(wire.map(|wire| (head, wire)))
}

fn good(text: &str) -> (RequestHead, Wire) {
    parse(text.as_bytes()).unwrap().unwrap()
}

fn bad(text: &str) -> BadRequest {
    match parse(text.as_bytes()) {
        Err(bad) => bad,
        other => panic!("{text:?} is taken as {other:?}"),
    }
}

#[test]
fn a_head_is_taken_apart() {
    let (head, wire) = good("POST /a?b HTTP/1.1\r\nHost: A.test:80\r\nX-Y: z\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!((head.method.as_str(), head.path.as_str(), head.authority.as_str()), ("POST", "/a?b", "A.test:80"));
    assert_eq!(head.headers.get("x-y"), Some(&b"z"[..]));
    assert!(!head.headers.contains("host"));
    assert_eq!((wire.framing, wire.keep_alive), (Framing::Length(4), true));
    assert!(!good("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").1.keep_alive);
    assert_eq!(good("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n").1.framing, Framing::Chunked);
    assert!(good("PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n").1.expects_continue);
    assert_eq!(
        good("GET / HTTP/1.1\r\nhost: a\r\nconnection: x, Upgrade\r\nupgrade: WebSocket\r\n\r\n").0.upgrade,
        "websocket"
    );
}

#[test]
fn targets_have_four_forms() {
    assert_eq!(good("GET http://b.test/x?y HTTP/1.1\r\nhost: a\r\n\r\n").0.authority, "b.test");
    assert_eq!(good("GET http://b.test HTTP/1.1\r\nhost: a\r\n\r\n").0.path, "/");
    assert_eq!(good("GET http://b.test?q HTTP/1.1\r\nhost: a\r\n\r\n").0.path, "?q");
    assert_eq!(good("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").0.path, "*");
    let connect = good("CONNECT c:443 HTTP/1.1\r\nhost: a\r\n\r\n").0;
    assert_eq!((connect.path.as_str(), connect.authority.as_str()), ("", "c:443"));
    assert_eq!(bad("GET ftp://b/ HTTP/1.1\r\nhost: a\r\n\r\n"), BadRequest::InvalidScheme);
    assert_eq!(bad("GET * HTTP/1.1\r\nhost: a\r\n\r\n"), BadRequest::InvalidUrl);
    assert_eq!(bad("GET foo HTTP/1.1\r\nhost: a\r\n\r\n"), BadRequest::Codec);
    assert_eq!(bad("CONNECT /x HTTP/1.1\r\nhost: a\r\n\r\n"), BadRequest::Codec);
}

#[test]
fn the_host_of_a_url_is_not_its_user() {
    let of = |authority: &str| good(&format!("GET http://{authority}/ HTTP/1.1\r\nhost: a\r\n\r\n")).0.authority;
    assert_eq!(of("b.test@c.test:81"), "c.test:81");
    assert_eq!(of("b.test:secret@c.test"), "c.test");
    assert_eq!(of("[::1]:81"), "[::1]:81");
    assert_eq!(of("[::1]"), "[::1]");
    assert_eq!(good("CONNECT b.test@c.test:443 HTTP/1.1\r\nhost: a\r\n\r\n").0.authority, "c.test:443");
    for nobody in ["", "b@", "b@c@d", ":80", "b.test:c.test", "b.test:99999", "b@:80"] {
        let line = format!("GET http://{nobody}/ HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(bad(&line), BadRequest::InvalidUrl, "{nobody}");
    }
    assert_eq!(bad("GET http://b\\@c/ HTTP/1.1\r\nhost: a\r\n\r\n"), BadRequest::Codec);
}

#[test]
fn https_is_asked_for_over_tls() {
    let request = "GET https://b.test/ HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(bad(request), BadRequest::HttpsInClear);
    let mut head = RequestHead::default();
    let rules = RequestRules { limits: &RequestLimits::default(), http1: &Http1Settings::default(), https: true };
    assert!(parse_request(request.as_bytes(), rules, &mut head).is_ok());
}

#[test]
fn what_two_parties_could_read_in_two_ways_is_refused() {
    let with = |fields: &str| bad(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
    assert_eq!(with("content-length: 3\r\ntransfer-encoding: chunked\r\n"), BadRequest::LengthAndChunked);
    assert_eq!(with("content-length: 3\r\ntransfer-encoding: identity\r\n"), BadRequest::LengthAndChunked);
    for length in ["3, 3", "+3", "-1", "0x3", "", "99999999999999999999"] {
        assert_eq!(with(&format!("content-length: {length}\r\n")), BadRequest::Codec, "{length}");
    }
    assert_eq!(with("content-length: 3\r\ncontent-length: 3\r\n"), BadRequest::Codec);
    for coding in ["gzip", "chunked, chunked", "gzip, chunked", "xchunked", "chunked;x"] {
        assert_eq!(with(&format!("transfer-encoding: {coding}\r\n")), BadRequest::TransferEncoding, "{coding}");
    }
    assert_eq!(with("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"), BadRequest::TransferEncoding);
    assert_eq!(with("host: b\r\n"), BadRequest::Codec);
    assert_eq!(with("x : y\r\n"), BadRequest::Codec);
    assert_eq!(with("x: y\r\n folded\r\n"), BadRequest::Codec);
    assert_eq!(with("x: a\rb\r\n"), BadRequest::InvalidCharacters);
    assert_eq!(with("x: a\0b\r\n"), BadRequest::InvalidCharacters);
    assert_eq!(with("connection: x-forwarded-for\r\n"), BadRequest::Connection);
}

#[test]
fn versions_and_hosts() {
    assert_eq!(bad("GET / HTTP/1.0\r\nhost: a\r\n\r\n"), BadRequest::Version);
    assert_eq!(bad("GET / HTTP/2.0\r\nhost: a\r\n\r\n"), BadRequest::Version);
    assert_eq!(bad("PRI * HTTP/2.0\r\n\r\n"), BadRequest::Codec);
    assert_eq!(bad("GET / HTTP/1.1\r\n\r\n"), BadRequest::MissingHost);
    assert_eq!(bad("GET / HTTP/1.1\r\nhost: a b\r\n\r\n"), BadRequest::InvalidAuthority);
    let http1 = Http1Settings { accept_http_10: true, default_host: Some("d".into()), ..Default::default() };
    let mut head = RequestHead::default();
    let rules = RequestRules { limits: &RequestLimits::default(), http1: &http1, https: false };
    let wire = parse_request(b"GET / HTTP/1.0\r\n\r\n", rules, &mut head).unwrap().unwrap();
    assert_eq!((head.authority.as_str(), wire.keep_alive), ("d", false));
}

#[test]
fn limits_hold() {
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(70_000));
    assert_eq!(bad(&long), BadRequest::TooLarge);
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(101));
    assert_eq!(bad(&many), BadRequest::TooManyHeaders);
    assert_eq!(parse(b"GE").unwrap().map(|_| ()), None);
    assert_eq!(bad("FOO"), BadRequest::Codec);
    assert_eq!(bad("\x16\x03\x01"), BadRequest::Codec);
}

fn response(text: &str, method: &str) -> Result<Option<(ResponseHead, Wire)>, BadResponse> {
    let mut head = ResponseHead::default();
    Ok(parse_response(text.as_bytes(), method, &mut head)?.map(|wire| (head, wire)))
}

#[test]
fn response_bodies_end_as_the_head_says() {
    let framing = |text: &str, method: &str| response(text, method).unwrap().unwrap().1.framing;
    assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", "GET"), Framing::Length(3));
    assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", "HEAD"), Framing::None);
    assert_eq!(framing("HTTP/1.1 304 X\r\ncontent-length: 3\r\n\r\n", "GET"), Framing::None);
    assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", "GET"), Framing::UntilClose);
    assert_eq!(framing("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "GET"), Framing::Chunked);
    let no_content = response("HTTP/1.1 204 X\r\ncontent-length: 0\r\n\r\n", "GET").unwrap().unwrap().0;
    assert!(!no_content.headers.contains("content-length"));
    for broken in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        "HTTP/1.1 204 X\r\ncontent-length: 3\r\n\r\n",
        "SSH-2.0-x\r\n",
    ] {
        assert!(response(broken, "GET").is_err(), "{broken:?}");
    }
}

#[test]
fn heads_are_written_as_envoy_writes_them() {
    let mut head = ResponseHead::new(200);
    head.headers.append("x-a", "1");
    let mut out = Vec::new();
    let wire = ResponseWire { close: true, unsaid: Some(Unsaid::Empty), proper_case: true, ..Default::default() };
    write_response(&head, wire, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 200 OK\r\nX-A: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
}

proptest::proptest! {
    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(0u8..=255, 0..200)) {
        let _ = parse(&bytes);
        let mut head = ResponseHead::default();
        let _ = parse_response(&bytes, "GET", &mut head);
    }

    #[test]
    fn what_is_written_is_read_back(
        path in "/[a-z0-9/?=&%-]{0,20}",
        fields in proptest::collection::vec(("x-[a-z0-9-]{1,8}", "[ -~]{0,12}"), 0..8),
    ) {
        let mut head = RequestHead { method: "GET".into(), path, authority: "a.test".into(), ..Default::default() };
        for (name, value) in &fields {
            head.headers.append(name, value.trim());
        }
        let mut wire = Vec::new();
        write_request(&head, Framing::None, &mut wire);
        let (read, _) = parse(&wire).unwrap().unwrap();
        proptest::prop_assert_eq!(&read.path, &head.path);
        let list = |h: &Headers| h.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect::<Vec<_>>();
        proptest::prop_assert_eq!(list(&read.headers), list(&head.headers));
    }
}
