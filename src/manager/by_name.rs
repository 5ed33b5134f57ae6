//! The calls of the original crate, which name stages and sources each time.

use std::iter::Peekable;
use std::sync::Arc;

use super::manager::BufferManager;
use super::registry::Registry;
use crate::caps::Ledger;
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::handle::{Batch, SourceCore, Stage, is_exhausted};
use crate::record::Envelope;
use crate::store::{DeadLetter, LetterMeta, StageCore};

impl<E: Envelope> BufferManager<E> {
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
        self.registry().push(stage_id, record)
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
        self.registry().push_batch(stage_id, records)
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
        self.registry().take(stage_id, max_batch_size)
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
        self.registry().return_records(stage_id, records)
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
            || self.registry().find_source(source_id).is_some_and(|s| s.utilization() > threshold);
        // The leased credits are never fewer than those in use, and cheaper to know.
        let ledger = self.admission().ledger();
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
        let ledger = self.admission().ledger();
        match self.registry().find_source(source_id) {
            Some(source) => source.available_credits(),
            None if self.admission().is_closed() => 0,
            None => ledger.free().min(self.registry().limits().source_capacity(source_id)) as usize,
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
        self.registry()
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
        let ledger = self.admission().ledger();
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
        self.registry().find_stage(stage_id).map_or(0, |stage| stage.len() as usize)
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
        self.admission().ledger().used() as usize
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
        self.registry().stages_with_data()
    }
}

fn share(records: u32, ledger: &Ledger) -> f64 {
    f64::from(records) / f64::from(ledger.capacity())
}

impl<E: Envelope> Registry<E> {
    /// Pushes a record to the stage of that name, for the source that it names itself.
    pub(super) fn push(&self, stage_id: &str, record: E) -> Result<(), Rejected<E>> {
        loop {
            let (stages, sources) = (self.stages(), self.sources());
            if let (Some(stage), Some(source)) =
                (stages.get(stage_id), sources.get(record.source_id()))
            {
                match source.acquire_one(stage) {
                    Ok(first) => {
                        stage.store_one(source.index(), first, record);
                        return Ok(());
                    }
                    Err(reason) if self.was_removed(&reason, stage, source) => {}
                    Err(reason) => return Err(Rejected { record, reason }),
                }
            }
            if let Err(error) = self.register(stage_id, record.source_id()) {
                return Err(Rejected { record, reason: error.into() });
            }
        }
    }

    /// Pushes records to the stage of that name, for the sources that they name themselves: all, or
    /// the longest prefix that fits.
    pub(super) fn push_batch(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        self.for_each_run(records, |records| {
            self.store(stage_id, records, |stage, source, records| {
                source.push_batch(stage, records)
            })
        })
    }

    /// Takes records back that were handed out: all, or the longest prefix that fits. One retry is
    /// counted for each that is accepted; those that have none left go to the dead letters. Tells
    /// how many went back to the stage.
    pub(super) fn return_records(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        let limit = self.limits().retry_limit;
        if !records.iter().any(|record| is_exhausted(record, limit)) {
            return self.return_tried(stage_id, records);
        }
        let mut returned = 0;
        let mut records = records.into_iter().peekable();
        while let Some(first) = records.next() {
            let exhausted = is_exhausted(&first, limit);
            let stretch =
                take_run(first, &mut records, |record| is_exhausted(record, limit) == exhausted);
            let done = if exhausted {
                self.dead_letter(stage_id, stretch)
            } else {
                self.return_tried(stage_id, stretch).map(|accepted| returned += accepted)
            };
            if let Err(mut rejected) = done {
                rejected.accepted += returned;
                rejected.records.extend(records);
                return Err(rejected);
            }
        }
        Ok(returned)
    }

    fn return_tried(&self, stage_id: &str, records: Vec<E>) -> Result<usize, RejectedBatch<E>> {
        self.for_each_run(records, |records| {
            self.store(stage_id, records, |stage, source, records| {
                return_to(stage, source, records)
            })
        })
    }

    /// Moves records that hold no credits to the dead letters.
    fn dead_letter(&self, stage_id: &str, records: Vec<E>) -> Result<(), RejectedBatch<E>> {
        let mut records = records.into_iter();
        while let Some(record) = records.next() {
            let meta = LetterMeta::new(&record);
            let letter = DeadLetter::new(record, meta, stage_id);
            if let Err(letter) = self.dead_letters().push(letter) {
                let reason =
                    RejectReason::DeadLettersFull { capacity: self.dead_letters().capacity() };
                let records = std::iter::once(letter.record).chain(records).collect();
                return Err(RejectedBatch { accepted: 0, records, reason });
            }
        }
        Ok(())
    }

    /// Stores records, run by run of one source, until one is refused. Records of a single source
    /// stay in their `Vec`.
    fn for_each_run(
        &self,
        records: Vec<E>,
        mut store: impl FnMut(Vec<E>) -> Result<(), RejectedBatch<E>>,
    ) -> Result<usize, RejectedBatch<E>> {
        let same = |one: &E, other: &E| one.source_id() == other.source_id();
        if records.windows(2).all(|pair| same(&pair[0], &pair[1])) {
            let len = records.len();
            return if len == 0 { Ok(0) } else { store(records).map(|()| len) };
        }
        let mut accepted = 0;
        let mut records = records.into_iter().peekable();
        while let Some(first) = records.next() {
            let source_id = first.source_id().to_owned();
            let run = take_run(first, &mut records, |record| record.source_id() == source_id);
            let len = run.len();
            if let Err(mut rejected) = store(run) {
                rejected.accepted += accepted;
                rejected.records.extend(records);
                return Err(rejected);
            }
            accepted += len;
        }
        Ok(accepted)
    }

    /// Stores records of one source in the stage of that name.
    fn store(
        &self,
        stage_id: &str,
        mut records: Vec<E>,
        store: impl Fn(&Arc<StageCore<E>>, &Arc<SourceCore>, Vec<E>) -> Result<(), RejectedBatch<E>>,
    ) -> Result<(), RejectedBatch<E>> {
        // What a stage took before it was removed and the rest went to its successor.
        let mut accepted = 0;
        loop {
            let (stages, sources) = (self.stages(), self.sources());
            if let (Some(stage), Some(source)) =
                (stages.get(stage_id), sources.get(records[0].source_id()))
            {
                let Err(mut rejected) = store(stage, source, records) else { return Ok(()) };
                rejected.accepted += accepted;
                if !self.was_removed(&rejected.reason, stage, source) {
                    return Err(rejected);
                }
                (accepted, records) = (rejected.accepted, rejected.records);
            }
            if let Err(error) = self.register(stage_id, records[0].source_id()) {
                return Err(RejectedBatch { accepted, records, reason: error.into() });
            }
        }
    }

    /// Takes up to `max` records from the stage of that name and settles them.
    pub(super) fn take(&self, stage_id: &str, max: usize) -> Vec<E> {
        let stages = self.stages();
        stages.get(stage_id).map_or_else(Vec::new, |stage| stage.take_out(max))
    }
}

/// Takes records back that were handed out, one retry counted for each that is accepted.
fn return_to<E: Envelope>(
    stage: &Arc<StageCore<E>>,
    source: &SourceCore,
    records: Vec<E>,
) -> Result<(), RejectedBatch<E>> {
    source.push_blocks(stage, records, |first, records| {
        Batch::returned(Arc::clone(stage), source.index(), first, records).return_to_buffer();
    })
}

/// The first record with those after it that are like it.
fn take_run<E>(
    first: E,
    records: &mut Peekable<impl Iterator<Item = E>>,
    like: impl Fn(&E) -> bool,
) -> Vec<E> {
    let mut run = vec![first];
    run.extend(std::iter::from_fn(|| records.next_if(&like)));
    run
}
