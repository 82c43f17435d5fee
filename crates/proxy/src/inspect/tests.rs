use proptest::prelude::*;

use super::HttpInspection::{Http, NeedMore, NotHttp};
use super::HttpVersion::{Http2, Http10, Http11};
use super::*;

/// Hellos as real clients sent them (OpenSSL 3, curl, Python's ssl).
const HELLOS: [(&[u8], Option<&str>, &[&str]); 5] = [
    (include_bytes!("testdata/openssl_sni_alpn.bin"), Some("reviews.example.com"), &["h2", "http/1.1"]),
    (include_bytes!("testdata/openssl_plain.bin"), None, &[]),
    (include_bytes!("testdata/openssl_tls12.bin"), Some("a.test"), &[]),
    (include_bytes!("testdata/curl.bin"), Some("curl.test"), &["h2", "http/1.1"]),
    (include_bytes!("testdata/python.bin"), Some("py.test"), &["istio", "http/1.1"]),
];

fn expected(name: Option<&str>, alpn: &[&str]) -> Inspection {
    Inspection::ClientHello(ClientHello {
        server_name: name.map(str::to_owned),
        alpn: alpn.iter().map(|p| (*p).to_owned()).collect(),
    })
}

/// The same handshake bytes in records of `size` bytes.
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in hello[5..].chunks(size) {
        out.extend([22, 3, 1]);
        out.extend((piece.len() as u16).to_be_bytes());
        out.extend(piece);
    }
    out
}

/// A client hello with these extensions.
fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, data) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend((data.len() as u16).to_be_bytes());
        list.extend(*data);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    record(1, &body)
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![22, 3, 1];
    out.extend(((body.len() + 4) as u16).to_be_bytes());
    out.push(kind);
    out.extend(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend(body);
    out
}

#[test]
fn real_hellos_are_read() {
    for (bytes, name, alpn) in HELLOS {
        assert_eq!(tls_client_hello(bytes), expected(name, alpn));
        for size in [1, 2, 7, 100] {
            assert_eq!(tls_client_hello(&fragmented(bytes, size)), expected(name, alpn), "records of {size}");
        }
        let mut more = bytes.to_vec();
        more.extend(b"early data");
        assert_eq!(tls_client_hello(&more), expected(name, alpn));
    }
}

#[test]
fn every_beginning_of_a_hello_needs_more() {
    for (bytes, ..) in HELLOS {
        for end in 0..bytes.len() {
            assert_eq!(tls_client_hello(&bytes[..end]), Inspection::NeedMore, "{end} bytes");
        }
        let fragmented = fragmented(bytes, 50);
        for end in 0..fragmented.len() {
            assert_eq!(tls_client_hello(&fragmented[..end]), Inspection::NeedMore, "{end} bytes");
        }
    }
}

#[test]
fn what_is_not_tls_is_known_at_once() {
    // As Envoy 1.40 decides, except that it waits for five bytes first.
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\0", b"\x16GET", b"\x16\x04\x01\0\x05", b"\x15\x03\x01\0\x02\x02\x28"] {
        assert_eq!(tls_client_hello(bytes), Inspection::NotTls, "{bytes:?}");
    }
    assert_eq!(tls_client_hello(b"\x16\x03\x01\x48\x01"), Inspection::NotTls);
    for bytes in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x09\0\x05", b"\x16\x03\x01\0\0", b"\x16\x03\x01\x40\x01"] {
        assert_eq!(tls_client_hello(bytes), Inspection::NeedMore, "{bytes:?}");
    }
}

#[test]
fn malformed_hellos_are_bad() {
    let bad = |bytes: &[u8]| matches!(tls_client_hello(bytes), Inspection::Bad(_));
    assert!(bad(&record(2, &[0])), "a server hello");
    assert!(bad(&record(1, &[])), "an empty one");
    assert!(bad(b"\x16\x03\x01\0\x05\x01\x01\0\x01\0"), "longer than 64 KiB");
    assert!(bad(&hello(&[(0, b"\0\x04\0\0\x01a"), (0, b"\0\x04\0\0\x01a")])), "two names");
    assert!(bad(&hello(&[(0, b"\0\x03\0\0\0")])), "an empty name");
    assert!(bad(&hello(&[(0, b"\0\x04\0\0\x01\0")])), "NUL in the name");
    assert!(bad(&hello(&[(0, b"\0\x04\x01\0\x01a")])), "another type of name");
    assert!(bad(&hello(&[(16, b"\0\0")])), "no protocols");
    assert!(bad(&hello(&[(16, b"\0\x01\0")])), "an empty protocol");
    assert!(bad(&hello(&[(16, b"\0\x09\x02h2")])), "a list that is cut");
    assert_eq!(tls_client_hello(&hello(&[(0, b"\0\x04\0\0\x01A")])), expected(Some("a"), &[]));
    let mut interrupted = vec![22, 3, 1, 0, 2, 1, 0];
    interrupted.extend([21, 3, 1, 0, 2, 2, 40]);
    assert!(bad(&interrupted), "an alert between the records");
}

#[test]
fn a_hello_has_an_end() {
    // Records of nothing, and a hello in one-byte records, never become complete within the limit.
    let empty: Vec<u8> = [22, 3, 1, 0, 0].repeat(MAX_BYTES / 5 + 1);
    assert!(matches!(tls_client_hello(&empty), Inspection::Bad(_)));
    let mut long = record(1, &[0; 16000]);
    long[6..9].copy_from_slice(&[0, 0xff, 0xff]);
    assert!(matches!(tls_client_hello(&fragmented(&long, 1)), Inspection::Bad(_)));
}

#[test]
fn http_is_recognised_as_envoy_does() {
    // Each line as Envoy 1.40 answered it.
    for (bytes, envoy) in [
        (&b"GET / HTTP/1.1\r\n"[..], Http(Http11)),
        (b"GET / HTTP/1.0\r\n", Http(Http10)),
        (b"GET / HTTP/1.2\r\n", Http(Http10)),
        (b"GET / HTTP/2.0\r\n", Http(Http10)),
        (b"GET /\r\n", Http(Http10)),
        (b"get / HTTP/1.1\r\n", Http(Http11)),
        (b"FOO / HTTP/1.1\r\n", Http(Http11)),
        (b"M-SEARCH * HTTP/1.1\r\n", Http(Http11)),
        (b"CONNECT a:80 HTTP/1.1\r\n", Http(Http11)),
        (b"GET / HTTP/1.1\n", Http(Http11)),
        (b"GET  / HTTP/1.1\r\n", Http(Http11)),
        (b"GET\t/ HTTP/1.1\r\n", Http(Http11)),
        (b"GET / HTTP/1.1 \r\n", Http(Http11)),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", Http(Http11)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http(Http2)),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Http(Http10)),
        (b"PRI * HTTP/2.0\r\n", NeedMore),
        (b"", NeedMore),
        (b"P", NeedMore),
        (b"G", NeedMore),
        (b"FOO", NeedMore),
        (b"GETX", NeedMore),
        (b"GET /", NeedMore),
        (b"GET / HTTP/1.1", NeedMore),
        (b"GET / HTTP/1.1\r", NeedMore),
        (b"EHLO x\r\n", NotHttp),
        (b"USER x\r\n", NotHttp),
        (b"*1\r\n$4\r\n", NotHttp),
        (b"\r\nGET / HTTP/1.1\r\n", NotHttp),
        (b" GET / HTTP/1.1\r\n", NotHttp),
        (b"GET / x HTTP/1.1\r\n", NotHttp),
        (b"GET / FTP/1.1\r\n", NotHttp),
        (b"GET / http/1.1\r\n", NotHttp),
        (b"GET / HTTP/11\r\n", NotHttp),
        (b"GET / HTTP/1.10\r\n", NotHttp),
        (b"GET / HTTP/1.\r\n", NotHttp),
        (b"GET \x80 HTTP/1.1\r\n", NotHttp),
        (b"GET\r\n", NotHttp),
        (b"GET \r\n", NotHttp),
        (b"SSH-2.0-OpenSSH\r\n", NotHttp),
    ] {
        assert_eq!(http(bytes), envoy, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn what_is_not_http_is_known_early() {
    for bytes in [&b"\0"[..], b"\x16\x03\x01", b"\r", b"\n", b" ", b"GET\0", b"GET /\x80", b"\xff\xff"] {
        assert_eq!(http(bytes), NotHttp, "{bytes:?}");
    }
    assert_eq!(http(&[b'/'; MAX_BYTES]), NotHttp);
    assert_eq!(http(&[b'A'; MAX_BYTES - 1]), NeedMore);
    assert_eq!(http(&[b'A'; MAX_BYTES]), NotHttp);
    assert_eq!(http(b"GET http://a/ HTTP/1.1\r\n"), Http(Http11));
    assert_eq!(http(b"GET ://a/ HTTP/1.1\r\n"), NotHttp);
}

proptest! {
    #[test]
    fn any_bytes_are_fine(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (tls_client_hello(&bytes), http(&bytes));
    }

    #[test]
    fn a_damaged_hello_is_fine(which in 0usize..5, at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = HELLOS[which].0.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        let _ = tls_client_hello(&bytes);
    }

    /// More bytes never take back what was decided.
    #[test]
    fn a_decision_stands(line in "[ -~\r\n\t]{0,40}", more in "[ -~\r\n]{0,20}") {
        let whole = format!("{line}{more}");
        let (before, after) = (http(line.as_bytes()), http(whole.as_bytes()));
        prop_assert!(before == NeedMore || before == after, "{before:?} became {after:?}");
    }
}
