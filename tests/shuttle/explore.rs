//! The explorer: runs one test under many schedules that are chosen at random.

use std::env;
use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

/// Where the choices begin, unless `SHUTTLE_RANDOM_SEED` says otherwise.
const SEED: u64 = 20130101;

/// Changes of priority in an execution under the second scheduler.
const DEPTH: usize = 4;

/// Runs `test` so many times under each of two schedulers: one chooses among all threads at every
/// step; the other lets the thread of the highest priority run on, and changes priorities at a few
/// steps (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs").
///
/// `CONVEYOR_EXECUTIONS` multiplies the number. A schedule that fails is written to a file, and
/// `CONVEYOR_SCHEDULE` names one to run again.
pub(crate) fn explore(executions: usize, test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let test = Arc::clone(&test);
        Runner::new(scheduler, config()).run(move || test());
    };
    if let Some(path) = env::var_os("CONVEYOR_SCHEDULE") {
        return run(Box::new(ReplayScheduler::new_from_file(path).expect("a schedule to replay")));
    }
    let times = env::var("CONVEYOR_EXECUTIONS").map_or(1, |times| {
        times.parse().expect("CONVEYOR_EXECUTIONS is a number: so many times the usual executions")
    });
    let executions = executions * times;
    println!("{executions} executions each, from seed {SEED} or SHUTTLE_RANDOM_SEED");
    run(Box::new(RandomScheduler::new_from_seed(SEED, executions)));
    run(Box::new(PctScheduler::new_from_seed(SEED, DEPTH, executions)));
}

fn config() -> Config {
    let mut config = Config::new();
    // The library's own calls are shallow; a panic that prints is not.
    config.stack_size = 1 << 18;
    config.failure_persistence = FailurePersistence::File(Some(env!("CARGO_TARGET_TMPDIR").into()));
    config
}
