//! The waiting room: requests that found no credits or no place, and who is served next.
//!
//! Nobody enters while there is room, and then the room costs a push or a settling one load. While
//! somebody waits, whoever gives credits or places back serves those who wait, in the order of their
//! arrival: it takes what a request needs on its behalf, and wakes it when it has all.
//!
//! # Who is next
//!
//! The requests of one source stand in a line, and only the first of a line is served: so a large
//! request is not overtaken by smaller ones of its source. The lines of different sources do not
//! hold each other up: a request that fits goes on, whoever else waits. A request that is passed over
//! many times at a cap that it shares with others begins to save: it keeps what it gets, until it has
//! all. Only one request saves at a time, so that no two can wait for what the other has saved. If
//! nothing comes for a while, because the records that hold the rest are stuck, it gives back what it
//! has saved and waits as before: so neither does it starve, nor do others for long.
//!
//! # Why no wake-up is lost
//!
//! A request enters in this order: it raises the count of those that need attention, it writes to each
//! of the words that could let it in (adding nothing), and only then it tries for the last time. Whoever
//! gives something back writes to its word first and reads the count after. Of the two writes to one
//! word one comes first: if it is the request's, the other thread sees the count and serves; if it is
//! the other's, the last try sees what was given back.
//!
//! Credits on their way from or to the pool are in no word where the last try could find them. So whoever
//! has had more in hand than it uses in the end gives something back in this sense, even where it leaves
//! them idle in an account.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::block::Age;
use crate::ledger::{Ledger, Shortage};
use crate::stage::{NotAdmitted, Places};
use crate::sync::{Sleep, sleep};

/// What the waiting room must know of a stage.
pub(crate) trait Gate: Send + Sync {
    /// Places that are free.
    fn room(&self) -> u32;
    /// Whether none will ever be given.
    fn is_shut(&self) -> bool;
    /// Takes up to `wanted` places.
    fn admit(&self, wanted: u32) -> Places;
    /// Takes `wanted` places, or none.
    fn admit_all(&self, wanted: u32) -> Places;
    /// Gives places back, and serves nobody. Tells whether a closed stage is empty now, so that its
    /// workers are to be woken.
    #[must_use]
    fn give_places_back(&self, records: u32) -> bool;
    /// Ages for records that hold their places already.
    fn ages(&self, records: u32) -> Age;
    /// Writes to the word that counts the places, and changes nothing.
    fn touch(&self);
    /// Wakes every worker that waits for records.
    fn wake_workers(&self);
}

/// Where a request stands in the order of arrival.
type Ticket = u64;

/// A stage, by its address.
type GateId = usize;

pub(crate) fn gate_id(gate: &Arc<dyn Gate>) -> GateId {
    Arc::as_ptr(gate).cast::<()>() as GateId
}

/// How often a request is passed over at a shared cap before it begins to save.
const PATIENCE: u32 = 32;

/// How long a request keeps its savings while nothing is added to them.
const SAVING_TIME: Duration = Duration::from_millis(100);

/// What a request asks for: places for `records` records, and credits of that account unless the
/// records have theirs.
pub(crate) struct Request {
    pub(crate) account: Option<u32>,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) records: u32,
}

/// What a request is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    Source,
    Pool,
    Stage,
}

/// Why a request will never be granted: its source or its stage was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

struct Waiter {
    request: Request,
    /// What is taken for it so far: all or nothing, unless it saves.
    credits: u32,
    places: u32,
    lack: Lack,
    passed_over: u32,
    /// The age of its first record, once it has all.
    outcome: Option<Result<Age, Closed>>,
    waker: Option<Waker>,
}

/// Everybody who waits for credits or places.
#[derive(Default)]
pub(crate) struct WaitingRoom {
    next_ticket: Ticket,
    waiters: BTreeMap<Ticket, Waiter>,
    /// The requests of each account, in the order of their arrival. The first is being served.
    lines: BTreeMap<u32, VecDeque<Ticket>>,
    /// Those being served that are short of global credits, and of places in each stage.
    at_pool: BTreeSet<Ticket>,
    at_gates: BTreeMap<GateId, BTreeSet<Ticket>>,
    saver: Option<Ticket>,
    /// Lines that somebody has left, to be served.
    moved_up: Vec<u32>,
    aftermath: Aftermath,
}

/// What is to be done when the lock is released: it calls code that is not ours, or other locks.
#[derive(Default)]
pub(crate) struct Aftermath {
    /// Those whose outcome has been decided.
    pub(crate) to_wake: Vec<Waker>,
    pub(crate) to_drop: Vec<Waker>,
    /// Those who have left, each with a hold on its stage that may be the last.
    left: Vec<Waiter>,
    /// Stages whose workers can go home.
    pub(crate) emptied: Vec<Arc<dyn Gate>>,
    /// Whether credits were given back, which may have been the last.
    pub(crate) gave_back: bool,
    /// Accounts whose level was moved.
    pub(crate) to_note: Vec<u32>,
}

/// How a request stands.
enum Standing {
    Decided(Result<Age, Closed>),
    Waits,
    /// It saves, and has so much.
    Saves(u64),
}

/// Where something was given back.
#[derive(Default, Clone, Copy)]
pub(crate) struct Freed {
    pub(crate) gate: Option<GateId>,
    pub(crate) account: Option<u32>,
}

impl Waiter {
    /// What it certainly lacks now, found out without taking anything.
    fn look(&self, ledger: &Ledger) -> Option<Lack> {
        let Request { account, ref gate, records } = self.request;
        if let Some(index) = account {
            let account = ledger.account(index);
            if account.room() < records {
                return Some(Lack::Source);
            }
            if ledger.available(account) < records {
                return Some(Lack::Pool);
            }
        }
        (gate.room() < records).then_some(Lack::Stage)
    }

    /// Takes what is missing: all, or nothing unless it saves.
    fn take(
        &mut self,
        ledger: &Ledger,
        saves: bool,
        aftermath: &mut Aftermath,
    ) -> Result<Age, Option<Lack>> {
        let taken = self.take_what_there_is(ledger, saves);
        if taken.is_err() && !saves {
            self.give_back(ledger, aftermath);
        }
        taken
    }

    fn take_what_there_is(&mut self, ledger: &Ledger, saves: bool) -> Result<Age, Option<Lack>> {
        let records = self.request.records;
        if let Some(index) = self.request.account
            && self.credits < records
        {
            let account = ledger.account(index);
            let grant = ledger.acquire(account, records - self.credits);
            self.credits += grant.credits;
            match grant.shortage {
                None => {}
                Some(Shortage::Source { .. }) => return Err(Some(Lack::Source)),
                Some(Shortage::Global { .. }) => return Err(Some(Lack::Pool)),
                Some(Shortage::Closed) => return Err(None),
            }
        }
        let gate = &self.request.gate;
        let missing = records - self.places;
        let at_once = self.places == 0;
        let places = if saves { gate.admit(missing) } else { gate.admit_all(missing) };
        self.places += places.records;
        match places.shortage {
            // Places that were saved up bit by bit have ages with gaps.
            None => Ok(if at_once { places.age } else { gate.ages(records) }),
            Some(NotAdmitted::Full { .. }) => Err(Some(Lack::Stage)),
            Some(NotAdmitted::Closed) => Err(None),
        }
    }

    /// How much it has saved.
    fn savings(&self) -> u64 {
        u64::from(self.credits) + u64::from(self.places)
    }

    fn stop_saving(&mut self, ledger: &Ledger, aftermath: &mut Aftermath) {
        self.passed_over = 0;
        self.give_back(ledger, aftermath);
    }

    /// Where it gives something back.
    fn freed(&self) -> Freed {
        Freed { gate: Some(gate_id(&self.request.gate)), account: self.request.account }
    }

    fn give_back(&mut self, ledger: &Ledger, aftermath: &mut Aftermath) {
        let (credits, places) =
            (std::mem::take(&mut self.credits), std::mem::take(&mut self.places));
        if self.request.gate.give_places_back(places) {
            aftermath.emptied.push(Arc::clone(&self.request.gate));
        }
        if let (Some(index), true) = (self.request.account, credits > 0) {
            ledger.release_quietly(ledger.account(index), credits);
            aftermath.to_note.push(index);
            aftermath.gave_back = true;
        }
    }
}

impl WaitingRoom {
    pub(crate) fn take_aftermath(&mut self) -> Aftermath {
        std::mem::take(&mut self.aftermath)
    }

    /// Lets a request in, and tries for it if it is the first of its line.
    pub(crate) fn enter(&mut self, ledger: &Ledger, request: Request) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let account = request.account;
        request.gate.touch();
        let shut = request.gate.is_shut();
        if let Some(account) = account {
            ledger.touch(account);
        }
        let waiter = Waiter {
            request,
            credits: 0,
            places: 0,
            lack: Lack::Source,
            passed_over: 0,
            outcome: None,
            waker: None,
        };
        self.waiters.insert(ticket, waiter);
        let first = match account {
            None => true,
            Some(account) => {
                let line = self.lines.entry(account).or_default();
                line.push_back(ticket);
                line.len() == 1
            }
        };
        if shut {
            self.decide(ledger, ticket, Err(Closed));
        } else if first {
            self.attempt(ledger, ticket);
        }
        ticket
    }

    /// How a request stands. Until its outcome is decided, a change will wake that waker.
    fn poll(&mut self, ticket: Ticket, waker: Waker) -> Standing {
        let Entry::Occupied(mut waiter) = self.waiters.entry(ticket) else {
            unreachable!("a request stays until its outcome is taken");
        };
        if let Some(outcome) = waiter.get().outcome {
            self.aftermath.left.push(waiter.remove());
            return Standing::Decided(outcome);
        }
        let waiter = waiter.get_mut();
        // The old one is dropped without the lock.
        self.aftermath.to_drop.extend(waiter.waker.replace(waker));
        if self.saver == Some(ticket) { Standing::Saves(waiter.savings()) } else { Standing::Waits }
    }

    /// Lets a request give back what it has saved, if nothing was added to it, and serves the others.
    fn give_way(&mut self, ledger: &Ledger, ticket: Ticket, savings: u64) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        if self.saver != Some(ticket) || waiter.savings() != savings {
            return;
        }
        waiter.stop_saving(ledger, &mut self.aftermath);
        self.saver = None;
        let freed = waiter.freed();
        self.serve(ledger, freed);
    }

    /// What a request is short of: what the first of its line is.
    fn lack(&self, ticket: Ticket) -> Option<Lack> {
        let waiter = self.waiters.get(&ticket)?;
        let first = waiter
            .request
            .account
            .and_then(|account| self.lines.get(&account)?.front())
            .and_then(|first| self.waiters.get(first));
        Some(first.unwrap_or(waiter).lack)
    }

    /// Lets a request go that is not waited for any more, and gives back what was taken for it.
    fn leave(&mut self, ledger: &Ledger, ticket: Ticket) {
        let Some(mut waiter) = self.waiters.remove(&ticket) else { return };
        waiter.give_back(ledger, &mut self.aftermath);
        let freed = waiter.freed();
        self.aftermath.left.push(waiter);
        self.forget(ticket, freed);
        self.serve(ledger, freed);
    }

    /// Takes a ticket out of every list.
    fn forget(&mut self, ticket: Ticket, Freed { account, gate }: Freed) {
        self.at_pool.remove(&ticket);
        if let Some(gate) = gate {
            self.leave_gate(ticket, gate);
        }
        if self.saver == Some(ticket) {
            self.saver = None;
        }
        if let Some(account) = account
            && let Some(line) = self.lines.get_mut(&account)
        {
            line.retain(|other| *other != ticket);
            if line.is_empty() {
                self.lines.remove(&account);
            } else {
                self.moved_up.push(account);
            }
        }
    }

    fn leave_gate(&mut self, ticket: Ticket, gate: GateId) {
        if let Some(tickets) = self.at_gates.get_mut(&gate) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.at_gates.remove(&gate);
            }
        }
    }

    /// Serves those who may go on now that something was given back.
    pub(crate) fn serve(&mut self, ledger: &Ledger, freed: Freed) {
        if let Some(saver) = self.saver {
            self.attempt(ledger, saver);
        }
        if let Some(account) = freed.account
            && self.is_short_of_its_own(account)
        {
            self.serve_line(ledger, account);
        }
        // The oldest of each is looked at in any case: so that it is counted when it is passed over.
        let mut last = None;
        while let Some(gate) = freed.gate
            && let Some(ticket) = self.at_gates.get(&gate).and_then(|at| after(at, last))
            && (last.is_none() || self.has_room(ticket))
        {
            last = Some(ticket);
            self.consider(ledger, ticket);
        }
        let mut last = None;
        while let Some(ticket) = after(&self.at_pool, last)
            && (last.is_none() || ledger.free() > 0)
        {
            last = Some(ticket);
            self.consider(ledger, ticket);
        }
        self.serve_next(ledger);
    }

    /// Whether the first of a line waits for credits of its own account. If it waits for others, it takes
    /// its turn among those who wait for the same.
    fn is_short_of_its_own(&self, account: u32) -> bool {
        let first = self.lines.get(&account).and_then(|line| self.waiters.get(line.front()?));
        first.is_some_and(|waiter| waiter.lack == Lack::Source)
    }

    /// Whether the stage of a request has any room.
    fn has_room(&self, ticket: Ticket) -> bool {
        self.waiters.get(&ticket).is_some_and(|waiter| waiter.request.gate.room() > 0)
    }

    /// Serves the line of an account, until the first in it has to wait.
    fn serve_line(&mut self, ledger: &Ledger, account: u32) {
        while let Some(first) = self.lines.get(&account).and_then(|line| line.front().copied())
            && self.consider_alone(ledger, first)
        {}
    }

    /// Tries for the first of a line if it looks as if that could succeed, and for those behind it
    /// when it is done.
    fn consider(&mut self, ledger: &Ledger, ticket: Ticket) {
        if self.consider_alone(ledger, ticket) {
            self.serve_next(ledger);
        }
    }

    fn consider_alone(&mut self, ledger: &Ledger, ticket: Ticket) -> bool {
        let saves = self.saver == Some(ticket);
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return false };
        if let (false, Some(lack)) = (saves, waiter.look(ledger)) {
            // Its own cap is no shared one: nobody passes it over there.
            if lack != Lack::Source {
                waiter.passed_over += 1;
            }
            if waiter.passed_over <= PATIENCE || self.saver.is_some() {
                self.short_of(ticket, lack);
                return false;
            }
            self.saver = Some(ticket);
            // It is to look at the time.
            self.aftermath.to_wake.extend(waiter.waker.take());
        }
        self.attempt_alone(ledger, ticket)
    }

    /// Tries for the first of a line, and for those behind it when it is done.
    fn attempt(&mut self, ledger: &Ledger, ticket: Ticket) {
        if self.attempt_alone(ledger, ticket) {
            self.serve_next(ledger);
        }
    }

    /// Tries for the first of a line, and tells whether its outcome is decided.
    fn attempt_alone(&mut self, ledger: &Ledger, ticket: Ticket) -> bool {
        let saves = self.saver == Some(ticket);
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return false };
        self.aftermath.to_note.extend(waiter.request.account);
        let outcome = match waiter.take(ledger, saves, &mut self.aftermath) {
            Ok(age) => Ok(age),
            Err(None) => Err(Closed),
            Err(Some(lack)) => {
                if saves && lack == Lack::Source {
                    // Its own cap is in the way: what it has saved would only be missed by others.
                    waiter.stop_saving(ledger, &mut self.aftermath);
                    self.saver = None;
                }
                self.short_of(ticket, lack);
                return false;
            }
        };
        self.decide(ledger, ticket, outcome);
        true
    }

    /// Notes what a request that is being served waits for.
    fn short_of(&mut self, ticket: Ticket, lack: Lack) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        waiter.lack = lack;
        let gate = gate_id(&waiter.request.gate);
        if lack == Lack::Pool {
            self.at_pool.insert(ticket);
        } else {
            self.at_pool.remove(&ticket);
        }
        if lack == Lack::Stage {
            self.at_gates.entry(gate).or_default().insert(ticket);
        } else {
            self.leave_gate(ticket, gate);
        }
    }

    /// Decides a request, and takes it out of every list.
    fn decide(&mut self, ledger: &Ledger, ticket: Ticket, outcome: Result<Age, Closed>) {
        let Some(waiter) = self.waiters.get_mut(&ticket) else { return };
        if outcome.is_err() {
            waiter.give_back(ledger, &mut self.aftermath);
        }
        waiter.outcome = Some(outcome);
        let freed = waiter.freed();
        self.aftermath.to_wake.extend(waiter.waker.take());
        self.forget(ticket, freed);
    }

    /// Tells those requests that match that they will never be granted, and serves those behind.
    pub(crate) fn close(&mut self, ledger: &Ledger, matches: impl Fn(&Request) -> bool) {
        let closed: Vec<(Ticket, Freed)> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.outcome.is_none() && matches(&waiter.request))
            .map(|(ticket, waiter)| (*ticket, waiter.freed()))
            .collect();
        for (ticket, _) in &closed {
            self.decide(ledger, *ticket, Err(Closed));
        }
        // One of them may have saved.
        for (_, freed) in closed {
            self.serve(ledger, freed);
        }
        self.serve_next(ledger);
    }

    /// Serves the lines whose first has gone.
    fn serve_next(&mut self, ledger: &Ledger) {
        while let Some(account) = self.moved_up.pop() {
            self.serve_line(ledger, account);
        }
    }
}

/// The first ticket after `last`.
fn after(tickets: &BTreeSet<Ticket>, last: Option<Ticket>) -> Option<Ticket> {
    tickets.range(last.map_or(0, |last| last + 1)..).next().copied()
}

/// A request in the waiting room. Resolves to the age of its first record when it holds credits and
/// places for all of them. Dropped before, it leaves the room and gives back what was taken for it.
pub(crate) struct Waiting {
    ledger: Arc<Ledger>,
    ticket: Option<Ticket>,
    /// What it had saved at a moment, and the time that it may keep it.
    saving: Option<(u64, Sleep)>,
}

impl Waiting {
    pub(crate) fn new(ledger: &Arc<Ledger>, request: Request) -> Self {
        ledger.raise_attention();
        let ticket = ledger.with_room(|room, ledger| room.enter(ledger, request));
        Self { ledger: Arc::clone(ledger), ticket: Some(ticket), saving: None }
    }

    /// What the request is short of.
    pub(crate) fn lack(&self) -> Option<Lack> {
        self.ticket.and_then(|ticket| self.ledger.with_room(|room, _| room.lack(ticket)))
    }
}

impl Future for Waiting {
    type Output = Result<Age, Closed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let ticket = this.ticket.expect("polled after it was ready");
        loop {
            let waker = context.waker().clone();
            let savings = match this.ledger.with_room(|room, _| room.poll(ticket, waker)) {
                Standing::Decided(outcome) => {
                    this.ticket = None;
                    this.ledger.lower_attention();
                    return Poll::Ready(outcome);
                }
                Standing::Waits => return Poll::Pending,
                Standing::Saves(savings) => savings,
            };
            let (before, time) = this.saving.get_or_insert_with(|| (savings, sleep(SAVING_TIME)));
            if *before != savings {
                (*before, *time) = (savings, sleep(SAVING_TIME));
            }
            if Pin::new(time).poll(context).is_pending() {
                return Poll::Pending;
            }
            this.saving = None;
            this.ledger.with_room(|room, ledger| room.give_way(ledger, ticket, savings));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.ledger.with_room(|room, ledger| room.leave(ledger, ticket));
            self.ledger.lower_attention();
        }
    }
}
