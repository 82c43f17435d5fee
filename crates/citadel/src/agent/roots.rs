//! The roots to trust, from a file that somebody else keeps up to date (a mounted ConfigMap).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::certificate;

/// How often the file is looked at. Kubernetes swaps links when it changes a mounted ConfigMap, which no watch on the
/// file survives.
const LOOK: Duration = Duration::from_millis(500);
/// The same until it is there for the first time: everything waits for it.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Longer files are no bundles.
const MAX_BYTES: u64 = 4 << 20;

/// Roots, the last good ones; empty before the first.
pub type Roots = watch::Receiver<Arc<[CertificateDer<'static>]>>;

/// Follows a file.
pub fn follow(path: PathBuf) -> Roots {
    let (sender, receiver) = watch::channel(Arc::from([]));
    tokio::spawn(async move {
        let mut seen = String::new();
        let mut told = String::new();
        loop {
            match read(&path).await {
                Ok(text) if text == seen => {}
                Ok(text) => {
                    match certificate::read_pem(&text) {
                        Ok(roots) => drop(sender.send_replace(roots.into())),
                        Err(error) => tracing::error!(path = %path.display(), %error, "the roots stay as they were"),
                    }
                    seen = text;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && seen.is_empty() => {}
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::error!(path = %path.display(), error, "the roots stay as they were");
                        told = error;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(if seen.is_empty() { FIRST_LOOK } else { LOOK }) => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

async fn read(path: &Path) -> std::io::Result<String> {
    let length = tokio::fs::metadata(path).await?.len();
    if length > MAX_BYTES {
        return Err(std::io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    tokio::fs::read_to_string(path).await
}
