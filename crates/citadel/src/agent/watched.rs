//! Files that somebody else keeps up to date (a mounted ConfigMap), as what is in them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

/// How often a file is looked at. Kubernetes swaps links when it changes a mounted ConfigMap, which no watch on the file
/// survives.
const LOOK: Duration = Duration::from_millis(500);
/// The same until something is there that everything waits for.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Longer files are none of these.
const MAX_BYTES: u64 = 4 << 20;

/// Follows a file. What cannot be read changes nothing, and neither does a file that goes, unless its absence means
/// something too: `absent`.
pub fn follow<T, E>(
    path: PathBuf,
    first: T,
    absent: Option<T>,
    read: impl Fn(&str) -> Result<T, E> + Send + 'static,
) -> watch::Receiver<T>
where
    T: Clone + Send + Sync + 'static,
    E: std::fmt::Display + Send,
{
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let mut seen: Option<String> = None;
        let mut told = String::new();
        loop {
            let trouble = match text(&path).await {
                Ok(text) if seen.as_ref() == Some(&text) => None,
                Ok(text) => {
                    let read = read(&text);
                    seen = Some(text);
                    read.map(|value| drop(sender.send_replace(value))).err().map(|error| error.to_string())
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Some(absent) = absent.as_ref().filter(|_| seen.take().is_some()) {
                        sender.send_replace(absent.clone());
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(trouble) = trouble.filter(|trouble| *trouble != told) {
                tracing::error!(path = %path.display(), error = trouble, "what was there before stays in force");
                told = trouble;
            }
            let look = if seen.is_none() && absent.is_none() { FIRST_LOOK } else { LOOK };
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

async fn text(path: &Path) -> io::Result<String> {
    let length = tokio::fs::metadata(path).await?.len();
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    tokio::fs::read_to_string(path).await
}
