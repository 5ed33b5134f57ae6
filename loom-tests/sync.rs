//! The library's `sync` module once more, on loom: its atomics and locks, and stand-ins with the same
//! face for the queues, the arena and the map, whose own interleavings are not modelled here.

/// Not loom's: see the library's own.
pub(crate) use parking_lot::Mutex as PlainMutex;
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
pub(crate) use std::sync::atomic::AtomicU32 as AtomicSetting;
pub(crate) use std::sync::atomic::AtomicU64 as AtomicCount;
pub(crate) use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, TryLockError};
use std::task::{Context, Poll};
pub(crate) use std::time::Instant;
use std::time::SystemTime;

pub(crate) use loom::sync::atomic::Ordering::SeqCst;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64};
use loom::sync::{Mutex as LoomMutex, MutexGuard};

/// A lock that answers as `parking_lot`'s does.
pub(crate) struct Mutex<T>(LoomMutex<T>);

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(LoomMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a model that panics has failed already")
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("a model that panics has failed already"),
        }
    }
}

/// Padding makes no difference to a model.
pub(crate) struct CachePadded<T>(T);

impl<T> CachePadded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A bounded queue: a locked `VecDeque` in place of the ring.
pub(crate) struct ArrayQueue<T> {
    entries: Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "capacity must be non-zero");
        Self { entries: Mutex::new(VecDeque::new()), capacity }
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        let mut entries = self.entries.lock();
        if entries.len() == self.capacity {
            return Err(value);
        }
        entries.push_back(value);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.entries.lock().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }
}

/// As many entries as a model makes in an arena or a map.
const SLOTS: usize = 8;

thread_local! {
    static LOOK_UPS: Cell<usize> = const { Cell::new(0) };
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// How many entries of an arena the models of this test have looked at so far.
pub(crate) fn look_ups() -> usize {
    LOOK_UPS.get()
}

/// An append-only vector whose entries can be borrowed.
pub(crate) struct Arena<T> {
    entries: [OnceLock<T>; SLOTS],
    count: Mutex<usize>,
}

impl<T> Arena<T> {
    pub(crate) fn new() -> Self {
        Self { entries: std::array::from_fn(|_| OnceLock::new()), count: Mutex::new(0) }
    }

    pub(crate) fn push(&self, value: T) -> usize {
        let mut count = self.count.lock();
        assert!(self.entries[*count].set(value).is_ok(), "each entry is set once");
        *count += 1;
        *count - 1
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        LOOK_UPS.set(LOOK_UPS.get() + 1);
        self.entries[index].get()
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.lock()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let entries = self.entries[..self.count()].iter().filter_map(OnceLock::get);
        entries.inspect(|_| LOOK_UPS.set(LOOK_UPS.get() + 1)).enumerate()
    }
}

/// A map that keeps what was removed until it is dropped, as the real one keeps what is pinned.
pub(crate) struct Map<V> {
    values: Arena<V>,
    /// The keys in use, with the places of their values.
    keys: Mutex<Vec<(Arc<str>, usize)>>,
}

/// A view of a map.
pub(crate) struct Pinned<'a, V>(&'a Map<V>);

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self { values: Arena::new(), keys: Mutex::default() }
    }
}

impl<V> Map<V> {
    pub(crate) fn pin(&self) -> Pinned<'_, V> {
        Pinned(self)
    }

    pub(crate) fn remove(&self, key: &str) {
        self.keys.lock().retain(|(other, _)| **other != *key);
    }
}

impl<V> Pinned<'_, V> {
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        let keys = self.0.keys.lock();
        let (_, place) = keys.iter().find(|(other, _)| **other == *key)?;
        self.0.values.get(*place)
    }

    pub(crate) fn insert(&self, key: Arc<str>, value: V) {
        let mut keys = self.0.keys.lock();
        keys.retain(|(other, _)| *other != key);
        let place = self.0.values.push(value);
        keys.push((key, place));
    }

    pub(crate) fn values(&self) -> Vec<V>
    where
        V: Clone,
    {
        let places: Vec<_> = self.0.keys.lock().iter().map(|(_, place)| *place).collect();
        places.into_iter().filter_map(|place| self.0.values.get(place).cloned()).collect()
    }
}

pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

/// The clock stands still.
pub(crate) fn now() -> Instant {
    START.get().unwrap_or_else(|| {
        let start = Instant::now();
        START.set(Some(start));
        start
    })
}

/// A moment that never comes.
pub(crate) struct Sleep;

pub(crate) fn sleep_until(_: Option<Instant>) -> Sleep {
    Sleep
}

impl Sleep {
    pub(crate) fn poll(&mut self, _: &Context<'_>) -> Poll<bool> {
        Poll::Pending
    }

    pub(crate) fn register(&mut self, _: &Context<'_>) -> Poll<bool> {
        Poll::Pending
    }
}

pub(crate) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
}

/// A panic fails the model.
pub(crate) fn isolate(call: impl FnOnce()) {
    call();
}

/// Waits for a step that another thread is in the middle of.
#[derive(Default)]
pub(crate) struct Spin(Cell<usize>);

/// How often a thread waits for such a step before it is that other thread's turn for certain. loom would
/// explore schedules in which two threads wait in turn, for ever, and a third does not come to its step.
const FAIR: usize = 2;

impl Spin {
    pub(crate) fn wait(&self) {
        self.0.set(self.0.get() + 1);
        if self.0.get() > FAIR {
            // From here on loom takes the next thread that has waited least, and no other as well.
            loom::skip_branch();
        }
        loom::thread::yield_now();
    }
}

/// Tries once: what comes later is for those who wait.
pub(crate) fn spin_until<T>(
    _: Option<Instant>,
    mut attempt: impl FnMut() -> Option<T>,
) -> Option<T> {
    attempt()
}

/// Runs a future on this thread. A model has no deadlines.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    assert!(deadline.is_none(), "there is no time in a model");
    Some(loom::future::block_on(future))
}
