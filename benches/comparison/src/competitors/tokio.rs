//! A bounded channel of tokio with a semaphore for all records and one for each source, as an async
//! program would have it. The length of the channel is the cap of the stage.
//!
//! A permit is forgotten when its record is sent and added again when the record is taken, so that
//! no permit and no shared pointer travels with it. A batch costs one call of each semaphore, one
//! of
//! `try_reserve_many` and one of `recv_many`. As with the plain mutex, taking a record settles it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{BlockingRows, Caps, Description, Rows, runs, see_all, take_each};
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::work::{
    Competitor, Consume, GLOBAL_CAP, Produce, SOURCE_CAP, STAGE_CAP, push_each,
};
use crate::common::{Medium, Sourced};

pub struct Tokio<R> {
    credits: Arc<Credits>,
    stages: Vec<(Sender<R>, Taker<R>)>,
}

enum Taker<R> {
    /// For the only worker of the stage.
    One(Option<Receiver<R>>),
    /// A channel has one receiver, which several workers share.
    Many(Arc<Mutex<Receiver<R>>>),
}

struct Credits {
    global: Semaphore,
    sources: Vec<Semaphore>,
}

impl Credits {
    fn take(&self, source: usize, records: u32) -> Option<[SemaphorePermit<'_>; 2]> {
        let source = self.sources[source].try_acquire_many(records).ok()?;
        let global = self.global.try_acquire_many(records).ok()?;
        Some([source, global])
    }

    fn give_back(&self, source: usize, records: usize) {
        self.sources[source].add_permits(records);
        self.global.add_permits(records);
    }

    /// Gives back the credits of a batch: one call for each run of a source, and one for all.
    fn give_back_all<R: Sourced>(&self, records: &[R]) {
        for (source, records) in runs(records) {
            self.sources[source].add_permits(records);
        }
        self.global.add_permits(records.len());
    }
}

impl<R: Sourced> Competitor<R> for Tokio<R> {
    type Producer = Producer<R>;
    type Consumer = Consumer<R>;

    fn new(sources: usize, stages: usize, workers: usize) -> Self {
        let credits = Credits {
            global: Semaphore::new(GLOBAL_CAP),
            sources: (0..sources).map(|_| Semaphore::new(SOURCE_CAP)).collect(),
        };
        let stage = |_| {
            let (sender, receiver) = mpsc::channel(STAGE_CAP);
            let taker = if workers == 1 {
                Taker::One(Some(receiver))
            } else {
                Taker::Many(Arc::new(Mutex::new(receiver)))
            };
            (sender, taker)
        };
        Self { credits: Arc::new(credits), stages: (0..stages).map(stage).collect() }
    }

    fn producer(&mut self, source: usize, stage: usize) -> Producer<R> {
        Producer {
            credits: Arc::clone(&self.credits),
            source,
            sender: self.stages[stage].0.clone(),
        }
    }

    fn consumer(&mut self, stage: usize) -> Consumer<R> {
        let taker = match &mut self.stages[stage].1 {
            Taker::One(receiver) => {
                Taker::One(Some(receiver.take().expect("one worker for each stage")))
            }
            Taker::Many(receiver) => Taker::Many(Arc::clone(receiver)),
        };
        Consumer { credits: Arc::clone(&self.credits), taker, records: Vec::new() }
    }
}

pub struct Producer<R> {
    credits: Arc<Credits>,
    source: usize,
    sender: Sender<R>,
}

impl<R: Sourced> Produce<R> for Producer<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        let Some(permits) = self.credits.take(self.source, 1) else { return Err(record) };
        self.sender.try_send(record).map_err(mpsc::error::TrySendError::into_inner)?;
        permits.into_iter().for_each(SemaphorePermit::forget);
        Ok(())
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        if let Some(permits) = self.credits.take(self.source, records.len() as u32)
            && let Ok(places) = self.sender.try_reserve_many(records.len())
        {
            places.zip(records.drain(..)).for_each(|(place, record)| place.send(record));
            permits.into_iter().for_each(SemaphorePermit::forget);
        } else {
            // Not all of them fit: pushes as many as do.
            push_each(records, |record| self.push(record));
        }
    }
}

pub struct Consumer<R> {
    credits: Arc<Credits>,
    taker: Taker<R>,
    records: Vec<R>,
}

impl<R: Sourced> Consume<R> for Consumer<R> {
    fn take(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
        if max == 1 {
            let Self { credits, taker, .. } = self;
            let take = || {
                let record = taker.with(|receiver| receiver.try_recv().ok())?;
                credits.give_back(record.source() as usize, 1);
                Some(record)
            };
            return take_each(1, take, see);
        }
        let mut records = std::mem::take(&mut self.records);
        self.take_into(max, &mut records);
        let taken = see_all(&mut records, &mut see);
        self.records = records;
        taken
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        self.taker.with(|receiver| {
            // Polling an empty channel would register a waker, which the next sender would wake. A
            // channel that is not empty may still be pending, while a sender fills its place.
            if !receiver.is_empty() {
                let look = pin!(receiver.recv_many(records, max));
                let _ = look.poll(&mut Context::from_waker(Waker::noop()));
            }
        });
        self.credits.give_back_all(records);
    }
}

impl<R> Taker<R> {
    fn with<T>(&mut self, take: impl FnOnce(&mut Receiver<R>) -> T) -> T {
        match self {
            Self::One(receiver) => take(receiver.as_mut().expect("the worker has it")),
            Self::Many(receiver) => take(&mut receiver.lock()),
        }
    }
}

impl<R: Sourced> BlockingCompetitor<R> for Tokio<R> {}

impl<R: Sourced> ProduceBlocking<R> for Producer<R> {
    fn push_blocking(&mut self, record: R) {
        // The call that waits allocates, even if there is room.
        let Err(record) = self.push(record) else { return };
        pollster::block_on(async {
            let source = self.credits.sources[self.source].acquire().await.expect("it stays open");
            let global = self.credits.global.acquire().await.expect("it stays open");
            let place = self.sender.reserve().await.expect("a live receiver");
            place.send(record);
            [source, global].into_iter().for_each(SemaphorePermit::forget);
        });
    }
}

impl<R: Sourced> ConsumeBlocking<R> for Consumer<R> {
    fn take_blocking(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        let Self { credits, taker, records } = self;
        taker.with(|receiver| receiver.blocking_recv_many(records, max));
        credits.give_back_all(records);
        see_all(records, see)
    }
}

pub const TOKIO: Description = Description {
    name: "tokio",
    package: "tokio",
    caps: Caps::UntilTaken,
    how: "a bounded `mpsc` and two `Semaphore`s; `try_reserve_many` and `recv_many` for batches; \
          to wait, `reserve` under `pollster::block_on` where it is full, and `blocking_recv_many`",
};

pub fn rows<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Tokio<R>>(TOKIO, "");
}

pub fn blocking(rows: &mut impl BlockingRows) {
    rows.add::<Tokio<Medium>>(TOKIO, "");
}
