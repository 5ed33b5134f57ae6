//! Any sequence of calls on a buffer with small caps: every record is counted in and out, and no cap
//! is passed at any step.

#![no_main]
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;

use arbitrary::Arbitrary;
use conveyor_buffer::{
    Batch, BufferManager, BufferSettings, Envelope, Outcome, Source, Stage, TryRecvError,
};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Arbitrary)]
struct Input {
    max_total: u16,
    max_per_stage: u8,
    max_per_source: u8,
    max_retries: Option<u8>,
    dead_letter_capacity: u8,
    operations: Vec<Operation>,
}

#[derive(Debug, Arbitrary)]
enum Operation {
    Push { source: u8, stage: u8 },
    PushBatch { source: u8, stage: u8, records: u8 },
    Take { stage: u8, max: u8 },
    Ack,
    Return,
    Settle { outcomes: u64 },
    IntoRecords,
    Forward { stage: u8 },
    Partition { chosen: u64 },
    SplitOff { at: u8 },
    ReceiveDeadLetter,
    RemoveSource { source: u8 },
    RemoveStage { stage: u8 },
}

thread_local! {
    /// How many records exist.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

#[derive(Debug)]
struct Record {
    source: usize,
    retries: u32,
}

impl Record {
    fn new(source: usize) -> Self {
        LIVE.set(LIVE.get() + 1);
        Self { source, retries: 0 }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        LIVE.set(LIVE.get() - 1);
    }
}

impl Envelope for Record {
    fn source_id(&self) -> &str {
        NAMES[self.source]
    }
    fn retry_count(&self) -> u32 {
        self.retries
    }
    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

/// The buffer under test, and the batches in its workers' hands.
struct Pipeline {
    manager: BufferManager<Record>,
    batches: VecDeque<Batch<Record>>,
}

impl Pipeline {
    fn stage(&self, stage: u8) -> Stage<Record> {
        self.manager.stage(NAMES[stage as usize % NAMES.len()]).expect("few stages, all named")
    }

    fn source(&self, source: usize) -> Source<Record> {
        self.manager.source(NAMES[source]).expect("few sources, all named")
    }

    fn push(&mut self, source: u8, stage: u8, records: u8) {
        let index = source as usize % NAMES.len();
        let (source, stage) = (self.source(index), self.stage(stage));
        let room =
            source.available_credits().min(stage.capacity() - stage.len() - stage.in_flight());
        let wanted = usize::from(records);
        let batch = (0..wanted).map(|_| Record::new(index)).collect();
        let accepted = match source.try_send_batch(&stage, batch) {
            Ok(()) => wanted,
            Err(rejected) => {
                assert_eq!(rejected.accepted + rejected.records.len(), wanted);
                assert!(rejected.is_full(), "{rejected}");
                rejected.accepted
            }
        };
        assert_eq!(accepted, room.min(wanted), "as many are accepted as there is room");
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Push { source, stage } => self.push(source, stage, 1),
            Operation::PushBatch { source, stage, records } => {
                self.push(source, stage, records % 32);
            }
            Operation::Take { stage, max } => {
                let stage = self.stage(stage);
                let expected = stage.len().min(usize::from(max));
                match stage.try_recv_batch(usize::from(max)) {
                    Ok(batch) => {
                        assert_eq!(batch.len(), expected);
                        self.batches.push_back(batch);
                    }
                    Err(error) => assert_eq!((error, expected), (TryRecvError::Empty, 0)),
                }
            }
            Operation::ReceiveDeadLetter => drop(self.manager.dead_letters().try_recv()),
            Operation::RemoveSource { source } => {
                let _ = self.manager.remove_source(NAMES[source as usize % NAMES.len()]);
            }
            Operation::RemoveStage { stage } => {
                let _ = self.manager.remove_stage(NAMES[stage as usize % NAMES.len()]);
            }
            operation => {
                if let Some(batch) = self.batches.pop_front() {
                    self.settle(batch, operation);
                }
            }
        }
    }

    fn settle(&mut self, mut batch: Batch<Record>, operation: Operation) {
        match operation {
            Operation::Return => batch.return_to_buffer(),
            Operation::Settle { outcomes } => {
                let mut bits = outcomes;
                batch.settle(|_| {
                    bits = bits.rotate_right(2);
                    match bits & 3 {
                        0 => Outcome::Return,
                        1 => Outcome::DeadLetter,
                        _ => Outcome::Ack,
                    }
                });
            }
            Operation::IntoRecords => drop(batch.into_records()),
            Operation::Forward { stage } => {
                if let Err(batch) = batch.try_forward(&self.stage(stage)) {
                    self.batches.push_back(batch);
                }
            }
            Operation::Partition { chosen } => {
                let mut bits = chosen;
                let (yes, no) = batch.partition(|_| {
                    bits = bits.rotate_right(1);
                    bits & 1 == 1
                });
                self.batches.extend([yes, no].into_iter().filter(|part| !part.is_empty()));
            }
            Operation::SplitOff { at } => {
                let rest = batch.split_off(usize::from(at));
                self.batches.extend([batch, rest].into_iter().filter(|part| !part.is_empty()));
            }
            _ => batch.ack(),
        }
    }

    fn held(&self) -> usize {
        pollster::block_on(self.manager.get_total_buffered())
    }

    fn check(&self, cap: usize) {
        let stages: Vec<_> = (0..3).map(|stage| self.stage(stage)).collect();
        let in_stages: usize = stages.iter().map(|stage| stage.len() + stage.in_flight()).sum();
        let in_batches: usize = self.batches.iter().map(Batch::len).sum();
        let in_flight: usize = stages.iter().map(Stage::in_flight).sum();
        let letters = self.manager.dead_letters();
        assert_eq!(LIVE.get(), self.held() + letters.len(), "a record was lost or kept");
        assert_eq!(self.held(), in_stages, "credits and places disagree");
        assert_eq!(in_flight, in_batches + letters.parked(), "batches and places disagree");
        assert!(self.held() <= cap);
        assert!(letters.len() <= letters.capacity());
        for stage in stages {
            assert!(stage.len() + stage.in_flight() <= stage.capacity());
        }
    }
}

fuzz_target!(|input: Input| {
    let settings = BufferSettings {
        max_total_records: usize::from(input.max_total).max(1),
        max_per_stage: usize::from(input.max_per_stage).max(1),
        max_per_source: usize::from(input.max_per_source).max(1),
        ..BufferSettings::default()
    };
    let mut builder = BufferManager::builder(settings)
        .dead_letter_capacity(usize::from(input.dead_letter_capacity).max(1));
    if let Some(retries) = input.max_retries {
        builder = builder.max_retries(u32::from(retries));
    }
    let manager = builder.build().expect("valid settings");
    let mut pipeline = Pipeline { manager, batches: VecDeque::new() };
    for operation in input.operations {
        pipeline.apply(operation);
        pipeline.check(settings.max_total_records);
    }
    drop(pipeline);
    assert_eq!(LIVE.get(), 0, "a record outlived its buffer");
});
