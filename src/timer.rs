//! Timers that work on any executor.
//!
//! A blocking call needs no timer thread: it parks its thread until the earliest deadline of what
//! it waits for. One helper thread wakes the tasks of all async calls. The first timer starts it,
//! and it ends after a second without timers. If the thread cannot be started, a timer does not
//! fire: see [`Sleep::poll`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::unwind::discard;

/// The time after which the helper thread ends if there are no timers.
const LINGER: Duration = Duration::from_secs(1);

/// A timer.
pub(crate) struct Sleep {
    /// `None` means never.
    deadline: Option<Instant>,
    /// The entry in the queue of the helper thread.
    entry: Option<Key>,
}

type Key = (Instant, u64);

/// Creates a timer that fires at `deadline`, or never.
pub(crate) fn sleep_until(deadline: Option<Instant>) -> Sleep {
    Sleep { deadline, entry: None }
}

struct Timers {
    queue: BTreeMap<Key, Waker>,
    next: u64,
    running: bool,
}

static TIMERS: Mutex<Timers> =
    Mutex::new(Timers { queue: BTreeMap::new(), next: 0, running: false });
/// Notified when a timer is added that is earlier than all others.
static EARLIER: Condvar = Condvar::new();

thread_local! {
    /// Set while this thread polls in a blocking call: the earliest deadline at which it must poll
    /// again.
    static ON_THIS_THREAD: Cell<Option<Option<Instant>>> = const { Cell::new(None) };
}

/// Polls a future whose timers this thread watches itself. Returns the earliest deadline as well.
pub(crate) fn poll_on_this_thread<T>(poll: impl FnOnce() -> T) -> (T, Option<Instant>) {
    struct Restore(Option<Option<Instant>>);

    impl Drop for Restore {
        fn drop(&mut self) {
            ON_THIS_THREAD.set(self.0);
        }
    }

    let restore = Restore(ON_THIS_THREAD.replace(Some(None)));
    let polled = poll();
    let earliest = ON_THIS_THREAD.get().flatten();
    drop(restore);
    (polled, earliest)
}

fn timers() -> MutexGuard<'static, Timers> {
    // No user code runs under this lock.
    TIMERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sleep {
    /// Returns `Ready(true)` when the deadline has passed, and `Ready(false)` if the timer will
    /// never fire, because the helper thread cannot be started.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<bool> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if deadline <= Instant::now() {
            return Poll::Ready(true);
        }
        if let Some(earliest) = ON_THIS_THREAD.get() {
            let earliest = earliest.map_or(deadline, |other| other.min(deadline));
            ON_THIS_THREAD.set(Some(Some(earliest)));
            return Poll::Pending;
        }
        self.register(context)
    }

    /// The same for a timer that is no part of what this thread polls: the helper thread watches it.
    pub(crate) fn register(&mut self, context: &Context<'_>) -> Poll<bool> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if deadline <= Instant::now() {
            return Poll::Ready(true);
        }
        let waker = context.waker().clone();
        let mut timers = timers();
        let key = *self.entry.get_or_insert_with(|| {
            timers.next += 1;
            (deadline, timers.next)
        });
        let old = timers.queue.insert(key, waker);
        let first = timers.queue.first_key_value().is_some_and(|(first, _)| *first == key);
        let mut started = true;
        if !timers.running {
            timers.running = true;
            let thread = thread::Builder::new().name("conveyor-buffer timer".to_owned());
            if thread.spawn(run).is_err() {
                timers.running = false;
                started = false;
            }
        } else if first {
            EARLIER.notify_one();
        }
        drop(timers);
        drop(old);
        if started { Poll::Pending } else { Poll::Ready(false) }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.entry {
            let waker = timers().queue.remove(&key);
            drop(waker);
        }
    }
}

/// Runs the helper thread.
fn run() {
    let mut guard = timers();
    loop {
        let now = Instant::now();
        let wait = match guard.queue.first_entry() {
            Some(first) if first.key().0 <= now => {
                let waker = first.remove();
                drop(guard);
                // A waker that panics must not end this thread. The panic hook has reported it.
                catch_unwind(AssertUnwindSafe(|| waker.wake())).unwrap_or_else(discard);
                guard = timers();
                continue;
            }
            Some(first) => first.key().0 - now,
            None => LINGER,
        };
        let idle = guard.queue.is_empty();
        let (next, timeout) =
            EARLIER.wait_timeout(guard, wait).unwrap_or_else(PoisonError::into_inner);
        guard = next;
        if idle && timeout.timed_out() && guard.queue.is_empty() {
            guard.running = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_timer_wakes_its_task_and_one_that_was_dropped_does_not() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let soon = Instant::now() + Duration::from_millis(20);
        let (mut kept, mut dropped) = (sleep_until(Some(soon)), sleep_until(Some(soon)));
        let mut never = sleep_until(None);
        assert!(kept.poll(&context).is_pending());
        assert!(dropped.poll(&context).is_pending());
        assert!(never.poll(&context).is_pending());
        drop(dropped);
        while count.0.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert_eq!(kept.poll(&context), Poll::Ready(true));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_thread_that_polls_for_itself_learns_the_earliest_moment() {
        let (near, far) = (Duration::from_secs(60), Duration::from_secs(600));
        let (near, far) = (Instant::now() + near, Instant::now() + far);
        let context = Context::from_waker(Waker::noop());
        let ((), earliest) = poll_on_this_thread(|| {
            assert!(sleep_until(Some(far)).poll(&context).is_pending());
            assert!(sleep_until(Some(near)).poll(&context).is_pending());
        });
        assert_eq!(earliest, Some(near));
    }
}
