//! The errors. A refused push hands its records back in the error.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The reason why a push was refused.
///
/// [`Display`](fmt::Display) names the limit, its owner, and how many of its records are held.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::RejectReason;
///
/// let full = RejectReason::StageFull { stage_id: "filter".into(), held: 10, capacity: 10 };
/// assert_eq!(full.to_string(), "stage buffer full: filter holds 10 of 10 records");
/// assert!(full.is_full() && !full.is_closed());
/// assert!(RejectReason::Closed.is_closed());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// The buffer has reached its global cap.
    GlobalFull {
        /// Records held at the time of the refusal.
        held: usize,
        /// The global cap, `max_total_records`.
        capacity: usize,
    },
    /// The stage has reached its cap.
    StageFull {
        /// The name of the stage.
        stage_id: Arc<str>,
        /// Records held at the time of the refusal.
        held: usize,
        /// The stage's capacity.
        capacity: usize,
    },
    /// The source has reached its cap.
    SourceFull {
        /// The name of the source.
        source_id: Arc<str>,
        /// Records held at the time of the refusal.
        held: usize,
        /// The source's capacity.
        capacity: usize,
    },
    /// The byte budget of the buffer has too little left for the next record, or for the batch.
    ///
    /// The size of each record is rounded up to a multiple of 64 bytes.
    GlobalBytesFull {
        /// Bytes held at the time of the refusal.
        held: usize,
        /// The budget, [`max_total_bytes`](crate::Builder::max_total_bytes).
        capacity: usize,
        /// The bytes that were asked for.
        wanted: usize,
    },
    /// The byte budget of the source has too little left for the next record, or for the batch.
    SourceBytesFull {
        /// The name of the source.
        source_id: Arc<str>,
        /// Bytes that the source holds at the time of the refusal.
        held: usize,
        /// The budget, [`max_source_bytes`](crate::Builder::max_source_bytes).
        capacity: usize,
        /// The bytes that were asked for.
        wanted: usize,
    },
    /// The named stage does not exist, and the buffer has reached its limit of stages.
    TooManyStages {
        /// The maximum number of stages.
        max: usize,
    },
    /// The record's source does not exist, and the buffer has reached its limit of sources.
    TooManySources {
        /// The maximum number of sources.
        max: usize,
    },
    /// The buffer, the stage or the source was closed or removed.
    Closed,
    /// The name of the stage or of the source is empty.
    EmptyName {
        /// `"stage"` or `"source"`.
        kind: &'static str,
    },
    /// The allocator cannot provide the memory for the stage's ring.
    OutOfMemory {
        /// The name of the stage.
        stage_id: Arc<str>,
        /// The stage's capacity.
        records: usize,
    },
    /// The stage belongs to another buffer than the source or the batch.
    ForeignStage {
        /// The name of the stage.
        stage_id: Arc<str>,
    },
    /// The records exceed a cap and can never be accepted at once.
    TooLarge {
        /// The number of records in the request.
        records: usize,
        /// The cap that they exceed, in records, or in bytes if `limit` is a byte budget.
        capacity: usize,
        /// The owner of the cap: `the buffer`, `stage filter`, `source kafka-1`, `the byte budget
        /// of the buffer` or `the byte budget of source kafka-1`.
        limit: String,
    },
    /// A cap is reached, or what it leaves is guaranteed to other sources, while parked dead
    /// letters occupy a part of it.
    ///
    /// A worker frees that part by receiving the letters: see [`DeadLetters`](crate::DeadLetters).
    /// [`is_full`](Self::is_full) is true.
    ParkedLetters {
        /// The owner of the cap: `the buffer`, `stage filter` or `source kafka-1`.
        limit: String,
        /// Records held at the time of the refusal, including parked dead letters.
        held: usize,
        /// The cap.
        capacity: usize,
        /// How many of the records held are parked dead letters.
        parked: usize,
    },
    /// The free credits, places or bytes are reserved for a request that has waited longer.
    ///
    /// The cap itself is not reached. The reservation ends when that request is granted or
    /// canceled, or after a bounded time without a release: see
    /// [`send_batch`](crate::Source::send_batch). [`is_full`](Self::is_full) is true.
    OthersFirst {
        /// The owner of the cap: `the buffer`, `stage filter`, `source kafka-1`, `the byte budget
        /// of the buffer` or `the byte budget of source kafka-1`.
        limit: String,
    },
    /// What the global cap leaves is guaranteed to other sources: see
    /// [`source_guarantee`](crate::Builder::source_guarantee).
    ///
    /// [`is_full`](Self::is_full) is true.
    GuaranteedToOthers {
        /// Records held at the time of the refusal.
        held: usize,
        /// The global cap, `max_total_records`.
        capacity: usize,
        /// How many records are guaranteed to sources that do not hold them.
        guaranteed: usize,
    },
    /// A record returned by name has used up its retries, and the dead letters are full.
    DeadLettersFull {
        /// The maximum number of dead letters.
        capacity: usize,
    },
}

impl RejectReason {
    /// Returns `true` if the push may succeed after other records leave the buffer.
    ///
    /// This is the case for every reason that names a full or reserved limit. For
    /// [`DeadLettersFull`](Self::DeadLettersFull), dead letters must be received first.
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::GlobalFull { .. }
                | Self::StageFull { .. }
                | Self::SourceFull { .. }
                | Self::GlobalBytesFull { .. }
                | Self::SourceBytesFull { .. }
                | Self::ParkedLetters { .. }
                | Self::OthersFirst { .. }
                | Self::GuaranteedToOthers { .. }
                | Self::DeadLettersFull { .. }
        )
    }

    /// Returns `true` if the buffer, the stage or the source will never accept records again.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GlobalFull { held, capacity } => {
                write!(f, "global buffer full: it holds {held} of {capacity} records")
            }
            Self::StageFull { stage_id, held, capacity } => {
                write!(f, "stage buffer full: {stage_id} holds {held} of {capacity} records")
            }
            Self::SourceFull { source_id, held, capacity } => {
                write!(f, "source buffer full: {source_id} holds {held} of {capacity} records")
            }
            Self::GlobalBytesFull { held, capacity, wanted } => write!(
                f,
                "global byte budget full: it holds {held} of {capacity} bytes, {wanted} more do not fit"
            ),
            Self::SourceBytesFull { source_id, held, capacity, wanted } => write!(
                f,
                "source byte budget full: {source_id} holds {held} of {capacity} bytes, \
                 {wanted} more do not fit"
            ),
            Self::TooLarge { records, capacity, limit } => {
                write!(f, "too large: {records} records never fit under the {capacity} of {limit}")
            }
            Self::TooManyStages { max } => write!(f, "too many stages: at most {max} may exist"),
            Self::TooManySources { max } => write!(f, "too many sources: at most {max} may exist"),
            Self::Closed => f.write_str("closed: no more records are taken"),
            Self::EmptyName { kind } => write!(f, "empty name: a {kind} needs one"),
            Self::OutOfMemory { stage_id, records } => {
                write!(f, "out of memory: no room for the {records} records of stage {stage_id}")
            }
            Self::ForeignStage { stage_id } => {
                write!(f, "foreign stage: {stage_id} belongs to another buffer")
            }
            Self::ParkedLetters { limit, held, capacity, parked } => write!(
                f,
                "full: {limit} holds {held} of {capacity} records, {parked} of them parked dead letters"
            ),
            Self::OthersFirst { limit } => {
                write!(f, "others first: what {limit} has left is reserved for those who wait")
            }
            Self::GuaranteedToOthers { held, capacity, guaranteed } => write!(
                f,
                "global buffer full: it holds {held} of {capacity} records, and {guaranteed} are guaranteed to other sources"
            ),
            Self::DeadLettersFull { capacity } => {
                write!(f, "dead letters full: {capacity} wait to be received")
            }
        }
    }
}

impl Error for RejectReason {}

/// A refused record, with the reason.
///
/// `Debug` and `Display` show only the reason and require nothing of the record type. As an error,
/// `Rejected<E>` is `Send` and `Sync` only if `E` is. To use `?` in a function that returns a boxed
/// error where `E` is not, convert it to a [`RejectReason`], which drops the record.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{RejectReason, Rejected};
///
/// let rejected = Rejected { record: "line", reason: RejectReason::Closed };
/// assert!(rejected.is_closed() && !rejected.is_full());
/// assert_eq!(rejected.to_string(), "closed: no more records are taken");
/// assert_eq!(rejected.into_record(), "line");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Rejected<E> {
    /// The record, unchanged.
    pub record: E,
    /// The reason for the refusal.
    pub reason: RejectReason,
}

impl<E> Rejected<E> {
    /// Returns the record.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{RejectReason, Rejected};
    ///
    /// let rejected = Rejected { record: "line", reason: RejectReason::Closed };
    /// assert_eq!(rejected.into_inner(), "line");
    /// ```
    pub fn into_inner(self) -> E {
        self.record
    }

    /// Returns the record, like [`into_inner`](Self::into_inner).
    pub fn into_record(self) -> E {
        self.record
    }

    /// Returns [`RejectReason::is_full`] of the reason.
    pub fn is_full(&self) -> bool {
        self.reason.is_full()
    }

    /// Returns [`RejectReason::is_closed`] of the reason.
    pub fn is_closed(&self) -> bool {
        self.reason.is_closed()
    }
}

impl<E> fmt::Debug for Rejected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<E> fmt::Display for Rejected<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<E> Error for Rejected<E> {}

/// Drops the record and keeps the reason.
///
/// With this conversion `?` works for record types that are not [`Sync`].
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
///
/// use conveyor_buffer::{BufferManager, BufferedRecord, RejectReason, Source, Stage};
///
/// // `Cell` is not `Sync`.
/// type Record = BufferedRecord<Cell<u32>>;
///
/// fn push(source: &Source<Record>, stage: &Stage<Record>) -> Result<(), RejectReason> {
///     source.try_send(stage, BufferedRecord::new(Cell::new(7), "a", "sums", "load"))?;
///     Ok(())
/// }
///
/// let manager = BufferManager::with_limits(1, 1, 1, 0.8);
/// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
/// assert_eq!(push(&source, &stage), Ok(()));
/// assert!(push(&source, &stage).unwrap_err().is_full());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<E> From<Rejected<E>> for RejectReason {
    fn from(rejected: Rejected<E>) -> Self {
        rejected.reason
    }
}

/// The refused part of a batch, with the reason.
///
/// A push without waiting accepts the longest prefix that fits. The other records come back in
/// their order. `Debug` and `Display` show no records and require nothing of the record type.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{RejectReason, RejectedBatch};
///
/// let reason = RejectReason::SourceFull { source_id: "a".into(), held: 2, capacity: 2 };
/// let rejected = RejectedBatch { accepted: 2, records: vec!["x", "y"], reason };
/// assert_eq!(
///     rejected.to_string(),
///     "source buffer full: a holds 2 of 2 records (2 records accepted, 2 refused)",
/// );
/// assert!(rejected.is_full() && !rejected.is_closed());
/// assert_eq!(rejected.into_records(), ["x", "y"]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RejectedBatch<E> {
    /// How many records the stage accepted, from the front of the batch.
    ///
    /// A return by name does not count records that went to the dead letters.
    pub accepted: usize,
    /// The refused records, unchanged.
    pub records: Vec<E>,
    /// The reason why the first of them was refused.
    pub reason: RejectReason,
}

impl<E> RejectedBatch<E> {
    /// Returns the refused records.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{RejectReason, RejectedBatch};
    ///
    /// let reason = RejectReason::Closed;
    /// let rejected = RejectedBatch { accepted: 1, records: vec!["x", "y"], reason };
    /// assert_eq!(rejected.into_inner(), ["x", "y"]);
    /// ```
    pub fn into_inner(self) -> Vec<E> {
        self.records
    }

    /// Returns the refused records, like [`into_inner`](Self::into_inner).
    pub fn into_records(self) -> Vec<E> {
        self.records
    }

    /// Returns [`RejectReason::is_full`] of the reason.
    pub fn is_full(&self) -> bool {
        self.reason.is_full()
    }

    /// Returns [`RejectReason::is_closed`] of the reason.
    pub fn is_closed(&self) -> bool {
        self.reason.is_closed()
    }
}

impl<E> fmt::Debug for RejectedBatch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectedBatch")
            .field("accepted", &self.accepted)
            .field("refused", &self.records.len())
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<E> fmt::Display for RejectedBatch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, accepted, refused) = (&self.reason, self.accepted, self.records.len());
        write!(f, "{reason} ({accepted} records accepted, {refused} refused)")
    }
}

impl<E> Error for RejectedBatch<E> {}

/// Drops the refused records and keeps the reason.
///
/// With this conversion `?` works for record types that are not [`Sync`].
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
///
/// use conveyor_buffer::{BufferManager, BufferedRecord, RejectReason, Source, Stage};
///
/// // `Cell` is not `Sync`.
/// type Record = BufferedRecord<Cell<u32>>;
///
/// fn push(source: &Source<Record>, stage: &Stage<Record>) -> Result<(), RejectReason> {
///     let record = |n| BufferedRecord::new(Cell::new(n), "a", "sums", "load");
///     source.try_send_batch(stage, vec![record(7), record(8)])?;
///     Ok(())
/// }
///
/// let manager = BufferManager::with_limits(1, 1, 1, 0.8);
/// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
/// assert!(push(&source, &stage).unwrap_err().is_full());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<E> From<RejectedBatch<E>> for RejectReason {
    fn from(rejected: RejectedBatch<E>) -> Self {
        rejected.reason
    }
}

/// The error of [`Stage::try_recv_batch`](crate::Stage::try_recv_batch).
///
/// # Examples
///
/// ```
/// use conveyor_buffer::TryRecvError;
///
/// assert!(TryRecvError::Empty.is_empty() && !TryRecvError::Empty.is_closed());
/// assert_eq!(TryRecvError::Closed.to_string(), "closed: no more records will come");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryRecvError {
    /// No record is queued now.
    Empty,
    /// No record will ever come: see [`Closed`].
    Closed,
}

impl TryRecvError {
    /// Returns `true` if a later call may succeed.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Returns `true` if no later call can succeed, so that a worker can stop.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty: no record waits to be taken",
            Self::Closed => "closed: no more records will come",
        })
    }
}

impl Error for TryRecvError {}

/// The error of a receive when no record will ever come.
///
/// Either the buffer was closed and no record is left in any of its stages or unsettled batches, or
/// the stage was closed or removed and all of its records are settled. A buffer is also closed when
/// the last handle that can push is dropped: see
/// [`BufferManager`](crate::BufferManager#disconnection).
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Closed};
///
/// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// let stage = manager.stage("filter")?;
/// let worker = std::thread::spawn(move || stage.recv_batch_blocking(10).map(drop));
/// manager.close();
/// assert_eq!(worker.join().unwrap(), Err(Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TryRecvError::Closed.fmt(f)
    }
}

impl Error for Closed {}

/// The error of [`Stage::recv_batch_timeout`](crate::Stage::recv_batch_timeout).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, RecvTimeoutError};
///
/// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// let stage = manager.stage("filter")?;
/// let error = stage.recv_batch_timeout(10, Duration::from_millis(1)).unwrap_err();
/// assert_eq!(error, RecvTimeoutError::Timeout);
/// assert!(error.is_timeout() && !error.is_closed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvTimeoutError {
    /// No record came before the timeout.
    Timeout,
    /// No record will ever come: see [`Closed`].
    Closed,
}

impl RecvTimeoutError {
    /// Returns `true` if a later call may succeed.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout)
    }

    /// Returns `true` if no later call can succeed, so that a worker can stop.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

impl fmt::Display for RecvTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out: no record came to be taken"),
            Self::Closed => TryRecvError::Closed.fmt(f),
        }
    }
}

impl Error for RecvTimeoutError {}

/// The error of creating or removing a stage or a source.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, RegistryError};
///
/// let manager = BufferManager::<BufferedRecord<u8>>::builder(BufferSettings::default())
///     .max_stages(1)
///     .build()?;
/// let error = manager.remove_stage("parse").unwrap_err();
/// assert_eq!(error, RegistryError::UnknownStage { stage_id: "parse".into() });
///
/// manager.stage("parse")?;
/// let error = manager.stage("load").unwrap_err();
/// assert_eq!(error.to_string(), "too many stages: at most 1 may exist");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is empty.
    EmptyName {
        /// `"stage"` or `"source"`.
        kind: &'static str,
    },
    /// The buffer has reached its limit of stages.
    TooManyStages {
        /// The maximum number of stages.
        max: usize,
    },
    /// The buffer has reached its limit of sources.
    TooManySources {
        /// The maximum number of sources.
        max: usize,
    },
    /// The buffer was closed.
    Closed,
    /// The allocator cannot provide the memory for the stage's ring.
    OutOfMemory {
        /// The name of the stage.
        stage_id: Arc<str>,
        /// The stage's capacity.
        records: usize,
    },
    /// No stage has this name.
    UnknownStage {
        /// The name.
        stage_id: Arc<str>,
    },
    /// No source has this name.
    UnknownSource {
        /// The name.
        source_id: Arc<str>,
    },
    /// The stage holds records, queued or in unsettled batches, and cannot be removed.
    StageInUse {
        /// The name of the stage.
        stage_id: Arc<str>,
        /// How many records the stage holds.
        held: usize,
    },
    /// The source holds records, queued or in unsettled batches, and cannot be removed.
    SourceInUse {
        /// The name of the source.
        source_id: Arc<str>,
        /// How many records the source holds.
        held: usize,
    },
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStage { stage_id } => write!(f, "unknown stage: {stage_id}"),
            Self::UnknownSource { source_id } => write!(f, "unknown source: {source_id}"),
            Self::StageInUse { stage_id, held } => {
                write!(f, "stage in use: {stage_id} holds {held} records")
            }
            Self::SourceInUse { source_id, held } => {
                write!(f, "source in use: {source_id} holds {held} records")
            }
            Self::EmptyName { .. }
            | Self::TooManyStages { .. }
            | Self::TooManySources { .. }
            | Self::Closed
            | Self::OutOfMemory { .. } => RejectReason::from(self.clone()).fmt(f),
        }
    }
}

impl Error for RegistryError {}

/// Converts the error of creating a name into the reason for refusing a push by name.
impl From<RegistryError> for RejectReason {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::EmptyName { kind } => Self::EmptyName { kind },
            RegistryError::TooManyStages { max } => Self::TooManyStages { max },
            RegistryError::TooManySources { max } => Self::TooManySources { max },
            RegistryError::OutOfMemory { stage_id, records } => {
                Self::OutOfMemory { stage_id, records }
            }
            // The name was removed, or is being removed.
            RegistryError::Closed
            | RegistryError::UnknownStage { .. }
            | RegistryError::UnknownSource { .. }
            | RegistryError::StageInUse { .. }
            | RegistryError::SourceInUse { .. } => Self::Closed,
        }
    }
}
