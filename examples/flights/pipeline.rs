//! The pipeline: its stages, its sources, and the threads that work on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use conveyor_buffer::{Batch, BufferManager, Outcome, RejectReason, Source, Stage, TryRecvError};

use crate::control::Control;
use crate::database::Database;
use crate::error::Error;
use crate::flight::{Body, Columns, Flight, ParseError};
use crate::options::Options;
use crate::progress::{self, Console};
use crate::read::{self, Survey};
use crate::reference::Reference;
use crate::tally::{Level, SourceTally};

/// Most dead letters that are written in one transaction.
const LETTERS_AT_ONCE: usize = 1_000;

/// After so many failures of SQLite in a row, with no success in between, the program gives up: by
/// default before the rows that it returns have used up their retries.
const MAX_STRIKES: u32 = 3;

/// How long to leave SQLite alone after a failure.
const AFTER_STRIKE: Duration = Duration::from_millis(100);

/// Everything that the threads share.
pub struct Pipeline {
    pub manager: BufferManager<Flight>,
    pub control: Arc<Control>,
    pub console: Console,
    pub database: Database,
    pub files: Vec<PathBuf>,
    pub columns: Vec<Columns>,
    /// Most records that are pushed or taken at once.
    pub batch: usize,
    /// Most records in the whole buffer.
    pub capacity: usize,
    pub parse: Step,
    pub enrich: Step,
    pub load: Step,
    pub origins: Vec<Origin>,
    /// The highest level of the whole buffer.
    pub level: Level,
    reference: Reference,
    workers: [u64; 3],
    /// Failures of SQLite since it last succeeded.
    strikes: AtomicU32,
}

/// A stage of the pipeline.
pub struct Step {
    pub handle: Stage<Flight>,
    pub level: Level,
}

/// A source: an airport, or the rest.
pub struct Origin {
    pub name: &'static str,
    /// How many rows the files hold of it.
    pub rows: u64,
    pub handle: Source<Flight>,
    pub tally: SourceTally,
}

/// Waits a moment for others to get on. To be replaced by the waiting calls of the library.
pub fn nap() {
    thread::sleep(Duration::from_micros(100));
}

impl Pipeline {
    /// # Errors
    ///
    /// The stage, the source or the database that cannot be made.
    pub fn new(
        options: &Options,
        manager: BufferManager<Flight>,
        control: Arc<Control>,
        survey: Survey,
        reference: Reference,
    ) -> Result<Self, Error> {
        let step = |id| -> Result<Step, Error> {
            Ok(Step { handle: manager.stage(id)?, level: Level::default() })
        };
        let (parse, enrich, load) = (step("parse")?, step("enrich")?, step("load")?);
        let origin = |(name, rows)| -> Result<Origin, Error> {
            Ok(Origin { name, rows, handle: manager.source(name)?, tally: SourceTally::default() })
        };
        let origins = survey.sources.into_iter().map(origin).collect::<Result<_, _>>()?;
        Ok(Self {
            control,
            console: Console::new(options.quiet),
            // Last, for it replaces a file: now nothing else can be wrong with the options.
            database: Database::create(&options.output)?,
            files: options.flights.clone(),
            columns: survey.columns,
            batch: options.batch,
            capacity: options.max_total,
            parse,
            enrich,
            load,
            origins,
            level: Level::default(),
            reference,
            workers: [options.parse_workers, options.enrich_workers, options.load_workers],
            strikes: AtomicU32::new(0),
            manager,
        })
    }

    /// Runs until every row is settled, and tells how long that took.
    ///
    /// # Errors
    ///
    /// What has stopped the pipeline before its end.
    pub fn run(&self) -> Result<Duration, Error> {
        self.control.start();
        let started = Instant::now();
        let settled = AtomicBool::new(false);
        let elapsed = thread::scope(|display| {
            display.spawn(|| progress::show(self, &settled));
            self.work();
            settled.store(true, SeqCst);
            started.elapsed()
        });
        match self.control.take_failure() {
            Some(failure) => Err(failure),
            None => Ok(elapsed),
        }
    }

    /// Each scope ends when its threads have: the sources first, which closes the buffer; then the
    /// workers, who go home when it is empty; and last the one who writes the dead letters.
    fn work(&self) {
        let workers_are_done = AtomicBool::new(false);
        thread::scope(|clerk| {
            clerk.spawn(|| self.control.watch(|| self.write_dead_letters(&workers_are_done)));
            thread::scope(|workers| {
                let [parse, enrich, load] = self.workers;
                for _ in 0..parse {
                    workers.spawn(|| self.control.watch(|| self.parse()));
                }
                for _ in 0..enrich {
                    workers.spawn(|| self.control.watch(|| self.enrich()));
                }
                for _ in 0..load {
                    workers.spawn(|| self.control.watch(|| self.load()));
                }
                thread::scope(|sources| {
                    for origin in &self.origins {
                        sources.spawn(|| self.control.watch(|| read::push_rows(self, origin)));
                    }
                });
                self.manager.close();
            });
            workers_are_done.store(true, SeqCst);
        });
    }

    /// A worker of the first stage.
    fn parse(&self) -> Result<(), Error> {
        while let Some(batch) = self.take(&self.parse, Some(&self.enrich)) {
            let (parsed, failed) = batch.partition(|flight| flight.parse(&self.columns));
            failed.settle(|flight| match flight.body() {
                // Perhaps it departs after all: worth another try, up to the limit.
                Body::Failed(ParseError::Cancelled) => Outcome::Return,
                _ => Outcome::DeadLetter,
            });
            self.forward(parsed, &self.enrich);
        }
        Ok(())
    }

    /// A worker of the second stage.
    fn enrich(&self) -> Result<(), Error> {
        while let Some(mut batch) = self.take(&self.enrich, Some(&self.load)) {
            for flight in batch.iter_mut() {
                flight.enrich(|departure| self.reference.of(departure));
            }
            self.forward(batch, &self.load);
        }
        Ok(())
    }

    /// A worker of the last stage.
    fn load(&self) -> Result<(), Error> {
        while let Some(batch) = self.take(&self.load, None) {
            match self.database.load(batch.iter()) {
                Ok(()) => {
                    // Only now, after the commit: whatever fails before, the records come again.
                    batch.ack();
                    self.strikes.store(0, SeqCst);
                }
                Err(error) => {
                    batch.return_to_buffer();
                    self.strike(error)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the dead letters until no worker is left to make more.
    fn write_dead_letters(&self, workers_are_done: &AtomicBool) -> Result<(), Error> {
        let letters = self.manager.dead_letters();
        let mut held = Vec::new();
        while !self.control.failed() {
            // Asked before looking, so that nothing can come after the last look.
            let is_last_look = workers_are_done.load(SeqCst);
            let room = LETTERS_AT_ONCE - held.len();
            held.extend(std::iter::from_fn(|| letters.try_recv()).take(room));
            if held.is_empty() {
                if is_last_look {
                    break;
                }
                nap();
                continue;
            }
            match self.database.bury(&held) {
                Ok(()) => {
                    held.clear();
                    self.strikes.store(0, SeqCst);
                }
                Err(error) => self.strike(error)?,
            }
        }
        Ok(())
    }

    /// Gives SQLite some time after a failure.
    ///
    /// # Errors
    ///
    /// The failure, if it was one too many.
    fn strike(&self, error: Error) -> Result<(), Error> {
        if self.strikes.fetch_add(1, SeqCst) + 1 >= MAX_STRIKES {
            return Err(error);
        }
        self.console.say(&format!("{error}; trying again"));
        thread::sleep(AFTER_STRIKE);
        Ok(())
    }

    /// Waits for a batch that fits into the next stage. `None` when no more will come.
    fn take(&self, from: &Step, next: Option<&Step>) -> Option<Batch<Flight>> {
        let max = next.map_or(self.batch, |next| self.batch.min(next.handle.capacity()));
        while !self.control.failed() {
            match from.handle.try_recv_batch(max) {
                Ok(batch) => return Some(batch),
                Err(TryRecvError::Closed) => break,
                Err(TryRecvError::Empty) => nap(),
            }
        }
        None
    }

    /// Waits until the next stage has room for the batch. When everybody stops, it goes back.
    fn forward(&self, mut batch: Batch<Flight>, next: &Step) {
        while !self.control.failed() {
            match batch.try_forward(&next.handle) {
                Ok(()) => {
                    next.level.note(next.held());
                    return;
                }
                Err(whole) => batch = whole,
            }
            nap();
        }
    }

    /// Looks at the levels that a push has raised.
    pub fn note_push(&self, origin: &Origin) {
        self.parse.level.note(self.parse.held());
        self.level.note(self.held());
        origin.tally.level.note(origin.held());
    }

    /// Counts a refusal, and takes note of the level that it tells.
    pub fn note_refusal(&self, origin: &Origin, reason: &RejectReason) {
        origin.tally.refused.add(1);
        match reason {
            RejectReason::GlobalFull { held, .. } => self.level.note(*held),
            RejectReason::StageFull { held, .. } => self.parse.level.note(*held),
            RejectReason::SourceFull { held, .. } => origin.tally.level.note(*held),
            _ => {}
        }
    }

    /// Records in the whole buffer.
    pub fn held(&self) -> usize {
        pollster::block_on(self.manager.get_total_buffered())
    }

    /// How full the whole buffer is, from 0.0 to 1.0.
    pub fn utilization(&self) -> f64 {
        pollster::block_on(self.manager.get_global_utilization())
    }

    /// Whether the rows of that airport have a source of their own.
    pub fn has_source(&self, airport: &str) -> bool {
        self.origins.iter().any(|origin| origin.name == airport)
    }

    pub fn steps(&self) -> [&Step; 3] {
        [&self.parse, &self.enrich, &self.load]
    }
}

impl Step {
    /// Records in the stage, waiting or in a worker's hands.
    pub fn held(&self) -> usize {
        records(self.handle.utilization(), self.handle.capacity())
    }
}

impl Origin {
    /// Records of the source, in any stage.
    pub fn held(&self) -> usize {
        records(self.handle.utilization(), self.handle.capacity())
    }
}

fn records(utilization: f64, capacity: usize) -> usize {
    (utilization * capacity as f64).round() as usize
}
