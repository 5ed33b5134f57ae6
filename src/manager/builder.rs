//! Building a manager: constructors and the builder.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::manager::BufferManager;
use super::registry::{Limits, Registry, fits_in_memory};
use crate::admission::{Admission, Budget};
use crate::age::{Clock, MAX_AGE};
use crate::backpressure::{BackpressureController, Watermarks};
use crate::caps::{MAX_UNITS, budget_of, idle_budget_for};
use crate::record::Envelope;
use crate::retry::{Backoff, RetryPolicy};
use crate::settings::{BufferSettings, SettingsError, at_least, cap};
use crate::store::DeadLetterQueue;

/// Default for [`Builder::max_stages`].
const MAX_STAGES: usize = 1 << 10;
/// Default for [`Builder::max_sources`].
const MAX_SOURCES: usize = 1 << 17;
/// Default for [`Builder::dead_letter_capacity`].
const DEAD_LETTER_CAPACITY: usize = 1 << 10;

/// A builder that configures a [`BufferManager`].
///
/// [`build`](Self::build) validates all settings.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::<BufferedRecord<String>>::builder(BufferSettings::default())
///     .watermarks(0.9, 0.5)
///     .max_retries(3)
///     .dead_letter_capacity(100)
///     .stage_capacity("load", 50_000)
///     .source_capacity("bulk", 100)
///     .build()?;
///
/// assert_eq!(manager.controller().low_watermark(), 0.5);
/// assert_eq!(manager.dead_letters().capacity(), 100);
/// assert_eq!(manager.stage("load")?.capacity(), 50_000);
/// assert_eq!(manager.source("bulk")?.capacity(), 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until build is called"]
pub struct Builder<E: Envelope> {
    settings: BufferSettings,
    watermarks: Option<(f64, f64)>,
    max_retries: Option<u32>,
    retry_backoff: Option<Backoff>,
    max_age: Option<Duration>,
    measure_time: bool,
    max_stages: usize,
    max_sources: usize,
    dead_letter_capacity: usize,
    max_total_bytes: Option<usize>,
    max_source_bytes: Option<usize>,
    stage_capacities: HashMap<String, usize>,
    source_capacities: HashMap<String, usize>,
    source_guarantees: HashMap<String, usize>,
    idle_sources: Option<Duration>,
    records: PhantomData<fn(E)>,
}

impl<E: Envelope> BufferManager<E> {
    /// Creates a buffer with these settings.
    ///
    /// # Panics
    ///
    /// Panics if the settings are invalid. [`try_new`](Self::try_new) returns an error instead.
    #[must_use]
    pub fn new(settings: BufferSettings) -> Self {
        Self::try_new(settings).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates a buffer with these settings, or returns an error if they are invalid.
    ///
    /// # Errors
    ///
    /// Returns a [`SettingsError`] for the first setting that is out of its range.
    pub fn try_new(settings: BufferSettings) -> Result<Self, SettingsError> {
        Self::builder(settings).build()
    }

    /// Creates a buffer from four settings, replacing invalid ones by the nearest valid ones.
    ///
    /// The call never fails: see [`BufferSettings::nearest_valid`].
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferedRecord};
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::with_limits(100, 50, 25, 0.8);
    /// assert_eq!(manager.source("a")?.capacity(), 25);
    ///
    /// let least = BufferManager::<BufferedRecord<u8>>::with_limits(0, 0, 0, f64::NAN);
    /// assert_eq!(least.source("a")?.capacity(), 1);
    /// assert_eq!(least.controller().high_watermark(), 0.8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_limits(
        max_total_records: usize,
        max_per_stage: usize,
        max_per_source: usize,
        backpressure_threshold: f64,
    ) -> Self {
        let settings = BufferSettings {
            max_total_records,
            max_per_stage,
            max_per_source,
            backpressure_threshold,
        };
        Self::new(settings.nearest_valid())
    }

    /// Returns a builder for a buffer with these and further settings.
    pub fn builder(settings: BufferSettings) -> Builder<E> {
        Builder::new(settings)
    }
}

/// Creates a buffer with the default settings.
impl<E: Envelope> Default for BufferManager<E> {
    fn default() -> Self {
        Self::new(BufferSettings::default())
    }
}

impl<E: Envelope> Builder<E> {
    pub(crate) fn new(settings: BufferSettings) -> Self {
        Self {
            settings,
            watermarks: None,
            max_retries: None,
            retry_backoff: None,
            max_age: None,
            measure_time: false,
            max_stages: MAX_STAGES,
            max_sources: MAX_SOURCES,
            dead_letter_capacity: DEAD_LETTER_CAPACITY,
            max_total_bytes: None,
            max_source_bytes: None,
            stage_capacities: HashMap::new(),
            source_capacities: HashMap::new(),
            source_guarantees: HashMap::new(),
            idle_sources: None,
            records: PhantomData,
        }
    }

    /// Sets both watermarks, as utilizations with `0.0 < low <= high <= 1.0`.
    ///
    /// The high watermark replaces `backpressure_threshold`. The default low watermark is three
    /// quarters of the high one.
    pub fn watermarks(mut self, high: f64, low: f64) -> Self {
        self.watermarks = Some((high, low));
        self
    }

    /// Sets how many times a record may be returned. Default: no limit.
    ///
    /// A further return moves the record to the dead letters. With 0, the first return does.
    ///
    /// The record counts its own retries ([`Envelope::retry_count`]), so they add up across stages.
    /// To start from 0 at the next stage, reset the count before forwarding the batch. A
    /// [`requeue`](crate::Batch::requeue) counts none: use it for work that was not tried, such as
    /// inserts into a database that is busy.
    ///
    /// Without a limit, a record that always fails comes back forever, ahead of newer ones: set a
    /// limit, or settle such a record as [`Outcome::DeadLetter`](crate::Outcome::DeadLetter). A
    /// limit without a [`retry_backoff`](Self::retry_backoff) is used up within moments.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::builder(BufferSettings::default()).max_retries(1).build()?;
    /// let (stage, source) = (manager.stage("parse")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("NA", "a", "p", "parse"))?;
    ///
    /// stage.try_recv_batch(1)?.return_to_buffer();
    /// assert!(manager.dead_letters().is_empty());
    /// stage.try_recv_batch(1)?.return_to_buffer();
    /// assert_eq!(manager.dead_letters().try_recv().unwrap().retry_count, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Sets how long a returned record stays away from its stage. Default: it comes back at once.
    ///
    /// This holds for [`Batch::return_to_buffer`](crate::Batch::return_to_buffer), for
    /// [`Outcome::Return`](crate::Outcome::Return), for returns by name, and for a batch that is
    /// dropped. Without a backoff, a worker that fails takes the same records again at once, and a
    /// short outage uses up their retries. [`Backoff`] shows an example.
    pub fn retry_backoff(mut self, backoff: Backoff) -> Self {
        self.retry_backoff = Some(backoff);
        self
    }

    /// Sets the age at which a record expires, from 1 millisecond to 24 days. Default: no record
    /// expires.
    ///
    /// An expired record is not handed out. The worker that reaches it moves it to the dead letters
    /// with the reason [`Expired`](crate::DeadLetterReason::Expired) and goes on to the next
    /// record. Without a worker, it stays in its stage. The age counts from the push, across all
    /// stages, to the millisecond: a record never expires early. For a record of a
    /// [`Producer`](crate::Producer), the age counts from its publication.
    ///
    /// The buffer then reads the clock at each push and each take, and allocates 80 bytes for each
    /// block, and a `Vec` for each record that is pushed alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{
    ///     BufferManager, BufferSettings, BufferedRecord, DeadLetterReason, TryRecvError,
    /// };
    ///
    /// let manager = BufferManager::builder(BufferSettings::default())
    ///     .max_age(Duration::from_millis(5))
    ///     .build()?;
    /// let (stage, source) = (manager.stage("quotes")?, manager.source("exchange")?);
    /// source.try_send(&stage, BufferedRecord::new(101.5, "exchange", "p", "quotes"))?;
    ///
    /// std::thread::sleep(Duration::from_millis(10));
    /// assert_eq!(stage.try_recv_batch(10).unwrap_err(), TryRecvError::Empty);
    /// let letter = manager.dead_letters().try_recv().unwrap();
    /// assert_eq!(letter.reason, DeadLetterReason::Expired);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Measures how long records wait in each stage, and how old the next one is, for
    /// [`StageStats`](crate::StageStats). Default: off.
    ///
    /// The buffer then reads the clock at each push and each take, and holds a lock of the stage
    /// for about 10 nanoseconds. It allocates as with [`max_age`](Self::max_age). These costs are
    /// per block: push batches, or use a [`Producer`](crate::Producer).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager =
    ///     BufferManager::builder(BufferSettings::default()).measure_time(true).build()?;
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "load"); 10])?;
    ///
    /// let pause = Duration::from_millis(20);
    /// std::thread::sleep(pause);
    /// assert!(stage.stats().oldest.unwrap() >= pause);
    /// stage.try_recv_batch(10)?.ack();
    /// assert!(stage.stats().time_in_stage.unwrap().p50 >= pause);
    /// assert_eq!(stage.stats().oldest, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn measure_time(mut self, measure: bool) -> Self {
        self.measure_time = measure;
        self
    }

    /// Sets how many stages may exist at once, at least 1. Default: 1,024.
    pub fn max_stages(mut self, n: usize) -> Self {
        self.max_stages = n;
        self
    }

    /// Sets how many sources may exist at once, at least 1. Default: 131,072.
    pub fn max_sources(mut self, n: usize) -> Self {
        self.max_sources = n;
        self
    }

    /// Lets a new name replace a source that has held nothing for the time `after`, once the limit
    /// of [sources](Self::max_sources) is reached. Default: sources stay until they are
    /// [removed](BufferManager::remove_source).
    ///
    /// So a buffer that sees new names all the time does not refuse them forever. A source stays
    /// while it holds records (queued, in batches, parked as dead letters, or reserved by a
    /// permit), while a handle to it exists ([`Source`](crate::Source),
    /// [`Producer`](crate::Producer), permit or receiver of its signals), and if it has a
    /// [guarantee](Self::source_guarantee). A source that was replaced is created again when it is
    /// next named: with the capacity that the builder set, and open, even if it had been closed.
    ///
    /// At the limit, a new name checks at most 1,024 sources, each in a few nanoseconds, and the
    /// next new name continues from there. So with more sources, a name may be refused as
    /// [`TooManySources`](crate::RejectReason::TooManySources) although a source that was not
    /// checked is idle. With [`Duration::ZERO`], every source that holds nothing is idle.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::builder(BufferSettings::default())
    ///     .max_sources(2)
    ///     .idle_sources(Duration::ZERO)
    ///     .build()?;
    /// let line = |id: &str| BufferedRecord::new("line", id, "p", "parse");
    /// for id in ["session-1", "session-2", "session-3"] {
    ///     manager.buffer_for_stage("parse", line(id)).await?;
    ///     assert_eq!(manager.get_batch("parse", 1).await.len(), 1);
    /// }
    ///
    /// // A source that holds a record stays, and so does one with a handle.
    /// let handle = manager.source("admin")?;
    /// manager.buffer_for_stage("parse", line("session-4")).await?;
    /// let rejected = manager.buffer_for_stage("parse", line("session-5")).await.unwrap_err();
    /// assert_eq!(rejected.reason.to_string(), "too many sources: at most 2 may exist");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn idle_sources(mut self, after: Duration) -> Self {
        self.idle_sources = Some(after);
        self
    }

    /// Sets how many dead letters are held without credits, at least 1. Default: 1,024.
    ///
    /// [`build`](Self::build) fails if memory for a full queue of letters cannot be allocated. The
    /// queue grows as letters arrive.
    ///
    /// If no worker receives them, no letter is lost or overwritten. Further letters are
    /// [parked](crate::DeadLetters#parked-letters): each keeps the credit and the place of its
    /// record until a letter is received. Where parked letters fill a cap, pushes are refused as
    /// [`ParkedLetters`](crate::RejectReason::ParkedLetters), and pushes that wait go on waiting.
    /// [`drain`](crate::BufferManager::drain) does not wait for letters. A program that does not
    /// need them should let a worker receive and drop them.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, Record};
    ///
    /// let settings = BufferSettings { max_per_stage: 2, ..BufferSettings::default() };
    /// let manager =
    ///     BufferManager::builder(settings).max_retries(0).dead_letter_capacity(1).build()?;
    /// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
    /// source.try_send_batch(&stage, vec![Record::new("NA"); 2])?;
    /// stage.try_recv_batch(2)?.return_to_buffer();
    ///
    /// // Of two letters, one is parked and occupies a place.
    /// source.try_send(&stage, Record::new("1"))?;
    /// let rejected = source.try_send(&stage, Record::new("2")).unwrap_err();
    /// let reason = "full: stage parse holds 2 of 2 records, 1 of them parked dead letters";
    /// assert_eq!(rejected.reason.to_string(), reason);
    ///
    /// manager.dead_letters().try_recv().unwrap();
    /// source.try_send(&stage, rejected.into_inner())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dead_letter_capacity(mut self, records: usize) -> Self {
        self.dead_letter_capacity = records;
        self
    }

    /// Sets the capacity of one stage, in records, in place of `max_per_stage`.
    ///
    /// The stage allocates its ring when it is created, with one slot for each record that it may
    /// hold: about 11 MB for 10,000 records of 1 KiB. A call by name that creates the stage
    /// allocates the ring too.
    pub fn stage_capacity(mut self, id: &str, records: usize) -> Self {
        self.stage_capacities.insert(id.to_owned(), records);
        self
    }

    /// Sets the capacity of one source, in records, in place of `max_per_source`.
    pub fn source_capacity(mut self, id: &str, records: usize) -> Self {
        self.source_capacities.insert(id.to_owned(), records);
        self
    }

    /// Guarantees a number of records to one source, at least 1. No other source can have the
    /// credits for them.
    ///
    /// A record within the guarantee is never refused because of the global cap, even while a
    /// request of another source waits for credits. The source's own cap, byte budgets and the caps
    /// of stages still apply, and so do places and bytes that are reserved for a request that
    /// waits. What the source holds beyond the guarantee comes from the credits that all sources
    /// share. The other sources see the rest of the global cap: a push that finds the rest used up
    /// is refused as
    /// [`GuaranteedToOthers`](crate::RejectReason::GuaranteedToOthers), and signals and utilization
    /// count only what is held.
    ///
    /// The guarantee belongs to the name. Its credits, and its place among
    /// [`max_sources`](Self::max_sources), are kept while no source of that name exists. The
    /// guarantee also holds while the buffer drains below a global cap that was
    /// [lowered](BufferManager::set_max_total_records): the records that others hold beyond the new
    /// cap do not count against it, and the buffer never holds more than the old cap.
    ///
    /// A source with a guarantee leases no credits ahead of need. So each of its pushes writes a
    /// word that all sources share. Sources without one do not pay for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_total_records: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::builder(settings).source_guarantee("quiet", 2).build()?;
    /// let stage = manager.stage("parse")?;
    /// let (loud, quiet) = (manager.source("loud")?, manager.source("quiet")?);
    /// let line = |id: &str| BufferedRecord::new("line", id, "p", "parse");
    ///
    /// let rejected = loud.try_send_batch(&stage, vec![line("loud"); 100]).unwrap_err();
    /// assert_eq!(rejected.accepted, 8);
    /// assert_eq!(
    ///     rejected.reason.to_string(),
    ///     "global buffer full: it holds 8 of 10 records, and 2 are guaranteed to other sources",
    /// );
    /// quiet.try_send_batch(&stage, vec![line("quiet"); 2])?;
    /// assert_eq!(quiet.guarantee(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn source_guarantee(mut self, id: &str, records: usize) -> Self {
        self.source_guarantees.insert(id.to_owned(), records);
        self
    }

    /// Sets how many bytes the records of the whole buffer may measure, as a second limit beside
    /// the number of records: 64 to 256 GiB less 128. Default: no limit.
    ///
    /// [`Envelope::size_bytes`] measures a record. The size of each record is rounded up, and the
    /// budget down, to a multiple of 64 bytes.
    ///
    /// - A record holds its bytes until it is settled, like its credit. A push is refused as
    ///   [`GlobalBytesFull`](crate::RejectReason::GlobalBytesFull) or
    ///   [`SourceBytesFull`](crate::RejectReason::SourceBytesFull) if too few bytes are left, and a
    ///   call that waits also waits for bytes. A record that exceeds the budget is refused at once
    ///   as [`TooLarge`](crate::RejectReason::TooLarge), and so is a batch that exceeds it and must
    ///   be accepted as a whole.
    /// - A record that is forwarded or returned is measured again. Neither call fails for lack of
    ///   bytes, so that a pipeline always drains. A record that grew in a worker's hands is charged
    ///   no more than the budget leaves, and after a close no more than before.
    /// - A parked dead letter keeps its bytes. A letter that is not parked holds none.
    /// - [`Source::reserve_bytes`](crate::Source::reserve_bytes) makes permits that hold bytes.
    ///
    /// The signals and the utilization of the buffer and of a source follow records or bytes,
    /// whichever is the higher share. [`BufferManager::held_bytes`] reads the level.
    ///
    /// The memory of the buffer itself, such as the rings of the stages, does not count. With byte
    /// budgets it allocates 80 bytes for each block, 4 more for each of its records if their
    /// charges differ, and a `Vec` for each record that is pushed alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, Envelope};
    ///
    /// struct Page(Vec<u8>);
    ///
    /// impl Envelope for Page {
    ///     fn source_id(&self) -> &str {
    ///         "crawler"
    ///     }
    ///     fn retry_count(&self) -> u32 {
    ///         0
    ///     }
    ///     fn increment_retry(&mut self) {}
    ///     fn size_bytes(&self) -> usize {
    ///         size_of::<Self>() + self.0.capacity()
    ///     }
    /// }
    ///
    /// let manager = BufferManager::builder(BufferSettings::default())
    ///     .max_total_bytes(100_000)
    ///     .build()?;
    /// let (stage, source) = (manager.stage("parse")?, manager.source("crawler")?);
    ///
    /// source.try_send(&stage, Page(vec![0; 60_000]))?;
    /// let rejected = source.try_send(&stage, Page(vec![0; 50_000])).err().unwrap();
    /// assert_eq!(
    ///     rejected.to_string(),
    ///     "global byte budget full: it holds 60032 of 99968 bytes, 50048 more do not fit",
    /// );
    /// stage.try_recv_batch(1)?.ack();
    /// source.try_send(&stage, rejected.into_inner())?;
    ///
    /// let rejected = source.try_send(&stage, Page(vec![0; 200_000])).err().unwrap();
    /// assert!(!rejected.is_full());
    /// let reason = "too large: 1 records never fit under the 99968 of the byte budget of the buffer";
    /// assert_eq!(rejected.to_string(), reason);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_total_bytes(mut self, bytes: usize) -> Self {
        self.max_total_bytes = Some(bytes);
        self
    }

    /// Sets how many bytes the records of each source may measure: see
    /// [`max_total_bytes`](Self::max_total_bytes). Default: no limit of its own.
    pub fn max_source_bytes(mut self, bytes: usize) -> Self {
        self.max_source_bytes = Some(bytes);
        self
    }

    /// Validates all settings and builds the manager.
    ///
    /// # Errors
    ///
    /// Returns a [`SettingsError`] that names the invalid setting: a number out of its range, or a
    /// limit below the [guarantees](Self::source_guarantee) that it must cover.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let error = BufferManager::<BufferedRecord<u8>>::builder(BufferSettings::default())
    ///     .stage_capacity("load", 0)
    ///     .build()
    ///     .unwrap_err();
    /// assert_eq!(error.to_string(), "stage_capacity must be at least 1");
    /// ```
    pub fn build(self) -> Result<BufferManager<E>, SettingsError> {
        self.settings.validate()?;
        self.retry_backoff.map_or(Ok(()), |backoff| backoff.validate())?;
        let watermarks = match self.watermarks {
            Some((high, low)) => Watermarks::new(high, low)?,
            None => Watermarks::from_threshold(self.settings.backpressure_threshold)?,
        };
        let capacity = cap("max_total_records", self.settings.max_total_records)?;
        let dead_letter_capacity = cap("dead_letter_capacity", self.dead_letter_capacity)?;
        let max_age = self.max_age.map(|age| max_age("max_age", age)).transpose()?;
        let limits = Limits {
            max_stages: cap("max_stages", self.max_stages)? as usize,
            max_sources: cap("max_sources", self.max_sources)? as usize,
            per_stage: cap("max_per_stage", self.settings.max_per_stage)?,
            per_source: cap("max_per_source", self.settings.max_per_source)?,
            stage_capacities: capacities("stage_capacity", self.stage_capacities)?,
            source_capacities: capacities("source_capacity", self.source_capacities)?,
            source_guarantees: capacities("source_guarantee", self.source_guarantees)?,
            idle_sources: self.idle_sources,
            retries: RetryPolicy::new(self.max_retries, self.retry_backoff),
            clock: Clock::new(max_age, self.measure_time),
        };
        check_guarantees(&limits, capacity)?;
        if !fits_in_memory(DeadLetterQueue::<E>::footprint(dead_letter_capacity)) {
            return Err(SettingsError::OutOfMemory {
                field: "dead_letter_capacity",
                records: self.dead_letter_capacity,
            });
        }
        let total = budget("max_total_bytes", self.max_total_bytes)?;
        let per_source = budget("max_source_bytes", self.max_source_bytes)?;
        let bytes = (total.is_some() || per_source.is_some()).then(|| {
            let [total, per_source] = [total, per_source].map(|units| units.unwrap_or(MAX_UNITS));
            Box::new(Budget::new(total, per_source, watermarks))
        });
        let controller = BackpressureController::from_watermarks(watermarks);
        let idle_budget = idle_budget_for(capacity, watermarks);
        let admission = Admission::new(capacity, idle_budget, controller, bytes);
        let dead_letters =
            Arc::new(DeadLetterQueue::new(dead_letter_capacity, Arc::clone(&admission)));
        Ok(BufferManager::from_registry(Registry::new(limits, admission, dead_letters)))
    }
}

/// Checks that each guarantee is within its source's cap, and that all fit under the global cap and
/// the limit of names.
fn check_guarantees(limits: &Limits, capacity: u32) -> Result<(), SettingsError> {
    let guarantees = &limits.source_guarantees;
    for (id, &guarantee) in guarantees {
        let is_own = limits.source_capacities.contains_key(id);
        let field = if is_own { "source_capacity" } else { "max_per_source" };
        at_least(field, limits.source_capacity(id) as usize, guarantee as usize)?;
    }
    let sum = guarantees.values().fold(0, |sum: usize, &n| sum.saturating_add(n as usize));
    at_least("max_total_records", capacity as usize, sum)?;
    at_least("max_sources", limits.max_sources, guarantees.len())
}

fn capacities(
    field: &'static str,
    given: HashMap<String, usize>,
) -> Result<HashMap<String, u32>, SettingsError> {
    let check = |(id, records): (String, usize)| {
        if id.is_empty() {
            return Err(SettingsError::EmptyName { field });
        }
        Ok((id, cap(field, records)?))
    };
    given.into_iter().map(check).collect()
}

impl<E: Envelope> fmt::Debug for Builder<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("settings", &self.settings)
            .field("watermarks", &self.watermarks)
            .field("max_retries", &self.max_retries)
            .field("retry_backoff", &self.retry_backoff)
            .field("max_age", &self.max_age)
            .field("measure_time", &self.measure_time)
            .field("max_stages", &self.max_stages)
            .field("max_sources", &self.max_sources)
            .field("dead_letter_capacity", &self.dead_letter_capacity)
            .field("max_total_bytes", &self.max_total_bytes)
            .field("max_source_bytes", &self.max_source_bytes)
            .field("stage_capacities", &self.stage_capacities)
            .field("source_capacities", &self.source_capacities)
            .field("source_guarantees", &self.source_guarantees)
            .field("idle_sources", &self.idle_sources)
            .finish()
    }
}

/// Checks a byte budget, if it is given, and converts it to units.
pub(super) fn budget(
    field: &'static str,
    bytes: Option<usize>,
) -> Result<Option<u32>, SettingsError> {
    let check = |value| budget_of(value).ok_or(SettingsError::Bytes { field, value });
    bytes.map(check).transpose()
}

/// Checks the age at which records expire, and converts it to milliseconds.
pub(super) fn max_age(field: &'static str, age: Duration) -> Result<u32, SettingsError> {
    if (Duration::from_millis(1)..=MAX_AGE).contains(&age) {
        return Ok(age.as_millis() as u32);
    }
    Err(SettingsError::Age { field, value: age })
}
