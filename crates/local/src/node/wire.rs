//! Messages between the supervisor and the node: JSON over a seqpacket socket, descriptors beside it (`SCM_RIGHTS`).
//!
//! A message that would not fit a packet (ConfigMaps) travels in a memfd, which is then the first descriptor. Both
//! ends are the same binary and no other process ever holds the socket, so there is no versioning.

use super::failure::{Failure, NodeError};
use super::request::{ContainerId, CreatePod, ExitStatus, Listen, PodId, Program, Role, Socket};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors a message may carry.
pub(super) const MAX_FDS: usize = 64;
/// Bytes of JSON that go into the packet itself.
const MAX_INLINE: usize = 32 * 1024;
/// Bytes of JSON in all.
pub(super) const MAX_BODY: usize = 64 * 1024 * 1024;

const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;

/// Supervisor to node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) call: Call,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    CreatePod(CreatePod),
    DeletePod(PodId),
    Spawn(SpawnCall),
    Kill(ContainerId, i32),
    Listen(Listen),
    Socket(Socket),
}

/// [`super::Spawn`] without its descriptors, which follow in the order stdin, stdout, stderr, listeners.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SpawnCall {
    pub(super) place: super::Place,
    pub(super) program: Program,
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: Option<String>,
    pub(super) role: Role,
    /// Which of stdin, stdout, stderr are given.
    pub(super) stdio: [bool; 3],
    pub(super) listeners: Vec<String>,
    pub(super) hidden: Vec<String>,
    pub(super) tty: bool,
}

/// Node to supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// First message: the node runs.
    Ready { ipv6: bool, notes: Vec<String> },
    /// First message instead: it cannot.
    Failed(Failure),
    /// To one request.
    Reply { id: u64, result: Result<Answer, Failure> },
    /// A container ended. Comes after the reply that announced it.
    Exited { container: ContainerId, status: ExitStatus },
}

/// A request's result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Pod(PodId),
    /// A pidfd of the container comes along where the kernel has them (Linux 5.3).
    Container(ContainerId),
    /// A socket comes along.
    Socket,
    Done,
}

/// A message encoded for [`send`].
#[derive(Debug)]
pub(super) struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Packet {
    pub(super) fn encode<T: Serialize>(message: &T, mut fds: Vec<OwnedFd>) -> Result<Self, NodeError> {
        if fds.len() > MAX_FDS {
            return Err(NodeError::TooLarge { what: "descriptors", size: fds.len(), limit: MAX_FDS });
        }
        let broken = |source: io::Error| NodeError::Supervisor { step: "write a message for the node", source };
        let body = serde_json::to_vec(message).map_err(|e| broken(e.into()))?;
        if body.len() > MAX_BODY {
            return Err(NodeError::TooLarge { what: "bytes", size: body.len(), limit: MAX_BODY });
        }
        let bytes = if body.len() <= MAX_INLINE {
            let mut bytes = Vec::with_capacity(1 + body.len());
            bytes.push(INLINE);
            bytes.extend_from_slice(&body);
            bytes
        } else {
            fds.insert(0, memfd(&body).map_err(broken)?);
            vec![IN_MEMFD]
        };
        Ok(Self { bytes, fds })
    }
}

fn memfd(body: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the call has no other precondition.
    let fd = unsafe { libc::memfd_create(c"lateen".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(body)?;
    file.rewind()?;
    Ok(file.into())
}

/// Room for the control message of `MAX_FDS` descriptors and the memfd, aligned as `cmsghdr` wants.
const CONTROL_WORDS: usize = 64;

/// Sends one packet. A blocking socket waits for room; on a non-blocking one the error is `WouldBlock`.
pub(super) fn send(socket: BorrowedFd<'_>, packet: &Packet) -> io::Result<()> {
    let mut control = [0u64; CONTROL_WORDS];
    let iov = [IoSlice::new(&packet.bytes)];
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_ptr() as *mut libc::iovec;
    header.msg_iovlen = iov.len() as _;
    if !packet.fds.is_empty() {
        let size = packet.fds.len() * size_of::<RawFd>();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; the buffer holds CMSG_SPACE((MAX_FDS + 1) * 4) bytes, so the
        // first header and its data lie inside it.
        unsafe {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size as u32) as _;
            let cmsg = libc::CMSG_FIRSTHDR(&header);
            (*cmsg).cmsg_level = libc::SOL_SOCKET;
            (*cmsg).cmsg_type = libc::SCM_RIGHTS;
            (*cmsg).cmsg_len = libc::CMSG_LEN(size as u32) as _;
            for (i, fd) in packet.fds.iter().enumerate() {
                libc::CMSG_DATA(cmsg).cast::<RawFd>().add(i).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: header points to buffers that live until the call returns.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
        match sent {
            0.. => return Ok(()),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

/// Receives one message; `None` when the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut buffer = vec![0u8; 1 + MAX_INLINE];
    let mut iov = [IoSliceMut::new(&mut buffer)];
    // SAFETY: an all-zero msghdr is a valid, empty one.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_mut_ptr().cast();
    header.msg_iovlen = iov.len() as _;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let length = loop {
        // SAFETY: header points to buffers that live until the call returns.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(got) {
            Ok(length) => break length,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled msg_control and set its length; the CMSG macros stay inside it, and every
    // descriptor in an SCM_RIGHTS message is new and ours.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(&header);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_SOCKET && (*cmsg).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*cmsg).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for i in 0..bytes / size_of::<RawFd>() {
                    let fd = libc::CMSG_DATA(cmsg).cast::<RawFd>().add(i).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            cmsg = libc::CMSG_NXTHDR(&header, cmsg);
        }
    }
    if length == 0 {
        return Ok(None);
    }
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message cut short (out of descriptors?)"));
    }
    match buffer.get(..length).and_then(<[u8]>::split_first) {
        Some((&INLINE, body)) => Ok(Some((serde_json::from_slice(body)?, fds))),
        Some((&IN_MEMFD, _)) if !fds.is_empty() => {
            let file = File::from(fds.remove(0));
            let mut body = Vec::new();
            file.take(MAX_BODY as u64 + 1).read_to_end(&mut body)?;
            if body.len() > MAX_BODY {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "message over its limit"));
            }
            Ok(Some((serde_json::from_slice(&body)?, fds)))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "message of an unknown kind")),
    }
}

#[cfg(test)]
mod tests;
