//! Pushing with waiting: the calls of a source that wait for room.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::source::Source;
use super::stage::Stage;
use crate::admission::Acquire;
use crate::caps::{Denied, Sequence};
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::record::Envelope;
use crate::sync::{Instant, block_on_until, now, spin_until};

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
        let admitted = self.acquire(stage, 1).await;
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
        self.send_until(stage, record, now().checked_add(timeout))
    }

    #[inline]
    fn send_until(
        &self,
        stage: &Stage<E>,
        record: E,
        deadline: Option<Instant>,
    ) -> Result<(), Rejected<E>> {
        let admitted = self.acquire_until(stage, 1, deadline);
        self.store_one(stage, admitted, record)
    }

    /// Stores a record that was admitted, or hands it back.
    #[inline]
    pub(crate) fn store_one(
        &self,
        stage: &Stage<E>,
        admitted: Result<Sequence, RejectReason>,
        record: E,
    ) -> Result<(), Rejected<E>> {
        match admitted {
            Ok(first) => {
                stage.core().store_one(self.core().index(), first, record);
                Ok(())
            }
            Err(reason) => Err(Rejected { record, reason }),
        }
    }

    /// Takes credits and places for `records` records, as soon as there are so many.
    pub(crate) async fn acquire(
        &self,
        stage: &Stage<E>,
        records: usize,
    ) -> Result<Sequence, RejectReason> {
        let mut reserving = Reserving::new(records);
        poll_fn(|context| reserving.poll(self, stage, context)).await
    }

    /// The same on this thread, which waits up to that moment: then the limit that is in the way.
    #[inline]
    pub(super) fn acquire_until(
        &self,
        stage: &Stage<E>,
        records: usize,
        deadline: Option<Instant>,
    ) -> Result<Sequence, RejectReason> {
        match self.core().acquire_all(stage.core(), records).transpose() {
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
    ) -> Result<Sequence, RejectReason> {
        let admission = self.core().admission();
        let again = || match self.core().acquire_all(stage.core(), records).transpose() {
            // Where others wait, only the queue grants anything.
            None if admission.has_waiters() => Some(None),
            admitted => admitted.map(Some),
        };
        spin_until(deadline, again).flatten().unwrap_or_else(|| {
            let mut reserving = Reserving::new(records);
            let admitted = poll_fn(|context| reserving.poll(self, stage, context));
            let admitted = block_on_until(admitted, deadline);
            admitted.unwrap_or_else(|| reserving.give_up(self, stage))
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
        let admitted = self.acquire(stage, records.len()).await;
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
        self.send_batch_until(stage, records, now().checked_add(timeout))
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
        let admitted = self.acquire_until(stage, records.len(), deadline);
        self.store_batch(stage, admitted, records)
    }

    fn store_batch(
        &self,
        stage: &Stage<E>,
        admitted: Result<Sequence, RejectReason>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        match admitted {
            Ok(first) => {
                stage.core().store_many(self.core().index(), first, records);
                Ok(())
            }
            Err(reason) => Err(RejectedBatch { accepted: 0, records, reason }),
        }
    }
}

/// A request for credits and places on its way: it is granted at the first poll, or waits from then on.
/// Each poll is given the same source and stage.
pub(crate) struct Reserving {
    records: usize,
    acquire: Option<Acquire>,
}

impl Reserving {
    pub(crate) fn new(records: usize) -> Self {
        Self { records, acquire: None }
    }

    /// The sequence of the first of the records, once all of them have their credits and places.
    pub(crate) fn poll<E: Envelope>(
        &mut self,
        source: &Source<E>,
        stage: &Stage<E>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Sequence, RejectReason>> {
        let acquire = match &mut self.acquire {
            Some(acquire) => acquire,
            None => {
                let (source, stage) = (source.core(), stage.core());
                if let Some(acquired) = source.acquire_all(stage, self.records).transpose() {
                    return Poll::Ready(acquired);
                }
                self.acquire.insert(source.wait(stage, self.records))
            }
        };
        let reason = |denied| source.core().reason(stage.core(), denied);
        Pin::new(acquire).poll(context).map_err(reason)
    }

    /// Ends the request with a last attempt.
    ///
    /// # Errors
    ///
    /// What is in the way.
    fn give_up<E: Envelope>(
        mut self,
        source: &Source<E>,
        stage: &Stage<E>,
    ) -> Result<Sequence, RejectReason> {
        let outcome = self.acquire.take().map_or(Err(Denied::Closed), Acquire::give_up);
        outcome.map_err(|denied| source.core().reason(stage.core(), denied))
    }
}
