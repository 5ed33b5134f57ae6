//! Pushing as room comes: the waiting calls of a source, and permits.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::block::{Age, count};
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::record::Envelope;
use crate::source::{Source, SourceCore};
use crate::stage::{Stage, StageCore};
use crate::sync::{block_on_until, persist};
use crate::waiting::{Gate, Request, Waiting};

impl<E: Envelope> Source<E> {
    /// Pushes one record to a stage, as soon as there are credits and a place for it.
    ///
    /// First come, first served among those who wait with the same source; sources do not hold each
    /// other up.
    ///
    /// # Errors
    ///
    /// The record with [`Closed`](RejectReason::Closed) or
    /// [`ForeignStage`](RejectReason::ForeignStage).
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it resolves, the record was not accepted, no credit is held for it, and
    /// it is dropped with the future. To keep a record whose push may be cancelled, wait with
    /// [`reserve`](Self::reserve) and push it then.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings { max_per_source: 1, ..Default::default() });
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.send(&stage, BufferedRecord::new(1, "a", "p", "filter")).await?;
    /// let worker = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || stage.recv_batch_blocking(1).unwrap().ack()
    /// });
    /// source.send(&stage, BufferedRecord::new(2, "a", "p", "filter")).await?; // waits for the worker
    /// worker.join().unwrap();
    /// assert_eq!(stage.try_recv_batch(1)?.into_records()[0].record, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn send(&self, stage: &Stage<E>, record: E) -> Result<(), Rejected<E>> {
        let admitted = self.admit(stage, 1).await;
        self.store_one(stage, admitted, record)
    }

    /// [`send`](Self::send) for threads: it parks this one until there is room. It tries for some
    /// microseconds before it stands in line.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.send_blocking(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_blocking(&self, stage: &Stage<E>, record: E) -> Result<(), Rejected<E>> {
        self.send_until(stage, record, None)
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); and when the time is up, the record with the limit that was in the
    /// way, of which [`is_full`](RejectReason::is_full) is true.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use std::time::Duration;
    ///
    /// let manager = BufferManager::new(BufferSettings { max_per_source: 1, ..Default::default() });
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// source.try_send(&stage, line.clone())?;
    /// let rejected = source.send_timeout(&stage, line, Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(rejected.to_string(), "source buffer full: a holds 1 of 1 records");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_timeout(
        &self,
        stage: &Stage<E>,
        record: E,
        timeout: Duration,
    ) -> Result<(), Rejected<E>> {
        self.send_until(stage, record, Instant::now().checked_add(timeout))
    }

    #[inline]
    fn send_until(
        &self,
        stage: &Stage<E>,
        record: E,
        deadline: Option<Instant>,
    ) -> Result<(), Rejected<E>> {
        let admitted = self.admit_until(stage, 1, deadline);
        self.store_one(stage, admitted, record)
    }

    /// Stores a record that was admitted, or hands it back.
    #[inline]
    pub(crate) fn store_one(
        &self,
        stage: &Stage<E>,
        admitted: Result<Age, RejectReason>,
        record: E,
    ) -> Result<(), Rejected<E>> {
        match admitted {
            Ok(age) => {
                self.core().store_one(stage.core(), age, record);
                Ok(())
            }
            Err(reason) => Err(Rejected { record, reason }),
        }
    }

    /// Takes credits and places for `records` records, as soon as there are so many.
    async fn admit(&self, stage: &Stage<E>, records: usize) -> Result<Age, RejectReason> {
        let mut reserving = Reserving::new(records);
        poll_fn(|context| reserving.poll(self, stage, context)).await
    }

    /// The same on this thread, which waits up to that moment: then the limit that is in the way.
    #[inline]
    fn admit_until(
        &self,
        stage: &Stage<E>,
        records: usize,
        deadline: Option<Instant>,
    ) -> Result<Age, RejectReason> {
        match self.core().admit_whole(stage.core(), records).transpose() {
            Some(admitted) => admitted,
            None => self.wait_until(stage, records, deadline),
        }
    }

    #[cold]
    fn wait_until(
        &self,
        stage: &Stage<E>,
        records: usize,
        deadline: Option<Instant>,
    ) -> Result<Age, RejectReason> {
        let ledger = self.core().ledger();
        let again = || match self.core().admit_whole(stage.core(), records).transpose() {
            // Where others wait, only the waiting room lets anybody in.
            None if !ledger.is_calm() => Some(None),
            admitted => admitted.map(Some),
        };
        persist(deadline, again).flatten().unwrap_or_else(|| {
            let mut reserving = Reserving::new(records);
            let admitted = poll_fn(|context| reserving.poll(self, stage, context));
            let admitted = block_on_until(admitted, deadline);
            admitted.unwrap_or_else(|| Err(reserving.obstacle(self, stage)))
        })
    }

    /// Pushes several records to a stage as one block, as soon as there are credits and places for all
    /// of them. A large batch is not overtaken by smaller pushes that wait with the same source, and
    /// the pushes of other sources cannot keep it waiting for ever.
    ///
    /// # Errors
    ///
    /// All records, with [`Closed`](RejectReason::Closed), with
    /// [`ForeignStage`](RejectReason::ForeignStage), or at once with
    /// [`TooLarge`](RejectReason::TooLarge) if they can never fit under one of the caps.
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send): all of the records are accepted, or none.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings { max_per_source: 3, ..Default::default() });
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = |n| vec![BufferedRecord::new("line", "a", "p", "filter"); n];
    ///
    /// source.send_batch(&stage, lines(3)).await?;
    /// assert_eq!(stage.len(), 3);
    /// let rejected = source.send_batch(&stage, lines(4)).await.unwrap_err();
    /// assert_eq!(
    ///     rejected.reason.to_string(),
    ///     "too large: 4 records never fit under the 3 of source a"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn send_batch(
        &self,
        stage: &Stage<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        if records.is_empty() {
            return Ok(());
        }
        let admitted = self.admit(stage, records.len()).await;
        self.store_batch(stage, admitted, records)
    }

    /// [`send_batch`](Self::send_batch) for threads: it parks this one until there is room, as
    /// [`send_blocking`](Self::send_blocking) does.
    ///
    /// # Errors
    ///
    /// As for [`send_batch`](Self::send_batch).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.send_batch_blocking(&stage, vec![BufferedRecord::new(0, "a", "p", "filter"); 5])?;
    /// assert_eq!(stage.len(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_batch_blocking(
        &self,
        stage: &Stage<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        self.send_batch_until(stage, records, None)
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`send_batch`](Self::send_batch); and when the time is up, all records with the limit
    /// that was in the way, of which [`is_full`](RejectReason::is_full) is true.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use std::time::Duration;
    ///
    /// let manager = BufferManager::new(BufferSettings { max_per_source: 3, ..Default::default() });
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = |n| vec![BufferedRecord::new("line", "a", "p", "filter"); n];
    /// source.try_send_batch(&stage, lines(2))?;
    /// let brief = Duration::from_millis(1);
    /// let rejected = source.send_batch_timeout(&stage, lines(2), brief).unwrap_err();
    /// assert!(rejected.is_full() && rejected.accepted == 0 && rejected.records.len() == 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_batch_timeout(
        &self,
        stage: &Stage<E>,
        records: Vec<E>,
        timeout: Duration,
    ) -> Result<(), RejectedBatch<E>> {
        self.send_batch_until(stage, records, Instant::now().checked_add(timeout))
    }

    fn send_batch_until(
        &self,
        stage: &Stage<E>,
        records: Vec<E>,
        deadline: Option<Instant>,
    ) -> Result<(), RejectedBatch<E>> {
        if records.is_empty() {
            return Ok(());
        }
        let admitted = self.admit_until(stage, records.len(), deadline);
        self.store_batch(stage, admitted, records)
    }

    fn store_batch(
        &self,
        stage: &Stage<E>,
        admitted: Result<Age, RejectReason>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        match admitted {
            Ok(age) => {
                self.core().store_many(stage.core(), age, records);
                Ok(())
            }
            Err(reason) => Err(RejectedBatch { accepted: 0, records, reason }),
        }
    }

    /// Waits for the credits and places of `records` records (0 counts as 1) in a stage, and holds them
    /// for whoever has the permit.
    ///
    /// # Errors
    ///
    /// As for [`send_batch`](Self::send_batch).
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it resolves, no credit and no place is held.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let permit = source.reserve(&stage, 1).await?;
    /// assert_eq!(source.available_credits(), 4_999);
    /// permit.send(BufferedRecord::new("line", "a", "p", "filter"));
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn reserve(
        &self,
        stage: &Stage<E>,
        records: usize,
    ) -> Result<Permit<E>, RejectReason> {
        let records = records.max(1);
        let age = self.admit(stage, records).await?;
        Ok(Permit::new(self, stage, records, age))
    }
}

/// Credits and places in a stage, held for records to come: see [`Source::reserve`]. Dropped, it
/// gives them back.
///
/// ```
/// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// # pollster::block_on(async {
/// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
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
    age: Age,
}

impl<E: Envelope> Permit<E> {
    /// A permit for records that were admitted.
    pub(crate) fn new(source: &Source<E>, stage: &Stage<E>, records: usize, age: Age) -> Self {
        let (source, stage) = (Arc::clone(source.core()), Arc::clone(stage.core()));
        Self { source, stage, records: count(records), age }
    }

    /// For how many records it is.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// assert_eq!(source.reserve(&stage, 3).await?.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[allow(clippy::len_without_is_empty, reason = "a permit is for one record at least")]
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Pushes one record, and gives back what was reserved beyond it. This cannot fail, though the
    /// buffer be closed meanwhile.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let permit = source.reserve(&stage, 1).await?;
    /// permit.send(BufferedRecord::new("line", "a", "p", "filter"));
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn send(mut self, record: E) {
        self.records -= 1;
        self.source.store_one(&self.stage, self.age, record);
    }

    /// Pushes records as one block, and gives back what was reserved beyond them.
    ///
    /// # Errors
    ///
    /// The records for which it was not reserved, where there are more than [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 5];
    /// let rest = source.reserve(&stage, 3).await?.send_batch(lines).unwrap_err();
    /// assert_eq!((stage.len(), rest.len()), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn send_batch(mut self, mut records: Vec<E>) -> Result<(), Vec<E>> {
        let rest = records.split_off(records.len().min(self.len()));
        if !records.is_empty() {
            self.records -= count(records.len());
            self.source.store_many(&self.stage, self.age, records);
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

/// A request for credits and places on its way: it is granted at the first poll, or waits from then on.
/// Each poll is given the same source and stage.
pub(crate) struct Reserving {
    records: usize,
    waiting: Option<Waiting>,
}

impl Reserving {
    pub(crate) fn new(records: usize) -> Self {
        Self { records, waiting: None }
    }

    /// The age of the first of the records, once all of them have their credits and places.
    pub(crate) fn poll<E: Envelope>(
        &mut self,
        source: &Source<E>,
        stage: &Stage<E>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Age, RejectReason>> {
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            None => {
                let (source, stage) = (source.core(), stage.core());
                if let Some(admitted) = source.admit_whole(stage, self.records).transpose() {
                    return Poll::Ready(admitted);
                }
                let request = Request {
                    account: Some(source.index()),
                    gate: Arc::clone(stage) as Arc<dyn Gate>,
                    records: count(self.records),
                };
                self.waiting.insert(Waiting::new(source.ledger(), request))
            }
        };
        Pin::new(waiting).poll(context).map_err(|_| RejectReason::Closed)
    }

    /// What the records wait for.
    fn obstacle<E: Envelope>(&self, source: &Source<E>, stage: &Stage<E>) -> RejectReason {
        match self.waiting.as_ref().and_then(Waiting::lack) {
            Some(lack) => source.core().obstacle(stage.core(), lack),
            None => RejectReason::Closed,
        }
    }
}
