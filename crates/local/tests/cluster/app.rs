//! What runs in the pods.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::process::ExitCode;

/// Answers every request with `VERSION POD_NAME`, the first word given or taken from the environment;
/// `/crash` ends the process.
pub fn serve(words: &[&str]) -> ExitCode {
    let env = |name: &str| std::env::var(name).unwrap_or_else(|_| "?".to_owned());
    let version = words.first().map_or_else(|| env("VERSION"), |word| (*word).to_owned());
    println!("serving {version} at {} for {}", env("PORT"), env("GREETING"));
    answer(&env("PORT"), &format!("{version} {}", env("POD_NAME")))
}

/// Plays a gateway: ready at once, and answering host clients.
pub fn gateway(bootstrap: &str) -> ExitCode {
    let text = std::fs::read_to_string(bootstrap).unwrap();
    let router = text.contains("router~10.244.");
    std::thread::spawn(|| answer("15021", "ready"));
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    for (descriptor, name) in (3..).zip(names.split(':')).filter(|(_, name)| *name == "port-8080") {
        // SAFETY: the supervisor passed it to us, and nothing else here knows it.
        let listener = unsafe { TcpListener::from_raw_fd(descriptor) };
        listener.set_nonblocking(false).unwrap();
        println!("inherited {name}");
        std::thread::spawn(|| accept(listener, "inheritor"));
    }
    answer("8080", if router { "gateway" } else { "not a gateway" })
}

fn answer(port: &str, text: &str) -> ExitCode {
    accept(TcpListener::bind(format!("0.0.0.0:{port}")).unwrap(), text)
}

fn accept(listener: TcpListener, text: &str) -> ExitCode {
    for stream in listener.incoming() {
        let (mut stream, text) = (stream.unwrap(), text.to_owned());
        std::thread::spawn(move || {
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
                    _ => return,
                }
            }
            if request.starts_with(b"GET /crash ") {
                std::process::exit(3);
            }
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            let _ = stream.write_all(answer.as_bytes());
        });
    }
    ExitCode::FAILURE
}

/// Asks once and prints the answer.
pub fn fetch(url: &str) -> ExitCode {
    match ask(url) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{url}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The body of `HOST:PORT/PATH`'s answer.
pub fn ask(url: &str) -> std::io::Result<String> {
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(body.to_owned())
}
