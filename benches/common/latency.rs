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

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 2).expect("valid bounds")
}

/// One producer pushes records for `duration`, `rate` of them a second, and one worker takes them.
/// Without a rate, each record is due when the push before it has returned, which measures the
/// highest rate that is sustained.
pub fn run<C: Competitor<Medium>>(rate: Option<f64>, duration: Duration) -> Latencies {
    let mut competitor = C::new(1, 1, 1);
    let (producer, consumer) = (competitor.producer(0, 0), competitor.consumer(0));

    let clock = Clock::new();
    let interval = rate.map(|rate| 1e9 / rate);
    let end = duration.as_nanos() as u64;
    let (ready, pushed) = (&Barrier::new(2), &AtomicBool::new(false));
    let start = clock.raw();
    let now = &|| clock.delta_as_nanos(start, clock.raw());

    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            ready.wait();
            produce(producer, interval, end, now)
        });
        let consumer = scope.spawn(move || {
            ready.wait();
            consume(consumer, pushed, now)
        });
        // The producer lives on until all is taken, since dropping it may close a channel.
        let (_producer, push) = producer.join().expect("a producer");
        pushed.store(true, Ordering::Release);
        let through = consumer.join().expect("a worker");
        assert_eq!(push.len(), through.len(), "every record comes out once");
        let rate = push.len() as f64 / (now() as f64 / 1e9);
        Latencies { push, through, rate }
    })
}

fn produce<P: Produce<Medium>>(
    mut producer: P,
    interval: Option<f64>,
    end: u64,
    now: impl Fn() -> u64,
) -> (P, Histogram<u64>) {
    let mut times = histogram();
    let begin = now();
    let mut sent = 0_u64;
    loop {
        let due = match interval {
            Some(interval) => begin + (sent as f64 * interval) as u64,
            None => now(),
        };
        if due - begin >= end {
            producer.flush();
            return (producer, times);
        }
        if due > now() {
            // As before any wait for input.
            producer.flush();
            wait_until(due, &now);
        }
        let mut record = stamped(due);
        let backoff = Backoff::new();
        while let Err(refused) = producer.push(record) {
            record = refused;
            backoff.snooze();
        }
        times.saturating_record(now().saturating_sub(due).max(1));
        sent += 1;
    }
}

/// A record that carries a moment.
pub fn stamped(moment: u64) -> Medium {
    let mut record = Medium::of(0);
    record.payload[..8].copy_from_slice(&moment.to_ne_bytes());
    record
}

/// The moment that a record carries.
pub fn stamp(record: &Medium) -> u64 {
    record.payload.first_chunk().copied().map_or(0, u64::from_ne_bytes)
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

fn consume(
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
            let in_hand = *in_hand.get_or_insert_with(&now);
            times.saturating_record(in_hand.saturating_sub(stamp(record)).max(1));
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
