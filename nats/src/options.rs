//! The options of a puller and of a publisher, with their defaults and costs.

use std::time::Duration;

/// What happens upstream to records that failed for good.
///
/// This applies to the dead letters of the buffer and to messages that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeadLetterRoute {
    /// The message is terminated and stays in its stream, where it can be read by its sequence.
    ///
    /// This is the default. A stream with work-queue or interest retention deletes a terminated
    /// message; with such a stream the puller does not start.
    #[default]
    Keep,
    /// The message is published to this subject with the reason in its headers, and terminated
    /// after the publish was acknowledged. A stream must listen on the subject.
    ///
    /// Costs one publish and its acknowledgement for each dead letter.
    Publish(String),
    /// The message is terminated, even if its stream then deletes it.
    Discard,
}

/// The options of a [`Puller`](crate::Puller) and its [`Settler`](crate::Settler)s.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use conveyor_buffer_nats::{DeadLetterRoute, PullOptions};
///
/// let options = PullOptions::default()
///     .max_batch(100)
///     .processes(3)
///     .dead_letters(DeadLetterRoute::Publish("dead.orders".into()));
/// assert_eq!(options, options.clone());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PullOptions {
    pub(crate) max_batch: usize,
    pub(crate) requests: usize,
    pub(crate) idle_wait: Duration,
    pub(crate) progress_every: Option<Duration>,
    pub(crate) double_ack: bool,
    pub(crate) ack_timeout: Duration,
    pub(crate) processes: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) dead_letters: DeadLetterRoute,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            max_batch: 500,
            requests: 2,
            idle_wait: Duration::from_secs(30),
            progress_every: None,
            double_ack: false,
            ack_timeout: Duration::from_secs(10),
            processes: 1,
            rate: None,
            dead_letters: DeadLetterRoute::default(),
        }
    }
}

impl PullOptions {
    /// Sets the maximum number of messages in one pull request. Default: 500; 0 counts as 1.
    ///
    /// The puller holds a permit for each of them while the request is open, which is one round
    /// trip. More cost credits that other sources could use; fewer cost more round trips. The
    /// consumer's own `max_batch` bounds it.
    pub fn max_batch(mut self, messages: usize) -> Self {
        self.max_batch = messages.max(1);
        self
    }

    /// Sets how many pull requests are open at once while messages flow. Default: 2; 0 counts as 1.
    ///
    /// With 2, the server fills one request while the messages of the other are on their way. With
    /// 1, the puller waits a round trip for each request. More hold more permits. Messages are
    /// pushed in the order of their delivery in any case.
    pub fn requests(mut self, requests: usize) -> Self {
        self.requests = requests.max(1);
        self
    }

    /// Sets how long a request waits at the server when there is no message. Default: 30 s.
    ///
    /// Such a request is for one message and holds one permit. When it ends, another follows:
    /// shorter times cost more requests, longer ones gain little. The consumer's `max_expires`
    /// bounds it, and it is at least 100 ms.
    pub fn idle_wait(mut self, wait: Duration) -> Self {
        self.idle_wait = wait.max(Duration::from_millis(100));
        self
    }

    /// Sets how long a message is held before *in progress* is sent for it, and then again after
    /// each such time. Default: half of the consumer's `ack_wait`.
    ///
    /// It must be shorter than `ack_wait` by what a slow network and a busy machine need; longer
    /// than that, and messages that are being worked on are delivered to others. Shorter times
    /// cost one small message each. A message that is settled within the time costs nothing.
    pub fn progress_every(mut self, every: Duration) -> Self {
        self.progress_every = Some(every);
        self
    }

    /// Sets whether the server confirms each acknowledgement. Default: no.
    ///
    /// Without it, an acknowledgement counts as sent when the client has taken it; one that is
    /// lost with the connection leads to a redelivery, which is then worked on a second time.
    /// With it, a batch is released only after the server has confirmed all its acknowledgements,
    /// which costs a round trip for each batch and a reply for each message.
    pub fn double_ack(mut self, confirmed: bool) -> Self {
        self.double_ack = confirmed;
        self
    }

    /// Sets how long the settling of one batch upstream may take. Default: 10 s.
    ///
    /// After that the batch is handed back to the caller. It takes so long only if the connection
    /// is down. A longer time keeps workers waiting; a shorter one hands back batches that could
    /// have been settled after a reconnect.
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.ack_timeout = timeout;
        self
    }

    /// Sets how many processes pull from the consumer. Default: 1; 0 counts as 1.
    ///
    /// It costs nothing: it only raises the `max_ack_pending` that the consumer must have, so that
    /// one slow process with a full buffer leaves messages for the others.
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = processes.max(1);
        self
    }

    /// Sets how many messages a second this process settles at least. Default: not known.
    ///
    /// It costs nothing. If it is set, the puller starts only if the source's cap is at most
    /// `rate * ack_wait / 2`, so that a message in a full buffer is settled before *in progress*
    /// has to be sent for it.
    pub fn rate(mut self, messages_per_second: f64) -> Self {
        self.rate = Some(messages_per_second);
        self
    }

    /// Sets what happens upstream to records that failed for good. Default:
    /// [`DeadLetterRoute::Keep`].
    pub fn dead_letters(mut self, route: DeadLetterRoute) -> Self {
        self.dead_letters = route;
        self
    }
}

/// The options of a [`Publisher`](crate::Publisher).
///
/// # Examples
///
/// ```
/// use conveyor_buffer_nats::PublishOptions;
///
/// let options = PublishOptions::default().max_batch(200).concurrency(4);
/// assert_ne!(options, PublishOptions::default());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PublishOptions {
    pub(crate) max_batch: usize,
    pub(crate) concurrency: usize,
    pub(crate) retry_for: Duration,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { max_batch: 500, concurrency: 1, retry_for: Duration::from_secs(60) }
    }
}

impl PublishOptions {
    /// Sets the maximum number of records that are published before their acknowledgements are
    /// awaited. Default: 500; 0 counts as 1.
    ///
    /// More need fewer round trips; they keep their credits until all of them are acknowledged.
    pub fn max_batch(mut self, records: usize) -> Self {
        self.max_batch = records.max(1);
        self
    }

    /// Sets how many batches are published at once. Default: 1; 0 counts as 1.
    ///
    /// Only 1 keeps the order of the stage in the stream. More hide the round trip to a distant
    /// server.
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches.max(1);
        self
    }

    /// Sets how long a publish that fails is repeated before the publisher gives up. Default:
    /// 60 s.
    ///
    /// Meanwhile the batch stays in the publisher's hands, no retry is counted, and *in progress*
    /// is sent upstream. A longer time survives a longer outage of the server, and hides a missing
    /// stream for longer.
    pub fn retry_for(mut self, time: Duration) -> Self {
        self.retry_for = time;
        self
    }
}
