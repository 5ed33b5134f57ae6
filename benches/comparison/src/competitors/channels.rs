//! A raw ring and the channels of several crates. The bound of each is the cap of its stage; none
//! counts the records of a source or those of all stages. The library's stages are built on the
//! ring, so that it is the limit for all that is built in this way.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::{BlockingRows, Caps, Description, Rows, see_all, take_each};
use crate::common::blocking::{BlockingCompetitor, ConsumeBlocking, ProduceBlocking};
use crate::common::work::{Competitor, Consume, Produce, STAGE_CAP};
use crate::common::{Medium, Sourced};

/// Defines a competitor with a channel for each stage, whose senders and receivers can be cloned.
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

/// The sender of a channel.
pub struct Sender<S>(S);

/// The receiver of a channel, with room for the records that it takes at once.
pub struct Receiver<T, R> {
    receiver: T,
    records: Vec<R>,
}

/// Sends records one by one: these channels have no call that sends several.
macro_rules! sends {
    ($sender:ty, |$self:ident, $record:ident| $push:expr) => {
        impl<R: Sourced> Produce<R> for Sender<$sender> {
            fn push(&mut self, $record: R) -> Result<(), R> {
                let $self = &self.0;
                $push
            }
        }
    };
}

/// Receives records one by one.
macro_rules! receives {
    ($receiver:ty, |$self:ident| $take:expr) => {
        impl<R: Sourced> Consume<R> for Receiver<$receiver, R> {
            fn take(&mut self, max: usize, see: impl FnMut(&R)) -> usize {
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

/// Receives one record, or all that are there. That may be more than `max`, which is to the
/// competitor's advantage.
macro_rules! drains {
    ($receiver:ty, |$self:ident| $take:expr, |$records:ident| $drain:expr) => {
        impl<R: Sourced> Consume<R> for Receiver<$receiver, R> {
            fn take(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
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
            fn take_blocking(&mut self, max: usize, mut see: impl FnMut(&R)) -> usize {
                let $receiving = &self.receiver;
                let Ok(first) = $receive else { return 0 };
                see(&first);
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
    /// `drain` takes all records under one lock.
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
    /// `try_send_option` keeps a record that is refused, which `try_send` drops; `drain_into` takes
    /// all records under one lock.
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
    // A closed channel has no records.
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
    /// With several workers for each stage.
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

/// With one worker for each stage.
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
        let receiver = self.0[stage].1.take().expect("one worker for each stage");
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

pub const RING: Description = Description {
    name: "raw ArrayQueue",
    package: "crossbeam-queue",
    caps: Caps::Length,
    how: "`push` and `pop`: the limit",
};
pub const CROSSBEAM: Description = Description {
    name: "crossbeam-channel",
    package: "crossbeam-channel",
    caps: Caps::Length,
    how: "`try_send` and `try_recv`; to wait, `send` and `recv`",
};
const FLUME: Description = Description {
    name: "flume",
    package: "flume",
    caps: Caps::Length,
    how: "`try_send` and `try_recv`, or `drain` for many; to wait, `send` and `recv`",
};
const KANAL: Description = Description {
    name: "kanal",
    package: "kanal",
    caps: Caps::Length,
    how: "`try_send_option` and `try_recv`, or `drain_into` for many; to wait, `send` and `recv`",
};
const ASYNC_CHANNEL: Description = Description {
    name: "async-channel",
    package: "async-channel",
    caps: Caps::Length,
    how: "`try_send` and `try_recv`; to wait, `send_blocking` and `recv_blocking`",
};
const CROSSFIRE: Description = Description {
    name: "crossfire",
    package: "crossfire",
    caps: Caps::Length,
    how: "`mpsc` for one worker, `mpmc` for many, `detect_backoff_cfg` first; to wait, `send` and \
          `recv`",
};

pub fn ring<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Rings<R>>(RING, "");
}

pub fn rows<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Crossbeam<R>>(CROSSBEAM, "");
    rows.add::<Flume<R>>(FLUME, "");
    rows.add::<Kanal<R>>(KANAL, "");
    rows.add::<AsyncChannel<R>>(ASYNC_CHANNEL, "");
}

pub fn crossfire_single<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<CrossfireSingle<R>>(CROSSFIRE, "");
}

pub fn crossfire<R: Sourced>(rows: &mut impl Rows<R>) {
    rows.add::<Crossfire<R>>(CROSSFIRE, "");
}

pub fn blocking(rows: &mut impl BlockingRows) {
    rows.add::<Crossbeam<Medium>>(CROSSBEAM, "");
    rows.add::<Flume<Medium>>(FLUME, "");
    rows.add::<Kanal<Medium>>(KANAL, "");
    rows.add::<AsyncChannel<Medium>>(ASYNC_CHANNEL, "");
}

pub fn blocking_crossfire_single(rows: &mut impl BlockingRows) {
    rows.add::<CrossfireSingle<Medium>>(CROSSFIRE, "");
}

pub fn blocking_crossfire(rows: &mut impl BlockingRows) {
    rows.add::<Crossfire<Medium>>(CROSSFIRE, "");
}
