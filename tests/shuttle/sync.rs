//! The library's `sync` module once more, for random schedules: shuttle's atomics and lock, each access
//! of which is a point where another thread may go on. The queues, the arena and the map are the real
//! ones. They never wait for a thread that is not running, so that a call of theirs is one step here;
//! a point before and one after it let others come in between.

pub(crate) use parking_lot::Mutex as PlainMutex;
use std::cell::{Cell, RefCell};
use std::future::Future;
pub(crate) use std::sync::atomic::AtomicU64 as AtomicCount;
pub(crate) use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
pub(crate) use std::time::Instant;
use std::time::{Duration, SystemTime};

pub(crate) use boxcar::Vec as Arena;
pub(crate) use crossbeam_utils::CachePadded;
use papaya::{Guard, HashMapRef, LocalGuard};
pub(crate) use shuttle::sync::atomic::AtomicU32 as AtomicSetting;
pub(crate) use shuttle::sync::atomic::Ordering::SeqCst;
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64};
use shuttle::sync::{Mutex as ShuttleMutex, MutexGuard, TryLockError};

/// A lock that answers as `parking_lot`'s does.
pub(crate) struct Mutex<T>(ShuttleMutex<T>);

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ShuttleMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
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
}

/// The real map.
pub(crate) struct Map<V>(papaya::HashMap<Arc<str>, V>);

pub(crate) struct Pinned<'a, V>(
    HashMapRef<'a, Arc<str>, V, std::hash::RandomState, LocalGuard<'a>>,
);

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(papaya::HashMap::new())
    }
}

impl<V> Map<V> {
    pub(crate) fn pin(&self) -> Pinned<'_, V> {
        Pinned(self.0.pin())
    }

    pub(crate) fn remove(&self, key: &str) {
        let guard = self.0.owned_guard();
        self.0.remove(key, &guard);
        guard.flush();
    }
}

impl<V> Pinned<'_, V> {
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.0.get(key)
    }

    pub(crate) fn insert(&self, key: Arc<str>, value: V) {
        self.0.insert(key, value);
    }

    pub(crate) fn values(&self) -> Vec<V>
    where
        V: Clone,
    {
        self.0.values().cloned().collect()
    }
}

// A schedule runs all its threads on one thread of the system.
thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static TIMERS: RefCell<Vec<Timer>> = const { RefCell::new(Vec::new()) };
}

/// A timer that has not fired.
struct Timer {
    due: Instant,
    number: Arc<()>,
    waker: Waker,
}

pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

/// The clock stands still but for [`advance`].
pub(crate) fn now() -> Instant {
    let start = START.get().unwrap_or_else(|| {
        let start = Instant::now();
        START.set(Some(start));
        start
    });
    start + ELAPSED.get()
}

/// Lets time pass, and fires the timers that are due then.
pub(crate) fn advance(time: Duration) {
    ELAPSED.set(ELAPSED.get() + time);
    let now = now();
    while let Some(timer) = TIMERS.with_borrow_mut(|timers| {
        let due = timers.iter().position(|timer| timer.due <= now);
        due.map(|due| timers.swap_remove(due))
    }) {
        timer.waker.wake();
    }
}

/// A timer. Nobody lingers here: what is polled is over at once.
pub(crate) struct Sleep {
    due: Option<Instant>,
    number: Arc<()>,
}

pub(crate) fn sleep_until(due: Option<Instant>) -> Sleep {
    Sleep { due, number: Arc::default() }
}

impl Sleep {
    pub(crate) fn poll(&mut self, _: &Context<'_>) -> Poll<bool> {
        Poll::Ready(true)
    }

    /// Reservations and delayed records have time.
    pub(crate) fn register(&mut self, context: &Context<'_>) -> Poll<bool> {
        let Some(due) = self.due else { return Poll::Pending };
        if due <= now() {
            return Poll::Ready(true);
        }
        let (number, waker) = (Arc::clone(&self.number), context.waker().clone());
        TIMERS.with_borrow_mut(|timers| timers.push(Timer { due, number, waker }));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let timer = TIMERS.with_borrow_mut(|timers| {
            let own = timers.iter().position(|timer| Arc::ptr_eq(&timer.number, &self.number));
            own.map(|own| timers.swap_remove(own))
        });
        drop(timer);
    }
}

pub(crate) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
}

/// A panic fails the test.
pub(crate) fn isolate(call: impl FnOnce()) {
    call();
}

/// Waits for a step that another thread is in the middle of.
#[derive(Default)]
pub(crate) struct Spin(());

impl Spin {
    pub(crate) fn wait(&self) {
        shuttle::thread::yield_now();
    }
}

/// Tries once: what comes later is for those who wait.
pub(crate) fn spin_until<T>(
    _: Option<Instant>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    attempt()
}

/// Runs a future on this thread. A schedule has no deadlines.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    assert!(deadline.is_none(), "there is no time under a schedule");
    Some(shuttle::future::block_on(future))
}
