//! Producers that gather single records into blocks. A producer takes room for a block ahead and so
//! holds the caps exactly; it takes the lock once for each block, not for each record.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::{Condvar, Mutex};

use super::Counts;
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::conveyor::LINGER;
use crate::common::work::{Competitor, Consume, Produce};
use crate::common::{BATCH, Sourced};
use crate::competitors::{runs, see_all};

/// The records of a full block: as many as a worker takes at once.
const BLOCK: usize = BATCH;

/// In the calls that wait, workers take what there is, or linger for a full batch if `LINGERS`.
pub struct Gathering<R, const LINGERS: bool = false>(Arc<Shared<R>>);

struct Shared<R> {
    books: Mutex<Books<R>>,
    /// The fewest records that a worker waits for, at the only stage that workers wait at. Written
    /// under the lock, and read without it by producers: a hint to publish a block that is not
    /// full.
    awaited: AtomicUsize,
    /// Workers wait here: there are as many records as one of them waits for.
    filled: Condvar,
    /// Producers wait here: there is room.
    freed: Condvar,
}

struct Books<R> {
    closed: bool,
    counts: Counts,
    stages: Vec<Stage<R>>,
}

struct Stage<R> {
    blocks: VecDeque<Vec<R>>,
    records: usize,
}

impl<R: Sourced> Books<R> {
    /// Moves up to `max` records to `records`, which is empty, and frees their room. Hands on the
    /// first block as it is if it is not too large, and returns the allocation that it replaces.
    fn take(&mut self, stage: usize, max: usize, records: &mut Vec<R>) -> Vec<R> {
        let Stage { blocks, records: left } = &mut self.stages[stage];
        let mut replaced = Vec::new();
        while let Some(block) = blocks.front_mut() {
            let fits = max - records.len();
            if block.len() > fits {
                // Cuts a block only if it is the first.
                if records.is_empty() {
                    records.extend(block.drain(..fits));
                }
                break;
            }
            let Some(mut block) = blocks.pop_front() else { break };
            if records.is_empty() {
                replaced = std::mem::replace(records, block);
            } else {
                records.append(&mut block);
            }
        }
        *left -= records.len();
        for (source, records) in runs(records) {
            self.counts.release(source, stage, records);
        }
        replaced
    }
}

impl<R: Sourced, const LINGERS: bool> Competitor<R> for Gathering<R, LINGERS> {
    type Producer = Producer<R>;
    type Consumer = Consumer<R, LINGERS>;

    fn new(sources: usize, stages: usize, _workers: usize) -> Self {
        let stage = |_| Stage { blocks: VecDeque::new(), records: 0 };
        let books = Mutex::new(Books {
            closed: false,
            counts: Counts::new(sources, stages),
            stages: (0..stages).map(stage).collect(),
        });
        Self(Arc::new(Shared {
            books,
            awaited: AtomicUsize::new(usize::MAX),
            filled: Condvar::new(),
            freed: Condvar::new(),
        }))
    }
    fn producer(&mut self, source: usize, stage: usize) -> Producer<R> {
        Producer { shared: Arc::clone(&self.0), source, stage, open: Vec::new(), ahead: 0 }
    }
    fn consumer(&mut self, stage: usize) -> Consumer<R, LINGERS> {
        Consumer { shared: Arc::clone(&self.0), stage, records: Vec::new() }
    }
}

pub struct Producer<R: Sourced> {
    shared: Arc<Shared<R>>,
    source: usize,
    stage: usize,
    /// The block that is being filled. Empty if no room is left ahead.
    open: Vec<R>,
    /// Records for which room is taken ahead.
    ahead: usize,
}

impl<R: Sourced> Producer<R> {
    /// Takes room for up to a block, or waits for some if `wait`. Returns whether there is any.
    fn reserve(&mut self, wait: bool) -> bool {
        let Self { ref shared, source, stage, .. } = *self;
        let mut books = shared.books.lock();
        if wait {
            let full = |books: &mut Books<R>| books.counts.room(source, stage) == 0;
            shared.freed.wait_while(&mut books, full);
        }
        self.ahead = BLOCK.min(books.counts.room(source, stage));
        books.counts.admit(source, stage, self.ahead);
        self.ahead > 0
    }

    fn gather(&mut self, record: R) {
        self.ahead -= 1;
        self.open.push(record);
        if self.ahead == 0 || self.open.len() >= self.shared.awaited.load(Relaxed) {
            self.publish(true);
        }
    }

    /// Publishes the open block. Takes room for the next if none is left and `go_on`; otherwise
    /// gives back what is left.
    fn publish(&mut self, go_on: bool) {
        let Self { ref shared, source, stage, .. } = *self;
        // A block that was published early is a sign that the next will be as well.
        let next = Vec::with_capacity((2 * self.open.len()).clamp(4, BLOCK));
        let mut books = shared.books.lock();
        let block = std::mem::replace(&mut self.open, next);
        if !block.is_empty() {
            let stage = &mut books.stages[stage];
            stage.records += block.len();
            stage.blocks.push_back(block);
        }
        let enough = books.stages[stage].records >= shared.awaited.load(Relaxed);
        if enough {
            shared.awaited.store(usize::MAX, Relaxed);
        }
        let mut given_back = 0;
        if !go_on {
            given_back = std::mem::take(&mut self.ahead);
            books.counts.release(source, stage, given_back);
        } else if self.ahead == 0 {
            self.ahead = BLOCK.min(books.counts.room(source, stage));
            books.counts.admit(source, stage, self.ahead);
        }
        drop(books);
        if enough {
            shared.filled.notify_all();
        }
        if given_back > 0 {
            shared.freed.notify_all();
        }
    }
}

impl<R: Sourced> Produce<R> for Producer<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        if self.ahead == 0 && !self.reserve(false) {
            return Err(record);
        }
        self.gather(record);
        Ok(())
    }

    fn flush(&mut self) {
        if self.ahead > 0 || !self.open.is_empty() {
            self.publish(false);
        }
    }
}

impl<R: Sourced> Drop for Producer<R> {
    fn drop(&mut self) {
        self.flush();
    }
}

pub struct Consumer<R, const LINGERS: bool> {
    shared: Arc<Shared<R>>,
    stage: usize,
    records: Vec<R>,
}

impl<R: Sourced, const LINGERS: bool> Consume<R> for Consumer<R, LINGERS> {
    fn take(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        let replaced = self.shared.books.lock().take(self.stage, max, &mut self.records);
        drop(replaced);
        see_all(&mut self.records, see)
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        let replaced = self.shared.books.lock().take(self.stage, max, records);
        drop(replaced);
    }
}

impl<R: Sourced, const LINGERS: bool> BlockingCompetitor<R> for Gathering<R, LINGERS> {
    fn close(self) {
        self.0.books.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl<R: Sourced> ProduceBlocking<R> for Producer<R> {
    fn push_blocking(&mut self, record: R) {
        if self.ahead == 0 {
            self.reserve(true);
        }
        self.gather(record);
    }
}

impl<R: Sourced, const LINGERS: bool> ConsumeBlocking<R> for Consumer<R, LINGERS> {
    fn take_blocking(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        let Shared { books, awaited, filled, freed } = &*self.shared;
        let mut books = books.lock();
        let too_few = |books: &mut Books<R>, wanted: usize| {
            let wait = books.stages[self.stage].records < wanted && !books.closed;
            if wait {
                awaited.fetch_min(wanted, Relaxed);
            }
            wait
        };
        let mut replaced = Vec::new();
        // While this worker lingers, others may take all records.
        while self.records.is_empty() {
            filled.wait_while(&mut books, |books| too_few(books, 1));
            if LINGERS {
                let wait = |books: &mut Books<R>| too_few(books, max);
                filled.wait_while_for(&mut books, wait, LINGER);
            }
            replaced = books.take(self.stage, max, &mut self.records);
            if books.closed {
                break;
            }
        }
        drop(books);
        drop(replaced);
        // Producers may wait for different caps, so all of them look again.
        freed.notify_all();
        see_all(&mut self.records, see)
    }
}
