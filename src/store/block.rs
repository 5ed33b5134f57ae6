//! A block: one entry of a stage's ring.

use crate::caps::Sequence;
use crate::settings::MAX_CAP;

/// One record, or several that were pushed together. A single record needs no allocation.
pub(crate) enum Records<E> {
    One(E),
    Many(Vec<E>),
    /// Records with the times and charges that some buffers keep. Boxed, so that other buffers do
    /// not pay for them.
    Stamped(Box<Stamped<E>>),
}

pub(crate) struct Stamped<E> {
    /// When the records were pushed to their first stage: see `Run::pushed`.
    pub(crate) pushed: u32,
    /// `None` unless the buffer measures time.
    pub(crate) entered: Option<Entered>,
    pub(crate) units: Units,
    pub(crate) records: Vec<E>,
}

/// The entry of a block into the ring.
#[derive(Clone, Copy)]
pub(crate) struct Entered {
    /// The number that [`Timing`](super::timing::Timing) gave it.
    pub(super) number: u64,
    /// In nanoseconds: see [`Clock::nanos`](crate::age::Clock::nanos).
    pub(super) at: u64,
}

/// What the records of a block were charged, in units: see `Run::charge`.
pub(crate) enum Units {
    Same(u32),
    Each(Vec<u32>),
}

impl Units {
    /// No record was charged.
    pub(crate) const NONE: Self = Self::Same(0);

    /// Returns the charges of a block. `units` has one for each record, or is empty.
    pub(crate) fn of(units: &[u32]) -> Self {
        match units {
            [] => Self::NONE,
            [first, rest @ ..] if rest.iter().all(|units| units == first) => Self::Same(*first),
            _ => Self::Each(units.to_vec()),
        }
    }
}

/// One entry of a stage's ring. All of its records are charged to one account, and their sequences
/// are consecutive.
///
/// In this order of fields a record begins 16 bytes from the start. The copy into the ring then
/// loads it in the pieces in which it was stored, so store-to-load forwarding works.
#[repr(C)]
pub(crate) struct Block<E> {
    pub(crate) account: u32,
    pub(crate) first: Sequence,
    pub(crate) records: Records<E>,
}

impl<E> Block<E> {
    /// Returns the block with the times and charges of its records.
    pub(super) fn stamped(self, pushed: u32, units: Units, entered: Option<Entered>) -> Self {
        let records = self.records.into_vec();
        let stamped = Stamped { pushed, entered, units, records };
        Self { records: Records::Stamped(Box::new(stamped)), ..self }
    }
}

impl<E> Records<E> {
    pub(crate) fn from_vec(mut records: Vec<E>) -> Self {
        Self::take_from(&mut records)
    }

    /// Takes all records of a `Vec`. The `Vec` keeps its memory if that is more than twice what its
    /// records need.
    pub(super) fn take_from(records: &mut Vec<E>) -> Self {
        match records.len() {
            1 => Self::One(records.remove(0)),
            len if len < records.capacity() / 2 => Self::Many(Vec::from_iter(records.drain(..))),
            _ => Self::Many(std::mem::take(records)),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<E> {
        match self {
            Self::One(record) => vec![record],
            Self::Many(records) => records,
            Self::Stamped(stamped) => stamped.records,
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(records) => records.len(),
            Self::Stamped(stamped) => stamped.records.len(),
        }
    }
}

/// Shrinks a `Vec` that has more than twice the memory that its records need: the caps count
/// records, not spare memory.
pub(crate) fn shrink_if_sparse<E>(mut records: Vec<E>) -> Vec<E> {
    if records.len() < records.capacity() / 2 {
        records.shrink_to_fit();
    }
    records
}

/// Converts a number of records to the width of the counters. No cap exceeds it.
pub(crate) fn to_u32(records: usize) -> u32 {
    debug_assert!(records <= MAX_CAP, "more records than a cap allows");
    records as u32
}
