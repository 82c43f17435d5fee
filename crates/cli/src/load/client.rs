//! One client: a connection, and one request after the other on it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::report::{Failure, Report};
use super::{Options, Turns};

/// Longest answer read for its version and pod, in bytes.
const LONGEST_READ: usize = 1 << 20;

/// The fields of the sample service's answer that are counted.
#[derive(serde::Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pod: Option<Cow<'a, str>>,
}

/// Sends until there are no more turns.
pub async fn run(options: Arc<Options>, turns: Arc<Turns>) -> Report {
    let mut report = Report::default();
    let mut connection = None;
    while let Some(due) = turns.next().await {
        match tokio::time::timeout(options.timeout, exchange(&options, &mut connection)).await {
            Ok(Ok(answer)) => {
                report.latency.record(due.elapsed());
                *report.statuses.entry(answer.status).or_default() += 1;
                count(&answer.body, &mut report);
            }
            Ok(Err(failure)) => {
                connection = None;
                report.fail(failure);
                if failure == Failure::Connect {
                    // Refused at once: without a pause all turns would be used up in an instant.
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
            Err(_) => {
                connection = None;
                report.fail(Failure::Timeout);
            }
        }
    }
    report
}

struct Exchange {
    status: u16,
    body: Vec<u8>,
}

async fn exchange(options: &Options, connection: &mut Option<SendRequest<Empty<Bytes>>>) -> Result<Exchange, Failure> {
    // A server may close a connection after any answer: that is its right, and no failure.
    let mut kept = connection.take();
    if let Some(sender) = &mut kept
        && sender.ready().await.is_err()
    {
        kept = None;
    }
    let mut sender = match kept {
        Some(sender) => sender,
        None => connect(options).await?,
    };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = options.path.parse().map_err(|_| Failure::Protocol)?;
    request.headers_mut().insert(header::HOST, options.host.clone());
    for (name, value) in &options.headers {
        request.headers_mut().append(name.clone(), value.clone());
    }
    let response = sender.send_request(request).await.map_err(|error| Failure::of(&error))?;
    let exchange = read(response).await?;
    *connection = Some(sender);
    Ok(exchange)
}

async fn connect(options: &Options) -> Result<SendRequest<Empty<Bytes>>, Failure> {
    let stream = TcpStream::connect(options.target).await.map_err(|_| Failure::Connect)?;
    // Failing to say so only makes requests slower.
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        http1::Builder::new().writev(false).handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
    // How a connection ends shows in its requests.
    tokio::spawn(connection);
    Ok(sender)
}

async fn read(response: Response<Incoming>) -> Result<Exchange, Failure> {
    let (parts, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| Failure::of(&error))?;
        if let Some(data) = frame.data_ref()
            && body.len() + data.len() <= LONGEST_READ
        {
            body.extend_from_slice(data);
        }
    }
    Ok(Exchange { status: parts.status.as_u16(), body })
}

/// Answers that are not the sample service's count by their status alone.
fn count(body: &[u8], report: &mut Report) {
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(body) else { return };
    if let Some(version) = answer.version {
        increment(&mut report.versions, &version);
    }
    if let Some(pod) = answer.pod {
        increment(&mut report.pods, &pod);
    }
}

fn increment(counts: &mut std::collections::BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => drop(counts.insert(key.to_string(), 1)),
    }
}
