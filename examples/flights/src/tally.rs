//! Statistics that one thread counts and others read. No memory access depends on them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The statistics of a source.
#[derive(Default)]
pub struct SourceTally {
    /// Rows that were read and pushed.
    pub read: Count,
    pub slowed: Stopwatch,
    pub paused: Stopwatch,
    pub level: Level,
}

/// A number of rows.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A sum of times.
#[derive(Default)]
pub struct Stopwatch(AtomicU64);

impl Stopwatch {
    pub fn add(&self, time: Duration) {
        // 2^64 nanoseconds are 584 years.
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

/// The highest level seen at a cap. It is sampled after each push and each forward, which are the
/// calls that raise levels.
#[derive(Default)]
pub struct Level(AtomicUsize);

impl Level {
    pub fn note(&self, held: usize) {
        self.0.fetch_max(held, Relaxed);
    }

    pub fn highest(&self) -> usize {
        self.0.load(Relaxed)
    }
}
