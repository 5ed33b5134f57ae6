//! Adapters for the `futures` traits: a stage as a `Stream` of batches, a source as a `Sink` of
//! records.

use std::fmt;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};
use futures_sink::Sink;

use super::batch::Batch;
use super::dead_letters::{DeadLetters, Waiting};
use super::producer::Producer;
use super::send::Reserving;
use super::source::Source;
use super::stage::Stage;
use crate::admission::{Receiver, Wanted};
use crate::error::{Closed, RejectReason};
use crate::record::Envelope;
use crate::store::{DeadLetter, WaitingAt};

impl<E: Envelope> Stage<E> {
    /// Returns a stream of this stage's batches, each of up to `max` records.
    ///
    /// The stream receives as [`recv_batch`](Self::recv_batch) does, and yields as it does; a `max`
    /// of 0 counts as 1.
    /// Several streams of one stage share its records, as several workers do. Requires the feature
    /// `futures`.
    pub fn batches(&self, max: usize) -> Batches<E> {
        Batches { stage: self.clone(), max: max.max(1), idle: None, ended: false }
    }
}

impl<E: Envelope> DeadLetters<E> {
    /// Returns the dead letters as a `Stream`, which ends when [`recv`](Self::recv) would return
    /// [`Closed`].
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use futures_util::StreamExt;
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("NA", "EWR", "p", "parse"); 3])?;
    /// stage.try_recv_batch(3)?.dead_letter("not a number");
    /// manager.close();
    ///
    /// assert_eq!(manager.dead_letters().stream().count().await, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn stream(&self) -> DeadLetterStream<E> {
        DeadLetterStream { letters: self.clone(), waiting: Waiting::default(), ended: false }
    }
}

impl<E: Envelope> Source<E> {
    /// Returns a sink that pushes records to one stage, and waits as [`send`](Self::send) does.
    ///
    /// A source may have several sinks, for the same stage or for others. They queue for credits
    /// and places like other requests of the source. Requires the feature `futures`.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use futures_util::{StreamExt, stream};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// let lines = stream::iter(["17", "NA", "4"]);
    /// let records = lines.map(|line| Ok(BufferedRecord::new(line, "a", "p", "filter")));
    /// records.forward(source.sink(&stage)).await?;
    /// assert_eq!(stage.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn sink(&self, stage: &Stage<E>) -> RecordSink<E> {
        let producer = self.producer(stage);
        RecordSink { producer, reserving: None, late: None, ready: false, closed: false }
    }
}

/// A stream of a stage's batches, from [`Stage::batches`].
///
/// The stream ends when no record will ever come: see [`Closed`]. It therefore does not end before
/// every batch that it returned is settled. Combinators that keep batches until the end, such as
/// `collect` and `chunks`, need batches that are settled before, for example by
/// [`into_records`](Batch::into_records).
///
/// # Cancel safety
///
/// The stream takes no record before it returns a batch, and may be dropped at any time, as may a
/// `next` of it. If it was notified, dropping it passes the notification to another worker.
///
/// Do not keep a stream without polling it: one that was notified keeps the wake-up from the other
/// workers, which may then sleep although a record is queued.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// use futures_util::StreamExt;
///
/// # pollster::block_on(async {
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 5])?;
/// manager.close();
///
/// let mut sizes = Vec::new();
/// let mut batches = stage.batches(2);
/// while let Some(batch) = batches.next().await {
///     sizes.push(batch.len());
///     batch.ack();
/// }
/// assert_eq!(sizes, [2, 2, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "a stream takes nothing unless it is polled"]
pub struct Batches<E: Envelope> {
    stage: Stage<E>,
    max: usize,
    /// Registered by the last poll if that found no record.
    idle: Option<Receiver<WaitingAt<E>>>,
    ended: bool,
}

impl<E: Envelope> Stream for Batches<E> {
    type Item = Batch<E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Batch<E>>> {
        let this = self.get_mut();
        if this.idle.is_none() && !this.ended && this.stage.must_yield() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        while !this.ended {
            if let Some(idle) = &mut this.idle {
                ready!(Pin::new(&mut idle.listener).poll(context));
                this.stage.end_turns();
            }
            // The notification is used up. Look for a record before returning, or the wake-up would
            // be lost.
            this.idle = None;
            match this.stage.try_or_wait(this.max) {
                Ok(Ok(batch)) => return Poll::Ready(Some(batch)),
                Ok(Err(Closed)) => this.ended = true,
                Err(idle) => this.idle = Some(idle),
            }
        }
        Poll::Ready(None)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.ended.then_some(0))
    }
}

impl<E: Envelope> FusedStream for Batches<E> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for Batches<E> {}
impl<E: Envelope> RefUnwindSafe for Batches<E> {}

impl<E: Envelope> fmt::Debug for Batches<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("stage", &self.stage.id())
            .field("max", &self.max)
            .field("ended", &self.ended)
            .finish()
    }
}

/// The dead letters of a buffer as a `Stream`, from [`DeadLetters::stream`].
///
/// Each letter goes to one of the streams and calls that wait.
#[must_use = "a stream takes nothing unless it is polled"]
pub struct DeadLetterStream<E: Envelope> {
    letters: DeadLetters<E>,
    waiting: Waiting,
    ended: bool,
}

impl<E: Envelope> Stream for DeadLetterStream<E> {
    type Item = DeadLetter<E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<DeadLetter<E>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let letter = ready!(this.letters.poll_recv(&mut this.waiting, context));
        this.ended = letter.is_none();
        Poll::Ready(letter)
    }
}

impl<E: Envelope> FusedStream for DeadLetterStream<E> {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for DeadLetterStream<E> {}
impl<E: Envelope> RefUnwindSafe for DeadLetterStream<E> {}

impl<E: Envelope> fmt::Debug for DeadLetterStream<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterStream")
            .field("letters", &self.letters)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A sink of records for one stage, from [`Source::sink`].
///
/// It stands on a [`Producer`]: `feed` gathers records into blocks, `flush` publishes them, and `send`
/// does both; `StreamExt::forward` moves blocks. It is ready when it holds the credit and the place of
/// one record. Closing it publishes what is pending, gives back what it holds, and closes this sink alone:
/// its source and its stage stay open.
///
/// In a buffer with [byte budgets](crate::Builder::max_total_bytes) it learns the size of a record when
/// it is given the record. One for which there are too few bytes stays in the sink, as its only one,
/// until there are enough: the next call waits for that.
///
/// # Errors
///
/// - [`RejectReason::Closed`] if the buffer, the source, the stage or this sink was closed.
/// - [`RejectReason::ForeignStage`] if the stage belongs to another buffer.
///
/// Both come from waiting until the sink is ready. A sink that is ready accepts a record even if
/// the buffer was closed after that, unless the record must be measured for a byte budget; one that
/// exceeds a budget is refused as [`TooLarge`](RejectReason::TooLarge). A combinator that fails drops its record; use
/// [`send`](Source::send) to get it back.
///
/// # Panics
///
/// Panics if it is given a record while it is not ready. Combinators never do this.
///
/// # Cancel safety
///
/// Dropping the sink releases what it holds, or removes its waiting request. A record that waits in
/// the sink for bytes is dropped with it, and was not accepted.
///
/// Dropping the future of `SinkExt::send` drops its record, but the sink keeps its request, and
/// later the credit and place. These stay in use, and [`drain`](crate::BufferManager::drain) waits
/// for them, until the sink is used, closed or dropped.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// use futures_util::SinkExt;
///
/// # pollster::block_on(async {
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// let mut sink = source.sink(&stage);
/// sink.send(BufferedRecord::new("line", "a", "p", "filter")).await?;
/// assert_eq!(stage.len(), 1);
///
/// manager.close();
/// let error = sink.send(BufferedRecord::new("late", "a", "p", "filter")).await.unwrap_err();
/// assert!(error.is_closed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "a sink pushes nothing unless it is given records"]
pub struct RecordSink<E: Envelope> {
    producer: Producer<E>,
    /// The request for the next record's credit and place, where it waits for them.
    reserving: Option<Reserving>,
    /// A record that it was given, and that waits for bytes, with its units.
    late: Option<(E, u32)>,
    /// Whether it has said that it takes a record.
    ready: bool,
    closed: bool,
}

impl<E: Envelope> RecordSink<E> {
    /// Ensures that the producer holds a credit and a place for the next record.
    fn poll_prepare(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RejectReason>> {
        let producer = &mut self.producer;
        if self.reserving.is_none() {
            if !producer.must_queue() {
                match producer.prepare() {
                    Err(reason) if reason.is_full() => {}
                    done => return Poll::Ready(done),
                }
            }
            producer.flush();
        }
        self.poll_hold(0, context)
    }

    /// Waits until the producer holds a credit, units and a place for one record.
    fn poll_hold(
        &mut self,
        units: u32,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RejectReason>> {
        let producer = &mut self.producer;
        let reserving =
            self.reserving.get_or_insert_with(|| Reserving::new(Wanted::Ahead(1, units)));
        let reserved = ready!(reserving.poll(producer.source(), producer.stage(), context));
        self.reserving = None;
        Poll::Ready(reserved.map(|acquired| producer.hold(1, acquired.first)))
    }

    /// Waits until the record that lacked bytes is pushed, if there is one.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RejectReason>> {
        if let Some((_, units)) = self.late {
            let held = ready!(self.poll_hold(units, context));
            if let Some((record, units)) = self.late.take() {
                held?;
                self.producer.accept_prepared(record, units);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// It never pins its records.
impl<E: Envelope> Unpin for RecordSink<E> {}

impl<E: Envelope> Sink<E> for RecordSink<E> {
    type Error = RejectReason;

    fn poll_ready(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RejectReason>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(RejectReason::Closed));
        }
        if !this.ready {
            let prepared = match this.poll_late(context) {
                Poll::Ready(Ok(())) => this.poll_prepare(context),
                late => late,
            };
            let (source, stage) = (this.producer.source(), this.producer.stage());
            ready!(prepared).map_err(|reason| source.core().refuse(stage.core(), reason))?;
            this.ready = true;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, record: E) -> Result<(), RejectReason> {
        let this = self.get_mut();
        assert!(this.ready, "a sink was given a record when it was not ready");
        this.ready = false;
        let units = this.producer.source().core().measure(&record);
        match this.producer.charge(units) {
            Ok(()) => this.producer.accept_prepared(record, units),
            Err(reason) if reason.is_full() => {
                this.producer.flush();
                this.late = Some((record, units));
            }
            Err(reason) => return Err(reason),
        }
        Ok(())
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RejectReason>> {
        let this = self.get_mut();
        let pushed = ready!(this.poll_late(context));
        this.producer.flush();
        this.ready = false;
        Poll::Ready(pushed)
    }

    fn poll_close(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RejectReason>> {
        let this = self.get_mut();
        let pushed = ready!(this.poll_late(context));
        this.producer.flush();
        this.reserving = None;
        this.ready = false;
        this.closed = true;
        Poll::Ready(pushed)
    }
}

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for RecordSink<E> {}
impl<E: Envelope> RefUnwindSafe for RecordSink<E> {}

impl<E: Envelope> fmt::Debug for RecordSink<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSink")
            .field("source", &self.producer.source().id())
            .field("stage", &self.producer.stage().id())
            .field("pending", &self.producer.pending())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
