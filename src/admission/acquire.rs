//! The future of a request that waits for credits and places.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::SharedStage;
use super::admission::Admission;
use super::protocol::Acquired;
use super::wait_queue::{Request, Ticket};
use crate::caps::Denied;
use crate::sync::{Instant, now};

/// The number of records that a request wants credits and places for.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    /// All of them at once, and this many units of bytes: 0 in a buffer without byte budgets.
    All(usize, u32),
    /// As `All`, for records to come.
    Ahead(usize, u32),
    /// As many as are free, from 1 to this number, for records to come.
    AheadUpTo(usize),
}

/// A request in the queue. Resolves when it has credits and places for its records. If it is
/// dropped earlier, it leaves the queue, and gives back what it was granted.
pub(crate) struct Acquire {
    admission: Arc<Admission>,
    stage: SharedStage,
    account: Option<u32>,
    since: Instant,
    ticket: Option<Ticket>,
}

impl Acquire {
    pub(crate) fn new(admission: &Arc<Admission>, request: Request) -> Self {
        let (stage, account, since) = (Arc::clone(&request.stage), request.account, now());
        admission.add_waiter();
        let ticket = admission
            .with_queue(|queue, deferred| queue.enter(admission.protocol(), request, deferred));
        Self { admission: Arc::clone(admission), stage, account, since, ticket: Some(ticket) }
    }

    /// Ends the wait, and returns the request.
    fn end(&mut self) -> Option<Ticket> {
        let ticket = self.ticket.take()?;
        let time = now().saturating_duration_since(self.since);
        self.stage.places().tally().count_wait(time);
        if let Some(account) = self.account {
            self.admission.account(account).tally().count_wait(time);
        }
        Some(ticket)
    }

    /// Makes a last attempt and leaves the queue.
    ///
    /// # Errors
    ///
    /// Returns what denies the request.
    pub(crate) fn give_up(mut self) -> Result<Acquired, Denied> {
        let Some(ticket) = self.end() else { return Err(Denied::Closed) };
        let outcome = self.admission.with_queue(|queue, deferred| {
            queue.give_up(self.admission.protocol(), ticket, deferred)
        });
        self.admission.serve();
        outcome
    }
}

impl Future for Acquire {
    type Output = Result<Acquired, Denied>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.ticket.expect("polled after it was ready");
        let waker = context.waker().clone();
        let outcome = self.admission.with_queue(|queue, deferred| {
            queue.poll(self.admission.protocol(), ticket, waker, deferred)
        });
        match outcome {
            Some(outcome) => {
                self.end();
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some(ticket) = self.end() {
            self.admission.with_queue(|queue, deferred| {
                queue.leave(self.admission.protocol(), ticket, deferred);
            });
            self.admission.serve();
        }
    }
}
