//! The three caps under fire: producers and workers hammer a buffer while a watcher reads it. No
//! reading is ever above a cap, and every record that went in comes out exactly once.
//!
//! The library's own readings might be wrong in the same way as its counters. So the threads keep
//! count as well: a record is added to a gauge *after* it was accepted and taken off *before* it is
//! settled. At no instant does a gauge show more than what is really held.

mod common;

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize};
use std::thread;

use conveyor_buffer::{
    Batch, BufferManager, DeadLetters, ForwardError, Outcome, RejectReason, Source, Stage,
};

use common::*;

/// One set of caps, and how it is hammered.
#[derive(Clone, Copy)]
struct Scene {
    seed: u64,
    total: usize,
    per_stage: usize,
    per_source: usize,
    stages: usize,
    sources: usize,
    producers: usize,
    workers: usize,
    records: u64,
    largest_batch: usize,
    dead_letters: usize,
    binding: Binding,
}

/// The limit that is reached first.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Binding {
    Global,
    Stage,
    Source,
}

const RETRIES: u32 = 3;

/// A count that must not pass a cap.
struct Gauge {
    now: AtomicI64,
    peak: AtomicI64,
    cap: i64,
}

impl Gauge {
    fn new(cap: usize) -> Self {
        Self { now: AtomicI64::new(0), peak: AtomicI64::new(0), cap: cap as i64 }
    }

    fn add(&self, n: usize) {
        let now = self.now.fetch_add(n as i64, SeqCst) + n as i64;
        self.peak.fetch_max(now, SeqCst);
    }

    fn sub(&self, n: usize) {
        self.now.fetch_sub(n as i64, SeqCst);
    }

    fn check(&self, what: &str) {
        let peak = self.peak.load(SeqCst);
        assert!(peak <= self.cap, "{what}: {peak} held under a cap of {}", self.cap);
    }
}

/// Everything that the threads share.
struct Arena {
    scene: Scene,
    manager: Manager,
    stages: Vec<Stage<Row>>,
    sources: Vec<Source<Row>>,
    letters: DeadLetters<Row>,
    all: Gauge,
    of_stage: Vec<Gauge>,
    of_source: Vec<Gauge>,
    next_id: AtomicU64,
    /// How often each record came out.
    seen: Vec<AtomicU8>,
    producing: AtomicUsize,
    done: AtomicBool,
}

impl Arena {
    fn new(scene: Scene) -> Self {
        let manager = BufferManager::builder(caps(scene.total, scene.per_stage, scene.per_source))
            .max_retries(RETRIES)
            .dead_letter_capacity(scene.dead_letters)
            .build()
            .unwrap();
        let stages: Vec<_> =
            (0..scene.stages).map(|n| manager.stage(&n.to_string()).unwrap()).collect();
        let sources: Vec<_> =
            (0..scene.sources).map(|n| manager.source(&n.to_string()).unwrap()).collect();
        Self {
            letters: manager.dead_letters(),
            all: Gauge::new(scene.total),
            of_stage: stages.iter().map(|_| Gauge::new(scene.per_stage)).collect(),
            of_source: sources.iter().map(|_| Gauge::new(scene.per_source)).collect(),
            next_id: AtomicU64::new(0),
            seen: (0..scene.records).map(|_| AtomicU8::new(0)).collect(),
            producing: AtomicUsize::new(scene.producers),
            done: AtomicBool::new(false),
            scene,
            manager,
            stages,
            sources,
        }
    }

    fn fresh(&self, source: usize, wanted: usize) -> Vec<Row> {
        let from = self.next_id.fetch_add(wanted as u64, SeqCst).min(self.scene.records);
        let to = (from + wanted as u64).min(self.scene.records);
        rows(&source.to_string(), from..to)
    }

    fn source_of(&self, row: &Row) -> usize {
        row.source.parse().unwrap()
    }

    fn note_in(&self, stage: usize, source: usize, n: usize) {
        self.all.add(n);
        self.of_stage[stage].add(n);
        self.of_source[source].add(n);
    }

    /// Records are about to leave the buffer.
    fn note_out<'a>(&self, stage: usize, rows: impl IntoIterator<Item = &'a Row>) {
        for row in rows {
            self.all.sub(1);
            self.of_stage[stage].sub(1);
            self.of_source[self.source_of(row)].sub(1);
        }
    }

    fn saw(&self, row: &Row) {
        self.seen[row.id as usize].fetch_add(1, SeqCst);
    }

    /// Pushes by handle or by name, and gives back what was refused.
    fn push(&self, rng: &mut Rng, stage: usize, source: usize, mut rows: Vec<Row>) -> Vec<Row> {
        let wanted = rows.len();
        let refused = match (rows.len() == 1, rng.one_in(2)) {
            (true, true) => {
                let row = rows.pop().unwrap();
                self.sources[source]
                    .try_send(&self.stages[stage], row)
                    .map_err(|rejected| vec![rejected.into_record()])
            }
            (true, false) => {
                let row = rows.pop().unwrap();
                block_on(self.manager.buffer_for_stage(&stage.to_string(), row))
                    .map_err(|rejected| vec![rejected.into_record()])
            }
            (false, true) => self.sources[source]
                .try_send_batch(&self.stages[stage], rows)
                .map_err(|rejected| rejected.into_records()),
            (false, false) => {
                block_on(self.manager.buffer_batch_for_stage(&stage.to_string(), rows))
                    .map(drop)
                    .map_err(|rejected| rejected.into_records())
            }
        };
        let refused = refused.err().unwrap_or_default();
        self.note_in(stage, source, wanted - refused.len());
        refused
    }

    /// Fills the buffer until the limit that this scene is about refuses, with nobody else running.
    fn fill(&self) {
        let mut refused = Vec::new();
        for turn in 0.. {
            let source = turn % self.scene.sources;
            let mut rows = self.fresh(source, 1);
            let row = rows.pop().expect("the scene has more records than its caps take");
            let stage = turn % self.scene.stages;
            match self.sources[source].try_send(&self.stages[stage], row) {
                Ok(()) => self.note_in(stage, source, 1),
                Err(rejected) => {
                    let binding = match rejected.reason {
                        RejectReason::GlobalFull { .. } => Binding::Global,
                        RejectReason::StageFull { .. } => Binding::Stage,
                        RejectReason::SourceFull { .. } => Binding::Source,
                        ref other => panic!("refused with {other}"),
                    };
                    assert_eq!(binding, self.scene.binding);
                    refused.push(rejected.into_record());
                    break;
                }
            }
        }
        for row in refused {
            self.saw(&row); // It never went in.
        }
    }

    fn produce(&self, seed: u64) {
        let _leaving = Leaving(&self.producing);
        let mut rng = Rng::new(seed);
        loop {
            let source = rng.below(self.scene.sources);
            let wanted = 1 + rng.below(self.scene.largest_batch);
            let mut rows = self.fresh(source, wanted);
            if rows.is_empty() {
                return;
            }
            let mut refusals = 0_u64;
            while !rows.is_empty() {
                let stage = rng.below(self.scene.stages);
                let before = rows.len();
                rows = self.push(&mut rng, stage, source, rows);
                if rows.len() == before {
                    refusals += 1;
                    assert!(refusals < 5_000_000, "refused for ever: something keeps its credits");
                    thread::yield_now();
                } else {
                    refusals = 0;
                }
            }
        }
    }

    fn work(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        loop {
            let last_round = self.producing.load(SeqCst) == 0;
            let mut idle = true;
            // Every stage has its turn: the last worker to leave has seen them all empty.
            let first = rng.below(self.scene.stages);
            for turn in 0..self.scene.stages {
                let stage = (first + turn) % self.scene.stages;
                let max = 1 + rng.below(self.scene.largest_batch);
                if rng.one_in(16) {
                    idle &= !self.work_by_name(&mut rng, stage, max);
                } else if let Ok(batch) = self.stages[stage].try_recv_batch(max) {
                    assert!((1..=max).contains(&batch.len()));
                    self.settle(&mut rng, stage, batch);
                    idle = false;
                }
            }
            while let Some(letter) = self.letters.try_recv() {
                self.saw(&letter.record);
            }
            if idle {
                if last_round {
                    return;
                }
                thread::yield_now();
            }
        }
    }

    fn settle(&self, rng: &mut Rng, stage: usize, mut batch: Batch<Row>) {
        // Records that a return would bury leave the buffer.
        let dying = |row: &&Row| row.retries >= RETRIES;
        match rng.below(10) {
            0 => {
                self.note_out(stage, batch.iter().filter(dying));
                batch.return_to_buffer();
            }
            1 => {
                self.note_out(stage, batch.iter().filter(dying));
                drop(batch);
            }
            2 => {
                let mut fate = rng.next();
                batch.settle(|row| {
                    fate = fate.rotate_left(7).wrapping_add(row.id);
                    match fate % 4 {
                        0 => {
                            if row.retries >= RETRIES {
                                self.note_out(stage, [&*row]);
                            }
                            Outcome::Return
                        }
                        1 => {
                            self.note_out(stage, [&*row]);
                            Outcome::DeadLetter
                        }
                        _ => {
                            self.note_out(stage, [&*row]);
                            self.saw(row);
                            Outcome::Ack
                        }
                    }
                });
            }
            3 => {
                let rest = batch.split_off(rng.below(batch.len() + 1));
                self.note_out(stage, rest.iter().filter(dying));
                rest.return_to_buffer();
                self.ack(stage, batch);
            }
            4 => {
                let (odd, even) = batch.partition(|row| row.id % 2 == 1);
                self.note_out(stage, even.iter().filter(dying));
                even.return_to_buffer();
                self.ack(stage, odd);
            }
            5 => {
                self.note_out(stage, &batch);
                batch.into_records().iter().for_each(|row| self.saw(row));
            }
            6 | 7 => {
                let next = rng.below(self.scene.stages);
                let of_source: Vec<_> = batch.iter().map(|row| self.source_of(row)).collect();
                let len = of_source.len();
                self.of_stage[stage].sub(len);
                match batch.try_forward(&self.stages[next]) {
                    Ok(()) => self.of_stage[next].add(len),
                    Err(ForwardError { batch, .. }) => {
                        assert_eq!(batch.len(), len);
                        self.of_stage[stage].add(len);
                        self.ack(stage, batch);
                    }
                }
            }
            _ => self.ack(stage, batch),
        }
    }

    fn ack(&self, stage: usize, batch: Batch<Row>) {
        self.note_out(stage, &batch);
        batch.iter().for_each(|row| self.saw(row));
        batch.ack();
    }

    /// The calls by name settle before they answer: so as many as might be settled are taken off
    /// first, and what was not is put back.
    fn work_by_name(&self, rng: &mut Rng, stage: usize, max: usize) -> bool {
        let gauges = || self.of_source.iter().chain([&self.all, &self.of_stage[stage]]);
        gauges().for_each(|gauge| gauge.sub(max));
        let taken = block_on(self.manager.get_batch(&stage.to_string(), max));
        assert!(taken.len() <= max);
        self.note_out(stage, &taken);
        gauges().for_each(|gauge| gauge.add(max));
        let any = !taken.is_empty();
        let (back, out): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|row| row.retries < RETRIES && rng.one_in(2));
        out.iter().for_each(|row| self.saw(row));

        let of_source: Vec<_> = back.iter().map(|row| self.source_of(row)).collect();
        let accepted = match block_on(self.manager.return_to_buffer(&stage.to_string(), back)) {
            Ok(accepted) => accepted,
            Err(rejected) => {
                rejected.records.iter().for_each(|row| self.saw(row));
                rejected.accepted
            }
        };
        for &source in &of_source[..accepted] {
            self.note_in(stage, source, 1);
        }
        any
    }

    /// Reads everything, over and over, until all is done. Tells how often.
    fn watch(&self) -> u64 {
        let mut readings = 0;
        while !self.done.load(SeqCst) {
            readings += 1;
            for stage in &self.stages {
                let (len, in_flight, utilization) =
                    (stage.len(), stage.in_flight(), stage.utilization());
                assert!(len <= self.scene.per_stage, "{len} wait in {}", stage.id());
                assert!(in_flight <= self.scene.per_stage, "{in_flight} in flight");
                assert!((0.0..=1.0).contains(&utilization), "stage at {utilization}");
            }
            for source in &self.sources {
                let utilization = source.utilization();
                assert!((0.0..=1.0).contains(&utilization), "source at {utilization}");
                assert!(source.available_credits() <= self.scene.per_source.min(self.scene.total));
            }
            let total = block_on(self.manager.get_total_buffered());
            assert!(total <= self.scene.total, "{total} records in all");
            let utilization = block_on(self.manager.get_global_utilization());
            assert!((0.0..=1.0).contains(&utilization), "buffer at {utilization}");
            assert!(self.letters.len() <= self.scene.dead_letters);
            thread::yield_now();
        }
        readings
    }
}

/// Takes a producer off the list, also when it panics.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Ends the watch, also when a thread has panicked.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn hammer(scene: Scene) {
    let arena = Arena::new(scene);
    arena.fill();
    let readings = thread::scope(|scope| {
        let watcher = scope.spawn(|| arena.watch());
        let done = Done(&arena.done);
        let threads: Vec<_> = (0..scene.producers)
            .map(|n| {
                scope.spawn({
                    let arena = &arena;
                    move || arena.produce(scene.seed * 100 + n as u64)
                })
            })
            .chain((0..scene.workers).map(|n| {
                scope.spawn({
                    let arena = &arena;
                    move || arena.work(scene.seed * 100 + 50 + n as u64)
                })
            }))
            .collect();
        let failed = threads.into_iter().map(|thread| thread.join()).filter(Result::is_err).count();
        drop(done);
        assert_eq!(failed, 0, "threads panicked");
        watcher.join().expect("the watcher saw a cap passed")
    });
    assert!(readings > 0);

    arena.all.check("the buffer");
    assert_eq!(arena.all.now.load(SeqCst), 0);
    for (stage, gauge) in arena.stages.iter().zip(&arena.of_stage) {
        gauge.check(stage.id());
        assert_eq!(gauge.now.load(SeqCst), 0, "stage {}", stage.id());
    }
    for (source, gauge) in arena.sources.iter().zip(&arena.of_source) {
        gauge.check(source.id());
        assert_eq!(gauge.now.load(SeqCst), 0, "source {}", source.id());
    }
    let wrong: Vec<_> = (0..scene.records)
        .map(|id| (id, arena.seen[id as usize].load(SeqCst)))
        .filter(|&(_, times)| times != 1)
        .take(10)
        .collect();
    assert!(wrong.is_empty(), "ids that did not come out exactly once: {wrong:?}");

    assert_nothing_is_held(&arena.manager, &arena.stages, &arena.sources);
    assert!(arena.letters.is_empty());
    for source in &arena.sources {
        assert_eq!(source.available_credits(), scene.per_source.min(scene.total));
    }
    // Everything that was lent is back: one source can have it all again.
    let stage = arena.manager.stage("0").unwrap();
    let all = scene.total.min(scene.per_stage).min(scene.per_source);
    let rejected = arena.sources[0].try_send_batch(&stage, rows("0", 0..all as u64 + 1));
    let rejected = rejected.expect_err("one more than the caps allow");
    assert_eq!((rejected.accepted, rejected.records.len()), (all, 1));
    assert_eq!(drain(&stage).len(), all);
    assert_nothing_is_held(&arena.manager, &arena.stages, &arena.sources);
}

#[test]
fn caps_of_one_hold() {
    hammer(Scene {
        seed: 1,
        total: 1,
        per_stage: 1,
        per_source: 1,
        stages: 2,
        sources: 2,
        producers: 2,
        workers: 2,
        records: 60_000,
        largest_batch: 3,
        dead_letters: 1,
        binding: Binding::Global,
    });
}

#[test]
fn tiny_caps_hold() {
    hammer(Scene {
        seed: 2,
        total: 5,
        per_stage: 3,
        per_source: 2,
        stages: 3,
        sources: 4,
        producers: 3,
        workers: 3,
        records: 120_000,
        largest_batch: 4,
        dead_letters: 1,
        binding: Binding::Global,
    });
}

#[test]
fn a_global_cap_holds_against_many_sources() {
    hammer(Scene {
        seed: 3,
        total: 64,
        per_stage: 64,
        per_source: 64,
        stages: 2,
        sources: 40,
        producers: 4,
        workers: 3,
        records: 200_000,
        largest_batch: 8,
        dead_letters: 4,
        binding: Binding::Global,
    });
}

#[test]
fn a_global_cap_holds_while_sources_lease_ahead() {
    hammer(Scene {
        seed: 4,
        total: 3_000,
        per_stage: 3_000,
        per_source: 2_900,
        stages: 2,
        sources: 4,
        producers: 4,
        workers: 2,
        records: 1_000_000,
        largest_batch: 300,
        dead_letters: 16,
        binding: Binding::Global,
    });
}

#[test]
fn a_cap_per_source_holds() {
    hammer(Scene {
        seed: 5,
        total: 10_000,
        per_stage: 10_000,
        per_source: 7,
        stages: 2,
        sources: 3,
        producers: 4,
        workers: 2,
        records: 200_000,
        largest_batch: 10,
        dead_letters: 2,
        binding: Binding::Source,
    });
}

#[test]
fn a_cap_per_stage_holds() {
    hammer(Scene {
        seed: 6,
        total: 10_000,
        per_stage: 11,
        per_source: 5_000,
        stages: 3,
        sources: 3,
        producers: 3,
        workers: 4,
        records: 200_000,
        largest_batch: 9,
        dead_letters: 2,
        binding: Binding::Stage,
    });
}

#[test]
fn the_default_caps_hold() {
    let settings = conveyor_buffer::BufferSettings::default();
    hammer(Scene {
        seed: 7,
        total: settings.max_total_records,
        per_stage: settings.max_per_stage,
        per_source: settings.max_per_source,
        stages: 3,
        sources: 4,
        producers: 2,
        workers: 2,
        records: 1_000_000,
        largest_batch: 500,
        dead_letters: 1_024,
        binding: Binding::Source,
    });
}
