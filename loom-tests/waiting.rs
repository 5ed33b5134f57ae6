//! Waiting: no wake-up is lost, whichever request gives up.

use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use crate::error::TryRecvError;
use crate::handle::Stage;
use crate::harness::{
    Item, admission, buffer, drain, exact_buffer, explore, explore_both, explore_both_within,
    explore_within, ids, item, items, nothing_is_left, poll_once, take,
};
use crate::manager::BufferManager;

/// No model has deadlines.
const FOR_EVER: Duration = Duration::MAX;

#[test]
fn a_worker_that_waits_is_woken_by_a_push() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("a", 0)).unwrap()
        });
        let batch = block_on(stage.recv_batch(2)).unwrap();
        assert_eq!(ids(&batch), [0]);
        batch.ack();
        other.join().unwrap();
    });
}

#[test]
fn a_worker_that_waits_is_woken_by_a_return() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn(move || batch.return_to_buffer());
        let batch = block_on(stage.recv_batch(2)).unwrap();
        assert_eq!(ids(&batch), [0]);
        batch.ack();
        other.join().unwrap();
    });
}

#[test]
fn two_workers_that_wait_get_a_record_each() {
    explore_within(3, || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || block_on(stage.recv_batch(1)).unwrap().ack()
        });
        source.try_send_batch(&stage, items("a", 0..2)).unwrap();
        block_on(stage.recv_batch(1)).unwrap().ack();
        other.join().unwrap();
        assert!(drain(&stage).is_empty());
    });
}

#[test]
fn a_worker_that_was_woken_and_gives_up_wakes_another() {
    explore_within(2, || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let fickle = thread::spawn({
            let stage = stage.clone();
            move || {
                // Waits for a moment, and goes: with the record, or without.
                if let Some(batch) = poll_once(stage.recv_batch(1)) {
                    batch.unwrap().return_to_buffer();
                }
            }
        });
        let pusher = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("a", 0)).unwrap()
        });
        block_on(stage.recv_batch(1)).unwrap().ack();
        fickle.join().unwrap();
        pusher.join().unwrap();
    });
}

#[test]
fn a_worker_that_lingers_is_woken_by_the_push_that_fills_its_batch() {
    explore_within(3, || {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        let others = [1, 2].map(|id| {
            let (stage, source) = (stage.clone(), source.clone());
            thread::spawn(move || source.try_send(&stage, item("a", id)).unwrap())
        });
        let batch = stage.recv_batch_linger_blocking(3, FOR_EVER).unwrap();
        assert_eq!(batch.len(), 3);
        batch.ack();
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn a_worker_that_lingers_is_woken_by_a_block_and_by_a_return() {
    explore(|| {
        let manager = buffer(6, 6, 6);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let first = take(&stage, 1).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                first.return_to_buffer();
                source.try_send_batch(&stage, items("a", 2..4)).unwrap();
            }
        });
        let batch = stage.recv_batch_linger_blocking(4, FOR_EVER).unwrap();
        assert_eq!(batch.len(), 4);
        batch.ack();
        other.join().unwrap();
    });
}

#[test]
fn a_worker_that_lingers_is_woken_though_another_took_what_it_was_to_have() {
    explore_within(3, || {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || stage.recv_batch_linger_blocking(3, FOR_EVER).unwrap().into_records().len()
        });
        source.try_send_batch(&stage, items("a", 1..3)).unwrap();
        if let Some(batch) = take(&stage, 1) {
            batch.ack();
        }
        source.try_send(&stage, item("a", 3)).unwrap();
        assert_eq!(other.join().unwrap(), 3);
    });
}

#[test]
fn workers_that_linger_are_woken_for_few_records_and_for_more() {
    explore_within(3, || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send_batch(&stage, items("a", 0..2)).unwrap();
        let [first, second] = [(); 2].map(|()| take(&stage, 1).unwrap());
        // They take nothing, so that both come to their level.
        let [few, more] = [1, 2].map(|wanted| {
            let stage = stage.clone();
            thread::spawn(move || {
                while stage.core().len() < wanted {
                    let mut idle = stage.core().wait_for_batch(wanted);
                    if stage.core().len() < wanted {
                        block_on(&mut idle.listener);
                    }
                }
            })
        });
        first.return_to_buffer();
        few.join().unwrap();
        second.return_to_buffer();
        more.join().unwrap();
    });
}

#[test]
fn a_worker_that_lingers_and_one_that_does_not_get_their_records() {
    explore_within(2, || {
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let [first, second] = [(); 2].map(|()| take(&stage, 1).unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || stage.recv_batch_linger_blocking(2, FOR_EVER).unwrap().into_records().len()
        });
        let pusher = thread::spawn({
            let stage = stage.clone();
            move || {
                first.return_to_buffer();
                second.return_to_buffer();
                source.try_send(&stage, item("a", 2)).unwrap();
            }
        });
        block_on(stage.recv_batch(1)).unwrap().ack();
        assert_eq!(other.join().unwrap(), 2);
        pusher.join().unwrap();
    });
}

/// A worker with one record in hand lingers for a second, and something is closed.
fn a_close_ends_the_lingering(
    close: impl Fn(&BufferManager<Item>, &Stage<Item>) + Copy + Send + Sync + 'static,
) {
    explore(move || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send(&stage, item("a", 0)).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || close(&manager, &stage)
        });
        let batch = stage.recv_batch_linger_blocking(2, FOR_EVER).unwrap();
        assert_eq!(ids(&batch), [0]);
        batch.ack();
        other.join().unwrap();
    });
}

#[test]
fn a_worker_that_lingers_goes_when_its_stage_is_closed() {
    a_close_ends_the_lingering(|_, stage| stage.close());
}

#[test]
fn a_worker_that_lingers_goes_when_the_buffer_is_closed() {
    a_close_ends_the_lingering(|manager, _| manager.close());
}

#[test]
fn a_worker_that_waits_is_told_when_a_closed_buffer_is_drained() {
    explore_within(3, || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let last = manager.stage("last").unwrap();
        manager.source("a").unwrap().try_send(&last, item("a", 0)).unwrap();
        let batch = take(&last, 1).unwrap();
        let other = thread::spawn({
            let manager = manager.clone();
            move || manager.close()
        });
        let worker = thread::spawn(move || block_on(stage.recv_batch(1)).is_err());
        batch.ack();
        assert!(worker.join().unwrap());
        other.join().unwrap();
        assert_eq!(last.try_recv_batch(1).unwrap_err(), TryRecvError::Closed);
    });
}

#[test]
fn a_source_that_waits_for_its_own_credit_is_woken_by_a_release() {
    explore_both(|buffer| {
        let manager = buffer(2, 2, 1);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn(move || batch.ack());
        block_on(source.send(&stage, item("a", 1))).unwrap();
        other.join().unwrap();
        assert_eq!(drain(&stage), [1]);
        assert_eq!(source.available_credits(), 1);
    });
}

#[test]
fn a_source_that_leases_ahead_and_waits_for_its_own_credit_is_woken_by_a_release() {
    explore(|| {
        let manager = buffer(8, 4, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        // The second is of the lease of the first: what is released stays with the account, and the
        // pool is not told.
        source.try_send(&stage, item("a", 0)).unwrap();
        assert_eq!(admission(&source).ledger().leased(), 2);
        source.try_send(&stage, item("a", 1)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn(move || batch.ack());
        block_on(source.send(&stage, item("a", 2))).unwrap();
        other.join().unwrap();
        assert_eq!(drain(&stage), [1, 2]);
        assert_eq!(source.available_credits(), 2);
    });
}

#[test]
fn a_source_that_waits_for_a_global_credit_is_woken_whoever_leased_it() {
    explore_both(|buffer| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                if a.try_send(&stage, item("a", 0)).is_ok() {
                    take(&stage, 1).into_iter().for_each(|batch| batch.ack());
                }
            }
        });
        block_on(b.send_batch(&stage, items("b", 1..3))).unwrap();
        other.join().unwrap();
        // The other thread may have taken these in the place of its own.
        drain(&stage);
        assert_eq!(b.available_credits(), 2);
    });
}

#[test]
fn a_source_that_waits_is_given_what_a_push_leased_and_did_not_need() {
    explore(|| {
        let manager = buffer(4, 4, 3);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        // No credit lies idle now, and one may still be leased.
        a.try_send(&stage, item("a", 0)).unwrap();
        a.try_send(&stage, item("a", 1)).unwrap();
        let other = thread::spawn({
            let (stage, a) = (stage.clone(), a.clone());
            // While it leases one, the other thread leaves one idle. It may find its source full.
            move || _ = a.try_send(&stage, item("a", 2))
        });
        if a.try_send(&stage, item("a", 3)).is_ok() {
            take(&stage, 1).unwrap().ack();
        }
        block_on(b.send(&stage, item("b", 4))).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_source_that_waits_is_given_what_a_push_brought_home_and_did_not_need() {
    explore(|| {
        let manager = buffer(3, 3, 3);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        // Two credits lie idle in one account, and the other has the third.
        a.try_send(&stage, item("a", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        b.try_send(&stage, item("b", 1)).unwrap();
        let other = thread::spawn({
            let (stage, b) = (stage.clone(), b.clone());
            move || _ = b.try_send(&stage, item("b", 2))
        });
        block_on(b.send(&stage, item("b", 3))).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_source_that_waits_is_given_what_another_is_leasing_ahead() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let stage = stage.clone();
            move || _ = a.try_send(&stage, item("a", 0))
        });
        block_on(b.send(&stage, item("b", 1))).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_source_that_waits_is_given_what_a_push_leased_in_vain() {
    explore(|| {
        let manager = exact_buffer(2, 2, 1);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let (stage, a) = (stage.clone(), a.clone());
            // While it leases a credit, the other thread fills its source.
            move || _ = a.try_send(&stage, item("a", 0))
        });
        _ = a.try_send(&stage, item("a", 1));
        block_on(b.send(&stage, item("b", 2))).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_source_that_waits_is_given_what_was_leased_for_a_source_that_is_closed() {
    explore_both(|buffer| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        let other = thread::spawn({
            let (stage, a) = (stage.clone(), a.clone());
            move || {
                if a.try_send(&stage, item("a", 0)).is_ok() {
                    take(&stage, 1).unwrap().ack();
                }
            }
        });
        a.close();
        block_on(b.send_batch(&stage, items("b", 1..3))).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_source_that_waits_is_given_what_a_drain_brings_home() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        // All credits lie idle in one account.
        a.try_send(&stage, item("a", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        let other = thread::spawn({
            let manager = manager.clone();
            move || _ = poll_once(manager.drain())
        });
        block_on(b.send(&stage, item("b", 1))).unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_source_that_waits_for_a_place_is_woken_by_a_settling() {
    explore_both(|buffer| {
        let manager = buffer(3, 1, 3);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn(move || batch.ack());
        block_on(b.send(&stage, item("b", 1))).unwrap();
        other.join().unwrap();
        assert_eq!(drain(&stage), [1]);
    });
}

#[test]
fn a_source_that_gives_up_lets_the_next_in_line_go_on() {
    explore_within(2, || {
        let manager = buffer(2, 2, 1);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let fickle = thread::spawn({
            let (stage, source) = (stage.clone(), source.clone());
            move || poll_once(source.reserve(&stage, 1)).map(drop)
        });
        let worker = thread::spawn(move || batch.ack());
        block_on(source.send(&stage, item("a", 1))).unwrap();
        fickle.join().unwrap();
        worker.join().unwrap();
        assert_eq!(drain(&stage), [1]);
        assert_eq!(source.available_credits(), 1);
    });
}

#[test]
fn a_forward_that_waits_is_woken_by_a_settling() {
    explore(|| {
        let manager = buffer(2, 1, 2);
        let (parse, load) = (manager.stage("parse").unwrap(), manager.stage("load").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send(&parse, item("a", 0)).unwrap();
        source.try_send(&load, item("a", 1)).unwrap();
        let (from_parse, from_load) = (take(&parse, 1).unwrap(), take(&load, 1).unwrap());
        let other = thread::spawn(move || from_load.ack());
        block_on(from_parse.forward(&load)).unwrap();
        other.join().unwrap();
        assert_eq!(drain(&load), [0]);
        assert!(drain(&parse).is_empty());
        assert_eq!(source.available_credits(), 2);
    });
}

#[test]
fn whoever_waits_at_a_stage_that_is_closed_is_turned_away() {
    explore(|| {
        let manager = buffer(2, 1, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || stage.close()
        });
        let rejected = block_on(source.send(&stage, item("a", 1))).unwrap_err();
        assert!(rejected.is_closed());
        other.join().unwrap();
        assert_eq!(drain(&stage), [0]);
    });
}

#[test]
fn a_drain_ends_with_the_last_settling() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn(move || batch.ack());
        block_on(manager.drain());
        assert!(manager.remaining().is_empty());
        other.join().unwrap();
    });
}

#[test]
fn a_drain_ends_with_the_last_settling_though_a_source_leases_ahead_meanwhile() {
    explore(|| {
        let manager = buffer(8, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn({
            let (stage, b) = (stage.clone(), b.clone());
            move || {
                b.try_send(&stage, item("b", 1)).unwrap();
                take(&stage, 1).unwrap().ack();
                batch.ack();
            }
        });
        block_on(manager.drain());
        other.join().unwrap();
        assert!(manager.remaining().is_empty());
        // No call waits any more: sources lease ahead again.
        b.try_send(&stage, item("b", 2)).unwrap();
        assert_eq!(drain(&stage), [2]);
        assert!(admission(&b).ledger().leased() > 0);
    });
}

#[test]
fn a_reservation_of_what_there_is_takes_what_two_releases_leave() {
    explore_both_within(3, |buffer| {
        let manager = buffer(2, 2, 2);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        source.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let mut batch = take(&stage, 2).unwrap();
        let rest = batch.split_off(1);
        let other = thread::spawn(move || {
            batch.ack();
            rest.ack();
        });
        let mut permit = block_on(source.reserve_up_to(&stage, 8)).unwrap();
        let held = permit.len();
        assert!((1..=2).contains(&held));
        permit.push(item("a", 2)).unwrap();
        other.join().unwrap();
        assert_eq!((stage.len(), stage.reserved(), stage.in_flight()), (1, held - 1, 0));
        drop(permit);
        assert_eq!(drain(&stage), [2]);
        nothing_is_left(&manager, 2);
    });
}
