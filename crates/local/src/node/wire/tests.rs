use super::*;
use std::os::fd::AsFd;

fn pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two descriptors, which are ours afterwards.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

#[test]
fn a_message_and_its_descriptors_arrive() {
    let (a, b) = pair();
    let (read, mut write) = io::pipe().unwrap();
    send(a.as_fd(), &Packet::encode(&"hello", vec![read.into()]).unwrap()).unwrap();
    let (message, mut fds) = receive::<String>(b.as_fd()).unwrap().unwrap();
    assert_eq!((message.as_str(), fds.len()), ("hello", 1));
    write.write_all(b"through").unwrap();
    drop(write);
    let mut text = String::new();
    File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[test]
fn a_message_larger_than_a_packet_arrives_with_all_descriptors_it_may_carry() {
    let (a, b) = pair();
    let long = "x".repeat(4 * 1024 * 1024);
    let fds = (0..MAX_FDS).map(|_| File::open("/dev/null").unwrap().into()).collect();
    send(a.as_fd(), &Packet::encode(&long, fds).unwrap()).unwrap();
    let (message, fds) = receive::<String>(b.as_fd()).unwrap().unwrap();
    assert_eq!(message, long);
    assert_eq!(fds.len(), MAX_FDS);
}

#[test]
fn limits_are_errors_not_surprises() {
    let fds = (0..=MAX_FDS).map(|_| File::open("/dev/null").unwrap().into()).collect();
    assert!(matches!(Packet::encode(&"", fds), Err(NodeError::TooLarge { what: "descriptors", .. })));
    let huge = "x".repeat(MAX_BODY);
    assert!(matches!(Packet::encode(&huge, vec![]), Err(NodeError::TooLarge { what: "bytes", .. })));
}

#[test]
fn the_closed_other_end_is_the_end_and_not_an_error() {
    let (a, b) = pair();
    drop(a);
    assert!(receive::<String>(b.as_fd()).unwrap().is_none());
}

#[test]
fn a_packet_of_rubbish_is_an_error() {
    let (a, b) = pair();
    for bytes in [&b"\x07what"[..], b"\x00{", b"\x01"] {
        send(a.as_fd(), &Packet { bytes: bytes.to_vec(), fds: vec![] }).unwrap();
        assert!(receive::<String>(b.as_fd()).is_err());
    }
}
