//! What a service's answer means, and carrying it out on heads of requests and answers.

use std::sync::Arc;
use std::time::Duration;

use super::HttpService;
use crate::headers::Headers;
use crate::message::{RequestHead, ResponseHead};
use crate::metadata::{Metadata, Value};

/// What a service says.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Of the request.
    pub answer: Answer,
    /// For later filters.
    pub metadata: Vec<(Arc<str>, Value)>,
    /// It asks for edits of a kind that is not known.
    pub strange: bool,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, metadata: Vec::new(), strange: false }
    }
}

/// What a service says of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It may go on.
    Allowed(Allowed),
    /// It may not.
    Denied(Denied),
    /// The service does not know.
    Failed(Failed),
}

impl Answer {
    /// Writes down what it tells later filters and logs, and as in Envoy how long a good one took (in ms).
    pub fn tell(&self, filter: &str, told: Vec<(Arc<str>, Value)>, took: Duration, metadata: &mut Metadata) {
        if told.is_empty() {
            return;
        }
        let name = filter.into();
        told.into_iter().for_each(|(key, value)| metadata.set(&name, &key, value));
        if matches!(self, Self::Allowed(_)) {
            metadata.set(&name, &"ext_authz_duration".into(), Value::Number(took.as_millis() as f64));
        }
    }
}

/// A request may go on, like this.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allowed {
    /// Edits of its header.
    pub edits: Vec<Edit>,
    /// Fields it loses.
    pub remove: Vec<String>,
    /// Parameters of its query that are set.
    pub query: Vec<(String, String)>,
    /// Parameters of its query that it loses.
    pub query_remove: Vec<String>,
    /// Edits of its answer's header.
    pub response: Vec<Edit>,
}

/// A request may not go on; its client is told this.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Denied {
    /// The status.
    pub status: u16,
    /// The header.
    pub edits: Vec<Edit>,
    /// The body.
    pub body: Vec<u8>,
}

/// The service failed; where that is no permission, the client is told this.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Failed {
    /// The status; 0: as the filter is told.
    pub status: u16,
    /// The header.
    pub edits: Vec<Edit>,
    /// The body.
    pub body: Vec<u8>,
}

/// An edit of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Its name, in lower case.
    pub name: String,
    /// The value.
    pub value: Vec<u8>,
    /// What becomes of what is there.
    pub how: How,
}

/// What becomes of a field that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is replaced.
    Set,
    /// It is replaced; where there is none, nothing is done.
    SetIfThere,
    /// It stays beside the new one.
    Add,
    /// It stays alone.
    AddIfAbsent,
    /// The new value is appended to it; where there is none, nothing is done.
    Append,
}

/// An answer cannot be carried out: it is no sound HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSound;

/// Fields of a refusal that the client gets, whichever are named.
const ALWAYS_GOT: [&str; 3] = ["content-length", "www-authenticate", "location"];

/// Fields of requests to be removed, in an answer over HTTP.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";

impl HttpService {
    /// What an answer over HTTP says.
    pub fn understand(&self, mut head: ResponseHead, body: Vec<u8>) -> Reply {
        if head.status >= 500 {
            return Answer::Failed(Failed::default()).into();
        }
        let mut remove = Vec::new();
        for list in head.headers.get_all(REMOVE) {
            let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
            remove.extend(names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()));
        }
        head.headers.remove(REMOVE);
        let of = |names: &dyn Fn(&str) -> bool, how| {
            let fields = head.headers.iter().filter(|(name, _)| names(name));
            fields.map(|(name, value)| Edit { name: name.to_owned(), value: value.to_vec(), how }).collect::<Vec<_>>()
        };
        let fields = head.headers.iter().filter(|(name, _)| self.metadata.contain(name));
        let metadata =
            fields.map(|(name, value)| (name.into(), Value::Text(super::ask::as_text(value).into()))).collect();
        let answer = if head.status == 200 {
            let mut edits = of(&|name| self.upstream.contain(name), How::Set);
            edits.extend(of(&|name| self.upstream_added.contain(name), How::Add));
            let response = of(&|name| self.client_on_success.contain(name), How::Add);
            Answer::Allowed(Allowed { edits, remove, response, ..Allowed::default() })
        } else {
            let edits = match &self.client {
                None => of(&|_| true, How::Add),
                Some(names) => of(&|name| ALWAYS_GOT.contains(&name) || names.contain(name), How::Add),
            };
            Answer::Denied(Denied { status: head.status, edits, body })
        };
        Reply { answer, metadata, strange: false }
    }
}

impl Allowed {
    /// Whether it changes the request.
    pub fn changes(&self) -> bool {
        !(self.edits.is_empty() && self.remove.is_empty() && self.query.is_empty() && self.query_remove.is_empty())
    }

    /// Changes the request. `strictly`: parameters of the query have to be encoded, too.
    ///
    /// # Errors
    /// When that would not leave sound HTTP. The request may be changed in part then.
    pub fn apply(&self, request: &mut RequestHead, strictly: bool) -> Result<(), NotSound> {
        check(&self.edits)?;
        check(&self.response)?;
        for edit in &self.edits {
            edit_request(edit, request)?;
        }
        for name in self.remove.iter().filter(|name| !name.starts_with(':') && *name != "host" && !frames(name)) {
            request.headers.remove(name);
        }
        if strictly && self.query.iter().any(|(name, value)| !is_encoded(name) || !is_encoded(value)) {
            return Err(NotSound);
        }
        if !(self.query.is_empty() && self.query_remove.is_empty()) {
            let path = set_query(&request.path, &self.query, &self.query_remove);
            if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
                return Err(NotSound);
            }
            request.path = path;
        }
        Ok(())
    }
}

/// Checks that edits are sound HTTP.
///
/// # Errors
/// When one is not.
fn check(edits: &[Edit]) -> Result<(), NotSound> {
    let sound = |edit: &Edit| {
        let name = edit.name.strip_prefix(':').unwrap_or(&edit.name);
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        !name.is_empty() && name.bytes().all(token) && edit.value.iter().copied().all(text)
    };
    if edits.iter().all(sound) { Ok(()) } else { Err(NotSound) }
}

/// Edits a header of an answer of ours or of an upstream, edit by edit.
///
/// # Errors
/// When one is not sound HTTP.
pub fn edit_response(edits: &[Edit], headers: &mut Headers) -> Result<(), NotSound> {
    check(edits)?;
    edits.iter().filter(|edit| !edit.name.starts_with(':') && !frames(&edit.name)).for_each(|edit| edit.apply(headers));
    Ok(())
}

/// The header of an answer of ours in the service's words, in place of what is there of the same names.
///
/// # Errors
/// When it is not sound HTTP.
pub fn edit_own(edits: &[Edit], headers: &mut Headers) -> Result<(), NotSound> {
    check(edits)?;
    // The length keeps its place, and is set to what it is later.
    let own = |edit: &&Edit| !edit.name.starts_with(':') && (edit.name == "content-length" || !frames(&edit.name));
    for edit in edits.iter().filter(own) {
        headers.remove(&edit.name);
    }
    edits.iter().filter(own).for_each(|edit| edit.apply(headers));
    Ok(())
}

/// Fields by which messages are told apart: no service decides of them.
fn frames(name: &str) -> bool {
    matches!(name, "content-length" | "transfer-encoding" | "connection" | "upgrade" | "keep-alive")
}

impl Edit {
    fn apply(&self, headers: &mut Headers) {
        let Self { name, value, how } = self;
        match how {
            How::SetIfThere if !headers.contains(name) => {}
            How::Set | How::SetIfThere => {
                headers.remove(name);
                headers.append(name, value);
            }
            How::AddIfAbsent if headers.contains(name) => {}
            How::Add | How::AddIfAbsent => headers.add(name, value),
            How::Append => append(headers, name, value),
        }
    }
}

/// Appends to the first of the fields of that name, which all stay where they are.
fn append(headers: &mut Headers, name: &str, value: &[u8]) {
    let mut first = true;
    let all = headers.iter().map(|(known, before)| {
        let here = known == name && std::mem::take(&mut first);
        let after = match before {
            before if !here => before.to_vec(),
            [] => value.to_vec(),
            before => [before, value].join(&b","[..]),
        };
        (known.to_owned(), after)
    });
    *headers = all.collect::<Vec<_>>().into_iter().collect();
}

fn edit_request(edit: &Edit, request: &mut RequestHead) -> Result<(), NotSound> {
    let name = edit.name.as_str();
    if frames(name) {
        return Ok(());
    }
    let place = match name {
        ":authority" | "host" => &mut request.authority,
        ":path" => &mut request.path,
        ":method" => &mut request.method,
        ":scheme" => &mut request.scheme,
        _ if name.starts_with(':') => return Err(NotSound),
        _ => {
            edit.apply(&mut request.headers);
            return Ok(());
        }
    };
    let value = std::str::from_utf8(&edit.value).map_err(|_| NotSound)?;
    match edit.how {
        How::Set | How::SetIfThere => value.clone_into(place),
        How::AddIfAbsent => {}
        How::Add | How::Append => {
            place.push(',');
            place.push_str(value);
        }
    }
    let sound = !place.is_empty() && place.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if sound { Ok(()) } else { Err(NotSound) }
}

/// Whether Envoy takes a part of a query for one that needs no encoding.
fn is_encoded(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A path with parameters of its query set and removed. As in Envoy, parameters of one name come together, in the order
/// of their names.
fn set_query(path: &str, set: &[(String, String)], remove: &[String]) -> String {
    let (bare, query) = path.split_once('?').unwrap_or((path, ""));
    let parts = query.split('&').filter(|_| !query.is_empty());
    let mut all: Vec<(&str, &str)> = parts.map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
    for (name, value) in set {
        all.retain(|(known, _)| known != name);
        all.push((name, value));
    }
    all.retain(|(name, _)| !remove.iter().any(|gone| gone == name));
    all.sort_by_key(|(name, _)| *name);
    let mut out = bare.to_owned();
    for (at, (name, value)) in all.into_iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
    out
}
