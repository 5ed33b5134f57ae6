//! Moving a batch to the next stage, with and without waiting.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Untried};
use super::source::stage_reason;
use super::stage::Stage;
use crate::admission::{Acquire, Acquired, Request, SharedStage};
use crate::caps::Denied;
use crate::error::RejectReason;
use crate::record::Envelope;
use crate::store::{StageCore, to_u32};
use crate::sync::{Instant, block_on_until, now};

/// A batch that was not forwarded, with the reason.
///
/// Dropping the error drops the batch, which [returns](Batch::return_to_buffer) it to its stage.
/// `Debug` and `Display` show no records and require nothing of the record type.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::builder(BufferSettings::default()).stage_capacity("load", 1).build()?;
/// let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
/// let source = manager.source("a")?;
/// source.try_send_batch(&parse, vec![BufferedRecord::new("line", "a", "p", "parse"); 2])?;
///
/// parse.try_recv_batch(1)?.try_forward(&load)?;
/// let error = parse.try_recv_batch(1)?.try_forward(&load).unwrap_err();
/// assert_eq!(error.to_string(), "stage buffer full: load holds 1 of 1 records");
/// assert!(error.is_full() && !error.is_closed());
/// error.into_inner().ack();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[non_exhaustive]
pub struct ForwardError<E: Envelope> {
    /// The whole batch, unchanged.
    pub batch: Batch<E>,
    /// The reason why the next stage did not take it.
    pub reason: RejectReason,
}

impl<E: Envelope> ForwardError<E> {
    /// Returns the batch.
    pub fn into_inner(self) -> Batch<E> {
        self.batch
    }

    /// Returns [`RejectReason::is_full`] of the reason.
    pub fn is_full(&self) -> bool {
        self.reason.is_full()
    }

    /// Returns [`RejectReason::is_closed`] of the reason.
    pub fn is_closed(&self) -> bool {
        self.reason.is_closed()
    }
}

impl<E: Envelope> fmt::Debug for ForwardError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardError")
            .field("batch", &self.batch)
            .field("reason", &self.reason)
            .finish()
    }
}

impl<E: Envelope> fmt::Display for ForwardError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<E: Envelope> Error for ForwardError<E> {}

/// Keeps the reason and drops the batch, which returns it to its stage.
///
/// With this conversion `?` works for record types that are not [`Sync`].
impl<E: Envelope> From<ForwardError<E>> for RejectReason {
    fn from(error: ForwardError<E>) -> Self {
        error.reason
    }
}

impl<E: Envelope> Batch<E> {
    /// Moves all records to the back of the next stage without waiting.
    ///
    /// The records keep their credits; only the places in the two stages change. A closed buffer
    /// still forwards, so that a pipeline can drain. In a buffer with byte budgets the records are
    /// measured again: see [`Builder::max_total_bytes`](crate::Builder::max_total_bytes).
    ///
    /// The call does not queue behind requests that wait for places in the next stage, and may take
    /// free places before them. This ends once the first of these requests has been bypassed by
    /// more than 4 releases there: its places are then reserved, and a call that would take from
    /// them fails.
    ///
    /// # Errors
    ///
    /// Returns the whole batch and the reason:
    ///
    /// - [`StageFull`](RejectReason::StageFull) or [`ParkedLetters`](RejectReason::ParkedLetters)
    ///   if the next stage has no room for the whole batch.
    /// - [`OthersFirst`](RejectReason::OthersFirst) if the places are reserved.
    /// - [`TooLarge`](RejectReason::TooLarge) if the batch is larger than the next stage's capacity
    ///   and never fits: split it with [`split_off`](Self::split_off).
    /// - [`Closed`](RejectReason::Closed) if the next stage was closed or removed.
    /// - [`ForeignStage`](RejectReason::ForeignStage) if it belongs to another buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
    /// let source = manager.source("a")?;
    /// source.try_send(&parse, BufferedRecord::new("line", "a", "p", "parse"))?;
    ///
    /// parse.try_recv_batch(10)?.try_forward(&load)?;
    /// assert_eq!((parse.in_flight(), load.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_forward(self, next: &Stage<E>) -> Result<(), ForwardError<E>> {
        count_refusal(next, self.try_forward_to(next.core()))
    }

    fn try_forward_to(self, next: &StageCore<E>) -> Result<(), ForwardError<E>> {
        if self.is_empty() {
            return Ok(());
        }
        if let Some(reason) = self.never_fits(next) {
            return Err(ForwardError { batch: self, reason });
        }
        let acquired = next.admission().try_acquire_places(next.places(), to_u32(self.len()));
        self.move_or_fail(next, acquired)
    }

    /// Returns why the next stage can never take the batch. Does not check whether the stage is
    /// closed.
    fn never_fits(&self, next: &StageCore<E>) -> Option<RejectReason> {
        let (records, capacity) = (self.len(), next.places().capacity() as usize);
        if !Arc::ptr_eq(next.admission(), self.stage().admission()) {
            Some(RejectReason::ForeignStage { stage_id: Arc::clone(next.id()) })
        } else if records > capacity {
            let limit = format!("stage {}", next.id());
            Some(RejectReason::TooLarge { records, capacity, limit })
        } else {
            None
        }
    }

    /// Moves the records to places that were taken for them, or fails with the reason.
    fn move_or_fail(
        self,
        next: &StageCore<E>,
        acquired: Result<Acquired, Denied>,
    ) -> Result<(), ForwardError<E>> {
        match acquired {
            Ok(acquired) => {
                self.move_to(next, acquired.first);
                Ok(())
            }
            Err(denied) => Err(ForwardError { batch: self, reason: stage_reason(next, denied) }),
        }
    }

    /// Waits for places for all records in the next stage, then moves them to its back.
    ///
    /// The records keep their credits, and the call needs no others. A pipeline whose first stage
    /// holds every global credit therefore still drains. A closed buffer still forwards.
    ///
    /// Forwards to one stage are granted first come, first served, and the bounds that
    /// [`send_batch`](crate::Source::send_batch) documents apply: a forward that was bypassed by
    /// more than 4 releases while it was first in turn reserves the places that it needs. The
    /// reservation is lifted after 100 ms in which no place of the next stage is released, or after
    /// twice the longest time between two releases that the forward has seen, if that is longer.
    /// The forward then rests for the same time, and its next reservation stands twice as long
    /// without a release.
    ///
    /// # Deadlocks
    ///
    /// Two full stages whose workers forward to each other wait for each other: each holds the
    /// places that the other needs. Use [`forward_timeout`](Self::forward_timeout) or
    /// [`try_forward`](Self::try_forward) in a pipeline with a cycle, and settle the batch in
    /// another way when it fails.
    ///
    /// # Errors
    ///
    /// Returns the whole batch and the reason if the next stage can never take it:
    /// [`Closed`](RejectReason::Closed) if it was closed or removed,
    /// [`ForeignStage`](RejectReason::ForeignStage) if it belongs to another buffer, and
    /// [`TooLarge`](RejectReason::TooLarge) if it is smaller than the batch (split it with
    /// [`split_off`](Self::split_off)). If the next stage is the batch's own stage, the call does
    /// not wait, and also fails for the reasons of [`try_forward`](Self::try_forward).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, polled or not, the batch goes back to the front
    /// of its stage, and no retry is counted: see [`requeue`](Self::requeue). A future that was
    /// granted its places holds them until it is polled or dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let settings = BufferSettings { max_per_stage: 1, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
    /// let source = manager.source("a")?;
    /// let line = || BufferedRecord::new("line", "a", "p", "parse");
    /// source.try_send(&load, line())?;
    /// source.try_send(&parse, line())?;
    ///
    /// let worker = std::thread::spawn({
    ///     let load = load.clone();
    ///     move || load.recv_batch_blocking(1).unwrap().ack()
    /// });
    /// // Waits until the worker has settled the record that fills `load`.
    /// parse.recv_batch(1).await?.forward(&load).await?;
    /// worker.join().unwrap();
    /// assert_eq!((parse.in_flight(), load.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn forward(
        self,
        next: &Stage<E>,
    ) -> impl Future<Output = Result<(), ForwardError<E>>> + Send + use<'_, E> {
        // Outside the `async` block, so that a future that is never polled counts no retry either.
        let batch = Untried(self);
        async move {
            let done = match batch.into_batch().forward_or_wait(next.core()) {
                Ok(done) => done,
                Err((batch, acquire)) => {
                    let batch = Untried(batch);
                    let acquired = acquire.await;
                    batch.into_batch().move_or_fail(next.core(), acquired)
                }
            };
            count_refusal(next, done)
        }
    }

    /// Blocks the thread until all records are moved: the blocking form of
    /// [`forward`](Self::forward).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`forward`](Self::forward).
    pub fn forward_blocking(self, next: &Stage<E>) -> Result<(), ForwardError<E>> {
        self.forward_until(next, None)
    }

    /// Blocks the thread until all records are moved, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`forward`](Self::forward). After the timeout, returns the whole
    /// batch and the limit that was in the way; [`is_full`](ForwardError::is_full) is then true.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_stage: 1, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
    /// let source = manager.source("a")?;
    /// let line = || BufferedRecord::new("line", "a", "p", "parse");
    /// source.try_send(&load, line())?;
    /// source.try_send(&parse, line())?;
    ///
    /// let batch = parse.try_recv_batch(1)?;
    /// let error = batch.forward_timeout(&load, Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(error.reason.to_string(), "stage buffer full: load holds 1 of 1 records");
    /// error.batch.return_to_buffer();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forward_timeout(
        self,
        next: &Stage<E>,
        timeout: Duration,
    ) -> Result<(), ForwardError<E>> {
        self.forward_until(next, now().checked_add(timeout))
    }

    fn forward_until(
        self,
        next: &Stage<E>,
        deadline: Option<Instant>,
    ) -> Result<(), ForwardError<E>> {
        let done = match self.forward_or_wait(next.core()) {
            Ok(done) => done,
            Err((batch, mut acquire)) => {
                let acquired = block_on_until(&mut acquire, deadline);
                let acquired = acquired.unwrap_or_else(|| acquire.give_up());
                batch.move_or_fail(next.core(), acquired)
            }
        };
        count_refusal(next, done)
    }

    /// Forwards the batch, returns it if it can never be forwarded, or queues a request for places.
    fn forward_or_wait(
        self,
        next: &Arc<StageCore<E>>,
    ) -> Result<Result<(), ForwardError<E>>, (Self, Acquire)> {
        // A batch that waits for places of its own stage may wait for its own places.
        let own = Arc::ptr_eq(next, self.stage());
        let mut batch = self;
        if own
            || batch.is_empty()
            || batch.never_fits(next).is_some()
            || next.places().is_closed()
            || !next.admission().has_waiters()
        {
            match batch.try_forward_to(next) {
                Err(error) if error.is_full() && !own => batch = error.batch,
                done => return Ok(done),
            }
        }
        let stage = Arc::clone(next) as SharedStage;
        let records = to_u32(batch.len());
        let most = records;
        let request = Request { account: None, stage, records, most, units: 0, ahead: true };
        let acquire = Acquire::new(next.admission(), request);
        Err((batch, acquire))
    }
}

/// Counts a forward that was refused.
fn count_refusal<E: Envelope>(
    next: &Stage<E>,
    done: Result<(), ForwardError<E>>,
) -> Result<(), ForwardError<E>> {
    if let Err(error) = &done {
        next.core().places().tally().count_refusal(&error.reason);
    }
    done
}
