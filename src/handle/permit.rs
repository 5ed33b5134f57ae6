//! Permits: credits and places that are reserved before the records exist.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::source::Source;
use super::stage::Stage;
use crate::admission::{Acquired, Wanted};
use crate::caps::{Sequence, sum_of};
use crate::error::RejectReason;
use crate::record::Envelope;
use crate::store::{StageCore, to_u32};
use crate::sync::{Instant, now};

impl<E: Envelope> Source<E> {
    /// Waits for credits and places for `records` records in a stage and reserves them.
    ///
    /// A `records` of 0 counts as 1. The fairness rules and bounds are those of
    /// [`send_batch`](Self::send_batch).
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`send_batch`](Self::send_batch).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it resolves, it holds neither credits nor places.
    ///
    /// The buffer grants a waiting request while its future is not being polled. From then on the
    /// future holds the credits and places until it is polled or dropped, and
    /// [`drain`](crate::BufferManager::drain) waits for it. A future that is passed to
    /// [`mem::forget`](std::mem::forget) holds them forever.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let permit = source.reserve(&stage, 1).await?;
    /// assert_eq!((source.available_credits(), stage.len()), (4_999, 0));
    /// permit.send(BufferedRecord::new("line", "a", "p", "filter"));
    /// assert_eq!((source.available_credits(), stage.len()), (4_999, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn reserve(
        &self,
        stage: &Stage<E>,
        records: usize,
    ) -> Result<Permit<E>, RejectReason> {
        let wanted = Wanted::Ahead(records.max(1), 0);
        let acquired = self.acquire(stage, wanted).await;
        Permit::new(self, stage, acquired, wanted)
    }

    /// Blocks the thread until credits and places for `records` records are reserved: the blocking
    /// form of [`reserve`](Self::reserve).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve`](Self::reserve).
    pub fn reserve_blocking(
        &self,
        stage: &Stage<E>,
        records: usize,
    ) -> Result<Permit<E>, RejectReason> {
        self.reserve_until(stage, Wanted::Ahead(records.max(1), 0), None)
    }

    /// Blocks the thread until credits and places for `records` records are reserved, for at most
    /// `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve`](Self::reserve), and after the timeout the limit that
    /// was in the way; [`is_full`](RejectReason::is_full) is then true.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 3, ..BufferSettings::default() };
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let two = source.reserve_blocking(&stage, 2)?;
    /// let reason = source.reserve_timeout(&stage, 2, Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(reason.to_string(), "source buffer full: a holds 2 of 3 records");
    /// drop(two);
    /// assert_eq!(source.reserve_timeout(&stage, 2, Duration::from_millis(1))?.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_timeout(
        &self,
        stage: &Stage<E>,
        records: usize,
        timeout: Duration,
    ) -> Result<Permit<E>, RejectReason> {
        self.reserve_until(stage, Wanted::Ahead(records.max(1), 0), now().checked_add(timeout))
    }

    /// Reserves credits and places for `records` records without waiting.
    ///
    /// A `records` of 0 counts as 1. Like [`try_send`](Self::try_send), the call does not queue
    /// behind requests that wait.
    ///
    /// # Errors
    ///
    /// Returns the limit that leaves too few credits or places, and the other reasons of
    /// [`try_send`](Self::try_send). A number of records that exceeds a cap is
    /// [`TooLarge`](RejectReason::TooLarge).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_stage: 3, ..BufferSettings::default() };
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let permit = source.try_reserve(&stage, 2)?;
    /// let reason = source.try_reserve(&stage, 2).unwrap_err();
    /// assert_eq!(reason.to_string(), "stage buffer full: filter holds 2 of 3 records");
    /// assert_eq!((stage.reserved(), stage.in_flight(), permit.len()), (2, 0, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_reserve(&self, stage: &Stage<E>, records: usize) -> Result<Permit<E>, RejectReason> {
        self.try_reserve_wanted(stage, Wanted::Ahead(records.max(1), 0))
    }

    pub(super) fn try_reserve_wanted(
        &self,
        stage: &Stage<E>,
        wanted: Wanted,
    ) -> Result<Permit<E>, RejectReason> {
        let core = self.core();
        let acquired = match wanted {
            Wanted::All(records, units) | Wanted::Ahead(records, units) => {
                core.try_acquire_all(stage.core(), records, units)
            }
            Wanted::AheadUpTo(max) => {
                core.acquire_up_to(stage.core(), core.clamp(stage.core(), max))
            }
        };
        Permit::new(self, stage, acquired, wanted)
    }

    /// Waits until a record may be pushed, then reserves as many credits and places as are free, up
    /// to `max`.
    ///
    /// A program that fetches records from elsewhere reserves first, and fetches no more than
    /// [`Permit::len`]. A `max` of 0 counts as 1, and one above a cap counts as the cap.
    ///
    /// The call waits as [`send`](Self::send) does, for one credit and one place, in turn with the
    /// other requests of the source. When its turn comes, it takes all that is free up to `max`,
    /// even if later requests could use it.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`send`](Self::send).
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
    /// let settings = BufferSettings { max_per_stage: 3, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut upstream = 0..;
    ///
    /// let mut permit = source.reserve_up_to(&stage, 100).await?;
    /// assert_eq!(permit.len(), 3);
    /// for number in upstream.by_ref().take(permit.len()) {
    ///     permit.push(BufferedRecord::new(number, "a", "p", "filter")).expect("it is reserved");
    /// }
    /// assert_eq!((stage.len(), permit.len()), (3, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn reserve_up_to(
        &self,
        stage: &Stage<E>,
        max: usize,
    ) -> Result<Permit<E>, RejectReason> {
        let acquired = self.acquire(stage, Wanted::AheadUpTo(max)).await;
        Permit::new(self, stage, acquired, Wanted::AheadUpTo(max))
    }

    /// Blocks the thread until a record may be pushed: the blocking form of
    /// [`reserve_up_to`](Self::reserve_up_to).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve_up_to`](Self::reserve_up_to).
    pub fn reserve_up_to_blocking(
        &self,
        stage: &Stage<E>,
        max: usize,
    ) -> Result<Permit<E>, RejectReason> {
        self.reserve_until(stage, Wanted::AheadUpTo(max), None)
    }

    /// Blocks the thread until a record may be pushed, for at most `timeout`, and then reserves as
    /// [`reserve_up_to`](Self::reserve_up_to) does.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns the same reasons as [`reserve_up_to`](Self::reserve_up_to), and after the timeout
    /// the limit that was in the way; [`is_full`](RejectReason::is_full) is then true.
    pub fn reserve_up_to_timeout(
        &self,
        stage: &Stage<E>,
        max: usize,
        timeout: Duration,
    ) -> Result<Permit<E>, RejectReason> {
        self.reserve_until(stage, Wanted::AheadUpTo(max), now().checked_add(timeout))
    }

    /// Reserves as many credits and places as are free, up to `max` and at least one, without
    /// waiting.
    ///
    /// A `max` of 0 counts as 1. Like [`try_send`](Self::try_send), the call does not queue behind
    /// requests that wait.
    ///
    /// # Errors
    ///
    /// Returns the limit that leaves no credit or place, and the other reasons of
    /// [`try_send`](Self::try_send).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 5, ..BufferSettings::default() };
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let first = source.try_reserve_up_to(&stage, 3)?;
    /// let rest = source.try_reserve_up_to(&stage, 3)?;
    /// assert_eq!((first.len(), rest.len()), (3, 2));
    /// assert!(source.try_reserve_up_to(&stage, 3).unwrap_err().is_full());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_reserve_up_to(
        &self,
        stage: &Stage<E>,
        max: usize,
    ) -> Result<Permit<E>, RejectReason> {
        self.try_reserve_wanted(stage, Wanted::AheadUpTo(max))
    }

    pub(super) fn reserve_until(
        &self,
        stage: &Stage<E>,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> Result<Permit<E>, RejectReason> {
        let acquired = self.acquire_until(stage, wanted, deadline);
        Permit::new(self, stage, acquired, wanted)
    }
}

/// Reserved credits and places in a stage, from [`Source::reserve`] and the calls beside it.
///
/// In a buffer with [byte budgets](crate::Builder::max_total_bytes), a permit from
/// [`Source::reserve_bytes`] also holds bytes. A push takes the bytes of its record from the permit
/// first, and the rest from the budgets. It is refused if the budgets leave too little.
///
/// Places for which no record was pushed yet count in [`Stage::reserved`](crate::Stage::reserved),
/// and [`BufferManager::remaining`](crate::BufferManager::remaining) names them. Dropping the
/// permit releases them. While it holds any, [`drain`](crate::BufferManager::drain) does not
/// return, because a record may still be pushed. A permit that is passed to
/// [`mem::forget`](std::mem::forget) holds its credits and places forever.
///
/// Records of one permit keep their order. Among the other records of the source, they come in the
/// order of the pushes, not of the reservation. If they are returned, they are as old as the
/// reservation.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// # pollster::block_on(async {
/// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
///
/// let permit = source.reserve(&stage, 10).await?;
/// assert_eq!((permit.len(), source.available_credits()), (10, 4_990));
/// drop(permit);
/// assert_eq!(source.available_credits(), 5_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "a permit that is dropped gives its credits back"]
pub struct Permit<E: Envelope> {
    source: Source<E>,
    stage: Arc<StageCore<E>>,
    records: u32,
    /// Units of bytes that are reserved for these records.
    units: u32,
    first: Sequence,
}

impl<E: Envelope> Permit<E> {
    /// Creates a permit for what a request was granted.
    pub(super) fn new(
        source: &Source<E>,
        stage: &Stage<E>,
        acquired: Result<Acquired, RejectReason>,
        wanted: Wanted,
    ) -> Result<Self, RejectReason> {
        let (source, stage) = (source.clone(), Arc::clone(stage.core()));
        let units = match wanted {
            Wanted::All(_, units) | Wanted::Ahead(_, units) => units,
            Wanted::AheadUpTo(_) => 0,
        };
        match acquired {
            Ok(Acquired { records, first }) => Ok(Self { source, stage, records, units, first }),
            Err(reason) => Err(source.core().refuse(&*stage, reason)),
        }
    }

    /// Returns the number of records that may still be pushed; at least 1 for a new permit.
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Returns `true` if the permit is used up.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Pushes one record and keeps the rest of the reservation.
    ///
    /// Without byte budgets the call cannot fail while the permit is not used up, even if the
    /// buffer was closed in the meantime.
    ///
    /// # Errors
    ///
    /// Returns the record if the permit [is used up](Self::is_empty). In a buffer with byte
    /// budgets, also returns it if it measures more than what is left of the permit's bytes and of
    /// the budgets; the permit keeps its credit. A closed buffer gives a permit no further bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = |n: i32| BufferedRecord::new(n, "a", "p", "filter");
    ///
    /// let mut permit = source.try_reserve(&stage, 2)?;
    /// assert_eq!(permit.push(line(1)), Ok(()));
    /// assert_eq!((permit.len(), stage.len(), stage.reserved()), (1, 1, 1));
    /// assert_eq!(permit.push(line(2)), Ok(()));
    /// assert!(permit.is_empty());
    /// assert_eq!(permit.push(line(3)).unwrap_err().record, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push(&mut self, record: E) -> Result<(), E> {
        if self.is_empty() {
            return Err(record);
        }
        let units = self.source.core().measure(&record);
        if !self.take_units(units) {
            return Err(record);
        }
        let first = self.use_up(1);
        self.source.core().store_one_charged(&self.stage, first, record, units);
        self.release_spare_units();
        Ok(())
    }

    /// Takes units for a record: reserved ones first, then units of the budgets. Returns whether
    /// there were enough.
    fn take_units(&mut self, units: u32) -> bool {
        let source = self.source.core();
        let more = units.saturating_sub(self.units);
        if more > 0 && source.admission().try_take_units(source.index(), more, more).is_err() {
            return false;
        }
        self.units = self.units.saturating_sub(units);
        true
    }

    /// Gives back the remaining units if the permit is used up.
    fn release_spare_units(&mut self) {
        if self.is_empty() && self.units > 0 {
            let source = self.source.core();
            source.admission().release_units(source.index(), std::mem::take(&mut self.units));
        }
    }

    /// Takes `records` records out of the reservation, and returns the sequence of the first.
    fn use_up(&mut self, records: u32) -> Sequence {
        let source = self.source.core();
        source.admission().end_ahead(source.index(), self.stage.places(), records);
        self.records -= records;
        let first = self.first;
        self.first = first.plus(records);
        first
    }

    /// Pushes one record and releases the rest of the reservation.
    ///
    /// Without byte budgets the call cannot fail on a permit that is not used up, even if the
    /// buffer was closed in the meantime.
    ///
    /// # Panics
    ///
    /// Panics where [`push`](Self::push) would return the record, and drops it. In a buffer with
    /// byte budgets, reserve the bytes by [`Source::reserve_bytes`], or use `push`.
    pub fn send(mut self, record: E) {
        assert!(self.push(record).is_ok(), "the permit is used up, or the byte budgets are");
    }

    /// Pushes records as one block and releases the rest of the reservation.
    ///
    /// # Errors
    ///
    /// Returns the records beyond [`len`](Self::len), or beyond what the byte budgets leave. The
    /// records before them are pushed.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 5];
    ///
    /// let rest = source.reserve(&stage, 3).await?.send_batch(lines).unwrap_err();
    /// assert_eq!((stage.len(), rest.len()), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn send_batch(mut self, mut records: Vec<E>) -> Result<(), Vec<E>> {
        let units = self.source.core().measure_all(&records);
        let most = records.len().min(self.len());
        let units = &units[..units.len().min(most)];
        let fit = if self.take_units(sum_of(units)) {
            most
        } else {
            units.iter().take_while(|units| self.take_units(**units)).count()
        };
        let rest = records.split_off(fit);
        if !records.is_empty() {
            let first = self.use_up(to_u32(fit));
            let units = &units[..units.len().min(fit)];
            self.source.core().store_charged(&self.stage, first, records, units);
        }
        if rest.is_empty() { Ok(()) } else { Err(rest) }
    }
}

impl<E: Envelope> Drop for Permit<E> {
    fn drop(&mut self) {
        if self.records > 0 {
            let units = std::mem::take(&mut self.units);
            self.stage.release_unused(self.source.core().index(), self.records, units);
            self.records = 0;
        }
        self.release_spare_units();
    }
}

/// A panic leaves every count exact: see
/// [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for Permit<E> {}
impl<E: Envelope> RefUnwindSafe for Permit<E> {}

impl<E: Envelope> fmt::Debug for Permit<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("source", &self.source.id())
            .field("stage", self.stage.id())
            .field("records", &self.records)
            .finish()
    }
}
