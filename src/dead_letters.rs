//! The dead letters: records that used up their retries or were given up.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::ledger::Ledger;
use crate::record::Envelope;
use crate::stage::StageCore;
use crate::sync::{ArrayQueue, SegQueue};
use crate::waiting::Freed;

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

/// What a dead letter says that only the record's own code can tell.
pub(crate) struct Label {
    source_id: String,
    retry_count: u32,
}

impl Label {
    pub(crate) fn new<E: Envelope>(record: &E) -> Self {
        Self { source_id: record.source_id().to_owned(), retry_count: record.retry_count() }
    }
}

impl<E> DeadLetter<E> {
    pub(crate) fn new(record: E, label: Label, stage_id: &str) -> Self {
        let Label { source_id, retry_count } = label;
        Self { record, stage_id: stage_id.to_owned(), source_id, retry_count }
    }
}

/// A handle to the dead letters of a buffer. Cheap to clone.
///
/// A record comes here when a return would pass its retry limit, or when a worker settles it as
/// [`Outcome::DeadLetter`](crate::Outcome::DeadLetter). It gives its credits back on arrival.
///
/// At most [`capacity`](Self::capacity) letters are held so. When they are full, a further record is
/// parked: it is not handed to a worker again and is received like the others, but until a place
/// becomes free it keeps its credits and its place in its stage, where it counts as in flight. So
/// none is lost, no cap is passed, and a pipeline whose dead letters nobody receives comes to a stop
/// by backpressure instead of filling the memory.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::builder(BufferSettings::default())
///     .max_retries(0)
///     .dead_letter_capacity(1)
///     .build()?;
/// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
/// let rows = vec![BufferedRecord::new("NA", "EWR", "flights", "parse"); 3];
/// source.try_send_batch(&stage, rows)?;
/// stage.try_recv_batch(3)?.return_to_buffer();
///
/// let letters = manager.dead_letters();
/// assert_eq!((letters.len(), letters.parked(), stage.in_flight()), (1, 2, 2));
/// assert_eq!(std::iter::from_fn(|| letters.try_recv()).count(), 3);
/// assert_eq!(stage.in_flight(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DeadLetters<E: Envelope> {
    queue: Arc<DeadLetterQueue<E>>,
}

pub(crate) struct DeadLetterQueue<E: Envelope> {
    letters: ArrayQueue<DeadLetter<E>>,
    /// Bounded by the credits that its letters hold.
    parked: SegQueue<Parked<E>>,
    ledger: Arc<Ledger>,
}

/// A letter that waits for a place, with what it still holds.
struct Parked<E: Envelope> {
    letter: DeadLetter<E>,
    /// Weak, for the stage holds the queue.
    stage: Weak<StageCore<E>>,
    account: u32,
}

impl<E: Envelope> DeadLetterQueue<E> {
    pub(crate) fn new(capacity: u32, ledger: Arc<Ledger>) -> Self {
        let letters = ArrayQueue::new(capacity as usize);
        Self { letters, parked: SegQueue::new(), ledger }
    }

    /// How many bytes the queue takes.
    pub(crate) fn footprint(capacity: u32) -> Option<usize> {
        (capacity as usize).checked_mul(size_of::<DeadLetter<E>>() + size_of::<u64>())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.letters.capacity()
    }

    /// # Errors
    ///
    /// The letter, if there is no place for it.
    pub(crate) fn push(&self, letter: DeadLetter<E>) -> Result<(), DeadLetter<E>> {
        self.letters.push(letter)
    }

    /// Keeps a letter that found no place, together with what its record still holds.
    pub(crate) fn park(&self, letter: DeadLetter<E>, stage: &Arc<StageCore<E>>, account: u32) {
        self.ledger.begin_parking();
        self.parked.push(Parked { letter, stage: Arc::downgrade(stage), account });
        // After the push: whoever learns that all is drained finds the letter.
        self.ledger.end_parking();
        // A place may have become free in between.
        self.promote();
    }

    /// Moves parked letters to free places.
    fn promote(&self) {
        while self.letters.len() < self.letters.capacity() {
            let Some(Parked { letter, stage, account }) = self.parked.pop() else { return };
            match self.letters.push(letter) {
                Ok(()) => self.release(&stage, account),
                Err(letter) => self.parked.push(Parked { letter, stage, account }),
            }
        }
    }

    fn pop(&self) -> Option<DeadLetter<E>> {
        if let Some(letter) = self.letters.pop() {
            self.promote();
            return Some(letter);
        }
        let Parked { letter, stage, account } = self.parked.pop()?;
        self.release(&stage, account);
        Some(letter)
    }

    fn release(&self, stage: &Weak<StageCore<E>>, account: u32) {
        match stage.upgrade() {
            Some(stage) => stage.release_parked(account),
            None => {
                self.ledger.release_parked(self.ledger.account(account));
                self.ledger.attend(Freed { gate: None, account: Some(account) });
            }
        }
    }
}

impl<E: Envelope> DeadLetters<E> {
    pub(crate) fn new(queue: Arc<DeadLetterQueue<E>>) -> Self {
        Self { queue }
    }

    /// Takes the oldest dead letter, without waiting for one.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.dead_letters().try_recv().is_none());
    /// ```
    pub fn try_recv(&self) -> Option<DeadLetter<E>> {
        self.queue.pop()
    }

    /// How many letters wait to be received, without those that are parked: at most
    /// [`capacity`](Self::capacity). Outdated when it arrives while other threads are running.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.dead_letters().len(), 0);
    /// ```
    pub fn len(&self) -> usize {
        self.queue.letters.len()
    }

    /// Whether nothing is there to be received, parked or not; as racy as [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.dead_letters().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.parked() == 0
    }

    /// How many letters are parked: they found no place, and still hold their credits. As racy as
    /// [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.dead_letters().parked(), 0);
    /// ```
    pub fn parked(&self) -> usize {
        self.queue.parked.len()
    }

    /// The most letters that are held without credits: `dead_letter_capacity` of the
    /// [`Builder`](crate::Builder).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.dead_letters().capacity(), 1_024);
    /// ```
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

impl<E: Envelope> Clone for DeadLetters<E> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.queue))
    }
}

impl<E: Envelope> fmt::Debug for DeadLetters<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("len", &self.len())
            .field("parked", &self.parked())
            .field("capacity", &self.capacity())
            .finish()
    }
}
