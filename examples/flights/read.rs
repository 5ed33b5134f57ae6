//! Reading the CSV files: a first look that finds the sources, and the thread of each source.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use conveyor_buffer::BackpressureSignal;
use csv::{ByteRecord, Reader, ReaderBuilder};

use crate::control::Control;
use crate::error::Error;
use crate::flight::{Columns, Flight};
use crate::pipeline::{Origin, Pipeline, nap};

/// The source of the rows that name no airport, and of those whose airport came too late.
const OTHER: &str = "other";

/// How many airports have a source of their own, so that a file full of made-up codes does not make
/// thousands of threads.
const MAX_AIRPORTS: usize = 16;

/// The first and the longest rest after a push of a source that was asked to slow down. Each is twice
/// the one before, so that the sources fall behind even a slow disk, and the level sinks.
const REST: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(64));

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

fn open(path: &Path) -> Result<Reader<File>, Error> {
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
    file: Option<(usize, Reader<File>)>,
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

/// The thread of one source: reads its rows and pushes them, as fast as the signals let it.
///
/// # Errors
///
/// The file that cannot be read, or a refusal that no waiting will mend.
pub fn push_rows(pipeline: &Pipeline, origin: &Origin) -> Result<(), Error> {
    let mut rows = Rows::new(pipeline, origin.name);
    let mut pace = Pace::new(pipeline, origin);
    let mut read = 0;
    let mut held = Vec::new();
    while let Some(quota) = pace.quota() {
        while held.len() < quota {
            let Some(row) = rows.next()? else { break };
            held.push(row);
            read += 1;
        }
        if held.is_empty() {
            break;
        }
        let later = held.split_off(held.len().min(quota));
        let offered = held.len();
        held = match origin.handle.try_send_batch(&pipeline.parse.handle, held) {
            Ok(()) => Vec::new(),
            Err(refused) if refused.is_full() => {
                pipeline.note_refusal(origin, &refused.reason);
                nap();
                refused.into_records()
            }
            // The rows in hand stay unread: nobody has promised anything about them.
            Err(refused) if refused.is_closed() => refused.into_records(),
            Err(refused) => {
                return Err(Error::Refused {
                    source: origin.name.to_owned(),
                    cause: refused.reason,
                });
            }
        };
        origin.tally.accepted.add(offered - held.len());
        pipeline.note_push(origin);
        // What was refused is offered again first.
        held.extend(later);
        pace.rest();
    }
    origin.tally.read.add(read - held.len());
    Ok(())
}

/// How a source follows its signals: at normal rate it pushes whole batches; asked to slow down, it
/// pushes half of one at a time and rests; asked to pause, it waits.
struct Pace<'p> {
    pipeline: &'p Pipeline,
    origin: &'p Origin,
    signal: BackpressureSignal,
    /// How long to rest after the next push, if slowed.
    rest: Duration,
    /// Until when the time under `signal` is counted.
    counted: Instant,
}

impl<'p> Pace<'p> {
    fn new(pipeline: &'p Pipeline, origin: &'p Origin) -> Self {
        let signal = BackpressureSignal::Resume;
        Self { pipeline, origin, signal, rest: REST.0, counted: Instant::now() }
    }

    /// How many rows to push next, at least 1, waiting out a pause; `None` when the buffer closes.
    fn quota(&mut self) -> Option<usize> {
        // More than a cap can never be accepted at once.
        let normal = self
            .pipeline
            .batch
            .min(self.origin.handle.capacity())
            .min(self.pipeline.parse.handle.capacity());
        while !self.pipeline.control.is_stopping() {
            match self.observe() {
                BackpressureSignal::Resume => return Some(normal),
                BackpressureSignal::SlowDown => return Some(normal.div_ceil(2)),
                BackpressureSignal::Pause => nap(),
            }
        }
        None
    }

    /// Rests after a push, if the source is slowed, for as long as it stays so.
    fn rest(&mut self) {
        let rested = Instant::now();
        while self.observe() == BackpressureSignal::SlowDown {
            if rested.elapsed() >= self.rest {
                self.rest = REST.1.min(self.rest * 2);
                return;
            }
            thread::sleep(REST.0);
        }
        self.rest = REST.0;
    }

    fn observe(&mut self) -> BackpressureSignal {
        self.count_time();
        let signal = self.origin.handle.signal();
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

impl Drop for Pace<'_> {
    fn drop(&mut self) {
        self.count_time();
    }
}
