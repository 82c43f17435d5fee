//! `CONNECT HOST:PORT`: a connection into the cluster's network, for the control plane, whose process stands outside of it.
//! (Kubernetes' API server gets into a cluster's network in the same way, through konnectivity.)

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::Server;
use super::serve::{Body, whole};
use super::status::Refusal;

/// Connects, and answers with 200; 404 if the host is not of the cluster.
pub async fn connect(server: &Server, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let inside = server.inside.as_ref().ok_or(Refusal::NoSuchResource)?;
    let uri = request.uri();
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err(Refusal::BadRequest("CONNECT needs HOST:PORT".to_owned()));
    };
    let host = host.trim_matches(['[', ']']);
    let mut stream = match inside.connect(host, port).await {
        None => return Err(Refusal::NotFound { resource: "hosts".to_owned(), name: host.to_owned() }),
        Some(connected) => connected.map_err(|error| Refusal::Unavailable(format!("{host}:{port}: {error}")))?,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // How either side ends a connection is their affair.
            let _ = copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
        }
    });
    Ok(Response::new(whole(bytes::Bytes::new())))
}
