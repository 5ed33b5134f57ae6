//! The registry: which stages and sources exist, and how they are created and removed.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::remaining::Remaining;
use crate::admission::Admission;
use crate::age::Clock;
use crate::caps::Tally;
use crate::error::{RegistryError, RejectReason};
use crate::handle::SourceCore;
use crate::record::Envelope;
use crate::retry::RetryPolicy;
use crate::stats::{self, Totals};
use crate::store::{DeadLetterQueue, StageCore};
use crate::sync::{Map, Mutex, Pinned, now};
use crate::trace::event;

/// All stages and sources of a buffer, by name.
///
/// A look-up takes no lock. Creating and removing a name does.
pub(crate) struct Registry<E: Envelope> {
    stages: Map<Arc<StageCore<E>>>,
    sources: Map<Arc<SourceCore>>,
    counts: Mutex<Counts>,
    limits: Limits,
    admission: Arc<Admission>,
    dead_letters: Arc<DeadLetterQueue<E>>,
}

/// The state that creating and removing names must agree on.
#[derive(Default)]
struct Counts {
    stages: usize,
    /// Those that exist, and the names with a guarantee whose sources do not.
    sources: usize,
    removed: Removed,
    closed: bool,
    /// The account at which the search for an idle source goes on.
    next_account: u32,
    /// Sources that gave their places to new names. The thread that has released the lock rejects
    /// what waits for them.
    evicted: Vec<Arc<SourceCore>>,
}

/// What the stages did that were removed.
#[derive(Default)]
struct Removed {
    totals: Totals,
    /// The refusals and waits of those that a handle may still name.
    tallies: Vec<Arc<Tally>>,
    /// At this number of them the others are added to the totals.
    next_sum: usize,
}

impl Removed {
    fn add(&mut self, done: stats::Counts, tally: Arc<Tally>) {
        self.totals.counts += done;
        self.tallies.push(tally);
        if self.tallies.len() >= self.next_sum {
            let Self { totals, tallies, .. } = self;
            tallies.retain_mut(|tally| {
                // Without another reference, nothing changes it any more.
                let is_final = Arc::get_mut(tally).is_some();
                if is_final {
                    tally.add_to(totals);
                }
                !is_final
            });
            self.next_sum = 2 * self.tallies.len() + 1;
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = self.totals;
        self.tallies.iter().for_each(|tally| tally.add_to(&mut totals));
        totals
    }
}

/// The most accounts that one new name looks at to find an idle source.
const LOOKS: u32 = 1_024;

/// How many stages and sources may exist, and their caps.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) max_stages: usize,
    pub(crate) max_sources: usize,
    pub(crate) per_stage: u32,
    pub(crate) per_source: u32,
    pub(crate) stage_capacities: HashMap<String, u32>,
    pub(crate) source_capacities: HashMap<String, u32>,
    pub(crate) source_guarantees: HashMap<String, u32>,
    /// For how long a source has held nothing that gives its place to a new name.
    pub(crate) idle_sources: Option<Duration>,
    pub(crate) retries: RetryPolicy,
    pub(crate) clock: Option<Clock>,
}

impl Limits {
    /// Returns the cap of the named source, whether it exists or not.
    pub(super) fn source_capacity(&self, id: &str) -> u32 {
        self.source_capacities.get(id).copied().unwrap_or(self.per_source)
    }

    /// Returns what is guaranteed to the named source, whether it exists or not.
    pub(super) fn source_guarantee(&self, id: &str) -> u32 {
        self.source_guarantees.get(id).copied().unwrap_or(0)
    }

    fn stage_capacity(&self, id: &str) -> u32 {
        self.stage_capacities.get(id).copied().unwrap_or(self.per_stage)
    }
}

impl<E: Envelope> Registry<E> {
    pub(crate) fn new(
        limits: Limits,
        admission: Arc<Admission>,
        dead_letters: Arc<DeadLetterQueue<E>>,
    ) -> Self {
        limits.source_guarantees.values().for_each(|&n| admission.ledger().guarantee(n));
        Self {
            stages: Map::default(),
            sources: Map::default(),
            counts: Mutex::new(Counts {
                sources: limits.source_guarantees.len(),
                ..Counts::default()
            }),
            limits,
            admission,
            dead_letters,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(super) fn dead_letters(&self) -> &Arc<DeadLetterQueue<E>> {
        &self.dead_letters
    }

    pub(super) fn stages(&self) -> Pinned<'_, Arc<StageCore<E>>> {
        self.stages.pin()
    }

    pub(super) fn sources(&self) -> Pinned<'_, Arc<SourceCore>> {
        self.sources.pin()
    }

    /// Returns the named stage if it exists.
    pub(super) fn find_stage(&self, id: &str) -> Option<Arc<StageCore<E>>> {
        self.stages.pin().get(id).cloned()
    }

    /// Returns the named source if it exists.
    pub(super) fn find_source(&self, id: &str) -> Option<Arc<SourceCore>> {
        self.sources.pin().get(id).cloned()
    }

    /// Returns the named stage, and creates it if it does not exist.
    pub(super) fn stage(&self, id: &str) -> Result<Arc<StageCore<E>>, RegistryError> {
        loop {
            if let Some(stage) = self.find_stage(id) {
                return Ok(stage);
            }
            let counts = self.counts.lock();
            // Another thread may have created it since the look-up, as the last before the limit or
            // before a close.
            if let Some(stage) = self.find_stage(id) {
                return Ok(stage);
            }
            self.check_stage(&counts, id)?;
            // Allocate the ring without the lock: it may take long, and other names must not wait
            // for it.
            drop(counts);
            let stage = self.make_stage(id)?;
            if let Some(stage) = self.register_stage(&mut self.counts.lock(), stage)? {
                return Ok(stage);
            }
        }
    }

    /// Returns the named source, and creates it if it does not exist.
    pub(super) fn source(&self, id: &str) -> Result<Arc<SourceCore>, RegistryError> {
        // Where idle sources are removed, the lock keeps one from that until it has its handle.
        if self.limits.idle_sources.is_none()
            && let Some(source) = self.find_source(id)
        {
            return Ok(source);
        }
        let made = self.with_counts(|counts| self.register_source(counts, id));
        self.admission.follow_pool();
        made
    }

    /// Works on the counts, and rejects what waits for evicted sources after the lock is released.
    fn with_counts<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        let mut counts = self.counts.lock();
        let done = work(&mut counts);
        let evicted = std::mem::take(&mut counts.evicted);
        drop(counts);
        for source in evicted {
            source.reject_waiters();
            event!(info, source = &**source.id(), "idle source removed");
        }
        done
    }

    /// Returns the names of the stages that have queued records, sorted.
    pub(super) fn stages_with_data(&self) -> Vec<String> {
        let stages = self.stages.pin().values();
        let with_data = stages.iter().filter(|stage| stage.len() > 0);
        let mut names: Vec<String> = with_data.map(|stage| stage.id().to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Returns every stage, and the sums of those that were removed.
    pub(super) fn stages_with_totals(&self) -> (Vec<Arc<StageCore<E>>>, Totals) {
        // Under the lock, so that each stage is in one of them.
        let counts = self.counts.lock();
        (self.stages.pin().values(), counts.removed.totals())
    }

    /// Applies a function to every source.
    pub(super) fn all_sources<T>(&self, f: impl Fn(&SourceCore) -> T) -> Vec<T> {
        self.sources.pin().values().iter().map(|source| f(source)).collect()
    }

    /// Returns the stages and sources that hold unsettled records, sorted by name.
    pub(super) fn remaining(&self) -> Remaining {
        let mut remaining = Remaining::default();
        let note = |list: &mut Vec<_>, id: &Arc<str>, held: u32| {
            if held > 0 {
                list.push((id.to_string(), held as usize));
            }
        };
        for stage in self.stages.pin().values() {
            let (id, places) = (stage.id(), stage.places());
            let reserved = places.reserved_ahead();
            note(&mut remaining.reserved_stages, id, reserved);
            note(&mut remaining.stages, id, places.occupied().saturating_sub(reserved));
        }
        for source in self.sources.pin().values() {
            let (id, account) = (source.id(), source.account());
            let reserved = account.reserved_ahead();
            note(&mut remaining.reserved_sources, id, reserved);
            let held = account.used().saturating_sub(account.parked());
            note(&mut remaining.sources, id, held.saturating_sub(reserved));
        }
        remaining.stages.sort_unstable();
        remaining.sources.sort_unstable();
        remaining.reserved_stages.sort_unstable();
        remaining.reserved_sources.sort_unstable();
        remaining
    }

    /// Returns `true` if a push was refused because its stage or source was removed after the
    /// look-up.
    ///
    /// The caller then creates the names again. Waits for a removal in progress.
    pub(super) fn was_removed(
        &self,
        reason: &RejectReason,
        stage: &Arc<StageCore<E>>,
        source: &Arc<SourceCore>,
    ) -> bool {
        if !reason.is_closed() || self.admission.is_closed() {
            return false;
        }
        let _counts = self.counts.lock();
        let same_stage = self.find_stage(stage.id()).is_some_and(|now| Arc::ptr_eq(&now, stage));
        let same_source =
            self.find_source(source.id()).is_some_and(|now| Arc::ptr_eq(&now, source));
        !(same_stage && same_source)
    }

    /// Creates both names if they do not exist, or neither if one of them cannot be created.
    ///
    /// Waits for a removal in progress.
    pub(super) fn register(&self, stage_id: &str, source_id: &str) -> Result<(), RegistryError> {
        let is_missing = self.with_counts(|counts| {
            self.check_source(counts, source_id)?;
            match self.find_stage(stage_id) {
                Some(_) => Ok(false),
                None => self.check_stage(counts, stage_id).map(|()| true),
            }
        })?;
        let made = is_missing.then(|| self.make_stage(stage_id)).transpose()?;
        self.with_counts(|counts| {
            self.make_room(counts, source_id)?;
            if let Some(stage) = made {
                self.register_stage(counts, stage)?;
            }
            self.register_source(counts, source_id).map(drop)
        })?;
        self.admission.follow_pool();
        Ok(())
    }

    /// Checks that a stage of this name may be created.
    fn check_stage(&self, counts: &Counts, id: &str) -> Result<(), RegistryError> {
        counts.check(id, "stage")?;
        if counts.stages >= self.limits.max_stages {
            return Err(RegistryError::TooManyStages { max: self.limits.max_stages });
        }
        Ok(())
    }

    fn make_stage(&self, id: &str) -> Result<Arc<StageCore<E>>, RegistryError> {
        let id: Arc<str> = id.into();
        let capacity = self.limits.stage_capacity(&id);
        if !fits_in_memory(StageCore::<E>::footprint(capacity, &self.admission)) {
            return Err(RegistryError::OutOfMemory { stage_id: id, records: capacity as usize });
        }
        Ok(Arc::new(StageCore::new(
            id,
            capacity,
            self.limits.retries.clone(),
            self.limits.clock,
            Arc::clone(&self.admission),
            Arc::clone(&self.dead_letters),
        )))
    }

    /// Registers a stage under its name, or returns `None` if another thread has registered one.
    fn register_stage(
        &self,
        counts: &mut Counts,
        stage: Arc<StageCore<E>>,
    ) -> Result<Option<Arc<StageCore<E>>>, RegistryError> {
        let id = stage.id();
        if self.find_stage(id).is_some() {
            return Ok(None);
        }
        self.check_stage(counts, id)?;
        let state: Weak<StageCore<E>> = Arc::downgrade(&stage);
        self.admission.add_stage(stage.places(), state);
        self.stages.pin().insert(Arc::clone(id), Arc::clone(&stage));
        counts.stages += 1;
        Ok(Some(stage))
    }

    /// Returns the named source, or `None` if it does not exist and may be created.
    fn check_source(
        &self,
        counts: &mut Counts,
        id: &str,
    ) -> Result<Option<Arc<SourceCore>>, RegistryError> {
        if let Some(source) = self.find_source(id) {
            return Ok(Some(source));
        }
        counts.check(id, "source")?;
        if self.is_at_limit(counts, id) && self.find_idle(counts).is_none() {
            return Err(RegistryError::TooManySources { max: self.limits.max_sources });
        }
        Ok(None)
    }

    /// Returns whether there is no place for a new source of this name.
    fn is_at_limit(&self, counts: &Counts, id: &str) -> bool {
        self.limits.source_guarantee(id) == 0 && counts.sources >= self.limits.max_sources
    }

    /// The same as [`check_source`](Self::check_source), and removes an idle source if the new one
    /// needs its place.
    fn make_room(
        &self,
        counts: &mut Counts,
        id: &str,
    ) -> Result<Option<Arc<SourceCore>>, RegistryError> {
        let source = self.check_source(counts, id)?;
        while source.is_none() && self.is_at_limit(counts, id) {
            let idle = self.find_idle(counts);
            let idle =
                idle.ok_or(RegistryError::TooManySources { max: self.limits.max_sources })?;
            if idle.try_close_empty().is_ok() {
                self.unregister_source(counts, &idle);
                counts.evicted.push(idle);
            }
        }
        Ok(source)
    }

    /// Returns a source that has held nothing for long enough, and of which no handle exists. The
    /// next search begins with it.
    fn find_idle(&self, counts: &mut Counts) -> Option<Arc<SourceCore>> {
        let after = self.limits.idle_sources?;
        let (ledger, now) = (self.admission.ledger(), now());
        let is_idle = |index| {
            let since = ledger.account(index).empty_since();
            since.is_some_and(|since| now.saturating_duration_since(since) >= after)
        };
        for _ in 0..ledger.accounts().min(LOOKS) {
            let index = counts.next_account;
            let name = is_idle(index).then(|| self.admission.source_name(index)).flatten();
            if let Some(source) = name.and_then(|name| self.find_source(&name))
                && source.index() == index
                && self.limits.source_guarantee(source.id()) == 0
                // One reference is in the map, and one is this.
                && Arc::strong_count(&source) == 2
            {
                return Some(source);
            }
            counts.next_account = (index + 1) % ledger.accounts();
        }
        None
    }

    fn unregister_source(&self, counts: &mut Counts, source: &SourceCore) {
        self.sources.remove(source.id());
        counts.sources -= usize::from(self.limits.source_guarantee(source.id()) == 0);
    }

    /// Returns the named source, and creates it if it does not exist. The caller then calls
    /// [`Admission::follow_pool`], when it has released the lock.
    fn register_source(
        &self,
        counts: &mut Counts,
        id: &str,
    ) -> Result<Arc<SourceCore>, RegistryError> {
        if let Some(source) = self.make_room(counts, id)? {
            return Ok(source);
        }
        let id: Arc<str> = id.into();
        let (capacity, guarantee) =
            (self.limits.source_capacity(&id), self.limits.source_guarantee(&id));
        let admission = Arc::clone(&self.admission);
        let source = Arc::new(SourceCore::new(Arc::clone(&id), capacity, guarantee, admission));
        if self.limits.idle_sources.is_some() {
            source.account().note_when_empty();
        }
        self.sources.pin().insert(id, Arc::clone(&source));
        counts.sources += usize::from(guarantee == 0);
        Ok(source)
    }

    pub(super) fn remove_stage(&self, id: &str) -> Result<(), RegistryError> {
        let mut counts = self.counts.lock();
        let stage_id = || Arc::from(id);
        let stage = self
            .find_stage(id)
            .ok_or_else(|| RegistryError::UnknownStage { stage_id: stage_id() })?;
        let closed = self.admission.try_close_stage(stage.places());
        let held = |held| RegistryError::StageInUse { stage_id: stage_id(), held: held as usize };
        let done = closed.map_err(held)?;
        self.stages.remove(id);
        counts.stages -= 1;
        counts.removed.add(done, Arc::clone(stage.places().tally()));
        drop(counts);
        stage.reject_waiters();
        event!(info, stage = id, "stage removed");
        Ok(())
    }

    pub(super) fn remove_source(&self, id: &str) -> Result<(), RegistryError> {
        let mut counts = self.counts.lock();
        let source_id = || Arc::from(id);
        let source = self
            .find_source(id)
            .ok_or_else(|| RegistryError::UnknownSource { source_id: source_id() })?;
        source.try_close_empty().map_err(|held| RegistryError::SourceInUse {
            source_id: source_id(),
            held: held as usize,
        })?;
        self.unregister_source(&mut counts, &source);
        drop(counts);
        source.reject_waiters();
        event!(info, source = id, "source removed");
        Ok(())
    }

    /// Refuses new names and new records from now on.
    pub(super) fn close(&self) {
        self.counts.lock().closed = true;
        self.admission.close();
    }
}

impl Counts {
    /// Checks that a name may be created at all.
    fn check(&self, id: &str, kind: &'static str) -> Result<(), RegistryError> {
        if self.closed {
            Err(RegistryError::Closed)
        } else if id.is_empty() {
            Err(RegistryError::EmptyName { kind })
        } else {
            Ok(())
        }
    }
}

/// Returns `true` if the allocator accepts a reservation of this many bytes.
pub(super) fn fits_in_memory(bytes: Option<usize>) -> bool {
    bytes.is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}
