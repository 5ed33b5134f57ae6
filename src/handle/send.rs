//! The calls of a source that wait for credits and places.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::source::Source;
use super::stage::Stage;
use crate::admission::{Acquire, Acquired, Wanted};
use crate::caps::Denied;
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::record::Envelope;
use crate::sync::{Instant, block_on_until, now, spin_until};

impl<E: Envelope> Source<E> {
    /// Waits for a credit and a place, then pushes one record to a stage.
    ///
    /// Requests of one source for one stage are granted first come, first served. Requests of other
    /// sources, and of the same source for other stages, do not queue behind them.
    /// [`send_batch`](Self::send_batch) describes when a request may hold up others, and for how
    /// long.
    ///
    /// # Deadlocks
    ///
    /// A worker that holds all credits in unsettled batches and awaits `send` waits for itself,
    /// even if it sends for another source: the credits that it waits for are those of its own
    /// records. Settle the batch first, or [`forward`](crate::Batch::forward) it, which needs no
    /// credits.
    ///
    /// The call does not notice that a stage has no workers left. Let the workers close the stage
    /// when they end, as [`BufferManager`](crate::BufferManager#disconnection) shows.
    ///
    /// # Errors
    ///
    /// Returns the record with [`Closed`](RejectReason::Closed) or
    /// [`ForeignStage`](RejectReason::ForeignStage).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the record is dropped with it, was not
    /// accepted, and holds no credit. To keep a record when its push may be cancelled, wait with
    /// [`reserve`](Self::reserve) and push the record with the permit.
    ///
    /// A future that was granted its credit and place holds them until it is polled or dropped: see
    /// [`reserve`](Self::reserve).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let settings = BufferSettings { max_per_source: 1, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.send(&stage, BufferedRecord::new(1, "a", "p", "filter")).await?;
    ///
    /// let worker = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || stage.recv_batch_blocking(1).unwrap().ack()
    /// });
    /// // Waits until the worker has settled the first record.
    /// source.send(&stage, BufferedRecord::new(2, "a", "p", "filter")).await?;
    /// worker.join().unwrap();
    /// assert_eq!(stage.try_recv_batch(1)?.into_records()[0].record, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn send(&self, stage: &Stage<E>, record: E) -> Result<(), Rejected<E>> {
        let units = self.core().measure(&record);
        let admitted = self.acquire(stage, Wanted::All(1, units)).await;
        self.store_one(stage, admitted, record, units)
    }

    /// Blocks the thread until one record is pushed: the blocking form of [`send`](Self::send).
    ///
    /// The call spins for some microseconds before it queues and parks the thread. Do not call it
    /// inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`send`](Self::send).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 5, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let worker = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || {
    ///         let mut taken = 0;
    ///         while let Ok(batch) = stage.recv_batch_blocking(5) {
    ///             taken += batch.into_records().len();
    ///         }
    ///         taken
    ///     }
    /// });
    /// for n in 0..20 {
    ///     source.send_blocking(&stage, BufferedRecord::new(n, "a", "p", "filter"))?;
    /// }
    /// manager.close();
    /// assert_eq!(worker.join().unwrap(), 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_blocking(&self, stage: &Stage<E>, record: E) -> Result<(), Rejected<E>> {
        self.send_until(stage, record, None)
    }

    /// Blocks the thread until one record is pushed, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`send`](Self::send). After the timeout, returns the record and
    /// the limit that was in the way; [`is_full`](RejectReason::is_full) is then true.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 1, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    ///
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
        let units = self.core().measure(&record);
        let admitted = self.acquire_until(stage, Wanted::All(1, units), deadline);
        self.store_one(stage, admitted, record, units)
    }

    /// Stores an admitted record, or hands it back with the reason.
    #[inline]
    fn store_one(
        &self,
        stage: &Stage<E>,
        admitted: Result<Acquired, RejectReason>,
        record: E,
        units: u32,
    ) -> Result<(), Rejected<E>> {
        match admitted {
            Ok(Acquired { first, .. }) => {
                self.core().store_one_charged(stage.core(), first, record, units);
                Ok(())
            }
            Err(reason) => Err(self.core().refuse_one(stage.core(), record, reason)),
        }
    }

    /// Waits for credits and places.
    pub(super) async fn acquire(
        &self,
        stage: &Stage<E>,
        wanted: Wanted,
    ) -> Result<Acquired, RejectReason> {
        let mut reserving = Reserving::new(wanted);
        poll_fn(|context| reserving.poll(self, stage, context)).await
    }

    /// Blocks the thread until credits and places are taken.
    ///
    /// At the deadline, returns the limit that is in the way.
    #[inline]
    pub(super) fn acquire_until(
        &self,
        stage: &Stage<E>,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Acquired, RejectReason> {
        match self.core().acquire_wanted(stage.core(), wanted).transpose() {
            Some(admitted) => admitted,
            None => self.wait_until(stage, wanted, deadline),
        }
    }

    #[cold]
    fn wait_until(
        &self,
        stage: &Stage<E>,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Acquired, RejectReason> {
        let admission = self.core().admission();
        let again = || match self.core().acquire_wanted(stage.core(), wanted).transpose() {
            // While other requests wait, only the queue grants anything: stop spinning.
            None if admission.has_waiters() => Some(None),
            admitted => admitted.map(Some),
        };
        spin_until(deadline, again).flatten().unwrap_or_else(|| {
            let mut reserving = Reserving::new(wanted);
            let admitted = poll_fn(|context| reserving.poll(self, stage, context));
            let admitted = block_on_until(admitted, deadline);
            admitted.unwrap_or_else(|| reserving.give_up(self, stage))
        })
    }

    /// Waits for credits and places for all records, then pushes them to a stage as one block.
    ///
    /// An empty `Vec` is accepted at once.
    ///
    /// # Fairness
    ///
    /// First come, first served applies per source and stage: no later request of this source for
    /// this stage is granted before this one. Requests of other sources, and of this source for
    /// other stages, may be granted first if they fit.
    ///
    /// A large batch is not starved by them. Once it has been bypassed by more than 4 releases
    /// while it is first in turn at the cap where it waits, the buffer *reserves* what it needs.
    /// Other pushes may then take only what exceeds the reservation, and `try_` calls are refused
    /// as [`OthersFirst`](RejectReason::OthersFirst).
    ///
    /// The time for which a reservation holds others up is bounded:
    ///
    /// - One request reserves at a time.
    /// - A reservation is lifted after 100 ms in which nothing is released at the cap where its
    ///   request waits, or after twice the longest time between two releases that the request has
    ///   seen, if that is longer.
    /// - The request then rests for the same time, and its next reservation stands twice as long
    ///   without a release.
    ///
    /// So a slow worker, or a future that is not polled, cannot hold others up for longer than
    /// these times without a release.
    ///
    /// # Errors
    ///
    /// Returns all records, with [`Closed`](RejectReason::Closed),
    /// [`ForeignStage`](RejectReason::ForeignStage), or [`TooLarge`](RejectReason::TooLarge) if
    /// they exceed one of the caps and can never be accepted at once.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, all records are dropped with it, none was
    /// accepted, and none holds a credit. A future that was granted its credits and places holds
    /// them until it is polled or dropped: see [`reserve`](Self::reserve).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let settings = BufferSettings { max_per_source: 3, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = |n| vec![BufferedRecord::new("line", "a", "p", "filter"); n];
    ///
    /// source.send_batch(&stage, lines(3)).await?;
    /// assert_eq!(stage.len(), 3);
    ///
    /// let rejected = source.send_batch(&stage, lines(4)).await.unwrap_err();
    /// let reason = "too large: 4 records never fit under the 3 of source a";
    /// assert_eq!(rejected.reason.to_string(), reason);
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
        let (wanted, units) = self.core().request_for(&records);
        let admitted = self.acquire(stage, wanted).await;
        self.store_batch(stage, admitted, records, &units)
    }

    /// Blocks the thread until all records are pushed: the blocking form of
    /// [`send_batch`](Self::send_batch).
    ///
    /// The call spins for some microseconds before it queues and parks the thread. Do not call it
    /// inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`send_batch`](Self::send_batch).
    pub fn send_batch_blocking(
        &self,
        stage: &Stage<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        self.send_batch_until(stage, records, None)
    }

    /// Blocks the thread until all records are pushed, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`send_batch`](Self::send_batch). After the timeout, returns all
    /// records and the limit that was in the way; [`is_full`](RejectReason::is_full) is then true.
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
        let (wanted, units) = self.core().request_for(&records);
        let admitted = self.acquire_until(stage, wanted, deadline);
        self.store_batch(stage, admitted, records, &units)
    }

    fn store_batch(
        &self,
        stage: &Stage<E>,
        admitted: Result<Acquired, RejectReason>,
        records: Vec<E>,
        units: &[u32],
    ) -> Result<(), RejectedBatch<E>> {
        match admitted {
            Ok(Acquired { first, .. }) => {
                self.core().store_charged(stage.core(), first, records, units);
                Ok(())
            }
            Err(reason) => {
                let reason = self.core().refuse(stage.core(), reason);
                Err(RejectedBatch { accepted: 0, records, reason })
            }
        }
    }
}

/// A request for credits and places. The first poll grants it or puts it into the wait queue.
///
/// Every poll must be given the same source and stage.
pub(super) struct Reserving {
    wanted: Wanted,
    acquire: Option<Acquire>,
}

impl Reserving {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, acquire: None }
    }

    /// Resolves when the credits and places are taken.
    pub(super) fn poll<E: Envelope>(
        &mut self,
        source: &Source<E>,
        stage: &Stage<E>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Acquired, RejectReason>> {
        let acquire = match &mut self.acquire {
            Some(acquire) => acquire,
            None => {
                let (source, stage) = (source.core(), stage.core());
                if let Some(acquired) = source.acquire_wanted(stage, self.wanted).transpose() {
                    return Poll::Ready(acquired);
                }
                self.acquire.insert(source.wait(stage, self.wanted))
            }
        };
        let reason = |denied| source.core().reason(stage.core(), denied);
        Pin::new(acquire).poll(context).map_err(reason)
    }

    /// Makes a last attempt and ends the request.
    ///
    /// # Errors
    ///
    /// Returns the limit that is in the way.
    fn give_up<E: Envelope>(
        mut self,
        source: &Source<E>,
        stage: &Stage<E>,
    ) -> Result<Acquired, RejectReason> {
        let outcome = self.acquire.take().map_or(Err(Denied::Closed), Acquire::give_up);
        outcome.map_err(|denied| source.core().reason(stage.core(), denied))
    }
}
