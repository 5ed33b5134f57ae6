//! The shared state of a stage: its places, the workers that wait there, and its records.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::block::{Block, Records, Units};
use super::contents::{BatchContents, Run};
use super::dead_letters::{DeadLetter, DeadLetterQueue, DeadLetterReason, LetterMeta};
use super::lanes::{Fill, Lanes, Look};
use crate::admission::{Admission, Receiver, Receivers, StageState, stage_key};
use crate::age::{Clock, millis_of};
use crate::caps::{Places, Sequence, units_of};
use crate::record::Envelope;
use crate::retry::RetryPolicy;
use crate::stats::StageStats;
use crate::sync::{AtomicSetting, CachePadded, Instant, Mutex, SeqCst, Sleep, now, sleep_until};
use crate::trace;
use crate::unwind::Panics;

/// The state that all handles to a stage share.
pub(crate) struct StageCore<E: Envelope> {
    id: Arc<str>,
    places: CachePadded<Places>,
    receivers: Receivers,
    lanes: Lanes<E>,
    /// How many records a worker asked for last, so that producers make blocks that fit.
    asked: AtomicSetting,
    admission: Arc<Admission>,
    retries: RetryPolicy,
    /// `None` unless the buffer expires records by age or measures time.
    clock: Option<Clock>,
    /// Wakes workers when the next delayed record is due.
    timer: Mutex<Option<Sleep>>,
    dead_letters: Arc<DeadLetterQueue<E>>,
}

impl<E: Envelope> StageState for StageCore<E> {
    fn places(&self) -> &Places {
        &self.places
    }

    fn receivers(&self) -> &Receivers {
        &self.receivers
    }
}

/// A reference to a stage, held by a worker that waits there.
pub(crate) struct WaitingAt<E: Envelope>(Arc<StageCore<E>>);

impl<E: Envelope> AsRef<Receivers> for WaitingAt<E> {
    fn as_ref(&self) -> &Receivers {
        &self.0.receivers
    }
}

/// The waker of a stage's timer.
struct DueTimer<E: Envelope>(Weak<StageCore<E>>);

impl<E: Envelope> Wake for DueTimer<E> {
    fn wake(self: Arc<Self>) {
        if let Some(stage) = self.0.upgrade() {
            stage.promote(Some(now()));
            stage.set_timer();
        }
    }
}

impl<E: Envelope> StageCore<E> {
    pub(crate) fn new(
        id: Arc<str>,
        capacity: u32,
        retries: RetryPolicy,
        clock: Option<Clock>,
        admission: Arc<Admission>,
        dead_letters: Arc<DeadLetterQueue<E>>,
    ) -> Self {
        let slots = Self::slots_for(capacity, &admission);
        let places = admission.make_places(capacity, slots);
        places.cell().set_owner("stage", &id);
        Self {
            id,
            places: CachePadded::new(places),
            receivers: Receivers::new(),
            lanes: Lanes::new(slots as usize, clock),
            asked: AtomicSetting::new(u32::MAX),
            admission,
            retries,
            clock,
            timer: Mutex::new(None),
            dead_letters,
        }
    }

    /// Returns how many slots the ring needs. Each block holds at least one record, and each record
    /// holds a place and a credit. So a ring with that many slots is never full for a thread that
    /// holds both. If the global cap grows, admission lowers the stage's cap to the slots.
    fn slots_for(capacity: u32, admission: &Admission) -> u32 {
        capacity.min(admission.ledger().most())
    }

    /// Returns how many bytes the ring of a stage of that capacity takes, or `None` if the number
    /// overflows.
    pub(crate) fn footprint(capacity: u32, admission: &Admission) -> Option<usize> {
        (Self::slots_for(capacity, admission) as usize).checked_mul(Lanes::<E>::SLOT)
    }

    /// Returns the most records that the stage can hold under its own cap and the global one.
    pub(crate) fn most_records(&self) -> u32 {
        self.places.capacity().min(self.admission.ledger().capacity())
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    #[inline]
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    #[inline]
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    #[inline]
    pub(crate) fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Returns a function that tells whether a record of a given push time has expired now, or
    /// `None` if records do not expire.
    pub(crate) fn expires(&self) -> Option<impl Fn(u32) -> bool + use<E>> {
        self.clock.and_then(|clock| clock.expires())
    }

    /// Returns what the stage holds and what it has done.
    pub(crate) fn stats(&self) -> StageStats {
        let places = &self.places;
        let Look { len, delayed, oldest, waited } = self.lanes.look(places);
        let [held, occupied, parked, reserved, capacity] = [
            places.held(),
            places.occupied(),
            places.parked(),
            places.reserved_ahead(),
            places.capacity(),
        ]
        .map(|records| records as usize);
        let [queued, delayed] = [len, delayed].map(|records| occupied.min(records as usize));
        StageStats {
            id: self.id.to_string(),
            queued,
            delayed,
            in_flight: held.saturating_sub(queued + delayed + reserved + parked),
            reserved,
            parked,
            capacity,
            counts: places.counts(),
            refusals: places.tally().refusals(),
            waits: places.tally().waits(),
            oldest: self.clock.zip(oldest).map(|(clock, pushed)| clock.age(pushed)),
            time_in_stage: waited,
        }
    }

    pub(crate) fn retries(&self) -> &RetryPolicy {
        &self.retries
    }

    /// Returns the number of records that wait to be taken. It is exact if no other thread runs.
    pub(crate) fn len(&self) -> u32 {
        self.lanes.len(&self.places).min(u64::from(self.places.occupied())) as u32
    }

    /// Returns the number of records in unsettled batches, including those of parked dead letters.
    pub(crate) fn in_flight(&self) -> u32 {
        let waiting = self.len().saturating_add(self.delayed());
        let others = waiting.saturating_add(self.places.reserved_ahead());
        self.places.held().saturating_sub(others)
    }

    /// Returns the number of returned records that are not due yet.
    pub(crate) fn delayed(&self) -> u32 {
        self.lanes.delayed_len().min(u64::from(self.places.occupied())) as u32
    }

    /// Stores one record, which holds a place here and a credit of `account`.
    #[inline]
    pub(crate) fn store_one(&self, account: u32, first: Sequence, record: E) {
        // Branches before the block is built: a block that either of two calls may take is built in
        // memory and copied.
        if self.clock.is_some() {
            let block = Block { account, first, records: Records::One(record) };
            return self.store_stamped(block, None, Units::NONE);
        }
        self.store(Block { account, first, records: Records::One(record) });
    }

    /// Stores records as one block. They hold places here and credits of `account`.
    #[inline]
    pub(crate) fn store_many(&self, account: u32, first: Sequence, records: Vec<E>) {
        self.push(Block { account, first, records: Records::from_vec(records) });
    }

    /// Stores records as one block. `units` has the charge of each, or is empty in a buffer without
    /// byte budgets.
    pub(crate) fn store_charged(
        &self,
        account: u32,
        first: Sequence,
        records: Vec<E>,
        units: &[u32],
    ) {
        if units.is_empty() {
            return self.store_many(account, first, records);
        }
        let block = Block { account, first, records: Records::Many(records) };
        self.store_stamped(block, None, Units::of(units));
    }

    /// Stores one record that was charged `units`: 0 in a buffer without byte budgets.
    #[inline]
    pub(crate) fn store_one_charged(&self, account: u32, first: Sequence, record: E, units: u32) {
        if units > 0 {
            return self.store_charged(account, first, vec![record], &[units]);
        }
        self.store_one(account, first, record);
    }

    #[inline(always)]
    pub(crate) fn push(&self, block: Block<E>) {
        match self.clock {
            None => self.store(block),
            Some(_) => self.store_stamped(block, None, Units::NONE),
        }
    }

    /// Stores records that come from another stage, to which they were pushed at `pushed`.
    pub(crate) fn push_forwarded(&self, block: Block<E>, pushed: u32, units: Units) {
        match (&self.clock, &units) {
            (None, Units::Same(0)) => self.store(block),
            _ => self.store_stamped(block, Some(pushed), units),
        }
    }

    #[cold]
    fn store_stamped(&self, block: Block<E>, pushed: Option<u32>, units: Units) {
        let now = self.clock.map_or(0, |clock| clock.nanos());
        let pushed = pushed.unwrap_or_else(|| millis_of(now));
        self.store(self.lanes.stamped(block, pushed, units, now));
    }

    #[inline]
    fn store(&self, block: Block<E>) {
        self.lanes.push(&self.places, block);
        self.receivers.notify(|| self.len());
    }

    /// Puts returned records, which hold places here, before all newer ones. If they are isolated,
    /// each is taken alone.
    pub(crate) fn push_returned(&self, contents: BatchContents<E>, isolated: bool) {
        if !contents.is_empty() {
            self.lanes.push_returned(&self.places, contents, isolated);
            self.receivers.notify(|| self.len());
        }
    }

    /// Puts returned records, which hold places here, aside until the delay is over.
    pub(crate) fn push_delayed(
        self: &Arc<Self>,
        contents: BatchContents<E>,
        isolated: bool,
        delay: Duration,
    ) {
        if !contents.is_empty() && self.lanes.push_delayed(contents, isolated, delay) {
            self.set_timer();
        }
    }

    /// Sets the timer that notifies workers when the next delayed record is due. If no timer can be
    /// started, all delayed records become available now.
    fn set_timer(self: &Arc<Self>) {
        let waker = Waker::from(Arc::new(DueTimer(Arc::downgrade(self))));
        loop {
            let mut timer = self.timer.lock();
            // Under the lock, so that the last caller to replace the timer sees the earliest time.
            let Some(due) = self.lanes.next_due() else { return };
            let mut next = sleep_until(Some(due));
            let fires = next.register(&Context::from_waker(&waker));
            *timer = Some(next);
            drop(timer);
            match fires {
                Poll::Pending => return,
                Poll::Ready(true) => self.promote(Some(now())),
                Poll::Ready(false) => self.promote(None),
            }
        }
    }

    /// Makes the delayed records available that are due at `now`, or all of them if it is `None`.
    pub(crate) fn promote(&self, now: Option<Instant>) {
        if self.lanes.promote(now) > 0 {
            self.receivers.notify(|| self.len());
        }
    }

    /// Takes up to `max` records. Returns `None` if no record waits.
    #[inline]
    pub(crate) fn take(&self, max: usize) -> Option<BatchContents<E>> {
        let mut contents = BatchContents::default();
        self.note_asked(max);
        self.lanes.take(&self.places, &mut contents, max, Fill::Loosely);
        self.notify_of_returned();
        (!contents.is_empty()).then_some(contents)
    }

    #[inline]
    fn note_asked(&self, max: usize) {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        if self.asked.load(SeqCst) != max {
            self.asked.store(max, SeqCst);
        }
    }

    /// Returns how many records a worker asked for last, or `u32::MAX` if none has asked.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(SeqCst)
    }

    /// Whether workers wait for records.
    #[inline]
    pub(crate) fn has_receivers(&self) -> bool {
        self.receivers.are_waiting()
    }

    /// Returns whether `pending` more records would end the wait of a worker.
    pub(crate) fn receivers_want(&self, pending: u32) -> bool {
        self.receivers.want(|| self.len().saturating_add(pending))
    }

    /// Adds waiting records to a batch, until it holds `max`.
    #[inline]
    pub(crate) fn add_to(&self, contents: &mut BatchContents<E>, max: usize) {
        self.lanes.take(&self.places, contents, max, Fill::Wholly);
        self.notify_of_returned();
    }

    /// Does what [`add_to`](Self::add_to) does, for a worker that lingers. Waits while another
    /// worker takes returned records: asleep, this worker might miss the notification of those that
    /// the other one leaves.
    pub(crate) fn fill(&self, contents: &mut BatchContents<E>, max: usize) {
        self.lanes.take_slow(&self.places, contents, max);
        self.notify_of_returned();
    }

    /// Notifies the next worker if returned records are left. A push or a return notifies one
    /// worker only, however many records it brings.
    #[inline]
    fn notify_of_returned(&self) {
        if self.lanes.has_returned() {
            self.receivers.notify(|| self.len());
        }
    }

    /// Gives back places, credits and units that were taken for records to come.
    pub(crate) fn release_unused(&self, account: u32, records: u32, units: u32) {
        self.places.flow().unused.add(u64::from(records));
        self.admission.end_ahead(account, &self.places, records);
        self.release_charged(account, records, units);
    }

    /// Takes up to `max` records out of the buffer, and gives back their places and credits.
    pub(crate) fn take_out(&self, max: usize) -> Vec<E> {
        self.note_asked(max);
        self.remove(max, |records| self.places.flow().handed_out.add_some(records))
    }

    /// Takes records out, and counts them before it gives back their places and credits.
    fn remove(&self, max: usize, count: impl Fn(usize)) -> Vec<E> {
        let mut contents = BatchContents::default();
        let alone = if max == 1 { self.lanes.pop_oldest() } else { None };
        match alone {
            // A record that was pushed alone and leaves alone needs no batch.
            Some(Block { account, records: Records::One(record), .. }) => {
                count(1);
                self.release_charged(account, 1, 0);
                return vec![record];
            }
            Some(block) => {
                _ = self.lanes.add(&self.places, &mut contents, block, max, Fill::Wholly)
            }
            None => contents.reserve(max.min(self.len() as usize)),
        }
        self.add_to(&mut contents, max);
        count(contents.len());
        self.release(contents.runs());
        contents.into_vec()
    }

    /// Takes the oldest record that waits out of the buffer, and gives back its place and credit.
    pub(crate) fn evict(&self) -> Option<E> {
        let flow = self.places.flow();
        let count = |records| {
            flow.handed_out.add_some(records);
            flow.evicted.add_some(records);
        };
        self.remove(1, count).pop()
    }

    /// Registers a worker that is about to wait for a record. The worker must look once more: a
    /// record that was pushed before the registration produced no notification.
    pub(crate) fn wait_for_any(self: &Arc<Self>) -> Receiver<WaitingAt<E>> {
        let receiver = Receivers::wait_for_any(WaitingAt(Arc::clone(self)));
        self.fence();
        receiver
    }

    /// Registers a worker that is about to wait until `wanted` records wait to be taken. The worker
    /// must look once more.
    pub(crate) fn wait_for_batch(self: &Arc<Self>, wanted: u32) -> Receiver<WaitingAt<E>> {
        let receiver = Receivers::wait_for_batch(WaitingAt(Arc::clone(self)), wanted);
        self.fence();
        receiver
    }

    /// Writes the words of the [handshakes of workers](crate::docs::internals#workers): a thread
    /// that changes one of them later sees the worker.
    fn fence(&self) {
        self.lanes.fence();
        self.places.fence();
        self.admission.ledger().fence();
    }

    /// Measures records that go back or forward, and charges them what they measure now. A record
    /// that has grown is charged no more than the budgets leave. Calls the records' own code; a
    /// record that panics keeps its charge.
    pub(crate) fn measure_again(&self, contents: &mut BatchContents<E>, panics: &mut Panics) {
        if !self.admission.measures() || contents.is_empty() {
            return;
        }
        let mut units = Vec::with_capacity(contents.len());
        let mut records = contents.as_slice().iter();
        for run in contents.runs() {
            for record in records.by_ref().take(run.len as usize) {
                let mut measured = run.charge;
                panics.catch(|| measured = units_of(record.size_bytes()));
                units.push(measured);
            }
        }
        let mut rest = units.as_mut_slice();
        let mut changed = false;
        for run in contents.runs() {
            let (own, others) = rest.split_at_mut(run.len as usize);
            changed |= self.charge_again(run, own);
            rest = others;
        }
        if changed {
            contents.recharge(&units);
        }
    }

    /// Gives back or takes the units by which the charges of a run have changed. Reduces the
    /// charges for which the budgets have no room. Returns whether any charge has changed.
    fn charge_again(&self, run: &Run, units: &mut [u32]) -> bool {
        let charge = run.charge;
        let sum = |of: &dyn Fn(u32) -> u32| {
            units.iter().fold(0_u32, |sum, &units| sum.saturating_add(of(units)))
        };
        let shrunk = sum(&|units| charge.saturating_sub(units));
        let grown = sum(&|units| units.saturating_sub(charge));
        self.admission.release_units(run.account, shrunk);
        if grown > 0 {
            let taken = self.admission.try_take_units(run.account, 1, grown);
            let mut left = taken.unwrap_or(0);
            for units in units.iter_mut().filter(|units| **units > charge) {
                let more = (*units - charge).min(left);
                *units = charge + more;
                left -= more;
            }
        }
        shrunk > 0 || grown > 0
    }

    /// Moves records to the dead letters. A record that finds no slot there is parked: it keeps its
    /// place, its credit and its bytes.
    pub(crate) fn dead_letter(
        self: &Arc<Self>,
        mut contents: BatchContents<E>,
        meta: Vec<LetterMeta>,
    ) {
        let mut letters = contents.take_records().into_vec().into_iter().zip(meta);
        for run in contents.runs() {
            // Given back together, because requests that wait count each release as a bypass.
            let mut gone = 0;
            for (record, meta) in letters.by_ref().take(run.len as usize) {
                let mut letter = DeadLetter::new(record, meta, &self.id);
                if letter.source_id.is_empty() {
                    let name = self.admission.source_name(run.account);
                    letter.source_id = name.map_or_else(String::new, |name| name.to_string());
                }
                let (source, retries) = (&letter.source_id, letter.retry_count);
                trace::dead_letter(&self.id, source, &letter.reason, retries);
                let flow = self.places.flow();
                match letter.reason {
                    DeadLetterReason::RetriesExhausted => flow.retries_exhausted.add(1),
                    DeadLetterReason::Rejected(_) => flow.rejected.add(1),
                    DeadLetterReason::Expired => flow.expired.add(1),
                }
                match self.dead_letters.push(letter) {
                    Ok(()) => gone += 1,
                    Err(letter) => {
                        let stage: Arc<dyn StageState> = Arc::<Self>::clone(self);
                        self.dead_letters.park(letter, stage, run.account, run.charge);
                    }
                }
            }
            if gone > 0 {
                self.release_charged(run.account, gone, run.charge * gone);
            }
        }
    }

    /// Gives back places, credits and units of one account.
    #[inline]
    pub(crate) fn release_charged(&self, account: u32, records: u32, units: u32) {
        self.admission.release(self, account, records, units);
    }

    /// Gives back the places, the credits and the bytes of settled records. Those of each account
    /// are given back together, so that a batch of several sources writes each account once.
    #[inline]
    pub(crate) fn release(&self, runs: &[Run]) {
        match runs {
            [run] => self.release_charged(run.account, run.len, run.units()),
            _ => self.release_runs(runs),
        }
    }

    fn release_runs(&self, runs: &[Run]) {
        self.admission.release_places(self, runs.iter().map(|run| run.len).sum());
        // The sums of the first accounts. Runs of further accounts are given back one by one.
        let mut sums = [(0, 0, 0); 8];
        let mut accounts = 0;
        let key = Some(self.key());
        for run in runs {
            let (known, vacant) = sums.split_at_mut(accounts);
            let known = known.iter_mut().find(|(account, ..)| *account == run.account);
            if let Some((_, records, units)) = known {
                *records += run.len;
                *units += run.units();
            } else if let Some(sum) = vacant.first_mut() {
                *sum = (run.account, run.len, run.units());
                accounts += 1;
            } else {
                self.admission.release_charged(run.account, run.len, run.units(), key);
            }
        }
        for &(account, records, units) in &sums[..accounts] {
            self.admission.release_charged(account, records, units, key);
        }
    }

    fn key(&self) -> usize {
        stage_key(self)
    }

    /// Closes the stage: it gives no further place.
    pub(crate) fn close(&self) {
        self.places.close();
        self.reject_waiters();
    }

    /// Rejects the requests that wait at a closed stage, and wakes its workers.
    pub(crate) fn reject_waiters(&self) {
        self.admission.reject_stage(self);
    }

    /// Returns whether no record can come to this stage any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.places.is_drained() || self.admission.is_drained()
    }
}

/// Drops the records that are left and gives back their credits, which other stages share, even if
/// the destructor of a record panics.
impl<E: Envelope> Drop for StageCore<E> {
    fn drop(&mut self) {
        let mut panics = Panics::default();
        self.lanes.promote(None);
        while let Some(mut contents) = self.take(usize::MAX) {
            panics.catch(|| contents.drop_records());
            self.release(contents.runs());
        }
        panics.resume();
    }
}
