//! A source: the handle that pushes records, on an account of its own.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::account::Account;
use crate::backpressure::BackpressureSignal;
use crate::batch::Batch;
use crate::block::{Age, Block, Records, count, fitted};
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::ledger::{Ledger, Shortage};
use crate::record::Envelope;
use crate::settings::MAX_CAP;
use crate::signals::SignalReceiver;
use crate::stage::{NotAdmitted, Places, Stage, StageCore};
use crate::waiting::{Freed, Lack};

/// A handle to one source: what its records are pushed with, and charged to.
///
/// Cheap to clone. It works on after its manager is dropped; after its source was removed, pushes are
/// refused as [`Closed`](RejectReason::Closed).
///
/// Every record that is pushed with it is charged to this source, whatever the record's own
/// [`source_id`](Envelope::source_id) says.
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let settings = BufferSettings { max_per_source: 2, ..BufferSettings::default() };
/// let manager = BufferManager::new(settings);
/// let (stage, source) = (manager.stage("filter")?, manager.source("kafka-1")?);
/// let line = |n: i32| BufferedRecord::new(n, "kafka-1", "logs", "filter");
///
/// source.try_send(&stage, line(1))?;
/// source.try_send(&stage, line(2))?;
/// let rejected = source.try_send(&stage, line(3)).unwrap_err();
/// assert_eq!(rejected.to_string(), "source buffer full: kafka-1 holds 2 of 2 records");
/// assert_eq!(rejected.into_record().record, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Source<E: Envelope> {
    core: Arc<SourceCore>,
    records: PhantomData<fn(E)>,
}

/// What all handles to a source share.
pub(crate) struct SourceCore {
    id: Arc<str>,
    account: u32,
    ledger: Arc<Ledger>,
}

impl SourceCore {
    pub(crate) fn new(id: Arc<str>, capacity: u32, ledger: Arc<Ledger>) -> Self {
        let account = ledger.open_account(capacity);
        Self { id, account, ledger }
    }

    #[inline]
    pub(crate) fn account(&self) -> &Account {
        self.ledger.account(self.account)
    }

    /// Closes the account of a source that holds nothing.
    ///
    /// # Errors
    ///
    /// The number of records that it holds.
    pub(crate) fn close_idle(&self) -> Result<(), u32> {
        self.ledger.close_account(self.account)
    }

    /// Tells everybody who waits for credits of this closed source.
    pub(crate) fn turn_away(&self) {
        self.ledger.turn_away(self.account);
    }

    /// Takes credits and places for `records` records: all, or `None` where they are not there now, and
    /// also while others wait, who came first.
    ///
    /// # Errors
    ///
    /// Why they will never be had.
    pub(crate) fn admit_whole<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: usize,
    ) -> Result<Option<Age>, RejectReason> {
        self.check_size(stage, records)?;
        if !self.ledger.is_calm() {
            return Ok(None);
        }
        let account = self.account();
        if stage.is_shut() || account.is_closed() {
            return Err(RejectReason::Closed);
        }
        if (stage.room() as usize) < records {
            return Ok(None);
        }
        if let Some(age) = self.admit_at_once(stage, records) {
            return Ok(Some(age));
        }
        // A look first: credits that are taken in vain are missed by others for a moment.
        if (self.ledger.available(account) as usize) < records {
            return Ok(None);
        }
        let grant = self.ledger.acquire(account, count(records));
        if grant.shortage.is_none() {
            let places = stage.admit_all(grant.credits);
            if places.shortage.is_none() {
                self.ledger.note(account, &grant);
                return Ok(Some(places.age));
            }
        }
        self.give_credits_back(grant.credits);
        self.ledger.note(account, &grant);
        Ok(None)
    }

    /// Whether so many records can ever be in that stage at once.
    fn check_size<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: usize,
    ) -> Result<(), RejectReason> {
        if !Arc::ptr_eq(&self.ledger, stage.ledger()) {
            return Err(RejectReason::ForeignStage { stage_id: Arc::clone(stage.id()) });
        }
        let too_large = |capacity: u32, limit: &dyn Fn() -> String| {
            let (capacity, limit) = (capacity as usize, limit());
            Err(RejectReason::TooLarge { records, capacity, limit })
        };
        let (own, global) = (self.account().capacity(), self.ledger.capacity());
        match records {
            n if n > own as usize => too_large(own, &|| format!("source {}", self.id)),
            n if n > global as usize => too_large(global, &|| "the buffer".to_owned()),
            n if n > stage.capacity() as usize => {
                too_large(stage.capacity(), &|| format!("stage {}", stage.id()))
            }
            _ => Ok(()),
        }
    }

    /// The limit that keeps a request waiting.
    pub(crate) fn obstacle<E: Envelope>(&self, stage: &StageCore<E>, lack: Lack) -> RejectReason {
        let account = self.account();
        match lack {
            Lack::Source => self
                .refusal(Shortage::Source { held: account.used(), capacity: account.capacity() }),
            Lack::Pool => {
                let (held, capacity) = (self.ledger.used(), self.ledger.capacity());
                self.refusal(Shortage::Global { held, capacity })
            }
            Lack::Stage => refusal(stage, NotAdmitted::Full { held: stage.occupied() }),
        }
    }

    pub(crate) fn index(&self) -> u32 {
        self.account
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn utilization(&self) -> f64 {
        let account = self.account();
        f64::from(account.used()) / f64::from(account.capacity())
    }

    pub(crate) fn available_credits(&self) -> usize {
        self.ledger.available(self.account()) as usize
    }

    /// The refusal behind a shortage of credits.
    #[cold]
    fn refusal(&self, shortage: Shortage) -> RejectReason {
        match shortage {
            Shortage::Global { held, capacity } => {
                RejectReason::GlobalFull { held: held as usize, capacity: capacity as usize }
            }
            Shortage::Source { held, capacity } => RejectReason::SourceFull {
                source_id: Arc::clone(&self.id),
                held: held as usize,
                capacity: capacity as usize,
            },
            Shortage::Closed => RejectReason::Closed,
        }
    }

    /// Takes credits and places for up to `wanted` records, and says for how many. Where they are fewer
    /// without a refusal, the rest is to be tried as well.
    ///
    /// Order of taking: the source's credits (which lease from the pool), the stage's places, and
    /// then, by the caller, a slot of a ring. What is taken later and refused gives back what was
    /// taken earlier.
    fn admit<E: Envelope>(&self, stage: &StageCore<E>, wanted: usize) -> Admission {
        if !Arc::ptr_eq(&self.ledger, stage.ledger()) {
            let stage_id = Arc::clone(stage.id());
            return Admission::refused(RejectReason::ForeignStage { stage_id });
        }
        if self.ledger.is_closed() {
            return Admission::refused(RejectReason::Closed);
        }
        if let Some(age) = self.admit_exactly(stage, wanted) {
            return Admission { records: count(wanted), age, refusal: None };
        }
        // One more than the stage has room for: enough to be told which limit is the tightest, and
        // not so many that a long batch takes credits from others for a moment, only to give them
        // back.
        let asked = wanted.min(stage.room() as usize + 1).min(MAX_CAP);
        let account = self.account();
        let grant = self.ledger.acquire(account, count(asked));
        let places = if grant.credits > 0 { stage.admit(grant.credits) } else { Places::default() };
        if places.records < grant.credits {
            self.give_credits_back(grant.credits - places.records);
        }
        self.ledger.note(account, &grant);
        let refusal = match (grant.shortage, places.shortage) {
            (None, None) => None,
            (_, Some(shortage)) => Some(refusal(stage, shortage)),
            (Some(shortage), None) => Some(self.refusal(shortage)),
        };
        Admission { records: places.records, age: places.age, refusal }
    }

    /// Takes what [`admit`](Self::admit) does, if it is to be had at the first attempt and without the
    /// pool: the usual case.
    #[inline]
    fn admit_at_once<E: Envelope>(&self, stage: &StageCore<E>, wanted: usize) -> Option<Age> {
        if !Arc::ptr_eq(&self.ledger, stage.ledger()) || self.ledger.is_closed() {
            return None;
        }
        let wanted = u32::try_from(wanted).ok()?;
        let used = self.account().take_idle(wanted)?;
        self.admit_charged(stage, wanted, used)
    }

    /// The same where every credit comes from the pool: none that the stage has no room for.
    #[inline]
    fn admit_exactly<E: Envelope>(&self, stage: &StageCore<E>, wanted: usize) -> Option<Age> {
        let wanted = u32::try_from(wanted).ok()?;
        if stage.room() < wanted {
            return None;
        }
        let used = self.ledger.acquire_exactly(self.account(), wanted)?;
        let age = self.admit_charged(stage, wanted, used)?;
        self.ledger.note_pool();
        Some(age)
    }

    /// Takes places for records that have their credits, the last of `used`, or gives the credits back.
    #[inline]
    fn admit_charged<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        wanted: u32,
        used: u32,
    ) -> Option<Age> {
        let age = stage.admit_at_once(wanted);
        if age.is_some() {
            self.account().note(used);
        } else {
            self.give_credits_back(wanted);
        }
        age
    }

    /// Gives back credits that no place was found for: they may be what somebody waits for.
    fn give_credits_back(&self, credits: u32) {
        self.ledger.release(self.account(), credits);
        self.ledger.attend(Freed { gate: None, account: Some(self.account) });
    }

    /// Takes a credit and a place for one record, and tells its age.
    #[inline]
    pub(crate) fn admit_one<E: Envelope>(&self, stage: &StageCore<E>) -> Result<Age, RejectReason> {
        match self.admit_at_once(stage, 1) {
            Some(age) => Ok(age),
            None => self.admit_one_slowly(stage),
        }
    }

    #[cold]
    fn admit_one_slowly<E: Envelope>(&self, stage: &StageCore<E>) -> Result<Age, RejectReason> {
        let admission = self.admit(stage, 1);
        admission.refusal.map_or(Ok(admission.age), Err)
    }

    /// Stores a record for which a credit and a place were taken.
    #[inline]
    pub(crate) fn store_one<E: Envelope>(&self, stage: &StageCore<E>, age: Age, record: E) {
        stage.enqueue(Block { account: self.account, age, records: Records::One(record) });
    }

    /// Stores records for which credits and places were taken, as one block.
    #[inline]
    pub(crate) fn store_many<E: Envelope>(&self, stage: &StageCore<E>, age: Age, records: Vec<E>) {
        let records = Records::from_vec(records);
        stage.enqueue(Block { account: self.account, age, records });
    }

    pub(crate) fn push_batch<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        let store = |age, records| self.store_many(stage, age, records);
        // The usual case, apart from the loop below: that takes a quarter longer.
        if !records.is_empty()
            && let Some(age) = self.admit_at_once(stage, records.len())
        {
            store(age, records);
            return Ok(());
        }
        self.store_batch(stage, records, store)
    }

    /// Takes records back that were handed out, one retry counted for each that is accepted.
    pub(crate) fn readmit<E: Envelope>(
        &self,
        stage: &Arc<StageCore<E>>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        self.store_batch(stage, records, |age, records| {
            Batch::readmitted(Arc::clone(stage), self.account, age, records).return_to_buffer();
        })
    }

    /// Stores records block by block, until all are stored or one is refused. Nearly always that is
    /// one block.
    fn store_batch<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        mut records: Vec<E>,
        store: impl Fn(Age, Vec<E>),
    ) -> Result<(), RejectedBatch<E>> {
        let mut accepted = 0;
        while !records.is_empty() {
            let Admission { records: admitted, age, refusal } = self.admit(stage, records.len());
            if admitted > 0 {
                let block = take_front(&mut records, admitted as usize);
                store(age, block);
                accepted += admitted as usize;
            }
            if let Some(reason) = refusal {
                return Err(RejectedBatch { accepted, records, reason });
            }
        }
        Ok(())
    }
}

/// Takes the first `len` records, [fitted], and leaves the rest.
fn take_front<E>(records: &mut Vec<E>, len: usize) -> Vec<E> {
    if len < records.len() / 2 {
        return records.drain(..len).collect();
    }
    let rest = if len < records.len() { records.split_off(len) } else { Vec::new() };
    fitted(std::mem::replace(records, rest))
}

/// How many records of a push may go to a stage, the age of the first, and why not more.
#[derive(Default)]
struct Admission {
    records: u32,
    age: Age,
    refusal: Option<RejectReason>,
}

impl Admission {
    fn refused(reason: RejectReason) -> Self {
        Self { refusal: Some(reason), ..Self::default() }
    }
}

/// The refusal behind a shortage of places.
#[cold]
fn refusal<E: Envelope>(stage: &StageCore<E>, shortage: NotAdmitted) -> RejectReason {
    match shortage {
        NotAdmitted::Full { held } => RejectReason::StageFull {
            stage_id: Arc::clone(stage.id()),
            held: held as usize,
            capacity: stage.capacity() as usize,
        },
        NotAdmitted::Closed => RejectReason::Closed,
    }
}

/// Nobody can name the account any more: its place in the ledger is free for another source.
impl Drop for SourceCore {
    fn drop(&mut self) {
        self.ledger.vacate(self.account);
    }
}

impl<E: Envelope> Source<E> {
    pub(crate) fn from_core(core: Arc<SourceCore>) -> Self {
        Self { core, records: PhantomData }
    }

    pub(crate) fn core(&self) -> &Arc<SourceCore> {
        &self.core
    }

    /// Pushes one record to a stage, without waiting.
    ///
    /// # Errors
    ///
    /// The record with the limit that refused it: the source's cap, the global cap or the stage's
    /// cap, in this order; or [`Closed`](RejectReason::Closed), or
    /// [`ForeignStage`](RejectReason::ForeignStage) if the stage belongs to another buffer.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_send(&self, stage: &Stage<E>, record: E) -> Result<(), Rejected<E>> {
        self.store_one(stage, self.core.admit_one(stage.core()), record)
    }

    /// Pushes several records to a stage, without waiting: all, or the longest prefix that fits.
    /// They travel as one block, and the `Vec` itself is handed on where it fits as a whole.
    ///
    /// # Errors
    ///
    /// The records that did not fit with the limit that refused the first of them, as
    /// [`try_send`](Self::try_send) has them, and the number of those that were accepted. An empty
    /// `Vec` is always accepted.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let settings = BufferSettings { max_per_stage: 3, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 5];
    ///
    /// let rejected = source.try_send_batch(&stage, lines).unwrap_err();
    /// assert_eq!((rejected.accepted, rejected.records.len()), (3, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_send_batch(
        &self,
        stage: &Stage<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        self.core.push_batch(stage.core(), records)
    }

    /// How many more records the source may push now: the least of what its own cap and the global
    /// cap leave. Credits that lie idle with other sources count, for they are had when needed.
    ///
    /// Exact where no other thread is running; otherwise it may be outdated when it arrives, and a
    /// push may still be refused.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
    /// assert_eq!(source.available_credits(), 4_999);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn available_credits(&self) -> usize {
        self.core.available_credits()
    }

    /// How much of its cap the source uses, from 0.0 to 1.0. Outdated when it arrives while other
    /// threads are running, but never above 1.0.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new(0, "a", "p", "filter"); 500])?;
    /// assert_eq!(source.utilization(), 0.1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn utilization(&self) -> f64 {
        self.core.utilization()
    }

    /// What the source should do: the stronger of what the whole buffer and the source's own account
    /// ask for, each with hysteresis. Whichever push or settling crosses a watermark changes it.
    ///
    /// The whole buffer's level includes credits that sources have leased ahead of need, and so may
    /// read up to about 0.01 high. A full stage is not part of it, for the source may push to others:
    /// see [`Stage::utilization`].
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = |n| vec![BufferedRecord::new("line", "a", "p", "filter"); n];
    ///
    /// source.try_send_batch(&stage, lines(9))?;
    /// assert_eq!(source.signal(), BackpressureSignal::SlowDown); // above 0.8
    /// stage.try_recv_batch(3)?.ack();
    /// assert_eq!(source.signal(), BackpressureSignal::SlowDown); // not below 0.6
    /// stage.try_recv_batch(1)?.ack();
    /// assert_eq!(source.signal(), BackpressureSignal::Resume);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&self) -> BackpressureSignal {
        self.core.account().signal().max(self.core.ledger.controller().current())
    }

    /// A receiver that follows [`signal`](Self::signal) from now on.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut signals = source.signals();
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 9])?;
    /// assert_eq!(signals.changed_blocking(), BackpressureSignal::SlowDown);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signals(&self) -> SignalReceiver {
        SignalReceiver::of_source(self.core.ledger.controller().clone(), Arc::clone(&self.core))
    }

    /// Closes the source: from now on its pushes are refused as [`Closed`](RejectReason::Closed), and
    /// those that wait are told so. What it has in the buffer stays there, to be drained. Closing
    /// twice is no different.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::new(BufferSettings::default());
    /// # let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    /// source.try_send(&stage, line.clone())?;
    /// source.close();
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.core.ledger.shut_account(self.core.account);
    }

    /// Whether the source takes no more records, because it was closed or removed, or the whole
    /// buffer was closed.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// let source = manager.source("a")?;
    /// assert!(!source.is_closed());
    /// manager.close();
    /// assert!(source.is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_closed(&self) -> bool {
        self.core.account().is_closed()
    }

    /// The source's name.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.source("kafka-1")?.id(), "kafka-1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn id(&self) -> &str {
        &self.core.id
    }

    /// The most records that the source may hold.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// # let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.source("kafka-1")?.capacity(), 5_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity(&self) -> usize {
        self.core.account().capacity() as usize
    }
}

impl<E: Envelope> Clone for Source<E> {
    fn clone(&self) -> Self {
        Self::from_core(Arc::clone(&self.core))
    }
}

impl<E: Envelope> fmt::Debug for Source<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("id", &self.id())
            .field("utilization", &self.utilization())
            .field("capacity", &self.capacity())
            .field("signal", &self.signal())
            .finish()
    }
}
