//! Following a signal: a receiver that always ends up on the latest.

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

/// Follows a [`BackpressureSignal`]: that of a [`BackpressureController`], by
/// [`subscribe`](BackpressureController::subscribe), or what one source is asked to do, by
/// [`Source::signals`](crate::Source::signals).
///
/// It always ends up on the latest signal. Signals that were overtaken before it looked are left out,
/// and so is one that changed and changed back.
///
/// ```
/// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
///
/// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
/// let manager = BufferManager::new(settings);
/// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
/// let mut signals = source.signals();
///
/// let worker = std::thread::spawn(move || signals.changed_blocking());
/// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 9])?;
/// assert_eq!(worker.join().unwrap(), BackpressureSignal::SlowDown);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SignalReceiver {
    controller: BackpressureController,
    source: Option<Arc<SourceCore>>,
    seen: BackpressureSignal,
}

impl BackpressureController {
    /// A receiver that follows this controller's signal from now on.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// let controller = BackpressureController::new(0.8);
    /// let mut signals = controller.subscribe();
    /// controller.signal(BackpressureSignal::Pause);
    /// assert_eq!(signals.changed_blocking(), BackpressureSignal::Pause);
    /// ```
    pub fn subscribe(&self) -> SignalReceiver {
        SignalReceiver::of_controller(self.clone())
    }
}

impl<E: Envelope> Source<E> {
    /// What the source should do: the stronger of what the whole buffer and the source's own account
    /// ask for, each with hysteresis. Whichever push or settling crosses a watermark changes it.
    ///
    /// The whole buffer's level includes credits that sources have leased ahead of need, and so may
    /// read up to about 0.01 high. A full stage is not part of it, for the source may push to others:
    /// see [`Stage::utilization`].
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let lines = |n| vec![BufferedRecord::new("line", "a", "p", "filter"); n];
    ///
    /// source.try_send_batch(&stage, lines(9))?;
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

    /// A receiver that follows [`signal`](Self::signal) from now on.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_source: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut signals = source.signals();
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 9])?;
    /// assert_eq!(signals.changed_blocking(), BackpressureSignal::SlowDown);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// The signal that stands now. [`changed`](Self::changed) still reports it, if it has not.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// let controller = BackpressureController::new(0.8);
    /// let signals = controller.subscribe();
    /// controller.observe(0.9);
    /// assert_eq!(signals.current(), BackpressureSignal::SlowDown);
    /// ```
    pub fn current(&self) -> BackpressureSignal {
        let own = self.source.as_ref().map(|source| source.account().signal());
        self.controller.current().max(own.unwrap_or_default())
    }

    /// Waits until the signal differs from the one that was last reported (or stood when the receiver
    /// was made), and reports it. It does not end when the buffer is closed: as the buffer drains, the
    /// signal becomes [`Resume`](BackpressureSignal::Resume), and no other comes after that.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: a change that was not reported is reported by the next call.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// # pollster::block_on(async {
    /// let controller = BackpressureController::new(0.8);
    /// let mut signals = controller.subscribe();
    /// controller.observe(0.9);
    /// controller.observe(1.0);
    /// assert_eq!(signals.changed().await, BackpressureSignal::Pause);
    /// # });
    /// ```
    pub async fn changed(&mut self) -> BackpressureSignal {
        loop {
            // Before the look, so that no change falls in between.
            let mut listeners = self.listen();
            let now = self.current();
            if now != self.seen {
                self.seen = now;
                return now;
            }
            poll_fn(|context| poll_any(&mut listeners, context)).await;
        }
    }

    /// [`changed`](Self::changed) for threads: it parks this one.
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureController, BackpressureSignal};
    ///
    /// let controller = BackpressureController::new(0.8);
    /// let mut signals = controller.subscribe();
    /// controller.observe(0.9);
    /// assert_eq!(signals.changed_blocking(), BackpressureSignal::SlowDown);
    /// ```
    pub fn changed_blocking(&mut self) -> BackpressureSignal {
        let seen = self.seen;
        block_on_until(self.changed(), None).unwrap_or(seen)
    }

    /// The same for at most `timeout`: `None` if the signal has not changed until then.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use conveyor_buffer::BackpressureController;
    ///
    /// let mut signals = BackpressureController::new(0.8).subscribe();
    /// assert_eq!(signals.changed_timeout(Duration::from_millis(1)), None);
    /// ```
    pub fn changed_timeout(&mut self, timeout: Duration) -> Option<BackpressureSignal> {
        block_on_until(self.changed(), now().checked_add(timeout))
    }

    fn listen(&self) -> [Option<Listener>; 2] {
        let own = self.source.as_ref().map(|source| source.account().listen());
        [Some(self.controller.cell().listen()), own]
    }
}

/// Ready when one of them is.
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
