//! Parked dead letters: those that find no room keep the place and the credit of their record.

use std::sync::Arc;
// Not loom's: what a model notes for itself is no step of the library.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::future::block_on;
use loom::thread;

use crate::error::TryRecvError;
use crate::handle::{Batch, Source, Stage};
use crate::harness::{
    Item, admission, dead_letter, drain, exact_buffer, explore, explore_both_within,
    explore_within, item, nothing_is_left, poll_once, take,
};
use crate::ledger::{acquire, ledger, open, release};
use crate::manager::BufferManager;

/// A batch of one record.
fn one(stage: &Stage<Item>, source: &Source<Item>, id: u32) -> Batch<Item> {
    source.try_send(stage, item("a", id)).unwrap();
    take(stage, 1).unwrap()
}

/// A stage and two sources of a buffer that has no room for another letter.
fn without_room(manager: &BufferManager<Item>) -> (Stage<Item>, Source<Item>, Source<Item>) {
    let stage = manager.stage("stage").unwrap();
    let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
    dead_letter(one(&stage, &a, 0));
    assert_eq!((manager.dead_letters().len(), stage.in_flight()), (1, 0));
    (stage, a, b)
}

/// Receives all letters, and lists their records.
fn receive(manager: &BufferManager<Item>) -> Vec<u32> {
    let letters = manager.dead_letters();
    std::iter::from_fn(|| letters.try_recv()).map(|letter| letter.record.id).collect()
}

/// Pushes at a cap of two, while one of two records is parked and its letter is received.
fn a_push_passes_no_cap(total: u32, per_stage: u32) {
    explore_both_within(3, move |buffer| {
        let manager = buffer(total, per_stage, 8);
        let (stage, a, b) = without_room(&manager);
        let (given_up, kept) = (one(&stage, &a, 1), one(&stage, &a, 2));
        let received = Arc::new(AtomicBool::new(false));
        let parker = thread::spawn(move || dead_letter(given_up));
        let receiver = thread::spawn({
            let (manager, received) = (manager.clone(), Arc::clone(&received));
            move || {
                received.store(true, SeqCst);
                manager.dead_letters().try_recv().unwrap().record.id
            }
        });
        let pushed = b.try_send(&stage, item("b", 3)).is_ok();
        assert!(!pushed || received.load(SeqCst), "a third record under a cap of two");
        parker.join().unwrap();
        let mut letters = vec![receiver.join().unwrap()];
        letters.extend(receive(&manager));
        letters.sort_unstable();
        assert_eq!(letters, [0, 1]);
        kept.ack();
        assert_eq!(drain(&stage).len(), usize::from(pushed));
        nothing_is_left(&manager, total.min(8) as usize);
    });
}

#[test]
fn a_push_never_passes_the_cap_of_a_stage_while_a_letter_is_parked_and_received() {
    a_push_passes_no_cap(8, 2);
}

#[test]
fn a_push_never_passes_the_global_cap_while_a_letter_is_parked_and_received() {
    a_push_passes_no_cap(2, 8);
}

/// A source waits for the other of two places, or credits, while a letter is parked.
fn a_source_that_waits_is_given_the_other(total: u32, per_stage: u32) {
    explore_both_within(3, move |buffer| {
        let manager = buffer(total, per_stage, 8);
        let (stage, a, b) = without_room(&manager);
        let given_up = one(&stage, &a, 1);
        let parker = thread::spawn(move || dead_letter(given_up));
        block_on(b.send(&stage, item("b", 2))).unwrap();
        parker.join().unwrap();
        assert_eq!(drain_all_but_parked(&stage), [2]);
        assert_eq!(receive(&manager), [0, 1]);
        nothing_is_left(&manager, total.min(8) as usize);
    });
}

fn drain_all_but_parked(stage: &Stage<Item>) -> Vec<u32> {
    let batch = take(stage, 8).unwrap();
    batch.into_records().iter().map(|item| item.id).collect()
}

#[test]
fn a_source_that_waits_is_given_the_place_beside_a_letter_that_is_parked() {
    a_source_that_waits_is_given_the_other(8, 2);
}

#[test]
fn a_source_that_waits_is_given_the_credit_beside_a_letter_that_is_parked() {
    a_source_that_waits_is_given_the_other(2, 8);
}

#[test]
fn a_source_that_waits_is_given_what_a_letter_that_is_received_gives_back() {
    for (total, per_stage) in [(1, 8), (8, 1)] {
        explore_both_within(3, move |buffer| {
            let manager = buffer(total, per_stage, 8);
            let (stage, a, b) = without_room(&manager);
            dead_letter(one(&stage, &a, 1));
            let receiver = thread::spawn({
                let manager = manager.clone();
                move || _ = manager.dead_letters().try_recv()
            });
            block_on(b.send(&stage, item("b", 2))).unwrap();
            receiver.join().unwrap();
            assert_eq!(drain(&stage), [2]);
        });
    }
}

#[test]
fn a_ledger_is_neither_settled_nor_drained_while_a_parked_credit_leaves_and_another_stays() {
    for closed in [false, true] {
        explore(move || {
            let ledger = ledger(2, 0);
            let account = open(&ledger, 2);
            assert_eq!(acquire(&ledger, account, 2), (2, None));
            ledger.begin_parking(ledger.account(account));
            assert!(!ledger.end_parking(), "one is left");
            if closed {
                ledger.close();
            }
            let reader = thread::spawn({
                let ledger = Arc::clone(&ledger);
                move || {
                    assert!(!ledger.is_drained(), "one record could still come to a stage");
                    assert!(!ledger.is_settled(), "one record is not settled");
                }
            });
            assert_eq!(ledger.release_parked(ledger.account(account)), 1);
            reader.join().unwrap();
            release(&ledger, account, 1);
            assert!(ledger.is_settled());
            assert_eq!(ledger.is_drained(), closed);
        });
    }
}

#[test]
fn a_drain_does_not_end_while_a_batch_is_unsettled_and_letters_are_parked_and_received() {
    for closed in [false, true] {
        explore_within(3, move || {
            let manager = exact_buffer(3, 3, 3);
            let (stage, a, _) = without_room(&manager);
            let (given_up, kept) = (one(&stage, &a, 1), one(&stage, &a, 2));
            if closed {
                manager.close();
            }
            let parker = thread::spawn(move || dead_letter(given_up));
            let receiver = thread::spawn({
                let manager = manager.clone();
                move || receive(&manager).len()
            });
            assert!(poll_once(manager.drain()).is_none(), "a batch is not settled");
            let error = stage.try_recv_batch(1).unwrap_err();
            assert_eq!(error, TryRecvError::Empty, "a batch could still be returned");
            assert!(!admission(&a).ledger().is_settled());
            parker.join().unwrap();
            let received = receiver.join().unwrap();
            kept.ack();
            block_on(manager.drain());
            assert_eq!(received + receive(&manager).len(), 2);
            assert_eq!(stage.in_flight(), 0);
        });
    }
}

#[test]
fn a_drain_ends_when_the_last_record_is_parked_and_its_letter_is_received() {
    explore_both_within(2, |buffer| {
        let manager = buffer(3, 3, 3);
        let (stage, a, _) = without_room(&manager);
        let given_up = one(&stage, &a, 1);
        let settled = Arc::new(AtomicBool::new(false));
        let parker = thread::spawn({
            let settled = Arc::clone(&settled);
            move || {
                settled.store(true, SeqCst);
                dead_letter(given_up);
            }
        });
        let receiver = thread::spawn({
            let manager = manager.clone();
            move || receive(&manager).len()
        });
        block_on(manager.drain());
        assert!(settled.load(SeqCst), "the batch was not settled");
        assert!(manager.remaining().is_empty());
        parker.join().unwrap();
        assert_eq!(receiver.join().unwrap() + receive(&manager).len(), 2);
        nothing_is_left(&manager, 3);
    });
}

#[test]
fn a_worker_of_a_stage_that_is_closed_goes_when_its_last_record_is_parked() {
    explore_within(3, || {
        let manager = exact_buffer(2, 2, 2);
        let (stage, a, _) = without_room(&manager);
        let given_up = one(&stage, &a, 1);
        let parker = thread::spawn(move || dead_letter(given_up));
        let closer = thread::spawn({
            let stage = stage.clone();
            move || stage.close()
        });
        assert!(block_on(stage.recv_batch(1)).is_err());
        parker.join().unwrap();
        closer.join().unwrap();
        assert_eq!(receive(&manager), [0, 1]);
    });
}
