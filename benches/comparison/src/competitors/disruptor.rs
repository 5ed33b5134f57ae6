//! disruptor: a ring whose slots are written and read in place.
//!
//! Every reader of a disruptor sees every event, so that several workers cannot share the work: it
//! takes part with one producer and one worker, who polls. An event cannot be moved out of its
//! slot, so that it takes no part where batches are moved out. Its size is a power of two: the next
//! above the cap.

use disruptor::{
    BusySpin, EventPoller, Producer as _, SingleConsumerBarrier, SingleProducer,
    SingleProducerBarrier,
};

use super::{Caps, Description, Ends, Rows};
use crate::common::Sourced;
use crate::common::work::{Competitor, Consume, Produce, STAGE_CAP};

const DISRUPTOR: Description = Description {
    name: "disruptor",
    package: "disruptor",
    caps: Caps::Length,
    how: "`build_single_producer` with an `EventPoller`; `try_publish` and `take`, read in place",
};

pub fn rows<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Disruptor<R>>(DISRUPTOR, "");
}

/// With one producer and one worker for each stage.
pub struct Disruptor<R>(Vec<Ends<Producer<R>, Consumer<R>>>);

type Producer<R> = SingleProducer<R, SingleConsumerBarrier>;
type Consumer<R> = EventPoller<R, SingleProducerBarrier>;

impl<R: Sourced> Competitor<R> for Disruptor<R> {
    type Producer = Producer<R>;
    type Consumer = Consumer<R>;

    fn new(_sources: usize, stages: usize, workers: usize) -> Self {
        assert_eq!(workers, 1);
        let size = STAGE_CAP.next_power_of_two();
        let stage = |_| {
            let builder = disruptor::build_single_producer(size, || R::of(0), BusySpin);
            let (consumer, builder) = builder.new_event_poller();
            (Some(builder.build()), Some(consumer))
        };
        Self((0..stages).map(stage).collect())
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
        let mut record = Some(record);
        let _ = self.try_publish(|slot| *slot = record.take().expect("it is published once"));
        record.map_or(Ok(()), Err)
    }
}

impl<R: Sourced> Consume<R> for Consumer<R> {
    fn take(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
        let Ok(mut events) = EventPoller::take(self, max as u64) else { return 0 };
        let mut taken = 0;
        for event in &mut events {
            see(event);
            taken += 1;
        }
        taken
    }

    fn take_into(&mut self, _max: usize, _records: &mut Vec<R>) {
        unimplemented!("an event cannot be moved out of its slot");
    }
}
