//! The library's `sync` module for the simulation: the real atomics, locks and queues, with a step counted at each
//! access. Where the simulation runs threads, a step is also a point at which another thread may go on.
//!
//! This file and the list of modules in `main.rs` are all that knows the inside of the library.

pub(crate) use parking_lot::Mutex as PlainMutex;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
pub(crate) use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, TryLockError, atomic};
use std::task::{Context, Poll, Waker};
pub(crate) use std::time::Instant;
use std::time::SystemTime;

pub(crate) use crossbeam_utils::CachePadded;
use papaya::{Guard, HashMapRef, LocalGuard};

use crate::clock;
pub(crate) use crate::clock::now;
use crate::unwind::discard;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static LOCKS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<u32> = const { Cell::new(0) };
    static LONGEST_HOLD: Cell<u64> = const { Cell::new(0) };
    static WRITES: RefCell<Vec<Write>> = const { RefCell::new(Vec::new()) };
}

/// A read-modify-write, or an attempt at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// Of the word at this address.
    Word(usize),
    RingTail,
    RingHead,
    Lock,
}

/// The read-modify-writes of some calls.
pub(crate) fn writes_of(work: impl FnOnce()) -> Vec<Write> {
    WRITES.take();
    work();
    WRITES.take()
}

fn write(write: Write) {
    WRITES.with_borrow_mut(|writes| writes.push(write));
}

fn write_word<T>(word: &T) {
    write(Write::Word(std::ptr::from_ref(word).addr()));
}

/// What some calls have cost: a measure that does not depend on the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Accesses of atomics, queues, the arena and the map, and acquisitions of locks.
    pub(crate) steps: u64,
    /// Acquisitions of locks alone.
    pub(crate) locks: u64,
    /// The most steps that were taken while one lock was held.
    pub(crate) longest_hold: u64,
}

/// What `work` costs.
pub(crate) fn measure<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (steps, locks) = (STEPS.get(), LOCKS.get());
    LONGEST_HOLD.set(0);
    let done = work();
    let cost = Cost {
        steps: STEPS.get() - steps,
        locks: LOCKS.get() - locks,
        longest_hold: LONGEST_HOLD.get(),
    };
    (done, cost)
}

/// Whether this thread holds a lock of the library. Unknown where the simulation runs threads.
pub(crate) fn holds_a_lock() -> bool {
    HELD.get() > 0
}

/// Forgets what a call that failed has left behind.
pub(crate) fn reset() {
    HELD.set(0);
}

fn step() {
    STEPS.set(STEPS.get() + 1);
    if clock::is_threaded() {
        // An access, and not a yield: a yield would tell the scheduler that this thread waits for others.
        shuttle::sync::atomic::AtomicBool::new(false).load(SeqCst);
    }
}

// The same face for all of them.
macro_rules! atomic {
    ($name:ident, $value:ty $(, $operation:ident)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: atomic::Ordering) -> $value {
                step();
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: atomic::Ordering) {
                step();
                self.0.store(value, order);
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: atomic::Ordering,
                failure: atomic::Ordering,
            ) -> Result<$value, $value> {
                step();
                write_word(self);
                self.0.compare_exchange(current, new, success, failure)
            }

            atomic!(@ $value, swap $(, $operation)*);
        }
    };
    (@ $value:ty $(, $operation:ident)*) => {
        $(
            pub(crate) fn $operation(&self, value: $value, order: atomic::Ordering) -> $value {
                step();
                write_word(self);
                self.0.$operation(value, order)
            }
        )*
    };
}

atomic!(AtomicBool, bool, fetch_or, fetch_and);
atomic!(AtomicU8, u8, fetch_or, fetch_and);
atomic!(AtomicU32, u32, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_min, fetch_max);
atomic!(AtomicU64, u64, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_min, fetch_max);
atomic!(AtomicI64, i64, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_min, fetch_max);
pub(crate) type AtomicSetting = AtomicU32;

/// A count for statistics is no step: nothing depends on it.
#[derive(Debug, Default)]
pub(crate) struct AtomicCount(atomic::AtomicU64);

impl AtomicCount {
    pub(crate) fn load(&self, order: atomic::Ordering) -> u64 {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: u64, order: atomic::Ordering) {
        self.0.store(value, order);
    }

    pub(crate) fn fetch_add(&self, value: u64, order: atomic::Ordering) -> u64 {
        write_word(self);
        self.0.fetch_add(value, order)
    }

    pub(crate) fn fetch_max(&self, value: u64, order: atomic::Ordering) -> u64 {
        write_word(self);
        self.0.fetch_max(value, order)
    }
}

/// A lock that knows when it is taken twice, and for how many steps it is held.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    since: u64,
    guard: std::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        step();
        let guard = match self.0.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        LOCKS.set(LOCKS.get() + 1);
        write(Write::Lock);
        HELD.set(HELD.get() + 1);
        Some(MutexGuard { since: STEPS.get(), guard })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            assert!(clock::is_threaded(), "a lock is taken by the thread that holds it");
            shuttle::thread::yield_now();
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        HELD.set(HELD.get().saturating_sub(1));
        LONGEST_HOLD.set(LONGEST_HOLD.get().max(STEPS.get() - self.since));
    }
}

/// The real ring. To make one takes a step for each of its slots.
pub(crate) struct ArrayQueue<T>(crossbeam_queue::ArrayQueue<T>);

impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        STEPS.set(STEPS.get() + capacity as u64);
        Self(crossbeam_queue::ArrayQueue::new(capacity))
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        step();
        write(Write::RingTail);
        let pushed = self.0.push(value);
        step();
        pushed
    }

    pub(crate) fn pop(&self) -> Option<T> {
        step();
        let popped = self.0.pop();
        if popped.is_some() {
            write(Write::RingHead);
        }
        step();
        popped
    }

    pub(crate) fn len(&self) -> usize {
        step();
        self.0.len()
    }
}

/// The real arena. Each entry that an iteration comes by is a step.
pub(crate) struct Arena<T>(boxcar::Vec<T>);

impl<T> Arena<T> {
    pub(crate) fn new() -> Self {
        Self(boxcar::Vec::new())
    }

    pub(crate) fn push(&self, value: T) -> usize {
        step();
        self.0.push(value)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index)
    }

    pub(crate) fn count(&self) -> usize {
        step();
        self.0.count()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().inspect(|_| step())
    }
}

/// The real map. Its hasher has fixed keys, so that a seed always leads to the same order.
pub(crate) struct Map<V>(papaya::HashMap<Arc<str>, V, Hasher>);

type Hasher = foldhash::fast::FixedState;

pub(crate) struct Pinned<'a, V>(HashMapRef<'a, Arc<str>, V, Hasher, LocalGuard<'a>>);

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(papaya::HashMap::default())
    }
}

impl<V> Map<V> {
    pub(crate) fn pin(&self) -> Pinned<'_, V> {
        Pinned(self.0.pin())
    }

    pub(crate) fn remove(&self, key: &str) {
        step();
        let guard = self.0.owned_guard();
        self.0.remove(key, &guard);
        guard.flush();
    }
}

impl<V> Pinned<'_, V> {
    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        step();
        self.0.get(key)
    }

    pub(crate) fn insert(&self, key: Arc<str>, value: V) {
        step();
        self.0.insert(key, value);
    }

    pub(crate) fn values(&self) -> Vec<V>
    where
        V: Clone,
    {
        self.0.values().inspect(|_| step()).cloned().collect()
    }
}

pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

/// A timer of the library's, on the virtual clock. It always fires.
pub(crate) struct Sleep(clock::Sleep);

pub(crate) fn sleep_until(deadline: Option<Instant>) -> Sleep {
    Sleep(clock::sleep_until(deadline))
}

impl Sleep {
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<bool> {
        let mut context = Context::from_waker(context.waker());
        Pin::new(&mut self.0).poll(&mut context).map(|()| true)
    }

    pub(crate) fn register(&mut self, context: &Context<'_>) -> Poll<bool> {
        self.poll(context)
    }
}

pub(crate) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
}

/// Wakers panic here as well.
pub(crate) fn isolate(call: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
        discard(payload);
    }
}

/// Waits for a step that another thread is in the middle of.
#[derive(Default)]
pub(crate) struct Spin(());

impl Spin {
    pub(crate) fn wait(&self) {
        assert!(clock::is_threaded(), "a step is waited for that nobody is in the middle of");
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

/// Runs a future on this thread, up to that moment of the virtual time. On one thread nothing else runs meanwhile.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    let mut future = pin!(future);
    let sleeper = clock::Sleeper::new();
    let waker = Waker::from(Arc::clone(&sleeper));
    loop {
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        if deadline.is_some_and(|deadline| deadline <= now()) {
            return None;
        }
        sleeper.wait(deadline);
    }
}
