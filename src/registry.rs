//! Names: which stages and sources exist, how many may, and how one is made or removed.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::{Arc, Weak};

use crate::batch::exhausted;
use crate::dead_letters::{DeadLetter, DeadLetterQueue, Label};
use crate::drain::Remaining;
use crate::error::{RegistryError, RejectReason, Rejected, RejectedBatch};
use crate::ledger::Ledger;
use crate::record::Envelope;
use crate::source::SourceCore;
use crate::stage::StageCore;
use crate::sync::{Map, Mutex, remove};

/// All stages and sources of a buffer, by name.
///
/// Looking a name up takes no lock. Making and removing one does.
pub(crate) struct Registry<E: Envelope> {
    stages: Map<Arc<str>, Arc<StageCore<E>>>,
    sources: Map<Arc<str>, Arc<SourceCore>>,
    census: Mutex<Census>,
    plan: Plan,
    ledger: Arc<Ledger>,
    dead_letters: Arc<DeadLetterQueue<E>>,
}

/// What making and removing must agree on.
#[derive(Default)]
struct Census {
    stages: usize,
    sources: usize,
    closed: bool,
}

/// How many stages and sources may exist, and with which caps.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) max_stages: usize,
    pub(crate) max_sources: usize,
    pub(crate) per_stage: u32,
    pub(crate) per_source: u32,
    pub(crate) stage_capacities: HashMap<String, u32>,
    pub(crate) source_capacities: HashMap<String, u32>,
    pub(crate) retry_limit: Option<u32>,
}

impl Plan {
    /// The cap of the source of that name, whether it exists or not.
    pub(crate) fn source_capacity(&self, id: &str) -> u32 {
        self.source_capacities.get(id).copied().unwrap_or(self.per_source)
    }

    fn stage_capacity(&self, id: &str) -> u32 {
        self.stage_capacities.get(id).copied().unwrap_or(self.per_stage)
    }
}

impl<E: Envelope> Registry<E> {
    pub(crate) fn new(
        plan: Plan,
        ledger: Arc<Ledger>,
        dead_letters: Arc<DeadLetterQueue<E>>,
    ) -> Self {
        Self {
            stages: Map::default(),
            sources: Map::default(),
            census: Mutex::new(Census::default()),
            plan,
            ledger,
            dead_letters,
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn dead_letters(&self) -> &Arc<DeadLetterQueue<E>> {
        &self.dead_letters
    }

    /// The stage of that name, if it exists.
    pub(crate) fn find_stage(&self, id: &str) -> Option<Arc<StageCore<E>>> {
        self.stages.pin().get(id).cloned()
    }

    /// The source of that name, if it exists.
    pub(crate) fn find_source(&self, id: &str) -> Option<Arc<SourceCore>> {
        self.sources.pin().get(id).cloned()
    }

    /// The stage of that name, which is made if need be.
    pub(crate) fn stage(&self, id: &str) -> Result<Arc<StageCore<E>>, RegistryError> {
        match self.find_stage(id) {
            Some(stage) => Ok(stage),
            None => self.register_stage(&mut self.census.lock(), id),
        }
    }

    /// The source of that name, which is made if need be.
    pub(crate) fn source(&self, id: &str) -> Result<Arc<SourceCore>, RegistryError> {
        match self.find_source(id) {
            Some(source) => Ok(source),
            None => self.register_source(&mut self.census.lock(), id),
        }
    }

    /// The names of the stages with records that wait to be taken, in order.
    pub(crate) fn stages_with_data(&self) -> Vec<String> {
        let stages = self.stages.pin();
        let with_data = stages.values().filter(|stage| stage.len() > 0);
        let mut names: Vec<String> = with_data.map(|stage| stage.id().to_string()).collect();
        names.sort_unstable();
        names
    }

    /// The stages and the sources that hold records, in order.
    pub(crate) fn held(&self) -> Remaining {
        let some = |id: &Arc<str>, held: u32| (held > 0).then(|| (id.to_string(), held as usize));
        let (stages, sources) = (self.stages.pin(), self.sources.pin());
        let in_stages = stages.values().filter_map(|stage| some(stage.id(), stage.occupied()));
        let of_sources = sources.values().filter_map(|s| some(s.id(), s.account().used()));
        let mut remaining =
            Remaining { stages: in_stages.collect(), sources: of_sources.collect() };
        remaining.stages.sort_unstable();
        remaining.sources.sort_unstable();
        remaining
    }

    /// Pushes a record to the stage of that name, for the source that it names itself.
    pub(crate) fn push(&self, stage_id: &str, record: E) -> Result<(), Rejected<E>> {
        loop {
            let (stages, sources) = (self.stages.pin(), self.sources.pin());
            if let (Some(stage), Some(source)) =
                (stages.get(stage_id), sources.get(record.source_id()))
            {
                match source.admit_one(stage) {
                    Ok(age) => {
                        source.store_one(stage, age, record);
                        return Ok(());
                    }
                    Err(reason) if self.was_removed(&reason, stage, source) => {}
                    Err(reason) => return Err(Rejected { record, reason }),
                }
            }
            if let Err(error) = self.register(stage_id, record.source_id()) {
                return Err(Rejected { record, reason: error.into() });
            }
        }
    }

    /// Pushes records to the stage of that name, for the sources that they name themselves: all, or
    /// the longest prefix that fits.
    pub(crate) fn push_batch(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        self.for_each_run(records, |records| {
            self.store(stage_id, records, |stage, source, records| {
                source.push_batch(stage, records)
            })
        })
    }

    /// Takes records back that were handed out: all, or the longest prefix that fits. One retry is
    /// counted for each that is accepted; those that have none left go to the dead letters. Tells
    /// how many went back to the stage.
    pub(crate) fn readmit(
        &self,
        stage_id: &str,
        records: Vec<E>,
    ) -> Result<usize, RejectedBatch<E>> {
        let limit = self.plan.retry_limit;
        if !records.iter().any(|record| exhausted(record, limit)) {
            return self.readmit_tried(stage_id, records);
        }
        let mut returned = 0;
        let mut records = records.into_iter().peekable();
        while let Some(first) = records.next() {
            let hopeless = exhausted(&first, limit);
            let stretch =
                take_run(first, &mut records, |record| exhausted(record, limit) == hopeless);
            let done = if hopeless {
                self.bury(stage_id, stretch)
            } else {
                self.readmit_tried(stage_id, stretch).map(|accepted| returned += accepted)
            };
            if let Err(mut rejected) = done {
                rejected.accepted += returned;
                rejected.records.extend(records);
                return Err(rejected);
            }
        }
        Ok(returned)
    }

    fn readmit_tried(&self, stage_id: &str, records: Vec<E>) -> Result<usize, RejectedBatch<E>> {
        self.for_each_run(records, |records| {
            self.store(stage_id, records, |stage, source, records| source.readmit(stage, records))
        })
    }

    /// Moves records that hold no credits to the dead letters.
    fn bury(&self, stage_id: &str, records: Vec<E>) -> Result<(), RejectedBatch<E>> {
        let mut records = records.into_iter();
        while let Some(record) = records.next() {
            let label = Label::new(&record);
            let letter = DeadLetter::new(record, label, stage_id);
            if let Err(letter) = self.dead_letters.push(letter) {
                let reason =
                    RejectReason::DeadLettersFull { capacity: self.dead_letters.capacity() };
                let records = std::iter::once(letter.record).chain(records).collect();
                return Err(RejectedBatch { accepted: 0, records, reason });
            }
        }
        Ok(())
    }

    /// Stores records, run by run of one source, until one is refused. Records of a single source
    /// stay in their `Vec`.
    fn for_each_run(
        &self,
        records: Vec<E>,
        mut store: impl FnMut(Vec<E>) -> Result<(), RejectedBatch<E>>,
    ) -> Result<usize, RejectedBatch<E>> {
        let same = |one: &E, other: &E| one.source_id() == other.source_id();
        if records.windows(2).all(|pair| same(&pair[0], &pair[1])) {
            let len = records.len();
            return if len == 0 { Ok(0) } else { store(records).map(|()| len) };
        }
        let mut accepted = 0;
        let mut records = records.into_iter().peekable();
        while let Some(first) = records.next() {
            let source_id = first.source_id().to_owned();
            let run = take_run(first, &mut records, |record| record.source_id() == source_id);
            let len = run.len();
            if let Err(mut rejected) = store(run) {
                rejected.accepted += accepted;
                rejected.records.extend(records);
                return Err(rejected);
            }
            accepted += len;
        }
        Ok(accepted)
    }

    /// Stores records of one source in the stage of that name.
    fn store(
        &self,
        stage_id: &str,
        mut records: Vec<E>,
        store: impl Fn(&Arc<StageCore<E>>, &Arc<SourceCore>, Vec<E>) -> Result<(), RejectedBatch<E>>,
    ) -> Result<(), RejectedBatch<E>> {
        // What a stage took before it was removed and the rest went to its successor.
        let mut accepted = 0;
        loop {
            let (stages, sources) = (self.stages.pin(), self.sources.pin());
            if let (Some(stage), Some(source)) =
                (stages.get(stage_id), sources.get(records[0].source_id()))
            {
                let Err(mut rejected) = store(stage, source, records) else { return Ok(()) };
                rejected.accepted += accepted;
                if !self.was_removed(&rejected.reason, stage, source) {
                    return Err(rejected);
                }
                (accepted, records) = (rejected.accepted, rejected.records);
            }
            if let Err(error) = self.register(stage_id, records[0].source_id()) {
                return Err(RejectedBatch { accepted, records, reason: error.into() });
            }
        }
    }

    /// Takes up to `max` records from the stage of that name and settles them.
    pub(crate) fn take(&self, stage_id: &str, max: usize) -> Vec<E> {
        let stages = self.stages.pin();
        stages.get(stage_id).map_or_else(Vec::new, |stage| stage.take_out(max))
    }

    /// Whether a push was refused because its stage or source was removed after it was looked up. Then
    /// the names can be made anew. Waits for a removal that is under way.
    fn was_removed(
        &self,
        reason: &RejectReason,
        stage: &Arc<StageCore<E>>,
        source: &Arc<SourceCore>,
    ) -> bool {
        if !reason.is_closed() || self.ledger.is_closed() {
            return false;
        }
        let _census = self.census.lock();
        let same_stage = self.find_stage(stage.id()).is_some_and(|now| Arc::ptr_eq(&now, stage));
        let same_source =
            self.find_source(source.id()).is_some_and(|now| Arc::ptr_eq(&now, source));
        !(same_stage && same_source)
    }

    /// Sees to it that both names exist, or makes neither. Waits for a removal that is under way.
    fn register(&self, stage_id: &str, source_id: &str) -> Result<(), RegistryError> {
        let mut census = self.census.lock();
        self.check_source(&census, source_id)?;
        self.register_stage(&mut census, stage_id)?;
        self.register_source(&mut census, source_id)?;
        Ok(())
    }

    fn register_stage(
        &self,
        census: &mut Census,
        id: &str,
    ) -> Result<Arc<StageCore<E>>, RegistryError> {
        if let Some(stage) = self.find_stage(id) {
            return Ok(stage);
        }
        census.check(id, "stage")?;
        if census.stages >= self.plan.max_stages {
            return Err(RegistryError::TooManyStages { max: self.plan.max_stages });
        }
        let id: Arc<str> = id.into();
        let capacity = self.plan.stage_capacity(&id);
        if !fits_in_memory(StageCore::<E>::footprint(capacity, &self.ledger)) {
            return Err(RegistryError::OutOfMemory { stage_id: id, records: capacity as usize });
        }
        let stage = Arc::new(StageCore::new(
            Arc::clone(&id),
            capacity,
            self.plan.retry_limit,
            Arc::clone(&self.ledger),
            Arc::clone(&self.dead_letters),
        ));
        let gate: Weak<StageCore<E>> = Arc::downgrade(&stage);
        self.ledger.add_gate(gate);
        self.stages.pin().insert(id, Arc::clone(&stage));
        census.stages += 1;
        Ok(stage)
    }

    /// The source of that name, or `None` if it can be made.
    fn check_source(
        &self,
        census: &Census,
        id: &str,
    ) -> Result<Option<Arc<SourceCore>>, RegistryError> {
        if let Some(source) = self.find_source(id) {
            return Ok(Some(source));
        }
        census.check(id, "source")?;
        if census.sources >= self.plan.max_sources {
            return Err(RegistryError::TooManySources { max: self.plan.max_sources });
        }
        Ok(None)
    }

    fn register_source(
        &self,
        census: &mut Census,
        id: &str,
    ) -> Result<Arc<SourceCore>, RegistryError> {
        if let Some(source) = self.check_source(census, id)? {
            return Ok(source);
        }
        let id: Arc<str> = id.into();
        let capacity = self.plan.source_capacity(&id);
        let source = Arc::new(SourceCore::new(Arc::clone(&id), capacity, Arc::clone(&self.ledger)));
        self.sources.pin().insert(id, Arc::clone(&source));
        census.sources += 1;
        Ok(source)
    }

    pub(crate) fn remove_stage(&self, id: &str) -> Result<(), RegistryError> {
        let mut census = self.census.lock();
        let stage_id = || Arc::from(id);
        let stage = self
            .find_stage(id)
            .ok_or_else(|| RegistryError::UnknownStage { stage_id: stage_id() })?;
        stage.close_idle().map_err(|held| RegistryError::StageInUse {
            stage_id: stage_id(),
            held: held as usize,
        })?;
        remove(&self.stages, id);
        census.stages -= 1;
        drop(census);
        stage.turn_away();
        Ok(())
    }

    pub(crate) fn remove_source(&self, id: &str) -> Result<(), RegistryError> {
        let mut census = self.census.lock();
        let source_id = || Arc::from(id);
        let source = self
            .find_source(id)
            .ok_or_else(|| RegistryError::UnknownSource { source_id: source_id() })?;
        source.close_idle().map_err(|held| RegistryError::SourceInUse {
            source_id: source_id(),
            held: held as usize,
        })?;
        remove(&self.sources, id);
        census.sources -= 1;
        drop(census);
        source.turn_away();
        Ok(())
    }

    /// Refuses new names and new records.
    pub(crate) fn close(&self) {
        self.census.lock().closed = true;
        self.ledger.close();
    }
}

/// The first record with those after it that are like it.
fn take_run<E>(
    first: E,
    records: &mut Peekable<impl Iterator<Item = E>>,
    like: impl Fn(&E) -> bool,
) -> Vec<E> {
    let mut run = vec![first];
    run.extend(std::iter::from_fn(|| records.next_if(&like)));
    run
}

impl Census {
    /// Whether a name may be made at all.
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

/// Whether so many bytes can be had, as far as the allocator tells.
pub(crate) fn fits_in_memory(bytes: Option<usize>) -> bool {
    bytes.is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}
