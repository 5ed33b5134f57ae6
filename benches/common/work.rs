//! The work that is timed, for anything that records can be pushed to and taken from.
//!
//! All of it uses calls that never wait: those that do are in `waits.rs`. What is timed is the buffer,
//! not how a thread is put to sleep; a thread that finds nothing to do backs off in the same way for
//! all contenders.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;

use super::{BATCH, Sourced};

/// A buffer under test. Its caps, where it has them, are the defaults of the library.
pub trait Contender<R: Sourced>: Sized {
    type Producer: Producer<R>;
    type Worker: Worker<R>;

    /// An empty buffer for as many sources and stages, each stage drained by as many threads.
    fn new(sources: usize, stages: usize, workers: usize) -> Self;
    /// The way from a source to a stage.
    fn producer(&mut self, source: usize, stage: usize) -> Self::Producer;
    /// A way out of a stage.
    fn worker(&mut self, stage: usize) -> Self::Worker;
}

/// The way from one source into one stage.
pub trait Producer<R>: Send {
    /// Pushes one record, or hands it back.
    fn push(&mut self, record: R) -> Result<(), R>;

    /// Pushes records together, and leaves those that were refused.
    fn push_batch(&mut self, records: &mut Vec<R>);
}

/// The way out of one stage.
pub trait Worker<R>: Send {
    /// Takes up to `max` records, shows each to `see`, and settles them. Tells how many.
    fn take(&mut self, max: usize, see: impl FnMut(&mut R)) -> usize;

    /// Takes up to `max` records for good. `records` is empty, and what it has allocated may be used.
    fn take_into(&mut self, max: usize, records: &mut Vec<R>);
}

/// The caps that all contenders with caps keep: the defaults of the library.
pub const GLOBAL_CAP: usize = 100_000;
pub const STAGE_CAP: usize = 10_000;
pub const SOURCE_CAP: usize = 5_000;

/// One thread puts a record in and takes it out again.
pub fn one_at_a_time<R: Sourced, C: Contender<R>>() -> impl FnMut(u64) -> Duration {
    let mut contender = C::new(1, 1, 1);
    let (mut producer, mut worker) = (contender.producer(0, 0), contender.worker(0));
    let mut step = move || {
        assert!(producer.push(black_box(R::of(0))).is_ok());
        assert!(worker.take(1, |record| _ = black_box(record)) == 1);
    };
    // Once around the ring, so that its memory is there.
    (0..STAGE_CAP).for_each(|_| step());
    move |records| {
        let start = Instant::now();
        (0..records).for_each(|_| step());
        start.elapsed()
    }
}

/// One thread puts 100 records in and takes them out again, as one batch where there is such a thing.
/// The records go round, and so does their `Vec`.
pub fn batches<R: Sourced, C: Contender<R>>() -> impl FnMut(u64) -> Duration {
    let mut contender = C::new(1, 1, 1);
    let (mut producer, mut worker) = (contender.producer(0, 0), contender.worker(0));
    let mut records: Vec<R> = (0..BATCH).map(|_| R::of(0)).collect();
    let mut step = move || {
        producer.push_batch(&mut records);
        assert!(records.is_empty());
        worker.take_into(BATCH, &mut records);
        assert!(black_box(&records).len() == BATCH);
    };
    (0..STAGE_CAP / 10).for_each(|_| step());
    move |records| {
        let start = Instant::now();
        (0..records / BATCH as u64).for_each(|_| step());
        start.elapsed()
    }
}

/// One thread puts a record in and takes it out, each from the next source to the next stage. The
/// number of sources is a multiple of the number of stages.
pub fn round_robin<R: Sourced, C: Contender<R>>(
    sources: usize,
    stages: usize,
) -> impl FnMut(u64) -> Duration {
    let mut contender = C::new(sources, stages, 1);
    let mut producers: Vec<_> =
        (0..sources).map(|source| contender.producer(source, source % stages)).collect();
    let mut workers: Vec<_> = (0..stages).map(|stage| contender.worker(stage)).collect();
    let (mut source, mut stage) = (0, 0);
    let mut step = move || {
        assert!(producers[source].push(black_box(R::of(source as u32))).is_ok());
        assert!(workers[stage].take(1, |record| _ = black_box(record)) == 1);
        source = if source + 1 < sources { source + 1 } else { 0 };
        stage = if stage + 1 < stages { stage + 1 } else { 0 };
    };
    (0..STAGE_CAP * stages).for_each(|_| step());
    move |records| {
        let start = Instant::now();
        (0..records).for_each(|_| step());
        start.elapsed()
    }
}

/// The sources that a refusal is measured with, and the stages that they push to: enough stages that
/// the global cap is reached before theirs.
const REFUSED_SOURCES: usize = 10_000;
const REFUSED_STAGES: usize = 20;

/// One push each by sources in turn, all of them accepted. The buffer is emptied in between, which is
/// not timed.
pub fn accepted<R: Sourced, C: Contender<R>>() -> impl FnMut(u64) -> Duration {
    let mut contender = C::new(REFUSED_SOURCES, REFUSED_STAGES, 1);
    let mut producers = many_producers(&mut contender);
    let mut workers: Vec<_> = (0..REFUSED_STAGES).map(|stage| contender.worker(stage)).collect();
    move |pushes| {
        let mut timed = Duration::ZERO;
        let mut left = pushes;
        while left > 0 {
            // Half of the global cap: far from every limit.
            let now = left.min(GLOBAL_CAP as u64 / 2);
            let start = Instant::now();
            push_in_turn(&mut producers, now, |pushed| assert!(pushed.is_ok()));
            timed += start.elapsed();
            workers.iter_mut().for_each(drain);
            left -= now;
        }
        timed
    }
}

/// One push each by sources in turn, all of them refused, since the buffer as a whole is full.
pub fn refused<R: Sourced, C: Contender<R>>() -> impl FnMut(u64) -> Duration {
    let mut contender = C::new(REFUSED_SOURCES, REFUSED_STAGES, 1);
    let mut producers = many_producers(&mut contender);
    let _workers: Vec<_> = (0..REFUSED_STAGES).map(|stage| contender.worker(stage)).collect();
    push_in_turn(&mut producers, GLOBAL_CAP as u64, |pushed| assert!(pushed.is_ok()));
    move |pushes| {
        // A channel lives as long as its receiver.
        let _workers = &_workers;
        let start = Instant::now();
        push_in_turn(&mut producers, pushes, |pushed| assert!(pushed.is_err()));
        start.elapsed()
    }
}

fn many_producers<R: Sourced, C: Contender<R>>(contender: &mut C) -> Vec<C::Producer> {
    (0..REFUSED_SOURCES).map(|source| contender.producer(source, source % REFUSED_STAGES)).collect()
}

fn push_in_turn<R: Sourced, P: Producer<R>>(
    producers: &mut [P],
    pushes: u64,
    mut check: impl FnMut(Result<(), R>),
) {
    let mut source = 0;
    for _ in 0..pushes {
        check(producers[source].push(black_box(R::of(source as u32))));
        source = if source + 1 < producers.len() { source + 1 } else { 0 };
    }
}

fn drain<R>(worker: &mut impl Worker<R>) {
    while worker.take(BATCH, |_| ()) > 0 {}
}

/// Producers and workers on threads of their own.
#[derive(Clone, Copy)]
pub struct Flow {
    pub producers: usize,
    pub workers: usize,
    pub sources: usize,
    pub stages: usize,
    /// How many records a producer pushes together.
    pub push: usize,
    /// How many records a worker takes at most.
    pub take: usize,
}

impl Flow {
    /// Producers with a source each, at one stage whose workers take up to 100 at a time.
    pub fn at_one_stage(producers: usize, workers: usize, push: usize) -> Self {
        Self { producers, workers, sources: producers, stages: 1, push, take: BATCH }
    }

    /// Moves so many records through the buffer, and tells how long it took from the start of the
    /// first push to the end of the last batch. Producer `p` pushes for source `p` modulo their
    /// number, to all stages in turn; all workers drain all stages in turn.
    pub fn run<R: Sourced, C: Contender<R>>(self, records: u64) -> Duration {
        let mut contender = C::new(self.sources, self.stages, self.workers);
        let producers: Vec<Vec<_>> = (0..self.producers)
            .map(|p| {
                let source = p % self.sources;
                (0..self.stages).map(|stage| contender.producer(source, stage)).collect()
            })
            .collect();
        let workers: Vec<Vec<_>> = (0..self.workers)
            .map(|_| (0..self.stages).map(|stage| contender.worker(stage)).collect())
            .collect();

        let pushed = &AtomicBool::new(false);
        self.time(
            records,
            producers,
            workers,
            |ways, source, share| produce(ways, source, share, self.push),
            |ways| work(ways, self.take, pushed),
            || pushed.store(true, Ordering::Release),
        )
    }

    /// Runs `produce` for each producer, with its source and its share of the records, and `work` for
    /// each worker, on threads of their own. `end` tells the workers that all is pushed. What the
    /// producers leave lives until all is taken: a channel may end when its senders are dropped.
    pub fn time<P: Send, W: Send, L: Send>(
        self,
        records: u64,
        producers: Vec<P>,
        workers: Vec<W>,
        produce: impl Fn(P, u32, u64) -> L + Sync,
        work: impl Fn(W) -> u64 + Sync,
        end: impl FnOnce(),
    ) -> Duration {
        let ready = &Barrier::new(producers.len() + workers.len() + 1);
        let (produce, work) = (&produce, &work);
        thread::scope(|scope| {
            let producers: Vec<_> = producers
                .into_iter()
                .enumerate()
                .map(|(p, way)| {
                    let share = share(records, self.producers, p);
                    let source = (p % self.sources) as u32;
                    scope.spawn(move || {
                        ready.wait();
                        produce(way, source, share)
                    })
                })
                .collect();
            let workers: Vec<_> = workers
                .into_iter()
                .map(|way| {
                    scope.spawn(move || {
                        ready.wait();
                        work(way)
                    })
                })
                .collect();
            ready.wait();
            let start = Instant::now();
            let left: Vec<_> =
                producers.into_iter().map(|thread| thread.join().expect("a producer")).collect();
            end();
            let taken: u64 =
                workers.into_iter().map(|thread| thread.join().expect("a worker")).sum();
            let elapsed = start.elapsed();
            assert_eq!(taken, records, "every record comes out once");
            drop(left);
            elapsed
        })
    }
}

/// The `n`th of so many shares of a whole.
fn share(whole: u64, shares: usize, n: usize) -> u64 {
    let (shares, n) = (shares as u64, n as u64);
    whole / shares + u64::from(n < whole % shares)
}

fn produce<R: Sourced, P: Producer<R>>(
    mut ways: Vec<P>,
    source: u32,
    records: u64,
    together: usize,
) -> Vec<P> {
    let stages = ways.len();
    let mut stage = 0;
    let mut left = records;
    let mut batch = Vec::with_capacity(together);
    while left > 0 {
        let backoff = Backoff::new();
        if together == 1 {
            let mut record = R::of(source);
            while let Err(refused) = ways[stage].push(black_box(record)) {
                record = refused;
                backoff.snooze();
            }
            left -= 1;
        } else {
            let now = left.min(together as u64);
            batch.extend((0..now).map(|_| R::of(source)));
            while !batch.is_empty() {
                let before = batch.len();
                ways[stage].push_batch(&mut batch);
                if batch.len() == before {
                    backoff.snooze();
                }
            }
            left -= now;
        }
        stage = if stage + 1 < stages { stage + 1 } else { 0 };
    }
    ways
}

fn work<R, W: Worker<R>>(mut ways: Vec<W>, max: usize, pushed: &AtomicBool) -> u64 {
    let mut taken = 0;
    let backoff = Backoff::new();
    loop {
        // Read before the look at the stages, so that what was pushed is seen.
        let last = pushed.load(Ordering::Acquire);
        let now: usize =
            ways.iter_mut().map(|way| way.take(max, |record| _ = black_box(record))).sum();
        if now > 0 {
            taken += now as u64;
            backoff.reset();
        } else if last {
            return taken;
        } else {
            backoff.snooze();
        }
    }
}
