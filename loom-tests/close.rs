//! Closing: one instant for every caller, and every request is decided.

use std::sync::Arc;
// Not loom's: what a model notes for itself is no step of the library.
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::future::block_on;
use loom::thread;

use crate::admission::Wanted;
use crate::handle::{Batch, Source, Stage};
use crate::harness::{
    Item, admission, buffer, drain, exact_buffer, explore, explore_both, explore_both_within,
    explore_within, item, items, nothing_is_left, take,
};
use crate::manager::BufferManager;

#[test]
fn of_two_callers_of_close_each_returns_when_nothing_is_accepted_any_more() {
    explore_both_within(2, |buffer| {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        // The account of the pusher is the last that a close comes to.
        let others = ["a", "b"].map(|id| manager.source(id).unwrap());
        let source = manager.source("c").unwrap();
        let drained = Arc::new(AtomicBool::new(false));
        let closers = [(); 2].map(|()| {
            let (manager, drained) = (manager.clone(), Arc::clone(&drained));
            let admission = Arc::clone(admission(&source));
            thread::spawn(move || {
                manager.close();
                if admission.ledger().is_settled() {
                    drained.store(true, SeqCst);
                    assert!(admission.is_drained(), "drained for a moment only");
                }
            })
        });
        // A record that is accepted is in the buffer until it is settled below.
        let accepted = source.try_send(&stage, item("c", 0)).is_ok();
        assert!(!(accepted && drained.load(SeqCst)), "accepted after a close and a drain");
        closers.into_iter().for_each(|closer| closer.join().unwrap());
        assert_eq!(admission(&source).is_drained(), !accepted);
        assert!(source.try_send(&stage, item("c", 1)).unwrap_err().is_closed());
        assert_eq!(drain(&stage).len(), usize::from(accepted));
        assert!(admission(&source).is_drained());
        assert!(others.iter().all(Source::is_closed));
    });
}

#[test]
fn a_buffer_that_is_drained_stays_so_whatever_a_push_has_under_way() {
    explore_both(|buffer| {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let pusher = thread::spawn({
            let (stage, source) = (stage.clone(), source.clone());
            move || source.try_send(&stage, item("a", 0)).is_ok()
        });
        manager.close();
        let drained = admission(&source).is_drained();
        assert!(!drained || admission(&source).is_drained(), "drained for a moment only");
        let accepted = pusher.join().unwrap();
        assert!(!(drained && accepted), "accepted by a drained buffer");
        assert_eq!(drain(&stage).len(), usize::from(accepted));
        assert!(admission(&source).is_drained());
    });
}

#[test]
fn a_worker_goes_and_a_drain_ends_after_a_close_whatever_a_push_has_under_way() {
    explore_both_within(2, |buffer| {
        let manager = buffer(4, 4, 4);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("a").unwrap();
        let pusher = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("a", 0)).is_ok()
        });
        let worker = thread::spawn({
            let stage = stage.clone();
            move || {
                let mut seen = 0;
                while let Ok(batch) = block_on(stage.recv_batch(1)) {
                    seen += batch.len();
                    batch.ack();
                }
                seen
            }
        });
        manager.close();
        block_on(manager.drain());
        assert!(manager.remaining().is_empty());
        assert_eq!(worker.join().unwrap(), usize::from(pusher.join().unwrap()));
    });
}

/// What is closed while requests enter that find no room.
type Close = fn(&BufferManager<Item>, &Stage<Item>, &Source<Item>);

const CLOSES: [Close; 3] =
    [|manager, _, _| manager.close(), |_, stage, _| stage.close(), |_, _, source| source.close()];

/// A buffer whose stage and one source are full, with the batch that fills them.
fn full() -> (BufferManager<Item>, Stage<Item>, Source<Item>, Batch<Item>) {
    let manager = exact_buffer(4, 1, 1);
    let stage = manager.stage("stage").unwrap();
    let source = manager.source("a").unwrap();
    source.try_send(&stage, item("a", 0)).unwrap();
    let batch = take(&stage, 1).unwrap();
    (manager, stage, source, batch)
}

#[test]
fn a_request_that_enters_while_its_stage_its_source_or_the_buffer_is_closed_is_rejected() {
    for close in CLOSES {
        explore(move || {
            let (manager, stage, source, batch) = full();
            let closer = thread::spawn({
                let (stage, source) = (stage.clone(), source.clone());
                move || close(&manager, &stage, &source)
            });
            let rejected = block_on(source.send(&stage, item("a", 1))).unwrap_err();
            assert!(rejected.is_closed());
            closer.join().unwrap();
            batch.ack();
            assert!(drain(&stage).is_empty());
        });
    }
}

#[test]
fn two_requests_of_one_line_are_both_rejected_by_a_close() {
    for close in CLOSES {
        explore_within(2, move || {
            let (manager, stage, source, batch) = full();
            let closer = thread::spawn({
                let (stage, source) = (stage.clone(), source.clone());
                move || close(&manager, &stage, &source)
            });
            let other = thread::spawn({
                let (stage, source) = (stage.clone(), source.clone());
                move || block_on(source.send(&stage, item("a", 2))).is_err()
            });
            assert!(block_on(source.send(&stage, item("a", 1))).is_err());
            assert!(other.join().unwrap());
            closer.join().unwrap();
            batch.ack();
        });
    }
}

#[test]
fn a_request_that_is_granted_while_something_is_closed_is_decided_once() {
    for close in CLOSES {
        explore_within(2, move || {
            let (manager, stage, source, batch) = full();
            let closer = thread::spawn({
                let (manager, stage, source) = (manager.clone(), stage.clone(), source.clone());
                move || close(&manager, &stage, &source)
            });
            let worker = thread::spawn(move || batch.ack());
            let sent = block_on(source.send(&stage, item("a", 1))).is_ok();
            closer.join().unwrap();
            worker.join().unwrap();
            assert_eq!(drain(&stage).len(), usize::from(sent));
            block_on(manager.drain());
            assert_eq!(admission(&source).ledger().leased(), 0);
        });
    }
}

#[test]
fn a_worker_goes_after_a_close_though_a_request_that_was_granted_is_dropped() {
    for close in [CLOSES[0], CLOSES[1]] {
        explore_within(2, move || {
            let (manager, stage, source, batch) = full();
            let request = source.core().wait(stage.core(), Wanted::All(1, 0));
            let closer = thread::spawn({
                let (stage, source) = (stage.clone(), source.clone());
                move || close(&manager, &stage, &source)
            });
            let worker = thread::spawn(move || {
                batch.ack();
                drop(request);
            });
            assert!(block_on(stage.recv_batch(1)).is_err());
            closer.join().unwrap();
            worker.join().unwrap();
            assert_eq!(admission(&source).ledger().used(), 0);
        });
    }
}

#[test]
fn a_forward_that_waits_comes_back_when_the_next_stage_is_closed_or_goes_on_when_the_buffer_is() {
    for close in [CLOSES[0], CLOSES[1]] {
        explore_within(2, move || {
            let (manager, stage, source, batch) = full();
            let first = manager.stage("first").unwrap();
            let other = manager.source("b").unwrap();
            other.try_send(&first, item("b", 1)).unwrap();
            let waiting = take(&first, 1).unwrap();
            let closer = thread::spawn({
                let (manager, stage) = (manager.clone(), stage.clone());
                move || close(&manager, &stage, &source)
            });
            let worker = thread::spawn(move || batch.ack());
            let forwarded = block_on(waiting.forward(&stage));
            closer.join().unwrap();
            worker.join().unwrap();
            assert!(forwarded.is_ok() || stage.is_closed(), "a closed buffer still forwards");
            match forwarded {
                Ok(()) => assert_eq!(drain(&stage), [1]),
                Err(error) => error.into_inner().ack(),
            }
            block_on(manager.drain());
        });
    }
}

#[test]
fn a_source_that_is_closed_leaves_its_credits_to_one_that_waits() {
    explore_within(2, || {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        // Both credits lie idle in one account.
        a.try_send(&stage, item("a", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        let closer = thread::spawn(move || a.close());
        block_on(b.send_batch(&stage, items("b", 1..3))).unwrap();
        closer.join().unwrap();
        assert_eq!(drain(&stage), [1, 2]);
    });
}

#[test]
fn of_two_who_remove_a_source_or_a_stage_one_does() {
    explore(|| {
        let manager = buffer(2, 2, 2);
        let stage = manager.stage("stage").unwrap();
        let source = manager.source("b").unwrap();
        source.try_send(&stage, item("b", 0)).unwrap();
        take(&stage, 1).unwrap().ack();
        let remove = |manager: &BufferManager<Item>| {
            [manager.remove_source("b").is_ok(), manager.remove_stage("stage").is_ok()]
        };
        let other = thread::spawn({
            let manager = manager.clone();
            move || remove(&manager)
        });
        let mine = remove(&manager);
        let theirs = other.join().unwrap();
        assert!(mine.iter().zip(theirs).all(|(mine, theirs)| *mine != theirs));
        nothing_is_left(&manager, 2);
    });
}

#[test]
fn a_worker_sees_the_end_when_two_threads_drop_the_last_handles_that_can_push() {
    explore_within(3, || {
        let manager = buffer(2, 2, 2);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        let pusher = thread::spawn({
            let stage = stage.clone();
            move || source.try_send(&stage, item("a", 0)).unwrap()
        });
        let owner = thread::spawn(move || drop(manager));
        let mut seen = Vec::new();
        while let Ok(batch) = block_on(stage.recv_batch(2)) {
            seen.extend(batch.iter().map(|item| item.id));
            batch.ack();
        }
        assert_eq!(seen, [0]);
        pusher.join().unwrap();
        owner.join().unwrap();
    });
}
