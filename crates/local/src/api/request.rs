//! A request of the API, read: its body within limits, its query, what it wants to be answered with.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;

use super::status::Refusal;
use super::{path, protobuf};

/// The largest body of a request about one object, in bytes; Kubernetes' own limit.
pub const BODY_LIMIT: usize = 3 << 20;

/// The head and body of one request.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The body.
    pub body: Bytes,
    query: Vec<(String, String)>,
    accept: String,
    content_type: String,
}

impl Call {
    /// Reads a request's body, of so many bytes at most.
    pub async fn read<B>(
        method: Method,
        query: &str,
        headers: &HeaderMap,
        body: B,
        limit: usize,
    ) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let collected = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Refusal::TooLarge { limit }
            } else {
                Refusal::BadRequest(format!("the body cannot be read: {error}"))
            }
        })?;
        let mut content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut body = collected.to_bytes();
        if content_type == protobuf::MEDIA_TYPE {
            body = Bytes::from(protobuf::read(&body).map_err(Refusal::Protobuf)?.to_string());
            content_type = "application/json".to_owned();
        }
        Ok(Self { method, body, query: path::query(query), accept: header(ACCEPT).to_owned(), content_type })
    }

    /// The first value of a query key; empty if it is not there.
    pub fn query(&self, key: &str) -> &str {
        self.query.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value.as_str())
    }

    /// Every value of a query key.
    pub fn queries<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// Whether a query key says yes.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.query(key), "true" | "1")
    }

    /// Whether the client prefers a table to objects: the first media type it names that we speak.
    pub fn wants_table(&self) -> bool {
        let spoken = self.accept.split(',').find_map(|offer| {
            let mut parts = offer.split(';').map(str::trim);
            let media = parts.next()?;
            let parameters: Vec<&str> = parts.collect();
            let table = parameters.contains(&"as=Table") && parameters.contains(&"v=v1");
            let other = parameters.iter().any(|parameter| parameter.starts_with("as=")) && !table;
            (matches!(media, "application/json" | "*/*" | "application/*") && !other).then_some(table)
        });
        spoken == Some(true)
    }

    /// Whether nothing is to be stored.
    ///
    /// # Errors
    /// When `dryRun` says anything but `All`.
    pub fn dry_run(&self) -> Result<bool, Refusal> {
        match self.query("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Refusal::BadRequest(format!("dryRun: {other:?} is not supported, only \"All\""))),
        }
    }

    /// The body's media type; JSON if none is said.
    pub fn content_type(&self) -> &str {
        if self.content_type.is_empty() { "application/json" } else { &self.content_type }
    }

    /// Whether the body is a JSON or YAML document.
    ///
    /// # Errors
    /// When it is said to be anything else.
    pub fn must_be_document(&self) -> Result<(), Refusal> {
        match self.content_type() {
            "application/json" | "application/yaml" => Ok(()),
            _ => Err(Refusal::UnsupportedMediaType { accepted: "application/json, application/yaml" }),
        }
    }
}
