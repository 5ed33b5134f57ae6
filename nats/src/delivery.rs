//! A message on its way through the buffer, with what is needed to settle it upstream.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use conveyor_buffer::Envelope;

/// A message of a JetStream consumer, held in this process until it is settled upstream.
///
/// A delivery is an [`Envelope`], so it can be the record of a buffer. A record type of your own
/// contains it and implements [`Carries`].
///
/// A delivery is never acknowledged by being dropped. One that is dropped unsettled is delivered
/// again after the consumer's `ack_wait`, to any process that pulls from the consumer.
///
/// As long as a delivery exists and is not settled, its puller sends *in progress* for it before
/// `ack_wait` runs out: see [`PullOptions::progress_every`](crate::PullOptions::progress_every).
///
/// # Examples
///
/// Deliveries come from a [`Puller`](crate::Puller). A worker reads them:
///
/// ```
/// use conveyor_buffer_nats::Delivery;
///
/// fn key(record: &Delivery) -> String {
///     if record.delivered() > 1 {
///         eprintln!("{} may have been worked on before", record.stream_sequence());
///     }
///     format!("{}/{}", record.stream(), record.stream_sequence())
/// }
/// # let _ = key;
/// ```
pub struct Delivery {
    held: Arc<Held>,
    retries: u32,
}

/// The part of a delivery that the keeper of *in progress* looks at.
pub(crate) struct Held {
    origin: Arc<Origin>,
    payload: Bytes,
    subject: Subject,
    headers: Option<HeaderMap>,
    reply: Subject,
    stream_sequence: u64,
    delivered: u64,
    settled: AtomicBool,
}

/// Where deliveries come from: shared by all deliveries of one puller.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) source: String,
    pub(crate) stream: String,
    pub(crate) consumer: String,
}

impl Delivery {
    /// Takes over a message that a pull request returned, or returns `None` if it does not come
    /// from a consumer.
    pub(crate) fn new(message: async_nats::Message, origin: &Arc<Origin>) -> Option<Self> {
        let reply = message.reply?;
        let (delivered, stream_sequence) = parse_reply(&reply)?;
        let held = Held {
            origin: Arc::clone(origin),
            payload: message.payload,
            subject: message.subject,
            headers: message.headers,
            reply,
            stream_sequence,
            delivered,
            settled: AtomicBool::new(false),
        };
        Some(Self { held: Arc::new(held), retries: 0 })
    }

    /// Returns the payload. A clone of it shares the memory.
    pub fn payload(&self) -> &Bytes {
        &self.held.payload
    }

    /// Returns the subject that the message was published to.
    pub fn subject(&self) -> &str {
        &self.held.subject
    }

    /// Returns the headers, if the message has any.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.held.headers.as_ref()
    }

    /// Returns the name of the stream.
    pub fn stream(&self) -> &str {
        &self.held.origin.stream
    }

    /// Returns the name of the consumer.
    pub fn consumer(&self) -> &str {
        &self.held.origin.consumer
    }

    /// Returns the sequence number of the message in its stream.
    ///
    /// It is the same each time the message is delivered, so it identifies the message in a
    /// database.
    pub fn stream_sequence(&self) -> u64 {
        self.held.stream_sequence
    }

    /// Returns how often the consumer has delivered the message: 1 for the first time.
    ///
    /// Above 1, the message may have been processed before. Local retries are not counted here but
    /// in [`retry_count`](Envelope::retry_count).
    pub fn delivered(&self) -> u64 {
        self.held.delivered
    }

    /// Returns `true` if the message was acknowledged, handed back or terminated upstream.
    pub fn is_settled(&self) -> bool {
        self.held.is_settled()
    }

    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }
}

/// Reads the delivery count and the stream sequence from a reply subject.
///
/// The subject has one of the two forms of ADR-15, of which the longer may grow at its end:
/// `$JS.ACK.stream.consumer.delivered.stream_sequence.consumer_sequence.time.pending` or
/// `$JS.ACK.domain.account.stream.consumer.delivered.stream_sequence.…`
fn parse_reply(reply: &str) -> Option<(u64, u64)> {
    let tokens = reply.strip_prefix("$JS.ACK.")?;
    let skip = match tokens.split('.').count() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let mut numbers = tokens.split('.').skip(skip).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Held {
    pub(crate) fn reply(&self) -> &Subject {
        &self.reply
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub(crate) fn set_settled(&self) {
        self.settled.store(true, Ordering::Release);
    }
}

impl Envelope for Delivery {
    /// Returns the name of the source that pulled the message.
    fn source_id(&self) -> &str {
        &self.held.origin.source
    }

    fn retry_count(&self) -> u32 {
        self.retries
    }

    fn increment_retry(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("stream", &self.stream())
            .field("stream_sequence", &self.stream_sequence())
            .field("subject", &self.subject())
            .field("delivered", &self.delivered())
            .field("retries", &self.retries)
            .field("is_settled", &self.is_settled())
            .finish_non_exhaustive()
    }
}

/// A record that carries the delivery it was made from.
///
/// The delivery stays with the record through all stages, so that the last one can settle it
/// upstream.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::Envelope;
/// use conveyor_buffer_nats::{Carries, Delivery};
///
/// struct Order {
///     amount: u64,
///     delivery: Delivery,
/// }
///
/// impl Envelope for Order {
///     fn source_id(&self) -> &str {
///         self.delivery.source_id()
///     }
///     fn retry_count(&self) -> u32 {
///         self.delivery.retry_count()
///     }
///     fn increment_retry(&mut self) {
///         self.delivery.increment_retry();
///     }
/// }
///
/// impl Carries for Order {
///     fn delivery(&self) -> &Delivery {
///         &self.delivery
///     }
/// }
///
/// // The decoder that `Puller::new` takes.
/// fn decode(delivery: Delivery) -> Result<Order, conveyor_buffer_nats::Undecodable> {
///     match std::str::from_utf8(delivery.payload()).ok().and_then(|text| text.parse().ok()) {
///         Some(amount) => Ok(Order { amount, delivery }),
///         None => Err(delivery.undecodable("not a number")),
///     }
/// }
/// ```
pub trait Carries: Envelope {
    /// Returns the delivery of the record: always the same one.
    fn delivery(&self) -> &Delivery;
}

impl Carries for Delivery {
    fn delivery(&self) -> &Delivery {
        self
    }
}

/// A message that the decoder refused, with the reason.
///
/// The puller treats it as a dead letter: see [`DeadLetterRoute`](crate::DeadLetterRoute).
#[derive(Debug)]
pub struct Undecodable {
    pub(crate) delivery: Delivery,
    pub(crate) reason: String,
}

impl Delivery {
    /// Refuses the message, for a decoder.
    pub fn undecodable(self, reason: impl Into<String>) -> Undecodable {
        Undecodable { delivery: self, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        for reply in [
            "$JS.ACK.flights.load.3.100.7.1700000000000000000.42",
            "$JS.ACK.hub.ACCOUNT.flights.load.3.100.7.1700000000000000000.42",
            "$JS.ACK._.ACCOUNT.flights.load.3.100.7.1700000000000000000.42.random.more",
        ] {
            assert_eq!(parse_reply(reply), Some((3, 100)), "{reply}");
        }
        for reply in [
            "_INBOX.abc",
            "$JS.ACK.flights.load.3.100.7.42",
            "$JS.ACK._.flights.load.3.100.7.1700000000000000000.42",
            "$JS.ACK.flights.load.three.100.7.1700000000000000000.42",
        ] {
            assert_eq!(parse_reply(reply), None, "{reply}");
        }
    }
}
