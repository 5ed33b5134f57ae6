//! The calls of the buffer that a puller and a settler build on.

use std::collections::VecDeque;
use std::time::Duration;

use conveyor_buffer::{BufferManager, DeadLetter, Envelope, Permit, RejectReason, Source, Stage};
use futures_util::FutureExt;

/// The interval at which dead letters are looked for.
const LETTER_INTERVAL: Duration = Duration::from_millis(20);

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

/// Waits for a dead letter. Returns `None` after the buffer is closed and drained.
pub(crate) async fn next_letter<E: Envelope>(manager: &BufferManager<E>) -> Option<DeadLetter<E>> {
    let letters = manager.dead_letters();
    loop {
        // Ask before the last look, so that no letter is missed.
        let is_done = manager.is_closed() && manager.drain().now_or_never().is_some();
        if let Some(letter) = letters.try_recv() {
            return Some(letter);
        }
        if is_done {
            return None;
        }
        tokio::time::sleep(LETTER_INTERVAL).await;
    }
}

/// Names why a record became a dead letter.
pub(crate) fn reason_of<E: Envelope>(letter: &DeadLetter<E>) -> String {
    if letter.retry_count > 0 { "retries exhausted".into() } else { "rejected".into() }
}
