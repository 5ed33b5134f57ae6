//! The library's `sync` module once more, for random schedules: shuttle's atomics and lock, each access
//! of which is a point where another thread may go on. The queues, the arena and the map are the real
//! ones. They never wait for a thread that is not running, so that a call of theirs is one step here;
//! a point before and one after it let others come in between.

use std::borrow::Borrow;
use std::future::Future;
use std::hash::Hash;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

pub(crate) use boxcar::Vec as Arena;
pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use event_listener::EventListener as Listener;
use event_listener::IntoNotification;
use papaya::Guard;
pub(crate) use papaya::HashMap as Map;
pub(crate) use shuttle::sync::atomic::AtomicU32 as AtomicSetting;
pub(crate) use shuttle::sync::atomic::Ordering::SeqCst;
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use shuttle::sync::{Mutex as ShuttleMutex, MutexGuard};

/// A lock that answers as `parking_lot`'s does.
pub(crate) struct Mutex<T>(ShuttleMutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ShuttleMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where another thread may go on. An access, and not a yield: a yield would tell the scheduler that
/// this thread waits for others.
struct Point(AtomicBool);

impl Point {
    fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn around<T>(&self, step: impl FnOnce() -> T) -> T {
        self.0.load(SeqCst);
        let done = step();
        self.0.load(SeqCst);
        done
    }
}

/// The real ring, with points around each call.
pub(crate) struct ArrayQueue<T> {
    queue: crossbeam_queue::ArrayQueue<T>,
    point: Point,
}

impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { queue: crossbeam_queue::ArrayQueue::new(capacity), point: Point::new() }
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        self.point.around(|| self.queue.push(value))
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.point.around(|| self.queue.pop())
    }

    pub(crate) fn len(&self) -> usize {
        self.point.around(|| self.queue.len())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

/// The real unbounded queue, with points around each call.
pub(crate) struct SegQueue<T> {
    queue: crossbeam_queue::SegQueue<T>,
    point: Point,
}

impl<T> SegQueue<T> {
    pub(crate) fn new() -> Self {
        Self { queue: crossbeam_queue::SegQueue::new(), point: Point::new() }
    }

    pub(crate) fn push(&self, value: T) {
        self.point.around(|| self.queue.push(value));
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.point.around(|| self.queue.pop())
    }

    pub(crate) fn len(&self) -> usize {
        self.point.around(|| self.queue.len())
    }
}

/// Removes an entry from a map.
pub(crate) fn remove<K: Borrow<str> + Hash + Eq, V>(map: &Map<K, V>, key: &str) {
    let guard = map.guard();
    map.remove(key, &guard);
    guard.flush();
}

/// The real event, with points around each call: its own lock is never held at a point.
pub(crate) struct Event {
    event: event_listener::Event,
    point: Point,
}

impl Event {
    pub(crate) fn new() -> Self {
        Self { event: event_listener::Event::new(), point: Point::new() }
    }

    pub(crate) fn listen(&self) -> Listener {
        self.point.around(|| self.event.listen())
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        self.point.around(|| self.event.total_listeners() > 0)
    }

    pub(crate) fn notify_one(&self) {
        self.point.around(|| self.event.notify(1.additional()));
    }

    pub(crate) fn notify_all(&self) {
        self.point.around(|| self.event.notify(usize::MAX));
    }
}

/// There is no time under a schedule: it is over at once.
pub(crate) type Sleep = std::future::Ready<()>;

pub(crate) fn sleep(_: Duration) -> Sleep {
    std::future::ready(())
}

/// Tries once: what comes later is for those who wait.
pub(crate) fn persist<T>(_: Option<Instant>, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    attempt()
}

/// Runs a future on this thread. A schedule has no deadlines.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    assert!(deadline.is_none(), "there is no time under a schedule");
    Some(shuttle::future::block_on(future))
}
