//! Helpers for calls that wait: futures polled by hand, the runtimes, and a watchdog.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

/// So long that no test gets to its end.
pub const FOR_EVER: Duration = Duration::from_secs(100_000_000);

/// A waker that counts how often it is woken.
#[derive(Default)]
pub struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Counter {
    pub fn wakes(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// A future that is polled by hand.
pub struct Manual<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    counter: Arc<Counter>,
}

impl<'a, T> Manual<'a, T> {
    pub fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self { future: Box::pin(future), counter: Arc::default() }
    }

    pub fn poll(&mut self) -> Option<T> {
        let waker = Waker::from(Arc::clone(&self.counter));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// Polls it, and asserts that it has to wait.
    #[track_caller]
    pub fn waits(&mut self) {
        assert!(self.poll().is_none(), "it should wait");
    }

    /// Polls it, and asserts that it is done.
    #[track_caller]
    pub fn done(&mut self) -> T {
        self.poll().expect("it should be done")
    }

    /// Asserts that it was woken, and polls it to its end.
    #[track_caller]
    pub fn woken(&mut self) -> T {
        assert!(self.wakes() > 0, "nobody woke it");
        self.done()
    }

    pub fn wakes(&self) -> usize {
        self.counter.wakes()
    }

    /// Whether it was woken since this was asked for the last time.
    pub fn take_wake(&self) -> bool {
        self.counter.0.swap(0, SeqCst) > 0
    }

    pub fn counter(&self) -> Arc<Counter> {
        Arc::clone(&self.counter)
    }
}

/// A future that was polled once, and waits.
#[track_caller]
pub fn waiting<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Manual<'a, T> {
    let mut manual = Manual::new(future);
    manual.waits();
    manual
}

/// What a future answers at its first poll.
#[track_caller]
pub fn at_once<T>(future: impl Future<Output = T> + Send) -> T {
    Manual::new(future).done()
}

/// How many of them were woken.
pub fn woken<T>(all: &[Manual<'_, T>]) -> usize {
    all.iter().filter(|manual| manual.wakes() > 0).count()
}

/// Where an async case runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Runtime {
    /// A thread for each task, and an executor that knows nothing but wakers.
    Bare,
    Smol,
    TokioCurrentThread,
    TokioMultiThread,
}

/// Runs one case on every runtime, as a task.
pub fn on_every_runtime<F>(case: impl Fn(Runtime) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    pollster::block_on(case(Runtime::Bare));
    smol::block_on(smol::spawn(case(Runtime::Smol)));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio.block_on(async { tokio::spawn(case(Runtime::TokioCurrentThread)).await.unwrap() });
    let mut tokio = tokio::runtime::Builder::new_multi_thread();
    let tokio = tokio.worker_threads(2).enable_time().build().unwrap();
    tokio.block_on(async { tokio::spawn(case(Runtime::TokioMultiThread)).await.unwrap() });
}

/// A task that was spawned. It runs whether or not anybody waits for it.
pub struct Task<T>(smol::channel::Receiver<T>);

impl<T> Task<T> {
    pub async fn join(self) -> T {
        self.0.recv().await.expect("the task panicked")
    }
}

impl Runtime {
    pub fn spawn<T: Send + 'static>(
        self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (sender, receiver) = smol::channel::bounded(1);
        let task = async move {
            let output = future.await;
            let _ = sender.send(output).await;
        };
        match self {
            Self::Bare => drop(thread::spawn(move || pollster::block_on(task))),
            Self::Smol => smol::spawn(task).detach(),
            Self::TokioCurrentThread | Self::TokioMultiThread => drop(tokio::spawn(task)),
        }
        Task(receiver)
    }
}

/// Runs a test that might hang, and ends the process with a word about it if it does.
pub fn or_abort<T>(what: &str, test: impl FnOnce() -> T) -> T {
    let (done, wait) = channel::<()>();
    let text = what.to_owned();
    let watchdog = thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{text}: still waiting after a minute, so somebody was not woken");
            std::process::abort();
        }
    });
    let output = test();
    drop(done);
    watchdog.join().unwrap();
    output
}
