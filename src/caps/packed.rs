//! An atomic word that packs several numbers, and the compare-and-swap loop that changes it.

use std::marker::PhantomData;

use crate::sync::{AtomicU64, SeqCst};

/// The contents of a packed word, as a value with named fields.
pub(crate) trait Word: Copy {
    fn from_bits(bits: u64) -> Self;
    fn into_bits(self) -> u64;
}

/// A packed word that several threads share.
pub(crate) struct Packed<W> {
    bits: AtomicU64,
    word: PhantomData<W>,
}

impl<W: Word> Packed<W> {
    pub(crate) fn new(word: W) -> Self {
        Self { bits: AtomicU64::new(word.into_bits()), word: PhantomData }
    }

    #[inline]
    pub(crate) fn load(&self) -> W {
        W::from_bits(self.bits.load(SeqCst))
    }

    pub(crate) fn store(&self, word: W) {
        self.bits.store(word.into_bits(), SeqCst);
    }

    /// Makes one attempt to replace the word.
    ///
    /// # Errors
    ///
    /// Returns the actual word, if it is not `current`.
    #[inline]
    pub(crate) fn replace(&self, current: W, new: W) -> Result<(), W> {
        self.bits
            .compare_exchange(current.into_bits(), new.into_bits(), SeqCst, SeqCst)
            .map(drop)
            .map_err(W::from_bits)
    }

    /// Replaces the word by the result of `change`, and tries again whenever another thread has
    /// changed it. Returns the word that was replaced.
    ///
    /// # Errors
    ///
    /// Returns the word for which `change` returned `None`.
    #[inline]
    pub(crate) fn update(&self, mut change: impl FnMut(W) -> Option<W>) -> Result<W, W> {
        let mut current = self.load();
        loop {
            let Some(new) = change(current) else { return Err(current) };
            match self.replace(current, new) {
                Ok(()) => return Ok(current),
                Err(actual) => current = actual,
            }
        }
    }

    /// Adds to the bits, and returns the word before. The caller ensures that no field overflows.
    #[inline]
    pub(crate) fn add(&self, bits: u64) -> W {
        W::from_bits(self.bits.fetch_add(bits, SeqCst))
    }

    /// Subtracts from the bits, and returns the word before. The caller ensures that no field
    /// underflows.
    #[inline]
    pub(crate) fn subtract(&self, bits: u64) -> W {
        W::from_bits(self.bits.fetch_sub(bits, SeqCst))
    }

    /// Sets bits, and returns the word before.
    pub(crate) fn set(&self, bits: u64) -> W {
        W::from_bits(self.bits.fetch_or(bits, SeqCst))
    }

    /// Reads the word by a read-modify-write that changes nothing. Of two read-modify-writes of one
    /// word, the thread of the second sees everything that the thread of the first did before. This
    /// is the waiter's half of the [handshake](crate::docs::internals#the-handshake).
    #[inline]
    pub(crate) fn fence(&self) -> W {
        self.add(0)
    }
}
