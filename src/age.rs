//! The age of records: when they were pushed, in a buffer that asks for it.

use std::time::Duration;

use crate::sync::{Instant, now};

/// A clock that starts when the buffer is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    /// The age at which a record expires, in milliseconds.
    max_age: Option<u32>,
}

impl Clock {
    /// Returns the clock of a buffer whose records expire at this age, in milliseconds.
    pub(crate) fn new(max_age: Option<u32>) -> Self {
        Self { start: now(), max_age }
    }

    /// Returns the present time in nanoseconds.
    pub(crate) fn nanos(&self) -> u64 {
        now().saturating_duration_since(self.start).as_nanos() as u64
    }

    /// Returns whether a record that was pushed at `pushed` has expired now. It never expires early,
    /// and less than two milliseconds late.
    pub(crate) fn expires(&self) -> Option<impl Fn(u32) -> bool + use<>> {
        let (max_age, now) = (self.max_age?, millis(self.nanos()));
        Some(move |pushed| now.wrapping_sub(pushed) > max_age)
    }
}

/// The longest age at which a record may expire. Beyond, the time of its push would be ambiguous.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// Converts nanoseconds to milliseconds, modulo 2^32.
pub(crate) fn millis(nanos: u64) -> u32 {
    (nanos / 1_000_000) as u32
}
