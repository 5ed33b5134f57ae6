//! Any calls of three threads on one buffer with small caps: every record that was accepted comes out
//! exactly once, no cap is passed, and in the end nothing is held.

#![no_main]
#![forbid(unsafe_code)]

use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use conveyor_buffer::{
    Batch, BufferManager, BufferSettings, Envelope, ForwardError, Outcome, RejectReason, Source,
    Stage,
};
use libfuzzer_sys::fuzz_target;
use pollster::block_on;

const STAGES: [&str; 2] = ["parse", "load"];
const SOURCES: [&str; 3] = ["EWR", "JFK", "LGA"];
const THREADS: usize = 3;
/// Each of one thread.
const MOST_OPERATIONS: usize = 64;
/// How long a call waits that waits: long enough to be served by another thread, now and then.
const BRIEF: Duration = Duration::from_micros(100);

#[derive(Debug)]
struct Input {
    caps: Caps,
    calls: [Vec<Operation>; THREADS],
}

/// The calls are dealt one by one, as long as there are bytes.
impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut up_to = |most: usize| Ok(1 + usize::from(u.arbitrary::<u8>()?) % most);
        let caps = Caps {
            total: up_to(48)?,
            per_stage: up_to(32)?,
            per_source: up_to(32)?,
            letters: up_to(4)?,
            retries: up_to(5)?.checked_sub(2).map(|retries| retries as u32),
        };
        let mut calls = <[Vec<_>; THREADS]>::default();
        while !u.is_empty() {
            let thread = usize::from(u.arbitrary::<u8>()?) % THREADS;
            calls[thread].push(u.arbitrary()?);
        }
        Ok(Self { caps, calls })
    }
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Operation {
    Send { source: u8, stage: u8 },
    SendBatch { source: u8, stage: u8, records: u8 },
    Push { source: u8, stage: u8 },
    PushBatch { source: u8, stage: u8, records: u8 },
    Take { stage: u8, max: u8 },
    GetBatch { stage: u8, max: u8 },
    ReturnByName { stage: u8, records: u8 },
    Ack,
    Return,
    IntoRecords,
    Settle { outcomes: u32 },
    Forward { stage: u8 },
    SplitOff { at: u8 },
    Partition { chosen: u32 },
    Receive,
    RemoveStage { stage: u8 },
    RemoveSource { source: u8 },
    WaitAndSend { source: u8, stage: u8, records: u8 },
    WaitAndTake { stage: u8, max: u8 },
    WaitAndForward { stage: u8 },
}

#[derive(Debug)]
struct Record {
    id: u64,
    source: usize,
    retries: u32,
}

impl Envelope for Record {
    fn source_id(&self) -> &str {
        SOURCES[self.source]
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

#[derive(Debug)]
struct Caps {
    total: usize,
    per_stage: usize,
    per_source: usize,
    retries: Option<u32>,
    letters: usize,
}

/// How many records the threads know to be held: raised after they were accepted, and lowered before
/// they are given up, and so never above what is held.
#[derive(Default)]
struct Gauges {
    total: AtomicI64,
    stages: [AtomicI64; STAGES.len()],
    sources: [AtomicI64; SOURCES.len()],
}

struct Shared {
    manager: BufferManager<Record>,
    caps: Caps,
    gauges: Gauges,
}

fn raise(gauge: &AtomicI64, records: usize, cap: usize) {
    let before = gauge.fetch_add(records as i64, SeqCst);
    assert!(before + records as i64 <= cap as i64, "a cap of {cap} was passed");
}

impl Shared {
    fn stage(&self, stage: usize) -> Stage<Record> {
        self.manager.stage(STAGES[stage]).expect("few stages, all named")
    }

    fn source(&self, source: usize) -> Source<Record> {
        self.manager.source(SOURCES[source]).expect("few sources, all named")
    }

    fn enter(&self, stage: usize, source: usize, records: usize) {
        raise(&self.gauges.sources[source], records, self.caps.per_source);
        raise(&self.gauges.total, records, self.caps.total);
        raise(&self.gauges.stages[stage], records, self.caps.per_stage);
    }

    fn leave(&self, stage: usize, record: &Record) {
        self.gauges.stages[stage].fetch_sub(1, SeqCst);
        self.gauges.total.fetch_sub(1, SeqCst);
        self.gauges.sources[record.source].fetch_sub(1, SeqCst);
    }

    /// A record that is to be returned, though it may have no retries left.
    fn try_again(&self, stage: usize, record: &Record) {
        if self.is_exhausted(record) {
            self.leave(stage, record);
        }
    }

    fn is_exhausted(&self, record: &Record) -> bool {
        self.caps.retries.is_some_and(|limit| record.retries >= limit)
    }

    fn look(&self) {
        assert!(block_on(self.manager.get_total_buffered()) <= self.caps.total);
        assert!(self.manager.dead_letters().len() <= self.caps.letters);
        for source in 0..SOURCES.len() {
            let available = block_on(self.manager.available_credits(SOURCES[source]));
            assert!(available <= self.caps.per_source.min(self.caps.total));
        }
        for stage in 0..STAGES.len() {
            let stage = self.stage(stage);
            assert!(stage.len() <= stage.capacity() && stage.utilization() <= 1.0);
            assert!(stage.in_flight() <= stage.capacity());
        }
    }
}

/// One thread, and what it holds.
struct Worker<'a> {
    shared: &'a Shared,
    next_id: u64,
    open: Vec<(usize, Batch<Record>)>,
    handed_out: Vec<Record>,
    /// The ids of the records that it saw accepted, and that it took out for good.
    accepted: Vec<u64>,
    gone: Vec<u64>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, number: usize) -> Self {
        Self {
            shared,
            next_id: (number as u64) << 32,
            open: Vec::new(),
            handed_out: Vec::new(),
            accepted: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn records(&mut self, source: usize, records: usize) -> Vec<Record> {
        let first = self.next_id;
        self.next_id += records as u64;
        (first..self.next_id).map(|id| Record { id, source, retries: 0 }).collect()
    }

    /// Notes what became of records that were pushed: the refused must be the last of them.
    fn pushed(&mut self, stage: usize, source: usize, ids: Vec<u64>, refused: &[Record]) {
        let accepted = ids.len() - refused.len();
        assert!(ids[accepted..].iter().eq(refused.iter().map(|record| &record.id)));
        self.shared.enter(stage, source, accepted);
        self.accepted.extend(&ids[..accepted]);
    }

    fn apply(&mut self, operation: Operation) {
        let shared = self.shared;
        match operation {
            Operation::Send { source, stage } | Operation::Push { source, stage } => {
                let (source, stage) = (index(source, &SOURCES), index(stage, &STAGES));
                let record = self.records(source, 1).remove(0);
                let ids = vec![record.id];
                let sent = if matches!(operation, Operation::Push { .. }) {
                    block_on(shared.manager.buffer_for_stage(STAGES[stage], record))
                } else {
                    shared.source(source).try_send(&shared.stage(stage), record)
                };
                let refused = sent.map_err(|refused| {
                    assert_full_or_removed(&refused.reason);
                    refused.record
                });
                self.pushed(
                    stage,
                    source,
                    ids,
                    refused.as_ref().err().map_or(&[], std::slice::from_ref),
                );
            }
            Operation::SendBatch { source, stage, records }
            | Operation::PushBatch { source, stage, records }
            | Operation::WaitAndSend { source, stage, records } => {
                let (source, stage) = (index(source, &SOURCES), index(stage, &STAGES));
                let records = self.records(source, usize::from(records) % 16);
                let ids: Vec<u64> = records.iter().map(|record| record.id).collect();
                let sent = match operation {
                    Operation::PushBatch { .. } => {
                        block_on(shared.manager.buffer_batch_for_stage(STAGES[stage], records))
                            .map(|accepted| assert_eq!(accepted, ids.len()))
                    }
                    Operation::WaitAndSend { .. } => {
                        let (source, stage) = (shared.source(source), shared.stage(stage));
                        let sent = source.send_batch_timeout(&stage, records, BRIEF);
                        assert!(sent.as_ref().err().is_none_or(|refused| refused.accepted == 0));
                        sent
                    }
                    _ => shared.source(source).try_send_batch(&shared.stage(stage), records),
                };
                let refused = sent.err().map_or(Vec::new(), |refused| {
                    assert_full_or_removed(&refused.reason);
                    assert_eq!(refused.accepted + refused.records.len(), ids.len());
                    refused.records
                });
                self.pushed(stage, source, ids, &refused);
            }
            Operation::Take { stage, max } => {
                let stage = index(stage, &STAGES);
                if let Ok(batch) = shared.stage(stage).try_recv_batch(usize::from(max)) {
                    assert!((1..=usize::from(max)).contains(&batch.len()));
                    self.open.push((stage, batch));
                }
            }
            Operation::WaitAndTake { stage, max } => {
                let (stage, max) = (index(stage, &STAGES), usize::from(max).max(1));
                if let Ok(batch) = shared.stage(stage).recv_batch_timeout(max, BRIEF) {
                    assert!((1..=max).contains(&batch.len()));
                    self.open.push((stage, batch));
                }
            }
            Operation::GetBatch { stage, max } => {
                // Its records give their credits up before this thread knows of them: so they are
                // taken as a batch, and handed out then.
                let stage = index(stage, &STAGES);
                if let Ok(batch) = shared.stage(stage).try_recv_batch(usize::from(max)) {
                    batch.iter().for_each(|record| shared.leave(stage, record));
                    self.handed_out.extend(batch.into_records());
                }
            }
            Operation::ReturnByName { stage, records } => self.return_by_name(stage, records),
            Operation::Receive => {
                let letter = shared.manager.dead_letters().try_recv();
                self.gone.extend(letter.map(|letter| letter.record.id));
            }
            Operation::RemoveStage { stage } => {
                let _ = shared.manager.remove_stage(STAGES[index(stage, &STAGES)]);
            }
            Operation::RemoveSource { source } => {
                let _ = shared.manager.remove_source(SOURCES[index(source, &SOURCES)]);
            }
            operation => {
                if let Some((stage, batch)) = self.open.pop() {
                    self.settle(stage, batch, operation);
                }
            }
        }
    }

    /// Returns records of one source, for that is what the gauges need to know.
    fn return_by_name(&mut self, stage: u8, records: u8) {
        let stage = index(stage, &STAGES);
        let Some(last) = self.handed_out.last() else { return };
        let source = last.source;
        let most = usize::from(records) % 16 + 1;
        let like = self.handed_out.iter().rev().take(most);
        let len = like.take_while(|record| record.source == source).count();
        let batch = self.handed_out.split_off(self.handed_out.len() - len);
        let back = batch.iter().filter(|record| !self.shared.is_exhausted(record)).count();
        match block_on(self.shared.manager.return_to_buffer(STAGES[stage], batch)) {
            Ok(accepted) => {
                assert_eq!(accepted, back);
                self.shared.enter(stage, source, accepted);
            }
            Err(rejected) => {
                assert_full_or_removed(&rejected.reason);
                self.shared.enter(stage, source, rejected.accepted);
                self.handed_out.extend(rejected.records);
            }
        }
    }

    fn settle(&mut self, stage: usize, mut batch: Batch<Record>, operation: Operation) {
        let shared = self.shared;
        match operation {
            Operation::Return => {
                batch.iter().for_each(|record| shared.try_again(stage, record));
                batch.return_to_buffer();
            }
            Operation::IntoRecords => {
                batch.iter().for_each(|record| shared.leave(stage, record));
                self.handed_out.extend(batch.into_records());
            }
            Operation::Settle { outcomes } => {
                let mut bits = outcomes;
                batch.settle(|record| {
                    bits = bits.rotate_right(2);
                    match bits % 4 {
                        0 => {
                            shared.try_again(stage, record);
                            Outcome::Return
                        }
                        1 => {
                            shared.leave(stage, record);
                            Outcome::DeadLetter
                        }
                        _ => {
                            shared.leave(stage, record);
                            self.gone.push(record.id);
                            Outcome::Ack
                        }
                    }
                });
            }
            Operation::Forward { stage: next } | Operation::WaitAndForward { stage: next } => {
                let next = index(next, &STAGES);
                let len = batch.len();
                shared.gauges.stages[stage].fetch_sub(len as i64, SeqCst);
                let forwarded = if matches!(operation, Operation::WaitAndForward { .. }) {
                    batch.forward_timeout(&shared.stage(next), BRIEF)
                } else {
                    batch.try_forward(&shared.stage(next))
                };
                match forwarded {
                    Ok(()) => raise(&shared.gauges.stages[next], len, shared.caps.per_stage),
                    Err(ForwardError { batch, .. }) => {
                        raise(&shared.gauges.stages[stage], len, shared.caps.per_stage);
                        self.open.push((stage, batch));
                    }
                }
            }
            Operation::SplitOff { at } => {
                let rest = batch.split_off(usize::from(at) % (batch.len() + 1));
                self.open.extend([(stage, batch), (stage, rest)]);
            }
            Operation::Partition { chosen } => {
                let (yes, no) =
                    batch.partition(|record| chosen.rotate_right(record.id as u32 % 32) % 2 == 1);
                self.open.extend([(stage, yes), (stage, no)]);
            }
            _ => {
                batch.iter().for_each(|record| shared.leave(stage, record));
                self.gone.extend(batch.iter().map(|record| record.id));
                batch.ack();
            }
        }
    }

    /// Settles what it holds, and tells what it saw accepted and gone.
    fn finish(mut self) -> [Vec<u64>; 2] {
        while let Some((stage, batch)) = self.open.pop() {
            let operation =
                if batch.len().is_multiple_of(2) { Operation::Ack } else { Operation::Return };
            self.settle(stage, batch, operation);
        }
        self.gone.extend(self.handed_out.iter().map(|record| record.id));
        [self.accepted, self.gone]
    }
}

fn index(choice: u8, names: &[&str]) -> usize {
    usize::from(choice) % names.len()
}

/// Nobody closes the buffer, but a stage or a source may be removed between its making and its use. What
/// never fits is told to those who would wait for it.
fn assert_full_or_removed(reason: &RejectReason) {
    let too_large = matches!(reason, RejectReason::TooLarge { .. });
    assert!(reason.is_full() || reason.is_closed() || too_large, "{reason}");
}

fuzz_target!(|input: Input| {
    let Input { caps, calls } = input;
    let settings = BufferSettings {
        max_total_records: caps.total,
        max_per_stage: caps.per_stage,
        max_per_source: caps.per_source,
        ..BufferSettings::default()
    };
    let mut builder = BufferManager::builder(settings).dead_letter_capacity(caps.letters);
    if let Some(retries) = caps.retries {
        builder = builder.max_retries(retries);
    }
    let manager = builder.build().expect("valid settings");
    let shared = Shared { manager, caps, gauges: Gauges::default() };

    let start = Barrier::new(THREADS);
    let run = |number: usize, calls: &[Operation]| {
        let mut worker = Worker::new(&shared, number);
        start.wait();
        for &operation in calls.iter().take(MOST_OPERATIONS) {
            worker.apply(operation);
            shared.look();
        }
        worker.finish()
    };
    let ends = thread::scope(|scope| {
        let run = &run;
        let started: Vec<_> = calls
            .iter()
            .enumerate()
            .map(|(number, calls)| scope.spawn(move || run(number, calls)))
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect::<Vec<_>>()
    });

    // What is left comes out too. Of one thread, the readings are exact.
    let mut last = Worker::new(&shared, THREADS);
    for (stage, name) in STAGES.iter().enumerate() {
        let left = block_on(shared.manager.get_batch(name, usize::MAX));
        left.iter().for_each(|record| shared.leave(stage, record));
        last.handed_out.extend(left);
    }
    let letters = shared.manager.dead_letters();
    last.gone.extend(std::iter::from_fn(|| letters.try_recv()).map(|letter| letter.record.id));
    let [mut accepted, mut gone] = last.finish();
    for [of_thread, gone_from_thread] in ends {
        accepted.extend(of_thread);
        gone.extend(gone_from_thread);
    }
    accepted.sort_unstable();
    gone.sort_unstable();
    assert_eq!(accepted, gone, "every record that was accepted comes out exactly once");

    assert_eq!(block_on(shared.manager.get_total_buffered()), 0);
    assert_eq!(shared.gauges.total.load(SeqCst), 0);
    for (stage, name) in STAGES.iter().enumerate() {
        assert_eq!(block_on(shared.manager.get_stage_utilization(name)), 0.0);
        assert_eq!(shared.gauges.stages[stage].load(SeqCst), 0);
        shared.stage(stage);
        shared.manager.remove_stage(name).expect("it is idle");
    }
    for (source, name) in SOURCES.iter().enumerate() {
        assert_eq!(shared.source(source).utilization(), 0.0);
        assert_eq!(shared.gauges.sources[source].load(SeqCst), 0);
        shared.manager.remove_source(name).expect("it is idle");
    }
});
