//! What is said over simulated connections.

use std::rc::Rc;

use bytes::Bytes;
use lateen_traffic::{RequestHead, ResponseHead};

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

/// What a client says on a connection.
#[derive(Debug, Clone)]
pub enum Said {
    /// HTTP of the version that the head names.
    Http(Request),
    /// Something else.
    Bytes(Bytes),
}

/// What it hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// HTTP.
    Http(Answer),
    /// Bytes until the end of the connection, and the pod they came from.
    Bytes { bytes: Bytes, by: Option<Rc<str>> },
    /// The connection ends instead, or is never there; why, in words.
    Closed(String),
}
