//! Moving a batch on as the next stage has room: the acquire forms of `try_forward`.

use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::stage::Stage;
use crate::admission::{Acquire, Request, SharedStage};
use crate::record::Envelope;
use crate::store::{StageCore, to_u32};
use crate::sync::{Instant, block_on_until, now};

impl<E: Envelope> Batch<E> {
    /// Moves every record to the back of the next stage, together with the credits that it holds:
    /// only the places in the two stages change hands.
    ///
    /// A buffer that was closed still forwards, so that a pipeline can drain.
    ///
    /// # Errors
    ///
    /// The batch itself, whole, if the next stage has not room for all of it, was removed, or
    /// belongs to another buffer. A batch larger than the next stage's capacity never fits: cut it
    /// with [`split_off`](Self::split_off).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let next = manager.stage("enrich")?;
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// stage.try_recv_batch(10)?.try_forward(&next).expect("the next stage is empty");
    /// assert_eq!((stage.in_flight(), next.len()), (0, 1));
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

    /// Moves every record to the back of the next stage, together with the credits that it holds, as
    /// soon as there are places for all of them.
    ///
    /// It needs no credits: so a pipeline whose first stage holds every global credit still drains.
    /// A buffer that was closed still forwards.
    ///
    /// # Errors
    ///
    /// The batch itself, whole, if the next stage can never take it: it was closed or removed, belongs
    /// to another buffer, or is smaller than the batch (cut it with
    /// [`split_off`](Self::split_off)). So too if it is the batch's own stage, and has not room for the
    /// batch once more now.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped before it resolves, the batch is returned to its stage, as any batch that is
    /// dropped.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings { max_per_stage: 1, ..Default::default() });
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
    /// parse.recv_batch(1).await?.forward(&load).await.expect("load has room soon");
    /// worker.join().unwrap();
    /// assert_eq!((parse.in_flight(), load.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn forward(self, next: &Stage<E>) -> Result<(), Self> {
        match self.forward_or_wait(next.core()) {
            Ok(done) => done,
            Err((batch, acquire)) => match acquire.await {
                Ok(first) => {
                    batch.move_to(next.core(), first);
                    Ok(())
                }
                Err(_) => Err(batch),
            },
        }
    }

    /// [`forward`](Self::forward) for threads: it parks this one until there is room.
    ///
    /// # Errors
    ///
    /// As for [`forward`](Self::forward).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let next = manager.stage("enrich")?;
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// stage.recv_batch_blocking(10)?.forward_blocking(&next).expect("there is room");
    /// assert_eq!((stage.in_flight(), next.len()), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forward_blocking(self, next: &Stage<E>) -> Result<(), Self> {
        self.forward_until(next, None)
    }

    /// The same for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`forward`](Self::forward); and the batch when the time is up.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use std::time::Duration;
    ///
    /// let manager = BufferManager::new(BufferSettings { max_per_stage: 1, ..Default::default() });
    /// let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
    /// let source = manager.source("a")?;
    /// let line = || BufferedRecord::new("line", "a", "p", "parse");
    /// source.try_send(&load, line())?;
    /// source.try_send(&parse, line())?;
    /// let batch = parse.try_recv_batch(1)?.forward_timeout(&load, Duration::from_millis(1));
    /// assert_eq!(batch.unwrap_err().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forward_timeout(self, next: &Stage<E>, timeout: Duration) -> Result<(), Self> {
        self.forward_until(next, now().checked_add(timeout))
    }

    fn forward_until(self, next: &Stage<E>, deadline: Option<Instant>) -> Result<(), Self> {
        match self.forward_or_wait(next.core()) {
            Ok(done) => done,
            Err((batch, acquire)) => match block_on_until(acquire, deadline) {
                Some(Ok(first)) => {
                    batch.move_to(next.core(), first);
                    Ok(())
                }
                Some(Err(_)) | None => Err(batch),
            },
        }
    }

    /// Forwards the batch, or gives it up for good, or lets it wait for places.
    fn forward_or_wait(
        self,
        next: &Arc<StageCore<E>>,
    ) -> Result<Result<(), Self>, (Self, Acquire)> {
        // In its own stage, what it waits for might be its own places.
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
        let request = Request { account: None, stage, records: to_u32(batch.len()) };
        let acquire = Acquire::new(next.admission(), request);
        Err((batch, acquire))
    }
}
