//! The two lanes of a stage: a ring of blocks, and the returned records, which are taken first. See
//! [`docs::internals`](crate::docs::internals#lanes).

use std::collections::VecDeque;
use std::time::Duration;

use super::block::{Block, Entered, Records, Stamped, Units};
use super::contents::{BatchContents, Run};
use super::returned::{Fragment, Returned};
use super::timing::Timing;
use crate::age::Clock;
use crate::caps::Places;
use crate::stats::Quantiles;
use crate::sync::{ArrayQueue, AtomicU64, Instant, Mutex, SeqCst, Spin, now};

/// The records of one stage that wait to be taken.
pub(crate) struct Lanes<E> {
    ring: ArrayQueue<Block<E>>,
    /// The number of records in `returned`. Changed under its lock.
    returned_len: AtomicU64,
    /// The number of records that are not due yet. Changed under the lock of `returned`.
    delayed_len: AtomicU64,
    /// When the next delayed record is due, in nanoseconds since `start`; `u64::MAX` if there is
    /// none. Changed under the lock of `returned`.
    next_due: AtomicU64,
    start: Instant,
    /// Returned records, delayed or not, and the rest of each block that was larger than a batch.
    returned: Mutex<Returned<E>>,
    measuring: Option<Measuring>,
}

/// How long records wait in the ring.
struct Measuring {
    clock: Clock,
    timing: Timing,
}

/// A block of this many records is not cut for a batch that is already a quarter full.
const LARGE_BLOCK: usize = 32;

/// How a batch is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// With as many records as there are.
    Wholly,
    /// A large block that does not fit is left for the next batch.
    Loosely,
}

/// What waits in the lanes of a stage.
pub(crate) struct Look {
    pub(crate) len: u64,
    pub(crate) delayed: u64,
    /// When the record at the front was pushed to its first stage, in a buffer that measures time.
    pub(crate) oldest: Option<u32>,
    /// How long records waited in the ring.
    pub(crate) waited: Option<Quantiles>,
}

impl<E> Lanes<E> {
    pub(crate) fn new(slots: usize, clock: Option<Clock>) -> Self {
        let measuring = |clock| Measuring { clock, timing: Timing::new() };
        Self {
            ring: ArrayQueue::new(slots),
            returned_len: AtomicU64::new(0),
            delayed_len: AtomicU64::new(0),
            next_due: AtomicU64::new(u64::MAX),
            start: now(),
            returned: Mutex::new(Returned::default()),
            measuring: clock.filter(|clock| clock.measures).map(measuring),
        }
    }

    /// The bytes that each slot of the ring takes: a stamp of 8 bytes and a block.
    pub(crate) const SLOT: usize = size_of::<Block<E>>() + size_of::<u64>();

    /// Returns the number of records that wait to be taken. It may count a record too many while a
    /// push or a cut is under way. The order of the loads matters: see
    /// [`docs::internals`](crate::docs::internals#the-surplus-and-why-empty-is-honest).
    pub(crate) fn len(&self, places: &Places) -> u64 {
        self.ring.len() as u64 + places.surplus.load(SeqCst) + self.returned_len.load(SeqCst)
    }

    /// Adds times and units to a block that is about to be pushed. Its records were pushed to their
    /// first stage at `pushed`; `now` is the present time.
    pub(crate) fn stamped(&self, block: Block<E>, pushed: u32, units: Units, now: u64) -> Block<E> {
        let enter =
            |Measuring { timing, .. }: &_| Entered { number: timing.enter(pushed), at: now };
        block.stamped(pushed, units, self.measuring.as_ref().map(enter))
    }

    /// Returns how many records wait and how many are delayed, and the times of those that wait.
    /// Under the lock, so that no record falls due meanwhile.
    pub(crate) fn look(&self, places: &Places) -> Look {
        let timing = self.measuring.as_ref().map(|Measuring { timing, .. }| timing);
        let returned = self.returned.lock();
        let (len, delayed) = (self.len(places), self.delayed_len());
        let front = returned.front().map(|run| run.pushed);
        let oldest = timing.and_then(|timing| front.or_else(|| timing.oldest()));
        drop(returned);
        Look { len, delayed, oldest, waited: timing.and_then(Timing::quantiles) }
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

    /// Puts returned records, which hold places, before all newer ones. If they are isolated, each
    /// is taken alone.
    pub(crate) fn push_returned(
        &self,
        places: &Places,
        contents: BatchContents<E>,
        isolated: bool,
    ) {
        let len = contents.len() as u64;
        let mut returned = self.returned.lock();
        for_each_fragment(contents, isolated, |fragment| returned.insert(fragment, places));
        self.returned_len.fetch_add(len, SeqCst);
    }

    /// Puts returned records, which hold places, aside until the delay is over. Returns `true` if
    /// no other record is due earlier.
    pub(crate) fn push_delayed(
        &self,
        contents: BatchContents<E>,
        isolated: bool,
        delay: Duration,
    ) -> bool {
        let len = contents.len() as u64;
        let due = self.nanos(now(), delay);
        let mut returned = self.returned.lock();
        for_each_fragment(contents, isolated, |fragment| returned.delay(fragment, due));
        self.delayed_len.fetch_add(len, SeqCst);
        let is_next = due < self.next_due.load(SeqCst);
        if is_next {
            self.next_due.store(due, SeqCst);
        }
        is_next
    }

    /// Returns when the delay that begins at `from` is over, in the unit of `next_due`.
    fn nanos(&self, from: Instant, delay: Duration) -> u64 {
        let time = from.saturating_duration_since(self.start).saturating_add(delay);
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX - 1)
    }

    /// Returns the number of records that are not due yet. Records whose time is over count until a
    /// worker or the timer makes them available.
    pub(crate) fn delayed_len(&self) -> u64 {
        self.delayed_len.load(SeqCst)
    }

    /// Returns when the next delayed record is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        match self.next_due.load(SeqCst) {
            u64::MAX => None,
            due => self.start.checked_add(Duration::from_nanos(due)),
        }
    }

    /// Makes the delayed records that are due available: all of them if `now` is `None`. Returns
    /// their number.
    #[cold]
    pub(crate) fn promote(&self, now: Option<Instant>) -> u64 {
        let now = now.map_or(u64::MAX, |now| self.nanos(now, Duration::ZERO));
        let mut returned = self.returned.lock();
        let records = returned.promote(now);
        // A record that is due counts twice for a moment, rather than not at all.
        self.returned_len.fetch_add(records, SeqCst);
        self.delayed_len.fetch_sub(records, SeqCst);
        self.next_due.store(returned.next_due(), SeqCst);
        records
    }

    /// Makes the delayed records that are due available. This is one load while none is delayed.
    fn promote_due(&self) {
        if let Some(due) = self.next_due() {
            let now = now();
            if due <= now {
                self.promote(Some(now));
            }
        }
    }

    /// Whether returned records, or the rest of a block that was cut, wait to be taken.
    #[inline]
    pub(crate) fn has_returned(&self) -> bool {
        self.returned_len.load(SeqCst) > 0
    }

    /// Performs a read-modify-write on the count of returned records: see `Packed::fence`.
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
            // If another worker has the lock, go on to the ring.
            && let Some(mut returned) = self.returned.try_lock()
        {
            self.take_returned(&mut returned, contents, max);
        }
        while contents.len() < max
            && !contents.is_complete()
            && self.take_block(places, contents, max, fill)
        {}
        if contents.is_empty() && max > 0 {
            self.take_slow(places, contents, max);
        }
    }

    /// Does what [`take`](Self::take) does, but waits for the lock of the returned records. Does
    /// not come back empty while a record waits: a record that is in neither lane is in a block
    /// that is being cut or pushed. The surplus counts such a block until its records are in a
    /// lane.
    pub(crate) fn take_slow(&self, places: &Places, contents: &mut BatchContents<E>, max: usize) {
        self.promote_due();
        let spin = Spin::default();
        loop {
            // The surplus before the lanes: a cut puts the rest among the returned records before
            // it lowers the surplus.
            let under_way = places.surplus.load(SeqCst) > 0;
            if self.has_returned() {
                self.take_returned(&mut self.returned.lock(), contents, max);
            }
            while contents.len() < max
                && !contents.is_complete()
                && self.take_block(places, contents, max, Fill::Wholly)
            {}
            if !contents.is_empty() || !under_way {
                return;
            }
            spin.wait();
        }
    }

    /// Removes the next block of the ring, unless returned records come before it.
    #[inline]
    pub(crate) fn pop_oldest(&self) -> Option<Block<E>> {
        if self.has_returned() { None } else { self.ring.pop() }
    }

    /// Adds the next block of the ring to a batch of at most `max` records. Returns `false` if
    /// there is none, or it was left for the next batch.
    fn take_block(
        &self,
        places: &Places,
        contents: &mut BatchContents<E>,
        max: usize,
        fill: Fill,
    ) -> bool {
        let Some(block) = self.ring.pop() else { return false };
        self.add(places, contents, block, max, fill)
    }

    /// Adds a block that was popped to a batch of at most `max` records. Cuts it in two if it does
    /// not fit. Returns `false` if it was left for the next batch.
    #[inline]
    pub(crate) fn add(
        &self,
        places: &Places,
        contents: &mut BatchContents<E>,
        block: Block<E>,
        max: usize,
        fill: Fill,
    ) -> bool {
        let Block { account, first, records } = block;
        match records {
            Records::One(record) => {
                contents.push_one(Run::new(account, first, 1), record, max - contents.len());
                true
            }
            Records::Many(records) => {
                let run = Run::new(account, first, records.len());
                self.take_many(places, contents, run, records, max, fill)
            }
            Records::Stamped(stamped) => {
                let Stamped { pushed, entered, units, records } = *stamped;
                if let (Some(Measuring { clock, timing }), Some(entered)) =
                    (&self.measuring, entered)
                {
                    let waited = clock.nanos().saturating_sub(entered.at);
                    timing.leave(entered.number, records.len(), waited);
                }
                let run = Run { pushed, ..Run::new(account, first, records.len()) };
                match units {
                    Units::Same(charge) => {
                        let run = Run { charge, ..run };
                        self.take_many(places, contents, run, records, max, fill)
                    }
                    Units::Each(units) => {
                        let block = BatchContents::charged(run, &units, records);
                        self.take_mixed(places, contents, block, max);
                        true
                    }
                }
            }
        }
    }

    /// Adds a block of several charges that was popped. Cuts it in two if it does not fit.
    fn take_mixed(
        &self,
        places: &Places,
        contents: &mut BatchContents<E>,
        mut block: BatchContents<E>,
        max: usize,
    ) {
        let len = block.len();
        let rest = block.split_off(max - contents.len());
        contents.append(block);
        if !rest.is_empty() {
            self.push_returned(places, rest, false);
        }
        // After the rest of a cut block is among the returned records: see `take_slow`.
        places.surplus.fetch_sub(len as u64 - 1, SeqCst);
    }

    /// Adds a block of one charge that was popped. Returns `false` if it was left for the next
    /// batch.
    fn take_many(
        &self,
        places: &Places,
        contents: &mut BatchContents<E>,
        run: Run,
        records: Vec<E>,
        max: usize,
        fill: Fill,
    ) -> bool {
        let (len, wanted) = (records.len(), max - contents.len());
        // The next batch then gets the large block whole, and finds the following blocks uncut.
        let is_left = fill == Fill::Loosely
            && len > wanted
            && len >= LARGE_BLOCK
            && contents.len().saturating_mul(4) >= max;
        if is_left {
            self.cut(places, run, records, 0, contents);
        } else if len > wanted {
            self.cut(places, run, records, wanted, contents);
        } else {
            contents.push_many(run, records);
        }
        // After the rest of a cut block is among the returned records: see `take_slow`.
        places.surplus.fetch_sub(len as u64 - 1, SeqCst);
        !is_left
    }

    /// Adds the first records of a block to a batch, and puts the rest among the returned records.
    #[cold]
    fn cut(
        &self,
        places: &Places,
        run: Run,
        records: Vec<E>,
        wanted: usize,
        contents: &mut BatchContents<E>,
    ) {
        let mut records = VecDeque::from(records);
        if wanted > 0 {
            contents.take_front(run.front(wanted), &mut records);
        }
        let len = records.len() as u64;
        let mut returned = self.returned.lock();
        let fragment = Fragment { run: run.after(wanted), isolated: false, records };
        returned.insert(fragment, places);
        self.returned_len.fetch_add(len, SeqCst);
    }

    fn take_returned(
        &self,
        returned: &mut Returned<E>,
        contents: &mut BatchContents<E>,
        max: usize,
    ) {
        let taken = returned.take(contents, max);
        self.returned_len.fetch_sub(taken, SeqCst);
    }
}

/// Cuts the contents of a batch into fragments, one for each run.
fn for_each_fragment<E>(
    mut contents: BatchContents<E>,
    isolated: bool,
    mut use_it: impl FnMut(Fragment<E>),
) {
    let isolated = isolated || contents.is_isolated();
    let records = contents.take_records().into_vec();
    if let &[run] = contents.runs() {
        use_it(Fragment { run, isolated, records: records.into() });
        return;
    }
    let mut records = records.into_iter();
    for &run in contents.runs() {
        let records = records.by_ref().take(run.len as usize).collect();
        use_it(Fragment { run, isolated, records });
    }
}
