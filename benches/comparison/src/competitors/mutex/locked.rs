//! A lock for each record in and another for each batch out. A batch takes the lock once, and no
//! record is dropped and nothing is allocated under the lock.
//!
//! In its first form it does less than the library: taking a record settles it, which frees its
//! room at once, and a record that was taken cannot be returned. With `SETTLES` it makes the same
//! promises, by a third lock.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Counts;
use crate::common::Sourced;
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::conveyor::LINGER;
use crate::common::work::{Competitor, Consume, Produce};
use crate::competitors::{runs, see_all};

/// In the calls that wait, workers take what there is, or linger for a full batch if `LINGERS`, as
/// the library's do.
pub struct Locked<R, const SETTLES: bool = false, const LINGERS: bool = false>(Arc<Shared<R>>);

/// With the same promises as the library.
pub type Settled<R, const LINGERS: bool = false> = Locked<R, true, LINGERS>;

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
    counts: Counts,
    stages: Vec<VecDeque<R>>,
}

impl<R: Sourced> Books<R> {
    fn release_all(&mut self, stage: usize, records: &[R]) {
        for (source, records) in runs(records) {
            self.counts.release(source, stage, records);
        }
    }

    /// Moves up to `max` records to `records`, which is empty.
    fn take(&mut self, stage: usize, max: usize, records: &mut Vec<R>) {
        let queue = &mut self.stages[stage];
        let taken = max.min(queue.len());
        records.extend(queue.drain(..taken));
    }
}

impl<R: Sourced, const SETTLES: bool, const LINGERS: bool> Competitor<R>
    for Locked<R, SETTLES, LINGERS>
{
    type Producer = Producer<R>;
    type Consumer = Consumer<R, SETTLES, LINGERS>;

    fn new(sources: usize, stages: usize, _workers: usize) -> Self {
        let books = Mutex::new(Books {
            closed: false,
            awaited: usize::MAX,
            counts: Counts::new(sources, stages),
            stages: (0..stages).map(|_| VecDeque::new()).collect(),
        });
        Self(Arc::new(Shared { books, filled: Condvar::new(), freed: Condvar::new() }))
    }
    fn producer(&mut self, source: usize, stage: usize) -> Self::Producer {
        Producer { shared: Arc::clone(&self.0), source, stage }
    }
    fn consumer(&mut self, stage: usize) -> Self::Consumer {
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
        if books.counts.room(self.source, self.stage) == 0 {
            return Err(record);
        }
        books.counts.admit(self.source, self.stage, 1);
        books.stages[self.stage].push_back(record);
        Ok(())
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        let mut books = self.shared.books.lock();
        let fits = records.len().min(books.counts.room(self.source, self.stage));
        books.counts.admit(self.source, self.stage, fits);
        books.stages[self.stage].extend(records.drain(..fits));
    }
}

pub struct Consumer<R, const SETTLES: bool, const LINGERS: bool> {
    shared: Arc<Shared<R>>,
    stage: usize,
    /// The records of the present batch.
    records: Vec<R>,
}

/// Records that a worker holds, which count until they are settled. It returns them when it is
/// dropped.
///
/// It borrows the worker, so that it costs no allocation and no count of references: the library's
/// batches do not.
struct Batch<'a, R: Sourced> {
    shared: &'a Shared<R>,
    stage: usize,
    records: &'a mut Vec<R>,
}

impl<R: Sourced> Batch<'_, R> {
    fn ack(self) {
        self.shared.books.lock().release_all(self.stage, self.records);
        self.records.clear();
    }

    fn into_records(self) -> Vec<R> {
        self.shared.books.lock().release_all(self.stage, self.records);
        std::mem::take(self.records)
    }
}

impl<R: Sourced> Drop for Batch<'_, R> {
    fn drop(&mut self) {
        if !self.records.is_empty() {
            let mut books = self.shared.books.lock();
            let queue = &mut books.stages[self.stage];
            self.records.drain(..).rev().for_each(|record| queue.push_front(record));
        }
    }
}

impl<R: Sourced, const SETTLES: bool, const LINGERS: bool> Consumer<R, SETTLES, LINGERS> {
    fn batch(&mut self) -> Batch<'_, R> {
        Batch { shared: &self.shared, stage: self.stage, records: &mut self.records }
    }

    /// Shows the records of the present batch and settles them, unless taking them has done so.
    fn settle(&mut self, see: impl FnMut(&R)) -> usize {
        if !SETTLES {
            return see_all(&mut self.records, see);
        }
        let taken = self.records.len();
        if taken > 0 {
            let batch = self.batch();
            batch.records.iter().for_each(see);
            batch.ack();
        }
        taken
    }
}

impl<R: Sourced, const SETTLES: bool, const LINGERS: bool> Consume<R>
    for Consumer<R, SETTLES, LINGERS>
{
    fn take(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
        let mut books = self.shared.books.lock();
        if max == 1 && !SETTLES {
            let Some(record) = books.stages[self.stage].pop_front() else { return 0 };
            books.counts.release(record.source() as usize, self.stage, 1);
            drop(books);
            see(&record);
            return 1;
        }
        books.take(self.stage, max, &mut self.records);
        if !SETTLES {
            books.release_all(self.stage, &self.records);
        }
        drop(books);
        self.settle(see)
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        let mut books = self.shared.books.lock();
        if SETTLES {
            std::mem::swap(&mut self.records, records);
            books.take(self.stage, max, &mut self.records);
            drop(books);
            *records = self.batch().into_records();
        } else {
            books.take(self.stage, max, records);
            books.release_all(self.stage, records);
        }
    }
}

impl<R: Sourced, const SETTLES: bool, const LINGERS: bool> BlockingCompetitor<R>
    for Locked<R, SETTLES, LINGERS>
{
    fn close(self) {
        self.0.books.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl<R: Sourced> ProduceBlocking<R> for Producer<R> {
    fn push_blocking(&mut self, record: R) {
        let mut books = self.shared.books.lock();
        let full = |books: &mut Books<R>| books.counts.room(self.source, self.stage) == 0;
        self.shared.freed.wait_while(&mut books, full);
        books.counts.admit(self.source, self.stage, 1);
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

impl<R: Sourced, const SETTLES: bool, const LINGERS: bool> ConsumeBlocking<R>
    for Consumer<R, SETTLES, LINGERS>
{
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
        if !SETTLES {
            books.release_all(self.stage, &self.records);
        }
        drop(books);
        // Producers may wait for different caps, so all of them look again when room is free.
        if !SETTLES {
            self.shared.freed.notify_all();
        }
        let taken = self.settle(see);
        if SETTLES {
            self.shared.freed.notify_all();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::work::SOURCE_CAP;
    use crate::common::{BATCH, Medium};

    #[test]
    fn records_in_a_batch_count_and_a_dropped_batch_comes_again_first() {
        let mut competitor = Settled::<Medium>::new(1, 1, 1);
        let mut producer = competitor.producer(0, 0);
        let mut worker = competitor.consumer(0);
        for n in 0..SOURCE_CAP {
            let mut record = Medium::of(0);
            record.payload[0] = n as u8;
            assert!(producer.push(record).is_ok());
        }
        worker.shared.books.lock().take(0, BATCH, &mut worker.records);
        let batch = worker.batch();
        assert_eq!(batch.records.len(), BATCH);
        assert!(producer.push(Medium::of(0)).is_err(), "the batch still counts");
        drop(batch);
        assert!(producer.push(Medium::of(0)).is_err(), "the returned records count");

        let mut marks = Vec::new();
        assert_eq!(worker.take(BATCH, |record| marks.push(record.payload[0])), BATCH);
        assert_eq!(marks, (0..BATCH as u8).collect::<Vec<_>>());
        assert!(producer.push(Medium::of(0)).is_ok(), "the batch was settled");
    }
}
