//! What runs inside the pods.

use socket2::{Domain, Socket, Type};
use std::ffi::CString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::FromRawFd;
use std::process::ExitCode;

pub fn run(words: &[&str]) -> ExitCode {
    match words {
        // Connects, says hello, prints what comes back.
        ["get", to] => talk(to, None, None),
        ["get-marked", to] => talk(to, None, Some(1337)),
        ["get-marked-from", from, to] => talk(to, Some(from), Some(1337)),
        ["ask-udp", to] => {
            let to: SocketAddr = to.parse().unwrap();
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"question").unwrap();
            let mut answer = [0; 100];
            let length = socket.recv(&mut answer).unwrap();
            print!("{}", String::from_utf8_lossy(&answer[..length]));
            ExitCode::SUCCESS
        }
        ["cat"] => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap();
            eprint!("done");
            ExitCode::SUCCESS
        }
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap()),
        ["hold"] => {
            print_now("holding");
            forever()
        }
        // A service that leaves a detached grandchild behind, in a session and namespaces of its own if it can.
        ["daemons"] => {
            let (mut there, mut innermost) = std::io::pipe().unwrap();
            // SAFETY: one thread; the children only wait.
            unsafe {
                if libc::fork() == 0 {
                    libc::setsid();
                    libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID);
                    if libc::fork() == 0 {
                        libc::signal(libc::SIGTERM, libc::SIG_IGN);
                        innermost.write_all(b"!").unwrap();
                    }
                    forever();
                }
            }
            there.read_exact(&mut [0]).unwrap();
            print_now("holding");
            forever()
        }
        ["serve-passed"] => {
            assert_eq!(std::env::var("LISTEN_FDS").unwrap(), "2");
            assert_eq!(std::env::var("LISTEN_FDNAMES").unwrap(), "http:https");
            assert_eq!(std::env::var("LISTEN_PID").unwrap(), std::process::id().to_string());
            // SAFETY: descriptor 4 is the second listener, passed to this process and used here alone.
            let listener = unsafe { TcpListener::from_raw_fd(4) };
            listener.set_nonblocking(false).unwrap();
            let (mut peer, address) = listener.accept().unwrap();
            write!(peer, "{address} in {}", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap()).unwrap();
            ExitCode::SUCCESS
        }
        // Everything an app might try to get past the redirect rules or at the machine.
        ["break-out"] => {
            println!("mark {}", outcome(mark()));
            println!(
                "raw {}",
                outcome(Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4)).map(drop))
            );
            println!("down {}", outcome(take_down("lo")));
            println!("mount {}", outcome(mount_over("/etc")));
            println!(
                "sysctl {}",
                outcome(std::fs::OpenOptions::new().write(true).open("/proc/sys/vm/swappiness").map(drop))
            );
            // SAFETY: one thread.
            let own = unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0;
            println!("own-namespace {own}");
            println!("mark-there {}", outcome(mark()));
            println!("down-there {}", outcome(take_down("lo")));
            ExitCode::SUCCESS
        }
        ["describe"] => {
            let text = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| e.to_string());
            let list = |path: &str| {
                let mut names: Vec<_> =
                    std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                names.join(",")
            };
            // SAFETY: no arguments, cannot fail.
            let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
            println!("hostname {}", text("/proc/sys/kernel/hostname").trim());
            println!("links {}", list("/sys/class/net"));
            println!("processes {}", list("/proc").split(',').filter(|n| n.parse::<u32>().is_ok()).count());
            println!("pid {}", std::process::id());
            println!("user {uid} {gid}");
            println!("cwd {}", std::env::current_dir().unwrap().display());
            println!("env {}", std::env::vars().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","));
            println!("open {}", list("/proc/self/fd"));
            println!("ipv6-port-80 {}", outcome(TcpListener::bind("[::]:80").map(drop)));
            ExitCode::SUCCESS
        }
        ["read", paths @ ..] => {
            for path in paths {
                match std::fs::read_to_string(path) {
                    Ok(text) => println!("{path}: {text}"),
                    Err(error) => println!("{path}: error {error}"),
                }
            }
            ExitCode::SUCCESS
        }
        ["umount", path] => {
            let name = std::ffi::CString::new(*path).unwrap();
            // SAFETY: a C string.
            let done = unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
            let refused = done < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
            println!("{path}: {}", if refused { "error EPERM" } else { "uncovered" });
            ExitCode::SUCCESS
        }
        ["write", paths @ ..] => {
            for path in paths {
                println!("{path}: {}", outcome(std::fs::write(path, "written by the app")));
            }
            ExitCode::SUCCESS
        }
        ["terminal"] => {
            // SAFETY: a file descriptor number.
            let foreground = unsafe { libc::tcgetpgrp(0) };
            println!("foreground {}", foreground == std::process::id() as i32);
            ExitCode::SUCCESS
        }
        _ => panic!("no such app: {words:?}"),
    }
}

pub fn print_now(text: &str) {
    println!("{text}");
    std::io::stdout().flush().unwrap();
}

pub fn forever() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

fn outcome(result: std::io::Result<()>) -> String {
    match result {
        Ok(()) => "possible".to_owned(),
        Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
    }
}

fn talk(to: &str, from: Option<&str>, mark: Option<u32>) -> ExitCode {
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    if let Some(mark) = mark {
        socket.set_mark(mark).unwrap();
    }
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
    }
    socket.connect(&to.into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    print!("{answer}");
    ExitCode::SUCCESS
}

fn mark() -> std::io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(1337)
}

fn take_down(link: &str) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is valid: no name, no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: SIOCSIFFLAGS reads an ifreq.
    match unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn mount_over(path: &str) -> std::io::Result<()> {
    let path = CString::new(path).unwrap();
    // SAFETY: C strings that outlive the call.
    match unsafe { libc::mount(c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
