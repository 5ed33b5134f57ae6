//! The library's `sync` module once more, on loom: its atomics and locks, and stand-ins with the same
//! face for the queues, the arena and the map, whose own interleavings are not modelled here.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
/// Not loom's: see the library's own.
pub(crate) use std::sync::atomic::AtomicU32 as AtomicSetting;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub(crate) use loom::sync::atomic::Ordering::SeqCst;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use loom::sync::{Mutex as LoomMutex, MutexGuard};

/// A lock that answers as `parking_lot`'s does.
pub(crate) struct Mutex<T>(LoomMutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(LoomMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a model that panics has failed already")
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

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}

/// An unbounded queue.
pub(crate) struct SegQueue<T>(Mutex<VecDeque<T>>);

impl<T> SegQueue<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    pub(crate) fn push(&self, value: T) {
        self.0.lock().push_back(value);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.lock().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// As many entries as a model makes in an arena or a map.
const SLOTS: usize = 8;

thread_local! {
    static WALKS: Cell<usize> = const { Cell::new(0) };
}

/// How often an arena was walked over by the models of this test so far.
pub(crate) fn walks() -> usize {
    WALKS.get()
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
        self.entries[index].get()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        WALKS.set(WALKS.get() + 1);
        let count = *self.count.lock();
        self.entries[..count].iter().filter_map(OnceLock::get).enumerate()
    }
}

/// A map that keeps what was removed until it is dropped, as the real one keeps what is pinned.
pub(crate) struct Map<K, V> {
    values: Arena<V>,
    /// The keys in use, with the places of their values.
    keys: Mutex<Vec<(K, usize)>>,
}

/// What a pinned map lends.
pub(crate) struct Pinned<'a, K, V>(&'a Map<K, V>);

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { values: Arena::new(), keys: Mutex::new(Vec::new()) }
    }
}

impl<K: Eq, V> Map<K, V> {
    pub(crate) fn pin(&self) -> Pinned<'_, K, V> {
        Pinned(self)
    }
}

impl<'a, K: Eq, V> Pinned<'a, K, V> {
    pub(crate) fn get<Q: Eq + ?Sized>(&self, key: &Q) -> Option<&'a V>
    where
        K: Borrow<Q>,
    {
        let keys = self.0.keys.lock();
        let (_, place) = keys.iter().find(|(other, _)| other.borrow() == key)?;
        self.0.values.get(*place)
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        let mut keys = self.0.keys.lock();
        keys.retain(|(other, _)| *other != key);
        let place = self.0.values.push(value);
        keys.push((key, place));
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &'a V> {
        let places: Vec<_> = self.0.keys.lock().iter().map(|(_, place)| *place).collect();
        places.into_iter().filter_map(|place| self.0.values.get(place))
    }
}

/// Removes an entry from a map.
pub(crate) fn remove<K: Borrow<str>, V>(map: &Map<K, V>, key: &str) {
    map.keys.lock().retain(|(other, _)| other.borrow() != key);
}

/// Wakes those who listen: a locked list of them, in order.
pub(crate) struct Event(Arc<Mutex<Listeners>>);

#[derive(Default)]
struct Listeners {
    next: usize,
    entries: Vec<Entry>,
}

struct Entry {
    id: usize,
    notified: bool,
    waker: Option<Waker>,
}

/// One who listens. Dropped when it was notified and not polled since, it passes the notification on.
pub(crate) struct Listener {
    listeners: Arc<Mutex<Listeners>>,
    id: usize,
}

impl Listeners {
    /// Notifies the first that is not, and gives what wakes it.
    fn notify(&mut self) -> Option<Waker> {
        let entry = self.entries.iter_mut().find(|entry| !entry.notified)?;
        entry.notified = true;
        entry.waker.take()
    }
}

impl Event {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Listeners::default())))
    }

    pub(crate) fn listen(&self) -> Listener {
        let mut listeners = self.0.lock();
        let id = listeners.next;
        listeners.next += 1;
        listeners.entries.push(Entry { id, notified: false, waker: None });
        Listener { listeners: Arc::clone(&self.0), id }
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        !self.0.lock().entries.is_empty()
    }

    pub(crate) fn notify_one(&self) {
        let woken = self.0.lock().notify();
        woken.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn notify_all(&self) {
        let mut listeners = self.0.lock();
        let woken: Vec<_> = listeners
            .entries
            .iter_mut()
            .filter_map(|entry| {
                entry.notified = true;
                entry.waker.take()
            })
            .collect();
        drop(listeners);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Future for Listener {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut listeners = self.listeners.lock();
        let Some(place) = listeners.entries.iter().position(|entry| entry.id == self.id) else {
            return Poll::Ready(());
        };
        if listeners.entries[place].notified {
            listeners.entries.remove(place);
            return Poll::Ready(());
        }
        listeners.entries[place].waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.listeners.lock();
        let Some(place) = listeners.entries.iter().position(|entry| entry.id == self.id) else {
            return;
        };
        let passed_on = listeners.entries.remove(place).notified.then(|| listeners.notify());
        drop(listeners);
        passed_on.flatten().into_iter().for_each(Waker::wake);
    }
}

/// There is no time in a model: it is over at once.
pub(crate) type Sleep = std::future::Ready<()>;

pub(crate) fn sleep(_: Duration) -> Sleep {
    std::future::ready(())
}

/// Tries once: what comes later is for those who wait.
pub(crate) fn persist<T>(_: Option<Instant>, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    attempt()
}

/// Runs a future on this thread. A model has no deadlines.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    assert!(deadline.is_none(), "there is no time in a model");
    Some(loom::future::block_on(future))
}
