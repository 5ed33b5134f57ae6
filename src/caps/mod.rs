//! Count: the words that hold the caps, and their arithmetic. This layer knows no record type, and
//! it neither waits nor wakes. [`docs::internals`](crate::docs::internals#the-ledger) explains it.

mod account;
mod counts;
mod ledger;
mod packed;
mod places;

pub(crate) use account::Account;
pub(crate) use counts::{Counter, Tally};
pub(crate) use ledger::{Grant, Leasing, Ledger, Released, idle_budget_for};
pub(crate) use places::{Places, Sequence};

/// The bytes of one unit. The ledger of bytes counts in units.
const UNIT: usize = 64;

/// The largest byte budget, in units. Sums of units saturate at `u32::MAX`, which exceeds it.
pub(crate) const MAX_UNITS: u32 = u32::MAX - 1;

/// Converts the size of a record to units, rounded up, and at least one.
pub(crate) fn units_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

/// Returns the most units that `records` records of `bytes` bytes together can be charged. Each
/// record counts as at least one byte.
pub(crate) fn units_for(records: usize, bytes: usize) -> u32 {
    units_of(bytes.max(records).saturating_add(records.saturating_mul(UNIT - 1)) / UNIT * UNIT)
}

/// Converts a byte budget to units, rounded down. Returns `None` if it is out of range.
pub(crate) fn budget_of(bytes: usize) -> Option<u32> {
    u32::try_from(bytes / UNIT).ok().filter(|units| (1..=MAX_UNITS).contains(units))
}

/// Converts units to bytes.
pub(crate) fn bytes_of(units: u32) -> usize {
    (units as usize).saturating_mul(UNIT)
}

/// Returns the sum of the units of several records.
pub(crate) fn sum_of(units: &[u32]) -> u32 {
    units.iter().fold(0, |sum, &units| sum.saturating_add(units))
}

/// A cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    Source,
    Global,
    Stage,
    SourceBytes,
    GlobalBytes,
}

/// Why a request got no more credits or places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The cap leaves too few: it holds `held` records of `capacity`.
    Full { limit: Limit, held: u32, capacity: u32 },
    /// What the global cap leaves is guaranteed to other accounts. All in records.
    Guaranteed { held: u32, capacity: u32, guaranteed: u32 },
    /// The byte budget leaves less than `wanted`: it holds `held` of `capacity`. All in units.
    BytesFull { limit: Limit, held: u32, capacity: u32, wanted: u32 },
    /// What the cap leaves is reserved for a request that waits.
    Reserved { limit: Limit },
    /// The request asks for more than the cap, in records, or in units of a byte budget. A request
    /// that waited may find that the cap was lowered.
    TooLarge { limit: Limit, size: u32, capacity: u32 },
    /// The source, the stage or the whole buffer was closed.
    Closed,
}

impl Denied {
    /// Returns the cap that denies the request, or `None` if waiting cannot help.
    pub(crate) fn limit(self) -> Option<Limit> {
        match self {
            Self::Full { limit, .. } | Self::BytesFull { limit, .. } | Self::Reserved { limit } => {
                Some(limit)
            }
            Self::Guaranteed { .. } => Some(Limit::Global),
            Self::TooLarge { .. } | Self::Closed => None,
        }
    }

    /// Converts the denial with which the ledger of bytes answers a request for `wanted` units.
    pub(crate) fn in_bytes(self, wanted: u32) -> Self {
        match self {
            Self::Full { limit, held, capacity } => {
                Self::BytesFull { limit: limit.in_bytes(), held, capacity, wanted }
            }
            Self::Reserved { limit } => Self::Reserved { limit: limit.in_bytes() },
            other => other,
        }
    }
}

impl Limit {
    /// Returns the byte budget that corresponds to a cap on records.
    fn in_bytes(self) -> Self {
        match self {
            Self::Source => Self::SourceBytes,
            Self::Global => Self::GlobalBytes,
            other => other,
        }
    }
}

/// How much of a request was taken.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) records: u32,
    /// What denied the rest, if not all was taken.
    pub(crate) denied: Option<Denied>,
}

impl Taken {
    pub(crate) fn none(denied: Denied) -> Self {
        Self { records: 0, denied: Some(denied) }
    }
}
