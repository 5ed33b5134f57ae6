//! Nothing is lost, ever: not with a worker that panics, nor with code of the record's type that
//! does, nor with a manager that is dropped; and no credit either.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;

use conveyor_buffer::{Batch, BufferManager, BufferSettings, Envelope, Outcome, Source, Stage};

use common::*;

/// Takes all records of a stage, and lists them with their retries. Those that were in the hands of a
/// worker that panicked come one by one.
fn take_all(stage: &Stage<Row>) -> (Vec<Batch<Row>>, Vec<(u64, u32)>) {
    let batches: Vec<_> = std::iter::from_fn(|| stage.try_recv_batch(10).ok()).collect();
    let seen = batches.iter().flatten().map(|row| (row.id, row.retries)).collect();
    (batches, seen)
}

#[test]
fn a_worker_that_panics_loses_no_record() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    for round in 1..=20 {
        let worker = thread::spawn({
            let stage = stage.clone();
            move || {
                let _first = take(&stage, 3);
                let _second = take(&stage, 4);
                panic!("a worker dies with two batches in hand");
            }
        });
        assert!(worker.join().is_err());
        assert_eq!((stage.len(), stage.in_flight()), (10, 0));
        let (batches, seen) = take_all(&stage);
        assert_eq!(seen.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        // First two batches, of three and four records; then two single records each time.
        assert_eq!(seen.iter().map(|(_, retries)| retries).sum::<u32>(), 5 + 2 * round);
        batches.into_iter().for_each(Batch::requeue);
    }
    drain(&stage);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_panic_in_settle_settles_those_before_and_returns_the_others() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    let batch = take(&stage, 8);
    let message = panic_message(|| {
        batch.settle(|row| match row.id {
            0 | 2 => Outcome::Ack,
            1 => Outcome::Return,
            3 => Outcome::DeadLetter,
            4 => panic!("cannot decide"),
            _ => unreachable!("nothing is asked after a panic"),
        });
    });
    assert_eq!(message, "cannot decide");
    assert_eq!(manager.dead_letters().try_recv().unwrap().record.id, 3);
    assert!(manager.dead_letters().is_empty());
    let (batches, seen) = take_all(&stage);
    assert_eq!(seen, [(1, 1), (4, 1), (5, 1), (6, 1), (7, 1)]);
    assert_eq!(source.available_credits(), 5);
    batches.into_iter().for_each(Batch::ack);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_panic_in_partition_returns_the_whole_batch() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    let batch = take(&stage, 6);
    panic_message(|| batch.partition(|row| if row.id == 3 { panic!("neither") } else { true }));
    assert_eq!((stage.len(), stage.in_flight()), (8, 0));
    let (batches, seen) = take_all(&stage);
    assert_eq!(seen, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 0), (7, 0)]);
    batches.into_iter().for_each(Batch::ack);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

/// What the code of a [`Brittle`] record panics in.
#[derive(Default)]
struct Faults {
    increment: AtomicBool,
    retry_count: AtomicBool,
    source_id: AtomicBool,
    drop: AtomicBool,
    dropped: AtomicUsize,
}

impl Faults {
    fn trip(fault: &AtomicBool, what: &str) {
        if fault.load(SeqCst) {
            panic!("{what} panics");
        }
    }
}

/// A record whose code can be told to panic. Only the one that is marked does.
struct Brittle {
    id: usize,
    marked: bool,
    retries: u32,
    faults: Arc<Faults>,
}

impl Envelope for Brittle {
    fn source_id(&self) -> &str {
        if self.marked {
            Faults::trip(&self.faults.source_id, "source_id");
        }
        "a"
    }

    fn retry_count(&self) -> u32 {
        if self.marked {
            Faults::trip(&self.faults.retry_count, "retry_count");
        }
        self.retries
    }

    fn increment_retry(&mut self) {
        if self.marked {
            Faults::trip(&self.faults.increment, "increment_retry");
        }
        self.retries += 1;
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        self.faults.dropped.fetch_add(1, SeqCst);
        if self.marked && !thread::panicking() {
            Faults::trip(&self.faults.drop, "drop");
        }
    }
}

/// Five records in a stage, the middle one marked.
struct Fragile {
    manager: BufferManager<Brittle>,
    stage: Stage<Brittle>,
    source: Source<Brittle>,
    faults: Arc<Faults>,
}

impl Fragile {
    fn new() -> Self {
        let manager = BufferManager::builder(caps(5, 5, 5)).max_retries(100).build().unwrap();
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        let faults = Arc::new(Faults::default());
        let records = (0..5).map(|id| Brittle {
            id,
            marked: id == 2,
            retries: 0,
            faults: Arc::clone(&faults),
        });
        source.try_send_batch(&stage, records.collect()).unwrap();
        Self { manager, stage, source, faults }
    }

    fn all_wait(&self) {
        assert_eq!((self.stage.len(), self.stage.in_flight()), (5, 0));
        assert_eq!(self.source.available_credits(), 0);
        assert_eq!(self.faults.dropped.load(SeqCst), 0);
        let ids: Vec<_> = take(&self.stage, 5).iter().map(|record| record.id).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
    }

    fn all_gone(&self) {
        assert_eq!((self.stage.len(), self.stage.in_flight()), (0, 0));
        assert_eq!(self.source.available_credits(), 5);
        assert_eq!(block_on(self.manager.get_total_buffered()), 0);
        assert_eq!(self.faults.dropped.load(SeqCst), 5);
    }
}

#[test]
fn a_panic_in_increment_retry_still_returns_every_record() {
    let fragile = Fragile::new();
    let batch = take(&fragile.stage, 5);
    fragile.faults.increment.store(true, SeqCst);
    assert!(panic_message(|| batch.return_to_buffer()).contains("increment_retry"));
    fragile.faults.increment.store(false, SeqCst);
    fragile.all_wait();
    take(&fragile.stage, 5).ack();
    fragile.all_gone();
}

#[test]
fn a_panic_in_retry_count_still_returns_every_record() {
    let fragile = Fragile::new();
    let batch = take(&fragile.stage, 5);
    fragile.faults.retry_count.store(true, SeqCst);
    assert!(panic_message(|| drop(batch)).contains("retry_count"));
    fragile.faults.retry_count.store(false, SeqCst);
    fragile.all_wait();
    take(&fragile.stage, 5).ack();
    fragile.all_gone();
}

#[test]
fn a_panic_in_increment_retry_keeps_what_settle_has_decided() {
    let fragile = Fragile::new();
    let batch = take(&fragile.stage, 5);
    fragile.faults.increment.store(true, SeqCst);
    panic_message(|| {
        batch.settle(|record| if record.id == 0 { Outcome::Ack } else { Outcome::Return });
    });
    fragile.faults.increment.store(false, SeqCst);
    assert_eq!((fragile.stage.len(), fragile.stage.in_flight()), (4, 0));
    assert_eq!(fragile.source.available_credits(), 1);
    take(&fragile.stage, 5).ack();
    fragile.all_gone();
}

#[test]
fn a_panic_in_increment_retry_during_a_return_by_name_keeps_the_records() {
    let fragile = Fragile::new();
    let records = block_on(fragile.manager.get_batch("stage", 5));
    fragile.faults.increment.store(true, SeqCst);
    panic_message(|| block_on(fragile.manager.return_to_buffer("stage", records)));
    fragile.faults.increment.store(false, SeqCst);
    fragile.all_wait();
    take(&fragile.stage, 5).ack();
    fragile.all_gone();
}

/// Whatever its code did, no record may hold a place or a credit that nobody can give back.
fn nothing_leaked(fragile: &Fragile) {
    let letters = fragile.manager.dead_letters();
    while letters.try_recv().is_some() {}
    while let Ok(batch) = fragile.stage.try_recv_batch(5) {
        batch.ack();
    }
    fragile.all_gone();
}

#[test]
fn a_panic_in_source_id_while_a_record_is_buried_loses_nothing() {
    let fragile = Fragile::new();
    let batch = take(&fragile.stage, 5);
    fragile.faults.source_id.store(true, SeqCst);
    let settled = catch_unwind(AssertUnwindSafe(|| batch.settle(|_| Outcome::DeadLetter)));
    drop(settled);
    fragile.faults.source_id.store(false, SeqCst);
    // "If one does panic, no record and no credit is lost."
    assert_eq!(fragile.faults.dropped.load(SeqCst), 0, "records were lost");
    nothing_leaked(&fragile);
}

#[test]
fn a_panic_in_retry_count_while_a_record_is_buried_loses_nothing() {
    let fragile = Fragile::new();
    let batch = take(&fragile.stage, 5);
    fragile.faults.retry_count.store(true, SeqCst);
    let settled = catch_unwind(AssertUnwindSafe(|| {
        batch.settle(|record| match record.id {
            0 | 4 => Outcome::Ack,
            _ => Outcome::DeadLetter,
        });
    }));
    drop(settled);
    fragile.faults.retry_count.store(false, SeqCst);
    assert!(fragile.faults.dropped.load(SeqCst) <= 2, "records were lost");
    nothing_leaked(&fragile);
}

#[test]
fn a_panic_in_the_drop_of_a_record_gives_all_credits_back() {
    type Settle = fn(conveyor_buffer::Batch<Brittle>);
    let ways: [Settle; 3] = [
        |batch| batch.ack(),
        |batch| {
            batch.settle(|_| Outcome::Ack);
        },
        |batch| drop(batch.into_records()),
    ];
    for settle in ways {
        let fragile = Fragile::new();
        let batch = take(&fragile.stage, 5);
        fragile.faults.drop.store(true, SeqCst);
        assert!(panic_message(|| settle(batch)).contains("drop"));
        fragile.faults.drop.store(false, SeqCst);
        fragile.all_gone();
    }
}

#[test]
fn a_panic_in_the_drop_of_one_record_harms_no_other_outcome() {
    let fragile = Fragile::new();
    let batch = take(&fragile.stage, 5);
    fragile.faults.drop.store(true, SeqCst);
    panic_message(|| {
        batch.settle(|record| match record.id {
            0 => Outcome::Return,
            4 => Outcome::DeadLetter,
            _ => Outcome::Ack,
        });
    });
    fragile.faults.drop.store(false, SeqCst);
    assert_eq!(fragile.manager.dead_letters().try_recv().unwrap().record.id, 4);
    assert_eq!((fragile.stage.len(), fragile.stage.in_flight()), (1, 0));
    assert_eq!(take(&fragile.stage, 5).into_records()[0].id, 0);
    fragile.all_gone();
}

#[test]
fn handles_work_on_after_their_manager_is_dropped() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let letters = manager.dead_letters();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let batch = take(&stage, 2);
    drop(manager);
    source.try_send(&stage, row("a", 4)).unwrap();
    batch.settle(|row| if row.id == 0 { Outcome::Return } else { Outcome::DeadLetter });
    assert_eq!(letters.try_recv().unwrap().record.id, 1);
    assert_eq!(drain(&stage), [0, 2, 3, 4]);
    assert_eq!(source.available_credits(), 10);
    assert!(is_empty(&stage));
}

#[test]
fn a_batch_outlives_every_handle() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let mut batch = take(&stage, 4);
    drop((manager, stage, source));
    let rest = batch.split_off(2);
    rest.return_to_buffer();
    assert_eq!(ids(&batch.into_records()), [0, 1]);
}

#[test]
fn records_that_no_handle_can_reach_are_dropped_and_give_their_credits_back() {
    let faults = Arc::new(Faults::default());
    let manager = BufferManager::builder(caps(20, 20, 20))
        .max_retries(0)
        .dead_letter_capacity(1)
        .build()
        .unwrap();
    let (stage, other) = (manager.stage("stage").unwrap(), manager.stage("other").unwrap());
    let (source, letters) = (manager.source("a").unwrap(), manager.dead_letters());
    let records = |n| {
        let new = |id| Brittle { id, marked: false, retries: 0, faults: Arc::clone(&faults) };
        (0..n).map(new).collect::<Vec<_>>()
    };
    source.try_send_batch(&stage, records(9)).unwrap();
    source.try_send_batch(&other, records(5)).unwrap();
    take(&stage, 2).return_to_buffer(); // one is a dead letter now, one is parked
    drop(take(&stage, 1)); // parked too
    assert_eq!((letters.len(), letters.parked()), (1, 2));
    assert_eq!(source.available_credits(), 20 - 13);

    drop((manager, stage));
    // The six that waited in "stage" are gone with it; its two parked ones still count.
    assert_eq!(faults.dropped.load(SeqCst), 6);
    assert_eq!(source.available_credits(), 20 - 7);
    assert_eq!(std::iter::from_fn(|| letters.try_recv()).count(), 3);
    assert_eq!(source.available_credits(), 20 - 5);
    source.try_send_batch(&other, records(15)).unwrap();
    take(&other, 20).ack();
    assert_eq!(source.available_credits(), 20);
    assert_eq!(faults.dropped.load(SeqCst), 9 + 5 + 15);
}

#[test]
fn everything_that_is_buffered_is_dropped_with_the_last_handle() {
    let fragile = Fragile::new();
    let faults = Arc::clone(&fragile.faults);
    take(&fragile.stage, 2).return_to_buffer();
    take(&fragile.stage, 1).settle(|_| Outcome::DeadLetter);
    let batch = take(&fragile.stage, 1);
    let Fragile { manager, stage, source, .. } = fragile;
    drop((manager, stage, source));
    batch.return_to_buffer();
    assert_eq!(faults.dropped.load(SeqCst), 5);
}

#[test]
fn every_last_credit_can_be_had_though_others_have_left_some_idle() {
    const TOTAL: usize = 400_000;
    let manager = BufferManager::builder(caps(TOTAL, TOTAL, 9_000))
        .source_capacity("large", TOTAL)
        .build()
        .unwrap();
    let stage = manager.stage("stage").unwrap();
    let large = manager.source("large").unwrap();
    let push_and_drain = |source: &Source<Row>, n: u64| {
        for from in (0..n).step_by(100) {
            source.try_send_batch(&stage, rows(source.id(), from..from + 100)).unwrap();
        }
        assert_eq!(drain(&stage).len(), n as usize);
    };
    for turn in 0..3 {
        let small: Vec<_> =
            (0..40).map(|n| manager.source(&format!("small {n}")).unwrap()).collect();
        small.iter().for_each(|source| push_and_drain(source, 5_000));
        assert_eq!(large.available_credits(), TOTAL, "turn {turn}");

        let mut accepted = 0;
        let refused = loop {
            match large.try_send_batch(&stage, rows("large", 0..997)) {
                Ok(()) => accepted += 997,
                Err(rejected) => {
                    accepted += rejected.accepted;
                    break rejected;
                }
            }
        };
        // Both caps are reached at once: the source's is asked first.
        assert_eq!(refused.reason, source_full("large", TOTAL, TOTAL));
        assert_eq!(accepted, TOTAL);
        for source in &small {
            assert_eq!(source.available_credits(), 0);
            let rejected = source.try_send(&stage, row(source.id(), 0)).unwrap_err();
            assert_eq!(rejected.reason, global_full(TOTAL, TOTAL));
        }
        assert_eq!(drain(&stage).len(), TOTAL);
        assert_eq!(block_on(manager.get_total_buffered()), 0);
    }
}

#[test]
fn a_global_refusal_is_honest_to_the_record() {
    const TOTAL: u64 = 100_000;
    let manager = Manager::new(caps(TOTAL as usize, TOTAL as usize, TOTAL as usize));
    let stage = manager.stage("stage").unwrap();
    let sources: Vec<_> = (0..40).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    let mut rng = Rng::new(1);
    for turn in 0..20 {
        // Everybody leases ahead, and leaves credits idle.
        for source in &sources {
            source.try_send_batch(&stage, rows(source.id(), 0..1_000)).unwrap();
            drain(&stage);
        }
        let mut held = 0;
        for source in &sources {
            let n = 1 + rng.below(2_000) as u64;
            source.try_send_batch(&stage, rows(source.id(), 0..n)).unwrap();
            held += n;
        }
        assert_eq!(block_on(manager.get_total_buffered()), held as usize);
        let free = TOTAL - held;
        let last = &sources[rng.below(40)];
        assert_eq!(last.available_credits(), free as usize);
        assert_eq!(block_on(manager.available_credits("nobody")), free as usize);
        let more = 1 + rng.below(3) as u64;
        let rejected = last.try_send_batch(&stage, rows("", 0..free + more)).unwrap_err();
        assert_eq!(rejected.accepted as u64, free, "turn {turn}");
        assert_eq!(rejected.records.len() as u64, more);
        assert_eq!(rejected.reason, global_full(TOTAL as usize, TOTAL as usize));
        // And again, by all, with the pool known to be empty.
        for source in &sources {
            let rejected = source.try_send(&stage, row("", 0)).unwrap_err();
            assert_eq!(rejected.reason, global_full(TOTAL as usize, TOTAL as usize));
        }
        // A single settled record lets a single record in.
        take(&stage, 1).ack();
        sources[3].try_send(&stage, row("", 0)).unwrap();
        assert!(sources[4].try_send(&stage, row("", 0)).unwrap_err().is_full());
        assert_eq!(drain(&stage).len(), TOTAL as usize);
    }
    assert_nothing_is_held(&manager, &[stage], &sources);
}

#[test]
fn a_race_for_the_last_credits_strands_none() {
    // Producers race for the last credits, over and over. With the lot of them at rest, used and
    // free add up to the cap exactly.
    const TOTAL: usize = 5_000;
    let manager = Manager::new(caps(TOTAL, TOTAL, 2 * TOTAL));
    let stage = manager.stage("stage").unwrap();
    let sources: Vec<_> = (0..4).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    for round in 0..100 {
        let accepted: usize = thread::scope(|scope| {
            let threads: Vec<_> = sources
                .iter()
                .map(|source| {
                    let stage = &stage;
                    scope.spawn(move || {
                        let mut accepted = 0;
                        loop {
                            match source.try_send_batch(stage, rows("", 0..37)) {
                                Ok(()) => accepted += 37,
                                Err(rejected) => {
                                    assert_eq!(
                                        rejected.reason.to_string().split(':').next(),
                                        Some("global buffer full"),
                                    );
                                    return accepted + rejected.accepted;
                                }
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(accepted <= TOTAL, "round {round}: {accepted}");
        let free = TOTAL - accepted;
        assert_eq!(sources[0].available_credits(), free, "round {round}");
        // What a race may have refused is there for whoever asks now.
        let rejected = sources[0].try_send_batch(&stage, rows("", 0..free as u64 + 1));
        assert_eq!(rejected.unwrap_err().accepted, free, "round {round}");
        assert_eq!(drain(&stage).len(), TOTAL);
    }
    assert_nothing_is_held(&manager, &[stage], &sources);
}

#[test]
fn a_record_that_changes_its_source_in_a_workers_hands_confuses_no_account() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let other = manager.source("b").unwrap();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let mut batch = take(&stage, 4);
    batch.iter_mut().for_each(|row| row.source = "b".into());
    batch.return_to_buffer();
    assert_eq!((source.utilization(), other.utilization()), (0.4, 0.0));
    take(&stage, 2).ack();
    take(&stage, 1).settle(|_| Outcome::DeadLetter);
    drop(take(&stage, 1).into_records());
    assert_nothing_is_held(&manager, &[stage], &[source, other]);
}

#[test]
fn the_default_buffer_takes_and_gives_a_million_records_without_losing_one() {
    let manager = Manager::new(BufferSettings::default());
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let mut expected = 0;
    for from in (0..1_000_000).step_by(100) {
        source.try_send_batch(&stage, rows("a", from..from + 100)).unwrap();
        let batch = take(&stage, 100);
        for row in &batch {
            assert_eq!(row.id, expected);
            expected += 1;
        }
        batch.ack();
    }
    assert_eq!(expected, 1_000_000);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}
