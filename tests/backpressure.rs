//! Signals: the controller by itself, the one that follows a buffer, and each source's own.

mod common;

use conveyor_buffer::BackpressureSignal::{Pause, Resume, SlowDown};
use conveyor_buffer::{
    BackpressureController, BackpressureSignal, BufferManager, BufferSettings, SettingsError,
};

use common::*;

#[test]
fn signals_are_ordered_by_urgency() {
    assert!(Resume < SlowDown && SlowDown < Pause);
    assert_eq!(BackpressureSignal::default(), Resume);
    let texts = [Resume, SlowDown, Pause].map(|signal| signal.to_string());
    assert_eq!(texts, ["resume", "slow down", "pause"]);
}

#[test]
fn a_controller_begins_with_resume_and_a_low_mark_at_three_quarters() {
    for (high, low) in [(0.8, 0.6), (1.0, 0.75), (0.4, 0.3)] {
        let controller = BackpressureController::new(high);
        assert_eq!(controller.current(), Resume);
        assert_eq!((controller.high_watermark(), controller.low_watermark()), (high, low));
    }
}

#[test]
fn a_controller_makes_the_best_of_a_bad_threshold() {
    for threshold in [f64::NAN, 0.0, -1.0, f64::NEG_INFINITY] {
        assert_eq!(BackpressureController::new(threshold).high_watermark(), 0.8, "{threshold}");
    }
    for threshold in [1.5, f64::INFINITY] {
        assert_eq!(BackpressureController::new(threshold).high_watermark(), 1.0, "{threshold}");
    }
}

#[test]
fn watermarks_out_of_order_or_range_are_refused() {
    let bad = [
        (0.5, 0.6),
        (0.5, 0.0),
        (0.5, -0.1),
        (1.1, 0.5),
        (0.0, 0.0),
        (f64::NAN, 0.5),
        (0.5, f64::NAN),
        (f64::INFINITY, 0.5),
        (0.5, f64::NEG_INFINITY),
    ];
    for (high, low) in bad {
        let Err(error) = BackpressureController::with_watermarks(high, low) else {
            panic!("{high} and {low} were accepted");
        };
        assert!(matches!(error, SettingsError::Watermarks { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("got high {high} and low {low}")), "{text}");
    }
    for (high, low) in [(0.5, 0.5), (1.0, 1.0), (1.0, f64::MIN_POSITIVE)] {
        let controller = BackpressureController::with_watermarks(high, low).unwrap();
        assert_eq!((controller.high_watermark(), controller.low_watermark()), (high, low));
    }
}

#[test]
fn hysteresis_holds_a_slowed_source_until_the_low_mark_is_passed() {
    let controller = BackpressureController::with_watermarks(0.8, 0.6).unwrap();
    // What is observed, and what follows from it in this order.
    let course = [
        (0.0, Resume),
        (0.7, Resume),
        (0.8, Resume), // not above the high mark
        (0.801, SlowDown),
        (0.8, SlowDown),
        (0.6, SlowDown), // not below the low mark
        (0.599, Resume),
        (0.7, Resume),
        (1.0, Pause),
        (0.999, Pause),
        (0.9, Pause), // not below the middle between the high mark and the cap
        (0.899, SlowDown),
        (0.95, SlowDown),
        (1.0, Pause),
        (0.7, SlowDown), // there is room, but not enough to resume
        (1.0, Pause),
        (0.1, Resume),
        (7.0, Pause),
        (-1.0, Resume),
    ];
    for (step, (utilization, expected)) in course.into_iter().enumerate() {
        assert_eq!(controller.observe(utilization), expected, "step {step}");
        assert_eq!(controller.current(), expected, "step {step}");
    }
}

#[test]
fn a_reading_that_is_no_number_changes_nothing() {
    let controller = BackpressureController::new(0.8);
    assert_eq!(controller.observe(f64::NAN), Resume);
    controller.observe(0.9);
    assert_eq!(controller.observe(f64::NAN), SlowDown);
    assert_eq!(controller.observe(f64::INFINITY), Pause);
    assert_eq!(controller.observe(f64::NEG_INFINITY), Resume);
}

#[test]
fn a_signal_set_by_hand_stands_until_a_level_asks_for_another() {
    let controller = BackpressureController::new(0.8);
    let clone = controller.clone();
    for signal in [Pause, SlowDown, Resume, Pause] {
        controller.signal(signal);
        assert_eq!(clone.current(), signal);
    }
    assert_eq!(clone.observe(0.1), Resume);
    assert_eq!(controller.current(), Resume);
}

#[test]
fn a_signal_set_by_hand_ends_when_the_level_of_the_buffer_crosses_a_mark() {
    let (manager, stage, source) = one_of_each(10, 100, 100);
    let controller = manager.controller();
    let push = |n| source.try_send_batch(&stage, rows("a", 0..n)).unwrap();
    // Whatever moves below the low mark, it stays.
    controller.signal(Pause);
    for _ in 0..100 {
        push(5);
        take(&stage, 5).ack();
    }
    assert_eq!((controller.current(), source.signal()), (Pause, Pause));
    push(6);
    assert_eq!(controller.current(), Resume, "it was measured all the time");
    // One that is weaker than the measured one ends likewise, and the measured one was not lost.
    push(3);
    controller.signal(Resume);
    assert_eq!((controller.current(), source.signal()), (Resume, Resume));
    take(&stage, 1).ack();
    assert_eq!(controller.current(), SlowDown, "the high mark was crossed");
    controller.signal(Resume);
    take(&stage, 2).ack();
    assert_eq!(controller.current(), Resume);
    take(&stage, 6).ack();
    push(10);
    controller.signal(Resume);
    take(&stage, 1).ack();
    assert_eq!(controller.current(), Resume, "a pause ends below 0.9");
    take(&stage, 1).ack();
    assert_eq!(controller.current(), SlowDown);
}

#[test]
fn a_signal_at_a_cap_does_not_flip_with_each_record() {
    let (_manager, stage, source) = one_of_each(1_000, 100, 1_000);
    source.try_send_batch(&stage, rows("a", 0..100)).unwrap();
    let mut signals = source.signals();
    for (swing, expected) in [(1, Pause), (10, Pause), (11, SlowDown)] {
        assert_eq!(source.signal(), Pause);
        take(&stage, swing).ack();
        assert_eq!(source.signal(), expected, "{} of 100", 100 - swing);
        source.try_send_batch(&stage, rows("a", 0..swing as u64)).unwrap();
    }
    assert_eq!(signals.changed_timeout(std::time::Duration::ZERO), None);
}

#[test]
fn a_flow_with_the_default_settings_is_slowed_before_its_stage_refuses() {
    let manager = Manager::new(BufferSettings::default());
    let stage = manager.stage("stage").unwrap();
    let sources: Vec<_> = (0..3).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    let mut slowed = [None; 3];
    for pushed in 1.. {
        let source = &sources[pushed % 3];
        if source.try_send(&stage, row("", pushed as u64)).is_err() {
            break;
        }
        for (source, slowed) in sources.iter().zip(&mut slowed) {
            if slowed.is_none() && source.signal() != Resume {
                *slowed = Some(pushed);
            }
        }
        if pushed >= 8_000 {
            let expected = block_on(manager.should_backpressure(source.id()));
            assert_eq!(expected, pushed > 8_000, "{pushed}");
        }
    }
    assert_eq!(slowed, [Some(8_001); 3]);
    assert_eq!((stage.len(), stage.signal()), (10_000, Pause));
    assert_eq!(manager.controller().current(), Resume);
    assert!(sources.iter().all(|source| source.signal() == Pause));
    assert!(sources.iter().all(|source| source.utilization() < 0.7));
}

#[test]
fn a_source_follows_the_stage_that_it_pushed_to_last() {
    let (manager, small, source) = one_of_each(1_000, 10, 1_000);
    let large = manager.stage("large").unwrap();
    let should = || block_on(manager.should_backpressure("a"));
    let other = manager.source("b").unwrap();
    other.try_send_batch(&small, rows("b", 0..10)).unwrap();
    assert_eq!((source.signal(), should()), (Resume, false));
    // A push that is refused counts, and so does a reservation.
    assert!(source.try_send(&small, row("a", 0)).is_err());
    assert_eq!((source.signal(), should()), (Pause, true));
    drop(source.try_reserve(&large, 1).unwrap());
    assert_eq!((source.signal(), should()), (Resume, false));
    drop(source.send_timeout(&small, row("a", 0), std::time::Duration::ZERO));
    assert_eq!((source.signal(), should()), (Pause, true));
    let mut producer = source.producer(&large);
    producer.try_send(row("a", 1)).unwrap();
    assert_eq!((source.signal(), should()), (Resume, false));
    drop(producer);
    block_on(manager.buffer_for_stage("stage", row("a", 2))).unwrap_err();
    assert_eq!((source.signal(), should()), (Pause, true));
    // A stage that is gone asks for nothing.
    drain(&small);
    manager.remove_stage("stage").unwrap();
    drop(small);
    assert_eq!((source.signal(), should()), (Resume, false));
}

#[test]
fn the_signal_of_a_stage_follows_whatever_moves_its_places() {
    let manager = Manager::builder(caps(1_000, 10, 1_000)).dead_letter_capacity(1).build().unwrap();
    let (stage, next) = (manager.stage("stage").unwrap(), manager.stage("next").unwrap());
    let source = manager.source("a").unwrap();
    source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
    assert_eq!(stage.signal(), SlowDown);
    take(&stage, 9).try_forward(&next).unwrap();
    assert_eq!((stage.signal(), next.signal()), (Resume, SlowDown));
    take(&next, 9).return_to_buffer();
    assert_eq!(next.signal(), SlowDown);
    let permit = source.try_reserve(&stage, 10).unwrap();
    assert_eq!(stage.signal(), Pause);
    drop(permit);
    assert_eq!(stage.signal(), Resume);
    // Parked letters keep their places, all but one here.
    take(&next, 9).settle(|_| conveyor_buffer::Outcome::DeadLetter);
    assert_eq!((next.in_flight(), next.signal()), (8, SlowDown));
    source.try_send_batch(&next, rows("a", 0..2)).unwrap();
    assert_eq!(next.signal(), Pause);
    let letters = manager.dead_letters();
    assert_eq!(std::iter::from_fn(|| letters.try_recv()).count(), 9);
    assert_eq!(next.signal(), Resume);
    drain(&next);
    // So do requests that wait, when they are granted and when they are given up.
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    let waits = common::waiting::waiting(source.send_batch(&stage, rows("a", 10..20)));
    take(&stage, 10).ack();
    assert_eq!(stage.signal(), Pause);
    drop(waits);
    assert_eq!(stage.signal(), Resume);
}

#[test]
fn a_controller_shows_its_marks_and_its_signal() {
    let text = format!("{:?}", BackpressureController::new(0.8));
    for part in ["0.8", "0.6", "Resume"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_whole_buffer_is_followed_through_its_watermarks() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let other = manager.source("b").unwrap();
    let mut expected = vec![Resume; 9];
    expected.extend([SlowDown, Pause]);
    for held in 1..=10 {
        let pushing = if held % 2 == 0 { &source } else { &other };
        pushing.try_send(&stage, row("a", held)).unwrap();
        assert_eq!(manager.controller().current(), expected[held as usize], "{held} held");
    }
    // On the way down: 9 is not below 0.9, and 8 to 6 of 10 are not below 0.6.
    for held in (0..10).rev() {
        take(&stage, 1).ack();
        let expected = match held {
            9 => Pause,
            6..9 => SlowDown,
            _ => Resume,
        };
        assert_eq!(manager.controller().current(), expected, "{held} held");
        assert_eq!(source.signal(), expected, "{held} held");
    }
}

#[test]
fn a_source_is_followed_apart_from_the_others() {
    let (manager, stage, source) = one_of_each(1_000, 1_000, 10);
    let other = manager.source("b").unwrap();
    source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
    assert_eq!((source.signal(), other.signal()), (SlowDown, Resume));
    source.try_send(&stage, row("a", 9)).unwrap();
    assert_eq!((source.signal(), other.signal()), (Pause, Resume));
    assert_eq!(manager.controller().current(), Resume);

    // A batch in a worker's hands is not settled, and counts.
    let batch = take(&stage, 10);
    assert_eq!(source.signal(), Pause);
    batch.return_to_buffer();
    assert_eq!(source.signal(), Pause);
    take(&stage, 4).ack();
    assert_eq!(source.signal(), SlowDown);
    take(&stage, 1).ack();
    assert_eq!(source.signal(), Resume);
}

#[test]
fn a_source_hears_the_stronger_of_both_signals() {
    let (manager, stage, source) = one_of_each(10, 10, 5);
    let (b, c) = (manager.source("b").unwrap(), manager.source("c").unwrap());
    b.try_send_batch(&stage, rows("b", 0..4)).unwrap();
    c.try_send_batch(&stage, rows("c", 0..5)).unwrap();
    assert_eq!((source.signal(), b.signal(), c.signal()), (SlowDown, SlowDown, Pause));
    b.try_send(&stage, row("b", 4)).unwrap();
    assert_eq!((source.signal(), b.signal(), c.signal()), (Pause, Pause, Pause));
}

#[test]
fn a_refused_push_leaves_the_signals_true() {
    // The source's credits are taken before the stage refuses, and given back.
    let (manager, stage, source) = one_of_each(10, 2, 10);
    for _ in 0..3 {
        let rejected = source.try_send_batch(&stage, rows("a", 0..10)).unwrap_err();
        assert_eq!(rejected.reason, stage_full("stage", 2, 2));
        // The stage is full, and nothing else.
        assert_eq!((source.signal(), manager.controller().current()), (Pause, Resume));
        assert_eq!((stage.signal(), source.available_credits()), (Pause, 8));
    }
}

#[test]
fn a_removed_source_begins_anew_with_resume() {
    let (manager, stage, source) = one_of_each(1_000, 1_000, 10);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    take(&stage, 3).ack();
    assert_eq!(source.signal(), SlowDown);
    drain(&stage);
    manager.remove_source("a").unwrap();
    assert_eq!(manager.source("a").unwrap().signal(), Resume);
}

#[test]
fn the_builder_sets_the_marks_of_the_buffer_and_of_every_source() {
    let manager = BufferManager::builder(caps(100, 100, 10)).watermarks(0.5, 0.2).build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..5)).unwrap();
    assert_eq!(source.signal(), Resume);
    source.try_send(&stage, row("a", 5)).unwrap();
    assert_eq!(source.signal(), SlowDown);
    take(&stage, 4).ack();
    assert_eq!(source.signal(), SlowDown);
    take(&stage, 1).ack();
    assert_eq!(source.signal(), Resume);
}

#[test]
fn should_backpressure_is_the_level_of_this_moment() {
    let manager = Manager::with_limits(20, 20, 10, 0.8);
    let should = |source: &str| block_on(manager.should_backpressure(source));
    let push = |source: &str, n| {
        block_on(manager.buffer_batch_for_stage("stage", rows(source, 0..n))).unwrap();
    };
    assert!(!should("a"));
    push("a", 8);
    assert!(!should("a"));
    push("a", 1);
    assert!(should("a") && !should("b"));
    // Without hysteresis: one less, and it is over.
    block_on(manager.get_batch("stage", 1));
    assert!(!should("a"));
    push("b", 8);
    assert!(!should("a") && !should("b") && !should("unheard-of"));
    push("a", 1);
    // 17 of 20 are above the threshold for everybody.
    assert!(should("a") && should("b") && should("unheard-of"));
}

#[test]
fn a_threshold_of_one_asks_for_nothing_before_the_cap() {
    let manager = Manager::with_limits(10, 10, 10, 1.0);
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..9)).unwrap();
    assert_eq!(source.signal(), Resume);
    source.try_send(&stage, row("a", 9)).unwrap();
    assert_eq!(source.signal(), Pause);
}

#[test]
fn an_empty_buffer_lets_its_sources_go_on_whatever_the_low_watermark() {
    for low in [0.6, 0.1, 0.02, 0.01, 0.005] {
        let settings = caps(100_000, 100_000, 100_000);
        let manager = BufferManager::builder(settings).watermarks(0.9, low).build().unwrap();
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
        for from in (0..95_000).step_by(500) {
            source.try_send_batch(&stage, rows("a", from..from + 500)).unwrap();
        }
        assert_eq!(source.signal(), SlowDown);
        drain(&stage);
        assert_eq!(manager.controller().current(), Resume, "low watermark {low}");
        assert_eq!(source.signal(), Resume, "low watermark {low}");
    }
}

#[test]
fn the_level_of_a_large_buffer_is_followed_to_about_one_point_in_a_hundred() {
    let settings = BufferSettings { backpressure_threshold: 0.5, ..caps(20_000, 20_000, 20_000) };
    let manager = Manager::new(settings);
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    for held in 1..=20_000_u64 {
        source.try_send(&stage, row("a", held)).unwrap();
        let signal = manager.controller().current();
        if held <= 9_799 {
            assert_eq!(signal, Resume, "{held} held");
        } else if held == 20_000 {
            assert_eq!(signal, Pause);
        } else if held > 10_000 {
            assert_eq!(signal, SlowDown, "{held} held");
        }
    }
    for held in (0..20_000).rev() {
        take(&stage, 1).ack();
        let signal = manager.controller().current();
        if held >= 15_000 {
            assert_eq!(signal, Pause, "{held} held");
        } else if (7_500..14_799).contains(&held) {
            assert_eq!(signal, SlowDown, "{held} held");
        } else if held < 7_299 {
            assert_eq!(signal, Resume, "{held} held");
        }
    }
}

#[test]
fn a_signal_never_stays_wrong_after_threads_have_crossed_the_marks() {
    let (manager, stage, _) = one_of_each(16, 16, 8);
    let sources: Vec<_> = (0..4).map(|n| manager.source(&n.to_string()).unwrap()).collect();
    for round in 0..300 {
        std::thread::scope(|scope| {
            for source in &sources {
                scope.spawn(|| {
                    for id in 0..20 {
                        let _ = source.try_send_batch(&stage, rows("", id..id + 1 + id % 4));
                        if let Ok(batch) = stage.try_recv_batch(3) {
                            batch.ack();
                        }
                    }
                });
            }
        });
        drain(&stage);
        assert_eq!(manager.controller().current(), Resume, "round {round}");
        for source in &sources {
            assert_eq!(source.signal(), Resume, "round {round}");
        }
    }
}

#[test]
fn a_high_watermark_a_hair_below_a_share_is_passed_at_that_share() {
    let high = 0.9_f64.next_down();
    assert_eq!((high * 10.0) as usize, 9, "the product is rounded up");
    let manager: Manager =
        BufferManager::builder(caps(10, 10, 10)).watermarks(high, 0.1).build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send_batch(&stage, rows("a", 0..8)).unwrap();
    assert_eq!((source.signal(), manager.controller().current()), (Resume, Resume));
    source.try_send(&stage, row("a", 8)).unwrap();
    assert_eq!((source.signal(), manager.controller().current()), (SlowDown, SlowDown));
}
