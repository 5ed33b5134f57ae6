//! What a simulation does: the buffer's caps and who calls it, all drawn from a seed.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A simulation. The same on one thread and on many.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scene: Scene,
    /// Whether it is for many threads: it is smaller, for each access is a step there.
    pub(crate) threaded: bool,
    pub(crate) total: usize,
    pub(crate) per_stage: usize,
    pub(crate) per_source: usize,
    pub(crate) letters: usize,
    pub(crate) retries: Option<u32>,
    /// How long a returned record stays away: after its first failure, and at most.
    pub(crate) backoff: Option<(Duration, Duration)>,
    /// What is guaranteed to each source.
    pub(crate) guarantees: Vec<usize>,
    pub(crate) stages: usize,
    pub(crate) sources: usize,
    /// One call of user code in so many panics. 0: none does.
    pub(crate) panics: usize,
    /// One wake-up in so many is followed late. 0: none is.
    pub(crate) late: usize,
    /// Whether all handles but the sources' are dropped in the end, instead of a close.
    pub(crate) drops: bool,
    pub(crate) roles: Vec<Role>,
}

impl Plan {
    /// The largest request that is not refused at once.
    pub(crate) fn most(&self) -> usize {
        self.total.min(self.per_stage).min(self.per_source)
    }
}

/// What a plan is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// A bit of everything.
    Mixed,
    /// Large requests beside small ones, workers of any pace.
    Large,
    /// Futures that are never polled again.
    Abandoned,
    /// Dead letters that find no room.
    Letters,
    /// Records and wakers that panic.
    Panics,
    /// Very many that wait.
    Crowd,
    /// Blocks that are cut and records that are returned, taken by several.
    Lane,
    /// Batches that go from stage to stage and back.
    Circle,
    /// Several callers of close, drain and remove at once.
    Closing,
}

/// How records are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    Try,
    TryBatch,
    ByName,
    ByNameBatch,
    Send,
    SendBatch,
    Reserve,
    /// The forms that park a thread: with a deadline on one thread, and without it on several.
    Blocking,
}

/// How records are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    Try,
    ByName,
    NoTime,
    Wait,
    Linger,
    Blocking,
    BlockingLinger,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack,
    Return,
    ReturnAfter,
    Requeue,
    IntoRecords,
    ByNameReturn,
    Mixed,
    DeadLetter,
    Split,
    Partition,
    TryForward,
    Forward,
    WorkerPanics,
    Abandon,
}

/// One who calls the buffer.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    Producer {
        source: usize,
        stages: Vec<usize>,
        how: Vec<Push>,
        size: RangeInclusive<usize>,
        pace: Duration,
        /// Records to push.
        quota: usize,
        /// How long a call is waited for before it is cancelled.
        patience: Option<Duration>,
    },
    Worker {
        stage: usize,
        how: Vec<Take>,
        max: usize,
        pace: Duration,
        settle: Vec<Settle>,
        forward_to: Vec<usize>,
        /// After so many settlings it pauses once, for so long: when there is room for one that waits.
        pause: Option<(usize, Duration)>,
    },
    /// Receives dead letters; from the relief on in any case.
    Reader { pace: Duration, quota: usize },
    /// Closes the buffer at that time, or when nothing else is left to happen; and drains it.
    Closer { after: Option<Duration> },
    /// Asks whether all is drained, and waits for it now and then.
    Drainer { pace: Duration, quota: usize },
    /// Removes names, so that they are made anew.
    Remover { pace: Duration, quota: usize },
    /// Closes a stage once it holds something.
    StageCloser { stage: usize, after: Duration },
    /// Begins calls and polls them once.
    Idler { source: usize, stage: usize, pace: Duration, quota: usize, size: usize },
    /// Follows the signals of a source.
    Follower { source: usize, quota: usize },
    /// Begins so many sends at once, cancels some, and waits for the others.
    Crowd { source: usize, stage: usize, senders: usize, size: usize, cancels: usize },
}
