//! Over HTTP/2: what becomes lines of text where the next server speaks HTTP/1, pseudo-headers at odds with headers, and
//! fields that belong to a connection.

use lateen_tests::case::{Case, Do};

use super::super::http2::{DATA, END_HEADERS, END_STREAM, HEADERS, block, connection, frame, opened, ping};
use super::{Apart, Row};

/// So many rows come first that get through.
pub const HONEST: usize = 2;

type Field = (&'static str, &'static str);

const GET: [Field; 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/public"), (":authority", "client.shop")];

/// Fields in place of those of the same name, or else after them.
const FIELDS: &[(&str, &[Field])] = &[
    ("honest", &[]),
    ("honest, te", &[("te", "trailers")]),
    ("path denied", &[(":path", "/admin")]),
    ("host denied", &[(":authority", "admin.test")]),
    ("role denied", &[("x-role", "admin")]),
    ("request in path", &[(":path", "/public HTTP/1.1\r\nhost: client.shop\r\n\r\nGET /admin")]),
    ("field in path", &[(":path", "/public HTTP/1.1\r\nx-role: admin\r\nx-a:")]),
    ("field after LF in path", &[(":path", "/public HTTP/1.1\nx-role: admin\nx-a:")]),
    ("blank in path", &[(":path", "/public /admin")]),
    ("blank before path", &[(":path", " /admin")]),
    ("tab in path", &[(":path", "/public\t/admin")]),
    ("NUL in path", &[(":path", "/admin\0")]),
    ("fragment in path", &[(":path", "/admin#/public")]),
    ("fragment before path", &[(":path", "/public#/../admin")]),
    ("backslash in path", &[(":path", "/public\\..\\admin")]),
    ("dots in path", &[(":path", "/public/../admin")]),
    ("absolute path", &[(":path", "http://admin.test/public")]),
    ("path of two slashes", &[(":path", "//admin.test/public")]),
    ("path without slash", &[(":path", "admin")]),
    ("path star", &[(":path", "*")]),
    ("path empty", &[(":path", "")]),
    ("request in method", &[(":method", "GET /admin HTTP/1.1\r\nhost: client.shop\r\n\r\nGET")]),
    ("target in method", &[(":method", "GET /admin")]),
    ("request in scheme", &[(":scheme", "http://admin.test/admin?")]),
    ("field in authority", &[(":authority", "client.shop\r\nx-role: admin")]),
    ("request in authority", &[(":authority", "client.shop\r\n\r\nGET /admin HTTP/1.1\r\nhost: client.shop")]),
    ("blank in authority", &[(":authority", "client.shop admin.test")]),
    ("user in authority", &[(":authority", "client.shop@admin.test")]),
    ("slash in authority", &[(":authority", "client.shop/admin")]),
    ("NUL in authority", &[(":authority", "client.shop\0admin.test")]),
    ("host beside", &[("host", "admin.test")]),
    ("host beside, equal", &[("host", "client.shop")]),
    ("authority empty, host beside", &[(":authority", ""), ("host", "admin.test")]),
    ("no authority", &[(":authority", "-"), ("x-a", "1")]),
    ("no authority, host", &[(":authority", "-"), ("host", "admin.test")]),
    ("no authority, two hosts", &[(":authority", "-"), ("host", "client.shop"), ("host", "admin.test")]),
    ("path twice", &[("+:path", "/admin")]),
    ("authority twice", &[("+:authority", "admin.test")]),
    ("path after fields", &[("x-a", "1"), ("+:path", "/admin")]),
    ("protocol", &[(":protocol", "websocket")]),
    ("status", &[("+:status", "200")]),
    ("tunnel", &[(":method", "CONNECT")]),
    ("tunnel alone", &[(":method", "CONNECT"), (":scheme", "-"), (":path", "-"), (":authority", "admin.test:80")]),
    ("connection", &[("connection", "x-role"), ("x-role", "user")]),
    ("connection close", &[("connection", "close")]),
    ("proxy-connection", &[("proxy-connection", "keep-alive")]),
    ("keep-alive", &[("keep-alive", "timeout=5")]),
    ("coding", &[("transfer-encoding", "chunked")]),
    ("coding in capitals", &[("Transfer-Encoding", "chunked")]),
    ("coding with blank", &[("transfer-encoding ", "chunked")]),
    ("upgrade", &[("upgrade", "h2c")]),
    ("te", &[("te", "trailers, chunked")]),
    ("field in name", &[("x-a: 1\r\nx-role", "admin")]),
    ("field in value", &[("x-a", "1\r\nx-role: admin")]),
    ("field after LF in value", &[("x-a", "1\nx-role: admin")]),
    ("field after CR in value", &[("x-a", "1\rx-role: admin")]),
    ("request in value", &[("x-a", "1\r\n\r\nGET /admin HTTP/1.1\r\nhost: client.shop\r\n\r\n")]),
    ("request in a cookie", &[("cookie", "a=1"), ("cookie", "b=1\r\n\r\nGET /admin HTTP/1.1")]),
    ("NUL in value", &[("x-role", "admin\0")]),
    ("blanks around value", &[("x-role", " admin ")]),
    ("colon in name", &[("x-role:", "admin")]),
    ("blank after name", &[("x-role ", "admin")]),
    ("underscore in name", &[("x_role", "admin")]),
    ("name in capitals", &[("X-Role", "admin")]),
    ("no name", &[("", "admin")]),
    ("XFCC", &[("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")]),
];

/// With a body, of which more or less is said than is so.
const BODIES: &[(&str, &[Field])] = &[
    ("none said", &[]),
    ("said to be nothing", &[("content-length", "0")]),
    ("said to be less", &[("content-length", "5")]),
    ("said to be more", &[("content-length", "500")]),
    ("said twice", &[("content-length", "60"), ("content-length", "0")]),
    ("said in a list", &[("content-length", "60,60")]),
    ("said with plus", &[("content-length", "+60")]),
    ("said to be chunked", &[("transfer-encoding", "chunked")]),
];

/// The body: a request, 60 bytes.
const BODY: &[u8; 60] = b"GET /admin/ HTTP/1.1\r\nhost: client.shop\r\nx-role: admin\r\n\r\n\r\n";

const TRAILERS: &[(&str, &[Field])] = &[
    ("a role", &[("x-role", "admin")]),
    ("a path", &[(":path", "/admin")]),
    ("a length", &[("content-length", "0")]),
    ("a host", &[("host", "admin.test")]),
    ("lines", &[("x-a", "1\r\n\r\nGET /admin HTTP/1.1\r\nhost: client.shop")]),
];

/// The fields of a request: `-` takes one away, `+` adds one of the same name.
fn fields<'a>(own: &[Field], name: &'a str) -> Vec<(&'a str, &'a str)> {
    let replaced = |name: &str| own.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    let first = GET.iter().map(|(name, value)| (*name, replaced(name).unwrap_or(value)));
    let mut all: Vec<(&str, &str)> = first.filter(|(_, value)| *value != "-").collect();
    let more = own.iter().filter(|(name, _)| GET.iter().all(|(other, _)| other != name));
    all.extend(more.map(|(name, value)| (name.strip_prefix('+').unwrap_or(name), *value)));
    all.push(("x-case", name));
    all
}

fn apart(name: &str) -> Option<Apart> {
    Some(match name {
        "fields: blanks around value" => {
            Apart::Stricter("RFC 9113, 8.2.1: what HTTP/1 takes away is taken away before")
        }
        // Trailers come, and a body where there is to be none is found out, when the head has gone on.
        "trailers: a path" | "trailers: a length" | "body: said to be nothing" => Apart::Harmless,
        _ => return None,
    })
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: &str, frames: &[Vec<u8>]| {
        let acts = vec![Do::Send(connection(frames)), Do::Stream, ping(), Do::Frames];
        let acts = Case::of(name).client(acts).client;
        rows.push(Row { name: name.to_owned(), acts, apart: apart(name), roughly: true });
    };
    for (name, own) in FIELDS {
        let name = format!("fields: {name}");
        add(&name, &[opened(&fields(own, &name), END_STREAM)]);
    }
    for (name, own) in BODIES {
        let name = format!("body: {name}");
        add(&name, &[opened(&fields(own, &name), 0), frame(DATA, END_STREAM, 1, BODY)]);
    }
    for (name, own) in TRAILERS {
        let name = format!("trailers: {name}");
        let trailers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(own));
        add(&name, &[opened(&fields(&[], &name), 0), frame(DATA, 0, 1, BODY), trailers]);
    }
    rows
}
