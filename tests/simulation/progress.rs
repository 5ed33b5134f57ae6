//! Whoever waits is served: what fits goes on, and neither a slow worker nor a future that nobody polls keeps others
//! out for long.

use std::cell::RefCell;
use std::time::Duration;

use crate::books::{self, Books};
use crate::calls::Buffer;
use crate::checks::{check, raise};
use crate::clock;
use crate::counts::{MANY, Readings};
use crate::watches::Request;

/// A request that waits, and is polled when it is woken, is granted before so many records were given up where it
/// lacked something: for the turns in which others may pass it, and their doublings; and for each request beside
/// it, all that the cap can hold a few times.
const MOST_PROGRESS: u64 = 3_000;
const CAPS_A_RIVAL: u64 = 4;

/// A request that would fit is not kept out for longer than this, and the longest pause between two settlings so
/// many times: for as long may a barrier stand.
const MOST_KEPT_OUT: Duration = Duration::from_secs(60);
const PAUSES: u32 = 16;

/// Of the requests that wait, so many are watched.
const WATCHED: usize = 48;

thread_local! {
    /// Since when pushes of a source to a stage are refused though they would fit.
    static KEPT_OUT: RefCell<Vec<((usize, usize), Duration)>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn reset() {
    KEPT_OUT.take();
}

fn most_kept_out(books: &Books) -> Duration {
    MOST_KEPT_OUT + books.longest_gap * PAUSES
}

/// A `try_send` was refused or accepted: it may not be refused for long while it would fit.
pub(crate) fn tried(buffer: &Buffer, source: usize, stage: usize, refused: bool) {
    let one = Request::new(Some(source), stage, 1);
    let readings = Readings::new(buffer);
    let fits = refused
        && readings.fits(&one)
        && books::with(|books| !waits_its_turn(books, &readings, &one, u64::MAX));
    let most = books::with(|books| most_kept_out(books));
    let place = (source, stage);
    KEPT_OUT.with_borrow_mut(|kept_out| {
        if !fits {
            return kept_out.retain(|(other, _)| *other != place);
        }
        let Some((_, since)) = kept_out.iter().find(|(other, _)| *other == place) else {
            return kept_out.push((place, clock::elapsed()));
        };
        let time = clock::elapsed() - *since;
        check("kept out", time <= most, || {
            format!("try_send of source {source} to stage {stage} has had room for {time:?}, and is refused")
        });
    });
}

/// Whether a request waits for which there is room.
pub(crate) fn somebody_fits(buffer: &Buffer) -> bool {
    let readings = Readings::new(buffer);
    books::with(|books| {
        let mut waiting = books.requests.values().take(WATCHED);
        waiting.any(|request| !request.woken && readings.fits(request))
    })
}

/// Before the time passes on one thread: all that were woken have been polled, except those that are polled late
/// or never. Whoever waits has something to wait for, and not for ever.
pub(crate) fn at_rest(buffer: &Buffer) {
    let (waiting, turn) = books::with(|books| {
        books.rests += 1;
        (books.requests.len(), books.rests)
    });
    if waiting > 0 && (waiting <= MANY || turn % (waiting as u64 / 8) == 0) {
        let readings = Readings::new(buffer);
        books::with(|books| requests_wait_in_vain(books, &readings));
    }
    let letters = buffer.manager.dead_letters();
    let letters = letters.len() + letters.parked();
    books::with(|books| {
        // Those that were to die may live, where user code panicked.
        let all = books.all;
        let settled = all.sure + all.promised == 0 && all.dying == letters;
        receivers_wait_in_vain(books, settled, all.dying == letters);
        let some_wait = settled && books.drains.values().any(|drain| !drain.woken);
        let forgotten = some_wait && books.requests.values().all(|request| !request.woken);
        check("woken", !forgotten, || "all is settled, and a drain waits on".to_owned());
    });
    raise();
}

fn requests_wait_in_vain(books: &mut Books, readings: &Readings) {
    let most_kept_out = most_kept_out(books);
    let waiting = books.requests.len();
    let granted = books.requests.values().filter(|request| request.woken);
    let granted: usize = granted.map(|request| request.records).sum();
    let watched = if waiting > MANY { 2 } else { WATCHED };
    let keys: Vec<u64> = books.requests.keys().take(watched).copied().collect();
    for key in keys {
        let request = books.requests[&key].clone();
        let lacks = readings.lacks(&request);
        let fits = lacks == [None; 3] && !request.woken;
        check("woken", !fits || books.close_begun || is_in_the_way(books, readings, key), || {
            let others: Vec<_> = books.requests.values().take(6).collect();
            format!("{request} fits, nobody is in its way, and it waits on; {others:?}")
        });
        let its_turn_is_later = waits_its_turn(books, readings, &request, key);
        let closed = books.close_returned && request.source.is_some();
        check("woken", !closed || request.woken, || {
            format!("the buffer is closed, and {request} waits on")
        });
        let freed = [
            books.all.freed,
            request.source.map_or(0, |source| books.sources[source].freed),
            books.stages[request.stage].freed,
        ];
        let progress = (0..3).filter(|&cap| lacks[cap].is_some());
        let progress = progress.map(|cap| freed[cap] - request.seen[cap]).max().unwrap_or(0);
        let entry = books.requests.get_mut(&key).expect("just seen");
        entry.seen = freed;
        entry.rivals = entry.rivals.max(waiting - 1);
        entry.cap = entry.cap.max(lacks.into_iter().flatten().max().unwrap_or(0));
        // What was granted to those that are never polled again may leave no room for it.
        if request.woken || entry.cap > 0 && request.records + granted > entry.cap {
            (entry.progress, entry.fits_since) = (0, None);
            continue;
        }
        entry.progress += progress;
        let most = MOST_PROGRESS + CAPS_A_RIVAL * entry.cap as u64 * (entry.rivals as u64 + 1);
        check("served", entry.progress <= most, || {
            format!(
                "{entry} is not served after {} were given up where it lacks something",
                entry.progress
            )
        });
        if !fits || its_turn_is_later {
            entry.fits_since = None;
            continue;
        }
        let since = *entry.fits_since.get_or_insert(clock::elapsed());
        // As it is now, it stays until the next timer.
        let time = clock::next_due().unwrap_or(clock::elapsed()) - since;
        check("kept out", time <= most_kept_out, || {
            format!("{entry} has had room for {time:?}, and waits on")
        });
    }
}

/// Whether an older request of the same source and stage lacks something: those are served first come, first served.
fn waits_its_turn(books: &Books, readings: &Readings, request: &Request, key: u64) -> bool {
    let mut older = books.requests.range(..key).map(|(_, older)| older);
    older.any(|older| {
        let same_line = older.source == request.source && older.stage == request.stage;
        same_line && !older.woken && !readings.fits(older)
    })
}

/// Whether another holds up a request that fits: an older one of its source and stage, one that was woken and not
/// polled since, or one that lacks something, and may have reserved, at each of its caps, what it needs there.
fn is_in_the_way(books: &Books, readings: &Readings, key: u64) -> bool {
    let request = &books.requests[&key];
    let Request { source, stage, records, .. } = *request;
    books.requests.iter().any(|(other, rival)| {
        let same_source = source.is_some() && rival.source == source;
        let same_stage = rival.stage == stage;
        let both_need_credits = source.is_some() && rival.source.is_some();
        let is_older = *other < key && rival.source == source && same_stage;
        let both = Request { records: records + rival.records, ..request.clone() };
        let [all, own, here] = readings.lacks(&both).map(|cap| cap.is_some());
        // Nothing of what others reserve of all is guaranteed to it.
        let all = all && source.is_some_and(|source| !readings.is_guaranteed(source, records));
        let no_room_for_both = all && both_need_credits || own && same_source || here && same_stage;
        let may_reserve = readings.lacks(rival) != [None; 3] && no_room_for_both;
        *other != key && (is_older || rival.woken || may_reserve)
    })
}

/// `settled` tells that every record is; `all_died` that those that were to die are dead letters.
fn receivers_wait_in_vain(books: &Books, settled: bool, all_died: bool) {
    for (index, tally) in books.stages.iter().enumerate() {
        let removed = books.stages_removed[index];
        let here = books.receivers.values();
        let mut here = here.filter(|it| it.stage == index && it.removed == removed);
        let some_wait = here.clone().any(|it| !it.woken && !it.lingers);
        let some_come = here.any(|it| it.woken || it.lingers);
        check("woken", !(some_wait && !some_come && tally.queued > 0), || {
            format!(
                "{} records wait in stage {index}, and so does a worker, which nobody has woken",
                tally.queued
            )
        });
        let nothing_is_granted = |stage: Option<usize>| {
            let mut granted = books.requests.values().filter(|it| it.woken);
            granted.all(|it| stage.is_some_and(|stage| stage != it.stage))
        };
        let empty = tally.sure + tally.moving + tally.promised + books.astray == 0;
        let here_is_over = books.stages_closed[index] && empty && all_died;
        let over = here_is_over && nothing_is_granted(Some(index))
            || books.close_returned && settled && nothing_is_granted(None);
        check("woken", !(some_wait && over), || {
            format!("stage {index} is closed and nothing is left in it, and a worker waits on")
        });
    }
}
