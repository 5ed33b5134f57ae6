//! Producers: when records are published, what a producer holds, and what happens at the caps.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::waiting::*;
use common::*;
use conveyor_buffer::{BufferManager, BufferSettings, RejectReason, TryRecvError};

#[test]
fn records_are_pending_until_they_are_flushed() {
    let (manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    let mut producer = source.producer(&stage);
    for id in 0..5 {
        producer.try_send(row("a", id)).unwrap();
    }
    assert_eq!((producer.pending(), stage.len()), (5, 0));
    assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Empty);
    producer.flush();
    assert_eq!((producer.pending(), stage.len()), (0, 5));
    assert_eq!(source.available_credits(), 995, "a flush gives back what is unused");
    assert_eq!(drain(&stage), (0..5).collect::<Vec<_>>());
    drop(producer);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_full_block_is_published() {
    let (_manager, stage, source) = one_of_each(100_000, 100_000, 100_000);
    let mut producer = source.producer(&stage).with_block_size(16);
    for id in 0..160 {
        producer.try_send(row("a", id)).unwrap();
        assert!(producer.pending() < 16);
        assert_eq!(stage.len() + producer.pending(), id as usize + 1);
    }
    drop(producer);
    assert_eq!(drain(&stage), (0..160).collect::<Vec<_>>());
}

#[test]
fn a_dropped_producer_publishes_and_gives_back() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let mut producer = source.producer(&stage);
    producer.try_send(row("a", 1)).unwrap();
    producer.try_send(row("a", 2)).unwrap();
    drop(producer);
    assert_eq!((stage.len(), source.available_credits()), (2, 98));
    assert_eq!(drain(&stage), [1, 2]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_producer_whose_thread_panics_publishes_what_it_accepted() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let panicked = thread::spawn({
        let (stage, source) = (stage.clone(), source.clone());
        move || {
            let mut producer = source.producer(&stage);
            producer.try_send(row("a", 1)).unwrap();
            panic!("the producer's thread panics");
        }
    });
    assert!(panicked.join().is_err());
    assert_eq!(drain(&stage), [1]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn every_cap_is_exact_and_a_refusal_names_it_after_publishing() {
    let cases = [
        ((10, 100, 100), global_full(10, 10)),
        ((100, 10, 100), stage_full("stage", 10, 10)),
        ((100, 100, 10), source_full("a", 10, 10)),
    ];
    for ((total, per_stage, per_source), reason) in cases {
        let (manager, stage, source) = one_of_each(total, per_stage, per_source);
        let mut producer = source.producer(&stage);
        for id in 0..10 {
            producer.try_send(row("a", id)).unwrap();
        }
        let rejected = producer.try_send(row("a", 10)).unwrap_err();
        assert_eq!((rejected.record, &rejected.reason), (row("a", 10), &reason));
        assert_eq!((producer.pending(), stage.len()), (0, 10));
        // What was freed is taken.
        take(&stage, 3).ack();
        for id in 10..13 {
            producer.try_send(row("a", id)).unwrap();
        }
        assert!(producer.try_send(row("a", 13)).unwrap_err().is_full());
        drop(producer);
        assert_eq!(drain(&stage), (3..13).collect::<Vec<_>>());
        assert_nothing_is_held(&manager, &[stage], &[source]);
    }
}

#[test]
fn a_worker_that_waits_gets_each_record_at_once() {
    let (_manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    let mut producer = source.producer(&stage);
    for id in 0..3 {
        let mut worker = waiting(stage.recv_batch(10));
        producer.try_send(row("a", id)).unwrap();
        let batch = worker.woken().unwrap();
        assert_eq!(ids(&batch), [id]);
        batch.ack();
    }
    assert_eq!(producer.pending(), 0);
}

#[test]
fn a_worker_that_lingers_is_woken_when_its_batch_can_be_filled() {
    let (_manager, stage, source) = one_of_each(1_000, 1_000, 1_000);
    let mut producer = source.producer(&stage);
    source.try_send(&stage, row("a", 0)).unwrap();
    let mut worker = waiting(stage.recv_batch_linger(5, Duration::from_secs(600)));
    for id in 1..4 {
        producer.try_send(row("a", id)).unwrap();
        worker.waits();
    }
    producer.try_send(row("a", 4)).unwrap();
    let batch = worker.woken().unwrap();
    assert_eq!(ids(&batch), [0, 1, 2, 3, 4]);
    batch.ack();
}

#[test]
fn a_closed_producer_refuses_and_publishes_what_it_accepted() {
    for close in 0..3 {
        let (manager, stage, source) = one_of_each(100, 100, 100);
        let mut producer = source.producer(&stage);
        producer.try_send(row("a", 0)).unwrap();
        producer.try_send(row("a", 1)).unwrap();
        match close {
            0 => manager.close(),
            1 => source.close(),
            _ => stage.close(),
        }
        if close == 0 {
            assert!(manager.drain_timeout(Duration::ZERO).is_err(), "pending is not drained");
        }
        let rejected = producer.try_send(row("a", 2)).unwrap_err();
        assert_eq!(rejected.reason, RejectReason::Closed);
        assert_eq!((producer.pending(), stage.len()), (0, 2));
        assert_eq!(drain(&stage), [0, 1]);
        drop(producer);
        manager.drain_timeout(Duration::ZERO).unwrap();
    }
}

#[test]
fn nothing_is_held_ahead_while_others_wait() {
    let (manager, stage, source) = one_of_each(20, 100, 100);
    let other = manager.source("b").unwrap();
    other.try_send_batch(&stage, rows("b", 100..115)).unwrap();
    let mut large = waiting(other.send_batch(&stage, rows("b", 200..210)));
    let mut producer = source.producer(&stage);
    producer.try_send(row("a", 0)).unwrap();
    assert_eq!((producer.pending(), stage.len()), (0, 16));
    take(&stage, 10).ack();
    assert_eq!(large.woken(), Ok(()));
}

#[test]
fn a_producer_that_waits_is_served_in_its_turn_and_keeps_its_order() {
    let (manager, stage, source) = one_of_each(8, 8, 8);
    let worker = thread::spawn({
        let stage = stage.clone();
        move || {
            let mut seen = Vec::new();
            while let Ok(batch) = stage.recv_batch_blocking(3) {
                seen.extend(ids(&batch));
                batch.ack();
            }
            seen
        }
    });
    let mut producer = source.producer(&stage);
    for id in 0..20_000 {
        producer.send_blocking(row("a", id)).unwrap();
    }
    drop(producer);
    manager.close();
    assert_eq!(worker.join().unwrap(), (0..20_000).collect::<Vec<_>>());
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_send_whose_time_is_up_gives_the_record_back() {
    let (_manager, stage, source) = one_of_each(2, 2, 2);
    let mut producer = source.producer(&stage);
    producer.try_send(row("a", 0)).unwrap();
    producer.try_send(row("a", 1)).unwrap();
    let rejected = producer.send_timeout(row("a", 2), Duration::from_millis(2)).unwrap_err();
    assert_eq!((rejected.record, rejected.reason.is_full()), (row("a", 2), true));
    assert_eq!(stage.len(), 2);
}

#[test]
fn the_caps_hold_at_every_instant_while_producers_and_workers_run() {
    let settings = BufferSettings {
        max_total_records: 500,
        max_per_stage: 400,
        max_per_source: 150,
        ..BufferSettings::default()
    };
    let manager = BufferManager::new(settings);
    let stage = manager.stage("stage").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let taken = Arc::new(AtomicUsize::new(0));
    let sources: Vec<_> = (0..4).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    let watch = thread::spawn({
        let (manager, stage, sources, stop) =
            (manager.clone(), stage.clone(), sources.clone(), Arc::clone(&stop));
        move || {
            while !stop.load(Ordering::SeqCst) {
                assert!(stage.utilization() <= 1.0 && stage.len() <= 400);
                assert!(sources.iter().all(|source| source.utilization() <= 1.0));
                assert!(block_on(manager.get_total_buffered()) <= 500);
            }
        }
    });
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (stage, taken) = (stage.clone(), Arc::clone(&taken));
            thread::spawn(move || {
                while let Ok(batch) = stage.recv_batch_blocking(50) {
                    taken.fetch_add(batch.len(), Ordering::SeqCst);
                    batch.ack();
                }
            })
        })
        .collect();
    let producers: Vec<_> = sources
        .iter()
        .map(|source| {
            let (source, stage) = (source.clone(), stage.clone());
            thread::spawn(move || {
                let mut producer = source.producer(&stage);
                for id in 0..30_000 {
                    if id % 1_000 == 999 {
                        producer.flush();
                    }
                    if id % 2 == 0 {
                        producer.send_blocking(row("a", id)).unwrap();
                    } else {
                        let mut next = row("a", id);
                        while let Err(rejected) = producer.try_send(next) {
                            next = rejected.into_record();
                            thread::yield_now();
                        }
                    }
                }
            })
        })
        .collect();
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    manager.close();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    stop.store(true, Ordering::SeqCst);
    watch.join().unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), 120_000);
    assert_nothing_is_held(&manager, &[stage], &sources);
}
