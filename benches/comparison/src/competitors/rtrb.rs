//! rtrb: a wait-free ring for one producer and one worker. It counts nothing but its own length, so
//! that it is the limit for single records.

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Caps, Description, Ends, Rows, take_each};
use crate::common::Sourced;
use crate::common::work::{Competitor, Consume, Produce, STAGE_CAP};

pub const RTRB: Description = Description {
    name: "rtrb",
    package: "rtrb",
    caps: Caps::Length,
    how: "`push` and `pop`; `read_chunk` for many, read in place; `write_chunk_uninit` for batches; \
          the limit for one producer and one worker",
};

pub fn rows<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Rtrb<R>>(RTRB, "");
}

/// With one producer and one worker for each stage.
pub struct Rtrb<R>(Vec<Ends<Producer<R>, Consumer<R>>>);

impl<R: Sourced> Competitor<R> for Rtrb<R> {
    type Producer = Producer<R>;
    type Consumer = Consumer<R>;

    fn new(_sources: usize, stages: usize, workers: usize) -> Self {
        assert_eq!(workers, 1);
        let stage = |(producer, consumer)| (Some(producer), Some(consumer));
        Self((0..stages).map(|_| stage(RingBuffer::new(STAGE_CAP))).collect())
    }
    fn producer(&mut self, _source: usize, stage: usize) -> Producer<R> {
        self.0[stage].0.take().expect("one producer for each stage")
    }
    fn consumer(&mut self, stage: usize) -> Consumer<R> {
        self.0[stage].1.take().expect("one worker for each stage")
    }
}

impl<R: Sourced> Produce<R> for Producer<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        Producer::push(self, record).map_err(|rtrb::PushError::Full(record)| record)
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        let fits = records.len().min(self.slots());
        if let Ok(chunk) = self.write_chunk_uninit(fits) {
            chunk.fill_from_iter(records.drain(..fits));
        }
    }
}

impl<R: Sourced> Consume<R> for Consumer<R> {
    fn take(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
        if max == 1 {
            return take_each(1, || self.pop().ok(), see);
        }
        let Ok(chunk) = self.read_chunk(max.min(self.slots())) else { return 0 };
        let taken = chunk.len();
        let (front, back) = chunk.as_slices();
        front.iter().chain(back).for_each(&mut see);
        chunk.commit_all();
        taken
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        if let Ok(chunk) = self.read_chunk(max.min(self.slots())) {
            records.extend(chunk);
        }
    }
}
