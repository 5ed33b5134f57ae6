//! A list that can be split near either end.

use std::{mem, vec};

/// A list that can be split at the cost of the part that is split off.
pub(super) enum Items<T> {
    Whole(Vec<T>),
    /// What is left after the front was split off.
    Rest(vec::IntoIter<T>),
}

impl<T> Items<T> {
    #[inline]
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::Whole(items) => items,
            Self::Rest(items) => items.as_slice(),
        }
    }

    #[inline]
    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::Whole(items) => items,
            Self::Rest(items) => items.as_mut_slice(),
        }
    }

    #[inline]
    pub(super) fn as_vec(&mut self) -> &mut Vec<T> {
        if let Self::Rest(items) = self {
            *self = Self::Whole(mem::take(items).collect());
        }
        match self {
            Self::Whole(items) => items,
            Self::Rest(_) => unreachable!("it was made whole"),
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        match self {
            Self::Whole(items) => items.clear(),
            Self::Rest(items) => drop(mem::take(items)),
        }
    }

    /// Returns the bytes of memory that clearing keeps.
    #[inline]
    pub(super) fn spare_bytes(&self) -> usize {
        match self {
            Self::Whole(items) => items.capacity() * size_of::<T>(),
            Self::Rest(_) => 0,
        }
    }

    /// Splits off the first `len` items.
    pub(super) fn split_front(&mut self, len: usize) -> Vec<T> {
        if let Self::Whole(items) = self {
            *self = Self::Rest(mem::take(items).into_iter());
        }
        match self {
            Self::Rest(items) => items.by_ref().take(len).collect(),
            Self::Whole(_) => unreachable!("it was made an iterator"),
        }
    }

    /// Splits off the last `len` items.
    pub(super) fn split_back(&mut self, len: usize) -> Vec<T> {
        match self {
            Self::Whole(items) => items.split_off(items.len() - len),
            Self::Rest(items) => {
                let mut back: Vec<T> = items.by_ref().rev().take(len).collect();
                back.reverse();
                back
            }
        }
    }
}
