//! Byte budgets: no budget is passed, no unit is lost, and no request that waits for bytes sleeps on.

use std::sync::Arc;

use loom::future::block_on;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

use crate::error::RejectReason;
use crate::harness::{
    Item, bytes_buffer, dead_letter, drain, explore, explore_within, item, items, poll_once, take,
};
use crate::manager::BufferManager;

/// The bytes of so many units.
fn units(units: usize) -> usize {
    64 * units
}

/// A record of so many units.
fn of_units(source: &'static str, id: u32, units: u32) -> Item {
    Item { retries: units - 1, ..item(source, id) }
}

/// With nobody else running, nothing is held, and each source may have its whole budget and no more.
fn every_unit_can_be_had(manager: &BufferManager<Item>, total: usize, per_source: usize) {
    let stage = manager.stage("stage").unwrap();
    drain(&stage);
    for name in ["a", "b"] {
        let source = manager.source(name).unwrap();
        assert_eq!((manager.held_bytes(), source.held_bytes()), (0, 0), "units are missing");
        let most = total.min(per_source);
        source.try_send_batch(&stage, items(name, 0..most as u32)).unwrap();
        let reason = source.try_send(&stage, item(name, 9)).unwrap_err().reason;
        let honest = match reason {
            RejectReason::SourceBytesFull { held, capacity, wanted, .. } => {
                (held, capacity, wanted) == (units(most), units(per_source), 64)
            }
            RejectReason::GlobalBytesFull { held, capacity, wanted } => {
                (held, capacity, wanted) == (units(most), units(total), 64)
            }
            _ => false,
        };
        assert!(honest, "{reason}");
        drain(&stage);
    }
}

#[test]
fn two_sources_never_pass_a_budget_and_leave_every_unit_to_be_had() {
    explore_within(2, || {
        let manager = bytes_buffer(3, 3);
        let stage = manager.stage("stage").unwrap();
        let held = Arc::new(AtomicU32::new(0));
        let push_and_settle = {
            let (stage, held) = (stage.clone(), Arc::clone(&held));
            move |source: crate::handle::Source<Item>, name| {
                let pushed = source.try_send(&stage, of_units(name, 0, 2)).is_ok();
                let units = if pushed { 2 } else { 0 };
                assert!(held.fetch_add(units, SeqCst) + units <= 3, "past the budget");
                // Out of the count before the record is out of the buffer.
                held.fetch_sub(units, SeqCst);
                if pushed {
                    take(&stage, 1).unwrap().ack();
                }
            }
        };
        let [a, b] = ["a", "b"].map(|name| manager.source(name).unwrap());
        let other = thread::spawn({
            let push_and_settle = push_and_settle.clone();
            move || push_and_settle(b, "b")
        });
        push_and_settle(a, "a");
        other.join().unwrap();
        every_unit_can_be_had(&manager, 3, 3);
    });
}

#[test]
fn a_source_that_waits_for_its_own_bytes_is_woken_when_they_are_settled() {
    explore(|| {
        let manager = bytes_buffer(4, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        source.try_send(&stage, of_units("a", 0, 2)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn(move || batch.ack());
        block_on(source.send(&stage, of_units("a", 1, 2))).unwrap();
        other.join().unwrap();
        every_unit_can_be_had(&manager, 4, 2);
    });
}

#[test]
fn a_source_that_waits_for_the_bytes_of_another_is_woken_though_they_lie_idle() {
    explore_within(3, || {
        let manager = bytes_buffer(3, 3);
        let stage = manager.stage("stage").unwrap();
        let [a, b] = ["a", "b"].map(|name| manager.source(name).unwrap());
        // It leases a unit ahead, and keeps the one that it settles.
        b.try_send(&stage, item("b", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                batch.ack();
                if b.try_send(&stage, item("b", 1)).is_ok() {
                    take(&stage, 1).unwrap().ack();
                }
            }
        });
        block_on(a.send_batch(&stage, items("a", 0..3))).unwrap();
        take(&stage, 3).unwrap().ack();
        other.join().unwrap();
        every_unit_can_be_had(&manager, 3, 3);
    });
}

#[test]
fn a_source_that_waits_for_bytes_is_woken_by_a_record_that_shrank_or_is_received_as_a_letter() {
    explore_within(3, || {
        let manager = bytes_buffer(3, 3);
        let stage = manager.stage("stage").unwrap();
        let [a, b] = ["a", "b"].map(|name| manager.source(name).unwrap());
        a.try_send(&stage, of_units("a", 0, 3)).unwrap();
        let mut batch = take(&stage, 1).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || {
                batch.iter_mut().for_each(|item| item.retries = 0);
                batch.try_forward(&stage).unwrap();
            }
        });
        block_on(b.send(&stage, of_units("b", 0, 2))).unwrap();
        other.join().unwrap();
        assert_eq!(manager.held_bytes(), units(3));
        every_unit_can_be_had(&manager, 3, 3);

        // The first letter holds nothing, the second is parked with its units.
        a.try_send_batch(&stage, vec![item("a", 0), of_units("a", 1, 2)]).unwrap();
        dead_letter(take(&stage, 2).unwrap());
        assert_eq!(manager.held_bytes(), units(2));
        let letters = manager.dead_letters();
        let other = thread::spawn(move || drop(letters.try_recv().unwrap()));
        block_on(b.send(&stage, of_units("b", 1, 2))).unwrap();
        other.join().unwrap();
        drop(manager.dead_letters().try_recv().unwrap());
        every_unit_can_be_had(&manager, 3, 3);
    });
}

#[test]
fn records_that_grow_in_two_threads_pass_no_budget_and_strand_no_unit() {
    explore_within(3, || {
        let manager = bytes_buffer(3, 3);
        let stage = manager.stage("stage").unwrap();
        let [a, b] = ["a", "b"].map(|name| manager.source(name).unwrap());
        a.try_send(&stage, item("a", 0)).unwrap();
        b.try_send(&stage, item("b", 0)).unwrap();
        let [mine, theirs] = [take(&stage, 1).unwrap(), take(&stage, 1).unwrap()];
        // A return counts a retry, which makes the record larger by a unit: there is one for one.
        let other = thread::spawn(move || {
            theirs.return_to_buffer();
        });
        mine.return_to_buffer();
        assert!(manager.held_bytes() <= units(3));
        other.join().unwrap();
        assert_eq!(manager.held_bytes(), units(3));
        every_unit_can_be_had(&manager, 3, 3);
    });
}

#[test]
fn a_request_for_bytes_that_is_dropped_passes_them_on() {
    explore_within(2, || {
        let manager = bytes_buffer(2, 2);
        let stage = manager.stage("stage").unwrap();
        let [a, b] = ["a", "b"].map(|name| manager.source(name).unwrap());
        a.try_send(&stage, of_units("a", 0, 2)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let fickle = thread::spawn({
            let (a, stage) = (a.clone(), stage.clone());
            move || {
                if poll_once(a.send(&stage, of_units("a", 1, 2))).is_some() {
                    take(&stage, 1).unwrap().ack();
                }
            }
        });
        let worker = thread::spawn(move || batch.ack());
        block_on(b.send(&stage, item("b", 0))).unwrap();
        fickle.join().unwrap();
        worker.join().unwrap();
        every_unit_can_be_had(&manager, 2, 2);
    });
}
