//! Names: made at first use, by many at once, up to a limit; removed when idle, also while pushes
//! by name race with the removal.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::thread;

use conveyor_buffer::{
    BufferManager, BufferSettings, RegistryError, RejectReason, Rejected, TryRecvError,
};

use common::*;

#[test]
fn a_name_is_one_stage_however_many_make_it_at_once() {
    for round in 0..100 {
        let manager = Manager::new(caps(100, 100, 100));
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for n in 0..4 {
                let (manager, barrier) = (&manager, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    if n % 2 == 0 {
                        let (stage, source) = (manager.stage("s"), manager.source("a"));
                        source.unwrap().try_send(&stage.unwrap(), row("a", n)).unwrap();
                    } else {
                        block_on(manager.buffer_for_stage("s", row("a", n))).unwrap();
                    }
                });
            }
        });
        let mut seen = drain(&manager.stage("s").unwrap());
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3], "round {round}");
        assert_eq!(manager.source("a").unwrap().available_credits(), 100);
    }
}

#[test]
fn many_at_once_never_make_more_names_than_allowed() {
    for _ in 0..50 {
        let manager =
            Manager::builder(caps(100, 10, 10)).max_stages(5).max_sources(6).build().unwrap();
        let (stages, sources) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for n in 0..4 {
                let (manager, barrier) = (&manager, &barrier);
                let (stages, sources) = (&stages, &sources);
                scope.spawn(move || {
                    barrier.wait();
                    for name in 0..4 {
                        let name = format!("{n} {name}");
                        stages.fetch_add(usize::from(manager.stage(&name).is_ok()), SeqCst);
                        sources.fetch_add(usize::from(manager.source(&name).is_ok()), SeqCst);
                    }
                });
            }
        });
        assert_eq!((stages.load(SeqCst), sources.load(SeqCst)), (5, 6));
    }
}

#[test]
fn one_name_too_many_is_refused_and_those_there_are_work_on() {
    let manager = Manager::builder(caps(100, 10, 10)).max_stages(2).max_sources(2).build().unwrap();
    for name in ["x", "y"] {
        manager.stage(name).unwrap();
        manager.source(name).unwrap();
    }
    let too_many = RegistryError::TooManyStages { max: 2 };
    assert_eq!(manager.stage("z").unwrap_err(), too_many);
    let too_many = RegistryError::TooManySources { max: 2 };
    assert_eq!(manager.source("z").unwrap_err(), too_many);

    let rejected = block_on(manager.buffer_for_stage("z", row("x", 7))).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::TooManyStages { max: 2 });
    assert_eq!(rejected.into_record().id, 7);
    let rejected =
        block_on(manager.buffer_batch_for_stage("x", [rows("y", 0..2), rows("z", 2..5)].concat()))
            .unwrap_err();
    assert_eq!(rejected.reason, RejectReason::TooManySources { max: 2 });
    assert_eq!((rejected.accepted, ids(&rejected.records)), (2, vec![2, 3, 4]));
    let rejected = block_on(manager.return_to_buffer("z", rows("x", 0..1))).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::TooManyStages { max: 2 });

    assert_eq!(block_on(manager.get_stage_buffer_size("x")), 2);
    block_on(manager.buffer_for_stage("y", row("x", 0))).unwrap();
    assert_eq!(block_on(manager.get_total_buffered()), 3);

    // Removing makes room.
    manager.remove_source("x").unwrap_err();
    drain(&manager.stage("y").unwrap());
    manager.remove_stage("y").unwrap();
    manager.remove_source("x").unwrap();
    assert!(manager.stage("z").is_ok() && manager.source("z").is_ok());
    assert!(manager.stage("y").is_err() && manager.source("x").is_err());
}

#[test]
fn an_empty_name_is_no_name() {
    let manager = Manager::new(BufferSettings::default());
    assert_eq!(manager.stage("").unwrap_err(), RegistryError::EmptyName { kind: "stage" });
    assert_eq!(manager.source("").unwrap_err(), RegistryError::EmptyName { kind: "source" });
    let rejected = block_on(manager.buffer_for_stage("", row("a", 1))).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::EmptyName { kind: "stage" });
    let rejected = block_on(manager.buffer_for_stage("stage", row("", 1))).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::EmptyName { kind: "source" });
    let rejected = block_on(manager.buffer_batch_for_stage("stage", rows("", 0..3))).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (0, 3));
    assert!(block_on(manager.get_batch("", 1)).is_empty());
    let unknown = manager.remove_stage("").unwrap_err();
    assert_eq!(unknown, RegistryError::UnknownStage { stage_id: "".into() });
}

#[test]
fn what_is_unknown_or_in_use_is_not_removed() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let unknown = RegistryError::UnknownStage { stage_id: "b".into() };
    assert_eq!(manager.remove_stage("b").unwrap_err(), unknown);
    let unknown = RegistryError::UnknownSource { source_id: "b".into() };
    assert_eq!(manager.remove_source("b").unwrap_err(), unknown);

    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    let stage_in_use = |held| RegistryError::StageInUse { stage_id: "stage".into(), held };
    let source_in_use = |held| RegistryError::SourceInUse { source_id: "a".into(), held };
    assert_eq!(manager.remove_stage("stage").unwrap_err(), stage_in_use(3));
    assert_eq!(manager.remove_source("a").unwrap_err(), source_in_use(3));
    let batch = take(&stage, 3);
    assert_eq!(manager.remove_stage("stage").unwrap_err(), stage_in_use(3));
    assert_eq!(manager.remove_source("a").unwrap_err(), source_in_use(3));
    batch.settle(|row| match row.id {
        0 => conveyor_buffer::Outcome::Return,
        _ => conveyor_buffer::Outcome::Ack,
    });
    assert_eq!(manager.remove_stage("stage").unwrap_err(), stage_in_use(1));
    assert_eq!(manager.remove_source("a").unwrap_err(), source_in_use(1));
    // Nothing was harmed by the attempts.
    source.try_send(&stage, row("a", 3)).unwrap();
    assert_eq!(drain(&stage), [0, 3]);

    manager.remove_stage("stage").unwrap();
    manager.remove_source("a").unwrap();
    let unknown = RegistryError::UnknownStage { stage_id: "stage".into() };
    assert_eq!(manager.remove_stage("stage").unwrap_err(), unknown);
    let unknown = RegistryError::UnknownSource { source_id: "a".into() };
    assert_eq!(manager.remove_source("a").unwrap_err(), unknown);
}

#[test]
fn a_source_whose_records_were_forwarded_is_still_in_use() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let next = manager.stage("next").unwrap();
    source.try_send(&stage, row("a", 0)).unwrap();
    take(&stage, 1).try_forward(&next).unwrap();
    manager.remove_stage("stage").unwrap();
    assert!(manager.remove_source("a").is_err() && manager.remove_stage("next").is_err());
    drain(&next);
    manager.remove_source("a").unwrap();
    manager.remove_stage("next").unwrap();
}

#[test]
fn stale_handles_are_refused_as_closed_and_the_name_begins_anew() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let next = manager.stage("next").unwrap();
    manager.remove_stage("stage").unwrap();
    let rejected = source.try_send(&stage, row("a", 1)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Closed);
    assert_eq!(source.available_credits(), 10);
    let rejected = source.try_send_batch(&stage, rows("a", 0..3)).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (0, 3));
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    source.try_send(&next, row("a", 2)).unwrap();
    let batch = take(&next, 1).try_forward(&stage).expect_err("the stage was removed").batch;
    batch.ack();

    let anew = manager.stage("stage").unwrap();
    source.try_send(&anew, row("a", 3)).unwrap();
    assert_eq!((stage.len(), anew.len()), (0, 1));
    assert_eq!(drain(&anew), [3]);

    manager.remove_source("a").unwrap();
    let rejected = source.try_send(&anew, row("a", 4)).unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Closed);
    assert_eq!(source.available_credits(), 0);
    let renewed = manager.source("a").unwrap();
    assert_eq!(renewed.available_credits(), 10);
    renewed.try_send(&anew, row("a", 5)).unwrap();
    assert_eq!((source.utilization(), renewed.utilization()), (0.0, 0.1));
    assert!(source.try_send(&anew, row("a", 6)).unwrap_err().is_closed());
    assert_eq!(drain(&anew), [5]);
}

#[test]
fn places_in_the_ledger_are_used_again_without_mixing_accounts() {
    let manager = Manager::builder(caps(1_000, 1_000, 10)).max_sources(8).build().unwrap();
    let stage = manager.stage("stage").unwrap();
    let mut stale = Vec::new();
    for generation in 0..3_000_u64 {
        let name = format!("source {generation}");
        let source = manager.source(&name).unwrap();
        assert_eq!((source.capacity(), source.available_credits()), (10, 10));
        let rejected = source.try_send_batch(&stage, rows(&name, 0..11)).unwrap_err();
        assert_eq!(rejected.reason, source_full(&name, 10, 10));
        assert_eq!(drain(&stage).len(), 10);
        manager.remove_source(&name).unwrap();
        // Some handles stay, and must not reach the account of those that come after.
        if generation % 7 == 0 {
            stale.push(source);
        }
    }
    let live = manager.source("live").unwrap();
    live.try_send_batch(&stage, rows("live", 0..4)).unwrap();
    for source in &stale {
        assert!(source.try_send(&stage, row("", 0)).unwrap_err().is_closed());
        assert_eq!((source.available_credits(), source.utilization()), (0, 0.0));
    }
    assert_eq!(live.available_credits(), 6);
    drop(stale);
    assert_eq!(live.available_credits(), 6);
    drain(&stage);
    assert_nothing_is_held(&manager, &[stage], &[live]);
}

#[test]
fn removing_a_source_brings_its_idle_credits_home() {
    let manager = Manager::builder(caps(50_000, 50_000, 50_000)).build().unwrap();
    let stage = manager.stage("stage").unwrap();
    let keeper = manager.source("keeper").unwrap();
    for generation in 0..200 {
        let name = generation.to_string();
        block_on(manager.buffer_batch_for_stage("stage", rows(&name, 0..1_000))).unwrap();
        drain(&stage);
        manager.remove_source(&name).unwrap();
        assert_eq!(keeper.available_credits(), 50_000);
    }
    keeper.try_send_batch(&stage, rows("keeper", 0..50_000)).unwrap();
    assert_eq!(manager.source("last").unwrap().available_credits(), 0);
    assert_eq!(drain(&stage).len(), 50_000);
}

#[test]
fn a_removal_that_races_with_pushes_by_name_loses_nothing() {
    const EACH: u64 = 15_000;
    let manager = Manager::new(caps(8, 8, 8));
    let producing = AtomicUsize::new(2);
    let (sum, count, removed) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..2_u64 {
            let (manager, producing) = (&manager, &producing);
            scope.spawn(move || {
                let mut rng = Rng::new(n);
                let mut id = n * EACH;
                while id < (n + 1) * EACH {
                    let stage = if rng.one_in(2) { "s" } else { "t" };
                    let source = if rng.one_in(2) { "a" } else { "b" };
                    if rng.one_in(2) {
                        match block_on(manager.buffer_for_stage(stage, row(source, id))) {
                            Ok(()) => id += 1,
                            // Nobody closes this buffer: a removal must not be seen from here.
                            Err(rejected) => assert!(rejected.is_full(), "{rejected}"),
                        }
                    } else {
                        let end = (id + 3).min((n + 1) * EACH);
                        match block_on(manager.buffer_batch_for_stage(stage, rows(source, id..end)))
                        {
                            Ok(accepted) => id += accepted as u64,
                            Err(rejected) => {
                                assert!(rejected.is_full(), "{rejected}");
                                id += rejected.accepted as u64;
                            }
                        }
                    }
                    thread::yield_now();
                }
                producing.fetch_sub(1, SeqCst);
            });
        }
        scope.spawn(|| {
            while producing.load(SeqCst) > 0 {
                for name in ["s", "t"] {
                    removed.fetch_add(usize::from(manager.remove_stage(name).is_ok()), SeqCst);
                }
                for name in ["a", "b"] {
                    removed.fetch_add(usize::from(manager.remove_source(name).is_ok()), SeqCst);
                }
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            loop {
                let last_round = producing.load(SeqCst) == 0;
                let mut any = false;
                for name in ["s", "t"] {
                    for row in block_on(manager.get_batch(name, 5)) {
                        sum.fetch_add(row.id, SeqCst);
                        count.fetch_add(1, SeqCst);
                        any = true;
                    }
                }
                if last_round && !any {
                    return;
                }
                thread::yield_now();
            }
        });
    });
    assert_eq!(count.load(SeqCst) as u64, 2 * EACH);
    assert_eq!(sum.load(SeqCst), (0..2 * EACH).sum::<u64>());
    assert!(removed.load(SeqCst) > 0, "nothing was ever removed: the race was not run");
    assert_eq!(block_on(manager.get_total_buffered()), 0);
    assert_eq!(block_on(manager.available_credits("a")), 8);
}

#[test]
fn a_push_by_name_never_sees_that_its_names_are_removed_under_it() {
    // Alone with its buffer, the pushing thread must always be accepted: what another thread removes
    // between the look-up and the push is made anew.
    let manager = Manager::new(caps(2, 2, 2));
    let pushing = AtomicBool::new(true);
    thread::scope(|scope| {
        for n in 0..2 {
            let (manager, pushing) = (&manager, &pushing);
            scope.spawn(move || {
                while pushing.load(SeqCst) {
                    let removed = match n {
                        0 => manager.remove_stage("s"),
                        _ => manager.remove_source("a"),
                    };
                    if removed.is_err() {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let push = || {
            for id in 0..100_000 {
                if id % 2 == 0 {
                    block_on(manager.buffer_for_stage("s", row("a", id)))?;
                } else if let Err(rejected) =
                    block_on(manager.buffer_batch_for_stage("s", rows("a", id..id + 1)))
                {
                    let (record, reason) = (row("a", id), rejected.reason);
                    return Err(Rejected { record, reason });
                }
                assert_eq!(ids(&block_on(manager.get_batch("s", 2))), [id]);
            }
            Ok(())
        };
        let pushed = catch_unwind(AssertUnwindSafe(push));
        pushing.store(false, SeqCst);
        pushed.unwrap().unwrap();
    });
    assert_eq!(block_on(manager.get_total_buffered()), 0);
}

#[test]
fn a_removal_that_races_with_handles_is_all_or_nothing() {
    for round in 0..2_000 {
        let (manager, stage, source) = one_of_each(4, 4, 4);
        let barrier = Barrier::new(2);
        let (pushed, removed) = thread::scope(|scope| {
            let pushing = scope.spawn(|| {
                barrier.wait();
                source.try_send_batch(&stage, rows("a", 0..2))
            });
            barrier.wait();
            let removed = match round % 2 {
                0 => manager.remove_stage("stage"),
                _ => manager.remove_source("a"),
            };
            (pushing.join().unwrap(), removed)
        });
        match (pushed, removed) {
            (Ok(()), Err(RegistryError::StageInUse { held: 2, .. })) => {}
            (Ok(()), Err(RegistryError::SourceInUse { held: 2, .. })) => {}
            (Err(rejected), Ok(())) => {
                assert_eq!((rejected.accepted, rejected.reason), (0, RejectReason::Closed));
            }
            // A push to a removed stage gives its credits back, and holds them until then.
            (pushed, removed) => panic!("round {round}: {pushed:?} and {removed:?}"),
        }
        drain(&stage);
        assert_eq!(block_on(manager.get_total_buffered()), 0);
    }
}

#[test]
fn a_hundred_thousand_sources_can_be_made_and_push() {
    const SOURCES: u64 = 100_000;
    let manager =
        BufferManager::new(BufferSettings { max_per_stage: 100_000, ..Default::default() });
    for n in 0..SOURCES {
        block_on(manager.buffer_for_stage("stage", row(&n.to_string(), n))).unwrap();
    }
    assert_eq!(block_on(manager.get_total_buffered()), SOURCES as usize);
    let rejected = block_on(manager.buffer_for_stage("stage", row("7", 0))).unwrap_err();
    assert_eq!(rejected.reason, global_full(100_000, 100_000));
    let stage = manager.stage("stage").unwrap();
    assert_eq!(drain(&stage), (0..SOURCES).collect::<Vec<_>>());
    assert_eq!(manager.source("99999").unwrap().available_credits(), 5_000);
    for n in 0..SOURCES {
        manager.remove_source(&n.to_string()).unwrap();
    }
    assert_eq!(block_on(manager.get_total_buffered()), 0);
}

#[test]
fn a_name_is_any_text() {
    let long = "x".repeat(10_000);
    let manager = Manager::new(caps(10, 10, 10));
    for name in [" ", "a/b", "Łódź ✈", "\0", long.as_str()] {
        let (stage, source) = (manager.stage(name).unwrap(), manager.source(name).unwrap());
        assert_eq!((stage.id(), source.id()), (name, name));
        block_on(manager.buffer_for_stage(name, row(name, 1))).unwrap();
        assert_eq!(block_on(manager.get_stages_with_data()), [name]);
        assert_eq!(drain(&stage), [1]);
    }
}

#[test]
fn a_refused_push_makes_neither_name() {
    let settings = BufferSettings::default();
    let manager =
        BufferManager::<Row>::builder(settings).max_stages(1).max_sources(2).build().unwrap();
    manager.stage("stage").unwrap();
    for n in 0..5 {
        let refused = block_on(manager.buffer_for_stage("other", row(&format!("s{n}"), n)));
        assert_eq!(refused.unwrap_err().reason, RejectReason::TooManyStages { max: 1 });
        let refused = block_on(manager.buffer_for_stage("", row(&format!("s{n}"), n)));
        assert_eq!(refused.unwrap_err().reason, RejectReason::EmptyName { kind: "stage" });
    }
    // Both places are still free.
    block_on(manager.buffer_for_stage("stage", row("a", 0))).unwrap();
    block_on(manager.buffer_for_stage("stage", row("b", 1))).unwrap();
}
