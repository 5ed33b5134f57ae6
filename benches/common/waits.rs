//! The same flow of records by calls that wait: a thread that finds the buffer full or empty sleeps in
//! it, and is woken by it.

use std::hint::black_box;
use std::time::Duration;

use super::Sourced;
use super::work::{Contender, Flow};

/// A buffer that threads wait at.
pub trait Waits<R: Sourced>:
    Contender<R, Producer: WaitingProducer<R>, Worker: WaitingWorker<R>>
{
    /// Tells the workers that nothing more will come. The producers are gone by then, which is enough
    /// for a channel.
    fn close(self) {}
}

pub trait WaitingProducer<R> {
    /// Pushes one record, as soon as there is room for it.
    fn push_or_wait(&mut self, record: R);
}

pub trait WaitingWorker<R> {
    /// Takes up to `max` records, as soon as it can, shows each to `see`, and settles them. Tells how
    /// many: none when all producers are gone and nothing is left.
    fn take_or_wait(&mut self, max: usize, see: impl FnMut(&mut R)) -> usize;
}

impl Flow {
    /// [`run`](Self::run) by calls that wait, with one stage and single pushes.
    pub fn run_waiting<R: Sourced, C: Waits<R>>(self, records: u64) -> Duration {
        assert_eq!((self.stages, self.push), (1, 1));
        let mut contender = C::new(self.sources, 1, self.workers);
        let producers: Vec<_> =
            (0..self.producers).map(|p| contender.producer(p % self.sources, 0)).collect();
        let workers: Vec<_> = (0..self.workers).map(|_| contender.worker(0)).collect();

        self.time(
            records,
            producers,
            workers,
            |mut way, source, share| {
                (0..share).for_each(|_| way.push_or_wait(black_box(R::of(source))));
            },
            |mut way| {
                let mut taken = 0;
                loop {
                    match way.take_or_wait(self.take, |record| _ = black_box(record)) {
                        0 => return taken,
                        now => taken += now as u64,
                    }
                }
            },
            || contender.close(),
        )
    }
}
