//! Following a signal: receivers of the controller and of a source.

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use conveyor_buffer::BackpressureSignal::{Pause, Resume, SlowDown};
use conveyor_buffer::{BackpressureController, SignalReceiver, Source, Stage};

use common::waiting::*;
use common::*;

#[test]
fn every_subscriber_is_told_of_a_change_and_ends_up_on_the_latest() {
    let controller = BackpressureController::new(0.8);
    let mut receivers: Vec<_> = (0..3).map(|_| controller.subscribe()).collect();
    let mut changes: Vec<_> =
        receivers.iter_mut().map(|receiver| waiting(receiver.changed())).collect();
    controller.signal(SlowDown);
    controller.observe(1.0);
    assert!(changes.iter_mut().all(|change| change.woken() == Pause));
    drop(changes);
    // It was reported, and is not reported again.
    let mut change = waiting(receivers[0].changed());
    controller.signal(Pause);
    assert_eq!(change.wakes(), 0);
    controller.signal(Resume);
    assert_eq!(change.woken(), Resume);
    // A new one begins where the signal stands.
    controller.signal(SlowDown);
    let mut late = controller.subscribe();
    assert_eq!(late.current(), SlowDown);
    waiting(late.changed());
}

#[test]
fn a_change_that_was_changed_back_is_left_out() {
    let controller = BackpressureController::new(0.8);
    let mut receiver = controller.subscribe();
    controller.signal(Pause);
    controller.signal(Resume);
    waiting(receiver.changed());
    assert_eq!(receiver.changed_timeout(Duration::ZERO), None);
    assert_eq!(receiver.changed_timeout(Duration::from_millis(2)), None);
}

#[test]
fn a_change_is_not_lost_with_a_call_that_is_given_up() {
    for polls in 0..3 {
        for changed_before in [false, true] {
            let (_manager, stage, source) = one_of_each(10, 10, 10);
            let (mut receiver, mut other) = (source.signals(), source.signals());
            let mut other = waiting(other.changed());
            let mut fickle = Manual::new(receiver.changed());
            (0..polls).for_each(|_| fickle.waits());
            if changed_before {
                source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
            }
            drop(fickle);
            if !changed_before {
                source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
            }
            assert_eq!(at_once(receiver.changed()), SlowDown);
            assert_eq!(other.woken(), SlowDown);
        }
    }
}

#[test]
fn whoever_crosses_a_mark_tells_at_once() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let mut signals = source.signals();
    let mut next = |signal, cross: &mut dyn FnMut()| {
        let mut change = waiting(signals.changed());
        cross();
        assert_eq!(change.woken(), signal);
    };
    next(SlowDown, &mut || source.try_send_batch(&stage, rows("a", 0..9)).unwrap());
    next(Pause, &mut || block_on(manager.buffer_for_stage("stage", row("a", 9))).unwrap());
    next(SlowDown, &mut || take(&stage, 2).ack());
    next(Resume, &mut || drop(take(&stage, 4).into_records()));
    // A push that waited crosses as well, and so does a permit.
    source.try_send_batch(&stage, rows("a", 10..14)).unwrap();
    next(Pause, &mut || at_once(source.send_batch(&stage, rows("a", 14..16))).unwrap());
    next(Resume, &mut || take(&stage, 6).ack());
    let mut permit = None;
    next(Pause, &mut || permit = at_once(source.reserve(&stage, 6)).ok());
    next(Resume, &mut || drop(permit.take()));
    // And whoever serves one that waits.
    source.try_send_batch(&stage, rows("a", 15..18)).unwrap();
    let mut send = waiting(source.send_batch(&stage, rows("a", 20..26)));
    next(Pause, &mut || take(&stage, 3).ack());
    assert_eq!(send.woken(), Ok(()));
}

#[test]
fn a_source_hears_of_its_own_level_and_of_the_whole_buffer() {
    let (manager, stage, a) = one_of_each(20, 20, 10);
    let b = manager.source("b").unwrap();
    let (mut of_a, mut of_b) = (a.signals(), b.signals());
    let mut all = manager.controller().subscribe();
    let (mut change_a, mut change_b) = (waiting(of_a.changed()), waiting(of_b.changed()));
    a.try_send_batch(&stage, rows("a", 0..9)).unwrap();
    assert_eq!((change_a.woken(), change_b.wakes()), (SlowDown, 0));
    b.try_send_batch(&stage, rows("b", 0..8)).unwrap();
    assert_eq!(change_b.woken(), SlowDown);
    drop((change_a, change_b));
    assert_eq!(at_once(all.changed()), SlowDown);
    // It heard of it already, from its own level.
    waiting(of_a.changed());
    assert_eq!((of_a.current(), of_b.current()), (SlowDown, SlowDown));
}

#[test]
fn a_level_that_swings_between_the_marks_sends_nothing() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let (mut own, mut all) = (source.signals(), manager.controller().subscribe());
    source.try_send_batch(&stage, rows("a", 0..6)).unwrap();
    // From 6 to 8 of 10 records: first on the way up, and then on the way down.
    for signal in [Resume, SlowDown] {
        let (own_change, all_change) = (waiting(own.changed()), waiting(all.changed()));
        for _ in 0..100 {
            source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
            take(&stage, 2).ack();
        }
        assert_eq!((own_change.wakes(), all_change.wakes()), (0, 0), "at {signal}");
        assert_eq!(source.signal(), signal);
        drop((own_change, all_change));
        if signal == Resume {
            source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
            assert_eq!((at_once(own.changed()), at_once(all.changed())), (SlowDown, SlowDown));
            take(&stage, 3).ack();
        }
    }
}

/// A source that would push 16 records a round, into a stage that a worker empties at half that
/// rate. Tells how many were refused, and the most that were buffered at once.
fn feed(source: &Source<Row>, stage: &Stage<Row>, signals: Option<SignalReceiver>) -> (usize, u32) {
    const FULL_RATE: u64 = 16;
    let (mut refused, mut peak) = (0, 0.0_f64);
    let (mut pull, mut paused) = (FULL_RATE, false);
    let mut resumed = 0;
    let mut signals = signals;
    for _ in 0..200 {
        // Signals are looked at between pulls, as a source does.
        match signals.as_mut().and_then(|signals| Manual::new(signals.changed()).poll()) {
            Some(SlowDown) => (pull, paused) = ((pull / 2).max(1), false),
            Some(Pause) => paused = true,
            Some(Resume) => {
                (pull, paused) = (FULL_RATE, false);
                resumed += 1;
            }
            None => {}
        }
        if !paused && let Err(rejected) = source.try_send_batch(stage, rows("a", 0..pull)) {
            refused += rejected.records.len();
        }
        peak = peak.max(source.utilization());
        if let Ok(batch) = stage.try_recv_batch(9) {
            batch.ack();
        }
    }
    assert!(signals.is_none() || resumed > 1, "it takes up its rate again");
    (refused, (peak * source.capacity() as f64) as u32)
}

#[test]
fn a_source_that_heeds_the_signals_is_never_refused_and_one_that_does_not_is() {
    let (_manager, stage, source) = one_of_each(1_000, 1_000, 100);
    let (refused, peak) = feed(&source, &stage, Some(source.signals()));
    assert_eq!(refused, 0);
    assert!(peak < 100, "{peak} of 100 records");
    drain(&stage);
    let (refused, peak) = feed(&source, &stage, None);
    assert!(refused > 0);
    assert_eq!(peak, 100);
}

#[test]
fn a_receiver_ends_up_on_the_latest_whatever_it_misses() {
    for round in 0..200 {
        let (_manager, stage, source) = one_of_each(8, 8, 8);
        let mut signals = source.signals();
        or_abort("a receiver", || {
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..round % 7 {
                        source.try_send_batch(&stage, rows("a", 0..7)).unwrap();
                        drain(&stage);
                    }
                    // Only the last push fills it.
                    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
                });
                while signals.changed_blocking() != Pause {}
            });
        });
        assert_eq!(signals.current(), Pause);
    }
}

#[test]
fn a_receiver_of_a_source_follows_it_to_another_stage() {
    let (manager, stage, source) = one_of_each(1_000, 10, 1_000);
    let next = manager.stage("next").unwrap();
    let other = manager.source("b").unwrap();
    other.try_send_batch(&next, rows("b", 0..9)).unwrap();
    let (mut of_source, mut of_next) = (source.signals(), next.signals());
    let (mut change, mut next_change) = (waiting(of_source.changed()), waiting(of_next.changed()));
    source.try_send(&stage, row("a", 0)).unwrap();
    change.waits();
    assert!(change.take_wake(), "it registers with the stage");
    change.waits();
    source.try_send(&next, row("a", 1)).unwrap();
    assert_eq!((change.woken(), next_change.woken()), (Pause, Pause));
    drop((change, next_change));
    // What it has left is of no interest.
    let mut change = waiting(of_source.changed());
    drain(&stage);
    assert_eq!(change.wakes(), 0);
    take(&next, 5).ack();
    assert_eq!(change.woken(), Resume);
    drop(change);
    assert_eq!((of_source.current(), of_next.current()), (Resume, Resume));
    assert_eq!(source.utilization(), 0.001);
}

#[test]
fn waiting_for_a_signal_considers_the_present_one() {
    let (_manager, stage, source) = one_of_each(1_000, 10, 1_000);
    let mut signals = stage.signals();
    assert_eq!(at_once(signals.wait_for(|_| true)), Resume);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    let mut late = stage.signals();
    // It begins at Pause: this is no change, and it may be waited for.
    waiting(late.changed());
    assert_eq!(at_once(late.wait_for(|signal| signal == Pause)), Pause);
    assert_eq!(signals.wait_for_timeout(|signal| signal < Pause, Duration::ZERO), None);
    let mut asked = 0;
    let mut resumed = waiting(late.wait_for(|signal| {
        asked += 1;
        signal == Resume
    }));
    take(&stage, 2).ack();
    assert!(resumed.take_wake());
    resumed.waits();
    take(&stage, 8).ack();
    assert_eq!(resumed.woken(), Resume);
    drop(resumed);
    assert_eq!(asked, 3);
    // It was reported.
    waiting(late.changed());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| signals.wait_for_blocking(|signal| signal == Pause));
        source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
        assert_eq!(waiter.join().unwrap(), Pause);
    });
}

/// A waker that makes a source of the buffer, as user code may do.
struct MakesSource(Manager, AtomicUsize);

impl Wake for MakesSource {
    fn wake(self: Arc<Self>) {
        self.0.source("of a waker").unwrap();
        self.1.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_waker_may_make_a_source_while_another_source_is_made() {
    or_abort("a source that is made", || {
        let builder = Manager::builder(caps(1_000, 1_000, 1_000)).watermarks(0.5, 0.01);
        let manager = builder.build().unwrap();
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        source.try_send_batch(&stage, rows("a", 0..501)).unwrap();
        // Eight, and two idle credits, of which a second source lets the first keep one.
        take(&stage, 493).ack();
        let mut signals = manager.controller().subscribe();
        let mut change = pin!(signals.changed());
        let maker = Arc::new(MakesSource(manager.clone(), AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&maker));
        assert!(change.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        manager.source("b").unwrap();
        assert_eq!(manager.controller().current(), Resume);
        assert_eq!(maker.1.load(SeqCst), 1, "the waker was not called");
    });
}
