use std::cell::Cell;

use bytes::{Buf as _, Bytes, BytesMut};
use lateen_traffic::Headers;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

use super::peer::{locally, pair, serve};
use super::*;
use crate::http2::connection::Connection;
use crate::http2::core::MOST_OUT;
use crate::http2::frame::{MAX_PAYLOAD, setting as name};
use crate::http2::goaway::LAST_CALL;
use crate::http2::stream::Failure;

/// Makes the next one.
type Frame = fn(u32) -> Vec<u8>;

fn ping() -> Vec<u8> {
    made(frame::PING, 0, 0, &[0; 8])
}

#[test]
fn answers_that_are_not_taken_are_a_thousand() {
    let answered: [(&str, Frame); 4] = [
        ("pings", |_| ping()),
        ("settings", |_| made(frame::SETTINGS, 0, 0, b"")),
        ("requests that are none", |nth| made(frame::HEADERS, LAST, 2 * nth + 1, TRAILERS)),
        ("requests that are too large", |nth| made(frame::HEADERS, LAST, 2 * nth + 1, &TRAILERS.repeat(200))),
    ];
    for (what, frame) in answered {
        let end = End::server(SETTINGS);
        (0..1000).for_each(|nth| end.hears(&frame(nth)));
        assert!(end.core.borrow().end.is_none(), "{what}");
        end.hears(&frame(1000));
        assert_eq!(end.failed(), Some(Reason::ENHANCE_YOUR_CALM), "{what}");
    }
}

#[test]
fn who_ends_less_than_half_of_its_requests_is_served() {
    let end = End::server(SETTINGS);
    for nth in 0..2000 {
        end.hears(&made(frame::HEADERS, LAST, 2 * nth + 1, GET));
        if nth % 2 == 1 {
            end.hears(&numbered(frame::RST_STREAM, 2 * nth + 1, 8));
        }
        let _ = end.accepted().unwrap().send_head(200, &Default::default(), true);
        end.says();
    }
    assert!(end.lives());
}

#[test]
fn a_block_of_fields_has_an_end() {
    let begun = made(frame::HEADERS, frame::END_STREAM, 1, GET);
    let empty = made(frame::CONTINUATION, 0, 1, b"");
    let full = made(frame::CONTINUATION, 0, 1, &[0x82; MAX_PAYLOAD]);
    for (part, most) in [(empty, 127), (full, 4)] {
        let end = End::server(SETTINGS);
        end.hears(&begun);
        (0..most).for_each(|_| end.hears(&part));
        assert!(end.core.borrow().end.is_none());
        end.hears(&part);
        assert_eq!(end.failed(), Some(Reason::ENHANCE_YOUR_CALM));
    }
}

#[test]
fn streams_beyond_those_that_may_be_open_are_refused() {
    let end = End::server(Settings { max_streams: 2, ..SETTINGS });
    for id in [1, 3, 5] {
        end.hears(&made(frame::HEADERS, WHOLE, id, POST));
    }
    assert_eq!(end.says_of(frame::RST_STREAM), [(5, Reason::REFUSED_STREAM.0)]);
    let first = end.accepted().unwrap();
    assert!(end.begun().is_some() && end.begun().is_none());
    first.send_head(200, &Default::default(), true).unwrap();
    end.hears(&made(frame::HEADERS, LAST, 7, GET));
    assert_eq!(end.says_of(frame::RST_STREAM), [(7, Reason::REFUSED_STREAM.0)]);
    // It is over when both have ended it.
    end.hears(&made(frame::DATA, frame::END_STREAM, 1, b""));
    end.hears(&made(frame::HEADERS, LAST, 9, GET));
    assert!(end.says_of(frame::RST_STREAM).is_empty() && end.begun().is_some());
}

#[test]
fn what_a_client_may_not_have_known_of_is_served_when_we_leave() {
    let end = End::server(SETTINGS);
    end.hears(&made(frame::HEADERS, LAST, 1, GET));
    let first = end.accepted().unwrap();
    end.core.borrow_mut().leave();
    end.core.borrow_mut().leave();
    let said = end.says();
    let kinds: Vec<_> = said.iter().map(|(head, _)| head.kind).collect();
    assert_eq!(kinds, [frame::GOAWAY, frame::PING]);
    assert_eq!(said[0].1, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    end.hears(&made(frame::HEADERS, LAST, 3, GET));
    let second = end.accepted().unwrap();
    // The answer to another PING says nothing.
    end.hears(&made(frame::PING, frame::ACK, 0, b"12345678"));
    assert!(end.says().is_empty());
    end.hears(&made(frame::PING, frame::ACK, 0, &LAST_CALL));
    assert_eq!(end.says_of(frame::GOAWAY), [(0, 3)]);
    end.hears(&[made(frame::HEADERS, WHOLE, 5, POST), made(frame::DATA, 0, 5, b"x")].concat());
    assert!(end.begun().is_none() && end.says().is_empty());
    let headers = Default::default();
    first.send_head(200, &headers, true).unwrap();
    assert!(!end.core.borrow().is_done());
    second.send_head(200, &headers, true).unwrap();
    assert!(end.core.borrow().is_done());
}

#[test]
fn what_is_not_taken_up_is_never_said_to_be() {
    let end = End::server(SETTINGS);
    end.core.borrow_mut().leave_now();
    end.hears(&made(frame::HEADERS, LAST, 7, GET));
    end.hears(&made(frame::DATA, 0, 0, b"x"));
    assert_eq!(end.says_of(frame::GOAWAY), [(0, 0), (0, 0)]);
}

#[test]
fn a_server_takes_as_many_streams_as_it_says_or_any_number() {
    let end = End::silent(Side::Client, SETTINGS);
    let most = || end.core.borrow().most_streams();
    assert_eq!(most(), 100, "before it has said anything");
    end.hears(&made(frame::SETTINGS, 0, 0, &[]));
    assert_eq!(most(), u32::MAX);
    end.hears(&setting(name::MAX_CONCURRENT_STREAMS, 7));
    end.hears(&made(frame::SETTINGS, 0, 0, &[]));
    assert_eq!(most(), 7);
}

#[test]
fn a_server_that_reads_nothing_is_asked_no_more() {
    let end = End::client(SETTINGS);
    let asked =
        (0..100_000).take_while(|_| end.core.borrow().is_open()).inspect(|_| drop(end.asks("GET", true))).count();
    assert!((1000..100_000).contains(&asked), "{asked}");
    end.says();
    assert!(end.core.borrow().is_open());
}

#[test]
fn what_a_leaving_server_has_not_taken_up_can_be_asked_elsewhere() {
    let end = End::client(SETTINGS);
    let streams = [end.asks("GET", true), end.asks("GET", true)];
    end.hears(&made(frame::GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
    assert!(!end.core.borrow().is_open() && !end.core.borrow().is_done());
    let mut head = Default::default();
    assert_eq!(now(streams[1].head(&mut head)), None);
    end.hears(&made(frame::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert_eq!(now(streams[1].head(&mut head)), Some(Err(Failure::NotTaken)));
    assert_eq!(now(streams[0].head(&mut head)), None);
    end.hears(&made(frame::HEADERS, LAST, 1, OK));
    assert_eq!(now(streams[0].head(&mut head)), Some(Ok(())));
    assert!(end.core.borrow().is_done());
}

#[test]
fn its_driver_is_woken_by_the_last_of_its_streams() {
    for over_by_drop in [true, false] {
        let end = End::server(SETTINGS);
        end.hears(&made(frame::HEADERS, LAST, 1, GET));
        let stream = end.accepted().unwrap();
        end.hears(&made(frame::GOAWAY, 0, 0, &[0; 8]));
        let woken = Arc::<Woken>::default();
        end.core.borrow_mut().driven_by(&Context::from_waker(&Waker::from(Arc::clone(&woken))));
        if !over_by_drop {
            stream.send_head(200, &Default::default(), true).unwrap();
        }
        drop(stream);
        assert!(woken.take() > 0 && end.core.borrow().is_done());
    }
}

#[test]
fn answers_that_are_taken_are_none_however_much_follows_them() {
    let end = End::server(SETTINGS);
    end.hears(&setting(name::INITIAL_WINDOW_SIZE, 1 << 30));
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 1 << 30));
    end.hears(&made(frame::HEADERS, LAST, 1, GET));
    let stream = end.accepted().unwrap();
    stream.send_head(200, &Default::default(), false).unwrap();
    // The buffer is never empty.
    for _ in 0..3000 {
        end.hears(&ping());
        let _ = now(stream.send(Bytes::from(vec![0; MAX_PAYLOAD]), false));
        let mut core = end.core.borrow_mut();
        assert!(core.end.is_none());
        if core.out.len() > MOST_OUT / 2 {
            core.written(MAX_PAYLOAD);
        }
    }
    // Again nothing is taken.
    (0..1001).for_each(|_| end.hears(&ping()));
    assert!(end.core.borrow().end.is_some());
}

#[test]
fn who_begins_requests_only_to_end_them_is_stopped() {
    let endings: [(&str, Frame); 2] = [
        ("by a reset", |id| numbered(frame::RST_STREAM, id, 8)),
        ("by what has us reset them", |id| numbered(frame::WINDOW_UPDATE, id, 0)),
    ];
    for (what, ending) in endings {
        let end = End::server(SETTINGS);
        let begin_and_end = |nth: u32| {
            end.hears(&made(frame::HEADERS, LAST, 2 * nth + 1, GET));
            end.hears(&ending(2 * nth + 1));
            drop(end.accepted());
        };
        for nth in 0..499 {
            begin_and_end(nth);
            assert!(end.core.borrow().end.is_none(), "{what}: {nth}");
            end.says();
        }
        begin_and_end(499);
        assert_eq!(end.failed(), Some(Reason::ENHANCE_YOUR_CALM), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_answers_is_not_asked_for_more() {
    // More than the sockets and buffers between two ends hold.
    const MANY: u32 = 4000;
    locally(async {
        let (io, socket) = pair();
        let (mut from, mut to) = socket.into_split();
        let answered = Rc::new(Cell::new(0));
        let settings = Settings { max_streams: MANY, ..SETTINGS };
        spawn_local(serve(Connection::server(io, settings, Rc::default()), Rc::default(), {
            let answered = Rc::clone(&answered);
            let headers: Rc<Headers> = Rc::new([("location", "v".repeat(1000))].into_iter().collect());
            move |stream| {
                let (answered, headers) = (Rc::clone(&answered), Rc::clone(&headers));
                async move {
                    stream.send_head(200, &headers, true).unwrap();
                    answered.set(answered.get() + 1);
                }
            }
        }));
        let asked = spawn_local(async move {
            to.write_all(&[PREFACE, &made(frame::SETTINGS, 0, 0, b"")].concat()).await.unwrap();
            for nth in 0..MANY {
                let request = made(frame::HEADERS, LAST, 2 * nth + 1, GET);
                // So long that a read has few of them.
                to.write_all(&[request, made(99, 0, 0, &[0; 4000])].concat()).await.unwrap();
            }
            to
        });
        // Time goes on when nothing else does.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!asked.is_finished() && answered.get() < MANY / 2, "{}", answered.get());
        let (mut read, mut heads) = (BytesMut::new(), 0);
        while heads < MANY {
            assert!(from.read_buf(&mut read).await.unwrap() > 0);
            while let Some(head) = Head::read(&read).filter(|head| read.len() >= HEAD + head.length) {
                heads += u32::from(head.kind == frame::HEADERS);
                read.advance(HEAD + head.length);
            }
        }
        drop(asked.await.unwrap());
    })
    .await;
}
