//! The ready-made record, and what the buffer does with records of other shapes.

mod common;

use std::time::Instant;

use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord, Envelope, Record};

use common::*;

#[test]
fn a_record_keeps_what_it_is_made_of() {
    let before = Instant::now();
    let record = BufferedRecord::new(7, "kafka-1", String::from("logs"), "filter");
    assert_eq!(record.record, 7);
    assert_eq!(record.source_id, "kafka-1");
    assert_eq!(record.pipeline_id, "logs");
    assert_eq!(record.target_stage_id, "filter");
    assert_eq!(record.retry_count, 0);
    assert!(before <= record.buffered_at && record.buffered_at <= Instant::now());
}

#[test]
fn a_record_tells_the_buffer_its_source_and_its_retries() {
    let mut record = BufferedRecord::new((), "kafka-1", "logs", "filter");
    assert_eq!((record.source_id(), Envelope::retry_count(&record)), ("kafka-1", 0));
    record.increment_retry();
    record.increment_retry();
    assert_eq!((record.retry_count, Envelope::retry_count(&record)), (2, 2));
}

#[test]
fn the_retry_count_stops_at_its_largest() {
    let mut record = BufferedRecord::new((), "a", "p", "s");
    record.retry_count = u32::MAX;
    record.increment_retry();
    assert_eq!(record.retry_count, u32::MAX);
}

#[test]
fn a_record_needs_nothing_of_its_content() {
    struct Bare;
    let manager = BufferManager::new(BufferSettings::default());
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send(&stage, BufferedRecord::new(Bare, "a", "p", "stage")).unwrap();
    let [BufferedRecord { record: Bare, .. }] = &take(&stage, 1).into_records()[..] else {
        panic!("one record went in");
    };
}

#[test]
fn what_is_pushed_comes_out_unchanged() {
    let manager = BufferManager::new(BufferSettings::default());
    let lines: Vec<_> =
        (0..5).map(|n| BufferedRecord::new(vec![n; n], "a", "p", "stage")).collect();
    block_on(manager.buffer_batch_for_stage("stage", lines.clone())).unwrap();
    assert_eq!(block_on(manager.get_batch("stage", 10)), lines);
}

/// A record without content, which takes no memory.
struct Tick;

impl Envelope for Tick {
    fn source_id(&self) -> &str {
        "clock"
    }

    fn retry_count(&self) -> u32 {
        0
    }

    fn increment_retry(&mut self) {}
}

#[test]
fn records_without_content_are_counted_like_all_others() {
    let manager = BufferManager::new(caps(100, 100, 10));
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("clock").unwrap());
    let rejected = source.try_send_batch(&stage, (0..25).map(|_| Tick).collect()).unwrap_err();
    assert_eq!((rejected.accepted, rejected.records.len()), (10, 15));
    let mut batch = take(&stage, 7);
    let rest = batch.split_off(3);
    assert_eq!((batch.len(), rest.len(), stage.len(), stage.in_flight()), (3, 4, 3, 7));
    batch.ack();
    rest.return_to_buffer();
    assert_eq!(take(&stage, 100).into_records().len(), 7);
    assert_eq!(source.available_credits(), 10);
}

#[test]
fn a_plain_record_is_its_payload_and_a_retry_count() {
    let manager = BufferManager::builder(BufferSettings::default()).max_retries(1).build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    source.try_send(&stage, Record::new(vec![1])).unwrap();
    let mut batch = stage.try_recv_batch(1).unwrap();
    batch.iter_mut().for_each(|record| record.push(2));
    batch.return_to_buffer();
    stage.try_recv_batch(1).unwrap().return_to_buffer();
    let letter = manager.dead_letters().try_recv().unwrap();
    assert_eq!((&*letter.source_id, letter.retry_count), ("a", 1));
    assert_eq!(letter.record.retries(), 1);
    assert_eq!(letter.record.into_inner(), [1, 2]);
}

#[test]
fn a_plain_record_is_refused_by_name() {
    let manager = BufferManager::new(BufferSettings::default());
    let pushed = pollster::block_on(manager.buffer_for_stage("stage", Record::from(1)));
    assert!(pushed.unwrap_err().to_string().contains("source"));
}
