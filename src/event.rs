//! Waking tasks and threads that wait for something to happen: a list of wakers under a short lock,
//! taken out and woken after it, as tokio's `Notify` does.
//!
//! No waker is cloned, woken or dropped under the lock, and one that panics keeps no other from being
//! woken: wakers are code of others.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, isolate};

/// What tasks and threads wait for. It takes no memory before the first of them does.
#[derive(Default)]
pub(crate) struct Event(OnceLock<Arc<Listeners>>);

#[derive(Default)]
struct Listeners(Mutex<List>);

/// Who listens, by the order of arrival.
#[derive(Default)]
struct List {
    next: u64,
    /// Those that were not notified yet, with their wakers once they have been polled.
    waiting: BTreeMap<u64, Option<Waker>>,
    /// Those that were notified and have not looked yet.
    notified: BTreeSet<u64>,
}

/// One who listens: a future that resolves when it was notified. Dropped after it was notified and
/// before it resolved, it notifies the next.
pub(crate) struct Listener {
    listeners: Arc<Listeners>,
    id: u64,
    done: bool,
}

/// How many wakers are taken out under the lock at once.
const PORTION: usize = 32;

impl Event {
    pub(crate) fn listen(&self) -> Listener {
        let listeners = Arc::clone(self.0.get_or_init(Arc::default));
        let mut list = listeners.0.lock();
        let id = list.next;
        list.next += 1;
        list.waiting.insert(id, None);
        drop(list);
        Listener { listeners, id, done: false }
    }

    /// Notifies the one that has listened for the longest time of those that were not notified yet.
    pub(crate) fn notify_one(&self) {
        if let Some(listeners) = self.0.get() {
            listeners.notify_one();
        }
    }

    /// Notifies all that listen now.
    pub(crate) fn notify_all(&self) {
        if let Some(listeners) = self.0.get() {
            listeners.notify_all();
        }
    }
}

impl Listeners {
    fn notify_one(&self) {
        let waker = self.0.lock().notify();
        wake(waker.flatten());
    }

    fn notify_all(&self) {
        let mut list = self.0.lock();
        // Those that begin to listen meanwhile are not meant.
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
    /// Marks the first as notified, and gives its waker.
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

/// Wakes a task. A panic of its waker ends here.
pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        isolate(|| waker.wake());
    }
}
