//! The books: what the simulation knows of every record and every call that waits, kept beside the library.
//!
//! Counts are raised after the library has accepted a record and lowered before it gives one up. So on many threads
//! what the books are *sure* of is never more than what the buffer holds; on one thread, between two calls, the
//! difference is known as well.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::clock;
use crate::plan::Plan;
use crate::watches::{Drain, Receiver, Request};

pub(crate) type Id = u32;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the simulation's own hands.
    Outside,
    /// Given to a call that may accept it.
    Offered,
    /// Waits in a stage to be taken.
    Queued,
    /// Waits in a stage until it is due.
    Delayed,
    /// In a batch.
    InHand,
    /// Given back to its stage by a call that is under way.
    Returning,
    /// On the way to another stage.
    Moving,
    /// In the buffer, in a stage that a panic or a cancelled call leaves open.
    Somewhere,
    /// A dead letter, or about to become one: it may hold its credit still, or not.
    Dying,
    Dropped,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    source: u32,
    stage: u32,
    retries: u32,
    state: State,
    /// When it comes back, if it was returned to come later.
    due: Duration,
    /// Whether a worker died with it in hand.
    isolated: bool,
}

/// What is held at a stage, of a source, or in all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Records that surely hold their credits (and, of a stage, their places).
    pub(crate) sure: usize,
    /// Records on their way to another stage: they hold places of the old one as long as that call waits.
    pub(crate) moving: usize,
    /// Records that may be dead letters without credits.
    pub(crate) dying: usize,
    /// Held by permits.
    pub(crate) promised: usize,
    /// Of a stage: those that wait to be taken.
    pub(crate) queued: usize,
    /// Of a stage: those that are not due yet.
    pub(crate) delayed: usize,
    /// Records that have given up what they held, since the start.
    pub(crate) freed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    entries: Vec<Entry>,
    pub(crate) live: usize,
    pub(crate) all: Tally,
    pub(crate) stages: Vec<Tally>,
    pub(crate) sources: Vec<Tally>,
    /// Records in a stage that nobody knows.
    pub(crate) astray: usize,
    pub(crate) requests: BTreeMap<u64, Request>,
    pub(crate) receivers: BTreeMap<u64, Receiver>,
    pub(crate) drains: BTreeMap<u64, Drain>,
    next: u64,
    retry_limit: Option<u32>,
    backoff: Option<(Duration, Duration)>,
    guarantees: Vec<usize>,
    /// Records that are not due yet.
    delayed: BTreeSet<(Duration, Id)>,
    /// Calls of wakers.
    pub(crate) wakes: u64,
    pub(crate) misfortunes: u64,
    /// How many there were before the last call.
    misfortunes_before: u64,
    /// How often the counts were looked at, and how often the time was about to pass.
    pub(crate) looks: u64,
    pub(crate) rests: u64,
    last_freed: Duration,
    /// The same, of those that were not guaranteed to their sources.
    last_shared: Duration,
    /// The longest time between two records that gave up what they held.
    pub(crate) longest_gap: Duration,
    pub(crate) close_begun: bool,
    pub(crate) close_returned: bool,
    pub(crate) stages_closed: Vec<bool>,
    /// How often each was removed.
    pub(crate) stages_removed: Vec<usize>,
    /// How many calls that remove it are under way.
    pub(crate) stages_removing: Vec<usize>,
    log: VecDeque<String>,
    digest: DefaultHasher,
    trace: bool,
}

/// So many are shown when a check fails.
const LAST_CALLS: usize = 24;

thread_local! {
    static BOOKS: RefCell<Books> = RefCell::new(Books::default());
}

/// Looks at the books. Never while the library runs.
pub(crate) fn with<T>(work: impl FnOnce(&mut Books) -> T) -> T {
    BOOKS.with_borrow_mut(work)
}

/// How often a stage was removed, when a call begins that may be told so. A call that begins while a
/// removal is under way may be told of that one, and is told nothing else.
pub(crate) fn removals(stage: usize) -> usize {
    with(|books| match books.stages_removing[stage] {
        0 => books.stages_removed[stage],
        _ => usize::MAX,
    })
}

pub(crate) fn reset(plan: &Plan) {
    BOOKS.set(Books {
        stages: vec![Tally::default(); plan.stages],
        sources: vec![Tally::default(); plan.sources],
        stages_closed: vec![false; plan.stages],
        stages_removed: vec![0; plan.stages],
        stages_removing: vec![0; plan.stages],
        retry_limit: plan.retries,
        backoff: plan.backoff,
        guarantees: plan.guarantees.clone(),
        trace: std::env::var_os("SIMULATION_TRACE").is_some(),
        ..Books::default()
    });
}

impl Books {
    /// Adds what a record counts for, or takes it away.
    fn count(&mut self, id: Id, one: isize) {
        let Entry { source, stage, state, .. } = self.entries[id as usize];
        let add =
            |number: &mut usize| *number = number.checked_add_signed(one).expect("no overflow");
        let (source, stage) =
            (&mut self.sources[source as usize], &mut self.stages[stage as usize]);
        match state {
            State::Outside | State::Offered | State::Dropped => {}
            State::Queued | State::Delayed | State::InHand | State::Returning => {
                add(&mut self.all.sure);
                add(&mut source.sure);
                add(&mut stage.sure);
                match state {
                    State::Queued => add(&mut stage.queued),
                    State::Delayed => add(&mut stage.delayed),
                    _ => {}
                }
            }
            State::Moving => {
                add(&mut self.all.sure);
                add(&mut source.sure);
                add(&mut stage.moving);
            }
            State::Somewhere => {
                add(&mut self.all.sure);
                add(&mut source.sure);
                add(&mut self.astray);
            }
            State::Dying => {
                add(&mut self.all.dying);
                add(&mut source.dying);
                add(&mut stage.dying);
            }
        }
    }

    fn change(&mut self, id: Id, state: State, stage: Option<usize>) {
        let old = self.entries[id as usize];
        let holds = |state| !matches!(state, State::Outside | State::Offered | State::Dropped);
        if holds(old.state) && !holds(state) {
            let source = &mut self.sources[old.source as usize];
            source.freed += 1;
            // What stays guaranteed is of use to its source alone.
            let guarantee = self.guarantees[old.source as usize];
            let now = clock::elapsed();
            let mut gap = now - std::mem::replace(&mut self.last_freed, now);
            if guarantee == 0 || source.sure + source.promised > guarantee {
                self.all.freed += 1;
                gap = now - std::mem::replace(&mut self.last_shared, now);
            }
            self.longest_gap = self.longest_gap.max(gap);
        }
        let stays = holds(old.state) && !matches!(old.state, State::Moving | State::Somewhere);
        if stays && (!holds(state) || state == State::Moving) {
            self.stages[old.stage as usize].freed += 1;
        }
        self.count(id, -1);
        let entry = &mut self.entries[id as usize];
        entry.state = state;
        entry.stage = stage.map_or(entry.stage, |stage| stage as u32);
        match state {
            State::Delayed => _ = self.delayed.insert((entry.due, id)),
            State::InHand => entry.due = Duration::ZERO,
            State::Outside | State::Offered | State::Moving => {
                (entry.due, entry.isolated) = (Duration::ZERO, false);
            }
            _ => {}
        }
        self.count(id, 1);
        self.look();
    }

    /// Follows the fewest records for those who watch them.
    pub(crate) fn look(&mut self) {
        let sure = self.all.sure;
        self.drains.values_mut().for_each(|drain| drain.fewest = drain.fewest.min(sure));
        if self.receivers.values().any(|receiver| receiver.taking && !receiver.lingers) {
            for key in self.receivers.keys().copied().collect::<Vec<_>>() {
                let free = self.queued_for(key);
                let receiver = self.receivers.get_mut(&key).expect("just seen");
                receiver.fewest = receiver.fewest.min(free);
            }
        }
    }

    /// How many records wait for that receiver that no other may have in hand.
    fn queued_for(&self, key: u64) -> usize {
        let stage = self.receivers[&key].stage;
        let others = self.receivers.iter().filter(|(other, receiver)| {
            **other != key && receiver.stage == stage && (receiver.taking || receiver.lingers)
        });
        self.stages[stage].queued.saturating_sub(others.map(|(_, other)| other.max).sum())
    }

    pub(crate) fn new_key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn is_exhausted(&self, id: Id) -> bool {
        self.retry_limit.is_some_and(|limit| self.entries[id as usize].retries >= limit)
    }

    /// How long the backoff keeps a record away that is about to be returned.
    fn backoff(&self, id: Id) -> Duration {
        let Some((first, longest)) = self.backoff else { return Duration::ZERO };
        (0..self.entries[id as usize].retries).fold(first, |delay, _| longest.min(delay * 2))
    }

    /// A record is back in its stage, now or when it is due.
    fn come_back(&mut self, id: Id, stage: Option<usize>) {
        let is_due = self.entries[id as usize].due <= clock::elapsed();
        let state = match is_due {
            true => State::Queued,
            // One whose own code panics comes back at once.
            false if self.misfortunes > self.misfortunes_before => State::Somewhere,
            false => State::Delayed,
        };
        self.change(id, state, stage);
    }

    /// A record of these that is not due yet.
    pub(crate) fn early(&self, ids: &[Id]) -> Option<Id> {
        let is_early = |id: &Id| {
            let Entry { state, due, .. } = self.entries[*id as usize];
            matches!(state, State::Returning | State::Delayed) && due > clock::elapsed()
        };
        ids.iter().copied().find(is_early)
    }

    pub(crate) fn are_isolated(&self, ids: &[Id]) -> bool {
        ids.iter().any(|&id| self.entries[id as usize].isolated)
    }

    /// The last calls, the latest at the end.
    pub(crate) fn last_calls(&self) -> String {
        self.log.iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// Notes a call, to be shown when a check fails.
pub(crate) fn log(line: impl FnOnce() -> String) {
    with(|books| {
        let line = format!("{:?} {}", clock::elapsed(), line());
        if books.trace {
            println!("{line}");
        }
        line.hash(&mut books.digest);
        if books.log.len() == LAST_CALLS {
            books.log.pop_front();
        }
        books.log.push_back(line);
    });
}

/// Stands for all the calls so far: a seed always leads to the same.
pub(crate) fn digest() -> u64 {
    with(|books| books.digest.finish())
}

/// A call of the library's begins.
pub(crate) fn begin_call() {
    with(|books| books.misfortunes_before = books.misfortunes);
}

/// The time has passed, and every timer that is due has fired.
pub(crate) fn come_due() {
    with(|books| {
        while let Some(&(due, id)) = books.delayed.first()
            && due <= clock::elapsed()
        {
            books.delayed.pop_first();
            let entry = books.entries[id as usize];
            if (entry.state, entry.due) == (State::Delayed, due) {
                books.change(id, State::Queued, None);
            }
        }
    });
}

pub(crate) fn misfortune(what: &'static str) {
    with(|books| books.misfortunes += 1);
    log(|| format!("{what} panics"));
}

pub(crate) fn create(source: usize) -> Id {
    with(|books| {
        let (source, state, due) = (source as u32, State::Outside, Duration::ZERO);
        books.entries.push(Entry { source, stage: 0, retries: 0, state, due, isolated: false });
        books.live += 1;
        (books.entries.len() - 1) as Id
    })
}

/// From a record's drop.
pub(crate) fn dropped(id: Id) {
    with(|books| {
        // A record of a simulation that failed before.
        if (id as usize) < books.entries.len() {
            books.live -= 1;
            books.change(id, State::Dropped, None);
        }
    });
}

pub(crate) fn retried(id: Id) {
    with(|books| books.entries[id as usize].retries += 1);
}

fn change_if(ids: &[Id], from: &[State], to: State, stage: Option<usize>) {
    with(|books| {
        for &id in ids {
            if from.contains(&books.entries[id as usize].state) {
                books.change(id, to, stage);
            }
        }
    });
}

/// Records are given to a push.
pub(crate) fn offer(ids: &[Id]) {
    change_if(ids, &[State::Outside], State::Offered, None);
}

/// Those of them in one of these states are back in their stage, or in this one.
fn come_back(ids: &[Id], from: &[State], stage: Option<usize>) {
    with(|books| {
        for &id in ids {
            if from.contains(&books.entries[id as usize].state) {
                books.come_back(id, stage);
            }
        }
    });
}

/// Those that were offered and are still there were accepted. Another may have taken them since.
pub(crate) fn accepted(ids: &[Id], stage: usize) {
    come_back(ids, &[State::Offered], Some(stage));
}

pub(crate) fn refused(ids: impl IntoIterator<Item = Id>) {
    with(|books| ids.into_iter().for_each(|id| books.change(id, State::Outside, None)));
}

/// Records came out of a stage in a batch.
pub(crate) fn taken(ids: &[Id], stage: usize) {
    with(|books| ids.iter().for_each(|&id| books.change(id, State::InHand, Some(stage))));
}

/// Records are about to leave the buffer for the simulation's own hands, or have just done so.
pub(crate) fn leave(ids: &[Id]) {
    with(|books| ids.iter().for_each(|&id| books.change(id, State::Outside, None)));
}

/// Records are about to be returned, for as long as the backoff has it. Those that have no retries
/// left may die.
pub(crate) fn returning(ids: &[Id]) {
    returning_for(ids, Books::backoff);
}

/// The same, for that long.
pub(crate) fn returning_after(ids: &[Id], delay: Duration) {
    returning_for(ids, |_, _| delay);
}

fn returning_for(ids: &[Id], delay: impl Fn(&Books, Id) -> Duration) {
    with(|books| {
        for &id in ids {
            let exhausted = books.is_exhausted(id);
            let state = if exhausted { State::Dying } else { State::Returning };
            books.entries[id as usize].due = clock::elapsed() + delay(books, id);
            books.change(id, state, None);
        }
    });
}

/// The worker of these records is about to die.
pub(crate) fn isolate(ids: &[Id]) {
    with(|books| ids.iter().for_each(|&id| books.entries[id as usize].isolated = true));
}

/// Records are about to be put back as they are.
pub(crate) fn requeueing(ids: &[Id]) {
    with(|books| ids.iter().for_each(|&id| books.change(id, State::Returning, None)));
}

/// Records are about to be given up.
pub(crate) fn dying(ids: &[Id]) {
    with(|books| ids.iter().for_each(|&id| books.change(id, State::Dying, None)));
}

/// A settling is done: what is still there and not dead is in its stage, now or when it is due.
pub(crate) fn settled(ids: &[Id]) {
    let mine: &[State] =
        if clock::is_threaded() { &[State::Returning] } else { &[State::Returning, State::InHand] };
    come_back(ids, mine, None);
}

/// Records are about to be returned by name: they are taken in anew, or die.
pub(crate) fn offer_again(ids: &[Id], stage: usize) {
    with(|books| {
        for &id in ids {
            let state = if books.is_exhausted(id) { State::Dying } else { State::Offered };
            books.change(id, state, Some(stage));
            books.entries[id as usize].due = clock::elapsed() + books.backoff(id);
        }
    });
}

pub(crate) fn move_on(ids: &[Id]) {
    change_if(ids, &[State::InHand], State::Moving, None);
}

pub(crate) fn moved(ids: &[Id], stage: usize) {
    change_if(ids, &[State::Moving], State::Queued, Some(stage));
}

pub(crate) fn not_moved(ids: &[Id]) {
    change_if(ids, &[State::Moving], State::InHand, None);
}

/// A forward was cancelled, or user code panicked in it: the records are in one of the two stages, or dead.
pub(crate) fn move_failed(ids: &[Id]) {
    with(|books| {
        for &id in ids {
            if matches!(books.entries[id as usize].state, State::Moving | State::Returning) {
                let exhausted = books.is_exhausted(id);
                books.change(id, if exhausted { State::Dying } else { State::Somewhere }, None);
            }
        }
    });
}

pub(crate) fn promise(source: usize, stage: usize, records: isize) {
    with(|books| {
        let tallies = [&mut books.all, &mut books.sources[source], &mut books.stages[stage]];
        for tally in tallies {
            tally.promised = tally.promised.checked_add_signed(records).expect("no overflow");
        }
    });
}
