//! From a consumer into the buffer.

use std::fmt;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use conveyor_buffer::{Permit, RejectReason, Source, Stage};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::buffer::Room;
use crate::delivery::{Carries, Delivery, Origin, Undecodable};
use crate::error::{PullError, StartError};
use crate::keeper::{Group, Keeper};
use crate::options::PullOptions;
use crate::request::{Answer, Requests};
use crate::retry::Backoff;
use crate::settler::Settler;
use crate::start::{check, check_dead_letters};
use crate::stats::{Counters, PullStats};

/// How often the puller looks, while a request is open, whether the buffer was closed or the
/// connection lost. Neither wakes it.
const LOOK: Duration = Duration::from_millis(100);

type Decode<E> = Box<dyn FnMut(Delivery) -> Result<E, Undecodable> + Send>;
type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Pulls messages of a JetStream consumer into the first stage of a buffer.
///
/// The puller asks the server for no more messages than it holds a [`Permit`] for. So the messages
/// of this puller that are delivered and not settled never exceed the source's cap, and a stage
/// that is full stops the pulling, not the process.
///
/// # Examples
///
/// ```no_run
/// use async_nats::jetstream;
/// use conveyor_buffer::{BufferManager, BufferSettings};
/// use conveyor_buffer_nats::{Delivery, PullOptions, Puller};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let context = jetstream::new(async_nats::connect("localhost").await?);
/// let consumer = context.get_stream("ORDERS").await?.get_consumer("load").await?;
///
/// let settings = BufferSettings { max_per_source: 500, ..BufferSettings::default() };
/// let manager = BufferManager::<Delivery>::new(settings);
/// let (stage, source) = (manager.stage("load")?, manager.source("orders")?);
///
/// let options = PullOptions::default();
/// let puller = Puller::new(context, consumer, source, stage.clone(), Ok, options).await?;
/// let settler = puller.settler();
/// let pulling = tokio::spawn(puller.run(async {
///     // Until the process is told to stop.
/// #   std::future::pending().await
/// }));
///
/// let worker = tokio::spawn({
///     let settler = settler.clone();
///     async move {
///         while let Ok(batch) = stage.recv_batch(100).await {
///             // Work on the batch. An error hands the batch back, and dropping it returns it.
///             let _ = settler.ack(batch).await;
///         }
///     }
/// });
///
/// pulling.await??;
/// settler.shut_down(&manager, std::time::Duration::from_secs(10)).await;
/// # Ok(())
/// # }
/// ```
pub struct Puller<E: Carries> {
    consumer: PullConsumer,
    source: Source<E>,
    stage: Stage<E>,
    decode: Decode<E>,
    settler: Settler,
    origin: Arc<Origin>,
    held: mpsc::UnboundedSender<Group>,
    max_batch: usize,
    idle_wait: Duration,
}

impl<E: Carries> Puller<E> {
    /// Checks the consumer's settings and creates a puller.
    ///
    /// `decode` makes the record of each message; for [`Delivery`] itself, pass `Ok`. A message
    /// that it refuses is settled as the [`DeadLetterRoute`](crate::DeadLetterRoute) of the options
    /// says.
    ///
    /// Call it on a tokio runtime: it spawns the task that sends *in progress*, which ends when the
    /// puller is gone and no delivery is held any more.
    ///
    /// # Errors
    ///
    /// Returns a [`StartError`] that names the setting and what it should be, if the consumer
    /// cannot work with the source's cap and the options.
    pub async fn new(
        context: Context,
        consumer: PullConsumer,
        source: Source<E>,
        stage: Stage<E>,
        decode: impl FnMut(Delivery) -> Result<E, Undecodable> + Send + 'static,
        options: PullOptions,
    ) -> Result<Self, StartError> {
        // The settings may have been changed since the handle was made.
        let info = consumer.get_info().await.map_err(|error| StartError::Nats(error.into()))?;
        let timing = check(&info.name, &info.config, &options, source.capacity())?;
        check_dead_letters(&context, &info.stream_name, &options).await?;
        match source.try_reserve(&stage, 1) {
            Err(reason) if !reason.is_full() => return Err(StartError::Buffer(reason)),
            _ => {}
        }

        let limit = |limit: i64| usize::try_from(limit).ok().filter(|&limit| limit > 0);
        let max_batch = options.max_batch.min(limit(info.config.max_batch).unwrap_or(usize::MAX));
        let idle_wait = match info.config.max_expires {
            Duration::ZERO => options.idle_wait,
            longest => options.idle_wait.min(longest),
        };
        let counters = Arc::new(Counters::default());
        let is_over = Arc::default();
        let held = Keeper::spawn(
            context.client(),
            Arc::clone(&counters),
            timing.progress_every,
            Arc::clone(&is_over),
        );
        let settler = Settler::new(context, options, timing.ack_wait, counters, is_over);
        let origin = Arc::new(Origin {
            source: source.id().to_owned(),
            stream: info.stream_name,
            consumer: info.name,
        });
        Ok(Self {
            consumer,
            source,
            stage,
            decode: Box::new(decode),
            settler,
            origin,
            held,
            max_batch,
            idle_wait,
        })
    }

    /// Returns a settler for the records of this puller.
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// Returns the counts of the puller and its settlers.
    pub fn stats(&self) -> PullStats {
        self.settler.stats()
    }

    /// Pulls until `stop` resolves or the buffer is closed, and returns the counts.
    ///
    /// Before it returns, it tells the server to deliver nothing more, and pushes the messages that
    /// are on the wire. So after it has returned, no message of this puller is anywhere but in the
    /// buffer.
    ///
    /// A server that restarts, a lost connection and a change of the leader only interrupt it. It
    /// repeats its requests with pauses from 50 ms to 2 s.
    ///
    /// # Errors
    ///
    /// - [`PullError::ConsumerGone`] if the consumer or its stream was deleted.
    /// - [`PullError::Refused`] if the server refuses the requests for a reason that does not pass.
    /// - [`PullError::Nats`] if the client was closed.
    /// - [`PullError::Buffer`] if the buffer refuses the records for a reason that does not pass.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, messages on the wire are delivered again after `ack_wait`. What is
    /// in the buffer stays there.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<PullStats, PullError> {
        let settler = self.settler.clone();
        let mut room = Room::new();
        let mut rejections = FuturesUnordered::new();
        let result = self.pull(stop, &mut room, &mut rejections).await;
        while rejections.next().await.is_some() {
            room.shrink_to(rejections.len());
        }
        result.map(|()| settler.stats())
    }

    async fn pull(
        mut self,
        stop: impl Future<Output = ()>,
        room: &mut Room<E>,
        rejections: &mut FuturesUnordered<Task<()>>,
    ) -> Result<(), PullError> {
        let mut stop = pin!(stop);
        let mut is_stopping = false;
        let most = self.settler.options().requests;
        let mut requests = Requests::new(self.settler.client().clone(), self.consumer.clone());
        let mut messages = Vec::new();
        let mut preparing: Option<Task<Prepared<E>>> = None;
        let mut pace = Pace::Idle;
        let mut backoff = Backoff::default();
        let mut is_missing = false;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !(is_stopping && requests.owed() == 0) {
            let ahead = if pace == Pace::Flowing { (most - 1) * self.max_batch } else { 0 };
            let may_ask = !is_stopping && requests.owed() <= ahead;
            if may_ask && preparing.is_none() {
                preparing = Some(self.prepare(pace, &mut backoff));
            }
            tokio::select! {
                biased;
                () = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    preparing = None;
                    requests.end().await;
                }
                answer = requests.receive(&mut messages) => {
                    self.decode(&mut messages, room, rejections);
                    room.shrink_to(requests.owed() + rejections.len());
                    pace = match answer {
                        None if pace == Pace::Idle => Pace::One,
                        None if requests.owed() == 0 => Pace::Flowing,
                        None => pace,
                        Some(Answer::Dry) => Pace::Idle,
                        Some(Answer::Lost) => Pace::Lost,
                        Some(Answer::Refused(description)) => {
                            return Err(PullError::Refused { description });
                        }
                    };
                    if pace == Pace::Lost {
                        // Another request would be lost too.
                        preparing = None;
                    } else {
                        (backoff, is_missing) = (Backoff::default(), false);
                    }
                }
                prepared = finished(preparing.as_mut()) => {
                    preparing = None;
                    match prepared {
                        Prepared::Room(Ok(permit), pace) => {
                            self.settler.counters().requests.add(1);
                            let sent = match pace {
                                Pace::Idle => requests.wait_for_one(self.idle_wait).await,
                                _ => requests.ask(permit.len()).await,
                            };
                            sent.map_err(PullError::Nats)?;
                            room.add(permit);
                        }
                        // The requests that are open still have their permits.
                        Prepared::Room(Err(RejectReason::Closed), _) => {
                            is_stopping = true;
                            requests.end().await;
                        }
                        Prepared::Room(Err(reason), _) => return Err(PullError::Buffer(reason)),
                        Prepared::Consumer(Some(true)) => pace = Pace::Idle,
                        // A server that has just started might not know it yet: ask twice.
                        Prepared::Consumer(Some(false)) if is_missing => return Err(self.gone()),
                        Prepared::Consumer(Some(false)) => is_missing = true,
                        Prepared::Consumer(None) => {
                            // A client that is closed refuses it; one that only has no connection
                            // does not.
                            let client = self.settler.client();
                            let subscribed = client.subscribe(client.new_inbox()).await;
                            subscribed.map_err(|error| PullError::Nats(error.into()))?;
                        }
                    }
                }
                Some(()) = rejections.next(), if !rejections.is_empty() => {
                    room.shrink_to(requests.owed() + rejections.len());
                }
                _ = look.tick(), if requests.owed() > 0 => {
                    if self.source.is_closed() && !is_stopping {
                        is_stopping = true;
                        preparing = None;
                        requests.end().await;
                    } else if requests.is_cut_off() {
                        requests.lose();
                        room.shrink_to(rejections.len());
                        (preparing, pace) = (None, Pace::Lost);
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts what comes before the next request: room for its messages, or, after a failure, a
    /// pause and the question whether the consumer is still there.
    fn prepare(&self, pace: Pace, backoff: &mut Backoff) -> Task<Prepared<E>> {
        if pace == Pace::Lost {
            let (consumer, pause) = (self.consumer.clone(), backoff.next());
            return Box::pin(async move {
                tokio::time::sleep(pause).await;
                Prepared::Consumer(exists(&consumer).await)
            });
        }
        let max = if pace == Pace::Idle { 1 } else { self.max_batch };
        let (source, stage) = (self.source.clone(), self.stage.clone());
        Box::pin(async move { Prepared::Room(source.reserve_up_to(&stage, max).await, pace) })
    }

    /// Makes the records of messages.
    fn decode(
        &mut self,
        messages: &mut Vec<Message>,
        room: &mut Room<E>,
        rejections: &mut FuturesUnordered<Task<()>>,
    ) {
        if messages.is_empty() {
            return;
        }
        let since = Instant::now();
        let counters = self.settler.counters();
        counters.pulled.add(messages.len());
        let mut held = Vec::with_capacity(messages.len());
        for message in messages.drain(..) {
            let Some(delivery) = Delivery::new(message, &self.origin) else {
                continue; // Not from a consumer: nothing to settle.
            };
            if delivery.delivered() > 1 {
                counters.redelivered.add(1);
            }
            held.push(Arc::downgrade(delivery.held()));
            match (self.decode)(delivery) {
                Ok(record) => room.push(record),
                Err(refused) => {
                    let (settler, stage) = (self.settler.clone(), self.stage.clone());
                    rejections.push(Box::pin(async move {
                        settler.reject(&refused, stage.id()).await;
                    }));
                }
            }
        }
        // If the keeper is gone, so is the runtime.
        let _ = self.held.send(Group { since, messages: held });
    }

    fn gone(&self) -> PullError {
        PullError::ConsumerGone {
            stream: self.origin.stream.clone(),
            consumer: self.origin.consumer.clone(),
        }
    }
}

/// How messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// None is there: one request waits for the next.
    Idle,
    /// One came: a request asks for what else is there.
    One,
    /// Requests come back full: several are open.
    Flowing,
    /// The requests were lost.
    Lost,
}

/// What must be known before the next request.
enum Prepared<E: Carries> {
    /// Room for its messages, and the pace that it was reserved at.
    Room(Result<Permit<E>, RejectReason>, Pace),
    /// Whether the consumer exists, if the server can be asked.
    Consumer(Option<bool>),
}

async fn finished<T>(task: Option<&mut Task<T>>) -> T {
    match task {
        Some(task) => task.await,
        None => pending().await,
    }
}

async fn exists(consumer: &PullConsumer) -> Option<bool> {
    match consumer.get_info().await {
        Ok(_) => Some(true),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Some(false),
            _ => None,
        },
    }
}

impl<E: Carries> fmt::Debug for Puller<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller")
            .field("stream", &self.origin.stream)
            .field("consumer", &self.origin.consumer)
            .field("source", &self.source.id())
            .field("stage", &self.stage.id())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
