//! The life of a request: prepared, routed, forwarded or answered, recorded.
//!
//! Decisions come from `lateen-traffic`; here they are carried out. Every request ends in [`Exchange::finish`], which
//! writes statistics and access logs from the one record of what happened.

mod attempts;
mod authorize;
pub mod body;
pub mod call;
mod deadlines;
mod feed;
mod filters;
mod forward;
mod grpc_web;
mod mirror;
mod outlier;
mod relay;
pub mod respond;
mod tunnel;
pub mod upper;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use lateen_traffic::ext_authz;
use lateen_traffic::filter::grpc_web::{Body, Bridge};
use lateen_traffic::format::Facts;
use lateen_traffic::forwarding::{self, Client};
use lateen_traffic::hashing::NewCookies;
use lateen_traffic::hcm::{Hcm, RouteSource};
use lateen_traffic::record::{Flags, Record};
use lateen_traffic::reply::{self, LocalReply, local_response};
use lateen_traffic::route::{Action, NotRouted, RouteConfig, Routed, direct_location, redirect_location};
use lateen_traffic::router::{self, NotAccepted};
use lateen_traffic::{Config, Protocol, RequestHead, ResponseHead};
use tokio::time::Instant;

use self::body::{Piece, Source};
use self::feed::Feed;
pub use self::filters::Filtered;
use self::respond::Responder;
use crate::connection::Connection;
use crate::http1::head::Framing;
use crate::timer::Timer;

/// A request as it came in, and the way to answer it.
pub struct Exchange<'a, 'r> {
    /// The connection it came on.
    pub connection: &'a Connection,
    /// Its head.
    pub request: &'a mut RequestHead,
    /// Its body.
    pub body: Incoming<'a>,
    /// The way back.
    pub responder: &'a mut Responder<'r>,
    /// The connection's timer.
    pub timer: &'a mut Timer,
    /// Head of the response; kept by the connection for its memory.
    pub response: &'a mut ResponseHead,
    /// The record of what happens.
    pub record: Record,
    /// What HTTP filters left to do.
    pub filtered: Filtered,
    /// When it began.
    pub started: Instant,
    /// Cookies that the client gets with the answer, so that it is known again.
    pub new_cookies: NewCookies,
    /// The address of the host it names, once that was looked up.
    pub named: Option<SocketAddr>,
}

/// A request's body on its way in.
pub struct Incoming<'a> {
    source: Source<'a>,
    framing: Framing,
    expects_continue: bool,
    ended: bool,
    replay: Replay,
    // Where else it goes.
    copies: Vec<Feed>,
}

/// What was read of a request's body, kept as long as the request may be sent again.
#[derive(Default)]
struct Replay {
    pieces: Vec<Piece>,
    size: usize,
    // Nothing was thrown away.
    whole: bool,
}

impl<'a> Incoming<'a> {
    /// A body as the head announced it.
    pub fn new(source: Source<'a>, framing: Framing, expects_continue: bool) -> Self {
        let ended = framing == Framing::None;
        Self {
            source,
            framing,
            expects_continue,
            ended,
            replay: Replay { whole: true, ..Replay::default() },
            copies: Vec::new(),
        }
    }
}

impl<'a, 'r> Exchange<'a, 'r> {
    /// Serves the request to its end.
    pub async fn serve(&mut self) {
        let connection = self.connection;
        let hcm = Arc::clone(&connection.hcm);
        connection.stats.downstream_rq_total.inc();
        connection.stats.downstream_rq_active.inc();
        match self.request.protocol {
            Protocol::Http2 => connection.stats.downstream_rq_http2_total.inc(),
            Protocol::Http10 | Protocol::Http11 => connection.stats.downstream_rq_http1_total.inc(),
        }
        self.record.protocol = Some(self.request.protocol);
        if self.body.expects_continue && !hcm.proxy_100_continue {
            self.request.headers.remove("expect");
            self.body.expects_continue = false;
            // If the client is gone, reading its body will tell.
            let _ = self.responder.interim(100).await;
        }
        self.response.headers.clear();
        let config = connection.worker.config();
        match self.prepare(&hcm) {
            Ok(client) => {
                let routes = routes(&hcm, &config);
                self.route(&hcm, &config, &routes, client).await;
            }
            Err(reply) => self.reply(&reply).await,
        }
        self.finish();
    }

    /// Cleans the head; an error is answered at once.
    fn prepare(&mut self, hcm: &Hcm) -> Result<Client, LocalReply> {
        let connection = self.connection;
        let request = &mut *self.request;
        // A path that is not taken is answered before anything is said of its client.
        if let Err(not_accepted) = router::accept(request, hcm) {
            match &not_accepted {
                NotAccepted::Reply(_) => {}
                NotAccepted::Path => connection.stats.downstream_rq_failed_path_normalization.inc(),
                NotAccepted::Redirect { location } => {
                    connection.stats.downstream_rq_redirected_with_normalized_path.inc();
                    self.response.headers.append("location", location);
                }
            }
            return Err(not_accepted.reply());
        }
        let client = forwarding::prepare_request(
            request,
            hcm,
            connection.peer,
            connection.worker.process.own_address,
            connection.tls.as_deref(),
            &mut connection.worker.dice(),
        );
        self.record.downstream_remote = client.address;
        Ok(client)
    }

    async fn route(&mut self, hcm: &Hcm, config: &Config, routes: &Arc<RouteConfig>, client: Client) {
        if !client.internal {
            for name in &routes.internal_only_headers {
                self.request.headers.remove(name);
            }
        }
        let mut routed = self.find_route(routes, client.internal);
        if !hcm.filters.is_empty() {
            match self.filters(hcm, config, routes, routed, client.internal).await {
                Some(found) => routed = found,
                None => return,
            }
        }
        match routed {
            Ok(routed) => match &routed.route.action {
                Action::Forward(forward) => {
                    self.forward(hcm, config, routes, routed, forward).await;
                }
                Action::Redirect(redirect) => {
                    let location = redirect_location(self.request, &routed.route.matches, redirect);
                    self.redirect(redirect.status, location, Some((routes, routed))).await;
                }
                Action::Direct(direct) => {
                    self.connection.stats.rq_direct_response.inc();
                    self.record.details = Cow::Borrowed("direct_response");
                    if let Some(location) = direct_location(self.request, direct.status) {
                        self.response.headers.append("location", location);
                    }
                    self.edit_response(routes, routed);
                    self.send_own(direct.status, direct.body.clone(), None).await;
                }
            },
            Err(NotRouted::NotFound) => {
                self.connection.stats.no_route.inc();
                self.reply(&reply::ROUTE_NOT_FOUND).await;
            }
            Err(NotRouted::TlsRequired(_)) => {
                // Unlike other redirects, these keep every port.
                let location = format!("https://{}{}", self.request.authority, self.request.path);
                self.redirect(301, location, None).await;
            }
        }
    }

    /// The route of the request, by what filters found out so far.
    fn find_route<'p>(&mut self, routes: &'p RouteConfig, internal: bool) -> Found<'p> {
        let tls = self.request.headers.get("x-forwarded-proto") == Some(b"https");
        let metadata = &self.record.metadata;
        let routed = routes.reroute(self.request, metadata, tls, internal, &mut self.connection.worker.dice());
        let routed = routed.map(|routed| Routed { weighted: self.pick_weighted(routed), ..routed });
        self.record.route_name =
            routed.ok().filter(|routed| !routed.route.name.is_empty()).map(|routed| Arc::clone(&routed.route.name));
        routed
    }

    async fn redirect(&mut self, status: u16, location: String, by: Option<(&Arc<RouteConfig>, Routed<'_>)>) {
        self.connection.stats.rq_redirect.inc();
        self.response.headers.append("location", location);
        self.record.details = Cow::Borrowed("direct_response");
        if let Some((routes, routed)) = by {
            self.edit_response(routes, routed);
        }
        self.send_own(status, Bytes::new(), None).await;
    }

    /// Answers by ourselves. The response head may have fields already.
    pub(super) async fn reply(&mut self, reply: &LocalReply) {
        self.record.flags.add(reply.flags);
        self.record.details = reply.details.clone();
        let body = match &reply.body {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
        };
        self.send_own(reply.status, body, reply.grpc_status).await;
    }

    /// Sends an answer of our own: what the response head has already, then what such an answer says of itself.
    /// `grpc_status`: what a gRPC client is told instead of what stands for the status.
    async fn send_own(&mut self, status: u16, text: Bytes, grpc_status: Option<u32>) {
        if status == 400 {
            self.responder.close_after();
        }
        let body = match self.filtered.bridge {
            None => local_response(status, &text, self.request, grpc_status, self.response),
            Some(bridge) => {
                self.response.status = status;
                if !text.is_empty() {
                    self.response.headers.set("content-type", "text/plain");
                }
                if self.bridge_head(bridge, text.is_empty()) == Body::Message {
                    Bridge::tell(self.response, &text);
                }
                Bytes::new()
            }
        };
        self.send_whole(body).await;
    }

    /// Sends an answer of our own whose head is complete.
    async fn send_whole(&mut self, body: Bytes) {
        if self.filtered.delayed_to.is_some() {
            // Its body came in while the request waited, and is not in the way of the connection's next.
            self.read_at_hand().await;
        }
        let unread = self.body.source.is_unread() && !self.body.ended;
        if unread || !self.request.upgrade.is_empty() {
            self.responder.close_after();
        }
        self.record.code = self.response.status;
        self.complete_response(true);
        let empty = body.is_empty() || self.request.method == "HEAD";
        let framing = if empty { Framing::None } else { Framing::Length(body.len() as u64) };
        let sent = async {
            self.responder.head(self.response, framing, None)?;
            if !empty {
                let mut sink = self.responder.sink()?;
                sink.data(body.clone()).await?;
                sink.end(None)?;
            }
            self.responder.flush().await
        }
        .await;
        match sent {
            Ok(()) if !empty => self.record.bytes_sent += body.len() as u64,
            Ok(()) => {}
            Err(_) => {
                self.responder.abort().await;
                self.client_gone();
            }
        }
    }

    /// The client ended its side before the answer was out.
    pub(super) fn client_gone(&mut self) {
        let http2 = matches!(self.responder, Responder::Http2(_));
        self.connection.stats.downstream_rq_rx_reset.inc();
        if http2 {
            self.record.flags.add(Flags::DOWNSTREAM_RESET);
            self.record.details = Cow::Borrowed("http2.remote_reset");
        } else {
            self.record.flags.add(Flags::DOWNSTREAM_TERMINATION);
            self.record.details = Cow::Borrowed("downstream_remote_disconnect");
        }
    }

    /// Header edits of the route and of what is around it on a response.
    pub(super) fn edit_response(&mut self, routes: &RouteConfig, routed: Routed<'_>) {
        router::edit_response(routes, routed, self.request, &self.record, self.response);
    }

    /// What every response gets on its way out.
    pub(super) fn complete_response(&mut self, own: bool) {
        let connection = self.connection;
        let date = || connection.worker.date(self.record.start);
        if !self.filtered.edits.is_empty() {
            // What CORS says comes first: filters see answers in the reverse of their order.
            if let Some(grant) = self.filtered.grant.take() {
                grant.apply(&mut self.response.headers);
            }
            // They were found sound before the request went on.
            let _ = ext_authz::edit_response(&self.filtered.edits, &mut self.response.headers);
        }
        let grant = self.filtered.grant.as_ref();
        router::complete_response(&connection.hcm, self.request, self.response, own, grant, date);
        if connection.drain.is_on() {
            self.responder.close_after();
        }
    }

    /// The end: statistics and access logs.
    fn finish(&mut self) {
        let connection = self.connection;
        let stats = &connection.stats;
        self.record.duration = self.started.elapsed();
        if self.record.flags.intersects(Flags::DOWNSTREAM_TERMINATION | Flags::DOWNSTREAM_RESET)
            && !self.response_started()
        {
            self.record.code = 0;
        }
        stats.downstream_rq_active.dec();
        stats.response(self.record.code);
        stats.downstream_rq_time.record(self.record.duration);
        let response = self.response_started().then_some(&*self.response);
        let facts = Facts { record: &self.record, request: self.request, response };
        connection.worker.logs.write(&connection.hcm.access_log, facts);
    }

    fn response_started(&self) -> bool {
        self.record.code != 0
    }
}

/// Where a request goes, or why nowhere.
type Found<'p> = Result<Routed<'p>, NotRouted<'p>>;

/// The routes of a connection manager as they are now.
fn routes(hcm: &Hcm, config: &Config) -> Arc<RouteConfig> {
    match &hcm.routes {
        RouteSource::Inline(routes) => Arc::clone(routes),
        RouteSource::Named(name) => config.routes.get(name).cloned().unwrap_or_default(),
    }
}

/// Answers and records a request whose head could not be read.
/// `request` is what was read of it.
pub async fn refuse(
    connection: &Connection,
    responder: &mut Responder<'_>,
    reply: &LocalReply,
    request: &mut RequestHead,
) {
    connection.stats.downstream_rq_total.inc();
    connection.stats.downstream_cx_protocol_error.inc();
    responder.close_after();
    let mut response = ResponseHead::default();
    let mut exchange = Exchange {
        connection,
        request,
        body: Incoming::new(Source::Empty, Framing::None, false),
        responder,
        timer: &mut Timer::default(),
        response: &mut response,
        record: connection.record(),
        filtered: Filtered::default(),
        started: Instant::now(),
        new_cookies: Default::default(),
        named: None,
    };
    connection.stats.downstream_rq_active.inc();
    exchange.record.protocol = Some(lateen_traffic::Protocol::Http11);
    exchange.reply(reply).await;
    exchange.finish();
}

/// Records a request over HTTP/2 that ended before it was read.
pub fn record_unread(connection: &Connection, record: &Record) {
    let stats = &connection.stats;
    stats.downstream_rq_total.inc();
    stats.downstream_rq_http2_total.inc();
    stats.downstream_rq_rx_reset.inc();
    stats.response(record.code);
    let facts = Facts { record, request: &RequestHead::default(), response: None };
    connection.worker.logs.write(&connection.hcm.access_log, facts);
}

/// What is kept of a host between attempts.
type Tried = Vec<Rc<crate::upstream::Host>>;
