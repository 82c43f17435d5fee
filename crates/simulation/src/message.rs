//! What is said over simulated connections.

use std::rc::Rc;

use bytes::Bytes;
use lateen_traffic::proxy_protocol::Told;
use lateen_traffic::{RequestHead, ResponseHead};

use crate::tls::{ClientTls, Greeting};

/// A request, whole.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub head: RequestHead,
    pub body: Bytes,
}

/// An answer, whole.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub head: ResponseHead,
    pub body: Bytes,
    /// The pod that gave it; none if a proxy did, or somebody outside of the cluster.
    pub by: Option<Rc<str>>,
}

/// What a TLS client says first.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    /// The server name it asks for, in lower case.
    pub server_name: Option<String>,
    /// What it would speak inside (ALPN).
    pub application_protocols: Vec<String>,
    /// All of it.
    pub bytes: Bytes,
}

/// What a client says on a connection.
#[derive(Debug, Clone)]
pub enum Said {
    /// TLS, which nobody on the way ends.
    Tls(Hello),
    /// Something after a PROXY protocol header.
    Told(Told, Box<Said>),
    /// Something that is said in TLS.
    Within(Within),
    /// HTTP of the version that the head names.
    Http(Request),
    /// Something else.
    Bytes(Bytes),
}

/// What is said in TLS.
#[derive(Clone)]
pub struct Within {
    pub(crate) greeting: Rc<Greeting>,
    pub(crate) said: Box<Said>,
}

impl std::fmt::Debug for Within {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Within").field(&self.greeting.server_name).field(&self.said).finish()
    }
}

impl Said {
    /// The same, after a PROXY protocol header.
    #[must_use]
    pub fn telling(self, told: Told) -> Said {
        Said::Told(told, Box::new(self))
    }

    /// The same, in a client's TLS.
    #[must_use]
    pub fn within(self, client: ClientTls) -> Said {
        Said::Within(Within { greeting: Rc::new(Greeting::of_client(client)), said: Box::new(self) })
    }
}

/// What it hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// HTTP.
    Http(Answer),
    /// Bytes until the end of the connection, and the pod they came from.
    Bytes { bytes: Bytes, by: Option<Rc<str>> },
    /// The connection, or its stream, ends instead, or is never there; why, in words.
    Broken { how: Broken, why: String },
}

/// How an exchange ends without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// With its connection.
    Closed,
    /// The stream is reset; of HTTP/1 the connection is.
    Reset,
    /// The same, and nothing was begun (REFUSED_STREAM).
    Refused,
}

impl Heard {
    /// Nobody answers on this connection.
    pub(crate) fn closed(why: impl Into<String>) -> Heard {
        Heard::Broken { how: Broken::Closed, why: why.into() }
    }
}
