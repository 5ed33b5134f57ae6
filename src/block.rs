//! What travels through a stage: records, in blocks on the way in and in runs on the way out.

use crate::settings::MAX_CAP;
use crate::spare;

/// One record, or several that were pushed together. One that travels alone needs no allocation.
pub(crate) enum Records<E> {
    One(E),
    Many(Vec<E>),
}

/// One entry of a stage's ring. All of its records are charged to one account.
///
/// In this order a record stands 16 bytes from the start: it is copied into the ring in the same pieces
/// as it was written in, and no load has to wait for two stores.
#[repr(C)]
pub(crate) struct Block<E> {
    pub(crate) account: u32,
    pub(crate) age: Age,
    pub(crate) records: Records<E>,
}

/// The place of a record in the order of its stage.
///
/// A stage counts the records that it admits, modulo 2^31, and hands each the count at its admission.
/// Ages are compared by their distance from the count of now, and so are right for records that are
/// fewer than 2^31 admissions apart. Records that were handed out and came back have lost their first
/// place; they come before all that never left, in the order in which they came back.
///
/// | bits | meaning |
/// | --- | --- |
/// | 31 | the record was handed out and came back |
/// | 30..0 | count at admission |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Age(u32);

const READMITTED: u32 = 1 << 31;
const COUNT_MASK: u32 = READMITTED - 1;

impl Age {
    pub(crate) fn new(count: u32) -> Self {
        Self(count & COUNT_MASK)
    }

    /// The same for a record that was handed out and came back.
    pub(crate) fn readmitted(self) -> Self {
        Self(self.0 | READMITTED)
    }

    /// The age of the record `records` places behind this one.
    pub(crate) fn plus(self, records: u32) -> Self {
        Self(self.0 & READMITTED | self.0.wrapping_add(records) & COUNT_MASK)
    }

    /// How far back, when the stage has counted to `now`: larger comes first.
    pub(crate) fn distance(self, now: Self) -> u32 {
        self.0 & READMITTED | now.0.wrapping_sub(self.0) & COUNT_MASK
    }
}

/// Neighbouring records that are charged to one account and follow each other in age.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) account: u32,
    pub(crate) age: Age,
    pub(crate) len: u32,
}

/// The runs of a batch, in the order of its records.
#[derive(Default)]
pub(crate) struct Runs(Vec<Run>);

/// Records together with what they are charged to: the content of a batch. It is boxed, so that a
/// batch is cheap to move, however large its records are; the box and what it has allocated are those
/// of the last batch that the thread has settled, if it has them still.
pub(crate) struct Held<E: 'static>(Option<Box<Content<E>>>);

struct Content<E> {
    records: Vec<E>,
    runs: Runs,
}

impl<E> Records<E> {
    pub(crate) fn from_vec(mut records: Vec<E>) -> Self {
        Self::take_from(&mut records)
    }

    /// All that is in a `Vec`, which keeps its memory where that is much more than its records need.
    fn take_from(records: &mut Vec<E>) -> Self {
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

impl Runs {
    #[inline]
    fn push(&mut self, run: Run) {
        match self.0.last_mut() {
            Some(last) if last.account == run.account && last.age.plus(last.len) == run.age => {
                last.len += run.len;
            }
            _ => self.0.push(run),
        }
    }
}

/// For how many records to make room at a time where it is not known how many will come.
const ROOM: usize = 64;

/// How many bytes a thread keeps at most for the records of its next batch, and for their runs.
const MAX_SPARE_BYTES: usize = 64 * 1024;

impl<E> Default for Content<E> {
    fn default() -> Self {
        Self { records: Vec::new(), runs: Runs::default() }
    }
}

impl<E> Default for Held<E> {
    #[inline]
    fn default() -> Self {
        Self(None)
    }
}

/// The records are dropped, and what they have left is kept for the next batch.
impl<E> Drop for Held<E> {
    #[inline]
    fn drop(&mut self) {
        let Some(mut content) = self.0.take() else { return };
        content.records.clear();
        content.runs.0.clear();
        let records = content.records.capacity() * size_of::<E>();
        let runs = content.runs.0.capacity() * size_of::<Run>();
        if records.max(runs) <= MAX_SPARE_BYTES {
            spare::keep(content);
        }
    }
}

impl<E> Held<E> {
    /// Nothing yet, with room for so many records that are to be handed over.
    pub(crate) fn with_capacity(records: usize) -> Self {
        let mut held = Self::default();
        if records > 0 {
            held.content().records = Vec::with_capacity(records);
        }
        held
    }

    /// The records, in a `Vec` of about their size.
    pub(crate) fn into_vec(mut self) -> Vec<E> {
        self.0
            .as_mut()
            .map_or_else(Vec::new, |content| fitted(std::mem::take(&mut content.records)))
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[E] {
        self.0.as_ref().map_or(&[], |content| &content.records)
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [E] {
        self.0.as_mut().map_or(&mut [], |content| &mut content.records)
    }

    /// What the records are charged to. It stays when they are taken or dropped.
    #[inline]
    pub(crate) fn runs(&self) -> &[Run] {
        self.0.as_ref().map_or(&[], |content| &content.runs.0)
    }

    /// Drops the records.
    #[inline]
    pub(crate) fn drop_records(&mut self) {
        if let Some(content) = &mut self.0 {
            content.records.clear();
        }
    }

    /// Takes the records: in a `Vec` of about their size, which is the one that they were pushed in if
    /// they were pushed together.
    pub(crate) fn take_records(&mut self) -> Records<E> {
        match &mut self.0 {
            Some(content) => Records::take_from(&mut content.records),
            None => Records::Many(Vec::new()),
        }
    }

    #[inline]
    fn content(&mut self) -> &mut Content<E> {
        self.0.get_or_insert_with(spare::take)
    }

    /// Appends a record. At most `more` will come, this one counted.
    #[inline]
    pub(crate) fn push_one(&mut self, account: u32, age: Age, record: E, more: usize) {
        let Content { records, runs } = self.content();
        runs.push(Run { account, age, len: 1 });
        if records.len() == records.capacity() {
            records.reserve(more.min(ROOM));
        }
        records.push(record);
    }

    /// Appends records that were pushed together.
    pub(crate) fn push_many(&mut self, account: u32, age: Age, block: Vec<E>) {
        let Content { records, runs } = self.content();
        runs.push(Run { account, age, len: count(block.len()) });
        if records.is_empty() {
            *records = block;
        } else {
            records.extend(block);
        }
    }

    /// Appends `len` records of a run, taken from the front of `records`.
    pub(crate) fn take_from(
        &mut self,
        account: u32,
        age: Age,
        records: &mut impl Iterator<Item = E>,
        len: usize,
    ) {
        let content = self.content();
        content.records.extend(records.take(len));
        content.runs.push(Run { account, age, len: count(len) });
    }

    /// Deals the records out to one of `N` heaps each, as `heap` says for each place.
    pub(crate) fn deal<const N: usize>(mut self, heap: impl Fn(usize) -> usize) -> [Self; N] {
        let mut heaps = std::array::from_fn(|_| Self::default());
        let len = self.len();
        let first = if len == 0 { 0 } else { heap(0) };
        if (1..len).all(|place| heap(place) == first) {
            heaps[first] = self;
            return heaps;
        }
        let mut records = self.take_records().into_vec().into_iter();
        let mut place = 0;
        for run in self.runs() {
            let mut done = 0;
            while done < run.len {
                // The longest stretch of the run that goes the same way.
                let end = place + (run.len - done) as usize;
                let way = heap(place);
                let stretch = (place..end).take_while(|&next| heap(next) == way).count();
                let age = run.age.plus(done);
                heaps[way].take_from(run.account, age, &mut records, stretch);
                place += stretch;
                done += count(stretch);
            }
        }
        heaps
    }
}

/// The same records, in a memory of their own size, give or take half: for they are charged by their
/// number alone.
pub(crate) fn fitted<E>(mut records: Vec<E>) -> Vec<E> {
    if records.len() < records.capacity() / 2 {
        records.shrink_to_fit();
    }
    records
}

/// A number of records in the width of the counters. The caps see to it that it fits.
pub(crate) fn count(records: usize) -> u32 {
    debug_assert!(records <= MAX_CAP, "more records than a cap allows");
    records as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_of<E>(held: &Held<E>) -> Vec<Run> {
        held.runs().to_vec()
    }

    #[test]
    fn ages_keep_their_order_when_the_count_wraps() {
        let now = Age::new(3);
        let ages = [
            Age::new(COUNT_MASK).readmitted(),
            Age::new(2).readmitted(),
            Age::new(COUNT_MASK - 1),
            Age::new(COUNT_MASK),
            Age::new(0),
        ];
        let mut sorted = ages;
        sorted.reverse();
        sorted.sort_by_key(|age| std::cmp::Reverse(age.distance(now)));
        assert_eq!(sorted, ages);
        assert_eq!(Age::new(COUNT_MASK).plus(1), Age::new(0));
        assert_eq!(Age::new(COUNT_MASK).readmitted().plus(1), Age::new(0).readmitted());
    }

    #[test]
    fn dealing_keeps_accounts_and_ages_with_their_records() {
        let mut held = Held::default();
        held.push_many(7, Age::new(10), vec![0, 1, 2]);
        held.push_one(8, Age::new(20), 3, 2);
        held.push_one(8, Age::new(21), 4, 1);
        let [even, odd] = held.deal::<2>(|place| place % 2);
        let runs = |held: &Held<i32>| -> Vec<_> {
            runs_of(held).iter().map(|run| (run.account, run.age, run.len)).collect()
        };
        assert_eq!(even.as_slice(), [0, 2, 4]);
        assert_eq!(runs(&even), [(7, Age::new(10), 1), (7, Age::new(12), 1), (8, Age::new(21), 1)]);
        assert_eq!(odd.as_slice(), [1, 3]);
        assert_eq!(runs(&odd), [(7, Age::new(11), 1), (8, Age::new(20), 1)]);
    }

    #[test]
    fn neighbours_of_one_account_make_one_run() {
        let mut held = Held::default();
        held.push_one(1, Age::new(5), 'a', 3);
        held.push_one(1, Age::new(6), 'b', 2);
        held.push_one(1, Age::new(8), 'c', 1);
        assert_eq!(runs_of(&held).iter().map(|run| run.len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(held.take_records().into_vec(), ['a', 'b', 'c']);
    }
}
