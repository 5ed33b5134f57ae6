//! The statistics and the level of the whole buffer.

use super::manager::BufferManager;
use super::registry::Registry;
use crate::caps::{Ledger, bytes_of};
use crate::handle::{byte_stats, source_stats};
use crate::record::Envelope;
use crate::settings::share;
use crate::stats::{StageStats, Stats, Totals};

impl<E: Envelope> BufferManager<E> {
    /// Returns what the buffer holds and what it has done, by stage and by source.
    ///
    /// The call visits every stage and source. [`Stats`] shows an example.
    pub fn stats(&self) -> Stats {
        let letters = self.dead_letters();
        let (stages, Totals { counts, refusals, waits }) = self.registry().stage_stats();
        let mut sources = self.registry().all_sources(source_stats);
        sources.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Stats {
            held: self.len(),
            capacity: self.capacity(),
            dead_letters: letters.len(),
            parked: letters.parked(),
            bytes: self.admission().bytes().map(|of| byte_stats(of.used(), of.capacity())),
            counts,
            refusals,
            waits,
            stages,
            sources,
        }
    }

    /// Returns the number of credits in use: of records that are queued, delayed or in unsettled
    /// batches, of [permits](crate::Permit), and of parked dead letters.
    ///
    /// The value is exact if no other thread uses the buffer. The call usually reads one word. If
    /// the buffer is far from its cap, it also visits the sources that have leased credits ahead
    /// of need: at most one for every 200 records of the cap.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_total_records: 100, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 40])?;
    ///
    /// assert_eq!((manager.len(), manager.capacity(), manager.utilization()), (40, 100, 0.4));
    /// assert_eq!((source.len(), source.is_empty(), manager.is_empty()), (40, false, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.admission().ledger().used() as usize
    }

    /// Returns `true` if no credit is in use. The caveat of [`len`](Self::len) applies.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the maximum number of records in the whole buffer.
    pub fn capacity(&self) -> usize {
        self.admission().ledger().capacity() as usize
    }

    /// Returns how many bytes records are charged, in steps of 64 bytes for each record. Those of
    /// [permits](crate::Permit) and of parked dead letters count. Returns 0 in a buffer without
    /// [byte budgets](crate::Builder::max_total_bytes).
    ///
    /// The caveat of [`len`](Self::len) applies.
    pub fn held_bytes(&self) -> usize {
        self.admission().bytes().map_or(0, |bytes| bytes_of(bytes.used()))
    }

    /// Returns the used share of the global cap, from 0.0 to 1.0, or that of the byte budget if it
    /// is higher. The caveat of [`len`](Self::len) applies.
    pub fn utilization(&self) -> f64 {
        let share_of = |ledger: &Ledger| share(ledger.used(), ledger.capacity());
        let records = share_of(self.admission().ledger());
        self.admission().bytes().map_or(records, |bytes| records.max(share_of(bytes)))
    }
}

impl<E: Envelope> Registry<E> {
    /// Returns the statistics of all stages, sorted by name, and their sums with those of the stages
    /// that were removed.
    fn stage_stats(&self) -> (Vec<StageStats>, Totals) {
        let (stages, mut totals) = self.stages_with_totals();
        let mut stages: Vec<_> = stages.iter().map(|stage| stage.stats()).collect();
        stages.iter().for_each(|stage| totals.add(stage));
        stages.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        (stages, totals)
    }
}
