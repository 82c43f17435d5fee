//! A watch: one JSON object a line, each an event.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::failure::{ClientError, Refused};

/// The longest event, in bytes.
const LINE_LIMIT: usize = 16 << 20;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is new to the watcher.
    Added,
    /// It has changed.
    Modified,
    /// It is gone; the event has its last state.
    Deleted,
    /// Nothing; the event's object only says which revision has been reached.
    Bookmark,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object.
    pub object: Value,
}

/// Events as they come.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of the buffer known to hold no line end.
    searched: usize,
}

impl Watch {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next event; `None` when the server ends the watch, as it does from time to time.
    ///
    /// # Errors
    /// When the connection breaks, or the server says the revision is no longer kept.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                return read_event(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_LIMIT {
                return Err(ClientError::broken(format!("an event is longer than {LINE_LIMIT} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(ClientError::broken)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn read_event(line: &[u8]) -> Result<Event, ClientError> {
    let mut event: Value = serde_json::from_slice(line).map_err(ClientError::broken)?;
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    let kind = match event.get("type").and_then(Value::as_str) {
        Some("ADDED") => EventKind::Added,
        Some("MODIFIED") => EventKind::Modified,
        Some("DELETED") => EventKind::Deleted,
        Some("BOOKMARK") => EventKind::Bookmark,
        Some("ERROR") => {
            let code = object.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
            return Err(ClientError::Refused(Refused::read(code.unwrap_or(500), object.to_string().as_bytes())));
        }
        other => return Err(ClientError::broken(format!("unknown event type {other:?}"))),
    };
    Ok(Event { kind, object })
}
