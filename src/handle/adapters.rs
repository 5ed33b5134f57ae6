//! For the combinators of futures: a stage as a stream of batches, a source with its stage as a sink of
//! records.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};
use futures_sink::Sink;

use super::batch::Batch;
use super::producer::Producer;
use super::send::Reserving;
use super::source::Source;
use super::stage::Stage;
use crate::admission::Receiver;
use crate::error::{Closed, RejectReason};
use crate::record::Envelope;
use crate::store::WaitingAt;

impl<E: Envelope> Stage<E> {
    /// The batches of this stage as a stream: each of up to `max` records, as
    /// [`recv_batch`](Self::recv_batch) takes them. A `max` of 0 counts as 1. With feature `futures`.
    ///
    /// Several streams of one stage share its batches, as any workers do.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use futures_util::StreamExt;
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 5])?;
    /// manager.close();
    ///
    /// let settle = |batch: conveyor_buffer::Batch<_>| batch.into_records().len();
    /// let sizes: Vec<usize> = stage.batches(2).map(settle).collect().await;
    /// assert_eq!(sizes, [2, 2, 1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn batches(&self, max: usize) -> Batches<E> {
        Batches { stage: self.clone(), max: max.max(1), idle: None, ended: false }
    }
}

impl<E: Envelope> Source<E> {
    /// This source as a sink of records for one stage, which waits as [`send`](Self::send) does. With
    /// feature `futures`.
    ///
    /// A source may have several sinks, for the same stage or for others. They take turns as all who
    /// wait with one source.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use futures_util::{StreamExt, stream};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = stream::iter(["17", "NA", "4"]);
    /// let records = lines.map(|line| Ok(BufferedRecord::new(line, "a", "p", "filter")));
    /// records.forward(source.sink(&stage)).await?;
    /// assert_eq!(stage.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn sink(&self, stage: &Stage<E>) -> RecordSink<E> {
        RecordSink { producer: self.producer(stage), reserving: None, closed: false }
    }
}

/// The batches of a stage: see [`Stage::batches`].
///
/// It ends when no record will ever come, as [`recv_batch`](Stage::recv_batch) has it: so not before
/// every batch that it gave is settled. Who keeps batches and waits for the end (`collect`, `chunks`)
/// must settle them first, by [`into_records`](Batch::into_records) for one.
///
/// # Cancel safety
///
/// Nothing is taken before a batch is handed out: a stream, or a `next` of it, may be dropped at any
/// time. A stream that was woken and is dropped wakes another worker. One that is kept but no longer
/// polled may keep to itself a wake-up that another worker needs: drop it instead.
///
/// ```
/// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
/// use futures_util::StreamExt;
///
/// # pollster::block_on(async {
/// let manager = BufferManager::new(BufferSettings::default());
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// let mut batches = stage.batches(100);
/// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "filter"))?;
/// manager.close();
///
/// let mut seen = 0;
/// while let Some(batch) = batches.next().await {
///     seen += batch.len();
///     batch.ack();
/// }
/// assert_eq!(seen, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[must_use = "a stream takes nothing unless it is polled"]
pub struct Batches<E: Envelope> {
    stage: Stage<E>,
    max: usize,
    /// Since the last poll, if that found nothing.
    idle: Option<Receiver<WaitingAt<E>>>,
    ended: bool,
}

impl<E: Envelope> Stream for Batches<E> {
    type Item = Batch<E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Batch<E>>> {
        let this = self.get_mut();
        while !this.ended {
            if let Some(idle) = &mut this.idle {
                ready!(Pin::new(&mut idle.listener).poll(context));
            }
            // It has used up its wake-up, and so looks for the record now, without a way out between.
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

impl<E: Envelope> fmt::Debug for Batches<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("stage", &self.stage.id())
            .field("max", &self.max)
            .field("ended", &self.ended)
            .finish()
    }
}

/// A source and a stage that its records go to: see [`Source::sink`].
///
/// It stands on a [`Producer`]: `feed` gathers records into blocks, `flush` publishes them, and `send`
/// does both; `StreamExt::forward` moves blocks. It is ready when it holds the credit and the place of
/// one record. Closing it publishes what is pending, gives back what it holds, and closes this sink alone:
/// its source and its stage stay open.
///
/// # Errors
///
/// From waiting to be ready: [`RejectReason::Closed`] after the buffer, the source, the stage or this
/// sink was closed, and [`RejectReason::ForeignStage`] if the stage belongs to another buffer. Once it is
/// ready, it takes a record even then. A combinator that fails drops the record it was to send: to keep
/// it, use [`send`](Source::send).
///
/// # Panics
///
/// If it is given a record when it is not ready, which no combinator does.
///
/// # Cancel safety
///
/// A sink that is dropped gives back what it holds, and leaves the line if it waits. A `send` that is
/// dropped drops its record, but the sink keeps its turn, and a credit that it was granted: use, close or
/// drop the sink then, or those behind it wait, and a closed buffer is not drained.
///
/// ```
/// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
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
    closed: bool,
}

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
        let producer = &mut this.producer;
        if this.reserving.is_none() {
            if !producer.must_queue() {
                match producer.prepare() {
                    Err(reason) if reason.is_full() => {}
                    done => return Poll::Ready(done),
                }
            }
            producer.flush();
        }
        let reserving = this.reserving.get_or_insert_with(|| Reserving::new(1));
        let reserved = ready!(reserving.poll(producer.source(), producer.stage(), context));
        this.reserving = None;
        Poll::Ready(reserved.map(|first| producer.hold(1, first)))
    }

    fn start_send(self: Pin<&mut Self>, record: E) -> Result<(), RejectReason> {
        let producer = &mut self.get_mut().producer;
        assert!(producer.is_prepared(), "a sink was given a record when it was not ready");
        producer.accept_prepared(record);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), RejectReason>> {
        self.get_mut().producer.flush();
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), RejectReason>> {
        let this = self.get_mut();
        this.producer.flush();
        this.reserving = None;
        this.closed = true;
        Poll::Ready(Ok(()))
    }
}

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
