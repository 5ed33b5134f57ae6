//! The same calls beside few others and beside many: what they cost must not grow.
//!
//! A cost is a number of steps (`sync.rs`), so that neither the machine nor what else runs on it matters. Work between
//! two steps is not counted: for that there is `cargo bench --bench growth`.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pollster::block_on;

use crate::api::{BufferManager, BufferSettings, Envelope, Outcome, Source, Stage};
use crate::checks::{self, check};
use crate::clock;
use crate::random::Random;
use crate::sync::{self, Cost, measure};

/// What there is much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Sends of one source that wait for its own credits.
    Line,
    /// Sends of one source that wait for places.
    LineAtStage,
    /// Sends of as many sources that wait for credits of the buffer, and are too large for what comes free.
    LinesAtPool,
    /// The same, for places.
    LinesAtStage,
    /// Sources that came and went.
    Gone,
    /// Sources that hold nothing.
    Idle,
    /// Records that were returned one by one.
    Returned,
    /// Records of one block.
    Block,
    /// Dead letters that found no room.
    Parked,
    /// Workers that wait for records.
    Workers,
    /// Calls that wait for the end.
    Drains,
    /// Batches in the hands of workers.
    Batches,
}

const ALL: [Beside; 12] = [
    Beside::Line,
    Beside::LineAtStage,
    Beside::LinesAtPool,
    Beside::LinesAtStage,
    Beside::Gone,
    Beside::Idle,
    Beside::Returned,
    Beside::Block,
    Beside::Parked,
    Beside::Workers,
    Beside::Drains,
    Beside::Batches,
];

/// Whether it is somebody who waits for room.
fn waits(beside: Beside) -> bool {
    use Beside::{Line, LineAtStage, LinesAtPool, LinesAtStage};
    matches!(beside, Line | LineAtStage | LinesAtPool | LinesAtStage)
}

/// How much more there is of it the second time.
const TIMES: usize = 16;

/// A cost that grows by no more than this is constant, or logarithmic. Chance decides whether one that is cancelled
/// was granted: it gives back what it had, and the next is granted.
const FACTOR: u64 = 2;
const ADDEND: u64 = 160;
/// What a lock may be held for, where a call has to do with all.
const HOLD: u64 = 4_000;

struct Plain(&'static str);

impl Envelope for Plain {
    fn source_id(&self) -> &str {
        self.0
    }

    fn retry_count(&self) -> u32 {
        0
    }

    fn increment_retry(&mut self) {}
}

fn plain(number: usize) -> Vec<Plain> {
    (0..number).map(|_| Plain("busy")).collect()
}

type Waiting = Pin<Box<dyn Future<Output = ()>>>;

struct World {
    manager: BufferManager<Plain>,
    /// Where the others are, and a stage and a source that have nothing to do with them.
    busy: Stage<Plain>,
    quiet: Stage<Plain>,
    busy_source: Source<Plain>,
    quiet_source: Source<Plain>,
    waiting: VecDeque<Waiting>,
    kept: Vec<Box<dyn Any>>,
}

/// A future that was polled once, and waits.
fn begin(future: impl Future<Output = ()> + 'static) -> Option<Waiting> {
    let mut waiting: Waiting = Box::pin(future);
    poll(&mut waiting).is_pending().then_some(waiting)
}

fn poll(waiting: &mut Waiting) -> Poll<()> {
    waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn send(source: &Source<Plain>, stage: &Stage<Plain>, number: usize) -> Option<Waiting> {
    let (source, stage) = (source.clone(), stage.clone());
    begin(async move { drop(source.send_batch(&stage, plain(number)).await) })
}

impl World {
    fn new(beside: Beside, number: usize) -> Self {
        // Every cap is far away, but for the one that is waited at: it is at 8.
        let far = 1 << 17;
        let [mut total, mut busy_stage, mut busy_source] = [far; 3];
        match beside {
            Beside::Line => busy_source = 8,
            Beside::LinesAtPool => total = 12,
            Beside::LineAtStage | Beside::LinesAtStage => busy_stage = 8,
            _ => {}
        }
        let settings = BufferSettings {
            max_total_records: total,
            max_per_stage: far,
            max_per_source: far,
            ..BufferSettings::default()
        };
        let manager = BufferManager::builder(settings)
            .stage_capacity("busy", busy_stage)
            .source_capacity("busy", busy_source)
            .dead_letter_capacity(1)
            .max_retries(u32::MAX)
            .build()
            .expect("valid settings");
        let mut world = Self {
            busy: manager.stage("busy").expect("a new name"),
            quiet: manager.stage("quiet").expect("a new name"),
            busy_source: manager.source("busy").expect("a new name"),
            quiet_source: manager.source("quiet").expect("a new name"),
            manager,
            waiting: VecDeque::new(),
            kept: Vec::new(),
        };
        world.fill(beside, number);
        world
    }

    fn another_source(&self, number: usize) -> Source<Plain> {
        self.manager.source(&format!("other-{number}")).expect("few enough names")
    }

    fn fill(&mut self, beside: Beside, number: usize) {
        let Self { busy, busy_source, manager, .. } = &*self;
        let push = |number| busy_source.try_send_batch(busy, plain(number)).expect("room");
        let mut waiting = VecDeque::new();
        let mut kept: Vec<Box<dyn Any>> = Vec::new();
        match beside {
            Beside::Line | Beside::LineAtStage => {
                push(8);
                waiting.extend((0..number).filter_map(|_| send(busy_source, busy, 1)));
            }
            Beside::LinesAtPool | Beside::LinesAtStage => {
                push(8);
                for number in 0..number {
                    waiting.extend(send(&self.another_source(number), busy, 6));
                }
            }
            Beside::Gone => {
                for number in 0..number {
                    kept.push(Box::new(self.another_source(number)));
                }
                kept.clear();
                for number in 0..number {
                    manager.remove_source(&format!("other-{number}")).expect("it holds nothing");
                }
            }
            Beside::Idle => {
                kept.extend((0..number).map(|n| Box::new(self.another_source(n)) as Box<dyn Any>));
            }
            Beside::Returned | Beside::Batches => {
                (0..number).for_each(|_| push(1));
                let batches: Vec<_> = std::iter::from_fn(|| busy.try_recv_batch(1).ok()).collect();
                if beside == Beside::Returned {
                    batches.into_iter().for_each(|batch| {
                        batch.return_to_buffer();
                    });
                } else {
                    kept.push(Box::new(batches));
                }
            }
            Beside::Block => push(number),
            Beside::Parked => {
                push(number);
                let batch = busy.try_recv_batch(number).expect("they were pushed");
                batch.settle(|_| Outcome::DeadLetter);
            }
            Beside::Workers => {
                for _ in 0..number {
                    let stage = busy.clone();
                    waiting.extend(begin(async move { drop(stage.recv_batch(1).await) }));
                }
            }
            Beside::Drains => {
                push(1);
                for _ in 0..number {
                    let manager = manager.clone();
                    waiting.extend(begin(async move { manager.drain().await }));
                }
            }
        }
        (self.waiting, self.kept) = (waiting, kept);
    }

    /// One of the calls. `None` where it has nothing to do.
    fn call(&mut self, probe: Probe, random: &mut Random) -> Option<Cost> {
        let cost = match probe {
            Probe::PassByQuietly => {
                let (stage, source) = (&self.quiet, &self.quiet_source);
                measure(|| {
                    if source.try_send(stage, Plain("quiet")).is_ok() {
                        stage.try_recv_batch(1).expect("it was pushed").ack();
                    }
                })
                .1
            }
            Probe::TakeAndSettle => {
                let (batch, mut cost) = measure(|| self.busy.try_recv_batch(1));
                let batch = batch.ok()?;
                let settled = measure(|| batch.ack()).1;
                cost.steps += settled.steps;
                cost.longest_hold = cost.longest_hold.max(settled.longest_hold);
                cost
            }
            Probe::TakeAndReturn => {
                let batch = self.busy.try_recv_batch(1).ok()?;
                let (_, mut cost) = measure(|| batch.return_to_buffer());
                let (batch, taken) = measure(|| self.busy.try_recv_batch(1));
                batch.expect("it was returned").return_to_buffer();
                cost.steps += taken.steps;
                cost
            }
            Probe::RefusedAgain => {
                let push = || self.busy_source.try_send(&self.busy, Plain("busy"));
                push().err()?;
                let (pushed, cost) = measure(push);
                pushed.err()?;
                cost
            }
            Probe::BeginAndCancel => {
                let (waiting, begun) = measure(|| send(&self.busy_source, &self.busy, 1));
                let mut cost = measure(|| drop(waiting)).1;
                cost.steps += begun.steps;
                cost
            }
            Probe::CancelOne => {
                let at = random.below(self.waiting.len().max(1));
                let one = self.waiting.swap_remove_back(at)?;
                measure(|| drop(one)).1
            }
            Probe::Read => {
                let manager = &self.manager;
                let read = || {
                    block_on(manager.get_total_buffered());
                    block_on(manager.should_backpressure("quiet"));
                    self.quiet_source.available_credits();
                    self.busy.len() + self.busy.in_flight()
                };
                measure(read).1
            }
            Probe::ReceiveLetter => {
                let letters = self.manager.dead_letters();
                measure(|| letters.try_recv().is_some()).1
            }
            Probe::LingerForNothing => {
                let stage = self.quiet.clone();
                let linger = Duration::from_millis(1);
                let lingers = async move { drop(stage.recv_batch_linger(4, linger).await) };
                let (waiting, mut cost) = measure(|| begin(lingers));
                cost.steps += measure(|| drop(waiting)).1.steps;
                cost
            }
        };
        Some(cost)
    }
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    PassByQuietly,
    TakeAndSettle,
    TakeAndReturn,
    RefusedAgain,
    BeginAndCancel,
    CancelOne,
    Read,
    ReceiveLetter,
    LingerForNothing,
}

const PROBES: [Probe; 9] = [
    Probe::PassByQuietly,
    Probe::TakeAndSettle,
    Probe::TakeAndReturn,
    Probe::RefusedAgain,
    Probe::BeginAndCancel,
    Probe::CancelOne,
    Probe::Read,
    Probe::ReceiveLetter,
    Probe::LingerForNothing,
];

/// What calls have cost.
struct Costs {
    /// Each of the probes, at most.
    probes: Vec<Option<Cost>>,
    /// To make a stage.
    making: Cost,
    closing: Cost,
    /// To settle a record of a closed buffer that is not the last.
    settling: Option<Cost>,
}

impl Costs {
    fn new(beside: Beside, number: usize, mut random: Random) -> Self {
        let mut world = World::new(beside, number);
        // The first calls sweep, and register; the others are alike. No record is put in order only when it is taken.
        let mut probes = vec![None::<Cost>; PROBES.len()];
        for round in 0..6 {
            for (most, probe) in probes.iter_mut().zip(PROBES) {
                if let Some(cost) = world.call(probe, &mut random)
                    && (round > 0 || beside == Beside::Returned)
                {
                    let most = most.get_or_insert_default();
                    most.steps = most.steps.max(cost.steps);
                    most.locks = most.locks.max(cost.locks);
                }
            }
        }
        let making = measure(|| world.manager.stage("another")).1;
        let _ = world.busy_source.try_send_batch(&world.busy, plain(2));
        let (one, other) = (world.busy.try_recv_batch(1), world.busy.try_recv_batch(1));
        let closing = measure(|| world.manager.close()).1;
        let settling =
            (one.is_ok() && other.is_ok()).then(|| measure(|| one.expect("just looked").ack()).1);
        Self { probes, making, closing, settling }
    }
}

pub(crate) fn run(random: &mut Random) {
    clock::reset(false);
    sync::reset();
    let beside = random.pick(&ALL);
    let few = random.magnitude(40, if waits(beside) { 2_000 } else { 6_000 }) as usize;
    let many = few * TIMES;
    let calls = random.fork();
    let small = Costs::new(beside, few, calls.clone());
    let large = Costs::new(beside, many, calls);
    for ((small, large), probe) in small.probes.iter().zip(&large.probes).zip(PROBES) {
        let (Some(small), Some(large)) = (small, large) else { continue };
        check("growth", large.steps <= FACTOR * small.steps + ADDEND, || {
            format!(
                "{probe:?} takes {} steps beside {few} of {beside:?}, and {} beside {many} of them",
                small.steps, large.steps
            )
        });
        let locks = matches!(probe, Probe::PassByQuietly) && !waits(beside) && large.locks > 0;
        check("locks", !locks, || {
            format!("a push, a take and a settling take {} locks beside {beside:?}", large.locks)
        });
    }
    for (what, cost) in [("a close", large.closing), ("to make a stage", large.making)] {
        check("lock", cost.longest_hold <= HOLD, || {
            let steps = cost.longest_hold;
            format!("{what} beside {many} of {beside:?} holds a lock for {steps} steps")
        });
    }
    check("locks", large.settling.is_none_or(|settling| settling.locks == 0), || {
        format!("a settling after a close takes a lock beside {beside:?}, and is not the last")
    });
    checks::raise();
}
