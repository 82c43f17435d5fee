//! When an exchange is over, whatever happens: the route's timeout, a try's, idleness, age.

use std::cell::Cell;
use std::time::Duration;

use lateen_traffic::hcm::HcmTimeouts;
use lateen_traffic::route::Forward;
use tokio::time::Instant;

use crate::timer::Timer;

/// When an exchange is over, whatever happens.
pub(super) struct Deadlines {
    // From the end of the request on.
    pub(super) timeout: Option<Duration>,
    pub(super) per_try: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) stream: Option<Instant>,
    // Until the request has arrived.
    pub(super) request_at: Cell<Option<Instant>>,
    pub(super) route_at: Cell<Option<Instant>>,
    pub(super) try_at: Cell<Option<Instant>>,
    pub(super) active: Cell<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    Request,
    Route,
    Try,
    Idle,
    Stream,
}

impl Deadlines {
    /// Only a limit on the whole, counted from the end of the request.
    pub(super) fn whole(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            per_try: None,
            idle: None,
            stream: None,
            request_at: Cell::new(None),
            route_at: Cell::new(None),
            try_at: Cell::new(None),
            active: Cell::new(Instant::now()),
        }
    }

    /// Those of a stream whatever becomes of its request; `forward` may have others than the connection manager.
    pub(super) fn of_stream(timeouts: &HcmTimeouts, forward: Option<&Forward>, started: Instant) -> Self {
        let idle = forward.and_then(|f| f.idle_timeout).unwrap_or(timeouts.stream_idle);
        let stream = forward.and_then(|f| f.max_stream_duration).unwrap_or(timeouts.max_stream_duration);
        let some = |limit: Option<Duration>| limit.filter(|t| !t.is_zero());
        Self {
            timeout: None,
            per_try: None,
            idle: some(idle),
            stream: some(stream).map(|t| started + t),
            request_at: Cell::new(some(timeouts.request).map(|t| started + t)),
            route_at: Cell::new(None),
            try_at: Cell::new(None),
            active: Cell::new(started),
        }
    }

    pub(super) fn nearest(&self) -> Option<Instant> {
        let idle = self.idle.map(|limit| self.active.get() + limit);
        [self.request_at.get(), self.route_at.get(), self.try_at.get(), idle, self.stream].into_iter().flatten().min()
    }

    pub(super) fn request_ended(&self, now: Instant) {
        self.request_at.set(None);
        if self.route_at.get().is_none() {
            self.route_at.set(self.timeout.map(|t| now + t));
        }
        if self.try_at.get().is_none() {
            self.try_at.set(self.per_try.map(|t| now + t));
        }
    }

    pub(super) fn expired(&self, now: Instant) -> Option<Expired> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if over(self.request_at.get()) {
            Some(Expired::Request)
        } else if over(self.route_at.get()) {
            Some(Expired::Route)
        } else if over(self.try_at.get()) {
            Some(Expired::Try)
        } else if over(self.stream) {
            Some(Expired::Stream)
        } else if over(self.idle.map(|limit| self.active.get() + limit)) {
            Some(Expired::Idle)
        } else {
            None
        }
    }

    pub(super) fn touch(&self) {
        if self.idle.is_some() {
            self.active.set(Instant::now());
        }
    }

    pub(super) async fn wait(&self, timer: &mut Timer) -> Expired {
        loop {
            // Looked up anew at each turn: the end of the request brings deadlines that were not there before.
            std::future::poll_fn(|cx| timer.poll(cx, self.nearest())).await;
            if let Some(expired) = self.expired(Instant::now()) {
                return expired;
            }
        }
    }
}
