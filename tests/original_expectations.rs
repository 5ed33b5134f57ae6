//! What users of the crate that this one takes the place of (`conveyor-etl-buffer` 0.1.0) rely on,
//! and where this one keeps its promise better.

mod common;

use conveyor_buffer::BackpressureSignal::{Pause, Resume, SlowDown};
use conveyor_buffer::{BackpressureController, BufferManager, BufferedRecord};

use common::block_on;

type Line = BufferedRecord<String>;

fn line(text: impl ToString, stage: &str) -> Line {
    BufferedRecord::new(text.to_string(), "kafka", "clicks", stage)
}

fn lines(n: usize, stage: &str) -> Vec<Line> {
    (0..n).map(|n| line(n, stage)).collect()
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.record.as_str()).collect()
}

#[test]
fn one_record_in_is_one_record_out() {
    let manager = BufferManager::with_limits(100, 50, 25, 0.8);
    block_on(manager.buffer_for_stage("parse", line("first", "parse"))).unwrap();
    assert_eq!(block_on(manager.get_stage_buffer_size("parse")), 1);
    assert_eq!(texts(&block_on(manager.get_batch("parse", 10))), ["first"]);
    assert_eq!(block_on(manager.get_stage_buffer_size("parse")), 0);
}

#[test]
fn a_hundred_in_are_a_hundred_out() {
    let manager = BufferManager::with_limits(1_000, 500, 250, 0.8);
    let pushed = block_on(manager.buffer_batch_for_stage("parse", lines(100, "parse")));
    assert_eq!(pushed.unwrap(), 100);
    assert_eq!(block_on(manager.get_stage_buffer_size("parse")), 100);
    assert_eq!(block_on(manager.get_batch("parse", 100)).len(), 100);
}

#[test]
fn ten_of_a_hundred_leave_ninety() {
    let manager = BufferManager::with_limits(1_000, 500, 250, 0.8);
    block_on(manager.buffer_batch_for_stage("parse", lines(100, "parse"))).unwrap();
    let batch = block_on(manager.get_batch("parse", 10));
    assert_eq!(texts(&batch), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(block_on(manager.get_stage_buffer_size("parse")), 90);
    assert_eq!(block_on(manager.get_total_buffered()), 90);
}

#[test]
fn records_come_one_by_one_in_the_order_in_which_they_went_in() {
    let manager = BufferManager::with_limits(100, 50, 25, 0.8);
    for text in ["A", "B", "C"] {
        block_on(manager.buffer_for_stage("parse", line(text, "parse"))).unwrap();
    }
    for text in ["A", "B", "C"] {
        assert_eq!(texts(&block_on(manager.get_batch("parse", 1))), [text]);
    }
}

#[test]
fn a_returned_record_counts_one_retry() {
    let manager = BufferManager::with_limits(100, 50, 25, 0.8);
    block_on(manager.buffer_for_stage("parse", line("again", "parse"))).unwrap();
    for retries in 0..5 {
        let batch = block_on(manager.get_batch("parse", 1));
        assert_eq!((texts(&batch), batch[0].retry_count), (vec!["again"], retries));
        assert_eq!(block_on(manager.return_to_buffer("parse", batch)).unwrap(), 1);
    }
}

#[test]
fn a_return_that_finds_the_buffer_full_loses_nothing() {
    // The original drops what does not fit.
    let manager = BufferManager::with_limits(100, 3, 100, 0.8);
    block_on(manager.buffer_batch_for_stage("parse", lines(3, "parse"))).unwrap();
    let batch = block_on(manager.get_batch("parse", 3));
    block_on(manager.buffer_for_stage("parse", line("new", "parse"))).unwrap();
    let rejected = block_on(manager.return_to_buffer("parse", batch)).unwrap_err();
    assert_eq!((rejected.accepted, texts(&rejected.records)), (2, vec!["2"]));
    assert_eq!(rejected.records[0].retry_count, 0);
    assert_eq!(texts(&block_on(manager.get_batch("parse", 9))), ["0", "1", "new"]);
}

#[test]
fn stages_do_not_see_each_others_records() {
    let manager = BufferManager::with_limits(100, 50, 25, 0.8);
    for (stage, text) in [("a", "A1"), ("b", "B1"), ("a", "A2"), ("b", "B2")] {
        block_on(manager.buffer_for_stage(stage, line(text, stage))).unwrap();
    }
    assert_eq!(texts(&block_on(manager.get_batch("a", 10))), ["A1", "A2"]);
    assert_eq!(texts(&block_on(manager.get_batch("b", 10))), ["B1", "B2"]);
}

#[test]
fn fifty_of_a_hundred_are_a_utilization_of_one_half() {
    let manager = BufferManager::with_limits(200, 100, 50, 0.8);
    block_on(manager.buffer_batch_for_stage("parse", lines(50, "parse"))).unwrap();
    assert_eq!(block_on(manager.get_stage_utilization("parse")), 0.5);
    assert_eq!(block_on(manager.get_stage_utilization("unheard-of")), 0.0);
}

#[test]
fn the_global_utilization_is_over_all_stages() {
    let manager = BufferManager::with_limits(100, 50, 25, 0.8);
    for (stage, source) in [("a", "kafka-1"), ("b", "kafka-2")] {
        let batch: Vec<_> =
            (0..25).map(|n| BufferedRecord::new(n, source, "clicks", stage)).collect();
        block_on(manager.buffer_batch_for_stage(stage, batch)).unwrap();
    }
    assert_eq!(block_on(manager.get_global_utilization()), 0.5);
    assert_eq!(block_on(manager.get_total_buffered()), 50);
}

#[test]
fn the_cap_per_source_is_enforced() {
    // The original knows this cap and never looks at it.
    let manager = BufferManager::with_limits(100, 100, 25, 0.8);
    let rejected =
        block_on(manager.buffer_batch_for_stage("parse", lines(30, "parse"))).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (25, 5));
    assert!(rejected.to_string().starts_with("source buffer full: kafka"), "{rejected}");
}

#[test]
fn an_overflow_keeps_what_fits_and_hands_the_rest_back() {
    // The original keeps five and forgets the other five.
    let manager = BufferManager::with_limits(10, 5, 5, 0.8);
    let rejected =
        block_on(manager.buffer_batch_for_stage("parse", lines(10, "parse"))).unwrap_err();
    assert_eq!(rejected.accepted, 5);
    assert_eq!(texts(&rejected.records), ["5", "6", "7", "8", "9"]);
    assert!(rejected.to_string().contains("buffer full"), "{rejected}");

    let rejected = block_on(manager.buffer_for_stage("parse", line("extra", "parse"))).unwrap_err();
    assert!(rejected.to_string().contains("buffer full"), "{rejected}");
    assert_eq!(rejected.into_record().record, "extra");
    assert_eq!(texts(&block_on(manager.get_batch("parse", 10))), ["0", "1", "2", "3", "4"]);
}

#[test]
fn the_stages_with_data_are_those_in_which_records_wait() {
    let manager = BufferManager::with_limits(100, 50, 25, 0.8);
    for stage in ["b", "a"] {
        block_on(manager.buffer_for_stage(stage, line("x", stage))).unwrap();
    }
    assert_eq!(block_on(manager.get_stages_with_data()), ["a", "b"]);
    block_on(manager.get_batch("a", 10));
    assert_eq!(block_on(manager.get_stages_with_data()), ["b"]);
    block_on(manager.get_batch("b", 10));
    assert!(block_on(manager.get_stages_with_data()).is_empty());
}

#[test]
fn credits_run_out_and_come_back() {
    let manager = BufferManager::with_limits(1_000, 1_000, 100, 0.8);
    assert_eq!(block_on(manager.available_credits("kafka")), 100);
    block_on(manager.buffer_batch_for_stage("parse", lines(50, "parse"))).unwrap();
    assert_eq!(block_on(manager.available_credits("kafka")), 50);
    block_on(manager.buffer_batch_for_stage("parse", lines(50, "parse"))).unwrap();
    assert_eq!(block_on(manager.available_credits("kafka")), 0);
    assert!(block_on(manager.buffer_for_stage("parse", line("x", "parse"))).is_err());
    block_on(manager.get_batch("parse", 50));
    assert_eq!(block_on(manager.available_credits("kafka")), 50);
}

#[test]
fn backpressure_is_each_sources_own() {
    let manager = BufferManager::with_limits(1_000, 1_000, 100, 0.8);
    block_on(manager.buffer_batch_for_stage("parse", lines(90, "parse"))).unwrap();
    assert!(block_on(manager.should_backpressure("kafka")));
    assert!(!block_on(manager.should_backpressure("postgres")));
}

#[test]
fn hysteresis_prevents_oscillation() {
    let controller = BackpressureController::with_watermarks(0.8, 0.6).unwrap();
    assert_eq!(controller.observe(0.9), SlowDown);
    assert_eq!(controller.current(), SlowDown);
    assert_eq!(controller.observe(0.75), SlowDown);
    assert_eq!(controller.observe(0.5), Resume);
    // Between the watermarks the original slows a source that nothing had asked to slow down.
    assert_eq!(controller.observe(0.75), Resume);
    assert_eq!(controller.observe(1.0), Pause);
    assert_eq!(controller.observe(0.5), Resume);
}
