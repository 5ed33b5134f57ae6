//! The queue of requests that found no credits or no places.
//!
//! It is a batch semaphore over several caps. Requests of one source for one stage stand in a line,
//! and the head of a line is blocked at the cap that denied it. A release at a cap grants the
//! oldest heads there that fit. A head that was bypassed too often *reserves* what it needs at its
//! caps: others may take only what leaves enough for it. One request reserves at a time.
//! [`docs::internals`](crate::docs::internals#the-wait-queue) explains the rules, their bounds, and
//! why no wake-up is lost.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::bytes::Charges;
use super::protocol::{Acquired, Demand, Moved, Protocol};
use super::{SharedStage, StageState};
use crate::caps::{Account, Denied, Limit};
use crate::event::wake;
use crate::sync::{Instant, isolate, now};

/// A request for places for `records` records, and for credits of `account`, unless the records
/// have their credits. A grant takes what is free for up to `most` records; `most` equals `records`
/// if the request asks for bytes. What it takes counts as taken for records to come until the
/// outcome is taken; if the request is `ahead`, also after that.
pub(crate) struct Request {
    pub(crate) account: Option<u32>,
    pub(crate) stage: SharedStage,
    pub(crate) records: u32,
    pub(crate) most: u32,
    pub(crate) ahead: bool,
    /// The bytes of all records, in units; 0 if it asks for none.
    pub(crate) units: u32,
}

/// The number of a request in the order of arrival.
pub(super) type Ticket = u64;

/// The address of a stage.
pub(super) type StageKey = usize;

pub(crate) fn stage_key<S: StageState + ?Sized>(stage: &S) -> StageKey {
    std::ptr::from_ref(stage).cast::<()>() as StageKey
}

/// A cap at which requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cap {
    Source(u32),
    Global,
    Stage(StageKey),
    SourceBytes(u32),
    GlobalBytes,
}

/// The source and the stage of the requests of a line. Forwards have no source.
type LineKey = (Option<u32>, StageKey);

/// The number of releases at its cap that may bypass the request with the first turn there.
const MAX_BYPASSED: u32 = 4;

/// The shortest time for which a reservation stands while nothing is released at the cap where its
/// request is blocked.
const PATIENCE: Duration = Duration::from_millis(100);

/// The number of requests that are granted or rejected for each hold of the lock.
const PORTION: usize = 64;

struct Waiter {
    request: Request,
    state: State,
    waker: Option<Waker>,
    /// Its place in the order in which requests reserve: at first its ticket, and a later number
    /// after a reservation that expired.
    turn: u64,
    /// What it needs of the cap at which it is blocked.
    size: u32,
    /// The number of releases at its cap while it had the first turn there.
    bypassed: u32,
    last_release: Option<Instant>,
    /// The longest time between two of these releases.
    longest_gap: Duration,
    /// The time for which its next reservation stands without a release.
    patience: Duration,
    /// It may not reserve before this time.
    rests_until: Option<Instant>,
}

#[derive(Clone, Copy)]
enum State {
    /// Not the head of its line.
    InLine,
    /// The head of its line, denied by that cap.
    Blocked(Cap),
    /// Granted, and counted as a permit until it is polled; or rejected.
    Decided(Result<Acquired, Denied>),
}

/// When a head is granted, it is chosen among the heads of at most this many sizes.
const MAX_SIZES: usize = 64;

/// The heads that are blocked at one cap.
#[derive(Default)]
struct Blocked {
    /// By what they ask for there, in records or in units.
    by_size: BTreeSet<(u32, Ticket)>,
    by_turn: BTreeSet<(u64, Ticket)>,
}

/// The reservation of one request at each of its caps.
struct Reservation {
    ticket: Ticket,
    /// When it was made, or when something was last released at the cap where its request is
    /// blocked.
    since: Instant,
    patience: Duration,
}

impl Reservation {
    fn end(&self) -> Option<Instant> {
        self.since.checked_add(self.patience)
    }
}

/// The requests that wait.
#[derive(Default)]
pub(super) struct WaitQueue {
    next: u64,
    waiters: BTreeMap<Ticket, Waiter>,
    lines: BTreeMap<LineKey, BTreeSet<Ticket>>,
    /// The sources that have a line at each stage.
    stage_lines: BTreeMap<StageKey, BTreeSet<Option<u32>>>,
    blocked: BTreeMap<Cap, Blocked>,
    reservation: Option<Reservation>,
    /// Requests that were bypassed too often, by turn.
    candidates: BTreeSet<(u64, Ticket)>,
    /// Caps at which something was released, and heads to try: work for [`serve`](Self::serve).
    released: BTreeSet<Cap>,
    to_try: Vec<Ticket>,
}

/// What must be done after the lock is released, because it runs user code or takes other locks.
#[derive(Default)]
pub(super) struct Deferred {
    wakers: Vec<Waker>,
    /// Requests that have left. Each holds a reference to its stage, which may be the last.
    left: Vec<Waiter>,
    unused: Vec<Waker>,
    /// Closed stages that are now empty.
    pub(super) emptied: Vec<SharedStage>,
    /// Stages whose places were taken or given back: their signals must be updated.
    pub(super) places_moved: Vec<SharedStage>,
    /// What was moved: see [`Admission::follow`](super::Admission::follow).
    pub(super) moved: Vec<Moved>,
    /// When the reservation ends unless something is released.
    pub(super) expires: Option<Instant>,
}

impl Deferred {
    /// Wakes the tasks whose requests were decided, and drops what has left. A panic in one of them
    /// does not affect the rest.
    pub(super) fn wake(self) {
        for waker in self.wakers {
            wake(Some(waker));
        }
        for waker in self.unused {
            isolate(|| drop(waker));
        }
        for waiter in self.left {
            isolate(|| drop(waiter));
        }
    }
}

/// The caps at which something was released.
#[derive(Clone, Copy)]
pub(super) struct Freed {
    pub(super) account: Option<u32>,
    pub(super) stage: Option<StageKey>,
    pub(super) pool: bool,
    /// Bytes of the account, if there is one, and of the whole buffer.
    pub(super) bytes: bool,
}

impl Freed {
    /// Returns the caps of the whole buffer, on records and on bytes.
    pub(super) fn pool() -> Self {
        Self { account: None, stage: None, pool: true, bytes: true }
    }

    pub(super) fn stage(stage: StageKey) -> Self {
        Self { account: None, stage: Some(stage), pool: false, bytes: false }
    }

    fn caps(self) -> impl Iterator<Item = Cap> {
        let caps = [
            self.account.map(Cap::Source),
            self.pool.then_some(Cap::Global),
            self.stage.map(Cap::Stage),
            self.account.filter(|_| self.bytes).map(Cap::SourceBytes),
            self.bytes.then_some(Cap::GlobalBytes),
        ];
        caps.into_iter().flatten()
    }
}

impl Request {
    fn line(&self) -> LineKey {
        (self.account, stage_key(&*self.stage))
    }

    fn cap(&self, limit: Limit) -> Cap {
        match (limit, self.account) {
            (Limit::Source, Some(account)) => Cap::Source(account),
            (Limit::SourceBytes, Some(account)) => Cap::SourceBytes(account),
            (Limit::Global, _) => Cap::Global,
            (Limit::GlobalBytes, _) => Cap::GlobalBytes,
            (Limit::Stage | Limit::Source | Limit::SourceBytes, _) => {
                Cap::Stage(stage_key(&*self.stage))
            }
        }
    }

    /// Returns how much it asks for at a cap, in records or in units.
    fn size_at(&self, cap: Cap) -> u32 {
        match cap {
            Cap::Source(_) | Cap::Global | Cap::Stage(_) => self.records,
            Cap::SourceBytes(_) | Cap::GlobalBytes => self.units,
        }
    }

    fn demand(&self, most: u32, reserved: bool) -> Demand<'static> {
        let Self { account, records: least, units, .. } = *self;
        Demand { account, least, wanted: most, charges: Charges::of(units), reserved }
    }

    /// Checks that the request exceeds no cap.
    fn check_size(&self, protocol: &Protocol) -> Result<(), Denied> {
        let account = self.account.map(|account| protocol.account(account));
        let caps = [
            (Limit::Source, account.map(Account::capacity)),
            (Limit::Global, account.map(|account| protocol.ledger.capacity_for(account))),
            (Limit::Stage, Some(self.stage.places().capacity())),
        ];
        let records = self.records;
        match caps.into_iter().find(|(_, capacity)| capacity.is_some_and(|cap| cap < records)) {
            Some((limit, Some(capacity))) => {
                Err(Denied::TooLarge { limit, size: records, capacity })
            }
            _ => match (self.account, &protocol.bytes) {
                (Some(account), Some(bytes)) => bytes.check_size(account, self.units),
                _ => Ok(()),
            },
        }
    }

    fn freed(&self) -> Freed {
        let (account, stage) = (self.account, Some(stage_key(&*self.stage)));
        Freed { account, stage, pool: account.is_some(), bytes: self.units > 0 }
    }

    fn is_closed(&self, protocol: &Protocol) -> bool {
        let source_is_closed =
            |account| protocol.is_closed() || protocol.account(account).is_closed();
        self.stage.places().is_closed() || self.account.is_some_and(source_is_closed)
    }
}

impl Waiter {
    /// Counts a release at its cap.
    fn count_release(&mut self, now: Instant) {
        self.bypassed = self.bypassed.saturating_add(1);
        if let Some(last) = self.last_release.replace(now) {
            self.longest_gap = self.longest_gap.max(now.saturating_duration_since(last));
        }
    }

    /// Ends the count of what it was granted, which is then used.
    fn hand_over(&self, protocol: &Protocol) {
        if let State::Decided(Ok(acquired)) = self.state
            && !self.request.ahead
        {
            let Request { account, ref stage, .. } = self.request;
            protocol.end_ahead(account, stage.places(), acquired.records);
        }
    }

    fn is_candidate(&self, now: Instant) -> bool {
        self.bypassed > MAX_BYPASSED && self.rests_until.is_none_or(|until| until <= now)
    }
}

impl Blocked {
    /// Returns the oldest head that asks for no more than `free`. If such heads have more than 64
    /// sizes, looks at the 64 smallest sizes only.
    fn oldest_that_fits(&self, free: u32) -> Option<Ticket> {
        let mut oldest: Option<Ticket> = None;
        let mut from = (0, 0);
        for _ in 0..MAX_SIZES {
            let Some(&(size, ticket)) = self.by_size.range(from..).next() else { break };
            if size > free {
                break;
            }
            oldest = Some(oldest.map_or(ticket, |other| other.min(ticket)));
            let Some(larger) = size.checked_add(1) else { break };
            from = (larger, 0);
        }
        oldest
    }
}

impl WaitQueue {
    /// Adds a request, and grants it if it is the head of its line and fits. The caller has counted
    /// it in [`Protocol::events`] before.
    pub(super) fn enter(
        &mut self,
        protocol: &Protocol,
        request: Request,
        deferred: &mut Deferred,
    ) -> Ticket {
        // A release that writes one of these words later sees the request. The attempt below sees
        // what was released earlier.
        request.stage.places().fence();
        if let Some(account) = request.account {
            protocol.ledger.fence_all(protocol.account(account));
            if let Some(bytes) = &protocol.bytes {
                bytes.ledger.fence_all(bytes.account(account));
            }
        }
        let ticket = self.next_number();
        let line = request.line();
        let closed = request.is_closed(protocol);
        let waiter = Waiter {
            request,
            state: State::InLine,
            waker: None,
            turn: ticket,
            size: 0,
            bypassed: 0,
            last_release: None,
            longest_gap: Duration::ZERO,
            patience: PATIENCE,
            rests_until: None,
        };
        self.waiters.insert(ticket, waiter);
        let tickets = self.lines.entry(line).or_default();
        tickets.insert(ticket);
        let first = tickets.len() == 1;
        if first {
            self.stage_lines.entry(line.1).or_default().insert(line.0);
        }
        if closed {
            self.decide(protocol, ticket, Err(Denied::Closed), deferred);
        } else if first {
            let _ = self.attempt(protocol, ticket, deferred);
        }
        ticket
    }

    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Returns the outcome of a request, if it is decided. Otherwise stores the waker, which the
    /// decision wakes.
    pub(super) fn poll(
        &mut self,
        protocol: &Protocol,
        ticket: Ticket,
        waker: Waker,
        deferred: &mut Deferred,
    ) -> Option<Result<Acquired, Denied>> {
        let Entry::Occupied(mut entry) = self.waiters.entry(ticket) else {
            unreachable!("a request stays until its outcome is taken");
        };
        if let State::Decided(outcome) = entry.get().state {
            entry.get().hand_over(protocol);
            deferred.left.push(entry.remove());
            deferred.unused.push(waker);
            return Some(outcome);
        }
        deferred.unused.extend(entry.get_mut().waker.replace(waker));
        None
    }

    /// Makes a last attempt for a request, and removes it.
    ///
    /// # Errors
    ///
    /// Returns what denies the request.
    pub(super) fn give_up(
        &mut self,
        protocol: &Protocol,
        ticket: Ticket,
        deferred: &mut Deferred,
    ) -> Result<Acquired, Denied> {
        let waiter = &self.waiters[&ticket];
        let mut denied = Denied::Closed;
        match waiter.state {
            State::Decided(_) => {}
            State::Blocked(_) => {
                denied = self.attempt(protocol, ticket, deferred).err().unwrap_or(denied);
            }
            // A cap may deny it, or it only waits behind the head of its line.
            State::InLine => denied = self.denied_in_line(protocol, &waiter.request),
        }
        if let State::Decided(outcome) = self.waiters[&ticket].state {
            self.waiters[&ticket].hand_over(protocol);
            deferred.left.extend(self.waiters.remove(&ticket));
            return outcome;
        }
        self.leave(protocol, ticket, deferred);
        Err(denied)
    }

    /// Returns what denies a request that is not the head of its line.
    fn denied_in_line(&self, protocol: &Protocol, request: &Request) -> Denied {
        let demand = request.demand(request.records, false);
        if let Err(denied) = protocol.check(request.stage.places(), &demand) {
            return denied;
        }
        let first = self.lines.get(&request.line()).and_then(BTreeSet::first);
        let limit = match first.and_then(|first| self.waiters.get(first)).map(|w| w.state) {
            Some(State::Blocked(Cap::Source(_))) => Limit::Source,
            Some(State::Blocked(Cap::Global)) => Limit::Global,
            Some(State::Blocked(Cap::SourceBytes(_))) => Limit::SourceBytes,
            Some(State::Blocked(Cap::GlobalBytes)) => Limit::GlobalBytes,
            _ => Limit::Stage,
        };
        Denied::Reserved { limit }
    }

    /// Removes a request, and gives back what it was granted.
    pub(super) fn leave(&mut self, protocol: &Protocol, ticket: Ticket, deferred: &mut Deferred) {
        self.forget(protocol, ticket, true);
        let Some(waiter) = self.waiters.remove(&ticket) else { return };
        let Request { account, ref stage, .. } = waiter.request;
        if let State::Decided(Ok(Acquired { records, .. })) = waiter.state {
            stage.places().flow().unused.add(u64::from(records));
            protocol.end_ahead(account, stage.places(), records);
            if stage.places().release_silently(records) {
                deferred.emptied.push(Arc::clone(stage));
            }
            deferred.places_moved.push(Arc::clone(stage));
            if let Some(account) = account {
                let mut moved = Moved::default();
                protocol.release(account, records, waiter.request.units, &mut moved);
                deferred.moved.push(moved);
            }
            self.note_freed(protocol, waiter.request.freed(), deferred);
        } else if !matches!(waiter.state, State::Decided(_)) {
            protocol.remove_waiter();
        }
        deferred.left.push(waiter);
    }

    /// Removes a request from every list but `waiters`. With `try_next`, the next request of its
    /// line will be tried.
    fn forget(&mut self, protocol: &Protocol, ticket: Ticket, try_next: bool) {
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        let (size, turn) = (waiter.size, waiter.turn);
        let line = waiter.request.line();
        if let State::Blocked(cap) = waiter.state {
            self.unblock(cap, size, turn, ticket);
        }
        self.candidates.remove(&(turn, ticket));
        if self.holds_reservation(ticket) {
            self.end_reservation(protocol);
        }
        let Some(tickets) = self.lines.get_mut(&line) else { return };
        let was_first = tickets.first() == Some(&ticket);
        if !tickets.remove(&ticket) {
            return;
        }
        if let Some(&next) = tickets.first() {
            if was_first && try_next {
                self.to_try.push(next);
            }
            return;
        }
        self.lines.remove(&line);
        if let Some(lines) = self.stage_lines.get_mut(&line.1) {
            lines.remove(&line.0);
            if lines.is_empty() {
                self.stage_lines.remove(&line.1);
            }
        }
    }

    fn unblock(&mut self, cap: Cap, size: u32, turn: u64, ticket: Ticket) {
        if let Some(blocked) = self.blocked.get_mut(&cap) {
            blocked.by_size.remove(&(size, ticket));
            blocked.by_turn.remove(&(turn, ticket));
            if blocked.by_size.is_empty() {
                self.blocked.remove(&cap);
            }
        }
    }

    fn holds_reservation(&self, ticket: Ticket) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| reservation.ticket == ticket)
    }

    /// Marks caps at which something was released for [`serve`](Self::serve), and counts the
    /// release for the heads that it may bypass.
    pub(super) fn note_freed(
        &mut self,
        protocol: &Protocol,
        freed: Freed,
        deferred: &mut Deferred,
    ) {
        let now = now();
        if let Some(account) = freed.account
            && protocol.account(account).guarantee() > 0
        {
            // The requests of this account now need less from the pool.
            let lines = self.lines.range((Some(account), 0)..=(Some(account), StageKey::MAX));
            self.to_try.extend(lines.filter_map(|(_, tickets)| tickets.first()));
        }
        for cap in freed.caps() {
            let Some(blocked) = self.blocked.get(&cap) else { continue };
            self.released.insert(cap);
            if let Some(&(turn, ticket)) = blocked.by_turn.first()
                && let Some(waiter) = self.waiters.get_mut(&ticket)
            {
                waiter.count_release(now);
                if waiter.is_candidate(now) && !self.holds_reservation(ticket) {
                    self.candidates.insert((turn, ticket));
                }
            }
            if let Some(reservation) = &mut self.reservation
                && let Some(waiter) = self.waiters.get(&reservation.ticket)
                && matches!(waiter.state, State::Blocked(at) if at == cap)
            {
                reservation.since = now;
                self.to_try.push(reservation.ticket);
            }
        }
        self.end_if_expired(protocol, now);
        self.reserve_next(protocol, now, deferred);
    }

    /// Makes a reservation for the first candidate, if there is no other reservation.
    fn reserve_next(&mut self, protocol: &Protocol, now: Instant, deferred: &mut Deferred) {
        if self.reservation.is_some() {
            return;
        }
        let Some((_, ticket)) = self.candidates.pop_first() else { return };
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        let Request { account, ref stage, records, units, .. } = waiter.request;
        stage.places().reserve(records);
        if let Some(account) = account {
            protocol.account(account).reserve(records);
            protocol.ledger.reserve(records);
            // The sweep moves idle credits of other accounts to the pool, where the reservation
            // counts.
            let mut swept = protocol.ledger.sweep();
            if let Some(bytes) = &protocol.bytes {
                bytes.account(account).reserve(units);
                bytes.ledger.reserve(units);
                swept |= bytes.ledger.sweep();
            }
            if swept {
                deferred.moved.push(Moved::swept());
            }
        }
        let patience = waiter.patience.max(waiter.longest_gap.saturating_mul(2));
        self.reservation = Some(Reservation { ticket, since: now, patience });
        deferred.expires = now.checked_add(patience);
        self.to_try.push(ticket);
    }

    /// Ends the reservation, and marks its caps for [`serve`](Self::serve).
    fn end_reservation(&mut self, protocol: &Protocol) {
        let Some(Reservation { ticket, .. }) = self.reservation.take() else { return };
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        let Request { account, ref stage, records, units, .. } = waiter.request;
        stage.places().unreserve(records);
        if let Some(account) = account {
            protocol.account(account).reserve(0);
            protocol.ledger.unreserve(records);
            if let Some(bytes) = &protocol.bytes {
                bytes.account(account).reserve(0);
                bytes.ledger.unreserve(units);
            }
        }
        for cap in waiter.request.freed().caps() {
            if self.blocked.contains_key(&cap) {
                self.released.insert(cap);
            }
        }
    }

    /// Ends the reservation if its patience is over, or else sets the timer again. Returns whether
    /// it ended one.
    pub(super) fn expire(&mut self, protocol: &Protocol, deferred: &mut Deferred) -> bool {
        let now = now();
        let expired = self.end_if_expired(protocol, now);
        if expired {
            self.reserve_next(protocol, now, deferred);
        } else {
            deferred.expires = self.reservation.as_ref().and_then(Reservation::end);
        }
        expired
    }

    /// Ends the reservation if its patience is over. Its request then rests for as long as its
    /// patience was, and may reserve again with twice the patience.
    fn end_if_expired(&mut self, protocol: &Protocol, now: Instant) -> bool {
        let Some(reservation) = &self.reservation else { return false };
        if reservation.end().is_none_or(|end| now < end) {
            return false;
        }
        let Reservation { ticket, patience, .. } = *reservation;
        self.end_reservation(protocol);
        let turn = self.next_number();
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            waiter.patience = patience.saturating_mul(2);
            waiter.rests_until = now.checked_add(patience);
            let before = std::mem::replace(&mut waiter.turn, turn);
            if let State::Blocked(cap) = waiter.state
                && let Some(blocked) = self.blocked.get_mut(&cap)
            {
                blocked.by_turn.remove(&(before, ticket));
                blocked.by_turn.insert((turn, ticket));
            }
        }
        true
    }

    /// Grants heads that fit at the marked caps. Returns whether work may be left.
    pub(super) fn serve(&mut self, protocol: &Protocol, deferred: &mut Deferred) -> bool {
        for _ in 0..PORTION {
            if let Some(ticket) = self.to_try.pop() {
                let _ = self.attempt(protocol, ticket, deferred);
                continue;
            }
            let Some(&cap) = self.released.first() else { return false };
            if !self.serve_at(protocol, cap, deferred) {
                self.released.remove(&cap);
            }
        }
        true
    }

    /// Grants the oldest request that fits at a cap. Returns `false` if none does.
    fn serve_at(&mut self, protocol: &Protocol, cap: Cap, deferred: &mut Deferred) -> bool {
        let mut most = u32::MAX;
        loop {
            let fits = self.blocked.get(&cap).and_then(|blocked| {
                blocked.oldest_that_fits(self.free_at(protocol, cap, blocked).min(most))
            });
            let Some(ticket) = fits else { return false };
            let size = self.waiters[&ticket].size;
            let _ = self.attempt(protocol, ticket, deferred);
            let waiter = &self.waiters[&ticket];
            if !matches!(waiter.state, State::Blocked(at) if at == cap) {
                return true;
            }
            // If it needs no more than before, a push took some of what was free, and the rest may
            // be enough for a smaller request. It may also need more, because its source used up
            // its guarantee: then try all sizes again.
            if waiter.size <= size {
                let Some(less) = size.checked_sub(1) else { return false };
                most = less;
            }
        }
    }

    /// Returns how much the heads blocked at a cap may take there.
    fn free_at(&self, protocol: &Protocol, cap: Cap, blocked: &Blocked) -> u32 {
        let bytes = protocol.bytes.as_ref();
        match cap {
            Cap::SourceBytes(account) => {
                bytes.map_or(0, |bytes| bytes.ledger.room(bytes.account(account)))
            }
            Cap::GlobalBytes => bytes.map_or(0, |bytes| bytes.ledger.free()),
            Cap::Source(account) => protocol.ledger.room(protocol.account(account)),
            Cap::Global => protocol.ledger.free(),
            Cap::Stage(_) => {
                let any = blocked.by_turn.first().and_then(|(_, any)| self.waiters.get(any));
                any.map_or(0, |waiter| waiter.request.stage.places().free(0))
            }
        }
    }

    /// Makes an attempt for the head of a line.
    ///
    /// # Errors
    ///
    /// Returns the cap that denied it, at which it is blocked now.
    fn attempt(
        &mut self,
        protocol: &Protocol,
        ticket: Ticket,
        deferred: &mut Deferred,
    ) -> Result<(), Denied> {
        let Some(waiter) = self.waiters.get(&ticket) else { return Ok(()) };
        if let State::Decided(_) = waiter.state {
            return Ok(());
        }
        let Request { account, ref stage, records, most, .. } = waiter.request;
        let reserved = self.holds_reservation(ticket);
        let places = stage.places();
        let demand = waiter.request.demand(most, reserved);
        let look = || protocol.check(places, &demand);
        let mut looked = waiter.request.check_size(protocol).and_then(|()| look());
        while let Err(denied) = looked
            && protocol.sweep_for(denied)
        {
            // From now on, what those accounts release goes to the pool, and notifies this request.
            deferred.moved.push(Moved::swept());
            looked = look();
        }
        let taken = looked.and_then(|()| {
            let mut moved = Moved::default();
            // No more credits than there are places: others would miss them for a moment.
            let own = if reserved { records } else { 0 };
            let most = most.min(places.free(own)).max(records);
            let demand = Demand { wanted: most, ..demand };
            let taken = protocol.take_ahead(account, places, most, || {
                protocol.acquire(places, demand, &mut moved).at_least(records)
            });
            deferred.moved.push(moved);
            deferred.places_moved.push(Arc::clone(stage));
            taken
        });
        match taken {
            Ok(acquired) => self.decide(protocol, ticket, Ok(acquired), deferred),
            Err(denied) => match denied.limit() {
                None => self.decide(protocol, ticket, Err(denied), deferred),
                Some(limit) => {
                    let cap = waiter.request.cap(limit);
                    let size = match (cap, account) {
                        (Cap::Global, Some(account)) => {
                            let account = protocol.account(account);
                            protocol.ledger.beyond_guarantee(account, records)
                        }
                        (cap, _) => waiter.request.size_at(cap),
                    };
                    self.block(ticket, cap, size);
                    return Err(denied);
                }
            },
        }
        Ok(())
    }

    /// Blocks the head of a line at a cap.
    fn block(&mut self, ticket: Ticket, cap: Cap, size: u32) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        let turn = waiter.turn;
        let size_before = std::mem::replace(&mut waiter.size, size);
        if let State::Blocked(before) = std::mem::replace(&mut waiter.state, State::Blocked(cap)) {
            if (before, size_before) == (cap, size) {
                return;
            }
            self.unblock(before, size_before, turn, ticket);
        }
        let blocked = self.blocked.entry(cap).or_default();
        blocked.by_size.insert((size, ticket));
        blocked.by_turn.insert((turn, ticket));
    }

    /// Decides a request, removes it from every list but `waiters`, and wakes its task.
    fn decide(
        &mut self,
        protocol: &Protocol,
        ticket: Ticket,
        outcome: Result<Acquired, Denied>,
        deferred: &mut Deferred,
    ) {
        // A close rejects the whole line, so the next request need not be tried.
        let try_next = outcome != Err(Denied::Closed);
        self.forget(protocol, ticket, try_next);
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            waiter.state = State::Decided(outcome);
            protocol.remove_waiter();
            deferred.wakers.extend(waiter.waker.take());
        }
    }

    /// Rejects requests that exceed a cap, from the ticket `from` on. Returns whether there may be
    /// more.
    pub(super) fn reject_too_large(
        &mut self,
        protocol: &Protocol,
        from: &mut Ticket,
        deferred: &mut Deferred,
    ) -> bool {
        let portion = self.waiters.range(*from..).take(PORTION);
        let waiting: Vec<Ticket> = portion.map(|(&ticket, _)| ticket).collect();
        for &ticket in &waiting {
            let waiter = &self.waiters[&ticket];
            if !matches!(waiter.state, State::Decided(_))
                && let Err(denied) = waiter.request.check_size(protocol)
            {
                self.decide(protocol, ticket, Err(denied), deferred);
            }
        }
        waiting.last().inspect(|&&last| *from = last + 1).is_some()
    }

    /// Rejects requests of a closed account. Returns whether there may be more.
    pub(super) fn reject_account(
        &mut self,
        protocol: &Protocol,
        account: u32,
        deferred: &mut Deferred,
    ) -> bool {
        let lines = (Some(account), 0)..=(Some(account), StageKey::MAX);
        let line = self.lines.range(lines).next().map(|(line, _)| *line);
        self.reject_line(protocol, line, deferred)
    }

    /// Rejects requests for places of a closed stage. Returns whether there may be more.
    pub(super) fn reject_stage(
        &mut self,
        protocol: &Protocol,
        stage: StageKey,
        deferred: &mut Deferred,
    ) -> bool {
        let first = self.stage_lines.get(&stage).and_then(|lines| lines.first());
        let line = first.map(|account| (*account, stage));
        self.reject_line(protocol, line, deferred)
    }

    /// Rejects requests for credits of a closed buffer. Returns whether there may be more.
    pub(super) fn reject_pushes(&mut self, protocol: &Protocol, deferred: &mut Deferred) -> bool {
        let line = self.lines.range((Some(0), 0)..).next().map(|(line, _)| *line);
        self.reject_line(protocol, line, deferred)
    }

    fn reject_line(
        &mut self,
        protocol: &Protocol,
        line: Option<LineKey>,
        deferred: &mut Deferred,
    ) -> bool {
        let Some(line) = line else { return false };
        for _ in 0..PORTION {
            let Some(&ticket) = self.lines.get(&line).and_then(BTreeSet::first) else { break };
            self.decide(protocol, ticket, Err(Denied::Closed), deferred);
        }
        true
    }
}
