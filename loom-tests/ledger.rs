//! The ledger: leasing ahead of need, sweeping, giving back.

use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

use crate::caps::{Denied, Leasing, Ledger, Limit};
use crate::harness::{ONE_AHEAD, controller, explore};

pub(crate) fn ledger(capacity: u32, idle_budget: u32) -> Arc<Ledger> {
    Arc::new(Ledger::new(capacity, idle_budget, controller().watermarks()))
}

pub(crate) fn open(ledger: &Ledger, capacity: u32) -> u32 {
    let (index, _) = ledger.open_account(capacity, 0);
    index
}

/// Takes what the caps allow of `wanted` credits, in the ways that a push tries one after the other.
pub(crate) fn acquire(ledger: &Ledger, index: u32, wanted: u32) -> (u32, Option<Denied>) {
    let account = ledger.account(index);
    if ledger.acquire_idle(account, wanted).is_some()
        || ledger.acquire_exact(account, wanted).is_ok()
    {
        return (wanted, None);
    }
    let taken = ledger.acquire(index, 1, wanted, 0, Leasing::Ahead).taken;
    (taken.records, taken.denied)
}

pub(crate) fn release(ledger: &Ledger, index: u32, credits: u32) {
    if credits > 0 {
        let account = ledger.account(index);
        let (_, unreturned) = ledger.release(account, credits);
        let _ = ledger.return_lease(account, unreturned);
    }
}

/// The refusal of a source that holds all that it may.
pub(crate) fn source_full(capacity: u32) -> Option<Denied> {
    Some(Denied::Full { limit: Limit::Source, held: capacity, capacity })
}

/// The refusal of a pool without a free credit.
pub(crate) fn global_full(capacity: u32) -> Option<Denied> {
    Some(Denied::Full { limit: Limit::Global, held: capacity, capacity })
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
    assert_eq!(acquire(ledger, index, 1), (0, source_full(capacity)));
    assert_eq!(ledger.used(), capacity);
    release(ledger, index, capacity);
    assert_eq!(ledger.used(), 0);
}

#[test]
fn two_sources_never_pass_the_global_cap_and_leave_every_credit_to_be_had() {
    for capacity in [1, 2, 3] {
        explore(move || {
            let ledger = ledger(capacity, ONE_AHEAD);
            let accounts = [open(&ledger, capacity), open(&ledger, capacity)];
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
        let (ahead, greedy) = (open(&ledger, 3), open(&ledger, 3));
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
        let (third, denied) = acquire(&ledger, greedy, 4 - first - second);
        assert_eq!(first + second + third, 3, "idle credits were not brought home");
        assert_eq!(denied, source_full(3));
        assert_eq!(acquire(&ledger, ahead, 1), (0, global_full(3)));
        release(&ledger, greedy, 3);
        the_last_credit_can_be_had(&ledger, ahead);
    });
}

#[test]
fn a_refusal_after_a_sweep_is_honest_when_an_account_leases_ahead_again() {
    explore(|| {
        let ledger = ledger(2, ONE_AHEAD);
        let (ahead, greedy) = (open(&ledger, 2), open(&ledger, 2));
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
        let (ahead, greedy) = (open(&ledger, 3), open(&ledger, 3));
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
        let idle = open(&ledger, 3);
        let (left, right) = (open(&ledger, 3), open(&ledger, 3));
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
        let (old, greedy) = (open(&ledger, 2), open(&ledger, 2));
        assert_eq!(acquire(&ledger, old, 1), (1, None));
        release(&ledger, old, 1);
        assert_eq!(ledger.leased(), 2, "both credits lie idle");
        let other = thread::spawn({
            let ledger = Arc::clone(&ledger);
            move || {
                let _ = ledger.try_close_empty(old).unwrap();
                ledger.vacate(old);
                let new = open(&ledger, 2);
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
