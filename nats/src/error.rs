//! The errors of this package.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use conveyor_buffer::{Batch, Envelope, RejectReason};

/// The reason why a [`Puller`](crate::Puller) does not start.
///
/// [`Display`](fmt::Display) names the setting and the value that it should have.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The consumer's `ack_policy` is not `Explicit`.
    NotExplicit {
        /// The consumer.
        consumer: String,
    },
    /// The consumer's `max_ack_pending` is less than the processes may hold together.
    MaxAckPending {
        /// The consumer.
        consumer: String,
        /// Its `max_ack_pending`.
        found: usize,
        /// The cap of the source.
        cap: usize,
        /// How many processes share the consumer.
        processes: usize,
    },
    /// The consumer's `ack_wait`, or the shortest wait of its `backoff`, is too short for the
    /// source's cap.
    AckWait {
        /// The consumer.
        consumer: String,
        /// The wait that it has.
        found: Duration,
        /// The shortest wait that would do.
        needed: Duration,
        /// The cap of the source.
        cap: usize,
        /// The largest cap that would do with this `ack_wait`.
        largest_cap: usize,
    },
    /// The consumer's `max_deliver` is 1, so that no message that was handed back, or whose process
    /// died, would ever be delivered again.
    MaxDeliver {
        /// The consumer.
        consumer: String,
    },
    /// `progress_every` is zero, or not shorter than the consumer's `ack_wait`.
    ProgressEvery {
        /// The option.
        found: Duration,
        /// The consumer's `ack_wait`.
        ack_wait: Duration,
    },
    /// `rate` is not above 0.
    Rate {
        /// The option.
        found: f64,
    },
    /// The stream deletes terminated messages, and dead letters are not published.
    DeadLettersDeleted {
        /// The stream.
        stream: String,
    },
    /// The stage belongs to another buffer, or the buffer is closed.
    Buffer(RejectReason),
    /// The server cannot be asked, or the consumer does not exist.
    Nats(async_nats::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotExplicit { consumer } => write!(
                f,
                "ack_policy of consumer {consumer} must be Explicit: messages are acknowledged one \
                 by one"
            ),
            Self::MaxAckPending { consumer, found, cap, processes } => write!(
                f,
                "max_ack_pending of consumer {consumer} is {found} and must be at least {}: \
                 {processes} process(es) hold up to {cap} messages each; or set the capacity of \
                 the source to at most {}",
                cap.saturating_mul(*processes),
                (found / processes).max(1),
            ),
            Self::AckWait { consumer, found, needed, cap, largest_cap } => write!(
                f,
                "ack_wait of consumer {consumer} is {found:?} and must be at least {needed:?} for \
                 a source that holds up to {cap} messages; or set the capacity of the source to at \
                 most {largest_cap}"
            ),
            Self::MaxDeliver { consumer } => write!(
                f,
                "max_deliver of consumer {consumer} is 1 and must be -1, or larger than the \
                 number of restarts that a message may see: with 1 no message is delivered again"
            ),
            Self::ProgressEvery { found, ack_wait } => write!(
                f,
                "progress_every is {found:?} and must be above 0 and shorter than ack_wait, \
                 {ack_wait:?}: half of it is the default"
            ),
            Self::Rate { found } => write!(
                f,
                "rate is {found} and must be above 0: the messages that this process settles in a \
                 second"
            ),
            Self::DeadLettersDeleted { stream } => write!(
                f,
                "stream {stream} deletes terminated messages: set dead_letters to \
                 DeadLetterRoute::Publish(subject), or to Discard if they may be lost"
            ),
            Self::Buffer(reason) => reason.fmt(f),
            Self::Nats(error) => write!(f, "cannot ask the server for the consumer: {error}"),
        }
    }
}

impl Error for StartError {}

/// The reason why [`Puller::run`](crate::Puller::run) ended before it was told to stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum PullError {
    /// The consumer or its stream was deleted.
    ConsumerGone {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// The server refuses pull requests for a reason that does not pass.
    Refused {
        /// The server's description.
        description: String,
    },
    /// The buffer refuses records for a reason other than being closed.
    Buffer(RejectReason),
    /// The client was closed.
    Nats(async_nats::Error),
}

impl fmt::Display for PullError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsumerGone { stream, consumer } => {
                write!(f, "consumer {consumer} of stream {stream} does not exist any more")
            }
            Self::Refused { description } => {
                write!(f, "the server refused a pull request: {description}")
            }
            Self::Buffer(reason) => reason.fmt(f),
            Self::Nats(error) => write!(f, "cannot pull: {error}"),
        }
    }
}

impl Error for PullError {}

/// The error of a [`Settler`](crate::Settler): the records that are not settled upstream.
///
/// Dropping the error drops the batch, which thereby returns to its stage with a retry counted.
/// `Debug` and `Display` show only the reason and require nothing of the record type.
#[non_exhaustive]
pub struct SettleError<E: Envelope> {
    /// The records that are not settled upstream, still charged to the buffer.
    ///
    /// Settle them again, or [requeue](Batch::requeue) them: what is done needs no retry.
    pub batch: Batch<E>,
    /// Why the first of them is not settled.
    pub reason: async_nats::Error,
}

impl<E: Envelope> SettleError<E> {
    /// Returns the batch.
    pub fn into_inner(self) -> Batch<E> {
        self.batch
    }
}

impl<E: Envelope> fmt::Debug for SettleError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettleError")
            .field("records", &self.batch.len())
            .field("reason", &self.reason)
            .finish()
    }
}

impl<E: Envelope> fmt::Display for SettleError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records are not settled upstream: {}", self.batch.len(), self.reason)
    }
}

impl<E: Envelope> Error for SettleError<E> {}

/// The reason why a [`Publisher`](crate::Publisher) or
/// [`Settler::publish_dead_letters`](crate::Settler::publish_dead_letters) gave up.
///
/// No record is lost: a publisher returns its batch to the stage, and dead letters are handed back
/// upstream.
#[derive(Debug)]
#[non_exhaustive]
pub struct PublishFailed {
    /// The subject of the first message that was not acknowledged.
    pub subject: String,
    /// The last error.
    pub reason: async_nats::Error,
}

impl PublishFailed {
    pub(crate) fn new(subject: &str, reason: impl Into<async_nats::Error>) -> Self {
        Self { subject: subject.to_owned(), reason: reason.into() }
    }
}

impl fmt::Display for PublishFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot publish to {}: {}", self.subject, self.reason)
    }
}

impl Error for PublishFailed {}
