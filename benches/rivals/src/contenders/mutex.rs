//! The same three caps under one `parking_lot::Mutex`: what one would write first, with care. A batch
//! takes the lock once, and nothing is dropped or allocated under it that need not be.
//!
//! It has less to do than the library: a record's credits are free as soon as it is taken, so that
//! taking and settling are one.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{runs, see_all};
use crate::common::Sourced;
use crate::common::work::{Contender, GLOBAL_CAP, Producer, SOURCE_CAP, STAGE_CAP, Worker};

pub struct Locked<R>(Arc<Mutex<Books<R>>>);

struct Books<R> {
    held: usize,
    sources: Vec<usize>,
    stages: Vec<VecDeque<R>>,
}

impl<R: Sourced> Books<R> {
    /// How many more records may go from a source to a stage.
    fn room(&self, source: usize, stage: usize) -> usize {
        let global = GLOBAL_CAP - self.held;
        let source = SOURCE_CAP - self.sources[source];
        let stage = STAGE_CAP - self.stages[stage].len();
        global.min(source).min(stage)
    }

    fn admit(&mut self, source: usize, records: usize) {
        self.held += records;
        self.sources[source] += records;
    }

    fn release(&mut self, source: usize, records: usize) {
        self.held -= records;
        self.sources[source] -= records;
    }

    fn take_one(&mut self, stage: usize) -> Option<R> {
        let record = self.stages[stage].pop_front()?;
        self.release(record.source() as usize, 1);
        Some(record)
    }

    /// `records` is empty.
    fn take(&mut self, stage: usize, max: usize, records: &mut Vec<R>) {
        let stage = &mut self.stages[stage];
        let taken = max.min(stage.len());
        records.extend(stage.drain(..taken));
        for (source, records) in runs(records) {
            self.release(source, records);
        }
    }
}

impl<R: Sourced> Contender<R> for Locked<R> {
    type Producer = Way<R>;
    type Worker = Out<R>;

    fn new(sources: usize, stages: usize, _workers: usize) -> Self {
        let stages = (0..stages).map(|_| VecDeque::new()).collect();
        Self(Arc::new(Mutex::new(Books { held: 0, sources: vec![0; sources], stages })))
    }
    fn producer(&mut self, source: usize, stage: usize) -> Way<R> {
        Way { books: Arc::clone(&self.0), source, stage }
    }
    fn worker(&mut self, stage: usize) -> Out<R> {
        Out { books: Arc::clone(&self.0), stage, records: Vec::new() }
    }
}

pub struct Way<R> {
    books: Arc<Mutex<Books<R>>>,
    source: usize,
    stage: usize,
}

impl<R: Sourced> Producer<R> for Way<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        let mut books = self.books.lock();
        if books.room(self.source, self.stage) == 0 {
            return Err(record);
        }
        books.admit(self.source, 1);
        books.stages[self.stage].push_back(record);
        Ok(())
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        let mut books = self.books.lock();
        let fits = records.len().min(books.room(self.source, self.stage));
        books.admit(self.source, fits);
        books.stages[self.stage].extend(records.drain(..fits));
    }
}

pub struct Out<R> {
    books: Arc<Mutex<Books<R>>>,
    stage: usize,
    records: Vec<R>,
}

impl<R: Sourced> Worker<R> for Out<R> {
    fn take(&mut self, max: usize, mut see: impl FnMut(&mut R)) -> usize {
        if max == 1 {
            let taken = self.books.lock().take_one(self.stage);
            return taken.map_or(0, |mut record| {
                see(&mut record);
                1
            });
        }
        self.books.lock().take(self.stage, max, &mut self.records);
        see_all(&mut self.records, see)
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        self.books.lock().take(self.stage, max, records);
    }
}
