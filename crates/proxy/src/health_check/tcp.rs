//! Bytes over a connection, or just a connection.

use std::rc::Rc;

use bytes::BytesMut;
use lateen_traffic::health_check::{Outcome, TcpProbe, finds};

use super::NoAnswer;
use super::connection::{Connection, tell_of_itself};
use crate::io::Io;

/// Bytes among which those that are expected are looked for.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A connection, and what came over it since it last answered.
pub struct Tcp {
    io: Rc<Io>,
    buffer: BytesMut,
}

impl Tcp {
    pub(super) fn new(io: Rc<Io>) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Ready when the peer ended the connection. What it says unasked stays for the next answer.
    pub(super) async fn lost(&mut self) {
        while self.buffer.len() < LONGEST_ANSWER {
            match self.io.read_into(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }
}

pub(super) async fn ask(connection: &mut Connection, probe: &TcpProbe) -> Result<Outcome, NoAnswer> {
    let Connection::Tcp(tcp) = connection else { return Err(NoAnswer) };
    if probe.receive.is_empty() {
        // That it was made is the answer. As with Envoy, nothing is sent: nobody would wait until it is.
        return Ok(Outcome::Good);
    }
    if let Some(version) = probe.proxy_protocol {
        tell_of_itself(&tcp.io, version).await?;
    }
    tcp.io.write(&probe.send).await?;
    while !finds(&probe.receive, &tcp.buffer) {
        if tcp.buffer.len() >= LONGEST_ANSWER || tcp.io.read_into(&mut tcp.buffer).await? == 0 {
            return Err(NoAnswer);
        }
    }
    tcp.buffer.clear();
    Ok(Outcome::Good)
}
