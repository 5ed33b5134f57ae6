//! Caps that change while records are pushed and requests wait.

use loom::future::block_on;
use loom::thread;

use crate::admission::{Acquire, Wanted};
use crate::error::RejectReason;
use crate::handle::{Source, Stage};
use crate::harness::{
    Item, admission, buffer, drain, exact_buffer, explore_both_within, explore_within, item, items,
    take,
};
use crate::manager::BufferManager;

/// Which of the caps is two at first, and is changed.
#[derive(Clone, Copy, Debug)]
enum Changed {
    Source,
    Global,
    Stage,
}

impl Changed {
    const ALL: [Self; 3] = [Self::Source, Self::Global, Self::Stage];

    /// The bound of a model of three threads: the steps of a change of the global cap are many.
    fn preemptions(self) -> usize {
        if let Self::Global = self { 1 } else { 2 }
    }

    /// A buffer in which that cap is the tightest.
    fn buffer(
        self,
        buffer: fn(u32, u32, u32) -> BufferManager<Item>,
        cap: u32,
    ) -> (BufferManager<Item>, Stage<Item>, Source<Item>) {
        let manager = match self {
            Self::Source => buffer(8, 8, cap),
            Self::Global => buffer(cap, 8, 8),
            Self::Stage => buffer(8, cap, 8),
        };
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        (manager, stage, source)
    }

    fn set(self, stage: &Stage<Item>, source: &Source<Item>, n: u32) {
        match self {
            Self::Source => source.set_capacity(n as usize).unwrap(),
            // With an idle budget, so that accounts go on to lease ahead.
            Self::Global => admission(source).set_capacity(n, crate::harness::ONE_AHEAD),
            Self::Stage => stage.set_capacity(n as usize).unwrap(),
        }
    }

    /// How many records count there, those under way included.
    fn held(self, stage: &Stage<Item>, source: &Source<Item>) -> u32 {
        match self {
            Self::Source => source.core().account().used(),
            Self::Global => admission(source).ledger().used(),
            Self::Stage => stage.core().places().held(),
        }
    }
}

/// Lowers a cap from three to one while others push two records each.
fn a_push_beside_a_lower_cap(
    changed: Changed,
    preemptions: usize,
    pushed_before: u32,
    pushers: usize,
) {
    explore_both_within(preemptions, move |buffer| {
        let (_manager, stage, source) = changed.buffer(buffer, 3);
        source.try_send_batch(&stage, items("a", 0..pushed_before)).unwrap();
        let pushers: Vec<_> = (0..pushers)
            .map(|_| {
                let (stage, source) = (stage.clone(), source.clone());
                thread::spawn(move || match source.try_send_batch(&stage, items("a", 1..3)) {
                    Ok(()) => 2,
                    Err(rejected) => rejected.accepted,
                })
            })
            .collect();
        changed.set(&stage, &source, 1);
        let held = changed.held(&stage, &source) as usize;
        let accepted: usize = pushers.into_iter().map(|pusher| pusher.join().unwrap()).sum();
        let accepted = pushed_before as usize + accepted;
        assert!(accepted <= held.max(1), "accepted when the cap had been lowered");
        let rejected = source.try_send_batch(&stage, items("a", 0..2)).unwrap_err();
        assert!(rejected.is_full(), "{}", rejected.reason);
        assert_eq!(accepted + rejected.accepted, accepted.max(1));
        assert_eq!(drain(&stage).len(), accepted.max(1));
        // The new cap is there to be had, and not one more.
        let rejected = source.try_send_batch(&stage, items("a", 0..2)).unwrap_err();
        assert_eq!(rejected.accepted, 1);
    });
}

#[test]
fn no_push_is_accepted_beyond_a_cap_that_was_lowered() {
    for changed in Changed::ALL {
        a_push_beside_a_lower_cap(changed, 3, 0, 1);
        a_push_beside_a_lower_cap(changed, 3, 1, 1);
        a_push_beside_a_lower_cap(changed, changed.preemptions(), 1, 2);
    }
}

#[test]
fn idle_credits_are_not_used_beyond_a_global_cap_that_was_lowered() {
    explore_within(3, || {
        let (manager, stage, source) = Changed::Global.buffer(buffer, 8);
        let other = manager.source("b").unwrap();
        other.try_send(&stage, item("b", 0)).unwrap();
        // It leases one more than it needs, and may leave it idle after the cap was lowered.
        let pusher = thread::spawn({
            let (stage, source) = (stage.clone(), source.clone());
            move || usize::from(source.try_send(&stage, item("a", 1)).is_ok())
        });
        Changed::Global.set(&stage, &source, 1);
        assert!(source.try_send(&stage, item("a", 2)).is_err(), "accepted beyond the cap");
        let accepted = pusher.join().unwrap();
        assert!(source.try_send(&stage, item("a", 3)).unwrap_err().is_full());
        assert_eq!(drain(&stage).len(), 1 + accepted);
        source.try_send(&stage, item("a", 4)).unwrap();
        assert!(other.try_send(&stage, item("b", 5)).unwrap_err().is_full());
    });
}

#[test]
fn a_request_that_waits_is_granted_what_a_cap_grows_by() {
    for changed in Changed::ALL {
        explore_both_within(3, move |buffer| {
            let (_manager, stage, source) = changed.buffer(buffer, 2);
            changed.set(&stage, &source, 1);
            source.try_send(&stage, item("a", 0)).unwrap();
            let other = thread::spawn({
                let (stage, source) = (stage.clone(), source.clone());
                move || changed.set(&stage, &source, 2)
            });
            block_on(source.send(&stage, item("a", 1))).unwrap();
            other.join().unwrap();
            assert_eq!(drain(&stage), [0, 1]);
        });
    }
}

#[test]
fn a_request_larger_than_a_cap_that_was_lowered_is_granted_before_or_rejected() {
    for changed in Changed::ALL {
        explore_both_within(changed.preemptions(), move |buffer| {
            let (_manager, stage, source) = changed.buffer(buffer, 2);
            source.try_send(&stage, item("a", 0)).unwrap();
            let batch = take(&stage, 1).unwrap();
            let other = thread::spawn({
                let (stage, source) = (stage.clone(), source.clone());
                move || changed.set(&stage, &source, 1)
            });
            let worker = thread::spawn(move || batch.ack());
            let sent = block_on(source.send_batch(&stage, items("a", 1..3)));
            worker.join().unwrap();
            other.join().unwrap();
            match sent {
                Ok(()) => assert_eq!(drain(&stage), [1, 2]),
                Err(rejected) => assert!(
                    matches!(rejected.reason, RejectReason::TooLarge { capacity: 1, .. }),
                    "{}",
                    rejected.reason
                ),
            }
            let rejected = source.try_send_batch(&stage, items("a", 0..2)).unwrap_err();
            assert_eq!(rejected.accepted, 1);
        });
    }
}

/// Has a request for two records reserve what it needs at a cap of two.
fn reserve(stage: &Stage<Item>, source: &Source<Item>) -> Acquire {
    let mut batch = take(stage, 1).unwrap();
    let request = source.core().wait(stage.core(), Wanted::All(2, 0));
    while source.try_send(stage, item("a", 1)).is_ok() {
        std::mem::replace(&mut batch, take(stage, 1).unwrap()).ack();
    }
    batch.return_to_buffer();
    request
}

#[test]
fn a_reservation_beyond_a_cap_that_was_lowered_ends_with_its_request() {
    for changed in Changed::ALL {
        for buffer in [buffer, exact_buffer] {
            explore_within(2, move || {
                let (_manager, stage, source) = changed.buffer(buffer, 2);
                source.try_send(&stage, item("a", 0)).unwrap();
                let request = reserve(&stage, &source);
                let other = thread::spawn({
                    let (stage, source) = (stage.clone(), source.clone());
                    move || changed.set(&stage, &source, 1)
                });
                let granted = take(&stage, 1).is_some_and(|batch| {
                    batch.ack();
                    true
                });
                assert!(granted);
                let granted = block_on(request).is_ok();
                other.join().unwrap();
                if granted {
                    stage.core().release_charged(source.core().index(), 2, 0);
                }
                let rejected = source.try_send_batch(&stage, items("a", 0..2)).unwrap_err();
                assert_eq!(rejected.accepted, 1, "{}", rejected.reason);
            });
        }
    }
}

#[test]
fn accounts_lease_ahead_again_when_the_buffer_has_drained_below_its_cap() {
    explore_within(1, || {
        let (_manager, stage, source) = Changed::Global.buffer(buffer, 8);
        source.try_send_batch(&stage, items("a", 0..3)).unwrap();
        Changed::Global.set(&stage, &source, 2);
        assert!(source.try_send(&stage, item("a", 3)).unwrap_err().is_full());
        drain(&stage);
        Changed::Global.set(&stage, &source, 8);
        source.try_send(&stage, item("a", 4)).unwrap();
        assert!(admission(&source).ledger().leased() > 1, "it leases no credit ahead");
    });
}
