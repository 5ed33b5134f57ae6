//! Records handed from thread to thread, in the narrow form that ThreadSanitizer can judge: handles
//! that are never dropped, plain threads that are joined, and no test harness. The standard library is not
//! instrumented, and the sanitizer knows no fences: the last drop of an `Arc` or a locked mutex of the
//! standard library would be reported though they are right. `tests/README.md` says more.
//!
//! Without the sanitizer this is a stress test with checks of its own.

#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use conveyor_buffer::{
    Batch, BufferManager, BufferSettings, DeadLetters, Envelope, Outcome, Source, Stage,
};
use pollster::block_on;

const SOURCES: [&str; 3] = ["EWR", "JFK", "LGA"];
/// Records of each source.
const EACH: usize = 1_000;
const ALL: usize = SOURCES.len() * EACH;

/// A record whose content is plain memory: written by the source, changed by each worker, and read
/// by the last. Whoever gets it without a hand-over in order races with the writer.
struct Row {
    source: usize,
    number: usize,
    retries: u32,
    /// How often a worker had it in hand.
    visits: Box<usize>,
}

impl Envelope for Row {
    fn source_id(&self) -> &str {
        SOURCES[self.source]
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

/// What outlives all threads, so that none of them drops the last of anything.
struct Line {
    manager: BufferManager<Row>,
    parse: Stage<Row>,
    load: Stage<Row>,
    sources: Vec<Source<Row>>,
    letters: DeadLetters<Row>,
    /// Records that have left for good.
    gone: AtomicUsize,
}

/// Where they stay, one for each run: leaked as statics are, which LeakSanitizer knows to be no leak.
static LINES: [OnceLock<Line>; 3] = [const { OnceLock::new() }; 3];

fn line(run: usize, settings: BufferSettings) -> &'static Line {
    let manager = BufferManager::builder(settings)
        .max_retries(3)
        .dead_letter_capacity(4)
        .build()
        .expect("valid settings");
    let stage = |id| manager.stage(id).expect("a new stage");
    let line = Line {
        parse: stage("parse"),
        load: stage("load"),
        sources: SOURCES.iter().map(|id| manager.source(id).expect("a new source")).collect(),
        letters: manager.dead_letters(),
        manager,
        gone: AtomicUsize::new(0),
    };
    LINES[run].get_or_init(|| line)
}

fn row(source: usize, number: usize) -> Row {
    Row { source, number, retries: 0, visits: Box::new(0) }
}

/// What a worker saw leave: how often each record of each source did.
type Seen = Vec<Vec<u8>>;

fn nothing_seen() -> Seen {
    vec![vec![0; EACH]; SOURCES.len()]
}

impl Line {
    fn is_done(&self) -> bool {
        self.gone.load(SeqCst) == ALL
    }

    /// A record has left for good.
    fn leave(&self, seen: &mut Seen, row: &Row) {
        assert!(*row.visits > 0, "a worker had it");
        seen[row.source][row.number] += 1;
        self.gone.fetch_add(1, SeqCst);
    }

    /// Pushes all records of one source, in batches of a few, those that were refused again.
    fn push_all(&self, source: usize) {
        let mut next = 0;
        while next < EACH {
            let len = (1 + next % 7).min(EACH - next);
            let sent = if len == 1 {
                self.sources[source].try_send(&self.parse, row(source, next)).map_err(|_| 0)
            } else {
                let rows = (next..next + len).map(|number| row(source, number)).collect();
                self.sources[source]
                    .try_send_batch(&self.parse, rows)
                    .map_err(|rejected| rejected.accepted)
            };
            next += sent.map_or_else(|accepted| accepted, |()| len);
            if sent.is_err() {
                thread::yield_now();
            }
        }
    }

    /// Moves records on, and returns some first.
    fn parse_all(&self) {
        while !self.is_done() {
            let Ok(mut batch) = self.parse.try_recv_batch(5) else {
                thread::yield_now();
                continue;
            };
            visit(&mut batch);
            let (good, bad) = batch.partition(|row| row.retries > 0 || row.number % 5 > 0);
            bad.return_to_buffer();
            // What finds no room is returned by its drop.
            if good.try_forward(&self.load).is_err() {
                thread::yield_now();
            }
        }
    }

    /// Settles records one way or another, and tells which left.
    fn load_all(&self) -> Seen {
        let mut seen = nothing_seen();
        while !self.is_done() {
            if let Some(letter) = self.letters.try_recv() {
                self.leave(&mut seen, &letter.record);
            }
            let Ok(mut batch) = self.load.try_recv_batch(6) else {
                thread::yield_now();
                continue;
            };
            visit(&mut batch);
            let rest = batch.split_off(4);
            rest.into_records().iter().for_each(|row| self.leave(&mut seen, row));
            batch.settle(|row| match row.number % 7 {
                0 => Outcome::DeadLetter,
                1 if row.retries == 0 => Outcome::Return,
                _ => {
                    self.leave(&mut seen, row);
                    Outcome::Ack
                }
            });
        }
        seen
    }
}

fn visit(batch: &mut Batch<Row>) {
    batch.iter_mut().for_each(|row| *row.visits += 1);
}

/// Asserts that all records left once, whoever saw them, and that nothing is held.
fn assert_each_left_once(line: &Line, seen: impl IntoIterator<Item = Seen>) {
    let mut all = nothing_seen();
    for seen in seen {
        for (all, seen) in all.iter_mut().flatten().zip(seen.iter().flatten()) {
            *all += seen;
        }
    }
    assert!(all.iter().flatten().all(|&times| times == 1), "each record leaves once");
    assert_eq!(block_on(line.manager.get_total_buffered()), 0);
    assert_eq!((line.parse.in_flight(), line.load.in_flight()), (0, 0));
}

fn by_handle(run: usize, settings: BufferSettings) {
    let line = line(run, settings);
    let pushers = [0, 1, 2].map(|source| thread::spawn(move || line.push_all(source)));
    let parsers = [(); 2].map(|()| thread::spawn(|| line.parse_all()));
    let loaders = [(); 2].map(|()| thread::spawn(|| line.load_all()));
    pushers.into_iter().chain(parsers).for_each(|thread| thread.join().unwrap());
    assert_each_left_once(line, loaders.map(|thread| thread.join().unwrap()));
}

fn main() {
    let caps = |total, per_stage, per_source| BufferSettings {
        max_total_records: total,
        max_per_stage: per_stage,
        max_per_source: per_source,
        ..BufferSettings::default()
    };
    let cases = [
        ("a stage that is always full", caps(100, 8, 50)),
        ("sources that share a few credits", caps(10, 10, 6)),
        ("sources that lease ahead", caps(2_000, 1_000, 1_000)),
    ];
    for (case, (name, settings)) in cases.into_iter().enumerate() {
        by_handle(case, settings);
        println!("{name}: ok");
    }
}
