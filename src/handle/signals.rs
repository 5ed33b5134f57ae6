//! Receivers of backpressure signals.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::source::{Source, SourceCore};
use super::stage::Stage;
use crate::admission::SharedStage;
use crate::backpressure::{BackpressureController, BackpressureSignal};
use crate::event::Listener;
use crate::record::Envelope;
use crate::sync::{block_on_until, now};

/// A receiver of the changes of a [`BackpressureSignal`].
///
/// The receiver follows a [`BackpressureController`] if it comes from
/// [`subscribe`](BackpressureController::subscribe), one source if it comes from
/// [`Source::signals`](crate::Source::signals), and one stage if it comes from
/// [`Stage::signals`](crate::Stage::signals). It always arrives at the latest signal, and skips
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
    follows: Follows,
    seen: BackpressureSignal,
}

/// What the signals of a receiver come from.
enum Follows {
    Controller(BackpressureController),
    Source(Arc<SourceCore>),
    Stage(SharedStage),
}

impl Follows {
    fn signal(&self) -> BackpressureSignal {
        match self {
            Self::Controller(controller) => controller.current(),
            Self::Source(source) => source.signal(),
            Self::Stage(stage) => stage.places().cell().signal(),
        }
    }

    /// Registers listeners for every change of the signal. The caller then reads the signal.
    fn listen(&self) -> [Option<Listener>; 6] {
        let of = |controller: &BackpressureController| {
            [Some(controller.cell().listen()), Some(controller.bytes_cell().listen())]
        };
        match self {
            Self::Controller(controller) => {
                let [records, bytes] = of(controller);
                [records, bytes, None, None, None, None]
            }
            Self::Stage(stage) => {
                [Some(stage.places().cell().listen()), None, None, None, None, None]
            }
            Self::Source(source) => {
                // Before the stage is read, so that a push to another one is not missed.
                let redirected = source.listen();
                let stage = source.latest_stage();
                let [records, bytes] = of(source.admission().controller());
                [
                    Some(redirected),
                    stage.map(|stage| stage.places().cell().listen()),
                    Some(source.account().cell().listen()),
                    source.bytes_account().map(|account| account.cell().listen()),
                    records,
                    bytes,
                ]
            }
        }
    }
}

impl SourceCore {
    fn signal(&self) -> BackpressureSignal {
        let stage = self.latest_stage().map(|stage| stage.places().cell().signal());
        let own = self.account().cell().signal().max(stage.unwrap_or_default());
        let bytes = self.bytes_account().map(|account| account.cell().signal());
        own.max(bytes.unwrap_or_default()).max(self.admission().controller().current())
    }
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
        SignalReceiver::new(Follows::Controller(self.clone()))
    }
}

impl<E: Envelope> Source<E> {
    /// Returns what the source should do: the strongest of the buffer's signal, the account's own,
    /// and that of the stage that the source pushed to last.
    ///
    /// All have the same watermarks and hysteresis, and change when a push or a settlement crosses
    /// a mark: see [`BackpressureController`]. The buffer's level includes credits that sources
    /// have leased ahead of need, and may therefore read up to about 0.01 too high.
    ///
    /// A push counts whether it is accepted or not, a reservation when it is made, and a
    /// [`Producer`](crate::Producer) when it takes credits for its next block. A source that pushes
    /// to several stages in turn follows each in turn: look at [`Stage::signal`] for one of them.
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
        self.core().signal()
    }

    /// Creates a receiver that follows [`signal`](Self::signal) from now on.
    ///
    /// The receiver is woken, too, when the source pushes to another stage than before.
    /// [`SignalReceiver`] shows an example.
    pub fn signals(&self) -> SignalReceiver {
        SignalReceiver::new(Follows::Source(Arc::clone(self.core())))
    }
}

impl<E: Envelope> Stage<E> {
    /// Returns the signal that follows the level of this stage alone.
    ///
    /// Watermarks and hysteresis are those of the buffer: see [`BackpressureController`]. Reserved
    /// places and records in unsettled batches count.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_per_stage: 100, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let line = BufferedRecord::new("line", "a", "p", "filter");
    ///
    /// source.try_send_batch(&stage, vec![line.clone(); 81])?;
    /// assert_eq!(stage.signal(), BackpressureSignal::SlowDown);
    /// source.try_send_batch(&stage, vec![line; 19])?;
    /// assert_eq!(stage.signal(), BackpressureSignal::Pause);
    /// stage.try_recv_batch(10)?.ack();
    /// assert_eq!(stage.signal(), BackpressureSignal::Pause); // not below 0.9
    /// stage.try_recv_batch(1)?.ack();
    /// assert_eq!(stage.signal(), BackpressureSignal::SlowDown);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&self) -> BackpressureSignal {
        self.core().places().cell().signal()
    }

    /// Creates a receiver that follows [`signal`](Self::signal) from now on.
    ///
    /// The receiver keeps the stage in memory. [`SignalReceiver`] shows an example.
    pub fn signals(&self) -> SignalReceiver {
        SignalReceiver::new(Follows::Stage(Arc::clone(self.core()) as SharedStage))
    }
}

impl SignalReceiver {
    fn new(follows: Follows) -> Self {
        let seen = follows.signal();
        Self { follows, seen }
    }

    /// Returns the current signal.
    ///
    /// A change that [`changed`](Self::changed) has not reported yet stays unreported.
    pub fn current(&self) -> BackpressureSignal {
        self.follows.signal()
    }

    /// Waits until the signal differs from the last reported one, and returns it.
    ///
    /// The first call compares with the signal at the time when the receiver was created. If that
    /// was [`Pause`](BackpressureSignal::Pause) and stays so, the call waits:
    /// [`wait_for`](Self::wait_for) waits for a signal and considers the present one. The call does
    /// not end when the buffer is closed: as the buffer drains, the signal becomes
    /// [`Resume`](BackpressureSignal::Resume), and does not change after that.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. The next call reports a change that this one did not.
    pub async fn changed(&mut self) -> BackpressureSignal {
        let seen = self.seen;
        self.wait_for(|now| now != seen).await
    }

    /// Waits until the signal satisfies a condition, which it may do now, and returns it.
    ///
    /// [`changed`](Self::changed) then reports changes from this signal on. A signal that satisfies
    /// the condition only for a moment may be missed.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BackpressureSignal, BufferManager, BufferSettings, BufferedRecord};
    ///
    /// # pollster::block_on(async {
    /// let settings = BufferSettings { max_per_stage: 10, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// let mut signals = source.signals();
    /// let not_paused = |signal| signal < BackpressureSignal::Pause;
    ///
    /// // It is satisfied at once.
    /// assert_eq!(signals.wait_for(not_paused).await, BackpressureSignal::Resume);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 10])?;
    /// let worker = std::thread::spawn({
    ///     let stage = stage.clone();
    ///     move || stage.recv_batch_blocking(3).unwrap().ack()
    /// });
    /// assert_eq!(signals.wait_for(not_paused).await, BackpressureSignal::SlowDown);
    /// # worker.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn wait_for(
        &mut self,
        mut condition: impl FnMut(BackpressureSignal) -> bool,
    ) -> BackpressureSignal {
        loop {
            // Listen before reading the signal, so that no change is missed.
            let mut listeners = self.follows.listen();
            let now = self.current();
            if condition(now) {
                self.seen = now;
                return now;
            }
            poll_fn(|context| poll_any(&mut listeners, context)).await;
        }
    }

    /// Blocks the thread until the signal satisfies a condition: the blocking form of
    /// [`wait_for`](Self::wait_for).
    ///
    /// Do not call it inside an async task: it blocks the executor's thread.
    pub fn wait_for_blocking(
        &mut self,
        condition: impl FnMut(BackpressureSignal) -> bool,
    ) -> BackpressureSignal {
        let seen = self.seen;
        block_on_until(self.wait_for(condition), None).unwrap_or(seen)
    }

    /// Blocks the thread until the signal satisfies a condition, for at most `timeout`.
    ///
    /// Returns `None` after the timeout. Do not call it inside an async task: it blocks the
    /// executor's thread.
    pub fn wait_for_timeout(
        &mut self,
        condition: impl FnMut(BackpressureSignal) -> bool,
        timeout: Duration,
    ) -> Option<BackpressureSignal> {
        block_on_until(self.wait_for(condition), now().checked_add(timeout))
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

/// A panic leaves every count exact: see [`internals`](crate::docs::internals#panics-and-user-code).
impl UnwindSafe for SignalReceiver {}
impl RefUnwindSafe for SignalReceiver {}

impl fmt::Debug for SignalReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalReceiver").field("current", &self.current()).finish_non_exhaustive()
    }
}
