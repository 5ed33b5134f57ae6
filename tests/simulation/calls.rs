//! Calls that do not wait, each with its entries in the books and its checks.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use pollster::block_on;

use crate::api::{
    Backoff, Batch, BufferManager, BufferSettings, Outcome, RecvTimeoutError, RejectReason, Source,
    Stage, TryRecvError,
};
use crate::books::{self, Id};
use crate::counts::{self, source_name, stage_name};
use crate::misfortune::{Misfortune, Record, armed};
use crate::plan::{Plan, Push, Settle, Take};
use crate::random::Random;
use crate::{checks, clock, progress, sync, watches};

/// The buffer under test.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub(crate) manager: BufferManager<Record>,
    pub(crate) plan: Arc<Plan>,
}

/// Whatever a call of the library's came to, a panic of user code included.
pub(crate) type Done<T> = Result<T, Misfortune>;

/// A batch, with what the books know of it.
pub(crate) struct Taken {
    pub(crate) batch: Batch<Record>,
    pub(crate) stage: usize,
}

impl Taken {
    pub(crate) fn ids(&self) -> Vec<Id> {
        self.batch.iter().map(|record| record.id).collect()
    }
}

/// One call of the library's: user code may panic in it, and on one thread its cost is measured. `size` is the number
/// of records that it handles.
pub(crate) fn call<T>(what: &'static str, size: usize, work: impl FnOnce() -> T) -> Done<T> {
    measured(what, size, work).0
}

fn measured<T>(what: &'static str, size: usize, work: impl FnOnce() -> T) -> (Done<T>, sync::Cost) {
    if clock::is_threaded() {
        return (Ok(armed(work)), sync::Cost::default());
    }
    books::begin_call();
    let wakes = books::with(|books| books.wakes);
    let (done, cost) = sync::measure(|| catch_unwind(AssertUnwindSafe(|| armed(work))));
    let (wakes, sources) = books::with(|books| (books.wakes - wakes, books.sources.len()));
    checks::cost(what, size, wakes, cost, sources);
    if what != "push" {
        checks::other_call();
    }
    let done = done.map_err(|panic| match panic.downcast::<Misfortune>() {
        Ok(misfortune) => *misfortune,
        Err(other) => resume_unwind(other),
    });
    (done, cost)
}

impl Buffer {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let settings = BufferSettings {
            max_total_records: plan.total,
            max_per_stage: plan.per_stage,
            max_per_source: plan.per_source,
            ..BufferSettings::default()
        };
        let mut builder = BufferManager::builder(settings).dead_letter_capacity(plan.letters);
        if let Some(retries) = plan.retries {
            builder = builder.max_retries(retries);
        }
        if let Some((first, longest)) = plan.backoff {
            builder = builder.retry_backoff(Backoff::exponential(first, longest));
        }
        for (source, &guarantee) in plan.guarantees.iter().enumerate() {
            if guarantee > 0 {
                builder = builder.source_guarantee(&source_name(source), guarantee);
            }
        }
        let manager = builder.build().expect("a plan has valid settings");
        (0..plan.stages).for_each(|stage| drop(manager.stage(&stage_name(stage))));
        (0..plan.sources).for_each(|source| drop(manager.source(&source_name(source))));
        Self { manager, plan }
    }

    /// `None` after a close, if it was removed before.
    pub(crate) fn stage(&self, stage: usize) -> Option<Stage<Record>> {
        call("name", 0, || self.manager.stage(&stage_name(stage)).ok()).ok().flatten()
    }

    pub(crate) fn source(&self, source: usize) -> Option<Source<Record>> {
        call("name", 0, || self.manager.source(&source_name(source)).ok()).ok().flatten()
    }

    /// Checks what can be checked when a call has ended.
    pub(crate) fn look(&self) {
        if clock::is_threaded() {
            counts::within_caps(self);
        }
        counts::hold(self);
    }
}

pub(crate) fn records(source: usize, number: usize) -> (Vec<Id>, Vec<Record>) {
    let name: Arc<str> = source_name(source).into();
    let ids: Vec<Id> = (0..number).map(|_| books::create(source)).collect();
    let records = ids.iter().map(|&id| Record::new(id, Arc::clone(&name))).collect();
    (ids, records)
}

fn ids_of(records: &[Record]) -> Vec<Id> {
    records.iter().map(|record| record.id).collect()
}

/// Enters what became of a push that has ended. Tells whether it was told of a close.
pub(crate) fn pushed(
    buffer: &Buffer,
    (source, stage): (usize, usize),
    ids: &[Id],
    was_closed: bool,
    done: Done<Result<(), (Vec<Record>, RejectReason)>>,
) -> bool {
    let mut told_closed = false;
    let (panicked, mut reason_given) = (done.is_err(), None);
    let refused = match done {
        // Whatever is still there is in the buffer.
        Ok(Ok(())) | Err(Misfortune) => Vec::new(),
        Ok(Err((records, reason))) => {
            books::refused(ids_of(&records));
            told_closed = reason.is_closed();
            reason_given = Some(reason);
            records
        }
    };
    let accepted = ids.len() - refused.len();
    books::accepted(&ids[..accepted], stage);
    if let Some(reason) = reason_given {
        checks::refusal(buffer, source, stage, refused.len(), &reason);
        books::log(|| format!("  refused {}: {reason}", refused.len()));
    }
    checks::accepted_after_close(was_closed, if panicked { 0 } else { accepted });
    drop(refused);
    buffer.look();
    told_closed
}

/// A push that does not wait. `None` if a name cannot be had any more; else whether it was told of a close.
pub(crate) fn push(
    buffer: &Buffer,
    how: Push,
    source: usize,
    stage: usize,
    size: usize,
) -> Option<bool> {
    let number = if matches!(how, Push::Try | Push::ByName) { 1 } else { size };
    let was_closed = books::with(|books| books.close_returned);
    books::log(|| format!("{how:?} {number} of source {source} to stage {stage}"));
    let handles = buffer.source(source).zip(buffer.stage(stage));
    let (source_handle, stage_handle) = handles?;
    let (ids, mut records) = records(source, number);
    books::offer(&ids);
    let (manager, name) = (&buffer.manager, stage_name(stage));
    let (done, cost) = measured("push", number, || match how {
        Push::Try => {
            let record = records.pop().expect("one record");
            let sent = source_handle.try_send(&stage_handle, record);
            sent.map_err(|rejected| (vec![rejected.record], rejected.reason))
        }
        Push::ByName => {
            let record = records.pop().expect("one record");
            let sent = block_on(manager.buffer_for_stage(&name, record));
            sent.map_err(|rejected| (vec![rejected.record], rejected.reason))
        }
        Push::ByNameBatch => {
            let sent = block_on(manager.buffer_batch_for_stage(&name, records));
            sent.map(drop).map_err(|rejected| (rejected.records, rejected.reason))
        }
        _ => {
            let sent = source_handle.try_send_batch(&stage_handle, records);
            sent.map_err(|rejected| (rejected.records, rejected.reason))
        }
    });
    let full = matches!(&done, Ok(Err((_, reason))) if reason.is_full());
    if !clock::is_threaded() {
        checks::refused_again(full && matches!(how, Push::Try), cost);
        if how == Push::Try {
            progress::tried(buffer, source, stage, full);
        }
    }
    Some(pushed(buffer, (source, stage), &ids, was_closed, done))
}

/// What a call that takes came to.
pub(crate) enum Got {
    Batch(Taken),
    /// Handed out for good.
    Records(Vec<Record>),
    Nothing,
    Closed,
    /// The stage was removed, and may exist again.
    Removed,
}

/// Takes what there is.
pub(crate) fn take(buffer: &Buffer, how: Take, stage: usize, max: usize) -> Got {
    let removed = books::removals(stage);
    let Some(handle) = buffer.stage(stage) else { return Got::Closed };
    books::log(|| format!("take ({how:?}) up to {max} of stage {stage}"));
    let watch = watches::begin_take(stage, max, false);
    let name = stage_name(stage);
    let done = call("take", max.min(buffer.plan.per_stage), || match how {
        Take::ByName => Ok(Err(block_on(buffer.manager.get_batch(&name, max)))),
        Take::NoTime => match handle.recv_batch_timeout(max, Duration::ZERO) {
            Ok(batch) => Ok(Ok(batch)),
            Err(RecvTimeoutError::Timeout) => Err(TryRecvError::Empty),
            Err(RecvTimeoutError::Closed) => Err(TryRecvError::Closed),
        },
        _ => handle.try_recv_batch(max).map(Ok),
    });
    let fewest = watches::end(watch);
    let got = match done {
        Ok(Ok(Ok(batch))) => Got::Batch(taken(batch, stage, max)),
        Ok(Ok(Err(records))) => {
            if records.is_empty() {
                checks::empty("get_batch", stage, fewest);
            }
            checks::due(&ids_of(&records));
            books::leave(&ids_of(&records));
            Got::Records(records)
        }
        Ok(Err(TryRecvError::Empty)) => {
            checks::empty("a take without waiting", stage, fewest);
            Got::Nothing
        }
        Ok(Err(TryRecvError::Closed)) => {
            checks::told_closed("a take without waiting", stage, removed)
        }
        Err(Misfortune) => Got::Nothing,
    };
    buffer.look();
    got
}

/// Enters a batch that was taken.
pub(crate) fn taken(batch: Batch<Record>, stage: usize, max: usize) -> Taken {
    let taken = Taken { batch, stage };
    let ids = taken.ids();
    assert!((1..=max).contains(&ids.len()), "books: a batch of {} of {max}", ids.len());
    books::log(|| format!("  {} records", ids.len()));
    checks::due(&ids);
    checks::alone(&ids);
    books::taken(&ids, stage);
    taken
}

/// Drops a batch that nobody asks for any more, inside a call.
pub(crate) fn give_back(taken: Taken) {
    let ids = taken.ids();
    books::returning(&ids);
    let done = catch_unwind(AssertUnwindSafe(|| drop(taken)));
    books::settled(&ids);
    done.unwrap_or_else(|panic| resume_unwind(panic));
}

/// Settles a batch, without waiting.
pub(crate) fn settle(buffer: &Buffer, random: &mut Random, how: Settle, taken: Taken) {
    let (ids, stage) = (taken.ids(), taken.stage);
    books::log(|| format!("{how:?} of {} in stage {stage}", ids.len()));
    match how {
        Settle::Return => {
            books::returning(&ids);
            let _ = call("settle", ids.len(), || taken.batch.return_to_buffer());
        }
        Settle::ReturnAfter => {
            let delay = any_delay(random);
            books::returning_after(&ids, delay);
            let _ = call("settle", ids.len(), || taken.batch.return_after(delay));
        }
        Settle::Requeue => {
            books::requeueing(&ids);
            let _ = call("settle", ids.len(), || taken.batch.requeue());
        }
        Settle::WorkerPanics => {
            books::returning(&ids);
            if !clock::is_threaded() {
                books::isolate(&ids);
            }
            let _ = call("settle", ids.len(), || {
                let _batch = taken.batch;
                if !clock::is_threaded() {
                    resume_unwind(Box::new(Misfortune));
                }
            });
        }
        Settle::IntoRecords | Settle::ByNameReturn => {
            books::leave(&ids);
            let records = call("settle", ids.len(), || taken.batch.into_records());
            if let (Settle::ByNameReturn, Ok(records)) = (how, records) {
                return return_by_name(buffer, stage, records);
            }
        }
        Settle::DeadLetter => {
            books::dying(&ids);
            let _ = call("settle", ids.len(), || taken.batch.settle(|_| Outcome::DeadLetter));
        }
        Settle::Mixed => settle_mixed(random, &ids, taken),
        Settle::Split | Settle::Partition => {
            let at = random.below(ids.len() + 1);
            let Taken { mut batch, stage } = taken;
            let halves = call("split", ids.len(), || match how {
                Settle::Split => {
                    let rest = batch.split_off(at);
                    (batch, rest)
                }
                _ => batch.partition(|record| record.id as usize % 2 == at % 2),
            });
            match halves {
                Ok((first, second)) => {
                    for (batch, how) in [(second, Settle::Return), (first, Settle::Ack)] {
                        settle(buffer, random, how, Taken { batch, stage });
                    }
                }
                Err(Misfortune) => books::returning(&ids),
            }
        }
        _ => {
            let _ = call("settle", ids.len(), || taken.batch.ack());
        }
    }
    books::settled(&ids);
    buffer.look();
}

/// At once, or up to ten seconds.
fn any_delay(random: &mut Random) -> Duration {
    let micros = if random.one_in(4) { 0 } else { random.magnitude(1, 10_000_000) };
    Duration::from_micros(micros)
}

/// Each record as chance has it; and now and then the worker panics in between.
fn settle_mixed(random: &mut Random, ids: &[Id], taken: Taken) {
    let outcomes = [
        Outcome::Ack,
        Outcome::Ack,
        Outcome::Return,
        Outcome::ReturnAfter(any_delay(random)),
        Outcome::Requeue,
        Outcome::DeadLetter,
        Outcome::Reject("wrong"),
    ];
    let outcomes: Vec<Outcome> = ids.iter().map(|_| random.pick(&outcomes)).collect();
    let panics_at = (!clock::is_threaded() && random.one_in(8)).then(|| random.below(ids.len()));
    for (at, (&id, outcome)) in ids.iter().zip(&outcomes).enumerate() {
        match outcome {
            // A panic leaves it undecided, which counts a retry.
            _ if panics_at.is_some_and(|panics_at| at >= panics_at) => {
                books::returning(&[id]);
                books::isolate(&[id]);
            }
            Outcome::Ack => {}
            Outcome::Requeue => books::requeueing(&[id]),
            Outcome::Return => books::returning(&[id]),
            Outcome::ReturnAfter(delay) => books::returning_after(&[id], *delay),
            _ => books::dying(&[id]),
        }
    }
    let mut next = 0;
    let _ = call("settle", ids.len(), || {
        taken.batch.settle(|_| {
            if panics_at == Some(next) {
                resume_unwind(Box::new(Misfortune));
            }
            next += 1;
            outcomes[next - 1]
        });
    });
}

/// Returns records that were handed out. Those that find no room are dropped.
pub(crate) fn return_by_name(buffer: &Buffer, stage: usize, records: Vec<Record>) {
    let ids = ids_of(&records);
    books::log(|| format!("return {} by name to stage {stage}", ids.len()));
    books::offer_again(&ids, stage);
    let name = stage_name(stage);
    let done =
        call("push", ids.len(), || block_on(buffer.manager.return_to_buffer(&name, records)));
    if let Ok(Err(rejected)) = done {
        let refused = ids_of(&rejected.records);
        books::refused(refused);
        books::accepted(&ids, stage);
        drop(rejected);
    } else {
        books::accepted(&ids, stage);
    }
    buffer.look();
}

/// Receives a dead letter. `false` if there is none.
pub(crate) fn receive(buffer: &Buffer) -> bool {
    let letters = buffer.manager.dead_letters();
    let received = call("letter", 1, || letters.try_recv());
    if let Ok(Some(letter)) = &received {
        books::log(|| format!("a dead letter of {}", letter.stage_id));
        books::leave(&[letter.record.id]);
    }
    let some = matches!(received, Ok(Some(_)) | Err(Misfortune));
    drop(received);
    buffer.look();
    some
}

pub(crate) fn close(buffer: &Buffer) {
    books::log(|| "close".to_owned());
    books::with(|books| books.close_begun = true);
    let done = call("close", 0, || buffer.manager.close());
    // A close in which a waker panics may be called again.
    if done.is_ok() || call("close", 0, || buffer.manager.close()).is_ok() {
        books::with(|books| books.close_returned = true);
    }
    buffer.look();
}
