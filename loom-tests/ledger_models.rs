//! The ledger: leasing ahead of need, sweeping, giving back.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

use crate::backpressure::{BackpressureController, BackpressureSignal};
use crate::harness::{ONE_AHEAD, explore};
use crate::ledger::{Ledger, Shortage};

fn ledger(capacity: u32, idle_budget: u32) -> Arc<Ledger> {
    Arc::new(Ledger::new(capacity, idle_budget, BackpressureController::new(0.8)))
}

/// Takes what the caps allow of `wanted` credits, as a push does.
fn acquire(ledger: &Ledger, index: u32, wanted: u32) -> (u32, Option<Shortage>) {
    let account = ledger.account(index);
    let grant = ledger.acquire(account, wanted);
    ledger.note(account, &grant);
    (grant.credits, grant.shortage)
}

fn release(ledger: &Ledger, index: u32, credits: u32) {
    if credits > 0 {
        ledger.release(ledger.account(index), credits);
    }
}

/// With nobody else running, one account can have all credits, then none, and an honest refusal.
fn the_last_credit_can_be_had(ledger: &Ledger, index: u32) {
    let capacity = ledger.capacity();
    assert_eq!(ledger.used(), 0, "credits in use when all were given back");
    assert_eq!(acquire(ledger, index, capacity), (capacity, None));
    assert_eq!(acquire(ledger, index, 1), (0, Some(Shortage::Source { held: capacity, capacity })));
    assert_eq!(ledger.used(), capacity);
    release(ledger, index, capacity);
    assert_eq!(ledger.used(), 0);
}

#[test]
fn two_sources_never_pass_the_global_cap_and_leave_every_credit_to_be_had() {
    for capacity in [1, 2, 3] {
        explore(move || {
            let ledger = ledger(capacity, ONE_AHEAD);
            let accounts = [ledger.open_account(capacity), ledger.open_account(capacity)];
            let held = Arc::new(AtomicU32::new(0));
            let push_and_settle = move |ledger: &Ledger, held: &AtomicU32, account| {
                let (credits, _) = acquire(ledger, account, 2);
                assert!(held.fetch_add(credits, SeqCst) + credits <= capacity, "past the cap");
                held.fetch_sub(credits, SeqCst);
                release(ledger, account, credits);
            };
            let other = thread::spawn({
                let (ledger, held) = (Arc::clone(&ledger), Arc::clone(&held));
                move || push_and_settle(&ledger, &held, accounts[1])
            });
            push_and_settle(&ledger, &held, accounts[0]);
            other.join().unwrap();
            the_last_credit_can_be_had(&ledger, accounts[0]);
            the_last_credit_can_be_had(&ledger, accounts[1]);
        });
    }
}

#[test]
fn a_sweep_that_races_with_a_lease_ahead_strands_no_credit() {
    explore(|| {
        let ledger = ledger(3, ONE_AHEAD);
        let (ahead, greedy) = (ledger.open_account(3), ledger.open_account(3));
        // A cap of three and a lease of one ahead: the second push meets an empty pool and sweeps.
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let (credits, _) = acquire(&ledger, ahead, 1);
                release(&ledger, ahead, credits);
            }
        });
        let (first, _) = acquire(&ledger, greedy, 3);
        let (second, _) = acquire(&ledger, greedy, 3 - first);
        other.join().unwrap();
        let (third, shortage) = acquire(&ledger, greedy, 4 - first - second);
        assert_eq!(first + second + third, 3, "idle credits were not brought home");
        assert_eq!(shortage, Some(Shortage::Source { held: 3, capacity: 3 }));
        assert!(matches!(acquire(&ledger, ahead, 1), (0, Some(Shortage::Global { .. }))));
        release(&ledger, greedy, 3);
        the_last_credit_can_be_had(&ledger, ahead);
    });
}

#[test]
fn a_refusal_after_a_sweep_is_honest_when_an_account_leases_ahead_again() {
    explore(|| {
        let ledger = ledger(2, ONE_AHEAD);
        let (ahead, greedy) = (ledger.open_account(2), ledger.open_account(2));
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                for _ in 0..2 {
                    let (credits, _) = acquire(&ledger, ahead, 1);
                    release(&ledger, ahead, credits);
                }
            }
        });
        let (credits, _) = acquire(&ledger, greedy, 2);
        release(&ledger, greedy, credits);
        other.join().unwrap();
        the_last_credit_can_be_had(&ledger, greedy);
        the_last_credit_can_be_had(&ledger, ahead);
    });
}

#[test]
fn a_watermark_that_two_threads_cross_leaves_a_true_signal() {
    explore(|| {
        let ledger = ledger(2, 0);
        let accounts = [ledger.open_account(2), ledger.open_account(2)];
        let push_and_settle = |ledger: &Ledger, account| {
            let (credits, _) = acquire(ledger, account, 1);
            release(ledger, account, credits);
        };
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || push_and_settle(&ledger, accounts[1])
        });
        push_and_settle(&ledger, accounts[0]);
        let (kept, _) = acquire(&ledger, accounts[0], 1);
        other.join().unwrap();
        assert_eq!(kept, 1);
        // One of two is below the low watermark, though both may have been held at once before.
        assert_eq!(ledger.controller().current(), BackpressureSignal::Resume);
        release(&ledger, accounts[0], 1);
        assert_eq!(ledger.controller().current(), BackpressureSignal::Resume);
        for account in accounts {
            assert_eq!(ledger.account(account).signal(), BackpressureSignal::Resume);
        }
    });
}
