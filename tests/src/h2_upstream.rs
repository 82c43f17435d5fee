//! An HTTP/2 upstream (prior knowledge) that answers by script.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use crate::check;
use crate::message::{Framing, Message};
use crate::upstream::{Received, Stage};

/// What to do with one request.
#[derive(Clone, Debug, PartialEq)]
pub enum H2Act {
    /// Answers with status, headers, body and trailers.
    Answer(u16, Vec<(String, String)>, Vec<u8>, Vec<(String, String)>),
    /// Resets the stream with this code before an answer.
    Reset(u32),
    /// Begins an answer of 200 with some data, and when the client has that (a cue), resets the
    /// stream with this code.
    ResetAfterHead(u32),
    /// Answers with this status at once and sends back what comes.
    Tunnel(u16),
}

/// A plain answer.
pub fn h2_answer(status: u16, headers: &[(&str, &str)], body: &str, trailers: &[(&str, &str)]) -> H2Act {
    let own = |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    H2Act::Answer(status, own(headers), body.as_bytes().to_vec(), own(trailers))
}

/// The scripts of the HTTP/2 upstreams of a run: for each case its first try, its second, …
#[derive(Default)]
pub struct H2Scripts(Mutex<HashMap<String, Vec<H2Act>>>);

impl H2Scripts {
    /// Sets what happens to the tries of `case`.
    pub fn script(&self, case: &str, acts: Vec<H2Act>) {
        self.0.lock().unwrap().insert(case.to_owned(), acts);
    }

    /// Forgets every script.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    fn act(&self, case: &str, attempt: usize) -> H2Act {
        let scripts = self.0.lock().unwrap();
        match scripts.get(case) {
            Some(acts) if !acts.is_empty() => acts[attempt.min(acts.len() - 1)].clone(),
            _ => h2_answer(200, &[], "ok", &[]),
        }
    }
}

/// Serves HTTP/2 on the listener under `name`, filing what it receives in `stage`. Names that [`crate::h2_frames`] knows
/// are served by it.
pub fn serve(stage: Arc<Stage>, scripts: Arc<H2Scripts>, name: &str, listener: std::net::TcpListener) {
    listener.set_nonblocking(true).expect("a listener that does not block");
    let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
    let name = name.to_owned();
    if let Some(manner) = crate::h2_frames::Manner::of(&name) {
        tokio::spawn(crate::h2_frames::serve(manner, listener));
        return;
    }
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(connection(stage.clone(), scripts.clone(), name.clone(), stream));
        }
    });
}

pub(crate) async fn connection(stage: Arc<Stage>, scripts: Arc<H2Scripts>, name: String, stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let case = request
            .headers()
            .get("x-case")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default();
        let message = head_of(&request);
        tokio::spawn(exchange(stage.clone(), scripts.clone(), name.clone(), case, message, request, respond));
    }
}

fn head_of(request: &http::Request<h2::RecvStream>) -> Message {
    let headers =
        request.headers().iter().map(|(n, v)| (n.to_string(), crate::message::latin1(v.as_bytes()))).collect();
    Message {
        start: format!("{} {} HTTP/2", request.method(), request.uri()),
        headers,
        framing: Framing::None,
        body: Vec::new(),
        trailers: Vec::new(),
        cut: false,
    }
}

async fn exchange(
    stage: Arc<Stage>,
    scripts: Arc<H2Scripts>,
    name: String,
    case: String,
    mut message: Message,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let to_head = request.method() == http::Method::HEAD;
    let mut body = request.into_body();
    if let H2Act::Tunnel(status) = scripts.act(&case, 0) {
        stage.arrive(&case, Received { upstream: name, message, raw: Vec::new(), whole: true });
        let Ok(response) = http::Response::builder().status(status).body(()) else { return };
        let Ok(mut stream) = respond.send_response(response, false) else { return };
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
            let _ = stream.send_data(chunk, false);
        }
        let _ = stream.send_data(Bytes::new(), true);
        return;
    }
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        message.body.extend_from_slice(&chunk);
    }
    if message.start.contains(check::PATH) {
        message.headers.extend(check::describe(&std::mem::take(&mut message.body)));
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        message.trailers =
            trailers.iter().map(|(n, v)| (n.to_string(), crate::message::latin1(v.as_bytes()))).collect();
    }
    let attempt = stage.arrive(&case, Received { upstream: name, message, raw: Vec::new(), whole: true });
    match scripts.act(&case, stage.attempt(&case, attempt)) {
        H2Act::Answer(status, headers, mut body, trailers) => {
            if to_head {
                body.clear();
            }
            let _ = answer(&mut respond, status, &headers, body, &trailers);
        }
        H2Act::Tunnel(_) => {}
        H2Act::Reset(code) => respond.send_reset(code.into()),
        H2Act::ResetAfterHead(code) => {
            let Ok(response) = http::Response::builder().status(200).body(()) else { return };
            if let Ok(mut stream) = respond.send_response(response, false) {
                let _ = stream.send_data(Bytes::from_static(b"begun"), false);
                // A reset overtakes data that has not left yet: the client says when it has it.
                stage.cued(&case).await;
                stream.send_reset(code.into());
            }
        }
    }
}

fn answer(
    respond: &mut h2::server::SendResponse<Bytes>,
    status: u16,
    headers: &[(String, String)],
    body: Vec<u8>,
    trailers: &[(String, String)],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut head = http::Response::builder().status(status);
    for (name, value) in headers {
        head = head.header(name, value);
    }
    let end = body.is_empty() && trailers.is_empty();
    let mut stream = respond.send_response(head.body(())?, end)?;
    if !body.is_empty() {
        stream.send_data(Bytes::from(body), trailers.is_empty())?;
    }
    if !trailers.is_empty() {
        let mut map = http::HeaderMap::new();
        for (name, value) in trailers {
            map.append(http::HeaderName::try_from(name)?, value.parse()?);
        }
        stream.send_trailers(map)?;
    }
    Ok(())
}
