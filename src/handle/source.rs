//! The handle to a source: it pushes records without waiting, on an account of its own.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::stage::Stage;
use crate::admission::{Acquire, Admission, Admitted, Request, SharedStage};
use crate::caps::{Account, Denied, Limit, Sequence};
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::record::Envelope;
use crate::settings::MAX_CAP;
use crate::store::{StageCore, shrink_if_sparse, to_u32};

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
    admission: Arc<Admission>,
}

impl SourceCore {
    pub(crate) fn new(id: Arc<str>, capacity: u32, admission: Arc<Admission>) -> Self {
        let account = admission.open_account(capacity);
        Self { id, account, admission }
    }

    #[inline]
    pub(crate) fn account(&self) -> &Account {
        self.admission.account(self.account)
    }

    pub(crate) fn index(&self) -> u32 {
        self.account
    }

    #[inline]
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    fn is_closed(&self) -> bool {
        self.admission.is_closed() || self.account().is_closed()
    }

    pub(crate) fn utilization(&self) -> f64 {
        let account = self.account();
        f64::from(account.used()) / f64::from(account.capacity())
    }

    pub(crate) fn available_credits(&self) -> usize {
        if self.admission.is_closed() {
            return 0;
        }
        self.admission.ledger().available(self.account()) as usize
    }

    #[inline]
    fn owns<E: Envelope>(&self, stage: &StageCore<E>) -> bool {
        Arc::ptr_eq(&self.admission, stage.admission())
    }

    /// Takes a credit and a place for one record, and gives its sequence.
    #[inline]
    pub(crate) fn acquire_one<E: Envelope>(
        &self,
        stage: &StageCore<E>,
    ) -> Result<Sequence, RejectReason> {
        match self.acquire_fast(stage, 1) {
            Some(first) => Ok(first),
            None => self.acquire_one_slow(stage),
        }
    }

    #[cold]
    fn acquire_one_slow<E: Envelope>(
        &self,
        stage: &StageCore<E>,
    ) -> Result<Sequence, RejectReason> {
        let admitted = self.acquire(stage, 1)?;
        match admitted.denied {
            None => Ok(admitted.first),
            Some(denied) => Err(self.reason(stage, denied)),
        }
    }

    /// Takes credits and places for `wanted` records, if the account has the credits and the first
    /// attempt succeeds: the usual case.
    #[inline]
    fn acquire_fast<E: Envelope>(&self, stage: &StageCore<E>, wanted: usize) -> Option<Sequence> {
        if !self.owns(stage) {
            return None;
        }
        let wanted = u32::try_from(wanted).ok()?;
        self.admission.try_acquire_fast(self.account, stage.places(), wanted)
    }

    /// Takes credits and places for up to `wanted` records. Where they are fewer and nothing is denied,
    /// the rest is to be tried as well.
    fn acquire<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        wanted: usize,
    ) -> Result<Admitted, RejectReason> {
        if !self.owns(stage) {
            return Err(RejectReason::ForeignStage { stage_id: Arc::clone(stage.id()) });
        }
        let wanted = to_u32(wanted.min(MAX_CAP));
        Ok(match self.admission.try_acquire_exact(self.account, stage.places(), wanted) {
            Some(first) => Admitted { records: wanted, first, denied: None },
            None => self.admission.try_acquire(self.account, stage.places(), wanted),
        })
    }

    /// Takes credits and places for up to `wanted` records, at least one. Gives how many, and the sequence of
    /// the first.
    pub(super) fn acquire_up_to<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        wanted: u32,
    ) -> Result<(u32, Sequence), RejectReason> {
        if let Some(first) = self.acquire_fast(stage, wanted as usize) {
            return Ok((wanted, first));
        }
        match self.acquire(stage, wanted as usize)? {
            Admitted { records: 0, denied: Some(denied), .. } => Err(self.reason(stage, denied)),
            Admitted { records, first, .. } => Ok((records, first)),
        }
    }

    /// The least of the caps that a record of this source is under in that stage.
    pub(super) fn least_capacity<E: Envelope>(&self, stage: &StageCore<E>) -> u32 {
        let (own, global) = (self.account().capacity(), self.admission.ledger().capacity());
        own.min(global).min(stage.places().capacity())
    }

    /// Takes credits and places for `records` records: all, or `None` where they are not there now, and
    /// also while others wait, who came first.
    ///
    /// # Errors
    ///
    /// Why they will never be there.
    pub(crate) fn acquire_all<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: usize,
    ) -> Result<Option<Sequence>, RejectReason> {
        self.check_size(stage, records)?;
        if self.admission.has_waiters() {
            return Ok(None);
        }
        match self.admission.try_acquire_all(self.account, stage.places(), to_u32(records)) {
            Ok(first) => Ok(Some(first)),
            Err(Denied::Closed) => Err(RejectReason::Closed),
            Err(_) => Ok(None),
        }
    }

    /// Waits for credits and places for that number of records.
    pub(crate) fn wait<E: Envelope>(&self, stage: &Arc<StageCore<E>>, records: usize) -> Acquire {
        let request = Request {
            account: Some(self.account),
            stage: Arc::clone(stage) as SharedStage,
            records: to_u32(records),
        };
        Acquire::new(&self.admission, request)
    }

    /// Whether so many records can ever be in that stage at once.
    fn check_size<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: usize,
    ) -> Result<(), RejectReason> {
        if !self.owns(stage) {
            return Err(RejectReason::ForeignStage { stage_id: Arc::clone(stage.id()) });
        }
        let capacities = [
            (Limit::Source, self.account().capacity()),
            (Limit::Global, self.admission.ledger().capacity()),
            (Limit::Stage, stage.places().capacity()),
        ];
        match capacities.into_iter().find(|(_, capacity)| records > *capacity as usize) {
            None => Ok(()),
            Some((limit, capacity)) => Err(RejectReason::TooLarge {
                records,
                capacity: capacity as usize,
                limit: self.limit_name(stage, limit),
            }),
        }
    }

    /// A cap as an error names it.
    fn limit_name<E: Envelope>(&self, stage: &StageCore<E>, limit: Limit) -> String {
        match limit {
            Limit::Source => format!("source {}", self.id),
            Limit::Global => "the buffer".to_owned(),
            Limit::Stage => format!("stage {}", stage.id()),
        }
    }

    /// The refusal that a denial becomes.
    #[cold]
    pub(crate) fn reason<E: Envelope>(&self, stage: &StageCore<E>, denied: Denied) -> RejectReason {
        let (limit, held, capacity) = match denied {
            Denied::Full { limit, held, capacity } => (limit, held as usize, capacity as usize),
            Denied::Reserved { limit } => {
                return RejectReason::OthersFirst { limit: self.limit_name(stage, limit) };
            }
            Denied::Closed => return RejectReason::Closed,
        };
        let parked = match limit {
            Limit::Source => self.account().parked(),
            Limit::Global => self.admission.ledger().parked(),
            Limit::Stage => stage.places().parked(),
        };
        if parked > 0 {
            let (limit, parked) = (self.limit_name(stage, limit), parked as usize);
            return RejectReason::ParkedLetters { limit, held, capacity, parked };
        }
        match limit {
            Limit::Source => {
                RejectReason::SourceFull { source_id: Arc::clone(&self.id), held, capacity }
            }
            Limit::Global => RejectReason::GlobalFull { held, capacity },
            Limit::Stage => {
                RejectReason::StageFull { stage_id: Arc::clone(stage.id()), held, capacity }
            }
        }
    }

    pub(crate) fn push_batch<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        // The usual case, apart from the loop below: that takes a quarter longer.
        if !records.is_empty()
            && let Some(first) = self.acquire_fast(stage, records.len())
        {
            stage.store_many(self.account, first, records);
            return Ok(());
        }
        self.push_blocks(stage, records, |first, records| {
            stage.store_many(self.account, first, records);
        })
    }

    /// Pushes records block by block, until all are stored or one is refused. Nearly always that is one
    /// block.
    pub(crate) fn push_blocks<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        mut records: Vec<E>,
        store: impl Fn(Sequence, Vec<E>),
    ) -> Result<(), RejectedBatch<E>> {
        let mut accepted = 0;
        while !records.is_empty() {
            let reason = match self.acquire(stage, records.len()) {
                Ok(Admitted { records: admitted, first, denied }) => {
                    if admitted > 0 {
                        store(first, take_front(&mut records, admitted as usize));
                        accepted += admitted as usize;
                    }
                    denied.map(|denied| self.reason(stage, denied))
                }
                Err(reason) => Some(reason),
            };
            if let Some(reason) = reason {
                return Err(RejectedBatch { accepted, records, reason });
            }
        }
        Ok(())
    }

    /// Closes the account of a source that holds nothing.
    ///
    /// # Errors
    ///
    /// The number of records that it holds.
    pub(crate) fn try_close_empty(&self) -> Result<(), u32> {
        self.admission.try_close_account(self.account)
    }

    /// Rejects the requests that wait for credits of this closed source.
    pub(crate) fn reject_waiters(&self) {
        self.admission.reject_account(self.account);
    }
}

/// Nothing can name the account any more: its place in the ledger is free for another source.
impl Drop for SourceCore {
    fn drop(&mut self) {
        self.admission.ledger().vacate(self.account);
    }
}

/// Takes the first `len` records, in memory of about their size, and leaves the rest.
fn take_front<E>(records: &mut Vec<E>, len: usize) -> Vec<E> {
    if len < records.len() / 2 {
        return records.drain(..len).collect();
    }
    let rest = if len < records.len() { records.split_off(len) } else { Vec::new() };
    shrink_if_sparse(std::mem::replace(records, rest))
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
        self.store_one(stage, self.core.acquire_one(stage.core()), record)
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
        self.core.admission.close_account(self.core.account);
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
        self.core.is_closed()
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
