//! The entry to the buffer: takes credits and places by the protocol, and then updates signals and
//! notifies waiters and drainers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use super::StageState;
use super::bytes::{Budget, Charges};
use super::protocol::{Acquired, Admitted, Demand, Moved, ONE_EVENT, Protocol};
use super::wait_queue::{Deferred, Freed, StageKey, WaitQueue, stage_key};
use crate::backpressure::BackpressureController;
use crate::caps::{Account, Denied, Ledger, Places, Released, Sequence};
use crate::event::{Event, Listener};
use crate::stats::Counts;
use crate::sync::{AtomicSetting, Instant, Mutex, SeqCst, Sleep, sleep_until, unlock_fair};
use crate::trace::event;

/// The credits of a buffer, the requests that wait for them, and the tasks that wait until it is
/// drained.
pub(crate) struct Admission {
    protocol: Protocol,
    controller: BackpressureController,
    queue: Mutex<WaitQueue>,
    /// The number of the stage that was made last.
    stage_numbers: AtomicSetting,
    /// Notified when every record is settled.
    settled: Event,
    /// Every stage of the buffer, to wake its workers when the buffer is drained.
    stages: Mutex<BTreeMap<u32, Weak<dyn StageState>>>,
    /// The name of each account's source.
    names: Mutex<HashMap<u32, Arc<str>>>,
    /// Fires when the reservation of the queue may have to end.
    timer: Mutex<Option<Sleep>>,
    /// Held while a cap is changed.
    limits: Mutex<()>,
    this: Weak<Self>,
}

/// A task that waits until every record is settled. Dropping the value ends its registration.
pub(crate) struct Drainer<'a>(&'a Admission);

impl Drop for Drainer<'_> {
    fn drop(&mut self) {
        self.0.protocol.drainers.fetch_sub(1, SeqCst);
    }
}

impl Admission {
    pub(crate) fn new(
        capacity: u32,
        idle_budget: u32,
        controller: BackpressureController,
        bytes: Option<Box<Budget>>,
    ) -> Arc<Self> {
        let ledger = Ledger::new(capacity, idle_budget, controller.watermarks());
        controller.cell().set_marks(controller.watermarks().of(capacity));
        controller.cell().set_owner("buffer", &Arc::from(""));
        if let Some(bytes) = &bytes {
            let capacity = bytes.ledger.capacity();
            controller.bytes_cell().set_marks(controller.watermarks().of(capacity));
            controller.bytes_cell().set_owner("buffer", &Arc::from(""));
        }
        Arc::new_cyclic(|this| Self {
            protocol: Protocol::new(ledger, bytes),
            controller,
            queue: Mutex::new(WaitQueue::default()),
            stage_numbers: AtomicSetting::new(0),
            settled: Event::default(),
            stages: Mutex::new(BTreeMap::new()),
            names: Mutex::new(HashMap::new()),
            timer: Mutex::new(None),
            limits: Mutex::new(()),
            this: Weak::clone(this),
        })
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.protocol.ledger
    }

    pub(crate) fn controller(&self) -> &BackpressureController {
        &self.controller
    }

    #[inline]
    pub(crate) fn account(&self, index: u32) -> &Account {
        self.protocol.account(index)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.protocol.is_closed()
    }

    /// Takes credits and places for `wanted` records if the account has enough idle credits. Makes
    /// one attempt: two compare-and-swaps. This is the usual case.
    #[inline(always)]
    pub(crate) fn try_acquire_fast(
        &self,
        account: u32,
        places: &Places,
        wanted: u32,
    ) -> Option<Sequence> {
        if !self.protocol.may_use_idle() {
            return None;
        }
        let credits = self.account(account);
        let used = self.ledger().acquire_idle(credits, wanted)?;
        self.acquire_places_fast((account, credits), places, wanted, used)
    }

    /// Takes credits and places for `wanted` records from the pool, if all accounts lease exactly.
    /// Checks the places first, so that it does not take credits in vain. Makes one attempt.
    #[inline]
    pub(crate) fn try_acquire_exact(
        &self,
        account: u32,
        places: &Places,
        wanted: u32,
    ) -> Option<Sequence> {
        if self.is_closed() || places.free(0) < wanted {
            return None;
        }
        let credits = self.account(account);
        match self.ledger().acquire_exact(credits, wanted) {
            Ok(used) => {
                let first = self.acquire_places_fast((account, credits), places, wanted, used);
                if first.is_some() {
                    self.update_signal();
                }
                first
            }
            Err(gave_back) => {
                if gave_back {
                    self.follow_pool();
                }
                None
            }
        }
    }

    /// Takes places for `wanted` credits, which the caller has taken and which brought the credits
    /// in use to `used`. Updates the account's signal. If there are no places, gives the credits
    /// back.
    #[inline(always)]
    fn acquire_places_fast(
        &self,
        (account, credits): (u32, &Account),
        places: &Places,
        wanted: u32,
        used: u32,
    ) -> Option<Sequence> {
        // The cap may have been lowered after these credits were leased.
        if used <= credits.capacity()
            && let Some(first) = places.acquire_fast(wanted)
        {
            credits.signal_rise(used);
            return Some(first);
        }
        self.release_unused(account, wanted);
        None
    }

    /// Gives back credits for which there were no places.
    #[cold]
    fn release_unused(&self, account: u32, credits: u32) {
        self.release_credits(account, credits, None);
    }

    /// Takes credits and places for a push that does not wait: `wanted`, or as many as are free.
    pub(crate) fn try_acquire(&self, account: u32, places: &Places, wanted: u32) -> Admitted {
        self.try_acquire_charged(account, places, wanted, Charges::None)
    }

    /// Does the same as [`try_acquire`](Self::try_acquire), and takes the bytes of the records.
    pub(crate) fn try_acquire_charged(
        &self,
        account: u32,
        places: &Places,
        wanted: u32,
        charges: Charges<'_>,
    ) -> Admitted {
        // One more than the stage has places for: enough to learn which limit is the tightest. So a
        // long batch does not take credits from others only to give them back.
        let wanted = wanted.min(places.free(0).saturating_add(1));
        let account = Some(account);
        self.acquire(places, Demand { account, least: 1, wanted, charges, reserved: false })
    }

    /// Takes credits, `units` of bytes, and places for `wanted` records, or none. Checks first:
    /// credits that are taken and given back are unavailable to others for a moment.
    pub(crate) fn try_acquire_all(
        &self,
        account: u32,
        places: &Places,
        wanted: u32,
        units: u32,
    ) -> Result<Acquired, Denied> {
        if let Some(first) = self.try_acquire_fast(account, places, wanted) {
            return Ok(Acquired { records: wanted, first });
        }
        let (account, charges) = (Some(account), Charges::Together(units));
        let demand = Demand { account, least: wanted, wanted, charges, reserved: false };
        self.protocol.check(places, &demand)?;
        self.acquire(places, demand).at_least(wanted)
    }

    /// Takes up to `wanted` credits and places by `take`, and counts them as taken for records to
    /// come.
    pub(crate) fn take_ahead<R>(
        &self,
        account: u32,
        places: &Places,
        wanted: u32,
        take: impl FnOnce() -> Result<Acquired, R>,
    ) -> Result<Acquired, R> {
        self.protocol.take_ahead(Some(account), places, wanted, take)
    }

    /// Ends the count of [`take_ahead`](Self::take_ahead). Must be called before the credits and
    /// places are used or given back.
    pub(crate) fn end_ahead(&self, account: u32, places: &Places, records: u32) {
        self.protocol.end_ahead(Some(account), places, records);
    }

    /// Takes `wanted` places, or none, for records that have their credits. Counts the places as
    /// taken for records to come.
    pub(crate) fn try_acquire_places(
        &self,
        places: &Places,
        wanted: u32,
    ) -> Result<Acquired, Denied> {
        let charges = Charges::None;
        let demand = Demand { account: None, least: wanted, wanted, charges, reserved: false };
        self.protocol
            .take_ahead(None, places, wanted, || self.acquire(places, demand).at_least(wanted))
    }

    /// Creates the places of a stage with a cap of `capacity` records and a ring of `slots`.
    pub(crate) fn make_places(&self, capacity: u32, slots: u32) -> Places {
        // 0 is the number of no stage.
        let number = self.stage_numbers.fetch_add(1, SeqCst).wrapping_add(1).max(1);
        Places::new(self.controller.watermarks().of(capacity), slots, number)
    }

    /// Returns the stage with that number, if it exists.
    pub(crate) fn find_stage(&self, number: u32) -> Option<Weak<dyn StageState>> {
        self.stages.lock().get(&number).cloned()
    }

    /// Takes credits and places by the protocol, updates signals and notifies. If a reservation
    /// denies the request, ends it if its time is over, and makes a second attempt.
    fn acquire(&self, places: &Places, demand: Demand<'_>) -> Admitted {
        let attempt = || {
            let mut moved = Moved::default();
            if self.protocol.reclaims() {
                self.end_reclaiming();
            }
            let admitted = self.protocol.acquire(places, demand, &mut moved);
            self.follow(&moved);
            places.update_signal();
            if moved.left_some {
                self.notify(Freed { account: demand.account, ..Freed::pool() });
            }
            admitted
        };
        let admitted = attempt();
        if matches!(admitted.denied, Some(Denied::Reserved { .. }))
            && admitted.records == 0
            && self.expire_reservation()
        {
            return attempt();
        }
        admitted
    }

    /// Updates the signals after a move, and notifies drainers if every record is settled.
    pub(super) fn follow(&self, moved: &Moved) {
        if let Some(index) = moved.account {
            self.account(index).update_signal();
            self.update_account_bytes_signal(index);
        }
        if moved.bytes {
            self.update_bytes_signal();
        }
        if moved.pool {
            self.update_signal();
        }
        if moved.pool_empty || moved.left_some {
            self.notify_if_drained();
        }
    }

    /// Updates the signal, and notifies waiters and drainers. Must be called after credits that
    /// were idle or in transit have moved to the pool: others may have been denied meanwhile.
    #[cold]
    pub(crate) fn follow_pool(&self) {
        self.update_signal();
        self.notify(Freed::pool());
        self.notify_if_drained();
    }

    /// Gives back the places, and the credits and bytes of one account, of records that are gone:
    /// the places first, because they were taken last.
    #[inline]
    pub(crate) fn release<S: StageState + ?Sized>(
        &self,
        stage: &S,
        account: u32,
        records: u32,
        units: u32,
    ) {
        self.release_places(stage, records);
        self.release_charged(account, records, units, Some(stage_key(stage)));
    }

    /// Gives credits and bytes back, and notifies requests that wait for them or for a place in
    /// `stage`.
    #[inline]
    pub(crate) fn release_charged(
        &self,
        index: u32,
        credits: u32,
        units: u32,
        stage: Option<StageKey>,
    ) {
        // Before the credits: an account without credits in use has no bytes in use.
        if units > 0 {
            self.return_units(index, units);
        }
        self.release_credits(index, credits, stage);
    }

    /// Gives credits back, and notifies requests that wait for them, for bytes of the account, or
    /// for a place in `stage`.
    #[inline]
    pub(crate) fn release_credits(&self, index: u32, credits: u32, stage: Option<StageKey>) {
        let account = self.account(index);
        let (used, unreturned) = self.ledger().release(account, credits);
        // The pool comes last: an empty pool means that every record is settled.
        account.signal_fall(used);
        let Released { pool_moved, pool_empty } = self.ledger().return_lease(account, unreturned);
        if pool_moved {
            self.update_signal();
        }
        if pool_empty && self.protocol.has_drainers() {
            self.notify_if_drained();
        }
        if self.has_waiters() {
            self.notify(Freed { account: Some(index), stage, ..Freed::pool() });
        }
    }

    /// Gives places back. Notifies the workers of a closed stage that is now empty, and no waiter:
    /// the caller must do that.
    #[inline]
    pub(crate) fn release_places<S: StageState + ?Sized>(&self, stage: &S, records: u32) {
        if stage.places().release(records) {
            stage.receivers().notify_all();
        }
    }

    /// Notifies requests that wait for places in the stage. Must be called after releasing places.
    pub(crate) fn notify_places<S: StageState + ?Sized>(&self, stage: &S) {
        self.notify(Freed::stage(stage_key(stage)));
    }

    /// Parks the credit and the place of a record that becomes a dead letter. `store` puts the
    /// letter into the queue, before the record leaves the stage and before a drain can end.
    pub(crate) fn park(&self, stage: &dyn StageState, account: u32, store: impl FnOnce()) {
        stage.places().begin_parking();
        self.ledger().begin_parking(self.account(account));
        store();
        if stage.places().end_parking() {
            stage.receivers().notify_all();
        }
        if self.ledger().end_parking() {
            self.notify_if_drained();
        }
        // The record counted twice for a moment. A signal may have followed that higher level, and
        // a request may have been denied what is free now.
        self.update_signal();
        stage.places().update_signal();
        self.notify(Freed { stage: Some(stage_key(stage)), ..Freed::pool() });
    }

    /// Gives back the credit, the bytes and the place of a parked letter, and notifies. Its stage
    /// may be gone.
    pub(crate) fn release_parked(&self, stage: Option<&dyn StageState>, account: u32, units: u32) {
        if units > 0 {
            self.return_units(account, units);
        }
        if let Some(stage) = stage {
            stage.places().release_parked();
            stage.places().update_signal();
        }
        let used = self.ledger().release_parked(self.account(account));
        self.account(account).signal_fall(used);
        self.update_signal();
        let (account, stage) = (Some(account), stage.map(stage_key));
        self.notify(Freed { account, stage, ..Freed::pool() });
    }

    /// Updates the signal of the whole buffer. Must be called after the pool's level has changed.
    #[inline]
    pub(crate) fn update_signal(&self) {
        let ledger = self.ledger();
        if self.controller.cell().is_outside(ledger.leased()) {
            self.follow_level();
        }
    }

    #[cold]
    fn follow_level(&self) {
        self.controller.cell().follow(|| self.ledger().leased_after_fence());
    }

    /// Changes the global cap.
    pub(crate) fn set_capacity(&self, capacity: u32, idle_budget: u32) {
        // Dropped after the lock is released: each may be the last reference to its stage.
        let mut stages = Vec::new();
        let limits = self.limits.lock();
        stages.extend(self.stages.lock().values().filter_map(Weak::upgrade));
        let lowered = capacity < self.ledger().capacity();
        if lowered {
            self.protocol.set_reclaims(true);
        } else {
            stages.iter().for_each(|stage| self.fit_ring(stage.places(), capacity));
        }
        self.controller.cell().set_marks(self.controller.watermarks().of(capacity));
        self.ledger().set_capacity(capacity, idle_budget);
        drop(limits);
        stages.iter().for_each(|stage| stage.places().update_signal());
        self.follow_pool();
        if lowered {
            self.after_lowering();
        }
    }

    /// Lowers the cap of a stage to the slots of its ring if the global cap exceeds them. The
    /// caller must update its signal.
    fn fit_ring(&self, places: &Places, global: u32) {
        if global > places.slots() && places.capacity() > places.slots() {
            places.set_capacity(self.controller.watermarks().of(places.slots()));
        }
    }

    /// Ends the reclaiming of idle credits when no more credits are leased than the global cap
    /// allows.
    #[cold]
    fn end_reclaiming(&self) {
        if self.ledger().is_within_limit()
            && let Some(_limits) = self.limits.try_lock()
            && self.ledger().is_within_limit()
        {
            self.protocol.set_reclaims(false);
        }
    }

    /// Changes the cap of an account.
    pub(crate) fn set_account_capacity(&self, index: u32, capacity: u32) {
        let account = self.account(index);
        let limits = self.limits.lock();
        let lowered = capacity < account.capacity();
        let released = self.ledger().set_account_capacity(account, capacity);
        drop(limits);
        account.update_signal();
        if released.pool_moved {
            self.follow_pool();
        }
        if lowered {
            self.after_lowering();
        } else {
            self.notify(Freed { account: Some(index), stage: None, pool: false, bytes: false });
        }
    }

    /// Changes the cap of a stage, to at most the slots of its ring.
    ///
    /// # Errors
    ///
    /// Returns the number of slots.
    pub(crate) fn set_stage_capacity<S: StageState + ?Sized>(
        &self,
        stage: &S,
        capacity: u32,
    ) -> Result<(), u32> {
        let places = stage.places();
        if capacity > places.slots() {
            return Err(places.slots());
        }
        let limits = self.limits.lock();
        let lowered = capacity < places.capacity();
        places.set_capacity(self.controller.watermarks().of(capacity));
        drop(limits);
        places.update_signal();
        if lowered {
            self.after_lowering();
        } else {
            self.notify_places(stage);
        }
        Ok(())
    }

    /// Closes a stage if it holds no record, and returns what became of those that it held. Under the
    /// lock of the limits, because a change of the cap moves the counts for a moment.
    ///
    /// # Errors
    ///
    /// Returns the number of records that it holds.
    pub(crate) fn try_close_stage(&self, places: &Places) -> Result<Counts, u32> {
        let _limits = self.limits.lock();
        places.try_close_empty()?;
        Ok(places.final_counts())
    }

    /// Rejects the requests that wait for more than a cap that was lowered, and lets producers give
    /// back what they hold ahead.
    fn after_lowering(&self) {
        self.protocol.count_event();
        let mut from = 0;
        self.reject_waiters(|queue, deferred| {
            queue.reject_too_large(&self.protocol, &mut from, deferred)
        });
    }

    /// Opens an account with a cap of `capacity` credits, of which `guarantee` are guaranteed, and
    /// returns its index. The caller then calls [`follow_pool`](Self::follow_pool), outside every
    /// lock.
    pub(crate) fn open_account(&self, name: &Arc<str>, capacity: u32, guarantee: u32) -> u32 {
        let (index, _) = self.ledger().open_account(capacity, guarantee);
        self.account(index).cell().set_owner("source", name);
        self.open_bytes(index, name);
        self.names.lock().insert(index, Arc::clone(name));
        index
    }

    /// Returns the name of the source that has the account, or had it last.
    pub(crate) fn source_name(&self, account: u32) -> Option<Arc<str>> {
        self.names.lock().get(&account).cloned()
    }

    /// Closes an account that holds no record. The caller then calls
    /// [`reject_account`](Self::reject_account), outside every lock.
    ///
    /// # Errors
    ///
    /// Returns the number of records that it holds.
    pub(crate) fn try_close_account(&self, index: u32) -> Result<(), u32> {
        let _ = self.ledger().try_close_empty(index)?;
        self.close_bytes(index);
        self.protocol.count_event();
        Ok(())
    }

    /// Closes an account, and rejects the requests that wait for its credits.
    pub(crate) fn close_account(&self, index: u32) {
        let _ = self.ledger().close_account(index);
        self.close_bytes(index);
        self.protocol.count_event();
        self.reject_account(index);
    }

    /// Offers the idle credits that a closed account gave back to others, and then rejects the
    /// requests that wait for its credits.
    pub(crate) fn reject_account(&self, index: u32) {
        self.follow_pool();
        self.reject_waiters(|queue, deferred| {
            queue.reject_account(&self.protocol, index, deferred)
        });
    }

    /// Rejects the requests that wait for places of a closed stage, and wakes its workers.
    pub(crate) fn reject_stage(&self, stage: &dyn StageState) {
        let key = stage_key(stage);
        self.protocol.count_event();
        self.reject_waiters(|queue, deferred| queue.reject_stage(&self.protocol, key, deferred));
        stage.receivers().notify_all();
    }

    /// Closes the buffer for all threads at one instant, and then every account. Credits in use
    /// stay so until they are released. The caller ensures that no account is opened meanwhile or
    /// later. Each of several callers performs every step, so that none returns before the accounts
    /// are closed.
    pub(crate) fn close(&self) {
        if self.protocol.close() {
            self.protocol.drainers.fetch_add(1, SeqCst);
            self.protocol.count_event();
            event!(info, "buffer closed");
        }
        self.ledger().close();
        self.close_all_bytes();
        self.update_signal();
        self.reject_waiters(|queue, deferred| queue.reject_pushes(&self.protocol, deferred));
        self.ledger().fence();
        self.notify_if_drained();
        // A worker that lingers with records in hand stops waiting.
        self.wake_receivers();
    }

    /// Returns whether the buffer is closed and no record can come to a stage: see
    /// [`Ledger::is_drained`].
    pub(crate) fn is_drained(&self) -> bool {
        self.ledger().is_drained()
    }

    /// Registers a task that waits until the buffer is closed and drained. The caller must check
    /// once more.
    pub(crate) fn listen_for_drained(&self) -> Listener {
        let listener = self.settled.listen();
        // A close or a release that writes the pool after this fence sees the listener.
        self.ledger().fence();
        listener
    }

    /// Waits until every record is settled.
    pub(crate) async fn drain(&self) {
        while let Some((listener, _drainer)) = self.wait_for_settled() {
            listener.await;
        }
        // The thread that settled the last record may not have updated the signal yet.
        self.update_signal();
        event!(info, "buffer drained");
    }

    /// Registers a drainer. Returns `None` if every record is settled now.
    fn wait_for_settled(&self) -> Option<(Listener, Drainer<'_>)> {
        if self.ledger().is_settled() {
            return None;
        }
        let listener = self.settled.listen();
        self.protocol.drainers.fetch_add(1, SeqCst);
        let drainer = Drainer(self);
        // A release that writes the pool after this fence sees the drainer.
        self.ledger().fence();
        if self.ledger().sweep() {
            self.follow_pool();
        }
        (!self.ledger().is_settled()).then_some((listener, drainer))
    }

    /// Notifies drainers if every record is settled, and all workers if the buffer is also closed.
    #[cold]
    fn notify_if_drained(&self) {
        if !self.protocol.has_drainers() || !self.ledger().is_settled() {
            return;
        }
        self.settled.notify_all();
        if self.is_drained() {
            self.wake_receivers();
        }
    }

    fn wake_receivers(&self) {
        let stages: Vec<_> = self.stages.lock().values().filter_map(Weak::upgrade).collect();
        stages.iter().for_each(|stage| stage.receivers().notify_all());
    }

    /// Registers a stage of the buffer, to which no record has been pushed.
    pub(crate) fn add_stage(&self, places: &Places, stage: Weak<dyn StageState>) {
        let _limits = self.limits.lock();
        // The global cap may have grown since the ring was made.
        self.fit_ring(places, self.ledger().most());
        let mut stages = self.stages.lock();
        stages.retain(|_, stage| stage.strong_count() > 0);
        stages.insert(places.number(), stage);
    }

    /// Returns, as one number, how many requests wait, and how often something was closed or a cap
    /// was lowered: see [`Protocol::events`].
    #[inline]
    pub(crate) fn events(&self) -> u64 {
        self.protocol.events.load(SeqCst)
    }

    /// Returns what [`events`](Self::events) would return if no request waited.
    pub(crate) fn closings(&self) -> u64 {
        self.events() & !(ONE_EVENT - 1)
    }

    /// Whether requests wait.
    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.protocol.has_waiters()
    }

    pub(super) fn add_waiter(&self) {
        self.protocol.add_waiter();
    }

    /// Notifies waiters, if any: grants the requests that fit. Must be called after releasing
    /// credits or places.
    #[cold]
    pub(super) fn notify(&self, freed: Freed) {
        if self.has_waiters() {
            self.with_queue(|queue, deferred| queue.note_freed(&self.protocol, freed, deferred));
            self.serve();
        }
    }

    /// Grants the requests that fit, in portions, to hold the lock of the queue for a short time
    /// only.
    pub(super) fn serve(&self) {
        while self.with_queue(|queue, deferred| queue.serve(&self.protocol, deferred)) {}
    }

    /// Rejects waiting requests in portions.
    fn reject_waiters(&self, mut reject: impl FnMut(&mut WaitQueue, &mut Deferred) -> bool) {
        while self.with_queue(|queue, deferred| reject(queue, deferred)) {}
        self.serve();
    }

    /// Ends the reservation if its patience is over. Returns whether it ended one.
    fn expire_reservation(&self) -> bool {
        let expired = self.with_queue(|queue, deferred| queue.expire(&self.protocol, deferred));
        if expired {
            self.serve();
        }
        expired
    }

    /// Sets the timer that calls [`expire_reservation`](Self::expire_reservation) at `at`, whether
    /// or not a task polls the request.
    fn set_timer(&self, at: Instant) {
        let waker = Waker::from(Arc::new(ReservationTimer(Weak::clone(&self.this))));
        let mut timer = sleep_until(Some(at));
        // If no timer can be started, the next release or refusal ends the reservation.
        let is_over = timer.register(&Context::from_waker(&waker)) == Poll::Ready(true);
        *self.timer.lock() = Some(timer);
        if is_over {
            self.expire_reservation();
        }
    }

    /// Runs `work` on the queue under its lock. After the lock is released, does what `work`
    /// deferred.
    pub(super) fn with_queue<T>(&self, work: impl FnOnce(&mut WaitQueue, &mut Deferred) -> T) -> T {
        let mut deferred = Deferred::default();
        let mut queue = self.queue.lock();
        let done = work(&mut queue, &mut deferred);
        unlock_fair(queue);
        for moved in &deferred.moved {
            self.follow(moved);
        }
        for stage in &deferred.places_moved {
            stage.places().update_signal();
        }
        for stage in &deferred.emptied {
            stage.receivers().notify_all();
        }
        if let Some(at) = deferred.expires {
            self.set_timer(at);
        }
        deferred.wake();
        done
    }

    pub(super) fn protocol(&self) -> &Protocol {
        &self.protocol
    }
}

struct ReservationTimer(Weak<Admission>);

impl Wake for ReservationTimer {
    fn wake(self: Arc<Self>) {
        if let Some(admission) = self.0.upgrade() {
            admission.expire_reservation();
        }
    }
}
