//! Settling a batch: the outcome of each record, carried out even if user code panics.

use std::sync::Arc;

use crate::record::Envelope;
use crate::store::{BatchContents, LetterMeta, StageCore};
use crate::unwind::Panics;

/// The outcome of one record, as decided in [`Batch::settle`](crate::Batch::settle).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The record is done: drop it and release its credit and place.
    Ack,
    /// The record failed: return it to its stage and add one to its retry count.
    ///
    /// A record that has used up its retries goes to the dead letters instead.
    Return,
    /// The record cannot succeed: move it to the dead letters, whatever its retry count.
    DeadLetter,
}

/// A batch whose outcomes are being decided.
///
/// Its drop carries the outcomes out and returns the undecided records. It does so whether the
/// decisions are complete or a panic ended them.
pub(super) struct Settling<'a, E: Envelope> {
    stage: &'a Arc<StageCore<E>>,
    contents: &'a mut BatchContents<E>,
    outcomes: Outcomes,
}

/// The outcomes decided so far, in the order of the records.
///
/// Acknowledged records at the front, which is the common case, are only counted.
#[derive(Default)]
struct Outcomes {
    acked: usize,
    rest: Vec<Outcome>,
    /// The metadata of the dead letters, in order.
    meta: Vec<LetterMeta>,
}

impl Outcomes {
    fn push(&mut self, outcome: Outcome) {
        if outcome == Outcome::Ack && self.rest.is_empty() {
            self.acked += 1;
        } else {
            self.rest.push(outcome);
        }
    }

    fn get(&self, place: usize) -> Outcome {
        match place.checked_sub(self.acked) {
            None => Outcome::Ack,
            Some(place) => self.rest.get(place).copied().unwrap_or(Outcome::Return),
        }
    }

    /// Replaces the outcome of a record that is not among the acknowledged ones at the front.
    fn set(&mut self, place: usize, outcome: Outcome) {
        let place = place - self.acked;
        if place >= self.rest.len() {
            self.rest.resize(place + 1, Outcome::Return);
        }
        self.rest[place] = outcome;
    }

    /// Makes one record ready to be settled. This calls the record's own code: if that panics, the
    /// record is returned.
    fn prepare<E: Envelope>(&mut self, place: usize, record: &mut E, limit: Option<u32>) {
        let outcome = self.get(place);
        if outcome == Outcome::Ack {
            return;
        }
        if outcome == Outcome::DeadLetter {
            self.set(place, Outcome::Return);
        } else if !is_exhausted(record, limit) {
            record.increment_retry();
            return;
        }
        self.meta.push(LetterMeta::new(record));
        self.set(place, Outcome::DeadLetter);
    }
}

impl<'a, E: Envelope> Settling<'a, E> {
    pub(super) fn new(stage: &'a Arc<StageCore<E>>, contents: &'a mut BatchContents<E>) -> Self {
        Self { stage, contents, outcomes: Outcomes::default() }
    }

    /// Decides the records in order.
    pub(super) fn decide(mut self, decide: &mut impl FnMut(&mut E) -> Outcome) {
        for place in 0..self.contents.len() {
            let outcome = decide(&mut self.contents.as_mut_slice()[place]);
            self.outcomes.push(outcome);
        }
    }

    /// Counts retries and collects the metadata of dead letters. This calls the records' own code; a
    /// panic of one record keeps no other from being prepared.
    fn prepare(&mut self, panics: &mut Panics) {
        let (outcomes, limit) = (&mut self.outcomes, self.stage.retry_limit());
        let mut place = outcomes.acked;
        let mut records = self.contents.as_mut_slice()[place..].iter_mut();
        while records.len() > 0 {
            panics.catch(|| {
                for record in records.by_ref() {
                    place += 1;
                    outcomes.prepare(place - 1, record, limit);
                }
            });
        }
    }

    fn carry_out(&mut self) {
        let Self { stage, contents, outcomes } = self;
        let contents = std::mem::take(*contents);
        let [mut acked, returned, dead] = contents.split_by(|place| outcomes.get(place) as usize);
        stage.push_returned(returned);
        stage.dead_letter(dead, std::mem::take(&mut outcomes.meta));
        acknowledge(stage, &mut acked);
    }
}

/// Resumes a panic of the record's own code after all outcomes are carried out. If the thread is
/// already unwinding, the panic ends here, because a second panic would abort the process.
impl<E: Envelope> Drop for Settling<'_, E> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        self.prepare(&mut panics);
        panics.catch(|| self.carry_out());
        panics.resume();
    }
}

/// Returns `true` if one more return would exceed the retry limit.
pub(crate) fn is_exhausted<E: Envelope>(record: &E, limit: Option<u32>) -> bool {
    limit.is_some_and(|limit| record.retry_count() >= limit)
}

/// Drops records and then releases their credits and places, even if the drop of a record panics.
///
/// In this order no cap is exceeded.
#[inline]
pub(super) fn acknowledge<E: Envelope>(stage: &StageCore<E>, contents: &mut BatchContents<E>) {
    struct Release<'a, E: Envelope>(&'a StageCore<E>, &'a mut BatchContents<E>);

    impl<E: Envelope> Drop for Release<'_, E> {
        fn drop(&mut self) {
            self.0.release(self.1.runs());
        }
    }

    Release(stage, contents).1.drop_records();
}
