//! Reservations: what a request that was bypassed too often needs is kept for it, and for no longer than
//! it waits.

use loom::future::block_on;
use loom::thread;

use crate::admission::{Acquire, Wanted};
use crate::error::RejectReason;
use crate::handle::{Batch, Source, Stage};
use crate::harness::{Item, buffer, drain, exact_buffer, explore_within, item, items, take};
use crate::manager::BufferManager;

/// A buffer with a cap of two, at which a request for two records of source `a` waits.
struct Waiting {
    manager: BufferManager<Item>,
    stage: Stage<Item>,
    a: Source<Item>,
    /// Whose records bypass it.
    other: Source<Item>,
    request: Acquire,
    /// The record that is in its way.
    batch: Batch<Item>,
}

/// The caps of the whole buffer, of a stage and of a source: one of them is two. The second of each has
/// the name of the source whose records bypass the request.
const CAPS: [([u32; 3], &str); 3] = [([2, 8, 8], "b"), ([8, 2, 8], "b"), ([8, 8, 2], "a")];

/// Bypasses a request until it reserves, which no other thread sees.
fn reserved(
    buffer: fn(u32, u32, u32) -> BufferManager<Item>,
    ([total, per_stage, per_source], other): ([u32; 3], &str),
) -> Waiting {
    let manager = buffer(total, per_stage, per_source);
    let stage = manager.stage("stage").unwrap();
    let (a, other) = (manager.source("a").unwrap(), manager.source(other).unwrap());
    other.try_send(&stage, item("b", 0)).unwrap();
    let mut batch = take(&stage, 1).unwrap();
    let request = a.core().wait(stage.core(), Wanted::All(2, 0));
    let mut bypassed = 0;
    while other.try_send(&stage, item("b", 1)).is_ok() {
        bypassed += 1;
        std::mem::replace(&mut batch, take(&stage, 1).unwrap()).ack();
    }
    assert!((1..=5).contains(&bypassed), "bypassed {bypassed} times");
    Waiting { manager, stage, a, other, request, batch }
}

/// Explores a model of each cap, for sources that lease ahead and for those that do not.
fn explore_caps(preemptions: usize, model: impl Fn(Waiting) + Copy + Send + Sync + 'static) {
    for caps in CAPS {
        for buffer in [buffer, exact_buffer] {
            explore_within(preemptions, move || model(reserved(buffer, caps)));
        }
    }
}

/// With nobody else running and nothing held, both sources can have all that the caps allow.
fn no_limit_is_lowered(stage: &Stage<Item>, sources: [&Source<Item>; 2]) {
    for source in sources {
        assert!(drain(stage).is_empty());
        let rejected = source.try_send_batch(stage, items("a", 0..9)).unwrap_err();
        assert_eq!(rejected.accepted, 2, "something is reserved still: {}", rejected.reason);
        assert!(!matches!(rejected.reason, RejectReason::OthersFirst { .. }));
        assert_eq!(drain(stage), [0, 1]);
    }
}

#[test]
fn a_request_that_reserves_is_granted_and_a_push_beside_it_takes_nothing() {
    explore_caps(3, |Waiting { stage, a, other, request, batch, .. }| {
        let worker = thread::spawn(move || batch.ack());
        let pusher = thread::spawn({
            let (stage, other) = (stage.clone(), other.clone());
            move || {
                let rejected = other.try_send(&stage, item("b", 2));
                rejected.expect_err("it has taken what was reserved").reason.is_full()
            }
        });
        assert!(block_on(request).is_ok());
        worker.join().unwrap();
        assert!(pusher.join().unwrap());
        stage.core().release_charged(a.core().index(), 2, 0);
        no_limit_is_lowered(&stage, [&a, &other]);
    });
}

#[test]
fn a_reservation_ends_with_a_request_that_is_dropped_and_the_next_is_granted() {
    explore_caps(2, |Waiting { stage, a, other, request, batch, .. }| {
        let worker = thread::spawn(move || batch.ack());
        let fickle = thread::spawn(move || drop(request));
        block_on(other.send(&stage, item("b", 2))).unwrap();
        worker.join().unwrap();
        fickle.join().unwrap();
        assert_eq!(drain(&stage), [2]);
        no_limit_is_lowered(&stage, [&a, &other]);
    });
}

#[test]
fn a_reservation_ends_when_its_request_is_rejected() {
    type Close = fn(&BufferManager<Item>, &Stage<Item>, &Source<Item>);
    let closes: [Close; 3] = [
        |manager, _, _| manager.close(),
        |_, stage, _| stage.close(),
        |_, _, source| source.close(),
    ];
    for close in closes {
        explore_caps(2, move |waiting| {
            let Waiting { manager, stage, a, other, request, batch } = waiting;
            let (next, last) = (manager.stage("next").unwrap(), manager.source("c").unwrap());
            let worker = thread::spawn(move || batch.ack());
            let closer = thread::spawn({
                let (manager, stage, a) = (manager.clone(), stage.clone(), a.clone());
                move || close(&manager, &stage, &a)
            });
            if block_on(request).is_ok() {
                stage.core().release_charged(a.core().index(), 2, 0);
            }
            worker.join().unwrap();
            closer.join().unwrap();
            if !manager.is_closed() {
                let stage = if stage.is_closed() { &next } else { &stage };
                let source = if a.is_closed() { &last } else { &a };
                let rejected = source.try_send_batch(stage, items("a", 0..9)).unwrap_err();
                assert!(!matches!(rejected.reason, RejectReason::OthersFirst { .. }));
                assert_eq!(drain(stage).len(), rejected.accepted);
                drop(other);
            }
            block_on(manager.drain());
        });
    }
}

#[test]
fn a_request_that_was_granted_by_its_reservation_and_is_dropped_gives_all_back() {
    explore_caps(2, |Waiting { stage, a, other, request, batch, .. }| {
        let worker = thread::spawn(move || batch.ack());
        // Granted or not: what it holds, or has reserved, is given back.
        drop(request);
        worker.join().unwrap();
        no_limit_is_lowered(&stage, [&a, &other]);
    });
}
