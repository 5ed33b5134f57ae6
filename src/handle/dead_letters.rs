//! The handle to the dead letters.

use std::fmt;
use std::sync::Arc;

use crate::record::Envelope;
use crate::store::{DeadLetter, DeadLetterQueue};

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

impl<E: Envelope> Clone for DeadLetters<E> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.queue))
    }
}

impl<E: Envelope> fmt::Debug for DeadLetters<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("len", &self.len())
            .field("parked", &self.parked())
            .field("capacity", &self.capacity())
            .finish()
    }
}
