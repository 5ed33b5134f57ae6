//! From the last stage of a buffer into a stream.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use conveyor_buffer::{Batch, Stage};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::buffer::InHand;
use crate::delivery::Carries;
use crate::error::PublishFailed;
use crate::options::PublishOptions;
use crate::retry::Backoff;
use crate::settler::Settler;
use crate::stats::Counter;

type Encode<E> = dyn Fn(&E) -> Outgoing + Send + Sync;

/// Publishes the records of a stage to a stream, and settles them upstream afterwards.
///
/// For each batch it awaits the acknowledgement of every publish, then acknowledges the records
/// upstream, then releases them. Each message has an id, so that the stream drops it as a duplicate
/// if the record was published before: see [`Outgoing::message_id`]. So a record is in the stream
/// exactly once, as long as its redeliveries fall into the stream's duplicate window.
///
/// A publish that fails is repeated while the batch stays in hand; nothing is counted as a retry.
/// A message that can never be published, because it is too large or its subject is not valid,
/// becomes a dead letter.
///
/// # Examples
///
/// ```no_run
/// use async_nats::jetstream::Context;
/// use conveyor_buffer::Stage;
/// use conveyor_buffer_nats::{Delivery, Outgoing, PublishOptions, Publisher, Settler};
///
/// # async fn example(
/// #     context: Context, stage: Stage<Delivery>, settler: Settler,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let encode = |record: &Delivery| Outgoing::new("clean.orders", record.payload().clone());
/// let publisher = Publisher::new(context, stage, settler, encode, PublishOptions::default());
/// let stats = publisher.run().await?;
/// println!("{} published, {} duplicates", stats.published, stats.duplicates);
/// # Ok(())
/// # }
/// ```
pub struct Publisher<E: Carries> {
    context: Context,
    stage: Stage<E>,
    settler: Settler,
    encode: Box<Encode<E>>,
    options: PublishOptions,
    counts: Arc<PublishCounts>,
}

/// A message to be published for a record.
///
/// # Examples
///
/// ```
/// use conveyor_buffer_nats::Outgoing;
///
/// let message = Outgoing::new("clean.orders", "17").with_message_id("order-17");
/// assert_eq!(message.subject, "clean.orders");
/// assert_eq!(message.message_id.as_deref(), Some("order-17"));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outgoing {
    /// The subject. A stream must listen on it.
    pub subject: String,
    /// The payload.
    pub payload: Bytes,
    /// Headers to add.
    pub headers: Option<HeaderMap>,
    /// The id by which the stream tells duplicates, in `Nats-Msg-Id`.
    ///
    /// The default is `STREAM:SEQUENCE:SUBJECT`, of the message that the record came from and the
    /// subject that it goes to. Two records of one message that go to the same subject need ids of
    /// their own, or the second is dropped as a duplicate of the first.
    pub message_id: Option<String>,
}

impl Outgoing {
    /// Creates a message without headers and with the default id.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), payload: payload.into(), headers: None, message_id: None }
    }

    /// Sets the headers.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(headers);
        self
    }

    /// Sets the id by which the stream tells duplicates.
    pub fn with_message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }
}

/// Counts of a [`Publisher`] since the start. Each count only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishStats {
    /// Messages that the stream has stored.
    pub published: u64,
    /// Messages that the stream has dropped, because it has one with the same id.
    pub duplicates: u64,
    /// Publishes that failed and were repeated.
    pub repeated: u64,
    /// Records that became dead letters, because they can never be published.
    pub rejected: u64,
}

#[derive(Debug, Default)]
struct PublishCounts {
    published: Counter,
    duplicates: Counter,
    repeated: Counter,
    rejected: Counter,
}

/// Reads the counts of a [`Publisher`] while it runs.
#[derive(Debug, Clone)]
pub struct PublishStatsReader(Arc<PublishCounts>);

impl PublishStatsReader {
    /// Returns the counts so far.
    pub fn get(&self) -> PublishStats {
        PublishStats {
            published: self.0.published.get(),
            duplicates: self.0.duplicates.get(),
            repeated: self.0.repeated.get(),
            rejected: self.0.rejected.get(),
        }
    }
}

/// What has become of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unpublished,
    Published,
    /// It can never be published, for this reason.
    Impossible(&'static str),
}

impl<E: Carries> Publisher<E> {
    /// Creates a publisher for a stage. `encode` makes the message of each record.
    pub fn new(
        context: Context,
        stage: Stage<E>,
        settler: Settler,
        encode: impl Fn(&E) -> Outgoing + Send + Sync + 'static,
        options: PublishOptions,
    ) -> Self {
        let counts = Arc::default();
        Self { context, stage, settler, encode: Box::new(encode), options, counts }
    }

    /// Returns a reader of the counts.
    pub fn stats(&self) -> PublishStatsReader {
        PublishStatsReader(Arc::clone(&self.counts))
    }

    /// Publishes until the stage is closed and drained, and returns the counts.
    ///
    /// # Errors
    ///
    /// Returns [`PublishFailed`] if a publish has failed for
    /// [`retry_for`](PublishOptions::retry_for), for example because no stream listens on the
    /// subject. The batch goes back to the stage, and no retry is counted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the batches in hand go back to the stage, and no retry is counted.
    /// What was published of them is published again, and dropped as a duplicate.
    pub async fn run(self) -> Result<PublishStats, PublishFailed> {
        let mut loops: FuturesUnordered<_> =
            (0..self.options.concurrency).map(|_| self.publish_batches()).collect();
        while let Some(result) = loops.next().await {
            result?;
        }
        Ok(self.stats().get())
    }

    async fn publish_batches(&self) -> Result<(), PublishFailed> {
        while let Ok(batch) = self.stage.recv_batch(self.options.max_batch).await {
            let batch = InHand::new(batch);
            let states = self.publish(batch.batch()).await?;
            self.settle(batch.into_batch(), &states).await;
        }
        Ok(())
    }

    /// Publishes the records of a batch and awaits the acknowledgements, as often as necessary.
    async fn publish(&self, batch: &Batch<E>) -> Result<Vec<State>, PublishFailed> {
        let deadline = Instant::now() + self.options.retry_for;
        let mut backoff = Backoff::default();
        let mut states = vec![State::Unpublished; batch.len()];
        loop {
            let failed = self.attempt(batch, &mut states).await;
            let Some(failed) = failed else { return Ok(states) };
            if Instant::now() >= deadline {
                return Err(failed);
            }
            backoff.wait().await;
        }
    }

    /// Publishes what is unpublished. Returns the first failure that may pass.
    ///
    /// The messages are sent in the order of the records. While one waits for the context's limit
    /// of unacknowledged publishes, the acknowledgements of those before it are taken, so that
    /// publishers that share a context cannot block each other.
    async fn attempt(&self, batch: &Batch<E>, states: &mut [State]) -> Option<PublishFailed> {
        let mut failed = None;
        let mut stored = FuturesUnordered::new();
        for (place, record) in batch.iter().enumerate() {
            if states[place] != State::Unpublished {
                continue;
            }
            let Some((subject, message)) = self.message(record) else {
                states[place] = State::Impossible("its subject to publish to is not valid");
                continue;
            };
            let mut sending = pin!(self.context.send_publish(subject.clone(), message));
            let sent = loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => break sent,
                    Some((place, result)) = stored.next() => {
                        self.note(place, result, states, &mut failed);
                    }
                }
            };
            match sent {
                Ok(acknowledgement) => stored.push(async move {
                    let result = acknowledgement.await;
                    (place, result.map_err(|error| PublishFailed::new(&subject, error)))
                }),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    states[place] = State::Impossible("larger than the server's max_payload");
                }
                Err(error) => {
                    let failure = PublishFailed::new(&subject, error);
                    self.note(place, Err(failure), states, &mut failed);
                    break;
                }
            }
        }
        while let Some((place, result)) = stored.next().await {
            self.note(place, result, states, &mut failed);
        }
        failed
    }

    fn note(
        &self,
        place: usize,
        result: Result<PublishAck, PublishFailed>,
        states: &mut [State],
        failed: &mut Option<PublishFailed>,
    ) {
        match result {
            Ok(stored) => {
                let counts = &self.counts;
                if stored.duplicate { &counts.duplicates } else { &counts.published }.add(1);
                states[place] = State::Published;
            }
            Err(failure) => {
                self.counts.repeated.add(1);
                failed.get_or_insert(failure);
            }
        }
    }

    /// Returns the message for a record, or `None` if its subject is not valid.
    fn message(&self, record: &E) -> Option<(Subject, PublishMessage)> {
        let outgoing = (self.encode)(record);
        let subject = Subject::validated(&outgoing.subject).ok()?;
        let id = outgoing.message_id.unwrap_or_else(|| {
            let delivery = record.delivery();
            format!("{}:{}:{subject}", delivery.stream(), delivery.stream_sequence())
        });
        let mut message = PublishMessage::build().payload(outgoing.payload);
        if let Some(headers) = outgoing.headers {
            message = message.headers(headers);
        }
        Some((subject, message.message_id(id)))
    }

    async fn settle(&self, batch: Batch<E>, states: &[State]) {
        let mut states = states.iter();
        let mut reasons = Vec::new();
        let (published, impossible) = batch.partition(|_| match states.next() {
            Some(State::Impossible(reason)) => {
                reasons.push(*reason);
                false
            }
            _ => true,
        });
        self.counts.rejected.add(impossible.len());
        for (record, reason) in impossible.into_singles().zip(reasons) {
            record.dead_letter(reason);
        }
        if !published.is_empty()
            && let Err(error) = self.settler.ack(published).await
        {
            // It is in the stream: publishing it again makes a duplicate, which is dropped.
            error.batch.requeue();
        }
    }
}

impl<E: Carries> fmt::Debug for Publisher<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("stage", &self.stage.id())
            .field("options", &self.options)
            .field("stats", &self.stats().get())
            .finish_non_exhaustive()
    }
}
