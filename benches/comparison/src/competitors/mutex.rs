//! The three caps under one `parking_lot::Mutex`, as a careful first version would have them. A batch
//! takes the lock once, and no record is dropped and nothing is allocated under the lock.
//!
//! It does less than the library: a record's credits are free as soon as it is taken, so that taking
//! settles it, and a record that was taken cannot be returned.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{BlockingRows, Caps, Description, Rows, runs, see_all};
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::conveyor::LINGER;
use crate::common::work::{Competitor, Consume, GLOBAL_CAP, Produce, SOURCE_CAP, STAGE_CAP};
use crate::common::{Medium, Sourced};

pub const MUTEX: Description = Description {
    name: "mutex",
    package: "parking_lot",
    caps: Caps::UntilTaken,
    how: "one `Mutex` around all counts and a `VecDeque` for each stage; a batch takes the lock \
          once; to wait, two `Condvar`s",
};

pub fn rows<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Locked<R>>(MUTEX, "");
}

pub fn blocking(rows: &mut impl BlockingRows) {
    rows.add::<Locked<Medium, true>>(MUTEX, "lingering");
    rows.add::<Locked<Medium>>(MUTEX, "as it comes");
}

pub fn blocking_as_it_comes(rows: &mut impl BlockingRows) {
    rows.add::<Locked<Medium>>(MUTEX, "");
}

/// In the calls that wait, workers take what there is, or linger for a full batch if `LINGERS`, as the
/// library's do.
pub struct Locked<R, const LINGERS: bool = false>(Arc<Shared<R>>);

struct Shared<R> {
    books: Mutex<Books<R>>,
    /// Workers wait here: there are as many records as one of them waits for.
    filled: Condvar,
    /// Producers wait here: there is room.
    freed: Condvar,
}

struct Books<R> {
    closed: bool,
    /// The fewest records that a worker waits for, at the only stage that workers wait at.
    awaited: usize,
    held: usize,
    sources: Vec<usize>,
    stages: Vec<VecDeque<R>>,
}

impl<R: Sourced> Books<R> {
    /// Returns how many more records a source may push to a stage.
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

    /// Moves up to `max` records to `records`, which is empty.
    fn take(&mut self, stage: usize, max: usize, records: &mut Vec<R>) {
        let stage = &mut self.stages[stage];
        let taken = max.min(stage.len());
        records.extend(stage.drain(..taken));
        for (source, records) in runs(records) {
            self.release(source, records);
        }
    }
}

impl<R: Sourced, const LINGERS: bool> Competitor<R> for Locked<R, LINGERS> {
    type Producer = Producer<R>;
    type Consumer = Consumer<R, LINGERS>;

    fn new(sources: usize, stages: usize, _workers: usize) -> Self {
        let stages = (0..stages).map(|_| VecDeque::new()).collect();
        let books = Books {
            closed: false,
            awaited: usize::MAX,
            held: 0,
            sources: vec![0; sources],
            stages,
        };
        let books = Mutex::new(books);
        Self(Arc::new(Shared { books, filled: Condvar::new(), freed: Condvar::new() }))
    }
    fn producer(&mut self, source: usize, stage: usize) -> Producer<R> {
        Producer { shared: Arc::clone(&self.0), source, stage }
    }
    fn consumer(&mut self, stage: usize) -> Consumer<R, LINGERS> {
        Consumer { shared: Arc::clone(&self.0), stage, records: Vec::new() }
    }
}

pub struct Producer<R> {
    shared: Arc<Shared<R>>,
    source: usize,
    stage: usize,
}

impl<R: Sourced> Produce<R> for Producer<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        let mut books = self.shared.books.lock();
        if books.room(self.source, self.stage) == 0 {
            return Err(record);
        }
        books.admit(self.source, 1);
        books.stages[self.stage].push_back(record);
        Ok(())
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        let mut books = self.shared.books.lock();
        let fits = records.len().min(books.room(self.source, self.stage));
        books.admit(self.source, fits);
        books.stages[self.stage].extend(records.drain(..fits));
    }
}

pub struct Consumer<R, const LINGERS: bool> {
    shared: Arc<Shared<R>>,
    stage: usize,
    records: Vec<R>,
}

impl<R: Sourced, const LINGERS: bool> Consume<R> for Consumer<R, LINGERS> {
    fn take(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
        if max == 1 {
            let taken = self.shared.books.lock().take_one(self.stage);
            return taken.map_or(0, |record| {
                see(&record);
                1
            });
        }
        self.shared.books.lock().take(self.stage, max, &mut self.records);
        see_all(&mut self.records, see)
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        self.shared.books.lock().take(self.stage, max, records);
    }
}

impl<R: Sourced, const LINGERS: bool> BlockingCompetitor<R> for Locked<R, LINGERS> {
    fn close(self) {
        self.0.books.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl<R: Sourced> ProduceBlocking<R> for Producer<R> {
    fn push_blocking(&mut self, record: R) {
        let mut books = self.shared.books.lock();
        let full = |books: &mut Books<R>| books.room(self.source, self.stage) == 0;
        self.shared.freed.wait_while(&mut books, full);
        books.admit(self.source, 1);
        books.stages[self.stage].push_back(record);
        let enough = books.stages[self.stage].len() >= books.awaited;
        if enough {
            books.awaited = usize::MAX;
        }
        drop(books);
        if enough {
            self.shared.filled.notify_all();
        }
    }
}

impl<R: Sourced, const LINGERS: bool> ConsumeBlocking<R> for Consumer<R, LINGERS> {
    fn take_blocking(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        let mut books = self.shared.books.lock();
        let too_few = |books: &mut Books<R>, wanted: usize| {
            let wait = books.stages[self.stage].len() < wanted && !books.closed;
            if wait {
                books.awaited = books.awaited.min(wanted);
            }
            wait
        };
        // While this worker lingers, others may take all records.
        while self.records.is_empty() {
            self.shared.filled.wait_while(&mut books, |books| too_few(books, 1));
            if LINGERS {
                let wait = |books: &mut Books<R>| too_few(books, max);
                self.shared.filled.wait_while_for(&mut books, wait, LINGER);
            }
            books.take(self.stage, max, &mut self.records);
            if books.closed {
                break;
            }
        }
        drop(books);
        // Producers may wait for different caps, so all of them look again.
        self.shared.freed.notify_all();
        see_all(&mut self.records, see)
    }
}
