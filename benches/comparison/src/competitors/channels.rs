//! What one would use without caps: a raw ring and the channels. Each is bounded, which is the cap of
//! the stage; none knows of sources or of other stages. The ring is the limit: the library's own
//! stages stand on it.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::{push_each, see_all, take_each};
use crate::common::Sourced;
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::work::{Competitor, Consume, Produce, STAGE_CAP};

/// A competitor whose stages are one channel each, with senders and receivers that can be cloned.
macro_rules! channel {
    ($(#[$doc:meta])* $name:ident, $sender:ty, $receiver:ty, $new:expr) => {
        $(#[$doc])*
        pub struct $name<R: Sourced>(Vec<($sender, $receiver)>);

        impl<R: Sourced> Competitor<R> for $name<R> {
            type Producer = Sender<$sender>;
            type Consumer = Receiver<$receiver, R>;

            fn new(_sources: usize, stages: usize, _workers: usize) -> Self {
                Self((0..stages).map(|_| $new(STAGE_CAP)).collect())
            }
            fn producer(&mut self, _source: usize, stage: usize) -> Self::Producer {
                Sender(self.0[stage].0.clone())
            }
            fn consumer(&mut self, stage: usize) -> Self::Consumer {
                Receiver { receiver: self.0[stage].1.clone(), records: Vec::new() }
            }
        }
    };
}

/// The way into a channel.
pub struct Sender<S>(S);

/// The way out of a channel, with a place for what is taken together.
pub struct Receiver<T, R> {
    receiver: T,
    records: Vec<R>,
}

/// Sends one by one: none of these channels has a call to send several.
macro_rules! sends {
    ($sender:ty, |$self:ident, $record:ident| $push:expr) => {
        impl<R: Sourced> Produce<R> for Sender<$sender> {
            fn push(&mut self, $record: R) -> Result<(), R> {
                let $self = &self.0;
                $push
            }
            fn push_batch(&mut self, records: &mut Vec<R>) {
                let $self = &self.0;
                push_each(records, |$record| $push);
            }
        }
    };
}

/// Receives one by one.
macro_rules! receives {
    ($receiver:ty, |$self:ident| $take:expr) => {
        impl<R: Sourced> Consume<R> for Receiver<$receiver, R> {
            fn take(&mut self, max: usize, see: impl FnMut(&mut R)) -> usize {
                let $self = &self.receiver;
                take_each(max, || $take, see)
            }
            fn take_into(&mut self, max: usize, records: &mut Vec<R>) {
                let $self = &self.receiver;
                records.extend(std::iter::from_fn(|| $take).take(max));
            }
        }
    };
}

/// Receives one alone, or all that wait at once. That may be more than was asked for, which is to the
/// competitor's advantage.
macro_rules! drains {
    ($receiver:ty, |$self:ident| $take:expr, |$records:ident| $drain:expr) => {
        impl<R: Sourced> Consume<R> for Receiver<$receiver, R> {
            fn take(&mut self, max: usize, mut see: impl FnMut(&mut R)) -> usize {
                let $self = &self.receiver;
                if max == 1 {
                    return take_each(1, || $take, see);
                }
                let $records = &mut self.records;
                $drain;
                see_all(&mut self.records, &mut see)
            }
            fn take_into(&mut self, _max: usize, $records: &mut Vec<R>) {
                let $self = &self.receiver;
                $drain;
            }
        }
    };
}

/// BlockingCompetitor with each push, and with the first of what it takes.
macro_rules! waits {
    (
        $name:ident,
        $sender:ty, |$self:ident, $record:ident| $send:expr,
        $receiver:ty, |$receiving:ident| $receive:expr
    ) => {
        impl<R: Sourced> BlockingCompetitor<R> for $name<R> {}

        impl<R: Sourced> ProduceBlocking<R> for Sender<$sender> {
            fn push_blocking(&mut self, $record: R) {
                let $self = &self.0;
                assert!($send.is_ok(), "a live receiver");
            }
        }

        impl<R: Sourced> ConsumeBlocking<R> for Receiver<$receiver, R> {
            fn take_blocking(&mut self, max: usize, mut see: impl FnMut(&mut R)) -> usize {
                let $receiving = &self.receiver;
                let Ok(mut first) = $receive else { return 0 };
                see(&mut first);
                1 + self.take(max - 1, see)
            }
        }
    };
}

type Ring<R> = Arc<ArrayQueue<R>>;

channel!(Rings, Ring<R>, Ring<R>, |cap| {
    let ring = Arc::new(ArrayQueue::new(cap));
    (Arc::clone(&ring), ring)
});
sends!(Ring<R>, |ring, record| ring.push(record));
receives!(Ring<R>, |ring| ring.pop());

channel!(
    Crossbeam,
    crossbeam_channel::Sender<R>,
    crossbeam_channel::Receiver<R>,
    crossbeam_channel::bounded
);
sends!(crossbeam_channel::Sender<R>, |sender, record| {
    sender.try_send(record).map_err(crossbeam_channel::TrySendError::into_inner)
});
receives!(crossbeam_channel::Receiver<R>, |receiver| receiver.try_recv().ok());
waits!(
    Crossbeam,
    crossbeam_channel::Sender<R>,
    |sender, record| sender.send(record),
    crossbeam_channel::Receiver<R>,
    |receiver| receiver.recv()
);

channel!(
    AsyncChannel,
    async_channel::Sender<R>,
    async_channel::Receiver<R>,
    async_channel::bounded
);
sends!(async_channel::Sender<R>, |sender, record| {
    sender.try_send(record).map_err(async_channel::TrySendError::into_inner)
});
receives!(async_channel::Receiver<R>, |receiver| receiver.try_recv().ok());
waits!(
    AsyncChannel,
    async_channel::Sender<R>,
    |sender, record| sender.send_blocking(record),
    async_channel::Receiver<R>,
    |receiver| receiver.recv_blocking()
);

channel!(
    /// `drain` takes all that waits under one lock.
    Flume,
    flume::Sender<R>,
    flume::Receiver<R>,
    flume::bounded
);
sends!(flume::Sender<R>, |sender, record| {
    sender.try_send(record).map_err(flume::TrySendError::into_inner)
});
drains!(flume::Receiver<R>, |receiver| receiver.try_recv().ok(), |records| {
    records.extend(receiver.drain())
});
waits!(
    Flume,
    flume::Sender<R>,
    |sender, record| sender.send(record),
    flume::Receiver<R>,
    |receiver| receiver.recv()
);

channel!(
    /// `try_send` drops what it refuses, so it is `try_send_option`; `drain_into` takes all that
    /// waits under one lock.
    Kanal,
    kanal::Sender<R>,
    kanal::Receiver<R>,
    kanal::bounded
);
sends!(kanal::Sender<R>, |sender, record| {
    let mut record = Some(record);
    match sender.try_send_option(&mut record) {
        Ok(true) => Ok(()),
        _ => Err(record.take().expect("a refused record stays")),
    }
});
drains!(kanal::Receiver<R>, |receiver| receiver.try_recv().ok().flatten(), |records| {
    // Of a closed channel there is nothing to be had.
    let _ = receiver.drain_into(records);
});
waits!(
    Kanal,
    kanal::Sender<R>,
    |sender, record| sender.send(record),
    kanal::Receiver<R>,
    |receiver| receiver.recv()
);

type CrossfireMany<R> = crossfire::mpmc::Array<R>;
type CrossfireOne<R> = crossfire::mpsc::Array<R>;

channel!(
    /// For several workers a stage.
    Crossfire,
    crossfire::MTx<CrossfireMany<R>>,
    crossfire::MRx<CrossfireMany<R>>,
    crossfire::mpmc::bounded_blocking
);
sends!(crossfire::MTx<CrossfireMany<R>>, |sender, record| {
    sender.try_send(record).map_err(crossfire::TrySendError::into_inner)
});
receives!(crossfire::MRx<CrossfireMany<R>>, |receiver| receiver.try_recv().ok());
waits!(
    Crossfire,
    crossfire::MTx<CrossfireMany<R>>,
    |sender, record| sender.send(record),
    crossfire::MRx<CrossfireMany<R>>,
    |receiver| receiver.recv()
);

/// For one worker a stage.
pub struct CrossfireSingle<R: Sourced>(Vec<(SenderToOne<R>, Option<OneReceiver<R>>)>);

type SenderToOne<R> = crossfire::MTx<CrossfireOne<R>>;
type OneReceiver<R> = crossfire::Rx<CrossfireOne<R>>;

impl<R: Sourced> Competitor<R> for CrossfireSingle<R> {
    type Producer = Sender<SenderToOne<R>>;
    type Consumer = Receiver<OneReceiver<R>, R>;

    fn new(_sources: usize, stages: usize, workers: usize) -> Self {
        assert_eq!(workers, 1);
        let stage = |_| crossfire::mpsc::bounded_blocking(STAGE_CAP);
        Self((0..stages).map(stage).map(|(sender, receiver)| (sender, Some(receiver))).collect())
    }
    fn producer(&mut self, _source: usize, stage: usize) -> Self::Producer {
        Sender(self.0[stage].0.clone())
    }
    fn consumer(&mut self, stage: usize) -> Self::Consumer {
        let receiver = self.0[stage].1.take().expect("one worker a stage");
        Receiver { receiver, records: Vec::new() }
    }
}

sends!(SenderToOne<R>, |sender, record| {
    sender.try_send(record).map_err(crossfire::TrySendError::into_inner)
});
receives!(OneReceiver<R>, |receiver| receiver.try_recv().ok());
waits!(
    CrossfireSingle,
    SenderToOne<R>,
    |sender, record| sender.send(record),
    OneReceiver<R>,
    |receiver| receiver.recv()
);
