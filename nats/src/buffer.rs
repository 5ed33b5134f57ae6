//! Permits and batches, as a puller and a publisher use them.

use std::collections::VecDeque;
use std::thread;

use conveyor_buffer::{Batch, Envelope, Permit};

/// The permits of all open requests.
///
/// They cover the messages that are owed, and those that are being settled upstream without having
/// become a record.
pub(crate) struct Room<E: Envelope>(VecDeque<Permit<E>>);

impl<E: Envelope> Room<E> {
    pub(crate) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn add(&mut self, permit: Permit<E>) {
        self.0.push_back(permit);
    }

    /// Pushes a record that was owed.
    ///
    /// # Panics
    ///
    /// Panics if there is no permit, so if more has come than was asked for.
    pub(crate) fn push(&mut self, record: E) {
        let permit = self.0.front_mut().expect("a permit for each message that is owed");
        let pushed = permit.push(record);
        debug_assert!(pushed.is_ok(), "permits that are used up are removed");
        if permit.is_empty() {
            self.0.pop_front();
        }
    }

    /// Releases the permits that are not needed to cover this many messages.
    pub(crate) fn shrink_to(&mut self, messages: usize) {
        let mut spare = self.0.iter().map(Permit::len).sum::<usize>().saturating_sub(messages);
        while let Some(permit) = self.0.pop_back_if(|permit| permit.len() <= spare) {
            spare -= permit.len();
        }
    }
}

/// A batch that goes back to its stage without a retry counted, if its task is cancelled.
///
/// During a panic it is dropped as any batch, so that its records come again one by one.
pub(crate) struct InHand<E: Envelope>(Option<Batch<E>>);

impl<E: Envelope> InHand<E> {
    pub(crate) fn new(batch: Batch<E>) -> Self {
        Self(Some(batch))
    }

    pub(crate) fn batch(&self) -> &Batch<E> {
        self.0.as_ref().expect("it is taken out by value only")
    }

    pub(crate) fn into_batch(mut self) -> Batch<E> {
        self.0.take().expect("it is taken out by value only")
    }
}

impl<E: Envelope> Drop for InHand<E> {
    fn drop(&mut self) {
        if let Some(batch) = self.0.take()
            && !thread::panicking()
        {
            batch.requeue();
        }
    }
}
