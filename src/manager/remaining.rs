//! The records that a drain leaves when its time is up.

use std::error::Error;
use std::fmt;

/// The unsettled records of a buffer, and what is reserved for records to come, by stage and by
/// source.
///
/// Returned by [`BufferManager::remaining`](crate::BufferManager::remaining), and by
/// [`BufferManager::drain_timeout`](crate::BufferManager::drain_timeout) as an error.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// assert!(manager.remaining().is_empty());
///
/// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
/// let remaining = manager.remaining();
/// assert_eq!(remaining.records(), 1);
/// assert_eq!(remaining.stages, [("filter".to_owned(), 1)]);
/// assert_eq!(remaining.sources, [("a".to_owned(), 1)]);
///
/// let permit = source.try_reserve(&stage, 5)?;
/// let text = "not drained: 1 records remain (stage filter 1; source a 1), \
///             5 places are reserved (stage filter 5; source a 5)";
/// assert_eq!(manager.remaining().to_string(), text);
/// # drop(permit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Remaining {
    /// The stages that hold unsettled records, by name, with the number of records, queued or in
    /// batches.
    pub stages: Vec<(String, usize)>,
    /// The sources of unsettled records, by name, with the number of records.
    pub sources: Vec<(String, usize)>,
    /// The stages with [reserved](crate::Stage::reserved) places, by name, with the number of
    /// places.
    pub reserved_stages: Vec<(String, usize)>,
    /// The sources whose credits are reserved with these places, by name, with the number of
    /// credits. A forward reserves places alone, because its records have their credits.
    pub reserved_sources: Vec<(String, usize)>,
}

impl Remaining {
    /// Returns the number of unsettled records.
    pub fn records(&self) -> usize {
        sum(&self.stages)
    }

    /// Returns the number of reserved places.
    pub fn reserved(&self) -> usize {
        sum(&self.reserved_stages)
    }

    /// Returns `true` if no unsettled records remain and nothing is reserved.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.stages, &self.sources, &self.reserved_stages, &self.reserved_sources];
        lists.iter().all(|list| list.is_empty())
    }
}

fn sum(held: &[(String, usize)]) -> usize {
    held.iter().map(|(_, records)| records).sum()
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |kind: &str, held: &[(String, usize)]| {
            let each = held.iter().map(|(id, records)| format!("{kind} {id} {records}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let (stages, sources) = (list("stage", &self.stages), list("source", &self.sources));
        match self.records() {
            0 => f.write_str("no record remains")?,
            records => write!(f, "not drained: {records} records remain ({stages}; {sources})")?,
        }
        if self.reserved() > 0 {
            let stages = list("stage", &self.reserved_stages);
            let sources = list("source", &self.reserved_sources);
            write!(f, ", {} places are reserved ({stages}; {sources})", self.reserved())?;
        }
        Ok(())
    }
}

impl Error for Remaining {}
