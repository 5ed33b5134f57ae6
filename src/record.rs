//! What the buffer must know of a record, and a ready-made record that tells it.

use std::time::Instant;

/// What the buffer must know of a record.
///
/// The buffer calls these while it holds the record; they should be cheap and should not panic. (If
/// one does panic, no credit is lost and no record that the buffer holds: what was about to go back
/// still goes back. Records that a call by name was about to take in are dropped.)
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
    /// The name of the source that the record comes from, not empty.
    fn source_id(&self) -> &str;

    /// How often the record has been returned to the buffer.
    fn retry_count(&self) -> u32;

    /// Counts one more return.
    fn increment_retry(&mut self);
}

/// A record of any type, with what the buffer and the pipeline must know of it.
///
/// ```
/// use conveyor_buffer::{BufferedRecord, Envelope};
///
/// let record = BufferedRecord::new("a line of a log", "kafka-1", "analytics", "filter");
/// assert_eq!(record.source_id(), "kafka-1");
/// assert_eq!(record.retry_count, 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BufferedRecord<R> {
    /// The record itself.
    pub record: R,
    /// The source that it comes from.
    pub source_id: String,
    /// The pipeline that it travels in. The buffer does not use it.
    pub pipeline_id: String,
    /// The stage that it is on its way to. The buffer does not use it: the stage is named in each
    /// call.
    pub target_stage_id: String,
    /// When the record was made ready for the buffer.
    pub buffered_at: Instant,
    /// How often the record has been returned to the buffer.
    pub retry_count: u32,
}

impl<R> BufferedRecord<R> {
    /// Wraps a record, buffered now and never returned yet.
    ///
    /// ```
    /// use conveyor_buffer::BufferedRecord;
    ///
    /// let record = BufferedRecord::new(7, "kafka-1", "analytics", "filter");
    /// assert_eq!((record.record, record.target_stage_id.as_str()), (7, "filter"));
    /// ```
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
