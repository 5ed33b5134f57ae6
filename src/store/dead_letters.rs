//! Dead letters: records that used up their retries or were given up.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use crate::admission::{Admission, StageState};
use crate::event::{Event, Listener};
use crate::record::Envelope;
use crate::sync::{Mutex, wall_clock};

/// A record that the pipeline gave up, with where and why it failed.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, DeadLetterReason};
///
/// let manager = BufferManager::builder(BufferSettings::default()).max_retries(1).build()?;
/// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
/// source.try_send(&stage, BufferedRecord::new("NA", "EWR", "flights", "parse"))?;
/// stage.try_recv_batch(1)?.return_to_buffer();
/// stage.try_recv_batch(1)?.return_to_buffer();
///
/// let letter = manager.dead_letters().try_recv().unwrap();
/// assert_eq!((letter.stage_id.as_str(), letter.source_id.as_str()), ("parse", "EWR"));
/// assert_eq!((letter.record.record, letter.retry_count), ("NA", 1));
/// assert_eq!(letter.reason, DeadLetterReason::RetriesExhausted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter<E> {
    /// The record.
    pub record: E,
    /// The stage in which it failed.
    pub stage_id: String,
    /// The source that the record names, or, if it names none, the source that pushed it.
    pub source_id: String,
    /// How often it had been returned.
    pub retry_count: u32,
    /// Why it was given up.
    pub reason: DeadLetterReason,
    /// When it was given up.
    pub failed_at: SystemTime,
}

/// Why a record became a dead letter.
///
/// [`DeadLetter`] shows an example.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// A return would have exceeded the retry limit.
    RetriesExhausted,
    /// A worker gave the record up, for this reason. The text is empty if the worker gave none.
    Rejected(Cow<'static, str>),
    /// The record was older than the [`max_age`](crate::Builder::max_age) of the buffer.
    Expired,
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetriesExhausted => f.write_str("retries exhausted"),
            Self::Expired => f.write_str("expired"),
            Self::Rejected(reason) if reason.is_empty() => f.write_str("rejected"),
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
        }
    }
}

/// The parts of a dead letter that the batch and the record's own methods provide.
pub(crate) struct LetterMeta {
    source_id: String,
    retry_count: u32,
    reason: DeadLetterReason,
}

impl LetterMeta {
    pub(crate) fn new<E: Envelope>(record: &E, reason: DeadLetterReason) -> Self {
        let source_id = record.source_id().to_owned();
        Self { source_id, retry_count: record.retry_count(), reason }
    }
}

impl<E> DeadLetter<E> {
    pub(crate) fn new(record: E, meta: LetterMeta, stage_id: &str) -> Self {
        let LetterMeta { source_id, retry_count, reason } = meta;
        let (stage_id, failed_at) = (stage_id.to_owned(), wall_clock());
        Self { record, stage_id, source_id, retry_count, reason, failed_at }
    }
}

/// The dead letters of one buffer.
pub(crate) struct DeadLetterQueue<E: Envelope> {
    capacity: usize,
    queue: Mutex<Queue<E>>,
    /// Notified for each letter that arrives.
    arrived: Event,
    admission: Arc<Admission>,
}

struct Queue<E: Envelope> {
    /// Letters that hold no credits, at most `capacity`.
    letters: VecDeque<DeadLetter<E>>,
    /// Letters that came when there was no room in `letters`.
    parked: VecDeque<Parked<E>>,
}

/// A letter that waits for room, with the place, the credit and the bytes that it holds.
struct Parked<E: Envelope> {
    letter: DeadLetter<E>,
    claim: Claim,
}

/// A place, a credit and units of bytes that a parked letter holds.
struct Claim {
    /// Weak, because the stage holds the queue.
    stage: Weak<dyn StageState>,
    account: u32,
    units: u32,
}

impl<E: Envelope> Queue<E> {
    /// Moves the oldest parked letter to the others. The caller releases what it held.
    fn promote(&mut self) -> Option<Claim> {
        let Parked { letter, claim } = self.parked.pop_front()?;
        self.letters.push_back(letter);
        Some(claim)
    }
}

impl<E: Envelope> DeadLetterQueue<E> {
    pub(crate) fn new(capacity: u32, admission: Arc<Admission>) -> Self {
        let queue = Queue { letters: VecDeque::new(), parked: VecDeque::new() };
        let queue = Mutex::new(queue);
        Self { capacity: capacity as usize, queue, arrived: Event::default(), admission }
    }

    /// Returns how many bytes a full queue takes, or `None` if the number overflows.
    pub(crate) fn footprint(capacity: u32) -> Option<usize> {
        (capacity as usize).checked_mul(size_of::<DeadLetter<E>>())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of letters that hold no credits.
    pub(crate) fn len(&self) -> usize {
        self.queue.lock().letters.len()
    }

    /// Returns the number of letters that hold credits.
    pub(crate) fn parked(&self) -> usize {
        self.queue.lock().parked.len()
    }

    /// Queues a letter that holds no credits.
    ///
    /// # Errors
    ///
    /// Returns the letter, if there is no room for it.
    pub(crate) fn push(&self, letter: DeadLetter<E>) -> Result<(), DeadLetter<E>> {
        let mut queue = self.queue.lock();
        if queue.letters.len() >= self.capacity {
            return Err(letter);
        }
        queue.letters.push_back(letter);
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// Parks a letter. It keeps what its record holds until there is room for it.
    pub(super) fn park(
        &self,
        letter: DeadLetter<E>,
        stage: Arc<dyn StageState>,
        account: u32,
        units: u32,
    ) {
        let claim = Claim { stage: Arc::downgrade(&stage), account, units };
        self.admission.park(&*stage, account, || {
            self.queue.lock().parked.push_back(Parked { letter, claim });
        });
        self.arrived.notify_one();
        // Room may have become free since the caller found none.
        loop {
            let mut queue = self.queue.lock();
            if queue.letters.len() >= self.capacity {
                return;
            }
            let promoted = queue.promote();
            drop(queue);
            match promoted {
                Some(claim) => self.release(&claim),
                None => return,
            }
        }
    }

    /// Takes the oldest letter.
    pub(crate) fn pop(&self) -> Option<DeadLetter<E>> {
        let mut queue = self.queue.lock();
        // If a letter was parked after the others had been taken, it is the only one left.
        let early = if queue.letters.is_empty() { queue.promote() } else { None };
        let letter = queue.letters.pop_front();
        let claim = early.or_else(|| queue.promote());
        drop(queue);
        if let Some(claim) = claim {
            self.release(&claim);
        }
        letter
    }

    /// Takes the oldest letter, or registers the caller with two events: a letter arrives, or the
    /// buffer is drained. Returns `None` if the buffer is closed and drained, and has no letter.
    pub(crate) fn pop_or_listen(&self) -> Result<Option<DeadLetter<E>>, [Listener; 2]> {
        if let Some(letter) = self.pop() {
            return Ok(Some(letter));
        }
        let listeners = [self.arrived.listen(), self.admission.listen_for_drained()];
        // Before the last look: a letter is queued before its credit is released.
        let is_drained = self.admission.is_drained();
        match self.pop() {
            None if !is_drained => Err(listeners),
            last => Ok(last),
        }
    }

    fn release(&self, claim: &Claim) {
        let Claim { ref stage, account, units } = *claim;
        self.admission.release_parked(stage.upgrade().as_deref(), account, units);
    }
}
