//! The handle to the dead letters.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Closed, RecvTimeoutError};
use crate::event::Listener;
use crate::record::Envelope;
use crate::store::{DeadLetter, DeadLetterQueue};
use crate::sync::{block_on_until, now};

/// A handle to the dead letters of a buffer: records that failed for good.
///
/// Clones are cheap and share the dead letters. A record becomes a dead letter when a return would
/// exceed its retry limit, or when a worker settles it as
/// [`Outcome::DeadLetter`](crate::Outcome::DeadLetter). It then releases its credit and place.
///
/// # Parked letters
///
/// The buffer holds at most [`capacity`](Self::capacity) such letters. When they are full, a
/// further letter is *parked*: no worker receives its record again, but it keeps its credit and its
/// place in its stage, where it counts as in flight. A parked letter is received like the others,
/// and moves up as soon as one of them is received.
///
/// As a result no dead letter is lost and no cap is exceeded. If the dead letters are never
/// received, parked letters fill the caps, and backpressure stops the pipeline instead of using
/// more memory.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::builder(BufferSettings::default())
///     .max_retries(0)
///     .dead_letter_capacity(1)
///     .build()?;
/// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
/// let rows = vec![BufferedRecord::new("NA", "EWR", "flights", "parse"); 3];
/// source.try_send_batch(&stage, rows)?;
/// stage.try_recv_batch(3)?.return_to_buffer();
///
/// let letters = manager.dead_letters();
/// assert_eq!((letters.len(), letters.capacity()), (1, 1));
/// assert_eq!((letters.parked(), stage.in_flight()), (2, 2));
/// assert_eq!(std::iter::from_fn(|| letters.try_recv()).count(), 3);
/// assert!(letters.is_empty());
/// assert_eq!(stage.in_flight(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DeadLetters<E: Envelope> {
    queue: Arc<DeadLetterQueue<E>>,
}

impl<E: Envelope> DeadLetters<E> {
    pub(crate) fn new(queue: Arc<DeadLetterQueue<E>>) -> Self {
        Self { queue }
    }

    /// Takes the oldest dead letter without waiting, or returns `None` if there is none.
    pub fn try_recv(&self) -> Option<DeadLetter<E>> {
        self.queue.pop()
    }

    /// Waits for a dead letter and takes the oldest.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if the buffer is closed and drained and there is no letter. Only a return
    /// by name can still bring one then.
    ///
    /// # Cancel safety
    ///
    /// The future takes no letter before it resolves, and may be dropped at any time. If it was
    /// notified, dropping it passes the notification to another waiter.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("parse")?, manager.source("EWR")?);
    /// let worker = std::thread::spawn(move || {
    ///     let batch = stage.recv_batch_blocking(1).unwrap();
    ///     batch.dead_letter("not a number");
    /// });
    /// let stage = manager.stage("parse")?;
    /// source.try_send(&stage, BufferedRecord::new("NA", "EWR", "flights", "parse"))?;
    ///
    /// let letters = manager.dead_letters();
    /// assert_eq!(letters.recv().await?.record.record, "NA");
    /// manager.close();
    /// assert!(letters.recv().await.is_err());
    /// # worker.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn recv(&self) -> Result<DeadLetter<E>, Closed> {
        let mut waiting = Waiting::default();
        poll_fn(|context| waiting.poll(&self.queue, context)).await.ok_or(Closed)
    }

    /// Blocks the thread until there is a dead letter: the blocking form of [`recv`](Self::recv).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] in the same case as [`recv`](Self::recv).
    pub fn recv_blocking(&self) -> Result<DeadLetter<E>, Closed> {
        block_on_until(self.recv(), None).unwrap_or(Err(Closed))
    }

    /// Blocks the thread until there is a dead letter, for at most `timeout`.
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    ///
    /// # Errors
    ///
    /// - [`RecvTimeoutError::Timeout`] if no letter came in time.
    /// - [`RecvTimeoutError::Closed`] in the same case as [`recv`](Self::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, RecvTimeoutError};
    ///
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// let letters = manager.dead_letters();
    /// let timeout = Duration::from_millis(1);
    /// assert_eq!(letters.recv_timeout(timeout).unwrap_err(), RecvTimeoutError::Timeout);
    /// manager.close();
    /// assert_eq!(letters.recv_timeout(timeout).unwrap_err(), RecvTimeoutError::Closed);
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<DeadLetter<E>, RecvTimeoutError> {
        match block_on_until(self.recv(), now().checked_add(timeout)) {
            Some(received) => received.map_err(|Closed| RecvTimeoutError::Closed),
            None => Err(RecvTimeoutError::Timeout),
        }
    }

    #[cfg(feature = "futures")]
    pub(super) fn poll_recv(
        &self,
        waiting: &mut Waiting,
        context: &mut Context<'_>,
    ) -> Poll<Option<DeadLetter<E>>> {
        waiting.poll(&self.queue, context)
    }

    /// Returns the number of dead letters that hold no credits, without parked ones.
    ///
    /// The number is at most [`capacity`](Self::capacity). It may be outdated on return if other
    /// threads use the buffer.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns `true` if there is neither a dead letter nor a parked one, with the same caveat as
    /// [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.parked() == 0
    }

    /// Returns the number of parked letters, with the same caveat as [`len`](Self::len).
    ///
    /// A parked letter keeps its credit and place until it moves up or is received.
    pub fn parked(&self) -> usize {
        self.queue.parked()
    }

    /// Returns the maximum number of dead letters that are held without credits.
    ///
    /// This is the [`dead_letter_capacity`](crate::Builder::dead_letter_capacity) of the builder.
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

/// A task that waits for a dead letter.
#[derive(Default)]
pub(super) struct Waiting(Option<[Listener; 2]>);

impl Waiting {
    /// Resolves to a letter, or to `None` if there will be none.
    fn poll<E: Envelope>(
        &mut self,
        queue: &DeadLetterQueue<E>,
        context: &mut Context<'_>,
    ) -> Poll<Option<DeadLetter<E>>> {
        loop {
            if let Some(listeners) = &mut self.0 {
                // Each of them keeps the waker.
                let notified = listeners
                    .each_mut()
                    .map(|listener| Pin::new(listener).poll(context).is_ready());
                if notified == [false, false] {
                    return Poll::Pending;
                }
            }
            self.0 = None;
            match queue.pop_or_listen() {
                Ok(letter) => return Poll::Ready(letter),
                Err(listeners) => self.0 = Some(listeners),
            }
        }
    }
}

impl<E: Envelope> Clone for DeadLetters<E> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.queue))
    }
}

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl<E: Envelope> UnwindSafe for DeadLetters<E> {}
impl<E: Envelope> RefUnwindSafe for DeadLetters<E> {}

impl<E: Envelope> fmt::Debug for DeadLetters<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("len", &self.len())
            .field("parked", &self.parked())
            .field("capacity", &self.capacity())
            .finish()
    }
}
