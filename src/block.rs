//! What travels through a stage: records, in blocks on the way in and in runs on the way out.

use crate::settings::MAX_CAP;

/// One record, or several that were pushed together. One that travels alone needs no allocation.
pub(crate) enum Records<E> {
    One(E),
    Many(Vec<E>),
}

/// One entry of a stage's ring. All of its records are charged to one account.
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

/// The runs of a batch, in the order of its records. The first lives here, so that a batch of one run
/// allocates nothing for it.
#[derive(Default)]
pub(crate) struct Runs {
    first: Option<Run>,
    more: Vec<Run>,
}

/// Records together with what they are charged to: the content of a batch.
pub(crate) enum Held<E> {
    /// One block, as it was pushed.
    Block(Block<E>),
    /// Parts of several blocks.
    Gathered { records: Vec<E>, runs: Runs },
}

impl<E> Records<E> {
    pub(crate) fn from_vec(mut records: Vec<E>) -> Self {
        if records.len() == 1
            && let Some(record) = records.pop()
        {
            Self::One(record)
        } else {
            Self::Many(records)
        }
    }

    pub(crate) fn into_vec(self) -> Vec<E> {
        match self {
            Self::One(record) => vec![record],
            Self::Many(records) => records,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn as_slice(&self) -> &[E] {
        match self {
            Self::One(record) => std::slice::from_ref(record),
            Self::Many(records) => records,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [E] {
        match self {
            Self::One(record) => std::slice::from_mut(record),
            Self::Many(records) => records,
        }
    }
}

impl<E> Block<E> {
    /// All of it.
    fn run(&self) -> Run {
        Run { account: self.account, age: self.age, len: count(self.records.len()) }
    }
}

impl Runs {
    fn push(&mut self, run: Run) {
        match self.more.last_mut().or(self.first.as_mut()) {
            None => self.first = Some(run),
            Some(last) if last.account == run.account && last.age.plus(last.len) == run.age => {
                last.len += run.len;
            }
            Some(_) => self.more.push(run),
        }
    }

    /// The run, if there is just one.
    #[inline]
    pub(crate) fn only(&self) -> Option<Run> {
        if self.more.is_empty() { self.first } else { None }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> {
        self.first.iter().chain(&self.more).copied()
    }
}

impl From<Run> for Runs {
    fn from(run: Run) -> Self {
        Self { first: Some(run), more: Vec::new() }
    }
}

impl<E> Default for Held<E> {
    fn default() -> Self {
        Self::Gathered { records: Vec::new(), runs: Runs::default() }
    }
}

impl<E> Held<E> {
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn as_slice(&self) -> &[E] {
        match self {
            Self::Block(block) => block.records.as_slice(),
            Self::Gathered { records, .. } => records,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [E] {
        match self {
            Self::Block(block) => block.records.as_mut_slice(),
            Self::Gathered { records, .. } => records,
        }
    }

    /// Takes the runs, and leaves the records to be dropped.
    pub(crate) fn take_runs(&mut self) -> Runs {
        match self {
            Self::Block(block) => block.run().into(),
            Self::Gathered { runs, .. } => std::mem::take(runs),
        }
    }

    pub(crate) fn into_parts(self) -> (Records<E>, Runs) {
        match self {
            Self::Block(block) => {
                let run = block.run();
                (block.records, run.into())
            }
            Self::Gathered { records, runs } => (Records::Many(records), runs),
        }
    }

    /// Appends all records of a block. `expected` says for how many records to make room when they
    /// have to be gathered.
    pub(crate) fn push(&mut self, block: Block<E>, expected: impl FnOnce() -> usize) {
        let run = block.run();
        let (gathered, runs) = self.gather(expected);
        match block.records {
            Records::One(record) => gathered.push(record),
            Records::Many(records) => gathered.extend(records),
        }
        runs.push(run);
    }

    /// Appends `len` records of a run, taken from the front of `records`.
    pub(crate) fn take_from(
        &mut self,
        account: u32,
        age: Age,
        records: &mut impl Iterator<Item = E>,
        len: usize,
        expected: impl FnOnce() -> usize,
    ) {
        let (gathered, runs) = self.gather(expected);
        gathered.extend(records.take(len));
        runs.push(Run { account, age, len: count(len) });
    }

    /// The records as a `Vec` that can take more, with their runs.
    fn gather(&mut self, expected: impl FnOnce() -> usize) -> (&mut Vec<E>, &mut Runs) {
        if let Self::Block(_) = self {
            let (records, runs) = std::mem::take(self).into_parts();
            let records = match records {
                Records::Many(records) => records,
                Records::One(record) => {
                    let mut gathered = Vec::with_capacity(expected().max(2));
                    gathered.push(record);
                    gathered
                }
            };
            *self = Self::Gathered { records, runs };
        }
        match self {
            Self::Gathered { records, runs } => (records, runs),
            Self::Block(_) => unreachable!("set a few lines above"),
        }
    }

    /// Deals the records out to one of `N` heaps each, as `heap` says for each place.
    pub(crate) fn deal<const N: usize>(self, heap: impl Fn(usize) -> usize) -> [Self; N] {
        let mut heaps = std::array::from_fn(|_| Self::default());
        let len = self.len();
        let first = if len == 0 { 0 } else { heap(0) };
        if (1..len).all(|place| heap(place) == first) {
            heaps[first] = self;
            return heaps;
        }
        let (records, runs) = self.into_parts();
        let mut records = records.into_vec().into_iter();
        let mut place = 0;
        for run in runs.iter() {
            let mut done = 0;
            while done < run.len {
                // The longest stretch of the run that goes the same way.
                let end = place + (run.len - done) as usize;
                let way = heap(place);
                let stretch = (place..end).take_while(|&next| heap(next) == way).count();
                let age = run.age.plus(done);
                heaps[way].take_from(run.account, age, &mut records, stretch, || stretch);
                place += stretch;
                done += count(stretch);
            }
        }
        heaps
    }
}

/// A number of records in the width of the counters. The caps see to it that it fits.
pub(crate) fn count(records: usize) -> u32 {
    debug_assert!(records <= MAX_CAP, "more records than a cap allows");
    records as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block<E>(account: u32, age: u32, records: Vec<E>) -> Block<E> {
        Block { account, age: Age::new(age), records: Records::from_vec(records) }
    }

    fn runs_of<E>(held: &Held<E>) -> Vec<Run> {
        match held {
            Held::Gathered { runs, .. } => runs.iter().collect(),
            Held::Block(block) => vec![block.run()],
        }
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
        let mut held = Held::Block(block(7, 10, vec![0, 1, 2]));
        held.push(block(8, 20, vec![3]), || 4);
        held.push(block(8, 21, vec![4]), || 4);
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
        let mut held = Held::Block(block(1, 5, vec!['a']));
        held.push(block(1, 6, vec!['b']), || 3);
        held.push(block(1, 8, vec!['c']), || 3);
        assert_eq!(runs_of(&held).iter().map(|run| run.len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(held.into_parts().0.into_vec(), ['a', 'b', 'c']);
    }
}
