//! The output while the pipeline runs: bars on a terminal, and a line for each signal.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::pipeline::Pipeline;

/// The interval at which the bars are drawn.
const FRAME: Duration = Duration::from_millis(50);

/// The output while the program runs, on stderr: stdout holds the report alone.
pub struct Console {
    quiet: bool,
    bars: MultiProgress,
}

impl Console {
    pub fn new(quiet: bool) -> Self {
        // Draws on stderr, and hides itself if that is no terminal.
        Self { quiet, bars: MultiProgress::new() }
    }

    /// Prints a line above the bars.
    pub fn say(&self, line: &str) {
        // A closed stderr is no reason to stop the work.
        let _ = self.bars.suspend(|| writeln!(io::stderr(), "{line}"));
    }

    /// Prints a line above the bars, unless --quiet is given.
    pub fn say_signal(&self, line: &str) {
        if !self.quiet {
            self.say(line);
        }
    }

    fn shows_bars(&self) -> bool {
        !self.quiet && !self.bars.is_hidden()
    }

    fn bar(&self, name: &str, length: u64, template: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(length).with_style(style).with_prefix(name.to_owned());
        self.bars.add(bar)
    }
}

/// Draws the bars until all rows are settled or the pipeline has failed.
pub fn show(pipeline: &Pipeline, settled: &AtomicBool) {
    let console = &pipeline.console;
    if !console.shows_bars() {
        return;
    }
    let sources: Vec<_> = pipeline
        .origins
        .iter()
        .map(|origin| {
            let template = "{prefix:>8} [{bar:40.cyan}] {pos:>7} of {len} rows  {msg}";
            (origin, console.bar(origin.name, origin.rows, template))
        })
        .collect();
    let stages: Vec<_> = pipeline
        .steps()
        .into_iter()
        .map(|step| {
            let template = "{prefix:>8} [{bar:40.yellow}] {pos:>7} of {len} records";
            (step, console.bar(step.handle.id(), step.handle.capacity() as u64, template))
        })
        .collect();
    while !settled.load(SeqCst) && !pipeline.control.failed() {
        for (origin, bar) in &sources {
            let read = origin.tally.read.get();
            bar.set_position(read);
            let is_done = read == origin.rows;
            bar.set_message(if is_done {
                "done".into()
            } else {
                origin.handle.signal().to_string()
            });
        }
        for (step, bar) in &stages {
            bar.set_position(step.held() as u64);
        }
        thread::sleep(FRAME);
    }
    for (_, bar) in &sources {
        bar.finish_and_clear();
    }
    for (_, bar) in &stages {
        bar.finish_and_clear();
    }
}
