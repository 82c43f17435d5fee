//! One row of the differential suite: what a client sends, what the upstream does with it, and what
//! is known beforehand about the outcome.

use crate::upstream::{Act, Script};

/// One thing the client of a case does.
#[derive(Clone, Debug)]
pub enum Do {
    Send(Vec<u8>),
    /// Sends `count` bytes of filler.
    Fill(usize),
    /// Reads one response; interim responses before it are kept too.
    Answer,
    /// Reads one response to HEAD.
    AnswerToHead,
    /// Reads responses until the proxy ends the connection.
    Answers,
    /// Reads one interim (1xx) response, 101 with it.
    Interim,
    /// Reads the head of one response, its body to follow by other acts.
    Head,
    /// Reads exactly so many bytes.
    Exactly(usize),
    /// Waits until the upstream has got the head of request number `n` (from 1) of this case.
    Arrival(usize),
    /// Waits until the upstreams have read `n` requests of this case to their end.
    Whole(usize),
    /// Lets the upstream go past one [`Act::AwaitCue`].
    Cue,
    FinishWriting,
    /// Reads until the proxy ends the connection and keeps how it did.
    End,
    /// Reads HTTP/2 frames until a PING is acknowledged or the connection ends; keeps kinds and error
    /// codes.
    Frames,
    /// The same until a stream has ended.
    Stream,
    Reset,
}

/// What Envoy's notes say must come out, as far as a row says it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub status: Option<u16>,
    pub body: Option<String>,
    /// `FLAGS details` as the access log prints them.
    pub log: Option<String>,
}

/// A difference from Envoy that is wanted.
#[derive(Clone, Debug)]
pub struct Better {
    /// Why Lateen answers otherwise.
    pub reason: &'static str,
    /// What Lateen must answer instead.
    pub instead: Instead,
}

/// What is wanted in place of Envoy's outcome.
#[derive(Clone, Debug)]
pub enum Instead {
    /// An answer of this status.
    Status(u16),
    /// Exactly these facts for the client.
    Facts(Vec<String>),
    /// The same, and lines in the access log as Envoy's.
    Told(Vec<String>),
}

/// A row.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// The listener the client connects to.
    pub listener: &'static str,
    pub client: Vec<Do>,
    pub script: Script,
    /// What single upstreams do apart from `script`. Requests are then compared upstream by upstream, since which of
    /// two gets its request first is chance.
    pub apart: Vec<(&'static str, Script)>,
    pub seen: Seen,
    pub better: Option<Better>,
    /// Sent over HTTP/2 instead of `client`.
    pub h2: Option<H2Request>,
    /// The workload whose certificate the client shows in mutual TLS; else it speaks in clear.
    pub identity: Option<&'static str>,
    /// How far the upstream got with a cancelled exchange depends on timing: compare heads only.
    pub ignore_upstream_body: bool,
    /// Whether an upstream hears of it at all before it is cancelled depends on timing.
    pub ignore_upstream: bool,
    /// How much of a cut answer gets through depends on timing.
    pub ignore_body: bool,
    /// Byte counts of the log depend on timing.
    pub ignore_bytes: bool,
    /// Chance decides which host is tried first: only what the client gets in the end counts.
    pub by_chance: bool,
    /// Whether the connection ends with FIN or with RST is part of the answer.
    pub exact_end: bool,
    /// Upstreams to which header fields come in no certain order.
    pub unordered: Vec<&'static str>,
}

/// A request for the HTTP/2 client.
#[derive(Clone, Debug)]
pub struct H2Request {
    pub method: String,
    /// `:scheme`, `:authority` and `:path` as one URI.
    pub uri: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Case {
    /// A case that sends `request` on the listener `main` and reads one answer. `@@` in the request
    /// stands for the header that names the case.
    pub fn raw(name: &str, request: impl AsRef<[u8]>) -> Case {
        let mut case = Case::of(name);
        case.client = vec![Do::Send(case.marked(request.as_ref())), Do::Answer];
        case
    }

    /// A case whose client does nothing yet.
    pub fn of(name: &str) -> Case {
        Case {
            name: name.to_owned(),
            listener: "main",
            client: Vec::new(),
            script: Vec::new(),
            apart: Vec::new(),
            seen: Seen::default(),
            better: None,
            h2: None,
            identity: None,
            ignore_upstream_body: false,
            ignore_upstream: false,
            ignore_body: false,
            ignore_bytes: false,
            by_chance: false,
            exact_end: false,
            unordered: Vec::new(),
        }
    }

    /// GET of the path from host `a.test`.
    pub fn get(name: &str, path: &str) -> Case {
        Case::raw(name, format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n@@\r\n\r\n"))
    }

    /// GET with more header lines, each `name: value`.
    pub fn get_with(name: &str, path: &str, headers: &[&str]) -> Case {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        Case::raw(name, format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{lines}@@\r\n\r\n"))
    }

    /// A request over HTTP/2 with prior knowledge.
    pub fn h2(name: &str, method: &str, uri: &str, headers: &[(&str, &str)]) -> Case {
        let mut case = Case::of(name);
        let mut all: Vec<(String, String)> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        all.push(("x-case".to_owned(), name.to_owned()));
        case.h2 = Some(H2Request {
            method: method.to_owned(),
            uri: uri.to_owned(),
            headers: all,
            body: Vec::new(),
            trailers: Vec::new(),
        });
        case
    }

    /// Body (and trailers) of an HTTP/2 request.
    pub fn h2_body(mut self, body: &[u8], trailers: &[(&str, &str)]) -> Case {
        if let Some(request) = &mut self.h2 {
            request.body = body.to_vec();
            request.trailers = trailers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        }
        self
    }

    /// Replaces `@@` by the header that names this case.
    pub fn marked(&self, request: &[u8]) -> Vec<u8> {
        let mark = format!("x-case: {}", self.name);
        let mut out = Vec::with_capacity(request.len() + mark.len());
        let mut rest = request;
        while let Some(at) = rest.windows(2).position(|w| w == b"@@") {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(mark.as_bytes());
            rest = &rest[at + 2..];
        }
        out.extend_from_slice(rest);
        out
    }

    pub fn on(mut self, listener: &'static str) -> Case {
        self.listener = listener;
        self
    }

    /// Replaces what the client does; `@@` is replaced in what it sends.
    pub fn client(mut self, acts: Vec<Do>) -> Case {
        self.client = acts
            .into_iter()
            .map(|act| match act {
                Do::Send(bytes) => Do::Send(self.marked(&bytes)),
                other => other,
            })
            .collect();
        self
    }

    /// Adds to what the client does.
    pub fn then(mut self, acts: Vec<Do>) -> Case {
        let mut all = std::mem::take(&mut self.client);
        all.extend(self.clone().client(acts).client);
        self.client = all;
        self
    }

    /// What the upstream does with every try.
    pub fn upstream(mut self, acts: Vec<Act>) -> Case {
        self.script = vec![acts];
        self
    }

    /// What the upstream does with each try in turn.
    pub fn tries(mut self, script: Script) -> Case {
        self.script = script;
        self
    }

    /// What one upstream does with each try in turn, whatever the others do.
    pub fn at(mut self, upstream: &'static str, script: Script) -> Case {
        self.apart.push((upstream, script));
        self
    }

    /// What Envoy is known to answer: status and `FLAGS details`.
    pub fn seen(mut self, status: u16, log: &str) -> Case {
        self.seen.status = Some(status);
        self.seen.log = Some(log.to_owned());
        self
    }

    /// The body Envoy is known to answer with.
    pub fn body(mut self, body: &str) -> Case {
        self.seen.body = Some(body.to_owned());
        self
    }

    /// Lateen answers with this status instead of what Envoy does, for a reason.
    pub fn better(self, reason: &'static str, status: u16) -> Case {
        self.instead(reason, Instead::Status(status))
    }

    /// Lateen does this instead of what Envoy does, for a reason.
    pub fn instead(mut self, reason: &'static str, instead: Instead) -> Case {
        self.better = Some(Better { reason, instead });
        self
    }

    pub fn ignore_upstream_body(mut self) -> Case {
        self.ignore_upstream_body = true;
        self
    }

    pub fn ignore_upstream(mut self) -> Case {
        self.ignore_upstream = true;
        self
    }

    pub fn ignore_body(mut self) -> Case {
        self.ignore_body = true;
        self.ignore_bytes = true;
        self
    }

    pub fn ignore_bytes(mut self) -> Case {
        self.ignore_bytes = true;
        self
    }

    pub fn by_chance(mut self) -> Case {
        self.by_chance = true;
        self
    }

    /// Header fields come to this upstream in no certain order.
    pub fn unordered(mut self, upstream: &'static str) -> Case {
        self.unordered.push(upstream);
        self
    }

    pub fn exact_end(mut self) -> Case {
        self.exact_end = true;
        self
    }
}

/// Bytes to send, written as text.
pub fn say(text: impl AsRef<[u8]>) -> Do {
    Do::Send(text.as_ref().to_vec())
}
