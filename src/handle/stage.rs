//! The handle to a stage.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use super::batch::Batch;
use crate::error::TryRecvError;
use crate::record::Envelope;
use crate::settings::{SettingsError, cap};
use crate::store::StageCore;
use crate::sync::{AtomicSetting, SeqCst};
use crate::trace::event;

/// A handle to one stage: workers take batches from it.
///
/// Clones are cheap and share the stage. The handle stays usable after its manager is dropped and
/// after its stage was removed; pushes to a removed stage are refused as
/// [`Closed`](crate::RejectReason::Closed). When no handle that can push is left, the buffer
/// [is closed](crate::BufferManager#disconnection).
///
/// # Order
///
/// A stage hands out its records first in, first out. Returned records come before newer ones, the
/// oldest first. The order is strict for a single worker. Concurrent workers may overtake each
/// other between taking a block and returning it to the caller.
///
/// # Progress
///
/// Pushing, receiving and acknowledging records take no lock, unless a call waits, records were
/// returned, or a receive splits a block. The data path is not lock-free in the strict sense: a
/// thread that is preempted between claiming a ring slot and filling it delays the threads behind
/// it until it runs again.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("kafka-1")?);
/// assert_eq!((stage.id(), stage.capacity()), ("filter", 10_000));
///
/// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 500];
/// source.try_send_batch(&stage, lines)?;
/// assert_eq!((stage.len(), stage.in_flight()), (500, 0));
///
/// let batch = stage.try_recv_batch(100)?;
/// assert_eq!((stage.len(), stage.in_flight(), stage.utilization()), (400, 100, 0.05));
/// batch.ack();
/// assert_eq!((stage.len(), stage.in_flight(), stage.utilization()), (400, 0, 0.04));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stage<E: Envelope> {
    core: Arc<StageCore<E>>,
    /// How many async receives in a row took records without waiting.
    turns: AtomicSetting,
}

/// The number of async receives in a row that take records without waiting before one yields.
const TURNS: u32 = 128;

impl<E: Envelope> Stage<E> {
    pub(crate) fn from_core(core: Arc<StageCore<E>>) -> Self {
        Self { core, turns: AtomicSetting::new(0) }
    }

    /// Counts an async receive. Returns whether it must yield to other tasks first.
    pub(super) fn must_yield(&self) -> bool {
        let turns = self.turns.load(SeqCst);
        let yields = turns >= TURNS;
        self.turns.store(if yields { 0 } else { turns + 1 }, SeqCst);
        yields
    }

    /// Resets the count after an async receive has waited.
    pub(super) fn end_turns(&self) {
        self.turns.store(0, SeqCst);
    }

    pub(crate) fn core(&self) -> &Arc<StageCore<E>> {
        &self.core
    }

    /// Takes up to `max` queued records without waiting. Returned records come first.
    ///
    /// The records stay charged to this stage and to their sources until the batch is settled. A
    /// `max` of 0 takes nothing and always returns an error.
    ///
    /// # Errors
    ///
    /// - [`TryRecvError::Empty`] if no record is queued.
    /// - [`TryRecvError::Closed`] if no record will ever come: see [`Closed`](crate::Closed). While
    ///   a closed buffer still holds a record in any stage or unsettled batch, that record may be
    ///   returned or forwarded to this stage, and the result is `Empty`.
    ///
    /// # Examples
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
        while let Some(held) = self.core.take(max) {
            let batch = Batch::new(Arc::clone(&self.core), held);
            if !self.core.has_clock() {
                return Ok(batch);
            }
            if let Some(batch) = batch.without_expired() {
                return Ok(batch);
            }
        }
        Err(if self.core.is_drained() { TryRecvError::Closed } else { TryRecvError::Empty })
    }

    /// Closes the stage: pushes and forwards to it are refused from now on, and waiting ones are
    /// rejected.
    ///
    /// The stage's records can still be received, and returned to it. After all of them are
    /// settled, its workers see [`Closed`](crate::Closed). Closing a stage again has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    ///
    /// source.try_send(&stage, line.clone())?;
    /// stage.close();
    /// assert!(stage.is_closed());
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    ///
    /// stage.recv_batch_blocking(10)?.ack();
    /// assert!(stage.recv_batch_blocking(10).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.core.close();
        event!(info, stage = &**self.core.id(), "stage closed");
    }

    /// Returns `true` if the stage was closed or removed.
    pub fn is_closed(&self) -> bool {
        self.core.places().is_closed()
    }

    /// Returns the number of queued records.
    ///
    /// The value may be outdated on return if other threads use the stage. It exceeds
    /// [`capacity`](Self::capacity) only if the capacity was lowered below it.
    pub fn len(&self) -> usize {
        self.core.len() as usize
    }

    /// Returns `true` if no record is queued, with the same caveat as [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of records in unsettled batches, including parked dead letters.
    ///
    /// [Reserved](Self::reserved) places do not count. While other threads use the stage, the count
    /// may include records that are being pushed.
    pub fn in_flight(&self) -> usize {
        self.core.in_flight() as usize
    }

    /// Returns the number of returned records that are not due yet: see
    /// [`Batch::return_after`] and [`Builder::retry_backoff`](crate::Builder::retry_backoff).
    ///
    /// They keep their places, and count neither in [`len`](Self::len) nor in
    /// [`in_flight`](Self::in_flight). The value may be outdated on return.
    pub fn delayed(&self) -> usize {
        self.core.delayed() as usize
    }

    /// Returns the number of places that are taken for records to come: by a
    /// [`Permit`](crate::Permit), by a [`Producer`](crate::Producer) that has not published its
    /// records, or by a request that was granted but whose future has not been polled since.
    ///
    /// They count against [`capacity`](Self::capacity) like records. While other threads use the
    /// stage, the number may include places that a call has not taken yet.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut permit = source.try_reserve(&stage, 10)?;
    /// assert_eq!((stage.len(), stage.in_flight(), stage.reserved()), (0, 0, 10));
    ///
    /// permit.push(BufferedRecord::new("line", "a", "p", "filter")).expect("it is reserved");
    /// assert_eq!((stage.len(), stage.in_flight(), stage.reserved()), (1, 0, 9));
    /// drop(permit);
    /// assert_eq!((stage.len(), stage.in_flight(), stage.reserved()), (1, 0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserved(&self) -> usize {
        self.core.places().reserved_ahead() as usize
    }

    /// Changes the maximum number of records that the stage may hold, to at least 1.
    ///
    /// Records beyond a lower capacity stay in the stage: pushes and forwards are refused until
    /// enough of them are settled. Once the call has returned, none is accepted beyond the new
    /// capacity. A higher capacity admits waiting requests.
    /// [`Source::set_capacity`](crate::Source::set_capacity) says which requests a lower one
    /// rejects.
    ///
    /// The capacity can grow to what the stage's ring was made for when the stage was created: its
    /// [`stage_capacity`](crate::Builder::stage_capacity) or `max_per_stage`, or the global cap if
    /// that was smaller.
    ///
    /// # Errors
    ///
    /// Returns a [`SettingsError`] that names `stage_capacity` if `records` is 0 or more than the
    /// ring has slots.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 3];
    /// source.try_send_batch(&stage, lines.clone())?;
    ///
    /// stage.set_capacity(2)?;
    /// let rejected = source.try_send_batch(&stage, lines).unwrap_err();
    /// assert_eq!(
    ///     rejected.reason.to_string(),
    ///     "stage buffer full: filter holds 3 of 2 records",
    /// );
    ///
    /// let error = stage.set_capacity(20_000).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "stage_capacity must be at most 10000, for which the ring was made, got 20000",
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_capacity(&self, records: usize) -> Result<(), SettingsError> {
        let field = "stage_capacity";
        let capacity = cap(field, records)?;
        let set = self.core.admission().set_stage_capacity(&*self.core, capacity);
        set.map_err(|slots| SettingsError::BeyondRing {
            field,
            value: records,
            slots: slots as usize,
        })
    }

    /// Returns the maximum number of records that the stage may hold, queued or in unsettled
    /// batches.
    ///
    /// If the global cap grows beyond what the stage's ring was made for, the capacity is at most
    /// that number: see [`set_capacity`](Self::set_capacity).
    pub fn capacity(&self) -> usize {
        self.core.places().capacity() as usize
    }

    /// Returns the used share of the stage's capacity, from 0.0 to 1.0.
    ///
    /// Records in unsettled batches count. The value may be outdated on return if other threads use
    /// the stage, but it never exceeds 1.0.
    pub fn utilization(&self) -> f64 {
        self.core.places().utilization()
    }

    /// Returns the name of the stage.
    pub fn id(&self) -> &str {
        self.core.id()
    }
}

impl<E: Envelope> Clone for Stage<E> {
    fn clone(&self) -> Self {
        Self::from_core(Arc::clone(&self.core))
    }
}

/// A panic leaves every count exact: see
/// [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for Stage<E> {}
impl<E: Envelope> RefUnwindSafe for Stage<E> {}

impl<E: Envelope> fmt::Debug for Stage<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("id", &self.id())
            .field("len", &self.len())
            .field("in_flight", &self.in_flight())
            .field("reserved", &self.reserved())
            .field("capacity", &self.capacity())
            .finish()
    }
}
