//! Permits: credits and places that are reserved before the records exist.

use std::fmt;
use std::sync::Arc;

use super::source::{Source, SourceCore};
use super::stage::Stage;
use crate::caps::Sequence;
use crate::error::RejectReason;
use crate::record::Envelope;
use crate::store::{StageCore, to_u32};

impl<E: Envelope> Source<E> {
    /// Waits for credits and places for `records` records in a stage and reserves them.
    ///
    /// A `records` of 0 counts as 1. The fairness rules and bounds are those of
    /// [`send_batch`](Self::send_batch).
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`send_batch`](Self::send_batch).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, it holds neither credits nor places.
    ///
    /// The buffer grants a waiting request while its future is not being polled. From then on the
    /// future holds the credits and places until it is polled or dropped, and
    /// [`drain`](crate::BufferManager::drain) waits for it. A future that is passed to
    /// [`mem::forget`](std::mem::forget) holds them forever.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let permit = source.reserve(&stage, 1).await?;
    /// assert_eq!((source.available_credits(), stage.len()), (4_999, 0));
    /// permit.send(BufferedRecord::new("line", "a", "p", "filter"));
    /// assert_eq!((source.available_credits(), stage.len()), (4_999, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn reserve(
        &self,
        stage: &Stage<E>,
        records: usize,
    ) -> Result<Permit<E>, RejectReason> {
        let records = records.max(1);
        let first = self.acquire(stage, records).await?;
        Ok(Permit::new(self, stage, records, first))
    }
}

/// Reserved credits and places in a stage, from [`Source::reserve`].
///
/// Dropping a permit releases them. As long as it exists, [`drain`](crate::BufferManager::drain)
/// does not return, because a record may still be pushed. A permit that is passed to
/// [`mem::forget`](std::mem::forget) holds its credits and places forever.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// # pollster::block_on(async {
/// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
///
/// let permit = source.reserve(&stage, 10).await?;
/// assert_eq!((permit.len(), source.available_credits()), (10, 4_990));
/// drop(permit);
/// assert_eq!(source.available_credits(), 5_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "a permit that is dropped gives its credits back"]
pub struct Permit<E: Envelope> {
    source: Arc<SourceCore>,
    stage: Arc<StageCore<E>>,
    records: u32,
    first: Sequence,
}

impl<E: Envelope> Permit<E> {
    /// Creates a permit for records that were admitted.
    pub(crate) fn new(
        source: &Source<E>,
        stage: &Stage<E>,
        records: usize,
        first: Sequence,
    ) -> Self {
        let (source, stage) = (Arc::clone(source.core()), Arc::clone(stage.core()));
        Self { source, stage, records: to_u32(records), first }
    }

    /// Returns the number of records that the permit is for; at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a permit is for one record at least")]
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Pushes one record and releases the rest of the reservation.
    ///
    /// The call cannot fail, even if the buffer was closed in the meantime.
    pub fn send(mut self, record: E) {
        self.records -= 1;
        self.stage.store_one(self.source.index(), self.first, record);
    }

    /// Pushes records as one block and releases the rest of the reservation.
    ///
    /// # Errors
    ///
    /// Returns the records beyond [`len`](Self::len). Those before are pushed.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 5];
    ///
    /// let rest = source.reserve(&stage, 3).await?.send_batch(lines).unwrap_err();
    /// assert_eq!((stage.len(), rest.len()), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn send_batch(mut self, mut records: Vec<E>) -> Result<(), Vec<E>> {
        let rest = records.split_off(records.len().min(self.len()));
        if !records.is_empty() {
            self.records -= to_u32(records.len());
            self.stage.store_many(self.source.index(), self.first, records);
        }
        if rest.is_empty() { Ok(()) } else { Err(rest) }
    }
}

impl<E: Envelope> Drop for Permit<E> {
    fn drop(&mut self) {
        if self.records > 0 {
            self.stage.release_some(self.source.index(), self.records);
        }
    }
}

impl<E: Envelope> fmt::Debug for Permit<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("source", self.source.id())
            .field("stage", self.stage.id())
            .field("records", &self.records)
            .finish()
    }
}
