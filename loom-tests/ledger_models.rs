//! The ledger: leasing ahead of need, sweeping, giving back.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

use crate::backpressure::{BackpressureController, BackpressureSignal};
use crate::harness::{ONE_AHEAD, explore, explore_within};
use crate::ledger::{Ledger, Shortage};

pub(crate) fn ledger(capacity: u32, idle_budget: u32) -> Arc<Ledger> {
    Arc::new(Ledger::new(capacity, idle_budget, BackpressureController::new(0.8)))
}

/// Takes what the caps allow of `wanted` credits, as a push does.
pub(crate) fn acquire(ledger: &Ledger, index: u32, wanted: u32) -> (u32, Option<Shortage>) {
    let account = ledger.account(index);
    let grant = ledger.acquire(account, wanted);
    ledger.note(account, &grant);
    (grant.credits, grant.shortage)
}

pub(crate) fn release(ledger: &Ledger, index: u32, credits: u32) {
    if credits > 0 {
        ledger.release(ledger.account(index), credits);
    }
}

/// Takes what a sweep that raced with others may have left, now that nobody else is running.
fn acquire_rest(ledger: &Ledger, index: u32, wanted: u32) {
    if wanted > 0 {
        assert_eq!(acquire(ledger, index, wanted), (wanted, None), "credits were not brought home");
    }
}

/// With nobody else running, one account can have all credits, then none, and an honest refusal.
pub(crate) fn the_last_credit_can_be_had(ledger: &Ledger, index: u32) {
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
fn a_sweep_that_races_with_a_release_strands_no_credit() {
    explore(|| {
        let ledger = ledger(3, ONE_AHEAD);
        let (ahead, greedy) = (ledger.open_account(3), ledger.open_account(3));
        // One credit in use and one idle: what is released joins the idle one, or goes home.
        assert_eq!(acquire(&ledger, ahead, 1), (1, None));
        assert_eq!(ledger.leased(), 2);
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || release(&ledger, ahead, 1)
        });
        let (first, _) = acquire(&ledger, greedy, 3);
        other.join().unwrap();
        acquire_rest(&ledger, greedy, 3 - first);
        assert_eq!(ledger.used(), 3);
        release(&ledger, greedy, 3);
        the_last_credit_can_be_had(&ledger, ahead);
    });
}

#[test]
fn two_sweeps_at_once_bring_each_idle_credit_home_once() {
    explore(|| {
        // An idle budget that lets each of three accounts lease one credit ahead.
        let ledger = ledger(3, 2 * ONE_AHEAD);
        let idle = ledger.open_account(3);
        let (left, right) = (ledger.open_account(3), ledger.open_account(3));
        assert_eq!(acquire(&ledger, idle, 1), (1, None));
        release(&ledger, idle, 1);
        assert_eq!(ledger.leased(), 2, "two of three credits lie idle");
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || acquire(&ledger, right, 2).0
        });
        let (mine, _) = acquire(&ledger, left, 2);
        let theirs = other.join().unwrap();
        assert!(mine + theirs <= 3, "past the cap");
        // One may have been refused what the other had under way. Now nothing is under way.
        let rest = 3 - mine - theirs;
        acquire_rest(&ledger, left, rest);
        assert_eq!((ledger.used(), ledger.leased()), (3, 3));
        release(&ledger, left, mine + rest);
        release(&ledger, right, theirs);
        the_last_credit_can_be_had(&ledger, idle);
    });
}

#[test]
fn an_account_that_is_closed_and_opened_anew_during_a_sweep_strands_no_credit() {
    explore(|| {
        let ledger = ledger(2, ONE_AHEAD);
        let (old, greedy) = (ledger.open_account(2), ledger.open_account(2));
        assert_eq!(acquire(&ledger, old, 1), (1, None));
        release(&ledger, old, 1);
        assert_eq!(ledger.leased(), 2, "both credits lie idle");
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                ledger.close_account(old).unwrap();
                ledger.vacate(old);
                let new = ledger.open_account(2);
                assert_eq!(new, old, "a vacant index is used again");
                let (credits, _) = acquire(&ledger, new, 1);
                release(&ledger, new, credits);
                new
            }
        });
        let (credits, _) = acquire(&ledger, greedy, 2);
        let new = other.join().unwrap();
        acquire_rest(&ledger, greedy, 2 - credits);
        release(&ledger, greedy, 2);
        the_last_credit_can_be_had(&ledger, new);
        the_last_credit_can_be_had(&ledger, greedy);
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

#[test]
fn a_full_pool_that_three_threads_leave_and_fill_again_reports_full_at_the_end() {
    explore_within(2, || {
        let ledger = ledger(3, 0);
        let account = ledger.open_account(3);
        assert_eq!(acquire(&ledger, account, 3), (3, None));
        let settle_and_push = move |ledger: &Ledger| {
            release(ledger, account, 1);
            assert_eq!(acquire(ledger, account, 1), (1, None), "its own credit is free again");
        };
        let others = [(); 2].map(|()| {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || settle_and_push(&ledger))
        });
        settle_and_push(&ledger);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(ledger.controller().current(), BackpressureSignal::Pause);
        assert_eq!(ledger.account(account).signal(), BackpressureSignal::Pause);
        release(&ledger, account, 3);
        assert_eq!(ledger.controller().current(), BackpressureSignal::Resume);
        assert_eq!(ledger.account(account).signal(), BackpressureSignal::Resume);
    });
}
