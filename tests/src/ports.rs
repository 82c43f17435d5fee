//! Loopback ports for processes that must be told theirs in advance.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below Linux's ephemeral range (32768 and up), so that no outgoing connection takes one between
/// the moment it is handed out and the moment the process binds it; and below Kubernetes' node ports (30000 and up),
/// which a mesh that runs beside has on the host.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port on 127.0.0.1 that nobody listens on. Not given out twice by one process until the
/// range is used up; two test processes start at different places in it.
pub fn free() -> u16 {
    let offset = (std::process::id().wrapping_mul(131) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
