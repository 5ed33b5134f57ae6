//! What the schedules share: a buffer with small caps, its records, and the counts that the test keeps
//! of its own.

use std::collections::HashMap;
use std::sync::Arc;
// Not shuttle's: what the test counts is no step of the library.
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};

use crate::admission::Admission;
use crate::backpressure::{BackpressureController, BackpressureSignal};

use crate::handle::{Batch, DeadLetters, Source, Stage};
use crate::manager::BufferManager;
use crate::manager::registry::{Limits, Registry};
use crate::record::Envelope;
use crate::retry::RetryPolicy;
use crate::store::DeadLetterQueue;
use crate::sync::{Instant, advance, now};

pub(crate) const STAGES: [&str; 2] = ["parse", "load"];
pub(crate) const SOURCES: [&str; 3] = ["EWR", "JFK", "LGA"];

/// The delays of returned records.
pub(crate) const DELAYS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(3)];

/// A record that can be told from all others.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: u64,
    /// An index into `SOURCES`.
    pub(crate) source: usize,
    /// What the library counts, and what the test does.
    retries: u32,
    tries: u32,
    /// It was returned to come back not before this time.
    due: Option<Instant>,
    /// A worker died with it in hand: it comes alone.
    pub(crate) is_isolated: bool,
}

impl Row {
    pub(crate) fn new(id: u64, source: usize) -> Self {
        Self { id, source, retries: 0, tries: 0, due: None, is_isolated: false }
    }

    /// It is refused, or left for good, as it is.
    pub(crate) fn is_out(&mut self) {
        (self.tries, self.is_isolated) = (self.retries, false);
    }
}

impl Envelope for Row {
    fn source_id(&self) -> &str {
        SOURCES[self.source]
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) total: u32,
    pub(crate) per_stage: u32,
    pub(crate) per_source: u32,
    /// Credits that may lie idle over all sources: more than the builder would allow such small
    /// caps, so that sources lease ahead.
    pub(crate) idle_budget: u32,
    pub(crate) retry_limit: Option<u32>,
    pub(crate) letters: u32,
}

impl Caps {
    /// Caps that a few threads run into all the time.
    pub(crate) fn any() -> Self {
        let mut random = thread_rng();
        Self {
            total: random.gen_range(2..=20),
            per_stage: random.gen_range(1..=12),
            per_source: random.gen_range(1..=10),
            idle_budget: [0, 8, 16, 32][random.gen_range(0..4)],
            retry_limit: [None, Some(0), Some(2)][random.gen_range(0..3)],
            letters: random.gen_range(1..=3),
        }
    }
}

/// How many records the threads know to be held. Raised after they were accepted and lowered before
/// they are given up, a gauge is never above what is held: so it must never pass the cap.
struct Gauge {
    records: AtomicI64,
    cap: u32,
}

impl Gauge {
    fn new(cap: u32) -> Self {
        Self { records: AtomicI64::new(0), cap }
    }

    fn raise(&self, records: usize) {
        let now = self.records.fetch_add(records as i64, SeqCst) + records as i64;
        assert!(now <= i64::from(self.cap), "{now} records under a cap of {}", self.cap);
    }

    fn lower(&self, records: usize) {
        self.records.fetch_sub(records as i64, SeqCst);
    }
}

/// The buffer, and what the test knows of it.
pub(crate) struct Buffer {
    pub(crate) manager: BufferManager<Row>,
    pub(crate) caps: Caps,
    admission: Arc<Admission>,
    total: Gauge,
    stages: [Gauge; STAGES.len()],
    sources: [Gauge; SOURCES.len()],
}

impl Buffer {
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        let controller = BackpressureController::new(0.8);
        let admission = Admission::new(caps.total, caps.idle_budget, controller, None);
        let dead_letters = Arc::new(DeadLetterQueue::new(caps.letters, Arc::clone(&admission)));
        let limits = Limits {
            max_stages: STAGES.len(),
            max_sources: SOURCES.len(),
            per_stage: caps.per_stage,
            per_source: caps.per_source,
            stage_capacities: HashMap::new(),
            source_capacities: HashMap::new(),
            retries: RetryPolicy::new(caps.retry_limit, None),
            clock: None,
            source_guarantees: HashMap::new(),
            idle_sources: None,
        };
        let registry = Registry::new(limits, Arc::clone(&admission), dead_letters);
        Arc::new(Self {
            manager: BufferManager::from_registry(registry),
            caps,
            admission,
            total: Gauge::new(caps.total),
            stages: STAGES.map(|_| Gauge::new(caps.per_stage)),
            sources: SOURCES.map(|_| Gauge::new(caps.per_source)),
        })
    }

    pub(crate) fn stage(&self, stage: usize) -> Stage<Row> {
        self.manager.stage(STAGES[stage]).expect("no other names, and an open buffer")
    }

    pub(crate) fn source(&self, source: usize) -> Source<Row> {
        self.manager.source(SOURCES[source]).expect("no other names, and an open buffer")
    }

    pub(crate) fn letters(&self) -> DeadLetters<Row> {
        self.manager.dead_letters()
    }

    /// Records of one source were accepted by a stage.
    pub(crate) fn entered(&self, stage: usize, source: usize, records: usize) {
        self.total.raise(records);
        self.sources[source].raise(records);
        self.stages[stage].raise(records);
    }

    /// A record is about to give up its place and its credit.
    pub(crate) fn leaves(&self, stage: usize, row: &Row) {
        self.stages[stage].lower(1);
        self.sources[row.source].lower(1);
        self.total.lower(1);
    }

    /// Records are about to give up their places in a stage, and no credits.
    pub(crate) fn leave_places(&self, stage: usize, records: usize) {
        self.stages[stage].lower(records);
    }

    pub(crate) fn entered_places(&self, stage: usize, records: usize) {
        self.stages[stage].raise(records);
    }

    /// A record is about to be returned: it keeps what it holds, unless its retries are used up.
    pub(crate) fn returns(&self, stage: usize, row: &mut Row) {
        if !self.tries_again(row) {
            self.leaves(stage, row);
        }
    }

    /// The same, to come back after a delay.
    pub(crate) fn returns_after(&self, stage: usize, row: &mut Row, delay: Duration) {
        row.due = Some(now() + delay);
        self.returns(stage, row);
    }

    /// Counts a try of a record that is about to be returned. `false` if its retries are used up.
    pub(crate) fn tries_again(&self, row: &mut Row) -> bool {
        let exhausted = self.caps.retry_limit.is_some_and(|limit| row.tries >= limit);
        row.tries += u32::from(!exhausted);
        !exhausted
    }

    /// What must be true of every batch.
    pub(crate) fn taken(&self, batch: &Batch<Row>) {
        for row in batch {
            assert_eq!(row.retries, row.tries, "a return counts a retry, and nothing else does");
            assert!(row.due <= Some(now()), "a record came back early");
            assert!(!row.is_isolated || batch.len() == 1, "an isolated record has company");
        }
    }

    /// Whether a thread knows of a record that is held, in a stage or in a batch.
    pub(crate) fn knows_of_records(&self) -> bool {
        self.total.records.load(SeqCst) > 0
    }

    /// What every reading must show at every instant.
    pub(crate) fn look(&self) {
        let Caps { total, per_stage, per_source, letters, .. } = self.caps;
        assert!(self.admission.ledger().leased() <= total, "more leased than the global cap");
        assert!(self.admission.ledger().used() <= total);
        assert!(self.letters().len() <= letters as usize);
        for name in STAGES {
            let Ok(stage) = self.manager.stage(name) else { continue };
            assert!(stage.core().places().held() <= per_stage, "{name} holds more than its cap");
            let held = stage.len() + stage.in_flight() + stage.delayed();
            assert!(held <= 3 * per_stage as usize);
        }
        for name in SOURCES {
            let Ok(source) = self.manager.source(name) else { continue };
            assert!(source.utilization() <= 1.0, "{name} holds more than its cap");
            assert!(source.available_credits() <= per_source.min(total) as usize);
        }
    }

    /// Takes and acknowledges what is left, dead letters too, with nobody else running.
    pub(crate) fn drain(&self) -> Vec<u64> {
        let mut drained = Vec::new();
        DELAYS.into_iter().for_each(advance);
        for name in STAGES {
            let Ok(stage) = self.manager.stage(name) else { continue };
            while let Ok(batch) = stage.try_recv_batch(7) {
                self.taken(&batch);
                drained.extend(batch.iter().map(|row| row.id));
                batch.ack();
            }
        }
        drained.extend(
            std::iter::from_fn(|| self.letters().try_recv()).map(|letter| letter.record.id),
        );
        drained
    }

    /// With nobody else running and every record settled, nothing is held, the signals say so, and
    /// one source could have every credit.
    pub(crate) fn assert_all_is_free(&self) {
        assert_eq!(
            self.admission.ledger().used(),
            0,
            "credits in use when every record is settled"
        );
        for name in STAGES {
            let Ok(stage) = self.manager.stage(name) else { continue };
            let held = (stage.len(), stage.in_flight(), stage.delayed());
            assert_eq!(held, (0, 0, 0), "{name} holds places");
        }
        if self.manager.is_closed() {
            assert_eq!(
                self.admission.ledger().leased(),
                0,
                "a closed buffer has no use for credits"
            );
        } else {
            let total = self.caps.total;
            let account = self.admission.open_account(&Arc::from("checker"), total, 0);
            let places = self.admission.make_places(total, total);
            let admitted = self.admission.try_acquire(account, &places, total);
            assert_eq!((admitted.records, admitted.denied), (total, None), "a credit is lost");
            self.admission.release_credits(account, total, None);
        }
        if self.caps.idle_budget == 0 {
            // Otherwise idle credits may be enough to pass a watermark.
            assert_eq!(self.admission.controller().current(), BackpressureSignal::Resume);
        }
    }
}
