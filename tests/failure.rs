//! What happens to records that fail: delays, requeues, isolation, and what settling tells.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use conveyor_buffer::{
    Backoff, Batch, BufferManager, BufferSettings, DeadLetterReason, Outcome, SettingsError,
    Source, Stage,
};
use pollster::block_on;

use common::*;

const SOON: Duration = Duration::from_millis(30);
const LATE: Duration = Duration::from_secs(3600);

fn with_retries(
    retries: u32,
    backoff: Option<Backoff>,
) -> (BufferManager<Row>, Stage<Row>, Source<Row>) {
    let mut builder = BufferManager::builder(BufferSettings::default()).max_retries(retries);
    if let Some(backoff) = backoff {
        builder = builder.retry_backoff(backoff);
    }
    let manager = builder.build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    (manager, stage, source)
}

fn retries(batch: &Batch<Row>) -> Vec<u32> {
    batch.iter().map(|row| row.retries).collect()
}

#[test]
fn a_delayed_record_keeps_its_credit_and_its_place_and_counts_apart() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    let settled = take(&stage, 3).return_after(LATE);
    assert_eq!((settled.delayed, settled.returned), (3, 0));
    assert_eq!((stage.len(), stage.in_flight(), stage.delayed()), (2, 0, 3));
    assert_eq!((stage.utilization(), source.available_credits()), (0.5, 5));
    assert_eq!(manager.remaining().records(), 5);
    assert_eq!(ids(&take(&stage, 10)), [3, 4]);
    // Those came back, and the delayed ones are still away.
    assert_eq!((stage.len(), stage.delayed()), (2, 3));
    take(&stage, 10).ack();
    assert!(stage.try_recv_batch(10).is_err());
    assert_eq!(manager.drain_timeout(Duration::from_millis(5)).unwrap_err().records(), 3);
}

#[test]
fn delayed_records_come_back_in_the_order_of_their_due_times_before_all_others() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let mut delay = 40;
    take(&stage, 3).settle(|_| {
        delay -= 10;
        Outcome::ReturnAfter(Duration::from_millis(delay))
    });
    take(&stage, 1).return_to_buffer();
    while stage.delayed() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let batch = take(&stage, 10);
    assert_eq!(ids(&batch), [2, 1, 0, 3, 4, 5]);
    assert_eq!(retries(&batch), [1, 1, 1, 1, 0, 0]);
    batch.ack();
    assert_eq!(stage.delayed(), 0);
}

#[test]
fn a_delay_of_nothing_is_a_return() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send(&stage, row("a", 1)).unwrap();
    assert_eq!(take(&stage, 1).return_after(Duration::ZERO).returned, 1);
    assert_eq!(stage.len(), 1);
}

#[test]
fn a_delay_without_end_does_not_overflow() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    assert_eq!(take(&stage, 1).return_after(Duration::MAX).delayed, 1);
    assert_eq!(take(&stage, 1).return_after(Duration::from_secs(u64::MAX / 2)).delayed, 1);
    assert_eq!((stage.len(), stage.delayed()), (0, 2));
}

#[test]
fn every_way_to_wait_is_woken_for_a_record_that_becomes_due() {
    type Wait = fn(&Stage<Row>) -> Batch<Row>;
    let ways: [Wait; 5] = [
        |stage| stage.recv_batch_blocking(10).unwrap(),
        |stage| stage.recv_batch_timeout(10, LATE).unwrap(),
        |stage| stage.recv_batch_linger_blocking(1, LATE).unwrap(),
        |stage| block_on(stage.recv_batch(10)).unwrap(),
        |stage| block_on(stage.recv_batch_linger(1, LATE)).unwrap(),
    ];
    for wait in ways {
        let (_manager, stage, source) = one_of_each(10, 10, 10);
        source.try_send(&stage, row("a", 1)).unwrap();
        let start = Instant::now();
        let away = take(&stage, 1);
        let worker = thread::spawn({
            let stage = stage.clone();
            move || (ids(&wait(&stage)), Instant::now())
        });
        away.return_after(SOON);
        let (seen, at) = worker.join().unwrap();
        assert_eq!(seen, [1]);
        assert!(at - start >= SOON, "it came back early");
    }
}

#[test]
fn a_worker_that_lingers_is_woken_when_due_records_fill_its_batch() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    take(&stage, 3).return_after(SOON);
    let batch = stage.recv_batch_linger_blocking(4, LATE).unwrap();
    assert_eq!(batch.len(), 4);
    batch.ack();
}

#[test]
fn an_earlier_due_time_replaces_a_later_timer() {
    let (_manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    take(&stage, 1).return_after(LATE);
    take(&stage, 1).return_after(SOON);
    assert_eq!(ids(&stage.recv_batch_blocking(10).unwrap()), [1]);
    assert_eq!(stage.delayed(), 1);
}

#[test]
fn a_drain_waits_for_delayed_records_and_a_close_keeps_them() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    take(&stage, 3).return_after(SOON);
    manager.close();
    let worker = thread::spawn({
        let stage = stage.clone();
        move || {
            let mut seen = 0;
            while let Ok(batch) = stage.recv_batch_blocking(2) {
                seen += batch.len();
                batch.ack();
            }
            seen
        }
    });
    manager.drain_blocking();
    assert_eq!(stage.delayed(), 0);
    assert_eq!(worker.join().unwrap(), 3);
}

#[test]
fn records_that_never_became_due_go_with_their_stage() {
    let manager = BufferManager::<Row>::new(BufferSettings::default());
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    take(&stage, 3).return_after(LATE);
    assert!(manager.remove_stage("stage").is_err());
    drop((manager, stage));
    assert_eq!(source.available_credits(), 5_000);
}

#[test]
fn a_backoff_delays_every_kind_of_return() {
    let (manager, stage, source) = with_retries(9, Some(Backoff::fixed(LATE)));
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    assert_eq!(take(&stage, 1).return_to_buffer().delayed, 1);
    assert_eq!(take(&stage, 1).settle(|_| Outcome::Return).delayed, 1);
    drop(take(&stage, 1));
    let out = block_on(manager.get_batch("stage", 1));
    assert_eq!(block_on(manager.return_to_buffer("stage", out)).unwrap(), 1);
    assert_eq!((stage.len(), stage.delayed()), (0, 4));
}

#[test]
fn an_outage_shorter_than_the_backoff_costs_no_record() {
    let backoff = Backoff::exponential(Duration::from_millis(20), LATE).jitter(0.1);
    let (manager, stage, source) = with_retries(3, Some(backoff));
    source.try_send_batch(&stage, rows("a", 0..500)).unwrap();
    let end = Instant::now() + Duration::from_millis(60);
    let mut done = 0;
    while done < 500 {
        let batch = stage.recv_batch_blocking(100).unwrap();
        if Instant::now() < end {
            batch.return_to_buffer();
        } else {
            done += batch.len();
            batch.ack();
        }
    }
    assert!(manager.dead_letters().is_empty());
}

#[test]
fn a_jitter_outside_its_range_is_an_error_that_names_it() {
    for share in [-0.1, 1.1, f64::NAN] {
        let backoff = Backoff::fixed(SOON).jitter(share);
        let builder = BufferManager::<Row>::builder(BufferSettings::default());
        let error = builder.retry_backoff(backoff).build().unwrap_err();
        assert!(matches!(error, SettingsError::Share { field: "retry_backoff.jitter", .. }));
        assert!(error.to_string().starts_with("retry_backoff.jitter must be from 0.0 to 1.0"));
    }
}

#[test]
fn a_requeue_counts_no_retry_and_keeps_the_order() {
    let (manager, stage, source) = with_retries(0, None);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    take(&stage, 2).requeue();
    let settled = take(&stage, 1).settle(|_| Outcome::Requeue);
    assert_eq!((settled.requeued, settled.returned), (1, 0));
    let batch = take(&stage, 10);
    assert_eq!((ids(&batch), retries(&batch)), (vec![0, 1, 2, 3], vec![0; 4]));
    batch.ack();
    assert!(manager.dead_letters().is_empty());
}

#[test]
fn settling_tells_what_became_of_the_records() {
    let (_manager, stage, source) = with_retries(1, None);
    source.try_send_batch(&stage, rows("a", 0..12)).unwrap();
    let outcomes = [
        Outcome::Ack,
        Outcome::Return,
        Outcome::ReturnAfter(LATE),
        Outcome::Requeue,
        Outcome::DeadLetter,
        Outcome::Reject("why"),
    ];
    let settled = take(&stage, 12).settle(|row| outcomes[row.id as usize % 6]);
    assert_eq!((settled.acknowledged, settled.returned, settled.delayed), (2, 2, 2));
    assert_eq!((settled.requeued, settled.dead_lettered), (2, 4));
    // The returned ones have no retry left now.
    let settled = take(&stage, 12).return_to_buffer();
    assert_eq!((settled.returned, settled.dead_lettered), (2, 2));
}

#[test]
fn a_dead_letter_tells_why() {
    let (manager, stage, source) = with_retries(0, None);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    take(&stage, 1).dead_letter(format!("row {}", 0));
    take(&stage, 1).settle(|_| Outcome::Reject("not a number"));
    take(&stage, 1).settle(|_| Outcome::DeadLetter);
    take(&stage, 1).return_to_buffer();
    let letters = manager.dead_letters();
    let letters: Vec<_> = std::iter::from_fn(|| letters.try_recv()).collect();
    let texts: Vec<_> = letters.iter().map(|letter| letter.reason.to_string()).collect();
    assert_eq!(
        texts,
        ["rejected: row 0", "rejected: not a number", "rejected", "retries exhausted"]
    );
    assert_eq!(letters[3].reason, DeadLetterReason::RetriesExhausted);
}

/// A worker that panics at one record, as often as it takes.
fn work_with_poison(batch: usize, poison: u64) -> (Vec<u64>, Vec<u64>) {
    let (manager, stage, source) = with_retries(3, None);
    source.try_send_batch(&stage, rows("a", 0..100)).unwrap();
    let mut done = Vec::new();
    while let Ok(batch) = stage.try_recv_batch(batch) {
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let batch = batch;
            assert!(batch.iter().all(|row| row.id != poison), "poison");
            done.extend(ids(&batch));
            batch.ack();
        }));
        drop(worked);
    }
    let letters = manager.dead_letters();
    let dead = std::iter::from_fn(|| letters.try_recv()).map(|letter| letter.record.id).collect();
    assert_nothing_is_held(&manager, &[stage], &[source]);
    (done, dead)
}

#[test]
fn one_poison_record_uses_up_its_own_retries_and_nobody_elses() {
    for batch in [1, 10, 100] {
        let (mut done, dead) = work_with_poison(batch, 42);
        done.sort_unstable();
        let sound: Vec<u64> = (0..100).filter(|id| *id != 42).collect();
        assert_eq!((done, dead), (sound, vec![42]), "batches of {batch}");
    }
}

#[test]
fn isolated_records_come_one_to_a_batch_until_they_are_settled() {
    let (_manager, stage, source) = with_retries(9, None);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    let batch = take(&stage, 3);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _batch = batch;
        panic!("a worker panics");
    }));
    assert!(panicked.is_err());
    let first = take(&stage, 10);
    assert_eq!((ids(&first), retries(&first)), (vec![0], vec![1]));
    // It stays alone when it comes back, however it comes back.
    first.return_to_buffer();
    let first = take(&stage, 10);
    assert_eq!(ids(&first), [0]);
    first.requeue();
    // A worker that lingers gets it at once: nothing may join it.
    let first = stage.recv_batch_linger_blocking(10, LATE).unwrap();
    assert_eq!(ids(&first), [0]);
    first.return_after(Duration::from_millis(1));
    while stage.delayed() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let first = take(&stage, 10);
    assert_eq!(ids(&first), [0]);
    first.ack();
    assert_eq!(ids(&block_on(stage.recv_batch(10)).unwrap()), [1]);
}

#[test]
fn a_batch_ends_before_an_isolated_record() {
    let (_manager, stage, source) = with_retries(9, None);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let front = take(&stage, 1);
    let poison = take(&stage, 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _poison = poison;
        panic!("a worker panics");
    }));
    assert!(panicked.is_err());
    front.return_to_buffer();
    let [front, poison, rest] = [10, 10, 10].map(|max| take(&stage, max));
    assert_eq!([ids(&front), ids(&poison), ids(&rest)], [vec![0], vec![1], vec![2, 3]]);
    [front, poison, rest].into_iter().for_each(Batch::ack);
}

#[test]
fn a_panic_while_settling_isolates_the_records_that_were_not_decided() {
    let (_manager, stage, source) = with_retries(9, None);
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    let batch = take(&stage, 5);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        batch.settle(|row| if row.id < 2 { Outcome::Return } else { panic!("at 2") })
    }));
    assert!(panicked.is_err());
    let sizes = [take(&stage, 9), take(&stage, 9), take(&stage, 9), take(&stage, 9)];
    assert_eq!(sizes.each_ref().map(ids), [vec![0, 1], vec![2], vec![3], vec![4]]);
    sizes.into_iter().for_each(Batch::ack);
}

#[test]
fn singles_are_settled_one_by_one_and_the_rest_is_requeued() {
    let (manager, stage, source) = with_retries(9, None);
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    let mut singles = take(&stage, 6).into_singles();
    assert_eq!(singles.len(), 6);
    for (place, single) in singles.by_ref().take(4).enumerate() {
        assert_eq!(ids(&single), [place as u64]);
        if place % 2 == 0 {
            single.ack();
        } else {
            single.return_to_buffer();
        }
    }
    drop(singles);
    let batch = take(&stage, 10);
    assert_eq!((ids(&batch), retries(&batch)), (vec![1, 3, 4, 5], vec![1, 1, 0, 0]));
    batch.ack();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_batch_that_is_split_many_times_keeps_every_record_with_its_account() {
    let (manager, stage, source) = one_of_each(200, 200, 100);
    let other = manager.source("b").unwrap();
    for id in 0..100 {
        let source = if id % 3 == 0 { &other } else { &source };
        source.try_send(&stage, row(source.id(), id)).unwrap();
    }
    let mut rng = Rng::new(7);
    let mut parts = vec![take(&stage, 100)];
    for _ in 0..60 {
        let place = rng.below(parts.len());
        let at = rng.below(parts[place].len() + 1);
        let rest = parts[place].split_off(at);
        parts.insert(place + 1, rest);
    }
    assert_eq!(parts.iter().flat_map(ids).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    while !parts.is_empty() {
        let part = parts.swap_remove(rng.below(parts.len()));
        if rng.one_in(3) {
            part.return_to_buffer();
        } else {
            part.ack();
        }
    }
    let left = drain(&stage);
    assert!(left.is_sorted(), "returned records lost their order: {left:?}");
    assert_nothing_is_held(&manager, &[stage], &[source, other]);
}

const AGE: Duration = Duration::from_millis(20);

fn with_age() -> (BufferManager<Row>, Stage<Row>, Source<Row>) {
    let builder = BufferManager::builder(BufferSettings::default());
    let manager = builder.max_age(AGE).build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    (manager, stage, source)
}

fn expired(manager: &BufferManager<Row>) -> Vec<u64> {
    let letters = manager.dead_letters();
    let expired = std::iter::from_fn(|| letters.try_recv())
        .inspect(|letter| assert_eq!(letter.reason, DeadLetterReason::Expired))
        .map(|letter| letter.record.id);
    expired.collect()
}

#[test]
fn an_old_record_is_not_handed_out_in_any_way() {
    type Take = fn(&BufferManager<Row>, &Stage<Row>) -> Vec<u64>;
    let ways: [Take; 5] = [
        |_, stage| stage.try_recv_batch(10).map_or_else(|_| Vec::new(), |batch| ids(&batch)),
        |manager, _| ids(&block_on(manager.get_batch("stage", 10))),
        |_, stage| {
            let batch = stage.recv_batch_timeout(10, Duration::from_millis(1));
            batch.map_or_else(|_| Vec::new(), |batch| ids(&batch))
        },
        |manager, stage| {
            manager.close();
            stage.recv_batch_blocking(10).map_or_else(|_| Vec::new(), |batch| ids(&batch))
        },
        |manager, stage| {
            manager.close();
            let batch = block_on(stage.recv_batch_linger(10, SOON));
            batch.map_or_else(|_| Vec::new(), |batch| ids(&batch))
        },
    ];
    for take_in in ways {
        let (manager, stage, source) = with_age();
        source.try_send(&stage, row("a", 0)).unwrap();
        source.try_send_batch(&stage, rows("a", 1..5)).unwrap();
        thread::sleep(2 * AGE);
        assert_eq!(take_in(&manager, &stage), []);
        assert_eq!(expired(&manager), [0, 1, 2, 3, 4]);
        assert_eq!((stage.len(), stage.in_flight()), (0, 0));
    }
}

#[test]
fn a_young_record_behind_old_ones_is_handed_out() {
    let (manager, stage, source) = with_age();
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    thread::sleep(2 * AGE);
    source.try_send_batch(&stage, rows("a", 3..5)).unwrap();
    let batch = take(&stage, 10);
    assert_eq!((ids(&batch), expired(&manager)), (vec![3, 4], vec![0, 1, 2]));
    batch.ack();
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn the_age_counts_across_returns_and_stages() {
    let (manager, stage, source) = with_age();
    let next = manager.stage("next").unwrap();
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    thread::sleep(AGE * 3 / 4);
    let Ok(mut batch) = stage.try_recv_batch(4) else { return };
    batch.split_off(2).try_forward(&next).unwrap();
    batch.return_to_buffer();
    thread::sleep(AGE);
    assert!(stage.try_recv_batch(4).is_err() && next.try_recv_batch(4).is_err());
    let mut ids = expired(&manager);
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
}

#[test]
fn an_age_outside_its_range_is_an_error_that_names_it() {
    for age in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(25 * 86_400)] {
        let builder = BufferManager::<Row>::builder(BufferSettings::default());
        let error = builder.max_age(age).build().unwrap_err();
        assert!(error.to_string().starts_with("max_age must be from 1 ms to 24 days"), "{error}");
    }
}
