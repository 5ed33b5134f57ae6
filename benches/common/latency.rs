//! Latency at a fixed rate: of a push, and from the push to the batch.
//!
//! The rate alone sets the moment at which each record is due. All times count from that moment and
//! not from the start of a push that is late, so that every record which a stall delays shows the
//! delay. This avoids coordinated omission.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_utils::Backoff;
use hdrhistogram::Histogram;
use quanta::Clock;

use super::work::{Competitor, Consume, Produce};
use super::{BATCH, Medium};

/// Producers, each with a source of its own, and workers, at one stage.
pub const PRODUCERS: usize = 2;
pub const WORKERS: usize = 2;

/// A producer whose next record is due later than this yields; otherwise it spins. In nanoseconds.
const SOON: u64 = 1_000;
/// Longer times are recorded as this. In nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// Times in nanoseconds, to within 1 %.
pub struct Latencies {
    /// From the moment a record was due until its push returned.
    pub push: Histogram<u64>,
    /// From the moment a record was due until a worker held it.
    pub through: Histogram<u64>,
    /// Throughput, in records a second.
    pub rate: f64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 2).expect("valid bounds")
}

/// Pushes records for `duration`; they fall due at `rate` a second, summed over the producers. Without
/// a rate, each record is due when the push before it has returned, which measures the highest rate
/// that is sustained.
pub fn run<C: Competitor<Medium>>(rate: Option<f64>, duration: Duration) -> Latencies {
    let mut competitor = C::new(PRODUCERS, 1, WORKERS);
    let producers: Vec<_> = (0..PRODUCERS).map(|p| competitor.producer(p, 0)).collect();
    let consumers: Vec<_> = (0..WORKERS).map(|_| competitor.consumer(0)).collect();

    let clock = Clock::new();
    let interval = rate.map(|rate| 1e9 * PRODUCERS as f64 / rate);
    let end = duration.as_nanos() as u64;
    let ready = Barrier::new(PRODUCERS + WORKERS);
    let pushed = AtomicBool::new(false);
    let start = clock.raw();
    let now = || clock.delta_as_nanos(start, clock.raw());

    thread::scope(|scope| {
        let producers: Vec<_> = (0..)
            .zip(producers)
            .map(|(source, producer)| {
                let (now, ready) = (&now, &ready);
                scope.spawn(move || {
                    ready.wait();
                    produce(producer, source, interval, end, now)
                })
            })
            .collect();
        let workers: Vec<_> = consumers
            .into_iter()
            .map(|consumer| {
                let (now, ready, pushed) = (&now, &ready, &pushed);
                scope.spawn(move || {
                    ready.wait();
                    work(consumer, pushed, now)
                })
            })
            .collect();

        let mut all = Latencies { push: histogram(), through: histogram(), rate: 0.0 };
        let mut senders = Vec::new();
        for thread in producers {
            let (producer, push) = thread.join().expect("a producer");
            all.push += push;
            senders.push(producer);
        }
        pushed.store(true, Ordering::Release);
        for thread in workers {
            all.through += thread.join().expect("a worker");
        }
        assert_eq!(all.push.len(), all.through.len(), "every record comes out once");
        all.rate = all.push.len() as f64 / (now() as f64 / 1e9);
        all
    })
}

fn produce<P: Produce<Medium>>(
    mut producer: P,
    source: u32,
    interval: Option<f64>,
    end: u64,
    now: impl Fn() -> u64,
) -> (P, Histogram<u64>) {
    let mut times = histogram();
    let begin = now();
    let mut sent = 0_u64;
    loop {
        let due = match interval {
            // Staggers the producers.
            Some(interval) => {
                let place = sent as f64 + f64::from(source) / PRODUCERS as f64;
                begin + (place * interval) as u64
            }
            None => now(),
        };
        if due - begin >= end {
            return (producer, times);
        }
        wait_until(due, &now);
        let mut record = Medium::of(source);
        record.payload[..8].copy_from_slice(&due.to_ne_bytes());
        let backoff = Backoff::new();
        while let Err(refused) = producer.push(record) {
            record = refused;
            backoff.snooze();
        }
        times.saturating_record(now().saturating_sub(due).max(1));
        sent += 1;
    }
}

fn wait_until(due: u64, now: impl Fn() -> u64) {
    loop {
        match due.saturating_sub(now()) {
            0 => return,
            1..=SOON => std::hint::spin_loop(),
            _ => thread::yield_now(),
        }
    }
}

fn work(
    mut consumer: impl Consume<Medium>,
    pushed: &AtomicBool,
    now: impl Fn() -> u64,
) -> Histogram<u64> {
    let mut times = histogram();
    let backoff = Backoff::new();
    loop {
        let last = pushed.load(Ordering::Acquire);
        // The worker holds all records of a batch when it sees the first.
        let mut in_hand = None;
        let taken = consumer.take(BATCH, |record| {
            let due = record.payload.first_chunk().copied().map_or(0, u64::from_ne_bytes);
            let in_hand = *in_hand.get_or_insert_with(&now);
            times.saturating_record(in_hand.saturating_sub(due).max(1));
        });
        if taken > 0 {
            backoff.reset();
        } else if last {
            return times;
        } else {
            backoff.snooze();
        }
    }
}
