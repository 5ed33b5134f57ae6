//! The pipeline: its stages, its sources, and what is done with a batch in each stage.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use conveyor_buffer::{Batch, BufferManager, Outcome, Source, Stage};

use crate::control::Control;
use crate::database::Database;
use crate::error::Error;
use crate::flight::{Body, Columns, Flight, ParseError};
use crate::options::Options;
use crate::progress::{self, Console};
use crate::read::Survey;
use crate::reference::Reference;
use crate::tally::{Level, SourceTally};
use crate::{tasks, threads};

/// Most dead letters that are written in one transaction.
const LETTERS_AT_ONCE: usize = 1_000;

/// The program gives up after this many failures of SQLite in a row: with the default options
/// before the rows that it returns have used up their retries.
const MAX_STRIKES: u32 = 3;

/// How long rows stay away that SQLite did not take, so that an outage does not use up their retries.
const OUTAGE: Duration = Duration::from_millis(500);

/// The pause after a failure of SQLite.
const AFTER_STRIKE: Duration = Duration::from_millis(100);

/// How long the buffer may take to drain after the last row is read.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a worker of the last stage lingers for a full batch: each batch is a transaction.
pub const LINGER: Duration = Duration::from_millis(1);

/// The state that sources and workers share.
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
    /// Failures of SQLite since it last succeeded.
    strikes: AtomicU32,
}

/// A stage of the pipeline.
pub struct Step {
    pub handle: Stage<Flight>,
    pub workers: u64,
    pub level: Level,
}

/// A source: an airport, or the rest.
pub struct Origin {
    pub name: &'static str,
    /// The number of its rows in the files.
    pub rows: u64,
    pub handle: Source<Flight>,
    pub tally: SourceTally,
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
        let step = |id, workers| -> Result<Step, Error> {
            Ok(Step { handle: manager.stage(id)?, workers, level: Level::default() })
        };
        let parse = step("parse", options.parse_workers)?;
        let enrich = step("enrich", options.enrich_workers)?;
        let load = step("load", options.load_workers)?;
        let origin = |(name, rows)| -> Result<Origin, Error> {
            Ok(Origin { name, rows, handle: manager.source(name)?, tally: SourceTally::default() })
        };
        let origins = survey.sources.into_iter().map(origin).collect::<Result<_, _>>()?;
        Ok(Self {
            control,
            console: Console::new(options.quiet),
            // Last, since it replaces a file: all other options are valid by now.
            database: Database::create(&options.output)?,
            files: options.flights.clone(),
            columns: survey.columns,
            batch: options.largest_batch(),
            capacity: options.max_total,
            parse,
            enrich,
            load,
            origins,
            level: Level::default(),
            reference,
            strikes: AtomicU32::new(0),
            manager,
        })
    }

    /// Runs until every row is settled, and returns the time that took.
    ///
    /// # Errors
    ///
    /// The failure that stopped the pipeline early.
    pub fn run(self: &Arc<Self>, on_tasks: bool) -> Result<Duration, Error> {
        self.control.start();
        let started = Instant::now();
        let settled = AtomicBool::new(false);
        let (ended, elapsed) = thread::scope(|display| {
            display.spawn(|| progress::show(self, &settled));
            let ended = if on_tasks { tasks::run(self) } else { threads::run(self) };
            let ended = ended.map(|()| self.write_dead_letters());
            settled.store(true, SeqCst);
            (ended, started.elapsed())
        });
        match self.control.take_failure() {
            Some(failure) => Err(failure),
            None => ended.map(|()| elapsed),
        }
    }

    /// Parses rows and returns the departures. Settles the other rows. May wait for SQLite.
    pub fn parse(&self, batch: Batch<Flight>) -> Batch<Flight> {
        let (parsed, failed) = batch.partition(|flight| flight.parse(&self.columns));
        failed.settle(|flight| match flight.body() {
            // A cancelled flight may yet depart: retried up to the limit.
            Body::Failed(ParseError::Cancelled) => Outcome::Return,
            _ => Outcome::DeadLetter,
        });
        self.write_many_dead_letters();
        parsed
    }

    /// Joins departures with airline and weather.
    pub fn enrich(&self, batch: &mut Batch<Flight>) {
        for flight in batch.iter_mut() {
            flight.enrich(|departure| self.reference.of(departure));
        }
    }

    /// Inserts departures and settles them. Waits for SQLite.
    pub fn load(&self, batch: Batch<Flight>) {
        if self.control.failed() {
            // Discards the records, so that no thread waits for their room.
            drop(batch.into_records());
            return;
        }
        match self.database.load(batch.iter()) {
            Ok(()) => {
                // After the commit: if anything fails before, the records come again.
                batch.ack();
                self.strikes.store(0, SeqCst);
            }
            Err(error) => {
                batch.return_after(OUTAGE);
                self.strike(error);
            }
        }
        self.write_many_dead_letters();
    }

    /// Writes the dead letters if they fill half of their room. Without room they are parked and
    /// keep their credits.
    fn write_many_dead_letters(&self) {
        let letters = self.manager.dead_letters();
        if letters.len() >= letters.capacity().div_ceil(2) {
            self.write_dead_letters();
        }
    }

    fn write_dead_letters(&self) {
        let letters = self.manager.dead_letters();
        loop {
            let next = std::iter::from_fn(|| letters.try_recv());
            let held: Vec<_> = next.take(LETTERS_AT_ONCE).collect();
            if held.is_empty() {
                return;
            }
            while !self.control.failed() {
                match self.database.insert_dead_letters(&held) {
                    Ok(()) => {
                        self.strikes.store(0, SeqCst);
                        break;
                    }
                    Err(error) => self.strike(error),
                }
            }
        }
    }

    /// Pauses after a failure of SQLite, or gives up if it was the last allowed.
    fn strike(&self, error: Error) {
        if self.strikes.fetch_add(1, SeqCst) + 1 >= MAX_STRIKES {
            self.control.fail(error);
        } else {
            self.console.say(&format!("{error}; trying again"));
            thread::sleep(AFTER_STRIKE);
        }
    }

    /// Samples the levels that a push has raised.
    pub fn note_push(&self, origin: &Origin) {
        self.parse.level.note(self.parse.held());
        self.level.note(self.held());
        origin.tally.level.note(origin.held());
    }

    /// Records in the whole buffer.
    pub fn held(&self) -> usize {
        pollster::block_on(self.manager.get_total_buffered())
    }

    /// How full the whole buffer is, from 0.0 to 1.0.
    pub fn utilization(&self) -> f64 {
        pollster::block_on(self.manager.get_global_utilization())
    }

    /// Returns whether the rows of an airport have a source of their own.
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
