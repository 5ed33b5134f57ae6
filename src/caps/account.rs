//! An account: the credits of one source, in one word.

use super::counts::Tally;
use super::packed::{Packed, Word};
use crate::backpressure::{Marks, SignalCell};
use crate::sync::{AtomicBool, AtomicSetting, AtomicU32, Instant, PlainMutex, SeqCst, now};

/// The credits of one source, its cap, and the signal that follows its level.
pub(crate) struct Account {
    word: Packed<Balance>,
    capacity: AtomicU32,
    /// Credits that no other account can have. They are the first that this account uses. An
    /// account with a guarantee never leases ahead.
    guarantee: AtomicSetting,
    /// Credits that are reserved for a request that waits. Written under the lock of the wait
    /// queue.
    reserved: AtomicSetting,
    /// Credits in use that parked dead letters hold.
    parked: AtomicSetting,
    /// Credits in use for records to come, counted as [`Places`](super::Places) counts their
    /// places.
    reserved_ahead: AtomicSetting,
    /// The next entry of the ledger's list of accounts that lease ahead.
    pub(super) next_ahead: AtomicU32,
    /// Whether the account is in the ledger's list.
    pub(super) listed: AtomicBool,
    cell: SignalCell,
    tally: Tally,
    /// Since when no credit is in use, if the account [notes](Self::note_when_empty) that. Boxed,
    /// because few accounts do.
    empty_since: PlainMutex<Option<Box<Instant>>>,
}

/// An account's word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 63..32 | credits leased from the pool, or one of the marks `EXACT` and `CLOSED` |
/// | 31..0 | credits in use |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Balance {
    pub(super) lease: Lease,
    pub(super) used: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lease {
    /// The lease equals the credits in use.
    Exact,
    /// The lease equals the credits in use, and the account gets no further credit.
    Closed,
    /// The number of leased credits, which may exceed those in use.
    Ahead(u32),
}

const LEASE_SHIFT: u32 = 32;
const EXACT: u32 = u32::MAX;
const CLOSED: u32 = u32::MAX - 1;
pub(super) const MAX_LEASE: u32 = u32::MAX - 2;

impl Word for Balance {
    #[inline]
    fn from_bits(bits: u64) -> Self {
        let lease = match (bits >> LEASE_SHIFT) as u32 {
            EXACT => Lease::Exact,
            CLOSED => Lease::Closed,
            leased => Lease::Ahead(leased),
        };
        Self { lease, used: bits as u32 }
    }

    #[inline]
    fn into_bits(self) -> u64 {
        let lease = match self.lease {
            Lease::Exact => EXACT,
            Lease::Closed => CLOSED,
            Lease::Ahead(leased) => leased,
        };
        u64::from(lease) << LEASE_SHIFT | u64::from(self.used)
    }
}

impl Balance {
    /// Returns the credits that are leased and not in use.
    #[inline]
    pub(super) fn idle(self) -> u32 {
        match self.lease {
            Lease::Exact | Lease::Closed => 0,
            Lease::Ahead(leased) => leased - self.used,
        }
    }

    /// Returns the balance with another number in use.
    #[inline]
    pub(super) fn with_used(self, used: u32) -> Self {
        Self { used, ..self }
    }
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            word: Packed::new(Balance { lease: Lease::Closed, used: 0 }),
            capacity: AtomicU32::new(0),
            guarantee: AtomicSetting::new(0),
            reserved: AtomicSetting::new(0),
            parked: AtomicSetting::new(0),
            reserved_ahead: AtomicSetting::new(0),
            next_ahead: AtomicU32::new(0),
            listed: AtomicBool::new(false),
            cell: SignalCell::new(),
            tally: Tally::default(),
            empty_since: PlainMutex::new(None),
        }
    }

    #[inline]
    pub(super) fn balance(&self) -> Balance {
        self.word.load()
    }

    #[inline]
    pub(super) fn replace(&self, current: Balance, new: Balance) -> Result<(), Balance> {
        self.word.replace(current, new)
    }

    #[inline]
    pub(super) fn update(
        &self,
        change: impl FnMut(Balance) -> Option<Balance>,
    ) -> Result<Balance, Balance> {
        self.word.update(change)
    }

    /// Opens the account for a new source, with no credit in use.
    pub(super) fn open(&self, marks: Marks, guarantee: u32) {
        self.guarantee.store(guarantee, SeqCst);
        self.reserved.store(0, SeqCst);
        *self.empty_since.lock() = None;
        self.set_marks(marks);
        self.cell.restart();
        self.tally.reset();
        self.word.store(Balance { lease: Lease::Exact, used: 0 });
    }

    /// Sets the cap and its watermarks. The caller then writes the word: see
    /// [`docs::internals`](crate::docs::internals#changing-a-cap).
    pub(super) fn set_marks(&self, marks: Marks) {
        self.cell.set_marks(marks);
        if self.empty_since.lock().is_some() {
            self.cell.leave_at_zero();
        }
        self.capacity.store(marks.capacity, SeqCst);
    }

    /// Takes credits out of use, and returns the balance before.
    #[inline]
    pub(super) fn release(&self, credits: u32) -> Balance {
        self.word.subtract(u64::from(credits))
    }

    /// Takes one credit out of use and out of the lease. Returns how many remain in use.
    pub(super) fn release_leased(&self) -> u32 {
        let release = |balance: Balance| {
            let lease = match balance.lease {
                Lease::Ahead(leased) => Lease::Ahead(leased - 1),
                lease => lease,
            };
            Some(Balance { lease, used: balance.used - 1 })
        };
        let (Ok(before) | Err(before)) = self.word.update(release);
        before.used - 1
    }

    /// Performs [`Packed::fence`] on the word.
    pub(super) fn fence(&self) {
        self.word.fence();
    }

    /// Makes the account exact or closed. Returns how many idle credits that frees, or `None` if
    /// the account was exact or closed already.
    pub(super) fn end_lease(&self, lease: Lease) -> Option<u32> {
        let change = |balance: Balance| {
            let ends = balance.lease != lease && balance.lease != Lease::Closed;
            ends.then_some(Balance { lease, ..balance })
        };
        self.word.update(change).ok().map(Balance::idle)
    }

    /// Takes `wanted` idle credits, and returns how many are in use after that. Idle credits are
    /// within both caps. Makes one attempt.
    #[inline]
    pub(super) fn take_idle(&self, wanted: u32) -> Option<u32> {
        let balance = self.balance();
        if balance.idle() < wanted {
            return None;
        }
        let used = balance.used + wanted;
        self.replace(balance, balance.with_used(used)).ok().map(|()| used)
    }

    /// Returns the credits in use.
    #[inline]
    pub(crate) fn used(&self) -> u32 {
        self.balance().used
    }

    /// Returns the account's cap.
    #[inline]
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity.load(SeqCst)
    }

    /// Returns how many credits no other account can have.
    #[inline]
    pub(crate) fn guarantee(&self) -> u32 {
        self.guarantee.load(SeqCst)
    }

    /// Returns how many of `credits`, taken when `used` are in use, are guaranteed to the account.
    #[inline]
    pub(super) fn guaranteed(&self, used: u32, credits: u32) -> u32 {
        self.guarantee().saturating_sub(used).min(credits)
    }

    /// Returns how many credits may be in use after a request for which `own` credits are reserved.
    #[inline]
    pub(super) fn limit(&self, own: u32) -> u32 {
        self.capacity().saturating_sub(self.reserved.load(SeqCst).saturating_sub(own))
    }

    /// Reserves credits for a request that waits; 0 ends the reservation.
    pub(crate) fn reserve(&self, credits: u32) {
        self.reserved.store(credits, SeqCst);
    }

    /// Returns whether the account gets no further credit.
    pub(crate) fn is_closed(&self) -> bool {
        self.balance().lease == Lease::Closed
    }

    /// Returns the credits in use that parked dead letters hold.
    pub(crate) fn parked(&self) -> u32 {
        self.parked.load(SeqCst)
    }

    /// Returns the credits in use for records to come: at most the credits in use.
    pub(crate) fn reserved_ahead(&self) -> u32 {
        self.reserved_ahead.load(SeqCst).min(self.used())
    }

    /// Counts credits that are about to be taken for records to come.
    pub(crate) fn reserve_ahead(&self, credits: u32) {
        self.reserved_ahead.fetch_add(credits, SeqCst);
    }

    /// Ends the count of [`reserve_ahead`](Self::reserve_ahead). Must be called before the credits
    /// are used or given back.
    pub(crate) fn end_ahead(&self, credits: u32) {
        self.reserved_ahead.fetch_sub(credits, SeqCst);
    }

    /// Returns the counts of requests of the source that were refused or waited.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn park(&self) {
        self.parked.fetch_add(1, SeqCst);
    }

    pub(super) fn unpark(&self) {
        self.parked.fetch_sub(1, SeqCst);
    }

    /// Returns the cell of the signal that follows the account's level.
    pub(crate) fn cell(&self) -> &SignalCell {
        &self.cell
    }

    /// Updates the signal. Must be called after the credits in use have changed, outside every
    /// lock.
    pub(crate) fn update_signal(&self) {
        if self.cell.is_outside(self.used()) {
            self.follow_level();
        }
    }

    #[cold]
    fn follow_level(&self) {
        self.cell.follow(|| self.word.fence().used);
        if self.used() == 0
            && let Some(since) = &mut *self.empty_since.lock()
        {
            **since = now();
        }
    }

    /// Makes the account note since when no credit is in use. The caller ensures that none is now.
    pub(crate) fn note_when_empty(&self) {
        *self.empty_since.lock() = Some(Box::new(now()));
        self.cell.leave_at_zero();
    }

    /// Returns since when no credit is in use, or `None` if one is in use or the account does not
    /// note it.
    pub(crate) fn empty_since(&self) -> Option<Instant> {
        if self.used() == 0 { self.empty_since.lock().as_deref().copied() } else { None }
    }

    /// Updates the signal after the caller has taken credits. `used` credits are in use since then.
    #[inline]
    pub(crate) fn signal_rise(&self, used: u32) {
        if self.cell.is_above(used, 0) {
            self.follow_level();
        }
    }

    /// Updates the signal after the caller has released credits. `used` credits are in use since
    /// then.
    #[inline]
    pub(crate) fn signal_fall(&self, used: u32) {
        if self.cell.is_below(used, 0) {
            self.follow_level();
        }
    }
}
