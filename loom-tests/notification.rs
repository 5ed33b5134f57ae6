//! Events: no notification is lost between those that listen, are dropped and are notified.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
// Not loom's: what a model notes for itself is no step of the library.
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};

use loom::future::block_on;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

use crate::event::{Event, Listener};
use crate::harness::{explore, explore_within, poll};

/// Tokens that are to be taken, and an event that says that one came. Both sides write to the number, so
/// that one of the two sees the other, as each does in the library.
#[derive(Default)]
struct Tokens {
    number: AtomicU32,
    came: Event,
}

impl Tokens {
    fn add(&self, tokens: u32) {
        self.number.fetch_add(tokens, SeqCst);
    }

    fn take(&self) -> bool {
        let take = |number: u32| number.checked_sub(1);
        self.number.fetch_update(SeqCst, SeqCst, take).is_ok()
    }

    /// Takes a token, or listens for one.
    fn take_or_listen(&self) -> Option<Listener> {
        if self.take() {
            return None;
        }
        let listener = self.came.listen();
        self.number.fetch_add(0, SeqCst);
        (!self.take()).then_some(listener)
    }

    fn wait(&self) {
        while let Some(listener) = self.take_or_listen() {
            block_on(listener);
        }
    }
}

#[test]
fn the_first_that_listens_is_notified() {
    for all in [false, true] {
        explore(move || {
            let tokens = Arc::new(Tokens::default());
            let other = thread::spawn({
                let tokens = Arc::clone(&tokens);
                move || {
                    tokens.add(1);
                    if all { tokens.came.notify_all() } else { tokens.came.notify_one() }
                }
            });
            tokens.wait();
            other.join().unwrap();
        });
    }
}

#[test]
fn two_that_listen_are_notified_once_each() {
    explore_within(3, || {
        let tokens = Arc::new(Tokens::default());
        let others = [(); 2].map(|()| {
            let tokens = Arc::clone(&tokens);
            thread::spawn(move || tokens.wait())
        });
        for _ in 0..2 {
            tokens.add(1);
            tokens.came.notify_one();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn one_that_is_dropped_when_it_was_notified_passes_it_on() {
    explore_within(3, || {
        let tokens = Arc::new(Tokens::default());
        let fickle = thread::spawn({
            let tokens = Arc::clone(&tokens);
            move || {
                if let Some(mut listener) = tokens.take_or_listen() {
                    if poll(Pin::new(&mut listener)).is_some() {
                        // It has looked, and tells another: see `recv_batch`.
                        tokens.came.notify_one();
                    }
                } else {
                    tokens.add(1);
                    tokens.came.notify_one();
                }
            }
        });
        let notifier = thread::spawn({
            let tokens = Arc::clone(&tokens);
            move || {
                tokens.add(1);
                tokens.came.notify_one();
            }
        });
        tokens.wait();
        fickle.join().unwrap();
        notifier.join().unwrap();
    });
}

#[test]
fn all_that_listen_are_notified_though_one_is_dropped_meanwhile() {
    explore_within(3, || {
        let event = Arc::new(Event::default());
        let (kept, dropped, other) = (event.listen(), event.listen(), event.listen());
        let notifier = thread::spawn({
            let event = Arc::clone(&event);
            move || event.notify_all()
        });
        let fickle = thread::spawn(move || drop(dropped));
        block_on(kept);
        block_on(other);
        notifier.join().unwrap();
        fickle.join().unwrap();
    });
}

#[test]
fn notifying_one_and_notifying_all_at_once_reaches_all() {
    explore_within(3, || {
        let event = Arc::new(Event::default());
        let (first, second) = (event.listen(), event.listen());
        let notifiers = [false, true].map(|all| {
            let event = Arc::clone(&event);
            thread::spawn(move || if all { event.notify_all() } else { event.notify_one() })
        });
        block_on(second);
        block_on(first);
        notifiers.into_iter().for_each(|notifier| notifier.join().unwrap());
    });
}

/// How often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_woken_once() {
    explore(|| {
        let event = Arc::new(Event::default());
        let mut listener = event.listen();
        let counts = [(); 2].map(|()| Arc::new(Count::default()));
        let mut polled = |count: &Arc<Count>| {
            let waker = Waker::from(Arc::clone(count));
            Pin::new(&mut listener).poll(&mut Context::from_waker(&waker))
        };
        let notifier = thread::spawn({
            let event = Arc::clone(&event);
            move || event.notify_one()
        });
        let ready = counts.iter().any(|count| polled(count) == Poll::Ready(()));
        notifier.join().unwrap();
        let woken: usize = counts.iter().map(|count| count.0.load(SeqCst)).sum();
        if ready {
            assert!(woken <= 1);
        } else {
            assert_eq!((woken, counts[1].0.load(SeqCst)), (1, 1), "the last waker is to be woken");
            assert!(polled(&counts[1]).is_ready());
        }
    });
}

#[test]
fn a_listener_that_was_dropped_is_not_woken_and_leaves_no_waker() {
    explore(|| {
        let event = Arc::new(Event::default());
        let mut listener = event.listen();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(Pin::new(&mut listener).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        let dropper = thread::spawn(move || drop(listener));
        event.notify_one();
        dropper.join().unwrap();
        assert!(count.0.load(SeqCst) <= 1);
        assert_eq!(Arc::strong_count(&count), 1, "a waker is kept");
        // What was passed on, if it was, found no one: the next that listens waits.
        assert!(poll(Pin::new(&mut event.listen())).is_none());
    });
}
