//! Counts for statistics. No protocol depends on them: see
//! [`docs::internals`](crate::docs::internals#counting).

use std::time::Duration;

use crate::error::RejectReason;
use crate::stats::{Counts, Refusals, Totals, Waits};
use crate::sync::{AtomicCount, Relaxed};

/// A count that several threads raise.
#[derive(Default)]
pub(crate) struct Counter(AtomicCount);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn add_some(&self, count: usize) {
        if count > 0 {
            self.add(count as u64);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Raises the count to a new reading, and returns the greater of both. A late reading does not
    /// lower it.
    fn raise(&self, reading: u64) -> u64 {
        self.0.fetch_max(reading, Relaxed).max(reading)
    }

    fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// What became of a stage's records: the counts that its word does not hold.
#[derive(Default)]
pub(crate) struct Flow {
    /// Places that were given back without a record.
    pub(crate) unused: Counter,
    pub(crate) forwarded_in: Counter,
    pub(crate) forwarded_out: Counter,
    /// Evicted records included.
    pub(crate) handed_out: Counter,
    pub(crate) evicted: Counter,
    pub(crate) retries_exhausted: Counter,
    pub(crate) rejected: Counter,
    pub(crate) expired: Counter,
    pub(crate) returned: Counter,
    pub(crate) delayed: Counter,
    pub(crate) requeued: Counter,
    /// The greatest readings so far of the derived counts.
    accepted: Counter,
    acknowledged: Counter,
}

impl Flow {
    /// Returns the counts. At one instant, `given` places had been given, and `released` of them
    /// released. At a later one, `reserved` places were taken for records to come.
    pub(super) fn counts(&self, given: u64, released: u64, reserved: u64) -> Counts {
        // Loaded after the arguments were: see `docs::internals`.
        let unused = self.unused.get();
        let counts = Counts {
            forwarded_in: self.forwarded_in.get(),
            forwarded_out: self.forwarded_out.get(),
            handed_out: self.handed_out.get(),
            evicted: self.evicted.get(),
            retries_exhausted: self.retries_exhausted.get(),
            rejected: self.rejected.get(),
            expired: self.expired.get(),
            returned: self.returned.get(),
            delayed: self.delayed.get(),
            requeued: self.requeued.get(),
            ..Counts::default()
        };
        let others = reserved + unused + counts.forwarded_in;
        let gone = unused + counts.handed_out + counts.forwarded_out + counts.dead_lettered();
        Counts {
            accepted: self.accepted.raise(given.saturating_sub(others)),
            acknowledged: self.acknowledged.raise(released.saturating_sub(gone)),
            ..counts
        }
    }
}

/// How often requests at a source or a stage were refused, and how long they waited.
#[derive(Default)]
pub(crate) struct Tally {
    source: Counter,
    global: Counter,
    stage: Counter,
    source_bytes: Counter,
    global_bytes: Counter,
    guaranteed: Counter,
    parked_letters: Counter,
    others_first: Counter,
    too_large: Counter,
    closed: Counter,
    waits: Counter,
    /// In nanoseconds.
    waited: Counter,
}

impl Tally {
    #[cold]
    pub(crate) fn count_refusal(&self, reason: &RejectReason) {
        let counter = match reason {
            RejectReason::SourceFull { .. } => &self.source,
            RejectReason::GlobalFull { .. } => &self.global,
            RejectReason::StageFull { .. } => &self.stage,
            RejectReason::SourceBytesFull { .. } => &self.source_bytes,
            RejectReason::GlobalBytesFull { .. } => &self.global_bytes,
            RejectReason::GuaranteedToOthers { .. } => &self.guaranteed,
            RejectReason::ParkedLetters { .. } => &self.parked_letters,
            RejectReason::OthersFirst { .. } => &self.others_first,
            RejectReason::TooLarge { .. } => &self.too_large,
            RejectReason::Closed => &self.closed,
            _ => return,
        };
        counter.add(1);
    }

    pub(crate) fn count_wait(&self, time: Duration) {
        self.waits.add(1);
        self.waited.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn refusals(&self) -> Refusals {
        Refusals {
            source: self.source.get(),
            global: self.global.get(),
            stage: self.stage.get(),
            source_bytes: self.source_bytes.get(),
            global_bytes: self.global_bytes.get(),
            guaranteed: self.guaranteed.get(),
            parked_letters: self.parked_letters.get(),
            others_first: self.others_first.get(),
            too_large: self.too_large.get(),
            closed: self.closed.get(),
        }
    }

    pub(crate) fn waits(&self) -> Waits {
        Waits { calls: self.waits.get(), time: Duration::from_nanos(self.waited.get()) }
    }

    pub(crate) fn add_to(&self, totals: &mut Totals) {
        totals.add_requests(self.refusals(), self.waits());
    }

    pub(super) fn reset(&self) {
        let Self {
            source,
            global,
            stage,
            source_bytes,
            global_bytes,
            guaranteed,
            parked_letters,
            others_first,
            too_large,
            closed,
            waits,
            waited,
        } = self;
        let caps = [source, global, stage, source_bytes, global_bytes, guaranteed];
        let others = [parked_letters, others_first, too_large, closed];
        caps.into_iter().chain(others).chain([waits, waited]).for_each(Counter::reset);
    }
}
