//! The wake-up of a worker: one record a millisecond, for which a worker waits.

use std::thread;
use std::time::Duration;

use quanta::Clock;

use crate::Effort;
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::latency::{Latencies, histogram, stamp, stamped};
use crate::common::{BATCH, Medium};
use crate::competitors::{self, BlockingRows, Description};
use crate::latency::Times;
use crate::measure::label;

/// Between two records. A worker sleeps by then, whatever it does before it parks.
const INTERVAL: Duration = Duration::from_millis(1);

struct Subject {
    of: Description,
    variant: &'static str,
    run: fn(Duration) -> Latencies,
}

impl BlockingRows for Vec<Subject> {
    fn add<C: BlockingCompetitor<Medium> + 'static>(
        &mut self,
        of: Description,
        variant: &'static str,
    ) {
        self.push(Subject { of, variant, run: run::<C> });
    }
}

pub struct Row {
    pub of: Description,
    pub variant: &'static str,
    /// The time of the push, which wakes the worker.
    pub push: Times,
    /// From the start of the push until the worker holds the record.
    pub through: Times,
}

pub fn measure(effort: Effort) -> Vec<Row> {
    let mut subjects = Vec::new();
    competitors::wake_up(&mut subjects);
    eprintln!("wake-up: a worker that waits");
    let mut turns: Vec<Vec<Latencies>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.loads {
        for (subject, turns) in subjects.iter().zip(&mut turns) {
            turns.push((subject.run)(effort.load));
        }
    }
    let rows = subjects.iter().zip(turns).map(|(subject, turns)| Row {
        of: subject.of,
        variant: subject.variant,
        push: Times::of(turns.iter().map(|turn| &turn.push)),
        through: Times::of(turns.iter().map(|turn| &turn.through)),
    });
    let rows: Vec<Row> = rows.collect();
    for row in &rows {
        let Times { p50, p99, .. } = row.through;
        eprintln!("  {:<40} p50 {p50:>8.0}  p99 {p99:>9.0} ns", label(row.of, row.variant));
    }
    rows
}

fn run<C: BlockingCompetitor<Medium>>(duration: Duration) -> Latencies {
    let mut competitor = C::new(1, 1, 1);
    let (mut producer, mut consumer) = (competitor.producer(0, 0), competitor.consumer(0));
    let clock = Clock::new();
    let start = clock.raw();
    let now = &|| clock.delta_as_nanos(start, clock.raw());
    let records = duration.as_nanos() / INTERVAL.as_nanos();

    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let mut times = histogram();
            for _ in 0..records {
                thread::sleep(INTERVAL);
                let begin = now();
                producer.push_blocking(stamped(begin));
                times.saturating_record((now() - begin).max(1));
            }
            times
        });
        let consumer = scope.spawn(move || {
            let mut times = histogram();
            loop {
                let mut in_hand = None;
                let taken = consumer.take_blocking(BATCH, |record| {
                    let in_hand = *in_hand.get_or_insert_with(now);
                    times.saturating_record(in_hand.saturating_sub(stamp(record)).max(1));
                });
                if taken == 0 {
                    return times;
                }
            }
        });
        let push = producer.join().expect("a producer");
        competitor.close();
        let through = consumer.join().expect("a worker");
        assert_eq!(push.len(), through.len(), "every record comes out once");
        Latencies { push, through, rate: 1.0 / INTERVAL.as_secs_f64() }
    })
}
