//! The two lanes of a stage: a ring of blocks, and the returned records, which are taken first. See
//! [`docs::internals`](crate::docs::internals#lanes).

use std::collections::{BTreeMap, VecDeque};

use super::block::{Block, Records, to_u32};
use super::contents::BatchContents;
use crate::caps::{Places, Sequence};
use crate::sync::{ArrayQueue, AtomicU64, Mutex, SeqCst, Spin};

/// The records of one stage that wait to be taken.
pub(crate) struct Lanes<E> {
    ring: ArrayQueue<Block<E>>,
    /// The number of records in `returned`. Changed under its lock.
    returned_len: AtomicU64,
    /// Returned records, and the rest of each block that was larger than a batch.
    returned: Mutex<Returned<E>>,
}

/// A block of so many records is not cut for a batch that is a quarter full.
const LARGE_BLOCK: usize = 32;

/// How a batch is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// With as many records as there are.
    Wholly,
    /// A large block that does not fit is left for the next batch.
    Loosely,
}

/// Fragments of former blocks, the oldest first.
struct Returned<E> {
    fragments: BTreeMap<Position, Fragment<E>>,
    /// The count of places that the stage has given, without its modulus, when `sequence` was the
    /// next.
    count: u64,
    sequence: Sequence,
    arrivals: u64,
}

/// The order in which fragments are taken: first those that were handed out by name and came back,
/// then by sequence, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    never_left: bool,
    count: u64,
    arrival: u64,
}

/// Records of one account with consecutive sequences.
struct Fragment<E> {
    account: u32,
    first: Sequence,
    records: VecDeque<E>,
}

impl<E> Lanes<E> {
    pub(crate) fn new(slots: usize) -> Self {
        let returned = Returned {
            fragments: BTreeMap::new(),
            // Far from zero, so that the positions of older records are not negative.
            count: 1 << 32,
            sequence: Sequence::default(),
            arrivals: 0,
        };
        Self {
            ring: ArrayQueue::new(slots),
            returned_len: AtomicU64::new(0),
            returned: Mutex::new(returned),
        }
    }

    /// The bytes that each slot of the ring takes: a stamp of 8 bytes and a block.
    pub(crate) const SLOT: usize = size_of::<Block<E>>() + size_of::<u64>();

    pub(crate) fn slots(&self) -> usize {
        self.ring.capacity()
    }

    /// Returns the number of records that wait to be taken. It may count a record too many while a
    /// push or a cut is under way. The order of the loads matters: see
    /// [`docs::internals`](crate::docs::internals#the-surplus-and-why-empty-is-honest).
    pub(crate) fn len(&self, places: &Places) -> u64 {
        self.ring.len() as u64 + places.surplus.load(SeqCst) + self.returned_len.load(SeqCst)
    }

    /// Pushes a block whose records hold places.
    #[inline]
    pub(crate) fn push(&self, places: &Places, block: Block<E>) {
        // Before the push into the ring: see `take_slow`.
        let surplus = block.records.len() as u64 - 1;
        if surplus > 0 {
            places.surplus.fetch_add(surplus, SeqCst);
        }
        let pushed = self.ring.push(block);
        assert!(pushed.is_ok(), "a ring has a slot for each record that has a place");
    }

    /// Puts returned records, which hold places, before all newer ones.
    pub(crate) fn push_returned(&self, places: &Places, mut contents: BatchContents<E>) {
        let len = contents.len() as u64;
        let mut records = VecDeque::from(contents.take_records().into_vec());
        let mut returned = self.returned.lock();
        for run in contents.runs() {
            let rest = records.split_off(run.len as usize);
            let records = std::mem::replace(&mut records, rest);
            let fragment = Fragment { account: run.account, first: run.first, records };
            returned.insert(fragment, places);
        }
        self.returned_len.fetch_add(len, SeqCst);
    }

    /// Whether returned records, or the rest of a block that was cut, wait to be taken.
    #[inline]
    pub(crate) fn has_returned(&self) -> bool {
        self.returned_len.load(SeqCst) > 0
    }

    /// A read-modify-write of the word that counts returned records: see `Packed::fence`.
    pub(crate) fn fence(&self) {
        self.returned_len.fetch_add(0, SeqCst);
    }

    /// Adds records to a batch until it holds `max` or none waits: returned records first, then
    /// those of the ring.
    #[inline]
    pub(crate) fn take(
        &self,
        places: &Places,
        contents: &mut BatchContents<E>,
        max: usize,
        fill: Fill,
    ) {
        if self.has_returned()
            && contents.len() < max
            // While another worker has the lock, the ring may have records as well.
            && let Some(mut returned) = self.returned.try_lock()
        {
            self.take_returned(&mut returned, contents, max);
        }
        while contents.len() < max && self.take_block(places, contents, max, fill) {}
        if contents.is_empty() && max > 0 {
            self.take_slow(places, contents, max);
        }
    }

    /// The same, and waits for returned records that another worker is at. It does not go empty-handed
    /// while a record waits: one that is nowhere to be found at this moment is in a block that another
    /// worker is cutting, or that is being pushed. Both count in the surplus until they are done.
    pub(crate) fn take_slow(&self, places: &Places, contents: &mut BatchContents<E>, max: usize) {
        let spin = Spin::default();
        loop {
            // The surplus before the lanes: a cut puts the rest among the returned records before
            // it lowers the surplus.
            let under_way = places.surplus.load(SeqCst) > 0;
            if self.has_returned() {
                self.take_returned(&mut self.returned.lock(), contents, max);
            }
            while contents.len() < max && self.take_block(places, contents, max, Fill::Wholly) {}
            if !contents.is_empty() || !under_way {
                return;
            }
            spin.wait();
        }
    }

    /// Adds the next block of the ring to a batch that is to hold at most `max` records, cut in two if
    /// need be. `false` if there is none, or it was left for the next batch.
    fn take_block(
        &self,
        places: &Places,
        contents: &mut BatchContents<E>,
        max: usize,
        fill: Fill,
    ) -> bool {
        match self.ring.pop() {
            None => return false,
            Some(Block { account, first, records: Records::One(record) }) => {
                contents.push_one(account, first, record, max - contents.len());
            }
            Some(Block { account, first, records: Records::Many(records) }) => {
                let (len, wanted) = (records.len(), max - contents.len());
                if len <= wanted {
                    contents.push_many(account, first, records);
                } else if fill == Fill::Loosely
                    && len >= LARGE_BLOCK
                    && contents.len().saturating_mul(4) >= max
                {
                    // The next batch has it whole, and finds the following blocks as they were made.
                    self.cut(places, account, first, records, 0, contents);
                    places.surplus.fetch_sub(len as u64 - 1, SeqCst);
                    return false;
                } else {
                    self.cut(places, account, first, records, wanted, contents);
                }
                // After the rest of a cut block is among the returned records: see `take_slow`.
                places.surplus.fetch_sub(len as u64 - 1, SeqCst);
            }
        }
        true
    }

    /// Adds the first records of a block to a batch, and puts the rest among the returned records.
    #[cold]
    fn cut(
        &self,
        places: &Places,
        account: u32,
        first: Sequence,
        records: Vec<E>,
        wanted: usize,
        contents: &mut BatchContents<E>,
    ) {
        let mut records = VecDeque::from(records);
        if wanted > 0 {
            contents.take_front(account, first, &mut records, wanted);
        }
        let len = records.len() as u64;
        let first = first.plus(to_u32(wanted));
        let mut returned = self.returned.lock();
        returned.insert(Fragment { account, first, records }, places);
        self.returned_len.fetch_add(len, SeqCst);
    }

    fn take_returned(
        &self,
        returned: &mut Returned<E>,
        contents: &mut BatchContents<E>,
        max: usize,
    ) {
        let before = contents.len();
        while contents.len() < max
            && let Some((mut position, mut fragment)) = returned.fragments.pop_first()
        {
            let len = fragment.records.len().min(max - contents.len());
            contents.take_front(fragment.account, fragment.first, &mut fragment.records, len);
            if fragment.records.is_empty() {
                continue;
            }
            // The records that were taken may come back, and then come before the rest.
            position.count += len as u64;
            fragment.first = fragment.first.plus(to_u32(len));
            if fragment.records.len() < fragment.records.capacity() / 2 {
                fragment.records.shrink_to_fit();
            }
            returned.fragments.insert(position, fragment);
        }
        self.returned_len.fetch_sub((contents.len() - before) as u64, SeqCst);
    }
}

impl<E> Returned<E> {
    fn insert(&mut self, fragment: Fragment<E>, places: &Places) {
        let now = places.next();
        self.count += u64::from(self.sequence.distance(now));
        self.sequence = now;
        self.arrivals += 1;
        let position = Position {
            never_left: !fragment.first.is_returned(),
            count: self.count - u64::from(fragment.first.distance(now)),
            arrival: self.arrivals,
        };
        self.fragments.insert(position, fragment);
    }
}
