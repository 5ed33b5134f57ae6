//! The calls of the buffer that a puller and a settler build on.

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

/// Pushes records, not more than the permit is for.
pub(crate) fn push<E: Envelope>(permit: Permit<E>, records: Vec<E>) {
    let rest = permit.send_batch(records);
    debug_assert!(rest.is_ok(), "no more is received than a permit is held for");
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
