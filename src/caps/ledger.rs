//! The credit ledger: the pool, and the accounts that draw on it.
//!
//! Each source has an account. An account is one word that packs the credits leased from the pool
//! with those in use, so a push within the lease is one compare-and-swap. The pool is one word that
//! all threads share. It is written only to lease credits and to give them back.
//!
//! The ledger counts, and notifies no waiter: its calls return what they have moved.
//! [`docs::internals`](crate::docs::internals#the-ledger) explains exact and ahead leases, sweeps
//! and their epoch, parked letters, and why a refusal is honest and cheap.

use super::account::{Account, Balance, Lease, MAX_LEASE};
use super::packed::{Packed, Word};
use super::{Denied, Limit, Taken};
use crate::backpressure::Watermarks;
use crate::sync::{Arena, AtomicI64, AtomicSetting, AtomicU32, CachePadded, Mutex, SeqCst};

/// The pool of credits and the accounts that draw on it.
pub(crate) struct Ledger {
    pool: CachePadded<Packed<Pool>>,
    /// The capacity, less the credits of parked dead letters, less those that are reserved for a
    /// request that waits, and less those that are guaranteed to accounts and not in use. It is
    /// below zero while more are reserved than are left.
    limit: AtomicI64,
    /// Credits that are reserved for a request that waits.
    reserved: AtomicSetting,
    /// Credits that are guaranteed to accounts, opened or not.
    guarantees: AtomicSetting,
    /// Credits of parked dead letters, which the pool's word does not count.
    parked: AtomicU32,
    capacity: AtomicU32,
    /// The largest capacity so far.
    most: AtomicSetting,
    watermarks: Watermarks,
    /// Credits that an account leases ahead of need; 0 keeps all accounts exact.
    ahead: AtomicSetting,
    accounts: Arena<Account>,
    /// The head of the list of accounts that lease ahead, as their index plus one; 0 ends it.
    first_ahead: AtomicU32,
    register: Mutex<Register>,
}

/// Which accounts are in use. Only opening and closing an account takes this lock.
struct Register {
    open: u32,
    /// Credits that may be idle in all accounts together.
    idle_budget: u32,
    /// The number of accounts among which the idle budget is divided: a power of two, at least
    /// `open`.
    shares: u32,
    vacant: Vec<u32>,
}

/// The pool's word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 63 | every account is exact or closed |
/// | 62 | sealed: every account is closed, and no credit is leased any more |
/// | 61..32 | epoch: how often an account has turned from exact to ahead, or the limit was lowered |
/// | 31..0 | credits leased, without those of parked dead letters |
#[derive(Clone, Copy)]
struct Pool(u64);

const SWEPT: u64 = 1 << 63;
const SEALED: u64 = 1 << 62;
const EPOCH_ONE: u64 = 1 << 32;
const EPOCH_MASK: u64 = SEALED - EPOCH_ONE;

impl Word for Pool {
    #[inline]
    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    fn into_bits(self) -> u64 {
        self.0
    }
}

impl Pool {
    #[inline]
    fn leased(self) -> u32 {
        self.0 as u32
    }

    fn is_swept(self) -> bool {
        self.0 & SWEPT != 0
    }

    fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    fn epoch(self) -> u64 {
        self.0 & EPOCH_MASK
    }

    fn with_swept(self) -> Self {
        Self(self.0 | SWEPT)
    }

    fn with_next_epoch(self) -> Self {
        Self(self.0 & !EPOCH_MASK | self.0.wrapping_add(EPOCH_ONE) & EPOCH_MASK)
    }

    /// The word after an account has turned ahead.
    fn with_one_ahead(self) -> Self {
        Self(self.with_next_epoch().0 & !SWEPT)
    }

    /// The word after a letter was parked. The epoch keeps a swap of an older word from succeeding.
    fn with_one_parked(self) -> Self {
        Self(self.with_next_epoch().0 - 1)
    }
}

/// How a request leases credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leasing {
    /// A request may lease more than it needs.
    Ahead,
    /// A request leases no more than it needs.
    Exact,
    /// As `Exact`, after the account's idle credits have gone back to the pool: more may be leased
    /// than a lowered cap allows.
    Reclaim,
}

/// At most one part in this many of the global cap may lie idle in accounts.
const IDLE_SHARE: u32 = 100;

/// Returns how many credits may be idle in all accounts together. Idle credits count as leased.
/// They must not keep an empty buffer above its low watermark.
pub(crate) fn idle_budget_for(capacity: u32, watermarks: Watermarks) -> u32 {
    (capacity / IDLE_SHARE).min(watermarks.of(capacity).low / 2)
}

/// What a call of [`Ledger::acquire`] has taken, and what else it has moved.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) taken: Taken,
    /// The credits in use after the call.
    pub(crate) used: u32,
    /// Whether the pool's level has changed, if only for a moment.
    pub(crate) pool_moved: bool,
    /// Whether credits that were in transit can be taken by others now: from the pool, or idle in
    /// the account. The caller must notify waiters and drainers.
    pub(crate) left_some: bool,
    /// Whether the account has turned ahead.
    pub(crate) turned_ahead: bool,
}

/// What a call that gives credits back has moved.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Released {
    /// Whether the pool's level has changed.
    pub(crate) pool_moved: bool,
    /// Whether the pool has become empty: every record is settled.
    pub(crate) pool_empty: bool,
}

impl Ledger {
    /// Creates a ledger of `capacity` credits, of which about `idle_budget` may be idle in
    /// accounts.
    pub(crate) fn new(capacity: u32, idle_budget: u32, watermarks: Watermarks) -> Self {
        Self {
            pool: CachePadded::new(Packed::new(Pool(0).with_swept())),
            limit: AtomicI64::new(i64::from(capacity)),
            reserved: AtomicSetting::new(0),
            guarantees: AtomicSetting::new(0),
            parked: AtomicU32::new(0),
            capacity: AtomicU32::new(capacity),
            most: AtomicSetting::new(capacity),
            watermarks,
            ahead: AtomicSetting::new(idle_budget / 2),
            accounts: Arena::new(),
            first_ahead: AtomicU32::new(0),
            register: Mutex::new(Register { open: 0, idle_budget, shares: 1, vacant: Vec::new() }),
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity.load(SeqCst)
    }

    /// Guarantees credits to an account that may be opened later. The caller ensures that no
    /// account is open yet, and that the guarantees sum to no more than the capacity.
    pub(crate) fn guarantee(&self, credits: u32) {
        self.guarantees.fetch_add(credits, SeqCst);
        self.limit.fetch_sub(i64::from(credits), SeqCst);
    }

    /// Returns the sum of all guarantees.
    pub(crate) fn guarantees(&self) -> u32 {
        self.guarantees.load(SeqCst)
    }

    /// Returns the capacity without what is guaranteed to other accounts.
    pub(crate) fn capacity_for(&self, account: &Account) -> u32 {
        let others = self.guarantees().saturating_sub(account.guarantee());
        self.capacity().saturating_sub(others)
    }

    /// Returns how many of `credits` the account would take from those that all accounts share.
    pub(crate) fn beyond_guarantee(&self, account: &Account, credits: u32) -> u32 {
        credits - account.guaranteed(account.used(), credits)
    }

    /// Returns the largest capacity so far.
    pub(crate) fn most(&self) -> u32 {
        self.most.load(SeqCst)
    }

    /// Changes the capacity. No credit beyond it is leased from now on; those that are leased stay
    /// so. Unless it grows, ends the lease of every account. The caller ensures that no other
    /// thread changes it, and that requests lease with [`Leasing::Reclaim`] until
    /// [`is_within_limit`](Self::is_within_limit). It then notifies waiters and drainers.
    pub(crate) fn set_capacity(&self, capacity: u32, idle_budget: u32) {
        let before = self.capacity();
        self.most.store(self.most().max(capacity), SeqCst);
        self.capacity.store(capacity, SeqCst);
        self.limit.fetch_add(i64::from(capacity) - i64::from(before), SeqCst);
        // A thread that read the old limit read the old word before that, so its swap fails. This
        // write also pairs with the fence in `WaitQueue::enter`.
        let _ = self.pool.update(|pool| Some(pool.with_next_epoch()));
        let mut register = self.register.lock();
        register.idle_budget = idle_budget;
        self.share_idle_budget(&mut register);
        drop(register);
        if capacity < before {
            // Not by a sweep: one of another thread may still be under way.
            for (_, account) in self.accounts.iter() {
                self.reclaim(account);
            }
        }
    }

    /// Returns whether no more credits are leased than the capacity allows.
    pub(crate) fn is_within_limit(&self) -> bool {
        i64::from(self.pool.load().leased()) <= self.limit.load(SeqCst)
    }

    /// Changes the cap of an account. No credit beyond it is given from now on; those in use stay
    /// so. The caller ensures that no other thread changes it, and then notifies waiters.
    pub(crate) fn set_account_capacity(&self, account: &Account, capacity: u32) -> Released {
        let lowered = capacity < account.capacity();
        account.set_marks(self.watermarks.of(capacity));
        let idle = if lowered { account.end_lease(Lease::Exact) } else { None };
        // A thread that writes the word later sees the new cap.
        account.fence();
        self.give_back(idle.unwrap_or(0))
    }

    /// Returns the account of an index that [`open_account`](Self::open_account) has returned.
    #[inline]
    pub(crate) fn account(&self, index: u32) -> &Account {
        self.accounts.get(index as usize).expect("an account is opened before it is named")
    }

    /// Returns how many accounts there are, open or not. Their indices begin at 0.
    pub(crate) fn accounts(&self) -> u32 {
        self.accounts.count() as u32
    }

    /// Opens an account with a cap of `capacity` credits, of which `guarantee` are
    /// [guaranteed](Self::guarantee). Returns its index, and whether the pool's level has changed.
    pub(crate) fn open_account(&self, capacity: u32, guarantee: u32) -> (u32, bool) {
        let mut register = self.register.lock();
        let index =
            register.vacant.pop().unwrap_or_else(|| self.accounts.push(Account::new()) as u32);
        (index, self.open(&mut register, index, capacity, guarantee))
    }

    /// Opens the account of an index that another ledger chose. This ledger must not choose indices
    /// itself. The caller ensures that the account is closed and holds nothing.
    pub(crate) fn open_account_at(&self, index: u32, capacity: u32) {
        let mut register = self.register.lock();
        while self.accounts.count() <= index as usize {
            self.accounts.push(Account::new());
        }
        self.open(&mut register, index, capacity, 0);
    }

    fn open(&self, register: &mut Register, index: u32, capacity: u32, guarantee: u32) -> bool {
        self.account(index).open(self.watermarks.of(capacity), guarantee);
        register.open += 1;
        self.share_idle_budget(register)
    }

    /// Closes an account that holds no record. [`vacate`](Self::vacate) frees its index.
    ///
    /// # Errors
    ///
    /// Returns the number of records that it holds.
    pub(crate) fn try_close_empty(&self, index: u32) -> Result<Released, u32> {
        let close = |balance: Balance| {
            let open = balance.used == 0 && balance.lease != Lease::Closed;
            open.then_some(Balance { lease: Lease::Closed, used: 0 })
        };
        match self.account(index).update(close) {
            Ok(before) => {
                self.discount();
                Ok(self.give_back(before.idle()))
            }
            Err(balance) if balance.used > 0 => Err(balance.used),
            Err(_) => Ok(self.give_back(0)),
        }
    }

    /// Closes an account: it gets no further credit. Credits in use stay so until they are
    /// released.
    pub(crate) fn close_account(&self, index: u32) -> Released {
        match self.account(index).end_lease(Lease::Closed) {
            Some(idle) => {
                self.discount();
                self.give_back(idle)
            }
            None => self.give_back(0),
        }
    }

    /// Closes every account. The caller ensures that no account is opened meanwhile or later.
    pub(crate) fn close(&self) {
        for (_, account) in self.accounts.iter() {
            let _ = self.give_back(account.end_lease(Lease::Closed).unwrap_or(0));
        }
        self.pool.set(SEALED);
    }

    /// Removes a closed account from the number of open ones.
    fn discount(&self) {
        let mut register = self.register.lock();
        register.open -= 1;
        // The share of each account grows, so no credit moves.
        self.share_idle_budget(&mut register);
    }

    /// Frees the index of a closed account. The caller ensures that no handle names it any more.
    pub(crate) fn vacate(&self, index: u32) {
        let closed = Balance { lease: Lease::Closed, used: 0 };
        if self.account(index).balance() == closed {
            self.register.lock().vacant.push(index);
        }
    }

    /// Divides the idle budget among the open accounts. An account may keep twice as many idle
    /// credits as it leases ahead. The share shrinks when `open` passes a power of two, and grows
    /// when at most a quarter of the shares are in use: so opening and closing one account again
    /// and again sweeps once at most. Returns whether the pool's level has changed.
    fn share_idle_budget(&self, register: &mut Register) -> bool {
        let Register { open, shares, idle_budget, .. } = *register;
        register.shares = if open > shares {
            open.next_power_of_two()
        } else if open <= shares / 4 {
            (shares / 2).max(1)
        } else {
            shares
        };
        let ahead = idle_budget / register.shares / 2;
        let shrinks = ahead < self.ahead.swap(ahead, SeqCst);
        // An account that had more than the smaller share leases ahead again when it needs to.
        shrinks && self.sweep()
    }

    /// Gives back idle credits of an account that has more than twice `ahead`, down to `ahead`.
    fn trim(&self, account: &Account) -> Option<Released> {
        let ahead = self.ahead.load(SeqCst);
        let trim = |balance: Balance| {
            let lease = if ahead == 0 { Lease::Exact } else { Lease::Ahead(balance.used + ahead) };
            (balance.idle() > ahead.saturating_mul(2)).then_some(Balance { lease, ..balance })
        };
        let before = account.update(trim).ok()?;
        Some(self.give_back(before.idle() - ahead))
    }

    /// Takes `wanted` credits of an account, or as many as the caps allow if they are at least
    /// `least`. `own` of the reserved credits are for this request.
    pub(crate) fn acquire(
        &self,
        index: u32,
        least: u32,
        wanted: u32,
        own: u32,
        leasing: Leasing,
    ) -> Grant {
        let account = self.account(index);
        // Two copies, so that an account without a guarantee does not pay for those with one.
        if account.guarantee() == 0 {
            self.acquire_as::<false>((index, account), least, wanted, own, leasing)
        } else {
            self.acquire_as::<true>((index, account), least, wanted, own, leasing)
        }
    }

    /// Performs [`acquire`](Self::acquire) for an account with a guarantee, or one without.
    ///
    /// Each round of the loop leases what is missing, or sweeps, or makes one attempt to swap the
    /// account's word.
    fn acquire_as<const GUARANTEED: bool>(
        &self,
        (index, account): (u32, &Account),
        least: u32,
        wanted: u32,
        own: u32,
        leasing: Leasing,
    ) -> Grant {
        // Credits in transit: leased from the pool, and not in the account yet.
        let mut in_hand = 0_u32;
        // Those of them that are guaranteed to the account.
        let mut guaranteed = 0;
        let mut leased_ahead = false;
        let mut swept = false;
        // Whether credits went back to the pool.
        let mut reclaimed = false;
        let mut exhausted = false;
        let mut balance = account.balance();
        loop {
            if leasing == Leasing::Reclaim && balance.idle() > 0 {
                reclaimed |= self.reclaim(account);
                balance = account.balance();
                continue;
            }
            let capacity = account.capacity();
            // Saturating: a reservation may lower the limit below what is in use.
            let room = account.limit(own).saturating_sub(balance.used);
            let want = if room < least { 0 } else { wanted.min(room) };
            // Saturating: the balance may be outdated, and then the swap below fails.
            let have = balance.idle().saturating_add(in_hand);
            let closed = balance.lease == Lease::Closed;
            if GUARANTEED && !closed {
                let wanted = account.guaranteed(balance.used, want);
                if wanted != guaranteed {
                    reclaimed |= wanted < guaranteed;
                    in_hand -= guaranteed;
                    guaranteed = self.lease_guaranteed(guaranteed, wanted);
                    in_hand += guaranteed;
                    balance = account.balance();
                    continue;
                }
            }
            if want > have && !exhausted && !closed {
                let missing = want - have;
                let ahead = match leasing {
                    Leasing::Ahead if !GUARANTEED => self.ahead.load(SeqCst).min(room - want),
                    _ => 0,
                };
                // Guaranteed credits in hand count as leased, and the limit does not allow for them
                // yet.
                let leased = self.lease(missing, ahead, own.saturating_add(guaranteed));
                in_hand += leased;
                leased_ahead |= leased > missing;
                if leased < missing {
                    // One sweep is enough. Credits that it frees and other threads take are not
                    // idle.
                    if !swept && self.sweep() {
                        swept = true;
                    } else {
                        exhausted = true;
                    }
                    balance = account.balance();
                }
                continue;
            }
            let credits = if closed || want.min(have) < least { 0 } else { want.min(have) };
            if credits == 0 && (closed || in_hand == 0 || least > 1) {
                let moved = in_hand > 0 || swept || reclaimed;
                let _ = self.give_back(in_hand);
                let denied = if closed {
                    Denied::Closed
                } else {
                    self.shortage(balance.used, capacity, want, least)
                };
                return Grant {
                    taken: Taken::none(denied),
                    used: balance.used,
                    pool_moved: moved,
                    left_some: moved,
                    turned_ahead: false,
                };
            }
            let used = balance.used + credits;
            // Idle credits that stay in the account: at most twice `ahead`. An exact account keeps
            // none, unless it has leased ahead.
            let keep = match balance.lease {
                Lease::Exact if !leased_ahead => 0,
                _ => (have - credits)
                    .min(room - credits)
                    .min(self.ahead.load(SeqCst).saturating_mul(2))
                    .min(MAX_LEASE.saturating_sub(used)),
            };
            let lease = match balance.lease {
                Lease::Exact if keep == 0 => Lease::Exact,
                _ if used > MAX_LEASE => Lease::Exact,
                _ => Lease::Ahead(used + keep),
            };
            match account.replace(balance, Balance { lease, used }) {
                Ok(()) => {
                    let turned_ahead = balance.lease == Lease::Exact && lease != Lease::Exact;
                    if turned_ahead {
                        self.announce_ahead(index, account);
                    }
                    if GUARANTEED {
                        self.limit.fetch_add(i64::from(guaranteed), SeqCst);
                    }
                    let surplus = have - credits - keep;
                    let _ = self.give_back(surplus);
                    let lowered = account.capacity();
                    if lowered < capacity {
                        // A cap that was lowered after it was read: see `docs::internals`.
                        reclaimed |= self.reclaim(account);
                        if used > lowered {
                            let (_, unreturned) = self.release(account, credits);
                            let _ = self.return_lease(account, unreturned);
                            (reclaimed, exhausted, in_hand, guaranteed) = (true, false, 0, 0);
                            balance = account.balance();
                            continue;
                        }
                    }
                    let denied = (credits < wanted)
                        .then(|| self.shortage(used, capacity, want - credits, 1));
                    return Grant {
                        taken: Taken { records: credits, denied },
                        used,
                        pool_moved: in_hand > 0 || surplus > 0 || swept || reclaimed,
                        // Guaranteed credits counted twice until the limit was raised.
                        left_some: leased_ahead && keep > 0
                            || surplus + guaranteed > 0
                            || swept
                            || reclaimed,
                        turned_ahead,
                    };
                }
                Err(actual) => balance = actual,
            }
        }
    }

    /// Gives the idle credits of an account back to the pool. Returns whether there were any.
    fn reclaim(&self, account: &Account) -> bool {
        let idle = account.end_lease(Lease::Exact).unwrap_or(0);
        self.give_back(idle).pool_moved
    }

    /// Takes `wanted` idle credits of the account, and returns how many are in use after that. This
    /// is the usual case far from the global cap.
    #[inline]
    pub(crate) fn acquire_idle(&self, account: &Account, wanted: u32) -> Option<u32> {
        account.take_idle(wanted)
    }

    /// Takes `wanted` credits from the pool if all accounts lease exactly, and returns how many are
    /// in use after that. Makes one attempt.
    ///
    /// # Errors
    ///
    /// Returns whether credits were taken and given back: then the caller must do what
    /// [`Grant::left_some`] demands.
    #[inline]
    pub(crate) fn acquire_exact(&self, account: &Account, wanted: u32) -> Result<u32, bool> {
        let balance = account.balance();
        if balance.lease != Lease::Exact
            || account.guarantee() > 0
            || account.limit(0).saturating_sub(balance.used) < wanted
            || self.ahead.load(SeqCst) > 0
        {
            return Err(false);
        }
        let leased = self.lease(wanted, 0, 0);
        let used = balance.used + wanted;
        if leased == wanted && account.replace(balance, balance.with_used(used)).is_ok() {
            return Ok(used);
        }
        let _ = self.give_back(leased);
        Err(leased > 0)
    }

    /// Returns the limit that denied a push of at least `least` records, which lacks `unmet`
    /// credits that its source's cap allows.
    fn shortage(&self, used: u32, capacity: u32, unmet: u32, least: u32) -> Denied {
        if unmet == 0 {
            return if capacity.saturating_sub(used) < least {
                Denied::Full { limit: Limit::Source, held: used, capacity }
            } else {
                Denied::Reserved { limit: Limit::Source }
            };
        }
        let capacity = self.capacity();
        let held = self.leased();
        let withheld = i64::from(capacity) - i64::from(self.parked()) > self.limit.load(SeqCst);
        if withheld && capacity.saturating_sub(held) >= least {
            self.withheld(held, least, 0)
        } else if least == 1 {
            // The lease failed, so it found every credit leased.
            Denied::Full { limit: Limit::Global, held: held.max(capacity), capacity }
        } else {
            Denied::Full { limit: Limit::Global, held, capacity }
        }
    }

    /// Returns why a request for `wanted` credits cannot take what the pool has left. `own` of the
    /// credits are guaranteed to its account.
    fn withheld(&self, held: u32, wanted: u32, own: u32) -> Denied {
        let (capacity, reserved) = (self.capacity(), self.reserved.load(SeqCst));
        let others = i64::from(self.parked()) + i64::from(reserved);
        let unused = i64::from(capacity) - others - self.limit.load(SeqCst);
        let guaranteed = u32::try_from(unused).unwrap_or(0).saturating_sub(own);
        let suffices = capacity.saturating_sub(held).saturating_sub(guaranteed) >= wanted;
        if self.guarantees() == 0 || reserved > 0 && suffices {
            return Denied::Reserved { limit: Limit::Global };
        }
        Denied::Guaranteed { held, capacity, guaranteed }
    }

    /// Checks whether a request could take `wanted` credits now, and takes none. Idle credits of
    /// other accounts count as free.
    pub(crate) fn check(&self, account: &Account, wanted: u32, own: u32) -> Result<(), Denied> {
        let balance = account.balance();
        if balance.lease == Lease::Closed {
            return Err(Denied::Closed);
        }
        let capacity = account.capacity();
        let room = account.limit(own).saturating_sub(balance.used);
        let limit = self.limit.load(SeqCst) + i64::from(own);
        let mut free = limit - i64::from(self.pool.load().leased()) + i64::from(balance.idle());
        // Credits that are guaranteed to the account need none of those that all accounts share.
        let guaranteed = account.guaranteed(balance.used, wanted);
        let shared = i64::from(wanted - guaranteed);
        if free < shared {
            // A sweep would free the idle credits of other accounts.
            free = limit - i64::from(self.used() - self.parked().min(self.used()));
        }
        let fits = shared == 0 || free >= shared;
        if room >= wanted && fits {
            return Ok(());
        }
        let held = self.used();
        let unused = capacity.saturating_sub(balance.used);
        let fits_unused =
            i64::from(unused) <= free + i64::from(guaranteed) || (1..=guaranteed).contains(&unused);
        Err(if unused < wanted && fits_unused {
            Denied::Full { limit: Limit::Source, held: balance.used, capacity }
        } else if fits {
            Denied::Reserved { limit: Limit::Source }
        } else if self.capacity().saturating_sub(held) < wanted {
            Denied::Full { limit: Limit::Global, held, capacity: self.capacity() }
        } else {
            self.withheld(held, wanted, guaranteed)
        })
    }

    /// Takes credits of settled records out of use. Returns how many remain in use, and what to
    /// pass to [`return_lease`](Self::return_lease).
    #[inline]
    pub(crate) fn release(&self, account: &Account, credits: u32) -> (u32, Unreturned) {
        // Read first: once the account holds nothing, it may be opened for another source.
        let guarantee = account.guarantee();
        let before = account.release(credits);
        debug_assert!(before.used >= credits, "more credits given back than were in use");
        let used = before.used - credits;
        let unreturned = match before.lease {
            Lease::Exact | Lease::Closed if guarantee <= used => Unreturned::Exact(credits),
            Lease::Exact | Lease::Closed => {
                let guaranteed = (guarantee - used).min(credits);
                self.limit.fetch_sub(i64::from(guaranteed), SeqCst);
                Unreturned::Guaranteed(credits)
            }
            Lease::Ahead(leased) => Unreturned::Idle(leased - used),
        };
        (used, unreturned)
    }

    /// Gives credits that were taken out of use back to the pool, unless the account keeps them
    /// idle. This is the last step of settling: an empty pool means that every record is settled.
    #[inline]
    pub(crate) fn return_lease(&self, account: &Account, unreturned: Unreturned) -> Released {
        match unreturned {
            Unreturned::Exact(credits) => self.give_back(credits),
            Unreturned::Guaranteed(credits) => self.give_back_guaranteed(credits),
            Unreturned::Idle(idle) if idle > self.ahead.load(SeqCst).saturating_mul(2) => {
                self.trim(account).unwrap_or(Released { pool_moved: false, pool_empty: false })
            }
            Unreturned::Idle(_) => Released { pool_moved: false, pool_empty: false },
        }
    }

    /// Leases `missing` credits from the pool, and `ahead` more while the pool is far from its cap.
    /// Leases fewer if fewer are free. `own` of the reserved credits are for this request.
    #[inline]
    fn lease(&self, missing: u32, ahead: u32, own: u32) -> u32 {
        let plenty = i64::from(self.capacity() - self.capacity() / 8);
        let mut credits = 0;
        let lease = |pool: Pool| {
            // Read after the pool's word. A thread that parks a letter lowers the limit first and
            // changes the word second, so the swap fails if this limit is outdated.
            let limit = self.limit.load(SeqCst) + i64::from(own);
            let leased = i64::from(pool.leased());
            let generous = missing.saturating_add(ahead);
            credits = if pool.is_sealed() {
                0
            } else if leased + i64::from(generous) <= plenty.min(limit) {
                generous
            } else {
                missing.min(u32::try_from(limit - leased).unwrap_or(0))
            };
            (credits > 0).then(|| Pool(pool.0 + u64::from(credits)))
        };
        let _ = self.pool.update(lease);
        credits
    }

    /// Changes the number of guaranteed credits in hand from `held` to `wanted`, and returns the
    /// number after that. No other account can have taken them, so this does not check the limit.
    /// The caller raises the limit when they are in use.
    fn lease_guaranteed(&self, held: u32, wanted: u32) -> u32 {
        let Some(missing) = wanted.checked_sub(held) else {
            let _ = self.give_back(held - wanted);
            return wanted;
        };
        let lease = |pool: Pool| {
            // Credits in hand may count twice, but the count must not overflow its bits.
            let fits = pool.leased().checked_add(missing).is_some();
            (fits && !pool.is_sealed()).then(|| Pool(pool.0 + u64::from(missing)))
        };
        self.pool.update(lease).map_or(held, |_| wanted)
    }

    /// Gives credits back to the pool. The caller has lowered the limit by those that stay
    /// guaranteed.
    fn give_back_guaranteed(&self, credits: u32) -> Released {
        // The epoch keeps the swap of a thread that read the old limit from succeeding.
        let less = |pool: Pool| Some(Pool(pool.with_next_epoch().0 - u64::from(credits)));
        let before = self.pool.update(less);
        Released { pool_moved: true, pool_empty: before.is_ok_and(|pool| pool.leased() == credits) }
    }

    /// Gives credits back to the pool.
    #[inline]
    fn give_back(&self, credits: u32) -> Released {
        if credits == 0 {
            return Released { pool_moved: false, pool_empty: false };
        }
        let before = self.pool.subtract(u64::from(credits));
        Released { pool_moved: true, pool_empty: before.leased() == credits }
    }

    /// Announces that an account has turned ahead: first enters it in the list, then counts up the
    /// epoch. The caller has swapped the account's word before.
    fn announce_ahead(&self, index: u32, account: &Account) {
        if !account.listed.swap(true, SeqCst) {
            let mut head = self.first_ahead.load(SeqCst);
            loop {
                account.next_ahead.store(head, SeqCst);
                match self.first_ahead.compare_exchange(head, index + 1, SeqCst, SeqCst) {
                    Ok(_) => break,
                    Err(actual) => head = actual,
                }
            }
        }
        let _ = self.pool.update(|pool| Some(pool.with_one_ahead()));
    }

    /// Makes every account exact, and moves its idle credits into the pool. Returns `false` if the
    /// pool was marked as swept. If it returns `true`, the caller must notify waiters and drainers.
    /// Another sweep may still have idle credits in transit.
    pub(crate) fn sweep(&self) -> bool {
        let before = self.pool.load();
        if before.is_swept() {
            return false;
        }
        let mut next = self.first_ahead.swap(0, SeqCst);
        while let Some(index) = next.checked_sub(1) {
            let account = self.account(index);
            next = account.next_ahead.load(SeqCst);
            // Before the lease ends, so that the account enters the list again if it then turns
            // ahead.
            account.listed.store(false, SeqCst);
            let _ = self.give_back(account.end_lease(Lease::Exact).unwrap_or(0));
        }
        let mark = |pool: Pool| (pool.epoch() == before.epoch()).then(|| pool.with_swept());
        let _ = self.pool.update(mark);
        true
    }

    /// Performs [`Packed::fence`] on the pool's word.
    pub(crate) fn fence(&self) {
        self.pool.fence();
    }

    /// Performs [`Packed::fence`] on the account's word and on the pool's.
    pub(crate) fn fence_all(&self, account: &Account) {
        account.fence();
        self.pool.fence();
    }

    /// Reserves credits for a request that waits.
    pub(crate) fn reserve(&self, credits: u32) {
        self.reserved.store(credits, SeqCst);
        self.limit.fetch_sub(i64::from(credits), SeqCst);
    }

    /// Ends a reservation.
    pub(crate) fn unreserve(&self, credits: u32) {
        self.limit.fetch_add(i64::from(credits), SeqCst);
        self.reserved.store(0, SeqCst);
    }

    /// Begins to count a credit of an account as one of a parked dead letter. It counts twice until
    /// [`end_parking`](Self::end_parking).
    pub(crate) fn begin_parking(&self, account: &Account) {
        account.park();
        self.parked.fetch_add(1, SeqCst);
        self.limit.fetch_sub(1, SeqCst);
    }

    /// Removes the credit of the parked letter from the pool's word. Returns whether every record
    /// is settled now.
    pub(crate) fn end_parking(&self) -> bool {
        let before = self.pool.update(|pool| Some(pool.with_one_parked()));
        before.is_ok_and(|before| before.leased() == 1)
    }

    /// Gives back the credit of a parked letter, and returns how many credits the account uses
    /// after that. The caller must notify waiters.
    pub(crate) fn release_parked(&self, account: &Account) -> u32 {
        // Read first, as in `release`.
        let guarantee = account.guarantee();
        let used = account.release_leased();
        account.unpark();
        self.parked.fetch_sub(1, SeqCst);
        if guarantee <= used {
            self.limit.fetch_add(1, SeqCst);
        }
        // Pairs with the fence in `WaitQueue::enter`.
        self.fence();
        used
    }

    /// Returns the credits of parked dead letters.
    pub(crate) fn parked(&self) -> u32 {
        self.parked.load(SeqCst)
    }

    /// Returns whether every record is settled, by one load: see
    /// [`docs::internals`](crate::docs::internals#drained-in-one-load). Idle credits count as
    /// records that are not settled: [`sweep`](Self::sweep) first.
    pub(crate) fn is_settled(&self) -> bool {
        self.pool.load().leased() == 0
    }

    /// Returns whether every account is closed and no record is left that could come to a stage.
    /// Once true, it stays true: a sealed pool leases no credit, not even for a moment to a push
    /// whose account is closed.
    pub(crate) fn is_drained(&self) -> bool {
        let pool = self.pool.load();
        pool.is_sealed() && pool.leased() == 0
    }

    /// Returns the credits leased, including idle ones, those in transit and those of parked
    /// letters.
    pub(crate) fn leased(&self) -> u32 {
        self.with_parked(self.pool.load())
    }

    /// Returns what [`leased`](Self::leased) returns, by [`Packed::fence`].
    pub(crate) fn leased_after_fence(&self) -> u32 {
        self.with_parked(self.pool.fence())
    }

    /// The minimum, because a letter that is being parked counts twice for a moment.
    fn with_parked(&self, pool: Pool) -> u32 {
        pool.leased().saturating_add(self.parked.load(SeqCst)).min(self.most())
    }

    /// Returns the credits in use. The number is exact if no other thread runs. If no account
    /// leases ahead, this is two loads. Otherwise it walks over those that do, at most one for 200
    /// credits of the cap.
    pub(crate) fn used(&self) -> u32 {
        let pool = self.pool.load();
        let leased = self.with_parked(pool);
        if pool.is_swept() {
            return leased;
        }
        let mut idle = 0_u32;
        let mut next = self.first_ahead.load(SeqCst);
        // Other threads may change the list during the walk, so the number of steps is bounded.
        let mut steps = self.accounts.count();
        while let Some(index) = next.checked_sub(1)
            && steps > 0
        {
            let account = self.account(index);
            idle = idle.saturating_add(account.balance().idle());
            next = account.next_ahead.load(SeqCst);
            steps -= 1;
        }
        leased.saturating_sub(idle)
    }

    /// Returns how many more credits an account's own cap allows, without those that are reserved.
    pub(crate) fn room(&self, account: &Account) -> u32 {
        account.limit(0).saturating_sub(account.used())
    }

    /// Returns how many more credits an account could take now. Idle credits of other accounts
    /// count, because a sweep would free them. Reserved credits do not.
    pub(crate) fn available(&self, account: &Account) -> u32 {
        let balance = account.balance();
        if balance.lease == Lease::Closed {
            return 0;
        }
        let own = account.limit(0).saturating_sub(balance.used).min(self.capacity());
        let free = self.limit.load(SeqCst) - i64::from(self.pool.load().leased());
        let guaranteed = account.guaranteed(balance.used, own);
        // No walk is needed if the pool, the guarantee and the account's own idle credits suffice.
        if free + i64::from(balance.idle()) + i64::from(guaranteed) >= i64::from(own) {
            own
        } else {
            self.free().saturating_add(guaranteed).min(own)
        }
    }

    /// Returns the credits that are not in use, reserved or guaranteed.
    pub(crate) fn free(&self) -> u32 {
        let reserved = i64::from(self.capacity())
            - i64::from(self.parked.load(SeqCst))
            - self.limit.load(SeqCst);
        let free = i64::from(self.capacity()) - i64::from(self.used()) - reserved.max(0);
        u32::try_from(free).unwrap_or(0)
    }
}

/// Credits that were taken out of use and are not back in the pool yet.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreturned {
    /// The number that goes back to the pool.
    Exact(u32),
    /// The number that goes back to the pool. The limit was lowered by those that stay guaranteed.
    Guaranteed(u32),
    /// The number of idle credits that the account has now.
    Idle(u32),
}
