//! Producers: what is pending reaches workers that wait, what one holds ahead counts as not drained, and
//! none of it is lost.

use std::sync::Arc;
// Not loom's: what a model notes for itself is no step of the library.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use crate::harness::{
    admission, buffer, drain, explore, explore_both, explore_both_within, explore_within, ids,
    item, items, nothing_is_left,
};

// A block is no larger than a quarter of the caps: with caps of 8, one credit is held ahead beside the
// record that was accepted.

#[test]
fn a_worker_that_waits_is_woken_by_a_block_that_is_full_or_flushed() {
    for records in [1, 2] {
        explore(move || {
            let manager = buffer(8, 8, 8);
            let stage = manager.stage("stage").unwrap();
            let source = manager.source("a").unwrap();
            let mut producer = source.producer(&stage);
            let other = thread::spawn(move || {
                for id in 0..records {
                    producer.try_send(item("a", id)).unwrap();
                }
                if records == 1 {
                    producer.flush();
                }
                producer
            });
            let batch = block_on(stage.recv_batch(2)).unwrap();
            assert!((1..=records as usize).contains(&batch.len()));
            batch.ack();
            drop(other.join().unwrap());
            drain(&stage);
            nothing_is_left(&manager, 8);
        });
    }
}

#[test]
fn nothing_is_accepted_after_a_close_and_a_drain_and_what_was_accepted_is_published() {
    explore_both(|buffer| {
        let manager = buffer(8, 8, 8);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let mut producer = source.producer(&stage);
        let drained = Arc::new(AtomicBool::new(false));
        let closer = thread::spawn({
            let (manager, drained) = (manager.clone(), Arc::clone(&drained));
            let admission = Arc::clone(admission(&source));
            move || {
                manager.close();
                if admission.ledger().is_settled() {
                    drained.store(true, SeqCst);
                }
            }
        });
        let mut accepted = 0;
        for id in 0..2 {
            accepted += usize::from(producer.try_send(item("a", id)).is_ok());
            assert!(accepted == 0 || !drained.load(SeqCst), "accepted, and it counts as drained");
        }
        closer.join().unwrap();
        assert!(producer.try_send(item("a", 2)).unwrap_err().is_closed());
        drop(producer);
        assert_eq!(drain(&stage).len(), accepted);
        assert!(admission(&source).is_drained());
    });
}

#[test]
fn a_drain_ends_when_a_producer_gives_back_what_it_holds_ahead() {
    explore_both_within(2, |buffer| {
        let manager = buffer(8, 8, 8);
        let stage = manager.stage("stage").unwrap();
        let mut producer = manager.source("a").unwrap().producer(&stage);
        let other = thread::spawn(move || {
            producer.try_send(item("a", 0)).unwrap();
            producer.flush();
            producer
        });
        let worker = thread::spawn(move || block_on(stage.recv_batch(8)).unwrap().ack());
        block_on(manager.drain());
        worker.join().unwrap();
        // The record was accepted, so that no thread takes anything any more.
        block_on(manager.drain());
        assert!(manager.remaining().is_empty(), "{}", manager.remaining());
        drop(other.join().unwrap());
    });
}

#[test]
fn a_source_that_waits_is_given_what_a_producer_held_ahead() {
    for [total, per_stage] in [[8, 16], [16, 8]] {
        explore_both_within(3, move |buffer| {
            let manager = buffer(total, per_stage, 16);
            let stage = manager.stage("stage").unwrap();
            let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
            b.try_send_batch(&stage, items("b", 0..6)).unwrap();
            let mut producer = a.producer(&stage);
            producer.try_send(item("a", 6)).unwrap();
            let other = thread::spawn(move || {
                producer.flush();
                producer
            });
            block_on(b.send(&stage, item("b", 7))).unwrap();
            drop(other.join().unwrap());
            assert_eq!(drain(&stage).len(), 8);
            nothing_is_left(&manager, total.min(16) as usize);
        });
    }
}

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
