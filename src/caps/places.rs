//! The places of a stage: how many records it holds, and the sequence of the next.

use std::sync::Arc;

use super::counts::{Counter, Flow, Tally};
use super::packed::{Packed, Word};
use super::{Denied, Limit, Taken};
use crate::backpressure::{Marks, SignalCell};
use crate::settings::share;
use crate::stats::Counts;
use crate::sync::{AtomicI64, AtomicSetting, AtomicU32, AtomicU64, SeqCst};

/// The places of a stage. Each of its records holds one, whether it waits or is in an unsettled
/// batch.
pub(crate) struct Places {
    word: Packed<Occupancy>,
    /// The capacity, less the places of parked dead letters and less those that are reserved for a
    /// request that waits. It is below zero while more are reserved than are left.
    limit: AtomicI64,
    /// Places of parked dead letters.
    parked: AtomicU32,
    /// Places taken for records to come: by permits, producers, granted requests and forwards under
    /// way. Raised before they are taken, and lowered before they are used or given back.
    reserved_ahead: AtomicU32,
    /// How many more records than blocks the stage's ring holds or is about to hold. Stored here
    /// because a thread that changes it has already loaded this cache line.
    pub(crate) surplus: AtomicU64,
    capacity: AtomicSetting,
    /// The largest capacity that the stage ever had.
    most: u32,
    slots: u32,
    /// The number of the stage among those of its buffer, at least 1.
    number: u32,
    cell: SignalCell,
    /// How often bit 30 of the count in `word` has changed: see [`given`](Self::given).
    halves: Counter,
    flow: Flow,
    /// Shared with the registry, which counts what comes after the removal of the stage.
    tally: Arc<Tally>,
}

/// The word of a stage.
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
/// Half the range of the count.
const HALF: u64 = 1 << 30;

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

    /// Returns the places given so far, modulo 2^31.
    #[inline]
    fn count(self) -> u64 {
        (self.0 & !CLOSED) >> COUNT_SHIFT
    }

    #[inline]
    fn next(self) -> Sequence {
        Sequence::new(self.count() as u32)
    }

    #[inline]
    fn with(self, records: u32) -> Self {
        let count = self.count() + u64::from(records);
        // A carry out of the count is cut off.
        let count = count << COUNT_SHIFT & !CLOSED;
        Self(self.0 & CLOSED | count | (u64::from(self.occupied()) + u64::from(records)))
    }

    /// The word after a place was given and given back.
    fn with_one_skipped(self) -> Self {
        Self(self.with(1).0 - 1)
    }
}

/// The position of a record in the order of its stage: see
/// [`docs::internals`](crate::docs::internals#places-and-sequences).
///
/// | bits | meaning |
/// | --- | --- |
/// | 31 | the record was handed out by name and came back |
/// | 30..0 | the count |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sequence(u32);

const RETURNED: u32 = 1 << 31;
const COUNT_MASK: u32 = RETURNED - 1;

impl Sequence {
    pub(crate) fn new(count: u32) -> Self {
        Self(count & COUNT_MASK)
    }

    /// Returns the sequence of a record that was handed out by name and came back.
    pub(crate) fn returned(self) -> Self {
        Self(self.0 | RETURNED)
    }

    /// Returns whether the record was handed out by name and came back.
    pub(crate) fn is_returned(self) -> bool {
        self.0 & RETURNED != 0
    }

    /// Returns the sequence that is `records` places later.
    #[inline]
    pub(crate) fn plus(self, records: u32) -> Self {
        Self(self.0 & RETURNED | self.0.wrapping_add(records) & COUNT_MASK)
    }

    /// Returns how many places were given from this sequence on, if `now` is the sequence of the
    /// next place.
    pub(crate) fn distance(self, now: Self) -> u32 {
        now.0.wrapping_sub(self.0) & COUNT_MASK
    }
}

impl Places {
    /// Creates the places of a stage whose ring has `slots` slots.
    pub(crate) fn new(marks: Marks, slots: u32, number: u32) -> Self {
        let capacity = marks.capacity;
        Self {
            word: Packed::new(Occupancy(0)),
            limit: AtomicI64::new(i64::from(capacity)),
            parked: AtomicU32::new(0),
            reserved_ahead: AtomicU32::new(0),
            surplus: AtomicU64::new(0),
            capacity: AtomicSetting::new(capacity),
            most: capacity,
            slots,
            number,
            cell: SignalCell::with_marks(marks),
            halves: Counter::default(),
            flow: Flow::default(),
            tally: Arc::default(),
        }
    }

    /// Returns the number of the stage among those of its buffer.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Returns the cell of the signal that follows the places taken, including those of parked dead
    /// letters.
    pub(crate) fn cell(&self) -> &SignalCell {
        &self.cell
    }

    /// Updates the signal. Must be called after the places taken have changed, outside every lock.
    pub(crate) fn update_signal(&self) {
        if self.cell.is_outside(self.held()) {
            self.follow_level();
        }
    }

    #[cold]
    fn follow_level(&self) {
        self.cell.follow(|| self.held_with(self.word.fence().occupied()));
    }

    /// Updates the signal after the caller has taken places.
    #[inline]
    pub(crate) fn signal_rise(&self, occupied: u32) {
        if self.cell.is_above(occupied, self.parked()) {
            self.follow_level();
        }
    }

    /// Updates the signal after the caller has given places back.
    #[inline]
    pub(crate) fn signal_fall(&self, occupied: u32) {
        if self.cell.is_below(occupied, self.parked()) {
            self.follow_level();
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity.load(SeqCst)
    }

    /// Returns how many slots the stage's ring has.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Changes the capacity, to at most the slots of the ring. No place beyond it is given from now
    /// on; those that are taken stay so. The caller ensures that no other thread changes it, and
    /// then updates the signal and notifies waiters.
    pub(crate) fn set_capacity(&self, marks: Marks) {
        let capacity = marks.capacity;
        debug_assert!(capacity <= self.slots, "the ring has no slots for so many records");
        self.cell.set_marks(marks);
        let before = self.capacity.swap(capacity, SeqCst);
        self.limit.fetch_add(i64::from(capacity) - i64::from(before), SeqCst);
        // A thread that read the old limit read the old word before that, so its swap fails. This
        // write also pairs with the fence in `WaitQueue::enter`.
        self.flow.unused.add(1);
        let (Ok(before) | Err(before)) = self.word.update(|now| Some(now.with_one_skipped()));
        self.note_halves(before, 1);
    }

    /// Returns the places taken, without those of parked dead letters.
    #[inline]
    pub(crate) fn occupied(&self) -> u32 {
        self.word.load().occupied()
    }

    /// Returns the places taken, including those of parked dead letters.
    pub(crate) fn held(&self) -> u32 {
        self.held_with(self.occupied())
    }

    fn held_with(&self, occupied: u32) -> u32 {
        // The minimum, because a letter that is being parked counts twice for a moment.
        occupied.saturating_add(self.parked()).min(self.most)
    }

    /// Returns the share of the places taken, including those of parked dead letters.
    pub(crate) fn utilization(&self) -> f64 {
        share(self.held(), self.capacity())
    }

    /// Returns the places of parked dead letters.
    #[inline]
    pub(crate) fn parked(&self) -> u32 {
        self.parked.load(SeqCst)
    }

    /// Returns the places taken for records to come: at most the places taken.
    pub(crate) fn reserved_ahead(&self) -> u32 {
        self.reserved_ahead.load(SeqCst).min(self.occupied())
    }

    /// Counts places that are about to be taken for records to come.
    pub(crate) fn reserve_ahead(&self, records: u32) {
        self.reserved_ahead.fetch_add(records, SeqCst);
    }

    /// Ends the count of [`reserve_ahead`](Self::reserve_ahead). Must be called before the places
    /// are used or given back.
    pub(crate) fn end_ahead(&self, records: u32) {
        self.reserved_ahead.fetch_sub(records, SeqCst);
    }

    /// Returns the counts of the stage's records that the word does not hold.
    #[inline]
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Returns the counts of requests at the stage that were refused or waited.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Returns what became of the stage's records.
    pub(crate) fn counts(&self) -> Counts {
        let (given, occupied) = self.given();
        // After the word and before the counts: see `docs::internals`.
        let reserved = u64::from(self.reserved_ahead.load(SeqCst));
        self.flow.counts(given, given.saturating_sub(u64::from(occupied)), reserved)
    }

    /// Returns what became of the records of a stage that is closed and holds none.
    pub(crate) fn final_counts(&self) -> Counts {
        let (given, occupied) = self.given();
        debug_assert_eq!(occupied, 0, "the counts are final when no record is held");
        // A request that the closed stage refuses counts as one for records to come all the same.
        self.flow.counts(given, given, 0)
    }

    /// Returns how many places were ever given, and how many are taken. The word has the lower 31
    /// bits of the first number. If the highest of them does not match the parity of `halves`, a
    /// thread has not counted its half yet.
    fn given(&self) -> (u64, u32) {
        let halves = self.halves.get();
        let now = self.word.load();
        let halves = halves + ((now.count() / HALF) ^ halves) % 2;
        (halves * HALF + now.count() % HALF, now.occupied())
    }

    /// Counts the halves of the range that `records` more places complete.
    #[inline]
    fn note_halves(&self, before: Occupancy, records: u32) {
        let halves = (before.count() + u64::from(records)) / HALF - before.count() / HALF;
        if halves > 0 {
            self.halves.add(halves);
        }
    }

    /// Returns the sequence of the next record.
    pub(crate) fn next(&self) -> Sequence {
        self.word.load().next()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.word.load().is_closed()
    }

    /// Returns whether the stage is closed and holds no record. Once true, it stays true.
    pub(crate) fn is_drained(&self) -> bool {
        let now = self.word.load();
        now.is_closed() && now.occupied() == 0
    }

    /// Returns how many places are free for a request that has `own` places reserved.
    pub(crate) fn free(&self, own: u32) -> u32 {
        let occupied = self.word.load();
        self.free_of(occupied, own)
    }

    /// Computes the free places. Reads the limit after the word: see
    /// [`docs::internals`](crate::docs::internals#parked-letters-and-the-limit-words).
    #[inline]
    fn free_of(&self, now: Occupancy, own: u32) -> u32 {
        let limit = self.limit.load(SeqCst) + i64::from(own);
        u32::try_from(limit - i64::from(now.occupied())).unwrap_or(0)
    }

    /// Takes `wanted` places, updates the signal, and returns the sequence of the first. Makes one
    /// attempt.
    #[inline]
    pub(crate) fn acquire_fast(&self, wanted: u32) -> Option<Sequence> {
        let now = self.word.load();
        let free = self.limit.load(SeqCst) - i64::from(now.occupied());
        if now.is_closed() || free < i64::from(wanted) {
            return None;
        }
        self.word.replace(now, now.with(wanted)).ok()?;
        self.note_halves(now, wanted);
        self.signal_rise(now.occupied() + wanted);
        Some(now.next())
    }

    /// Takes `wanted` places, or as many as are free if they are at least `least`. `own` of the
    /// reserved places are for this request. Returns what was taken, and the sequence of the first.
    /// The caller must update the signal.
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
        self.note_halves(before, taken.records);
        (taken, before.next())
    }

    /// Returns why a request did not get `least` places beside those `occupied`.
    fn shortage(&self, occupied: u32, least: u32) -> Denied {
        let (held, capacity) = (self.held_with(occupied), self.capacity());
        if capacity.saturating_sub(held) >= least {
            Denied::Reserved { limit: Limit::Stage }
        } else {
            Denied::Full { limit: Limit::Stage, held, capacity }
        }
    }

    /// Checks whether a request could take `wanted` places now, and takes none.
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

    /// Gives places back, and updates the signal. Returns whether the stage is closed and now holds
    /// no record: then the caller must wake its workers.
    #[inline]
    #[must_use]
    pub(crate) fn release(&self, records: u32) -> bool {
        if records == 0 {
            return false;
        }
        let before = self.subtract(records);
        self.signal_fall(before.occupied() - records);
        before.is_closed() && before.occupied() == records
    }

    /// Gives places back under a lock. The caller must update the signal after releasing the lock.
    /// Returns what [`release`](Self::release) returns.
    #[must_use]
    pub(crate) fn release_silently(&self, records: u32) -> bool {
        let before = self.subtract(records);
        before.is_closed() && before.occupied() == records
    }

    #[inline]
    fn subtract(&self, records: u32) -> Occupancy {
        let before = self.word.subtract(u64::from(records));
        debug_assert!(before.occupied() >= records, "more places given back than were taken");
        before
    }

    /// Begins to count a place as one of a parked dead letter. It counts twice until
    /// [`end_parking`](Self::end_parking).
    pub(crate) fn begin_parking(&self) {
        self.parked.fetch_add(1, SeqCst);
        self.limit.fetch_sub(1, SeqCst);
    }

    /// Removes the place of the parked letter from the word: the record has left the stage. Returns
    /// what [`release`](Self::release) returns.
    #[must_use]
    pub(crate) fn end_parking(&self) -> bool {
        self.release(1)
    }

    /// Gives back the place of a parked letter. The caller must notify waiters.
    pub(crate) fn release_parked(&self) {
        self.parked.fetch_sub(1, SeqCst);
        self.limit.fetch_add(1, SeqCst);
        // Pairs with the fence in `WaitQueue::enter`.
        self.fence();
    }

    /// Performs [`Packed::fence`] on the word.
    pub(crate) fn fence(&self) {
        self.word.fence();
    }

    /// Closes the stage.
    pub(crate) fn close(&self) {
        self.word.set(CLOSED);
    }

    /// Closes the stage if it holds no record.
    ///
    /// # Errors
    ///
    /// Returns the number of records that it holds.
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
