//! What the integration tests share: a small record, helpers to fill and drain, and a small
//! generator of random numbers.

#![allow(dead_code)]

pub mod waiting;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use conveyor_buffer::{
    Batch, BufferManager, BufferSettings, Envelope, RejectReason, Source, Stage, TryRecvError,
};
pub use pollster::block_on;

/// A record that can be told from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: u64,
    pub source: Arc<str>,
    pub retries: u32,
}

impl Envelope for Row {
    fn source_id(&self) -> &str {
        &self.source
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

pub type Manager = BufferManager<Row>;

pub fn row(source: &str, id: u64) -> Row {
    Row { id, source: source.into(), retries: 0 }
}

pub fn rows(source: &str, ids: Range<u64>) -> Vec<Row> {
    let source: Arc<str> = source.into();
    ids.map(|id| Row { id, source: Arc::clone(&source), retries: 0 }).collect()
}

pub fn ids<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<u64> {
    rows.into_iter().map(|row| row.id).collect()
}

/// Settings with these three caps and the default threshold.
pub fn caps(total: usize, per_stage: usize, per_source: usize) -> BufferSettings {
    BufferSettings {
        max_total_records: total,
        max_per_stage: per_stage,
        max_per_source: per_source,
        ..BufferSettings::default()
    }
}

/// A manager with these three caps, one stage "stage" and one source "a".
pub fn one_of_each(
    total: usize,
    per_stage: usize,
    per_source: usize,
) -> (Manager, Stage<Row>, Source<Row>) {
    let manager = Manager::new(caps(total, per_stage, per_source));
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    (manager, stage, source)
}

/// Takes a batch that must be there.
pub fn take<E: Envelope>(stage: &Stage<E>, max: usize) -> Batch<E> {
    stage.try_recv_batch(max).expect("records wait to be taken")
}

/// Takes and acknowledges all that waits, and tells the ids in the order in which they came.
pub fn drain(stage: &Stage<Row>) -> Vec<u64> {
    let mut seen = Vec::new();
    while let Ok(batch) = stage.try_recv_batch(1_000) {
        seen.extend(ids(&batch));
        batch.ack();
    }
    seen
}

pub fn is_empty(stage: &Stage<Row>) -> bool {
    matches!(stage.try_recv_batch(1), Err(TryRecvError::Empty))
}

/// Asserts that nothing is held anywhere, by every reading that there is.
pub fn assert_nothing_is_held(manager: &Manager, stages: &[Stage<Row>], sources: &[Source<Row>]) {
    assert_eq!(block_on(manager.get_total_buffered()), 0);
    assert_eq!(block_on(manager.get_global_utilization()), 0.0);
    assert!(block_on(manager.get_stages_with_data()).is_empty());
    for stage in stages {
        assert_eq!((stage.len(), stage.in_flight()), (0, 0), "stage {}", stage.id());
        assert_eq!(stage.utilization(), 0.0, "stage {}", stage.id());
        assert!(stage.try_recv_batch(1).is_err(), "stage {}", stage.id());
    }
    for source in sources {
        assert_eq!(source.utilization(), 0.0, "source {}", source.id());
    }
}

/// Runs what is to panic, and gives the message.
pub fn panic_message<T>(run: impl FnOnce() -> T) -> String {
    let panic = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(_) => panic!("it should have panicked"),
        Err(panic) => panic,
    };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or(String::new(), ToString::to_string),
    }
}

pub fn global_full(held: usize, capacity: usize) -> RejectReason {
    RejectReason::GlobalFull { held, capacity }
}

pub fn stage_full(stage_id: &str, held: usize, capacity: usize) -> RejectReason {
    RejectReason::StageFull { stage_id: stage_id.into(), held, capacity }
}

/// The same refusal with parked letters under the cap.
pub fn with_parked(reason: RejectReason, parked: usize) -> RejectReason {
    match reason {
        RejectReason::GlobalFull { held, capacity } => {
            parked_letters("the buffer", held, capacity, parked)
        }
        RejectReason::StageFull { stage_id, held, capacity } => {
            parked_letters(&format!("stage {stage_id}"), held, capacity, parked)
        }
        RejectReason::SourceFull { source_id, held, capacity } => {
            parked_letters(&format!("source {source_id}"), held, capacity, parked)
        }
        other => other,
    }
}

pub fn parked_letters(limit: &str, held: usize, capacity: usize, parked: usize) -> RejectReason {
    RejectReason::ParkedLetters { limit: limit.to_owned(), held, capacity, parked }
}

pub fn source_full(source_id: &str, held: usize, capacity: usize) -> RejectReason {
    RejectReason::SourceFull { source_id: source_id.into(), held, capacity }
}

/// Marsaglia's xorshift64*, seeded. The seed is printed, and so is shown when a test fails; set
/// `CONVEYOR_SEED` to try another.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let seed = match std::env::var("CONVEYOR_SEED") {
            Ok(text) => text.parse::<u64>().expect("CONVEYOR_SEED is a number") ^ seed << 32,
            Err(_) => seed,
        };
        println!("random numbers from seed {seed}");
        // Neighbouring seeds must not begin alike, and 0 would stay 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
