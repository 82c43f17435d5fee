//! Running a command in a pod: WebSocket with Kubernetes' `v5.channel.k8s.io` subprotocol, one leading
//! byte of each message saying which stream it belongs to.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::header;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use super::failure::{ClientError, Refused};
use super::{Client, object_path};
use crate::api::channel::{Channel, SUBPROTOCOL};
use crate::api::path::percent_encode;
use lateen_galley::Kind;

/// Bytes of standard input sent at once.
const PIECE: usize = 32 * 1024;

/// What to run where.
#[derive(Debug, Clone, Default)]
pub struct Exec {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Whose environment the command gets; the pod's application if `None`.
    pub container: Option<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether the command runs on a terminal of its own.
    pub tty: bool,
}

/// The streams of this side.
pub struct Streams {
    /// Sent to the command; none if `None`.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Where its output goes.
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    /// Where its error output goes; on a terminal everything is output.
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Client {
    /// Runs a command in a pod and returns its exit code.
    ///
    /// # Errors
    /// A refusal (404 if the pod is not there, 400 if it is not running), a connection that breaks, or a
    /// stream of this side that fails.
    pub async fn exec(&self, exec: &Exec, streams: Streams) -> Result<i32, ClientError> {
        let Streams { mut stdin, mut stdout, mut stderr } = streams;
        let mut path = format!("{}/exec?stdout=true", object_path(Kind::Pod, &exec.namespace, &exec.pod));
        path.push_str(&format!("&stdin={}&tty={}&stderr={}", stdin.is_some(), exec.tty, !exec.tty));
        if let Some(container) = &exec.container {
            path.push_str(&format!("&container={}", percent_encode(container)));
        }
        for word in &exec.command {
            path.push_str(&format!("&command={}", percent_encode(word)));
        }
        let mut request = format!("ws://localhost{path}").into_client_request().map_err(ClientError::broken)?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static(SUBPROTOCOL));
        let stream = self.connect().await?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(refused)?;
        let (mut sink, mut source) = socket.split();
        let mut input = BytesMut::new();
        loop {
            input.reserve(PIECE);
            tokio::select! {
                message = source.next() => {
                    let Some(message) = message else { return Err(ClientError::broken("it ended without an exit code")) };
                    let Message::Binary(message) = message.map_err(ClientError::broken)? else { continue };
                    let Some((channel, data)) = message.split_first() else { continue };
                    match Channel::from_byte(*channel) {
                        Some(Channel::Stdout) => write(&mut stdout, data, "write the command's output").await?,
                        Some(Channel::Stderr) => write(&mut stderr, data, "write the command's error output").await?,
                        Some(Channel::Error) => return exit_code(data),
                        _ => {}
                    }
                }
                read = read_input(&mut stdin, &mut input) => {
                    let read = read.map_err(|source| ClientError::Terminal { step: "read standard input", source })?;
                    let message = if read == 0 {
                        stdin = None;
                        Bytes::from_static(&[Channel::Close as u8, Channel::Stdin as u8])
                    } else {
                        let mut message = BytesMut::with_capacity(read + 1);
                        message.put_u8(Channel::Stdin as u8);
                        message.extend_from_slice(&input.split());
                        message.freeze()
                    };
                    // A command that is done takes no more input; its exit code is still to come.
                    let _ = sink.send(Message::Binary(message)).await;
                }
            }
        }
    }
}

async fn read_input(
    stdin: &mut Option<Box<dyn AsyncRead + Send + Unpin>>,
    input: &mut BytesMut,
) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read_buf(input).await,
        None => std::future::pending().await,
    }
}

async fn write(
    output: &mut Box<dyn AsyncWrite + Send + Unpin>,
    data: &[u8],
    step: &'static str,
) -> Result<(), ClientError> {
    let failed = |source| ClientError::Terminal { step, source };
    output.write_all(data).await.map_err(failed)?;
    output.flush().await.map_err(failed)
}

fn refused(error: WebSocketError) -> ClientError {
    match error {
        WebSocketError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            ClientError::Refused(Refused::read(response.status().as_u16(), body))
        }
        other => ClientError::broken(other),
    }
}

/// Reads the `Status` that ends a command.
fn exit_code(status: &[u8]) -> Result<i32, ClientError> {
    let value: Value = serde_json::from_slice(status).map_err(ClientError::broken)?;
    if value.get("status").and_then(Value::as_str) == Some("Success") {
        return Ok(0);
    }
    let causes = value.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
    let code = causes
        .filter(|cause| cause.get("reason").and_then(Value::as_str) == Some("ExitCode"))
        .find_map(|cause| cause.get("message")?.as_str()?.parse().ok());
    code.ok_or_else(|| {
        let code = value.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        ClientError::Refused(Refused::read(code.unwrap_or(500), status))
    })
}
