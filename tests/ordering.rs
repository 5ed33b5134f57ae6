//! The order in which a stage hands its records out, and a plain model that it is held against.

mod common;

use std::collections::VecDeque;
use std::thread;

use conveyor_buffer::{
    Batch, BufferManager, DeadLetters, Envelope, ForwardError, Outcome, RejectReason, Source, Stage,
};

use common::*;

fn all(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn one_source_and_one_worker_see_first_in_first_out() {
    let (_manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    let mut rng = Rng::new(1);
    let mut pushed = 0;
    let mut seen = Vec::new();
    while pushed < 5_000 {
        let n = 1 + rng.below(40) as u64;
        if n == 1 {
            source.try_send(&stage, row("a", pushed)).unwrap();
        } else {
            source.try_send_batch(&stage, rows("a", pushed..pushed + n)).unwrap();
        }
        pushed += n;
        while stage.len() > 500 {
            let batch = take(&stage, 1 + rng.below(60));
            seen.extend(ids(&batch));
            batch.ack();
        }
    }
    seen.extend(drain(&stage));
    assert_eq!(seen, all(0..pushed));
}

#[test]
fn a_worker_that_takes_parts_of_several_returned_batches_gets_no_more_than_it_asked_for() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    let (first, second) = (take(&stage, 2), take(&stage, 3));
    second.return_to_buffer();
    first.return_to_buffer();

    let batch = take(&stage, 3);
    assert_eq!((ids(&batch), stage.len()), (all(0..3), 2));
    batch.ack();
    assert_eq!(drain(&stage), all(3..5));
}

#[test]
fn one_pushing_and_one_working_thread_see_first_in_first_out() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    const RECORDS: u64 = 100_000;
    let seen = thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(2);
            let mut next = 0;
            while next < RECORDS {
                let n = (1 + rng.below(30) as u64).min(RECORDS - next);
                let mut rest = rows("a", next..next + n);
                next += n;
                while let Err(rejected) = source.try_send_batch(&stage, rest) {
                    rest = rejected.into_records();
                    thread::yield_now();
                }
            }
        });
        scope
            .spawn(|| {
                let mut rng = Rng::new(3);
                let mut seen = Vec::new();
                while (seen.len() as u64) < RECORDS {
                    match stage.try_recv_batch(1 + rng.below(20)) {
                        Ok(batch) if rng.one_in(8) => {
                            batch.return_to_buffer();
                        }
                        Ok(batch) => {
                            seen.extend(ids(&batch));
                            batch.ack();
                        }
                        Err(_) => thread::yield_now(),
                    }
                }
                seen
            })
            .join()
            .unwrap()
    });
    assert!(seen == all(0..RECORDS), "out of order");
}

#[test]
fn each_of_many_pushing_threads_keeps_its_own_order() {
    let (manager, stage, _) = one_of_each(64, 64, 64);
    const EACH: u64 = 20_000;
    let sources: Vec<_> = (0..3).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    thread::scope(|scope| {
        for source in &sources {
            scope.spawn(|| {
                for id in (0..EACH).step_by(4) {
                    let mut rest = rows(source.id(), id..id + 4);
                    while let Err(rejected) = source.try_send_batch(&stage, rest) {
                        rest = rejected.into_records();
                        thread::yield_now();
                    }
                }
            });
        }
        let mut expected = [0; 3];
        while expected != [EACH; 3] {
            let Ok(batch) = stage.try_recv_batch(7) else {
                thread::yield_now();
                continue;
            };
            for row in &batch {
                let next = &mut expected[row.source.parse::<usize>().unwrap()];
                assert_eq!(row.id, *next);
                *next += 1;
            }
            batch.ack();
        }
    });
}

#[test]
fn a_block_that_a_limit_cuts_goes_on_where_it_was_cut() {
    let (_manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    source.try_send_batch(&stage, rows("a", 0..100)).unwrap();
    source.try_send_batch(&stage, rows("a", 100..110)).unwrap();
    source.try_send(&stage, row("a", 110)).unwrap();
    let mut seen = Vec::new();
    for max in [1, 9, 30, 59, 3, 7, 5] {
        let batch = take(&stage, max);
        assert!(batch.len() <= max);
        seen.extend(ids(&batch));
        batch.ack();
    }
    assert_eq!(seen, all(0..111));
    assert!(is_empty(&stage));
}

#[test]
fn a_batch_is_gathered_over_as_many_blocks_as_it_takes() {
    let (manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    let other = manager.source("b").unwrap();
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    other.try_send(&stage, row("b", 3)).unwrap();
    source.try_send_batch(&stage, rows("a", 4..9)).unwrap();
    let batch = take(&stage, 6);
    assert_eq!(ids(&batch), all(0..6));
    assert_eq!((stage.len(), stage.in_flight()), (3, 6));
    batch.return_to_buffer();
    assert_eq!(drain(&stage), all(0..9));
    assert_eq!((source.utilization(), other.utilization()), (0.0, 0.0));
}

#[test]
fn returned_records_come_again_before_newer_ones() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    take(&stage, 2).return_to_buffer();
    source.try_send(&stage, row("a", 6)).unwrap();
    assert_eq!(drain(&stage), all(0..7));
}

#[test]
fn batches_returned_in_reverse_come_again_oldest_first() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    for id in 0..12 {
        source.try_send(&stage, row("a", id)).unwrap();
    }
    let batches = [take(&stage, 3), take(&stage, 3), take(&stage, 3)];
    for batch in batches.into_iter().rev() {
        batch.return_to_buffer();
    }
    assert_eq!(drain(&stage), all(0..12));
}

#[test]
fn the_first_part_of_a_cut_block_comes_again_before_the_rest_of_it() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    source.try_send_batch(&stage, rows("a", 10..20)).unwrap();
    let first = take(&stage, 4);
    assert_eq!(stage.len(), 16);
    first.return_to_buffer();
    assert_eq!(ids(&take(&stage, 5)), all(0..5)); // and is dropped, and so returned again
    let second = take(&stage, 12);
    let third = take(&stage, 3);
    third.return_to_buffer();
    second.return_to_buffer();
    assert_eq!(drain(&stage), all(0..20));
}

#[test]
fn parts_of_one_batch_find_their_places_again() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let other = manager.source("b").unwrap();
    for id in 0..20 {
        let source = if id % 3 == 0 { &other } else { &source };
        source.try_send(&stage, row(source.id(), id)).unwrap();
    }
    let (even, odd) = take(&stage, 16).partition(|row| row.id % 2 == 0);
    let mut late = odd;
    let later = late.split_off(3);
    later.return_to_buffer(); // 7, 9, 11, 13, 15
    even.return_to_buffer();
    assert_eq!(ids(&take(&stage, 4)), [0, 2, 4, 6]);
    late.return_to_buffer(); // 1, 3, 5
    assert_eq!(drain(&stage), all(0..20));
}

#[test]
fn settling_in_part_returns_the_others_in_order() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    take(&stage, 8).settle(|row| if row.id % 3 == 0 { Outcome::Ack } else { Outcome::Return });
    assert_eq!(drain(&stage), [1, 2, 4, 5, 7, 8, 9]);
}

#[test]
fn forwarded_records_join_the_back_of_the_next_stage() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    source.try_send_batch(&next, rows("a", 10..12)).unwrap();
    take(&stage, 2).try_forward(&next).unwrap();
    source.try_send(&next, row("a", 20)).unwrap();
    take(&stage, 2).try_forward(&next).unwrap();
    let (first, second) = (take(&next, 3), take(&next, 2));
    assert_eq!((ids(&first), ids(&second)), (vec![10, 11, 0], vec![1, 20]));
    second.return_to_buffer();
    first.return_to_buffer();
    assert_eq!(drain(&next), [10, 11, 0, 1, 20, 2, 3]);
}

#[test]
fn records_returned_by_name_go_before_all_others_in_the_order_given() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    let mut out = block_on(manager.get_batch("stage", 4));
    // Older by its push, but the records returned by name go before all others.
    take(&stage, 2).return_to_buffer();
    out.reverse();
    assert_eq!(block_on(manager.return_to_buffer("stage", out)).unwrap(), 4);
    assert_eq!(drain(&stage), [3, 2, 1, 0, 4, 5, 6, 7]);
}

#[test]
fn returns_by_name_come_again_in_the_order_in_which_they_came_back() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    let first = block_on(manager.get_batch("stage", 2));
    let second = block_on(manager.get_batch("stage", 2));
    take(&stage, 1).return_to_buffer(); // 4, which never left, comes after those that did
    block_on(manager.return_to_buffer("stage", second)).unwrap();
    block_on(manager.return_to_buffer("stage", first)).unwrap();
    let batch = take(&stage, 3);
    assert_eq!(ids(&batch), [2, 3, 0]);
    batch.return_to_buffer();
    assert_eq!(drain(&stage), [2, 3, 0, 1, 4, 5, 6, 7]);
}

#[test]
fn records_returned_by_name_keep_their_places_when_a_batch_returns_them() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let out = block_on(manager.get_batch("stage", 3));
    block_on(manager.return_to_buffer("stage", out)).unwrap();
    for _ in 0..3 {
        let (first, second) = (take(&stage, 2), take(&stage, 3));
        assert_eq!((ids(&first), ids(&second)), (vec![0, 1], vec![2, 3, 4]));
        second.return_to_buffer();
        first.return_to_buffer();
    }
    assert_eq!(drain(&stage), all(0..6));
}

/// A record of one byte, so that a block of a million costs nothing to move.
struct Byte(u8);

impl Envelope for Byte {
    fn source_id(&self) -> &str {
        "a"
    }

    fn retry_count(&self) -> u32 {
        0
    }

    fn increment_retry(&mut self) {}
}

#[test]
fn the_order_survives_the_wrap_of_the_count_of_pushes() {
    // A stage counts its pushes modulo 2^31: go to just before the wrap, then straddle it.
    const BLOCK: usize = 1 << 20;
    let manager = BufferManager::new(caps(BLOCK, BLOCK, BLOCK));
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let mut block: Vec<Byte> = (0..BLOCK).map(|_| Byte(0)).collect();
    for _ in 0..(1_u64 << 31) / BLOCK as u64 - 1 {
        source.try_send_batch(&stage, block).unwrap();
        block = take(&stage, BLOCK).into_records();
    }
    block.truncate(BLOCK - 10);
    source.try_send_batch(&stage, block).unwrap();
    take(&stage, BLOCK).ack();

    source.try_send_batch(&stage, (0..8).map(Byte).collect()).unwrap();
    source.try_send_batch(&stage, (8..16).map(Byte).collect()).unwrap();
    for byte in 16..20 {
        source.try_send(&stage, Byte(byte)).unwrap();
    }
    let batches: Vec<_> = (0..6).map(|_| take(&stage, 3)).collect();
    for batch in batches.into_iter().rev() {
        batch.return_to_buffer();
    }
    let (first, second) = (take(&stage, 11), take(&stage, 7));
    second.return_to_buffer();
    first.return_to_buffer();
    let seen: Vec<_> = take(&stage, 100).into_records().iter().map(|byte| byte.0).collect();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

/// The same buffer with the simplest means: one thread, sorted queues, plain counts.
struct Model {
    total: usize,
    per_stage: usize,
    per_source: usize,
    retry_limit: u32,
    letter_cap: usize,
    /// Records in queues, batches and parked letters, by stage and by source.
    in_stage: [usize; 2],
    of_source: [usize; 3],
    /// The queue of each stage, by place.
    queues: [VecDeque<(u64, Row)>; 2],
    next_place: u64,
    letters: VecDeque<Row>,
    /// Letters that found no place, with the stage that they are charged to.
    parked: VecDeque<(usize, Row)>,
}

type Taken = Vec<(u64, Row)>;

impl Model {
    fn used(&self) -> usize {
        self.of_source.iter().sum()
    }

    /// How many of `n` are accepted, and why not more.
    fn push(&mut self, stage: usize, source: usize, rows: &[Row]) -> (usize, Option<RejectReason>) {
        let room_of_source = self.per_source - self.of_source[source];
        let room = self.total - self.used();
        let room_of_stage = self.per_stage - self.in_stage[stage];
        let accepted = rows.len().min(room_of_source).min(room).min(room_of_stage);
        // In the order of taking, the first limit that allows no more.
        let reason = if accepted == rows.len() {
            None
        } else if accepted == room_of_source {
            let parked = self.parked.iter().filter(|(_, row)| *row.source == source.to_string());
            full(source_full(&source.to_string(), self.per_source, self.per_source), parked.count())
        } else if accepted == room {
            full(global_full(self.total, self.total), self.parked.len())
        } else {
            let parked = self.parked.iter().filter(|(at, _)| *at == stage);
            full(stage_full(&stage.to_string(), self.per_stage, self.per_stage), parked.count())
        };
        for row in &rows[..accepted] {
            self.queues[stage].push_back((self.next_place, row.clone()));
            self.next_place += 1;
        }
        self.in_stage[stage] += accepted;
        self.of_source[source] += accepted;
        (accepted, reason)
    }

    fn take(&mut self, stage: usize, max: usize) -> Taken {
        let n = max.min(self.queues[stage].len());
        self.queues[stage].drain(..n).collect()
    }

    fn release(&mut self, stage: usize, row: &Row) {
        self.in_stage[stage] -= 1;
        self.of_source[row.source.parse::<usize>().unwrap()] -= 1;
    }

    fn ack(&mut self, stage: usize, taken: Taken) {
        for (_, row) in taken {
            self.release(stage, &row);
        }
    }

    fn bury(&mut self, stage: usize, row: Row) {
        if self.letters.len() < self.letter_cap {
            self.release(stage, &row);
            self.letters.push_back(row);
        } else {
            self.parked.push_back((stage, row));
        }
    }

    fn give_back(&mut self, stage: usize, taken: Taken) {
        for (place, mut row) in taken {
            if row.retries >= self.retry_limit {
                self.bury(stage, row);
            } else {
                row.retries += 1;
                let queue = &mut self.queues[stage];
                let index = queue.partition_point(|&(other, _)| other < place);
                queue.insert(index, (place, row));
            }
        }
    }

    fn forward(&mut self, stage: usize, next: usize, taken: Taken) -> Result<(), Taken> {
        if self.in_stage[next] + taken.len() > self.per_stage {
            return Err(taken);
        }
        self.in_stage[stage] -= taken.len();
        self.in_stage[next] += taken.len();
        for (_, row) in taken {
            self.queues[next].push_back((self.next_place, row));
            self.next_place += 1;
        }
        Ok(())
    }

    fn receive(&mut self) -> Option<Row> {
        let letter = self.letters.pop_front()?;
        if let Some((stage, row)) = self.parked.pop_front() {
            self.release(stage, &row);
            self.letters.push_back(row);
        }
        Some(letter)
    }
}

/// The library and the model, side by side.
struct Pair {
    manager: Manager,
    stages: Vec<Stage<Row>>,
    sources: Vec<Source<Row>>,
    letters: DeadLetters<Row>,
    model: Model,
    open: Vec<(usize, Batch<Row>, Taken)>,
    next_id: u64,
}

impl Pair {
    fn new(rng: &mut Rng) -> Self {
        let (total, per_stage, per_source) =
            (1 + rng.below(60), 1 + rng.below(40), 1 + rng.below(30));
        let retry_limit = rng.below(5) as u32;
        let letter_cap = 1 + rng.below(4);
        let manager = BufferManager::builder(caps(total, per_stage, per_source))
            .max_retries(retry_limit)
            .dead_letter_capacity(letter_cap)
            .build()
            .unwrap();
        Self {
            stages: (0..2).map(|n| manager.stage(&n.to_string()).unwrap()).collect(),
            sources: (0..3).map(|n| manager.source(&n.to_string()).unwrap()).collect(),
            letters: manager.dead_letters(),
            manager,
            model: Model {
                total,
                per_stage,
                per_source,
                retry_limit,
                letter_cap,
                in_stage: [0; 2],
                of_source: [0; 3],
                queues: Default::default(),
                next_place: 0,
                letters: VecDeque::new(),
                parked: VecDeque::new(),
            },
            open: Vec::new(),
            next_id: 0,
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.below(10) {
            0..=2 => self.push(rng),
            3..=5 => self.take(rng),
            6..=8 => self.settle(rng),
            _ => self.receive(),
        }
        self.compare();
    }

    fn push(&mut self, rng: &mut Rng) {
        let (stage, source) = (rng.below(2), rng.below(3));
        let n = if rng.one_in(2) { 1 } else { rng.below(15) };
        let rows = rows(&source.to_string(), self.next_id..self.next_id + n as u64);
        self.next_id += n as u64;
        let (accepted, reason) = self.model.push(stage, source, &rows);
        let pushed = if n == 1 && rng.one_in(2) {
            self.sources[source]
                .try_send(&self.stages[stage], rows[0].clone())
                .map_err(|rejected| (0, vec![rejected.record], rejected.reason))
        } else {
            self.sources[source]
                .try_send_batch(&self.stages[stage], rows.clone())
                .map_err(|rejected| (rejected.accepted, rejected.records, rejected.reason))
        };
        match (pushed, reason) {
            (Ok(()), None) => {}
            (Err(rejected), Some(reason)) => {
                assert_eq!(rejected, (accepted, rows[accepted..].to_vec(), reason));
            }
            (pushed, reason) => panic!("{pushed:?} where the model says {reason:?}"),
        }
    }

    fn take(&mut self, rng: &mut Rng) {
        let stage = rng.below(2);
        let max = if rng.one_in(4) { 1 } else { rng.below(30) };
        let taken = self.model.take(stage, max);
        match self.stages[stage].try_recv_batch(max) {
            Ok(batch) => {
                assert!(batch.iter().eq(taken.iter().map(|(_, row)| row)), "not in order");
                self.open.push((stage, batch, taken));
            }
            Err(error) => assert!(error.is_empty() && taken.is_empty(), "{error}"),
        }
    }

    fn settle(&mut self, rng: &mut Rng) {
        if self.open.is_empty() {
            return;
        }
        let (stage, mut batch, mut taken) = self.open.swap_remove(rng.below(self.open.len()));
        match rng.below(8) {
            0 => {
                batch.ack();
                self.model.ack(stage, taken);
            }
            1 => {
                batch.return_to_buffer();
                self.model.give_back(stage, taken);
            }
            2 => {
                let records = batch.into_records();
                assert!(records.iter().eq(taken.iter().map(|(_, row)| row)));
                self.model.ack(stage, taken);
            }
            3 => {
                // In the order in which the library buries: all the returned and the dead at once.
                let mut places = taken.into_iter();
                let model = &mut self.model;
                let mut acked = Vec::new();
                batch.settle(|row| {
                    let (place, own) = places.next().unwrap();
                    assert_eq!(*row, own);
                    match rng.below(3) {
                        0 => {
                            acked.push((place, own));
                            Outcome::Ack
                        }
                        1 => {
                            model.give_back(stage, vec![(place, own)]);
                            Outcome::Return
                        }
                        _ => {
                            model.bury(stage, own);
                            Outcome::DeadLetter
                        }
                    }
                });
                self.model.ack(stage, acked);
            }
            4 => {
                let at = rng.below(taken.len() + 2);
                let rest = batch.split_off(at);
                let later = taken.split_off(at.min(taken.len()));
                assert_eq!((batch.len(), rest.len()), (taken.len(), later.len()));
                self.open.push((stage, batch, taken));
                self.open.push((stage, rest, later));
            }
            5 => {
                let salt = rng.next();
                let belongs = |row: &Row| row.id.wrapping_mul(salt) >> 7 & 1 == 0;
                let (yes, no) = batch.partition(|row| belongs(row));
                let (taken, others) = taken.into_iter().partition(|(_, row)| belongs(row));
                self.open.push((stage, yes, taken));
                self.open.push((stage, no, others));
            }
            _ => {
                let next = rng.below(2);
                let same = next == stage;
                match batch.try_forward(&self.stages[next]) {
                    Ok(()) if taken.is_empty() => {}
                    Ok(()) => {
                        self.model.forward(stage, next, taken).expect("the model has no room")
                    }
                    Err(ForwardError { batch, .. }) => {
                        let taken = self.model.forward(stage, next, taken).unwrap_err();
                        assert!(batch.iter().eq(taken.iter().map(|(_, row)| row)), "{same}");
                        self.open.push((stage, batch, taken));
                    }
                }
            }
        }
    }

    fn receive(&mut self) {
        let letter = self.letters.try_recv().map(|letter| letter.record);
        assert_eq!(letter, self.model.receive());
    }

    fn compare(&self) {
        let model = &self.model;
        for (n, stage) in self.stages.iter().enumerate() {
            let queued = model.queues[n].len();
            let readings = (stage.len(), stage.in_flight());
            assert_eq!(readings, (queued, model.in_stage[n] - queued), "stage {n}");
        }
        let free = model.total - model.used();
        for (n, source) in self.sources.iter().enumerate() {
            let available = (model.per_source - model.of_source[n]).min(free);
            assert_eq!(source.available_credits(), available, "source {n}");
            assert_eq!(block_on(self.manager.available_credits(source.id())), available);
        }
        assert_eq!(block_on(self.manager.available_credits("new")), free.min(model.per_source));
        assert_eq!(block_on(self.manager.get_total_buffered()), model.used());
        assert_eq!(self.letters.len(), model.letters.len());
        assert_eq!(self.letters.parked(), model.parked.len());
    }

    /// Settles everything, and sees that nothing is left.
    fn finish(mut self) {
        for (_, batch, _) in self.open.drain(..) {
            batch.ack();
        }
        self.stages.iter().for_each(|stage| drop(drain(stage)));
        while self.letters.try_recv().is_some() {}
        assert_nothing_is_held(&self.manager, &self.stages, &self.sources);
    }
}

#[test]
fn random_sequences_agree_with_a_plain_model() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut pair = Pair::new(&mut rng);
        for _ in 0..300 {
            pair.step(&mut rng);
        }
        pair.finish();
    }
}

/// A refusal at a full cap, which names the parked letters where there are some.
fn full(reason: RejectReason, parked: usize) -> Option<RejectReason> {
    Some(if parked > 0 { with_parked(reason, parked) } else { reason })
}
