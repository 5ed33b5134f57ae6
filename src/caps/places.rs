//! A stage's own cap: how many records it holds, and which comes next.

use super::packed::{Packed, Word};
use super::{Denied, Limit, Taken};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, SeqCst};

/// The places of a stage: each of its records holds one, queued or in an unsettled batch.
pub(crate) struct Places {
    word: Packed<Occupancy>,
    /// The capacity without the places of parked dead letters and without those that are reserved for
    /// a request that waits. Below zero while more are reserved than there are.
    limit: AtomicI64,
    /// Places that parked dead letters keep.
    parked: AtomicU32,
    /// How many more records than blocks the stage's ring holds or is about to hold. Here, because
    /// whoever changes it has the word's cache line already.
    pub(crate) surplus: AtomicU64,
    capacity: u32,
}

/// The word of a stage's own cap.
///
/// | bits | meaning |
/// | --- | --- |
/// | 63 | closed: no more places are given |
/// | 62..32 | places given so far, modulo 2^31: the sequence of the next record |
/// | 31..0 | places taken, without those of parked dead letters |
#[derive(Clone, Copy)]
struct Occupancy(u64);

const CLOSED: u64 = 1 << 63;
const COUNT_SHIFT: u32 = 32;

impl Word for Occupancy {
    #[inline]
    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    fn into_bits(self) -> u64 {
        self.0
    }
}

impl Occupancy {
    #[inline]
    fn occupied(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    #[inline]
    fn next(self) -> Sequence {
        Sequence::new((self.0 >> COUNT_SHIFT) as u32)
    }

    #[inline]
    fn with(self, records: u32) -> Self {
        let count = ((self.0 & !CLOSED) >> COUNT_SHIFT) + u64::from(records);
        // A carry out of the count is cut off.
        let count = count << COUNT_SHIFT & !CLOSED;
        Self(self.0 & CLOSED | count | (u64::from(self.occupied()) + u64::from(records)))
    }
}

/// The position of a record in the order of its stage.
///
/// A stage counts the places that it gives, modulo 2^31, and each record has the count of its place.
/// Two of them are compared by their distance from the count of now, which is right for records that
/// are fewer than 2^31 places apart. Records that were handed out and returned by name have lost
/// their first position; they come before all that never left, in the order in which they came back.
///
/// | bits | meaning |
/// | --- | --- |
/// | 31 | the record was handed out and came back |
/// | 30..0 | the count |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence(u32);

const RETURNED: u32 = 1 << 31;
const COUNT_MASK: u32 = RETURNED - 1;

impl Sequence {
    pub(crate) fn new(count: u32) -> Self {
        Self(count & COUNT_MASK)
    }

    /// The same for a record that was handed out and came back.
    pub(crate) fn returned(self) -> Self {
        Self(self.0 | RETURNED)
    }

    /// Whether the record was handed out and came back.
    pub(crate) fn is_returned(self) -> bool {
        self.0 & RETURNED != 0
    }

    /// The position `records` behind this one.
    #[inline]
    pub(crate) fn plus(self, records: u32) -> Self {
        Self(self.0 & RETURNED | self.0.wrapping_add(records) & COUNT_MASK)
    }

    /// How many places were given since, when the next is `now`.
    pub(crate) fn distance(self, now: Self) -> u32 {
        now.0.wrapping_sub(self.0) & COUNT_MASK
    }
}

impl Places {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            word: Packed::new(Occupancy(0)),
            limit: AtomicI64::new(i64::from(capacity)),
            parked: AtomicU32::new(0),
            surplus: AtomicU64::new(0),
            capacity,
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Places taken, without those of parked dead letters.
    #[inline]
    pub(crate) fn occupied(&self) -> u32 {
        self.word.load().occupied()
    }

    /// Places taken, those of parked dead letters included.
    pub(crate) fn held(&self) -> u32 {
        self.held_with(self.occupied())
    }

    fn held_with(&self, occupied: u32) -> u32 {
        // A letter that is being parked counts twice for a moment.
        occupied.saturating_add(self.parked()).min(self.capacity)
    }

    /// Places that parked dead letters keep.
    pub(crate) fn parked(&self) -> u32 {
        self.parked.load(SeqCst)
    }

    /// The sequence of the next record.
    pub(crate) fn next(&self) -> Sequence {
        self.word.load().next()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.word.load().is_closed()
    }

    /// Whether it was closed and holds no record. It stays so.
    pub(crate) fn is_drained(&self) -> bool {
        let now = self.word.load();
        now.is_closed() && now.occupied() == 0
    }

    /// Places that a request may have which has `own` of the reserved ones.
    pub(crate) fn free(&self, own: u32) -> u32 {
        let occupied = self.word.load();
        self.free_of(occupied, own)
    }

    /// The limit is read after the word: who parks a letter lowers it first and changes the word then,
    /// so that a swap of the word fails where the limit is outdated.
    #[inline]
    fn free_of(&self, now: Occupancy, own: u32) -> u32 {
        let limit = self.limit.load(SeqCst) + i64::from(own);
        u32::try_from(limit - i64::from(now.occupied())).unwrap_or(0)
    }

    /// Takes `wanted` places, if there are so many at the first attempt. Gives the sequence of the
    /// first record to fill them.
    #[inline]
    pub(crate) fn acquire_fast(&self, wanted: u32) -> Option<Sequence> {
        let now = self.word.load();
        if now.is_closed() || self.free_of(now, 0) < wanted {
            return None;
        }
        self.word.replace(now, now.with(wanted)).ok().map(|()| now.next())
    }

    /// Takes up to `wanted` places: all, or as many as there are if they are at least `least`. Gives the
    /// sequence of the first record to fill them. `own` of the reserved places are for this request.
    pub(crate) fn acquire(&self, least: u32, wanted: u32, own: u32) -> (Taken, Sequence) {
        let mut taken = Taken::none(Denied::Closed);
        let take = |now: Occupancy| {
            if now.is_closed() {
                taken = Taken::none(Denied::Closed);
                return None;
            }
            let free = self.free_of(now, own);
            let records = if free < least { 0 } else { wanted.min(free) };
            let denied = (records < wanted).then(|| self.shortage(now.occupied() + records, least));
            taken = Taken { records, denied };
            (records > 0).then(|| now.with(records))
        };
        let (Ok(before) | Err(before)) = self.word.update(take);
        (taken, before.next())
    }

    /// Why there are not `least` more places than those occupied.
    fn shortage(&self, occupied: u32, least: u32) -> Denied {
        let held = self.held_with(occupied);
        if self.capacity - held >= least {
            Denied::Reserved { limit: Limit::Stage }
        } else {
            Denied::Full { limit: Limit::Stage, held, capacity: self.capacity }
        }
    }

    /// What keeps a request from having `wanted` places now, found without taking any.
    pub(crate) fn check(&self, wanted: u32, own: u32) -> Result<(), Denied> {
        let now = self.word.load();
        if now.is_closed() {
            Err(Denied::Closed)
        } else if self.free_of(now, own) < wanted {
            Err(self.shortage(now.occupied(), wanted))
        } else {
            Ok(())
        }
    }

    /// Gives places back. Tells whether a closed stage holds no record now, so that its workers are to
    /// be woken.
    #[inline]
    #[must_use]
    pub(crate) fn release(&self, records: u32) -> bool {
        if records == 0 {
            return false;
        }
        let before = self.word.subtract(u64::from(records));
        debug_assert!(before.occupied() >= records, "more places given back than were taken");
        before.is_closed() && before.occupied() == records
    }

    /// Counts a place as one that a parked dead letter keeps. Until [`end_parking`](Self::end_parking) it
    /// counts twice.
    pub(crate) fn begin_parking(&self) {
        self.parked.fetch_add(1, SeqCst);
        self.limit.fetch_sub(1, SeqCst);
    }

    /// Takes such a place out of the word: the record has left the stage. Tells what
    /// [`release`](Self::release) does.
    #[must_use]
    pub(crate) fn end_parking(&self) -> bool {
        self.release(1)
    }

    /// Gives the place of a parked letter back.
    pub(crate) fn release_parked(&self) {
        self.parked.fetch_sub(1, SeqCst);
        self.limit.fetch_add(1, SeqCst);
        // A request that waits for a place has done so too before it looked for the last time.
        self.fence();
    }

    /// A read-modify-write of the word: see [`Packed::fence`].
    pub(crate) fn fence(&self) {
        self.word.fence();
    }

    /// Closes the stage, whatever it holds.
    pub(crate) fn close(&self) {
        self.word.set(CLOSED);
    }

    /// Closes the stage if it holds no record.
    ///
    /// # Errors
    ///
    /// The number of records that it holds.
    pub(crate) fn try_close_empty(&self) -> Result<(), u32> {
        let close = |now: Occupancy| {
            (self.held_with(now.occupied()) == 0).then_some(Occupancy(now.0 | CLOSED))
        };
        self.word.update(close).map(drop).map_err(|now| self.held_with(now.occupied()))
    }

    /// Reserves places for a request that waits.
    pub(crate) fn reserve(&self, records: u32) {
        self.limit.fetch_sub(i64::from(records), SeqCst);
    }

    /// Ends a reservation.
    pub(crate) fn unreserve(&self, records: u32) {
        self.limit.fetch_add(i64::from(records), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_keeps_its_order_when_the_count_wraps() {
        let now = Sequence::new(3);
        let order = [Sequence::new(COUNT_MASK - 1), Sequence::new(COUNT_MASK), Sequence::new(0)];
        let mut sorted = order;
        sorted.reverse();
        sorted.sort_by_key(|sequence| std::cmp::Reverse(sequence.distance(now)));
        assert_eq!(sorted, order);
        assert_eq!(Sequence::new(COUNT_MASK).plus(1), Sequence::new(0));
        let returned = Sequence::new(COUNT_MASK).returned();
        assert!(returned.plus(1).is_returned());
        assert_eq!(returned.plus(1), Sequence::new(0).returned());
    }

    #[test]
    fn the_count_of_a_closed_stage_wraps_and_leaves_the_mark() {
        let full = Occupancy(CLOSED | u64::from(COUNT_MASK) << COUNT_SHIFT | 3);
        let next = full.with(2);
        assert!(next.is_closed());
        assert_eq!((next.occupied(), next.next()), (5, Sequence::new(1)));
    }
}
