//! Byte budgets: a second ledger, which counts units of bytes. See
//! [`docs::internals`](crate::docs::internals#byte-budgets).

use crate::backpressure::Watermarks;
use crate::caps::{
    Account, Denied, Grant, Leasing, Ledger, Limit, Released, idle_budget_for, sum_of,
};

/// What the records of a request are charged, in units.
#[derive(Clone, Copy)]
pub(crate) enum Charges<'a> {
    /// The buffer has no byte budgets, or the records are not known yet.
    None,
    /// The sum for all records, which are admitted together.
    Together(u32),
    /// One charge for each record.
    Each(&'a [u32]),
}

impl<'a> Charges<'a> {
    /// Makes the charge of records that are admitted together; none if the buffer has no byte
    /// budgets.
    #[inline]
    pub(crate) fn of(units: u32) -> Self {
        if units > 0 { Self::Together(units) } else { Self::None }
    }

    /// Makes the charges of single records; none if the buffer has no byte budgets.
    #[inline]
    pub(crate) fn of_each(units: &'a [u32]) -> Self {
        if units.is_empty() { Self::None } else { Self::Each(units) }
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Returns the least charge with which a record can be admitted: that of all records together,
    /// or of the first; 0 if there is none.
    pub(super) fn least(&self) -> u32 {
        match *self {
            Self::None => 0,
            Self::Together(units) => units,
            Self::Each(units) => units.first().copied().unwrap_or(0),
        }
    }

    /// Returns the charge of the first `records` records.
    pub(super) fn of_first(&self, records: u32) -> u32 {
        match *self {
            Self::Together(units) if records > 0 => units,
            Self::Each(units) => sum_of(&units[..records as usize]),
            Self::None | Self::Together(_) => 0,
        }
    }
}

/// The byte budgets of a buffer.
pub(crate) struct Budget {
    /// Counts units. Each source has the same account index as in the ledger of credits.
    pub(super) ledger: Ledger,
    /// The budget of each source.
    per_source: u32,
}

/// The units that a request got, for how many of its records, and what denied the rest.
#[must_use]
pub(super) struct Charged {
    pub(super) records: u32,
    pub(super) units: u32,
    pub(super) denied: Option<Denied>,
    /// What the ledger of bytes has moved.
    pub(super) grant: Grant,
}

impl Budget {
    /// Creates the budgets, in units.
    pub(crate) fn new(total: u32, per_source: u32, watermarks: Watermarks) -> Self {
        Self::with_idle_budget(total, per_source, watermarks, idle_budget_for(total, watermarks))
    }

    /// Creates the budgets, of which about `idle_budget` units may be idle in accounts.
    pub(crate) fn with_idle_budget(
        total: u32,
        per_source: u32,
        watermarks: Watermarks,
        idle_budget: u32,
    ) -> Self {
        let ledger = Ledger::new(total, idle_budget, watermarks);
        Self { ledger, per_source }
    }

    pub(super) fn account(&self, index: u32) -> &Account {
        self.ledger.account(index)
    }

    /// Opens the account of a source.
    pub(super) fn open(&self, index: u32) {
        self.ledger.open_account_at(index, self.per_source);
    }

    /// Returns the smaller of the two budgets that bound a record of the account, and which one it
    /// is.
    fn least_budget(&self, index: u32) -> (Limit, u32) {
        let (own, total) = (self.account(index).capacity(), self.ledger.capacity());
        if own <= total { (Limit::SourceBytes, own) } else { (Limit::GlobalBytes, total) }
    }

    /// Checks that a charge exceeds no budget.
    pub(super) fn check_size(&self, index: u32, units: u32) -> Result<(), Denied> {
        match self.least_budget(index) {
            (limit, capacity) if units > capacity => {
                Err(Denied::TooLarge { limit, size: units, capacity })
            }
            _ => Ok(()),
        }
    }

    /// Checks whether a request could take units now, and takes none. `own` of the reserved units
    /// are for this request.
    pub(super) fn check(&self, index: u32, units: u32, own: u32) -> Result<(), Denied> {
        if units == 0 {
            return Ok(());
        }
        self.check_size(index, units)?;
        let checked = self.ledger.check(self.account(index), units, own);
        checked.map_err(|denied| denied.in_bytes(units))
    }

    /// Takes the units of the first `records` records, or of as many as fit, but at least
    /// [`Charges::least`]. `own` of the reserved units are for this request.
    #[cold]
    pub(super) fn acquire(
        &self,
        index: u32,
        charges: Charges<'_>,
        records: u32,
        own: u32,
        leasing: Leasing,
    ) -> Result<Charged, Denied> {
        let (least, wanted) = (charges.least(), charges.of_first(records));
        self.check_size(index, least)?;
        let mut grant = self.ledger.acquire(index, least, wanted, own, leasing);
        let units = grant.taken.records;
        if units == wanted {
            return Ok(Charged { records, units, denied: None, grant });
        }
        // Counts the records that fit, and their units.
        let (mut fit, mut used) = (0, 0);
        if let Charges::Each(each) = charges {
            while each[fit] <= units - used {
                used += each[fit];
                fit += 1;
            }
        }
        if used < units {
            grant.pool_moved |= self.release(index, units - used).pool_moved;
            grant.left_some = true;
        }
        // What denies the next record.
        let denied = match (charges, grant.taken.denied) {
            (Charges::Each(each), _) if fit > 0 => self.check(index, each[fit], 0).err(),
            (_, denied) => denied.map(|denied| denied.in_bytes(least)),
        };
        Ok(Charged { records: fit as u32, units: used, denied, grant })
    }

    /// Gives units back.
    pub(super) fn release(&self, index: u32, units: u32) -> Released {
        let account = self.account(index);
        let (_, unreturned) = self.ledger.release(account, units);
        self.ledger.return_lease(account, unreturned)
    }
}
