//! Moving a batch to the next stage, with and without waiting.

use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::stage::Stage;
use crate::admission::{Acquire, Request, SharedStage};
use crate::record::Envelope;
use crate::store::{StageCore, to_u32};
use crate::sync::{Instant, block_on_until, now};

impl<E: Envelope> Batch<E> {
    /// Moves all records to the back of the next stage without waiting.
    ///
    /// The records keep their credits; only the places in the two stages change. A closed buffer
    /// still forwards, so that a pipeline can drain.
    ///
    /// The call does not queue behind requests that wait for places in the next stage, and may take
    /// free places before them. This ends once the first of these requests has been bypassed by
    /// more than 4 releases there: its places are then reserved, and a call that would take from
    /// them fails.
    ///
    /// # Errors
    ///
    /// Returns the whole batch if the next stage does not have room for all of it, was closed or
    /// removed, or belongs to another buffer, or if the places are reserved. A batch larger than
    /// the next stage's capacity never fits: split it with [`split_off`](Self::split_off).
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
    /// parse.try_recv_batch(10)?.try_forward(&load).expect("the next stage is empty");
    /// assert_eq!((parse.in_flight(), load.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_forward(self, next: &Stage<E>) -> Result<(), Self> {
        if self.is_empty() {
            return Ok(());
        }
        let next = next.core();
        if !Arc::ptr_eq(next.admission(), self.stage().admission()) {
            return Err(self);
        }
        match next.admission().try_acquire_places(next.places(), to_u32(self.len())) {
            Ok(first) => {
                self.move_to(next, first);
                Ok(())
            }
            Err(_) => Err(self),
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
    /// Returns the whole batch if the next stage can never take it: it was closed or removed,
    /// belongs to another buffer, or is smaller than the batch (split it with
    /// [`split_off`](Self::split_off)). If the next stage is the batch's own stage, the call does
    /// not wait and returns the batch if there is no room for it now.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the batch is dropped with it and is therefore
    /// returned to its stage. A future that was granted its places holds them until it is polled or
    /// dropped.
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
    /// parse.recv_batch(1).await?.forward(&load).await.expect("load stays open");
    /// worker.join().unwrap();
    /// assert_eq!((parse.in_flight(), load.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn forward(self, next: &Stage<E>) -> Result<(), Self> {
        match self.forward_or_wait(next.core()) {
            Ok(done) => done,
            Err((batch, acquire)) => match acquire.await {
                Ok(acquired) => {
                    batch.move_to(next.core(), acquired.first);
                    Ok(())
                }
                Err(_) => Err(batch),
            },
        }
    }

    /// Blocks the thread until all records are moved: the blocking form of
    /// [`forward`](Self::forward).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the whole batch in the same cases as [`forward`](Self::forward).
    pub fn forward_blocking(self, next: &Stage<E>) -> Result<(), Self> {
        self.forward_until(next, None)
    }

    /// Blocks the thread until all records are moved, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the whole batch in the same cases as [`forward`](Self::forward), and after the
    /// timeout.
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
    /// let batch = batch.forward_timeout(&load, Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(batch.len(), 1);
    /// batch.return_to_buffer();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forward_timeout(self, next: &Stage<E>, timeout: Duration) -> Result<(), Self> {
        self.forward_until(next, now().checked_add(timeout))
    }

    fn forward_until(self, next: &Stage<E>, deadline: Option<Instant>) -> Result<(), Self> {
        match self.forward_or_wait(next.core()) {
            Ok(done) => done,
            Err((batch, mut acquire)) => {
                let acquired = block_on_until(&mut acquire, deadline);
                match acquired.unwrap_or_else(|| acquire.give_up()) {
                    Ok(acquired) => {
                        batch.move_to(next.core(), acquired.first);
                        Ok(())
                    }
                    Err(_) => Err(batch),
                }
            }
        }
    }

    /// Forwards the batch, returns it if it can never be forwarded, or queues a request for places.
    fn forward_or_wait(
        self,
        next: &Arc<StageCore<E>>,
    ) -> Result<Result<(), Self>, (Self, Acquire)> {
        // In its own stage, the places that the batch waits for may be its own.
        let own = Arc::ptr_eq(next, self.stage());
        let mut batch = self;
        if own || batch.is_empty() || !next.admission().has_waiters() {
            match batch.try_forward(&Stage::from_core(Arc::clone(next))) {
                Ok(()) => return Ok(Ok(())),
                Err(whole) => batch = whole,
            }
        }
        let fits = batch.len() <= next.places().capacity() as usize;
        if own
            || !fits
            || next.places().is_closed()
            || !Arc::ptr_eq(next.admission(), batch.stage().admission())
        {
            return Ok(Err(batch));
        }
        let stage = Arc::clone(next) as SharedStage;
        let records = to_u32(batch.len());
        let request = Request { account: None, stage, records, most: records };
        let acquire = Acquire::new(next.admission(), request);
        Err((batch, acquire))
    }
}
