//! What the models share: small buffers, a small record, and the explorer.

use std::collections::HashMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
// Not loom's: it counts over all executions.
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::admission::{Admission, Budget};
use crate::backpressure::BackpressureController;
use crate::handle::{Batch, Outcome, Source, Stage};
use crate::manager::BufferManager;
use crate::manager::registry::{Limits, Registry};
use crate::record::Envelope;
use crate::retry::RetryPolicy;
use crate::store::DeadLetterQueue;

/// An idle budget that lets each of two accounts lease one credit ahead.
pub(crate) const ONE_AHEAD: u32 = 4;

/// Switches away from a thread that could go on, at most, in one execution.
const PREEMPTIONS: usize = 4;

/// Steps of one execution. One that takes more goes on for ever.
const MAX_STEPS: usize = 5_000;

/// Explores a model over every interleaving with at most `LOOM_MAX_PREEMPTIONS` (unless set, 4)
/// preemptions, and prints how many there were.
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_within(PREEMPTIONS, model);
}

/// The same with a buffer whose sources lease ahead of need, and with one whose sources do not.
pub(crate) fn explore_both(
    model: impl Fn(fn(u32, u32, u32) -> BufferManager<Item>) + Copy + Sync + Send + 'static,
) {
    explore_both_within(PREEMPTIONS, model);
}

/// [`explore_both`] with a bound of its own.
pub(crate) fn explore_both_within(
    preemptions: usize,
    model: impl Fn(fn(u32, u32, u32) -> BufferManager<Item>) + Copy + Sync + Send + 'static,
) {
    explore_within(preemptions, move || model(buffer));
    explore_within(preemptions, move || model(exact_buffer));
}

/// [`explore`] with a bound of its own, for a model of many threads or steps.
pub(crate) fn explore_within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    if std::env::var_os("LOOM_LOG").is_some() {
        // Replaying one schedule: this way loom prints each switch.
        return loom::model(model);
    }
    let mut builder = loom::model::Builder::new();
    builder.max_branches = builder.max_branches.max(MAX_STEPS);
    let bound = *builder.preemption_bound.get_or_insert(preemptions);
    // An exploration that stops at a limit of time or number would pass as if it were complete.
    assert!(builder.max_duration.is_none() && builder.max_permutations.is_none());
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, SeqCst);
        model();
    });
    println!("{} executions, at most {bound} preemptions in each", executions.load(SeqCst));
}

/// A record that knows its number and its source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) source: &'static str,
    pub(crate) id: u32,
    pub(crate) retries: u32,
}

impl Envelope for Item {
    fn source_id(&self) -> &str {
        self.source
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries += 1;
    }

    /// One unit, and one more for each retry.
    fn size_bytes(&self) -> usize {
        64 * (1 + self.retries as usize)
    }
}

pub(crate) fn item(source: &'static str, id: u32) -> Item {
    Item { source, id, retries: 0 }
}

pub(crate) fn items(source: &'static str, ids: impl IntoIterator<Item = u32>) -> Vec<Item> {
    ids.into_iter().map(|id| item(source, id)).collect()
}

/// A controller whose high watermark is 0.8.
pub(crate) fn controller() -> BackpressureController {
    BackpressureController::new(0.8)
}

/// A buffer with these caps, whose two sources may lease one credit ahead of need each.
pub(crate) fn buffer(total: u32, per_stage: u32, per_source: u32) -> BufferManager<Item> {
    buffer_of(ONE_AHEAD, total, Limits { per_stage, per_source, ..limits() })
}

/// A buffer with these caps, whose sources lease exactly what they use.
pub(crate) fn exact_buffer(total: u32, per_stage: u32, per_source: u32) -> BufferManager<Item> {
    buffer_of(0, total, Limits { per_stage, per_source, ..limits() })
}

/// A buffer with this global cap, which guarantees records to sources.
pub(crate) fn guaranteeing(total: u32, guarantees: &[(&str, u32)]) -> BufferManager<Item> {
    let source_guarantees = guarantees.iter().map(|&(id, n)| (id.to_owned(), n)).collect();
    buffer_of(ONE_AHEAD, total, Limits { source_guarantees, ..limits() })
}

/// A buffer in which a source that holds nothing gives its place to a new name.
pub(crate) fn evicting(max_sources: usize) -> BufferManager<Item> {
    let idle_sources = Some(Duration::ZERO);
    buffer_of(0, 8, Limits { max_sources, idle_sources, ..limits() })
}

/// A buffer whose byte budgets have so many units, and which holds more records than a model has.
/// Its two sources may lease one credit and one unit ahead of need each.
pub(crate) fn bytes_buffer(total: u32, per_source: u32) -> BufferManager<Item> {
    let watermarks = controller().watermarks();
    let budget = Budget::with_idle_budget(total, per_source, watermarks, ONE_AHEAD);
    buffer_with(ONE_AHEAD, 8, limits(), Some(Box::new(budget)))
}

fn limits() -> Limits {
    Limits {
        max_stages: 8,
        max_sources: 8,
        per_stage: 8,
        per_source: 8,
        stage_capacities: HashMap::new(),
        source_capacities: HashMap::new(),
        source_guarantees: HashMap::new(),
        idle_sources: None,
        retries: RetryPolicy::default(),
        clock: None,
    }
}

fn buffer_of(idle_budget: u32, total: u32, limits: Limits) -> BufferManager<Item> {
    buffer_with(idle_budget, total, limits, None)
}

fn buffer_with(
    idle_budget: u32,
    total: u32,
    limits: Limits,
    bytes: Option<Box<Budget>>,
) -> BufferManager<Item> {
    let admission = Admission::new(total, idle_budget, controller(), bytes);
    let dead_letters = Arc::new(DeadLetterQueue::new(1, Arc::clone(&admission)));
    BufferManager::from_registry(Registry::new(limits, admission, dead_letters))
}

/// What admits the records of a source.
pub(crate) fn admission(source: &Source<Item>) -> &Arc<Admission> {
    source.core().admission()
}

pub(crate) fn ids<'a>(records: impl IntoIterator<Item = &'a Item>) -> Vec<u32> {
    records.into_iter().map(|item| item.id).collect()
}

/// Takes a batch of up to `max` records, if one waits to be taken.
pub(crate) fn take(stage: &Stage<Item>, max: usize) -> Option<Batch<Item>> {
    stage.try_recv_batch(max).ok()
}

/// Gives every record of a batch up.
pub(crate) fn dead_letter(batch: Batch<Item>) {
    batch.settle(|_| Outcome::DeadLetter);
}

/// Takes, acknowledges and lists whatever is left, with nobody else running.
pub(crate) fn drain(stage: &Stage<Item>) -> Vec<u32> {
    let mut drained = Vec::new();
    while let Some(batch) = take(stage, 8) {
        drained.extend(ids(&batch));
        batch.ack();
    }
    assert_eq!((stage.len(), stage.in_flight()), (0, 0), "an empty stage holds nothing");
    drained
}

/// With nobody else running, every record is settled and every credit is free.
pub(crate) fn nothing_is_left(manager: &BufferManager<Item>, credits: usize) {
    let source = manager.source("a").unwrap();
    assert_eq!(source.utilization(), 0.0);
    assert_eq!(source.available_credits(), credits, "credits are missing");
    assert!(manager.remaining().is_empty());
}

/// Polls a future once.
pub(crate) fn poll<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Polls a future once, and drops it.
pub(crate) fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    poll(pin!(future))
}
