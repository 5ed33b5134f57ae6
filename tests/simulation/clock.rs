//! Virtual time, and how the simulation waits for it.
//!
//! The time stands while anything can run, and leaps to the next timer when all wait.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::{books, phase};

/// For how long the library's own timers are followed while nothing else is left to happen.
const HORIZON: Duration = Duration::from_secs(24 * 3_600);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// When a timer is due, and which of those due then it is.
type Key = (Duration, u64);

struct Timer {
    waker: Waker,
    /// Whether the simulation has set it, and not the library.
    is_ours: bool,
}

thread_local! {
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static TIMERS: RefCell<BTreeMap<Key, Timer>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
    static OURS: Cell<usize> = const { Cell::new(0) };
    /// Since when none of the simulation's own timers has fired.
    static LAST_OF_OURS: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static THREADED: Cell<bool> = const { Cell::new(false) };
    /// Threads that are not parked, where the simulation runs threads.
    static AWAKE: Cell<usize> = const { Cell::new(0) };
    static WAKING: Cell<bool> = const { Cell::new(false) };
    static ALIVE: Cell<usize> = const { Cell::new(0) };
}

/// Begins a simulation at time 0.
pub(crate) fn reset(threaded: bool) {
    let timers = TIMERS.take();
    drop(timers);
    ELAPSED.set(Duration::ZERO);
    NEXT.set(0);
    OURS.set(0);
    LAST_OF_OURS.set(Duration::ZERO);
    THREADED.set(threaded);
    AWAKE.set(0);
    ALIVE.set(0);
    WAKING.set(false);
}

/// Whether the simulation runs threads, whose interleaving shuttle decides.
pub(crate) fn is_threaded() -> bool {
    THREADED.get()
}

pub(crate) fn elapsed() -> Duration {
    ELAPSED.get()
}

pub(crate) fn now() -> Instant {
    *START + ELAPSED.get()
}

/// A time that passes.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// `None` is never.
    due: Option<Duration>,
    key: Option<Key>,
    is_ours: bool,
}

/// Resolves at that moment, or never: for the library.
pub(crate) fn sleep_until(deadline: Option<Instant>) -> Sleep {
    let due = deadline.map(|deadline| deadline.saturating_duration_since(*START));
    Sleep { due, key: None, is_ours: false }
}

/// On many threads those that rest wake at the same moments, so that they run into each other.
const TICK: Duration = Duration::from_micros(200);

/// Resolves after that time: for the simulation.
pub(crate) fn rest(time: Duration) -> Sleep {
    let mut due = elapsed().checked_add(time);
    if is_threaded() {
        let ticks = due.map(|due| due.as_nanos().div_ceil(TICK.as_nanos()));
        due = ticks.and_then(|ticks| TICK.checked_mul(u32::try_from(ticks).ok()?));
    }
    Sleep { due, key: None, is_ours: true }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        if due <= elapsed() {
            return Poll::Ready(());
        }
        let old = self.key.take().and_then(remove);
        self.key = Some(insert(due, context.waker().clone(), self.is_ours));
        drop(old);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let timer = self.key.take().and_then(remove);
        drop(timer);
    }
}

fn insert(due: Duration, waker: Waker, is_ours: bool) -> Key {
    let key = (due, NEXT.replace(NEXT.get() + 1));
    TIMERS.with_borrow_mut(|timers| timers.insert(key, Timer { waker, is_ours }));
    OURS.set(OURS.get() + usize::from(is_ours));
    key
}

fn remove(key: Key) -> Option<Timer> {
    let timer = TIMERS.with_borrow_mut(|timers| timers.remove(&key))?;
    OURS.set(OURS.get() - usize::from(timer.is_ours));
    Some(timer)
}

/// Wakes after that time.
pub(crate) fn call_later(time: Duration, waker: Waker) {
    insert(elapsed() + time, waker, true);
}

/// When the next timer is due.
pub(crate) fn next_due() -> Option<Duration> {
    TIMERS.with_borrow(|timers| timers.keys().next().map(|key| key.0))
}

/// Leaps to the next timer, and fires all that are due then. `false` if there is none, or if nothing but the
/// library's own timers has been left for a day.
pub(crate) fn advance() -> bool {
    let Some(due) = next_due() else { return false };
    if OURS.get() > 0 {
        LAST_OF_OURS.set(due);
    } else if due > LAST_OF_OURS.get() + HORIZON {
        return false;
    }
    advance_to(due);
    true
}

fn advance_to(time: Duration) {
    ELAPSED.set(time.max(elapsed()));
    loop {
        let first = TIMERS.with_borrow(|timers| timers.keys().next().copied());
        match first {
            Some(key) if key.0 <= time => remove(key).expect("it was just there").waker.wake(),
            _ => return books::come_due(),
        }
    }
}

/// Gives the library's timers another day: something new is about to happen.
pub(crate) fn begin_phase() {
    LAST_OF_OURS.set(elapsed());
}

/// What a blocking call waits with.
pub(crate) struct Sleeper {
    woken: AtomicBool,
    parked: AtomicBool,
    thread: Option<shuttle::thread::Thread>,
}

impl Sleeper {
    pub(crate) fn new() -> Arc<Self> {
        let thread = is_threaded().then(shuttle::thread::current);
        Arc::new(Self { woken: AtomicBool::new(false), parked: AtomicBool::new(false), thread })
    }

    /// Waits until it is woken or that moment has come.
    pub(crate) fn wait(self: &Arc<Self>, deadline: Option<Instant>) {
        if self.woken.swap(false, SeqCst) {
            return;
        }
        let due = deadline.map(|deadline| deadline.saturating_duration_since(*START));
        if !is_threaded() {
            let next = next_due().into_iter().chain(due).min();
            advance_to(next.expect("a blocking call on one thread has a deadline"));
            return;
        }
        let timer = due.map(|due| insert(due, Waker::from(Arc::clone(self)), true));
        self.parked.store(true, SeqCst);
        AWAKE.set(AWAKE.get() - 1);
        wake_somebody();
        while !self.woken.swap(false, SeqCst) {
            shuttle::thread::park();
        }
        drop(timer.and_then(remove));
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        if self.parked.swap(false, SeqCst)
            && let Some(thread) = &self.thread
        {
            AWAKE.set(AWAKE.get() + 1);
            thread.unpark();
        }
    }
}

/// Where every thread is parked, lets the time pass, and then the simulation's next phase begin.
///
/// Only one thread does so at a time: where it wakes another, that may run at once, and be parked again.
fn wake_somebody() {
    if WAKING.replace(true) {
        return;
    }
    while AWAKE.get() == 0 && ALIVE.get() > 0 {
        if !advance() {
            phase::next();
        }
    }
    WAKING.set(false);
}

/// Counts a thread that is about to be spawned.
pub(crate) fn enter_thread() {
    AWAKE.set(AWAKE.get() + 1);
    ALIVE.set(ALIVE.get() + 1);
}

/// Counts a thread out that is about to end.
pub(crate) fn leave_thread() {
    AWAKE.set(AWAKE.get() - 1);
    ALIVE.set(ALIVE.get() - 1);
    wake_somebody();
}
