//! The library as a competitor.

use std::time::Duration;

use conveyor_buffer::{Batch, BufferManager, BufferSettings, Envelope, Producer, Source, Stage};

use super::Sourced;
use super::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use super::work::{Competitor, Consume, GLOBAL_CAP, Produce, SOURCE_CAP, STAGE_CAP};

/// How long a lingering worker waits for a full batch: longer than a fast source needs to fill one,
/// shorter than a time slice of the system's scheduler.
pub const LINGER: Duration = Duration::from_micros(100);

/// Sources and stages by handle. In the calls that wait, workers take what there is, or linger for
/// a full batch if `LINGERS`.
pub struct Conveyor<R: Envelope, const LINGERS: bool = false> {
    pub manager: BufferManager<R>,
    pub sources: Vec<Source<R>>,
    pub stages: Vec<Stage<R>>,
}

impl<R: Sourced, const LINGERS: bool> Competitor<R> for Conveyor<R, LINGERS> {
    type Producer = SharedHandle<R>;
    type Consumer = Consumer<R, LINGERS>;

    fn new(sources: usize, stages: usize, _workers: usize) -> Self {
        let settings = BufferSettings {
            max_total_records: GLOBAL_CAP,
            max_per_stage: STAGE_CAP,
            max_per_source: SOURCE_CAP,
            ..BufferSettings::default()
        };
        let manager = BufferManager::new(settings);
        let source = |id| manager.source(&format!("source-{id}")).expect("room for a source");
        let stage = |id| manager.stage(&format!("stage-{id}")).expect("room for a stage");
        let sources = (0..sources).map(source).collect();
        let stages = (0..stages).map(stage).collect();
        Self { manager, sources, stages }
    }

    fn producer(&mut self, source: usize, stage: usize) -> SharedHandle<R> {
        SharedHandle { source: self.sources[source].clone(), stage: self.stages[stage].clone() }
    }

    fn consumer(&mut self, stage: usize) -> Consumer<R, LINGERS> {
        Consumer(self.stages[stage].clone())
    }
}

/// A source and the stage it pushes to. Threads may share such a handle.
pub struct SharedHandle<R: Envelope> {
    source: Source<R>,
    stage: Stage<R>,
}

impl<R: Envelope> Produce<R> for SharedHandle<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        self.source.try_send(&self.stage, record).map_err(|rejected| rejected.record)
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        if let Err(rejected) = self.source.try_send_batch(&self.stage, std::mem::take(records)) {
            *records = rejected.records;
        }
    }
}

/// The library by producers: handles that one thread owns, which gather single records into blocks.
pub struct ByProducer<R: Envelope, const LINGERS: bool = false>(Conveyor<R, LINGERS>);

impl<R: Sourced, const LINGERS: bool> Competitor<R> for ByProducer<R, LINGERS> {
    type Producer = Gathering<R>;
    type Consumer = Consumer<R, LINGERS>;

    fn new(sources: usize, stages: usize, workers: usize) -> Self {
        Self(Conveyor::new(sources, stages, workers))
    }

    fn producer(&mut self, source: usize, stage: usize) -> Gathering<R> {
        Gathering(self.0.sources[source].producer(&self.0.stages[stage]))
    }

    fn consumer(&mut self, stage: usize) -> Consumer<R, LINGERS> {
        self.0.consumer(stage)
    }
}

impl<R: Sourced, const LINGERS: bool> BlockingCompetitor<R> for ByProducer<R, LINGERS> {
    fn close(self) {
        self.0.close();
    }
}

/// A producer of the library.
pub struct Gathering<R: Envelope>(Producer<R>);

impl<R: Envelope> Produce<R> for Gathering<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        self.0.try_send(record).map_err(|rejected| rejected.record)
    }

    fn flush(&mut self) {
        self.0.flush();
    }
}

impl<R: Sourced> ProduceBlocking<R> for Gathering<R> {
    fn push_blocking(&mut self, record: R) {
        self.0.send_blocking(record).expect("an open buffer");
    }
}

pub struct Consumer<R: Envelope, const LINGERS: bool>(Stage<R>);

impl<R: Envelope, const LINGERS: bool> Consume<R> for Consumer<R, LINGERS> {
    fn take(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        self.0.try_recv_batch(max).map_or(0, |batch| settle(batch, see))
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        if let Ok(batch) = self.0.try_recv_batch(max) {
            *records = batch.into_records();
        }
    }
}

fn settle<R: Envelope>(batch: Batch<R>, see: impl FnMut(&R)) -> usize {
    let taken = batch.len();
    batch.iter().for_each(see);
    batch.ack();
    taken
}

impl<R: Sourced, const LINGERS: bool> BlockingCompetitor<R> for Conveyor<R, LINGERS> {
    fn close(self) {
        self.manager.close();
    }
}

impl<R: Sourced> ProduceBlocking<R> for SharedHandle<R> {
    fn push_blocking(&mut self, record: R) {
        self.source.send_blocking(&self.stage, record).expect("an open buffer");
    }
}

impl<R: Sourced, const LINGERS: bool> ConsumeBlocking<R> for Consumer<R, LINGERS> {
    fn take_blocking(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        let batch = if LINGERS {
            self.0.recv_batch_linger_blocking(max, LINGER)
        } else {
            self.0.recv_batch_blocking(max)
        };
        batch.map_or(0, |batch| settle(batch, see))
    }
}
