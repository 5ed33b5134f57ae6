//! Workers that wait for records of a stage. For the handshakes, see
//! [`docs::internals`](crate::docs::internals#workers).

use crate::event::{Event, Listener};
use crate::sync::{AtomicU32, AtomicU64, SeqCst};

/// The workers that wait at a stage.
pub(crate) struct Receivers {
    /// Lower half: the number of workers that wait for any record. Upper half: the number that
    /// linger.
    waiting: AtomicU64,
    /// Notified when a record was added.
    not_empty: Event,
    /// Notified when `least_wanted` records wait.
    batch_ready: Event,
    least_wanted: AtomicU32,
}

/// One worker that lingers, in `Receivers::waiting`.
const LINGERING: u64 = 1 << 32;

/// A worker that waits. It is counted until the value is dropped. The worker must look for records
/// once more after it has created the value: see [`Receivers::notify`].
pub(crate) struct Receiver<R: AsRef<Receivers>> {
    stage: R,
    /// What it adds to `Receivers::waiting`.
    one: u64,
    pub(crate) listener: Listener,
}

impl Receivers {
    pub(crate) fn new() -> Self {
        Self {
            waiting: AtomicU64::new(0),
            not_empty: Event::default(),
            batch_ready: Event::default(),
            least_wanted: AtomicU32::new(u32::MAX),
        }
    }

    /// Notifies one of the workers that wait for any record. Notifies all that linger if enough
    /// records wait for one of them; `len` counts the records that wait. Must be called after
    /// adding records.
    #[inline]
    pub(crate) fn notify(&self, len: impl FnOnce() -> u32) {
        let waiting = self.waiting.load(SeqCst);
        if waiting > 0 {
            self.notify_some(waiting, len);
        }
    }

    #[cold]
    fn notify_some(&self, waiting: u64, len: impl FnOnce() -> u32) {
        if waiting as u32 > 0 {
            self.not_empty.notify_one();
        }
        if waiting >= LINGERING && self.least_wanted.load(SeqCst) <= len() {
            // A worker registers with the event before it sets the level. So every worker whose
            // level is cleared here is notified.
            self.least_wanted.swap(u32::MAX, SeqCst);
            self.batch_ready.notify_all();
        }
    }

    /// Whether workers wait.
    #[inline]
    pub(crate) fn are_waiting(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Whether a worker waits for any record, or one that lingers wants no more than `len`.
    pub(crate) fn want(&self, len: impl FnOnce() -> u32) -> bool {
        let waiting = self.waiting.load(SeqCst);
        waiting as u32 > 0 || waiting > 0 && self.least_wanted.load(SeqCst) <= len()
    }

    /// Notifies every worker that waits.
    pub(crate) fn notify_all(&self) {
        self.not_empty.notify_all();
        self.batch_ready.notify_all();
    }

    /// Registers a worker that is about to wait for a record.
    pub(crate) fn wait_for_any<R: AsRef<Self>>(stage: R) -> Receiver<R> {
        let listener = stage.as_ref().not_empty.listen();
        Receiver::new(stage, 1, listener)
    }

    /// Registers a worker that is about to wait until `wanted` records wait to be taken.
    pub(crate) fn wait_for_batch<R: AsRef<Self>>(stage: R, wanted: u32) -> Receiver<R> {
        let listener = stage.as_ref().batch_ready.listen();
        stage.as_ref().least_wanted.fetch_min(wanted, SeqCst);
        Receiver::new(stage, LINGERING, listener)
    }
}

impl<R: AsRef<Receivers>> Receiver<R> {
    fn new(stage: R, one: u64, listener: Listener) -> Self {
        stage.as_ref().waiting.fetch_add(one, SeqCst);
        Self { stage, one, listener }
    }
}

impl<R: AsRef<Receivers>> Drop for Receiver<R> {
    fn drop(&mut self) {
        self.stage.as_ref().waiting.fetch_sub(self.one, SeqCst);
    }
}
