//! What a drain whose time is up has left.

use std::error::Error;
use std::fmt;

/// Records that are not settled, queued or in batches: see [`BufferManager::drain_timeout`](crate::BufferManager::drain_timeout).
///
/// ```
/// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// assert_eq!(manager.remaining().records(), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remaining {
    /// The stages that hold some, by name, with the number of records, queued or in batches.
    pub stages: Vec<(String, usize)>,
    /// The sources that they are of, by name, with the number of records.
    pub sources: Vec<(String, usize)>,
}

impl Remaining {
    /// How many records they are.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// assert_eq!(manager.remaining().records(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn records(&self) -> usize {
        self.stages.iter().map(|(_, records)| records).sum()
    }

    /// Whether none remain.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.remaining().is_empty());
    /// ```
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
