//! The age of records: when they were pushed, in a buffer that expires them.

use std::time::Duration;

use crate::sync::{Instant, now};

/// A clock that starts when the buffer is made, and the age at which its records expire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    /// In milliseconds.
    max_age: u32,
}

/// The longest age at which a record may expire. Beyond, the time of its push would be ambiguous.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(24 * 24 * 60 * 60);

impl Clock {
    pub(crate) fn new(max_age: u32) -> Self {
        Self { start: now(), max_age }
    }

    /// Returns the present time in milliseconds, modulo 2^32.
    pub(crate) fn millis(&self) -> u32 {
        now().saturating_duration_since(self.start).as_millis() as u32
    }

    /// Returns whether a record that was pushed at a certain time has expired now. It never expires
    /// early, and less than two milliseconds late.
    pub(crate) fn expires(&self) -> impl Fn(u32) -> bool + use<> {
        let (max_age, now) = (self.max_age, self.millis());
        move |pushed| now.wrapping_sub(pushed) > max_age
    }
}
