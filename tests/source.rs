//! A source: pushes on an account of its own.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use conveyor_buffer::{BackpressureSignal, BufferManager, RejectReason, Source};

use common::*;

#[test]
fn a_source_knows_its_name_and_its_cap() {
    let (manager, _, source) = one_of_each(10, 10, 7);
    assert_eq!((source.id(), source.capacity()), ("a", 7));
    assert_eq!(manager.source("a").unwrap().id(), "a");
}

#[test]
fn clones_and_namesakes_share_one_account() {
    let (manager, stage, source) = one_of_each(10, 10, 4);
    let (clone, namesake) = (source.clone(), manager.source("a").unwrap());
    source.try_send(&stage, row("a", 0)).unwrap();
    clone.try_send(&stage, row("a", 1)).unwrap();
    namesake.try_send(&stage, row("a", 2)).unwrap();
    for handle in [&source, &clone, &namesake] {
        assert_eq!((handle.available_credits(), handle.utilization()), (1, 0.75));
    }
}

#[test]
fn a_source_at_its_cap_is_refused_and_others_are_not() {
    let (manager, stage, source) = one_of_each(10, 10, 2);
    let other = manager.source("b").unwrap();
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    for _ in 0..3 {
        let rejected = source.try_send(&stage, row("a", 2)).unwrap_err();
        assert_eq!(rejected.reason, source_full("a", 2, 2));
        assert_eq!(rejected.into_record(), row("a", 2));
    }
    other.try_send(&stage, row("b", 3)).unwrap();
    // The cap is over all stages, and over batches that are not settled.
    let next = manager.stage("next").unwrap();
    assert!(source.try_send(&next, row("a", 4)).is_err());
    let batch = take(&stage, 1);
    assert!(source.try_send(&next, row("a", 4)).is_err());
    batch.ack();
    source.try_send(&next, row("a", 4)).unwrap();
}

#[test]
fn a_batch_is_accepted_up_to_the_longest_prefix_that_fits() {
    let (_manager, stage, source) = one_of_each(100, 100, 10);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let rejected = source.try_send_batch(&stage, rows("a", 4..14)).unwrap_err();
    assert_eq!((rejected.accepted, ids(&rejected.records)), (6, vec![10, 11, 12, 13]));
    assert_eq!(rejected.reason, source_full("a", 10, 10));
    let again = source.try_send_batch(&stage, rejected.into_records()).unwrap_err();
    assert_eq!((again.accepted, again.records.len()), (0, 4));
    take(&stage, 3).ack();
    let again = source.try_send_batch(&stage, again.into_records()).unwrap_err();
    assert_eq!((again.accepted, ids(&again.records)), (3, vec![13]));
    assert_eq!(drain(&stage), (3..13).collect::<Vec<_>>());
}

#[test]
fn an_empty_batch_is_always_accepted_and_changes_nothing() {
    let (_manager, stage, source) = one_of_each(1, 1, 1);
    source.try_send_batch(&stage, Vec::new()).unwrap();
    assert_eq!((stage.len(), source.available_credits()), (0, 1));
    source.try_send(&stage, row("a", 0)).unwrap();
    source.try_send_batch(&stage, Vec::new()).unwrap();
    assert_eq!(drain(&stage), [0]);
}

#[test]
fn a_vec_that_fits_whole_is_handed_on_as_it_is() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    let pushed = rows("a", 0..20);
    let place = pushed.as_ptr();
    source.try_send_batch(&stage, pushed).unwrap();
    let taken = take(&stage, 20).into_records();
    assert_eq!((taken.as_ptr(), taken.len()), (place, 20));
    // And a batch that is refused as a whole comes back as it went.
    source.try_send_batch(&stage, rows("a", 0..100)).unwrap();
    let rejected = source.try_send_batch(&stage, taken).unwrap_err();
    assert_eq!(ids(&rejected.into_records()), (0..20).collect::<Vec<_>>());
}

#[test]
fn records_are_charged_to_the_handle_whatever_they_say() {
    let (manager, stage, source) = one_of_each(10, 10, 5);
    let other = manager.source("b").unwrap();
    source.try_send_batch(&stage, rows("b", 0..3)).unwrap();
    source.try_send(&stage, row("", 3)).unwrap();
    assert_eq!((source.available_credits(), other.available_credits()), (1, 5));
    assert_eq!(drain(&stage).len(), 4);
    assert_eq!((source.available_credits(), other.available_credits()), (5, 5));
}

#[test]
fn available_credits_are_exactly_what_a_push_may_have() {
    let manager = BufferManager::builder(caps(50, 50, 20)).build().unwrap();
    let stage = manager.stage("stage").unwrap();
    let sources: Vec<_> = (0..5).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    let mut rng = Rng::new(1);
    for _ in 0..2_000 {
        let source = &sources[rng.below(5)];
        let available = source.available_credits();
        assert_eq!(block_on(manager.available_credits(source.id())), available);
        let n = rng.below(12);
        match source.try_send_batch(&stage, rows(source.id(), 0..n as u64)) {
            Ok(()) => assert!(n <= available),
            Err(rejected) => assert_eq!((rejected.accepted, n > available), (available, true)),
        }
        if let Ok(batch) = stage.try_recv_batch(rng.below(15)) {
            batch.ack();
        }
    }
}

#[test]
fn a_source_larger_than_the_buffer_is_bounded_by_the_buffer() {
    let (_manager, stage, source) = one_of_each(3, 10, 10);
    assert_eq!(source.available_credits(), 3);
    let rejected = source.try_send_batch(&stage, rows("a", 0..9)).unwrap_err();
    assert_eq!((rejected.accepted, rejected.reason), (3, global_full(3, 3)));
    assert_eq!((source.available_credits(), source.utilization()), (0, 0.3));
}

#[test]
fn a_full_stage_costs_a_source_nothing() {
    let (manager, stage, source) = one_of_each(1_000_000, 2, 100_000);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    for _ in 0..1_000 {
        let rejected = source.try_send_batch(&stage, rows("a", 0..500)).unwrap_err();
        assert_eq!((rejected.accepted, rejected.reason), (0, stage_full("stage", 2, 2)));
    }
    assert_eq!(source.available_credits(), 99_998);
    assert_eq!(block_on(manager.get_total_buffered()), 2);
}

#[test]
fn a_source_shows_its_state() {
    let (_manager, stage, source) = one_of_each(10, 10, 4);
    source.try_send_batch(&stage, rows("a", 0..4)).unwrap();
    let text = format!("{source:?}");
    for part in ["\"a\"", "1.0", "4", "Pause"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_was_accepted_of_a_long_batch_keeps_no_memory_for_the_rest() {
    let manager = Manager::new(caps(1_000, 2, 1_000));
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let refused = source.try_send_batch(&stage, rows("a", 0..1_000)).unwrap_err();
    assert_eq!((refused.accepted, refused.records.len()), (2, 998));
    assert!(stage.try_recv_batch(2).unwrap().into_records().capacity() <= 4);

    // Nor for what the caller had made room for.
    let mut spacious = Vec::with_capacity(1_000);
    spacious.extend(rows("a", 0..2));
    source.try_send_batch(&stage, spacious).unwrap();
    assert!(stage.try_recv_batch(2).unwrap().into_records().capacity() <= 4);
}

#[test]
fn a_long_batch_to_a_full_stage_takes_no_credits_from_others() {
    let manager = Manager::new(caps(1_000, 10, 1_000));
    let (full, free) = (manager.stage("full").unwrap(), manager.stage("free").unwrap());
    let greedy = manager.source("greedy").unwrap();
    greedy.try_send_batch(&full, rows("greedy", 0..10)).unwrap();
    let (attempts, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut backlog = rows("greedy", 10..910);
                while !done.load(SeqCst) {
                    backlog = greedy.try_send_batch(&full, backlog).unwrap_err().into_records();
                    attempts.fetch_add(1, SeqCst);
                }
            });
        }
        let modest = manager.source("modest").unwrap();
        let mut refused = 0;
        while attempts.load(SeqCst) < 200_000 {
            match modest.try_send(&free, row("modest", 0)) {
                Ok(()) => free.try_recv_batch(1).unwrap().ack(),
                Err(_) => refused += 1,
            }
        }
        done.store(true, SeqCst);
        assert_eq!(refused, 0, "at most 11 of 1,000 records are ever held");
        assert_eq!(manager.controller().current(), BackpressureSignal::Resume);
    });
}

#[test]
fn a_forced_push_evicts_the_oldest_record_of_a_full_stage_and_only_then() {
    let (manager, stage, source) = one_of_each(10, 3, 10);
    let other = manager.source("b").unwrap();
    let mut evicted = Vec::new();
    let mut force = |source: &Source<Row>, id, tag| {
        source.force_send(&stage, row(tag, id), |old| evicted.push(old.id)).unwrap();
        evicted.clone()
    };
    assert_eq!(force(&source, 0, "a"), []);
    assert_eq!(force(&other, 1, "b"), []);
    assert_eq!(force(&source, 2, "a"), []);
    // A record that came back is older than those that wait.
    assert_eq!(force(&other, 3, "b"), [0]);
    assert_eq!((source.len(), other.len(), manager.len()), (1, 2, 3));
    take(&stage, 1).return_to_buffer();
    assert_eq!(force(&source, 4, "a"), [0, 1]);
    assert_eq!(force(&source, 5, "a"), [0, 1, 2]);
    assert_eq!(drain(&stage), [3, 4, 5]);
    assert_nothing_is_held(&manager, &[stage], &[source, other]);
}

#[test]
fn a_forced_push_is_refused_where_no_eviction_helps() {
    let (manager, stage, source) = one_of_each(10, 2, 3);
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let batch = take(&stage, 2);
    let never = |old: Row| panic!("{} is evicted", old.id);
    // Both records are in flight.
    let rejected = source.force_send(&stage, row("a", 2), never).unwrap_err();
    assert_eq!((rejected.reason, rejected.record.id), (stage_full("stage", 2, 2), 2));
    batch.ack();
    // The cap of the source, and a stage that is closed.
    let wide = manager.stage("wide").unwrap();
    source.try_send(&wide, row("a", 3)).unwrap();
    source.try_send_batch(&stage, rows("a", 4..6)).unwrap();
    let next = manager.stage("next").unwrap();
    let rejected = source.force_send(&next, row("a", 6), never).unwrap_err();
    assert!(matches!(rejected.reason, RejectReason::SourceFull { .. }), "{}", rejected.reason);
    stage.close();
    let rejected = manager.source("b").unwrap().force_send(&stage, row("b", 7), never).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Closed);
    drain(&stage);
    drain(&wide);
    assert_nothing_is_held(&manager, &[stage, wide], &[source]);
}

#[test]
fn a_panic_of_the_one_who_is_handed_an_evicted_record_holds_nothing() {
    let (manager, stage, source) = one_of_each(10, 1, 10);
    source.try_send(&stage, row("a", 0)).unwrap();
    let forced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        source.force_send(&stage, row("a", 1), |_| panic!("on purpose"))
    }));
    assert!(forced.is_err());
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn forced_pushes_of_many_threads_lose_and_double_nothing() {
    let (manager, stage, source) = one_of_each(100, 4, 100);
    let evicted = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (source, stage, evicted) = (source.clone(), &stage, &evicted);
            scope.spawn(move || {
                for id in 0..1_000 {
                    let keep = |old: Row| evicted.lock().unwrap().push(old.id);
                    source.force_send(stage, row("a", thread * 1_000 + id), keep).unwrap();
                }
            });
        }
    });
    let mut seen = evicted.into_inner().unwrap();
    assert_eq!(stage.len(), 4);
    seen.extend(drain(&stage));
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..4_000), "{} records", seen.len());
    assert_nothing_is_held(&manager, &[stage], &[source]);
}
