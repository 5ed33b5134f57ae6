//! Tests of parts that use atomics or locks: apart from those parts, which the model checkers compile with
//! atomics and locks of their own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use crate::backpressure::Watermarks;
use crate::caps::Places;
use crate::event::{Event, Listener};

#[derive(Default)]
struct Count {
    woken: AtomicUsize,
    panics: bool,
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "a waker panics");
    }
}

fn polled(listener: &mut Listener, waker: &Waker) -> bool {
    pin!(listener).poll(&mut Context::from_waker(waker)).is_ready()
}

#[test]
fn listeners_are_notified_in_the_order_of_their_arrival() {
    let event = Event::default();
    let (mut first, mut second) = (event.listen(), event.listen());
    event.notify_one();
    assert!(!polled(&mut second, Waker::noop()));
    assert!(polled(&mut first, Waker::noop()));
    event.notify_one();
    assert!(polled(&mut second, Waker::noop()));
}

#[test]
fn a_listener_that_is_dropped_passes_its_notification_on() {
    let event = Event::default();
    let (first, mut second) = (event.listen(), event.listen());
    event.notify_one();
    drop(first);
    assert!(polled(&mut second, Waker::noop()));
}

#[test]
fn a_waker_that_panics_keeps_no_other_from_being_woken() {
    let event = Event::default();
    let mut listeners: Vec<_> = (0..100).map(|_| event.listen()).collect();
    let bad = Waker::from(Arc::new(Count { panics: true, ..Count::default() }));
    let count = Arc::new(Count::default());
    let good = Waker::from(Arc::clone(&count));
    for (place, listener) in listeners.iter_mut().enumerate() {
        assert!(!polled(listener, if place % 3 == 0 { &bad } else { &good }));
    }
    event.notify_all();
    assert_eq!(count.woken.load(Ordering::SeqCst), 66);
    assert!(listeners.iter_mut().all(|listener| polled(listener, &good)));
}

#[test]
fn counts_go_on_where_the_word_wraps() {
    let watermarks = Watermarks::new(0.8, 0.64).unwrap();
    let cap = u32::MAX - 2;
    let places = Places::new(watermarks.of(cap), cap, 1);
    let mut given = 0_u64;
    // Less than a half, exactly a half, and more than the whole range at once.
    for records in [1, 1 << 29, 1 << 30, (1 << 30) - 1, (1 << 31) + 5, 3 << 30, 7, 1 << 29] {
        let fast = given % 2 == 1;
        if !(fast && places.acquire_fast(records).is_some()) {
            assert_eq!(places.acquire(records, records, 0).0.records, records);
        }
        given += u64::from(records);
        assert!(!places.release(records));
        assert_eq!(places.counts().accepted, given);
        assert_eq!(places.counts().acknowledged, given);
    }
    assert!(given > 1 << 33);
}
