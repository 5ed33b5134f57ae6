//! The events of the feature `tracing`.

mod common;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use conveyor_buffer::{BackpressureController, BackpressureSignal, Outcome};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::{Event, Metadata, Subscriber};

use common::*;

/// Writes each event as one line, and panics instead if it is told to.
#[derive(Clone, Default)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    panics: bool,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "conveyor_buffer"
    }

    fn event(&self, event: &Event<'_>) {
        assert!(!self.panics, "a subscriber that panics");
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &SpanRecord<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The events that a piece of work sends on this thread.
fn events(work: impl FnOnce()) -> Vec<String> {
    let subscriber = Lines::default();
    let lines = Arc::clone(&subscriber.lines);
    tracing::subscriber::with_default(subscriber, work);
    std::mem::take(&mut *lines.lock().unwrap())
}

#[test]
fn a_signal_that_changes_is_an_event_with_its_owner() {
    let (_manager, stage, source) = one_of_each(100, 10, 100);
    let sent = events(|| source.try_send_batch(&stage, rows("a", 0..9)).unwrap());
    assert_eq!(sent, ["INFO message=signal changed of=\"stage\" id=\"stage\" signal=slow down"]);
    // A signal that stays as it is is none.
    assert!(events(|| source.try_send_batch(&stage, rows("a", 9..10)).unwrap()).len() == 1);
    assert!(events(|| take(&stage, 1).ack()).is_empty());
    let sent = events(|| take(&stage, 9).ack());
    assert_eq!(sent, ["INFO message=signal changed of=\"stage\" id=\"stage\" signal=resume"]);

    let (_manager, stage, source) = one_of_each(10, 10, 10);
    let sent = events(|| source.try_send_batch(&stage, rows("a", 0..10)).unwrap());
    for owner in ["\"buffer\" id=\"\"", "\"source\" id=\"a\"", "\"stage\" id=\"stage\""] {
        let expected = format!("INFO message=signal changed of={owner} signal=pause");
        assert_eq!(sent.iter().filter(|line| **line == expected).count(), 1, "{sent:?}");
    }
    // A controller of its own belongs to no buffer.
    let controller = BackpressureController::new(0.5);
    assert!(
        events(|| assert_eq!(controller.observe(0.9), BackpressureSignal::SlowDown)).is_empty()
    );
}

#[test]
fn a_dead_letter_is_an_event_with_its_reason() {
    let manager = Manager::builder(caps(10, 10, 10)).dead_letter_capacity(1).build().unwrap();
    let (stage, source) = (manager.stage("load").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..2)).unwrap();
    let sent = events(|| {
        take(&stage, 1).settle(|_| Outcome::Reject("no date"));
        // This one is parked.
        take(&stage, 1).dead_letter("no time");
    });
    let line = |reason| {
        format!(
            "WARN message=dead letter stage=\"load\" source=\"a\" reason=rejected: {reason} retries=0"
        )
    };
    assert_eq!(sent, [line("no date"), line("no time")]);
}

#[test]
fn a_batch_that_is_dropped_is_an_event_and_one_that_is_settled_is_none() {
    let (_manager, stage, source) = one_of_each(100, 100, 100);
    let sent = events(|| {
        source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
        drop(take(&stage, 3));
    });
    assert_eq!(sent, ["WARN message=batch dropped unsettled stage=\"stage\" records=3"]);
    let sent = events(|| {
        take(&stage, 1).return_to_buffer();
        take(&stage, 1).requeue();
        take(&stage, 5).ack();
    });
    assert!(sent.is_empty(), "{sent:?}");
}

#[test]
fn what_is_closed_removed_or_drained_is_an_event() {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let sent = events(|| {
        source.close();
        stage.close();
        manager.remove_stage("stage").unwrap();
        manager.remove_source("a").unwrap();
        manager.close();
        manager.close();
        manager.drain_blocking();
    });
    let expected = [
        "INFO message=source closed source=\"a\"",
        "INFO message=stage closed stage=\"stage\"",
        "INFO message=stage removed stage=\"stage\"",
        "INFO message=source removed source=\"a\"",
        "INFO message=buffer closed",
        "INFO message=buffer drained",
    ];
    assert_eq!(sent, expected);
}

#[test]
fn a_subscriber_that_panics_harms_nothing() {
    let (manager, stage, source) = one_of_each(5, 5, 5);
    tracing::subscriber::with_default(Lines { panics: true, ..Lines::default() }, || {
        source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
        drop(take(&stage, 2));
        take(&stage, 1).dead_letter("no date");
        take(&stage, 5).ack();
        manager.close();
    });
    assert_eq!((manager.len(), source.len(), stage.len()), (0, 0, 0));
}
