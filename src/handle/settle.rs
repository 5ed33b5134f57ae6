//! Settling a batch: the outcome of each record, and how it is carried out whatever panics.

use std::sync::Arc;

use crate::record::Envelope;
use crate::store::{BatchContents, LetterMeta, StageCore};
use crate::unwind::Panics;

/// What becomes of one record of a batch, in [`Batch::settle`](crate::Batch::settle).
///
/// ```
/// use conveyor_buffer::Outcome;
///
/// let outcome = if "NA".parse::<u32>().is_ok() { Outcome::Ack } else { Outcome::Return };
/// assert_eq!(outcome, Outcome::Return);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is done with: it is dropped, and its credits are free again.
    Ack,
    /// It failed: it goes back to its stage, one retry counted, or to the dead letters if that would
    /// pass the retry limit.
    Return,
    /// It is hopeless: it goes to the dead letters, whatever its retry count.
    DeadLetter,
}

/// A batch whose records' outcomes are being decided. Dropping it carries them out, and returns the
/// records that have none: so it makes no difference whether the deciding ended or panicked.
pub(super) struct Settling<'a, E: Envelope> {
    stage: &'a Arc<StageCore<E>>,
    contents: &'a mut BatchContents<E>,
    outcomes: Outcomes,
}

/// The outcomes decided so far, in the order of the records. The usual case, that all are
/// acknowledged, is only counted.
#[derive(Default)]
struct Outcomes {
    acked: usize,
    rest: Vec<Outcome>,
    /// How many records, from the front, are ready for their outcome: retries counted, dead letters
    /// described.
    ready: usize,
    /// What describes the dead letters among them, in order.
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

    /// The outcome that can be carried out: a dead letter that is not described is returned.
    fn final_outcome(&self, place: usize) -> Outcome {
        match self.get(place) {
            Outcome::DeadLetter if place >= self.ready => Outcome::Return,
            outcome => outcome,
        }
    }

    /// Makes one record ready, by calls of its own code.
    fn prepare<E: Envelope>(&mut self, place: usize, record: &mut E, limit: Option<u32>) {
        match self.get(place) {
            Outcome::Ack => {}
            Outcome::Return if !is_exhausted(record, limit) => record.increment_retry(),
            Outcome::Return | Outcome::DeadLetter => {
                self.meta.push(LetterMeta::new(record));
                let place = place - self.acked;
                if place >= self.rest.len() {
                    self.rest.resize(place + 1, Outcome::Return);
                }
                self.rest[place] = Outcome::DeadLetter;
            }
        }
        self.ready = place + 1;
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

    /// Counts retries and labels dead letters, by calls of the record's own code.
    fn prepare(&mut self) {
        let (outcomes, limit) = (&mut self.outcomes, self.stage.retry_limit());
        let records = self.contents.as_mut_slice().iter_mut().enumerate();
        for (place, record) in records.skip(outcomes.acked) {
            outcomes.prepare(place, record, limit);
        }
    }

    fn carry_out(&mut self) {
        let Self { stage, contents, outcomes } = self;
        let contents = std::mem::take(*contents);
        let [mut acked, returned, dead] =
            contents.split_by(|place| outcomes.final_outcome(place) as usize);
        stage.push_returned(returned);
        stage.dead_letter(dead, std::mem::take(&mut outcomes.meta));
        acknowledge(stage, &mut acked);
    }
}

/// A panic of the record's own code goes on when all is carried out, and ends here if the thread is
/// unwinding already, so that a worker that panics does not abort the process.
impl<E: Envelope> Drop for Settling<'_, E> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        panics.catch(|| self.prepare());
        panics.catch(|| self.carry_out());
        panics.resume();
    }
}

/// Whether one more return would pass the retry limit.
pub(crate) fn is_exhausted<E: Envelope>(record: &E, limit: Option<u32>) -> bool {
    limit.is_some_and(|limit| record.retry_count() >= limit)
}

/// Drops records and gives back what they held, in this order, so that no cap is passed; also when a
/// record's drop panics.
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
