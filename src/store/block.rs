//! What travels through a stage's ring: one record, or several that were pushed together.

use crate::caps::Sequence;
use crate::settings::MAX_CAP;

/// One record, or several that were pushed together. One that travels alone needs no allocation.
pub(crate) enum Records<E> {
    One(E),
    Many(Vec<E>),
}

/// One entry of a stage's ring. All of its records are charged to one account, and follow each other
/// in sequence.
///
/// In this order a record stands 16 bytes from the start: it is copied into the ring in the same pieces
/// as it was written in, and no load has to wait for two stores.
#[repr(C)]
pub(crate) struct Block<E> {
    pub(crate) account: u32,
    pub(crate) first: Sequence,
    pub(crate) records: Records<E>,
}

impl<E> Records<E> {
    pub(crate) fn from_vec(mut records: Vec<E>) -> Self {
        Self::take_from(&mut records)
    }

    /// All that is in a `Vec`, which keeps its memory where that is much more than its records need.
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
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(records) => records.len(),
        }
    }
}

/// The same records in memory of their own size, give or take half: they are charged by their number
/// alone.
pub(crate) fn shrink_if_sparse<E>(mut records: Vec<E>) -> Vec<E> {
    if records.len() < records.capacity() / 2 {
        records.shrink_to_fit();
    }
    records
}

/// A number of records in the width of the counters. The caps see to it that it fits.
pub(crate) fn to_u32(records: usize) -> u32 {
    debug_assert!(records <= MAX_CAP, "more records than a cap allows");
    records as u32
}
