//! Departures out of New York, from CSV files through three stages into SQLite.
//!
//! `cargo run --release -p flights -- --help` lists the options.
//!
//! `pipeline` contains the work on the rows. `threads` runs it with the blocking calls of the
//! library,
//! `tasks` with the async calls. Read the two side by side.

mod control;
mod database;
mod error;
mod flight;
mod metrics;
mod options;
mod pipeline;
mod progress;
mod read;
mod reference;
mod report;
mod tally;
mod tasks;
mod threads;

use std::io::{self, Write};
use std::panic;
use std::process::{self, ExitCode};
use std::sync::Arc;

use clap::Parser;

use crate::control::Control;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::pipeline::Pipeline;
use crate::read::Survey;
use crate::reference::Reference;

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

fn main() -> ExitCode {
    // The other threads would wait for a worker that is gone. What it had committed is safe.
    let say = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        say(what);
        process::exit(PANICKED);
    }));
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the exit code remains.
            let _ = writeln!(io::stderr(), "flights: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(options: &Options) -> Result<(), Error> {
    let manager = options.manager()?;
    let control = Control::new(manager.clone());
    control.catch_ctrl_c()?;
    let reference = Reference::read(&options.airlines, &options.weather)?;
    let survey = Survey::take(&options.flights, &control)?;
    let pipeline = Arc::new(Pipeline::new(options, manager, control, survey, reference)?);
    let metrics = options.metrics.map(|at| Metrics::serve(at, &pipeline.manager)).transpose()?;
    let elapsed = pipeline.run(options.tasks)?;
    if pipeline.control.interrupted() {
        pipeline.console.say("interrupted: drained and committed what was accepted");
    }
    report::report(&pipeline, elapsed)?;
    if let Some(metrics) = metrics {
        pipeline.console.say(&format!("serving {metrics} until Ctrl-C"));
        metrics.finish(&pipeline.control);
    }
    Ok(())
}
