//! Reading the CSV files: a first look that finds the sources, and the reader of each source.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use conveyor_buffer::{BackpressureSignal, RejectedBatch, SignalReceiver};
use csv::{ByteRecord, ReaderBuilder};

use crate::control::Control;
use crate::error::Error;
use crate::flight::{Columns, Flight};
use crate::pipeline::{Origin, Pipeline};

/// The source of the rows that name no airport, and of those whose airport came too late.
const OTHER: &str = "other";

/// How many airports have a source of their own, so that a file full of made-up codes does not make
/// thousands of threads.
const MAX_AIRPORTS: usize = 16;

/// How long a source that was asked to slow down rests after each push, if nothing changes.
pub const REST: Duration = Duration::from_millis(10);

/// What a first pass over the files found.
pub struct Survey {
    /// The columns of each file.
    pub columns: Vec<Columns>,
    /// Each source with its number of rows. The names are few and live as long as the program.
    pub sources: Vec<(&'static str, u64)>,
}

impl Survey {
    /// Looks for the columns of each file, and counts the rows of each source.
    ///
    /// # Errors
    ///
    /// The file that cannot be read.
    pub fn take(files: &[PathBuf], control: &Control) -> Result<Self, Error> {
        let mut columns = Vec::new();
        let mut airports = BTreeMap::<String, u64>::new();
        let mut other = 0;
        let mut row = ByteRecord::new();
        for path in files {
            let mut reader = open(path)?;
            let failed = |cause| Error::file(path, cause);
            let header = reader.byte_headers().map_err(failed)?;
            let found = Columns::from_header(header).map_err(|cause| Error::file(path, cause))?;
            // After Ctrl-C nothing will be read, and so nothing need be counted.
            while !control.is_stopping() && reader.read_byte_record(&mut row).map_err(failed)? {
                let airport = found.airport(&row);
                if let Some(count) = airport.and_then(|airport| airports.get_mut(airport)) {
                    *count += 1;
                } else if let Some(airport) = airport.filter(|_| airports.len() < MAX_AIRPORTS) {
                    airports.insert(airport.to_owned(), 1);
                } else {
                    other += 1;
                }
            }
            columns.push(found);
        }
        let mut sources: Vec<_> =
            airports.into_iter().map(|(airport, rows)| (&*airport.leak(), rows)).collect();
        if other > 0 {
            sources.push((OTHER, other));
        }
        Ok(Self { columns, sources })
    }
}

fn open(path: &Path) -> Result<csv::Reader<File>, Error> {
    // A pipe could be read once only.
    if !fs::metadata(path).map_err(|cause| Error::file(path, cause))?.is_file() {
        return Err(Error::file(path, "not a regular file"));
    }
    let file = File::open(path).map_err(|cause| Error::file(path, cause))?;
    // Every line is a row, come what may: a quote that is never closed must not swallow the lines
    // after it. What is wrong with a line is for parse to find.
    Ok(ReaderBuilder::new().flexible(true).quoting(false).from_reader(file))
}

/// The rows of one source, from all files.
struct Rows<'p> {
    pipeline: &'p Pipeline,
    name: &'static str,
    /// The file that is being read, and its place among the files.
    file: Option<(usize, csv::Reader<File>)>,
    /// How many files were opened so far.
    opened: usize,
    row: ByteRecord,
}

impl<'p> Rows<'p> {
    fn new(pipeline: &'p Pipeline, name: &'static str) -> Self {
        Self { pipeline, name, file: None, opened: 0, row: ByteRecord::new() }
    }

    fn next(&mut self) -> Result<Option<Flight>, Error> {
        loop {
            let Some((file, reader)) = &mut self.file else {
                let Some(path) = self.pipeline.files.get(self.opened) else { return Ok(None) };
                self.file = Some((self.opened, open(path)?));
                self.opened += 1;
                continue;
            };
            let failed = |cause| Error::file(&self.pipeline.files[*file], cause);
            if !reader.read_byte_record(&mut self.row).map_err(failed)? {
                self.file = None;
                continue;
            }
            let airport = self.pipeline.columns[*file].airport(&self.row);
            let is_mine = match airport.filter(|airport| self.pipeline.has_source(airport)) {
                Some(airport) => airport == self.name,
                None => self.name == OTHER,
            };
            if is_mine {
                return Ok(Some(Flight::new(self.name, *file, self.row.clone())));
            }
        }
    }
}

/// A source at work: reads its rows, and follows its signals. At normal rate it reads whole batches;
/// asked to slow down, half of one at a time.
pub struct Reader<'p> {
    pipeline: &'p Pipeline,
    origin: &'p Origin,
    rows: Rows<'p>,
    signal: BackpressureSignal,
    /// Until when the time under `signal` is counted.
    counted: Instant,
}

impl<'p> Reader<'p> {
    pub fn new(pipeline: &'p Pipeline, origin: &'p Origin) -> Self {
        let rows = Rows::new(pipeline, origin.name);
        let signal = BackpressureSignal::Resume;
        Self { pipeline, origin, rows, signal, counted: Instant::now() }
    }

    /// From now on follows the signal that stands, and tells which it is.
    pub fn follow(&mut self, signals: &SignalReceiver) -> BackpressureSignal {
        self.count_time();
        let signal = signals.current();
        if signal != self.signal {
            self.signal = signal;
            let source = self.origin.handle.utilization() * 100.0;
            let whole = self.pipeline.utilization() * 100.0;
            self.pipeline.console.say_signal(&format!(
                "{}: {signal} (source {source:.0} %, whole buffer {whole:.0} %)",
                self.origin.name
            ));
        }
        signal
    }

    /// The rows to push next. None are left when it is empty.
    ///
    /// # Errors
    ///
    /// The file that cannot be read.
    pub fn read(&mut self) -> Result<Vec<Flight>, Error> {
        let is_slowed = self.signal != BackpressureSignal::Resume;
        let most = self.pipeline.batch;
        let most = if is_slowed { most.div_ceil(2) } else { most };
        let mut rows = Vec::with_capacity(most);
        while rows.len() < most {
            let Some(row) = self.rows.next()? else { break };
            rows.push(row);
        }
        Ok(rows)
    }

    /// Takes note of what became of so many rows. Those that are handed back because the buffer was
    /// closed count as unread: nobody has promised anything about them.
    ///
    /// # Errors
    ///
    /// A refusal for another reason.
    pub fn note(
        &self,
        rows: usize,
        pushed: Result<(), RejectedBatch<Flight>>,
    ) -> Result<(), Error> {
        match pushed {
            Ok(()) => {
                self.origin.tally.read.add(rows);
                self.pipeline.note_push(self.origin);
                Ok(())
            }
            Err(refused) if refused.is_closed() => Ok(()),
            Err(refused) => {
                let source = self.origin.name.to_owned();
                Err(Error::Refused { source, cause: refused.reason })
            }
        }
    }

    fn count_time(&mut self) {
        let now = Instant::now();
        let time = now - self.counted;
        self.counted = now;
        match self.signal {
            BackpressureSignal::Resume => {}
            BackpressureSignal::SlowDown => self.origin.tally.slowed.add(time),
            BackpressureSignal::Pause => self.origin.tally.paused.add(time),
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.count_time();
    }
}
