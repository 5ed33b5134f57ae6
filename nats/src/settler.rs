//! Settling: upstream first, then in the buffer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{AckKind, Context};
use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use conveyor_buffer::{Batch, BufferManager, DeadLetter, Envelope, Remaining};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout};

use crate::delivery::{Carries, Delivery, Held, Undecodable};
use crate::error::{PublishFailed, SettleError};
use crate::options::{DeadLetterRoute, PullOptions};
use crate::retry::Backoff;
use crate::stats::{Counters, PullStats};

/// How many acknowledgements wait for their confirmation at once.
const CONFIRMATIONS: usize = 1_024;

/// How long a dead letter that cannot be published is kept from being delivered again.
const UNPUBLISHED_DELAY: Duration = Duration::from_secs(30);

/// How long a publish of dead letters is repeated.
const PUBLISH_LETTERS_FOR: Duration = Duration::from_secs(60);

/// How many records are handed back between two looks at the buffer.
const HAND_BACK: usize = 1_000;

/// The interval at which a shutdown looks for records that came back.
const SHUT_DOWN_INTERVAL: Duration = Duration::from_millis(10);

/// Settles records upstream first, and in the buffer afterwards.
///
/// Clones are cheap. All settlers of a [`Puller`](crate::Puller) share its options and counts. They
/// settle any record that carries a [`Delivery`], in any stage.
///
/// Nothing is ever acknowledged by being dropped: a batch that is dropped goes back to its stage,
/// as always, and stays unacknowledged upstream.
///
/// # Examples
///
/// A worker that acknowledges what it has loaded:
///
/// ```no_run
/// use conveyor_buffer::Stage;
/// use conveyor_buffer_nats::{Delivery, Settler};
///
/// # fn load(_: &[u8]) {}
/// async fn work(stage: Stage<Delivery>, settler: Settler) {
///     while let Ok(batch) = stage.recv_batch(100).await {
///         for record in &batch {
///             load(record.payload());
///         }
///         if let Err(error) = settler.ack(batch).await {
///             eprintln!("{error}");
///             error.batch.requeue();
///         }
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Settler {
    shared: Arc<Shared>,
}

/// What all settlers of a puller share.
struct Shared {
    context: Context,
    client: Client,
    options: PullOptions,
    ack_wait: Duration,
    counters: Arc<Counters>,
    /// Set when *in progress* is to be sent no more.
    is_over: Arc<AtomicBool>,
}

impl Settler {
    pub(crate) fn new(
        context: Context,
        options: PullOptions,
        ack_wait: Duration,
        counters: Arc<Counters>,
        is_over: Arc<AtomicBool>,
    ) -> Self {
        let client = context.client();
        let shared = Shared { context, client, options, ack_wait, counters, is_over };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn options(&self) -> &PullOptions {
        &self.shared.options
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Returns the counts of the puller and its settlers.
    pub fn stats(&self) -> PullStats {
        self.shared.counters.read()
    }

    /// Acknowledges all records upstream, then releases them.
    ///
    /// With [`double_ack`](PullOptions::double_ack), the records are released after the server has
    /// confirmed each acknowledgement; without, after the client has taken them.
    ///
    /// # Errors
    ///
    /// Hands back the records that are not acknowledged, still charged to the buffer: the client is
    /// closed, or [`ack_timeout`](PullOptions::ack_timeout) has passed. The acknowledged ones are
    /// released.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the batch returns to its stage. Records that were acknowledged by
    /// then come to a worker again: see [`Delivery::is_settled`].
    pub async fn ack<E: Carries>(&self, batch: Batch<E>) -> Result<(), SettleError<E>> {
        self.settle_all(batch, AckKind::Ack).await
    }

    /// Acknowledges upstream the records for which `which` returns true, and releases none.
    ///
    /// For batches with mixed outcomes: acknowledge upstream what is done, then settle the batch in
    /// the buffer by [`Delivery::is_settled`]. Returns the number of records acknowledged.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack). Some records may be acknowledged nevertheless; `is_settled` tells
    /// which.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use conveyor_buffer::{Batch, Outcome};
    /// use conveyor_buffer_nats::{Delivery, Settler};
    ///
    /// # fn load(_: &[u8]) -> bool { true }
    /// async fn load_each(batch: Batch<Delivery>, settler: &Settler) {
    ///     let acked = settler.ack_records(&batch, |record| load(record.payload())).await;
    ///     if let Err(error) = acked {
    ///         eprintln!("not all are acknowledged: {error}");
    ///     }
    ///     batch.settle(|record| match record.is_settled() {
    ///         true => Outcome::Ack,
    ///         false => Outcome::Return,
    ///     });
    /// }
    /// ```
    pub async fn ack_records<E: Carries>(
        &self,
        batch: &Batch<E>,
        mut which: impl FnMut(&E) -> bool,
    ) -> Result<usize, async_nats::Error> {
        let chosen: Vec<_> = batch
            .iter()
            .filter(|record| which(record))
            .map(|record| &**record.delivery().held())
            .collect();
        self.send(chosen.iter().copied(), AckKind::Ack).await?;
        Ok(chosen.len())
    }

    /// Hands all records back upstream, then releases them.
    ///
    /// The consumer delivers them again, to any process that pulls from it, after `delay` or at
    /// once. Each time counts as a delivery, see `max_deliver` of the consumer. For a retry in this
    /// process, return the batch to the buffer instead: that costs nothing upstream.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack): hands back the records that are not handed back upstream.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the batch returns to its stage. Records that were handed back
    /// upstream by then are delivered again upstream, and come to a worker here as well.
    pub async fn nak<E: Carries>(
        &self,
        batch: Batch<E>,
        delay: Option<Duration>,
    ) -> Result<(), SettleError<E>> {
        self.settle_all(batch, AckKind::Nak(delay)).await
    }

    /// Settles the buffer's dead letters upstream, until the buffer is closed and drained. Returns
    /// how many were terminated.
    ///
    /// The [`DeadLetterRoute`] of the options says how. With `Publish`, each letter is published to
    /// the subject with these headers beside those of the message, and terminated after the publish
    /// was acknowledged:
    ///
    /// | header | value |
    /// | --- | --- |
    /// | `Conveyor-Reason` | why it failed, as [`DeadLetterReason`](conveyor_buffer::DeadLetterReason) shows it |
    /// | `Conveyor-Stage`, `Conveyor-Source` | where it failed, and where it came from |
    /// | `Conveyor-Retries` | how often it was returned in this process |
    /// | `Conveyor-Stream`, `Conveyor-Sequence`, `Conveyor-Subject` | the message |
    /// | `Conveyor-Delivered` | how often it was delivered |
    /// | `Nats-Msg-Id` | `dead:STREAM:SEQUENCE`, so that a letter is published once within the duplicate window |
    ///
    /// Headers of the message that begin with `Nats-` are left out: they were meant for its own
    /// publish.
    ///
    /// # Errors
    ///
    /// Returns an error if a letter could not be published for a minute. The letters in hand are
    /// handed back upstream, with a delay of 30 s. Those that follow stay in the buffer, which
    /// parks them and slows down when they are too many: call it again.
    ///
    /// # Cancel safety
    ///
    /// Letters in hand when the future is dropped are delivered again after `ack_wait`.
    pub async fn publish_dead_letters<E: Carries>(
        &self,
        manager: &BufferManager<E>,
    ) -> Result<u64, PublishFailed> {
        let letters = manager.dead_letters();
        let mut terminated = 0;
        while let Ok(letter) = letters.recv().await {
            self.dead_letter(&Obituary::of(&letter), PUBLISH_LETTERS_FOR).await?;
            terminated += 1;
        }
        Ok(terminated)
    }

    /// Publishes and terminates a message that cannot be decoded.
    ///
    /// If it cannot be published, it is handed back upstream, and so comes again.
    pub(crate) async fn reject(&self, message: &Undecodable, stage: &str) {
        self.shared.counters.undecodable.add(1);
        let obituary = Obituary {
            delivery: &message.delivery,
            stage,
            retries: 0,
            reason: format!("undecodable: {}", message.reason),
        };
        // The failure is counted; the message itself is the report, as it comes again.
        let _ = self.dead_letter(&obituary, Duration::ZERO).await;
    }

    /// Closes the buffer, waits until it is drained, hands back upstream what is left, and flushes.
    ///
    /// Stop the puller first. Workers go on: they have `grace` to settle what is queued and in
    /// their hands. What is still queued then, and dead letters that nothing has received, are
    /// handed back upstream, so that other processes have them at once and not after `ack_wait`.
    ///
    /// Records in the hands of workers, and delayed ones, cannot be handed back by the call. For
    /// them *in progress* is sent no more, so that they are delivered again after `ack_wait`,
    /// unless their worker settles them yet. To have what workers hold handed back at once, abort
    /// the workers, which returns their batches, and call this again with a grace period of zero.
    ///
    /// If several pullers push into the buffer, call it on a settler of each.
    ///
    /// The call takes at most `grace` and twice [`ack_timeout`](PullOptions::ack_timeout), even if
    /// the connection is down.
    pub async fn shut_down<E: Carries>(
        &self,
        manager: &BufferManager<E>,
        grace: Duration,
    ) -> ShutDown {
        manager.close();
        let letters = manager.dead_letters();
        // A time in the far future would overflow.
        let grace = grace.min(Duration::from_secs(86_400 * 365));
        let settled = async {
            manager.drain().await;
            while !letters.is_empty() {
                tokio::time::sleep(SHUT_DOWN_INTERVAL).await;
            }
        };
        let mut handed_back = 0;
        if timeout(grace, settled).await.is_err() {
            let limit = self.shared.options.ack_timeout;
            let _ = timeout(limit, self.hand_back(manager, &mut handed_back)).await;
            self.shared.is_over.store(true, Ordering::Relaxed);
        }
        // The acknowledgements are with the client; without this they might die with the process.
        let _ = timeout(self.shared.options.ack_timeout, self.client().flush()).await;
        ShutDown { handed_back, remaining: manager.remaining() }
    }

    /// Hands back what is queued, until the buffer is drained or two looks found nothing.
    async fn hand_back<E: Carries>(&self, manager: &BufferManager<E>, handed_back: &mut usize) {
        let letters = manager.dead_letters();
        let mut fruitless = 0;
        while fruitless < 2 {
            let before = *handed_back;
            while let Some(letter) = letters.try_recv() {
                let held = &**letter.record.delivery().held();
                if self.send([held].into_iter(), AckKind::Nak(None)).await.is_ok() {
                    *handed_back += 1;
                }
            }
            for name in manager.get_stages_with_data().await {
                let Ok(stage) = manager.stage(&name) else { continue };
                while let Ok(batch) = stage.try_recv_batch(HAND_BACK) {
                    let records = batch.len();
                    match self.nak(batch, None).await {
                        Ok(()) => *handed_back += records,
                        // The client is closed: `ack_wait` does the rest.
                        Err(error) => return error.batch.requeue(),
                    }
                }
            }
            if manager.remaining().is_empty() && letters.is_empty() {
                return;
            }
            fruitless = if *handed_back == before { fruitless + 1 } else { 0 };
            tokio::time::sleep(SHUT_DOWN_INTERVAL).await;
        }
    }

    async fn settle_all<E: Carries>(
        &self,
        batch: Batch<E>,
        kind: AckKind,
    ) -> Result<(), SettleError<E>> {
        let held = batch.iter().map(|record| &**record.delivery().held());
        match self.send(held, kind).await {
            Ok(()) => {
                batch.ack();
                Ok(())
            }
            Err(reason) => {
                let (done, batch) = batch.partition(|record| record.delivery().is_settled());
                done.ack();
                self.shared.counters.failed.add(batch.len());
                Err(SettleError { batch, reason })
            }
        }
    }

    /// Settles messages upstream, except those that are settled already.
    async fn send<'a>(
        &self,
        held: impl Iterator<Item = &'a Held>,
        kind: AckKind,
    ) -> Result<(), async_nats::Error> {
        let held = held.filter(|held| !held.is_settled());
        let limit = self.shared.options.ack_timeout;
        let sent = async {
            if self.shared.options.double_ack {
                self.send_confirmed(held, kind).await
            } else {
                self.send_plain(held, kind).await
            }
        };
        match timeout(limit, sent).await {
            Ok(result) => result,
            Err(_) => Err(format!("not settled within {limit:?}").into()),
        }
    }

    async fn send_plain<'a>(
        &self,
        held: impl Iterator<Item = &'a Held>,
        kind: AckKind,
    ) -> Result<(), async_nats::Error> {
        let payload = Bytes::from(kind);
        for held in held {
            self.client().publish(held.reply().clone(), payload.clone()).await?;
            self.note_settled(held, kind);
        }
        Ok(())
    }

    async fn send_confirmed<'a>(
        &self,
        mut held: impl Iterator<Item = &'a Held>,
        kind: AckKind,
    ) -> Result<(), async_nats::Error> {
        let payload = Bytes::from(kind);
        let confirm = |held: &'a Held| {
            // The time limit of the whole batch applies.
            let request = Request::new().payload(payload.clone()).timeout(None);
            async move {
                self.client().send_request(held.reply().clone(), request).await?;
                self.note_settled(held, kind);
                Ok::<(), async_nats::Error>(())
            }
        };
        let mut waiting = FuturesUnordered::new();
        let mut result = Ok(());
        loop {
            while waiting.len() < CONFIRMATIONS && result.is_ok() {
                let Some(held) = held.next() else { break };
                waiting.push(confirm(held));
            }
            match waiting.next().await {
                Some(confirmed) => result = result.and(confirmed),
                None => return result,
            }
        }
    }

    fn note_settled(&self, held: &Held, kind: AckKind) {
        held.set_settled();
        let counters = &self.shared.counters;
        match kind {
            AckKind::Nak(_) => counters.nacked.add(1),
            AckKind::Term => counters.terminated.add(1),
            _ => counters.acked.add(1),
        }
    }

    /// Publishes a dead letter if the route says so, then terminates it.
    async fn dead_letter(
        &self,
        obituary: &Obituary<'_>,
        retry_for: Duration,
    ) -> Result<(), PublishFailed> {
        let held = &**obituary.delivery.held();
        if let DeadLetterRoute::Publish(subject) = &self.shared.options.dead_letters
            && let Err(failed) = self.publish_letter(obituary, subject, retry_for).await
        {
            self.shared.counters.unpublished.add(1);
            let delay = UNPUBLISHED_DELAY.min(self.shared.ack_wait);
            // If this fails too, the message comes again after `ack_wait`.
            let _ = self.send([held].into_iter(), AckKind::Nak(Some(delay))).await;
            return Err(failed);
        }
        self.send([held].into_iter(), AckKind::Term)
            .await
            .map_err(|reason| PublishFailed { subject: held.reply().to_string(), reason })
    }

    async fn publish_letter(
        &self,
        obituary: &Obituary<'_>,
        subject: &str,
        retry_for: Duration,
    ) -> Result<(), PublishFailed> {
        let deadline = Instant::now() + retry_for;
        let mut backoff = Backoff::default();
        loop {
            let message = PublishMessage::build()
                .payload(obituary.delivery.payload().clone())
                .headers(obituary.headers());
            let published = async {
                self.shared.context.send_publish(subject.to_owned(), message).await?.await
            };
            match published.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(PublishFailed::new(subject, error));
                }
                Err(_) => backoff.wait().await,
            }
        }
    }
}

/// What is published of a dead letter.
struct Obituary<'a> {
    delivery: &'a Delivery,
    stage: &'a str,
    retries: u32,
    reason: String,
}

impl<'a> Obituary<'a> {
    fn of<E: Carries>(letter: &'a DeadLetter<E>) -> Self {
        Self {
            delivery: letter.record.delivery(),
            stage: &letter.stage_id,
            retries: letter.retry_count,
            reason: letter.reason.to_string(),
        }
    }

    fn headers(&self) -> HeaderMap {
        let delivery = self.delivery;
        let mut headers = HeaderMap::new();
        for (name, values) in delivery.headers().into_iter().flat_map(HeaderMap::iter) {
            if !name.to_string().to_ascii_lowercase().starts_with("nats-") {
                for value in values {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let id = format!("dead:{}:{}", delivery.stream(), delivery.stream_sequence());
        for (name, value) in [
            ("Conveyor-Reason", one_line(&self.reason)),
            ("Conveyor-Stage", one_line(self.stage)),
            ("Conveyor-Source", one_line(delivery.source_id())),
            ("Conveyor-Retries", self.retries.to_string()),
            ("Conveyor-Stream", delivery.stream().to_owned()),
            ("Conveyor-Sequence", delivery.stream_sequence().to_string()),
            ("Conveyor-Subject", delivery.subject().to_owned()),
            ("Conveyor-Delivered", delivery.delivered().to_string()),
            ("Nats-Msg-Id", id),
        ] {
            headers.insert(name, value);
        }
        headers
    }
}

/// A header's value must not contain line breaks.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

impl fmt::Debug for Settler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settler").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What [`Settler::shut_down`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShutDown {
    /// Records that were handed back upstream.
    pub handed_back: usize,
    /// Records that are in the hands of workers or delayed. They are delivered again after
    /// `ack_wait`, unless their worker settles them yet.
    pub remaining: Remaining,
}
