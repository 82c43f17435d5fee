//! What a control plane shows of itself over HTTP: whether it is ready, how far its proxies are, its metrics. Knows not
//! what is on the pages.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections served at once; more wait.
const CONNECTIONS: usize = 64;

/// One page.
pub struct Page {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub text: String,
}

impl Page {
    /// A page of words.
    pub fn plain(status: StatusCode, text: impl Into<String>) -> Page {
        Page { status, content_type: "text/plain; charset=utf-8", text: text.into() }
    }
}

/// Answers a method at a path, which may carry a query.
pub type Pages = Arc<dyn Fn(&Method, &str) -> Page + Send + Sync>;

/// Listens at a socket of a file, in place of what another process left there.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Where pages are asked for.
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Serves until the program ends.
pub async fn serve(listener: Listener, pages: Pages) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = match &listener {
            Listener::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| drop(tokio::spawn(converse(stream, pages.clone(), place))))
            }
            Listener::Tcp(listener) => {
                listener.accept().await.map(|(stream, _)| drop(tokio::spawn(converse(stream, pages.clone(), place))))
            }
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "cannot accept a connection");
            // Out of file descriptors: accepting again at once would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Serves one connection, which has its `place` for as long.
async fn converse<P>(stream: impl AsyncRead + AsyncWrite + Unpin, pages: Pages, place: P) {
    let answer = service_fn(move |request| {
        let answer = answer(&request, &pages);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // A client that breaks off is no event.
    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
    drop(place);
}

fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let page = pages(request.method(), request.uri().path_and_query().map_or("/", |path| path.as_str()));
    let mut response = Response::new(Full::new(Bytes::from(page.text)));
    *response.status_mut() = page.status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(request: &str) -> String {
        let pages: Pages = Arc::new(|method, path| match (method, path) {
            (&Method::GET, "/known?a=b") => Page::plain(StatusCode::OK, "here"),
            (&Method::GET, _) => Page::plain(StatusCode::NOT_FOUND, ""),
            _ => Page::plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        });
        let (mut client, server) = tokio::io::duplex(4096);
        tokio::spawn(converse(server, pages, ()));
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_are_got_by_their_paths() {
        let request = |line: &str| format!("{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let known = ask(&request("GET /known?a=b")).await;
        assert!(known.starts_with("HTTP/1.1 200") && known.ends_with("here"), "{known}");
        assert!(ask(&request("GET /other")).await.starts_with("HTTP/1.1 404"));
        assert!(ask(&request("POST /known")).await.starts_with("HTTP/1.1 405"));
        assert!(ask("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(listen_unix(&path).unwrap());
        assert!(path.exists());
        listen_unix(&path).unwrap();
    }
}
