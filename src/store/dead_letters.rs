//! Dead letters: records that used up their retries or were given up.

use std::sync::{Arc, Weak};

use crate::admission::{Admission, StageState};
use crate::record::Envelope;
use crate::sync::{ArrayQueue, SegQueue};

/// A record that the pipeline gave up, with where it failed.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Outcome};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
/// source.try_send(&stage, BufferedRecord::new("NA", "EWR", "flights", "parse"))?;
/// stage.try_recv_batch(1)?.settle(|_| Outcome::DeadLetter);
///
/// let letter = manager.dead_letters().try_recv().unwrap();
/// assert_eq!((letter.stage_id.as_str(), letter.source_id.as_str()), ("parse", "EWR"));
/// assert_eq!((letter.record.record, letter.retry_count), ("NA", 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter<E> {
    /// The record.
    pub record: E,
    /// The stage in which it failed.
    pub stage_id: String,
    /// The source that it came from, as the record has it.
    pub source_id: String,
    /// How often it had been returned.
    pub retry_count: u32,
}

/// The part of a dead letter that comes from the record's own methods.
pub(crate) struct LetterMeta {
    source_id: String,
    retry_count: u32,
}

impl LetterMeta {
    pub(crate) fn new<E: Envelope>(record: &E) -> Self {
        Self { source_id: record.source_id().to_owned(), retry_count: record.retry_count() }
    }
}

impl<E> DeadLetter<E> {
    pub(crate) fn new(record: E, meta: LetterMeta, stage_id: &str) -> Self {
        let LetterMeta { source_id, retry_count } = meta;
        Self { record, stage_id: stage_id.to_owned(), source_id, retry_count }
    }
}

/// The dead letters of one buffer.
pub(crate) struct DeadLetterQueue<E: Envelope> {
    letters: ArrayQueue<DeadLetter<E>>,
    /// Letters for which `letters` had no slot. The credits that they hold bound their number.
    parked: SegQueue<Parked<E>>,
    admission: Arc<Admission>,
}

/// A letter that waits for a slot, with the place and the credit that it holds.
struct Parked<E: Envelope> {
    letter: DeadLetter<E>,
    /// Weak, because the stage holds the queue.
    stage: Weak<dyn StageState>,
    account: u32,
}

impl<E: Envelope> DeadLetterQueue<E> {
    pub(crate) fn new(capacity: u32, admission: Arc<Admission>) -> Self {
        let letters = ArrayQueue::new(capacity as usize);
        Self { letters, parked: SegQueue::new(), admission }
    }

    /// Returns how many bytes the queue takes, or `None` if the number overflows.
    pub(crate) fn footprint(capacity: u32) -> Option<usize> {
        (capacity as usize).checked_mul(size_of::<DeadLetter<E>>() + size_of::<u64>())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.letters.capacity()
    }

    /// Returns the number of letters that hold no credits.
    pub(crate) fn len(&self) -> usize {
        self.letters.len()
    }

    /// Returns the number of letters that hold credits.
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Queues a letter that holds no credits.
    ///
    /// # Errors
    ///
    /// Returns the letter, if there is no slot for it.
    pub(crate) fn push(&self, letter: DeadLetter<E>) -> Result<(), DeadLetter<E>> {
        self.letters.push(letter)
    }

    /// Parks a letter. It keeps the place and the credit of its record until there is a slot for
    /// it.
    pub(super) fn park(&self, letter: DeadLetter<E>, stage: Arc<dyn StageState>, account: u32) {
        let parked = Parked { letter, stage: Arc::downgrade(&stage), account };
        self.admission.park(&*stage, account, || self.parked.push(parked));
        // A slot may have become free in between.
        self.promote();
    }

    /// Moves parked letters to free slots, and gives back what they hold.
    fn promote(&self) {
        while self.letters.len() < self.letters.capacity() {
            let Some(Parked { letter, stage, account }) = self.parked.pop() else { return };
            match self.letters.push(letter) {
                Ok(()) => self.release(&stage, account),
                Err(letter) => self.parked.push(Parked { letter, stage, account }),
            }
        }
    }

    /// Takes the oldest letter.
    pub(crate) fn pop(&self) -> Option<DeadLetter<E>> {
        if let Some(letter) = self.letters.pop() {
            self.promote();
            return Some(letter);
        }
        let Parked { letter, stage, account } = self.parked.pop()?;
        self.release(&stage, account);
        Some(letter)
    }

    fn release(&self, stage: &Weak<dyn StageState>, account: u32) {
        self.admission.release_parked(stage.upgrade().as_deref(), account);
    }
}
