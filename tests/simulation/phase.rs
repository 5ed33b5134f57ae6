//! The phases of a simulation. The next begins when nothing is left to happen in the one before.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::{checks, clock};

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// What the plan says, misfortunes included.
    Run,
    /// What was never polled is dropped, and dead letters are received.
    Relief,
    /// The buffer is closed and drained.
    Close,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Run) };
    static WAITING: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn reset() {
    PHASE.set(Phase::Run);
    WAITING.take();
}

pub(crate) fn current() -> Phase {
    PHASE.get()
}

/// Waits for a phase.
pub(crate) async fn begins(phase: Phase) {
    poll_fn(|context| {
        if PHASE.get() >= phase {
            return Poll::Ready(());
        }
        WAITING.with_borrow_mut(|waiting| waiting.push(context.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// Begins the next phase. There must be one: nobody can wait for anything after a close.
pub(crate) fn next() {
    let next = match PHASE.get() {
        Phase::Run => Phase::Relief,
        Phase::Relief => Phase::Close,
        Phase::Close => checks::stuck(),
    };
    PHASE.set(next);
    clock::begin_phase();
    WAITING.take().into_iter().for_each(Waker::wake);
}
