use std::task::Context;

use bytes::Bytes;

use super::*;
use crate::http2::core::MOST_OUT;
use crate::http2::frame::setting as name;
use crate::router::body::{Piece, SinkClosed};

/// A sending of data that waits for room.
struct Sending<'a> {
    future: std::pin::Pin<Box<dyn Future<Output = Result<(), SinkClosed>> + 'a>>,
    woken: Arc<Woken>,
}

impl<'a> Sending<'a> {
    fn new(stream: &'a Stream, length: usize, last: bool) -> Self {
        let future = Box::pin(stream.send(Bytes::from(vec![b'd'; length]), last));
        let mut sending = Self { future, woken: Arc::default() };
        assert!(!sending.goes_on());
        sending
    }

    /// Whether it has come to its end. Only who was woken looks.
    fn goes_on(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.woken.take();
        self.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
    }

    fn was_woken(&self) -> bool {
        self.woken.take() > 0
    }
}

/// Bytes of data in what an end says, by stream.
fn data_of(end: &End) -> Vec<(u32, usize)> {
    let mut by_stream = std::collections::BTreeMap::new();
    for (head, _) in end.says().iter().filter(|(head, _)| head.kind == frame::DATA) {
        *by_stream.entry(head.stream).or_insert(0) += head.length;
    }
    by_stream.into_iter().collect()
}

fn answering(end: &End, id: u32) -> Stream {
    end.hears(&made(frame::HEADERS, LAST, id, GET));
    let stream = end.accepted().unwrap();
    stream.send_head(200, &Default::default(), false).unwrap();
    stream
}

const MORE: usize = 1 << 20;

#[test]
fn a_stream_waits_for_its_own_window_and_then_for_the_connections() {
    let end = End::server(SETTINGS);
    end.hears(&setting(name::INITIAL_WINDOW_SIZE, 100));
    let (a, b) = (answering(&end, 1), answering(&end, 3));
    let (mut first, mut second) = (Sending::new(&a, MORE, true), Sending::new(&b, MORE, true));
    assert_eq!(data_of(&end), [(1, 100), (3, 100)]);
    // Room on the connection is none for them.
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 5));
    assert!(!first.was_woken() && !second.was_woken());
    end.hears(&numbered(frame::WINDOW_UPDATE, 1, 1 << 20));
    assert!(first.was_woken() && !second.was_woken());
    assert!(!first.goes_on());
    let rest = DEFAULT_WINDOW as usize - 200 + 5;
    assert_eq!(data_of(&end), [(1, rest)]);
    // Now the connection has none, and each waits for another one.
    end.hears(&numbered(frame::WINDOW_UPDATE, 1, 1));
    assert!(first.was_woken() && !first.goes_on());
    end.hears(&numbered(frame::WINDOW_UPDATE, 3, 10));
    assert!(second.was_woken() && !second.goes_on());
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 12));
    assert!(first.was_woken() && second.was_woken());
    assert!(!second.goes_on() && !first.goes_on());
    assert_eq!(data_of(&end), [(1, 2), (3, 10)]);
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 1));
    assert!(first.was_woken() && !second.was_woken());
}

#[test]
fn windows_that_settings_make_negative_have_to_come_back() {
    let end = End::server(SETTINGS);
    let stream = answering(&end, 1);
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 1 << 20));
    let mut sending = Sending::new(&stream, DEFAULT_WINDOW as usize + 50, true);
    assert_eq!(data_of(&end), [(1, DEFAULT_WINDOW as usize)]);
    end.hears(&setting(name::INITIAL_WINDOW_SIZE, 0));
    end.hears(&numbered(frame::WINDOW_UPDATE, 1, DEFAULT_WINDOW));
    assert!(!sending.was_woken() && !sending.goes_on());
    end.hears(&setting(name::INITIAL_WINDOW_SIZE, 20));
    assert!(sending.was_woken() && !sending.goes_on());
    assert_eq!(data_of(&end), [(1, 20)]);
    end.hears(&numbered(frame::WINDOW_UPDATE, 1, 30));
    assert!(sending.was_woken() && sending.goes_on());
    let said = end.says();
    assert_eq!(said.iter().map(|(head, _)| (head.length, head.flags)).collect::<Vec<_>>(), [(30, frame::END_STREAM)]);
    // Streams that begin now have the new one.
    let next = answering(&end, 3);
    Sending::new(&next, 21, true);
    assert_eq!(data_of(&end), [(3, 20)]);
}

#[test]
fn data_wait_while_too_much_is_to_be_written() {
    let end = End::server(SETTINGS);
    end.hears(&setting(name::INITIAL_WINDOW_SIZE, 1 << 30));
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 1 << 30));
    end.says();
    let stream = answering(&end, 1);
    let mut sending = Sending::new(&stream, MORE, true);
    let out = end.core.borrow().out.len();
    assert!((MOST_OUT..MOST_OUT + 100).contains(&out), "{out}");
    // Room in a window is none in the buffer.
    end.hears(&numbered(frame::WINDOW_UPDATE, 0, 1));
    end.core.borrow_mut().written(HEAD);
    let mut written = HEAD;
    while !sending.goes_on() {
        let len = end.core.borrow().out.len().min(10_000);
        end.core.borrow_mut().written(len);
        written += len;
        assert!(sending.was_woken() || end.core.borrow().out.len() >= MOST_OUT);
    }
    written += end.core.borrow().out.len();
    assert!(written > MORE);
}

#[test]
fn who_waits_and_goes_is_forgotten() {
    let end = End::server(SETTINGS);
    // The connection's window is used up.
    let full = answering(&end, 1);
    let _ = now(full.send(Bytes::from(vec![0; DEFAULT_WINDOW as usize]), false));
    end.says();
    for id in [3, 5] {
        end.hears(&made(frame::HEADERS, LAST, id, GET));
        let inner = end.begun().unwrap();
        let left = Rc::downgrade(&inner);
        let stream = Stream::new(Rc::clone(&end.core), inner);
        stream.send_head(200, &Default::default(), false).unwrap();
        drop(Sending::new(&stream, 1, true));
        if id == 3 {
            end.hears(&numbered(frame::RST_STREAM, id, 8));
        }
        drop(stream);
        assert!(left.upgrade().is_none());
    }
}

#[test]
fn a_stream_that_is_over_is_granted_nothing() {
    let end = End::server(SETTINGS);
    let body = made(frame::DATA, 0, 1, &[0; 16_384]).repeat(3);
    for reset_by_us in [true, false] {
        let id = if reset_by_us { 1 } else { 3 };
        end.hears(&made(frame::HEADERS, WHOLE, id, POST));
        let stream = end.accepted().unwrap();
        let mut body = body.clone();
        (0..3).for_each(|nth| body[nth * (HEAD + 16_384) + 8] = id as u8);
        end.hears(&body);
        if reset_by_us {
            stream.reset(Reason::CANCEL);
        } else {
            end.hears(&numbered(frame::RST_STREAM, id, 8));
        }
        end.says();
        assert!(matches!(now(stream.next()), Some(Ok(Piece::Data(data))) if data.len() == 3 * 16_384));
        // The connection's window comes back all the same.
        assert_eq!(end.says_of(frame::WINDOW_UPDATE), [(0, 3 * 16_384)]);
    }
}

mod accounts {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Begin { announces: bool },
        Data { of: usize, data: usize, padding: usize, ends: bool },
        Reset { of: usize },
        Read { of: usize },
        Answer { of: usize, ends: bool },
        OwnReset { of: usize },
        Drop { of: usize },
        Settings { window: u32 },
    }

    fn op() -> impl Strategy<Value = Op> {
        let of = 0usize..8;
        prop_oneof![
            2 => any::<bool>().prop_map(|announces| Op::Begin { announces }),
            8 => (of.clone(), 0usize..16_000, 0usize..256, prop::bool::weighted(0.1))
                .prop_map(|(of, data, padding, ends)| Op::Data { of, data, padding, ends }),
            1 => of.clone().prop_map(|of| Op::Reset { of }),
            4 => of.clone().prop_map(|of| Op::Read { of }),
            1 => (of.clone(), any::<bool>()).prop_map(|(of, ends)| Op::Answer { of, ends }),
            1 => of.clone().prop_map(|of| Op::OwnReset { of }),
            1 => of.prop_map(|of| Op::Drop { of }),
            1 => (0u32..100_000).prop_map(|window| Op::Settings { window }),
        ]
    }

    /// What the client knows of the windows that it has.
    struct Client {
        end: End,
        connection: i64,
        streams: BTreeMap<u32, i64>,
        handles: Vec<(u32, Stream)>,
        next: u32,
    }

    impl Client {
        fn listen(&mut self) {
            for (head, payload) in self.end.says() {
                match head.kind {
                    frame::WINDOW_UPDATE if head.stream == 0 => {
                        self.connection += i64::from(frame::number(&payload).unwrap());
                    }
                    frame::WINDOW_UPDATE => {
                        let window = self.streams.get_mut(&head.stream).expect("a stream that is not reset");
                        *window += i64::from(frame::number(&payload).unwrap());
                        assert!(*window <= i64::from(DEFAULT_WINDOW));
                    }
                    frame::RST_STREAM => {
                        self.streams.remove(&head.stream);
                    }
                    frame::GOAWAY => panic!("the connection ended"),
                    _ => {}
                }
            }
        }

        fn apply(&mut self, op: &Op) {
            let of = |of: usize, client: &Self| client.handles.get(of).map(|(id, _)| *id);
            match *op {
                Op::Begin { announces } => {
                    let fields = if announces { with_length(POST, "100") } else { POST.to_vec() };
                    self.end.hears(&made(frame::HEADERS, WHOLE, self.next, &fields));
                    self.streams.insert(self.next, i64::from(DEFAULT_WINDOW));
                    self.handles.push((self.next, self.end.accepted().unwrap()));
                    self.next += 2;
                }
                Op::Data { of: nth, data, padding, ends } => {
                    let Some(id) = of(nth, self) else { return };
                    let length = (data + padding + 1) as i64;
                    // A stream that the client has not yet heard to be over has the window that it had.
                    let window = self.streams.get_mut(&id);
                    if length > self.connection || window.as_ref().is_none_or(|window| **window < length) {
                        return;
                    }
                    self.connection -= length;
                    *window.unwrap() -= length;
                    let mut bytes = padded(id, data, padding);
                    bytes[4] |= u8::from(ends) * frame::END_STREAM;
                    self.end.hears(&bytes);
                }
                Op::Reset { of: nth } => {
                    let Some(id) = of(nth, self) else { return };
                    // What was said before it was sent is not yet of a stream that is over.
                    self.listen();
                    if self.streams.remove(&id).is_some() {
                        self.end.hears(&numbered(frame::RST_STREAM, id, 8));
                    }
                }
                Op::Read { of } => drop(self.handles.get(of).and_then(|(_, stream)| now(stream.next()))),
                Op::Answer { of, ends } => {
                    if let Some((_, stream)) = self.handles.get(of) {
                        let _ = stream.send_head(200, &Default::default(), ends);
                    }
                }
                Op::OwnReset { of } => self.handles.iter().skip(of).take(1).for_each(|(_, s)| s.reset(Reason::CANCEL)),
                Op::Drop { of } => {
                    if of < self.handles.len() {
                        self.handles.remove(of);
                    }
                }
                Op::Settings { window } => self.end.hears(&setting(name::INITIAL_WINDOW_SIZE, window)),
            }
        }
    }

    proptest! {
        #[test]
        fn no_window_is_lost(ops in prop::collection::vec((op(), any::<bool>()), 0..200)) {
            let end = End::server(SETTINGS);
            let window = i64::from(DEFAULT_WINDOW);
            let mut client =
                Client { end, connection: window, streams: BTreeMap::new(), handles: Vec::new(), next: 1 };
            for (op, listens) in &ops {
                client.apply(op);
                if *listens {
                    client.listen();
                }
            }
            client.listen();
            // What is read comes back, but for less than half a window that waits for more.
            for (_, stream) in &client.handles {
                while let Some(Ok(Piece::Data(_))) = now(stream.next()) {}
            }
            client.listen();
            for (id, stream) in &client.handles {
                let is_read = now(stream.next()).is_none();
                if let Some(left) = client.streams.get(id).filter(|_| is_read) {
                    prop_assert!(*left > window / 2, "{id}: {left}");
                }
            }
            client.handles.clear();
            client.listen();
            prop_assert!(client.connection > window / 2 && client.connection <= window);
            prop_assert_eq!(client.end.core.borrow().streams.len(), 0);
        }
    }
}

/// Notes who was woken, in order.
struct Noted(usize, Arc<std::sync::Mutex<Vec<usize>>>);

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

#[test]
fn streams_that_wait_take_turns() {
    let end = End::server(SETTINGS);
    end.hears(&setting(name::INITIAL_WINDOW_SIZE, 1 << 30));
    let streams: Vec<_> = [1, 3, 5].map(|id| answering(&end, id)).into();
    let woken = Arc::default();
    let mut sendings: Vec<_> = streams.iter().map(|s| Box::pin(s.send(vec![0; MORE].into(), true))).collect();
    let wakers = [0, 1, 2].map(|nth| Waker::from(Arc::new(Noted(nth, Arc::clone(&woken)))));
    let mut go_on = |nth: usize| {
        assert!(sendings[nth].as_mut().poll(&mut Context::from_waker(&wakers[nth])).is_pending());
    };
    (0..3).for_each(&mut go_on);
    end.says();
    for _ in 0..6 {
        end.hears(&numbered(frame::WINDOW_UPDATE, 0, 1000));
        // As a runtime does.
        let ready = std::mem::take(&mut *woken.lock().unwrap());
        ready.into_iter().for_each(&mut go_on);
    }
    assert_eq!(data_of(&end), [(1, 2000), (3, 2000), (5, 2000)]);
}
