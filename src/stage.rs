//! A stage: a ring of blocks, a front lane for what must be seen first, and the stage's own cap.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::vec;

use crate::batch::Batch;
use crate::block::{Age, Block, Held, Records, Run, Runs, count};
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
    /// See [`Occupancy`].
    occupancy: CachePadded<AtomicU64>,
    ring: ArrayQueue<Block<E>>,
    /// How many more records than blocks the ring holds.
    surplus: CachePadded<AtomicU64>,
    /// Returned records, and the rest of blocks that a worker's limit cut in two. Boxed, so that
    /// an empty lane costs a word a slot.
    front: ArrayQueue<Box<Front<E>>>,
    /// How many records the front lane holds.
    front_len: CachePadded<AtomicU64>,
    /// How many workers wait for records, and what wakes them.
    idle_workers: AtomicU32,
    bell: Event,
    ledger: Arc<Ledger>,
    retry_limit: Option<u32>,
    dead_letters: Arc<DeadLetterQueue<E>>,
}

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
        let slots = Self::slots(capacity, &ledger);
        Self {
            id,
            capacity,
            occupancy: CachePadded::new(AtomicU64::new(0)),
            ring: ArrayQueue::new(slots),
            surplus: CachePadded::new(AtomicU64::new(0)),
            front: ArrayQueue::new(slots),
            front_len: CachePadded::new(AtomicU64::new(0)),
            idle_workers: AtomicU32::new(0),
            bell: Event::new(),
            ledger,
            retry_limit,
            dead_letters,
        }
    }

    /// How many slots each lane needs. Every entry holds at least one record, and every record
    /// holds a place of the stage and a global credit: so a lane of that many slots is never full
    /// for whoever holds both, and a return cannot fail.
    fn slots(capacity: u32, ledger: &Ledger) -> usize {
        capacity.min(ledger.capacity()) as usize
    }

    /// How many bytes the lanes of such a stage take.
    pub(crate) fn footprint(capacity: u32, ledger: &Ledger) -> Option<usize> {
        // Each slot has a stamp of 8 bytes beside its entry.
        let slot = size_of::<Block<E>>() + size_of::<Box<Front<E>>>() + 2 * size_of::<u64>();
        Self::slots(capacity, ledger).checked_mul(slot)
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
        Occupancy(self.occupancy.load(SeqCst))
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
            self.ring.len() as u64 + self.surplus.load(SeqCst) + self.front_len.load(SeqCst);
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
        let swapped = self.occupancy.compare_exchange(now.0, new.0, SeqCst, SeqCst);
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
            match self.occupancy.compare_exchange(now.0, new.0, SeqCst, SeqCst) {
                Ok(_) => {
                    let held = new.occupied();
                    let shortage = (records < wanted).then_some(NotAdmitted::Full { held });
                    return Places { records, age, shortage };
                }
                Err(actual) => now = Occupancy(actual),
            }
        }
    }

    /// Queues records that hold places here and credits of that account.
    #[inline]
    pub(crate) fn enqueue(&self, account: u32, age: Age, records: Records<E>) {
        let surplus = records.len() as u64 - 1;
        if surplus > 0 {
            self.surplus.fetch_add(surplus, SeqCst);
        }
        let pushed = self.ring.push(Block { account, age, records });
        assert!(pushed.is_ok(), "a ring has a slot for each record that is admitted");
        self.wake_worker();
    }

    /// Puts records that hold places here before all newer ones.
    pub(crate) fn enqueue_front(&self, held: Held<E>) {
        if held.len() == 0 {
            return;
        }
        self.front_len.fetch_add(held.len() as u64, SeqCst);
        let (records, runs) = held.into_parts();
        let mut records = records.into_vec().into_iter();
        let mut pieces = VecDeque::with_capacity(1);
        for run in runs.iter() {
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

    /// Wakes one more of the workers that wait for records, if there are any.
    ///
    /// Whoever calls this has written to a queue by a read-modify-write, and a worker that begins to
    /// wait has counted itself by one before it looks into the queues: so one of the two sees the
    /// other.
    #[inline]
    fn wake_worker(&self) {
        if self.idle_workers.load(SeqCst) > 0 {
            self.ring_bell();
        }
    }

    #[cold]
    fn ring_bell(&self) {
        self.bell.notify_one();
    }

    /// Counts a worker that is about to wait.
    pub(crate) fn idle_worker(self: &Arc<Self>) -> IdleWorker<E> {
        let listener = self.bell.listen();
        self.idle_workers.fetch_add(1, SeqCst);
        // Whatever is done to these words later is done by somebody who sees this worker.
        self.front_len.fetch_add(0, SeqCst);
        self.touch();
        self.ledger.touch_pool();
        IdleWorker { stage: Arc::clone(self), listener }
    }

    /// Takes up to `max` records, if there are any: from the front lane first, then from the ring.
    #[inline]
    pub(crate) fn take(&self, max: usize) -> Option<Held<E>> {
        if max == 0 || self.front_len.load(SeqCst) > 0 {
            return self.take_returned(max);
        }
        let block = self.ring.pop()?;
        // The usual case: the block is the batch, as it is.
        if block.records.len() == max {
            self.take_surplus(max);
            return Some(Held::Block(block));
        }
        Some(self.fill(block, max))
    }

    #[cold]
    fn take_returned(&self, max: usize) -> Option<Held<E>> {
        if max == 0 {
            return None;
        }
        let mut held = Held::default();
        self.add_to(&mut held, max);
        (held.len() > 0).then_some(held)
    }

    /// Makes a batch that starts with that block.
    fn fill(&self, block: Block<E>, max: usize) -> Held<E> {
        let mut held = if block.records.len() <= max {
            self.take_surplus(block.records.len());
            Held::Block(block)
        } else {
            let mut held = Held::default();
            self.add_block(block, max, &mut held);
            held
        };
        self.top_up(&mut held, max);
        held
    }

    /// Adds what waits to be taken to a batch that is to hold at most `max` records.
    pub(crate) fn add_to(&self, held: &mut Held<E>, max: usize) {
        if held.len() < max && self.front_len.load(SeqCst) > 0 {
            self.add_from_front(held, max);
        }
        self.top_up(held, max);
    }

    /// Adds what the ring has.
    fn top_up(&self, held: &mut Held<E>, max: usize) {
        while held.len() < max {
            let Some(block) = self.ring.pop() else { break };
            self.add_block(block, max, held);
        }
    }

    /// Adds a block to a batch that is to hold at most `max` records, cut in two if need be.
    fn add_block(&self, block: Block<E>, max: usize, held: &mut Held<E>) {
        let len = block.records.len();
        let so_far = held.len();
        let wanted = max - so_far;
        let expected = || max.min(so_far + len + self.len() as usize);
        if len <= wanted {
            held.push(block, expected);
        } else {
            let Block { account, age, records } = block;
            let mut records = records.into_vec().into_iter();
            held.take_from(account, age, &mut records, wanted, expected);
            self.front_len.fetch_add((len - wanted) as u64, SeqCst);
            let rest = Piece { account, age: age.plus(count(wanted)), records };
            self.push_front(Box::new(Front { pieces: VecDeque::from([rest]) }));
        }
        self.take_surplus(len);
    }

    /// Notes that a block of `len` records has left the ring.
    fn take_surplus(&self, len: usize) {
        if len > 1 {
            self.surplus.fetch_sub(len as u64 - 1, SeqCst);
        }
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
            held.take_from(piece.account, piece.age, &mut piece.records, len, || len);
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
    pub(crate) fn bury(self: &Arc<Self>, held: Held<E>, labels: Vec<Label>) {
        let (records, runs) = held.into_parts();
        let mut letters = records.into_vec().into_iter().zip(labels);
        for run in runs.iter() {
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

    /// Gives back places and credits of one account.
    pub(crate) fn release_some(&self, account: u32, records: u32) {
        self.release_run(Run { account, age: Age::default(), len: records });
    }

    /// Gives back the places and the credits of records that are gone: the places first, for they
    /// were taken last.
    #[inline]
    pub(crate) fn release(&self, runs: &Runs) {
        if let Some(run) = runs.only() {
            return self.release_run(run);
        }
        self.free_places(runs.iter().map(|run| run.len).sum());
        for run in runs.iter() {
            self.ledger.release(self.ledger.account(run.account), run.len);
            self.ledger.attend(self.freed(Some(run.account)));
        }
    }

    #[inline]
    fn release_run(&self, run: Run) {
        self.free_places(run.len);
        self.ledger.release(self.ledger.account(run.account), run.len);
        self.ledger.attend(self.freed(Some(run.account)));
    }

    fn freed(&self, account: Option<u32>) -> Freed {
        Freed { gate: Some(std::ptr::from_ref(self).cast::<()>() as usize), account }
    }

    /// Gives back places only: the records live on elsewhere.
    pub(crate) fn release_places(&self, records: u32) {
        self.free_places(records);
        self.ledger.attend(self.freed(None));
    }

    #[inline]
    fn free_places(&self, records: u32) {
        if self.give_places_back(records) {
            self.wake_workers();
        }
    }

    /// Closes a stage whatever it holds: nothing more is admitted.
    pub(crate) fn shut(&self) {
        self.occupancy.fetch_or(Occupancy::CLOSED, SeqCst);
        self.turn_away();
    }

    /// Tells everybody who waits at a closed stage.
    pub(crate) fn turn_away(&self) {
        let this = self.freed(None).gate;
        self.ledger.with_room(|room, ledger| {
            room.close(ledger, |request| Some(gate_id(&request.gate)) == this);
        });
        self.bell.notify_all();
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
            match self.occupancy.compare_exchange(now.0, closed, SeqCst, SeqCst) {
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
        let before = Occupancy(self.occupancy.fetch_sub(u64::from(records), SeqCst));
        debug_assert!(before.occupied() >= records, "more places given back than were taken");
        before.is_closed() && before.occupied() == records
    }

    fn ages(&self, records: u32) -> Age {
        let mut now = self.occupancy();
        loop {
            let new = now.count_on(records);
            match self.occupancy.compare_exchange(now.0, new.0, SeqCst, SeqCst) {
                Ok(_) => return now.next_age(),
                Err(actual) => now = Occupancy(actual),
            }
        }
    }

    fn touch(&self) {
        self.occupancy.fetch_add(0, SeqCst);
    }

    fn wake_workers(&self) {
        self.bell.notify_all();
    }
}

/// A worker that waits: it is counted as long as this lives.
pub(crate) struct IdleWorker<E: Envelope> {
    stage: Arc<StageCore<E>>,
    pub(crate) listener: Listener,
}

impl<E: Envelope> Drop for IdleWorker<E> {
    fn drop(&mut self) {
        self.stage.idle_workers.fetch_sub(1, SeqCst);
    }
}

/// Records that no handle can reach any more give their credits back for those that still have one.
impl<E: Envelope> Drop for StageCore<E> {
    fn drop(&mut self) {
        while let Some(held) = self.take(usize::MAX) {
            let (_, runs) = held.into_parts();
            self.release(&runs);
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
