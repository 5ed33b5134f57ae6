//! The handle to a source, and the calls that push without waiting.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Weak};

use super::stage::Stage;
use crate::admission::{
    Acquire, Acquired, Admission, Admitted, Charges, Pushers, Request, SharedStage, StageState,
    Wanted,
};
use crate::caps::{Account, Counter, Denied, Limit, Sequence, bytes_of};
use crate::error::{RejectReason, Rejected, RejectedBatch};
use crate::event::{Event, Listener};
use crate::record::Envelope;
use crate::settings::{MAX_CAP, SettingsError, at_least, cap, share};
use crate::store::{StageCore, shrink_if_sparse, to_u32};
use crate::sync::{AtomicU32, Mutex, SeqCst};
use crate::trace::event;

/// A handle to one source: it pushes records, which are charged to the source's account.
///
/// Clones are cheap and share the account. The handle stays usable after its manager is dropped;
/// after the source was removed, pushes are refused as [`Closed`](RejectReason::Closed). When the
/// last handle that can push is dropped, the buffer
/// [is closed](crate::BufferManager#disconnection).
///
/// The buffer charges each record to the source that pushes it, whatever the record's own
/// [`source_id`](Envelope::source_id) says.
///
/// [`try_send`](Self::try_send) and [`try_send_batch`](Self::try_send_batch) never wait.
/// [`send`](Self::send), [`send_batch`](Self::send_batch) and [`reserve`](Self::reserve) wait for
/// credits and places.
///
/// # Examples
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
/// assert_eq!((source.available_credits(), source.utilization()), (1, 0.5));
///
/// source.try_send(&stage, line(2))?;
/// let rejected = source.try_send(&stage, line(3)).unwrap_err();
/// assert_eq!(rejected.to_string(), "source buffer full: kafka-1 holds 2 of 2 records");
/// assert_eq!(rejected.into_inner().record, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Source<E: Envelope> {
    core: Arc<SourceCore>,
    pushers: Arc<Pushers>,
    records: PhantomData<fn(E)>,
}

/// The state that all handles to a source share.
pub(crate) struct SourceCore {
    id: Arc<str>,
    account: u32,
    admission: Arc<Admission>,
    /// The records that were pushed.
    accepted: Counter,
    /// The number of the stage that the source pushed to last, accepted or not; 0 before the first
    /// push.
    latest: AtomicU32,
    /// Notified when the source pushes to another stage than before.
    redirected: Event,
    /// The stage that was looked up last, with its number.
    found: Mutex<Option<FoundStage>>,
}

/// The number of a stage, and the stage if it exists.
type FoundStage = (u32, Option<Weak<dyn StageState>>);

impl SourceCore {
    pub(crate) fn new(
        id: Arc<str>,
        capacity: u32,
        guarantee: u32,
        admission: Arc<Admission>,
    ) -> Self {
        let account = admission.open_account(&id, capacity, guarantee);
        let (latest, redirected) = (AtomicU32::new(0), Event::default());
        let (accepted, found) = (Counter::default(), Mutex::new(None));
        Self { id, account, admission, accepted, latest, redirected, found }
    }

    /// Notes that the source pushes to the stage.
    #[inline]
    fn note_stage<E: Envelope>(&self, stage: &StageCore<E>) {
        let number = stage.places().number();
        if self.latest.load(SeqCst) != number {
            self.redirect(number);
        }
    }

    #[cold]
    fn redirect(&self, number: u32) {
        self.latest.swap(number, SeqCst);
        self.redirected.notify_all();
    }

    /// Registers a listener for the next push to another stage.
    pub(super) fn listen(&self) -> Listener {
        self.redirected.listen()
    }

    /// Returns the stage that the source pushed to last, if it still exists.
    pub(crate) fn latest_stage(&self) -> Option<SharedStage> {
        let number = self.latest.load(SeqCst);
        let mut found = self.found.lock();
        if found.as_ref().is_none_or(|(known, _)| *known != number) {
            *found = Some((number, self.admission.find_stage(number)));
        }
        found.as_ref().and_then(|(_, stage)| stage.as_ref()).and_then(Weak::upgrade)
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
        let records = share(account.used(), account.capacity());
        match self.bytes_account() {
            Some(bytes) => records.max(share(bytes.used(), bytes.capacity())),
            None => records,
        }
    }

    pub(crate) fn available_credits(&self) -> usize {
        if self.admission.is_closed() {
            return 0;
        }
        self.admission.ledger().available(self.account()) as usize
    }

    /// Stores records that were admitted.
    #[inline]
    pub(crate) fn store_many<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        first: Sequence,
        records: Vec<E>,
    ) {
        self.count_accepted(records.len());
        stage.store_many(self.account, first, records);
    }

    /// Stores a record that was admitted, and charged `units`: 0 in a buffer without byte budgets.
    #[inline]
    pub(crate) fn store_one_charged<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        first: Sequence,
        record: E,
        units: u32,
    ) {
        self.count_accepted(1);
        stage.store_one_charged(self.account, first, record, units);
    }

    /// Stores records that were admitted. `units` has the charge of each, or is empty in a buffer
    /// without byte budgets.
    pub(crate) fn store_charged<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        first: Sequence,
        records: Vec<E>,
        units: &[u32],
    ) {
        self.count_accepted(records.len());
        stage.store_charged(self.account, first, records, units);
    }

    /// Counts records that were admitted.
    #[inline]
    pub(crate) fn count_accepted(&self, records: usize) {
        self.accepted.add(records as u64);
    }

    /// Returns how many records were pushed.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Counts a refusal of a call that a user made.
    #[cold]
    pub(crate) fn refuse<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        reason: RejectReason,
    ) -> RejectReason {
        self.account().tally().count_refusal(&reason);
        stage.places().tally().count_refusal(&reason);
        reason
    }

    /// Counts a refusal of a call that a user made, and hands the record back.
    #[cold]
    pub(crate) fn refuse_one<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        record: E,
        reason: RejectReason,
    ) -> Rejected<E> {
        Rejected { record, reason: self.refuse(stage, reason) }
    }

    #[inline]
    fn owns<E: Envelope>(&self, stage: &StageCore<E>) -> bool {
        Arc::ptr_eq(&self.admission, stage.admission())
    }

    /// Takes a credit, a place and the bytes for a record. Returns its sequence and its charge in
    /// units.
    #[inline]
    pub(crate) fn acquire_for<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        record: &E,
    ) -> Result<(Sequence, u32), RejectReason> {
        match self.acquire_fast(stage, 1) {
            Some(first) => Ok((first, 0)),
            None => self.acquire_for_slow(stage, record),
        }
    }

    #[cold]
    fn acquire_for_slow<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        record: &E,
    ) -> Result<(Sequence, u32), RejectReason> {
        let units = self.measure(record);
        match self.try_acquire_one(stage, units)? {
            Ok(first) => Ok((first, units)),
            Err(denied) => Err(self.reason(stage, denied)),
        }
    }

    /// Takes a credit, units and a place for one record, or returns what denies them.
    pub(super) fn try_acquire_one<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        units: u32,
    ) -> Result<Result<Sequence, Denied>, RejectReason> {
        let admitted = self.acquire(stage, 1, Charges::of(units))?;
        Ok(admitted.denied.map_or(Ok(admitted.first), Err))
    }

    /// Takes credits and places for `wanted` records if the account already leases the credits and
    /// the first attempt succeeds, which is the common case.
    #[inline(always)]
    fn acquire_fast<E: Envelope>(&self, stage: &StageCore<E>, wanted: usize) -> Option<Sequence> {
        if !self.owns(stage) {
            return None;
        }
        self.note_stage(stage);
        let wanted = u32::try_from(wanted).ok()?;
        self.admission.try_acquire_fast(self.account, stage.places(), wanted)
    }

    /// Takes credits, the bytes of the records, and places for up to `wanted` records.
    ///
    /// The result may hold fewer records and no denial. The caller then continues with the rest.
    fn acquire<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        wanted: usize,
        charges: Charges<'_>,
    ) -> Result<Admitted, RejectReason> {
        if !self.owns(stage) {
            return Err(RejectReason::ForeignStage { stage_id: Arc::clone(stage.id()) });
        }
        self.note_stage(stage);
        let wanted = to_u32(wanted.min(MAX_CAP));
        if !charges.is_none() {
            let (account, places) = (self.account, stage.places());
            return Ok(self.admission.try_acquire_charged(account, places, wanted, charges));
        }
        Ok(match self.admission.try_acquire_exact(self.account, stage.places(), wanted) {
            Some(first) => Admitted { records: wanted, first, denied: None },
            None => self.admission.try_acquire(self.account, stage.places(), wanted),
        })
    }

    /// Takes credits and places for up to `wanted` records to come, at least one.
    pub(super) fn acquire_up_to<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        wanted: u32,
    ) -> Result<Acquired, RejectReason> {
        self.admission.take_ahead(self.account, stage.places(), wanted, || {
            if let Some(first) = self.acquire_fast(stage, wanted as usize) {
                return Ok(Acquired { records: wanted, first });
            }
            let admitted = self.acquire(stage, wanted as usize, Charges::None)?;
            admitted.at_least(1).map_err(|denied| self.reason(stage, denied))
        })
    }

    /// Returns the smallest of the caps that bound the records of this source in the stage, but at
    /// least 1.
    pub(super) fn least_capacity<E: Envelope>(&self, stage: &StageCore<E>) -> u32 {
        let own = self.account().capacity();
        let global = self.admission.ledger().capacity_for(self.account());
        own.min(global).min(stage.places().capacity()).max(1)
    }

    /// Takes credits, units and places for exactly `records` records to come, even if other
    /// requests wait.
    pub(super) fn try_acquire_all<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: usize,
        units: u32,
    ) -> Result<Acquired, RejectReason> {
        self.check_size(stage, records, units)?;
        let records = to_u32(records);
        let places = stage.places();
        self.admission
            .take_ahead(self.account, places, records, || {
                self.admission.try_acquire_all(self.account, places, records, units)
            })
            .map_err(|denied| self.reason(stage, denied))
    }

    /// Takes the credits and places that a request wants.
    ///
    /// Returns `None` if they are not available now, or if other requests already wait.
    ///
    /// # Errors
    ///
    /// Returns the reason if they can never become available.
    #[inline]
    pub(super) fn acquire_wanted<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        wanted: Wanted,
    ) -> Result<Option<Acquired>, RejectReason> {
        let (records, units) = match wanted {
            Wanted::All(records, units) | Wanted::Ahead(records, units) => (records, units),
            Wanted::AheadUpTo(_) => (1, 0),
        };
        self.check_size(stage, records, units)?;
        if self.admission.has_waiters() {
            return Ok(None);
        }
        let (account, places) = (self.account, stage.places());
        let all = || self.admission.try_acquire_all(account, places, to_u32(records), units);
        let acquired = match wanted {
            Wanted::All(..) => all(),
            Wanted::Ahead(..) => self.admission.take_ahead(account, places, to_u32(records), all),
            Wanted::AheadUpTo(most) => {
                let most = self.clamp(stage, most);
                self.admission.take_ahead(account, places, most, || {
                    self.admission.try_acquire(account, places, most).at_least(1)
                })
            }
        };
        match acquired {
            Ok(acquired) => Ok(Some(acquired)),
            Err(Denied::Closed) => Err(RejectReason::Closed),
            Err(_) => Ok(None),
        }
    }

    /// Queues a request for credits and places.
    pub(crate) fn wait<E: Envelope>(&self, stage: &Arc<StageCore<E>>, wanted: Wanted) -> Acquire {
        let (records, most, units) = match wanted {
            Wanted::All(records, units) | Wanted::Ahead(records, units) => {
                (to_u32(records), to_u32(records), units)
            }
            Wanted::AheadUpTo(most) => (1, self.clamp(stage, most), 0),
        };
        let ahead = !matches!(wanted, Wanted::All(..));
        let stage = Arc::clone(stage) as SharedStage;
        let account = Some(self.account);
        let request = Request { account, stage, records, most, units, ahead };
        Acquire::new(&self.admission, request)
    }

    /// Clamps a number of records to the range from 1 to the smallest cap.
    pub(super) fn clamp<E: Envelope>(&self, stage: &StageCore<E>, records: usize) -> u32 {
        to_u32(records.clamp(1, self.least_capacity(stage) as usize))
    }

    /// Returns how many records a push to the stage may hold now.
    fn capacity_for<E: Envelope>(&self, stage: &StageCore<E>) -> usize {
        if !self.owns(stage) || stage.places().is_closed() {
            return 0;
        }
        let records = self.available_credits().min(stage.places().free(0) as usize);
        self.admission.free_units(self.account).map_or(records, |units| records.min(units as usize))
    }

    /// Checks that `records` records of `units` together can fit under every cap. Every push that
    /// waits or reserves begins with this call: it also notes the stage.
    fn check_size<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: usize,
        units: u32,
    ) -> Result<(), RejectReason> {
        if !self.owns(stage) {
            return Err(RejectReason::ForeignStage { stage_id: Arc::clone(stage.id()) });
        }
        self.note_stage(stage);
        let capacities = [
            (Limit::Source, self.account().capacity()),
            (Limit::Global, self.admission.ledger().capacity_for(self.account())),
            (Limit::Stage, stage.places().capacity()),
        ];
        match capacities.into_iter().find(|(_, capacity)| records > *capacity as usize) {
            None => match self.admission.check_units(self.account, units) {
                Err(Denied::TooLarge { limit, capacity, .. }) => Err(RejectReason::TooLarge {
                    records,
                    capacity: bytes_of(capacity),
                    limit: self.limit_name(stage, limit),
                }),
                _ => Ok(()),
            },
            Some((limit, capacity)) => Err(RejectReason::TooLarge {
                records,
                capacity: capacity as usize,
                limit: self.limit_name(stage, limit),
            }),
        }
    }

    /// Returns the owner of a cap as the errors name it.
    fn limit_name<E: Envelope>(&self, stage: &StageCore<E>, limit: Limit) -> String {
        match limit {
            Limit::Source => format!("source {}", self.id),
            Limit::Global => "the buffer".to_owned(),
            Limit::Stage => format!("stage {}", stage.id()),
            Limit::SourceBytes => format!("the byte budget of source {}", self.id),
            Limit::GlobalBytes => "the byte budget of the buffer".to_owned(),
        }
    }

    /// Converts a denial into the reason that the caller of a push sees.
    #[cold]
    pub(crate) fn reason<E: Envelope>(&self, stage: &StageCore<E>, denied: Denied) -> RejectReason {
        let (limit, held, capacity) = match denied {
            Denied::Full { limit, held, capacity } => (limit, held as usize, capacity as usize),
            Denied::Guaranteed { held, capacity, .. } => {
                (Limit::Global, held as usize, capacity as usize)
            }
            Denied::Reserved { limit } => {
                return RejectReason::OthersFirst { limit: self.limit_name(stage, limit) };
            }
            Denied::TooLarge { limit, size, capacity } => {
                let of_bytes = matches!(limit, Limit::SourceBytes | Limit::GlobalBytes);
                let limit = self.limit_name(stage, limit);
                let (records, capacity) = if of_bytes {
                    (1, bytes_of(capacity))
                } else {
                    (size as usize, capacity as usize)
                };
                return RejectReason::TooLarge { records, capacity, limit };
            }
            Denied::BytesFull { limit, held, capacity, wanted } => {
                let [held, capacity, wanted] = [held, capacity, wanted].map(bytes_of);
                return if limit == Limit::SourceBytes {
                    let source_id = Arc::clone(&self.id);
                    RejectReason::SourceBytesFull { source_id, held, capacity, wanted }
                } else {
                    RejectReason::GlobalBytesFull { held, capacity, wanted }
                };
            }
            Denied::Closed => return RejectReason::Closed,
        };
        let parked = match limit {
            Limit::Source => self.account().parked(),
            Limit::Global => self.admission.ledger().parked(),
            _ => return stage_reason(stage, denied),
        };
        if parked > 0 {
            let (limit, parked) = (self.limit_name(stage, limit), parked as usize);
            return RejectReason::ParkedLetters { limit, held, capacity, parked };
        }
        if let Denied::Guaranteed { guaranteed, .. } = denied {
            let guaranteed = guaranteed as usize;
            return RejectReason::GuaranteedToOthers { held, capacity, guaranteed };
        }
        match limit {
            Limit::Source => {
                RejectReason::SourceFull { source_id: Arc::clone(&self.id), held, capacity }
            }
            _ => RejectReason::GlobalFull { held, capacity },
        }
    }

    pub(crate) fn push_batch<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        records: Vec<E>,
    ) -> Result<(), RejectedBatch<E>> {
        // The common case. Keeping it apart from the loop below makes it a quarter faster.
        if !records.is_empty()
            && let Some(first) = self.acquire_fast(stage, records.len())
        {
            self.store_many(stage, first, records);
            return Ok(());
        }
        self.push_blocks(stage, records, |first, records, units| {
            self.store_charged(stage, first, records, units);
        })
    }

    /// Pushes records block by block, until all are stored or one is refused. The first block
    /// nearly always holds all records.
    pub(crate) fn push_blocks<E: Envelope>(
        &self,
        stage: &StageCore<E>,
        mut records: Vec<E>,
        store: impl Fn(Sequence, Vec<E>, &[u32]),
    ) -> Result<(), RejectedBatch<E>> {
        let mut accepted = 0;
        let units = self.measure_all(&records);
        let mut units = units.as_slice();
        while !records.is_empty() {
            let reason = match self.acquire(stage, records.len(), Charges::of_each(units)) {
                Ok(Admitted { records: admitted, first, denied }) => {
                    if admitted > 0 {
                        let (charged, rest) = units.split_at(units.len().min(admitted as usize));
                        store(first, take_front(&mut records, admitted as usize), charged);
                        accepted += admitted as usize;
                        units = rest;
                    }
                    denied.map(|denied| self.reason(stage, denied))
                }
                Err(reason) => Some(reason),
            };
            if let Some(reason) = reason {
                let reason = self.refuse(stage, reason);
                return Err(RejectedBatch { accepted, records, reason });
            }
        }
        Ok(())
    }

    /// Closes the account of a source that holds no records.
    ///
    /// # Errors
    ///
    /// Returns the number of records that it holds.
    pub(crate) fn try_close_empty(&self) -> Result<(), u32> {
        self.admission.try_close_account(self.account)
    }

    /// Rejects the requests that wait for credits of this closed source.
    pub(crate) fn reject_waiters(&self) {
        self.admission.reject_account(self.account);
    }
}

/// Converts a denial of places into the reason that the caller sees.
#[cold]
pub(super) fn stage_reason<E: Envelope>(stage: &StageCore<E>, denied: Denied) -> RejectReason {
    let limit = || format!("stage {}", stage.id());
    match denied {
        Denied::Closed => RejectReason::Closed,
        Denied::Reserved { .. } => RejectReason::OthersFirst { limit: limit() },
        Denied::TooLarge { size, capacity, .. } => {
            let (records, capacity) = (size as usize, capacity as usize);
            RejectReason::TooLarge { records, capacity, limit: limit() }
        }
        Denied::Full { held, capacity, .. }
        | Denied::Guaranteed { held, capacity, .. }
        | Denied::BytesFull { held, capacity, .. } => {
            let (held, capacity) = (held as usize, capacity as usize);
            match stage.places().parked() as usize {
                0 => RejectReason::StageFull { stage_id: Arc::clone(stage.id()), held, capacity },
                parked => RejectReason::ParkedLetters { limit: limit(), held, capacity, parked },
            }
        }
    }
}

/// No handle can name the account any more, so the ledger may reuse its index.
impl Drop for SourceCore {
    fn drop(&mut self) {
        self.admission.ledger().vacate(self.account);
    }
}

/// Takes the first `len` records, in an allocation of about their size, and leaves the rest.
fn take_front<E>(records: &mut Vec<E>, len: usize) -> Vec<E> {
    if len < records.len() / 2 {
        return records.drain(..len).collect();
    }
    let rest = if len < records.len() { records.split_off(len) } else { Vec::new() };
    shrink_if_sparse(std::mem::replace(records, rest))
}

impl<E: Envelope> Source<E> {
    pub(crate) fn new(core: Arc<SourceCore>, pushers: Arc<Pushers>) -> Self {
        Self { core, pushers, records: PhantomData }
    }

    pub(crate) fn core(&self) -> &Arc<SourceCore> {
        &self.core
    }

    /// Pushes one record to a stage without waiting.
    ///
    /// The call does not queue behind requests that wait, and may take what is free before them.
    /// This ends once the request that is first in turn at a cap has been bypassed by more than 4
    /// releases there. The credits and places that this request needs are then reserved, and a call
    /// that would take from them is refused as [`OthersFirst`](RejectReason::OthersFirst).
    ///
    /// # Errors
    ///
    /// Returns the record and the limit that refused it. The limits are checked in this order: the
    /// source's cap, the global cap, the byte budgets, the stage's cap. Other reasons are
    /// [`ParkedLetters`](RejectReason::ParkedLetters),
    /// [`GuaranteedToOthers`](RejectReason::GuaranteedToOthers),
    /// [`OthersFirst`](RejectReason::OthersFirst), [`TooLarge`](RejectReason::TooLarge) for a
    /// record that exceeds a byte budget, [`Closed`](RejectReason::Closed), and
    /// [`ForeignStage`](RejectReason::ForeignStage) for a stage of another buffer.
    #[inline]
    pub fn try_send(&self, stage: &Stage<E>, record: E) -> Result<(), Rejected<E>> {
        let (source, stage) = (&self.core, stage.core());
        match source.acquire_for(stage, &record) {
            Ok((first, units)) => {
                source.store_one_charged(stage, first, record, units);
                Ok(())
            }
            Err(reason) => Err(source.refuse_one(stage, record, reason)),
        }
    }

    /// Pushes several records to a stage without waiting: all of them, or the longest prefix that
    /// fits.
    ///
    /// The records travel as one block. If all of them fit, the buffer stores the `Vec` itself. An
    /// empty `Vec` is always accepted.
    ///
    /// Like [`try_send`](Self::try_send), the call does not queue behind requests that wait. It may
    /// take what is free until such a request has been bypassed by more than 4 releases; from then
    /// on it takes only what exceeds the needs of that request.
    ///
    /// # Errors
    ///
    /// Returns the records that did not fit, the reason why the first of them was refused, and the
    /// number of records accepted. The reasons are those of [`try_send`](Self::try_send).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
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

    /// Returns the number of credits of the source in use.
    ///
    /// Records that are queued, delayed or in unsettled batches use one each, and so do parked dead
    /// letters and the unused part of [permits](crate::Permit) and [producers](crate::Producer).
    ///
    /// The value may be outdated on return if other threads use the source.
    pub fn len(&self) -> usize {
        self.core.account().used() as usize
    }

    /// Returns `true` if no credit of the source is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many more records the source's own cap and the global cap allow.
    ///
    /// Idle credits that other sources have leased count as available, because a push reclaims
    /// them. Reserved credits do not count. The stage's cap is not considered.
    ///
    /// The value is exact if no other thread uses the buffer. Otherwise it may be outdated on
    /// return, and a push may still be refused.
    pub fn available_credits(&self) -> usize {
        self.core.available_credits()
    }

    /// Returns how many records a push to the stage may hold now.
    ///
    /// This is the least of what the source's cap, the global cap and the stage's cap leave. With
    /// [byte budgets](crate::Builder::max_total_bytes) it is at most what they leave for records of
    /// up to 64 bytes. It is 0 if the buffer, the source or the stage is closed, and for a stage of
    /// another buffer.
    ///
    /// The value is exact if no other thread uses the buffer. Otherwise it may be outdated on
    /// return, and a push may still be refused; a [permit](Self::try_reserve_up_to) keeps what it
    /// has taken.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_stage: 30, max_per_source: 20, ..Default::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// assert_eq!(source.capacity_for(&stage), 20);
    ///
    /// let lines = vec![BufferedRecord::new("line", "b", "p", "filter"); 15];
    /// manager.source("b")?.try_send_batch(&stage, lines)?;
    /// assert_eq!((source.available_credits(), source.capacity_for(&stage)), (20, 15));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn capacity_for(&self, stage: &Stage<E>) -> usize {
        self.core.capacity_for(stage.core())
    }

    /// Returns the used share of the source's cap or of its byte budget, whichever is higher, from
    /// 0.0 to 1.0.
    ///
    /// The value may be outdated on return if other threads use the source, but it never exceeds
    /// 1.0.
    pub fn utilization(&self) -> f64 {
        self.core.utilization()
    }

    /// Closes the source: pushes are refused as [`Closed`](RejectReason::Closed) from now on, and
    /// waiting pushes are rejected.
    ///
    /// Records already in the buffer stay there and can be drained. Closing a source again has no
    /// effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    ///
    /// source.try_send(&stage, line.clone())?;
    /// source.close();
    /// assert!(source.is_closed());
    /// assert!(source.try_send(&stage, line).unwrap_err().is_closed());
    /// assert_eq!(stage.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.core.admission.close_account(self.core.account);
        event!(info, source = &*self.core.id, "source closed");
    }

    /// Returns `true` if the source accepts no more records.
    ///
    /// This is the case after the source was closed or removed, or the whole buffer was closed.
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Returns the name of the source.
    pub fn id(&self) -> &str {
        &self.core.id
    }

    /// Changes the maximum number of records that the source may hold, to 1 to `u32::MAX`.
    ///
    /// Records beyond a lower capacity stay in the buffer: pushes are refused until enough of them
    /// are settled. Once the call has returned, no push is accepted beyond the new capacity. A
    /// higher capacity admits waiting requests. Waiting requests for more records than the new
    /// capacity are rejected as [`TooLarge`](RejectReason::TooLarge); a call that lowers the
    /// capacity checks every waiting request.
    ///
    /// The change belongs to this source: if it is removed, a new source of its name has the
    /// capacity that the builder set.
    ///
    /// # Errors
    ///
    /// Returns a [`SettingsError`] that names `source_capacity` if `records` is out of its range,
    /// or less than the source's [guarantee](crate::Builder::source_guarantee).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = vec![BufferedRecord::new("line", "a", "p", "filter"); 3];
    /// source.try_send_batch(&stage, lines.clone())?;
    ///
    /// source.set_capacity(2)?;
    /// assert_eq!((stage.len(), source.available_credits()), (3, 0));
    /// stage.try_recv_batch(2)?.ack();
    /// assert_eq!(source.try_send_batch(&stage, lines).unwrap_err().accepted, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_capacity(&self, records: usize) -> Result<(), SettingsError> {
        let capacity = cap("source_capacity", records)?;
        at_least("source_capacity", records, self.guarantee())?;
        self.core.admission.set_account_capacity(self.core.account, capacity);
        Ok(())
    }

    /// Returns how many records are [guaranteed](crate::Builder::source_guarantee) to the source.
    pub fn guarantee(&self) -> usize {
        self.core.account().guarantee() as usize
    }

    /// Returns the maximum number of records that the source may hold.
    pub fn capacity(&self) -> usize {
        self.core.account().capacity() as usize
    }
}

impl<E: Envelope> Clone for Source<E> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.core), Arc::clone(&self.pushers))
    }
}

/// A panic leaves every count exact: see
/// [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for Source<E> {}
impl<E: Envelope> RefUnwindSafe for Source<E> {}

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
