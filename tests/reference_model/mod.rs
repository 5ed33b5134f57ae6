//! A plain sequential model of the buffer, with the buffer beside it: each operation is applied to
//! both, and they must agree on every answer and every reading. Shared by `tests/properties.rs` and
//! the fuzz target `operations`.

mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use conveyor_buffer::DeadLetterReason::{Rejected as RejectedAs, RetriesExhausted};
use conveyor_buffer::{
    BackpressureSignal, Batch, BufferManager, BufferSettings, Counts, DeadLetter, DeadLetterReason,
    DeadLetters, Envelope, ForwardError, Outcome, Refusals, RegistryError, RejectReason, Rejected,
    RejectedBatch, Source, Stage, TryRecvError,
};
use pollster::block_on;

use waiting::Waiting;

/// What stages and sources are named in turn. The empty name is always refused.
const NAMES: [&str; 5] = ["a", "b", "c", "d", ""];
/// The bytes in which budgets count.
const UNIT: usize = 64;
/// So many records that were handed out are remembered, to be returned by name.
const MOST_HANDED_OUT: usize = 4_096;

/// The settings of one run. Stage "a" and source "a" have caps of their own.
#[derive(Debug, Clone)]
pub struct Setup {
    pub total: usize,
    pub per_stage: usize,
    pub per_source: usize,
    pub stage_a: usize,
    pub source_a: usize,
    /// What is guaranteed to the sources "a" and "b".
    pub guarantees: [usize; 2],
    pub retry_limit: Option<u32>,
    pub letter_capacity: usize,
    pub max_stages: usize,
    pub max_sources: usize,
    /// The byte budgets of the buffer and of each source, in units of 64 bytes.
    pub budgets: Option<(usize, usize)>,
}

impl Setup {
    /// How many bytes one takes.
    pub const CODE: usize = 12;

    /// Any bytes are some setup: half of them with a global cap of up to 64, half of them with one
    /// of up to some thousands, from which accounts lease credits ahead.
    pub fn decode(code: [u8; Self::CODE]) -> Self {
        let total = if code[0] < 128 {
            1 + usize::from(code[1]) % 64
        } else {
            200 + usize::from(u16::from_le_bytes([code[0], code[1]])) % 4_000
        };
        // From a fraction of the global cap to above it.
        let share = |byte: u8| 1 + usize::from(byte) * total * 5 / (4 * 256);
        let (per_source, source_a) = (share(code[3]), share(code[5]));
        // None, or up to half of the global cap each.
        let guarantee = |part: u8, most: usize| (usize::from(part) * total / 14).min(most);
        let guarantees = match code[10] {
            0..64 => [guarantee(code[10] % 8, source_a), guarantee(code[10] / 8, per_source)],
            _ => [0; 2],
        };
        let names = guarantees.iter().filter(|&&guarantee| guarantee > 0).count();
        // A record has two units or more.
        let of_all = 1 + usize::from(code[10] % 128) * total * 3 / 128;
        let of_each = 1 + usize::from(code[9] >> 3) * of_all * 5 / (4 * 32);
        Self {
            total,
            per_stage: share(code[2]),
            per_source,
            stage_a: share(code[4]),
            source_a,
            guarantees,
            retry_limit: (code[6] % 6).checked_sub(1).map(u32::from),
            letter_capacity: 1 + usize::from(code[7]) % 5,
            max_stages: 1 + usize::from(code[8]) % 8,
            max_sources: (1 + usize::from(code[9]) % 8).max(names),
            budgets: (code[10] >= 128).then_some((of_all, of_each)),
        }
    }
}

/// One call. Stages and sources are indices of [`NAMES`]; `of` is the source that the pushed record
/// names; `batch` chooses one of the unsettled batches.
#[derive(Debug, Clone)]
pub enum Operation {
    Send { source: usize, stage: usize, of: usize },
    SendBatch { source: usize, stage: usize, of: usize, records: usize },
    ForceSend { source: usize, stage: usize, of: usize },
    Push { stage: usize, of: usize },
    PushBatch { stage: usize, of: [usize; 3], records: usize },
    Take { stage: usize, max: usize },
    GetBatch { stage: usize, max: usize },
    ReturnByName { stage: usize, records: usize },
    Ack { batch: usize },
    Return { batch: usize },
    Drop { batch: usize },
    IntoRecords { batch: usize },
    Requeue { batch: usize },
    Reject { batch: usize },
    // So many are acknowledged one by one, and the others are left.
    IntoSingles { batch: usize, settled: usize },
    Settle { batch: usize, outcomes: u32 },
    Forward { batch: usize, stage: usize },
    SplitOff { batch: usize, at: usize },
    Partition { batch: usize, chosen: u32 },
    Receive,
    NewStageHandle { stage: usize },
    NewSourceHandle { source: usize },
    RemoveStage { stage: usize },
    RemoveSource { source: usize },
    Close,
    CloseStage { stage: usize },
    CloseSource { source: usize },
    // Calls that wait, in place of the one of their kind that waits already.
    SendAndWait { source: usize, stage: usize, of: usize, records: usize },
    Reserve { source: usize, stage: usize, of: usize, records: usize, sent: usize },
    ForwardAndWait { batch: usize, stage: usize },
    ReceiveAndWait { stage: usize, max: usize },
    Drain,
    Cancel,
    // The same for no time at all.
    SendForNoTime { source: usize, stage: usize, of: usize, records: usize },
    ReceiveForNoTime { stage: usize, max: usize },
    // A permit for what there is, of which so many records are pushed one at a time.
    ReserveNow { source: usize, stage: usize, of: usize, max: usize, sent: usize },
    // A producer of blocks of that size, which is flushed or dropped after so many records.
    Produce { source: usize, stage: usize, of: usize, records: usize, block: usize },
}

impl Operation {
    /// How many bytes one takes.
    pub const CODE: usize = 8;

    /// Any bytes are some operation.
    pub fn decode(code: [u8; Self::CODE]) -> Self {
        let [kind, x, y, z, low, high, ..] = code;
        // Now and then the empty name.
        let name = |byte: u8| match usize::from(byte) % 32 {
            31 => 4,
            other => other % 4,
        };
        let records = match high {
            0..192 => usize::from(low) % 24,
            192.. => usize::from(low) * 8,
        };
        let bits = u32::from_le_bytes([z, low, high, code[6]]);
        let (stage, source, batch) = (name(x), name(y), usize::from(y));
        if kind == u8::MAX {
            return Self::Close;
        }
        match kind % 45 {
            0 => Self::Send { source, stage, of: name(z) },
            1 => Self::Produce {
                source,
                stage,
                of: name(z),
                records,
                block: usize::from(code[6]) % 24,
            },
            2..=4 => Self::SendBatch { source, stage, of: name(z), records },
            5 => Self::Push { stage, of: source },
            6 | 7 => Self::PushBatch { stage, of: [source, name(z), name(z >> 4)], records },
            8..=11 => Self::Take { stage, max: records },
            12 | 13 => Self::GetBatch { stage, max: records },
            14..=16 => Self::ReturnByName { stage, records },
            17 => Self::Ack { batch },
            18 | 19 => Self::Return { batch },
            20 => Self::Drop { batch },
            21 => Self::IntoRecords { batch },
            22 | 23 => Self::Settle { batch, outcomes: bits },
            24 | 25 => Self::Forward { batch, stage },
            26 => Self::SplitOff { batch, at: records },
            27 => Self::Partition { batch, chosen: bits },
            28 => Self::Receive,
            29 if z.is_multiple_of(2) => Self::NewStageHandle { stage },
            29 => Self::NewSourceHandle { source },
            30 => Self::RemoveStage { stage },
            31 => Self::RemoveSource { source },
            32 | 33 => Self::SendAndWait { source, stage, of: name(z), records },
            34 => Self::Reserve {
                source,
                stage,
                of: name(z),
                records,
                sent: usize::from(code[6]) % 24,
            },
            35 => Self::ForwardAndWait { batch, stage },
            36 => Self::ReceiveAndWait { stage, max: records },
            37 => Self::ReceiveForNoTime { stage, max: records },
            40 => Self::ReserveNow {
                source,
                stage,
                of: name(z),
                max: records,
                sent: usize::from(code[6]) % 24,
            },
            38 => Self::SendForNoTime { source, stage, of: name(z), records },
            41 => Self::Requeue { batch },
            44 => Self::ForceSend { source, stage, of: name(z) },
            42 => Self::Reject { batch },
            43 => Self::IntoSingles { batch, settled: records },
            _ => match z % 8 {
                0 => Self::CloseStage { stage },
                1 => Self::CloseSource { source },
                2..5 => Self::Drain,
                _ => Self::Cancel,
            },
        }
    }
}

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    id: u64,
    /// The source that it names: an index of [`NAMES`].
    of: usize,
    retries: u32,
    /// How often a worker wrote to it in place. Each time it grows by a unit.
    writes: u32,
}

impl Row {
    /// What it measures, in units.
    fn units(&self) -> usize {
        1 + (self.id % 3) as usize + self.writes as usize
    }
}

/// What the library is given: it cannot be cloned, and is counted as long as it lives.
#[derive(Debug)]
struct Record {
    row: Row,
    _alive: Arc<()>,
}

impl Envelope for Record {
    fn source_id(&self) -> &str {
        NAMES[self.row.of]
    }

    fn retry_count(&self) -> u32 {
        self.row.retries
    }

    fn increment_retry(&mut self) {
        self.row.retries += 1;
    }

    fn size_bytes(&self) -> usize {
        UNIT * self.row.units() - 1
    }
}

fn rows_of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Row> {
    records.into_iter().map(|record| record.row).collect()
}

/// A place in the order of a stage: first those that were returned by name, then the others; each in
/// the order of their admission.
type Place = (bool, u64);

#[derive(Debug, Clone)]
struct Entry {
    place: Place,
    /// The source that it is charged to: an index of [`Model::sources`].
    source: usize,
    row: Row,
    /// The units that it holds; 0 without budgets.
    charge: usize,
}

#[derive(Debug)]
struct StageModel {
    name: usize,
    capacity: usize,
    /// Nothing more is admitted: it was closed or removed.
    shut: bool,
    queue: VecDeque<Entry>,
    occupied: usize,
    counted: Counted,
}

/// What the statistics of a stage count. The time of a wait is not foreseen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counted {
    counts: Counts,
    refusals: Refusals,
    waits: u64,
}

#[derive(Debug)]
struct SourceModel {
    name: usize,
    capacity: usize,
    /// Nothing more is admitted: it was closed or removed.
    shut: bool,
    used: usize,
    units: usize,
    /// The stage that it pushed to last.
    latest: Option<usize>,
    accepted: u64,
    refusals: Refusals,
    waits: u64,
}

/// The buffer with the simplest means: one thread, sorted queues, plain counts.
#[derive(Debug)]
struct Model {
    setup: Setup,
    /// Every stage that ever was; those that exist are found by their names. Sources alike.
    stages: Vec<StageModel>,
    sources: Vec<SourceModel>,
    stage_names: BTreeMap<usize, usize>,
    source_names: BTreeMap<usize, usize>,
    used: usize,
    units: usize,
    letters: VecDeque<(usize, Row, DeadLetterReason)>,
    parked: VecDeque<(usize, Entry, DeadLetterReason)>,
    next_place: u64,
    closed: bool,
}

/// How many were accepted, and why not more.
type Answer = (usize, Option<RejectReason>);

impl Model {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            stages: Vec::new(),
            sources: Vec::new(),
            stage_names: BTreeMap::new(),
            source_names: BTreeMap::new(),
            used: 0,
            units: 0,
            letters: VecDeque::new(),
            parked: VecDeque::new(),
            next_place: 0,
            closed: false,
        }
    }

    fn check_name(&self, name: usize, kind: &'static str) -> Result<(), RegistryError> {
        if self.closed {
            Err(RegistryError::Closed)
        } else if NAMES[name].is_empty() {
            Err(RegistryError::EmptyName { kind })
        } else {
            Ok(())
        }
    }

    fn stage_capacity(&self, name: usize) -> usize {
        if name == 0 { self.setup.stage_a } else { self.setup.per_stage }
    }

    fn source_capacity(&self, name: usize) -> usize {
        if name == 0 { self.setup.source_a } else { self.setup.per_source }
    }

    fn guarantee(&self, name: usize) -> usize {
        self.setup.guarantees.get(name).copied().unwrap_or(0)
    }

    /// How many records are guaranteed to other names and not held by them.
    fn guaranteed_to_others(&self, name: usize) -> usize {
        let unused = |other: usize| {
            let sources = self.sources.iter().filter(|source| source.name == other);
            let held = sources.map(|source| source.used).sum();
            self.guarantee(other).saturating_sub(held)
        };
        (0..2).filter(|&other| other != name).map(unused).sum()
    }

    /// How many more records the global cap lets a source of that name hold.
    fn room(&self, name: usize) -> usize {
        self.setup.total - self.used - self.guaranteed_to_others(name)
    }

    /// The most records that it can ever let one hold.
    fn total_for(&self, name: usize) -> usize {
        let others: usize = self.setup.guarantees.iter().sum();
        self.setup.total - (others - self.guarantee(name))
    }

    /// Why the global cap leaves a source of that name fewer than `wanted`.
    fn full(&self, name: usize, wanted: usize) -> RejectReason {
        let (held, capacity) = (self.used, self.setup.total);
        let guaranteed = self.guaranteed_to_others(name);
        if capacity - held < wanted {
            RejectReason::GlobalFull { held, capacity }
        } else {
            RejectReason::GuaranteedToOthers { held, capacity, guaranteed }
        }
    }

    fn open_stage(&mut self, name: usize) -> Result<usize, RegistryError> {
        if let Some(&stage) = self.stage_names.get(&name) {
            return Ok(stage);
        }
        self.check_name(name, "stage")?;
        if self.stage_names.len() >= self.setup.max_stages {
            return Err(RegistryError::TooManyStages { max: self.setup.max_stages });
        }
        let capacity = self.stage_capacity(name);
        self.stages.push(StageModel {
            name,
            capacity,
            shut: false,
            queue: VecDeque::new(),
            occupied: 0,
            counted: Counted::default(),
        });
        self.stage_names.insert(name, self.stages.len() - 1);
        Ok(self.stages.len() - 1)
    }

    fn check_source(&self, name: usize) -> Result<(), RegistryError> {
        if self.source_names.contains_key(&name) {
            return Ok(());
        }
        self.check_name(name, "source")?;
        let missing = (0..2).filter(|it| !self.source_names.contains_key(it));
        let kept = missing.filter(|&it| self.guarantee(it) > 0).count();
        if self.guarantee(name) == 0 && self.source_names.len() + kept >= self.setup.max_sources {
            return Err(RegistryError::TooManySources { max: self.setup.max_sources });
        }
        Ok(())
    }

    fn open_source(&mut self, name: usize) -> Result<usize, RegistryError> {
        self.check_source(name)?;
        if let Some(&source) = self.source_names.get(&name) {
            return Ok(source);
        }
        let capacity = self.source_capacity(name);
        self.sources.push(SourceModel {
            name,
            capacity,
            shut: false,
            used: 0,
            units: 0,
            latest: None,
            accepted: 0,
            refusals: Refusals::default(),
            waits: 0,
        });
        self.source_names.insert(name, self.sources.len() - 1);
        Ok(self.sources.len() - 1)
    }

    /// Both or, where one is refused, neither.
    fn open_both(&mut self, stage: usize, source: usize) -> Result<(usize, usize), RegistryError> {
        self.check_source(source)?;
        Ok((self.open_stage(stage)?, self.open_source(source)?))
    }

    /// What a record is charged at admission.
    fn charge_of(&self, row: &Row) -> usize {
        if self.setup.budgets.is_some() { row.units() } else { 0 }
    }

    /// The units that a source may still take of its own budget, and of that of the buffer.
    fn free_units(&self, source: usize) -> (usize, usize) {
        let (total, own) = self.setup.budgets.unwrap_or((usize::MAX, usize::MAX));
        (own - self.sources[source].units, total - self.units)
    }

    fn take_units(&mut self, source: usize, units: usize) {
        self.sources[source].units += units;
        self.units += units;
    }

    /// Why so many units of `records` records never fit.
    fn never_fits(&self, source: usize, records: usize, units: usize) -> Option<RejectReason> {
        let (total, own) = self.setup.budgets?;
        let name = NAMES[self.sources[source].name];
        let (capacity, limit) = if own <= total {
            (own, format!("the byte budget of source {name}"))
        } else {
            (total, "the byte budget of the buffer".to_owned())
        };
        let reason = RejectReason::TooLarge { records, capacity: UNIT * capacity, limit };
        (units > own.min(total)).then_some(reason)
    }

    /// The refusal of a source whose budget, or that of the buffer, is full for so many units.
    fn bytes_full(&self, source: usize, of_source: bool, wanted: usize) -> RejectReason {
        let (total, own) = self.setup.budgets.expect("there are budgets");
        let SourceModel { name, units, .. } = self.sources[source];
        let wanted = UNIT * wanted;
        if of_source {
            let (source_id, held, capacity) = (NAMES[name].into(), UNIT * units, UNIT * own);
            RejectReason::SourceBytesFull { source_id, held, capacity, wanted }
        } else {
            let (held, capacity) = (UNIT * self.units, UNIT * total);
            RejectReason::GlobalBytesFull { held, capacity, wanted }
        }
    }

    /// The budget that leaves too little for so many units.
    fn lack_of_bytes(&self, source: usize, units: usize) -> Option<RejectReason> {
        let (own, room) = self.free_units(source);
        (own.min(room) < units).then(|| self.bytes_full(source, own < units && own <= room, units))
    }

    /// How many of the rows have units enough, and why the next has not.
    fn fit_bytes(&self, source: usize, rows: &[Row]) -> Answer {
        let (own, room) = self.free_units(source);
        let mut used = 0;
        for (fit, row) in rows.iter().enumerate() {
            let units = self.charge_of(row);
            if let Some(reason) = self.never_fits(source, 1, units) {
                return (fit, Some(reason));
            }
            if used + units > own.min(room) {
                // The first looks at its source first, as a push for many does in the ledger.
                let of_source = own - used < units && (fit == 0 || own <= room);
                let mut reason = self.bytes_full(source, of_source, units);
                match &mut reason {
                    RejectReason::SourceBytesFull { held, .. }
                    | RejectReason::GlobalBytesFull { held, .. } => *held += UNIT * used,
                    _ => unreachable!("it is full of bytes"),
                }
                return (fit, Some(reason));
            }
            used += units;
        }
        (rows.len(), None)
    }

    /// Takes credits, units and places, and says which limit of those in the order of taking was the
    /// first to allow no more.
    fn admit(&mut self, stage: usize, source: usize, rows: &[Row]) -> Answer {
        let wanted = rows.len();
        let room = self.room(self.sources[source].name);
        if wanted == 0 {
            return (0, None);
        }
        self.sources[source].latest = Some(stage);
        if self.closed || self.sources[source].shut {
            return (0, Some(RejectReason::Closed));
        }
        let (to, from) = (&self.stages[stage], &self.sources[source]);
        let room_of_source = from.capacity - from.used;
        let places = to.capacity - to.occupied;
        let room_of_stage = if to.shut { 0 } else { places };
        // A push asks for one place more than there are.
        let credits = wanted.min(places + 1).min(room_of_source).min(room);
        let (fit, lack) = self.fit_bytes(source, &rows[..credits]);
        let accepted = fit.min(room_of_stage);
        let (to, from) = (&mut self.stages[stage], &mut self.sources[source]);
        to.occupied += accepted;
        from.used += accepted;
        self.used += accepted;
        to.counted.counts.accepted += accepted as u64;
        from.accepted += accepted as u64;
        let units = rows[..accepted].iter().map(|row| self.charge_of(row)).sum();
        self.take_units(source, units);
        let (to, from) = (&self.stages[stage], &self.sources[source]);
        let reason = if accepted == wanted {
            return (accepted, None);
        } else if accepted == fit
            && let Some(lack) = lack
        {
            lack
        } else if accepted == room_of_source {
            let (held, capacity) = (from.capacity, from.capacity);
            let reason =
                RejectReason::SourceFull { source_id: NAMES[from.name].into(), held, capacity };
            self.with_parked(reason, source, stage)
        } else if accepted == room {
            let name = from.name;
            self.with_parked(self.full(name, 1), source, stage)
        } else if to.shut {
            RejectReason::Closed
        } else {
            let (held, capacity) = (to.capacity, to.capacity);
            let reason =
                RejectReason::StageFull { stage_id: NAMES[to.name].into(), held, capacity };
            self.with_parked(reason, source, stage)
        };
        (accepted, Some(reason))
    }

    /// A refusal at a full cap names the parked letters that hold a part of it.
    fn with_parked(&self, reason: RejectReason, source: usize, stage: usize) -> RejectReason {
        let (limit, held, capacity, parked) = match &reason {
            RejectReason::SourceFull { source_id, held, capacity } => {
                let parked =
                    self.parked.iter().filter(|(_, entry, _)| entry.source == source).count();
                (format!("source {source_id}"), *held, *capacity, parked)
            }
            RejectReason::GlobalFull { held, capacity }
            | RejectReason::GuaranteedToOthers { held, capacity, .. } => {
                ("the buffer".to_owned(), *held, *capacity, self.parked.len())
            }
            RejectReason::StageFull { stage_id, held, capacity } => {
                let parked = self.parked.iter().filter(|(at, ..)| *at == stage).count();
                (format!("stage {stage_id}"), *held, *capacity, parked)
            }
            _ => return reason,
        };
        if parked == 0 {
            return reason;
        }
        RejectReason::ParkedLetters { limit, held, capacity, parked }
    }

    /// A call was refused: a push, or a forward without a source.
    fn refused(&mut self, stage: usize, source: Option<usize>, reason: Option<&RejectReason>) {
        let of_source = source.map(|source| &mut self.sources[source].refusals);
        for refusals in of_source.into_iter().chain([&mut self.stages[stage].counted.refusals]) {
            *match reason {
                Some(RejectReason::SourceFull { .. }) => &mut refusals.source,
                Some(RejectReason::GlobalFull { .. }) => &mut refusals.global,
                Some(RejectReason::StageFull { .. }) => &mut refusals.stage,
                Some(RejectReason::SourceBytesFull { .. }) => &mut refusals.source_bytes,
                Some(RejectReason::GlobalBytesFull { .. }) => &mut refusals.global_bytes,
                Some(RejectReason::GuaranteedToOthers { .. }) => &mut refusals.guaranteed,
                Some(RejectReason::ParkedLetters { .. }) => &mut refusals.parked_letters,
                Some(RejectReason::OthersFirst { .. }) => &mut refusals.others_first,
                Some(RejectReason::TooLarge { .. }) => &mut refusals.too_large,
                Some(RejectReason::Closed) => &mut refusals.closed,
                _ => continue,
            } += 1;
        }
    }

    /// A call has waited in line.
    fn waited(&mut self, stage: usize, source: Option<usize>) {
        self.stages[stage].counted.waits += 1;
        if let Some(source) = source {
            self.sources[source].waits += 1;
        }
    }

    fn counts(&mut self, stage: usize) -> &mut Counts {
        &mut self.stages[stage].counted.counts
    }

    fn next_place(&mut self, never_left: bool) -> Place {
        self.next_place += 1;
        (never_left, self.next_place)
    }

    fn push(&mut self, stage: usize, source: usize, rows: &[Row]) -> Answer {
        let answer = self.admit(stage, source, rows);
        for &row in &rows[..answer.0] {
            let (place, charge) = (self.next_place(true), self.charge_of(&row));
            self.stages[stage].queue.push_back(Entry { place, source, row, charge });
        }
        answer
    }

    /// The push of a request that waited. The source may have pushed to another stage since.
    fn push_granted(&mut self, stage: usize, source: usize, rows: &[Row]) -> Answer {
        let latest = self.sources[source].latest;
        let answer = self.push(stage, source, rows);
        self.sources[source].latest = latest;
        answer
    }

    /// Takes back what was handed out and has retries left.
    fn readmit(&mut self, stage: usize, source: usize, rows: &[Row]) -> Answer {
        let answer = self.admit(stage, source, rows);
        for &row in &rows[..answer.0] {
            let (place, charge) = (self.next_place(false), self.charge_of(&row));
            self.give_back(stage, vec![Entry { place, source, row, charge }]);
        }
        answer
    }

    fn by_name(
        &mut self,
        stage: usize,
        rows: &[Row],
        store: impl Fn(&mut Self, usize, usize, &[Row]) -> Answer,
    ) -> Answer {
        let mut accepted = 0;
        for run in rows.chunk_by(|one, other| one.of == other.of) {
            let (more, reason) = match self.open_both(stage, run[0].of) {
                Ok((stage, source)) => {
                    let answer = store(self, stage, source, run);
                    self.refused(stage, Some(source), answer.1.as_ref());
                    answer
                }
                Err(error) => (0, Some(error.into())),
            };
            accepted += more;
            if reason.is_some() {
                return (accepted, reason);
            }
        }
        (accepted, None)
    }

    /// The answer, and how many were taken at all: back to the stage, or to the dead letters.
    fn return_by_name(&mut self, stage: usize, rows: &[Row]) -> (Answer, usize) {
        let (mut accepted, mut taken) = (0, 0);
        let limit = self.setup.retry_limit;
        let exhausted = |row: &Row| limit.is_some_and(|limit| row.retries >= limit);
        for stretch in rows.chunk_by(|one, other| exhausted(one) == exhausted(other)) {
            if !exhausted(&stretch[0]) {
                let (more, reason) = self.by_name(stage, stretch, Self::readmit);
                accepted += more;
                taken += more;
                if reason.is_some() {
                    return ((accepted, reason), taken);
                }
                continue;
            }
            for &row in stretch {
                if self.letters.len() == self.setup.letter_capacity {
                    let capacity = self.setup.letter_capacity;
                    return ((accepted, Some(RejectReason::DeadLettersFull { capacity })), taken);
                }
                self.letters.push_back((stage, row, RetriesExhausted));
                taken += 1;
            }
        }
        ((accepted, None), taken)
    }

    fn take(&mut self, stage: usize, max: usize) -> Vec<Entry> {
        let queue = &mut self.stages[stage].queue;
        queue.drain(..max.min(queue.len())).collect()
    }

    /// Takes back entries that were left in the stage.
    fn put_back(&mut self, stage: usize, entries: Vec<Entry>) {
        entries.into_iter().rev().for_each(|entry| self.stages[stage].queue.push_front(entry));
    }

    fn ack(&mut self, stage: usize, entries: &[Entry]) {
        self.counts(stage).acknowledged += entries.len() as u64;
        self.release(stage, entries);
    }

    fn hand_out(&mut self, stage: usize, entries: &[Entry]) {
        self.counts(stage).handed_out += entries.len() as u64;
        self.release(stage, entries);
    }

    fn release(&mut self, stage: usize, entries: &[Entry]) {
        self.stages[stage].occupied -= entries.len();
        self.used -= entries.len();
        for entry in entries {
            self.sources[entry.source].used -= 1;
            self.sources[entry.source].units -= entry.charge;
            self.units -= entry.charge;
        }
    }

    /// Charges records what they measure now, as far as there is room.
    fn measure_again(&mut self, entries: &mut [Entry]) {
        for entry in entries {
            let (own, room) = self.free_units(entry.source);
            let open = !self.closed && !self.sources[entry.source].shut;
            let most = if open { own.min(room) } else { 0 };
            let more = (self.charge_of(&entry.row) - entry.charge).min(most);
            entry.charge += more;
            self.take_units(entry.source, more);
        }
    }

    fn bury(&mut self, stage: usize, entry: Entry, reason: DeadLetterReason) {
        *match reason {
            RetriesExhausted => &mut self.counts(stage).retries_exhausted,
            RejectedAs(_) => &mut self.counts(stage).rejected,
            _ => &mut self.counts(stage).expired,
        } += 1;
        self.keep_letter(stage, entry, reason);
    }

    fn keep_letter(&mut self, stage: usize, entry: Entry, reason: DeadLetterReason) {
        if self.letters.len() < self.setup.letter_capacity {
            self.release(stage, std::slice::from_ref(&entry));
            self.letters.push_back((self.stages[stage].name, entry.row, reason));
        } else {
            self.parked.push_back((stage, entry, reason));
        }
    }

    fn is_exhausted(&self, row: &Row) -> bool {
        self.setup.retry_limit.is_some_and(|limit| row.retries >= limit)
    }

    fn give_back(&mut self, stage: usize, entries: Vec<Entry>) {
        let (dead, back): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| self.is_exhausted(&entry.row));
        let mut back = back;
        back.iter_mut().for_each(|entry| entry.row.retries += 1);
        self.counts(stage).returned += back.len() as u64;
        self.insert(stage, back);
        for entry in dead {
            self.bury(stage, entry, RetriesExhausted);
        }
    }

    fn requeue(&mut self, stage: usize, entries: Vec<Entry>) {
        self.counts(stage).requeued += entries.len() as u64;
        self.insert(stage, entries);
    }

    fn insert(&mut self, stage: usize, mut entries: Vec<Entry>) {
        self.measure_again(&mut entries);
        for entry in entries {
            let queue = &mut self.stages[stage].queue;
            let index = queue.partition_point(|other| other.place < entry.place);
            queue.insert(index, entry);
        }
    }

    /// Whether there was room.
    fn forward(&mut self, stage: usize, next: usize, entries: &[Entry]) -> bool {
        let len = entries.len();
        let to = &self.stages[next];
        if len > 0 && (to.shut || to.capacity - to.occupied < len) {
            return false;
        }
        self.stages[stage].occupied -= len;
        self.stages[next].occupied += len;
        self.counts(stage).forwarded_out += len as u64;
        self.counts(next).forwarded_in += len as u64;
        let mut entries = entries.to_vec();
        self.measure_again(&mut entries);
        for entry in entries {
            let place = self.next_place(true);
            self.stages[next].queue.push_back(Entry { place, ..entry });
        }
        true
    }

    fn receive(&mut self) -> Option<(usize, Row, DeadLetterReason)> {
        let letter = self.letters.pop_front()?;
        if let Some((stage, entry, reason)) = self.parked.pop_front() {
            self.keep_letter(stage, entry, reason);
        }
        Some(letter)
    }

    fn remove_stage(&mut self, name: usize) -> Result<(), RegistryError> {
        let stage_id: Arc<str> = NAMES[name].into();
        let Some(&index) = self.stage_names.get(&name) else {
            return Err(RegistryError::UnknownStage { stage_id });
        };
        match self.stages[index].occupied {
            0 => {
                self.stages[index].shut = true;
                self.stage_names.remove(&name);
                Ok(())
            }
            held => Err(RegistryError::StageInUse { stage_id, held }),
        }
    }

    fn remove_source(&mut self, name: usize) -> Result<(), RegistryError> {
        let source_id: Arc<str> = NAMES[name].into();
        let Some(&index) = self.source_names.get(&name) else {
            return Err(RegistryError::UnknownSource { source_id });
        };
        match self.sources[index].used {
            0 => {
                self.sources[index].shut = true;
                self.source_names.remove(&name);
                Ok(())
            }
            held => Err(RegistryError::SourceInUse { source_id, held }),
        }
    }

    /// What a worker is told that finds nothing.
    fn nothing_to_take(&self, stage: usize) -> TryRecvError {
        let StageModel { shut, occupied, .. } = self.stages[stage];
        let parked = self.parked.iter().filter(|(at, ..)| *at == stage).count();
        if shut && occupied == parked || self.closed && self.used == self.parked.len() {
            TryRecvError::Closed
        } else {
            TryRecvError::Empty
        }
    }

    /// A worker that waits was told that nothing more will come.
    fn assert_ended(&self, stage: usize) {
        assert_eq!(self.stages[stage].queue.len(), 0);
        assert_eq!(self.nothing_to_take(stage), TryRecvError::Closed);
    }

    /// A worker waits.
    fn assert_waits(&self, stage: usize) {
        assert_eq!(self.stages[stage].queue.len(), 0, "a worker waits though there are records");
        assert_eq!(self.nothing_to_take(stage), TryRecvError::Empty);
    }

    fn available(&self, source: usize) -> usize {
        let source = &self.sources[source];
        if self.closed || source.shut {
            return 0;
        }
        (source.capacity - source.used).min(self.room(source.name))
    }

    /// The share of the source's cap, or of its byte budget if that is higher.
    fn utilization(&self, source: usize) -> f64 {
        let SourceModel { used, capacity, units, .. } = self.sources[source];
        let of_bytes = self.setup.budgets.map_or(0.0, |(_, own)| units as f64 / own as f64);
        of_bytes.max(used as f64 / capacity as f64)
    }

    /// Why a source gets no credit and no place, if it gets none.
    fn refusal_of_credits(&mut self, stage: usize, source: usize) -> Option<RejectReason> {
        let budgets = self.setup.budgets.take();
        let row = Row { id: 0, of: 0, retries: 0, writes: 0 };
        let (accepted, refusal) = self.admit(stage, source, &[row]);
        assert_eq!(accepted, 0, "there is room");
        self.setup.budgets = budgets;
        refusal
    }

    fn is_shut(&self, source: usize, stage: usize) -> bool {
        self.closed || self.sources[source].shut || self.stages[stage].shut
    }

    /// How many records a push may hold.
    fn room_for(&self, source: usize, stage: usize) -> usize {
        let stage = &self.stages[stage];
        if stage.shut { 0 } else { self.available(source).min(stage.capacity - stage.occupied) }
    }
}

/// A handle, with the index of what the model says of it.
type StageHandle = (usize, Stage<Record>);
type SourceHandle = (usize, Source<Record>);

/// A batch in a worker's hands, with what the model says of it.
struct Open {
    stage: usize,
    batch: Batch<Record>,
    entries: Vec<Entry>,
}

/// The library and the model, side by side.
pub struct Pair {
    manager: BufferManager<Record>,
    letters: DeadLetters<Record>,
    model: Model,
    /// A handle for each name that was used by handle, perhaps to one that has been removed since.
    stages: [Option<(usize, Stage<Record>)>; NAMES.len()],
    sources: [Option<(usize, Source<Record>)>; NAMES.len()],
    open: Vec<Open>,
    handed_out: VecDeque<Record>,
    waiting: Waiting,
    alive: Arc<()>,
    next_id: u64,
}

impl Pair {
    pub fn new(setup: Setup) -> Self {
        let settings = BufferSettings {
            max_total_records: setup.total,
            max_per_stage: setup.per_stage,
            max_per_source: setup.per_source,
            ..BufferSettings::default()
        };
        let mut builder = BufferManager::builder(settings)
            .dead_letter_capacity(setup.letter_capacity)
            .max_stages(setup.max_stages)
            .max_sources(setup.max_sources)
            .stage_capacity(NAMES[0], setup.stage_a)
            .source_capacity(NAMES[0], setup.source_a);
        for (name, &guarantee) in setup.guarantees.iter().enumerate() {
            if guarantee > 0 {
                builder = builder.source_guarantee(NAMES[name], guarantee);
            }
        }
        if let Some(limit) = setup.retry_limit {
            builder = builder.max_retries(limit);
        }
        if let Some((total, per_source)) = setup.budgets {
            builder = builder.max_total_bytes(UNIT * total).max_source_bytes(UNIT * per_source);
        }
        let manager = builder.build().expect("valid settings");
        Self {
            letters: manager.dead_letters(),
            manager,
            model: Model::new(setup),
            stages: Default::default(),
            sources: Default::default(),
            open: Vec::new(),
            handed_out: VecDeque::new(),
            waiting: Waiting::default(),
            alive: Arc::new(()),
            next_id: 0,
        }
    }

    /// Applies one operation to both, and compares all that can be seen.
    ///
    /// # Panics
    ///
    /// If they do not agree.
    pub fn step(&mut self, operation: Operation) {
        // The records of each source are given back on their own, and some even one by one.
        let many = matches!(
            operation,
            Operation::Settle { .. }
                | Operation::Return { .. }
                | Operation::Drop { .. }
                | Operation::Reject { .. }
                | Operation::IntoSingles { .. }
                | Operation::Ack { .. }
                | Operation::IntoRecords { .. }
                | Operation::GetBatch { .. }
                | Operation::ReturnByName { .. }
        );
        self.apply(operation);
        self.follow(many);
        self.compare();
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Send { source, stage, of } => self.send(source, stage, of),
            Operation::ForceSend { source, stage, of } => self.force_send(source, stage, of),
            Operation::SendBatch { source, stage, of, records } => {
                self.send_batch(source, stage, of, records);
            }
            Operation::Push { stage, of } => {
                let record = self.records(1, |_| of).remove(0);
                let row = record.row;
                let expected = self.model.by_name(stage, &[row], Model::push);
                let pushed = block_on(self.manager.buffer_for_stage(NAMES[stage], record));
                assert_eq!(answer_of_one(pushed, row), expected);
            }
            Operation::PushBatch { stage, of, records } => {
                // Each run may use a guarantee, whose credits count twice for a moment: that counts as a
                // release, and a request that is bypassed often reserves what it needs.
                self.cancel();
                // Runs of several lengths.
                let records = self.records(records, |n| of[n / 3 % 3]);
                let rows = rows_of(&records);
                let expected = self.model.by_name(stage, &rows, Model::push);
                let pushed = block_on(self.manager.buffer_batch_for_stage(NAMES[stage], records));
                let (answer, refused) = answer_of_many(pushed);
                assert_eq!(answer, expected);
                assert_eq!(rows_of(&refused), rows[expected.0..]);
            }
            Operation::Take { stage, max } => self.take(stage, max),
            Operation::GetBatch { stage, max } => {
                let entries = match self.model.stage_names.get(&stage) {
                    Some(&stage) => {
                        let entries = self.model.take(stage, max);
                        self.model.hand_out(stage, &entries);
                        entries
                    }
                    None => Vec::new(),
                };
                let records = block_on(self.manager.get_batch(NAMES[stage], max));
                self.hand_out(records, &entries);
            }
            Operation::ReturnByName { stage, records } => self.return_by_name(stage, records),
            Operation::Ack { batch }
            | Operation::Return { batch }
            | Operation::Drop { batch }
            | Operation::IntoRecords { batch }
            | Operation::Requeue { batch }
            | Operation::Reject { batch }
            | Operation::IntoSingles { batch, .. }
            | Operation::Settle { batch, .. }
            | Operation::Forward { batch, .. }
            | Operation::SplitOff { batch, .. }
            | Operation::Partition { batch, .. } => {
                if !self.open.is_empty() {
                    let open = self.open.swap_remove(batch % self.open.len());
                    self.settle(open, operation);
                }
            }
            Operation::Receive => {
                let letter = self.letters.try_recv().map(|letter| {
                    let DeadLetter { record, stage_id, source_id, retry_count, reason, .. } =
                        letter;
                    // A record without a name has that of the source that pushed it.
                    assert!(source_id == NAMES[record.row.of] || NAMES[record.row.of].is_empty());
                    assert_eq!(retry_count, record.row.retries);
                    (stage_id, record.row, reason)
                });
                let expected = self.model.receive();
                assert_eq!(
                    letter,
                    expected.map(|(stage, row, reason)| (NAMES[stage].to_owned(), row, reason))
                );
            }
            Operation::NewStageHandle { stage } => self.new_stage_handle(stage),
            Operation::NewSourceHandle { source } => self.new_source_handle(source),
            Operation::RemoveStage { stage } => {
                let removed = self.manager.remove_stage(NAMES[stage]);
                assert_eq!(removed, self.model.remove_stage(stage));
            }
            Operation::RemoveSource { source } => {
                let removed = self.manager.remove_source(NAMES[source]);
                assert_eq!(removed, self.model.remove_source(source));
            }
            Operation::Close => {
                self.manager.clone().close();
                self.model.closed = true;
            }
            Operation::CloseStage { stage } => {
                let Some((index, stage)) = self.stage(stage) else { return };
                stage.close();
                assert!(stage.is_closed());
                self.model.stages[index].shut = true;
            }
            Operation::CloseSource { source } => {
                let Some((index, source)) = self.source(source) else { return };
                source.close();
                assert!(source.is_closed());
                self.model.sources[index].shut = true;
            }
            Operation::ReserveNow { source, stage, of, max, sent } => {
                self.reserve_now(source, stage, of, max, sent);
            }
            Operation::Produce { source, stage, of, records, block } => {
                self.produce(source, stage, of, records, block);
            }
            Operation::SendForNoTime { source, stage, of, records } => {
                self.send_for_no_time(source, stage, of, records);
            }
            Operation::ReceiveForNoTime { stage, max } => self.receive_for_no_time(stage, max),
            Operation::SendAndWait { .. }
            | Operation::Reserve { .. }
            | Operation::ForwardAndWait { .. }
            | Operation::ReceiveAndWait { .. }
            | Operation::Drain
            | Operation::Cancel => self.begin(operation),
        }
    }

    fn records(&mut self, records: usize, of: impl Fn(usize) -> usize) -> Vec<Record> {
        let first = self.next_id;
        self.next_id += records as u64;
        let record = |n| Record {
            row: Row { id: first + n as u64, of: of(n), retries: 0, writes: 0 },
            _alive: Arc::clone(&self.alive),
        };
        (0..records).map(record).collect()
    }

    fn new_stage_handle(&mut self, name: usize) {
        match (self.manager.stage(NAMES[name]), self.model.open_stage(name)) {
            (Ok(stage), Ok(index)) => {
                assert_eq!(stage.id(), NAMES[name]);
                self.stages[name] = Some((index, stage));
            }
            (stage, index) => assert_eq!(stage.err(), index.err()),
        }
    }

    fn new_source_handle(&mut self, name: usize) {
        match (self.manager.source(NAMES[name]), self.model.open_source(name)) {
            (Ok(source), Ok(index)) => {
                assert_eq!(source.id(), NAMES[name]);
                self.sources[name] = Some((index, source));
            }
            (source, index) => assert_eq!(source.err(), index.err()),
        }
    }

    /// The handle that was made last, if one was or can be made.
    fn stage(&mut self, name: usize) -> Option<StageHandle> {
        if self.stages[name].is_none() {
            self.new_stage_handle(name);
        }
        self.stages[name].clone()
    }

    fn source(&mut self, name: usize) -> Option<SourceHandle> {
        if self.sources[name].is_none() {
            self.new_source_handle(name);
        }
        self.sources[name].clone()
    }

    /// Both, if both were or can be made.
    fn handles(&mut self, stage: usize, source: usize) -> Option<(StageHandle, SourceHandle)> {
        self.stage(stage).zip(self.source(source))
    }

    fn send(&mut self, source: usize, stage: usize, of: usize) {
        let Some(((to, stage), (from, source))) = self.handles(stage, source) else { return };
        let record = self.records(1, |_| of).remove(0);
        let row = record.row;
        let expected = self.model.push(to, from, &[row]);
        self.model.refused(to, Some(from), expected.1.as_ref());
        assert_eq!(answer_of_one(source.try_send(&stage, record), row), expected);
    }

    fn force_send(&mut self, source: usize, stage: usize, of: usize) {
        // A request that waits takes what an eviction frees.
        self.cancel();
        let Some(((to, stage), (from, source))) = self.handles(stage, source) else { return };
        let record = self.records(1, |_| of).remove(0);
        let row = record.row;
        let mut expected = self.model.push(to, from, &[row]);
        let mut evicted = Vec::new();
        let is_of_stage = |reason: &RejectReason| match reason {
            RejectReason::StageFull { .. } => true,
            RejectReason::ParkedLetters { limit, .. } => limit.starts_with("stage"),
            _ => false,
        };
        while expected.1.as_ref().is_some_and(is_of_stage) {
            let oldest = self.model.take(to, 1);
            if oldest.is_empty() {
                break;
            }
            self.model.hand_out(to, &oldest);
            self.model.counts(to).evicted += 1;
            evicted.extend(oldest.iter().map(|entry| entry.row));
            expected = self.model.push(to, from, &[row]);
        }
        self.model.refused(to, Some(from), expected.1.as_ref());
        let mut seen = Vec::new();
        let sent = source.force_send(&stage, record, |old| seen.push(old.row));
        assert_eq!(answer_of_one(sent, row), expected);
        assert_eq!(seen, evicted);
    }

    fn send_batch(&mut self, source: usize, stage: usize, of: usize, records: usize) {
        let Some(((to, stage), (from, source))) = self.handles(stage, source) else { return };
        let records = self.records(records, |_| of);
        let rows = rows_of(&records);
        let expected = self.model.push(to, from, &rows);
        self.model.refused(to, Some(from), expected.1.as_ref());
        let sent = source.try_send_batch(&stage, records).map(|()| rows.len());
        let (answer, refused) = answer_of_many(sent);
        assert_eq!(answer, expected);
        assert_eq!(rows_of(&refused), rows[expected.0..]);
    }

    fn take(&mut self, stage: usize, max: usize) {
        let Some((stage, handle)) = self.stage(stage) else { return };
        let entries = self.model.take(stage, max);
        match handle.try_recv_batch(max) {
            Ok(batch) => {
                assert!(!batch.is_empty());
                self.open(Open { stage, batch, entries });
            }
            Err(error) => {
                assert_eq!(entries.len(), 0, "{error}");
                assert_eq!(error, self.model.nothing_to_take(stage));
            }
        }
    }

    /// Keeps an unsettled batch, if it is as it should be. It may leave a large block to the next batch,
    /// if it is a quarter full.
    fn open(&mut self, mut open: Open) {
        let (taken, most) = (open.batch.len(), open.entries.len());
        assert!(taken == most || taken < most && taken * 4 >= most, "{taken} of {most}");
        let left = open.entries.split_off(taken);
        self.model.put_back(open.stage, left);
        let rows = open.entries.iter().map(|entry| &entry.row);
        assert!(open.batch.iter().map(|record| &record.row).eq(rows), "not in order");
        self.open.push(open);
    }

    fn hand_out(&mut self, records: Vec<Record>, entries: &[Entry]) {
        let rows = entries.iter().map(|entry| &entry.row);
        assert!(records.iter().map(|record| &record.row).eq(rows), "not in order");
        self.handed_out.extend(records);
        let surplus = self.handed_out.len().saturating_sub(MOST_HANDED_OUT);
        self.handed_out.drain(..surplus);
    }

    fn return_by_name(&mut self, stage: usize, records: usize) {
        let len = records.min(self.handed_out.len());
        let records: Vec<Record> = self.handed_out.drain(..len).collect();
        let rows = rows_of(&records);
        let (expected, taken) = self.model.return_by_name(stage, &rows);
        let returned = block_on(self.manager.return_to_buffer(NAMES[stage], records));
        let (answer, refused) = answer_of_many(returned);
        assert_eq!(answer, expected);
        assert_eq!(rows_of(&refused), rows[taken..]);
        self.handed_out.extend(refused);
    }

    fn settle(&mut self, open: Open, operation: Operation) {
        let Open { stage, mut batch, mut entries } = open;
        if self.model.letters.len() + entries.len() > self.model.setup.letter_capacity {
            // Each letter that is parked may bypass a request, which then reserves what it needs.
            self.cancel();
        }
        match operation {
            Operation::Return { .. } => {
                batch.return_to_buffer();
                self.model.give_back(stage, entries);
            }
            Operation::Drop { .. } => {
                drop(batch);
                self.model.give_back(stage, entries);
            }
            Operation::Requeue { .. } => {
                batch.requeue();
                self.model.requeue(stage, entries);
            }
            Operation::Reject { .. } => {
                let buried = batch.dead_letter("not a row").dead_lettered;
                assert_eq!(buried, entries.len());
                for entry in entries {
                    self.model.bury(stage, entry, RejectedAs("not a row".into()));
                }
            }
            Operation::IntoSingles { settled, .. } => {
                let mut singles = batch.into_singles();
                assert_eq!(singles.len(), entries.len());
                let left = entries.split_off(settled.min(entries.len()));
                for entry in entries {
                    let single = singles.next().expect("as many as in the batch");
                    assert_eq!(rows_of(single.iter()), [entry.row]);
                    single.ack();
                    self.model.ack(stage, &[entry]);
                }
                drop(singles);
                self.model.requeue(stage, left);
            }
            Operation::IntoRecords { .. } => {
                self.model.hand_out(stage, &entries);
                self.hand_out(batch.into_records(), &entries);
            }
            Operation::Settle { outcomes, .. } => {
                batch.iter_mut().for_each(|record| record.row.writes += 1);
                let mut entries = entries.into_iter();
                let mut bits = outcomes;
                let (mut back, mut dead, mut acked) = (Vec::new(), Vec::new(), Vec::new());
                batch.settle(|record| {
                    let mut entry = entries.next().expect("as many as in the batch");
                    entry.row.writes += 1;
                    assert_eq!(record.row, entry.row);
                    bits = bits.rotate_right(3);
                    let outcome = match bits % 8 {
                        0 => Outcome::Return,
                        1 => Outcome::DeadLetter,
                        2 => Outcome::Requeue,
                        3 => Outcome::Reject("not a row"),
                        4 => Outcome::ReturnAfter(Duration::ZERO),
                        _ => Outcome::Ack,
                    };
                    match outcome {
                        Outcome::Return | Outcome::ReturnAfter(_) => {
                            if self.model.is_exhausted(&entry.row) {
                                dead.push((entry, RetriesExhausted));
                            } else {
                                entry.row.retries += 1;
                                self.model.counts(stage).returned += 1;
                                back.push(entry);
                            }
                        }
                        Outcome::DeadLetter => dead.push((entry, RejectedAs("".into()))),
                        Outcome::Reject(why) => dead.push((entry, RejectedAs(why.into()))),
                        Outcome::Requeue => {
                            self.model.counts(stage).requeued += 1;
                            back.push(entry);
                        }
                        _ => acked.push(entry),
                    }
                    outcome
                });
                assert_eq!(entries.len(), 0);
                self.model.insert(stage, back);
                for (entry, reason) in dead {
                    self.model.bury(stage, entry, reason);
                }
                self.model.ack(stage, &acked);
            }
            Operation::Forward { stage: next, .. } => {
                let Some((to, next)) = self.stage(next) else {
                    self.open.push(Open { stage, batch, entries });
                    return;
                };
                let expected = self.model.refusal_of_forward(to, entries.len());
                assert_eq!(self.model.forward(stage, to, &entries), expected.is_none());
                self.model.refused(to, None, expected.as_ref());
                if let Err(ForwardError { batch, reason, .. }) = batch.try_forward(&next) {
                    assert_eq!(Some(reason), expected);
                    self.open(Open { stage, batch, entries });
                } else {
                    assert_eq!(expected, None);
                }
            }
            Operation::SplitOff { at, .. } => {
                let rest = batch.split_off(at);
                let later = entries.split_off(at.min(entries.len()));
                self.open(Open { stage, batch, entries });
                self.open(Open { stage, batch: rest, entries: later });
            }
            Operation::Partition { chosen, .. } => {
                let belongs = |row: &Row| chosen.rotate_right(row.id as u32 % 32) % 2 == 1;
                let (yes, no) = batch.partition(|record| {
                    record.row.writes += 1;
                    belongs(&record.row)
                });
                entries.iter_mut().for_each(|entry| entry.row.writes += 1);
                let (entries, others) = entries.into_iter().partition(|entry| belongs(&entry.row));
                self.open(Open { stage, batch: yes, entries });
                self.open(Open { stage, batch: no, entries: others });
            }
            _ => {
                batch.ack();
                self.model.ack(stage, &entries);
            }
        }
    }

    fn compare(&self) {
        let (manager, model) = (&self.manager, &self.model);
        let total = model.setup.total as f64;
        let threshold = manager.controller().high_watermark();
        assert_eq!(manager.is_closed(), model.closed);
        assert_eq!(block_on(manager.get_total_buffered()), model.used);
        let (units, of_bytes) = model
            .setup
            .budgets
            .map_or((0, 0.0), |(total, _)| (model.units, model.units as f64 / total as f64));
        let of_all = of_bytes.max(model.used as f64 / total);
        assert_eq!(block_on(manager.get_global_utilization()), of_all);
        assert_eq!(manager.held_bytes(), UNIT * units);
        assert_eq!(self.letters.len(), model.letters.len());
        assert_eq!(self.letters.parked(), model.parked.len());
        let stats = manager.stats();
        assert_eq!((stats.held, stats.capacity), (model.used, model.setup.total));
        assert_eq!((stats.dead_letters, stats.parked), (self.letters.len(), model.parked.len()));
        assert_eq!(stats.stages.len(), model.stage_names.len());
        let of_sources: Vec<_> = stats
            .sources
            .iter()
            .map(|source| (source.held, source.accepted, source.refusals, source.waits.calls))
            .collect();
        let expected = NAMES.iter().enumerate().filter_map(|(name, _)| {
            let source = &model.sources[*model.source_names.get(&name)?];
            Some((source.used, source.accepted, source.refusals, source.waits))
        });
        assert_eq!(of_sources, expected.collect::<Vec<_>>());
        let mut totals = Counted::default();
        // Those that were removed as well.
        for stage in &model.stages {
            totals.counts += stage.counted.counts;
            totals.refusals += stage.counted.refusals;
            totals.waits += stage.counted.waits;
        }
        let (counts, refusals, waits) = (stats.counts, stats.refusals, stats.waits.calls);
        assert_eq!(Counted { counts, refusals, waits }, totals);
        let alive = Arc::strong_count(&self.alive) - 1;
        let outside = self.handed_out.len() + self.waiting.outside();
        let expected = model.used + model.letters.len() + outside;
        assert_eq!(alive, expected, "a record was lost, or kept");

        let mut with_data = Vec::new();
        let (mut held_by_stages, mut held_by_sources) = (Vec::new(), Vec::new());
        let note = |held: &mut Vec<_>, id: &str, records: usize| {
            held.extend((records > 0).then(|| (id.to_owned(), records)));
        };
        for (name, id) in NAMES.iter().enumerate() {
            let stage = model.stage_names.get(&name).map(|&stage| &model.stages[stage]);
            let queued = stage.map_or(0, |stage| stage.queue.len());
            let utilization =
                stage.map_or(0.0, |stage| stage.occupied as f64 / stage.capacity as f64);
            assert_eq!(block_on(manager.get_stage_buffer_size(id)), queued);
            if let Some(stage) = stage {
                let read = stats.stages.iter().find(|stage| stage.id == *id).expect("it exists");
                assert_eq!((read.held(), read.queued), (stage.occupied, queued));
                assert_eq!((read.capacity, read.delayed), (stage.capacity, 0));
                let (counts, refusals, waits) = (read.counts, read.refusals, read.waits.calls);
                assert_eq!(Counted { counts, refusals, waits }, stage.counted, "stage {id}");
                let gone = counts.acknowledged + counts.handed_out + counts.forwarded_out;
                let held = (read.queued + read.delayed + read.in_flight) as u64;
                let came = counts.accepted + counts.forwarded_in;
                assert_eq!(came, gone + counts.dead_lettered() + held, "stage {id}");
            }
            assert_eq!(block_on(manager.get_stage_utilization(id)), utilization);
            with_data.extend((queued > 0).then_some(*id));
            let parked = |of: &dyn Fn(&(usize, Entry, DeadLetterReason)) -> bool| {
                model.parked.iter().filter(|letter| of(letter)).count()
            };
            let unsettled = model.stage_names.get(&name).map_or(0, |&stage| {
                model.stages[stage].occupied - parked(&|(at, ..)| *at == stage)
            });
            note(&mut held_by_stages, id, unsettled);

            let source = model.source_names.get(&name).copied();
            let available = match source {
                Some(source) => model.available(source),
                None if model.closed => 0,
                None => model.room(name).min(model.source_capacity(name)),
            };
            assert_eq!(block_on(manager.available_credits(id)), available, "source {id}");
            let unsettled = source.map_or(0, |source| {
                model.sources[source].used - parked(&|(_, entry, _)| entry.source == source)
            });
            note(&mut held_by_sources, id, unsettled);
            let own = source.map_or(0.0, |source| model.utilization(source));
            let latest = source.and_then(|source| model.sources[source].latest);
            let of_stage = latest.map_or(0.0, |stage| {
                model.stages[stage].occupied as f64 / model.stages[stage].capacity as f64
            });
            let high = [of_all, own, of_stage].iter().any(|it| *it > threshold);
            assert_eq!(block_on(manager.should_backpressure(id)), high, "source {id}");
        }
        assert_eq!(block_on(manager.get_stages_with_data()), with_data);
        let remaining = manager.remaining();
        assert_eq!(remaining.reserved(), 0, "no permit is kept from one step to the next");
        assert_eq!((remaining.stages, remaining.sources), (held_by_stages, held_by_sources));

        for (index, stage) in self.stages.iter().flatten() {
            let expected = &model.stages[*index];
            let queued = expected.queue.len();
            assert_eq!(stage.capacity(), expected.capacity);
            let readings = (stage.len(), stage.in_flight(), stage.reserved());
            assert_eq!(readings, (queued, expected.occupied - queued, 0), "stage {}", stage.id());
            let utilization = expected.occupied as f64 / expected.capacity as f64;
            assert_eq!(stage.utilization(), utilization);
        }
        for (index, source) in self.sources.iter().flatten() {
            let expected = &model.sources[*index];
            assert_eq!(source.capacity(), expected.capacity);
            assert_eq!(source.available_credits(), model.available(*index), "{}", source.id());
            assert_eq!(source.guarantee(), model.guarantee(expected.name));
            let utilization = model.utilization(*index);
            assert_eq!(source.utilization(), utilization);
            assert_eq!(source.held_bytes(), UNIT * expected.units);
        }
    }

    /// Settles everything, sees that nothing is held, and that no record outlives its buffer.
    ///
    /// # Panics
    ///
    /// If something is.
    pub fn drain(mut self) {
        self.cancel_all();
        while !self.open.is_empty() {
            self.step(Operation::Ack { batch: 0 });
        }
        for stage in 0..NAMES.len() {
            self.step(Operation::GetBatch { stage, max: usize::MAX });
        }
        while self.letters.try_recv().is_some() {
            self.model.receive();
        }
        self.compare();
        assert_eq!((self.model.used, self.model.units), (0, 0));
        assert_eq!(self.manager.controller().current(), BackpressureSignal::Resume);
        for (_, source) in self.sources.iter().flatten() {
            assert_eq!(source.signal(), BackpressureSignal::Resume, "source {}", source.id());
        }
        self.abandon();
    }

    /// Drops everything as it is, and sees that no record is left.
    ///
    /// # Panics
    ///
    /// If one is.
    pub fn abandon(self) {
        let alive = Arc::clone(&self.alive);
        drop(self);
        assert_eq!(Arc::strong_count(&alive), 1, "a record outlived its buffer");
    }
}

/// The answer to a push of one record, which must come back if it is refused.
fn answer_of_one(pushed: Result<(), Rejected<Record>>, row: Row) -> Answer {
    match pushed {
        Ok(()) => (1, None),
        Err(Rejected { record, reason }) => {
            assert_eq!(record.row, row);
            (0, Some(reason))
        }
    }
}

fn answer_of_many(pushed: Result<usize, RejectedBatch<Record>>) -> (Answer, Vec<Record>) {
    match pushed {
        Ok(accepted) => ((accepted, None), Vec::new()),
        Err(RejectedBatch { accepted, records, reason }) => ((accepted, Some(reason)), records),
    }
}
