//! The queue of requests that found no credits or no place: who is next, and who is granted.
//!
//! A batch semaphore over three caps. `docs::internals` explains the rules and why no wake-up is lost;
//! in short: requests of one source for one stage stand in a line, and the head of each line waits at
//! the cap that denied it. A release at a cap grants the oldest heads there that fit. A head that was
//! bypassed too often *reserves* what it needs at its caps: others may take only what leaves enough
//! for it. One request reserves at a time, so that no two can wait for what the other has reserved.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::protocol::{Moved, Protocol};
use super::{SharedStage, StageState};
use crate::caps::{Denied, Limit, Sequence};
use crate::event::wake;
use crate::sync::{Instant, isolate, now};

/// What a request asks for: places for `records` records, and credits of that account unless the
/// records have theirs.
pub(crate) struct Request {
    pub(crate) account: Option<u32>,
    pub(crate) stage: SharedStage,
    pub(crate) records: u32,
}

/// Where a request stands in the order of arrival.
pub(super) type Ticket = u64;

/// A stage, by its address.
pub(super) type StageKey = usize;

pub(crate) fn stage_key<S: StageState + ?Sized>(stage: &S) -> StageKey {
    std::ptr::from_ref(stage).cast::<()>() as StageKey
}

/// Where requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cap {
    Source(u32),
    Global,
    Stage(StageKey),
}

/// Requests of one source for one stage; forwards have no source.
type LineKey = (Option<u32>, StageKey);

/// How many releases at its cap a request lets go by as the oldest there before it reserves.
const MAX_BYPASSED: u32 = 4;

/// How long a reservation stands at least while nothing is released at the cap where its request waits.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many requests are granted or rejected under the lock at once.
const PORTION: usize = 64;

struct Waiter {
    request: Request,
    state: State,
    waker: Option<Waker>,
    /// Its place in the order in which requests reserve: its ticket, and a later number once its
    /// reservation was in vain.
    turn: u64,
    /// How many releases went by at its cap while its turn was the first there.
    bypassed: u32,
    last_release: Option<Instant>,
    /// The longest time that it has seen between two releases.
    longest_gap: Duration,
    /// How long its next reservation stands without a release.
    patience: Duration,
    /// It does not reserve before.
    rests_until: Option<Instant>,
}

#[derive(Clone, Copy)]
enum State {
    /// Others of its line come first.
    InLine,
    /// The head of its line, which that cap denied.
    Blocked(Cap),
    /// Granted, with the sequence of its first record; or rejected for good.
    Decided(Result<Sequence, Denied>),
}

/// The heads of lines that wait at one cap.
#[derive(Default)]
struct Blocked {
    by_size: BTreeSet<(u32, Ticket)>,
    by_turn: BTreeSet<(u64, Ticket)>,
}

/// The request for which something is reserved at each of its caps.
struct Reservation {
    ticket: Ticket,
    /// When it was made, or something was released last at the cap where its request waits.
    since: Instant,
    patience: Duration,
}

impl Reservation {
    fn end(&self) -> Option<Instant> {
        self.since.checked_add(self.patience)
    }
}

/// All requests that wait.
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
    /// Caps at which something was released, and requests that are to be tried.
    released: BTreeSet<Cap>,
    to_try: Vec<Ticket>,
}

/// What is to be done when the lock is released: it runs code of others, or takes other locks.
#[derive(Default)]
pub(super) struct Deferred {
    wakers: Vec<Waker>,
    /// Requests that have left. Each has a hold on its stage that may be the last.
    left: Vec<Waiter>,
    unused: Vec<Waker>,
    /// Closed stages that are empty now.
    pub(super) emptied: Vec<SharedStage>,
    /// What was moved, for the signals.
    pub(super) moved: Vec<Moved>,
    /// A reservation ends then unless something is released.
    pub(super) expires: Option<Instant>,
}

impl Deferred {
    /// Wakes those whose requests were decided, and drops what has left. A panic of that code is kept
    /// from the others.
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

/// Where something was released.
#[derive(Clone, Copy)]
pub(super) struct Freed {
    pub(super) account: Option<u32>,
    pub(super) stage: Option<StageKey>,
    pub(super) pool: bool,
}

impl Freed {
    pub(super) fn pool() -> Self {
        Self { account: None, stage: None, pool: true }
    }

    fn caps(self) -> impl Iterator<Item = Cap> {
        let caps = [
            self.account.map(Cap::Source),
            self.pool.then_some(Cap::Global),
            self.stage.map(Cap::Stage),
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
            (Limit::Global, _) => Cap::Global,
            (Limit::Stage | Limit::Source, _) => Cap::Stage(stage_key(&*self.stage)),
        }
    }

    fn freed(&self) -> Freed {
        let (account, stage) = (self.account, Some(stage_key(&*self.stage)));
        Freed { account, stage, pool: account.is_some() }
    }

    fn is_closed(&self, protocol: &Protocol) -> bool {
        let source_is_closed =
            |account| protocol.is_closed() || protocol.account(account).is_closed();
        self.stage.places().is_closed() || self.account.is_some_and(source_is_closed)
    }
}

impl Waiter {
    /// Takes note of a release at its cap that did not grant it, as far as it knows.
    fn count_release(&mut self, now: Instant) {
        self.bypassed = self.bypassed.saturating_add(1);
        if let Some(last) = self.last_release.replace(now) {
            self.longest_gap = self.longest_gap.max(now.saturating_duration_since(last));
        }
    }

    fn is_candidate(&self, now: Instant) -> bool {
        self.bypassed > MAX_BYPASSED && self.rests_until.is_none_or(|until| until <= now)
    }
}

impl Blocked {
    /// The oldest of those that ask for no more than `free`.
    ///
    /// Looks at one request of each size that fits. All that fitted before were granted then, so that
    /// these sizes are no more than the records that were released.
    fn oldest_that_fits(&self, free: u32) -> Option<Ticket> {
        let mut oldest: Option<Ticket> = None;
        let mut from = (0, 0);
        while let Some(&(size, ticket)) = self.by_size.range(from..).next()
            && size <= free
        {
            oldest = Some(oldest.map_or(ticket, |other| other.min(ticket)));
            let Some(larger) = size.checked_add(1) else { break };
            from = (larger, 0);
        }
        oldest
    }
}

impl WaitQueue {
    /// Lets a request in, and grants it if it is the first of its line and fits. The caller has counted it
    /// as waiting.
    pub(super) fn enter(
        &mut self,
        protocol: &Protocol,
        request: Request,
        deferred: &mut Deferred,
    ) -> Ticket {
        // A release after these sees the request, and what was released before is seen below.
        request.stage.places().fence();
        if let Some(account) = request.account {
            protocol.ledger.fence_all(protocol.account(account));
        }
        let ticket = self.next_number();
        let line = request.line();
        let closed = request.is_closed(protocol);
        let waiter = Waiter {
            request,
            state: State::InLine,
            waker: None,
            turn: ticket,
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

    /// The outcome of a request, once it is decided. Until then a decision wakes that waker.
    pub(super) fn poll(
        &mut self,
        ticket: Ticket,
        waker: Waker,
        deferred: &mut Deferred,
    ) -> Option<Result<Sequence, Denied>> {
        let Entry::Occupied(mut entry) = self.waiters.entry(ticket) else {
            unreachable!("a request stays until its outcome is taken");
        };
        if let State::Decided(outcome) = entry.get().state {
            deferred.left.push(entry.remove());
            deferred.unused.push(waker);
            return Some(outcome);
        }
        deferred.unused.extend(entry.get_mut().waker.replace(waker));
        None
    }

    /// Ends a request that is not waited for any longer, with a last attempt.
    ///
    /// # Errors
    ///
    /// What is in the way.
    pub(super) fn give_up(
        &mut self,
        protocol: &Protocol,
        ticket: Ticket,
        deferred: &mut Deferred,
    ) -> Result<Sequence, Denied> {
        let waiter = &self.waiters[&ticket];
        let mut denied = Denied::Closed;
        match waiter.state {
            State::Decided(_) => {}
            State::Blocked(_) => {
                denied = self.attempt(protocol, ticket, deferred).err().unwrap_or(denied);
            }
            // It may lack something itself, or only its turn.
            State::InLine => denied = self.denied_in_line(protocol, &waiter.request),
        }
        if let State::Decided(outcome) = self.waiters[&ticket].state {
            deferred.left.extend(self.waiters.remove(&ticket));
            return outcome;
        }
        self.leave(protocol, ticket, deferred);
        Err(denied)
    }

    /// What is in the way of a request that is not the first of its line.
    fn denied_in_line(&self, protocol: &Protocol, request: &Request) -> Denied {
        let Request { account, ref stage, records } = *request;
        if let Err(denied) = protocol.check(account, stage.places(), records, 0) {
            return denied;
        }
        let first = self.lines.get(&request.line()).and_then(BTreeSet::first);
        let limit = match first.and_then(|first| self.waiters.get(first)).map(|w| w.state) {
            Some(State::Blocked(Cap::Source(_))) => Limit::Source,
            Some(State::Blocked(Cap::Global)) => Limit::Global,
            _ => Limit::Stage,
        };
        Denied::Reserved { limit }
    }

    /// Lets a request go that is not waited for any longer, and gives back what it was granted.
    pub(super) fn leave(&mut self, protocol: &Protocol, ticket: Ticket, deferred: &mut Deferred) {
        self.forget(protocol, ticket, true);
        let Some(waiter) = self.waiters.remove(&ticket) else { return };
        let Request { account, ref stage, records } = waiter.request;
        if let State::Decided(Ok(_)) = waiter.state {
            if stage.places().release(records) {
                deferred.emptied.push(Arc::clone(stage));
            }
            if let Some(account) = account {
                let mut moved = Moved::default();
                protocol.release(account, records, &mut moved);
                deferred.moved.push(moved);
            }
            self.note_freed(protocol, waiter.request.freed(), deferred);
        } else if !matches!(waiter.state, State::Decided(_)) {
            protocol.remove_waiter();
        }
        deferred.left.push(waiter);
    }

    /// Takes a request out of every list but that of the waiters. The next of its line is tried, unless all
    /// of them go.
    fn forget(&mut self, protocol: &Protocol, ticket: Ticket, try_next: bool) {
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        let (records, turn) = (waiter.request.records, waiter.turn);
        let line = waiter.request.line();
        if let State::Blocked(cap) = waiter.state {
            self.unblock(cap, records, turn, ticket);
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

    fn unblock(&mut self, cap: Cap, records: u32, turn: u64, ticket: Ticket) {
        if let Some(blocked) = self.blocked.get_mut(&cap) {
            blocked.by_size.remove(&(records, ticket));
            blocked.by_turn.remove(&(turn, ticket));
            if blocked.by_size.is_empty() {
                self.blocked.remove(&cap);
            }
        }
    }

    fn holds_reservation(&self, ticket: Ticket) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| reservation.ticket == ticket)
    }

    /// Takes note that something was released, so that [`serve`](Self::serve) looks there.
    pub(super) fn note_freed(
        &mut self,
        protocol: &Protocol,
        freed: Freed,
        deferred: &mut Deferred,
    ) {
        let now = now();
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

    /// Reserves for the first candidate, if nothing is reserved.
    fn reserve_next(&mut self, protocol: &Protocol, now: Instant, deferred: &mut Deferred) {
        if self.reservation.is_some() {
            return;
        }
        let Some((_, ticket)) = self.candidates.pop_first() else { return };
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        let Request { account, ref stage, records } = waiter.request;
        stage.places().reserve(records);
        if let Some(account) = account {
            protocol.account(account).reserve(records);
            protocol.ledger.reserve(records);
            // Idle credits that others have leased ahead are not theirs any more.
            if protocol.ledger.sweep() {
                let moved = Moved { pool: true, left_some: true, ..Moved::default() };
                deferred.moved.push(moved);
            }
        }
        let patience = waiter.patience.max(waiter.longest_gap.saturating_mul(2));
        self.reservation = Some(Reservation { ticket, since: now, patience });
        deferred.expires = now.checked_add(patience);
        self.to_try.push(ticket);
    }

    /// Ends the reservation, and has all looked at who waited because of it.
    fn end_reservation(&mut self, protocol: &Protocol) {
        let Some(Reservation { ticket, .. }) = self.reservation.take() else { return };
        let Some(waiter) = self.waiters.get(&ticket) else { return };
        let Request { account, ref stage, records } = waiter.request;
        stage.places().unreserve(records);
        if let Some(account) = account {
            protocol.account(account).reserve(0);
            protocol.ledger.unreserve(records);
        }
        for cap in waiter.request.freed().caps() {
            if self.blocked.contains_key(&cap) {
                self.released.insert(cap);
            }
        }
    }

    /// Ends a reservation that has stood for too long without a release, or has the timer look again.
    /// Tells whether it ended one.
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

    /// Ends a reservation that has stood for too long without a release. Its request rests for as long,
    /// and then may reserve for twice the time.
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

    /// Grants requests that fit where something was released. Tells whether there may be more.
    pub(super) fn serve(&mut self, protocol: &Protocol, deferred: &mut Deferred) -> bool {
        for _ in 0..PORTION {
            if let Some(ticket) = self.to_try.pop() {
                let _ = self.attempt(protocol, ticket, deferred);
                continue;
            }
            let Some(&cap) = self.released.first() else { return false };
            let fits = self
                .blocked
                .get(&cap)
                .and_then(|blocked| blocked.oldest_that_fits(self.free_at(protocol, cap, blocked)));
            let Some(ticket) = fits else {
                self.released.remove(&cap);
                continue;
            };
            let _ = self.attempt(protocol, ticket, deferred);
            // Another took it: its release will come here again.
            if matches!(self.waiters[&ticket].state, State::Blocked(at) if at == cap) {
                self.released.remove(&cap);
            }
        }
        true
    }

    /// What those who wait at a cap may have there.
    fn free_at(&self, protocol: &Protocol, cap: Cap, blocked: &Blocked) -> u32 {
        match cap {
            Cap::Source(account) => protocol.ledger.room(protocol.account(account)),
            Cap::Global => protocol.ledger.free(),
            Cap::Stage(_) => {
                let any = blocked.by_turn.first().and_then(|(_, any)| self.waiters.get(any));
                any.map_or(0, |waiter| waiter.request.stage.places().free(0))
            }
        }
    }

    /// Tries for the head of a line.
    ///
    /// # Errors
    ///
    /// What has denied it, which is where it waits now.
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
        let Request { account, ref stage, records } = waiter.request;
        let own = if self.holds_reservation(ticket) { records } else { 0 };
        let places = stage.places();
        let look = || protocol.check(account, places, records, own);
        let mut looked = look();
        if looked.is_err_and(|denied| denied.limit() == Some(Limit::Global))
            && protocol.ledger.sweep()
        {
            // What is released in those accounts from now on goes to the pool, and is seen to do so.
            deferred.moved.push(Moved { pool: true, left_some: true, ..Moved::default() });
            looked = look();
        }
        let taken = looked.and_then(|()| {
            let mut moved = Moved::default();
            let admitted = protocol.acquire(account, places, records, records, own, &mut moved);
            deferred.moved.push(moved);
            admitted.all()
        });
        match taken {
            Ok(first) => self.decide(protocol, ticket, Ok(first), deferred),
            Err(denied) => match denied.limit() {
                None => self.decide(protocol, ticket, Err(denied), deferred),
                Some(limit) => {
                    let cap = waiter.request.cap(limit);
                    self.block(ticket, cap);
                    return Err(denied);
                }
            },
        }
        Ok(())
    }

    /// Has the head of a line wait at a cap.
    fn block(&mut self, ticket: Ticket, cap: Cap) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        let (records, turn) = (waiter.request.records, waiter.turn);
        if let State::Blocked(before) = std::mem::replace(&mut waiter.state, State::Blocked(cap)) {
            if before == cap {
                return;
            }
            self.unblock(before, records, turn, ticket);
        }
        let blocked = self.blocked.entry(cap).or_default();
        blocked.by_size.insert((records, ticket));
        blocked.by_turn.insert((turn, ticket));
    }

    /// Decides a request, and takes it out of every list.
    fn decide(
        &mut self,
        protocol: &Protocol,
        ticket: Ticket,
        outcome: Result<Sequence, Denied>,
        deferred: &mut Deferred,
    ) {
        self.forget(protocol, ticket, outcome.is_ok());
        if let Some(waiter) = self.waiters.get_mut(&ticket) {
            waiter.state = State::Decided(outcome);
            protocol.remove_waiter();
            deferred.wakers.extend(waiter.waker.take());
        }
    }

    /// Rejects requests of a closed account. Tells whether there may be more of them.
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

    /// Rejects requests for places of a closed stage. Tells whether there may be more of them.
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

    /// Rejects requests for credits of a closed buffer. Tells whether there may be more of them.
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
