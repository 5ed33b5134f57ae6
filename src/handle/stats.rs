//! The statistics of one stage and of one source.

use super::source::{Source, SourceCore};
use super::stage::Stage;
use crate::caps::{Ledger, bytes_of};
use crate::record::Envelope;
use crate::stats::{ByteStats, SourceStats, StageStats};

impl<E: Envelope> Stage<E> {
    /// Returns what the stage holds and what it has done.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "load"); 5])?;
    /// stage.try_recv_batch(1)?.requeue();
    /// stage.try_recv_batch(2)?.ack();
    ///
    /// let stats = stage.stats();
    /// assert_eq!((stats.counts.accepted, stats.counts.acknowledged, stats.queued), (5, 2, 3));
    /// assert_eq!(stats.counts.requeued, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> StageStats {
        self.core().stats()
    }
}

impl<E: Envelope> Source<E> {
    /// Returns what the source holds and what it has done.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 2, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "load"); 3];
    /// source.try_send_batch(&stage, lines).unwrap_err();
    ///
    /// let stats = source.stats();
    /// assert_eq!((stats.accepted, stats.held, stats.refusals.source), (2, 2, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> SourceStats {
        source_stats(self.core())
    }
}

pub(crate) fn source_stats(source: &SourceCore) -> SourceStats {
    let account = source.account();
    let most = source.admission().bytes().map_or(0, Ledger::capacity);
    SourceStats {
        id: source.id().to_string(),
        held: account.used() as usize,
        reserved: account.reserved_ahead() as usize,
        parked: account.parked() as usize,
        capacity: account.capacity() as usize,
        bytes: source.bytes_account().map(|of| byte_stats(of.used(), most.min(of.capacity()))),
        accepted: source.accepted(),
        refusals: account.tally().refusals(),
        waits: account.tally().waits(),
    }
}

pub(crate) fn byte_stats(held: u32, capacity: u32) -> ByteStats {
    ByteStats { held: bytes_of(held), capacity: bytes_of(capacity) }
}
