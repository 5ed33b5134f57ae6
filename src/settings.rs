//! The three caps and the threshold, and what is wrong with bad ones.

use std::error::Error;
use std::fmt;

/// The backpressure threshold of [`BufferSettings::default`].
pub(crate) const DEFAULT_THRESHOLD: f64 = 0.8;

/// The largest cap there can be: counts of records are packed in pairs into 64-bit words.
pub(crate) const MAX_CAP: usize = u32::MAX as usize;

/// The caps of a buffer, in records, and the utilization above which it asks sources to slow down.
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
pub struct BufferSettings {
    /// Most records in the whole buffer, queued or in unsettled batches: 1 to `u32::MAX`.
    pub max_total_records: usize,
    /// Most records in one stage, queued or in unsettled batches: 1 to `u32::MAX`. A stage
    /// allocates its ring up front, a slot for each record it may hold.
    pub max_per_stage: usize,
    /// Most records of one source, over all stages: 1 to `u32::MAX`.
    pub max_per_source: usize,
    /// The utilization above which backpressure is signalled: above 0.0, at most 1.0.
    pub backpressure_threshold: f64,
}

impl Default for BufferSettings {
    /// 100,000 records in all, 10,000 a stage, 5,000 a source, and a threshold of 0.8.
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
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// The first field that is out of its range, as a [`SettingsError`].
    ///
    /// ```
    /// use conveyor_buffer::{BufferSettings, SettingsError};
    ///
    /// let settings = BufferSettings { max_per_stage: 0, ..BufferSettings::default() };
    /// assert_eq!(settings.validate(), Err(SettingsError::Zero { field: "max_per_stage" }));
    /// ```
    pub fn validate(&self) -> Result<(), SettingsError> {
        cap("max_total_records", self.max_total_records)?;
        cap("max_per_stage", self.max_per_stage)?;
        cap("max_per_source", self.max_per_source)?;
        // Written so that NaN fails.
        if self.backpressure_threshold > 0.0 && self.backpressure_threshold <= 1.0 {
            Ok(())
        } else {
            Err(SettingsError::Threshold { value: self.backpressure_threshold })
        }
    }

    /// The valid settings nearest to these: a cap of zero becomes 1 and one past `u32::MAX` becomes
    /// `u32::MAX`; a threshold above 1.0 becomes 1.0, and one that is NaN or not above 0.0 becomes
    /// 0.8.
    ///
    /// ```
    /// use conveyor_buffer::BufferSettings;
    ///
    /// let settings = BufferSettings { max_per_source: 0, ..BufferSettings::default() };
    /// assert_eq!(settings.nearest_valid().max_per_source, 1);
    /// ```
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

/// The valid threshold nearest to `threshold`; the default where none is near.
pub(crate) fn nearest_threshold(threshold: f64) -> f64 {
    if threshold > 0.0 { threshold.min(1.0) } else { DEFAULT_THRESHOLD }
}

/// Checks one cap, and gives it back in the width that the counters have.
pub(crate) fn cap(field: &'static str, value: usize) -> Result<u32, SettingsError> {
    match u32::try_from(value) {
        Ok(0) => Err(SettingsError::Zero { field }),
        Ok(cap) => Ok(cap),
        Err(_) => Err(SettingsError::TooLarge { field, value }),
    }
}

/// What is wrong with the settings of a buffer.
///
/// ```
/// use conveyor_buffer::SettingsError;
///
/// let error = SettingsError::Zero { field: "max_per_stage" };
/// assert_eq!(error.to_string(), "max_per_stage must be at least 1");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SettingsError {
    /// A number that must be at least 1 is 0.
    Zero {
        /// The setting's name.
        field: &'static str,
    },
    /// A number is past `u32::MAX`.
    TooLarge {
        /// The setting's name.
        field: &'static str,
        /// What was asked for.
        value: usize,
    },
    /// `backpressure_threshold` is NaN, not above 0.0, or above 1.0.
    Threshold {
        /// What was asked for.
        value: f64,
    },
    /// The watermarks do not satisfy `0.0 < low <= high <= 1.0`.
    Watermarks {
        /// The high watermark that was asked for.
        high: f64,
        /// The low watermark that was asked for.
        low: f64,
    },
    /// A capacity was given for a stage or a source whose name is empty.
    EmptyName {
        /// The builder's method.
        field: &'static str,
    },
    /// Memory of this size cannot be had.
    OutOfMemory {
        /// The setting's name.
        field: &'static str,
        /// How many records it asked room for.
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
            Self::EmptyName { field } => write!(f, "{field} needs a name that is not empty"),
            Self::OutOfMemory { field, records } => {
                write!(f, "{field} of {records} records: not enough memory")
            }
        }
    }
}

impl Error for SettingsError {}
