//! The atomics, locks, queues, arena, map and clock of the crate.
//!
//! `loom-tests/`, `tests/shuttle` and `tests/simulation` compile the rest of `src/` unchanged with
//! a `sync` module of their own, which has the same names: atomics and locks of a model checker,
//! stand-ins for the queues, the arena and the map, and a clock that the test moves.
//!
//! Every atomic access of this crate is `SeqCst`, but those of counts for statistics. On x86-64
//! that costs nothing over a weaker order, because each write on a hot path is a
//! read-modify-write. loom explores the same code under acquire and release only.
//! [`docs::internals`](crate::docs::internals#memory-orders) lists the few steps that need the
//! total order of `SeqCst`.

/// A lock of state that no protocol depends on. The models do not explore it.
pub(crate) use parking_lot::Mutex as PlainMutex;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
/// A number that is written under a lock before it matters, or of which any value is right. The
/// models do not explore the order of its accesses.
pub(crate) use std::sync::atomic::AtomicU32 as AtomicSetting;
/// A count for statistics, on which no protocol depends. The models do not explore its accesses.
pub(crate) use std::sync::atomic::AtomicU64 as AtomicCount;
pub(crate) use std::sync::atomic::Ordering::{Relaxed, SeqCst};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
pub(crate) use std::time::Instant;
use std::time::SystemTime;

pub(crate) use boxcar::Vec as Arena;
pub(crate) use crossbeam_queue::ArrayQueue;
use crossbeam_utils::Backoff;
pub(crate) use crossbeam_utils::CachePadded;
use papaya::{Guard, HashMapRef, LocalGuard, OwnedGuard};
pub(crate) use parking_lot::Mutex;
use parking_lot::MutexGuard;

pub(crate) use crate::timer::{Sleep, sleep_until};
use crate::unwind::discard;

/// Returns the time of day.
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Returns the present time.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A map from names to values. A look-up takes no lock. The hasher is fast and has random keys,
/// against names that were chosen to collide; the number of names is bounded as well.
pub(crate) struct Map<V>(papaya::HashMap<Arc<str>, V, Hasher>);

type Hasher = foldhash::fast::RandomState;

/// A view of a map. A value that is removed while the view exists is dropped after the view.
pub(crate) enum Pinned<'a, V> {
    Local(HashMapRef<'a, Arc<str>, V, Hasher, LocalGuard<'a>>),
    Owned(HashMapRef<'a, Arc<str>, V, Hasher, OwnedGuard<'a>>),
}

thread_local! {
    /// Registered before the map's own thread-local, and so destroyed after it.
    static END_OF_THREAD: EndOfThread = const { EndOfThread };
}

struct EndOfThread;

impl Drop for EndOfThread {
    fn drop(&mut self) {}
}

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(papaya::HashMap::default())
    }
}

impl<V> Map<V> {
    /// Returns a view of the map. In the destructor of a thread-local, the map's own thread-local
    /// may be gone. The view then uses a guard that needs none.
    #[inline]
    pub(crate) fn pin(&self) -> Pinned<'_, V> {
        if END_OF_THREAD.try_with(|_| ()).is_ok() {
            Pinned::Local(self.0.pin())
        } else {
            Pinned::Owned(self.0.pin_owned())
        }
    }

    /// Removes a name. Its value is dropped as soon as no view can hold it. Without the flush, the
    /// map would keep some removed values until there are more of them.
    pub(crate) fn remove(&self, key: &str) {
        let guard = self.0.owned_guard();
        self.0.remove(key, &guard);
        guard.flush();
    }
}

impl<V> Pinned<'_, V> {
    #[inline]
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        match self {
            Self::Local(map) => map.get(key),
            Self::Owned(map) => map.get(key),
        }
    }

    pub(crate) fn insert(&self, key: Arc<str>, value: V) {
        match self {
            Self::Local(map) => map.insert(key, value),
            Self::Owned(map) => map.insert(key, value),
        };
    }

    /// Returns all values.
    pub(crate) fn values(&self) -> Vec<V>
    where
        V: Clone,
    {
        match self {
            Self::Local(map) => map.values().cloned().collect(),
            Self::Owned(map) => map.values().cloned().collect(),
        }
    }
}

/// Releases a lock that this thread will take again soon, and hands it to a thread that waits for
/// it.
pub(crate) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    MutexGuard::unlock_fair(guard);
}

/// Calls user code, such as a waker. A panic does not propagate, so the caller can go on with its
/// work. The panic hook has reported it.
pub(crate) fn isolate(call: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
        discard(payload);
    }
}

/// Spins with exponential backoff before parking, for about as long as it takes to wake a thread,
/// and at most until the deadline. Returns `None` if no attempt succeeded.
#[inline]
pub(crate) fn spin_until<T>(
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

/// Waits for another thread to complete a step, with exponential backoff.
#[derive(Default)]
pub(crate) struct Spin(Backoff);

impl Spin {
    pub(crate) fn wait(&self) {
        self.0.snooze();
    }
}

/// Runs a future on this thread, and parks the thread between polls. Returns `None` and drops the
/// future if the deadline passes.
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
        let (polled, timer) =
            crate::timer::poll_on_this_thread(|| future.as_mut().poll(&mut context));
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        match deadline.into_iter().chain(timer).min() {
            None => thread::park(),
            Some(wake_up) => thread::park_timeout(wake_up.saturating_duration_since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_spins_until_it_is_done_or_the_time_is_up() {
        let mut tries = 0;
        let third = || {
            tries += 1;
            (tries == 3).then_some(tries)
        };
        assert_eq!(spin_until(None, third), Some(3));

        let mut tries = 0;
        let in_vain = || {
            tries += 1;
            None::<()>
        };
        assert_eq!(spin_until(None, in_vain), None);
        assert!(tries > 3, "{tries} tries");

        let mut tries = 0;
        let in_vain = || {
            tries += 1;
            None::<()>
        };
        assert_eq!(spin_until(Some(Instant::now()), in_vain), None);
        assert_eq!(tries, 1);
    }
}
