//! Upstream sockets, and where a redirected connection was meant to go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use lateen_traffic::cluster::{
    ClusterSettings, EndpointAddress, SocketOption, SocketOptionValue, TcpKeepalive, UpstreamBind,
};
use tokio::net::{TcpSocket, TcpStream};

use crate::io::Socket;

/// Connects to a host of a cluster, which binds as its settings say, else by `bind`.
///
/// # Errors
/// Those of the system calls.
pub async fn dial(
    host: &EndpointAddress,
    settings: &ClusterSettings,
    bind: Option<&UpstreamBind>,
) -> io::Result<Socket> {
    match host {
        EndpointAddress::Socket(address) => {
            connect(*address, settings.bind.as_ref().or(bind), settings.tcp_keepalive).await.map(Socket::Tcp)
        }
        EndpointAddress::Pipe(path) => tokio::net::UnixStream::connect(&**path).await.map(Socket::Unix),
        // Names are resolved before they become hosts.
        EndpointAddress::Dns { .. } => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// Connects to `target` with the given binding and keepalive.
///
/// # Errors
/// Those of the system calls.
pub async fn connect(
    target: SocketAddr,
    bind: Option<&UpstreamBind>,
    keepalive: Option<TcpKeepalive>,
) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(bind) = bind {
        for option in &bind.options {
            set_option(socket.as_raw_fd(), option)?;
        }
        let source =
            [bind.source, bind.source_other_family].into_iter().flatten().find(|s| s.is_ipv4() == target.is_ipv4());
        if let Some(source) = source {
            socket.bind(source)?;
        }
    }
    if let Some(keepalive) = keepalive {
        let mut settings = socket2::TcpKeepalive::new();
        if let Some(time) = keepalive.time {
            settings = settings.with_time(time);
        }
        if let Some(interval) = keepalive.interval {
            settings = settings.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            settings = settings.with_retries(probes);
        }
        socket2::SockRef::from(&socket).set_tcp_keepalive(&settings)?;
    }
    socket.connect(target).await
}

/// Sets a raw socket option.
///
/// # Errors
/// Those of `setsockopt`.
pub fn set_option(fd: RawFd, option: &SocketOption) -> io::Result<()> {
    let int;
    let bytes: &[u8] = match &option.value {
        SocketOptionValue::Int(n) => {
            int = n.to_ne_bytes();
            &int
        }
        SocketOptionValue::Bytes(bytes) => bytes,
    };
    let length = libc::socklen_t::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `bytes` is valid for `length` bytes for the whole call, and the kernel only reads it.
    let result = unsafe { libc::setsockopt(fd, option.level, option.name, bytes.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_ORIGINAL_DST` of netfilter, the same number for IPv4 and IPv6.
const SO_ORIGINAL_DST: libc::c_int = 80;

/// Where a connection was going before a redirect rule turned it to us; `None` if none did.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let fd = stream.as_raw_fd();
    // SAFETY: a zeroed sockaddr is a valid value of this plain C struct.
    let mut v4: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `v4`, which lives through the call.
    let found = unsafe { libc::getsockopt(fd, libc::SOL_IP, SO_ORIGINAL_DST, (&raw mut v4).cast(), &raw mut length) };
    if found == 0 {
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)));
    }
    // SAFETY: as above.
    let mut v6: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    // SAFETY: as above, for `v6`.
    let found = unsafe { libc::getsockopt(fd, libc::SOL_IPV6, SO_ORIGINAL_DST, (&raw mut v6).cast(), &raw mut length) };
    (found == 0).then(|| {
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr).to_canonical();
        SocketAddr::new(ip, u16::from_be(v6.sin6_port))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn keepalive_is_set() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let plain = connect(target, None, None).await.unwrap();
        assert!(!socket2::SockRef::from(&plain).keepalive().unwrap());
        let seconds = |n| Some(Duration::from_secs(n));
        let keepalive = TcpKeepalive { probes: Some(4), time: seconds(70), interval: seconds(8) };
        let probed = connect(target, None, Some(keepalive)).await.unwrap();
        let socket = socket2::SockRef::from(&probed);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(70));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(8));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    }
}
