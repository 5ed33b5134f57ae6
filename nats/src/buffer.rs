//! Permits and batches, as a puller and a publisher use them.

use std::collections::VecDeque;
use std::thread;

use conveyor_buffer::{Batch, Envelope, Permit, RejectReason, Source, Stage};

/// Waits until there is room for a record, then reserves room for up to `max`.
pub(crate) async fn reserve_up_to<E: Envelope>(
    source: &Source<E>,
    stage: &Stage<E>,
    max: usize,
) -> Result<Permit<E>, RejectReason> {
    let places = stage.capacity().saturating_sub(stage.len() + stage.in_flight());
    let room = max.min(source.available_credits()).min(places).max(1);
    source.reserve(stage, room).await
}

/// The permits of all open requests, and the records that came for them.
///
/// There is always room for the messages that are owed and the records that came.
pub(crate) struct Room<E: Envelope> {
    permits: VecDeque<Permit<E>>,
    records: Vec<E>,
}

impl<E: Envelope> Room<E> {
    pub(crate) fn new() -> Self {
        Self { permits: VecDeque::new(), records: Vec::new() }
    }

    pub(crate) fn add(&mut self, permit: Permit<E>) {
        self.permits.push_back(permit);
    }

    pub(crate) fn put(&mut self, record: E) {
        self.records.push(record);
    }

    /// Pushes records, as blocks of the permits' sizes, and all of them if nothing more is owed.
    /// Releases the room that is not needed any more.
    pub(crate) fn push(&mut self, owed: usize) {
        while let Some(permit) = self.permits.pop_front_if(|permit| {
            let held = self.records.len();
            held > 0 && (owed == 0 || permit.len() <= held)
        }) {
            let rest = self.records.split_off(self.records.len().min(permit.len()));
            let pushed = permit.send_batch(std::mem::replace(&mut self.records, rest));
            debug_assert!(pushed.is_ok(), "no more is pushed than the permit is for");
        }
        let mut spare = self.permits.iter().map(Permit::len).sum::<usize>();
        spare = spare.saturating_sub(owed + self.records.len());
        while let Some(permit) = self.permits.pop_back_if(|permit| permit.len() <= spare) {
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
