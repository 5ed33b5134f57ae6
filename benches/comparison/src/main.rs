//! Measures conveyor-buffer beside its alternatives and writes `BENCHMARKS.md`.
//!
//! All figures are from one run. Every competitor has a turn in each round, so that a disturbance
//! of the machine affects them alike. The report gives the median and the quartiles over the
//! rounds.

mod chart;
#[path = "../../common/mod.rs"]
mod common;
mod competitors;
mod goals;
mod latency;
mod machine;
mod measure;
mod memory;
mod report;
mod wake_up;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Measures conveyor-buffer beside its alternatives and writes BENCHMARKS.md and its chart.
#[derive(Parser)]
struct Options {
    /// Few and short rounds, to check that everything runs. Prints the report unless --out is
    /// given.
    #[arg(long)]
    quick: bool,
    /// Only the workloads whose names begin with this. Prints the report unless --out is given.
    #[arg(long, value_name = "WORKLOAD")]
    only: Vec<String>,
    /// Number of rounds.
    #[arg(long)]
    rounds: Option<usize>,
    /// Directory to write to, instead of the repository.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

impl Options {
    fn wants(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| workload.starts_with(only.as_str()))
    }
}

/// How long and how often to measure.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// Length of a turn.
    turn: Duration,
    /// Length of a turn of a latency measurement, and the number of turns.
    load: Duration,
    loads: usize,
}

impl Effort {
    const FULL: Self = Self {
        rounds: 15,
        turn: Duration::from_millis(60),
        load: Duration::from_secs(2),
        loads: 7,
    };
    const QUICK: Self = Self {
        rounds: 2,
        turn: Duration::from_millis(2),
        load: Duration::from_millis(50),
        loads: 1,
    };
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    if let Some(rounds) = options.rounds {
        effort.rounds = rounds.max(1);
    }
    // As crossfire advises for machines with few cores.
    crossfire::detect_backoff_cfg();

    let machine = machine::Machine::look();
    let mut results = Vec::new();
    for workload in workloads::all() {
        if options.wants(workload.id) {
            results.push(measure::measure(workload, effort));
        }
    }
    let latency = options.wants("latency").then(|| latency::measure(effort));
    let wake_up = options.wants("wake-up").then(|| wake_up::measure(effort));
    let memory = if options.wants("memory") { Some(memory::measure()?) } else { None };

    let goals = goals::all(&results, latency.as_ref(), memory.as_ref());
    for goal in &goals {
        let Some(reached) = goal.reached() else { continue };
        let verdict = if reached { "reached" } else { "missed " };
        let goals::Goal { work, against, .. } = goal;
        eprintln!("{verdict} {work}, {against}: {}, goal {}", goal.measured(), goal.goal());
    }
    let report = report::Report {
        machine: &machine,
        rounds: effort.rounds,
        results: &results,
        latency: latency.as_ref(),
        wake_up: wake_up.as_deref(),
        memory: memory.as_ref(),
        goals: &goals,
    };
    if options.out.is_none() && (options.quick || !options.only.is_empty()) {
        println!("{}", report.markdown(""));
    } else {
        let repository = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        report.write(options.out.as_deref().unwrap_or(&repository))?;
    }
    Ok(())
}
