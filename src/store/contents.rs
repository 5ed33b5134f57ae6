//! The contents of a batch: records, and the accounts to which they are charged.

use std::collections::VecDeque;
use std::mem;

use super::block::{Records, Units, shrink_if_sparse, to_u32};
use super::items::Items;
use super::recycle;
use crate::caps::Sequence;

/// Consecutive records of a batch that have the same account, push time and charge, and consecutive
/// sequences.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) account: u32,
    pub(crate) first: Sequence,
    pub(crate) len: u32,
    /// When the records were pushed, in milliseconds since the buffer was made, modulo 2^32; 0 if
    /// the buffer does not use it.
    pub(crate) pushed: u32,
    /// What each record was charged, in units of bytes; 0 in a buffer without byte budgets.
    pub(crate) charge: u32,
}

impl Run {
    pub(crate) fn new(account: u32, first: Sequence, records: usize) -> Self {
        Self { account, first, len: to_u32(records), pushed: 0, charge: 0 }
    }

    /// Returns what the records were charged together. The sum is within a budget.
    #[inline]
    pub(crate) fn units(&self) -> u32 {
        self.charge * self.len
    }

    /// Returns `true` if `next` has the same account and push time, so that at most its charge
    /// differs. Always returns `false` in a buffer without byte budgets.
    pub(crate) fn differs_in_charge(&self, next: &Self) -> bool {
        self.charge > 0 && self.account == next.account && self.pushed == next.pushed
    }

    /// Returns what the records of some runs were charged.
    pub(crate) fn charges(runs: &[Self]) -> Units {
        let each = |run: &Self| std::iter::repeat_n(run.charge, run.len as usize);
        match runs {
            [run] => Units::Same(run.charge),
            _ => Units::of(&runs.iter().flat_map(each).collect::<Vec<_>>()),
        }
    }

    /// Cuts the run so that each part holds records of one charge.
    pub(super) fn by_charge(self, each: &[u32]) -> Vec<Self> {
        let mut rest = self;
        let mut parts = Vec::new();
        for same in each.chunk_by(PartialEq::eq) {
            parts.push(Self { charge: same[0], ..rest.front(same.len()) });
            rest = rest.after(same.len());
        }
        parts
    }

    /// Returns the run of the first `records` records.
    pub(super) fn front(self, records: usize) -> Self {
        Self { len: to_u32(records), ..self }
    }

    /// Returns the run without its first `records` records.
    pub(super) fn after(self, records: usize) -> Self {
        let records = to_u32(records);
        Self { first: self.first.plus(records), len: self.len - records, ..self }
    }

    /// Returns `true` if the records of `next` follow those of this run.
    fn continues_with(&self, next: &Self) -> bool {
        self.account == next.account
            && self.first.plus(self.len) == next.first
            && self.pushed == next.pushed
            && self.charge == next.charge
    }
}

/// The records of a batch and their runs. They are boxed, so that a batch is cheap to move. The box
/// and its memory are those of the batch that the thread settled last, if the thread still keeps
/// them.
pub(crate) struct BatchContents<E: 'static>(Option<Box<Content<E>>>);

struct Content<E> {
    records: Items<E>,
    runs: Items<Run>,
    joining: Joining,
}

/// Whether further records may join a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joining {
    Open,
    /// No: the next record of the stage is isolated.
    Complete,
    /// No: the batch is one isolated record.
    Isolated,
}

impl Items<Run> {
    #[inline]
    fn push(&mut self, run: Run) {
        let runs = self.as_vec();
        match runs.last_mut() {
            Some(last) if last.continues_with(&run) => last.len += run.len,
            _ => runs.push(run),
        }
    }

    /// Splits off the runs of the first `records` records. A run may be cut in two.
    fn split_front_records(&mut self, records: u32) -> Vec<Run> {
        let (whole, cut) = whole_runs(self.as_slice().iter(), records);
        let mut front = self.split_front(whole);
        if cut > 0 {
            let rest = &mut self.as_mut_slice()[0];
            front.push(rest.front(cut as usize));
            *rest = rest.after(cut as usize);
        }
        front
    }

    /// Splits off the runs of the last `records` records. A run may be cut in two.
    fn split_back_records(&mut self, records: u32) -> Vec<Run> {
        let (whole, cut) = whole_runs(self.as_slice().iter().rev(), records);
        let mut back = self.split_back(whole);
        if cut > 0 {
            let last = self.as_mut_slice().last_mut().expect("a run is left to be cut");
            let kept = (last.len - cut) as usize;
            back.insert(0, last.after(kept));
            *last = last.front(kept);
        }
        back
    }
}

/// Returns how many whole runs hold the next `records` records, and how many records of the run
/// after them belong to these.
fn whole_runs<'a>(runs: impl Iterator<Item = &'a Run>, records: u32) -> (usize, u32) {
    let (mut whole, mut left) = (0, records);
    for run in runs {
        if run.len > left {
            break;
        }
        left -= run.len;
        whole += 1;
    }
    (whole, left)
}

/// The number of records for which a growing batch makes room at a time.
const ROOM: usize = 64;

/// The most bytes that a thread keeps for the records of its next batch, and the most for their
/// runs.
const MAX_SPARE_BYTES: usize = 64 * 1024;

impl<E> Default for Content<E> {
    fn default() -> Self {
        Self {
            records: Items::Whole(Vec::new()),
            runs: Items::Whole(Vec::new()),
            joining: Joining::Open,
        }
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
        content.runs.clear();
        content.joining = Joining::Open;
        if content.records.spare_bytes().max(content.runs.spare_bytes()) <= MAX_SPARE_BYTES {
            recycle::keep(content);
        }
    }
}

impl<E> BatchContents<E> {
    /// Allocates room for `records` records in contents that hold none.
    pub(crate) fn reserve(&mut self, records: usize) {
        if records > 0 {
            self.content().records = Items::Whole(Vec::with_capacity(records));
        }
    }

    fn from_parts(records: Vec<E>, runs: Vec<Run>) -> Self {
        let mut held = Self::default();
        let content = held.content();
        content.records = Items::Whole(records);
        content.runs = Items::Whole(runs);
        held
    }

    /// Returns the records in a `Vec` of about their size.
    pub(crate) fn into_vec(mut self) -> Vec<E> {
        self.0
            .as_mut()
            .map_or_else(Vec::new, |content| shrink_if_sparse(mem::take(content.records.as_vec())))
    }

    /// Returns `true` if no further record may join the batch.
    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.joining != Joining::Open)
    }

    /// Returns `true` if the batch is one record that is handed out alone, because a worker
    /// panicked while it held the record.
    pub(crate) fn is_isolated(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.joining == Joining::Isolated)
    }

    /// Keeps further records from joining the batch.
    pub(super) fn complete(&mut self) {
        self.content().joining = Joining::Complete;
    }

    /// Marks the only record as isolated.
    pub(super) fn isolate(&mut self) {
        self.content().joining = Joining::Isolated;
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
        self.0.as_ref().map_or(&[], |content| content.records.as_slice())
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [E] {
        self.0.as_mut().map_or(&mut [], |content| content.records.as_mut_slice())
    }

    /// Returns the runs. They stay when the records are taken or dropped.
    #[inline]
    pub(crate) fn runs(&self) -> &[Run] {
        self.0.as_ref().map_or(&[], |content| content.runs.as_slice())
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
            Some(content) => Records::take_from(content.records.as_vec()),
            None => Records::Many(Vec::new()),
        }
    }

    #[inline]
    fn content(&mut self) -> &mut Content<E> {
        self.0.get_or_insert_with(recycle::take)
    }

    /// Appends a record. At most `more` records will be appended, including this one.
    #[inline]
    pub(crate) fn push_one(&mut self, run: Run, record: E, more: usize) {
        let Content { records, runs, .. } = self.content();
        runs.push(run);
        let records = records.as_vec();
        if records.len() == records.capacity() {
            records.reserve(more.min(ROOM));
        }
        records.push(record);
    }

    /// Appends records that were pushed together.
    pub(crate) fn push_many(&mut self, run: Run, block: Vec<E>) {
        let Content { records, runs, .. } = self.content();
        runs.push(run);
        let records = records.as_vec();
        if records.is_empty() {
            *records = block;
        } else {
            records.extend(block);
        }
    }

    /// Appends the records of another batch.
    pub(super) fn append(&mut self, mut other: Self) {
        for &run in other.runs() {
            self.content().runs.push(run);
        }
        let records = other.take_records().into_vec();
        let all = self.content().records.as_vec();
        if all.is_empty() {
            *all = records;
        } else {
            all.extend(records);
        }
    }

    /// Creates contents of records that were pushed together. `units` has the charge of each, or is
    /// empty in a buffer without byte budgets.
    pub(crate) fn charged(run: Run, units: &[u32], records: Vec<E>) -> Self {
        let runs = if units.is_empty() { vec![run] } else { run.by_charge(units) };
        Self::from_parts(records, runs)
    }

    /// Replaces the charge of each record.
    pub(super) fn recharge(&mut self, units: &[u32]) {
        let mut rest = units;
        let mut runs = Vec::with_capacity(self.runs().len());
        for run in self.runs() {
            let (own, others) = rest.split_at(run.len as usize);
            runs.extend(run.by_charge(own));
            rest = others;
        }
        self.content().runs = Items::Whole(runs);
    }

    /// Appends the records of a run, which are the first of a fragment.
    pub(crate) fn take_front(&mut self, run: Run, records: &mut VecDeque<E>) {
        let content = self.content();
        content.runs.push(run);
        let taken = content.records.as_vec();
        let len = run.len as usize;
        if taken.is_empty() && len == records.len() {
            *taken = mem::take(records).into();
        } else {
            taken.extend(records.drain(..len));
        }
    }

    /// Appends the records of a run, taken from the front of `records`.
    fn take_from(&mut self, run: Run, records: &mut impl Iterator<Item = E>) {
        let content = self.content();
        content.records.as_vec().extend(records.take(run.len as usize));
        content.runs.push(run);
    }

    /// Splits off the records from `at` on, at the cost of the smaller part.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let len = self.len();
        if at == 0 || at >= len {
            return if at == 0 { mem::take(self) } else { Self::default() };
        }
        let content = self.content();
        if len - at <= at {
            let records = content.records.split_back(len - at);
            return Self::from_parts(records, content.runs.split_back_records(to_u32(len - at)));
        }
        let records = content.records.split_front(at);
        let front = Self::from_parts(records, content.runs.split_front_records(to_u32(at)));
        mem::replace(self, front)
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
                let part = run.after(done as usize).front(stretch);
                buckets[way].take_from(part, &mut records);
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
        held.push_many(Run::new(7, Sequence::new(10), 3), vec![0, 1, 2]);
        held.push_one(Run::new(8, Sequence::new(20), 1), 3, 2);
        held.push_one(Run::new(8, Sequence::new(21), 1), 4, 1);
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
    fn parts_are_split_off_at_both_ends() {
        for at in 0..=7 {
            for front in 0..=7 {
                let mut held = BatchContents::default();
                held.push_many(Run::new(7, Sequence::new(10), 3), vec![0, 1, 2]);
                held.push_many(Run::new(8, Sequence::new(20), 4), vec![3, 4, 5, 6]);
                let middle = held.split_off(front);
                let mut parts = [held, middle, BatchContents::default()];
                parts[2] = parts[1].split_off(at);
                let mut seen = Vec::new();
                for part in parts {
                    let mut records = part.as_slice().iter();
                    for run in part.runs() {
                        for place in 0..run.len {
                            seen.push((
                                run.account,
                                run.first.plus(place),
                                *records.next().unwrap(),
                            ));
                        }
                    }
                    assert_eq!(records.next(), None);
                }
                let of = |account, first, record| (account, Sequence::new(first), record);
                let whole: Vec<_> = (0..3).map(|n| of(7, 10 + n, n as i32)).collect();
                let whole = whole.into_iter().chain((0..4).map(|n| of(8, 20 + n, 3 + n as i32)));
                assert_eq!(seen, whole.collect::<Vec<_>>(), "{front} and {at}");
            }
        }
    }

    #[test]
    fn neighbours_of_one_account_make_one_run() {
        let mut held = BatchContents::default();
        held.push_one(Run::new(1, Sequence::new(5), 1), 'a', 3);
        held.push_one(Run::new(1, Sequence::new(6), 1), 'b', 2);
        held.push_one(Run::new(1, Sequence::new(8), 1), 'c', 1);
        assert_eq!(runs_of(&held).iter().map(|run| run.len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(held.take_records().into_vec(), ['a', 'b', 'c']);
    }
}
