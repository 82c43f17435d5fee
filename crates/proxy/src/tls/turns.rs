//! Handshakes of a worker take turns.
//!
//! One step of a handshake takes as long as dozens of requests. However many clients begin one at the same moment,
//! between two steps everything else that is ready gets its turn.

use tokio::sync::{Semaphore, SemaphorePermit};

thread_local! {
    // Leaked once for each worker, so that whoever waits need not keep it.
    static TURN: &'static Semaphore = Box::leak(Box::new(Semaphore::new(1)));
}

/// The right to make a step.
pub struct Turn(#[expect(dead_code, reason = "given back when dropped")] SemaphorePermit<'static>);

impl Turn {
    /// Waits for it, in the order in which it was asked for.
    pub async fn take() -> Option<Self> {
        // Never closed.
        TURN.with(|turn| *turn).acquire().await.ok().map(Self)
    }

    /// The step is done.
    pub async fn over(self) {
        tokio::task::yield_now().await;
    }
}
