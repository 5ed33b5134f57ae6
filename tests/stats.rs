//! Statistics: levels and counts, as numbers and as tables.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use conveyor_buffer::{Counts, Outcome, SourceStats, StageStats, Stats};

use common::waiting::waiting;
use common::*;

fn stage<'a>(stats: &'a Stats, id: &str) -> &'a StageStats {
    stats.stages.iter().find(|stage| stage.id == id).unwrap()
}

fn source<'a>(stats: &'a Stats, id: &str) -> &'a SourceStats {
    stats.sources.iter().find(|source| source.id == id).unwrap()
}

#[test]
fn every_record_is_counted_where_it_is() {
    let manager = Manager::builder(caps(100, 50, 60)).dead_letter_capacity(2).build().unwrap();
    let (first, next) = (manager.stage("first").unwrap(), manager.stage("next").unwrap());
    let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
    a.try_send_batch(&first, rows("a", 0..30)).unwrap();
    b.try_send_batch(&next, rows("b", 0..5)).unwrap();
    // Three letters, of which one is parked; four records that are not due; two in flight.
    take(&first, 3).settle(|_| Outcome::DeadLetter);
    take(&first, 4).return_after(Duration::from_secs(3_600));
    let batch = take(&first, 2);
    take(&first, 1).try_forward(&next).unwrap();
    take(&first, 6).ack();
    let permit = b.try_reserve(&first, 7).unwrap();

    let stats = manager.stats();
    let ids: Vec<&str> = stats.stages.iter().map(|stage| stage.id.as_str()).collect();
    assert_eq!(ids, ["first", "next"]);
    let StageStats { queued, delayed, in_flight, reserved, parked, capacity, .. } =
        *stage(&stats, "first");
    assert_eq!((queued, delayed, in_flight), (14, 4, 2));
    assert_eq!((reserved, parked, capacity), (7, 1, 50));
    assert_eq!(stage(&stats, "first").held(), 28);
    assert_eq!((stage(&stats, "next").queued, stage(&stats, "next").held()), (6, 6));
    let SourceStats { held, reserved, parked, capacity, .. } = *source(&stats, "a");
    assert_eq!((held, reserved, parked, capacity), (22, 0, 1, 60));
    assert_eq!((source(&stats, "b").held, source(&stats, "b").reserved), (12, 7));
    assert_eq!((stats.held, stats.capacity, stats.dead_letters, stats.parked), (34, 100, 2, 1));
    // The sums agree.
    let by_stage: usize = stats.stages.iter().map(StageStats::held).sum();
    let by_source: usize = stats.sources.iter().map(|source| source.held).sum();
    assert_eq!((by_stage, by_source), (stats.held, stats.held));
    assert_eq!((manager.len(), a.len(), b.len()), (34, 22, 12));
    assert_eq!((manager.capacity(), manager.utilization()), (100, 0.34));

    drop(permit);
    batch.ack();
    assert_eq!((stage(&manager.stats(), "first").reserved, b.len()), (0, 5));
    manager.remove_source("nobody").unwrap_err();
}

#[test]
fn an_empty_buffer_has_empty_statistics() {
    let manager = Manager::new(caps(7, 5, 3));
    let stats = manager.stats();
    assert_eq!((stats.held, stats.capacity), (0, 7));
    assert!(stats.stages.is_empty() && stats.sources.is_empty());
    assert!(manager.is_empty() && manager.source("a").unwrap().is_empty());
    assert_eq!(manager.stats().sources[0].capacity, 3);
}

#[test]
fn the_table_has_a_line_for_each_name_and_columns_that_line_up() {
    let manager = Manager::new(caps(100_000, 50_000, 40_000));
    let long = "a stage with a näme that is long";
    let (stage, source) = (manager.stage(long).unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..12_345)).unwrap();
    manager.stage("b").unwrap();
    let table = manager.stats().to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 9);
    let ends =
        |line: &str, cell: &str| line.find(cell).map(|at| line[..at + cell.len()].chars().count());
    assert_eq!(ends(lines[1], "held"), ends(lines[2], "12345"));
    assert_eq!(ends(lines[1], "  of"), ends(lines[3], "50000"));
    let wide = |lines: &[&str]| {
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        widths.iter().all(|width| *width == widths[0])
    };
    assert!(wide(&lines[1..4]) && wide(&lines[4..7]) && wide(&lines[7..]), "{table}");
}

#[test]
fn refusals_and_waits_are_counted_by_stage_by_source_and_for_the_whole() {
    let manager = Manager::new(caps(10, 6, 4));
    let (stage, other) = (manager.stage("stage").unwrap(), manager.stage("other").unwrap());
    let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
    a.try_send_batch(&stage, rows("a", 0..5)).unwrap_err();
    b.try_send_batch(&stage, rows("b", 0..3)).unwrap_err();
    a.try_reserve(&stage, 7).unwrap_err();
    b.producer(&stage).try_send(row("b", 9)).unwrap_err();
    let wait = Duration::from_millis(20);
    b.send_timeout(&stage, row("b", 9), wait).unwrap_err();
    b.try_send_batch(&other, rows("b", 3..5)).unwrap();
    take(&other, 2).forward_timeout(&stage, wait).unwrap_err().into_inner().ack();
    manager.close();
    b.try_send(&other, row("b", 9)).unwrap_err();

    let stats = manager.stats();
    let refused = stage_refusals(&stats, "stage");
    assert_eq!((refused.source, refused.stage, refused.too_large), (1, 4, 1));
    assert_eq!((refused.total(), stage_refusals(&stats, "other").closed), (6, 1));
    assert_eq!(
        (source(&stats, "a").refusals.total(), source(&stats, "b").refusals.total()),
        (2, 4)
    );
    assert_eq!((stats.refusals.total(), stats.refusals.closed), (7, 1));
    let (by_stage, by_source) = (stage.stats().waits, b.stats().waits);
    assert_eq!((by_stage.calls, by_source.calls, stats.waits.calls), (2, 1, 2));
    assert!(by_source.time >= wait / 2 && by_stage.time >= wait, "{by_stage:?} {by_source:?}");
}

fn stage_refusals(stats: &Stats, id: &str) -> conveyor_buffer::Refusals {
    stage(stats, id).refusals
}

#[test]
fn counts_of_a_removed_stage_stay_in_the_sums() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    take(&stage, 2).ack();
    take(&stage, 1).dead_letter("late");
    manager.remove_stage("stage").unwrap();
    let stats = manager.stats();
    assert_eq!((stats.stages.len(), stats.counts.accepted), (0, 3));
    assert_eq!((stats.counts.acknowledged, stats.counts.rejected), (2, 1));
    manager.stage("stage").unwrap();
    assert_eq!(manager.stats().stages[0].counts, Counts::default());
}

#[test]
fn requests_that_a_removed_stage_refuses_stay_in_the_sums() {
    let (manager, stage, source) = one_of_each(2, 10, 10);
    let other = manager.stage("other").unwrap();
    source.try_send_batch(&other, rows("a", 0..2)).unwrap();
    let mut request = waiting(source.send(&stage, row("a", 2)));
    manager.remove_stage("stage").unwrap();
    take(&other, 2).ack();
    assert!(request.done().unwrap_err().is_closed());
    assert!(source.try_send(&stage, row("a", 3)).unwrap_err().is_closed());
    let sums = manager.stats();
    assert_eq!((sums.waits.calls, sums.refusals.closed), (1, 2));
    // Those of stages without a handle as well.
    for n in 0..10 {
        let stage = manager.stage("stage").unwrap();
        manager.remove_stage("stage").unwrap();
        source.try_send(&stage, row("a", n)).unwrap_err();
    }
    let sums = manager.stats();
    assert_eq!((sums.waits.calls, sums.refusals.closed), (1, 12));
}

/// Threads push, give up, fail and forward while another one reads: no count decreases or runs ahead
/// of what was done, and at the end all agree with the counts that the threads kept.
#[test]
fn counts_never_decrease_and_agree_at_rest_with_those_kept_outside() {
    const ROUNDS: u64 = 3_000;
    let manager = Manager::builder(caps(64, 24, 40)).max_retries(2).build().unwrap();
    let (first, next) = (manager.stage("first").unwrap(), manager.stage("next").unwrap());
    let (begun, pushed, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (acked, out, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = |mut random: Rng, source: &str| {
        let source = manager.source(source).unwrap();
        let mut producer = source.producer(&first).with_block_size(5);
        for round in 0..ROUNDS {
            begun.fetch_add(4, SeqCst);
            let record = row("a", round);
            let sent = match random.below(5) {
                0 => u64::from(source.try_send(&first, record).is_ok()),
                1 => u64::from(producer.try_send(record).is_ok()),
                2 => source
                    .try_reserve(&first, 4)
                    .map_or(0, |mut permit| u64::from(permit.push(record).is_ok())),
                3 => match source.try_send_batch(&first, rows("a", 0..4)) {
                    Ok(()) => 4,
                    Err(rejected) => rejected.accepted as u64,
                },
                _ => {
                    let sent = source.send_timeout(&first, record, Duration::from_micros(50));
                    u64::from(sent.is_ok())
                }
            };
            pushed.fetch_add(sent, SeqCst);
        }
    };
    let settle = |mut random: Rng| {
        while !stop.load(SeqCst) {
            let stage = if random.below(2) == 0 { &first } else { &next };
            let Ok(batch) = stage.try_recv_batch(random.below(7) + 1) else {
                thread::yield_now();
                continue;
            };
            let len = batch.len() as u64;
            match random.below(6) {
                0 => batch.requeue(),
                1 => drop(batch.return_to_buffer()),
                2 => drop(batch.forward_timeout(&next, Duration::from_micros(50))),
                3 => {
                    out.fetch_add(len, SeqCst);
                    drop(batch.into_records());
                }
                _ => {
                    acked.fetch_add(len, SeqCst);
                    batch.ack();
                }
            }
            done.fetch_add(1, SeqCst);
        }
    };
    let watch = || {
        let mut last = Stats::default();
        while !stop.load(SeqCst) {
            let stats = manager.stats();
            let (now, before) = (stats.counts, last.counts);
            assert!(now.accepted >= before.accepted && now.acknowledged >= before.acknowledged);
            assert!(now.accepted <= begun.load(SeqCst), "{now:?}");
            assert!(now.acknowledged <= acked.load(SeqCst), "{now:?}");
            assert!(now.forwarded_in >= before.forwarded_in);
            last = stats;
        }
    };
    thread::scope(|scope| {
        let pushers = [("a", 1), ("b", 2)]
            .map(|(source, seed)| scope.spawn(move || work(Rng::new(seed), source)));
        scope.spawn(|| settle(Rng::new(3)));
        scope.spawn(|| settle(Rng::new(4)));
        scope.spawn(watch);
        for pusher in pushers {
            pusher.join().unwrap();
        }
        stop.store(true, SeqCst);
    });
    let stats = manager.stats();
    let Counts { accepted, acknowledged, handed_out, forwarded_in, forwarded_out, .. } =
        stats.counts;
    assert_eq!((accepted, acknowledged), (pushed.load(SeqCst), acked.load(SeqCst)));
    assert_eq!((handed_out, forwarded_in), (out.load(SeqCst), forwarded_out));
    let by_source: u64 = stats.sources.iter().map(|source| source.accepted).sum();
    assert_eq!(by_source, accepted);
    for stage in &stats.stages {
        let counts = stage.counts;
        let gone = counts.acknowledged + counts.handed_out + counts.forwarded_out;
        let held = (stage.queued + stage.delayed + stage.in_flight) as u64;
        let came = counts.accepted + counts.forwarded_in;
        assert_eq!(came, gone + counts.dead_lettered() + held, "{stage:?}");
        assert_eq!(stage.reserved, 0);
    }
    assert!(acknowledged > 0 && forwarded_in > 0 && done.load(SeqCst) > 0);
}

#[test]
fn times_are_those_of_the_stage_and_the_age_that_of_the_record_in_front() {
    let manager = Manager::builder(caps(100, 50, 50)).measure_time(true).build().unwrap();
    let (stage, next) = (manager.stage("stage").unwrap(), manager.stage("next").unwrap());
    let source = manager.source("a").unwrap();
    let pause = Duration::from_millis(30);
    assert_eq!((stage.stats().oldest, stage.stats().time_in_stage), (None, None));
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    thread::sleep(pause);
    let mut producer = source.producer(&stage);
    producer.try_send(row("a", 10)).unwrap();
    producer.flush();
    assert!(stage.stats().oldest.unwrap() >= pause);

    // Only what is behind it is younger; what comes back is as old as it was.
    let batch = take(&stage, 10);
    assert!(stage.stats().oldest.unwrap() < pause);
    batch.requeue();
    assert!(stage.stats().oldest.unwrap() >= pause);
    let waited = stage.stats().time_in_stage.unwrap();
    assert!(waited.p50 >= pause.mul_f64(0.99) && waited.max <= 2 * waited.p50, "{waited:?}");
    take(&stage, 10).try_forward(&next).unwrap();
    let after = next.stats();
    assert!(after.oldest.unwrap() >= pause && after.time_in_stage.is_none());
    take(&next, 10).ack();
    // The time is that in the stage, not that in the buffer.
    assert!(next.stats().time_in_stage.unwrap().p50 < pause, "{:?}", next.stats());
    take(&stage, 1).ack();
    assert_eq!((stage.stats().oldest, next.stats().oldest), (None, None));
    let table = manager.stats().to_string();
    assert!(table.contains("oldest") && table.contains("ms"), "{table}");
}

#[test]
fn nothing_is_left_of_the_times_of_records_that_threads_pushed_and_took() {
    let manager = Manager::builder(caps(64, 64, 64)).measure_time(true).build().unwrap();
    let stage = manager.stage("stage").unwrap();
    thread::scope(|scope| {
        let pushers = ["a", "b"].map(|source| {
            let (source, stage) = (manager.source(source).unwrap(), &stage);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let records = rows("a", 0..round % 4 + 1);
                    source.send_batch_blocking(stage, records).unwrap();
                }
            })
        });
        for max in [1, 7] {
            let stage = &stage;
            scope.spawn(move || {
                while let Ok(batch) = stage.recv_batch_blocking(max) {
                    if batch.iter().any(|row| row.id == 2 && row.retries == 0) {
                        batch.return_to_buffer();
                    } else {
                        batch.ack();
                    }
                }
            });
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        manager.close();
    });
    let stats = stage.stats();
    assert_eq!((stats.held(), stats.oldest), (0, None));
    assert!(stats.time_in_stage.is_some() && stats.counts.returned > 0);
}
