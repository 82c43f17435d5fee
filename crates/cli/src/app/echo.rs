//! The TCP echo: every byte comes back on the connection it came from.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves until the program ends.
pub async fn serve(listener: TcpListener, greeting: Option<String>) {
    loop {
        match listener.accept().await {
            // A connection that breaks ends alone.
            Ok((stream, _)) => drop(tokio::spawn(echo(stream, greeting.clone()))),
            Err(error) => {
                eprintln!("accept: {error}");
                // Out of file descriptors: accepting again at once would spin.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Sends back what comes until the client half-closes, then half-closes too. The client speaks first; `greeting` goes
/// before the first byte that goes back.
async fn echo(mut stream: TcpStream, mut greeting: Option<String>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => {
                if let Some(greeting) = greeting.take() {
                    stream.write_all(greeting.as_bytes()).await?;
                }
                stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
            }
        }
    }
}
