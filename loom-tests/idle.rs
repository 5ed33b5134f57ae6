//! Idle credits, by one thread: how many the accounts may leave, and what it costs to find them.

use crate::caps::Ledger;
use crate::harness::controller;
use crate::ledger::{self, acquire, global_full};
use crate::stand_ins::{in_one_thread, numbers};
use crate::sync::look_ups;

/// Credits that may lie idle over all accounts, unless a model says otherwise.
const BUDGET: u32 = 64;

/// As many accounts as a model has room for.
const ACCOUNTS: u32 = 8;

fn ledger(capacity: u32, idle_budget: u32) -> Ledger {
    Ledger::new(capacity, idle_budget, controller().watermarks())
}

fn open(ledger: &Ledger, accounts: u32) -> Vec<u32> {
    (0..accounts).map(|_| ledger::open(ledger, ledger.capacity())).collect()
}

fn close(ledger: &Ledger, index: u32) {
    let _ = ledger.try_close_empty(index).unwrap();
    ledger.vacate(index);
}

/// Gives credits back one by one, as single records that are settled do.
fn release(ledger: &Ledger, index: u32, credits: u32) {
    (0..credits).for_each(|_| ledger::release(ledger, index, 1));
}

/// With one thread, what is leased and not in use is idle.
fn idle(ledger: &Ledger) -> u32 {
    ledger.leased() - ledger.used()
}

#[test]
fn the_idle_credits_of_all_accounts_stay_within_their_budget() {
    in_one_thread(|| {
        let ledger = ledger(10_000, BUDGET);
        let mut number = numbers(11);
        // The accounts that are open, with what each has in use.
        let mut accounts: Vec<(u32, u32)> = Vec::new();
        let mut most = 0;
        for _ in 0..600 {
            let place = number(accounts.len().max(1) as u64) as usize;
            match number(8) {
                0 if accounts.len() < ACCOUNTS as usize => {
                    accounts.push((ledger::open(&ledger, 10_000), 0));
                }
                1 if !accounts.is_empty() => {
                    let (index, used) = accounts.swap_remove(place);
                    release(&ledger, index, used);
                    close(&ledger, index);
                }
                2..=4 if !accounts.is_empty() => {
                    let (index, used) = &mut accounts[place];
                    let wanted = 1 + number(u64::from(BUDGET)) as u32;
                    assert_eq!(acquire(&ledger, *index, wanted), (wanted, None));
                    *used += wanted;
                }
                _ if !accounts.is_empty() => {
                    let (index, used) = &mut accounts[place];
                    let gone = number(u64::from(*used) + 1) as u32;
                    release(&ledger, *index, gone);
                    *used -= gone;
                }
                _ => {}
            }
            let used: u32 = accounts.iter().map(|(_, used)| used).sum();
            assert_eq!(ledger.used(), used);
            let idle = idle(&ledger);
            assert!(idle <= BUDGET, "{idle} idle credits with {} accounts", accounts.len());
            most = most.max(idle);
        }
        assert!(most > BUDGET / 2, "at most {most} idle credits: nothing was put to the test");
    });
}

#[test]
fn the_accounts_lease_a_good_part_of_the_budget_ahead() {
    for open_accounts in 1..=ACCOUNTS {
        in_one_thread(move || {
            let ledger = ledger(10_000, BUDGET);
            let accounts = open(&ledger, open_accounts);
            accounts.iter().for_each(|&index| assert_eq!(acquire(&ledger, index, 1), (1, None)));
            assert!(idle(&ledger) >= BUDGET / 4, "{} idle credits", idle(&ledger));
            // The next push draws on the lease, and not on the pool.
            let leased = ledger.leased();
            accounts.iter().for_each(|&index| assert_eq!(acquire(&ledger, index, 1), (1, None)));
            assert_eq!(ledger.leased(), leased);
        });
    }
}

#[test]
fn an_account_that_gives_idle_credits_back_keeps_its_share() {
    in_one_thread(|| {
        let ledger = ledger(10_000, BUDGET);
        let account = ledger::open(&ledger, 10_000);
        for _ in 0..3 {
            assert_eq!(acquire(&ledger, account, 500), (500, None));
            release(&ledger, account, 500);
            assert!((BUDGET / 4..=BUDGET).contains(&idle(&ledger)), "{} idle", idle(&ledger));
        }
    });
}

#[test]
fn an_account_leases_more_ahead_again_when_others_are_closed() {
    in_one_thread(|| {
        let ledger = ledger(10_000, BUDGET);
        for _ in 0..3 {
            let accounts = open(&ledger, ACCOUNTS);
            for &index in &accounts {
                assert_eq!(acquire(&ledger, index, 1), (1, None));
                release(&ledger, index, 1);
            }
            let (last, others) = accounts.split_last().unwrap();
            others.iter().for_each(|&index| close(&ledger, index));
            assert_eq!(acquire(&ledger, *last, BUDGET), (BUDGET, None));
            assert!(idle(&ledger) >= BUDGET / 4, "{} idle credits", idle(&ledger));
            release(&ledger, *last, BUDGET);
            close(&ledger, *last);
            assert_eq!(ledger.leased(), 0, "a closed account has left credits idle");
        }
    });
}

#[test]
fn accounts_whose_share_is_less_than_a_credit_leave_none_idle() {
    in_one_thread(|| {
        // One part for each of eight accounts, of which half is leased ahead: less than one credit.
        let ledger = ledger(10_000, ACCOUNTS);
        let mut accounts = open(&ledger, 2);
        accounts.iter().for_each(|&index| assert_eq!(acquire(&ledger, index, 3), (3, None)));
        assert!(idle(&ledger) > 0);
        accounts.extend(open(&ledger, ACCOUNTS - 2));
        assert_eq!(idle(&ledger), 0);
        for &index in &accounts {
            assert_eq!(acquire(&ledger, index, 5), (5, None));
            assert_eq!(idle(&ledger), 0);
            release(&ledger, index, 4);
            assert_eq!(idle(&ledger), 0);
        }
        // All are exact: what is in use is known without a look at any of them.
        let before = look_ups();
        assert_eq!(ledger.used(), 2 * 3 + ACCOUNTS);
        assert_eq!(look_ups(), before);
    });
}

#[test]
fn the_place_of_a_closed_account_is_used_again() {
    in_one_thread(|| {
        let ledger = ledger(10, 0);
        let kept = ledger::open(&ledger, 10);
        for _ in 0..5 * ACCOUNTS {
            let index = ledger::open(&ledger, 10);
            assert_ne!(index, kept);
            // An account that is open, or was not closed yet, keeps its place.
            ledger.vacate(index);
            assert_eq!(acquire(&ledger, index, 1), (1, None));
            ledger.vacate(index);
            release(&ledger, index, 1);
            close(&ledger, index);
        }
    });
}

/// How many accounts [`acquire`] looks at where it looks at its own alone.
const OWN_ALONE: usize = 2;

#[test]
fn refusals_at_the_cap_look_at_the_other_accounts_once() {
    in_one_thread(|| {
        let ledger = ledger(100, 16);
        let accounts = open(&ledger, ACCOUNTS);
        for &index in &accounts {
            assert_eq!(acquire(&ledger, index, 1), (1, None));
            release(&ledger, index, 1);
        }
        assert!(idle(&ledger) > 0);
        assert_eq!(acquire(&ledger, accounts[0], 100), (100, None));
        for _ in 0..10 {
            let before = look_ups();
            assert_eq!(acquire(&ledger, accounts[1], 1), (0, global_full(100)));
            assert_eq!(look_ups() - before, OWN_ALONE);
            // Nor does a push at the cap that takes what was just given back look at others.
            release(&ledger, accounts[0], 1);
            let before = look_ups();
            assert_eq!(acquire(&ledger, accounts[1], 2), (1, global_full(100)));
            assert_eq!(look_ups() - before, OWN_ALONE);
            release(&ledger, accounts[1], 1);
            assert_eq!(acquire(&ledger, accounts[0], 1), (1, None));
        }
        assert_eq!(ledger.used(), 100);
    });
}

#[test]
fn a_push_that_the_free_credits_cover_looks_at_no_other_account() {
    in_one_thread(|| {
        let ledger = ledger(100, 16);
        let accounts = open(&ledger, 2);
        // A few credits lie idle here, and some are free: more than either, and no more than both.
        assert_eq!(acquire(&ledger, accounts[0], 1), (1, None));
        assert!(idle(&ledger) > 1);
        let free = 100 - ledger.leased();
        let rest = idle(&ledger) + 2;
        let before = look_ups();
        assert_eq!(acquire(&ledger, accounts[1], free - 2), (free - 2, None));
        assert_eq!(acquire(&ledger, accounts[0], rest), (rest, None));
        assert_eq!(look_ups() - before, 2 * OWN_ALONE);
        assert_eq!(ledger.used(), 100);
    });
}

#[test]
fn opening_and_closing_one_account_over_and_over_looks_at_the_others_once_at_most() {
    for others in 1..ACCOUNTS {
        in_one_thread(move || {
            let ledger = ledger(10_000, BUDGET);
            let others = open(&ledger, others);
            others.iter().for_each(|&index| assert_eq!(acquire(&ledger, index, 1), (1, None)));
            let rounds: Vec<usize> = (0..5)
                .map(|_| {
                    let before = look_ups();
                    let index = ledger::open(&ledger, 10_000);
                    assert_eq!(acquire(&ledger, index, 1), (1, None));
                    release(&ledger, index, 1);
                    close(&ledger, index);
                    look_ups() - before
                })
                .collect();
            let least = rounds.iter().min().unwrap();
            let more = rounds.iter().filter(|&round| round > least);
            assert!(more.count() <= 1, "{rounds:?} accounts looked at");
        });
    }
}

#[test]
fn an_account_of_the_largest_cap_can_use_every_credit_of_it() {
    for used in [u32::MAX, u32::MAX - 1, u32::MAX - 2, u32::MAX - 3] {
        in_one_thread(move || {
            let ledger = ledger(u32::MAX, BUDGET);
            let accounts = open(&ledger, 2);
            assert_eq!(acquire(&ledger, accounts[0], 1), (1, None));
            assert_eq!(acquire(&ledger, accounts[0], used - 1), (used - 1, None));
            assert_eq!(ledger.account(accounts[0]).used(), used);
            release(&ledger, accounts[0], 2);
            assert_eq!(acquire(&ledger, accounts[0], 2), (2, None));
            let rest = u32::MAX - used;
            assert_eq!(acquire(&ledger, accounts[1], rest + 1), (rest, global_full(u32::MAX)));
            ledger::release(&ledger, accounts[0], used);
            assert_eq!(acquire(&ledger, accounts[1], u32::MAX - rest), (used, None));
        });
    }
}
