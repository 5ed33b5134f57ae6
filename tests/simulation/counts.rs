//! What the buffer says that it holds, against the books: between two calls on one thread, exactly.

use pollster::block_on;

use crate::books::{self, Books, Tally};
use crate::calls::Buffer;
use crate::checks::{check, raise};
use crate::clock;
use crate::watches::Request;

/// Where there are more requests than this, they are looked at less often, and fewer of them.
pub(crate) const MANY: usize = 384;

/// Whether it is too much to look at every name after every call.
const NAMES_A_LOOK: usize = 8;

/// What the buffer says that it holds.
pub(crate) struct Readings {
    pub(crate) all: usize,
    pub(crate) stages: Vec<usize>,
    pub(crate) sources: Vec<usize>,
    /// Of each stage: records that are not due yet.
    delayed: Vec<usize>,
    /// What is guaranteed to each source.
    guarantees: Vec<usize>,
    caps: [usize; 3],
}

pub(crate) fn stage_name(index: usize) -> String {
    format!("stage-{index}")
}

pub(crate) fn source_name(index: usize) -> String {
    format!("source-{index}")
}

impl Readings {
    pub(crate) fn new(buffer: &Buffer) -> Self {
        let Buffer { manager, plan } = buffer;
        // `remaining` leaves parked letters out, which hold what they held.
        let stage = |index| {
            let stage = manager.stage(&stage_name(index)).ok();
            stage.map_or((0, 0), |stage| {
                let delayed = stage.delayed();
                (stage.len() + stage.in_flight() + stage.reserved() + delayed, delayed)
            })
        };
        let (stages, delayed) = (0..plan.stages).map(stage).unzip();
        let source = |index| {
            let source = manager.source(&source_name(index)).ok();
            let used = source.map_or(0.0, |source| source.utilization());
            (used * plan.per_source as f64).round() as usize
        };
        Self {
            all: block_on(manager.get_total_buffered()),
            stages,
            sources: (0..plan.sources).map(source).collect(),
            delayed,
            guarantees: plan.guarantees.clone(),
            caps: [plan.total, plan.per_source, plan.per_stage],
        }
    }

    /// The caps at which a request lacks something: of all, of its source, of its stage.
    pub(crate) fn lacks(&self, request: &Request) -> [Option<usize>; 3] {
        let Request { source, stage, records, .. } = *request;
        let [all, own, here] = self.caps;
        let shared = |source: usize| {
            let others = self.guarantees.iter().sum::<usize>() - self.guarantees[source];
            let free = all.saturating_sub(self.all + self.guaranteed_to_others(source));
            (records > free).then_some(all - others)
        };
        [
            source.and_then(shared),
            source.is_some_and(|source| self.sources[source] + records > own).then_some(own),
            (self.stages[stage] + records > here).then_some(here),
        ]
    }

    /// What is guaranteed to a source, and not in use.
    fn unused(&self, source: usize) -> usize {
        self.guarantees[source].saturating_sub(self.sources[source])
    }

    /// What is guaranteed to other sources, and not in use.
    pub(crate) fn guaranteed_to_others(&self, source: usize) -> usize {
        (0..self.guarantees.len()).map(|it| self.unused(it)).sum::<usize>() - self.unused(source)
    }

    /// Whether a source has a guarantee that so many more records would not exceed.
    pub(crate) fn is_guaranteed(&self, source: usize, records: usize) -> bool {
        records <= self.unused(source)
    }

    pub(crate) fn fits(&self, request: &Request) -> bool {
        self.lacks(request) == [None; 3]
    }
}

/// Whether so much may be held for requests that were granted: they were woken, and not polled since. A request that
/// was not granted holds nothing.
fn is_granted(books: &Books, held: usize, matches: impl Fn(&Request) -> bool) -> bool {
    if held == 0 || books.requests.len() > MANY {
        return true;
    }
    let granted = books.requests.values().filter(|request| request.woken && matches(request));
    let sizes: Vec<usize> = granted.map(|request| request.records).collect();
    if held > sizes.iter().sum() || held > 127 {
        return held <= sizes.iter().sum();
    }
    // Bit n says that some of them together hold n.
    let sums =
        sizes.iter().fold(1u128, |sums, size| sums | sums.checked_shl(*size as u32).unwrap_or(0));
    sums >> held & 1 == 1
}

/// Checks every count, where nobody else is inside the library.
pub(crate) fn hold(buffer: &Buffer) {
    if clock::is_threaded() {
        return raise();
    }
    let plan = &buffer.plan;
    let names = plan.stages + plan.sources;
    let turn = books::with(|books| {
        books.looks += 1;
        books.looks
    });
    let total = block_on(buffer.manager.get_total_buffered());
    let letters = buffer.manager.dead_letters();
    let (letters, parked) = (letters.len(), letters.parked());
    books::with(|books| {
        let Tally { sure, dying, promised, .. } = books.all;
        let known = (sure + promised + dying).saturating_sub(letters);
        let granted = total.checked_sub(known);
        let exact =
            granted.is_some_and(|granted| is_granted(books, granted, |it| it.source.is_some()));
        check("counts", exact, || {
            format!(
                "the buffer says that it holds {total} records; it holds {known}, and {}",
                waiting(books)
            )
        });
        check("counts", letters + parked <= dying, || {
            format!("{letters} letters and {parked} parked, of {dying} that died")
        });
        check("caps", total <= plan.total, || format!("{total} of {} in the buffer", plan.total));
    });
    if turn % names.div_ceil(NAMES_A_LOOK) as u64 == 0 {
        let readings = Readings::new(buffer);
        books::with(|books| names_hold(books, &readings, letters == 0));
    }
    raise();
}

fn waiting(books: &Books) -> String {
    let woken: Vec<_> =
        books.requests.values().filter(|it| it.woken).map(|it| it.records).collect();
    format!("what may be granted to requests of {woken:?}, of {} that wait", books.requests.len())
}

/// The same for each stage and each source. `no_letters` tells that whatever died still holds what it held.
fn names_hold(books: &Books, readings: &Readings, no_letters: bool) {
    let [_, per_source, per_stage] = readings.caps;
    let places = books.stages.iter().zip(&readings.stages).enumerate();
    for (index, (tally, &held)) in places {
        let known = tally.sure + tally.moving + tally.promised;
        let of_this = |it: &Request| it.stage == index;
        let exact = is_exact(books, held, known, tally.dying, books.astray, no_letters, of_this);
        check("counts", exact, || {
            format!(
                "stage {index} says that it holds {held}: {tally:?}, {} astray, and {}",
                books.astray,
                waiting(books)
            )
        });
        check("caps", held <= per_stage, || format!("{held} of {per_stage} in stage {index}"));
        let (delayed, most) = (readings.delayed[index], tally.delayed + books.astray);
        check("counts", (tally.delayed..=most).contains(&delayed), || {
            format!(
                "stage {index} says that {delayed} are not due: {tally:?}, {} astray",
                books.astray
            )
        });
    }
    let credits = books.sources.iter().zip(&readings.sources).enumerate();
    for (index, (tally, &held)) in credits {
        let known = tally.sure + tally.promised;
        let of_this = |it: &Request| it.source == Some(index);
        let exact = is_exact(books, held, known, tally.dying, 0, no_letters, of_this);
        check("counts", exact, || {
            format!("source {index} says that it holds {held}: {tally:?}, and {}", waiting(books))
        });
        check("caps", held <= per_source, || format!("{held} of {per_source} of source {index}"));
    }
}

fn is_exact(
    books: &Books,
    held: usize,
    known: usize,
    dying: usize,
    astray: usize,
    no_letters: bool,
    matches: impl Fn(&Request) -> bool,
) -> bool {
    let least = if no_letters { known + dying } else { known };
    let most = known + dying + astray;
    (least..=most).any(|known| held >= known && is_granted(books, held - known, &matches))
}

/// On many threads: what is surely held is within the caps at every instant.
pub(crate) fn within_caps(buffer: &Buffer) {
    let plan = &buffer.plan;
    books::with(|books| {
        let all = books.all.sure + books.all.promised;
        check("caps", all <= plan.total, || format!("{all} of {} in the buffer", plan.total));
        for (tallies, cap, what) in
            [(&books.stages, plan.per_stage, "stage"), (&books.sources, plan.per_source, "source")]
        {
            for (index, tally) in tallies.iter().enumerate() {
                let held = tally.sure + tally.promised;
                check("caps", held <= cap, || format!("{held} of {cap} at {what} {index}"));
            }
        }
    });
}

/// At the end, with every record settled and received.
pub(crate) fn end(buffer: &Buffer) {
    let held = block_on(buffer.manager.get_total_buffered());
    let letters = buffer.manager.dead_letters();
    let remaining = buffer.manager.remaining();
    books::with(|books| {
        check("lost", books.all.sure + books.all.dying == 0, || {
            format!("{:?} are in the buffer, and nobody can get at them", books.all)
        });
        check("counts", held == 0 && remaining.is_empty() && letters.is_empty(), || {
            format!("all is settled, and the buffer says that it holds {held}: {remaining}")
        });
        let waiting = books.requests.len() + books.receivers.len() + books.drains.len();
        check("books", waiting == 0, || format!("{waiting} calls have not ended"));
    });
    raise();
}
