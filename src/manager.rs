//! The manager: the whole buffer, and the calls that name stages and sources.

use std::fmt;
use std::sync::Arc;

use crate::backpressure::BackpressureController;
use crate::builder::Builder;
use crate::dead_letters::DeadLetters;
use crate::drain::Remaining;
use crate::error::{RegistryError, Rejected, RejectedBatch};
use crate::record::Envelope;
use crate::registry::Registry;
use crate::settings::{BufferSettings, SettingsError};
use crate::source::Source;
use crate::stage::Stage;

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
    /// Makes a buffer.
    ///
    /// # Panics
    ///
    /// If the settings are not valid, with the message that [`try_new`](Self::try_new) returns.
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.capacity(), 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(settings: BufferSettings) -> Self {
        Self::try_new(settings).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Makes a buffer.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range.
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 0, ..BufferSettings::default() };
    /// let error = BufferManager::<BufferedRecord<u8>>::try_new(settings).unwrap_err();
    /// assert_eq!(error.to_string(), "max_per_source must be at least 1");
    /// ```
    pub fn try_new(settings: BufferSettings) -> Result<Self, SettingsError> {
        Self::builder(settings).build()
    }

    /// Makes a buffer from the four settings alone. It never fails: settings that are out of their
    /// range count as the [nearest valid](BufferSettings::nearest_valid) ones.
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferedRecord};
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::with_limits(100, 50, 25, 0.8);
    /// assert_eq!(manager.source("a")?.capacity(), 25);
    /// let least = BufferManager::<BufferedRecord<u8>>::with_limits(0, 0, 0, f64::NAN);
    /// assert_eq!(least.source("a")?.capacity(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_limits(
        max_total_records: usize,
        max_per_stage: usize,
        max_per_source: usize,
        backpressure_threshold: f64,
    ) -> Self {
        let settings = BufferSettings {
            max_total_records,
            max_per_stage,
            max_per_source,
            backpressure_threshold,
        };
        Self::new(settings.nearest_valid())
    }

    /// Begins a buffer with more than the four settings.
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::builder(BufferSettings::default())
    ///     .max_retries(3)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(settings: BufferSettings) -> Builder<E> {
        Builder::new(settings)
    }

    pub(crate) fn from_registry(registry: Registry<E>) -> Self {
        Self { registry: Arc::new(registry) }
    }

    /// Pushes one record to the stage of that name, charged to the source that the record names.
    /// Both are made if they do not exist.
    ///
    /// # Errors
    ///
    /// The record with what refused it: the source's, the global or the stage's cap, too many stages
    /// or sources, an empty name, or that the buffer is closed.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(100, 1, 100, 0.8);
    /// let line = |n: i32| BufferedRecord::new(n, "kafka-1", "logs", "filter");
    ///
    /// manager.buffer_for_stage("filter", line(1)).await?;
    /// let rejected = manager.buffer_for_stage("filter", line(2)).await.unwrap_err();
    /// assert_eq!(rejected.to_string(), "stage buffer full: filter holds 1 of 1 records");
    /// assert_eq!(rejected.into_record().record, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn buffer_for_stage(&self, stage_id: &str, record: E) -> Result<(), Rejected<E>> {
        self.registry.push(stage_id, record)
    }

    /// Pushes records to the stage of that name, each charged to the source that it names: all, or
    /// the longest prefix that fits. Tells how many, which without an error is all of them. An empty
    /// `Vec` is always accepted, and makes nothing.
    ///
    /// Neighbours of one source travel as one block; a batch of a single source is fastest.
    ///
    /// # Errors
    ///
    /// The records from the first that was refused, with what refused it, and how many were accepted
    /// before it.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(100, 50, 5, 0.8);
    /// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 8];
    ///
    /// let rejected = manager.buffer_batch_for_stage("filter", lines).await.unwrap_err();
    /// assert_eq!((rejected.accepted, rejected.records.len()), (5, 3));
    /// assert_eq!(manager.get_stage_buffer_size("filter").await, 5);
    /// # });
    /// ```
    pub async fn buffer_batch_for_stage(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        self.registry.push_batch(stage_id, records)
    }

    /// Takes up to `max_batch_size` records from the stage of that name and hands them out: their
    /// credits are free again at once. None wait, or no stage has that name, or 0 are asked for: the
    /// `Vec` is empty.
    ///
    /// From here on the records are the caller's alone. [`Stage::try_recv_batch`] keeps them safe
    /// until they are settled.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 8];
    /// manager.buffer_batch_for_stage("filter", lines).await?;
    ///
    /// assert_eq!(manager.get_batch("filter", 5).await.len(), 5);
    /// assert_eq!(manager.get_batch("filter", 5).await.len(), 3);
    /// assert!(manager.get_batch("unheard-of", 5).await.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_batch(&self, stage_id: &str, max_batch_size: usize) -> Vec<E> {
        self.registry.take(stage_id, max_batch_size)
    }

    /// Takes records back that [`get_batch`](Self::get_batch) handed out: all, or the longest prefix
    /// that fits. They go before all records in the stage that were not handed out, in the order in
    /// which they come back, one retry counted for each. Those whose retry count would pass the limit
    /// go to the dead letters instead, also of a closed buffer. Tells how many went back to the stage.
    ///
    /// The records gave their credits up when they were handed out, and so a return by name may be
    /// refused like a push. [`Batch::return_to_buffer`](crate::Batch::return_to_buffer) cannot fail:
    /// prefer it.
    ///
    /// # Errors
    ///
    /// The records from the first that was refused, untouched, with what refused it. `accepted`
    /// counts those that went back to the stage.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
    /// manager.buffer_for_stage("filter", line).await?;
    ///
    /// let failed = manager.get_batch("filter", 100).await;
    /// assert_eq!(manager.return_to_buffer("filter", failed).await?, 1);
    /// assert_eq!(manager.get_batch("filter", 100).await[0].retry_count, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn return_to_buffer(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        self.registry.readmit(stage_id, records)
    }

    /// Whether the source of that name should slow down: the whole buffer's utilization, or the
    /// source's own, is above the threshold at this moment. A source that does not exist uses
    /// nothing.
    ///
    /// This has no hysteresis; [`Source::signal`] has.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(1_000, 1_000, 10, 0.8);
    /// let lines = |n| vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); n];
    ///
    /// manager.buffer_batch_for_stage("filter", lines(8)).await?;
    /// assert!(!manager.should_backpressure("kafka-1").await);
    /// manager.buffer_batch_for_stage("filter", lines(1)).await?;
    /// assert!(manager.should_backpressure("kafka-1").await);
    /// assert!(!manager.should_backpressure("kafka-2").await);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn should_backpressure(&self, source_id: &str) -> bool {
        let threshold = self.controller().high_watermark();
        let source_is_high =
            || self.registry.find_source(source_id).is_some_and(|s| s.utilization() > threshold);
        // The leased credits are never fewer than those in use, and cheaper to know.
        let ledger = self.registry.ledger();
        let pool_is_high = || share(ledger.leased(), ledger) > threshold;
        pool_is_high() && share(ledger.used(), ledger) > threshold || source_is_high()
    }

    /// How many more records the source of that name may push now: the least of what its own cap
    /// and the global cap leave; 0 if the buffer is closed. A source that does not exist has its
    /// whole cap.
    ///
    /// Exact where no other thread is running; otherwise it may be outdated when it arrives.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(100, 100, 10, 0.8);
    /// assert_eq!(manager.available_credits("kafka-1").await, 10);
    /// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
    /// manager.buffer_for_stage("filter", line).await?;
    /// assert_eq!(manager.available_credits("kafka-1").await, 9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn available_credits(&self, source_id: &str) -> usize {
        let ledger = self.registry.ledger();
        match self.registry.find_source(source_id) {
            Some(source) => source.available_credits(),
            None if ledger.is_closed() => 0,
            None => ledger.free().min(self.registry.plan().source_capacity(source_id)) as usize,
        }
    }

    /// How full the stage of that name is, from 0.0 to 1.0: records queued and in unsettled batches,
    /// by its capacity. 0.0 if it does not exist. As racy as [`Stage::utilization`].
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(200, 100, 50, 0.8);
    /// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 50];
    /// manager.buffer_batch_for_stage("filter", lines).await?;
    /// assert_eq!(manager.get_stage_utilization("filter").await, 0.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_stage_utilization(&self, stage_id: &str) -> f64 {
        self.registry
            .find_stage(stage_id)
            .map_or(0.0, |stage| Stage::from_core(stage).utilization())
    }

    /// How full the whole buffer is, from 0.0 to 1.0: records queued and in unsettled batches, by
    /// `max_total_records`. Exact where no other thread is running. While sources lease credits ahead
    /// of need, it adds up their accounts, at most one for 200 records of the cap.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(200, 100, 50, 0.8);
    /// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 50];
    /// manager.buffer_batch_for_stage("filter", lines).await?;
    /// assert_eq!(manager.get_global_utilization().await, 0.25);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_global_utilization(&self) -> f64 {
        let ledger = self.registry.ledger();
        share(ledger.used(), ledger)
    }

    /// Records that wait to be taken in the stage of that name; 0 if it does not exist. As racy as
    /// [`Stage::len`].
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
    /// manager.buffer_for_stage("filter", line).await?;
    /// assert_eq!(manager.get_stage_buffer_size("filter").await, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_stage_buffer_size(&self, stage_id: &str) -> usize {
        self.registry.find_stage(stage_id).map_or(0, |stage| stage.len() as usize)
    }

    /// Records in the whole buffer, queued or in unsettled batches. Exact where no other thread is
    /// running, at the cost that [`get_global_utilization`](Self::get_global_utilization) names.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
    /// manager.buffer_for_stage("filter", line).await?;
    /// assert_eq!(manager.get_total_buffered().await, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_total_buffered(&self) -> usize {
        self.registry.ledger().used() as usize
    }

    /// The names of the stages in which records wait to be taken, sorted.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let line = BufferedRecord::new("line", "kafka-1", "logs", "filter");
    /// manager.stage("enrich")?;
    /// manager.buffer_for_stage("filter", line).await?;
    /// assert_eq!(manager.get_stages_with_data().await, ["filter"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_stages_with_data(&self) -> Vec<String> {
        self.registry.stages_with_data()
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
        self.registry.ledger().controller()
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
        self.registry.ledger().is_closed()
    }
}

impl<E: Envelope> BufferManager<E> {
    pub(crate) fn ledger(&self) -> &crate::ledger::Ledger {
        self.registry.ledger()
    }

    pub(crate) fn held(&self) -> Remaining {
        self.registry.held()
    }
}

fn share(records: u32, ledger: &crate::ledger::Ledger) -> f64 {
    f64::from(records) / f64::from(ledger.capacity())
}

impl<E: Envelope> Clone for BufferManager<E> {
    fn clone(&self) -> Self {
        Self { registry: Arc::clone(&self.registry) }
    }
}

/// A manager with the default settings.
impl<E: Envelope> Default for BufferManager<E> {
    fn default() -> Self {
        Self::new(BufferSettings::default())
    }
}

impl<E: Envelope> fmt::Debug for BufferManager<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledger = self.registry.ledger();
        f.debug_struct("BufferManager")
            .field("held", &ledger.used())
            .field("capacity", &ledger.capacity())
            .field("controller", self.controller())
            .finish_non_exhaustive()
    }
}
