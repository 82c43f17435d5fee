//! The PROXY protocol header that a client's connection begins with.

use bytes::{Buf as _, BytesMut};
use lateen_traffic::listener::{ExpectHeader, Listener};
use lateen_traffic::proxy_protocol::{self, Header, Told};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::stats::ListenerStats;
use crate::timer::Timer;

/// Takes the header off a connection's first bytes; what follows it stays in `prefix`. `None`: the connection is to be
/// closed. As with Envoy, a header that is late ends the connection unless the listener goes on without.
pub(super) async fn take(
    expect: ExpectHeader,
    listener: &Listener,
    stats: &ListenerStats,
    stream: &mut TcpStream,
    prefix: &mut BytesMut,
) -> Option<Option<Told>> {
    let mut timer = Timer::default();
    let deadline = listener.inspect_timeout.map(|limit| Instant::now() + limit);
    loop {
        match proxy_protocol::read(prefix) {
            Header::NeedMore => {}
            Header::Whole(length, told) => {
                prefix.advance(length);
                return Some(told);
            }
            Header::Absent if expect == ExpectHeader::Perhaps => return Some(None),
            Header::Absent | Header::Bad => {
                stats.downstream_listener_filter_error.inc();
                return None;
            }
        }
        prefix.reserve(4096);
        match crate::timer::before(&mut timer, deadline, stream.read_buf(prefix)).await {
            Some(Ok(0)) => {
                stats.downstream_listener_filter_remote_close.inc();
                return None;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => {
                stats.downstream_listener_filter_error.inc();
                return None;
            }
            None => {
                stats.downstream_pre_cx_timeout.inc();
                return listener.continue_on_inspect_timeout.then_some(None);
            }
        }
    }
}
