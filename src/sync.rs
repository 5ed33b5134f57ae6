//! The only file that names atomics, locks, queues, the arena and the map.
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
use std::hash::Hash;
/// A number that is written under a lock before it matters, or of which any value is right: the
/// models do not explore the order of its reads.
pub(crate) use std::sync::atomic::AtomicU32 as AtomicSetting;
pub(crate) use std::sync::atomic::Ordering::SeqCst;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

pub(crate) use boxcar::Vec as Arena;
pub(crate) use crossbeam_queue::{ArrayQueue, SegQueue};
pub(crate) use crossbeam_utils::CachePadded;
use papaya::Guard;
pub(crate) use papaya::HashMap as Map;
pub(crate) use parking_lot::Mutex;

/// Removes an entry from a map, and drops it as soon as no look-up holds it any more. Without the
/// flush, the map would keep some removed entries until there are more.
pub(crate) fn remove<K: Borrow<str> + Hash + Eq, V>(map: &Map<K, V>, key: &str) {
    let guard = map.guard();
    map.remove(key, &guard);
    guard.flush();
}
