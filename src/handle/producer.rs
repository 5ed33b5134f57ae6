//! A handle that gathers single records into blocks.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use super::source::Source;
use super::stage::Stage;
use crate::admission::{Acquired, Wanted};
use crate::caps::Sequence;
use crate::error::{RejectReason, Rejected};
use crate::record::Envelope;
use crate::store::to_u32;
use crate::sync::{Instant, now};

/// The most records of a block, unless [`Producer::with_block_size`] sets another number.
const BLOCK_SIZE: u32 = 256;

/// The largest value of [`Producer::with_block_size`].
const MAX_BLOCK_SIZE: usize = 1 << 16;

/// How many records the first block holds, and the next one when workers wait.
const FIRST_BLOCK: u32 = 8;

/// One block takes at most one part in this many of a cap.
const SHARE_OF_CAP: u32 = 4;

/// A handle that gathers single records into blocks, owned by one thread or task.
///
/// **Workers see a record when it is published**. Until then it is *pending*. Records are published
/// as a block: when the block is full, at [`flush`](Self::flush), when the producer is dropped, and
/// at any push while a worker waits for records. A worker that waits therefore gets each record at
/// once, and a busy one finds blocks, which cost it and the producer a fraction of single records.
/// Records that are pending when the pushes stop stay pending. As with
/// [`BufWriter`](std::io::BufWriter), flush before you wait for input:
///
/// ```
/// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// use std::io::{BufRead, BufReader};
///
/// # let socket: &[u8] = b"17\nNA\n4\n";
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("parse")?, manager.source("socket")?);
/// let mut producer = source.producer(&stage);
/// let mut lines = BufReader::new(socket);
/// let mut line = String::new();
/// loop {
///     // The next read may wait for the peer: publish what is pending first.
///     if !lines.buffer().contains(&b'\n') {
///         producer.flush();
///     }
///     line.clear();
///     if lines.read_line(&mut line)? == 0 {
///         break;
///     }
///     producer.send_blocking(BufferedRecord::new(line.clone(), "socket", "p", "parse"))?;
/// }
/// drop(producer);
/// assert_eq!(stage.len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Caps
///
/// A record holds its credit and its place from the moment it is accepted, so the caps are exact. A
/// producer also holds credits and places *ahead*: at most for the rest of its present block, and
/// fewer if fewer are free. It holds none ahead after a flush, and takes none while other requests
/// wait. In a buffer with [byte budgets](crate::Builder::max_total_bytes) each record is charged
/// when it is accepted; no bytes are held ahead.
///
/// # Order
///
/// One producer and one worker see first in, first out.
///
/// # Close and drain
///
/// Pending records count as not drained. A producer of a closed buffer, source or stage still
/// publishes the records that it had accepted.
pub struct Producer<E: Envelope> {
    source: Source<E>,
    stage: Stage<E>,
    /// Records that were accepted and are not published yet.
    open: Vec<E>,
    /// The charge of each pending record, in a buffer with byte budgets.
    units: Vec<u32>,
    /// The sequence of the first pending record.
    first: Sequence,
    /// The number of further records for which it holds credits and places.
    ahead: u32,
    /// How many records the present block is to hold.
    size: u32,
    /// The most that `size` grows to.
    max_size: u32,
    /// [`Admission::closings`](crate::admission::Admission::closings) when the producer last
    /// checked for closed handles and lowered caps.
    events: u64,
    /// While [`Admission::events`](crate::admission::Admission::events) returns this, a push may
    /// use what is ahead without checks. [`MEASURED`] in a buffer with byte budgets.
    fast: u64,
}

/// A number that no count of events reaches, so that each record is measured.
const MEASURED: u64 = u64::MAX;

impl<E: Envelope> Source<E> {
    /// Returns a handle that gathers this source's records for one stage into blocks.
    ///
    /// # Examples
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut producer = source.producer(&stage);
    /// for n in 0..1_000 {
    ///     producer.try_send(BufferedRecord::new(n, "a", "p", "filter"))?;
    /// }
    /// producer.flush();
    /// assert_eq!(stage.len(), 1_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn producer(&self, stage: &Stage<E>) -> Producer<E> {
        Producer {
            source: self.clone(),
            stage: stage.clone(),
            open: Vec::new(),
            units: Vec::new(),
            first: Sequence::default(),
            ahead: 0,
            size: FIRST_BLOCK,
            max_size: BLOCK_SIZE,
            events: 0,
            fast: if self.core().admission().measures() { MEASURED } else { 0 },
        }
    }
}

impl<E: Envelope> Producer<E> {
    /// Sets the most records that a block grows to, from 1 to 65,536. Default: 256.
    ///
    /// A block never takes more than a quarter of a cap, and no more than the workers of the stage
    /// ask for. Larger blocks cost less per record and hold more credits ahead. A number out of
    /// range counts as the nearest in range.
    #[must_use]
    pub fn with_block_size(mut self, records: usize) -> Self {
        self.max_size = to_u32(records.clamp(1, MAX_BLOCK_SIZE));
        self.size = self.size.min(self.max_size);
        self
    }

    /// Accepts a record, without waiting.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Source::try_send`], after publishing what was pending.
    ///
    /// # Examples
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::new(BufferSettings { max_per_source: 2, ..Default::default() });
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut producer = source.producer(&stage);
    /// producer.try_send(BufferedRecord::new(1, "a", "p", "filter"))?;
    /// producer.try_send(BufferedRecord::new(2, "a", "p", "filter"))?;
    /// let rejected = producer.try_send(BufferedRecord::new(3, "a", "p", "filter")).unwrap_err();
    /// assert!(rejected.is_full());
    /// assert_eq!((stage.len(), producer.pending()), (2, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_send(&mut self, record: E) -> Result<(), Rejected<E>> {
        self.push(record).map_err(|rejected| self.refuse(rejected))
    }

    #[inline]
    fn push(&mut self, record: E) -> Result<(), Rejected<E>> {
        if self.ahead == 0 || self.source.core().admission().events() != self.fast {
            return self.push_slow(record);
        }
        self.accept(record);
        Ok(())
    }

    /// Accepts a record for which the producer holds a credit and a place.
    #[inline]
    fn accept(&mut self, record: E) {
        self.ahead -= 1;
        self.open.push(record);
        if self.ahead == 0 {
            self.publish_full();
        } else if self.stage.core().has_receivers() {
            self.publish_for_receivers();
        }
    }

    #[cold]
    fn push_slow(&mut self, record: E) -> Result<(), Rejected<E>> {
        let units = self.source.core().measure(&record);
        if let Err(reason) = self.prepare().and_then(|()| self.charge(units)) {
            return Err(Rejected { record, reason });
        }
        self.accept_prepared(record, units);
        Ok(())
    }

    /// Takes units for the next record. What is pending is published if there are too few.
    pub(super) fn charge(&mut self, units: u32) -> Result<(), RejectReason> {
        if units == 0 {
            return Ok(());
        }
        let source = self.source.core();
        let taken = source.admission().try_take_units(source.index(), units, units);
        let taken = taken.map_err(|denied| source.reason(self.stage.core(), denied));
        if taken.is_err() {
            self.publish();
        }
        taken.map(drop)
    }

    /// Accepts a record for which the producer also holds `units` units.
    fn accept_charged(&mut self, record: E, units: u32) {
        if units > 0 {
            self.units.push(units);
        }
        self.accept(record);
    }

    /// Accepts a record after [`prepare`](Self::prepare) and [`charge`](Self::charge). Flushes if
    /// other requests wait, so that it holds nothing ahead of them.
    pub(super) fn accept_prepared(&mut self, record: E, units: u32) {
        self.accept_charged(record, units);
        if self.source.core().admission().has_waiters() {
            self.flush();
        }
    }

    /// Returns whether the next record must queue behind requests that wait.
    pub(super) fn must_queue(&self) -> bool {
        let all_is_ahead = self.ahead > 0 && self.fast != MEASURED;
        !all_is_ahead && self.source.core().admission().has_waiters()
    }

    /// Ensures that the producer holds a credit and a place for the next record.
    pub(super) fn prepare(&mut self) -> Result<(), RejectReason> {
        let admission = self.source.core().admission();
        let (events, waits) = (admission.closings(), admission.has_waiters());
        if events != self.events {
            if self.source.is_closed() || self.stage.is_closed() {
                self.flush();
                return Err(RejectReason::Closed);
            }
            // A cap may have been lowered below what is held ahead.
            self.flush();
            self.events = events;
            if self.fast != MEASURED {
                self.fast = events;
            }
        }
        if self.ahead > 0 {
            return Ok(());
        }
        self.publish();
        let wanted = if waits { 1 } else { self.block_size() };
        let acquired = self.source.core().acquire_up_to(self.stage.core(), wanted)?;
        self.hold(acquired.records, acquired.first);
        Ok(())
    }

    /// Begins a block of records for which the producer holds credits and places.
    pub(super) fn hold(&mut self, records: u32, first: Sequence) {
        self.first = first;
        self.ahead = records;
        if records > 1 {
            self.open.reserve_exact(records as usize);
        }
    }

    /// Returns the size of the next block: `size`, within the share of each cap and what workers
    /// ask for.
    fn block_size(&self) -> u32 {
        let caps = self.source.core().least_capacity(self.stage.core());
        let asked = self.stage.core().asked();
        self.size.min(self.max_size).min((caps / SHARE_OF_CAP).max(1)).min(asked.max(1))
    }

    /// Publishes a block that is full. The next is larger.
    fn publish_full(&mut self) {
        self.publish();
        self.size = self.size.saturating_mul(2).min(self.max_size);
    }

    /// Publishes what is pending if it ends the wait of a worker. A worker that lingers waits for a
    /// full batch.
    #[cold]
    fn publish_for_receivers(&mut self) {
        if self.stage.core().receivers_want(to_u32(self.open.len())) {
            self.publish();
            self.size = FIRST_BLOCK.min(self.max_size);
        }
    }

    /// Waits for a credit and a place, then accepts a record. Pending records are published before
    /// the wait.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Source::send`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, the record is dropped with it and was not
    /// accepted. Records that were pending are published.
    pub async fn send(&mut self, record: E) -> Result<(), Rejected<E>> {
        let Some(record) = self.try_or_queue(record)? else { return Ok(()) };
        let units = self.source.core().measure(&record);
        let acquired = self.source.acquire(&self.stage, Wanted::Ahead(1, units)).await;
        self.accept_acquired(record, units, acquired)
    }

    /// Blocks the thread until a record is accepted: the blocking form of [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Source::send`].
    #[inline]
    pub fn send_blocking(&mut self, record: E) -> Result<(), Rejected<E>> {
        self.send_until(record, None)
    }

    /// Blocks the thread until a record is accepted, for at most `timeout`. Pending records are
    /// published before the wait.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Source::send_timeout`].
    pub fn send_timeout(&mut self, record: E, timeout: Duration) -> Result<(), Rejected<E>> {
        self.send_until(record, now().checked_add(timeout))
    }

    #[inline]
    fn send_until(&mut self, record: E, deadline: Option<Instant>) -> Result<(), Rejected<E>> {
        let Some(record) = self.try_or_queue(record)? else { return Ok(()) };
        let units = self.source.core().measure(&record);
        let acquired = self.source.acquire_until(&self.stage, Wanted::Ahead(1, units), deadline);
        self.accept_acquired(record, units, acquired)
    }

    /// Accepts a record without waiting. If the record must wait for room or for its turn,
    /// publishes what is pending and returns the record.
    #[inline]
    fn try_or_queue(&mut self, record: E) -> Result<Option<E>, Rejected<E>> {
        let record = if self.must_queue() {
            record
        } else {
            match self.push(record) {
                Ok(()) => return Ok(None),
                Err(rejected) if rejected.is_full() => rejected.record,
                Err(rejected) => return Err(self.refuse(rejected)),
            }
        };
        self.flush();
        Ok(Some(record))
    }

    fn accept_acquired(
        &mut self,
        record: E,
        units: u32,
        acquired: Result<Acquired, RejectReason>,
    ) -> Result<(), Rejected<E>> {
        match acquired {
            Ok(acquired) => {
                self.hold(1, acquired.first);
                self.accept_charged(record, units);
                Ok(())
            }
            Err(reason) => Err(self.refuse(Rejected { record, reason })),
        }
    }

    /// Counts a refusal.
    #[cold]
    fn refuse(&self, Rejected { record, reason }: Rejected<E>) -> Rejected<E> {
        self.source.core().refuse_one(self.stage.core(), record, reason)
    }

    /// Publishes what is pending, and gives back the credits and places that are held ahead. Never
    /// waits, and cannot fail.
    ///
    /// # Examples
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut producer = source.producer(&stage);
    /// producer.try_send(BufferedRecord::new("line", "a", "p", "filter"))?;
    /// assert_eq!((stage.len(), producer.pending()), (0, 1));
    /// producer.flush();
    /// assert_eq!((stage.len(), producer.pending()), (1, 0));
    /// assert_eq!(source.available_credits(), 4_999);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&mut self) {
        self.publish();
        let ahead = std::mem::take(&mut self.ahead);
        if ahead > 0 {
            self.stage.core().release_unused(self.source.core().index(), ahead, 0);
        }
    }

    fn publish(&mut self) {
        let len = to_u32(self.open.len());
        if len == 0 {
            return;
        }
        let (source, stage) = (self.source.core(), self.stage.core());
        source.admission().end_ahead(source.index(), stage.places(), len);
        let units = std::mem::take(&mut self.units);
        match len {
            1 => {
                if let Some(record) = self.open.pop() {
                    let units = units.first().copied().unwrap_or(0);
                    source.store_one_charged(stage, self.first, record, units);
                }
            }
            _ => {
                let rest = Vec::with_capacity(self.ahead as usize);
                let records = std::mem::replace(&mut self.open, rest);
                source.store_charged(stage, self.first, records, &units);
            }
        }
        self.first = self.first.plus(len);
    }

    /// Returns how many records were accepted and are not published yet.
    pub fn pending(&self) -> usize {
        self.open.len()
    }

    /// Returns the source whose records the producer gathers.
    pub fn source(&self) -> &Source<E> {
        &self.source
    }

    /// Returns the stage to which the producer publishes.
    pub fn stage(&self) -> &Stage<E> {
        &self.stage
    }
}

/// A producer never pins its records.
impl<E: Envelope> Unpin for Producer<E> {}

/// Publishes what is pending, even if the thread panics, and gives back what it holds ahead.
impl<E: Envelope> Drop for Producer<E> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A panic leaves every count exact: see
/// [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for Producer<E> {}
impl<E: Envelope> RefUnwindSafe for Producer<E> {}

impl<E: Envelope> fmt::Debug for Producer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("source", &self.source.id())
            .field("stage", &self.stage.id())
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}
