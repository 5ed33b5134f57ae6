//! The library as a contender.

use std::time::Duration;

use conveyor_buffer::{Batch, BufferManager, BufferSettings, Envelope, Source, Stage};

use super::Sourced;
use super::waits::{WaitingProducer, WaitingWorker, Waits};
use super::work::{Contender, GLOBAL_CAP, Producer, SOURCE_CAP, STAGE_CAP, Worker};

/// How long a worker lingers for a full batch, where it does: long beside the time in which a fast
/// source fills one, short beside the turns of the system.
pub const LINGER: Duration = Duration::from_micros(100);

/// With workers that take what there is, or, in the calls that wait, linger for full batches.
pub struct Conveyor<R: Envelope, const LINGERS: bool = false> {
    manager: BufferManager<R>,
    sources: Vec<Source<R>>,
    stages: Vec<Stage<R>>,
}

impl<R: Sourced, const LINGERS: bool> Contender<R> for Conveyor<R, LINGERS> {
    type Producer = Way<R>;
    type Worker = Out<R, LINGERS>;

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

    fn producer(&mut self, source: usize, stage: usize) -> Way<R> {
        Way { source: self.sources[source].clone(), stage: self.stages[stage].clone() }
    }

    fn worker(&mut self, stage: usize) -> Out<R, LINGERS> {
        Out(self.stages[stage].clone())
    }
}

pub struct Way<R: Envelope> {
    source: Source<R>,
    stage: Stage<R>,
}

impl<R: Envelope> Producer<R> for Way<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        self.source.try_send(&self.stage, record).map_err(|rejected| rejected.record)
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        if let Err(rejected) = self.source.try_send_batch(&self.stage, std::mem::take(records)) {
            *records = rejected.records;
        }
    }
}

pub struct Out<R: Envelope, const LINGERS: bool>(Stage<R>);

impl<R: Envelope, const LINGERS: bool> Worker<R> for Out<R, LINGERS> {
    fn take(&mut self, max: usize, see: impl FnMut(&mut R)) -> usize {
        self.0.try_recv_batch(max).map_or(0, |batch| settle(batch, see))
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        if let Ok(batch) = self.0.try_recv_batch(max) {
            *records = batch.into_records();
        }
    }
}

fn settle<R: Envelope>(mut batch: Batch<R>, see: impl FnMut(&mut R)) -> usize {
    let taken = batch.len();
    batch.iter_mut().for_each(see);
    batch.ack();
    taken
}

impl<R: Sourced, const LINGERS: bool> Waits<R> for Conveyor<R, LINGERS> {
    fn close(self) {
        self.manager.close();
    }
}

impl<R: Sourced> WaitingProducer<R> for Way<R> {
    fn push_or_wait(&mut self, record: R) {
        self.source.send_blocking(&self.stage, record).expect("an open buffer");
    }
}

impl<R: Sourced, const LINGERS: bool> WaitingWorker<R> for Out<R, LINGERS> {
    fn take_or_wait(&mut self, max: usize, see: impl FnMut(&mut R)) -> usize {
        let batch = if LINGERS {
            self.0.recv_batch_linger_blocking(max, LINGER)
        } else {
            self.0.recv_batch_blocking(max)
        };
        batch.map_or(0, |batch| settle(batch, see))
    }
}
