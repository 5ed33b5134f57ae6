//! Why a call was refused. Every refused record comes back in the error.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The limit or the condition that refused a push. [`Display`](fmt::Display) names it in full.
///
/// ```
/// use conveyor_buffer::RejectReason;
///
/// let reason = RejectReason::StageFull { stage_id: "filter".into(), held: 10_000, capacity: 10_000 };
/// assert_eq!(reason.to_string(), "stage buffer full: filter holds 10000 of 10000 records");
/// assert!(reason.is_full());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// The whole buffer holds as many records as it may.
    GlobalFull {
        /// Records held when the push was refused.
        held: usize,
        /// `max_total_records`.
        capacity: usize,
    },
    /// The stage holds as many records as it may.
    StageFull {
        /// The stage.
        stage_id: Arc<str>,
        /// Records held when the push was refused.
        held: usize,
        /// The stage's capacity.
        capacity: usize,
    },
    /// The source holds as many records as it may.
    SourceFull {
        /// The source.
        source_id: Arc<str>,
        /// Records held when the push was refused.
        held: usize,
        /// The source's capacity.
        capacity: usize,
    },
    /// The record goes to a stage that does not exist yet, and no more can be made.
    TooManyStages {
        /// The most stages there may be.
        max: usize,
    },
    /// The record is of a source that is not known yet, and no more can be made.
    TooManySources {
        /// The most sources there may be.
        max: usize,
    },
    /// The buffer was closed, or the stage or the source was removed.
    Closed,
    /// The name of the stage or of the source is empty.
    EmptyName {
        /// `"stage"` or `"source"`.
        kind: &'static str,
    },
    /// The memory for the stage's ring cannot be had, as far as the allocator tells beforehand.
    OutOfMemory {
        /// The stage.
        stage_id: Arc<str>,
        /// The stage's capacity.
        records: usize,
    },
    /// The stage belongs to another buffer than the source.
    ForeignStage {
        /// The stage.
        stage_id: Arc<str>,
    },
    /// The records can never fit at once, however long they wait.
    TooLarge {
        /// How many records they are.
        records: usize,
        /// The most that fit under that cap.
        capacity: usize,
        /// Whose cap it is: `the buffer`, `stage filter` or `source kafka-1`.
        limit: String,
    },
    /// A cap is reached, and parked dead letters hold a part of it until they are received: see
    /// [`DeadLetters`](crate::DeadLetters).
    ParkedLetters {
        /// Whose cap it is: `the buffer`, `stage filter` or `source kafka-1`.
        limit: String,
        /// Records held when the push was refused, those of parked letters included.
        held: usize,
        /// The cap.
        capacity: usize,
        /// How many of them parked letters hold.
        parked: usize,
    },
    /// There is room, but not beyond what is reserved for requests that have waited longer.
    OthersFirst {
        /// Whose cap it is: `the buffer`, `stage filter` or `source kafka-1`.
        limit: String,
    },
    /// A record that was handed out has used up its retries, and the dead letters are full.
    DeadLettersFull {
        /// The most dead letters there may be.
        capacity: usize,
    },
}

impl RejectReason {
    /// Whether a cap was reached, so that the push may succeed when records have been settled (for
    /// [`DeadLettersFull`](Self::DeadLettersFull): received).
    ///
    /// ```
    /// use conveyor_buffer::RejectReason;
    ///
    /// assert!(RejectReason::GlobalFull { held: 5, capacity: 5 }.is_full());
    /// assert!(!RejectReason::Closed.is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::GlobalFull { .. }
                | Self::StageFull { .. }
                | Self::SourceFull { .. }
                | Self::ParkedLetters { .. }
                | Self::OthersFirst { .. }
                | Self::DeadLettersFull { .. }
        )
    }

    /// Whether the buffer, the stage or the source takes no more records, ever.
    ///
    /// ```
    /// use conveyor_buffer::RejectReason;
    ///
    /// assert!(RejectReason::Closed.is_closed());
    /// assert!(!RejectReason::TooManyStages { max: 4 }.is_closed());
    /// ```
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
                write!(f, "foreign stage: {stage_id} belongs to another buffer than the source")
            }
            Self::ParkedLetters { limit, held, capacity, parked } => write!(
                f,
                "full: {limit} holds {held} of {capacity} records, {parked} of them parked dead letters"
            ),
            Self::OthersFirst { limit } => {
                write!(f, "others first: what {limit} has left is reserved for those who wait")
            }
            Self::DeadLettersFull { capacity } => {
                write!(f, "dead letters full: {capacity} wait to be received")
            }
        }
    }
}

impl Error for RejectReason {}

/// A record that was refused, and why.
///
/// `Debug` and `Display` show the reason alone, and so ask nothing of the record.
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
    /// The record, untouched.
    pub record: E,
    /// Why it was refused.
    pub reason: RejectReason,
}

impl<E> Rejected<E> {
    /// Takes the record back.
    ///
    /// ```
    /// # use conveyor_buffer::{RejectReason, Rejected};
    /// assert_eq!(Rejected { record: 7, reason: RejectReason::Closed }.into_record(), 7);
    /// ```
    pub fn into_record(self) -> E {
        self.record
    }

    /// [`RejectReason::is_full`] of the reason.
    ///
    /// ```
    /// # use conveyor_buffer::{RejectReason, Rejected};
    /// let reason = RejectReason::GlobalFull { held: 1, capacity: 1 };
    /// assert!(Rejected { record: 7, reason }.is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        self.reason.is_full()
    }

    /// [`RejectReason::is_closed`] of the reason.
    ///
    /// ```
    /// # use conveyor_buffer::{RejectReason, Rejected};
    /// assert!(Rejected { record: 7, reason: RejectReason::Closed }.is_closed());
    /// ```
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

/// A batch that was refused in part or as a whole, and why. What was accepted is the longest prefix
/// that fitted; the rest comes back in its order.
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
/// assert_eq!(rejected.into_records(), ["x", "y"]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RejectedBatch<E> {
    /// How many records went into the stage, from the front. A return by name does not count those
    /// that went to the dead letters.
    pub accepted: usize,
    /// The records that were refused, untouched.
    pub records: Vec<E>,
    /// Why the first of them was refused.
    pub reason: RejectReason,
}

impl<E> RejectedBatch<E> {
    /// Takes the refused records back.
    ///
    /// ```
    /// # use conveyor_buffer::{RejectReason, RejectedBatch};
    /// let rejected = RejectedBatch { accepted: 0, records: vec![7], reason: RejectReason::Closed };
    /// assert_eq!(rejected.into_records(), [7]);
    /// ```
    pub fn into_records(self) -> Vec<E> {
        self.records
    }

    /// [`RejectReason::is_full`] of the reason.
    ///
    /// ```
    /// # use conveyor_buffer::{RejectReason, RejectedBatch};
    /// let reason = RejectReason::GlobalFull { held: 1, capacity: 1 };
    /// assert!(RejectedBatch { accepted: 0, records: vec![7], reason }.is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        self.reason.is_full()
    }

    /// [`RejectReason::is_closed`] of the reason.
    ///
    /// ```
    /// # use conveyor_buffer::{RejectReason, RejectedBatch};
    /// let rejected = RejectedBatch { accepted: 0, records: vec![7], reason: RejectReason::Closed };
    /// assert!(rejected.is_closed());
    /// ```
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

/// Why no batch was handed out.
///
/// ```
/// use conveyor_buffer::TryRecvError;
///
/// assert!(TryRecvError::Empty.is_empty() && !TryRecvError::Empty.is_closed());
/// assert_eq!(TryRecvError::Closed.to_string(), "closed: no more records will come");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryRecvError {
    /// No record waits to be taken now.
    Empty,
    /// No record will ever come.
    Closed,
}

impl TryRecvError {
    /// Whether trying again may succeed.
    ///
    /// ```
    /// # use conveyor_buffer::TryRecvError;
    /// assert!(TryRecvError::Empty.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether a worker can go home.
    ///
    /// ```
    /// # use conveyor_buffer::TryRecvError;
    /// assert!(TryRecvError::Closed.is_closed());
    /// ```
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

/// No record will ever come: the buffer was closed and is drained, or the stage was closed or removed.
///
/// ```
/// assert_eq!(conveyor_buffer::Closed.to_string(), "closed: no more records will come");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TryRecvError::Closed.fmt(f)
    }
}

impl Error for Closed {}

/// Why no batch was handed out in time.
///
/// ```
/// use conveyor_buffer::RecvTimeoutError;
///
/// assert_eq!(RecvTimeoutError::Timeout.to_string(), "timed out: no record came to be taken");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvTimeoutError {
    /// No record came in time.
    Timeout,
    /// No record will ever come.
    Closed,
}

impl RecvTimeoutError {
    /// Whether waiting again may succeed.
    ///
    /// ```
    /// # use conveyor_buffer::RecvTimeoutError;
    /// assert!(RecvTimeoutError::Timeout.is_timeout());
    /// ```
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout)
    }

    /// Whether a worker can go home.
    ///
    /// ```
    /// # use conveyor_buffer::RecvTimeoutError;
    /// assert!(RecvTimeoutError::Closed.is_closed());
    /// ```
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

/// Why a stage or a source was not made, or not removed.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, RegistryError};
///
/// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// let error = manager.remove_stage("filter").unwrap_err();
/// assert_eq!(error, RegistryError::UnknownStage { stage_id: "filter".into() });
/// assert_eq!(error.to_string(), "unknown stage: filter");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name is empty.
    EmptyName {
        /// `"stage"` or `"source"`.
        kind: &'static str,
    },
    /// As many stages exist as may.
    TooManyStages {
        /// The most stages there may be.
        max: usize,
    },
    /// As many sources exist as may.
    TooManySources {
        /// The most sources there may be.
        max: usize,
    },
    /// The buffer was closed.
    Closed,
    /// The memory for the stage's ring cannot be had, as far as the allocator tells beforehand.
    OutOfMemory {
        /// The stage.
        stage_id: Arc<str>,
        /// The stage's capacity.
        records: usize,
    },
    /// No stage has that name.
    UnknownStage {
        /// The name.
        stage_id: Arc<str>,
    },
    /// No source has that name.
    UnknownSource {
        /// The name.
        source_id: Arc<str>,
    },
    /// The stage holds records, queued or in unsettled batches, and so cannot be removed.
    StageInUse {
        /// The stage.
        stage_id: Arc<str>,
        /// How many it holds.
        held: usize,
    },
    /// The source holds records, queued or in unsettled batches, and so cannot be removed.
    SourceInUse {
        /// The source.
        source_id: Arc<str>,
        /// How many it holds.
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

/// A push by name makes what it names, and is refused where that is.
impl From<RegistryError> for RejectReason {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::EmptyName { kind } => Self::EmptyName { kind },
            RegistryError::TooManyStages { max } => Self::TooManyStages { max },
            RegistryError::TooManySources { max } => Self::TooManySources { max },
            RegistryError::OutOfMemory { stage_id, records } => {
                Self::OutOfMemory { stage_id, records }
            }
            // A name that is unknown or in use was removed, or is about to be.
            RegistryError::Closed
            | RegistryError::UnknownStage { .. }
            | RegistryError::UnknownSource { .. }
            | RegistryError::StageInUse { .. }
            | RegistryError::SourceInUse { .. } => Self::Closed,
        }
    }
}
