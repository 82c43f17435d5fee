use super::*;

const RULES: Rules = Rules { max_bytes: 1000, max_fields: 4, underscores: Underscores::Allow, extended_connect: false };
const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "a.test:80")];

fn block(fields: &[(&str, &str)]) -> BytesMut {
    let (mut encoder, mut out) = (Encoder::new(), BytesMut::new());
    encoder.begin(&mut out);
    fields.iter().for_each(|(n, v)| encoder.field(n.as_bytes(), v.as_bytes(), Say::Once, &mut out));
    out
}

fn read(fields: &[(&str, &str)], rules: &Rules) -> Result<(RequestHead, Option<u64>), Wrong> {
    let mut head = RequestHead::default();
    let read = read_request(&mut Decoder::new(4096), &block(fields), rules, &mut head).unwrap();
    read.map(|length| (head, length))
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GET, more].concat()
}

fn wrong(fields: &[(&str, &str)]) -> Option<Wrong> {
    read(fields, &RULES).err()
}

#[test]
fn a_request_is_read_as_it_was_written() {
    let mut sent = RequestHead {
        method: "POST".into(),
        scheme: "https".into(),
        authority: "a.test".into(),
        path: "/<x>".into(),
        ..RequestHead::default()
    };
    for (name, value) in [("a", "1"), ("connection", "x"), ("content-length", "7"), ("authorization", "secret")] {
        sent.headers.append(name, value);
    }
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    for _ in 0..2 {
        let (mut out, mut head) = (BytesMut::new(), RequestHead::default());
        write_request(&sent, &mut encoder, &mut out);
        assert_eq!(read_request(&mut decoder, &out, &RULES, &mut head), Ok(Ok(Some(7))));
        assert_eq!((&head.method, &head.scheme, &head.authority), (&sent.method, &sent.scheme, &sent.authority));
        assert_eq!(head.path, sent.path);
        assert_eq!(
            format!("{:?}", head.headers),
            r#"[("a", "1"), ("content-length", "7"), ("authorization", "secret")]"#
        );
    }
}

#[test]
fn a_response_is_read_as_it_was_written() {
    let headers: Headers = [("server", "x"), ("keep-alive", "1")].into_iter().collect();
    let (mut out, mut head) = (BytesMut::new(), ResponseHead::default());
    write_response(404, &headers, &mut Encoder::new(), &mut out);
    assert_eq!(read_response(&mut Decoder::new(4096), &out, &RULES, &mut head), Ok(Ok(None)));
    assert_eq!((head.status, format!("{:?}", head.headers).as_str()), (404, r#"[("server", "x")]"#));
    for status in ["", "20", "2x0", "2000", "099"] {
        let block = block(&[(":status", status)]);
        let read = read_response(&mut Decoder::new(4096), &block, &RULES, &mut ResponseHead::default());
        assert_eq!(read, Ok(Err(Wrong::Field)), "{status}");
    }
}

#[test]
fn cookies_are_one_again_and_blanks_are_not_of_values() {
    let (head, length) = read(&with(&[("cookie", "a=1"), ("b", " x\t"), ("cookie", "b=2")]), &RULES).unwrap();
    assert_eq!(format!("{:?}", head.headers), r#"[("b", "x"), ("cookie", "a=1; b=2")]"#);
    assert_eq!(length, None);
}

#[test]
fn what_breaks_a_rule_is_told() {
    let without = |name| GET.into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    for name in [":method", ":scheme", ":path", ":authority"] {
        assert_eq!(wrong(&without(name)), Some(Wrong::Message), "{name}");
    }
    assert_eq!(read(&[&without(":authority")[..], &[("host", "h")]].concat(), &RULES).unwrap().0.authority, "h");
    let not_there: [&[(&str, &str)]; 12] = [
        &[(":path", "/")],
        &[(":status", "200")],
        &[(":protocol", "websocket")],
        &[("a", "b"), (":extra", "x")],
        &[("connection", "close")],
        &[("te", "gzip")],
        &[("upgrade", "x")],
        &[("host", "a"), ("host", "a")],
        &[("content-length", "1"), ("content-length", "1")],
        &[("content-length", "+1")],
        &[("content-length", "")],
        &[("content-length", "99999999999999999999")],
    ];
    for more in not_there {
        assert_eq!(wrong(&[&GET, more].concat()), Some(Wrong::Field), "{more:?}");
    }
    for more in [("A", "b"), ("a b", "c"), ("", "x"), ("a", "x\ny"), ("a", "\0"), ("a", "\u{7f}")] {
        assert_eq!(wrong(&with(&[more])), Some(Wrong::Field), "{more:?}");
    }
    let field = [(0, "G T"), (1, ""), (2, "/ "), (2, "")].map(|(at, value)| (at, value, Wrong::Field));
    let message = [(2, "a"), (3, "u@a.test"), (3, "a/b")].map(|(at, value)| (at, value, Wrong::Message));
    for (at, value, told) in field.into_iter().chain(message) {
        let mut fields = GET;
        fields[at].1 = value;
        assert_eq!(wrong(&fields), Some(told), "{value:?}");
    }
}

#[test]
fn there_are_limits() {
    assert_eq!(wrong(&with(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")])), None);
    assert_eq!(wrong(&with(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")])), Some(Wrong::TooMany));
    let long = "x".repeat(900);
    assert_eq!(wrong(&[&GET[..], &[("a", &long)]].concat()), Some(Wrong::TooLarge));
}

#[test]
fn underscores_are_a_setting() {
    let fields = with(&[("a_b", "1")]);
    let read = |underscores| read(&fields, &Rules { underscores, ..RULES });
    assert_eq!(read(Underscores::Allow).unwrap().0.headers.len(), 1);
    assert_eq!(read(Underscores::Drop).unwrap().0.headers.len(), 0);
    assert_eq!(read(Underscores::Reject).err(), Some(Wrong::Underscore));
}

#[test]
fn connect_is_plain_or_extended() {
    let plain = [(":method", "CONNECT"), (":authority", "a.test:1")];
    let (head, _) = read(&plain, &RULES).unwrap();
    assert_eq!((head.path.as_str(), head.authority.as_str()), ("", "a.test:1"));
    assert_eq!(wrong(&[&plain[..], &[(":path", "/")]].concat()), Some(Wrong::Message));
    let extended =
        [(":method", "CONNECT"), (":protocol", "WebSocket"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    assert_eq!(wrong(&extended), Some(Wrong::Field));
    let (head, _) = read(&extended, &Rules { extended_connect: true, ..RULES }).unwrap();
    assert_eq!((head.upgrade.as_str(), head.path.as_str()), ("websocket", "/"));
}

#[test]
fn trailers_are_fields_alone() {
    let read = |fields| {
        let mut trailers = Headers::new();
        let read = read_trailers(&mut Decoder::new(4096), &block(fields), &RULES, &mut trailers).unwrap();
        read.map(|()| trailers.len())
    };
    assert_eq!(read(&[("grpc-status", "0"), ("a", "b")]), Ok(2));
    assert_eq!(read(&[(":path", "/")]), Err(Wrong::Field));
    assert_eq!(read(&[("content-length", "1")]), Err(Wrong::Field));
}
