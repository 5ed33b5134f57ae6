//! The only file that names atomics, locks, queues, events, timers, the arena and the map.
//!
//! The models in `loom-tests/` bring a `sync` module of their own with the same names, whose
//! atomics and locks are loom's and whose queues, arena and map are stand-ins. Everything else in
//! `src/` is compiled there unchanged.
//!
//! Every atomic access of this crate is `SeqCst`. On x86-64 that costs nothing over a weaker order,
//! for no hot path has a plain store: each writes by one read-modify-write instruction. It also
//! keeps the reasoning about invariants a reasoning about interleavings. loom checks the same code
//! under acquire and release only, so that no step depends on more than that.

use std::borrow::Borrow;
use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
/// A number that is written under a lock before it matters, or of which any value is right: the
/// models do not explore the order of its reads.
pub(crate) use std::sync::atomic::AtomicU32 as AtomicSetting;
pub(crate) use std::sync::atomic::Ordering::SeqCst;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

pub(crate) use boxcar::Vec as Arena;
pub(crate) use crossbeam_queue::{ArrayQueue, SegQueue};
use crossbeam_utils::Backoff;
pub(crate) use crossbeam_utils::CachePadded;
use event_listener::IntoNotification;
use papaya::Guard;
pub(crate) use parking_lot::Mutex;

/// Names and what they stand for. Its hasher is a fast one with random keys, against names that were
/// chosen to collide; how many may exist is bounded besides.
pub(crate) type Map<K, V> = papaya::HashMap<K, V, foldhash::fast::RandomState>;

/// Removes an entry from a map, and drops it as soon as no look-up holds it any more. Without the
/// flush, the map would keep some removed entries until there are more.
pub(crate) fn remove<K: Borrow<str> + Hash + Eq, V>(map: &Map<K, V>, key: &str) {
    let guard = map.guard();
    map.remove(key, &guard);
    guard.flush();
}

/// Wakes the tasks and threads that listen.
pub(crate) struct Event(event_listener::Event);

/// One who listens: a future that resolves when it was notified. Dropped before it is polled to its
/// end, it passes the notification on.
pub(crate) use event_listener::EventListener as Listener;

impl Event {
    pub(crate) fn new() -> Self {
        Self(event_listener::Event::new())
    }

    pub(crate) fn listen(&self) -> Listener {
        self.0.listen()
    }

    /// Whether anybody listens.
    pub(crate) fn is_listened_to(&self) -> bool {
        self.0.total_listeners() > 0
    }

    /// Notifies one more listener.
    pub(crate) fn notify_one(&self) {
        self.0.notify(1.additional());
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify(usize::MAX);
    }
}

/// A time that passes.
pub(crate) use futures_timer::Delay as Sleep;

/// Resolves after that time.
pub(crate) fn sleep(time: Duration) -> Sleep {
    Sleep::new(time)
}

/// Tries again and again before a thread is put to sleep for it, first at once and then ever more rarely,
/// for some microseconds where others leave it the processor: about as long as it takes to wake a thread.
/// `None` when that, or the time up to that moment, was in vain.
#[inline]
pub(crate) fn persist<T>(
    deadline: Option<Instant>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    let late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
    let backoff = Backoff::new();
    loop {
        let done = attempt();
        if done.is_some() || backoff.is_completed() || late() {
            return done;
        }
        backoff.snooze();
    }
}

/// Runs a future on this thread, which sleeps between polls, up to that moment: then `None`, and the
/// future is dropped.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tries_until_it_is_done_or_the_time_is_up() {
        let mut tries = 0;
        let third = || {
            tries += 1;
            (tries == 3).then_some(tries)
        };
        assert_eq!(persist(None, third), Some(3));

        let mut tries = 0;
        let in_vain = || {
            tries += 1;
            None::<()>
        };
        assert_eq!(persist(None, in_vain), None);
        assert!(tries > 3, "{tries} tries");

        let mut tries = 0;
        let in_vain = || {
            tries += 1;
            None::<()>
        };
        assert_eq!(persist(Some(Instant::now()), in_vain), None);
        assert_eq!(tries, 1);
    }
}
