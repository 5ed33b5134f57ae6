//! Counts that are derived from several words never exceed what has happened.

use loom::thread;

use crate::handle::{Source, Stage};
use crate::harness::{Item, buffer, explore_within, item, items, take};

/// Reads the counts of a stage: accepted, and acknowledged.
macro_rules! read {
    ($stage:expr) => {{
        let counts = $stage.core().places().counts();
        (counts.accepted, counts.acknowledged)
    }};
}

/// Pushes one record, while another thread reads the counts.
fn one_record_beside_a_reader(cap: u32, push: fn(&Source<Item>, &Stage<Item>)) {
    explore_within(3, move || {
        let manager = buffer(cap, cap, cap);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        let reader = thread::spawn({
            let stage = stage.clone();
            move || read!(stage)
        });
        push(&source, &stage);
        let (accepted, acknowledged) = reader.join().unwrap();
        assert!(accepted <= 1 && acknowledged == 0, "{accepted} {acknowledged}");
        assert_eq!(read!(stage), (1, 0));
    });
}

#[test]
fn places_of_a_permit_count_as_accepted_only_once_they_are_used() {
    one_record_beside_a_reader(4, |source, stage| {
        let mut permit = source.try_reserve(stage, 3).unwrap();
        permit.push(item("a", 0)).unwrap();
    });
}

#[test]
fn a_producer_that_is_dropped_leaves_no_count_of_what_it_held_ahead() {
    one_record_beside_a_reader(16, |source, stage| {
        source.producer(stage).try_send(item("a", 0)).unwrap();
    });
}

#[test]
fn a_forward_counts_neither_as_accepted_nor_as_acknowledged() {
    explore_within(3, || {
        let manager = buffer(4, 4, 4);
        let (stage, next) = (manager.stage("stage").unwrap(), manager.stage("next").unwrap());
        let source = manager.source("a").unwrap();
        source.try_send_batch(&stage, items("a", 0..2)).unwrap();
        let reader = thread::spawn({
            let (stage, next) = (stage.clone(), next.clone());
            move || (read!(stage), read!(next))
        });
        take(&stage, 2).unwrap().try_forward(&next).unwrap();
        let (from, to) = reader.join().unwrap();
        assert_eq!((from, to), ((2, 0), (0, 0)));
        assert_eq!((read!(stage), read!(next)), ((2, 0), (0, 0)));
        take(&next, 2).unwrap().ack();
        assert_eq!(read!(next), (0, 2));
    });
}

#[test]
fn a_stage_that_is_removed_leaves_exact_counts() {
    explore_within(3, || {
        let manager = buffer(4, 4, 4);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        source.try_send(&stage, item("a", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                drop(source.try_reserve(&stage, 2));
                stage.set_capacity(3).unwrap();
            }
        });
        let removed = manager.remove_stage("stage").is_ok();
        other.join().unwrap();
        if !removed {
            manager.remove_stage("stage").unwrap();
        }
        let counts = manager.stats().counts;
        assert_eq!((counts.accepted, counts.acknowledged), (1, 1));
    });
}
