//! A stage: a ring of blocks, a front lane for what must be seen first, and the stage's own cap.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::vec;

use crate::batch::Batch;
use crate::block::{Age, Block, Held, Records, Run, count};
use crate::dead_letters::{DeadLetter, DeadLetterQueue, Label};
use crate::error::TryRecvError;
use crate::ledger::Ledger;
use crate::occupancy::Occupancy;
use crate::record::Envelope;
use crate::sync::{ArrayQueue, AtomicU32, AtomicU64, CachePadded, Event, Listener, SeqCst};
use crate::waiting::{Freed, Gate, gate_id};

/// A handle to one stage: where workers take batches from.
///
/// Cheap to clone. It works on after its manager is dropped, and after its stage was removed (then
/// pushes to it are refused as [`Closed`](crate::RejectReason::Closed)).
///
/// A stage hands out its records first in, first out. Records that were returned come again before
/// newer ones, the oldest first. That order is strict for a lone worker; several workers at once
/// may overtake each other between taking a block and handing it on.
///
/// No lock is taken while nobody waits, but neither is this lock-free in the strict sense: a thread
/// that the system stops between claiming a place in the ring and filling it, or a worker that it stops
/// with the returned records in hand, holds back those behind it until it runs again.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let stage = manager.stage("filter")?;
/// let source = manager.source("kafka-1")?;
/// source.try_send(&stage, BufferedRecord::new("line", "kafka-1", "logs", "filter"))?;
///
/// let batch = stage.try_recv_batch(100)?;
/// assert_eq!((stage.len(), stage.in_flight()), (0, 1));
/// batch.ack();
/// assert_eq!(stage.in_flight(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stage<E: Envelope> {
    core: Arc<StageCore<E>>,
}

/// What all handles to a stage share.
pub(crate) struct StageCore<E: Envelope> {
    id: Arc<str>,
    capacity: u32,
    counts: CachePadded<Counts>,
    ring: ArrayQueue<Block<E>>,
    /// Returned records, and the rest of blocks that a worker's limit cut in two. Boxed, so that
    /// an empty lane costs a word a slot.
    front: ArrayQueue<Box<Front<E>>>,
    /// How many records the front lane holds.
    front_len: AtomicU64,
    /// How many workers wait for records, and in the upper half how many of them linger.
    idle_workers: AtomicU64,
    /// Wakes those that wait for any.
    bell: Event,
    /// Wakes those that linger, when so many records are there to be taken: at most as many as one of
    /// them waits for.
    filled: Event,
    fill_level: AtomicU32,
    ledger: Arc<Ledger>,
    retry_limit: Option<u32>,
    dead_letters: Arc<DeadLetterQueue<E>>,
}

/// What pushes and settling write to, apart from the ring.
struct Counts {
    /// See [`Occupancy`].
    occupancy: AtomicU64,
    /// How many more records than blocks the ring holds.
    surplus: AtomicU64,
}

/// One worker that lingers, where those that wait are counted.
const LINGERING: u64 = 1 << 32;

/// One entry of the front lane: pieces of former blocks, the oldest first.
struct Front<E> {
    pieces: VecDeque<Piece<E>>,
}

/// What is left of a run of records.
struct Piece<E> {
    account: u32,
    age: Age,
    records: vec::IntoIter<E>,
}

/// Why a stage admits fewer records than it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    Full { held: u32 },
    Closed,
}

/// Places in a stage: how many, and the age of the first record to fill them.
#[must_use]
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) records: u32,
    pub(crate) age: Age,
    /// Why there are not more, where there are not.
    pub(crate) shortage: Option<NotAdmitted>,
}

impl<E: Envelope> StageCore<E> {
    pub(crate) fn new(
        id: Arc<str>,
        capacity: u32,
        retry_limit: Option<u32>,
        ledger: Arc<Ledger>,
        dead_letters: Arc<DeadLetterQueue<E>>,
    ) -> Self {
        let slots = Self::slots_for(capacity, &ledger);
        Self {
            id,
            capacity,
            counts: CachePadded::new(Counts {
                occupancy: AtomicU64::new(0),
                surplus: AtomicU64::new(0),
            }),
            ring: ArrayQueue::new(slots),
            front: ArrayQueue::new(slots),
            front_len: AtomicU64::new(0),
            idle_workers: AtomicU64::new(0),
            bell: Event::new(),
            filled: Event::new(),
            fill_level: AtomicU32::new(u32::MAX),
            ledger,
            retry_limit,
            dead_letters,
        }
    }

    /// How many slots each lane needs. Every entry holds at least one record, and every record
    /// holds a place of the stage and a global credit: so a lane of that many slots is never full
    /// for whoever holds both, and a return cannot fail.
    fn slots_for(capacity: u32, ledger: &Ledger) -> usize {
        capacity.min(ledger.capacity()) as usize
    }

    /// How many bytes the lanes of such a stage take.
    pub(crate) fn footprint(capacity: u32, ledger: &Ledger) -> Option<usize> {
        // Each slot has a stamp of 8 bytes beside its entry.
        let slot = size_of::<Block<E>>() + size_of::<Box<Front<E>>>() + 2 * size_of::<u64>();
        Self::slots_for(capacity, ledger).checked_mul(slot)
    }

    /// The most records that it can hold under its own cap and the global one.
    pub(crate) fn slots(&self) -> usize {
        self.ring.capacity()
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(crate) fn retry_limit(&self) -> Option<u32> {
        self.retry_limit
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy(self.counts.occupancy.load(SeqCst))
    }

    /// Records queued or in unsettled batches.
    pub(crate) fn occupied(&self) -> u32 {
        self.occupancy().occupied()
    }

    /// Places that are free.
    pub(crate) fn room(&self) -> u32 {
        self.capacity - self.occupied()
    }

    /// Records waiting to be taken. While others are running, at most what is occupied.
    pub(crate) fn len(&self) -> u32 {
        let queued =
            self.ring.len() as u64 + self.counts.surplus.load(SeqCst) + self.front_len.load(SeqCst);
        queued.min(u64::from(self.occupied())) as u32
    }

    /// Takes up to `wanted` places: all, or as many as there are.
    pub(crate) fn admit(&self, wanted: u32) -> Places {
        self.admit_at_least(1, wanted)
    }

    /// Takes `wanted` places, or none.
    pub(crate) fn admit_all(&self, wanted: u32) -> Places {
        self.admit_at_least(wanted, wanted)
    }

    /// Takes `wanted` places, if there are so many at the first attempt, and tells the age of the
    /// first record to fill them.
    #[inline]
    pub(crate) fn admit_at_once(&self, wanted: u32) -> Option<Age> {
        let now = self.occupancy();
        if now.is_closed() || self.capacity - now.occupied() < wanted {
            return None;
        }
        let new = now.admit(wanted);
        let swapped = self.counts.occupancy.compare_exchange(now.0, new.0, SeqCst, SeqCst);
        swapped.is_ok().then(|| now.next_age())
    }

    fn admit_at_least(&self, least: u32, wanted: u32) -> Places {
        let mut now = self.occupancy();
        loop {
            let age = now.next_age();
            if now.is_closed() {
                return Places { records: 0, age, shortage: Some(NotAdmitted::Closed) };
            }
            let free = self.capacity - now.occupied();
            if free < least {
                let held = now.occupied();
                return Places { records: 0, age, shortage: Some(NotAdmitted::Full { held }) };
            }
            let records = wanted.min(free);
            let new = now.admit(records);
            match self.counts.occupancy.compare_exchange(now.0, new.0, SeqCst, SeqCst) {
                Ok(_) => {
                    let held = new.occupied();
                    let shortage = (records < wanted).then_some(NotAdmitted::Full { held });
                    return Places { records, age, shortage };
                }
                Err(actual) => now = Occupancy(actual),
            }
        }
    }

    /// Queues records that hold places here and credits of their account.
    #[inline]
    pub(crate) fn enqueue(&self, block: Block<E>) {
        let surplus = block.records.len() as u64 - 1;
        if surplus > 0 {
            self.counts.surplus.fetch_add(surplus, SeqCst);
        }
        let pushed = self.ring.push(block);
        assert!(pushed.is_ok(), "a ring has a slot for each record that is admitted");
        self.wake_worker();
    }

    /// Puts records that hold places here before all newer ones.
    pub(crate) fn enqueue_front(&self, mut held: Held<E>) {
        if held.is_empty() {
            return;
        }
        self.front_len.fetch_add(held.len() as u64, SeqCst);
        let mut records = held.take_records().into_vec().into_iter();
        let mut pieces = VecDeque::with_capacity(1);
        for run in held.runs() {
            let records = if run.len as usize == records.len() {
                std::mem::take(&mut records)
            } else {
                records.by_ref().take(run.len as usize).collect::<Vec<_>>().into_iter()
            };
            pieces.push_back(Piece { account: run.account, age: run.age, records });
        }
        self.push_front(Box::new(Front { pieces }));
    }

    fn push_front(&self, front: Box<Front<E>>) {
        let pushed = self.front.push(front);
        assert!(pushed.is_ok(), "a front lane has a slot for each record that is admitted");
        self.wake_worker();
    }

    /// Wakes one more of the workers that wait for a record, and those that linger if there are records
    /// enough for one of them.
    ///
    /// Whoever calls this has written to a queue by a read-modify-write, and a worker that begins to
    /// wait has counted itself by one before it looks into the queues: so one of the two sees the
    /// other.
    #[inline]
    fn wake_worker(&self) {
        let idle = self.idle_workers.load(SeqCst);
        if idle > 0 {
            self.wake_one_of(idle);
        }
    }

    #[cold]
    fn wake_one_of(&self, idle: u64) {
        if idle as u32 > 0 {
            self.bell.notify_one();
        }
        if idle >= LINGERING && self.fill_level.load(SeqCst) <= self.len() {
            // Whoever takes the level away tells all of those who have set it: they listened before.
            self.fill_level.swap(u32::MAX, SeqCst);
            self.filled.notify_all();
        }
    }

    /// Counts a worker that is about to wait for a record.
    pub(crate) fn idle_worker(self: &Arc<Self>) -> IdleWorker<E> {
        self.count_idle(1, self.bell.listen())
    }

    /// Counts a worker that is about to wait until `wanted` records are there to be taken.
    pub(crate) fn lingering_worker(self: &Arc<Self>, wanted: u32) -> IdleWorker<E> {
        let listener = self.filled.listen();
        self.fill_level.fetch_min(wanted, SeqCst);
        self.count_idle(LINGERING, listener)
    }

    fn count_idle(self: &Arc<Self>, one: u64, listener: Listener) -> IdleWorker<E> {
        self.idle_workers.fetch_add(one, SeqCst);
        // Whatever is done to these words later is done by somebody who sees this worker.
        self.front_len.fetch_add(0, SeqCst);
        self.touch();
        self.ledger.touch_pool();
        IdleWorker { stage: Arc::clone(self), one, listener }
    }

    /// Takes up to `max` records, if there are any.
    #[inline]
    pub(crate) fn take(&self, max: usize) -> Option<Held<E>> {
        let mut held = Held::default();
        self.add_to(&mut held, max);
        (!held.is_empty()).then_some(held)
    }

    /// Takes up to `max` records for good, and gives back what they held.
    pub(crate) fn take_out(&self, max: usize) -> Vec<E> {
        let mut held = Held::with_capacity(max.min(self.len() as usize));
        self.add_to(&mut held, max);
        self.release(held.runs());
        held.into_vec()
    }

    /// Adds what waits to be taken to a batch that is to hold at most `max` records: from the front
    /// lane first, then from the ring.
    #[inline]
    pub(crate) fn add_to(&self, held: &mut Held<E>, max: usize) {
        if self.front_len.load(SeqCst) > 0 && held.len() < max {
            self.add_from_front(held, max);
        }
        while held.len() < max && self.add_from_ring(held, max) {}
    }

    /// Adds the next block of the ring to a batch that is to hold at most `max` records, cut in two if
    /// need be. `false` if there is none.
    fn add_from_ring(&self, held: &mut Held<E>, max: usize) -> bool {
        match self.ring.pop() {
            None => return false,
            Some(Block { account, age, records: Records::One(record) }) => {
                held.push_one(account, age, record, max - held.len());
            }
            Some(Block { account, age, records: Records::Many(records) }) => {
                let (len, wanted) = (records.len(), max - held.len());
                if len <= wanted {
                    held.push_many(account, age, records);
                } else {
                    self.add_front_of(account, age, records, wanted, held);
                }
                self.counts.surplus.fetch_sub(len as u64 - 1, SeqCst);
            }
        }
        true
    }

    /// Adds the first records of a block, and puts the rest before all others.
    #[cold]
    fn add_front_of(
        &self,
        account: u32,
        age: Age,
        records: Vec<E>,
        wanted: usize,
        held: &mut Held<E>,
    ) {
        let mut records = records.into_iter();
        held.take_from(account, age, &mut records, wanted);
        self.front_len.fetch_add(records.len() as u64, SeqCst);
        let rest = Piece { account, age: age.plus(count(wanted)), records };
        self.push_front(Box::new(Front { pieces: VecDeque::from([rest]) }));
    }

    /// Only a look at all entries tells which records are the oldest: so they become one entry, in
    /// order, and what is not wanted goes back as that.
    fn add_from_front(&self, held: &mut Held<E>, max: usize) {
        let Some(mut front) = self.front.pop() else { return };
        let before = held.len();
        let now = self.occupancy().next_age();
        let others = std::iter::from_fn(|| self.front.pop()).flat_map(|other| other.pieces);
        front.merge(others.collect(), now);
        while held.len() < max {
            let Some(piece) = front.pieces.front_mut() else { break };
            let len = piece.records.len().min(max - held.len());
            held.take_from(piece.account, piece.age, &mut piece.records, len);
            piece.age = piece.age.plus(count(len));
            if piece.records.len() == 0 {
                front.pieces.pop_front();
            }
        }
        self.front_len.fetch_sub((held.len() - before) as u64, SeqCst);
        if !front.pieces.is_empty() {
            self.push_front(front);
        }
    }

    /// Moves records to the dead letters. Those that find no room there keep what they hold here
    /// until they are received.
    pub(crate) fn bury(self: &Arc<Self>, mut held: Held<E>, labels: Vec<Label>) {
        let mut letters = held.take_records().into_vec().into_iter().zip(labels);
        for run in held.runs() {
            for (record, label) in letters.by_ref().take(run.len as usize) {
                let letter = DeadLetter::new(record, label, &self.id);
                match self.dead_letters.push(letter) {
                    Ok(()) => self.release_one(run.account),
                    Err(letter) => self.dead_letters.park(letter, self, run.account),
                }
            }
        }
    }

    /// Gives back the place and the credit of one record that is gone.
    pub(crate) fn release_one(&self, account: u32) {
        self.release_some(account, 1);
    }

    /// Gives back the place and the credit of a parked dead letter that was received.
    pub(crate) fn release_parked(&self, account: u32) {
        self.free_places(1);
        self.ledger.release_parked(self.ledger.account(account));
        self.ledger.attend(self.freed(Some(account)));
    }

    /// Gives back places and credits of one account.
    pub(crate) fn release_some(&self, account: u32, records: u32) {
        self.release_run(Run { account, age: Age::default(), len: records });
    }

    /// Gives back the places and the credits of records that are gone: the places first, for they
    /// were taken last; and the credits of each account together, so that a batch of several sources
    /// writes to each account once.
    #[inline]
    pub(crate) fn release(&self, runs: &[Run]) {
        match runs {
            [run] => self.release_run(*run),
            _ => self.release_runs(runs),
        }
    }

    fn release_runs(&self, runs: &[Run]) {
        self.free_places(runs.iter().map(|run| run.len).sum());
        // Of the first few accounts: whatever else there is follows run by run.
        let mut sums = [(0, 0); 8];
        let mut accounts = 0;
        for run in runs {
            let (known, vacant) = sums.split_at_mut(accounts);
            if let Some((_, sum)) = known.iter_mut().find(|(account, _)| *account == run.account) {
                *sum += run.len;
            } else if let Some(sum) = vacant.first_mut() {
                *sum = (run.account, run.len);
                accounts += 1;
            } else {
                self.release_credits(run.account, run.len);
            }
        }
        for &(account, records) in &sums[..accounts] {
            self.release_credits(account, records);
        }
    }

    #[inline]
    fn release_run(&self, run: Run) {
        self.free_places(run.len);
        self.release_credits(run.account, run.len);
    }

    #[inline]
    fn release_credits(&self, account: u32, records: u32) {
        self.ledger.release(self.ledger.account(account), records);
        self.ledger.attend(self.freed(Some(account)));
    }

    fn freed(&self, account: Option<u32>) -> Freed {
        Freed { gate: Some(std::ptr::from_ref(self).cast::<()>() as usize), account }
    }

    /// Serves those who wait for places here.
    pub(crate) fn attend(&self) {
        self.ledger.attend(self.freed(None));
    }

    #[inline]
    pub(crate) fn free_places(&self, records: u32) {
        if self.give_places_back(records) {
            self.wake_workers();
        }
    }

    /// Closes a stage whatever it holds: nothing more is admitted.
    pub(crate) fn shut(&self) {
        self.counts.occupancy.fetch_or(Occupancy::CLOSED, SeqCst);
        self.turn_away();
    }

    /// Tells everybody who waits at a closed stage.
    pub(crate) fn turn_away(&self) {
        let this = self.freed(None).gate;
        self.ledger.with_room(|room, ledger| {
            room.close(ledger, |request| Some(gate_id(&request.gate)) == this);
        });
        self.wake_workers();
    }

    /// Closes a stage that holds nothing. Those who wait at it are to be told, by
    /// [`turn_away`](Self::turn_away).
    ///
    /// # Errors
    ///
    /// The number of records that it holds.
    pub(crate) fn close_idle(&self) -> Result<(), u32> {
        let mut now = self.occupancy();
        loop {
            if now.occupied() > 0 {
                return Err(now.occupied());
            }
            let closed = now.0 | Occupancy::CLOSED;
            match self.counts.occupancy.compare_exchange(now.0, closed, SeqCst, SeqCst) {
                Ok(_) => return Ok(()),
                Err(actual) => now = Occupancy(actual),
            }
        }
    }

    /// Whether nothing is admitted any more.
    pub(crate) fn is_shut(&self) -> bool {
        self.occupancy().is_closed()
    }

    /// Whether no record will ever come here again.
    fn is_drained(&self) -> bool {
        let now = self.occupancy();
        now.is_closed() && now.occupied() == 0 || self.ledger.is_drained()
    }
}

impl<E: Envelope> Gate for StageCore<E> {
    fn room(&self) -> u32 {
        Self::room(self)
    }

    fn is_shut(&self) -> bool {
        Self::is_shut(self)
    }

    fn admit(&self, wanted: u32) -> Places {
        Self::admit(self, wanted)
    }

    fn admit_all(&self, wanted: u32) -> Places {
        Self::admit_all(self, wanted)
    }

    #[inline]
    fn give_places_back(&self, records: u32) -> bool {
        if records == 0 {
            return false;
        }
        let before = Occupancy(self.counts.occupancy.fetch_sub(u64::from(records), SeqCst));
        debug_assert!(before.occupied() >= records, "more places given back than were taken");
        before.is_closed() && before.occupied() == records
    }

    fn ages(&self, records: u32) -> Age {
        let mut now = self.occupancy();
        loop {
            let new = now.count_on(records);
            match self.counts.occupancy.compare_exchange(now.0, new.0, SeqCst, SeqCst) {
                Ok(_) => return now.next_age(),
                Err(actual) => now = Occupancy(actual),
            }
        }
    }

    fn touch(&self) {
        self.counts.occupancy.fetch_add(0, SeqCst);
    }

    fn wake_workers(&self) {
        self.bell.notify_all();
        self.filled.notify_all();
    }
}

/// A worker that waits: it is counted as long as this lives.
pub(crate) struct IdleWorker<E: Envelope> {
    stage: Arc<StageCore<E>>,
    /// What counts it.
    one: u64,
    pub(crate) listener: Listener,
}

impl<E: Envelope> Drop for IdleWorker<E> {
    fn drop(&mut self) {
        self.stage.idle_workers.fetch_sub(self.one, SeqCst);
    }
}

/// Records that no handle can reach any more give their credits back for those that still have one.
impl<E: Envelope> Drop for StageCore<E> {
    fn drop(&mut self) {
        while let Some(mut held) = self.take(usize::MAX) {
            held.drop_records();
            self.release(held.runs());
        }
    }
}

impl<E> Front<E> {
    /// Puts pieces where they belong by age; those of one age stay in the order of their arrival. The
    /// pieces of one batch need sorting too: a push may be admitted before another and reach the ring
    /// after it.
    fn merge(&mut self, others: Vec<Piece<E>>, now: Age) {
        self.pieces.extend(others);
        self.pieces.make_contiguous().sort_by_key(|piece| Reverse(piece.age.distance(now)));
    }
}

impl<E: Envelope> Stage<E> {
    pub(crate) fn from_core(core: Arc<StageCore<E>>) -> Self {
        Self { core }
    }

    pub(crate) fn core(&self) -> &Arc<StageCore<E>> {
        &self.core
    }

    /// Takes up to `max` records that wait to be taken, without waiting for any. Returned records
    /// come first.
    ///
    /// The records stay charged to this stage and to their sources until the batch is settled. A
    /// `max` of 0 asks for nothing, and is always answered with an error.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if nothing waits to be taken, and [`TryRecvError::Closed`] if nothing
    /// ever will: the buffer was closed and no record is left in any of its stages or unsettled
    /// batches (as long as there is one, it might be returned or forwarded to this stage), or this
    /// stage was removed.
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, TryRecvError};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new(1, "a", "p", "filter"))?;
    ///
    /// assert_eq!(stage.try_recv_batch(10)?.into_records()[0].record, 1);
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Empty);
    /// manager.close();
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Closed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_recv_batch(&self, max: usize) -> Result<Batch<E>, TryRecvError> {
        match self.core.take(max) {
            Some(held) => Ok(Batch::new(Arc::clone(&self.core), held)),
            None if self.core.is_drained() => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Records that wait to be taken. While other threads are running it may be outdated when it
    /// arrives, but is never above [`capacity`](Self::capacity).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.len(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.core.len() as usize
    }

    /// Whether no record waits to be taken; as racy as [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.stage("filter")?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records in unsettled batches. While other threads are running, records on their way into the
    /// stage may be counted here as well.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.in_flight(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_flight(&self) -> usize {
        let queued = self.core.len();
        self.core.occupied().saturating_sub(queued) as usize
    }

    /// The most records that the stage may hold, queued or in unsettled batches.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.capacity(), 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.core.capacity as usize
    }

    /// How full the stage is, from 0.0 to 1.0: records queued and in unsettled batches, by the
    /// capacity. Outdated when it arrives while other threads are running, but never above 1.0.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.utilization(), 0.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn utilization(&self) -> f64 {
        f64::from(self.core.occupied()) / f64::from(self.core.capacity)
    }

    /// The stage's name.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.stage("filter")?.id(), "filter");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> &str {
        &self.core.id
    }
}

impl<E: Envelope> Clone for Stage<E> {
    fn clone(&self) -> Self {
        Self::from_core(Arc::clone(&self.core))
    }
}

impl<E: Envelope> fmt::Debug for Stage<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("id", &self.id())
            .field("len", &self.len())
            .field("in_flight", &self.in_flight())
            .field("capacity", &self.capacity())
            .finish()
    }
}
