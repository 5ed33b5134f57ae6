//! Runs seeds, and says how to run one again.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Instant;

use crate::plan::{Plan, Scene};
use crate::random::Random;
use crate::unwind::discard;
use crate::{
    alone, books, checks, clock, growth, misfortune, phase, progress, sync, threads, waits,
};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
    static SCENE: Cell<Option<Scene>> = const { Cell::new(None) };
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Runs so many seeds, unless the environment says otherwise.
fn seeds(test: &str, usual: u64, run: impl Fn(u64)) {
    let first = number("SIMULATION_SEED").or(number("SIMULATION_FROM")).unwrap_or(0);
    let seeds = match number("SIMULATION_SEED") {
        Some(_) => 1,
        None => number("SIMULATION_SEEDS").unwrap_or(usual),
    };
    let keep_going = env::var_os("SIMULATION_KEEP_GOING").is_some();
    say_the_seed(keep_going);
    let mut failures: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for seed in first..first + seeds {
        let start = Instant::now();
        SEED.set(seed);
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
            if env::var_os("SIMULATION_TIMES").is_some() {
                println!("{seed}: {:?}", start.elapsed());
            }
            continue;
        };
        let message = text(&*panic);
        // Whatever is left of it may panic as it is dropped.
        discard(panic);
        let calls = books::with(|books| books.last_calls());
        let message = format!(
            "{message}\n\nthe last calls:\n{calls}\nrun it again:\n  SIMULATION_SEED={seed} SIMULATION_TRACE=1 \
             cargo test --test simulation {test} -- --nocapture\n"
        );
        if !keep_going {
            panic!("{message}");
        }
        let check = message.split(':').next().unwrap_or_default().to_owned();
        failures.entry(check).or_default().push((seed, message));
    }
    if !failures.is_empty() {
        for (check, failures) in &failures {
            let (seed, message) = &failures[0];
            let others: Vec<u64> = failures.iter().map(|(seed, _)| *seed).take(12).collect();
            println!(
                "{check}: {} of {seeds} seeds ({others:?}); seed {seed}: {message}",
                failures.len()
            );
        }
        panic!("some seeds failed");
    }
}

/// Has every panic say of which seed it is, also one that aborts the process.
fn say_the_seed(briefly: bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            println!("seed {} ({:?}): {panic}", SEED.get(), SCENE.get());
            if !briefly {
                before(panic);
            }
        }));
    });
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Forgets the simulation before.
fn reset(plan: &Plan, random: Random, threaded: bool) {
    SCENE.set(Some(plan.scene));
    waits::reset();
    clock::reset(threaded);
    phase::reset();
    sync::reset();
    checks::reset();
    progress::reset();
    books::reset(plan);
    misfortune::reset(random, plan.panics);
}

fn show(plan: &Plan) {
    if number("SIMULATION_SEED").is_some() {
        println!("{plan:#?}");
    }
}

fn run_on_one_thread(seed: u64) {
    let mut random = Random::new(seed);
    let plan = Plan::new(&mut random, false);
    show(&plan);
    reset(&plan, random.fork(), false);
    alone::run(plan, &mut random);
    assert_eq!(misfortune::live_wakers(), 0, "leak: wakers are left");
    assert_eq!(books::with(|books| books.live), 0, "leak: records are left");
}

fn run_interleaved(seed: u64) {
    let mut random = Random::new(seed);
    let plan = Plan::new(&mut random, true);
    show(&plan);
    let (own, prepared) = (random.fork(), plan.clone());
    threads::run(plan, &mut random, move || reset(&prepared, own.clone(), true));
    clock::reset(false);
}

#[test]
fn the_buffer_keeps_its_promises_on_one_thread() {
    seeds("the_buffer_keeps_its_promises_on_one_thread", 400, run_on_one_thread);
}

#[test]
fn the_buffer_keeps_its_promises_where_threads_interleave() {
    seeds("the_buffer_keeps_its_promises_where_threads_interleave", 400, run_interleaved);
}

#[test]
fn no_call_costs_more_beside_many_others() {
    let run = |seed| growth::run(&mut Random::new(seed));
    seeds("no_call_costs_more_beside_many_others", 60, run);
}

#[test]
fn a_seed_always_leads_to_the_same_calls() {
    for run in [run_on_one_thread, run_interleaved] {
        for seed in 1_000..1_010 {
            // Whether or not it fails.
            let [first, second] = [0; 2].map(|_| {
                let failure = catch_unwind(AssertUnwindSafe(|| run(seed))).err();
                (failure.map(|panic| text(&*panic)), books::digest())
            });
            assert_eq!(first, second, "seed {seed}");
        }
    }
}
