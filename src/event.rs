//! Events: a list of wakers under a short lock, as in tokio's `Notify`.
//!
//! A waiter registers, looks once more, and only then waits:
//! [`docs::internals`](crate::docs::internals#waking) explains why no wake-up is lost. Wakers are
//! user code. They are cloned, woken and dropped outside the lock, and a waker that panics does not
//! keep the others from being woken.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use crate::sync::{AtomicBool, Mutex, SeqCst, isolate};

/// An event for which tasks and threads wait. The list is allocated when the first of them listens.
#[derive(Default)]
pub(crate) struct Event {
    listeners: OnceLock<Arc<Listeners>>,
    /// Whether there is a list. The first listener and a thread that notifies both write it, so that
    /// either the thread finds the list, or the listener sees what the thread did before.
    has_list: AtomicBool,
}

#[derive(Default)]
struct Listeners(Mutex<List>);

/// The listeners, in the order of arrival.
#[derive(Default)]
struct List {
    next: u64,
    /// Listeners that were not notified yet, with their wakers once they have been polled.
    waiting: BTreeMap<u64, Option<Waker>>,
    /// Listeners that were notified and not polled since.
    notified: BTreeSet<u64>,
}

/// A registration with an event: a future that resolves when it is notified. If it is dropped after
/// it was notified and before it resolved, it notifies the next listener.
pub(crate) struct Listener {
    listeners: Arc<Listeners>,
    id: u64,
    done: bool,
}

/// The number of wakers that are taken out of the list for each hold of the lock.
const PORTION: usize = 32;

impl Event {
    pub(crate) fn listen(&self) -> Listener {
        let listeners = Arc::clone(self.listeners.get_or_init(Arc::default));
        if !self.has_list.load(SeqCst) {
            self.has_list.swap(true, SeqCst);
        }
        let mut list = listeners.0.lock();
        let id = list.next;
        list.next += 1;
        list.waiting.insert(id, None);
        drop(list);
        Listener { listeners, id, done: false }
    }

    /// Notifies the first of the listeners that were not notified yet.
    pub(crate) fn notify_one(&self) {
        if let Some(listeners) = self.list() {
            listeners.notify_one();
        }
    }

    /// Notifies all listeners that are registered now.
    pub(crate) fn notify_all(&self) {
        if let Some(listeners) = self.list() {
            listeners.notify_all();
        }
    }

    fn list(&self) -> Option<&Arc<Listeners>> {
        self.has_list.fetch_or(false, SeqCst).then(|| self.listeners.get()).flatten()
    }
}

impl Listeners {
    fn notify_one(&self) {
        let waker = self.0.lock().notify();
        wake(waker.flatten());
    }

    fn notify_all(&self) {
        let mut list = self.0.lock();
        // Listeners that register during the call are not notified.
        let end = list.next;
        loop {
            let mut wakers = Vec::new();
            let mut more = true;
            while more && wakers.len() < PORTION {
                more = list.waiting.first_key_value().is_some_and(|(id, _)| *id < end);
                if more {
                    wakers.extend(list.notify().flatten());
                }
            }
            drop(list);
            wakers.into_iter().map(Some).for_each(wake);
            if !more {
                return;
            }
            list = self.0.lock();
        }
    }
}

impl List {
    /// Marks the first listener as notified, and returns its waker.
    fn notify(&mut self) -> Option<Option<Waker>> {
        let (id, waker) = self.waiting.pop_first()?;
        self.notified.insert(id);
        Some(waker)
    }
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.done {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let mut list = self.listeners.0.lock();
        let unused = match list.waiting.get_mut(&self.id) {
            Some(entry) => entry.replace(waker),
            None => {
                list.notified.remove(&self.id);
                drop(list);
                self.done = true;
                drop(waker);
                return Poll::Ready(());
            }
        };
        drop(list);
        drop(unused);
        Poll::Pending
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut list = self.listeners.0.lock();
        let waker = list.waiting.remove(&self.id).flatten();
        let passes_on = list.notified.remove(&self.id);
        drop(list);
        isolate(|| drop(waker));
        if passes_on {
            self.listeners.notify_one();
        }
    }
}

/// Wakes a task. A panic of the waker does not propagate.
pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        isolate(|| waker.wake());
    }
}
