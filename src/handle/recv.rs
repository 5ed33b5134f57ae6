//! Taking batches as they come: the waiting calls of a stage.

use std::future::{Future, poll_fn};
use std::pin::pin;
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
    /// Takes up to `max` records, as soon as one is there to be taken. Returned records come first.
    ///
    /// It waits for the first record only: [`recv_batch_linger`](Self::recv_batch_linger) waits for
    /// more. A `max` of 0 counts as 1. One push or return wakes one worker, and a worker that leaves
    /// some of its records wakes the next.
    ///
    /// # Errors
    ///
    /// [`Closed`] if no record will ever come, as [`try_recv_batch`](Self::try_recv_batch) has it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken before it resolves. If it was woken and is dropped, it wakes another.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let pusher = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))
    /// });
    /// let batch = stage.recv_batch(10).await?;
    /// assert_eq!(batch.len(), 1);
    /// batch.ack();
    /// # pusher.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn recv_batch(&self, max: usize) -> Result<Batch<E>, Closed> {
        loop {
            let mut idle = match self.try_or_wait(max.max(1)) {
                Ok(taken) => return taken,
                Err(idle) => idle,
            };
            (&mut idle.listener).await;
        }
    }

    /// [`recv_batch`](Self::recv_batch) for threads: it parks this one until a record comes.
    ///
    /// # Errors
    ///
    /// [`Closed`] if none ever will.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// let stage = manager.stage("filter")?;
    /// let worker = std::thread::spawn(move || stage.recv_batch_blocking(10).is_err());
    /// manager.close();
    /// assert!(worker.join().unwrap());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_batch_blocking(&self, max: usize) -> Result<Batch<E>, Closed> {
        self.recv_batch_until(max, None).unwrap_or(Err(Closed))
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] if no record came until then, and
    /// [`RecvTimeoutError::Closed`] if none ever will.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, RecvTimeoutError};
    /// use std::time::Duration;
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// let stage = manager.stage("filter")?;
    /// let error = stage.recv_batch_timeout(10, Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(error, RecvTimeoutError::Timeout);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
            .or_else(|| block_on_until(self.recv_batch(max), deadline))
    }

    /// What there is to be taken, or that nothing ever will be; or `None`, where it may come.
    fn recv_at_once(&self, max: usize) -> Option<Result<Batch<E>, Closed>> {
        match self.try_recv_batch(max) {
            Ok(batch) => Some(Ok(batch)),
            Err(TryRecvError::Closed) => Some(Err(Closed)),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Takes `max` records, or those that are there `linger` after the first was: a worker gets full
    /// batches from a fast source, and waits no longer than that for a slow one.
    ///
    /// It takes what is there first, and the rest when it can fill the batch or the time is up: what comes
    /// in between stays in the stage, where other workers may take it. No push wakes it before there are
    /// records enough for it, or for another worker that lingers there. A stage that is closed does not make
    /// it linger. A `max` of 0 counts as 1, and one above what the stage can hold as that.
    ///
    /// Ask for no more than can come: a batch that the caps keep from being filled, those of its sources or
    /// that of the stage with what other workers have in hand, is handed out when the time is up.
    ///
    /// # Errors
    ///
    /// [`Closed`] if no record will ever come.
    ///
    /// # Cancel safety
    ///
    /// Records that it has taken go back to the front of the stage, with no retry counted. If it was
    /// woken and is dropped, it wakes another.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use std::time::Duration;
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
        let mut gathering = Gathering::new(self.recv_batch(max).await?, max);
        if !gathering.is_filled() {
            let mut timer = sleep_until(now().checked_add(linger));
            let mut filling = pin!(gathering.fill());
            poll_fn(|context| match filling.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(()),
                // Where no timer can be had, it does not linger.
                Poll::Pending => timer.poll(context).map(drop),
            })
            .await;
        }
        Ok(gathering.finish())
    }

    /// [`recv_batch_linger`](Self::recv_batch_linger) for threads: it parks this one.
    ///
    /// # Errors
    ///
    /// [`Closed`] if no record will ever come.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use std::time::Duration;
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// let batch = stage.recv_batch_linger_blocking(100, Duration::from_millis(1))?;
    /// assert_eq!(batch.len(), 1);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_batch_linger_blocking(
        &self,
        max: usize,
        linger: Duration,
    ) -> Result<Batch<E>, Closed> {
        let mut gathering = Gathering::new(self.recv_batch_blocking(max)?, max);
        if !gathering.is_filled() {
            let deadline = now().checked_add(linger);
            // Whether it was filled or the time is up: what is there is the batch.
            let _ = spin_until(deadline, || gathering.is_filled().then_some(()))
                .or_else(|| block_on_until(gathering.fill(), deadline));
        }
        Ok(gathering.finish())
    }

    /// What there is to be taken; or, where that is nothing, a worker that waits and will be woken.
    pub(crate) fn try_or_wait(
        &self,
        max: usize,
    ) -> Result<Result<Batch<E>, Closed>, Receiver<WaitingAt<E>>> {
        if let Some(taken) = self.recv_at_once(max) {
            return Ok(taken);
        }
        let idle = self.core().wait_for_any();
        // What came before it was counted as idle, nobody told it about.
        self.recv_at_once(max).ok_or(idle)
    }
}

/// A batch that is being filled. Dropped, it goes back as it came: its records were in nobody's hands.
struct Gathering<E: Envelope> {
    stage: Arc<StageCore<E>>,
    contents: BatchContents<E>,
    max: u32,
}

impl<E: Envelope> Gathering<E> {
    fn new(batch: Batch<E>, max: usize) -> Self {
        let (stage, contents) = batch.into_contents();
        // What it cannot hold at once never fills a batch.
        let max = max.min(stage.slots()) as u32;
        Self { stage, contents, max }
    }

    /// How many records it waits for.
    fn wanted(&self) -> u32 {
        self.max.saturating_sub(to_u32(self.contents.len()))
    }

    /// Adds the records that make it full, once so many are there. Tells whether there is nothing to
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

    /// Resolves when the batch is full or nothing more will come.
    async fn fill(&mut self) {
        while !self.is_filled() {
            let wanted = self.wanted();
            let mut idle = self.stage.wait_for_batch(wanted);
            if self.is_filled() {
                return;
            }
            // If others took some of them before it could, it has asked to be woken too late.
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
        self.stage.push_returned(std::mem::take(&mut self.contents));
    }
}
