//! HTTP/2 upstreams that go away or fall silent, frame by frame, which no library does on request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What such an upstream does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    /// Its first connection refuses every stream by a GOAWAY with this code; later ones answer.
    GoAway(u8),
    /// Its first connection says GOAWAY at a stream, and answers it all the same.
    GoAwayAfter,
    /// Takes streams, and answers neither them nor PINGs.
    Mute,
}

impl Manner {
    /// The manner of the upstream of this name: `goaway-CODE…`, `goaway-after…`, `mute…`.
    pub fn of(name: &str) -> Option<Manner> {
        if name.starts_with("mute") {
            return Some(Manner::Mute);
        }
        let rest = name.strip_prefix("goaway-")?;
        Some(match rest.chars().next().and_then(|code| code.to_digit(10)) {
            Some(code) => Manner::GoAway(code as u8),
            None => Manner::GoAwayAfter,
        })
    }
}

/// Serves until the listener's runtime ends.
pub async fn serve(manner: Manner, listener: TcpListener) {
    let mut first = true;
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(manner, stream, first));
        first = false;
    }
}

async fn connection(manner: Manner, mut stream: TcpStream, first: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&frame(4, 0, 0, &[])).await?;
    stream.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let acknowledges = head[4] & 1 == 1;
        match (head[3], manner) {
            (4, _) if !acknowledges => stream.write_all(&frame(4, 1, 0, &[])).await?,
            (_, Manner::Mute) => {}
            (6, _) if !acknowledges => stream.write_all(&frame(6, 1, 0, &payload)).await?,
            (1, Manner::GoAway(code)) if first => {
                stream.write_all(&frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, code])).await?;
            }
            (1, _) => {
                if first && manner == Manner::GoAwayAfter {
                    let [a, b, c, d] = id.to_be_bytes();
                    stream.write_all(&frame(7, 0, 0, &[a, b, c, d, 0, 0, 0, 0])).await?;
                }
                // `:status: 200`, entry 8 of HPACK's static table; the stream ends with it.
                stream.write_all(&frame(1, 5, id, &[0x88])).await?;
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
