//! How long records wait in a stage, in a buffer that measures it.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::stats::Quantiles;
use crate::sync::Mutex;

/// The blocks in a stage's ring, and how long earlier blocks waited there. Each call takes the lock
/// for a few instructions.
pub(super) struct Timing(Mutex<Measured>);

struct Measured {
    /// When the records of each block were pushed to their first stage: see `Run::pushed`. `None`
    /// for a block that has left the ring before an older one.
    blocks: VecDeque<Option<u32>>,
    /// The number of the first block in `blocks`.
    first: u64,
    /// In nanoseconds.
    waited: Histogram<u64>,
}

/// About 1 % of the value.
const SIGNIFICANT_DIGITS: u8 = 2;

impl Timing {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Measured::new()))
    }

    /// Notes a block that is about to be pushed into the ring, and returns its number.
    pub(super) fn enter(&self, pushed: u32) -> u64 {
        self.0.lock().enter(pushed)
    }

    /// Notes that a block has left the ring after `waited` nanoseconds.
    pub(super) fn leave(&self, number: u64, records: usize, waited: u64) {
        self.0.lock().leave(number, records, waited);
    }

    /// Returns when the records of the oldest block in the ring were pushed to their first stage.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.0.lock().oldest()
    }

    /// Returns how long records waited in the ring, if any has left it.
    pub(super) fn quantiles(&self) -> Option<Quantiles> {
        self.0.lock().quantiles()
    }
}

impl Measured {
    fn new() -> Self {
        let waited = Histogram::new(SIGNIFICANT_DIGITS).expect("the number of digits is valid");
        Self { blocks: VecDeque::new(), first: 0, waited }
    }

    fn enter(&mut self, pushed: u32) -> u64 {
        self.blocks.push_back(Some(pushed));
        self.first + self.blocks.len() as u64 - 1
    }

    fn leave(&mut self, number: u64, records: usize, waited: u64) {
        let index = number - self.first;
        self.blocks[index as usize] = None;
        while let Some(None) = self.blocks.front() {
            self.blocks.pop_front();
            self.first += 1;
        }
        // The histogram grows as it needs to: it refuses no value.
        let _ = self.waited.record_n(waited, records as u64);
    }

    fn oldest(&self) -> Option<u32> {
        self.blocks.front().copied().flatten()
    }

    fn quantiles(&self) -> Option<Quantiles> {
        let waited = &self.waited;
        let at = |quantile| Duration::from_nanos(waited.value_at_quantile(quantile));
        let max = Duration::from_nanos(waited.max());
        (!waited.is_empty()).then(|| Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_overtake_each_other_leave_the_oldest_in_front() {
        let mut timing = Measured::new();
        let numbers: Vec<u64> = (10..14).map(|pushed| timing.enter(pushed)).collect();
        assert_eq!((timing.oldest(), timing.quantiles()), (Some(10), None));
        timing.leave(numbers[1], 1, 1_000);
        timing.leave(numbers[2], 97, 2_000);
        assert_eq!(timing.oldest(), Some(10));
        timing.leave(numbers[0], 1, 3_000);
        assert_eq!(timing.oldest(), Some(13));
        timing.leave(numbers[3], 1, 1 << 50);
        assert_eq!(timing.oldest(), None);
        let Quantiles { p50, p99, max, .. } = timing.quantiles().unwrap();
        let near = |time: Duration, nanos: f64| (time.as_nanos() as f64 / nanos - 1.0).abs() < 0.01;
        assert!(near(p50, 2e3) && near(p99, 3e3) && near(max, (1_u64 << 50) as f64), "{p99:?}");
        assert_eq!(timing.enter(20), 4);
    }
}
