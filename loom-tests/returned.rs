//! The lane of returned records and of blocks that are cut: no worker goes empty-handed, or sleeps, while
//! a record waits there.

use loom::future::block_on;
use loom::thread;

use crate::handle::Stage;
use crate::harness::{
    Item, buffer, drain, explore, explore_within, ids, item, items, nothing_is_left, take,
};
use crate::manager::BufferManager;

fn stage_with(records: u32) -> (BufferManager<Item>, Stage<Item>) {
    let manager = buffer(4, 4, 4);
    let stage = manager.stage("stage").unwrap();
    manager.source("a").unwrap().try_send_batch(&stage, items("a", 0..records)).unwrap();
    (manager, stage)
}

/// Takes one record, which certainly waits, and settles it.
fn take_one(stage: &Stage<Item>) -> u32 {
    let batch = take(stage, 1).expect("a record waits that no other call is taking");
    ids(&batch.into_records())[0]
}

#[test]
fn two_workers_find_a_record_each_in_a_block_of_two() {
    explore(|| {
        let (manager, stage) = stage_with(2);
        let other = thread::spawn({
            let stage = stage.clone();
            move || take_one(&stage)
        });
        let mut seen = [take_one(&stage), other.join().unwrap()];
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn three_workers_find_a_record_each_in_a_block_of_two_and_among_the_returned() {
    explore_within(3, || {
        let (manager, stage) = stage_with(2);
        manager.source("b").unwrap().try_send(&stage, item("b", 2)).unwrap();
        // It has lost its position, and comes first.
        let mut batch = take(&stage, 3).unwrap();
        let last = batch.split_off(2);
        last.return_to_buffer();
        batch.ack();
        manager.source("a").unwrap().try_send_batch(&stage, items("a", 0..2)).unwrap();
        let others = [(); 2].map(|()| {
            let stage = stage.clone();
            thread::spawn(move || take_one(&stage))
        });
        let mut seen = vec![take_one(&stage)];
        seen.extend(others.into_iter().map(|other| other.join().unwrap()));
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_worker_finds_a_record_beside_one_that_is_taken_and_returned() {
    explore_within(3, || {
        let (manager, stage) = stage_with(3);
        let other = thread::spawn({
            let stage = stage.clone();
            // Two of three: one is left at any time.
            move || take(&stage, 2).unwrap().return_to_buffer()
        });
        take_one(&stage);
        other.join().unwrap();
        assert_eq!(drain(&stage).len(), 2);
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_worker_finds_a_record_of_the_ring_or_of_the_returned_while_another_is_returned() {
    explore(|| {
        let (manager, stage) = stage_with(2);
        let mut batch = take(&stage, 2).unwrap();
        let (second, source) = (batch.split_off(1), manager.source("b").unwrap());
        source.try_send(&stage, item("b", 2)).unwrap();
        let other = thread::spawn(move || second.return_to_buffer());
        let seen = take_one(&stage);
        assert!(seen > 0);
        other.join().unwrap();
        batch.return_to_buffer();
        assert_eq!(drain(&stage), if seen == 1 { [0, 2] } else { [0, 1] });
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn workers_that_wait_share_a_block_that_is_cut() {
    explore_within(2, || {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let workers = [(); 2].map(|()| {
            let stage = stage.clone();
            thread::spawn(move || block_on(stage.recv_batch(1)).unwrap().ack())
        });
        source.try_send_batch(&stage, items("a", 0..2)).unwrap();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn workers_that_wait_share_a_batch_that_is_returned() {
    explore_within(2, || {
        let (manager, stage) = stage_with(2);
        let batch = take(&stage, 2).unwrap();
        let workers = [(); 2].map(|()| {
            let stage = stage.clone();
            thread::spawn(move || block_on(stage.recv_batch(1)).unwrap().ack())
        });
        batch.return_to_buffer();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        nothing_is_left(&manager, 4);
    });
}

#[test]
fn a_worker_that_lingers_is_woken_by_the_rest_of_a_block_that_another_cuts() {
    explore_within(3, || {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, item("a", 0)).unwrap();
        source.try_send_batch(&stage, items("a", 1..3)).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            // Whichever one it is, two are left.
            move || take(&stage, 1).unwrap().ack()
        });
        let batch = stage.recv_batch_linger_blocking(2, std::time::Duration::MAX).unwrap();
        assert_eq!(batch.len(), 2);
        batch.ack();
        other.join().unwrap();
        nothing_is_left(&manager, 4);
    });
}
