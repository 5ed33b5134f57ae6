//! The trait that records implement, and a ready-made record type.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

/// The methods that the buffer needs of a record type.
///
/// Every record names its source and carries its own retry count. [`BufferedRecord`] implements
/// this trait for any payload.
///
/// # Large records
///
/// The buffer moves records by value: into a ring slot, out of it, and between `Vec`s. Each move
/// passes through the stack, and every slot of a stage's ring is as large as one record. Box the
/// payload of records larger than about a kilobyte.
///
/// # Reference cycles
///
/// A queued record that owns a [`BufferManager`](crate::BufferManager), [`Stage`](crate::Stage) or
/// [`Source`](crate::Source) of the buffer that holds it forms a reference cycle: the record keeps
/// the buffer alive, and the buffer keeps the record. Such a buffer is freed only after the record
/// leaves it.
///
/// # Panics
///
/// The methods should be cheap and must not block; the buffer calls them while it holds the record.
/// If a method panics, the counts stay exact, and a batch that is being settled is still settled;
/// the panic then continues in the caller. Two cases differ:
///
/// - If [`increment_retry`](Self::increment_retry) panics while a worker that panicked drops its
///   batch, the second panic ends there. The panic hook reports it, the record goes back to its
///   stage, and the process does not abort.
/// - If a method panics in a call by name, such as
///   [`buffer_for_stage`](crate::BufferManager::buffer_for_stage), the records that the buffer has
///   not accepted yet are dropped.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::Envelope;
///
/// struct Tick {
///     price: u64,
///     retries: u32,
/// }
///
/// impl Envelope for Tick {
///     fn source_id(&self) -> &str {
///         "exchange"
///     }
///     fn retry_count(&self) -> u32 {
///         self.retries
///     }
///     fn increment_retry(&mut self) {
///         self.retries += 1;
///     }
/// }
///
/// let mut tick = Tick { price: 101, retries: 0 };
/// tick.increment_retry();
/// assert_eq!((tick.source_id(), tick.retry_count()), ("exchange", 1));
/// ```
pub trait Envelope: Send + 'static {
    /// Returns the name of the source that the record comes from.
    ///
    /// The calls by name charge the record to this source, and refuse a record whose name is empty. The
    /// handles do not use it.
    fn source_id(&self) -> &str;

    /// Returns how many times the record has been returned to the buffer.
    fn retry_count(&self) -> u32;

    /// Adds one to the retry count.
    fn increment_retry(&mut self);

    /// Returns how many bytes of memory the record occupies, for the byte budgets
    /// [`max_total_bytes`](crate::Builder::max_total_bytes) and
    /// [`max_source_bytes`](crate::Builder::max_source_bytes).
    ///
    /// The default is the size of the record's type, which counts nothing on the heap: a type that
    /// owns a `String` or a `Vec` adds its capacity. A buffer without byte budgets never calls the
    /// method.
    ///
    /// The buffer measures a record when it is pushed, forwarded or returned. In between the record
    /// is charged what it measured then.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::Envelope;
    ///
    /// struct Line {
    ///     text: String,
    ///     retries: u32,
    /// }
    ///
    /// impl Envelope for Line {
    ///     fn source_id(&self) -> &str {
    ///         "kafka-1"
    ///     }
    ///     fn retry_count(&self) -> u32 {
    ///         self.retries
    ///     }
    ///     fn increment_retry(&mut self) {
    ///         self.retries += 1;
    ///     }
    ///     fn size_bytes(&self) -> usize {
    ///         size_of::<Self>() + self.text.capacity()
    ///     }
    /// }
    ///
    /// let line = Line { text: String::with_capacity(1_000), retries: 0 };
    /// assert_eq!(line.size_bytes(), size_of::<Line>() + 1_000);
    /// ```
    fn size_bytes(&self) -> usize {
        size_of_val(self)
    }
}

/// A payload and a retry count: the record for those who push by handle.
///
/// It dereferences to its payload. It names no source, so the calls by name refuse it: they need
/// [`BufferedRecord`] or a type of your own. A dead letter has the name of the source that pushed it.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, Record};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("parse")?, manager.source("kafka-1")?);
/// source.try_send(&stage, Record::new("a line".to_owned()))?;
///
/// let batch = stage.try_recv_batch(10)?;
/// for record in &batch {
///     assert_eq!((record.len(), record.retries()), (6, 0));
/// }
/// assert_eq!(batch.into_records().remove(0).into_inner(), "a line");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Record<T> {
    value: T,
    retries: u32,
}

impl<T> Record<T> {
    /// Wraps a payload, with a retry count of 0.
    pub fn new(value: T) -> Self {
        Self { value, retries: 0 }
    }

    /// Returns how many times the record has been returned to the buffer.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Sets the retry count to 0, so that the next stage begins anew.
    pub fn reset_retries(&mut self) {
        self.retries = 0;
    }

    /// Returns the payload.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> From<T> for Record<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> Deref for Record<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Record<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Send + 'static> Envelope for Record<T> {
    /// Returns an empty name.
    fn source_id(&self) -> &str {
        ""
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }
}

/// A record with a payload of any type and the fields that [`Envelope`] needs.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferedRecord, Envelope};
///
/// let record = BufferedRecord::new("a line of a log", "kafka-1", "analytics", "filter");
/// assert_eq!(record.record, "a line of a log");
/// assert_eq!((record.source_id(), record.retry_count()), ("kafka-1", 0));
/// assert_eq!((&*record.pipeline_id, &*record.target_stage_id), ("analytics", "filter"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BufferedRecord<R> {
    /// The payload.
    pub record: R,
    /// The source that the record comes from.
    pub source_id: String,
    /// The pipeline that the record belongs to. The buffer does not use it.
    pub pipeline_id: String,
    /// The stage that the record is meant for. The buffer does not use it: each call names the
    /// stage.
    pub target_stage_id: String,
    /// When the record was created.
    pub buffered_at: Instant,
    /// How many times the record has been returned to the buffer.
    pub retry_count: u32,
}

impl<R> BufferedRecord<R> {
    /// Wraps a payload, with the current time and a retry count of 0.
    pub fn new(
        record: R,
        source_id: impl Into<String>,
        pipeline_id: impl Into<String>,
        target_stage_id: impl Into<String>,
    ) -> Self {
        Self {
            record,
            source_id: source_id.into(),
            pipeline_id: pipeline_id.into(),
            target_stage_id: target_stage_id.into(),
            buffered_at: Instant::now(),
            retry_count: 0,
        }
    }
}

impl<R: Send + 'static> Envelope for BufferedRecord<R> {
    fn source_id(&self) -> &str {
        &self.source_id
    }

    fn retry_count(&self) -> u32 {
        self.retry_count
    }

    fn increment_retry(&mut self) {
        self.retry_count = self.retry_count.saturating_add(1);
    }
}
