//! The streams inside an exec connection (Kubernetes' remote command protocol, version 5).

/// The WebSocket subprotocol's name.
pub const SUBPROTOCOL: &str = "v5.channel.k8s.io";

/// Which stream a message belongs to: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// To the command.
    Stdin = 0,
    /// From the command.
    Stdout = 1,
    /// From the command.
    Stderr = 2,
    /// How the command ended: a `Status` object, last of all.
    Error = 3,
    /// The terminal's size.
    Resize = 4,
    /// The stream named by the second byte is at its end.
    Close = 255,
}

impl Channel {
    /// The channel of a first byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::Error),
            4 => Some(Self::Resize),
            255 => Some(Self::Close),
            _ => None,
        }
    }
}
