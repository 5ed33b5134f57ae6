//! The contents of a batch: records, and the accounts to which they are charged.

use std::collections::VecDeque;

use super::block::{Records, shrink_if_sparse, to_u32};
use super::recycle;
use crate::caps::Sequence;

/// Consecutive records of a batch that are charged to one account and have consecutive sequences.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) account: u32,
    pub(crate) first: Sequence,
    pub(crate) len: u32,
}

/// The runs of a batch, in the order of its records.
#[derive(Default)]
pub(crate) struct Runs(Vec<Run>);

/// The records of a batch and their runs. They are boxed, so that a batch is cheap to move. The box
/// and its memory are those of the batch that the thread settled last, if the thread still keeps
/// them.
pub(crate) struct BatchContents<E: 'static>(Option<Box<Content<E>>>);

struct Content<E> {
    records: Vec<E>,
    runs: Runs,
}

impl Runs {
    #[inline]
    fn push(&mut self, run: Run) {
        match self.0.last_mut() {
            Some(last) if last.account == run.account && last.first.plus(last.len) == run.first => {
                last.len += run.len;
            }
            _ => self.0.push(run),
        }
    }
}

/// The number of records for which a growing batch makes room at a time.
const ROOM: usize = 64;

/// The most bytes that a thread keeps for the records of its next batch, and the most for their
/// runs.
const MAX_SPARE_BYTES: usize = 64 * 1024;

impl<E> Default for Content<E> {
    fn default() -> Self {
        Self { records: Vec::new(), runs: Runs::default() }
    }
}

impl<E> Default for BatchContents<E> {
    #[inline]
    fn default() -> Self {
        Self(None)
    }
}

/// Drops the records, and keeps their memory for the next batch of the thread.
impl<E> Drop for BatchContents<E> {
    #[inline]
    fn drop(&mut self) {
        let Some(mut content) = self.0.take() else { return };
        content.records.clear();
        content.runs.0.clear();
        let records = content.records.capacity() * size_of::<E>();
        let runs = content.runs.0.capacity() * size_of::<Run>();
        if records.max(runs) <= MAX_SPARE_BYTES {
            recycle::keep(content);
        }
    }
}

impl<E> BatchContents<E> {
    /// Creates empty contents with room for that many records.
    pub(crate) fn with_capacity(records: usize) -> Self {
        let mut held = Self::default();
        if records > 0 {
            held.content().records = Vec::with_capacity(records);
        }
        held
    }

    /// Returns the records in a `Vec` of about their size.
    pub(crate) fn into_vec(mut self) -> Vec<E> {
        self.0
            .as_mut()
            .map_or_else(Vec::new, |content| shrink_if_sparse(std::mem::take(&mut content.records)))
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

    /// Returns the runs. They stay when the records are taken or dropped.
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

    /// Takes the records in a `Vec` of about their size. If they were pushed together, it is the
    /// `Vec` in which they were pushed.
    pub(crate) fn take_records(&mut self) -> Records<E> {
        match &mut self.0 {
            Some(content) => Records::take_from(&mut content.records),
            None => Records::Many(Vec::new()),
        }
    }

    #[inline]
    fn content(&mut self) -> &mut Content<E> {
        self.0.get_or_insert_with(recycle::take)
    }

    /// Appends a record. At most `more` records will be appended, including this one.
    #[inline]
    pub(crate) fn push_one(&mut self, account: u32, first: Sequence, record: E, more: usize) {
        let Content { records, runs } = self.content();
        runs.push(Run { account, first, len: 1 });
        if records.len() == records.capacity() {
            records.reserve(more.min(ROOM));
        }
        records.push(record);
    }

    /// Appends records that were pushed together.
    pub(crate) fn push_many(&mut self, account: u32, first: Sequence, block: Vec<E>) {
        let Content { records, runs } = self.content();
        runs.push(Run { account, first, len: to_u32(block.len()) });
        if records.is_empty() {
            *records = block;
        } else {
            records.extend(block);
        }
    }

    /// Appends the first `len` records of a fragment.
    pub(crate) fn take_front(
        &mut self,
        account: u32,
        first: Sequence,
        records: &mut VecDeque<E>,
        len: usize,
    ) {
        let content = self.content();
        content.runs.push(Run { account, first, len: to_u32(len) });
        if content.records.is_empty() && len == records.len() {
            content.records = std::mem::take(records).into();
        } else {
            content.records.extend(records.drain(..len));
        }
    }

    /// Appends `len` records of a run, taken from the front of `records`.
    pub(crate) fn take_from(
        &mut self,
        account: u32,
        first: Sequence,
        records: &mut impl Iterator<Item = E>,
        len: usize,
    ) {
        let content = self.content();
        content.records.extend(records.take(len));
        content.runs.push(Run { account, first, len: to_u32(len) });
    }

    /// Splits the records into `N` buckets. `bucket` maps the index of a record to its bucket.
    pub(crate) fn split_by<const N: usize>(mut self, bucket: impl Fn(usize) -> usize) -> [Self; N] {
        let mut buckets = std::array::from_fn(|_| Self::default());
        let len = self.len();
        let first = if len == 0 { 0 } else { bucket(0) };
        if (1..len).all(|place| bucket(place) == first) {
            buckets[first] = self;
            return buckets;
        }
        let mut records = self.take_records().into_vec().into_iter();
        let mut place = 0;
        for run in self.runs() {
            let mut done = 0;
            while done < run.len {
                // The longest stretch of the run that goes into the same bucket.
                let end = place + (run.len - done) as usize;
                let way = bucket(place);
                let stretch = (place..end).take_while(|&next| bucket(next) == way).count();
                let first = run.first.plus(done);
                buckets[way].take_from(run.account, first, &mut records, stretch);
                place += stretch;
                done += to_u32(stretch);
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_of<E>(held: &BatchContents<E>) -> Vec<Run> {
        held.runs().to_vec()
    }

    #[test]
    fn splitting_keeps_accounts_and_sequences_with_their_records() {
        let mut held = BatchContents::default();
        held.push_many(7, Sequence::new(10), vec![0, 1, 2]);
        held.push_one(8, Sequence::new(20), 3, 2);
        held.push_one(8, Sequence::new(21), 4, 1);
        let [even, odd] = held.split_by::<2>(|place| place % 2);
        let runs = |held: &BatchContents<i32>| -> Vec<_> {
            runs_of(held).iter().map(|run| (run.account, run.first, run.len)).collect()
        };
        assert_eq!(even.as_slice(), [0, 2, 4]);
        assert_eq!(
            runs(&even),
            [(7, Sequence::new(10), 1), (7, Sequence::new(12), 1), (8, Sequence::new(21), 1)]
        );
        assert_eq!(odd.as_slice(), [1, 3]);
        assert_eq!(runs(&odd), [(7, Sequence::new(11), 1), (8, Sequence::new(20), 1)]);
    }

    #[test]
    fn neighbours_of_one_account_make_one_run() {
        let mut held = BatchContents::default();
        held.push_one(1, Sequence::new(5), 'a', 3);
        held.push_one(1, Sequence::new(6), 'b', 2);
        held.push_one(1, Sequence::new(8), 'c', 1);
        assert_eq!(runs_of(&held).iter().map(|run| run.len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(held.take_records().into_vec(), ['a', 'b', 'c']);
    }
}
