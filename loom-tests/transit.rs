//! Credits in transit: what others see while they move between the pool, an account and a stage.

use std::sync::Arc;

use loom::thread;

use crate::caps::Ledger;
use crate::harness::{drain, explore, explore_both, items};
use crate::ledger::{acquire, ledger, open, release, the_last_credit_can_be_had};

#[test]
fn an_account_never_uses_more_than_the_pool_has_leased() {
    // On the way in the pool comes first, and on the way out the account: so what a reader sees in
    // the opposite order is never more in use than leased.
    explore(|| {
        let ledger = ledger(2, 0);
        let account = open(&ledger, 2);
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
        let account = open(&ledger, 2);
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
        let (narrow, wide) = (open(&ledger, 1), open(&ledger, 2));
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
