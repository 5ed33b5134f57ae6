//! The work that is timed, generic over the buffer under test.
//!
//! All of it uses calls that never wait, so that the buffer is measured and not how it parks a
//! thread: a thread that finds nothing to do backs off in the same way for all competitors. The
//! calls that wait are measured in `blocking.rs`.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;

use super::{BATCH, Sourced};

/// A buffer under test. If it has caps, they are the defaults of the library.
pub trait Competitor<R: Sourced>: Sized {
    type Producer: Produce<R>;
    type Consumer: Consume<R>;

    /// Creates an empty buffer. `workers` is the number of threads that drain each stage.
    fn new(sources: usize, stages: usize, workers: usize) -> Self;
    /// Returns a handle that pushes records of `source` to `stage`.
    fn producer(&mut self, source: usize, stage: usize) -> Self::Producer;
    /// Returns a handle that takes records from `stage`.
    fn consumer(&mut self, stage: usize) -> Self::Consumer;
}

/// Pushes the records of one source to one stage.
pub trait Produce<R>: Send {
    /// Pushes one record, or returns it if the buffer is full.
    fn push(&mut self, record: R) -> Result<(), R>;

    /// Publishes the records that this handle has gathered. Called before a thread does anything
    /// else than to push. By default does nothing: most competitors publish each record as it is
    /// pushed.
    fn flush(&mut self) {}

    /// Pushes records as one batch. Those that do not fit remain in `records`. By default pushes
    /// them one by one.
    fn push_batch(&mut self, records: &mut Vec<R>) {
        push_each(records, |record| self.push(record));
        self.flush();
    }
}

/// Pushes records one by one until one is refused. It and those behind it remain in `records`.
pub fn push_each<R>(records: &mut Vec<R>, push: impl FnMut(R) -> Result<(), R>) {
    let mut rest = records.drain(..);
    let refused = rest.by_ref().map(push).find_map(Result::err);
    if let Some(refused) = refused {
        let refused = std::iter::once(refused).chain(rest).collect();
        *records = refused;
    }
}

/// Takes records from one stage.
pub trait Consume<R>: Send {
    /// Takes up to `max` records, shows each to `see`, settles them and returns their number.
    fn take(&mut self, max: usize, see: impl FnMut(&R)) -> usize;

    /// Moves up to `max` records into `records`, which is empty; its allocation may be reused.
    fn take_into(&mut self, max: usize, records: &mut Vec<R>);
}

/// The caps of all competitors that have caps: the defaults of the library.
pub const GLOBAL_CAP: usize = 100_000;
pub const STAGE_CAP: usize = 10_000;
pub const SOURCE_CAP: usize = 5_000;

/// One thread pushes a record and takes it.
pub fn one_at_a_time<R: Sourced, C: Competitor<R>>() -> impl FnMut(u64) -> Duration {
    let mut competitor = C::new(1, 1, 1);
    let (mut producer, mut consumer) = (competitor.producer(0, 0), competitor.consumer(0));
    let mut step = move || {
        assert!(producer.push(black_box(R::of(0))).is_ok());
        assert!(consumer.take(1, |record| _ = black_box(record)) == 1);
    };
    // Once around the ring, so that its memory is mapped.
    (0..STAGE_CAP).for_each(|_| step());
    move |records| {
        let start = Instant::now();
        (0..records).for_each(|_| step());
        start.elapsed()
    }
}

/// One thread pushes 100 records one by one, and takes up to 100 at a time until none is left.
pub fn hundreds<R: Sourced, C: Competitor<R>>() -> impl FnMut(u64) -> Duration {
    let mut competitor = C::new(1, 1, 1);
    let (mut producer, mut consumer) = (competitor.producer(0, 0), competitor.consumer(0));
    let mut step = move || {
        for _ in 0..BATCH {
            assert!(producer.push(black_box(R::of(0))).is_ok());
        }
        producer.flush();
        let mut taken = 0;
        while taken < BATCH {
            taken += consumer.take(BATCH, |record| _ = black_box(record));
        }
    };
    (0..2 * STAGE_CAP / BATCH).for_each(|_| step());
    move |records| {
        let start = Instant::now();
        (0..records / BATCH as u64).for_each(|_| step());
        start.elapsed()
    }
}

/// One thread pushes 100 records and takes them, as one batch where the competitor has batches. The
/// records are reused, and so is their `Vec`.
pub fn batches<R: Sourced, C: Competitor<R>>() -> impl FnMut(u64) -> Duration {
    let mut competitor = C::new(1, 1, 1);
    let (mut producer, mut consumer) = (competitor.producer(0, 0), competitor.consumer(0));
    let mut records: Vec<R> = (0..BATCH).map(|_| R::of(0)).collect();
    let mut step = move || {
        producer.push_batch(&mut records);
        assert!(records.is_empty());
        consumer.take_into(BATCH, &mut records);
        assert!(black_box(&records).len() == BATCH);
    };
    (0..STAGE_CAP / 10).for_each(|_| step());
    move |records| {
        let start = Instant::now();
        (0..records / BATCH as u64).for_each(|_| step());
        start.elapsed()
    }
}

/// One thread pushes a record and takes it, from the next source to the next stage each time. The
/// number of sources is a multiple of the number of stages.
pub fn round_robin<R: Sourced, C: Competitor<R>>(
    sources: usize,
    stages: usize,
) -> impl FnMut(u64) -> Duration {
    let mut competitor = C::new(sources, stages, 1);
    let mut producers: Vec<_> =
        (0..sources).map(|source| competitor.producer(source, source % stages)).collect();
    let mut consumers: Vec<_> = (0..stages).map(|stage| competitor.consumer(stage)).collect();
    let (mut source, mut stage) = (0, 0);
    let mut step = move || {
        assert!(producers[source].push(black_box(R::of(source as u32))).is_ok());
        assert!(consumers[stage].take(1, |record| _ = black_box(record)) == 1);
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

/// The sources that measure a refusal, and the stages they push to: enough stages that the global
/// cap is reached first.
const REFUSED_SOURCES: usize = 10_000;
const REFUSED_STAGES: usize = 20;

/// Sources push one record each, in turn; all pushes are accepted. Emptying the buffer in between
/// is not timed.
pub fn accepted<R: Sourced, C: Competitor<R>>() -> impl FnMut(u64) -> Duration {
    let mut competitor = C::new(REFUSED_SOURCES, REFUSED_STAGES, 1);
    let mut producers = many_producers(&mut competitor);
    let mut consumers: Vec<_> =
        (0..REFUSED_STAGES).map(|stage| competitor.consumer(stage)).collect();
    move |pushes| {
        let mut timed = Duration::ZERO;
        let mut left = pushes;
        while left > 0 {
            // Half of the global cap: far from every limit.
            let now = left.min(GLOBAL_CAP as u64 / 2);
            let start = Instant::now();
            push_in_turn(&mut producers, now, |pushed| assert!(pushed.is_ok()));
            timed += start.elapsed();
            consumers.iter_mut().for_each(drain);
            left -= now;
        }
        timed
    }
}

/// Sources push one record each, in turn; all pushes are refused, since the global cap is reached.
pub fn refused<R: Sourced, C: Competitor<R>>() -> impl FnMut(u64) -> Duration {
    let mut competitor = C::new(REFUSED_SOURCES, REFUSED_STAGES, 1);
    let mut producers = many_producers(&mut competitor);
    let _consumers: Vec<_> = (0..REFUSED_STAGES).map(|stage| competitor.consumer(stage)).collect();
    push_in_turn(&mut producers, GLOBAL_CAP as u64, |pushed| assert!(pushed.is_ok()));
    move |pushes| {
        // Keeps the channels of some competitors open.
        let _consumers = &_consumers;
        let start = Instant::now();
        push_in_turn(&mut producers, pushes, |pushed| assert!(pushed.is_err()));
        start.elapsed()
    }
}

fn many_producers<R: Sourced, C: Competitor<R>>(competitor: &mut C) -> Vec<C::Producer> {
    (0..REFUSED_SOURCES)
        .map(|source| competitor.producer(source, source % REFUSED_STAGES))
        .collect()
}

fn push_in_turn<R: Sourced, P: Produce<R>>(
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

fn drain<R>(consumer: &mut impl Consume<R>) {
    while consumer.take(BATCH, |_| ()) > 0 {}
}

/// Producers and workers, each on a thread of its own.
#[derive(Clone, Copy)]
pub struct Flow {
    pub producers: usize,
    pub workers: usize,
    pub sources: usize,
    pub stages: usize,
    /// The number of records that a producer pushes at once.
    pub push: usize,
    /// The most records that a worker takes at once.
    pub take: usize,
    /// The work that a worker does for each record, in steps of about one cycle.
    pub work: u32,
}

impl Flow {
    /// Producers with one source each, and one stage whose workers take up to 100 records at once.
    pub fn at_one_stage(producers: usize, workers: usize, push: usize) -> Self {
        Self { producers, workers, sources: producers, stages: 1, push, take: BATCH, work: 0 }
    }

    /// Returns the number of threads that the flow keeps busy.
    pub fn threads(self) -> usize {
        self.producers + self.workers
    }

    /// A worker's work on one record.
    pub fn see<R>(self, record: &R) {
        black_box(record);
        for step in 0..self.work {
            black_box(step);
        }
    }

    /// Moves `records` through the buffer and returns the time from the first push to the end of
    /// the last batch. Producer `p` pushes for source `p` modulo the number of sources, to all
    /// stages in turn; all workers drain all stages in turn.
    pub fn run<R: Sourced, C: Competitor<R>>(self, records: u64) -> Duration {
        let mut competitor = C::new(self.sources, self.stages, self.workers);
        let producers: Vec<Vec<_>> = (0..self.producers)
            .map(|p| {
                let source = p % self.sources;
                (0..self.stages).map(|stage| competitor.producer(source, stage)).collect()
            })
            .collect();
        let consumers: Vec<Vec<_>> = (0..self.workers)
            .map(|_| (0..self.stages).map(|stage| competitor.consumer(stage)).collect())
            .collect();

        let pushed = &AtomicBool::new(false);
        self.time(
            records,
            producers,
            consumers,
            |producers, source, share| produce(producers, source, share, self.push),
            |consumers| work(consumers, self, pushed),
            || pushed.store(true, Ordering::Release),
        )
    }

    /// Runs `produce` for each producer, with its source and its share of the records, and `work`
    /// for each worker, on threads of their own. `end` tells the workers that all records are
    /// pushed. What
    /// `produce` returns is dropped after the last record is taken, since dropping the senders may
    /// close a channel.
    pub fn time<P: Send, W: Send, L: Send>(
        self,
        records: u64,
        producers: Vec<P>,
        consumers: Vec<W>,
        produce: impl Fn(P, u32, u64) -> L + Sync,
        work: impl Fn(W) -> u64 + Sync,
        end: impl FnOnce(),
    ) -> Duration {
        let ready = &Barrier::new(producers.len() + consumers.len() + 1);
        let (produce, work) = (&produce, &work);
        thread::scope(|scope| {
            let producers: Vec<_> = producers
                .into_iter()
                .enumerate()
                .map(|(p, producer)| {
                    let share = share(records, self.producers, p);
                    let source = (p % self.sources) as u32;
                    scope.spawn(move || {
                        ready.wait();
                        produce(producer, source, share)
                    })
                })
                .collect();
            let workers: Vec<_> = consumers
                .into_iter()
                .map(|consumer| {
                    scope.spawn(move || {
                        ready.wait();
                        work(consumer)
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

/// Returns the `n`th of `shares` nearly equal parts of `whole`.
fn share(whole: u64, shares: usize, n: usize) -> u64 {
    let (shares, n) = (shares as u64, n as u64);
    whole / shares + u64::from(n < whole % shares)
}

fn produce<R: Sourced, P: Produce<R>>(
    mut producers: Vec<P>,
    source: u32,
    records: u64,
    together: usize,
) -> Vec<P> {
    let stages = producers.len();
    let mut stage = 0;
    let mut left = records;
    let mut batch = Vec::with_capacity(together);
    while left > 0 {
        let backoff = Backoff::new();
        if together == 1 {
            let mut record = R::of(source);
            while let Err(refused) = producers[stage].push(black_box(record)) {
                record = refused;
                backoff.snooze();
            }
            left -= 1;
        } else {
            let now = left.min(together as u64);
            batch.extend((0..now).map(|_| R::of(source)));
            while !batch.is_empty() {
                let before = batch.len();
                producers[stage].push_batch(&mut batch);
                if batch.len() == before {
                    backoff.snooze();
                }
            }
            left -= now;
        }
        stage = if stage + 1 < stages { stage + 1 } else { 0 };
    }
    producers.iter_mut().for_each(P::flush);
    producers
}

fn work<R, W: Consume<R>>(mut consumers: Vec<W>, flow: Flow, pushed: &AtomicBool) -> u64 {
    let mut taken = 0;
    let backoff = Backoff::new();
    loop {
        // Loaded before the stages are polled, so that no record pushed before it is missed.
        let last = pushed.load(Ordering::Acquire);
        let now: usize = consumers
            .iter_mut()
            .map(|consumer| consumer.take(flow.take, |record| flow.see(record)))
            .sum();
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
