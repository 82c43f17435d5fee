//! When an exchange is over, whatever happens: the route's timeout, a try's, idleness, age.

use std::cell::Cell;
use std::time::Duration;

use lateen_traffic::hcm::HcmTimeouts;
use lateen_traffic::route::Forward;
use lateen_traffic::router::PerTry;
use tokio::time::Instant;

use crate::timer::Timer;

/// When an exchange is over, whatever happens.
pub(super) struct Deadlines {
    // From the end of the request on.
    pub(super) timeout: Option<Duration>,
    pub(super) per_try: PerTry,
    pub(super) idle: Option<Duration>,
    pub(super) stream: Option<Instant>,
    // Until the request has arrived.
    pub(super) request_at: Cell<Option<Instant>>,
    pub(super) route_at: Cell<Option<Instant>>,
    pub(super) try_at: Cell<Option<Instant>>,
    // When something of the try moved last, once it has begun.
    pub(super) try_active: Cell<Option<Instant>>,
    pub(super) active: Cell<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    Request,
    Route,
    Try,
    TryIdle,
    Idle,
    Stream,
}

impl Deadlines {
    /// Only a limit on the whole, counted from the end of the request.
    pub(super) fn whole(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            per_try: PerTry::default(),
            idle: None,
            stream: None,
            request_at: Cell::new(None),
            route_at: Cell::new(None),
            try_at: Cell::new(None),
            try_active: Cell::new(None),
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
            per_try: PerTry::default(),
            idle: some(idle),
            stream: some(stream).map(|t| started + t),
            request_at: Cell::new(some(timeouts.request).map(|t| started + t)),
            route_at: Cell::new(None),
            try_at: Cell::new(None),
            try_active: Cell::new(None),
            active: Cell::new(started),
        }
    }

    pub(super) fn nearest(&self) -> Option<Instant> {
        let ends = [self.request_at.get(), self.route_at.get(), self.try_at.get(), self.try_idle_at(), self.stream];
        ends.into_iter().chain([self.idle_at()]).flatten().min()
    }

    fn idle_at(&self) -> Option<Instant> {
        self.idle.map(|limit| self.active.get() + limit)
    }

    fn try_idle_at(&self) -> Option<Instant> {
        Some(self.try_active.get()? + self.per_try.idle?)
    }

    /// A try is over; the next one's time has not begun.
    pub(super) fn try_ended(&self) {
        self.try_at.set(None);
        self.try_active.set(None);
    }

    pub(super) fn request_ended(&self, now: Instant) {
        self.request_at.set(None);
        if self.route_at.get().is_none() {
            self.route_at.set(self.timeout.map(|t| now + t));
        }
    }

    /// A try has its connection, and all of the request is here.
    pub(super) fn try_begins(&self, now: Instant) {
        if self.try_at.get().is_none() {
            self.try_at.set(self.per_try.whole.map(|t| now + t));
        }
        if self.try_active.get().is_none() {
            self.try_active.set(self.per_try.idle.map(|_| now));
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
        } else if over(self.try_idle_at()) {
            Some(Expired::TryIdle)
        } else if over(self.stream) {
            Some(Expired::Stream)
        } else if over(self.idle_at()) {
            Some(Expired::Idle)
        } else {
            None
        }
    }

    pub(super) fn touch(&self) {
        if self.idle.is_some() {
            self.active.set(Instant::now());
        }
        if self.try_active.get().is_some() {
            self.try_active.set(Some(Instant::now()));
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
