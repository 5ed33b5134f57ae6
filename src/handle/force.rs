//! Pushes into a full stage that take its oldest record out.

use super::source::{Source, SourceCore};
use super::stage::Stage;
use crate::caps::{Denied, Limit, Sequence};
use crate::error::{RejectReason, Rejected};
use crate::record::Envelope;
use crate::store::StageCore;

impl<E: Envelope> Source<E> {
    /// Pushes one record without waiting. While the stage is full, takes the oldest queued record
    /// out of it and hands it to `evicted`.
    ///
    /// For feeds in which the newest record counts, as with crossbeam's `ArrayQueue::force_push`.
    /// An evicted record is out of the buffer: its place and its credits are free.
    ///
    /// Usually one record is evicted. A request that waits for a place in the stage, or another
    /// thread, may take the place that it had held, and then the call evicts the next. Only the cap
    /// of the stage makes room in this way, because an eviction at another cap, or for bytes, could
    /// take records of other stages or sources. Records in unsettled batches are never evicted.
    ///
    /// # Errors
    ///
    /// Returns the record and the reason: that of [`try_send`](Self::try_send), or
    /// [`StageFull`](RejectReason::StageFull) if no record of the full stage is queued. Records may
    /// have been evicted before.
    ///
    /// # Panics
    ///
    /// Panics if `evicted` does. The new record is then dropped, and holds nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, Record};
    ///
    /// let settings = BufferSettings { max_per_stage: 2, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("prices")?, manager.source("exchange")?);
    ///
    /// let mut missed = 0;
    /// for price in [101, 102, 103] {
    ///     source.force_send(&stage, Record::new(price), |_| missed += 1)?;
    /// }
    /// assert_eq!(missed, 1);
    /// let batch = stage.try_recv_batch(10)?;
    /// assert_eq!(batch.iter().map(|price| **price).collect::<Vec<_>>(), [102, 103]);
    /// batch.ack();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn force_send(
        &self,
        stage: &Stage<E>,
        record: E,
        evicted: impl FnMut(E),
    ) -> Result<(), Rejected<E>> {
        let units = self.core().measure(&record);
        match self.core().acquire_evicting(stage.core(), units, evicted) {
            Ok(first) => {
                self.core().store_one_charged(stage.core(), first, record, units);
                Ok(())
            }
            Err(reason) => Err(self.core().refuse_one(stage.core(), record, reason)),
        }
    }
}

impl SourceCore {
    /// Takes a credit, units and a place for one record, and evicts records while the stage is full.
    fn acquire_evicting<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        units: u32,
        mut evicted: impl FnMut(E),
    ) -> Result<Sequence, RejectReason> {
        loop {
            let denied = match self.try_acquire_one(stage, units)? {
                Ok(first) => return Ok(first),
                Err(denied) => denied,
            };
            let is_full = matches!(denied, Denied::Full { limit: Limit::Stage, .. });
            match is_full.then(|| stage.evict()).flatten() {
                Some(oldest) => evicted(oldest),
                None => return Err(self.reason(stage, denied)),
            }
        }
    }
}
