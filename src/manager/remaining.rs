//! The records that a drain leaves when its time is up.

use std::error::Error;
use std::fmt;

/// The unsettled records of a buffer, by stage and by source.
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
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remaining {
    /// The stages that hold unsettled records, by name, with the number of records, queued or in
    /// batches.
    pub stages: Vec<(String, usize)>,
    /// The sources of unsettled records, by name, with the number of records.
    pub sources: Vec<(String, usize)>,
}

impl Remaining {
    /// Returns the number of unsettled records.
    pub fn records(&self) -> usize {
        self.stages.iter().map(|(_, records)| records).sum()
    }

    /// Returns `true` if no unsettled records remain.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.sources.is_empty()
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |kind: &str, held: &[(String, usize)]| {
            let each = held.iter().map(|(id, records)| format!("{kind} {id} {records}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let (stages, sources) = (list("stage", &self.stages), list("source", &self.sources));
        write!(f, "not drained: {} records remain ({stages}; {sources})", self.records())
    }
}

impl Error for Remaining {}
