//! Credits in transit: what others see while they move between the pool, an account and a stage,
//! and which signal stands when they have arrived.

use std::sync::Arc;

use loom::thread;

use crate::backpressure::{BackpressureController, BackpressureSignal};
use crate::harness::{drain, explore, explore_both, items};
use crate::ledger::Ledger;
use crate::ledger_models::{acquire, ledger, release, the_last_credit_can_be_had};

#[test]
fn an_account_never_uses_more_than_the_pool_has_leased() {
    // On the way in the pool comes first, and on the way out the account: so what a reader sees in
    // the opposite order is never more in use than leased.
    explore(|| {
        let ledger = ledger(2, 0);
        let account = ledger.open_account(2);
        let reader = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let used = ledger.account(account).used();
                assert!(used <= ledger.leased(), "credits in use that nobody has leased");
            }
        });
        assert_eq!(acquire(&ledger, account, 2), (2, None));
        reader.join().unwrap();
    });
    explore(|| {
        let ledger = ledger(2, 0);
        let account = ledger.open_account(2);
        assert_eq!(acquire(&ledger, account, 2), (2, None));
        let reader = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let leased = ledger.leased();
                assert!(ledger.account(account).used() <= leased, "the pool was told too early");
            }
        });
        release(&ledger, account, 2);
        reader.join().unwrap();
        the_last_credit_can_be_had(&ledger, account);
    });
}

#[test]
fn two_pushes_at_the_last_credit_of_a_source_leave_every_credit_to_be_had() {
    explore(|| {
        let ledger = ledger(2, 0);
        let (narrow, wide) = (ledger.open_account(1), ledger.open_account(2));
        let push_and_settle = move |ledger: &Ledger| {
            let (credits, _) = acquire(ledger, narrow, 1);
            release(ledger, narrow, credits);
        };
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || push_and_settle(&ledger)
        });
        push_and_settle(&ledger);
        other.join().unwrap();
        the_last_credit_can_be_had(&ledger, wide);
    });
}

#[test]
fn a_watermark_that_two_threads_of_one_source_cross_leaves_a_true_signal() {
    explore(|| {
        let ledger = ledger(8, 0);
        let account = ledger.open_account(2);
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let (credits, _) = acquire(&ledger, account, 1);
                release(&ledger, account, credits);
            }
        });
        let (kept, _) = acquire(&ledger, account, 1);
        other.join().unwrap();
        assert_eq!(kept, 1);
        // One of two is below the low watermark, though both may have been held at once before.
        assert_eq!(ledger.account(account).signal(), BackpressureSignal::Resume);
        release(&ledger, account, 1);
        assert_eq!(ledger.account(account).signal(), BackpressureSignal::Resume);
    });
}

#[test]
fn a_source_that_is_closed_while_it_takes_leaves_a_true_signal() {
    explore(|| {
        let ledger = ledger(2, 0);
        let (closing, open) = (ledger.open_account(2), ledger.open_account(2));
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let (credits, _) = acquire(&ledger, closing, 1);
                release(&ledger, closing, credits);
            }
        });
        assert_eq!(acquire(&ledger, open, 1), (1, None));
        let _ = ledger.close_account(closing);
        other.join().unwrap();
        // Only one of two is left, whatever was in transit when the signal last followed.
        assert_eq!(ledger.controller().current(), BackpressureSignal::Resume);
        release(&ledger, open, 1);
    });
}

#[test]
fn a_push_that_gives_idle_credits_back_leaves_a_true_signal() {
    explore(|| {
        let controller = BackpressureController::with_watermarks(0.8, 0.7).unwrap();
        let ledger = Arc::new(Ledger::new(10, 8, controller));
        let account = ledger.open_account(10);
        // One in use and eight idle, the most that an account may keep alone: above the high mark.
        assert_eq!(acquire(&ledger, account, 5), (5, None));
        (0..4).for_each(|_| release(&ledger, account, 1));
        assert_eq!(ledger.controller().current(), BackpressureSignal::SlowDown);
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || assert_eq!(acquire(&ledger, account, 1), (1, None))
        });
        ledger.open_account(10);
        other.join().unwrap();
        // With two accounts each may keep half as many, and whoever comes first gives the others back.
        assert!(ledger.leased() < 7);
        assert_eq!(ledger.controller().current(), BackpressureSignal::Resume);
    });
}

#[test]
fn a_long_batch_to_a_full_stage_leaves_the_credits_to_others() {
    explore_both(|buffer| {
        let manager = buffer(13, 5, 13);
        let (full, free) = (manager.stage("full").unwrap(), manager.stage("free").unwrap());
        let (a, b) = (manager.source("a").unwrap(), manager.source("b").unwrap());
        a.try_send_batch(&full, items("a", 0..5)).unwrap();
        let other = thread::spawn(move || {
            let rejected = a.try_send_batch(&full, items("a", 5..13)).unwrap_err();
            assert_eq!((rejected.accepted, rejected.records.len()), (0, 8));
        });
        b.try_send_batch(&free, items("b", 0..5)).expect("8 of 13 credits are free");
        other.join().unwrap();
        assert_eq!(drain(&free).len(), 5);
    });
}

#[test]
fn a_closed_ledger_is_not_drained_while_a_parked_credit_leaves_and_another_stays() {
    explore(|| {
        let ledger = ledger(2, 0);
        let account = ledger.open_account(2);
        assert_eq!(acquire(&ledger, account, 2), (2, None));
        ledger.park();
        ledger.close();
        let reader = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || assert!(!ledger.is_drained(), "one record could still come to a stage")
        });
        ledger.unpark();
        release(&ledger, account, 1);
        reader.join().unwrap();
        release(&ledger, account, 1);
        assert!(ledger.is_drained());
    });
}
