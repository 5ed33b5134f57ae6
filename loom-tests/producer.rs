//! Producers: what is pending reaches workers that wait, and no credit is lost with a producer.

use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use crate::harness::{
    buffer, drain, explore_both_within, explore_within, ids, item, items, nothing_is_left,
};

#[test]
fn records_that_are_published_reach_a_worker_that_begins_to_wait() {
    explore_both_within(3, |buffer| {
        let manager = buffer(16, 16, 16);
        let stage = manager.stage("stage").unwrap();
        let mut producer = manager.source("a").unwrap().producer(&stage);
        let pusher = thread::spawn(move || {
            producer.try_send(item("a", 0)).unwrap();
            producer.try_send(item("a", 1)).unwrap();
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let batch = block_on(stage.recv_batch(2)).unwrap();
            seen.extend(ids(&batch));
            batch.ack();
        }
        assert_eq!(seen, [0, 1]);
        pusher.join().unwrap();
        nothing_is_left(&manager, 16);
    });
}

#[test]
fn a_worker_that_lingers_is_woken_by_the_record_that_fills_its_batch() {
    explore_within(3, || {
        let manager = buffer(16, 16, 16);
        let stage = manager.stage("stage").unwrap();
        let mut producer = manager.source("a").unwrap().producer(&stage);
        let pusher = thread::spawn(move || {
            producer.try_send(item("a", 0)).unwrap();
            producer.try_send(item("a", 1)).unwrap();
        });
        let batch = block_on(stage.recv_batch_linger(2, Duration::from_secs(600))).unwrap();
        assert_eq!(ids(&batch), [0, 1]);
        batch.ack();
        pusher.join().unwrap();
    });
}

#[test]
fn a_producer_that_is_dropped_beside_close_and_drain_publishes_first() {
    explore_within(2, || {
        let manager = buffer(8, 8, 8);
        let stage = manager.stage("stage").unwrap();
        let mut producer = manager.source("a").unwrap().producer(&stage);
        producer.try_send(item("a", 0)).unwrap();
        let dropper = thread::spawn(move || drop(producer));
        let worker = thread::spawn({
            let stage = stage.clone();
            move || {
                let mut seen = Vec::new();
                while let Ok(batch) = block_on(stage.recv_batch(2)) {
                    seen.extend(ids(&batch));
                    batch.ack();
                }
                seen
            }
        });
        manager.close();
        block_on(manager.drain());
        assert!(manager.remaining().is_empty());
        assert_eq!(worker.join().unwrap(), [0], "drained, and a record was pending");
        dropper.join().unwrap();
    });
}

#[test]
fn a_push_beside_a_close_is_accepted_and_published_or_refused() {
    explore_within(3, || {
        let manager = buffer(8, 8, 8);
        let stage = manager.stage("stage").unwrap();
        let mut producer = manager.source("a").unwrap().producer(&stage);
        producer.try_send(item("a", 0)).unwrap();
        let pusher = thread::spawn(move || {
            let accepted = producer.try_send(item("a", 1)).is_ok();
            drop(producer);
            accepted
        });
        manager.close();
        let expected: &[u32] = if pusher.join().unwrap() { &[0, 1] } else { &[0] };
        assert_eq!(drain(&stage), expected);
        block_on(manager.drain());
    });
}

#[test]
fn a_request_for_all_credits_is_granted_though_a_producer_held_some_ahead() {
    explore_both_within(2, |buffer| {
        let manager = buffer(8, 8, 8);
        let stage = manager.stage("stage").unwrap();
        let mut producer = manager.source("a").unwrap().producer(&stage);
        let pusher = thread::spawn({
            let stage = stage.clone();
            move || {
                block_on(producer.send(item("a", 0))).unwrap();
                drop(producer);
                block_on(stage.recv_batch(1)).unwrap().ack();
            }
        });
        let other = manager.source("b").unwrap();
        drop(block_on(other.reserve(&stage, 8)).unwrap());
        pusher.join().unwrap();
        other.try_send_batch(&stage, items("b", 0..8)).unwrap();
        assert_eq!(drain(&stage).len(), 8);
        nothing_is_left(&manager, 8);
    });
}
