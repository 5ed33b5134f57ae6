//! The admission protocol: credits, then places, or both are given back. It notifies nobody, and says
//! what it has moved.

use crate::caps::{Account, Denied, Ledger, Places, Sequence};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, SeqCst};

/// The ledger, and who must be told of what is moved there.
pub(crate) struct Protocol {
    pub(super) ledger: Ledger,
    /// No push is accepted any more. Set before the accounts are closed.
    pub(super) closed: AtomicBool,
    /// How many requests wait, in the lower half: while there are some, each release notifies them, and
    /// accounts lease exactly. In the upper half, how often a source, a stage or the buffer was closed.
    pub(super) events: AtomicU64,
    /// How many wait until all is settled; a closed buffer counts as one. While there are some, the
    /// release that empties the pool notifies them, and accounts lease exactly.
    pub(super) drainers: AtomicU32,
}

/// One close, where events are counted. The count wraps.
pub(super) const ONE_CLOSE: u64 = 1 << 32;

/// What a push was given: records, the sequence of the first, and why they are not more.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) records: u32,
    pub(crate) first: Sequence,
    pub(crate) denied: Option<Denied>,
}

/// What was moved on the way, for the signals and for those who wait.
#[must_use]
#[derive(Default)]
pub(super) struct Moved {
    /// The account whose level was moved.
    pub(super) account: Option<u32>,
    /// The pool's level.
    pub(super) pool: bool,
    /// Credits that were in no word lie where others may have them now.
    pub(super) left_some: bool,
    /// No credit is leased any more.
    pub(super) pool_empty: bool,
}

/// Credits in hand that have no places yet. Dropped, they are given back.
struct Credits<'a> {
    protocol: &'a Protocol,
    account: u32,
    records: u32,
    moved: &'a mut Moved,
}

impl Drop for Credits<'_> {
    fn drop(&mut self) {
        if self.records > 0 {
            self.protocol.release(self.account, self.records, self.moved);
            self.moved.left_some = true;
        }
    }
}

impl Admitted {
    fn none(denied: Denied) -> Self {
        Self { records: 0, first: Sequence::default(), denied: Some(denied) }
    }

    /// The sequence of the first record, where nothing was denied.
    pub(crate) fn all(self) -> Result<Sequence, Denied> {
        self.denied.map_or(Ok(self.first), Err)
    }
}

impl Protocol {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            closed: AtomicBool::new(false),
            events: AtomicU64::new(0),
            drainers: AtomicU32::new(0),
        }
    }

    #[inline]
    pub(super) fn account(&self, index: u32) -> &Account {
        self.ledger.account(index)
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    #[inline]
    pub(super) fn has_waiters(&self) -> bool {
        self.events.load(SeqCst) as u32 > 0
    }

    pub(super) fn add_waiter(&self) {
        self.events.fetch_add(1, SeqCst);
    }

    pub(super) fn remove_waiter(&self) {
        self.events.fetch_sub(1, SeqCst);
    }

    /// Counts a close that was done, so that producers look at what was closed.
    pub(super) fn count_close(&self) {
        self.events.fetch_add(ONE_CLOSE, SeqCst);
    }

    #[inline]
    pub(super) fn has_drainers(&self) -> bool {
        self.drainers.load(SeqCst) > 0
    }

    /// Accounts lease exactly while anything waits for credits, or for all to be settled.
    fn may_lease_ahead(&self) -> bool {
        !self.has_waiters() && !self.has_drainers()
    }

    /// What keeps a request from being granted now, found without taking anything. Without an account
    /// it asks for places alone. `own` of what is reserved is for this request.
    pub(super) fn check(
        &self,
        account: Option<u32>,
        places: &Places,
        wanted: u32,
        own: u32,
    ) -> Result<(), Denied> {
        if places.is_closed() || account.is_some() && self.is_closed() {
            return Err(Denied::Closed);
        }
        if let Some(account) = account {
            self.ledger.check(self.account(account), wanted, own)?;
        }
        places.check(wanted, own)
    }

    /// Takes credits of that account, if there is one, and places: `wanted` of both, or as many as there
    /// are if they are at least `least`. `own` of what is reserved is for this request.
    ///
    /// Order of taking: the source's credits, which lease from the pool, then the stage's places, and
    /// then, by the caller, a slot of the ring. What is denied later gives back what was taken earlier.
    pub(super) fn acquire(
        &self,
        account: Option<u32>,
        places: &Places,
        least: u32,
        wanted: u32,
        own: u32,
        moved: &mut Moved,
    ) -> Admitted {
        let Some(account) = account else {
            let (taken, first) = places.acquire(least, wanted, own);
            return Admitted { records: taken.records, first, denied: taken.denied };
        };
        if self.is_closed() {
            return Admitted::none(Denied::Closed);
        }
        let grant = self.ledger.acquire(account, least, wanted, own, self.may_lease_ahead());
        moved.account = Some(account);
        moved.pool |= grant.pool_moved;
        moved.left_some |= grant.left_some;
        // One who drains, and was not seen above, has looked for idle credits before they were announced.
        moved.left_some |= grant.turned_ahead && !self.may_lease_ahead() && self.ledger.sweep();
        if grant.taken.records == 0 {
            return Admitted { records: 0, first: Sequence::default(), denied: grant.taken.denied };
        }
        let mut credits = Credits { protocol: self, account, records: grant.taken.records, moved };
        let (taken, first) = places.acquire(least, credits.records, own);
        credits.records -= taken.records;
        let denied = taken.denied.or(grant.taken.denied);
        Admitted { records: taken.records, first, denied }
    }

    /// Gives credits back. Signals follow, and those who wait are notified, by the caller.
    pub(super) fn release(&self, index: u32, credits: u32, moved: &mut Moved) {
        let account = self.account(index);
        let (_, unreturned) = self.ledger.release(account, credits);
        let released = self.ledger.return_lease(account, unreturned);
        moved.account = Some(index);
        moved.pool |= released.pool_moved;
        moved.pool_empty |= released.pool_empty;
    }
}
