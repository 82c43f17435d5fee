//! The sample service in a mesh that is only computed: the same answers, from the same options.

use std::cell::Cell;
use std::pin::pin;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{Either, LocalBoxFuture, select};
use hyper::Uri;
use lateen_simulation::{Answer, Application, Broken, Place, Request, Spoken, Target};
use lateen_traffic::{Headers, Protocol, RequestHead, ResponseHead};

use super::http::{READY, Seen};
use super::{Behaviour, Identity, Options, authorize, call};

/// A sample service that is only computed. gRPC and WebSocket are answered as plain requests are.
pub struct Simulated {
    options: Options,
    answered: Cell<u64>,
}

impl Simulated {
    /// The service that these options would start.
    pub fn new(options: Options) -> Simulated {
        Simulated { options, answered: Cell::new(0) }
    }

    fn is_secured(&self, port: u16) -> bool {
        self.options.tls.as_ref().is_some_and(|tls| tls.port == port)
    }

    fn next_call(&self) -> u64 {
        self.answered.set(self.answered.get() + 1);
        self.answered.get()
    }

    fn respond(&self, status: u16, content_type: &str, body: Bytes) -> Answer {
        let mut head = ResponseHead::new(status);
        head.headers.append("x-version", &self.options.identity.version);
        if !content_type.is_empty() {
            head.headers.append("content-type", content_type);
        }
        head.headers.append("content-length", body.len().to_string());
        Answer { head, body, by: None }
    }

    async fn served(&self, place: Place<'_>, request: Request) -> Answer {
        let Request { head, body } = request;
        if head.path_only() == READY {
            return self.respond(200, "", Bytes::new());
        }
        if let Some(rule) = &self.options.allow_if {
            self.next_call();
            let decision = rule.decide(head.headers.get(rule.name()));
            let mut answer = self.respond(decision.status, "", decision.body.into());
            answer.head.headers.append(authorize::RESULT, decision.result);
            return answer;
        }
        let own = self.options.behaviour;
        let behaviour = match head.query().map(|query| own.overridden(query)) {
            None => own,
            Some(Ok(behaviour)) => behaviour,
            Some(Err(reason)) => return self.respond(400, "text/plain", format!("{reason}\n").into()),
        };
        place.wait(behaviour.delay).await;
        if head.path_only() == "/echo" {
            self.next_call();
            return self.respond(behaviour.status, head.headers.get_str("content-type").unwrap_or_default(), body);
        }
        self.report(place, behaviour, &head, body.len() as u64).await
    }

    async fn report(&self, place: Place<'_>, behaviour: Behaviour, head: &RequestHead, body_bytes: u64) -> Answer {
        let identity = Identity { pod: place.pod().to_owned(), version: self.options.identity.version.clone() };
        let seen = Seen {
            method: &head.method,
            path: head.path_only(),
            query: head.query(),
            host: &head.authority,
            protocol: head.protocol.as_str(),
            body_bytes,
            server_name: place.server_name(),
        };
        let mut seen = seen.tell(&identity, self.next_call(), fields(head), behaviour.size);
        if !self.options.calls.is_empty() {
            let mut answers = Vec::with_capacity(self.options.calls.len());
            for url in &self.options.calls {
                answers.push(self.call(place, url, &head.headers).await);
            }
            seen.json("calls", &format!("[{}]", answers.join(",")));
        }
        let status = if behaviour.fails(|| place.chance()) { 503 } else { behaviour.status };
        if matches!(status, 204 | 205 | 304) {
            return self.respond(status, "", Bytes::new());
        }
        self.respond(status, "application/json", seen.finish(behaviour.size).into())
    }

    async fn call(&self, place: Place<'_>, url: &Uri, caused_by: &Headers) -> String {
        let target = Target { host: url.host().unwrap_or_default().to_owned(), port: url.port_u16().unwrap_or(80) };
        let mut head = RequestHead {
            method: "GET".to_owned(),
            authority: url.authority().map_or("", |authority| authority.as_str()).to_owned(),
            path: url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            protocol: Protocol::Http11,
            ..RequestHead::default()
        };
        for name in call::PASSED_ON {
            if let Some(value) = caused_by.get(name.as_str()) {
                head.headers.append(name.as_str(), value);
            }
        }
        let asked = place.call(&target, Request { head, body: Bytes::new() });
        let brought = match select(asked, pin!(place.wait(call::PATIENCE))).await {
            Either::Left((answer, _)) => answer.map(|answer| (answer.head.status, answer.body)),
            Either::Right(_) => Err(call::TOO_LATE.to_owned()),
        };
        call::told(url, brought)
    }
}

/// Header fields, those of one name together, with the host as an HTTP/1 client sends it.
fn fields(head: &RequestHead) -> Vec<(&str, &[u8])> {
    let host = Some(("host", head.authority.as_bytes())).filter(|_| head.protocol != Protocol::Http2);
    let mut fields: Vec<(&str, &[u8])> = host.into_iter().chain(head.headers.iter()).collect();
    let first: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    fields.sort_by_key(|(name, _)| first.iter().position(|one| one == name));
    fields
}

impl Application for Simulated {
    fn listens(&self, port: u16) -> bool {
        port == self.options.port || Some(port) == self.options.tcp_port || self.is_secured(port)
    }

    fn spoken(&self, port: u16) -> Spoken {
        if self.is_secured(port) { Spoken::Tls } else { Spoken::Plain }
    }

    fn answer<'a>(&'a self, place: Place<'a>, request: Request) -> LocalBoxFuture<'a, Result<Answer, Broken>> {
        Box::pin(self.served(place, request).map(Ok))
    }

    fn reply(&self, place: Place<'_>, bytes: &Bytes) -> Bytes {
        if Some(place.to.port()) != self.options.tcp_port {
            // Bytes that are no HTTP.
            return Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
        if !self.options.tcp_says_who {
            return bytes.clone();
        }
        let identity = Identity { pod: place.pod().to_owned(), version: self.options.identity.version.clone() };
        [identity.greeting().as_bytes(), bytes].concat().into()
    }
}
