//! The calls by name: each one looks up its stage and its source.

use std::iter::Peekable;
use std::sync::Arc;

use super::manager::BufferManager;
use super::registry::Registry;
use crate::admission::SharedStage;
use crate::caps::Ledger;
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::handle::{Batch, SourceCore, Stage};
use crate::record::Envelope;
use crate::settings::share;
use crate::store::{DeadLetter, DeadLetterReason, LetterMeta, StageCore};
use crate::trace;

impl<E: Envelope> BufferManager<E> {
    /// Pushes one record to the named stage, charged to the source that the record names.
    ///
    /// The stage and the source are created if they do not exist. A new stage allocates its ring up
    /// front, one slot for each record that it may hold: about 11 MB for 10,000 records of 1 KiB.
    ///
    /// Like [`Source::try_send`](crate::Source::try_send), the call does not wait and does not
    /// queue behind requests that wait.
    ///
    /// # Errors
    ///
    /// Returns the record and the reason: the reasons of
    /// [`Source::try_send`](crate::Source::try_send), too many stages or sources, an empty name, or
    /// not enough memory for a new stage.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(100, 1, 100, 0.8);
    /// let line = |n: i32| BufferedRecord::new(n, "kafka-1", "logs", "filter");
    ///
    /// manager.buffer_for_stage("filter", line(1)).await?;
    /// let rejected = manager.buffer_for_stage("filter", line(2)).await.unwrap_err();
    /// assert_eq!(rejected.to_string(), "stage buffer full: filter holds 1 of 1 records");
    /// assert_eq!(rejected.into_inner().record, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn buffer_for_stage(&self, stage_id: &str, record: E) -> Result<(), Rejected<E>> {
        self.registry().push(stage_id, record)
    }

    /// Pushes records to the named stage, each charged to the source that it names.
    ///
    /// Accepts all records, or the longest prefix that fits, and returns the number of records on
    /// success. Adjacent records of one source travel as one block; a batch of a single source is
    /// fastest. An empty `Vec` is always accepted and creates nothing.
    ///
    /// The stage and the sources are created if they do not exist. A new stage allocates its ring
    /// up front: see [`buffer_for_stage`](Self::buffer_for_stage).
    ///
    /// # Errors
    ///
    /// Returns the first refused record and those after it, the reason for its refusal, and the
    /// number of records accepted before it.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferedRecord};
    ///
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

    /// Takes up to `max_batch_size` records out of the named stage and releases their credits at
    /// once.
    ///
    /// Returns an empty `Vec` if no record is queued, if the stage does not exist, or if
    /// `max_batch_size` is 0.
    ///
    /// The buffer does not track the records any further. Use [`Stage::try_recv_batch`] to keep
    /// them charged, and safe from a panic, until they are settled.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 8];
    /// manager.buffer_batch_for_stage("filter", lines).await?;
    ///
    /// assert_eq!(manager.get_batch("filter", 5).await.len(), 5);
    /// assert_eq!(manager.get_batch("filter", 5).await.len(), 3);
    /// assert!(manager.get_batch("unknown", 5).await.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_batch(&self, stage_id: &str, max_batch_size: usize) -> Vec<E> {
        self.registry().take(stage_id, max_batch_size)
    }

    /// Puts records from [`get_batch`](Self::get_batch) back to the front of the named stage.
    ///
    /// Accepts all records, or the longest prefix that fits, and adds one to the retry count of
    /// each. They come before all records of the stage that were never handed out, in the order in
    /// which they come back. Records that have used up their retries go to the dead letters
    /// instead, even if the buffer is closed. On success, returns the number of records that went
    /// back to the stage.
    ///
    /// The records released their credits when they were handed out. A return by name is therefore
    /// a push: it may be refused, and it creates the stage and the sources if they do not exist (a
    /// new stage allocates its ring up front: see [`buffer_for_stage`](Self::buffer_for_stage)).
    /// Prefer [`Batch::return_to_buffer`](crate::Batch::return_to_buffer), which cannot fail.
    ///
    /// # Errors
    ///
    /// Returns the first refused record and those after it, unchanged, with the reason for its
    /// refusal. `accepted` counts the records that went back to the stage.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
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

    /// Returns `true` if the named source should slow down.
    ///
    /// This is the case if the utilization of the whole buffer, of the source's own cap, or of the
    /// stage that the source pushed to last is above the threshold now. A source that does not
    /// exist uses nothing. The result has no hysteresis; [`Source::signal`](crate::Source::signal)
    /// has.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferedRecord};
    ///
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
        let source_is_high = || {
            let stage_is_high = |stage: SharedStage| stage.places().utilization() > threshold;
            self.registry().find_source(source_id).is_some_and(|source| {
                source.utilization() > threshold || source.latest_stage().is_some_and(stage_is_high)
            })
        };
        // The number of leased credits is an upper bound of those in use, and cheaper to read.
        let is_high = |ledger: &Ledger| {
            share(ledger.leased(), ledger.capacity()) > threshold
                && share(ledger.used(), ledger.capacity()) > threshold
        };
        is_high(self.admission().ledger())
            || self.admission().bytes().is_some_and(is_high)
            || source_is_high()
    }

    /// Returns how many more records the named source may push now.
    ///
    /// This is the least of what its own cap and the global cap leave, and 0 if the buffer is
    /// closed. For a source that does not exist, its whole cap counts. The value is exact if no
    /// other thread uses the buffer, and may be outdated otherwise.
    pub async fn available_credits(&self, source_id: &str) -> usize {
        let ledger = self.admission().ledger();
        match self.registry().find_source(source_id) {
            Some(source) => source.available_credits(),
            None if self.admission().is_closed() => 0,
            None => {
                let limits = self.registry().limits();
                let free = ledger.free().saturating_add(limits.source_guarantee(source_id));
                free.min(limits.source_capacity(source_id)) as usize
            }
        }
    }

    /// Returns the used share of the named stage's capacity, from 0.0 to 1.0.
    ///
    /// Records in unsettled batches count. Returns 0.0 if the stage does not exist. The caveat of
    /// [`Stage::utilization`] applies.
    pub async fn get_stage_utilization(&self, stage_id: &str) -> f64 {
        self.registry()
            .find_stage(stage_id)
            .map_or(0.0, |stage| Stage::from_core(stage).utilization())
    }

    /// Returns the used share of the global cap, from 0.0 to 1.0.
    ///
    /// Records in unsettled batches count. The value is exact if no other thread uses the buffer.
    ///
    /// While sources lease credits ahead of need, the call adds up the accounts that do: at most
    /// one account for every 200 records of the cap.
    pub async fn get_global_utilization(&self) -> f64 {
        self.utilization()
    }

    /// Returns the number of queued records in the named stage, or 0 if the stage does not exist.
    ///
    /// The caveat of [`Stage::len`] applies.
    pub async fn get_stage_buffer_size(&self, stage_id: &str) -> usize {
        self.registry().find_stage(stage_id).map_or(0, |stage| stage.len() as usize)
    }

    /// Returns the number of records in the whole buffer, queued or in unsettled batches.
    ///
    /// The value is exact if no other thread uses the buffer. The cost is that of
    /// [`get_global_utilization`](Self::get_global_utilization).
    pub async fn get_total_buffered(&self) -> usize {
        self.len()
    }

    /// Returns the names of the stages that have queued records, sorted.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::with_limits(200, 100, 50, 0.8);
    /// manager.stage("enrich")?;
    /// let lines = vec![BufferedRecord::new("line", "kafka-1", "logs", "filter"); 40];
    /// manager.buffer_batch_for_stage("filter", lines).await?;
    ///
    /// assert_eq!(manager.get_stages_with_data().await, ["filter"]);
    /// assert_eq!(manager.get_stage_buffer_size("filter").await, 40);
    /// assert_eq!(manager.get_stage_utilization("filter").await, 0.4);
    /// assert_eq!(manager.get_total_buffered().await, 40);
    /// assert_eq!(manager.get_global_utilization().await, 0.2);
    /// assert_eq!(manager.available_credits("kafka-1").await, 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_stages_with_data(&self) -> Vec<String> {
        self.registry().stages_with_data()
    }
}

impl<E: Envelope> Registry<E> {
    /// Pushes one record to the named stage, charged to the source that it names.
    pub(super) fn push(&self, stage_id: &str, record: E) -> Result<(), Rejected<E>> {
        loop {
            let (stages, sources) = (self.stages(), self.sources());
            if let (Some(stage), Some(source)) =
                (stages.get(stage_id), sources.get(record.source_id()))
            {
                match source.acquire_for(stage, &record) {
                    Ok((first, units)) => {
                        source.store_one_charged(stage, first, record, units);
                        return Ok(());
                    }
                    Err(reason) if self.was_removed(&reason, stage, source) => {}
                    Err(reason) => return Err(source.refuse_one(stage, record, reason)),
                }
            }
            if let Err(error) = self.register(stage_id, record.source_id()) {
                return Err(Rejected { record, reason: error.into() });
            }
        }
    }

    /// Pushes records to the named stage, each charged to the source that it names: all of them, or
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

    /// Puts records that were handed out back to the front of the stage: all of them, or the
    /// longest prefix that fits.
    ///
    /// Counts one retry for each accepted record, and moves records without retries left to the
    /// dead letters. Returns the number of records that went back to the stage.
    pub(super) fn return_records(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        let is_exhausted = |record: &E| self.limits().retries.is_exhausted(record.retry_count());
        if !records.iter().any(is_exhausted) {
            return self.return_tried(stage_id, records);
        }
        let mut returned = 0;
        let mut records = records.into_iter().peekable();
        while let Some(first) = records.next() {
            let exhausted = is_exhausted(&first);
            let stretch = take_run(first, &mut records, |record| is_exhausted(record) == exhausted);
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
            let meta = LetterMeta::new(&record, DeadLetterReason::RetriesExhausted);
            let letter = DeadLetter::new(record, meta, stage_id);
            let (source, retries) = (letter.source_id.clone(), letter.retry_count);
            if let Err(letter) = self.dead_letters().push(letter) {
                let reason =
                    RejectReason::DeadLettersFull { capacity: self.dead_letters().capacity() };
                let records = std::iter::once(letter.record).chain(records).collect();
                return Err(RejectedBatch { accepted: 0, records, reason });
            }
            let reason = DeadLetterReason::RetriesExhausted;
            trace::dead_letter(stage_id, &source, &reason, retries);
        }
        Ok(())
    }

    /// Stores records, one run of a single source at a time, until one is refused.
    ///
    /// Records of a single source stay in their `Vec`.
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

    /// Stores records of one source in the named stage.
    fn store(
        &self,
        stage_id: &str,
        mut records: Vec<E>,
        store: impl Fn(&Arc<StageCore<E>>, &Arc<SourceCore>, Vec<E>) -> Result<(), RejectedBatch<E>>,
    ) -> Result<(), RejectedBatch<E>> {
        // Records accepted by a stage that was then removed. The rest goes to the new stage of that
        // name.
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

    /// Takes up to `max` records out of the named stage and settles them.
    pub(super) fn take(&self, stage_id: &str, max: usize) -> Vec<E> {
        let stages = self.stages();
        match stages.get(stage_id) {
            None => Vec::new(),
            Some(stage) if !stage.has_clock() => stage.take_out(max),
            // Leaves out the records that have expired.
            Some(stage) => {
                let batch = Stage::from_core(Arc::clone(stage)).try_recv_batch(max);
                batch.map_or_else(|_| Vec::new(), Batch::into_records)
            }
        }
    }
}

/// Puts records that were handed out back to the stage, and counts one retry for each accepted
/// record.
fn return_to<E: Envelope>(
    stage: &Arc<StageCore<E>>,
    source: &SourceCore,
    records: Vec<E>,
) -> Result<(), RejectedBatch<E>> {
    source.push_blocks(stage, records, |first, records, units| {
        source.count_accepted(records.len());
        let stage = Arc::clone(stage);
        Batch::returned(stage, source.index(), first, records, units).return_to_buffer();
    })
}

/// Collects `first` and the records after it for which `like` returns `true`.
fn take_run<E>(
    first: E,
    records: &mut Peekable<impl Iterator<Item = E>>,
    like: impl Fn(&E) -> bool,
) -> Vec<E> {
    let mut run = vec![first];
    run.extend(std::iter::from_fn(|| records.next_if(&like)));
    run
}
