//! What is guaranteed to a source: no other can have it, and the source always can.

use std::sync::Arc;

use loom::future::block_on;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

use crate::caps::Leasing;
use crate::error::TryRecvError;
use crate::handle::{Source, Stage};
use crate::harness::{
    Item, admission, dead_letter, drain, explore, explore_within, guaranteeing, item, items, take,
};
use crate::ledger::ledger;
use crate::manager::BufferManager;

fn parts(manager: &BufferManager<Item>) -> (Stage<Item>, Source<Item>, Source<Item>) {
    let stage = manager.stage("stage").unwrap();
    (stage, manager.source("quiet").unwrap(), manager.source("loud").unwrap())
}

/// With nobody else running and nothing held, the others can have all but the guarantees.
fn all_is_given_back(manager: &BufferManager<Item>, others: usize) {
    let (stage, quiet, loud) = parts(manager);
    assert!(drain(&stage).is_empty());
    let ledger = admission(&loud).ledger();
    assert_eq!((ledger.used(), ledger.free()), (0, ledger.capacity() - ledger.guarantees()));
    let accepted = loud.try_send_batch(&stage, items("loud", 0..9)).unwrap_err().accepted;
    assert_eq!(accepted, others);
    quiet.try_send_batch(&stage, items("quiet", 0..quiet.guarantee() as u32)).unwrap();
    assert_eq!(ledger.used(), ledger.capacity().min(others as u32 + quiet.guarantee() as u32));
    drain(&stage);
}

#[test]
fn a_source_is_never_refused_its_guarantee_beside_one_that_takes_all_it_can() {
    explore_within(3, || {
        let manager = guaranteeing(2, &[("quiet", 1)]);
        let (_, quiet, loud) = parts(&manager);
        let [left, right] = ["left", "right"].map(|id| manager.stage(id).unwrap());
        let held = Arc::new(AtomicU32::new(0));
        let settle = |held: &AtomicU32, stage: &Stage<Item>| {
            held.fetch_sub(1, SeqCst);
            take(stage, 1).unwrap().ack();
        };
        let other = thread::spawn({
            let held = Arc::clone(&held);
            move || {
                for id in 0..2 {
                    if loud.try_send(&right, item("loud", id)).is_ok() {
                        assert!(held.fetch_add(1, SeqCst) < 2, "past the cap");
                    }
                }
                if !right.is_empty() {
                    settle(&held, &right);
                }
            }
        });
        for id in 2..4 {
            quiet.try_send(&left, item("quiet", id)).expect("it is guaranteed");
            assert!(held.fetch_add(1, SeqCst) < 2, "past the cap");
            settle(&held, &left);
        }
        other.join().unwrap();
        drain(&manager.stage("right").unwrap());
        all_is_given_back(&manager, 1);
    });
}

#[test]
fn two_sources_are_not_refused_their_guarantees_in_a_full_buffer() {
    explore_within(3, || {
        let manager = guaranteeing(3, &[("quiet", 1), ("second", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        let second = manager.source("second").unwrap();
        loud.try_send(&stage, item("loud", 0)).unwrap();
        let other = thread::spawn({
            let stage = stage.clone();
            move || second.try_send(&stage, item("second", 1)).expect("it is guaranteed")
        });
        quiet.try_send(&stage, item("quiet", 2)).expect("it is guaranteed");
        other.join().unwrap();
        assert!(loud.try_send(&stage, item("loud", 3)).unwrap_err().is_full());
        assert_eq!(drain(&stage).len(), 3);
        all_is_given_back(&manager, 1);
    });
}

#[test]
fn two_pushes_of_one_source_share_its_guarantee() {
    explore_within(3, || {
        let manager = guaranteeing(2, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        loud.try_send(&stage, item("loud", 0)).unwrap();
        let other = thread::spawn({
            let (stage, quiet) = (stage.clone(), quiet.clone());
            move || usize::from(quiet.try_send(&stage, item("quiet", 1)).is_ok())
        });
        let mine = usize::from(quiet.try_send(&stage, item("quiet", 2)).is_ok());
        assert_eq!(mine + other.join().unwrap(), 1);
        assert_eq!(drain(&stage).len(), 2);
        all_is_given_back(&manager, 1);
    });
}

#[test]
fn a_source_passes_from_its_guarantee_to_what_all_share_and_back() {
    explore_within(3, || {
        let manager = guaranteeing(3, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        quiet.try_send(&stage, item("quiet", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let worker = thread::spawn(move || batch.ack());
        let other = thread::spawn({
            let stage = stage.clone();
            move || loud.try_send_batch(&stage, items("loud", 1..4)).unwrap_err().accepted
        });
        let mine = quiet.try_send(&stage, item("quiet", 4)).is_ok();
        worker.join().unwrap();
        let others = other.join().unwrap();
        assert!(others <= 2, "past what all share");
        assert!(mine || others == 2, "refused, and the buffer was not full");
        assert_eq!(drain(&stage).len(), others + usize::from(mine));
        all_is_given_back(&manager, 2);
    });
}

#[test]
fn a_request_that_waits_is_granted_what_a_guaranteed_record_gave_back_or_left() {
    explore_within(2, || {
        let manager = guaranteeing(2, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        loud.try_send(&stage, item("loud", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let worker = thread::spawn(move || batch.ack());
        let other = thread::spawn({
            let stage = stage.clone();
            move || quiet.try_send(&stage, item("quiet", 1)).expect("it is guaranteed")
        });
        block_on(loud.send(&stage, item("loud", 2))).unwrap();
        worker.join().unwrap();
        other.join().unwrap();
        assert_eq!(drain(&stage).len(), 2);
        all_is_given_back(&manager, 1);
    });
}

#[test]
fn a_request_that_waits_is_granted_what_a_push_took_of_its_guarantee_in_vain() {
    explore_within(2, || {
        let manager = guaranteeing(2, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        quiet.set_capacity(1).unwrap();
        loud.try_send(&stage, item("loud", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        let push = {
            let stage = stage.clone();
            move |id| usize::from(quiet.try_send(&stage, item("quiet", id)).is_ok())
        };
        let one = thread::spawn({
            let push = push.clone();
            move || push(1)
        });
        let other = thread::spawn(move || {
            let pushed = push(2);
            batch.ack();
            pushed
        });
        block_on(loud.send(&stage, item("loud", 3))).unwrap();
        assert_eq!(one.join().unwrap() + other.join().unwrap(), 1);
        assert_eq!(drain(&stage).len(), 2);
        all_is_given_back(&manager, 1);
    });
}

#[test]
fn a_request_beyond_a_guarantee_is_granted_when_either_part_is_free() {
    for own in [false, true] {
        explore(move || {
            let manager = guaranteeing(3, &[("quiet", 1)]);
            let (stage, quiet, loud) = parts(&manager);
            // One guaranteed credit and one of two that all share are in use.
            quiet.try_send(&stage, item("quiet", 0)).unwrap();
            loud.try_send(&stage, item("loud", 1)).unwrap();
            let (of_quiet, of_loud) = (take(&stage, 1).unwrap(), take(&stage, 1).unwrap());
            let (freed, kept) = if own { (of_quiet, of_loud) } else { (of_loud, of_quiet) };
            let worker = thread::spawn(move || freed.ack());
            block_on(quiet.send_batch(&stage, items("quiet", 2..4))).unwrap();
            worker.join().unwrap();
            kept.ack();
            assert_eq!(drain(&stage), [2, 3]);
            all_is_given_back(&manager, 2);
        });
    }
}

#[test]
fn a_drain_waits_for_guaranteed_records() {
    for closed in [false, true] {
        explore(move || {
            let manager = guaranteeing(2, &[("quiet", 1)]);
            let (stage, quiet, _) = parts(&manager);
            quiet.try_send(&stage, item("quiet", 0)).unwrap();
            let batch = take(&stage, 1).unwrap();
            if closed {
                manager.close();
            }
            assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
            let worker = thread::spawn(move || batch.ack());
            block_on(manager.drain());
            assert!(manager.remaining().is_empty());
            assert_eq!(stage.try_recv_batch(1).unwrap_err() == TryRecvError::Closed, closed);
            worker.join().unwrap();
        });
    }
}

#[test]
fn no_guaranteed_record_comes_to_a_buffer_that_is_drained() {
    explore(|| {
        let manager = guaranteeing(2, &[("quiet", 1)]);
        let (stage, quiet, _) = parts(&manager);
        let pusher = thread::spawn({
            let (stage, quiet) = (stage.clone(), quiet.clone());
            move || quiet.try_send(&stage, item("quiet", 0)).is_ok()
        });
        manager.close();
        let ledger = admission(&quiet).ledger();
        assert!(!ledger.is_drained() || ledger.is_drained(), "drained for a moment only");
        let drained = stage.try_recv_batch(8).map_err(|error| error == TryRecvError::Closed);
        let accepted = pusher.join().unwrap();
        match drained {
            Ok(batch) => batch.ack(),
            Err(drained) => assert!(!(drained && accepted), "a record came to a drained buffer"),
        }
        drain(&stage);
        block_on(manager.drain());
        assert_eq!(stage.try_recv_batch(8).unwrap_err(), TryRecvError::Closed);
        assert_eq!(admission(&quiet).ledger().used(), 0);
    });
}

#[test]
fn a_guarantee_holds_while_the_global_cap_is_lowered() {
    explore_within(2, || {
        let manager = guaranteeing(4, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        // More than the lower cap leaves to it.
        loud.try_send_batch(&stage, items("loud", 0..2)).unwrap();
        let pusher = thread::spawn({
            let (stage, quiet) = (stage.clone(), quiet.clone());
            move || quiet.try_send(&stage, item("quiet", 3)).expect("it is guaranteed")
        });
        let other = thread::spawn({
            let (stage, loud) = (stage.clone(), loud.clone());
            move || usize::from(loud.try_send(&stage, item("loud", 4)).is_ok())
        });
        admission(&quiet).set_capacity(2, 0);
        assert!(loud.try_send(&stage, item("loud", 5)).unwrap_err().is_full());
        pusher.join().unwrap();
        let others = other.join().unwrap();
        assert_eq!(drain(&stage).len(), 3 + others);
        all_is_given_back(&manager, 1);
    });
}

#[test]
fn others_do_not_take_what_a_guaranteed_record_gives_back() {
    explore_within(3, || {
        let manager = guaranteeing(3, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        let other = manager.source("other").unwrap();
        quiet.try_send(&stage, item("quiet", 0)).unwrap();
        let batch = take(&stage, 1).unwrap();
        loud.try_send(&stage, item("loud", 1)).unwrap();
        let worker = thread::spawn({
            let stage = stage.clone();
            move || {
                batch.ack();
                usize::from(other.try_send(&stage, item("other", 2)).is_ok())
            }
        });
        let mine = usize::from(loud.try_send(&stage, item("loud", 3)).is_ok());
        let others = 1 + mine + worker.join().unwrap();
        assert!(others <= 2, "past what all share");
        assert_eq!(drain(&stage).len(), others);
        all_is_given_back(&manager, 2);
    });
}

#[test]
fn a_guarantee_stays_when_another_source_gets_the_account() {
    explore(|| {
        let ledger = ledger(3, 0);
        ledger.guarantee(1);
        let (account, _) = ledger.open_account(3, 1);
        let taken = ledger.acquire(account, 1, 1, 0, Leasing::Exact).taken.records;
        assert_eq!((taken, ledger.free()), (1, 2));
        let worker = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let (_, unreturned) = ledger.release(ledger.account(account), 1);
                let _ = ledger.return_lease(ledger.account(account), unreturned);
            }
        });
        if ledger.try_close_empty(account).is_ok() {
            ledger.vacate(account);
            assert_eq!(ledger.open_account(3, 0), (account, false));
        }
        worker.join().unwrap();
        assert_eq!((ledger.used(), ledger.free()), (0, 2));
    });
}

#[test]
fn letters_of_a_guaranteed_source_are_parked_within_the_cap() {
    explore_within(2, || {
        let manager = guaranteeing(3, &[("quiet", 1)]);
        let (stage, quiet, loud) = parts(&manager);
        for id in 0..2 {
            quiet.try_send(&stage, item("quiet", id)).unwrap();
            dead_letter(take(&stage, 1).unwrap());
        }
        // One letter has a slot; the other holds the guarantee.
        assert!(quiet.core().account().parked() == 1);
        let other = thread::spawn({
            let stage = stage.clone();
            move || loud.try_send_batch(&stage, items("loud", 2..5)).unwrap_err().accepted
        });
        let receiver = thread::spawn({
            let manager = manager.clone();
            move || _ = manager.dead_letters().try_recv()
        });
        let mine = quiet.try_send(&stage, item("quiet", 5)).is_ok();
        receiver.join().unwrap();
        let others = other.join().unwrap();
        assert!(others <= 2 && others + usize::from(mine) <= 3, "past the cap");
        while manager.dead_letters().try_recv().is_some() {}
        drain(&stage);
        all_is_given_back(&manager, 2);
    });
}
