//! Receivers of backpressure signals.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::source::{Source, SourceCore};
use crate::backpressure::{BackpressureController, BackpressureSignal};
use crate::event::Listener;
use crate::record::Envelope;
use crate::sync::{block_on_until, now};

/// A receiver of the changes of a [`BackpressureSignal`].
///
/// The receiver follows a [`BackpressureController`] if it comes from
/// [`subscribe`](BackpressureController::subscribe), or one source if it comes from
/// [`Source::signals`](crate::Source::signals). It always arrives at the latest signal, and skips
/// intermediate signals that were replaced before it was polled.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
///
/// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
/// let manager = BufferManager::new(settings);
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// let mut signals = source.signals();
///
/// let watcher = std::thread::spawn(move || signals.changed_blocking());
/// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 9])?;
/// assert_eq!(watcher.join().unwrap(), BackpressureSignal::SlowDown);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SignalReceiver {
    controller: BackpressureController,
    source: Option<Arc<SourceCore>>,
    seen: BackpressureSignal,
}

impl BackpressureController {
    /// Creates a receiver that follows this controller's signal from now on.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// # pollster::block_on(async {
    /// let controller = BackpressureController::new(0.8);
    /// let mut signals = controller.subscribe();
    /// controller.observe(0.9);
    /// controller.observe(1.0);
    /// assert_eq!(signals.current(), BackpressureSignal::Pause);
    /// assert_eq!(signals.changed().await, BackpressureSignal::Pause);
    /// # });
    /// ```
    pub fn subscribe(&self) -> SignalReceiver {
        SignalReceiver::of_controller(self.clone())
    }
}

impl<E: Envelope> Source<E> {
    /// Returns what the source should do: the stronger of the buffer's signal and the account's
    /// own.
    ///
    /// Both have hysteresis, and change when a push or a settlement crosses a watermark. The
    /// buffer's level includes credits that sources have leased ahead of need, and may therefore
    /// read up to about 0.01 too high. The levels of stages are not considered: see
    /// [`Stage::utilization`](crate::Stage::utilization).
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    ///
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 9])?;
    /// assert_eq!(source.signal(), BackpressureSignal::SlowDown); // above 0.8
    /// stage.try_recv_batch(3)?.ack();
    /// assert_eq!(source.signal(), BackpressureSignal::SlowDown); // not below 0.6
    /// stage.try_recv_batch(1)?.ack();
    /// assert_eq!(source.signal(), BackpressureSignal::Resume);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&self) -> BackpressureSignal {
        self.core().account().signal().max(self.core().admission().controller().current())
    }

    /// Creates a receiver that follows [`signal`](Self::signal) from now on.
    ///
    /// [`SignalReceiver`] shows an example.
    pub fn signals(&self) -> SignalReceiver {
        SignalReceiver::of_source(
            self.core().admission().controller().clone(),
            Arc::clone(self.core()),
        )
    }
}

impl SignalReceiver {
    pub(crate) fn of_controller(controller: BackpressureController) -> Self {
        let seen = controller.current();
        Self { controller, source: None, seen }
    }

    pub(crate) fn of_source(controller: BackpressureController, source: Arc<SourceCore>) -> Self {
        let seen = controller.current().max(source.account().signal());
        Self { controller, source: Some(source), seen }
    }

    /// Returns the current signal.
    ///
    /// A change that [`changed`](Self::changed) has not reported yet stays unreported.
    pub fn current(&self) -> BackpressureSignal {
        let own = self.source.as_ref().map(|source| source.account().signal());
        self.controller.current().max(own.unwrap_or_default())
    }

    /// Waits until the signal differs from the last reported one, and returns it.
    ///
    /// The first call compares with the signal at the time when the receiver was created. The call
    /// does not end when the buffer is closed: as the buffer drains, the signal becomes
    /// [`Resume`](BackpressureSignal::Resume), and does not change after that.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. The next call reports a change that this one did not.
    pub async fn changed(&mut self) -> BackpressureSignal {
        loop {
            // Listen before reading the signal, so that no change is missed.
            let mut listeners = self.listen();
            let now = self.current();
            if now != self.seen {
                self.seen = now;
                return now;
            }
            poll_fn(|context| poll_any(&mut listeners, context)).await;
        }
    }

    /// Blocks the thread until the signal changes: the blocking form of [`changed`](Self::changed).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    pub fn changed_blocking(&mut self) -> BackpressureSignal {
        let seen = self.seen;
        block_on_until(self.changed(), None).unwrap_or(seen)
    }

    /// Blocks the thread until the signal changes, for at most `timeout`.
    ///
    /// Returns `None` after the timeout. Do not call it inside an async task: it blocks the
    /// executor's thread.
    pub fn changed_timeout(&mut self, timeout: Duration) -> Option<BackpressureSignal> {
        block_on_until(self.changed(), now().checked_add(timeout))
    }

    fn listen(&self) -> [Option<Listener>; 2] {
        let own = self.source.as_ref().map(|source| source.account().listen());
        [Some(self.controller.cell().listen()), own]
    }
}

/// Resolves when one of the listeners is notified.
fn poll_any(listeners: &mut [Option<Listener>], context: &mut Context<'_>) -> Poll<()> {
    let mut listeners = listeners.iter_mut().flatten();
    if listeners.any(|listener| Pin::new(listener).poll(context).is_ready()) {
        Poll::Ready(())
    } else {
        Poll::Pending
    }
}

impl fmt::Debug for SignalReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalReceiver").field("current", &self.current()).finish_non_exhaustive()
    }
}
