//! What happens to a record that failed: how often it comes back, and after how long.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use crate::settings::SettingsError;

/// How long a returned record stays away: see
/// [`Builder::retry_backoff`](crate::Builder::retry_backoff).
///
/// The record keeps its credit and its place meanwhile, and comes back by itself.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use conveyor_buffer::{Backoff, BufferManager, BufferSettings, BufferedRecord};
///
/// // 10 ms after the first failure, then 20 ms, 40 ms and so on, up to 1 s. Each delay is shortened
/// // by a random part of up to a half.
/// let backoff =
///     Backoff::exponential(Duration::from_millis(10), Duration::from_secs(1)).jitter(0.5);
/// let manager = BufferManager::builder(BufferSettings::default())
///     .retry_backoff(backoff)
///     .build()?;
/// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
/// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "load"))?;
///
/// stage.try_recv_batch(1)?.return_to_buffer();
/// assert_eq!((stage.len(), stage.delayed()), (0, 1));
/// let batch = stage.recv_batch_blocking(1)?; // waits until the record is due
/// assert_eq!(batch.iter().next().unwrap().retry_count, 1);
/// batch.ack();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    jitter: f64,
}

impl Backoff {
    /// The same delay after each failure.
    pub fn fixed(delay: Duration) -> Self {
        Self { first: delay, longest: delay, jitter: 0.0 }
    }

    /// A delay that doubles with each failure of a record: `first` after the first failure, and at
    /// most `longest`. A `longest` below `first` counts as `first`.
    pub fn exponential(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), jitter: 0.0 }
    }

    /// Shortens each delay by a random part of at most this share, from 0.0 to 1.0, so that records
    /// that failed together do not all come back together.
    ///
    /// Records of one batch with the same retry count get the same delay.
    /// [`Builder::build`](crate::Builder::build) returns an error for a share outside its range.
    #[must_use]
    pub fn jitter(self, share: f64) -> Self {
        Self { jitter: share, ..self }
    }

    pub(crate) fn validate(&self) -> Result<(), SettingsError> {
        if (0.0..=1.0).contains(&self.jitter) {
            return Ok(());
        }
        Err(SettingsError::Share { field: "retry_backoff.jitter", value: self.jitter })
    }

    /// Returns the delay of a record that was returned `retries` times before. The bits of `random`
    /// choose the jitter.
    fn delay(&self, retries: u32, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(retries).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.longest).min(LONGEST);
        // The upper 53 bits are what a double holds exactly.
        let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
        whole.mul_f64(1.0 - self.jitter * part)
    }
}

/// About a thousand years: a longer delay is cut, so that no calculation overflows.
const LONGEST: Duration = Duration::from_secs(1 << 35);

/// What a stage does with records that failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryPolicy {
    /// How often a record may be returned.
    limit: Option<u32>,
    backoff: Option<Backoff>,
    random: RandomState,
}

impl RetryPolicy {
    pub(crate) fn new(limit: Option<u32>, backoff: Option<Backoff>) -> Self {
        Self { limit, backoff, random: RandomState::new() }
    }

    /// Returns `true` if a record that was returned `retries` times may not be returned again.
    pub(crate) fn is_exhausted(&self, retries: u32) -> bool {
        self.limit.is_some_and(|limit| retries >= limit)
    }

    /// Returns how long a record stays away that was returned `retries` times before. `batch` is
    /// any value that differs from batch to batch.
    pub(crate) fn delay(&self, retries: u32, batch: impl Hash) -> Duration {
        self.backoff.map_or(Duration::ZERO, |backoff| {
            backoff.delay(retries, self.random.hash_one((retries, batch)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_delay_doubles_up_to_the_longest() {
        let backoff = Backoff::exponential(10 * MS, 75 * MS);
        let delays = [0, 1, 2, 3, 31, 32, u32::MAX].map(|retries| backoff.delay(retries, 0));
        assert_eq!(delays, [10 * MS, 20 * MS, 40 * MS, 75 * MS, 75 * MS, 75 * MS, 75 * MS]);
        assert_eq!(Backoff::fixed(5 * MS).delay(7, 0), 5 * MS);
        assert_eq!(Backoff::exponential(5 * MS, MS).delay(0, 0), 5 * MS);
        let forever = Backoff::exponential(Duration::from_secs(1), Duration::MAX);
        assert!(forever.delay(u32::MAX, 0) > Duration::from_secs(1 << 31));
    }

    #[test]
    fn jitter_shortens_by_its_share_at_most() {
        let backoff = Backoff::fixed(100 * MS).jitter(0.5);
        assert_eq!(backoff.delay(0, 0), 100 * MS);
        let least = backoff.delay(0, u64::MAX);
        assert!(least >= 50 * MS && least < 51 * MS, "{least:?}");
    }
}
