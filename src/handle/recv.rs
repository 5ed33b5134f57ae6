//! The calls of a stage that wait for records.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::batch::Batch;
use super::stage::Stage;
use crate::admission::Receiver;
use crate::error::{Closed, RecvTimeoutError, TryRecvError};
use crate::record::Envelope;
use crate::store::{BatchContents, StageCore, WaitingAt, to_u32};
use crate::sync::{Instant, block_on_until, now, sleep_until, spin_until};

impl<E: Envelope> Stage<E> {
    /// Waits for a record, then takes up to `max` queued records. Returned records come first.
    ///
    /// The call waits for the first record only; [`recv_batch_linger`](Self::recv_batch_linger)
    /// waits for more. A `max` of 0 counts as 1. Each push or return wakes one waiting
    /// worker, and a worker that leaves some of its records wakes the next.
    ///
    /// After 128 calls in a row on one handle that took records without waiting, the next one first
    /// yields to the other tasks of its thread: it is pending once, and wakes itself. So a loop
    /// that never finds its stage empty does not keep a runtime's thread to itself. The blocking
    /// calls and [`try_recv_batch`](Self::try_recv_batch) never yield.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if no record will ever come.
    ///
    /// # Cancel safety
    ///
    /// The future takes no record before it resolves, and may be dropped at any time. If it was
    /// notified, dropping it passes the notification to another worker.
    ///
    /// Do not keep a future without polling it: one that was notified keeps the wake-up from the
    /// other workers, which may then sleep although a record is queued.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let pusher = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))
    /// });
    ///
    /// let batch = stage.recv_batch(10).await?;
    /// assert_eq!(batch.len(), 1);
    /// batch.ack();
    /// # pusher.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn recv_batch(&self, max: usize) -> Result<Batch<E>, Closed> {
        if self.must_yield() {
            yield_once().await;
        }
        self.wait_and_take(max).await
    }

    async fn wait_and_take(&self, max: usize) -> Result<Batch<E>, Closed> {
        loop {
            let mut idle = match self.try_or_wait(max.max(1)) {
                Ok(taken) => return taken,
                Err(idle) => idle,
            };
            (&mut idle.listener).await;
            self.end_turns();
        }
    }

    /// Blocks the thread until a record is queued: the blocking form of
    /// [`recv_batch`](Self::recv_batch).
    ///
    /// The call spins for some microseconds before it parks the thread. Do not call it inside an
    /// async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if no record will ever come.
    pub fn recv_batch_blocking(&self, max: usize) -> Result<Batch<E>, Closed> {
        self.recv_batch_until(max, None).unwrap_or(Err(Closed))
    }

    /// Blocks the thread until a record is queued, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread. [`RecvTimeoutError`]
    /// shows an example.
    ///
    /// # Errors
    ///
    /// - [`RecvTimeoutError::Timeout`] if no record came in time.
    /// - [`RecvTimeoutError::Closed`] if no record will ever come.
    pub fn recv_batch_timeout(
        &self,
        max: usize,
        timeout: Duration,
    ) -> Result<Batch<E>, RecvTimeoutError> {
        match self.recv_batch_until(max, now().checked_add(timeout)) {
            Some(taken) => taken.map_err(|Closed| RecvTimeoutError::Closed),
            None => Err(RecvTimeoutError::Timeout),
        }
    }

    fn recv_batch_until(
        &self,
        max: usize,
        deadline: Option<Instant>,
    ) -> Option<Result<Batch<E>, Closed>> {
        spin_until(deadline, || self.recv_at_once(max.max(1)))
            .or_else(|| block_on_until(self.wait_and_take(max), deadline))
    }

    /// Takes queued records, or returns `Closed` if none will ever come, or `None` if none is
    /// queued.
    fn recv_at_once(&self, max: usize) -> Option<Result<Batch<E>, Closed>> {
        match self.try_recv_batch(max) {
            Ok(batch) => Some(Ok(batch)),
            Err(TryRecvError::Closed) => Some(Err(Closed)),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Waits for a record, and then up to `linger` for the batch to fill to `max` records.
    ///
    /// A worker gets full batches from a fast source, and waits no longer than `linger` for a slow
    /// one.
    ///
    /// The call takes the first records at once. It takes the rest when they fill the batch or when
    /// the time is up; until then they stay queued, and other workers may take them. A push wakes a
    /// lingering worker only when enough records are queued to fill its batch or that of another
    /// lingering worker. A stage or buffer that is closed ends the linger.
    ///
    /// A `max` of 0 counts as 1, and a `max` above the number of records that the stage can hold
    /// counts as that number. Choose a `max` that the caps allow: records in the batches of other
    /// workers occupy the caps too, and a batch that cannot fill is handed out only when the time
    /// is up.
    ///
    /// A lingering call holds the credits and places of the records that it has taken, and
    /// [`drain`](crate::BufferManager::drain) waits for it. A future that is neither polled nor
    /// dropped keeps holding them, and one that is passed to [`mem::forget`](std::mem::forget)
    /// holds them forever.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if no record will ever come.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. Records that it has taken go back to the front of the
    /// stage, and no retry is counted. If it was notified, dropping it passes the notification to
    /// another worker.
    ///
    /// A new call starts a new linger. In a `select!` loop, create the future once and poll it by
    /// `&mut`: a future that is created in each iteration starts over each time.
    ///
    /// # Time
    ///
    /// A helper thread of this crate runs the timer, on every executor.
    /// [`recv_batch_linger_with`](Self::recv_batch_linger_with) takes the timer of a runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = || BufferedRecord::new("line", "a", "p", "filter");
    /// source.try_send(&stage, line())?;
    /// let pusher = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || source.try_send(&stage, line())
    /// });
    ///
    /// let batch = stage.recv_batch_linger(2, Duration::from_secs(60)).await?;
    /// assert_eq!(batch.len(), 2);
    /// batch.ack();
    /// # pusher.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn recv_batch_linger(
        &self,
        max: usize,
        linger: Duration,
    ) -> Result<Batch<E>, Closed> {
        loop {
            let linger = async {
                let mut timer = sleep_until(now().checked_add(linger));
                // If no timer can be started, the call does not linger.
                poll_fn(|context| timer.poll(context).map(drop)).await;
            };
            if let Some(batch) = self.gather(max, pin!(linger)).await? {
                return Ok(batch);
            }
        }
    }

    /// Waits for a record, and then until `linger` resolves for the batch to fill to `max` records.
    ///
    /// This is [`recv_batch_linger`](Self::recv_batch_linger) with a timer of the caller, or with
    /// any other future that ends the linger, such as a flush request. No helper thread is
    /// involved, so a runtime's paused clock also pauses the linger.
    ///
    /// `linger` is polled only after the first records were taken. A timer that starts when it is
    /// created, such as `tokio::time::sleep`, also counts the wait for the first record. Create it
    /// inside an `async` block, so that it starts at the first poll.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if no record will ever come.
    ///
    /// # Panics
    ///
    /// Panics if `linger` does. The records that were taken go back to the front of the stage.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`recv_batch_linger`](Self::recv_batch_linger).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// # runtime.block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    ///
    /// let linger = async { tokio::time::sleep(Duration::from_millis(1)).await };
    /// let batch = stage.recv_batch_linger_with(100, linger).await?;
    /// assert_eq!(batch.len(), 1);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn recv_batch_linger_with(
        &self,
        max: usize,
        linger: impl Future<Output = ()>,
    ) -> Result<Batch<E>, Closed> {
        let mut linger = pin!(linger);
        if let Some(batch) = self.gather(max, linger.as_mut()).await? {
            return Ok(batch);
        }
        // The linger may be over, so it must not be polled again.
        self.recv_batch(max).await
    }

    /// Gathers a batch until it is full or `linger` resolves. Returns `None` if all of its records
    /// have expired meanwhile.
    async fn gather(
        &self,
        max: usize,
        mut linger: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Batch<E>>, Closed> {
        let mut gathering = Gathering::new(self.recv_batch(max).await?, max);
        if !gathering.is_filled() {
            let mut filling = pin!(gathering.fill());
            poll_fn(|context| match filling.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => linger.as_mut().poll(context),
            })
            .await;
        }
        Ok(gathering.finish().without_expired())
    }

    /// Blocks the thread until the batch is full or the linger ends: the blocking form of
    /// [`recv_batch_linger`](Self::recv_batch_linger).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if no record will ever come.
    pub fn recv_batch_linger_blocking(
        &self,
        max: usize,
        linger: Duration,
    ) -> Result<Batch<E>, Closed> {
        loop {
            let mut gathering = Gathering::new(self.recv_batch_blocking(max)?, max);
            if !gathering.is_filled() {
                let deadline = now().checked_add(linger);
                // Filled or timed out: either way the batch is what has been taken.
                let _ = spin_until(deadline, || gathering.is_filled().then_some(()))
                    .or_else(|| block_on_until(gathering.fill(), deadline));
            }
            // The records may have expired meanwhile.
            if let Some(batch) = gathering.finish().without_expired() {
                return Ok(batch);
            }
        }
    }

    /// Takes queued records, or registers the caller as a waiting worker if there are none.
    pub(crate) fn try_or_wait(
        &self,
        max: usize,
    ) -> Result<Result<Batch<E>, Closed>, Receiver<WaitingAt<E>>> {
        if let Some(taken) = self.recv_at_once(max) {
            return Ok(taken);
        }
        let idle = self.core().wait_for_any();
        // Records pushed before the registration produced no notification: check once more.
        self.recv_at_once(max).ok_or(idle)
    }
}

/// Yields to other tasks once: is pending, and wakes its own task.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A batch that is being filled. If it is dropped, its records go back unchanged: no worker has
/// seen them.
struct Gathering<E: Envelope> {
    stage: Arc<StageCore<E>>,
    contents: BatchContents<E>,
    max: u32,
}

impl<E: Envelope> Gathering<E> {
    fn new(batch: Batch<E>, max: usize) -> Self {
        let (stage, contents) = batch.into_contents();
        // A batch larger than the stage would never fill.
        let max = u32::try_from(max).unwrap_or(u32::MAX).min(stage.most_records());
        Self { stage, contents, max }
    }

    /// Returns how many records the batch lacks: none if no further record may join it.
    fn wanted(&self) -> u32 {
        if self.contents.is_complete() {
            return 0;
        }
        self.max.saturating_sub(to_u32(self.contents.len()))
    }

    /// Fills the batch if enough records are queued, and returns `true` if there is nothing left to
    /// wait for.
    fn is_filled(&mut self) -> bool {
        if self.wanted() == 0 {
            return true;
        }
        let ends = self.stage.places().is_closed() || self.stage.admission().is_closed();
        if !ends && self.stage.len() >= self.wanted() {
            self.add();
        }
        ends || self.wanted() == 0
    }

    /// Resolves when the batch is full or the stage or buffer is closed.
    async fn fill(&mut self) {
        while !self.is_filled() {
            let wanted = self.wanted();
            let mut idle = self.stage.wait_for_batch(wanted);
            if self.is_filled() {
                return;
            }
            // If other workers took records in the meantime, `wanted` is outdated, and the
            // notification might never come: register again.
            if self.wanted() == wanted {
                (&mut idle.listener).await;
            }
        }
    }

    fn add(&mut self) {
        if self.wanted() > 0 {
            self.stage.fill(&mut self.contents, self.max as usize);
        }
    }

    fn finish(mut self) -> Batch<E> {
        self.add();
        Batch::new(Arc::clone(&self.stage), std::mem::take(&mut self.contents))
    }
}

impl<E: Envelope> Drop for Gathering<E> {
    fn drop(&mut self) {
        self.stage.push_returned(std::mem::take(&mut self.contents), false);
    }
}
