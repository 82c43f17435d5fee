//! Waiting on conditions. A deadline here only bounds a failure; nothing is ever assumed to be done
//! because time has passed.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a condition may take on the slowest machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` until it answers `Some`.
///
/// # Panics
/// When [`PATIENCE`] is over, saying `what` did not come true.
pub async fn until<T, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    match within(PATIENCE, probe).await {
        Some(value) => value,
        None => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Asks `probe` until it answers `Some`, or gives up with `None` after `deadline`.
pub async fn within<T, F>(deadline: Duration, mut probe: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return Some(value);
        }
        if start.elapsed() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
