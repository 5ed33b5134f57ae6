//! The same flow of records by calls that wait: a thread that finds the buffer full or empty sleeps in
//! it, and is woken by it.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::Sourced;
use super::work::{Contender, Flow, share};

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

        let ready = &Barrier::new(self.producers + self.workers + 1);
        thread::scope(|scope| {
            let producers: Vec<_> = producers
                .into_iter()
                .enumerate()
                .map(|(p, mut way)| {
                    let share = share(records, self.producers, p);
                    let source = (p % self.sources) as u32;
                    scope.spawn(move || {
                        ready.wait();
                        (0..share).for_each(|_| way.push_or_wait(black_box(R::of(source))));
                    })
                })
                .collect();
            let workers: Vec<_> = workers
                .into_iter()
                .map(|mut way| {
                    scope.spawn(move || {
                        ready.wait();
                        let mut taken = 0;
                        loop {
                            match way.take_or_wait(self.take, |record| _ = black_box(record)) {
                                0 => return taken,
                                now => taken += now as u64,
                            }
                        }
                    })
                })
                .collect();
            ready.wait();
            let start = Instant::now();
            producers.into_iter().for_each(|thread| thread.join().expect("a producer"));
            contender.close();
            let taken: u64 =
                workers.into_iter().map(|thread| thread.join().expect("a worker")).sum();
            let elapsed = start.elapsed();
            assert_eq!(taken, records, "every record comes out once");
            elapsed
        })
    }
}
