//! Records that fail: those that wait until they are due, those that are isolated, and the dead letters
//! for which somebody waits.

use std::time::Duration;

use loom::future::block_on;
use loom::thread::{self, JoinHandle};

use crate::handle::Stage;
use crate::harness::{
    Item, buffer, dead_letter, drain, explore, explore_within, ids, items, nothing_is_left, take,
};
use crate::manager::BufferManager;

/// The clock of a model stands still: a record is due when the model says so.
const AWAY: Duration = Duration::from_secs(1);

fn stage_with(records: u32) -> (BufferManager<Item>, Stage<Item>) {
    let manager = buffer(4, 4, 4);
    let stage = manager.stage("stage").unwrap();
    manager.source("a").unwrap().try_send_batch(&stage, items("a", 0..records)).unwrap();
    (manager, stage)
}

/// What the timer does when the delayed records are due.
fn fire(stage: &Stage<Item>) {
    stage.core().promote(None);
}

/// A thread in which the timer fires.
fn timer(stage: &Stage<Item>) -> JoinHandle<()> {
    let stage = stage.clone();
    thread::spawn(move || fire(&stage))
}

#[test]
fn a_worker_that_begins_to_wait_is_woken_for_a_record_that_becomes_due() {
    explore(|| {
        let (manager, stage) = stage_with(1);
        take(&stage, 1).unwrap().return_after(AWAY);
        let timer = timer(&stage);
        let batch = block_on(stage.recv_batch(4)).unwrap();
        assert_eq!(ids(&batch), [0]);
        batch.ack();
        timer.join().unwrap();
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_worker_that_lingers_is_woken_for_the_records_that_fill_its_batch() {
    explore_within(3, || {
        let (manager, stage) = stage_with(3);
        take(&stage, 2).unwrap().return_after(AWAY);
        let timer = timer(&stage);
        let batch = stage.recv_batch_linger_blocking(3, Duration::MAX).unwrap();
        assert_eq!(batch.len(), 3);
        batch.ack();
        timer.join().unwrap();
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_record_that_becomes_due_is_delayed_or_queued_at_every_moment() {
    explore(|| {
        let (manager, stage) = stage_with(2);
        take(&stage, 2).unwrap().return_after(AWAY);
        let timer = timer(&stage);
        let delayed = stage.delayed();
        assert!(delayed + stage.len() >= 2, "records are neither delayed nor queued");
        timer.join().unwrap();
        assert_eq!((stage.delayed(), drain(&stage).len()), (0, 2));
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_drain_waits_for_a_record_that_is_delayed_meanwhile() {
    explore_within(3, || {
        let (manager, stage) = stage_with(1);
        let batch = take(&stage, 1).unwrap();
        manager.close();
        let worker = thread::spawn({
            let stage = stage.clone();
            move || {
                batch.return_after(AWAY);
                fire(&stage);
                let seen = block_on(stage.recv_batch(1)).map(|batch| batch.into_records().len());
                assert_eq!(seen, Ok(1));
            }
        });
        manager.drain_blocking();
        assert_eq!((stage.len(), stage.delayed(), stage.in_flight()), (0, 0, 0));
        worker.join().unwrap();
    });
}

#[test]
fn two_workers_find_an_isolated_record_each() {
    explore_within(3, || {
        let (manager, stage) = stage_with(2);
        let (batch, core) = (take(&stage, 2).unwrap(), stage.core());
        core.push_returned(batch.into_contents().1, true);
        let other = thread::spawn({
            let stage = stage.clone();
            move || ids(&block_on(stage.recv_batch(4)).unwrap().into_records())
        });
        let mut seen = ids(&block_on(stage.recv_batch(4)).unwrap().into_records());
        assert_eq!(seen.len(), 1);
        seen.extend(other.join().unwrap());
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_thread_that_begins_to_wait_for_a_dead_letter_is_woken_for_one() {
    explore(|| {
        let (manager, stage) = stage_with(1);
        let batch = take(&stage, 1).unwrap();
        let worker = thread::spawn(move || dead_letter(batch));
        let letter = manager.dead_letters().recv_blocking().unwrap();
        assert_eq!(letter.record.id, 0);
        worker.join().unwrap();
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_thread_that_waits_for_dead_letters_sees_the_last_one_and_then_the_end() {
    explore_within(3, || {
        let (manager, stage) = stage_with(1);
        let batch = take(&stage, 1).unwrap();
        let worker = thread::spawn({
            let manager = manager.clone();
            move || {
                manager.close();
                dead_letter(batch);
            }
        });
        let letters = manager.dead_letters();
        assert_eq!(letters.recv_blocking().map(|letter| letter.record.id), Ok(0));
        assert!(letters.recv_blocking().is_err());
        worker.join().unwrap();
    });
}

#[test]
fn a_letter_that_moves_up_is_never_out_of_sight() {
    explore_within(3, || {
        // There is room for one letter, and the second is parked.
        let (manager, stage) = stage_with(3);
        let mut batch = take(&stage, 3).unwrap();
        let last = batch.split_off(2);
        dead_letter(batch);
        assert_eq!(manager.dead_letters().parked(), 1);
        let worker = thread::spawn(move || dead_letter(last));
        let other = thread::spawn({
            let letters = manager.dead_letters();
            move || letters.try_recv().expect("a letter is there").record.id
        });
        let letters = manager.dead_letters();
        let mut seen = vec![letters.try_recv().expect("a letter is there").record.id];
        seen.push(other.join().unwrap());
        worker.join().unwrap();
        seen.push(letters.try_recv().expect("the last letter").record.id);
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        nothing_is_left(&manager, 4);
    });
}
