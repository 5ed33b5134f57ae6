//! The handle to the dead letters.

use std::fmt;
use std::sync::Arc;

use crate::record::Envelope;
use crate::store::{DeadLetter, DeadLetterQueue};

/// A handle to the dead letters of a buffer. Cheap to clone.
///
/// A record comes here when a return would pass its retry limit, or when a worker settles it as
/// [`Outcome::DeadLetter`](crate::Outcome::DeadLetter). It gives its credits back on arrival.
///
/// At most [`capacity`](Self::capacity) letters are held so. When they are full, a further record is
/// parked: it is not handed to a worker again and is received like the others, but until a place
/// becomes free it keeps its credits and its place in its stage, where it counts as in flight. So
/// none is lost, no cap is passed, and a pipeline whose dead letters nobody receives comes to a stop
/// by backpressure instead of filling the memory.
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
/// assert_eq!((letters.len(), letters.parked(), stage.in_flight()), (1, 2, 2));
/// assert_eq!(std::iter::from_fn(|| letters.try_recv()).count(), 3);
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

    /// Takes the oldest dead letter, without waiting for one.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.dead_letters().try_recv().is_none());
    /// ```
    pub fn try_recv(&self) -> Option<DeadLetter<E>> {
        self.queue.pop()
    }

    /// How many letters wait to be received, without those that are parked: at most
    /// [`capacity`](Self::capacity). Outdated when it arrives while other threads are running.
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.dead_letters().len(), 0);
    /// ```
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is there to be received, parked or not; as racy as [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert!(manager.dead_letters().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.parked() == 0
    }

    /// How many letters are parked: they found no place, and still hold their credits. As racy as
    /// [`len`](Self::len).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.dead_letters().parked(), 0);
    /// ```
    pub fn parked(&self) -> usize {
        self.queue.parked()
    }

    /// The most letters that are held without credits: `dead_letter_capacity` of the
    /// [`Builder`](crate::Builder).
    ///
    /// ```
    /// # use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// let manager = BufferManager::<BufferedRecord<u8>>::new(BufferSettings::default());
    /// assert_eq!(manager.dead_letters().capacity(), 1_024);
    /// ```
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
