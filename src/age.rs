//! The age of records: when they were pushed, in a buffer that expires them or measures time.

use std::time::Duration;

use crate::sync::{Instant, now};

/// A clock that starts when the buffer is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    /// The age at which records expire, in milliseconds.
    max_age: Option<u32>,
    /// Whether stages measure how long records wait.
    pub(crate) measures: bool,
}

/// The longest age at which a record may expire. Beyond, the time of its push would be ambiguous.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(24 * 24 * 60 * 60);

impl Clock {
    /// Returns a clock, if it is needed.
    pub(crate) fn new(max_age: Option<u32>, measures: bool) -> Option<Self> {
        (max_age.is_some() || measures).then(|| Self { start: now(), max_age, measures })
    }

    /// Returns the present time in nanoseconds.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(now().saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the present time in milliseconds, modulo 2^32.
    pub(crate) fn millis(&self) -> u32 {
        millis_of(self.nanos())
    }

    /// Returns the age of a record that was pushed at a certain time.
    pub(crate) fn age(&self, pushed: u32) -> Duration {
        Duration::from_millis(u64::from(self.millis().wrapping_sub(pushed)))
    }

    /// Returns whether a record that was pushed at a certain time has expired now, in a buffer whose
    /// records expire. It never expires early, and less than two milliseconds late.
    pub(crate) fn expires(&self) -> Option<impl Fn(u32) -> bool + use<>> {
        let (max_age, now) = (self.max_age?, self.millis());
        Some(move |pushed| now.wrapping_sub(pushed) > max_age)
    }
}

/// Converts a time of [`Clock::nanos`] to one of [`Clock::millis`].
pub(crate) fn millis_of(nanos: u64) -> u32 {
    (nanos / 1_000_000) as u32
}
