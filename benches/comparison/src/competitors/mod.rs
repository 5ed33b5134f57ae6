//! The competitors, each used as its documentation advises: by calls that never wait, and by calls
//! that wait where the workload is about these. The functions of this file list the rows of each
//! kind of table; a row is only what a user would choose for that work.
//!
//! Any number of threads may push, but for competitors that allow one: of a crate with several
//! kinds of channel, the one for many producers is used, and for one worker or many as the workload
//! requires.

pub mod channels;
pub mod conveyor;
pub mod disruptor;
#[cfg(feature = "conveyor-etl-buffer")]
pub mod etl;
pub mod fanring;
pub mod mutex;
pub mod rtrb;
pub mod tokio;

use std::fmt;

use crate::common::blocking::BlockingCompetitor;
use crate::common::work::Competitor;
use crate::common::{Medium, Sourced};

/// What a competitor is and which caps it holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Description {
    pub name: &'static str,
    /// The package whose version the report gives.
    pub package: &'static str,
    pub caps: Caps,
    /// How it is used.
    pub how: &'static str,
}

/// The caps that a competitor holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caps {
    /// On all records, each stage and each source, until a record is settled.
    UntilSettled,
    /// The same, until a record is taken.
    UntilTaken,
    /// Other caps than these three.
    #[cfg(feature = "conveyor-etl-buffer")]
    Partial(&'static str),
    /// The length of the queue alone.
    Length,
    /// The length of each producer's queue alone.
    LengthPerProducer,
}

impl Caps {
    /// Whether the global cap and those of stages and sources hold.
    pub fn all(self) -> bool {
        matches!(self, Self::UntilSettled | Self::UntilTaken)
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UntilSettled => "all three, until settled",
            Self::UntilTaken => "all three, until taken",
            #[cfg(feature = "conveyor-etl-buffer")]
            Self::Partial(which) => which,
            Self::Length => "only its length",
            Self::LengthPerProducer => "only its length, per producer",
        })
    }
}

/// A table that rows are added to.
pub trait Rows<R: Sourced> {
    /// Adds a row of competitor `C`. `variant` distinguishes the rows of one competitor.
    fn add<C>(&mut self, of: Description, variant: &'static str)
    where
        C: Competitor<R, Producer: 'static, Consumer: 'static> + 'static;
}

/// A table of calls that wait.
pub trait BlockingRows {
    fn add<C: BlockingCompetitor<Medium> + 'static>(
        &mut self,
        of: Description,
        variant: &'static str,
    );
}

/// One record in and out, then the next, on one thread. Gathering is no use here.
pub fn one_at_a_time<R: Sourced>(rows: &mut impl Rows<R>) {
    conveyor::one_at_a_time(rows);
    mutex::rows(rows);
    tokio::rows(rows);
    rtrb::rows(rows);
    disruptor::rows(rows);
    channels::ring(rows);
    channels::rows(rows);
    channels::crossfire_single(rows);
    fanring::mpsc(rows);
}

/// Single records of one producer, taken by the hundred by one worker.
pub fn one_to_one<R: Sourced>(rows: &mut impl Rows<R>) {
    conveyor::singles(rows);
    mutex::singles(rows);
    tokio::rows(rows);
    rtrb::rows(rows);
    disruptor::rows(rows);
    channels::ring(rows);
    channels::rows(rows);
    channels::crossfire_single(rows);
    fanring::mpsc_singles(rows);
}

/// Single records of several producers, taken by the hundred by several workers.
pub fn many_to_many<R: Sourced>(rows: &mut impl Rows<R>) {
    conveyor::singles(rows);
    mutex::singles(rows);
    tokio::rows(rows);
    channels::ring(rows);
    channels::rows(rows);
    channels::crossfire(rows);
    fanring::mpmc(rows);
}

/// Batches of one producer and one worker.
pub fn batches_one_to_one<R: Sourced>(rows: &mut impl Rows<R>) {
    conveyor::batches(rows);
    mutex::rows(rows);
    tokio::rows(rows);
    rtrb::rows(rows);
    channels::ring(rows);
    channels::rows(rows);
    channels::crossfire_single(rows);
    fanring::mpsc(rows);
}

/// Batches of several producers, taken by several workers.
pub fn batches_many_to_many<R: Sourced>(rows: &mut impl Rows<R>) {
    conveyor::batches(rows);
    mutex::rows(rows);
    tokio::rows(rows);
    channels::ring(rows);
    channels::rows(rows);
    channels::crossfire(rows);
    fanring::mpmc(rows);
}

/// Competitors that hold all three caps, for work with many sources and stages.
pub fn with_all_caps<R: Sourced>(rows: &mut impl Rows<R>) {
    conveyor::one_at_a_time(rows);
    mutex::rows(rows);
    tokio::rows(rows);
}

/// Single records by calls that wait, one producer and one worker.
pub fn blocking_one_to_one(rows: &mut impl BlockingRows) {
    conveyor::blocking(rows);
    mutex::blocking(rows);
    tokio::blocking(rows);
    channels::blocking(rows);
    channels::blocking_crossfire_single(rows);
    fanring::blocking_mpsc(rows);
}

/// Single records by calls that wait, several producers and workers.
pub fn blocking_many_to_many(rows: &mut impl BlockingRows) {
    conveyor::blocking(rows);
    mutex::blocking(rows);
    tokio::blocking(rows);
    channels::blocking(rows);
    channels::blocking_crossfire(rows);
    fanring::blocking_mpmc(rows);
}

/// The latency of single records at a fixed rate, one producer and one worker.
pub fn latency(rows: &mut impl Rows<Medium>) {
    conveyor::singles(rows);
    mutex::singles(rows);
    tokio::rows(rows);
    rtrb::rows(rows);
}

/// The wake-up of a worker that waits for single records as they come.
pub fn wake_up(rows: &mut impl BlockingRows) {
    conveyor::blocking_as_it_comes(rows);
    mutex::blocking_as_it_comes(rows);
    tokio::blocking(rows);
    channels::blocking(rows);
    channels::blocking_crossfire_single(rows);
    fanring::blocking_mpsc(rows);
}

/// The producer and the consumer of a queue that has one of each, until they are handed out.
type Ends<P, C> = (Option<P>, Option<C>);

/// Takes records one by one, up to `max`.
fn take_each<R>(max: usize, mut take: impl FnMut() -> Option<R>, mut see: impl FnMut(&R)) -> usize {
    let mut taken = 0;
    while taken < max
        && let Some(record) = take()
    {
        see(&record);
        taken += 1;
    }
    taken
}

/// Shows records to `see` and drops them. The `Vec` keeps its allocation.
fn see_all<R>(records: &mut Vec<R>, mut see: impl FnMut(&R)) -> usize {
    let taken = records.len();
    for record in records.drain(..) {
        see(&record);
    }
    taken
}

/// Returns the source and the length of each run of records of one source.
fn runs<R: crate::common::Sourced>(records: &[R]) -> impl Iterator<Item = (usize, usize)> {
    let runs = records.chunk_by(|one, other| one.source() == other.source());
    runs.map(|run| (run[0].source() as usize, run.len()))
}

#[cfg(test)]
mod tests {
    use crate::common::blocking::BlockingCompetitor;
    use crate::common::conveyor::Conveyor;
    use crate::common::work::{
        Competitor, Consume, Flow, GLOBAL_CAP, Produce, SOURCE_CAP, STAGE_CAP,
    };
    use crate::common::{BATCH, Medium};

    use super::channels::{
        AsyncChannel, Crossbeam, Crossfire, CrossfireSingle, Flume, Kanal, Rings,
    };
    use super::disruptor::Disruptor;
    use super::fanring::{Deferred, Fanring, FanringMany};
    use super::mutex::{Gathering, Locked, Settled};
    use super::rtrb::Rtrb;
    use super::tokio::Tokio;

    /// A record with a mark of its own.
    fn marked(source: usize, mark: u8) -> Medium {
        let mut record = Medium::of(source as u32);
        record.payload[0] = mark;
        record
    }

    fn full(producer: &mut impl Produce<Medium>, source: usize) -> usize {
        (0..).take_while(|_| producer.push(marked(source, 0)).is_ok()).count()
    }

    /// The cap that is reached first refuses, and records that are taken make room again.
    fn holds_all_caps<C: Competitor<Medium>>() {
        let mut competitor = C::new(3, 1, 1);
        let mut producers: Vec<_> = (0..3).map(|source| competitor.producer(source, 0)).collect();
        let mut worker = competitor.consumer(0);
        assert_eq!(full(&mut producers[0], 0), SOURCE_CAP);
        assert_eq!(full(&mut producers[1], 1), STAGE_CAP - SOURCE_CAP);
        assert_eq!(full(&mut producers[2], 2), 0, "the stage is full");
        assert_eq!(worker.take(BATCH, |_| ()), BATCH);
        assert_eq!(full(&mut producers[0], 0), BATCH);
        assert_eq!(worker.take(1, |_| ()), 1);
        let mut records: Vec<_> = (0..BATCH).map(|_| marked(0, 0)).collect();
        producers[0].push_batch(&mut records);
        assert_eq!(records.len(), BATCH - 1, "one fitted");

        let (sources, stages) = (GLOBAL_CAP / SOURCE_CAP + 1, 11);
        let mut competitor = C::new(sources, stages, 1);
        let pushed: usize = (0..sources - 1)
            .map(|source| full(&mut competitor.producer(source, source / 2), source))
            .sum();
        assert_eq!(pushed, GLOBAL_CAP);
        let mut last = competitor.producer(sources - 1, stages - 1);
        assert_eq!(full(&mut last, sources - 1), 0, "all is full");
        let mut records = Vec::new();
        competitor.consumer(0).take_into(BATCH, &mut records);
        assert_eq!(records.len(), BATCH);
        assert_eq!(full(&mut last, sources - 1), BATCH);
    }

    /// Records come out once and in order, whether they went in one by one or as a batch.
    fn passes_records_on<C: Competitor<Medium>>(workers: usize) {
        let mut competitor = C::new(1, 1, workers);
        let mut producer = competitor.producer(0, 0);
        let mut worker = competitor.consumer(0);
        for mark in 0..3 {
            assert!(producer.push(marked(0, mark)).is_ok());
        }
        producer.flush();
        let mut records: Vec<_> = (3..BATCH as u8).map(|mark| marked(0, mark)).collect();
        producer.push_batch(&mut records);
        assert!(records.is_empty());

        let mut marks = Vec::new();
        assert_eq!(worker.take(1, |record| marks.push(record.payload[0])), 1);
        let rest = BATCH - 1;
        assert_eq!(worker.take(rest, |record| marks.push(record.payload[0])), rest);
        assert_eq!(worker.take(BATCH, |_| ()), 0);
        assert_eq!(marks, (0..BATCH as u8).collect::<Vec<_>>());
    }

    /// Records move out in order, and refused records remain in theirs.
    fn passes_batches_on<C: Competitor<Medium>>(workers: usize) {
        passes_records_on::<C>(workers);
        let mut competitor = C::new(1, 1, workers);
        let mut producer = competitor.producer(0, 0);
        let mut worker = competitor.consumer(0);
        let mut records: Vec<_> = (0..BATCH as u8).map(|mark| marked(0, mark)).collect();
        producer.push_batch(&mut records);
        worker.take_into(BATCH, &mut records);
        let marks: Vec<_> = records.iter().map(|record| record.payload[0]).collect();
        assert_eq!(marks, (0..BATCH as u8).collect::<Vec<_>>());

        let pushed = full(&mut producer, 0);
        producer.push_batch(&mut records);
        assert_eq!(records.len(), BATCH);
        assert!(records.iter().map(|record| record.payload[0]).eq(0..BATCH as u8));
        let mut taken = 0;
        while taken < pushed {
            taken += worker.take(BATCH, |_| ());
        }
        assert_eq!(taken, pushed);
    }

    /// All records come out and all threads end, whichever side waits.
    fn ends<C: BlockingCompetitor<Medium>>(producers: usize, workers: usize) {
        Flow::at_one_stage(producers, workers, 1).run_blocking::<Medium, C>(30_000);
    }

    #[test]
    fn competitors_with_all_caps_hold_them() {
        holds_all_caps::<Conveyor<Medium>>();
        holds_all_caps::<Locked<Medium>>();
        holds_all_caps::<Settled<Medium>>();
        holds_all_caps::<Gathering<Medium>>();
        holds_all_caps::<Tokio<Medium>>();
    }

    #[test]
    fn records_come_out_once_and_in_order() {
        passes_batches_on::<Conveyor<Medium>>(1);
        passes_batches_on::<Rings<Medium>>(1);
        passes_batches_on::<Locked<Medium>>(1);
        passes_batches_on::<Settled<Medium>>(1);
        passes_batches_on::<Gathering<Medium>>(1);
        passes_batches_on::<Tokio<Medium>>(1);
        passes_batches_on::<Tokio<Medium>>(2);
        passes_batches_on::<Crossbeam<Medium>>(1);
        passes_batches_on::<Flume<Medium>>(1);
        passes_batches_on::<Kanal<Medium>>(1);
        passes_batches_on::<AsyncChannel<Medium>>(1);
        passes_batches_on::<CrossfireSingle<Medium>>(1);
        passes_batches_on::<Crossfire<Medium>>(2);
        passes_batches_on::<Fanring<Medium>>(1);
        passes_batches_on::<Deferred<Medium>>(1);
        passes_batches_on::<FanringMany<Medium>>(2);
        passes_batches_on::<Rtrb<Medium>>(1);
        passes_records_on::<Disruptor<Medium>>(1);
    }

    #[test]
    fn calls_that_wait_pass_on_all_records_and_end() {
        ends::<Conveyor<Medium>>(2, 2);
        ends::<Conveyor<Medium, true>>(2, 2);
        ends::<Locked<Medium>>(2, 2);
        ends::<Locked<Medium, false, true>>(2, 2);
        ends::<Settled<Medium>>(2, 2);
        ends::<Settled<Medium, true>>(2, 2);
        ends::<Gathering<Medium>>(2, 2);
        ends::<Gathering<Medium, true>>(2, 2);
        ends::<Tokio<Medium>>(1, 1);
        ends::<Tokio<Medium>>(2, 2);
        ends::<Crossbeam<Medium>>(2, 2);
        ends::<Flume<Medium>>(2, 2);
        ends::<Kanal<Medium>>(2, 2);
        ends::<AsyncChannel<Medium>>(2, 2);
        ends::<CrossfireSingle<Medium>>(2, 1);
        ends::<Crossfire<Medium>>(2, 2);
        ends::<Fanring<Medium>>(2, 1);
        ends::<FanringMany<Medium>>(2, 2);
    }
}
