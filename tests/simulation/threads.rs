//! The same plans on many threads, whose every step shuttle interleaves with those of the others.

use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::actors::{play, read_on};
use crate::calls::Buffer;
use crate::plan::Plan;
use crate::random::Random;
use crate::{clock, counts, sync, waits};

/// Runs a plan to its end, under several schedules.
pub(crate) fn run(plan: Plan, random: &mut Random, prepare: impl Fn() + Send + Sync + 'static) {
    let seed = random.next();
    let scheduler: Box<dyn Scheduler + Send> = if random.one_in(3) {
        Box::new(RandomScheduler::new_from_seed(seed, SCHEDULES))
    } else {
        Box::new(PctScheduler::new_from_seed(seed, random.between(2, 5), SCHEDULES))
    };
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(3_000_000);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let random = random.fork();
    Runner::new(scheduler, config).run(move || {
        prepare();
        execute(plan.clone(), random.clone());
    });
}

/// How many schedules a plan is run under. The first of them tells the PCT scheduler how long the plan is.
const SCHEDULES: usize = 20;

fn execute(plan: Plan, mut random: Random) {
    let plan = Arc::new(plan);
    let buffer = Buffer::new(Arc::clone(&plan));
    // One thread must not be the last that waits before the others exist.
    let threads: Vec<_> = plan.roles.iter().map(|_| clock::enter_thread()).collect();
    clock::enter_thread();
    clock::enter_thread();
    let mut running = Vec::with_capacity(threads.len() + 2);
    for role in plan.roles.clone() {
        let (buffer, random) = (buffer.clone(), random.fork());
        running.push(spawn(move || sync::block_on_until(play(role, buffer, random), None)));
    }
    let reading = buffer.clone();
    running.push(spawn(move || sync::block_on_until(read_on(&reading), None)));
    let relieved = buffer.clone();
    running.push(spawn(move || sync::block_on_until(waits::relieve(&relieved), None)));
    running.into_iter().for_each(|thread| thread.join().expect("a thread that did not panic"));
    counts::end(&buffer);
}

fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> shuttle::thread::JoinHandle<()> {
    shuttle::thread::spawn(move || {
        work();
        clock::leave_thread();
    })
}
