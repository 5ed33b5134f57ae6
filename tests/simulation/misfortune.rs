//! Code of the user's that the library calls, and that may panic at any call: records and wakers.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::api::Envelope;
use crate::books::{self, Id};
use crate::random::Random;
use crate::watches::{self, Watch};
use crate::{checks, clock, sync};

/// What a panic that the simulation wanted carries.
#[derive(Debug)]
pub(crate) struct Misfortune;

#[derive(Debug, Clone)]
struct Luck {
    random: Random,
    /// One call of user code in so many panics. 0: none does.
    panics: usize,
}

thread_local! {
    static LUCK: RefCell<Luck> = const { RefCell::new(Luck { random: Random::new(0), panics: 0 }) };
    /// Whether a call of the library is under way.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static LIVE_WAKERS: Cell<usize> = const { Cell::new(0) };
}

pub(crate) fn reset(random: Random, panics: usize) {
    LUCK.set(Luck { random, panics });
    ARMED.set(false);
    LIVE_WAKERS.set(0);
}

/// Runs a call of the library's, in which user code may panic.
pub(crate) fn armed<T>(call: impl FnOnce() -> T) -> T {
    struct Disarm(bool);

    impl Drop for Disarm {
        fn drop(&mut self) {
            ARMED.set(self.0);
        }
    }

    let _disarm = Disarm(ARMED.replace(true));
    call()
}

/// Wakers that the library or the simulation still holds.
pub(crate) fn live_wakers() -> usize {
    LIVE_WAKERS.get()
}

/// Panics as the plan has it, wherever the library calls user code. A second panic on top of another would abort.
fn user_code(what: &'static str) {
    if !ARMED.get() {
        return;
    }
    if !clock::is_threaded() && sync::holds_a_lock() {
        checks::complain("user code", || format!("{what} is called under a lock"));
    }
    let panics = LUCK.with_borrow_mut(|luck| luck.random.one_in(luck.panics));
    if panics && !std::thread::panicking() {
        books::misfortune(what);
        resume_unwind(Box::new(Misfortune));
    }
}

/// A record that can be told from all others, and whose end the books note.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: Id,
    source: Arc<str>,
    retries: u32,
}

impl Record {
    pub(crate) fn new(id: Id, source: Arc<str>) -> Self {
        Self { id, source, retries: 0 }
    }
}

impl Envelope for Record {
    fn source_id(&self) -> &str {
        user_code("a record's source_id");
        &self.source
    }

    fn retry_count(&self) -> u32 {
        user_code("a record's retry_count");
        self.retries
    }

    fn increment_retry(&mut self) {
        user_code("a record's increment_retry");
        self.retries += 1;
        books::retried(self.id);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        books::dropped(self.id);
        user_code("a record's drop");
    }
}

/// A waker that notes in the books what it wakes, and passes the call on.
struct Hook {
    outer: Waker,
    watch: Watch,
}

impl Hook {
    fn wake(&self) {
        watches::woken(self.watch);
        self.outer.wake_by_ref();
        user_code("a waker's wake");
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        LIVE_WAKERS.set(LIVE_WAKERS.get() - 1);
    }
}

/// A new waker for what is watched. `std::task::Wake` would not let `clone` be user code.
#[allow(unsafe_code)]
pub(crate) fn waker(outer: Waker, watch: Watch) -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(
        |hook| {
            user_code("a waker's clone");
            // SAFETY: `hook` came from `Arc::into_raw`, and the waker that is cloned holds a count.
            unsafe { Arc::increment_strong_count(hook.cast::<Hook>()) };
            RawWaker::new(hook, &TABLE)
        },
        // SAFETY: the same, and the waker's own count is taken over.
        |hook| unsafe { Arc::from_raw(hook.cast::<Hook>()) }.wake(),
        // SAFETY: the same, and the waker's own count is left alone.
        |hook| ManuallyDrop::new(unsafe { Arc::from_raw(hook.cast::<Hook>()) }).wake(),
        |hook| {
            // SAFETY: the same, and the waker's own count is taken over.
            drop(unsafe { Arc::from_raw(hook.cast::<Hook>()) });
            user_code("a waker's drop");
        },
    );
    LIVE_WAKERS.set(LIVE_WAKERS.get() + 1);
    let hook = Arc::into_raw(Arc::new(Hook { outer, watch })).cast();
    // SAFETY: the table's functions are thread-safe as far as wakers stay on this thread, which a simulation never
    // leaves: `Hook` is `Send` and `Sync`, and the counts are those of an `Arc`.
    unsafe { Waker::from_raw(RawWaker::new(hook, &TABLE)) }
}
