//! The same work by calls that wait: a thread that finds the buffer full or empty sleeps in the
//! call.

use std::hint::black_box;
use std::time::Duration;

use super::Sourced;
use super::work::{Competitor, Flow};

/// A competitor with calls that wait.
pub trait BlockingCompetitor<R: Sourced>:
    Competitor<R, Producer: ProduceBlocking<R>, Consumer: ConsumeBlocking<R>>
{
    /// Tells the workers that no more records will come. By default does nothing: a channel closes
    /// when its producers are dropped, which happens before this call.
    fn close(self) {}
}

pub trait ProduceBlocking<R> {
    /// Pushes one record, and waits for room if the buffer is full.
    fn push_blocking(&mut self, record: R);
}

pub trait ConsumeBlocking<R> {
    /// Waits for records, takes up to `max`, shows each to `see`, settles them and returns their
    /// number: 0 if the buffer is closed and empty.
    fn take_blocking(&mut self, max: usize, see: impl FnMut(&R)) -> usize;
}

impl Flow {
    /// Does the work of [`run`](Self::run) by calls that wait, with one stage and single pushes.
    pub fn run_blocking<R: Sourced, C: BlockingCompetitor<R>>(self, records: u64) -> Duration {
        assert_eq!((self.stages, self.push), (1, 1));
        let mut competitor = C::new(self.sources, 1, self.workers);
        let producers: Vec<_> =
            (0..self.producers).map(|p| competitor.producer(p % self.sources, 0)).collect();
        let consumers: Vec<_> = (0..self.workers).map(|_| competitor.consumer(0)).collect();

        self.time(
            records,
            producers,
            consumers,
            |mut producer, source, share| {
                (0..share).for_each(|_| producer.push_blocking(black_box(R::of(source))));
                // Dropping the producer publishes what it has gathered.
            },
            |mut consumer| {
                let mut taken = 0;
                loop {
                    match consumer.take_blocking(self.take, |record| self.see(record)) {
                        0 => return taken,
                        now => taken += now as u64,
                    }
                }
            },
            || competitor.close(),
        )
    }
}
