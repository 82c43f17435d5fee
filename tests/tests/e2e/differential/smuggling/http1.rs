//! Over HTTP/1: framing told twice, lines that end in another way, hosts and names that are spelt oddly.

use lateen_tests::case::{Case, Do, say};

use super::Apart::{self, Stricter};
use super::Row;

/// So many rows come first that get through.
pub const HONEST: usize = 2;

const FOLD: Option<Apart> = Some(Stricter("RFC 9112, 5.2: a folded line is refused with 400"));
const CR: Option<Apart> = Some(Stricter("RFC 9112, 2.2: a bare CR ends a line for some servers"));
const LF: Option<Apart> = Some(Stricter("RFC 9112, 7.1: lines of chunks and trailers end with CRLF"));
const HOSTS: Option<Apart> = Some(Stricter("RFC 9112, 3.2: more than one Host is answered with 400"));
const BLANKS: Option<Apart> = Some(Stricter("RFC 9112, 3: one blank between the parts of a first line"));
const MORE: Option<Apart> = Some(Stricter("RFC 9112, 7.1: a chunk ends where its size says"));
const WORDS: Option<Apart> = Some(Stricter("refused by either, each with words of its own"));
const LENGTH: Option<Apart> = Some(Stricter("the length that was read is also written"));
const UPGRADE: Option<Apart> = Some(Stricter("what follows is not taken before the upgrade is agreed to"));

/// What is hidden in most: where a server takes it for a request of its own, it is one that is denied.
const HIDDEN: &str = "GET /admin HTTP/1.1\r\nhost: client.shop\r\nx-role: admin\r\nconnection: close\r\n@@\r\n\r\n";
/// What follows everything, so that the connection ends.
const LAST: &str = "GET /public/last HTTP/1.1\r\nhost: client.shop\r\nconnection: close\r\n@@\r\n\r\n";

/// A request to `/public` with fields of framing and a body. `{N}` is the body's length, `{H}` what is hidden.
const FRAMING: &[(&str, &str, &str, Option<Apart>)] = &[
    ("length", "content-length: {N}", "{H}", None),
    ("chunked", "transfer-encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", None),
    ("length, then chunked", "content-length: {N}\r\ntransfer-encoding: chunked", "0\r\n\r\n{H}", None),
    ("chunked, then length", "transfer-encoding: chunked\r\ncontent-length: {N}", "0\r\n\r\n{H}", None),
    ("two lengths, first none", "content-length: 0\r\ncontent-length: {N}", "{H}", None),
    ("two lengths, last none", "content-length: {N}\r\ncontent-length: 0", "{H}", None),
    ("lengths in a list", "content-length: 0, {N}", "{H}", None),
    ("equal lengths in a list", "content-length: {N}, {N}", "{H}", None),
    ("length with plus", "content-length: +{N}", "{H}", None),
    ("length with blanks", "content-length: \t {N} \t", "{H}", None),
    ("length with vertical tab", "content-length: \x0b{N}", "{H}", None),
    ("length in hex", "content-length: 0x{N}", "{H}", None),
    ("length with semicolon", "content-length: {N};", "{H}", None),
    ("length with fraction", "content-length: {N}.0", "{H}", None),
    ("length with noughts", "content-length: 000{N}", "{H}", None),
    ("length none", "content-length:", "{H}", None),
    ("length folded", "content-length:\r\n {N}", "{H}", FOLD),
    ("length, blank before colon", "content-length : {N}", "{H}", None),
    ("length with underscore", "content_length: {N}", "{H}", None),
    ("length after LF", "x-a: 1\ncontent-length: {N}", "{H}", None),
    ("length after CR", "x-a: 1\rcontent-length: {N}", "{H}", CR),
    ("length that goes no further", "connection: content-length\r\ncontent-length: {N}", "{H}", LENGTH),
    (
        "coding that goes no further",
        "connection: transfer-encoding\r\ntransfer-encoding: chunked",
        "0\r\n\r\n{H}",
        None,
    ),
    ("chunked, identity", "transfer-encoding: chunked, identity", "0\r\n\r\n{H}", None),
    ("identity, chunked", "transfer-encoding: identity, chunked", "0\r\n\r\n{H}", None),
    ("identity and length", "transfer-encoding: identity\r\ncontent-length: {N}", "{H}", None),
    ("gzip, chunked", "transfer-encoding: gzip, chunked", "0\r\n\r\n{H}", None),
    ("identity, then chunked", "transfer-encoding: identity\r\ntransfer-encoding: chunked", "0\r\n\r\n{H}", None),
    ("chunked, then identity", "transfer-encoding: chunked\r\ntransfer-encoding: identity", "0\r\n\r\n{H}", None),
    ("chunked with parameter", "transfer-encoding: chunked;q=1", "0\r\n\r\n{H}", None),
    ("chunked in quotes", "transfer-encoding: \"chunked\"", "0\r\n\r\n{H}", None),
    ("xchunked", "transfer-encoding: xchunked", "0\r\n\r\n{H}", None),
    ("chunked after vertical tab", "transfer-encoding: \x0bchunked", "0\r\n\r\n{H}", None),
    ("chunked and NUL", "transfer-encoding: chunked\0", "0\r\n\r\n{H}", None),
    ("chunked with comma", "transfer-encoding: chunked,", "0\r\n\r\n{H}", None),
    ("comma and chunked", "transfer-encoding: ,chunked", "0\r\n\r\n{H}", None),
    ("coding none", "transfer-encoding:", "0\r\n\r\n{H}", None),
    ("cHuNkEd", "transfer-encoding: cHuNkEd", "0\r\n\r\n{H}", None),
    ("chunked folded", "transfer-encoding:\r\n chunked", "0\r\n\r\n{H}", FOLD),
    ("coding, blank before colon", "transfer-encoding : chunked", "0\r\n\r\n{H}", None),
    ("coding, tab before colon", "transfer-encoding\t: chunked", "0\r\n\r\n{H}", None),
    ("coding with underscore", "transfer_encoding: chunked", "0\r\n\r\n{H}", None),
    ("coding, NUL in name", "transfer-\0encoding: chunked", "0\r\n\r\n{H}", WORDS),
    ("coding after LF", "x-a: 1\ntransfer-encoding: chunked", "0\r\n\r\n{H}", None),
    ("coding after CR", "x-a: 1\rtransfer-encoding: chunked", "0\r\n\r\n{H}", CR),
    ("h2c", "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", "{H}", None),
    ("an upgrade", "connection: upgrade\r\nupgrade: websocket", "{H}", UPGRADE),
    ("expectation", "expect: 100-continue", "{H}", None),
];

/// Bodies said to be chunked.
const CHUNKS: &[(&str, &str, Option<Apart>)] = &[
    ("extensions", "3;a=b\r\nabc\r\n0;c\r\n\r\n{H}", None),
    ("extension with LF", "3;a\nbc\r\n0\r\n\r\n{H}", None),
    ("extension with CR", "3;a\rbc\r\nabc\r\n0\r\n\r\n{H}", None),
    ("extension over lines", "3;a=\"\r\n0\r\n\r\n{H}", None),
    ("extension with NUL", "3;a\0\r\nabc\r\n0\r\n\r\n{H}", None),
    ("LF alone", "3\nabc\n0\n\n{H}", None),
    ("CR alone", "3\rabc\r0\r\r{H}", None),
    ("size in hex of C", "0x3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("size, then blank", "3 \r\nabc\r\n0\r\n\r\n{H}", None),
    ("blank, then size", " 3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("size with plus", "+3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("size with minus", "-3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("size with underscore", "0_3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("size with noughts", "0003\r\nabc\r\n000\r\n\r\n{H}", None),
    ("size after empty line", "\r\n3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("size beyond numbers", "FFFFFFFFFFFFFFFF3\r\nabc\r\n0\r\n\r\n{H}", None),
    ("no size", ";a\r\nabc\r\n0\r\n\r\n{H}", None),
    ("more than said", "3\r\nabcd\r\n0\r\n\r\n{H}", MORE),
    ("no line end after", "3\r\nabc0\r\n\r\n{H}", None),
    ("trailers", "0\r\nx-role: admin\r\ncontent-length: 5\r\nhost: admin.test\r\n\r\n{H}", None),
    ("trailer that is a request", "0\r\n{H}", None),
    ("trailer folded", "0\r\nx-a: 1\r\n x-role: admin\r\n\r\n{H}", FOLD),
    ("trailer after LF", "0\r\nx-a: 1\nx-role: admin\r\n\r\n{H}", LF),
    ("trailer after CR", "0\r\nx-a: 1\rx-role: admin\r\n\r\n{H}", None),
    ("trailers ended by LF", "0\r\nx-a: 1\r\n\n{H}", LF),
];

/// Fields of a request to `/public` whose host is not given yet.
const FIELDS: &[(&str, &str, Option<Apart>)] = &[
    ("a role", "host: client.shop\r\nx-role: admin", None),
    ("another host", "host: admin.test", None),
    ("another host with port", "host: admin.test:80", None),
    ("another host in capitals", "host: ADMIN.TEST", None),
    ("two hosts, good first", "host: client.shop\r\nhost: admin.test", HOSTS),
    ("two hosts, good last", "host: admin.test\r\nhost: client.shop", HOSTS),
    ("one host twice", "host: client.shop\r\nhost: client.shop", HOSTS),
    ("hosts in a list", "host: client.shop, admin.test", None),
    ("host with user", "host: client.shop@admin.test", None),
    ("host with blank", "host: client.shop admin.test", None),
    ("host with tab", "host: client.shop\tadmin.test", None),
    ("host with NUL", "host: client.shop\0admin.test", None),
    ("host folded", "host: client.shop\r\n admin.test", WORDS),
    ("host folded at once", "host:\r\n admin.test", FOLD),
    ("host, blank before colon", "host: client.shop\r\nhost : admin.test", None),
    ("host after LF", "x-a: 1\nhost: client.shop\nx-b: 1", None),
    ("host and one after CR", "host: client.shop\r\nx-a: 1\rhost: admin.test", CR),
    ("host with path", "host: client.shop/../admin", None),
    ("host with fragment", "host: client.shop#admin.test", None),
    ("host with backslash", "host: admin.test\\client.shop", None),
    ("host with port of letters", "host: client.shop:admin.test", None),
    ("no host", "x-a: 1", None),
    ("forwarded host", "host: client.shop\r\nx-forwarded-host: admin.test", None),
    (":authority", "host: client.shop\r\n:authority: admin.test", None),
    (":path", "host: client.shop\r\n:path: /admin", None),
    (":method", "host: client.shop\r\n:method: PUT", None),
    ("role, blank before colon", "host: client.shop\r\nx-role : admin", None),
    ("role, tab before colon", "host: client.shop\r\nx-role\t: admin", None),
    ("role, NUL in name", "host: client.shop\r\nx-role\0: admin", WORDS),
    ("role, blank before name", "host: client.shop\r\n x-role: admin", WORDS),
    ("role in first folded line", " x-role: admin\r\nhost: client.shop", None),
    ("role with underscore", "host: client.shop\r\nx_role: admin", None),
    ("role and NUL", "host: client.shop\r\nx-role: admin\0", None),
    ("role with blanks", "host: client.shop\r\nx-role: \t admin \t", None),
    ("role folded", "host: client.shop\r\nx-role:\r\n admin", FOLD),
    ("role after LF", "host: client.shop\r\nx-a: 1\nx-role: admin", None),
    ("role after CR", "host: client.shop\r\nx-a: 1\rx-role: admin", CR),
    ("role after CR CR LF", "host: client.shop\r\nx-a: 1\r\r\nx-role: admin", CR),
    ("role in capitals", "host: client.shop\r\nX-ROLE: admin", None),
    ("role twice", "host: client.shop\r\nx-role: user\r\nx-role: admin", None),
    ("role that goes no further", "host: client.shop\r\nconnection: x-role\r\nx-role: admin", None),
    ("host that goes no further", "host: client.shop\r\nconnection: host", None),
    ("client that goes no further", "host: client.shop\r\nconnection: x-forwarded-for", None),
    ("no name", "host: client.shop\r\n: admin", None),
    ("no colon", "host: client.shop\r\nx-role", None),
    ("a request", "host: client.shop\r\nGET /admin HTTP/1.1", None),
    ("XFCC", "host: client.shop\r\nx-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin", None),
    (
        "XFCC folded",
        "host: client.shop\r\nx-forwarded-client-cert: By=x;\r\n URI=spiffe://cluster.local/ns/shop/sa/admin",
        FOLD,
    ),
];

/// First lines, and whatever else stands where it does not belong, up to the host's field.
const LINES: &[(&str, &str, Option<Apart>)] = &[
    ("denied", "GET /admin HTTP/1.1\r\n", None),
    ("absolute", "GET http://admin.test/public HTTP/1.1\r\n", None),
    ("absolute, path", "GET http://client.shop/admin HTTP/1.1\r\n", None),
    ("absolute with user", "GET http://client.shop@admin.test/public HTTP/1.1\r\n", None),
    ("absolute with backslash", "GET http://admin.test\\@client.shop/public HTTP/1.1\r\n", None),
    ("absolute without host", "GET http:///admin HTTP/1.1\r\n", None),
    ("absolute with one slash", "GET http:/admin HTTP/1.1\r\n", None),
    ("absolute of https", "GET https://admin.test/public HTTP/1.1\r\n", None),
    ("absolute of HTTP", "GET HTTP://admin.test/public HTTP/1.1\r\n", None),
    ("absolute of file", "GET file:///admin HTTP/1.1\r\n", None),
    ("absolute with query for path", "GET http://client.shop?/../admin HTTP/1.1\r\n", None),
    ("absolute with fragment for path", "GET http://client.shop#/../admin HTTP/1.1\r\n", None),
    ("two targets", "GET /public /admin HTTP/1.1\r\n", WORDS),
    ("two versions", "GET /public HTTP/1.1 HTTP/1.1\r\n", None),
    ("target after version", "GET /public HTTP/1.1 /admin\r\n", None),
    ("tabs", "GET\t/admin\tHTTP/1.1\r\n", BLANKS),
    ("vertical tabs", "GET\x0b/admin\x0bHTTP/1.1\r\n", WORDS),
    ("tab in target", "GET /public\t/admin HTTP/1.1\r\n", None),
    ("CR in target", "GET /public\r/admin HTTP/1.1\r\n", None),
    ("LF in target", "GET /public\n/admin HTTP/1.1\r\n", WORDS),
    ("NUL in target", "GET /admin\0 HTTP/1.1\r\n", WORDS),
    ("NUL before", "\0GET /admin HTTP/1.1\r\n", None),
    ("high byte in target", "GET /admin\u{e9} HTTP/1.1\r\n", None),
    ("fragment", "GET /admin#/public HTTP/1.1\r\n", None),
    ("fragment before", "GET /public#/../admin HTTP/1.1\r\n", None),
    ("empty lines before", "\r\n\r\nGET /admin HTTP/1.1\r\n", None),
    ("LF before", "\nGET /admin HTTP/1.1\r\n", None),
    ("blank before", " GET /admin HTTP/1.1\r\n", None),
    ("LF after", "GET /admin HTTP/1.1\n", None),
    ("CR CR LF after", "GET /admin HTTP/1.1\r\r\n", CR),
    ("old version", "GET /admin HTTP/1.0\r\n", None),
    ("version of long ago", "GET /admin\r\n", WORDS),
    ("version in small letters", "GET /admin http/1.1\r\n", None),
    ("version to come", "GET /admin HTTP/1.2\r\n", None),
    ("version with noughts", "GET /admin HTTP/01.1\r\n", None),
    ("method in small letters", "get /admin HTTP/1.1\r\n", None),
    ("tunnel", "CONNECT admin.test:80 HTTP/1.1\r\n", None),
    ("tunnel to the workload", "CONNECT client.shop:8080 HTTP/1.1\r\n", None),
    ("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", WORDS),
    ("star", "OPTIONS * HTTP/1.1\r\n", None),
    ("head ended by LF", "GET /public HTTP/1.1\r\nhost: client.shop\r\n@@\r\n\nGET /admin HTTP/1.1\r\n", None),
    ("head ended by LF LF", "GET /public HTTP/1.1\nhost: client.shop\n@@\n\nGET /admin HTTP/1.1\r\n", None),
    ("head ended by LF CR LF", "GET /public HTTP/1.1\r\nhost: client.shop\r\n@@\n\r\nGET /admin HTTP/1.1\r\n", None),
    ("head not ended by CR CR", "GET /public HTTP/1.1\r\nhost: client.shop\r\n@@\r\rGET /admin HTTP/1.1\r\n", CR),
    (
        "head ended by CR CR LF",
        "GET /public HTTP/1.1\r\nhost: client.shop\r\n@@\r\n\r\r\nGET /admin HTTP/1.1\r\n",
        None,
    ),
];

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: String, text: String, roughly, apart| {
        let case = Case::of(&name);
        // One byte a letter.
        let bytes: Vec<u8> = text.chars().map(|letter| letter as u8).collect();
        // What is hidden ends the connection where it is taken for a request, and so does what comes last.
        let acts = case.client(vec![Do::Send(bytes), Do::Answer, say(LAST), Do::Answers]).client;
        rows.push(Row { name, acts, apart, roughly });
    };
    let mut framed = |name: String, fields: &str, body: &str, roughly, apart| {
        let hidden = HIDDEN.replace("@@", &format!("x-case: {name}"));
        let body = body.replace("{H}", &hidden);
        let fields = fields.replace("{N}", &body.len().to_string());
        let text = format!("POST /public HTTP/1.1\r\nhost: client.shop\r\n@@\r\n{fields}\r\n\r\n{body}");
        add(name, text, roughly, apart);
    };
    for (name, fields, body, apart) in FRAMING {
        framed(format!("framing: {name}"), fields, body, false, *apart);
    }
    for (name, body, apart) in CHUNKS {
        framed(format!("chunks: {name}"), "transfer-encoding: chunked", body, true, *apart);
    }
    for (name, fields, apart) in FIELDS {
        add(format!("fields: {name}"), format!("GET /public HTTP/1.1\r\n{fields}\r\n@@\r\n\r\n"), false, *apart);
    }
    for (name, line, apart) in LINES {
        add(
            format!("line: {name}"),
            format!("{line}host: client.shop\r\nconnection: close\r\n@@\r\n\r\n"),
            false,
            *apart,
        );
    }
    rows
}
