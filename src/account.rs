//! An account: what one source holds, in one word.

use crate::backpressure::{BackpressureSignal, Marks, SignalCell, Zone};
use crate::sync::{AtomicSetting, AtomicU64, Listener, SeqCst};

/// What one source holds.
pub(crate) struct Account {
    word: AtomicU64,
    capacity: AtomicSetting,
    high: AtomicSetting,
    low: AtomicSetting,
    cell: SignalCell,
    /// With this, and a byte of the arena's own, an account fills a cache line.
    _padding: [u64; 2],
}

/// An account's word.
///
/// | bits | meaning |
/// | --- | --- |
/// | 63..32 | credits leased from the pool, or one of the marks `EXACT` and `CLOSED` |
/// | 31..0 | credits in use |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Balance {
    pub(crate) lease: Lease,
    pub(crate) used: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lease {
    /// Leased is what is used, and not a credit more.
    Exact,
    /// The same, and no further credit is to be had.
    Closed,
    /// So many credits are leased, some of them ahead of need.
    Ahead(u32),
}

const LEASE_SHIFT: u32 = 32;
const EXACT: u32 = u32::MAX;
const CLOSED: u32 = u32::MAX - 1;
pub(crate) const MAX_LEASE: u32 = u32::MAX - 2;

impl Balance {
    #[inline]
    fn unpack(word: u64) -> Self {
        let lease = match (word >> LEASE_SHIFT) as u32 {
            EXACT => Lease::Exact,
            CLOSED => Lease::Closed,
            leased => Lease::Ahead(leased),
        };
        Self { lease, used: word as u32 }
    }

    #[inline]
    fn pack(self) -> u64 {
        let lease = match self.lease {
            Lease::Exact => EXACT,
            Lease::Closed => CLOSED,
            Lease::Ahead(leased) => leased,
        };
        u64::from(lease) << LEASE_SHIFT | u64::from(self.used)
    }

    /// Credits that are leased and not in use.
    #[inline]
    pub(crate) fn idle(self) -> u32 {
        match self.lease {
            Lease::Exact | Lease::Closed => 0,
            Lease::Ahead(leased) => leased - self.used,
        }
    }
}

impl Account {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(Balance { lease: Lease::Closed, used: 0 }.pack()),
            capacity: AtomicSetting::new(0),
            high: AtomicSetting::new(0),
            low: AtomicSetting::new(0),
            cell: SignalCell::new(),
            _padding: [0; 2],
        }
    }

    #[inline]
    pub(crate) fn balance(&self) -> Balance {
        Balance::unpack(self.word.load(SeqCst))
    }

    /// One attempt to replace the balance; the actual one where it has changed.
    #[inline]
    pub(crate) fn replace(&self, current: Balance, new: Balance) -> Result<(), Balance> {
        self.word
            .compare_exchange(current.pack(), new.pack(), SeqCst, SeqCst)
            .map(drop)
            .map_err(Balance::unpack)
    }

    /// Begins anew, with nothing in use.
    pub(crate) fn open(&self, marks: Marks) {
        self.capacity.store(marks.capacity, SeqCst);
        self.high.store(marks.high, SeqCst);
        self.low.store(marks.low, SeqCst);
        self.cell.reset();
        self.word.store(Balance { lease: Lease::Exact, used: 0 }.pack(), SeqCst);
    }

    /// Takes credits out of use, and gives the balance before.
    #[inline]
    pub(crate) fn take_out(&self, credits: u32) -> Balance {
        Balance::unpack(self.word.fetch_sub(u64::from(credits), SeqCst))
    }

    /// Takes one credit out of use and out of the lease, and tells how many are in use then.
    pub(crate) fn take_out_leased(&self) -> u32 {
        let mut balance = self.balance();
        loop {
            let used = balance.used - 1;
            let lease = match balance.lease {
                Lease::Ahead(leased) => Lease::Ahead(leased - 1),
                lease => lease,
            };
            match self.replace(balance, Balance { lease, used }) {
                Ok(()) => return used,
                Err(actual) => balance = actual,
            }
        }
    }

    /// Writes to the word, and changes nothing.
    pub(crate) fn touch(&self) {
        self.word.fetch_add(0, SeqCst);
    }

    /// Leases exactly, or no more, from now on. Tells how many idle credits that frees; `None` if it did
    /// already.
    pub(crate) fn end_lease(&self, lease: Lease) -> Option<u32> {
        let mut balance = self.balance();
        loop {
            if balance.lease == lease || balance.lease == Lease::Closed {
                return None;
            }
            match self.replace(balance, Balance { lease, ..balance }) {
                Ok(()) => return Some(balance.idle()),
                Err(actual) => balance = actual,
            }
        }
    }

    /// Takes `wanted` credits if so many lie idle in the account's own lease, which is within both
    /// caps: the usual case, and one attempt. Tells how many are in use then.
    #[inline]
    pub(crate) fn take_idle(&self, wanted: u32) -> Option<u32> {
        let balance = self.balance();
        if balance.idle() < wanted {
            return None;
        }
        let used = balance.used + wanted;
        self.replace(balance, Balance { used, ..balance }).ok().map(|()| used)
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

    /// Whether it gets no further credit.
    pub(crate) fn is_closed(&self) -> bool {
        self.balance().lease == Lease::Closed
    }

    /// Credits that its own cap leaves.
    pub(crate) fn room(&self) -> u32 {
        self.capacity() - self.used()
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
    pub(crate) fn note(&self, used: u32) {
        self.cell.follow(self.zone(used), || {
            self.zone(Balance::unpack(self.word.fetch_add(0, SeqCst)).used)
        });
    }
}
