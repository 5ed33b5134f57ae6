//! The part of the books that holds the calls that wait, and those that take.

use std::fmt;
use std::time::Duration;

use crate::books;

/// What a waker belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watch {
    Request(u64),
    Receiver(u64),
    Drain(u64),
    Signal(u64),
}

/// A call that waits for credits or places.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `None` for a forward, whose records have their credits.
    pub(crate) source: Option<usize>,
    pub(crate) stage: usize,
    pub(crate) records: usize,
    /// Woken, and not polled since: it may have been granted.
    pub(crate) woken: bool,
    /// Freed, where it lacked something, since it began to wait.
    pub(crate) progress: u64,
    /// Freed in all, of its source and at its stage, when that was last looked at.
    pub(crate) seen: [u64; 3],
    /// The largest cap at which it lacked something.
    pub(crate) cap: usize,
    pub(crate) fits_since: Option<Duration>,
    /// The most requests that waited beside it.
    pub(crate) rivals: usize,
}

impl Request {
    pub(crate) fn new(source: Option<usize>, stage: usize, records: usize) -> Self {
        Self {
            source,
            stage,
            records,
            woken: true,
            progress: 0,
            seen: [0; 3],
            cap: 0,
            fits_since: None,
            rivals: 0,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, stage, records, .. } = self;
        match source {
            Some(source) => write!(f, "a request of {records} of source {source} to stage {stage}"),
            None => write!(f, "a forward of {records} to stage {stage}"),
        }
    }
}

/// A call that waits for records, or takes what there is.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) stage: usize,
    /// How often that stage had been removed when the call began.
    pub(crate) removed: usize,
    pub(crate) max: usize,
    pub(crate) woken: bool,
    /// Whether records may be in its hands that no batch holds yet.
    pub(crate) taking: bool,
    pub(crate) lingers: bool,
    /// The fewest records, since its call began, that waited and that no other call was taking.
    pub(crate) fewest: usize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    pub(crate) woken: bool,
    /// The fewest records that were surely unsettled since it began.
    pub(crate) fewest: usize,
}

pub(crate) fn begin_request(source: Option<usize>, stage: usize, records: usize) -> Watch {
    books::with(|books| {
        let own = source.map_or(0, |source| books.sources[source].freed);
        let mut request = Request::new(source, stage, records);
        request.seen = [books.all.freed, own, books.stages[stage].freed];
        request.rivals = books.requests.len();
        let key = books.new_key();
        books.requests.insert(key, request);
        Watch::Request(key)
    })
}

/// A call begins that takes records: now, or when some come.
pub(crate) fn begin_take(stage: usize, max: usize, lingers: bool) -> Watch {
    books::with(|books| {
        let key = books.new_key();
        let (woken, taking, fewest) = (true, true, usize::MAX);
        let removed = books.stages_removed[stage];
        let receiver = Receiver { stage, removed, max, woken, taking, lingers, fewest };
        books.receivers.insert(key, receiver);
        books.look();
        Watch::Receiver(key)
    })
}

pub(crate) fn begin_drain() -> Watch {
    books::with(|books| {
        let key = books.new_key();
        books.drains.insert(key, Drain { woken: true, fewest: books.all.sure });
        Watch::Drain(key)
    })
}

pub(crate) fn begin_signal() -> Watch {
    books::with(|books| Watch::Signal(books.new_key()))
}

/// What a watched call has seen: the fewest records, for those that take or drain.
pub(crate) fn end(watch: Watch) -> usize {
    books::with(|books| match watch {
        Watch::Request(key) => books.requests.remove(&key).map_or(0, |_| 0),
        Watch::Receiver(key) => books.receivers.remove(&key).map_or(0, |receiver| receiver.fewest),
        Watch::Drain(key) => books.drains.remove(&key).map_or(0, |drain| drain.fewest),
        Watch::Signal(_) => 0,
    })
}

/// A watched call is about to be polled.
pub(crate) fn polling(watch: Watch) {
    books::with(|books| match watch {
        Watch::Request(key) => {
            books.requests.entry(key).and_modify(|it| it.woken = false);
        }
        Watch::Receiver(key) => {
            books.receivers.entry(key).and_modify(|it| (it.woken, it.taking) = (false, true));
            books.look();
        }
        Watch::Drain(key) => {
            books.drains.entry(key).and_modify(|it| it.woken = false);
        }
        Watch::Signal(_) => {}
    });
}

/// It was polled, and waits on.
pub(crate) fn polled(watch: Watch) {
    if let Watch::Receiver(key) = watch {
        books::with(|books| {
            books
                .receivers
                .entry(key)
                .and_modify(|it| (it.taking, it.fewest) = (false, usize::MAX));
        });
    }
}

/// From a waker's wake.
pub(crate) fn woken(watch: Watch) {
    books::with(|books| {
        books.wakes += 1;
        match watch {
            Watch::Request(key) => {
                books.requests.entry(key).and_modify(|it| it.woken = true);
            }
            Watch::Receiver(key) => {
                books.receivers.entry(key).and_modify(|it| it.woken = true);
            }
            Watch::Drain(key) => {
                books.drains.entry(key).and_modify(|it| it.woken = true);
            }
            Watch::Signal(_) => {}
        }
    });
}
