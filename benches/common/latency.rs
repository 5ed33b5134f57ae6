//! How long a push takes, and how long a record waits until a worker has it, at a fixed rate.
//!
//! Each record has a moment at which it is due, set by the rate alone. All times count from that
//! moment, not from when a late producer came round to it: so a stall is seen by every record that
//! it held up, and the omission that is coordinated with the stall does not occur.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_utils::Backoff;
use hdrhistogram::Histogram;
use quanta::Clock;

use super::work::{Contender, Producer, Worker};
use super::{BATCH, Medium};

/// Producers, each with a source of its own, and workers, at one stage.
pub const PRODUCERS: usize = 2;
pub const WORKERS: usize = 2;

/// A producer that is due later than this lets others run; sooner, it spins.
const SOON: u64 = 1_000;
/// Times above this count as this.
const LONGEST: u64 = 60_000_000_000;

/// Nanoseconds, to within 1 %.
pub struct Latencies {
    /// From when a record was due until its push returned.
    pub push: Histogram<u64>,
    /// From when a record was due until a worker had it.
    pub through: Histogram<u64>,
    /// What went through, in records a second.
    pub rate: f64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 2).expect("valid bounds")
}

/// Pushes records that fall due at `rate` a second, all producers together, for so long. Without a
/// rate, a record is due when the one before it has gone: that shows what can be sustained.
pub fn run<C: Contender<Medium>>(rate: Option<f64>, duration: Duration) -> Latencies {
    let mut contender = C::new(PRODUCERS, 1, WORKERS);
    let producers: Vec<_> = (0..PRODUCERS).map(|p| contender.producer(p, 0)).collect();
    let workers: Vec<_> = (0..WORKERS).map(|_| contender.worker(0)).collect();

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
            .map(|(source, way)| {
                let (now, ready) = (&now, &ready);
                scope.spawn(move || {
                    ready.wait();
                    produce(way, source, interval, end, now)
                })
            })
            .collect();
        let workers: Vec<_> = workers
            .into_iter()
            .map(|way| {
                let (now, ready, pushed) = (&now, &ready, &pushed);
                scope.spawn(move || {
                    ready.wait();
                    work(way, pushed, now)
                })
            })
            .collect();

        let mut all = Latencies { push: histogram(), through: histogram(), rate: 0.0 };
        let mut senders = Vec::new();
        for thread in producers {
            let (way, push) = thread.join().expect("a producer");
            all.push += push;
            senders.push(way);
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

fn produce<P: Producer<Medium>>(
    mut way: P,
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
            // The producers are due at different moments.
            Some(interval) => {
                let place = sent as f64 + f64::from(source) / PRODUCERS as f64;
                begin + (place * interval) as u64
            }
            None => now(),
        };
        if due - begin >= end {
            return (way, times);
        }
        wait_until(due, &now);
        let mut record = Medium::of(source);
        record.payload[..8].copy_from_slice(&due.to_ne_bytes());
        let backoff = Backoff::new();
        while let Err(refused) = way.push(record) {
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
    mut way: impl Worker<Medium>,
    pushed: &AtomicBool,
    now: impl Fn() -> u64,
) -> Histogram<u64> {
    let mut times = histogram();
    let backoff = Backoff::new();
    loop {
        let last = pushed.load(Ordering::Acquire);
        // All records of a batch are in the worker's hands when it sees the first.
        let mut in_hand = None;
        let taken = way.take(BATCH, |record| {
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
