//! Count: the words that hold the caps, and their arithmetic. This layer knows no record type, and
//! it neither waits nor wakes. [`docs::internals`](crate::docs::internals#the-ledger) explains it.

mod account;
mod counts;
mod ledger;
mod packed;
mod places;

pub(crate) use account::Account;
pub(crate) use counts::Counter;
pub(crate) use ledger::{Leasing, Ledger, Released, idle_budget_for};
pub(crate) use places::{Places, Sequence};

/// A cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    Source,
    Global,
    Stage,
}

/// Why a request got no more credits or places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The cap leaves too few: it holds `held` records of `capacity`.
    Full { limit: Limit, held: u32, capacity: u32 },
    /// What the global cap leaves is guaranteed to other accounts.
    Guaranteed { held: u32, capacity: u32, guaranteed: u32 },
    /// What the cap leaves is reserved for a request that waits.
    Reserved { limit: Limit },
    /// The request waited, and the cap was lowered below what it asks for.
    TooLarge { limit: Limit, records: u32, capacity: u32 },
    /// The source, the stage or the whole buffer was closed.
    Closed,
}

impl Denied {
    /// The cap that stands in the way; none for what can never be granted.
    pub(crate) fn limit(self) -> Option<Limit> {
        match self {
            Self::Full { limit, .. } | Self::Reserved { limit } => Some(limit),
            Self::Guaranteed { .. } => Some(Limit::Global),
            Self::TooLarge { .. } | Self::Closed => None,
        }
    }
}

/// What was taken of what was asked for.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) records: u32,
    /// Why it is not all, if it is not.
    pub(crate) denied: Option<Denied>,
}

impl Taken {
    pub(crate) fn none(denied: Denied) -> Self {
        Self { records: 0, denied: Some(denied) }
    }
}
