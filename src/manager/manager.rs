//! The manager: the handle to the whole buffer.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use super::registry::Registry;
use crate::admission::{Admission, Pushers};
use crate::backpressure::BackpressureController;
use crate::caps::idle_budget_for;
use crate::error::RegistryError;
use crate::handle::{DeadLetters, Source, Stage};
use crate::record::Envelope;
use crate::settings::{SettingsError, at_least, cap};

/// A bounded buffer between the stages of a pipeline.
///
/// Caps bound the records in the whole buffer, in each stage, and of each source.
///
/// The `async` calls name their stage and source each time, and create them when they are first
/// named. They never wait: each completes at its first poll, so that there is nothing to cancel.
/// The handles from [`stage`](Self::stage) and [`source`](Self::source) avoid the look-up, and a
/// batch from [`Stage::try_recv_batch`] is settled after the work instead of before it. Prefer the
/// handles.
///
/// Clones are cheap and share the same buffer. When the last handle is dropped, the records still
/// in the buffer are dropped too.
///
/// # Disconnection
///
/// When the last handle that can push is dropped, the buffer is closed as [`close`](Self::close)
/// does it: workers receive what is left, and then see [`Closed`](crate::Closed). Such handles are
/// managers, [`Source`]s, [`Producer`](crate::Producer)s, [`Permit`](crate::Permit)s and sinks.
/// Handles to stages, batches, dead letters and receivers of signals are not; a batch may still be
/// returned and forwarded, as in every closed buffer.
///
/// In the other direction there is nothing to see. A stage handle is what a source pushes to and
/// what a worker takes from, so a push that waits holds one, and its own task might be the next
/// worker. If the workers of a stage end while sources still push to it, call
/// [`Stage::close`](crate::Stage::close): pushes that wait are then rejected. A worker that may
/// panic does so in a guard's `drop`.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Stage};
///
/// struct Worker(Stage<BufferedRecord<u32>>);
///
/// impl Drop for Worker {
///     fn drop(&mut self) {
///         self.0.close();
///     }
/// }
///
/// let manager = BufferManager::with_limits(1, 1, 1, 0.8);
/// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
/// source.try_send(&stage, BufferedRecord::new(1, "a", "p", "load"))?;
/// let worker = Worker(stage.clone());
/// let thread = std::thread::spawn(move || {
///     let _batch = worker.0.recv_batch_blocking(10).unwrap();
///     panic!("the only worker ends");
/// });
/// let rejected = source.send_blocking(&stage, BufferedRecord::new(2, "a", "p", "load"));
/// assert!(rejected.unwrap_err().is_closed());
/// # assert!(thread.join().is_err());
///
/// // The last handles that can push.
/// drop((manager, source));
/// assert_eq!(stage.recv_batch_blocking(10)?.into_records()[0].retry_count, 1);
/// assert!(stage.recv_batch_blocking(10).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// # pollster::block_on(async {
/// let manager = BufferManager::new(BufferSettings::default());
///
/// // By name.
/// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
/// manager.buffer_for_stage("filter", line).await?;
///
/// // By handle.
/// let stage = manager.stage("filter")?;
/// let batch = stage.try_recv_batch(100)?;
/// assert_eq!(batch.iter().next().unwrap().record, "line");
/// batch.ack();
/// assert_eq!(manager.get_total_buffered().await, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct BufferManager<E: Envelope> {
    // Dropped first: the last handle closes the buffer, and then drops what no stage handle holds.
    pushers: Arc<Pushers>,
    registry: Arc<Registry<E>>,
}

impl<E: Envelope> BufferManager<E> {
    pub(crate) fn from_registry(registry: Registry<E>) -> Self {
        let pushers = Pushers::new(registry.admission());
        Self { pushers, registry: Arc::new(registry) }
    }

    /// Returns the named stage, and creates it if it does not exist.
    ///
    /// A new stage allocates its ring up front, one slot for each record that it may hold: about 11
    /// MB for 10,000 records of 1 KiB. Its capacity is
    /// [`max_per_stage`](crate::BufferSettings::max_per_stage), or the
    /// [`stage_capacity`](crate::Builder::stage_capacity) of its name.
    ///
    /// # Errors
    ///
    /// - [`RegistryError::EmptyName`] if the name is empty.
    /// - [`TooManyStages`](RegistryError::TooManyStages),
    ///   [`OutOfMemory`](RegistryError::OutOfMemory) or [`Closed`](RegistryError::Closed) if the
    ///   stage does not exist and cannot be created.
    pub fn stage(&self, id: &str) -> Result<Stage<E>, RegistryError> {
        self.registry.stage(id).map(Stage::from_core)
    }

    /// Returns the named source, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// - [`RegistryError::EmptyName`] if the name is empty.
    /// - [`TooManySources`](RegistryError::TooManySources) or [`Closed`](RegistryError::Closed) if
    ///   the source does not exist and cannot be created.
    pub fn source(&self, id: &str) -> Result<Source<E>, RegistryError> {
        let core = self.registry.source(id)?;
        Ok(Source::new(core, Arc::clone(&self.pushers)))
    }

    /// Removes a stage that holds no records, queued or in unsettled batches.
    ///
    /// Its handles see it as closed from then on. The name may be used for a new stage.
    ///
    /// # Errors
    ///
    /// - [`RegistryError::UnknownStage`] if no stage has this name.
    /// - [`StageInUse`](RegistryError::StageInUse), with the number of records, if the stage holds
    ///   any.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let error = manager.remove_stage("filter").unwrap_err();
    /// assert_eq!(error.to_string(), "stage in use: filter holds 1 records");
    ///
    /// stage.try_recv_batch(1)?.ack();
    /// manager.remove_stage("filter")?;
    /// assert!(stage.is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_stage(&self, id: &str) -> Result<(), RegistryError> {
        self.registry.remove_stage(id)
    }

    /// Removes a source that holds no records in any stage, queued or in unsettled batches.
    ///
    /// Pushes with its handles are refused as closed from then on. The name may be used for a new
    /// source.
    ///
    /// # Errors
    ///
    /// - [`RegistryError::UnknownSource`] if no source has this name.
    /// - [`SourceInUse`](RegistryError::SourceInUse), with the number of records, if the source
    ///   holds any.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// manager.remove_source("a")?;
    ///
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_source(&self, id: &str) -> Result<(), RegistryError> {
        self.registry.remove_source(id)
    }

    /// Returns a handle to the dead letters of this buffer.
    pub fn dead_letters(&self) -> DeadLetters<E> {
        DeadLetters::new(Arc::clone(self.registry.dead_letters()))
    }

    /// Returns the controller that follows the level of the whole buffer.
    ///
    /// The level includes credits that sources have leased ahead of need, and may therefore read up
    /// to about 0.01 too high.
    pub fn controller(&self) -> &BackpressureController {
        self.admission().controller()
    }

    /// Changes the maximum number of records in the whole buffer, to 1 to `u32::MAX`.
    ///
    /// Records beyond a lower cap stay in the buffer: pushes are refused until enough records are
    /// settled. No push is accepted beyond the new cap once the call has returned, except with a
    /// credit that was taken earlier, as by a [`Permit`](crate::Permit), or within a
    /// [guarantee](crate::Builder::source_guarantee). Waiting requests for more
    /// records than the new cap are rejected as [`TooLarge`](crate::RejectReason::TooLarge). A
    /// higher cap lets waiting requests in.
    ///
    /// A stage that exists keeps its ring. If the ring was made for a smaller global cap, a higher
    /// one leaves the stage with as many places as the ring has slots. To leave room for growth,
    /// start with the larger cap and lower it.
    ///
    /// The watermarks stay what they are as shares of the cap. The call visits every stage, and to
    /// lower the cap, every source and every request that waits.
    ///
    /// # Errors
    ///
    /// Returns a [`SettingsError`] that names `max_total_records` if `records` is out of its range, or
    /// less than the sum of all [guarantees](crate::Builder::source_guarantee).
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
    /// manager.set_max_total_records(2)?;
    /// let rejected = source.try_send_batch(&stage, lines.clone()).unwrap_err();
    /// assert_eq!(rejected.reason.to_string(), "global buffer full: it holds 3 of 2 records");
    /// stage.try_recv_batch(2)?.ack();
    /// assert_eq!(source.try_send_batch(&stage, lines).unwrap_err().accepted, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_max_total_records(&self, records: usize) -> Result<(), SettingsError> {
        let capacity = cap("max_total_records", records)?;
        let guarantees = self.admission().ledger().guarantees();
        at_least("max_total_records", records, guarantees as usize)?;
        let watermarks = self.controller().watermarks();
        self.admission().set_capacity(capacity, idle_budget_for(capacity, watermarks));
        Ok(())
    }

    /// Closes the buffer: pushes are refused as [`Closed`](crate::RejectReason::Closed) from now
    /// on, and so are new names.
    ///
    /// Buffered records can still be received, forwarded and returned as batches; a return by name
    /// is a push and is refused. After all records are settled, workers see
    /// [`TryRecvError::Closed`](crate::TryRecvError::Closed). Every call returns only after the
    /// buffer is closed; closing it again has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, TryRecvError};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// source.try_send(&stage, line.clone())?;
    /// manager.close();
    ///
    /// assert!(manager.is_closed());
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// stage.try_recv_batch(10)?.ack();
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.registry.close();
    }

    /// Returns `true` if the buffer was closed.
    pub fn is_closed(&self) -> bool {
        self.admission().is_closed()
    }

    pub(super) fn registry(&self) -> &Registry<E> {
        &self.registry
    }

    pub(super) fn admission(&self) -> &Arc<Admission> {
        self.registry.admission()
    }
}

impl<E: Envelope> Clone for BufferManager<E> {
    fn clone(&self) -> Self {
        Self { pushers: Arc::clone(&self.pushers), registry: Arc::clone(&self.registry) }
    }
}

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for BufferManager<E> {}
impl<E: Envelope> RefUnwindSafe for BufferManager<E> {}

impl<E: Envelope> fmt::Debug for BufferManager<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledger = self.admission().ledger();
        f.debug_struct("BufferManager")
            .field("held", &ledger.used())
            .field("capacity", &ledger.capacity())
            .field("controller", self.controller())
            .finish_non_exhaustive()
    }
}
