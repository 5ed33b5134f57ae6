//! The library's `sync` module once more, on loom: its atomics and locks, and stand-ins with the same
//! face for the rest, whose own interleavings are not what is modelled here.

use std::ops::Deref;
use std::sync::OnceLock;
/// Not loom's: see the library's own.
pub(crate) use std::sync::atomic::AtomicU32 as Setting;

pub(crate) use loom::sync::atomic::Ordering::SeqCst;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
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

/// As many accounts as a model can have.
const ARENA: usize = 8;

/// An append-only vector whose entries can be borrowed.
pub(crate) struct Arena<T> {
    entries: [OnceLock<T>; ARENA],
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
        let count = *self.count.lock();
        self.entries[..count].iter().filter_map(OnceLock::get).enumerate()
    }
}
