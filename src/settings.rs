//! The caps, the backpressure threshold, and their validation.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// The backpressure threshold of [`BufferSettings::default`].
pub(crate) const DEFAULT_THRESHOLD: f64 = 0.8;

/// The largest cap. The counters pack two 32-bit record counts into one word.
pub(crate) const MAX_CAP: usize = u32::MAX as usize;

/// The caps of a buffer, in records, and its backpressure threshold.
///
/// With the feature `serde`, a field that is not given has its default. Unknown fields and values out of
/// range are errors that name the field.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::BufferSettings;
///
/// let settings = BufferSettings { max_per_source: 500, ..BufferSettings::default() };
/// assert_eq!(settings.max_total_records, 100_000);
/// assert_eq!(settings.max_per_stage, 10_000);
/// assert_eq!(settings.backpressure_threshold, 0.8);
/// assert!(settings.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BufferSettings {
    /// The maximum number of records in the whole buffer, queued or in unsettled batches: 1 to
    /// `u32::MAX`.
    pub max_total_records: usize,
    /// The maximum number of records in one stage, queued or in unsettled batches: 1 to `u32::MAX`.
    ///
    /// A stage allocates its ring when it is created, with one slot for each record that it may
    /// hold: about 11 MB for 10,000 records of 1 KiB. A call by name that creates a stage allocates
    /// the ring too. The global cap bounds the number of slots, since no stage can hold more
    /// records.
    pub max_per_stage: usize,
    /// The maximum number of records of one source, over all stages: 1 to `u32::MAX`.
    pub max_per_source: usize,
    /// The utilization above which the buffer signals backpressure: above 0.0, at most 1.0.
    pub backpressure_threshold: f64,
}

impl Default for BufferSettings {
    /// Returns caps of 100,000 records in all, 10,000 per stage and 5,000 per source, and a
    /// threshold of 0.8.
    fn default() -> Self {
        Self {
            max_total_records: 100_000,
            max_per_stage: 10_000,
            max_per_source: 5_000,
            backpressure_threshold: DEFAULT_THRESHOLD,
        }
    }
}

impl BufferSettings {
    /// Checks that every field is in its range.
    ///
    /// # Errors
    ///
    /// Returns a [`SettingsError`] for the first field that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        cap("max_total_records", self.max_total_records)?;
        cap("max_per_stage", self.max_per_stage)?;
        cap("max_per_source", self.max_per_source)?;
        check_threshold(self.backpressure_threshold)
    }

    /// Returns the nearest valid settings.
    ///
    /// A cap of 0 becomes 1, and a cap above `u32::MAX` becomes `u32::MAX`. A threshold above 1.0
    /// becomes 1.0; a threshold that is NaN or not above 0.0 becomes 0.8.
    #[must_use]
    pub fn nearest_valid(self) -> Self {
        Self {
            max_total_records: self.max_total_records.clamp(1, MAX_CAP),
            max_per_stage: self.max_per_stage.clamp(1, MAX_CAP),
            max_per_source: self.max_per_source.clamp(1, MAX_CAP),
            backpressure_threshold: nearest_threshold(self.backpressure_threshold),
        }
    }
}

/// Checks a threshold.
pub(crate) fn check_threshold(value: f64) -> Result<(), SettingsError> {
    if is_threshold(value) { Ok(()) } else { Err(SettingsError::Threshold { value }) }
}

/// Returns whether a number is above 0.0 and at most 1.0.
pub(crate) fn is_threshold(value: f64) -> bool {
    // NaN fails this comparison.
    value > 0.0 && value <= 1.0
}

/// Returns the nearest valid threshold, or the default for NaN and values not above 0.0.
pub(crate) fn nearest_threshold(threshold: f64) -> f64 {
    if threshold > 0.0 { threshold.min(1.0) } else { DEFAULT_THRESHOLD }
}

/// Returns the used share of a cap, at most 1.0: a cap that was lowered may hold more than it allows.
pub(crate) fn share(used: u32, capacity: u32) -> f64 {
    (f64::from(used) / f64::from(capacity)).min(1.0)
}

/// Checks one cap and converts it to the width of the counters.
pub(crate) fn cap(field: &'static str, value: usize) -> Result<u32, SettingsError> {
    match u32::try_from(value) {
        Ok(0) => Err(SettingsError::Zero { field }),
        Ok(cap) => Ok(cap),
        Err(_) => Err(SettingsError::TooLarge { field, value }),
    }
}

/// Checks a limit against the guarantees under it.
pub(crate) fn at_least(
    field: &'static str,
    value: usize,
    guarantee: usize,
) -> Result<(), SettingsError> {
    if value < guarantee {
        return Err(SettingsError::BelowGuarantee { field, value, guarantee });
    }
    Ok(())
}

/// The error for invalid settings.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferSettings, SettingsError};
///
/// let settings = BufferSettings { max_per_stage: 0, ..BufferSettings::default() };
/// let error = settings.validate().unwrap_err();
/// assert_eq!(error, SettingsError::Zero { field: "max_per_stage" });
/// assert_eq!(error.to_string(), "max_per_stage must be at least 1");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SettingsError {
    /// A number that must be at least 1 is 0.
    Zero {
        /// The name of the setting.
        field: &'static str,
    },
    /// A number is above `u32::MAX`.
    TooLarge {
        /// The name of the setting.
        field: &'static str,
        /// The value that was set.
        value: usize,
    },
    /// `backpressure_threshold` is NaN, not above 0.0, or above 1.0.
    Threshold {
        /// The value that was set.
        value: f64,
    },
    /// The watermarks violate `0.0 < low <= high <= 1.0`.
    Watermarks {
        /// The high watermark that was set.
        high: f64,
        /// The low watermark that was set.
        low: f64,
    },
    /// A share is NaN, below 0.0, or above 1.0.
    Share {
        /// The name of the setting.
        field: &'static str,
        /// The value that was set.
        value: f64,
    },
    /// An age is below 1 millisecond or above 24 days.
    Age {
        /// The name of the setting.
        field: &'static str,
        /// The value that was set.
        value: Duration,
    },
    /// A byte budget is below 64 bytes or above 256 GiB less 128 bytes.
    Bytes {
        /// The name of the setting.
        field: &'static str,
        /// The value that was set.
        value: usize,
    },
    /// A stage or a source that was given its own capacity has an empty name.
    EmptyName {
        /// The builder's method.
        field: &'static str,
    },
    /// A limit is below the [guarantees](crate::Builder::source_guarantee) under it.
    BelowGuarantee {
        /// The name of the limit.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The sum of the guarantees; for `max_sources`, their number.
        guarantee: usize,
    },
    /// A stage's capacity is to grow beyond the slots of its ring.
    BeyondRing {
        /// The name of the setting.
        field: &'static str,
        /// The value that was set.
        value: usize,
        /// The number of slots.
        slots: usize,
    },
    /// The allocator cannot provide the memory for this setting.
    OutOfMemory {
        /// The name of the setting.
        field: &'static str,
        /// The number of records that was set.
        records: usize,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { field } => write!(f, "{field} must be at least 1"),
            Self::TooLarge { field, value } => {
                write!(f, "{field} must be at most {MAX_CAP}, got {value}")
            }
            Self::Threshold { value } => {
                write!(f, "backpressure_threshold must be above 0.0 and at most 1.0, got {value}")
            }
            Self::Watermarks { high, low } => write!(
                f,
                "watermarks must satisfy 0.0 < low <= high <= 1.0, got high {high} and low {low}"
            ),
            Self::Share { field, value } => {
                write!(f, "{field} must be from 0.0 to 1.0, got {value}")
            }
            Self::Age { field, value } => {
                write!(f, "{field} must be from 1 ms to 24 days, got {value:?}")
            }
            Self::BelowGuarantee { field, value, guarantee } => {
                write!(f, "{field} must be at least {guarantee} for source_guarantee, got {value}")
            }
            Self::Bytes { field, value } => {
                write!(f, "{field} must be from 64 to 274877906816, got {value}")
            }
            Self::BeyondRing { field, value, slots } => write!(
                f,
                "{field} must be at most {slots}, for which the ring was made, got {value}"
            ),
            Self::EmptyName { field } => write!(f, "{field} needs a name that is not empty"),
            Self::OutOfMemory { field, records } => {
                write!(f, "{field} of {records} records: not enough memory")
            }
        }
    }
}

impl Error for SettingsError {}
