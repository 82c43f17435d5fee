//! Time that passes only when nobody has anything left to do: then it is at once as late as the next one who waits wants.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;

/// A clock, and everything that is done by it.
#[derive(Default)]
pub struct Clock {
    now: Cell<Duration>,
    waits: Cell<u64>,
    alarms: RefCell<BTreeMap<(Duration, u64), Waker>>,
    spawned: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    // What was spawned, and is not done yet.
    background: RefCell<FuturesUnordered<LocalBoxFuture<'static, ()>>>,
}

impl Clock {
    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        self.now.get()
    }

    /// Waits that long.
    pub fn sleep(&self, length: Duration) -> Sleep<'_> {
        self.until(self.now().saturating_add(length))
    }

    /// Waits until then.
    pub fn until(&self, at: Duration) -> Sleep<'_> {
        self.waits.set(self.waits.get() + 1);
        Sleep { clock: self, key: (at, self.waits.get()) }
    }

    /// Does something that nobody waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Whether something that was spawned is not done yet.
    pub fn is_busy(&self) -> bool {
        !self.spawned.borrow().is_empty() || self.background.try_borrow().is_ok_and(|tasks| !tasks.is_empty())
    }

    /// Runs to the end of `main`; what was spawned goes on at the next run. `None`: it waits for what will never happen.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> Option<T> {
        let mut main = pin!(main);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(done) = main.as_mut().poll(&mut context) {
                return Some(done);
            }
            let mut background = self.background.borrow_mut();
            loop {
                background.extend(self.spawned.borrow_mut().drain(..));
                if !matches!(background.poll_next_unpin(&mut context), Poll::Ready(Some(()))) {
                    break;
                }
            }
            drop(background);
            let busy = woken.0.swap(false, Ordering::Relaxed) || !self.spawned.borrow().is_empty();
            if !busy && !self.advance() {
                return None;
            }
        }
    }

    /// Lets time pass until somebody is to be woken; false if nobody is.
    fn advance(&self) -> bool {
        let mut alarms = self.alarms.borrow_mut();
        let Some(((at, _), _)) = alarms.first_key_value() else { return false };
        let at = *at;
        self.now.set(at.max(self.now()));
        let later = alarms.split_off(&(at, u64::MAX));
        let due = std::mem::replace(&mut *alarms, later);
        drop(alarms);
        due.into_values().for_each(Waker::wake);
        true
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits; see [`Clock::sleep`].
pub struct Sleep<'a> {
    clock: &'a Clock,
    key: (Duration, u64),
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.key.0 {
            return Poll::Ready(());
        }
        self.clock.alarms.borrow_mut().insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.clock.alarms.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn hours_pass_in_no_time_and_in_order() {
        let clock = Rc::new(Clock::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let waiter = |seconds: u64| {
            let (clock, order) = (Rc::clone(&clock), Rc::clone(&order));
            async move {
                clock.sleep(Duration::from_secs(seconds)).await;
                order.borrow_mut().push((seconds, clock.now().as_secs()));
            }
        };
        clock.spawn(waiter(3600));
        clock.spawn(waiter(60));
        clock.run(futures::future::join(waiter(7200), waiter(1))).unwrap();
        assert_eq!(*order.borrow(), [(1, 1), (60, 60), (3600, 3600), (7200, 7200)]);
    }

    #[test]
    fn who_waits_for_nothing_is_told_so() {
        let clock = Clock::default();
        assert_eq!(clock.run(std::future::pending::<()>()), None);
        assert_eq!(clock.run(async { 1 }), Some(1));
    }

    #[test]
    fn a_wait_given_up_leaves_nothing_behind() {
        let clock = Clock::default();
        let both = async {
            let (long, short) = (clock.sleep(Duration::from_secs(9)), clock.sleep(Duration::from_secs(1)));
            futures::future::select(long, short).await;
        };
        clock.run(both).unwrap();
        assert_eq!(clock.run(std::future::pending::<()>()), None);
        assert_eq!(clock.now(), Duration::from_secs(1));
    }
}
