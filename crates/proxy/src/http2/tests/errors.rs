use super::*;
use crate::http2::core;
use crate::http2::frame::setting as name;
use crate::http2::stream::Failure;
use crate::router::body::Piece;

const ROOM_LEFT: u32 = (1 << 31) - 1 - DEFAULT_WINDOW;

/// A server with the request 1 whose body is to come.
fn asked() -> End {
    let end = End::server(SETTINGS);
    end.hears(&made(frame::HEADERS, WHOLE, 1, POST));
    end
}

/// A client that has asked twice; the second time there is nothing more to say.
fn asking(method: &str) -> (End, Stream) {
    let end = End::client(SETTINGS);
    let stream = end.asks(method, true);
    end.says();
    (end, stream)
}

#[test]
fn what_breaks_a_connection_to_a_client() {
    use frame::*;
    const PROTOCOL: Reason = Reason::PROTOCOL_ERROR;
    const SIZE: Reason = Reason::FRAME_SIZE_ERROR;
    const FLOW: Reason = Reason::FLOW_CONTROL_ERROR;
    let full = made(DATA, 0, 1, &[0; MAX_PAYLOAD]);
    let cases: &[(&str, Vec<u8>, Reason)] = &[
        ("a frame too long", made(DATA, 0, 1, &[0; MAX_PAYLOAD + 1]), SIZE),
        ("data of the connection", made(DATA, 0, 0, b"x"), PROTOCOL),
        ("data of an idle stream", made(DATA, 0, 3, b"x"), PROTOCOL),
        ("data of a stream of ours", made(DATA, 0, 2, b"x"), PROTOCOL),
        ("more padding than data", made(DATA, PADDED, 1, b"\x02x"), PROTOCOL),
        ("no length of padding", made(DATA, PADDED, 1, b""), PROTOCOL),
        ("more data than the window", full.repeat(4), FLOW),
        ("padding beyond the window", [full.repeat(3), padded(1, 16_200, 183)].concat(), FLOW),
        ("fields of the connection", made(HEADERS, LAST, 0, GET), PROTOCOL),
        ("fields of a stream of ours", made(HEADERS, LAST, 2, GET), PROTOCOL),
        ("fields without their padding", made(HEADERS, LAST | PADDED, 3, b"\x02\x82"), PROTOCOL),
        ("fields without their priority", made(HEADERS, LAST | WITH_PRIORITY, 3, b"1234"), PROTOCOL),
        ("fields that are none", made(HEADERS, LAST, 3, b"\x80"), Reason::COMPRESSION_ERROR),
        ("trailers that are none", made(HEADERS, LAST, 1, b"\xff"), Reason::COMPRESSION_ERROR),
        ("a continuation of nothing", made(CONTINUATION, WHOLE, 1, b""), PROTOCOL),
        (
            "another stream's continuation",
            [made(HEADERS, END_STREAM, 3, GET), made(CONTINUATION, WHOLE, 5, b"")].concat(),
            PROTOCOL,
        ),
        ("something between fields", [made(HEADERS, END_STREAM, 3, GET), made(PING, 0, 0, &[0; 8])].concat(), PROTOCOL),
        (
            "something unknown between fields",
            [made(HEADERS, END_STREAM, 3, GET), made(99, 0, 3, b"")].concat(),
            PROTOCOL,
        ),
        ("a priority of the connection", made(PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("a long priority", made(PRIORITY, 0, 1, &[0; 6]), SIZE),
        ("a reset of the connection", numbered(RST_STREAM, 0, 0), PROTOCOL),
        ("a reset of an idle stream", numbered(RST_STREAM, 3, 0), PROTOCOL),
        ("a long reset", made(RST_STREAM, 0, 1, &[0; 5]), SIZE),
        ("settings of a stream", made(frame::SETTINGS, 0, 1, b""), PROTOCOL),
        ("settings with a long answer", made(frame::SETTINGS, ACK, 0, &[0; 6]), SIZE),
        ("settings that are no pairs", made(frame::SETTINGS, 0, 0, &[0; 7]), SIZE),
        ("half a push", setting(name::ENABLE_PUSH, 2), PROTOCOL),
        ("too large a window", setting(name::INITIAL_WINDOW_SIZE, 1 << 31), FLOW),
        ("too small a frame", setting(name::MAX_FRAME_SIZE, MAX_PAYLOAD as u32 - 1), PROTOCOL),
        ("too large a frame", setting(name::MAX_FRAME_SIZE, 1 << 24), PROTOCOL),
        (
            "a window that settings make too large",
            [numbered(WINDOW_UPDATE, 1, ROOM_LEFT), setting(name::INITIAL_WINDOW_SIZE, DEFAULT_WINDOW + 1)].concat(),
            FLOW,
        ),
        ("a push", made(PUSH_PROMISE, WHOLE, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("a ping of a stream", made(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("a short ping", made(PING, 0, 0, &[0; 7]), SIZE),
        ("a goodbye of a stream", made(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("a short goodbye", made(GOAWAY, 0, 0, &[0; 7]), SIZE),
        ("a window that does not grow", numbered(WINDOW_UPDATE, 0, 0), PROTOCOL),
        ("a window that grows too far", numbered(WINDOW_UPDATE, 0, ROOM_LEFT + 1), FLOW),
        ("the window of an idle stream", numbered(WINDOW_UPDATE, 3, 1), PROTOCOL),
        ("a short window", made(WINDOW_UPDATE, 0, 1, &[0; 3]), SIZE),
    ];
    for (what, bytes, reason) in cases {
        let end = asked();
        let stream = end.accepted().unwrap();
        end.hears(bytes);
        assert_eq!(end.failed(), Some(*reason), "{what}");
        let undecodable = *reason == Reason::COMPRESSION_ERROR;
        assert_eq!(end.core.borrow().end, Some(core::End::Broken { undecodable }), "{what}");
        // Its streams end with it, after what has come of them.
        while let Ok(Piece::Data(_)) = now(stream.next()).unwrap() {}
        assert_eq!(now(stream.next()).unwrap().err(), Some(Failure::Violation), "{what}");
        assert!(stream.end(None).is_err(), "{what}");
        drop(stream);
        assert!(end.says_of(RST_STREAM).is_empty(), "{what}");
    }
}

#[test]
fn what_breaks_a_connection_to_a_server() {
    let cases = [
        ("it lets us be pushed to", setting(name::ENABLE_PUSH, 1)),
        ("it pushes", made(frame::PUSH_PROMISE, WHOLE, 1, &[0, 0, 0, 2])),
        ("it begins a stream", made(frame::HEADERS, WHOLE, 2, OK)),
        ("it answers what was not asked", made(frame::HEADERS, WHOLE, 3, OK)),
        ("data of what was not asked", made(frame::DATA, 0, 3, b"")),
    ];
    for (what, bytes) in cases {
        let (end, stream) = asking("GET");
        end.hears(&bytes);
        assert_eq!(end.failed(), Some(Reason::PROTOCOL_ERROR), "{what}");
        assert_eq!(now(stream.head(&mut Default::default())), Some(Err(Failure::Violation)), "{what}");
        assert!(!end.core.borrow().is_open());
    }
}

#[test]
fn settings_come_first() {
    let first = [
        made(frame::PING, 0, 0, &[0; 8]),
        made(frame::SETTINGS, frame::ACK, 0, b""),
        made(frame::HEADERS, LAST, 1, GET),
        made(99, 0, 0, b""),
    ];
    for bytes in first {
        let end = End::silent(Side::Server(Rc::default()), SETTINGS);
        end.hears(&[PREFACE, &bytes].concat());
        assert_eq!(end.failed(), Some(Reason::PROTOCOL_ERROR));
    }
    // Who speaks something else is told nothing.
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"] {
        let end = End::silent(Side::Server(Rc::default()), SETTINGS);
        end.hears(bytes);
        assert_eq!(end.failed(), None);
    }
}

#[test]
fn what_breaks_a_clients_stream() {
    use frame::*;
    const WIDE: Settings = Settings { connection_window: 1 << 20, ..super::SETTINGS };
    let asked = |flags, fields: &[u8]| made(HEADERS, flags, 1, fields);
    let post = asked(WHOLE, POST);
    let four = asked(WHOLE, &with_length(POST, "4"));
    let large = |value: usize| {
        [GET, b"\x00\x01x\x7f", &[(value - 127) as u8 | 0x80, ((value - 127) >> 7) as u8], &vec![b'v'; value]].concat()
    };
    let many = [GET, &TRAILERS.repeat(11)].concat();
    let upper = [GET, b"\x00\x01X\x01y"].concat();
    let (protocol, closed, flow) = (Reason::PROTOCOL_ERROR, Reason::STREAM_CLOSED, Reason::FLOW_CONTROL_ERROR);
    let cases: &[(&str, Vec<Vec<u8>>, Reason)] = &[
        ("a window that does not grow", vec![post.clone(), numbered(WINDOW_UPDATE, 1, 0)], protocol),
        ("a window that grows too far", vec![post.clone(), numbered(WINDOW_UPDATE, 1, ROOM_LEFT + 1)], flow),
        ("data after the end", vec![asked(LAST, GET), made(DATA, 0, 1, b"x")], closed),
        ("fields after the end", vec![asked(LAST, GET), asked(LAST, TRAILERS)], closed),
        ("fields that are not the end", vec![post.clone(), asked(WHOLE, TRAILERS)], protocol),
        ("trailers that are a head", vec![post.clone(), asked(LAST, GET)], protocol),
        ("more than was announced", vec![four.clone(), made(DATA, 0, 1, b"12345")], protocol),
        ("less than was announced", vec![four.clone(), made(DATA, END_STREAM, 1, b"123")], protocol),
        ("less, with trailers", vec![four, made(DATA, 0, 1, b"123"), asked(LAST, TRAILERS)], protocol),
        ("nothing of what was announced", vec![asked(LAST, &with_length(POST, "1"))], protocol),
        ("more than the window", vec![post.clone(), made(DATA, 0, 1, &[0; MAX_PAYLOAD]).repeat(4)], flow),
        ("a field in upper case", vec![asked(WHOLE, &upper)], protocol),
        ("fields that are no request", vec![asked(WHOLE, TRAILERS)], protocol),
        ("too many fields", vec![asked(LAST, &many)], Reason::INTERNAL_ERROR),
        ("too large fields", vec![asked(WHOLE, &large(4000))], Reason::NO_ERROR),
    ];
    for (what, frames, reason) in cases {
        let end = End::server(WIDE);
        frames.iter().for_each(|bytes| end.hears(bytes));
        assert_eq!(end.says_of(RST_STREAM), [(1, reason.0)], "{what}");
        assert_eq!((end.core.borrow().resets, end.core.borrow().streams.len()), ((0, 1), 0), "{what}");
        if let Some(stream) = end.accepted() {
            while let Ok(Piece::Data(_)) = now(stream.next()).unwrap() {}
            assert!(stream.send_head(200, &Default::default(), true).is_err(), "{what}");
        }
        // What it says of it later is passed over, and others are served.
        end.hears(&[made(DATA, 0, 1, b"x"), asked(LAST, TRAILERS), made(HEADERS, LAST, 3, GET)].concat());
        assert!(end.says_of(RST_STREAM).is_empty(), "{what}");
        assert!(end.begun().is_some() && end.lives(), "{what}");
    }
    let end = End::server(WIDE);
    end.hears(&asked(LAST, &large(4000)));
    let kinds: Vec<_> = end.says().iter().map(|(head, _)| (head.kind, head.flags)).collect();
    assert_eq!(kinds, [(HEADERS, LAST)], "a request that is told to be too large and has ended needs no reset");
}

#[test]
fn what_breaks_a_servers_stream() {
    use frame::*;
    let answer = |flags, fields: &[u8]| made(HEADERS, flags, 1, fields);
    let cases: &[(&str, &str, Vec<u8>)] = &[
        ("data before the head", "GET", made(DATA, 0, 1, b"")),
        ("an interim head that is the end", "GET", answer(LAST, b"\x08\x03103")),
        ("another protocol", "GET", answer(WHOLE, b"\x08\x03101")),
        ("no status", "GET", answer(WHOLE, TRAILERS)),
        ("two statuses", "GET", answer(WHOLE, b"\x88\x88")),
        ("no body where one was announced", "GET", answer(LAST, &with_length(OK, "1"))),
        ("a body of an answer to HEAD", "HEAD", [answer(WHOLE, OK), made(DATA, 0, 1, b"x")].concat()),
        ("a body of 204", "GET", [answer(WHOLE, b"\x89"), made(DATA, 0, 1, b"x")].concat()),
        ("a body of 304", "GET", [answer(WHOLE, b"\x8b"), made(DATA, 0, 1, b"x")].concat()),
    ];
    for (what, method, bytes) in cases {
        let (end, stream) = asking(method);
        end.hears(bytes);
        assert_eq!(end.says_of(RST_STREAM), [(1, Reason::PROTOCOL_ERROR.0)], "{what}");
        let failure = loop {
            if let Err(failure) = now(stream.head(&mut Default::default())).unwrap() {
                break failure;
            }
        };
        assert_eq!(failure, Failure::Violation, "{what}");
        assert!(end.lives(), "{what}");
    }
}

#[test]
fn a_body_that_is_announced_and_not_sent_is_right_where_there_is_none() {
    for (method, fields) in [("HEAD", OK), ("GET", b"\x8b"), ("GET", b"\x89")] {
        for ends_with_head in [true, false] {
            let (end, stream) = asking(method);
            let flags = if ends_with_head { LAST } else { WHOLE };
            end.hears(&made(frame::HEADERS, flags, 1, &with_length(fields, "77")));
            if !ends_with_head {
                end.hears(&made(frame::DATA, frame::END_STREAM, 1, b""));
            }
            let mut head = Default::default();
            assert_eq!(now(stream.head(&mut head)), Some(Ok(())));
            assert_eq!(head.headers.get_str("content-length"), Some("77"));
            assert!(stream.is_ended() && end.says().is_empty());
        }
    }
}

#[test]
fn interim_heads_come_before_the_head_and_trailers_after_the_body() {
    let (end, stream) = asking("GET");
    end.hears(&made(frame::HEADERS, WHOLE, 1, b"\x08\x03103"));
    let mut head = Default::default();
    assert_eq!(now(stream.head(&mut head)), Some(Ok(())));
    assert_eq!(head.status, 103);
    assert_eq!(now(stream.head(&mut head)), None);
    end.hears(&made(frame::HEADERS, WHOLE, 1, b"\x08\x03100"));
    end.hears(&made(frame::HEADERS, WHOLE, 1, OK));
    end.hears(&[made(frame::DATA, 0, 1, b"x"), made(frame::HEADERS, LAST, 1, TRAILERS)].concat());
    for status in [100, 200] {
        assert_eq!(now(stream.head(&mut head)), Some(Ok(())));
        assert_eq!(head.status, status);
    }
    assert!(matches!(now(stream.next()), Some(Ok(Piece::Data(data))) if data == "x"));
    assert!(!stream.is_ended());
    let Some(Ok(Piece::End(Some(trailers)))) = now(stream.next()) else { panic!("no trailers") };
    assert_eq!(trailers.get_str("x"), Some("y"));
    assert!(stream.is_ended());
}
