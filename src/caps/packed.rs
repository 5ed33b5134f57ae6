//! A word that packs several numbers, and the one loop that changes it.

use std::marker::PhantomData;

use crate::sync::{AtomicU64, SeqCst};

/// What a packed word says.
pub(crate) trait Word: Copy {
    fn from_bits(bits: u64) -> Self;
    fn into_bits(self) -> u64;
}

/// A packed word that threads share.
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

    /// One attempt to replace the word.
    ///
    /// # Errors
    ///
    /// The word as it is, where it has changed.
    #[inline]
    pub(crate) fn replace(&self, current: W, new: W) -> Result<(), W> {
        self.bits
            .compare_exchange(current.into_bits(), new.into_bits(), SeqCst, SeqCst)
            .map(drop)
            .map_err(W::from_bits)
    }

    /// Replaces the word by what `change` makes of it, however often it changes meanwhile, until
    /// `change` gives nothing. Gives the word before.
    ///
    /// # Errors
    ///
    /// The word for which `change` gave nothing.
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

    /// Adds to the bits; the caller knows that no field overflows. Gives the word before.
    #[inline]
    pub(crate) fn add(&self, bits: u64) -> W {
        W::from_bits(self.bits.fetch_add(bits, SeqCst))
    }

    /// Subtracts from the bits; the caller knows that no field underflows. Gives the word before.
    #[inline]
    pub(crate) fn subtract(&self, bits: u64) -> W {
        W::from_bits(self.bits.fetch_sub(bits, SeqCst))
    }

    /// Sets bits.
    pub(crate) fn set(&self, bits: u64) -> W {
        W::from_bits(self.bits.fetch_or(bits, SeqCst))
    }

    /// Reads the word by a read-modify-write that changes nothing: of two of these to one word, the
    /// later one's thread sees all that the earlier one's did before it. Half of each store-load
    /// handshake of this crate is one of these.
    #[inline]
    pub(crate) fn fence(&self) -> W {
        self.add(0)
    }
}
