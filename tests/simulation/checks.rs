//! The invariants of the design, held against the books. Each check has a name, which its failure begins with.

use std::cell::{Cell, RefCell};
use std::sync::LazyLock;

use crate::api::RejectReason;
use crate::books::{self, Id};
use crate::calls::{Buffer, Got};
use crate::clock;
use crate::counts::Readings;
use crate::sync::Cost;

/// A call takes at most so many steps, more for each record that it handles or request that it grants, and one for
/// each account that it may have to look at.
const STEPS: u64 = 400;
const STEPS_A_RECORD: u64 = 60;
const STEPS_A_WAKE: u64 = 120;
const STEPS_A_SOURCE: u64 = 8;
/// And holds a lock for at most so many of them, whatever the call.
const STEPS_IN_A_LOCK: u64 = 5_000;
/// A refusal that follows another.
const STEPS_A_REFUSAL: u64 = 100;

thread_local! {
    /// What has failed since the last look.
    static COMPLAINTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Whether the last call was a refused push.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// `SIMULATION_SKIP=served,steps` leaves these checks out, so that others are seen.
static SKIPPED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names = std::env::var("SIMULATION_SKIP").unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
});

pub(crate) fn reset() {
    COMPLAINTS.take();
    REFUSED.set(false);
}

/// Notes that a check failed. It ends the simulation when the call that is under way is done.
pub(crate) fn complain(check: &str, what: impl FnOnce() -> String) {
    if !SKIPPED.iter().any(|skipped| skipped == check) {
        COMPLAINTS.with_borrow_mut(|complaints| complaints.push(format!("{check}: {}", what())));
    }
}

pub(crate) fn check(name: &str, holds: bool, what: impl FnOnce() -> String) {
    if !holds {
        complain(name, what);
    }
}

/// Ends the simulation if a check has failed.
pub(crate) fn raise() {
    let complaints = COMPLAINTS.take();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Nothing is left to happen, and some still wait.
pub(crate) fn stuck() -> ! {
    let waiting = books::with(|books| {
        let (requests, receivers) = (&books.requests, &books.receivers);
        format!("{requests:?} {receivers:?} {:?}; held {:?}", books.drains, books.all)
    });
    raise();
    panic!("stuck: after a close, nothing more happens and some still wait: {waiting}");
}

/// What a call has cost on one thread, for `size` records and the wake-ups that it made.
pub(crate) fn cost(what: &str, size: usize, wakes: u64, cost: Cost, sources: usize) {
    let most = STEPS
        + STEPS_A_RECORD * size as u64
        + STEPS_A_WAKE * wakes
        + STEPS_A_SOURCE * sources as u64;
    // These say how much they do.
    let is_large = matches!(what, "close" | "remaining" | "name");
    check("steps", is_large || cost.steps <= most, || {
        format!(
            "{what} of {size} records, which woke {wakes}, took {} steps; at most {most}",
            cost.steps
        )
    });
    let most = STEPS_IN_A_LOCK + if is_large { 0 } else { STEPS_A_RECORD * size as u64 };
    check("lock", cost.longest_hold <= most, || {
        format!("{what} of {size} records held a lock for {} steps", cost.longest_hold)
    });
}

/// A push without waiting was refused, or not.
pub(crate) fn refused_again(refused: bool, cost: Cost) {
    let again = REFUSED.replace(refused) && refused;
    check("steps", !again || cost.steps <= STEPS_A_REFUSAL, || {
        format!("a refusal right after another took {} steps", cost.steps)
    });
}

/// Any other call came in between.
pub(crate) fn other_call() {
    REFUSED.set(false);
}

/// A refusal names a limit that is reached. On many threads it may be outdated.
pub(crate) fn refusal(
    buffer: &Buffer,
    source: usize,
    stage: usize,
    records: usize,
    reason: &RejectReason,
) {
    let plan = &buffer.plan;
    let is_global = match reason {
        RejectReason::GlobalFull { .. } | RejectReason::GuaranteedToOthers { .. } => true,
        RejectReason::OthersFirst { limit } | RejectReason::ParkedLetters { limit, .. } => {
            limit == "the buffer"
        }
        _ => false,
    };
    if clock::is_threaded() {
        // Nothing but its own cap could refuse it.
        let guaranteed = plan.guarantees[source] == plan.per_source;
        return check("guarantee", !(is_global && guaranteed), || {
            format!("{records} records of source {source}, all guaranteed, refused: {reason}")
        });
    }
    let readings = Readings::new(buffer);
    check("guarantee", !(is_global && readings.is_guaranteed(source, records)), || {
        format!("{records} records within the guarantee of source {source} refused: {reason}")
    });
    let reached = |held: usize, capacity: usize, cap: usize, actual: usize| {
        capacity == cap && held + records > cap && held == actual
    };
    // What is left of all may be theirs alone.
    let others = readings.guaranteed_to_others(source);
    let honest = match *reason {
        RejectReason::GlobalFull { held, capacity } => {
            reached(held, capacity, plan.total, readings.all)
        }
        RejectReason::SourceFull { held, capacity, .. } => {
            reached(held, capacity, plan.per_source, readings.sources[source])
        }
        RejectReason::StageFull { held, capacity, .. } => {
            reached(held, capacity, plan.per_stage, readings.stages[stage])
        }
        RejectReason::TooLarge { records, capacity, .. } => records > capacity,
        RejectReason::ParkedLetters { held, capacity, parked, .. } => {
            let here = [
                (readings.all, plan.total),
                (readings.sources[source], plan.per_source),
                (readings.stages[stage], plan.per_stage),
            ];
            let some = |(actual, cap)| reached(held, capacity, cap, actual);
            let guaranteed = held == readings.all && held + others + records > plan.total;
            (1..=buffer.manager.dead_letters().parked()).contains(&parked)
                && (here.into_iter().any(some) || is_global && guaranteed)
        }
        RejectReason::GuaranteedToOthers { held, capacity, guaranteed } => {
            reached(held + others, capacity, plan.total, readings.all + others)
                && guaranteed >= others
        }
        // Also of a name that was removed.
        RejectReason::Closed => true,
        // The turn of others.
        _ => books::with(|books| !books.requests.is_empty()),
    };
    check("refusal", honest, || format!("{records} records refused: {reason}"));
}

/// Records were handed out: none before it is due.
pub(crate) fn due(ids: &[Id]) {
    let early = books::with(|books| books.early(ids));
    check("due", early.is_none(), || format!("record {early:?} is not due yet, and is handed out"));
}

/// Records were handed out as a batch. One that a worker died with comes alone.
pub(crate) fn alone(ids: &[Id]) {
    let isolated = ids.len() > 1 && books::with(|books| books.are_isolated(ids));
    check("isolated", !isolated, || format!("an isolated record comes with others: {ids:?}"));
}

/// A push that began after a close had returned was accepted, or not.
pub(crate) fn accepted_after_close(was_closed: bool, accepted: usize) {
    check("closed", !was_closed || accepted == 0, || {
        format!("{accepted} records were accepted by a push that began after close had returned")
    });
}

/// A call that takes was told that nothing is there.
pub(crate) fn empty(what: &str, stage: usize, fewest: usize) {
    check("empty", fewest == 0, || {
        format!(
            "{what} says that stage {stage} is empty, while at least {fewest} records waited that no other call took"
        )
    });
}

/// A worker was told that nothing will come any more. Its call began when the stage had been removed so often.
pub(crate) fn told_closed(what: &str, stage: usize, removed: usize) -> Got {
    books::with(|books| {
        if books.stages_removed[stage] != removed {
            return Got::Removed;
        }
        let here = books.stages[stage].sure;
        let stage_closed = books.stages_closed[stage];
        let all = books.all.sure;
        let right = here == 0 && (stage_closed || books.close_begun && all == 0);
        check("drained", right, || {
            format!(
                "{what} says that stage {stage} is closed: {here} records are unsettled there, {all} in all; close begun: {}, of the stage: {stage_closed}",
                books.close_begun
            )
        });
        Got::Closed
    })
}

/// A drain ended, and so many records were unsettled all the time.
pub(crate) fn drained(what: &str, fewest: usize) {
    check("drained", fewest == 0, || {
        format!("{what} says that all is settled, while at least {fewest} records were not")
    });
}

/// After a close and a drain nothing is held but by parked letters.
pub(crate) fn nothing_remains(buffer: &Buffer) {
    let closed = books::with(|books| books.close_returned && books.all.dying == 0);
    if closed {
        let remaining = buffer.manager.remaining();
        let dying = books::with(|books| books.all.dying);
        check("drained", dying > 0 || remaining.is_empty(), || {
            format!("after close and drain: {remaining}")
        });
    }
}
