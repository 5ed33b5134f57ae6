//! An account: what one source holds, in one word.

use super::packed::{Packed, Word};
use crate::backpressure::{BackpressureSignal, Marks, SignalCell, Zone};
use crate::event::Listener;
use crate::sync::{AtomicBool, AtomicSetting, AtomicU32, SeqCst};

/// What one source holds.
pub(crate) struct Account {
    word: Packed<Balance>,
    capacity: AtomicSetting,
    /// Credits that are reserved for a request that waits.
    reserved: AtomicSetting,
    high: AtomicSetting,
    low: AtomicSetting,
    /// Credits in use that parked dead letters hold.
    parked: AtomicSetting,
    /// The next in the ledger's list of accounts that lease ahead.
    pub(super) next_ahead: AtomicU32,
    /// Whether it is in that list.
    pub(super) listed: AtomicBool,
    cell: SignalCell,
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
    /// Leased is what is used, and not a credit more.
    Exact,
    /// The same, and there are no further credits.
    Closed,
    /// So many credits are leased, some of them ahead of need.
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
    /// Credits that are leased and not in use.
    #[inline]
    pub(super) fn idle(self) -> u32 {
        match self.lease {
            Lease::Exact | Lease::Closed => 0,
            Lease::Ahead(leased) => leased - self.used,
        }
    }

    /// The same with another number in use.
    #[inline]
    pub(super) fn with_used(self, used: u32) -> Self {
        Self { used, ..self }
    }
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            word: Packed::new(Balance { lease: Lease::Closed, used: 0 }),
            capacity: AtomicSetting::new(0),
            reserved: AtomicSetting::new(0),
            high: AtomicSetting::new(0),
            low: AtomicSetting::new(0),
            parked: AtomicSetting::new(0),
            next_ahead: AtomicU32::new(0),
            listed: AtomicBool::new(false),
            cell: SignalCell::new(),
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

    /// Begins anew, with nothing in use.
    pub(super) fn open(&self, marks: Marks) {
        self.capacity.store(marks.capacity, SeqCst);
        self.reserved.store(0, SeqCst);
        self.high.store(marks.high, SeqCst);
        self.low.store(marks.low, SeqCst);
        self.cell.reset();
        self.word.store(Balance { lease: Lease::Exact, used: 0 });
    }

    /// Takes credits out of use, and gives the balance before.
    #[inline]
    pub(super) fn release(&self, credits: u32) -> Balance {
        self.word.subtract(u64::from(credits))
    }

    /// Takes one credit out of use and out of the lease. Gives how many are in use then.
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

    /// A read-modify-write of the word: see [`Packed::fence`].
    pub(super) fn fence(&self) {
        self.word.fence();
    }

    /// Leases exactly, or no more, from now on. Gives how many idle credits that frees; `None` if it
    /// did already.
    pub(super) fn end_lease(&self, lease: Lease) -> Option<u32> {
        let change = |balance: Balance| {
            let ends = balance.lease != lease && balance.lease != Lease::Closed;
            ends.then_some(Balance { lease, ..balance })
        };
        self.word.update(change).ok().map(Balance::idle)
    }

    /// Takes `wanted` credits if so many lie idle in the account's own lease, which is within both
    /// caps: the usual case, and one attempt. Gives how many are in use then.
    #[inline]
    pub(super) fn take_idle(&self, wanted: u32) -> Option<u32> {
        let balance = self.balance();
        if balance.idle() < wanted {
            return None;
        }
        let used = balance.used + wanted;
        self.replace(balance, balance.with_used(used)).ok().map(|()| used)
    }

    /// Credits in use.
    #[inline]
    pub(crate) fn used(&self) -> u32 {
        self.balance().used
    }

    /// The most credits that may be in use.
    #[inline]
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity.load(SeqCst)
    }

    /// The most credits that a request may bring into use which has `own` of the reserved ones.
    #[inline]
    pub(super) fn limit(&self, own: u32) -> u32 {
        self.capacity() - self.reserved.load(SeqCst).saturating_sub(own)
    }

    /// Reserves credits for a request that waits; 0 for none. Called under the lock of the wait queue.
    pub(crate) fn reserve(&self, credits: u32) {
        self.reserved.store(credits, SeqCst);
    }

    /// Whether it gets no further credit.
    pub(crate) fn is_closed(&self) -> bool {
        self.balance().lease == Lease::Closed
    }

    /// Credits in use that parked dead letters hold.
    pub(crate) fn parked(&self) -> u32 {
        self.parked.load(SeqCst)
    }

    pub(super) fn park(&self) {
        self.parked.fetch_add(1, SeqCst);
    }

    pub(super) fn unpark(&self) {
        self.parked.fetch_sub(1, SeqCst);
    }

    /// What the account's own level asks of its source.
    pub(crate) fn signal(&self) -> BackpressureSignal {
        self.cell.signal()
    }

    /// Resolves when the account's signal has changed.
    pub(crate) fn listen(&self) -> Listener {
        self.cell.listen()
    }

    #[inline]
    fn zone(&self, used: u32) -> Zone {
        let (high, low) = (self.high.load(SeqCst), self.low.load(SeqCst));
        Marks { high, low, capacity: self.capacity() }.zone(used)
    }

    /// Lets the signal follow the level, which the caller has left at `used`.
    #[inline]
    pub(crate) fn update_signal(&self, used: u32) {
        self.cell.follow(self.zone(used), || self.zone(self.word.fence().used));
    }
}
