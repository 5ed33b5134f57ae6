//! The handle to a stage.

use std::fmt;
use std::sync::Arc;

use super::batch::Batch;
use crate::error::TryRecvError;
use crate::record::Envelope;
use crate::store::StageCore;

/// A handle to one stage: where workers take batches from.
///
/// Cheap to clone. It works on after its manager is dropped, and after its stage was removed (then
/// pushes to it are refused as [`Closed`](crate::RejectReason::Closed)).
///
/// A stage hands out its records first in, first out. Records that were returned come again before
/// newer ones, the oldest first. That order is strict for a lone worker; several workers at once
/// may overtake each other between taking a block and handing it on.
///
/// No lock is taken while nobody waits, but neither is this lock-free in the strict sense: a thread
/// that the system stops between claiming a place in the ring and filling it, or a worker that it stops
/// with the returned records in hand, holds back those behind it until it runs again.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let stage = manager.stage("filter")?;
/// let source = manager.source("kafka-1")?;
/// source.try_send(&stage, BufferedRecord::new("line", "kafka-1", "logs", "filter"))?;
///
/// let batch = stage.try_recv_batch(100)?;
/// assert_eq!((stage.len(), stage.in_flight()), (0, 1));
/// batch.ack();
/// assert_eq!(stage.in_flight(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stage<E: Envelope> {
    core: Arc<StageCore<E>>,
}

impl<E: Envelope> Stage<E> {
    pub(crate) fn from_core(core: Arc<StageCore<E>>) -> Self {
        Self { core }
    }

    pub(crate) fn core(&self) -> &Arc<StageCore<E>> {
        &self.core
    }

    /// Takes up to `max` records that wait to be taken, without waiting for any. Returned records
    /// come first.
    ///
    /// The records stay charged to this stage and to their sources until the batch is settled. A
    /// `max` of 0 asks for nothing, and is always answered with an error.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if nothing waits to be taken, and [`TryRecvError::Closed`] if nothing
    /// ever will: the buffer was closed and no record is left in any of its stages or unsettled
    /// batches (as long as there is one, it might be returned or forwarded to this stage), or this
    /// stage was removed.
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, TryRecvError};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new(1, "a", "p", "filter"))?;
    ///
    /// assert_eq!(stage.try_recv_batch(10)?.into_records()[0].record, 1);
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Empty);
    /// manager.close();
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_recv_batch(&self, max: usize) -> Result<Batch<E>, TryRecvError> {
        match self.core.take(max) {
            Some(held) => Ok(Batch::new(Arc::clone(&self.core), held)),
            None if self.core.is_drained() => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Closes the stage: from now on pushes and forwards to it are refused as
    /// [`Closed`](crate::RejectReason::Closed), and those that wait are told so. What it holds can be
    /// drained, and returned to it; when all of it is settled, its workers see [`Closed`]. Closing
    /// twice is no different.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// source.try_send(&stage, line.clone())?;
    /// stage.close();
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// stage.recv_batch_blocking(10)?.ack();
    /// assert!(stage.recv_batch_blocking(10).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.core.close();
    }

    /// Whether the stage takes no more records: it was closed or removed.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// let stage = manager.stage("filter")?;
    /// manager.remove_stage("filter")?;
    /// assert!(stage.is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_closed(&self) -> bool {
        self.core.places().is_closed()
    }

    /// Records that wait to be taken. While other threads are running it may be outdated when it
    /// arrives, but is never above [`capacity`](Self::capacity).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.len(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.core.len() as usize
    }

    /// Whether no record waits to be taken; as racy as [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.stage("filter")?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records in unsettled batches. While other threads are running, records on their way into the
    /// stage may be counted here as well.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.in_flight(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_flight(&self) -> usize {
        self.core.in_flight() as usize
    }

    /// The most records that the stage may hold, queued or in unsettled batches.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.capacity(), 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.core.places().capacity() as usize
    }

    /// How full the stage is, from 0.0 to 1.0: records queued and in unsettled batches, by the
    /// capacity. Outdated when it arrives while other threads are running, but never above 1.0.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.utilization(), 0.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn utilization(&self) -> f64 {
        f64::from(self.core.places().held()) / f64::from(self.core.places().capacity())
    }

    /// The stage's name.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.id(), "filter");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> &str {
        self.core.id()
    }
}

impl<E: Envelope> Clone for Stage<E> {
    fn clone(&self) -> Self {
        Self::from_core(Arc::clone(&self.core))
    }
}

impl<E: Envelope> fmt::Debug for Stage<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("id", &self.id())
            .field("len", &self.len())
            .field("in_flight", &self.in_flight())
            .field("capacity", &self.capacity())
            .finish()
    }
}
