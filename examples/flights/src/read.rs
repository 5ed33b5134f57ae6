//! Reads the CSV files: a first pass finds the sources, and each source has a reader.

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

/// The source of rows without an airport, and of rows whose airport came after [`MAX_AIRPORTS`]
/// others.
const OTHER: &str = "other";

/// The most airports with a source of their own: a file of invented codes must not start thousands
/// of threads.
const MAX_AIRPORTS: usize = 16;

/// How long a source that was asked to slow down rests after each push, unless its signal changes.
pub const REST: Duration = Duration::from_millis(10);

/// The result of a first pass over the files.
pub struct Survey {
    /// The columns of each file.
    pub columns: Vec<Columns>,
    /// Each source with its number of rows. The names are few and live as long as the program.
    pub sources: Vec<(&'static str, u64)>,
}

impl Survey {
    /// Finds the columns of each file and counts the rows of each source.
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
            // After Ctrl-C no row is read, so that none needs to be counted.
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
    // A pipe can be read only once, and this program reads twice.
    if !fs::metadata(path).map_err(|cause| Error::file(path, cause))?.is_file() {
        return Err(Error::file(path, "not a regular file"));
    }
    let file = File::open(path).map_err(|cause| Error::file(path, cause))?;
    // Every line is a row, even with an unclosed quote, which must not swallow the lines after it. The
    // parse stage finds what is wrong with a line.
    Ok(ReaderBuilder::new().flexible(true).quoting(false).from_reader(file))
}

/// The rows of one source, from all files.
struct Rows<'p> {
    pipeline: &'p Pipeline,
    name: &'static str,
    /// The file that is being read, and its place among the files.
    file: Option<(usize, csv::Reader<File>)>,
    /// The number of files opened so far.
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

/// Reads the rows of a source and follows its signals: whole batches at normal rate, half a batch
/// at a time when asked to slow down.
pub struct Reader<'p> {
    pipeline: &'p Pipeline,
    origin: &'p Origin,
    rows: Rows<'p>,
    signal: BackpressureSignal,
    /// The time under `signal` is counted up to this moment.
    counted: Instant,
}

impl<'p> Reader<'p> {
    pub fn new(pipeline: &'p Pipeline, origin: &'p Origin) -> Self {
        let rows = Rows::new(pipeline, origin.name);
        let signal = BackpressureSignal::Resume;
        Self { pipeline, origin, rows, signal, counted: Instant::now() }
    }

    /// Follows the present signal from now on, and returns it.
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

    /// Returns the rows to push next: none at the end of the files.
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

    /// Counts the rows of a push. Rows handed back because the buffer was closed count as unread,
    /// since the buffer has not accepted them.
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
