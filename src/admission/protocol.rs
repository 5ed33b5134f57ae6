//! The admission protocol: takes credits and then places, or gives both back. It notifies no
//! waiter, and reports what it has moved. See
//! [`docs::internals`](crate::docs::internals#the-admission-protocol).

use super::bytes::{Budget, Charges};
use crate::caps::{Account, Denied, Grant, Leasing, Ledger, Limit, Places, Sequence};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, SeqCst};

/// The ledgers, and the words that say which notifications a change of them needs.
pub(crate) struct Protocol {
    pub(super) ledger: Ledger,
    /// `None` in a buffer without byte budgets. Boxed, because few buffers have them.
    pub(super) bytes: Option<Box<Budget>>,
    /// The flags [`CLOSED`], [`RECLAIMS`] and [`MEASURES`].
    gate: AtomicU8,
    /// Lower half: how many requests wait. While there are some, each release notifies them, and
    /// accounts lease exactly. Upper half: how often a source, a stage or the buffer was closed, or
    /// a cap was lowered.
    pub(super) events: AtomicU64,
    /// How many drainers wait until every record is settled; a closed buffer counts as one. While
    /// there are some, the release that empties the pool notifies them, and accounts lease exactly.
    pub(super) drainers: AtomicU32,
}

/// One event in the upper half of `Protocol::events`. The count wraps.
pub(super) const ONE_EVENT: u64 = 1 << 32;

/// No further push is accepted. It is set before the accounts are closed.
const CLOSED: u8 = 1 << 0;
/// The global cap was lowered, and more credits may be leased than it allows. Idle credits may be
/// among them, so no request may use one.
const RECLAIMS: u8 = 1 << 1;
/// The buffer has byte budgets, so that a request takes more than credits and places.
const MEASURES: u8 = 1 << 2;

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) struct Demand<'a> {
    /// The account whose credits it takes; `None` if the records already have credits and bytes.
    pub(super) account: Option<u32>,
    /// The least number of records that it takes.
    pub(super) least: u32,
    pub(super) wanted: u32,
    pub(super) charges: Charges<'a>,
    /// Whether `least` credits and places, and their bytes, are reserved for it.
    pub(super) reserved: bool,
}

impl Demand<'_> {
    /// Returns how many of the reserved credits and places are for this request.
    fn own(&self) -> u32 {
        if self.reserved { self.least } else { 0 }
    }

    /// Returns how many of the reserved units are for this request.
    fn own_units(&self) -> u32 {
        if self.reserved { self.charges.least() } else { 0 }
    }
}

/// What a push got: how many records, the sequence of the first, and what denied the rest.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) records: u32,
    pub(crate) first: Sequence,
    pub(crate) denied: Option<Denied>,
}

/// Credits and places for at least one record: how many, and the sequence of the first.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acquired {
    pub(crate) records: u32,
    pub(crate) first: Sequence,
}

/// What a call has moved. Its caller must update signals, and notify waiters and drainers.
#[must_use]
#[derive(Default)]
pub(super) struct Moved {
    /// The account whose level has changed.
    pub(super) account: Option<u32>,
    /// Whether the pool's level has changed.
    pub(super) pool: bool,
    /// Whether the level of the pool of bytes has changed.
    pub(super) bytes: bool,
    /// Whether credits that were in transit can be taken by others now.
    pub(super) left_some: bool,
    /// Whether the pool has become empty.
    pub(super) pool_empty: bool,
}

impl Moved {
    /// Makes the value for a sweep: it left idle credits or units to others.
    pub(super) fn swept() -> Self {
        Self { pool: true, bytes: true, left_some: true, ..Self::default() }
    }
}

/// Credits and units that have no places yet. Dropping the value gives them back.
struct Credits<'a> {
    protocol: &'a Protocol,
    account: u32,
    records: u32,
    units: u32,
    moved: &'a mut Moved,
}

impl Drop for Credits<'_> {
    fn drop(&mut self) {
        if self.records > 0 {
            self.protocol.release(self.account, self.records, self.units, self.moved);
            self.moved.left_some = true;
        }
    }
}

impl Admitted {
    pub(super) fn none(denied: Denied) -> Self {
        Self { records: 0, first: Sequence::default(), denied: Some(denied) }
    }

    /// Returns what was admitted, if it is at least `least` records.
    ///
    /// # Errors
    ///
    /// Returns what denied more records.
    pub(crate) fn at_least(self, least: u32) -> Result<Acquired, Denied> {
        let Self { records, first, denied } = self;
        match denied {
            Some(denied) if records < least => Err(denied),
            _ => Ok(Acquired { records, first }),
        }
    }
}

impl Protocol {
    pub(super) fn new(ledger: Ledger, bytes: Option<Box<Budget>>) -> Self {
        Self {
            ledger,
            gate: AtomicU8::new(if bytes.is_some() { MEASURES } else { 0 }),
            bytes,
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
        self.gate.load(SeqCst) & CLOSED != 0
    }

    /// Returns whether a request may use idle credits of its account without further checks.
    #[inline]
    pub(super) fn may_use_idle(&self) -> bool {
        self.gate.load(SeqCst) == 0
    }

    /// Closes the buffer. Returns whether it was open.
    pub(super) fn close(&self) -> bool {
        self.gate.fetch_or(CLOSED, SeqCst) & CLOSED == 0
    }

    pub(super) fn set_reclaims(&self, reclaims: bool) {
        if reclaims {
            self.gate.fetch_or(RECLAIMS, SeqCst);
        } else {
            self.gate.fetch_and(!RECLAIMS, SeqCst);
        }
    }

    pub(super) fn reclaims(&self) -> bool {
        self.gate.load(SeqCst) & RECLAIMS != 0
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

    /// Counts a close, or a cap that was lowered, so that producers look at it.
    pub(super) fn count_event(&self) {
        self.events.fetch_add(ONE_EVENT, SeqCst);
    }

    #[inline]
    pub(super) fn has_drainers(&self) -> bool {
        self.drainers.load(SeqCst) > 0
    }

    /// Returns `false` while a request or a drainer waits.
    pub(super) fn may_lease_ahead(&self) -> bool {
        !self.has_waiters() && !self.has_drainers()
    }

    pub(super) fn leasing(&self) -> Leasing {
        if self.reclaims() {
            Leasing::Reclaim
        } else if self.may_lease_ahead() {
            Leasing::Ahead
        } else {
            Leasing::Exact
        }
    }

    /// Checks whether a request could be granted now, and takes nothing. A request without an
    /// account needs places alone.
    pub(super) fn check(&self, places: &Places, demand: &Demand<'_>) -> Result<(), Denied> {
        if places.is_closed() || demand.account.is_some() && self.is_closed() {
            return Err(Denied::Closed);
        }
        let own = demand.own();
        if let Some(account) = demand.account {
            self.ledger.check(self.account(account), demand.least, own)?;
            if let Some(bytes) = &self.bytes {
                bytes.check(account, demand.charges.least(), demand.own_units())?;
            }
        }
        places.check(demand.least, own)
    }

    /// Frees idle credits of other accounts for a request that a cap of the whole buffer denies.
    /// Returns `true` if the request must look again, and waiters must be notified.
    pub(super) fn sweep_for(&self, denied: Denied) -> bool {
        match (denied.limit(), &self.bytes) {
            (Some(Limit::Global), _) => self.ledger.sweep(),
            (Some(Limit::GlobalBytes), Some(bytes)) => bytes.ledger.sweep(),
            _ => false,
        }
    }

    /// Counts `wanted` credits and places as taken for records to come, takes them by `take`, and
    /// ends the count of those that `take` did not get.
    pub(super) fn take_ahead<R>(
        &self,
        account: Option<u32>,
        places: &Places,
        wanted: u32,
        take: impl FnOnce() -> Result<Acquired, R>,
    ) -> Result<Acquired, R> {
        places.reserve_ahead(wanted);
        if let Some(account) = account {
            self.account(account).reserve_ahead(wanted);
        }
        let taken = take();
        let records = taken.as_ref().map_or(0, |acquired| acquired.records);
        if records < wanted {
            self.end_ahead(account, places, wanted - records);
        }
        taken
    }

    /// Ends the count of [`take_ahead`](Self::take_ahead). Must be called before the credits and
    /// places are used or given back.
    pub(super) fn end_ahead(&self, account: Option<u32>, places: &Places, records: u32) {
        places.end_ahead(records);
        if let Some(account) = account {
            self.account(account).end_ahead(records);
        }
    }

    /// Takes credits, bytes and places for the wanted records, or for as many as are free if they
    /// are at least `demand.least`. A request without an account takes places alone.
    ///
    /// Takes the credits first, then the bytes, then the places; the caller then takes a slot of
    /// the ring. If a later step denies the request, gives back what the earlier steps took.
    pub(super) fn acquire(
        &self,
        places: &Places,
        demand: Demand<'_>,
        moved: &mut Moved,
    ) -> Admitted {
        let (least, wanted, own) = (demand.least, demand.wanted, demand.own());
        let Some(account) = demand.account else {
            let (taken, first) = places.acquire(least, wanted, own);
            return Admitted { records: taken.records, first, denied: taken.denied };
        };
        if self.is_closed() {
            return Admitted::none(Denied::Closed);
        }
        let grant = self.ledger.acquire(account, least, wanted, own, self.leasing());
        moved.account = Some(account);
        moved.pool |= grant.pool_moved;
        self.follow_grant(&self.ledger, &grant, moved);
        if grant.taken.records == 0 {
            return Admitted { records: 0, first: Sequence::default(), denied: grant.taken.denied };
        }
        let records = grant.taken.records;
        let mut credits = Credits { protocol: self, account, records, units: 0, moved };
        let mut denied = grant.taken.denied;
        let mut fit = records;
        if let Some(bytes) = &self.bytes
            && demand.charges.least() > 0
        {
            let (own, leasing) = (demand.own_units(), self.leasing());
            let charged = match bytes.acquire(account, demand.charges, records, own, leasing) {
                Ok(charged) => charged,
                Err(denied) => return Admitted::none(denied),
            };
            credits.moved.bytes |= charged.grant.pool_moved;
            self.follow_grant(&bytes.ledger, &charged.grant, credits.moved);
            credits.units = charged.units;
            fit = charged.records;
            denied = if fit < records { charged.denied } else { denied };
            if fit == 0 {
                return Admitted { records: 0, first: Sequence::default(), denied };
            }
        }
        let (taken, first) = places.acquire(least, fit, own);
        credits.records -= taken.records;
        credits.units -= demand.charges.of_first(taken.records);
        Admitted { records: taken.records, first, denied: taken.denied.or(denied) }
    }

    /// Notes what a grant has left to others.
    pub(super) fn follow_grant(&self, ledger: &Ledger, grant: &Grant, moved: &mut Moved) {
        moved.left_some |= grant.left_some;
        // A waiter or drainer that came after the first check may have swept before the account
        // announced that it leases ahead.
        moved.left_some |= grant.turned_ahead && !self.may_lease_ahead() && ledger.sweep();
    }

    /// Gives credits and units back: the units first, so that an account without credits in use
    /// has no units in use. The caller updates the signals and notifies waiters and drainers.
    pub(super) fn release(&self, index: u32, credits: u32, units: u32, moved: &mut Moved) {
        if units > 0
            && let Some(bytes) = &self.bytes
        {
            moved.bytes |= bytes.release(index, units).pool_moved;
        }
        let account = self.account(index);
        let (_, unreturned) = self.ledger.release(account, credits);
        let released = self.ledger.return_lease(account, unreturned);
        moved.account = Some(index);
        moved.pool |= released.pool_moved;
        moved.pool_empty |= released.pool_empty;
    }
}
