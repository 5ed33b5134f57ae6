//! The report at the end: tables, and the line that accounts for every row.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::database::Airline;
use crate::error::Error;
use crate::pipeline::Pipeline;

/// Prints the report, and checks that every row is accounted for.
///
/// # Errors
///
/// The rows that are missing, or the reason why the report cannot be printed.
pub fn report(pipeline: &Pipeline, elapsed: Duration) -> Result<(), Error> {
    let airlines = pipeline.database.airlines()?;
    let account = Account::of(pipeline)?;
    match print(pipeline, &airlines, &account, elapsed) {
        // The reader of a pipe may have closed it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Error::Output(error));
        }
        _ => {}
    }
    account.check(pipeline)
}

/// Where the rows are. Loaded rows and dead letters are counted in the database.
struct Account {
    read: u64,
    loaded: u64,
    dead: u64,
}

impl Account {
    fn of(pipeline: &Pipeline) -> Result<Self, Error> {
        let read = pipeline.origins.iter().map(|origin| origin.tally.read.get()).sum();
        let (loaded, dead) = pipeline.database.counts()?;
        Ok(Self { read, loaded, dead })
    }

    fn holds(&self) -> bool {
        self.read == self.loaded + self.dead
    }

    fn check(&self, pipeline: &Pipeline) -> Result<(), Error> {
        let Self { read, loaded, dead } = self;
        if !self.holds() {
            let what = format!("{read} read, but {loaded} loaded + {dead} dead-lettered");
            return Err(Error::Unaccounted(what));
        }
        let remaining = pipeline.manager.remaining();
        if !remaining.is_empty() {
            return Err(remaining.into());
        }
        for origin in &pipeline.origins {
            let (name, rows, read) = (origin.name, origin.rows, origin.tally.read.get());
            if read != rows && !pipeline.control.interrupted() {
                let what = format!("{name}: {rows} rows in the files, but {read} read");
                return Err(Error::Unaccounted(what));
            }
        }
        Ok(())
    }
}

fn print(
    pipeline: &Pipeline,
    airlines: &[Airline],
    account: &Account,
    elapsed: Duration,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", airline_table(airlines))?;
    writeln!(out, "{}", source_table(pipeline))?;
    writeln!(out, "{}", level_table(pipeline))?;
    let seconds = elapsed.as_secs_f64();
    let rate = account.read as f64 / seconds.max(f64::MIN_POSITIVE);
    writeln!(out, "{rate:.0} rows/s: {} rows in {seconds:.2} s", account.read)?;
    writeln!(out, "written to {}", pipeline.database.path().display())?;
    if account.holds() {
        let Account { read, loaded, dead } = account;
        writeln!(out, "accounted: {read} read = {loaded} loaded + {dead} dead-lettered")?;
    }
    out.flush()
}

fn airline_table(airlines: &[Airline]) -> Table {
    let header = ["carrier", "airline", "flights", "mean dep delay", "mean arr delay"];
    let mut table = table(&header, 2);
    for airline in airlines {
        table.add_row([
            airline.carrier.clone().unwrap_or_else(|| "(none)".to_owned()),
            airline.name.clone().unwrap_or_else(|| "(unknown)".to_owned()),
            airline.flights.to_string(),
            minutes(airline.dep_delay),
            minutes(airline.arr_delay),
        ]);
    }
    table
}

fn source_table(pipeline: &Pipeline) -> Table {
    let header = ["source", "rows read", "time slowed", "time paused"];
    let mut table = table(&header, 1);
    for origin in &pipeline.origins {
        let tally = &origin.tally;
        table.add_row([
            origin.name.to_owned(),
            tally.read.get().to_string(),
            format!("{:.3} s", tally.slowed.get().as_secs_f64()),
            format!("{:.3} s", tally.paused.get().as_secs_f64()),
        ]);
    }
    table
}

fn level_table(pipeline: &Pipeline) -> Table {
    let mut table = table(&["cap", "highest level"], 1);
    let of = |held: usize, cap: usize| format!("{held} of {cap}");
    table.add_row(["whole buffer".to_owned(), of(pipeline.level.highest(), pipeline.capacity)]);
    for step in pipeline.steps() {
        let highest = of(step.level.highest(), step.handle.capacity());
        table.add_row([format!("stage {}", step.handle.id()), highest]);
    }
    for origin in &pipeline.origins {
        let highest = of(origin.tally.level.highest(), origin.handle.capacity());
        table.add_row([format!("source {}", origin.name), highest]);
    }
    table
}

/// An empty table whose columns are numbers, but for the first few.
fn table(header: &[&str], texts: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(texts) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn minutes(mean: Option<f64>) -> String {
    mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.2}"))
}
