//! The library as a contender.

use conveyor_buffer::{BufferManager, BufferSettings, Envelope, Source, Stage};

use super::Sourced;
use super::work::{Contender, GLOBAL_CAP, Producer, SOURCE_CAP, STAGE_CAP, Worker};

pub struct Conveyor<R: Envelope> {
    sources: Vec<Source<R>>,
    stages: Vec<Stage<R>>,
}

impl<R: Sourced> Contender<R> for Conveyor<R> {
    type Producer = Way<R>;
    type Worker = Stage<R>;

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
        Self {
            sources: (0..sources).map(source).collect(),
            stages: (0..stages).map(stage).collect(),
        }
    }

    fn producer(&mut self, source: usize, stage: usize) -> Way<R> {
        Way { source: self.sources[source].clone(), stage: self.stages[stage].clone() }
    }

    fn worker(&mut self, stage: usize) -> Stage<R> {
        self.stages[stage].clone()
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

impl<R: Envelope> Worker<R> for Stage<R> {
    fn take(&mut self, max: usize, see: impl FnMut(&mut R)) -> usize {
        let Ok(mut batch) = self.try_recv_batch(max) else { return 0 };
        let taken = batch.len();
        batch.iter_mut().for_each(see);
        batch.ack();
        taken
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        if let Ok(batch) = self.try_recv_batch(max) {
            *records = batch.into_records();
        }
    }
}
