//! fanring: a ring for each producer, and with it a cap for each producer, but none for the stage
//! or for all records. Its channel for one worker has batches on both sides; the one for many
//! workers has none.

use fanring::{mpmc, mpsc};

use super::{BlockingRows, Caps, Description, Rows, see_all, take_each};
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::work::{Competitor, Consume, Produce, SOURCE_CAP, push_each};
use crate::common::{BATCH, Medium, Sourced};

/// With one worker for each stage.
pub struct Fanring<R>(Vec<(mpsc::Sender<R>, Option<mpsc::Receiver<R>>)>);

pub struct Receiver<R> {
    receiver: mpsc::Receiver<R>,
    records: Vec<R>,
}

impl<R: Sourced> Competitor<R> for Fanring<R> {
    type Producer = mpsc::Sender<R>;
    type Consumer = Receiver<R>;

    fn new(_sources: usize, stages: usize, workers: usize) -> Self {
        assert_eq!(workers, 1);
        let stage = |_| mpsc::channel(SOURCE_CAP);
        Self((0..stages).map(stage).map(|(sender, receiver)| (sender, Some(receiver))).collect())
    }
    fn producer(&mut self, _source: usize, stage: usize) -> mpsc::Sender<R> {
        self.0[stage].0.try_clone().expect("a live receiver")
    }
    fn consumer(&mut self, stage: usize) -> Receiver<R> {
        let receiver = self.0[stage].1.take().expect("one worker for each stage");
        Receiver { receiver, records: Vec::new() }
    }
}

impl<R: Sourced> Produce<R> for mpsc::Sender<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        self.try_send(record).map_err(mpsc::TrySendError::into_inner)
    }

    fn push_batch(&mut self, records: &mut Vec<R>) {
        push_each(records, |record| {
            self.try_send_deferred(record).map_err(mpsc::TrySendError::into_inner)
        });
        self.flush();
    }
}

impl<R: Sourced> Consume<R> for Receiver<R> {
    fn take(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        if max == 1 {
            return take_each(1, || self.receiver.try_recv().ok(), see);
        }
        // An empty channel is an error, and nothing is taken.
        let _ = self.receiver.try_recv_batch_into(&mut self.records, max);
        see_all(&mut self.records, see)
    }

    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        let _ = self.receiver.try_recv_batch_into(records, max);
    }
}

/// With one worker for each stage, and producers that publish a hundred records at once.
pub struct Deferred<R>(Fanring<R>);

pub struct DeferredSender<R> {
    sender: mpsc::Sender<R>,
    /// Records that are not published yet.
    pending: usize,
}

impl<R: Sourced> Competitor<R> for Deferred<R> {
    type Producer = DeferredSender<R>;
    type Consumer = Receiver<R>;

    fn new(sources: usize, stages: usize, workers: usize) -> Self {
        Self(Fanring::new(sources, stages, workers))
    }
    fn producer(&mut self, source: usize, stage: usize) -> DeferredSender<R> {
        DeferredSender { sender: self.0.producer(source, stage), pending: 0 }
    }
    fn consumer(&mut self, stage: usize) -> Receiver<R> {
        self.0.consumer(stage)
    }
}

impl<R: Sourced> Produce<R> for DeferredSender<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        let pushed = self.sender.try_send_deferred(record);
        self.pending += 1;
        if self.pending == BATCH {
            self.flush();
        }
        pushed.map_err(mpsc::TrySendError::into_inner)
    }

    fn flush(&mut self) {
        self.sender.flush();
        self.pending = 0;
    }
}

impl<R: Sourced> BlockingCompetitor<R> for Fanring<R> {}

impl<R: Sourced> ProduceBlocking<R> for mpsc::Sender<R> {
    fn push_blocking(&mut self, record: R) {
        assert!(self.send(record).is_ok(), "a live receiver");
    }
}

impl<R: Sourced> ConsumeBlocking<R> for Receiver<R> {
    fn take_blocking(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        // A closed channel is an error, and nothing is taken.
        let _ = self.receiver.recv_batch_into(&mut self.records, max);
        see_all(&mut self.records, see)
    }
}

/// With several workers for each stage.
pub struct FanringMany<R>(Vec<(mpmc::Sender<R>, mpmc::Receiver<R>)>);

impl<R: Sourced> Competitor<R> for FanringMany<R> {
    type Producer = mpmc::Sender<R>;
    type Consumer = mpmc::Receiver<R>;

    fn new(_sources: usize, stages: usize, _workers: usize) -> Self {
        Self((0..stages).map(|_| mpmc::channel(SOURCE_CAP)).collect())
    }
    fn producer(&mut self, _source: usize, stage: usize) -> mpmc::Sender<R> {
        self.0[stage].0.try_clone().expect("a live receiver")
    }
    fn consumer(&mut self, stage: usize) -> mpmc::Receiver<R> {
        self.0[stage].1.clone()
    }
}

impl<R: Sourced> Produce<R> for mpmc::Sender<R> {
    fn push(&mut self, record: R) -> Result<(), R> {
        self.try_send(record).map_err(mpmc::TrySendError::into_inner)
    }
}

impl<R: Sourced> Consume<R> for mpmc::Receiver<R> {
    fn take(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
        take_each(max, || self.try_recv().ok(), see)
    }
    fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
        records.extend(std::iter::from_fn(|| self.try_recv().ok()).take(max));
    }
}

impl<R: Sourced> BlockingCompetitor<R> for FanringMany<R> {}

impl<R: Sourced> ProduceBlocking<R> for mpmc::Sender<R> {
    fn push_blocking(&mut self, record: R) {
        assert!(self.send(record).is_ok(), "a live receiver");
    }
}

impl<R: Sourced> ConsumeBlocking<R> for mpmc::Receiver<R> {
    fn take_blocking(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
        let Ok(first) = self.recv() else { return 0 };
        see(&first);
        1 + self.take(max - 1, see)
    }
}

const FANRING: Description = Description {
    name: "fanring",
    package: "fanring",
    caps: Caps::LengthPerProducer,
    how: "`mpsc` for one worker, with `try_recv_batch_into`, and for batches or deferred by the hundred, \
          `try_send_deferred` and `flush`; `mpmc` for many; to wait, `send`, `recv` and \
          `recv_batch_into`",
};

/// Single records, of which a thread pushes many before it does anything else.
pub fn mpsc_singles<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Fanring<R>>(FANRING, "");
    rows.add::<Deferred<R>>(FANRING, "deferred");
}

pub fn mpsc<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Fanring<R>>(FANRING, "");
}

pub fn mpmc<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<FanringMany<R>>(FANRING, "");
}

pub fn blocking_mpsc(rows: &mut impl BlockingRows) {
    rows.add::<Fanring<Medium>>(FANRING, "");
}

pub fn blocking_mpmc(rows: &mut impl BlockingRows) {
    rows.add::<FanringMany<Medium>>(FANRING, "");
}
