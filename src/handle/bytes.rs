//! Byte budgets: what a record is charged, and permits that hold bytes.

use std::time::Duration;

use super::permit::Permit;
use super::source::{Source, SourceCore};
use super::stage::Stage;
use crate::admission::Wanted;
use crate::caps::{Account, bytes_of, sum_of, units_for, units_of};
use crate::error::RejectReason;
use crate::record::Envelope;
use crate::sync::now;

impl SourceCore {
    /// Measures a record, in units. Returns 0 in a buffer without byte budgets.
    #[inline]
    pub(crate) fn measure<E: Envelope>(&self, record: &E) -> u32 {
        if self.admission().measures() { units_of(record.size_bytes()) } else { 0 }
    }

    /// Measures records, in units. Returns an empty `Vec` in a buffer without byte budgets.
    #[inline]
    pub(crate) fn measure_all<E: Envelope>(&self, records: &[E]) -> Vec<u32> {
        if self.admission().measures() {
            records.iter().map(|record| units_of(record.size_bytes())).collect()
        } else {
            Vec::new()
        }
    }

    /// Returns the byte account, in a buffer with byte budgets.
    pub(crate) fn bytes_account(&self) -> Option<&Account> {
        self.admission().bytes().map(|bytes| bytes.account(self.index()))
    }

    /// Returns a request for the records, and the units of each.
    pub(super) fn request_for<E: Envelope>(&self, records: &[E]) -> (Wanted, Vec<u32>) {
        let units = self.measure_all(records);
        (Wanted::All(records.len(), sum_of(&units)), units)
    }

    /// Returns a request for `records` records that measure `bytes` together.
    fn sized(&self, records: usize, bytes: usize) -> Wanted {
        let records = records.max(1);
        let units = if self.admission().measures() { units_for(records, bytes) } else { 0 };
        Wanted::Ahead(records, units)
    }
}

impl<E: Envelope> Source<E> {
    /// Returns how many bytes the records of this source are charged. The size of each record is
    /// rounded up to a multiple of 64 bytes. What [permits](Permit) and parked dead letters hold
    /// counts as well. Returns 0 in a buffer without
    /// [byte budgets](crate::Builder::max_total_bytes).
    ///
    /// The value may be outdated on return if other threads use the source.
    pub fn held_bytes(&self) -> usize {
        self.core().bytes_account().map_or(0, |account| bytes_of(account.used()))
    }

    /// Waits until credits, places and bytes for `records` records that measure `bytes` together
    /// are reserved.
    ///
    /// A buffer with byte budgets learns the size of a record when it is pushed, so the permits of
    /// [`reserve`](Self::reserve) hold no bytes, and a push with them may be refused. A permit from
    /// this call accepts records that measure no more than `bytes` together. A record of 0 bytes
    /// counts as 1 byte. In a buffer without byte budgets, `bytes` has no effect.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve`](Self::reserve), and
    /// [`TooLarge`](RejectReason::TooLarge) if `bytes` exceeds a budget. Each record may need up to 63
    /// bytes more than it measures, because it is charged in steps of 64.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`reserve`](Self::reserve).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::<BufferedRecord<[u8; 200]>>::builder(BufferSettings::default())
    ///     .max_total_bytes(1 << 20)
    ///     .build()?;
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let mut permit = source.reserve_bytes(&stage, 10, 100_000).await?;
    /// assert!(source.held_bytes() >= 100_000);
    /// for _ in 0..10 {
    ///     permit.push(BufferedRecord::new([0; 200], "a", "p", "filter")).expect("it is reserved");
    /// }
    /// // The bytes that no record needed are free again.
    /// assert!(source.held_bytes() < 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn reserve_bytes(
        &self,
        stage: &Stage<E>,
        records: usize,
        bytes: usize,
    ) -> Result<Permit<E>, RejectReason> {
        let wanted = self.core().sized(records, bytes);
        let acquired = self.acquire(stage, wanted).await;
        Permit::new(self, stage, acquired, wanted)
    }

    /// Blocks the thread until credits, places and bytes are reserved: the blocking form of
    /// [`reserve_bytes`](Self::reserve_bytes).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve_bytes`](Self::reserve_bytes).
    pub fn reserve_bytes_blocking(
        &self,
        stage: &Stage<E>,
        records: usize,
        bytes: usize,
    ) -> Result<Permit<E>, RejectReason> {
        self.reserve_until(stage, self.core().sized(records, bytes), None)
    }

    /// Blocks the thread until credits, places and bytes are reserved, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve_bytes`](Self::reserve_bytes), and after the timeout
    /// the limit that was in the way; [`is_full`](RejectReason::is_full) is then true.
    pub fn reserve_bytes_timeout(
        &self,
        stage: &Stage<E>,
        records: usize,
        bytes: usize,
        timeout: Duration,
    ) -> Result<Permit<E>, RejectReason> {
        let wanted = self.core().sized(records, bytes);
        self.reserve_until(stage, wanted, now().checked_add(timeout))
    }

    /// Reserves credits, places and bytes without waiting: see
    /// [`reserve_bytes`](Self::reserve_bytes).
    ///
    /// Like [`try_send`](Self::try_send), the call does not queue behind requests that wait.
    ///
    /// # Errors
    ///
    /// Returns the limit that leaves too few credits, places or bytes, and the other reasons of
    /// [`try_reserve`](Self::try_reserve).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::builder(BufferSettings::default())
    ///     .max_source_bytes(1_024)
    ///     .build()?;
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let permit = source.try_reserve_bytes(&stage, 1, 640)?;
    /// let reason = source.try_reserve_bytes(&stage, 1, 512).unwrap_err();
    /// assert_eq!(
    ///     reason.to_string(),
    ///     "source byte budget full: a holds 640 of 1024 bytes, 512 more do not fit",
    /// );
    /// # drop(permit);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_reserve_bytes(
        &self,
        stage: &Stage<E>,
        records: usize,
        bytes: usize,
    ) -> Result<Permit<E>, RejectReason> {
        self.try_reserve_wanted(stage, self.core().sized(records, bytes))
    }
}
