//! `pods/exec` over WebSocket (`v5.channel.k8s.io`).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lateen_galley::{Key, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::channel::{Channel, SUBPROTOCOL};
use super::path::ObjectPath;
use super::request::Call;
use super::serve::{Body, whole};
use super::status::Refusal;
use super::{Server, logs, objects};
use crate::kubelet::{Command, Running};

/// Bytes of output sent at once.
const PIECE: usize = 32 * 1024;
/// How long a client has to take note that a command is over.
const FAREWELL: Duration = Duration::from_secs(5);
/// The largest message taken, in bytes.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Starts a command and answers with the switch to WebSocket.
pub async fn exec(
    server: &Server,
    path: &ObjectPath,
    call: &Call,
    headers: &HeaderMap,
    upgrade: OnUpgrade,
) -> Result<Response<Body>, Refusal> {
    let key = Key::new(Kind::Pod, path.namespace.clone().unwrap_or_default(), path.name.clone().unwrap_or_default());
    let pod = objects::find(server, &key)?;
    let kubelet = server.kubelet.as_ref().ok_or_else(|| Refusal::Unavailable("no pods run here".to_owned()))?;
    let container = logs::container(&pod, call.query("container"))?;
    let words: Vec<String> = call.queries("command").map(str::to_owned).collect();
    if words.is_empty() {
        return Err(Refusal::BadRequest("you must specify at least 1 command for the container".to_owned()));
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let websocket = text(UPGRADE).eq_ignore_ascii_case("websocket");
    let offered = text(SEC_WEBSOCKET_PROTOCOL).split(',').any(|offer| offer.trim() == SUBPROTOCOL);
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| websocket && offered);
    let Some(key) = key else {
        return Err(Refusal::BadRequest(format!("exec needs a WebSocket upgrade that offers {SUBPROTOCOL}")));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|error| Refusal::Internal(error.to_string()))?;
    let command = Command { words, stdin: call.flag("stdin"), tty: call.flag("tty") };
    let running =
        kubelet.exec(pod.uid(), &container, command).await.map_err(|error| Refusal::BadRequest(error.to_string()))?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT));
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
                serve(socket, running).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a client asked for exec and went away");
                running.kill().await;
            }
        }
    });
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn serve(socket: Socket, mut running: Running) {
    let (mut sink, mut source) = socket.split();
    let (mut stdout, mut stderr) = (running.stdout.take(), running.stderr.take());
    let mut stdin = running.stdin.take();
    let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
    let mut exit = None;
    // Output first, the exit last: a command that ends at once must not lose what it wrote.
    while exit.is_none() || stdout.is_some() || stderr.is_some() {
        tokio::select! {
            biased;
            read = read(&mut stdout, &mut out), if stdout.is_some() => {
                if read == 0 { stdout = None } else if sink.send(framed(Channel::Stdout, &out.split())).await.is_err() { break }
            }
            read = read(&mut stderr, &mut err), if stderr.is_some() => {
                if read == 0 { stderr = None } else if sink.send(framed(Channel::Stderr, &err.split())).await.is_err() { break }
            }
            message = source.next() => {
                let Some(Ok(message)) = message else { break };
                let Message::Binary(bytes) = message else { continue };
                let Some((channel, data)) = bytes.split_first() else { continue };
                match Channel::from_byte(*channel) {
                    Some(Channel::Stdin) => {
                        // A command that closed its input takes no more, and goes on.
                        if let Some(input) = &mut stdin
                            && input.write_all(data).await.is_err()
                        {
                            stdin = None;
                        }
                    }
                    Some(Channel::Close) if data.first() == Some(&(Channel::Stdin as u8)) => stdin = None,
                    Some(Channel::Resize) => running.resize(data),
                    _ => {}
                }
            }
            code = running.wait(), if exit.is_none() => exit = Some(code),
        }
    }
    match exit {
        Some(code) => {
            let _ = sink.send(framed(Channel::Error, status(code).to_string().as_bytes())).await;
            // kubectl takes an end without a code for a broken connection.
            let end = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            let _ = sink.send(Message::Close(Some(end))).await;
            let noted = async { while source.next().await.is_some_and(|message| message.is_ok()) {} };
            let _ = tokio::time::timeout(FAREWELL, noted).await;
        }
        // The client is gone: so is its command.
        None => running.kill().await,
    }
}

async fn read<R: tokio::io::AsyncRead + Unpin>(from: &mut Option<R>, into: &mut BytesMut) -> usize {
    into.reserve(PIECE);
    match from {
        Some(from) => from.read_buf(into).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn framed(channel: Channel, data: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel as u8);
    message.extend_from_slice(data);
    Message::Binary(message.freeze())
}

/// The `Status` that tells how a command ended.
fn status(code: i32) -> Value {
    if code == 0 {
        return json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}
