//! The manager: the whole buffer.

use std::fmt;
use std::sync::Arc;

use super::registry::Registry;
use crate::admission::Admission;
use crate::backpressure::BackpressureController;
use crate::error::RegistryError;
use crate::handle::{DeadLetters, Source, Stage};
use crate::record::Envelope;

/// A buffer between the stages of a pipeline, with caps on all records, on the records of each
/// stage, and on the records of each source.
///
/// Stages and sources are made when they are first named. The `async` calls name them each time;
/// none of them waits: each answers at its first poll, and so there is nothing to cancel half-way.
/// The handles that [`stage`](Self::stage) and [`source`](Self::source) give skip the look-up, and
/// [`Stage::try_recv_batch`] gives batches that are settled after the work instead of before it:
/// prefer them.
///
/// Cloning is cheap, and clones are the same buffer. Records that are still in it when its last
/// handle is dropped are dropped with it.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// # pollster::block_on(async {
/// let manager = BufferManager::new(BufferSettings::default());
///
/// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
/// manager.buffer_for_stage("filter", line).await?;
/// let batch = manager.get_batch("filter", 100).await;
/// assert_eq!(batch[0].record, "line");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct BufferManager<E: Envelope> {
    registry: Arc<Registry<E>>,
}

impl<E: Envelope> BufferManager<E> {
    pub(crate) fn from_registry(registry: Registry<E>) -> Self {
        Self { registry: Arc::new(registry) }
    }

    /// The stage of that name, which is made if it does not exist. Making one allocates its ring.
    ///
    /// # Errors
    ///
    /// [`RegistryError::EmptyName`], [`TooManyStages`](RegistryError::TooManyStages),
    /// [`OutOfMemory`](RegistryError::OutOfMemory), or, for one that does not exist yet,
    /// [`Closed`](RegistryError::Closed).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.id(), "filter");
    /// assert!(manager.stage("").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stage(&self, id: &str) -> Result<Stage<E>, RegistryError> {
        self.registry.stage(id).map(Stage::from_core)
    }

    /// The source of that name, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// [`RegistryError::EmptyName`], [`TooManySources`](RegistryError::TooManySources), or, for one
    /// that does not exist yet, [`Closed`](RegistryError::Closed).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.source("kafka-1")?.id(), "kafka-1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn source(&self, id: &str) -> Result<Source<E>, RegistryError> {
        self.registry.source(id).map(Source::from_core)
    }

    /// Removes a stage that holds no record, queued or in an unsettled batch. Handles to it see it as
    /// closed from then on; its name can be made anew.
    ///
    /// # Errors
    ///
    /// [`RegistryError::UnknownStage`], or [`StageInUse`](RegistryError::StageInUse) with the number
    /// of records that it holds.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let error = manager.remove_stage("filter").unwrap_err();
    /// assert_eq!(error.to_string(), "stage in use: filter holds 1 records");
    ///
    /// stage.try_recv_batch(1)?.ack();
    /// manager.remove_stage("filter")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_stage(&self, id: &str) -> Result<(), RegistryError> {
        self.registry.remove_stage(id)
    }

    /// Removes a source that holds no record in any stage, queued or in an unsettled batch. Its
    /// credits go home; handles to it are refused as closed from then on; its name can be made anew.
    ///
    /// # Errors
    ///
    /// [`RegistryError::UnknownSource`], or [`SourceInUse`](RegistryError::SourceInUse) with the
    /// number of records that it holds.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// manager.remove_source("a")?;
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_source(&self, id: &str) -> Result<(), RegistryError> {
        self.registry.remove_source(id)
    }

    /// The dead letters of this buffer.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.dead_letters().try_recv().is_none());
    /// ```
    pub fn dead_letters(&self) -> DeadLetters<E> {
        DeadLetters::new(Arc::clone(self.registry.dead_letters()))
    }

    /// The controller that follows the whole buffer's level. That level includes credits that
    /// sources have leased ahead of need, and so may read up to about 0.01 high.
    ///
    /// ```
    /// # use conveyor_buffer::{BackpressureSignal, BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(10, 10, 10, 0.8);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 9];
    /// manager.buffer_batch_for_stage("filter", lines).await?;
    /// assert_eq!(manager.controller().current(), BackpressureSignal::SlowDown);
    /// manager.get_batch("filter", 9).await;
    /// assert_eq!(manager.controller().current(), BackpressureSignal::Resume);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn controller(&self) -> &BackpressureController {
        self.admission().controller()
    }

    /// Closes the buffer: from now on pushes are refused as
    /// [`Closed`](crate::RejectReason::Closed), and so are new names. What is buffered can still be
    /// drained, forwarded, and returned as batches (a return by name is a push); when all of it is
    /// settled, workers see [`TryRecvError::Closed`](crate::TryRecvError::Closed). Closing twice is
    /// no different.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, TryRecvError};
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// source.try_send(&stage, line.clone())?;
    /// manager.close();
    ///
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// stage.try_recv_batch(10)?.ack();
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.registry.close();
    }

    /// Whether the buffer was closed.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(!manager.is_closed());
    /// manager.close();
    /// assert!(manager.is_closed());
    /// ```
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
        Self { registry: Arc::clone(&self.registry) }
    }
}

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
