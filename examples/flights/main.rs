//! Departures out of New York, from CSV files through three stages into SQLite.
//!
//! `cargo run --release --example flights -- --help` tells what can be set.

mod control;
mod database;
mod error;
mod flight;
mod options;
mod pipeline;
mod progress;
mod read;
mod reference;
mod report;
mod tally;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::control::Control;
use crate::error::Error;
use crate::options::Options;
use crate::pipeline::Pipeline;
use crate::read::Survey;
use crate::reference::Reference;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody listens, the exit code still tells.
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
    let pipeline = Pipeline::new(options, manager, control, survey, reference)?;
    let elapsed = pipeline.run()?;
    if pipeline.control.interrupted() {
        pipeline.console.say("interrupted: drained and committed what was accepted");
    }
    report::report(&pipeline, elapsed)
}
