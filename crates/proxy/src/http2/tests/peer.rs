//! The other end is another library.

use std::cell::Cell;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use lateen_traffic::{Headers, ResponseHead};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::http2::connection::{Client, Connection, Event};
use crate::http2::core;
use crate::http2::stream::Failure;
use crate::io::{Io, Socket};
use crate::router::body::{Piece, Sink, Source, copy, deliver};

const WIDE: Settings = Settings { stream_window: 1 << 20, connection_window: 1 << 20, max_streams: 1000, ..SETTINGS };
const NARROW: Settings = Settings { stream_window: 1000, max_streams: 1000, ..SETTINGS };
const COMMON: Settings = Settings { max_streams: 1000, ..SETTINGS };

pub(super) fn pair() -> (Rc<Io>, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Rc::new(Io::plain(Socket::Unix(near), Bytes::new())), far)
}

pub(super) async fn locally<T>(work: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(work).await
}

/// Bytes that differ.
fn body(length: usize) -> Bytes {
    (0..length).map(|nth| (nth % 251) as u8).collect()
}

/// Serves; what is asked of `answer`.
pub(super) async fn serve<F: Future<Output = ()> + 'static>(
    mut connection: Connection,
    leaves: Rc<Notify>,
    answer: impl Fn(Stream) -> F,
) -> core::End {
    loop {
        let event = tokio::select! {
            biased;
            event = std::future::poll_fn(|cx| connection.poll_event(cx)) => event,
            () = leaves.notified() => {
                connection.leave();
                continue;
            }
        };
        match event {
            Event::Request(stream, _) => drop(spawn_local(answer(stream))),
            Event::Refused(wrong) => panic!("refused: {wrong:?}"),
            Event::End(end) => return end,
        }
    }
}

/// Says what it hears.
async fn echo(stream: Stream) {
    stream.send_head(200, &Headers::new(), false).unwrap();
    loop {
        match stream.next().await.unwrap() {
            Piece::Data(data) => stream.send(data, false).await.unwrap(),
            Piece::End(trailers) => return stream.end(trailers.as_ref()).unwrap(),
        }
    }
}

/// Everything that comes.
async fn heard(stream: &Stream) -> Result<(Vec<u8>, Option<Headers>), Failure> {
    let mut all = Vec::new();
    loop {
        match stream.next().await? {
            Piece::Data(data) => all.extend_from_slice(&data),
            Piece::End(trailers) => return Ok((all, trailers)),
        }
    }
}

/// The other library's end of a client.
async fn theirs(socket: UnixStream, settings: Settings) -> (h2::client::SendRequest<Bytes>, Theirs) {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .initial_max_send_streams(1000);
    let (client, connection) = builder.handshake(socket).await.unwrap();
    (client, spawn_local(connection))
}

type Theirs = tokio::task::JoinHandle<Result<(), h2::Error>>;

async fn say(mut to: SendStream<Bytes>, mut data: Bytes, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await.unwrap()?;
        to.send_data(data.split_to(room.min(data.len())), trailers.is_none() && data.is_empty())?;
    }
    match trailers {
        Some(trailers) => to.send_trailers(trailers),
        None => Ok(()),
    }
}

async fn hear(mut from: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, from.trailers().await?))
}

fn post() -> Request<()> {
    Request::post("http://a.test/x").body(()).unwrap()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x"), http::HeaderValue::from_static("y"))])
}

/// Asks and hears what it said.
async fn ask_theirs(client: h2::client::SendRequest<Bytes>, length: usize, with_trailers: bool) {
    let mut client = client.ready().await.unwrap();
    let ends = length == 0 && !with_trailers;
    let (response, to) = client.send_request(post(), ends).unwrap();
    let said = spawn_local(async move {
        match ends {
            true => Ok(()),
            false => say(to, body(length), with_trailers.then(trailers)).await,
        }
    });
    let (all, after) = hear(response.await.unwrap().into_body()).await.unwrap();
    said.await.unwrap().unwrap();
    assert!(all == body(length));
    assert_eq!(after, with_trailers.then(trailers));
}

/// The same with our own client.
async fn ask_ours(stream: Stream, length: usize, with_trailers: bool) {
    let said = async {
        let trailers = with_trailers.then(|| [("x", "y")].into_iter().collect::<Headers>());
        stream.send(body(length), !with_trailers).await.unwrap();
        if with_trailers {
            stream.end(trailers.as_ref()).unwrap();
        }
    };
    let answer = async {
        let mut head = ResponseHead::default();
        stream.head(&mut head).await.unwrap();
        assert_eq!(head.status, 200);
        heard(&stream).await.unwrap()
    };
    let ((), (all, after)) = tokio::join!(said, answer);
    assert!(all == body(length));
    assert_eq!(after.as_ref().and_then(|after| after.get_str("x")), with_trailers.then_some("y"));
}

/// A client of ours, and a server of theirs.
async fn our_client(ours: Settings, theirs: Settings) -> (Client, tokio::task::JoinHandle<core::End>, TheirServer) {
    let (io, socket) = pair();
    let (client, connection) = Connection::client(io, ours);
    let running = spawn_local(connection.run(|| ()));
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(theirs.stream_window).initial_connection_window_size(theirs.connection_window);
    (client, running, builder.handshake(socket).await.unwrap())
}

#[tokio::test]
async fn who_waits_for_a_place_hears_of_more() {
    let told = async {
        let (io, socket) = pair();
        let (client, connection) = Connection::client(io, SETTINGS);
        let more = Rc::new(Cell::new(0));
        let running = spawn_local(connection.run({
            let more = Rc::clone(&more);
            move || more.set(more.get() + 1)
        }));
        let mut builder = h2::server::Builder::new();
        let _server = builder.max_concurrent_streams(500).handshake::<_, Bytes>(socket).await.unwrap();
        while client.most_streams() != 500 {
            tokio::task::yield_now().await;
        }
        running.abort();
        more.get()
    };
    assert_eq!(locally(told).await, 1);
}

type TheirServer = h2::server::Connection<UnixStream, Bytes>;

async fn echo_theirs(mut server: TheirServer) -> Result<(), h2::Error> {
    while let Some(accepted) = server.accept().await {
        let (request, mut respond) = accepted?;
        let to = respond.send_response(Response::new(()), false)?;
        spawn_local(async move {
            let (all, after) = hear(request.into_body()).await.unwrap();
            let ends = all.is_empty() && after.is_none();
            match ends {
                true => {
                    let mut to = to;
                    to.send_data(Bytes::new(), true)
                }
                false => say(to, all.into(), after).await,
            }
        });
    }
    Ok(())
}

fn a_request(client: &Client, ends: bool) -> Stream {
    let head = RequestHead {
        method: "POST".into(),
        scheme: "http".into(),
        authority: "a.test".into(),
        path: "/x".into(),
        ..RequestHead::default()
    };
    client.send(&head, ends).unwrap()
}

/// A server of ours that echoes, and a client of theirs.
async fn our_server<F: Future<Output = ()> + 'static>(
    ours: Settings,
    theirs_are: Settings,
    answer: impl Fn(Stream) -> F + 'static,
) -> (h2::client::SendRequest<Bytes>, Theirs, tokio::task::JoinHandle<core::End>, Rc<Notify>) {
    let (io, socket) = pair();
    let leaves = Rc::new(Notify::new());
    let connection = Connection::server(io, ours, Rc::default());
    let served = spawn_local(serve(connection, Rc::clone(&leaves), answer));
    let (client, driver) = theirs(socket, theirs_are).await;
    (client, driver, served, leaves)
}

const WINDOWS: [(Settings, Settings); 5] =
    [(COMMON, COMMON), (NARROW, COMMON), (COMMON, NARROW), (NARROW, NARROW), (WIDE, WIDE)];

#[tokio::test]
async fn bodies_go_both_ways_to_a_server_of_ours() {
    locally(async {
        for (ours, theirs) in WINDOWS {
            let (client, driver, served, _) = our_server(ours, theirs, echo).await;
            for length in [0, 1, 1 << 20] {
                ask_theirs(client.clone(), length, false).await;
                ask_theirs(client.clone(), length, true).await;
            }
            drop(client);
            driver.await.unwrap().unwrap();
            assert_eq!(served.await.unwrap(), core::End::Closed);
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_go_both_ways_from_a_client_of_ours() {
    locally(async {
        for (ours, theirs) in WINDOWS {
            let (client, running, server) = our_client(ours, theirs).await;
            let echoes = spawn_local(echo_theirs(server));
            for length in [0, 1, 1 << 20] {
                ask_ours(a_request(&client, false), length, false).await;
                ask_ours(a_request(&client, false), length, true).await;
            }
            drop(client);
            assert_eq!(running.await.unwrap(), core::End::Closed);
            echoes.await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn many_streams_share_a_window() {
    const MANY: usize = 200;
    let length = |nth: usize| 3000 + 37 * nth;
    locally(async {
        let (client, _driver, _served, _) = our_server(COMMON, NARROW, echo).await;
        let asked: Vec<_> =
            (0..MANY).map(|nth| spawn_local(ask_theirs(client.clone(), length(nth), nth % 2 == 0))).collect();
        for asked in asked {
            asked.await.unwrap();
        }
        let (client, _running, server) = our_client(NARROW, COMMON).await;
        spawn_local(echo_theirs(server));
        let asked: Vec<_> =
            (0..MANY).map(|nth| spawn_local(ask_ours(a_request(&client, false), length(nth), nth % 2 == 0))).collect();
        for asked in asked {
            asked.await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_and_a_server_of_ours_understand_each_other() {
    locally(async {
        let (near, far) = pair();
        let far = Rc::new(Io::plain(Socket::Unix(far), Bytes::new()));
        let served = spawn_local(serve(Connection::server(near, NARROW, Rc::default()), Rc::default(), echo));
        let (client, connection) = Connection::client(far, COMMON);
        let running = spawn_local(connection.run(|| ()));
        let asked: Vec<_> =
            (0..50).map(|nth| spawn_local(ask_ours(a_request(&client, false), 1000 * nth, nth % 2 == 0))).collect();
        // The connection outlives who asks while it has streams.
        drop(client);
        for asked in asked {
            asked.await.unwrap();
        }
        assert_eq!(running.await.unwrap(), core::End::Closed);
        assert_eq!(served.await.unwrap(), core::End::Closed);
    })
    .await;
}

#[tokio::test]
async fn either_end_resets_a_request_to_a_server_of_ours() {
    locally(async {
        let ended = Rc::new(RefCell::new(Vec::new()));
        let (mut client, ..) = our_server(COMMON, COMMON, {
            let ended = Rc::clone(&ended);
            move |stream| {
                let ended = Rc::clone(&ended);
                async move {
                    stream.send_head(200, &Headers::new(), false).unwrap();
                    let Piece::Data(data) = stream.next().await.unwrap() else { panic!("no data") };
                    match &data[..] {
                        b"reset" => stream.reset(Reason::ENHANCE_YOUR_CALM),
                        b"drop" => {}
                        b"answer" => stream.end(None).unwrap(),
                        _ => {
                            // Waits for room while the client goes.
                            let sent = stream.send(body(1 << 20), true).await;
                            stream.gone().await;
                            let failure = stream.next().await.err();
                            ended.borrow_mut().push((sent.is_err(), failure));
                        }
                    }
                }
            }
        })
        .await;
        let cases =
            [("reset", h2::Reason::ENHANCE_YOUR_CALM), ("drop", h2::Reason::CANCEL), ("answer", h2::Reason::NO_ERROR)];
        for (says, reason) in cases {
            let (response, mut to) = client.send_request(post(), false).unwrap();
            to.send_data(says.into(), false).unwrap();
            let heard = hear(response.await.unwrap().into_body()).await;
            match says {
                "answer" => assert_eq!(heard.unwrap(), (Vec::new(), None)),
                _ => assert_eq!(heard.unwrap_err().reason(), Some(reason)),
            }
            assert_eq!(std::future::poll_fn(|cx| to.poll_reset(cx)).await.unwrap(), reason);
        }
        let (response, mut to) = client.send_request(post(), false).unwrap();
        to.send_data("go".into(), false).unwrap();
        let mut from = response.await.unwrap().into_body();
        from.data().await.unwrap().unwrap();
        to.send_reset(h2::Reason::INTERNAL_ERROR);
        while ended.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*ended.borrow(), [(true, Some(Failure::Reset(Reason::INTERNAL_ERROR)))]);
    })
    .await;
}

#[tokio::test]
async fn either_end_resets_a_request_of_a_client_of_ours() {
    locally(async {
        let (client, _running, mut server) = our_client(COMMON, COMMON).await;
        let refused = a_request(&client, false);
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        let dropped = a_request(&client, false);
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        spawn_local(async move { while server.accept().await.is_some() {} });
        let failure = refused.head(&mut ResponseHead::default()).await;
        assert_eq!(failure, Err(Failure::Reset(Reason::REFUSED_STREAM)));
        assert!(refused.send(body(1), false).await.is_err());
        drop(dropped);
        assert_eq!(hear(request.into_body()).await.unwrap_err().reason(), Some(h2::Reason::CANCEL));
    })
    .await;
}

#[tokio::test]
async fn what_was_begun_is_served_when_a_server_of_ours_leaves() {
    locally(async {
        let (client, driver, served, leaves) = our_server(COMMON, COMMON, echo).await;
        let mut client = client.ready().await.unwrap();
        let (response, to) = client.send_request(post(), false).unwrap();
        let mut from = response.await.unwrap().into_body();
        leaves.notify_one();
        // Until it is told.
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        let said = spawn_local(say(to, body(200_000), Some(trailers())));
        from.flow_control().release_capacity(0).unwrap();
        let (all, after) = hear(from).await.unwrap();
        assert!(all == body(200_000) && after == Some(trailers()));
        said.await.unwrap().unwrap();
        assert_eq!(served.await.unwrap(), core::End::Closed);
        driver.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_was_begun_is_heard_when_a_server_of_theirs_leaves() {
    locally(async {
        let (client, running, mut server) = our_client(COMMON, COMMON).await;
        let stream = a_request(&client, false);
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        server.graceful_shutdown();
        let ended = spawn_local(async move { server.accept().await.is_none() });
        while client.is_open() {
            tokio::task::yield_now().await;
        }
        let head = RequestHead { method: "GET".into(), ..RequestHead::default() };
        assert_eq!(client.send(&head, true).err(), Some(Failure::NotTaken));
        let to = respond.send_response(Response::new(()), false).unwrap();
        spawn_local(async move {
            let (all, after) = hear(request.into_body()).await.unwrap();
            say(to, all.into(), after).await.unwrap();
        });
        ask_ours(stream, 200_000, true).await;
        assert_eq!(running.await.unwrap(), core::End::Closed);
        assert!(ended.await.unwrap());
        assert_eq!(client.send(&head, true).err(), Some(Failure::Closed));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_amid_a_frame_ends_its_streams() {
    use tokio::io::AsyncWriteExt as _;
    locally(async {
        let (io, mut socket) = pair();
        let failures = Rc::new(RefCell::new(Vec::new()));
        let served = spawn_local(serve(Connection::server(io, COMMON, Rc::default()), Rc::default(), {
            let failures = Rc::clone(&failures);
            move |stream| {
                let failures = Rc::clone(&failures);
                async move {
                    let failure = heard(&stream).await.unwrap_err();
                    let sent = stream.send(body(1), true).await;
                    failures.borrow_mut().push((failure, sent.is_err()));
                }
            }
        }));
        let begun = [made(frame::HEADERS, WHOLE, 1, POST), made(frame::HEADERS, WHOLE, 3, POST)].concat();
        let half = &made(frame::DATA, 0, 1, &[0; 100])[..50];
        socket.write_all(&[PREFACE, &made(frame::SETTINGS, 0, 0, b""), &begun, half].concat()).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(served.await.unwrap(), core::End::Closed);
        while failures.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*failures.borrow(), [(Failure::Closed, true); 2]);
    })
    .await;
}

/// Whether the only data that a client gets say that they are the last.
async fn ends_with_data(delivered: bool) -> bool {
    let (mut client, ..) = our_server(COMMON, COMMON, move |stream| async move {
        stream.send_head(200, &Headers::new(), false).unwrap();
        let (mut source, mut sink) = (Source::Http2(&stream), Sink::Http2(&stream));
        match delivered {
            true => deliver(&mut source, &mut sink, |_| ()).await.unwrap(),
            false => copy(&mut source, &mut sink, |_| ()).await.unwrap(),
        }
    })
    .await;
    let (response, mut to) = client.send_request(post(), false).unwrap();
    to.send_data("all".into(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "all");
    let ends = body.is_end_stream();
    assert!(body.data().await.is_none_or(|data| data.unwrap().is_empty()));
    ends
}

#[tokio::test]
async fn the_last_data_of_what_is_delivered_end_it() {
    locally(async {
        assert!(ends_with_data(true).await);
        assert!(!ends_with_data(false).await);
    })
    .await;
}
