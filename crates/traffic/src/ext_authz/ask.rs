//! What a service is told of a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{AskedPath, BodySettings, GrpcService, HttpService, Told};
use crate::format::Facts;
use crate::forwarding::add_to_list;
use crate::headers::Headers;
use crate::message::RequestHead;
use crate::metadata::Metadata;
use crate::rbac::Peer;
use crate::record::Record;

/// Says whether a body is told whole. Nobody else may say so.
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// The beginning of a request's body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gathered {
    /// So much of it as is told.
    pub bytes: Vec<u8>,
    /// There is more.
    pub partial: bool,
}

impl Gathered {
    /// Takes of the next part what is told. `false`: there is no need of any further.
    pub fn take(&mut self, part: &[u8], settings: BodySettings) -> bool {
        let room = settings.most - self.bytes.len();
        self.partial |= part.len() > room;
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
        !(self.partial || settings.part && self.bytes.len() == settings.most)
    }
}

/// All that a service is told over gRPC.
#[derive(Clone)]
pub struct Attributes<'a> {
    /// What is told at all.
    pub told: &'a Told,
    /// What is told besides.
    pub context: &'a [(Arc<str>, Arc<str>)],
    /// The client's end.
    pub source: SocketAddr,
    /// The connection.
    pub peer: Peer<'a>,
    /// What filters found out.
    pub metadata: &'a Metadata,
    /// The request; none for a connection of bytes.
    pub request: Option<AskedRequest<'a>>,
}

/// A request that a service is told of over gRPC.
#[derive(Clone)]
pub struct AskedRequest<'a> {
    /// A number of its own.
    pub id: u64,
    /// Its head.
    pub head: &'a RequestHead,
    /// The header fields that are told.
    pub fields: Headers,
    /// When it began.
    pub start: SystemTime,
    /// So much of its body has come.
    pub received: u64,
    /// The beginning of the body, if that is told.
    pub body: Option<&'a Gathered>,
    /// The body as bytes; else as text.
    pub bytes: bool,
}

impl Told {
    /// The header fields that are told, pseudo headers among them, by name.
    pub fn fields(&self, request: &RequestHead, body: Option<&Gathered>) -> Headers {
        let pseudo = [
            (":authority", request.authority.as_bytes()),
            (":path", request.path.as_bytes()),
            (":method", request.method.as_bytes()),
            (":scheme", request.scheme.as_bytes()),
        ];
        let mut out = Headers::new();
        for (name, value) in pseudo.into_iter().filter(|(_, value)| !value.is_empty()).chain(request.headers.iter()) {
            let kept = self.only.as_ref().is_none_or(|only| only.contain(name)) && !self.but.contain(name);
            if name == PARTIAL || !kept {
                continue;
            }
            if self.raw {
                out.append(name, value);
                continue;
            }
            let value = as_text(value);
            match out.get(name).map(|first| [first, value.as_bytes()].join(&b","[..])) {
                Some(list) => out.set(name, list),
                None => out.append(name, value),
            }
        }
        if let Some(body) = body {
            out.append(PARTIAL, if body.partial { "true" } else { "false" });
        }
        out
    }
}

/// Text, with `!` for each byte that is none, as in Envoy.
pub fn as_text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
    out
}

fn scheme(tls: bool) -> String {
    if tls { "https".to_owned() } else { "http".to_owned() }
}

/// What every question says: that it comes from within the mesh, and how much time there is.
fn sent_by_proxy(headers: &mut Headers, timeout: Option<Duration>) {
    headers.set("x-envoy-internal", "true");
    if let Some(timeout) = timeout {
        headers.set("x-envoy-expected-rq-timeout-ms", timeout.as_millis().to_string());
    }
}

impl HttpService {
    /// What the service is asked: the request, as far as it is told of it, and the body, if that is.
    pub fn ask(
        &self,
        told: &Told,
        request: &RequestHead,
        record: &Record,
        body: Option<&Gathered>,
        tls: bool,
    ) -> RequestHead {
        let mut asked = RequestHead { scheme: scheme(tls), ..RequestHead::default() };
        let length = body.map_or(0, |body| body.bytes.len());
        asked.headers.append("content-length", length.to_string());
        for (name, value) in told.fields(request, body).iter() {
            let text = || String::from_utf8_lossy(value).into_owned();
            match name {
                ":authority" => asked.authority = text(),
                ":method" => asked.method = text(),
                ":path" => asked.path = text(),
                ":scheme" | "content-length" => {}
                name => asked.headers.append(name, value),
            }
        }
        match &self.path {
            AskedPath::Prefixed(prefix) => asked.path.insert_str(0, prefix),
            AskedPath::Instead(path) => path.as_ref().clone_into(&mut asked.path),
        }
        let values = self.adds.values(Facts { record, request, response: None });
        self.adds.apply(&mut asked.headers, &values);
        sent_by_proxy(&mut asked.headers, self.timeout);
        asked
    }
}

impl GrpcService {
    /// The head of a question, asked by a proxy at the address `own`, over TLS or not.
    pub fn ask(&self, request: Option<&RequestHead>, record: &Record, own: IpAddr, tls: bool) -> RequestHead {
        let mut asked = RequestHead {
            method: "POST".to_owned(),
            scheme: scheme(tls),
            authority: self.authority.as_ref().to_owned(),
            path: "/envoy.service.auth.v3.Authorization/Check".to_owned(),
            ..RequestHead::default()
        };
        asked.headers.append("te", "trailers");
        if let Some(timeout) = self.timeout {
            asked.headers.append("grpc-timeout", format!("{}m", timeout.as_millis()));
        }
        asked.headers.append("content-type", "application/grpc");
        let none = RequestHead::default();
        let values = self.adds.values(Facts { record, request: request.unwrap_or(&none), response: None });
        self.adds.apply(&mut asked.headers, &values);
        sent_by_proxy(&mut asked.headers, self.timeout);
        if self.silent {
            asked.headers.remove("x-envoy-internal");
        } else {
            add_to_list(&mut asked.headers, "x-forwarded-for", &own.to_string(), ",");
        }
        asked
    }
}
