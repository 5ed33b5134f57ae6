//! Draining: it ends with the last settling, not before, and for every caller.

use loom::future::block_on;
use loom::thread;

use crate::admission::Wanted;
use crate::harness::{
    admission, buffer, dead_letter, explore, explore_both_within, explore_within, item, take,
};

#[test]
fn a_forward_whose_next_worker_settles_at_once_has_given_its_old_places_back() {
    explore_both_within(2, |buffer| {
        let manager = buffer(4, 2, 4);
        let (left, right) = (manager.stage("left").unwrap(), manager.stage("right").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send(&left, item("a", 0)).unwrap();
        let batch = take(&left, 1).unwrap();
        let forwarder = thread::spawn({
            let right = right.clone();
            move || batch.try_forward(&right).expect("there is room")
        });
        let worker = thread::spawn({
            let right = right.clone();
            move || block_on(right.recv_batch(1)).unwrap().ack()
        });
        block_on(manager.drain());
        assert!(manager.remaining().is_empty());
        let held = [&left, &right].map(|stage| stage.core().places().held());
        assert_eq!(held, [0, 0], "settled, and a place is held");
        manager.remove_stage("left").expect("it holds nothing");
        forwarder.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn a_drain_that_begins_while_an_account_turns_ahead_ends() {
    explore(|| {
        let manager = buffer(8, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let other = thread::spawn({
            let (stage, source) = (stage.clone(), source.clone());
            move || {
                source.try_send(&stage, item("a", 0)).unwrap();
                take(&stage, 1).unwrap().ack();
            }
        });
        block_on(manager.drain());
        other.join().unwrap();
        assert_eq!(admission(&source).account(source.core().index()).used(), 0);
    });
}

#[test]
fn a_drain_ends_though_a_source_is_made_meanwhile_that_ends_the_leases_of_others() {
    explore(|| {
        let manager = buffer(8, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        // Credits lie idle, which the next source leaves a smaller share of.
        source.try_send(&stage, item("a", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        assert!(admission(&source).ledger().leased() > 0);
        let other = thread::spawn({
            let manager = manager.clone();
            move || _ = manager.source("b").unwrap()
        });
        block_on(manager.drain());
        other.join().unwrap();
    });
}

#[test]
fn two_drains_at_once_both_end() {
    explore_within(3, || {
        let manager = buffer(8, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        // All is settled, and credits lie idle.
        source.try_send(&stage, item("a", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        assert!(admission(&source).ledger().leased() > 0);
        let other = thread::spawn({
            let manager = manager.clone();
            move || block_on(manager.drain())
        });
        block_on(manager.drain());
        other.join().unwrap();
    });
}

#[test]
fn two_drains_end_with_the_last_settling() {
    explore_both_within(2, |buffer| {
        let manager = buffer(8, 4, 4);
        let stage = manager.stage("stage").unwrap();
        manager.source("a").unwrap().try_send(&stage, item("a", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn({
            let manager = manager.clone();
            move || block_on(manager.drain())
        });
        let worker = thread::spawn(move || batch.ack());
        block_on(manager.drain());
        assert!(manager.remaining().is_empty());
        other.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn a_drain_ends_though_a_push_leases_a_credit_for_a_source_that_is_closed() {
    explore_both_within(2, |buffer| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let pusher = thread::spawn({
            let source = source.clone();
            move || {
                if source.try_send(&stage, item("a", 0)).is_ok() {
                    take(&stage, 1).unwrap().ack();
                }
            }
        });
        let closer = thread::spawn(move || source.close());
        block_on(manager.drain());
        pusher.join().unwrap();
        closer.join().unwrap();
    });
}

#[test]
fn a_drain_ends_though_a_push_leases_a_credit_in_vain() {
    explore_both_within(2, |buffer| {
        let manager = buffer(2, 2, 1);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let pushers = [0, 1].map(|id| {
            let (stage, source) = (stage.clone(), source.clone());
            thread::spawn(move || {
                if source.try_send(&stage, item("a", id)).is_ok() {
                    take(&stage, 1).unwrap().ack();
                }
            })
        });
        block_on(manager.drain());
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
    });
}

#[test]
fn a_drain_ends_though_a_reservation_ends_the_leases_of_others() {
    explore(|| {
        let manager = buffer(8, 2, 8);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        // One of two places goes to a letter that is parked.
        for id in [0, 1] {
            a.try_send(&stage, item("a", id)).unwrap();
            dead_letter(take(&stage, 1).unwrap());
        }
        b.try_send(&stage, item("b", 0)).unwrap();
        let request = a.core().wait(stage.core(), Wanted::All(2, 0));
        for id in 1..5 {
            take(&stage, 1).unwrap().ack();
            b.try_send(&stage, item("b", id)).unwrap();
        }
        let batch = take(&stage, 1).unwrap();
        // With this release the request was bypassed too often. It is not granted.
        let worker = thread::spawn(move || batch.ack());
        block_on(manager.drain());
        worker.join().unwrap();
        assert!(b.try_send(&stage, item("b", 5)).is_err(), "the place is reserved");
        drop(request);
        b.try_send(&stage, item("b", 5)).unwrap();
    });
}
