//! The statistics as metrics: names, labels, units and values.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use conveyor_buffer::Outcome;
use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use common::*;

/// Each metric by name and labels, with its unit and value.
type Read = BTreeMap<String, (Option<Unit>, f64)>;

fn read(recorder: &DebuggingRecorder) -> Read {
    let all = recorder.snapshotter().snapshot().into_vec().into_iter();
    all.map(|(key, unit, text, value)| {
        let (_, key) = key.into_parts();
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        assert!(text.is_some(), "{key} has no description");
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(level) => level.into_inner(),
            DebugValue::Histogram(_) => panic!("{key} is a histogram"),
        };
        assert_eq!(key.name().ends_with("_total"), value_is_count(key.name()), "{key}");
        (format!("{} {}", key.name(), labels.join(" ")), (unit, value))
    })
    .collect()
}

/// Whether a metric of that name only grows.
fn value_is_count(name: &str) -> bool {
    let levels = ["held", "capacity", "dead_letters", "records", "seconds"];
    !levels.iter().any(|level| name.ends_with(level))
}

#[test]
fn every_number_of_the_statistics_is_a_metric_with_unit_and_labels() {
    let manager = Manager::builder(caps(100, 20, 15))
        .measure_time(true)
        .dead_letter_capacity(1)
        .build()
        .unwrap();
    let (parse, load) = (manager.stage("parse").unwrap(), manager.stage("load").unwrap());
    let source = manager.source("kafka-1").unwrap();
    source.try_send_batch(&parse, rows("kafka-1", 0..17)).unwrap_err();
    take(&parse, 3).settle(|record| match record.id {
        0 => Outcome::Return,
        1 => Outcome::Requeue,
        _ => Outcome::ReturnAfter(Duration::from_secs(60)),
    });
    take(&parse, 4).try_forward(&load).unwrap();
    take(&parse, 2).dead_letter("no");
    let _batch = take(&load, 2);
    take(&load, 1).ack();
    drop(take(&load, 1).into_records());

    let recorder = DebuggingRecorder::new();
    let record = || metrics::with_local_recorder(&recorder, || manager.record_metrics("orders"));
    record();
    let found = read(&recorder);
    let value = |name: &str| found.get(name).unwrap_or_else(|| panic!("no {name}: {found:#?}"));
    let is = |name: &str, expected: f64| assert_eq!(value(name).1, expected, "{name}");
    is("conveyor_buffer_held buffer=orders", 12.0);
    is("conveyor_buffer_capacity buffer=orders", 100.0);
    is("conveyor_buffer_dead_letters buffer=orders", 2.0);
    for (state, records) in
        [("queued", 8.0), ("delayed", 1.0), ("in_flight", 0.0), ("reserved", 0.0), ("parked", 1.0)]
    {
        let labels = format!("buffer=orders stage=parse state={state}");
        is(&format!("conveyor_buffer_stage_records {labels}"), records);
    }
    is("conveyor_buffer_stage_records buffer=orders stage=load state=in_flight", 2.0);
    for (count, records) in [
        ("accepted", 15.0),
        ("forwarded_out", 4.0),
        ("forwarded_in", 0.0),
        ("dead_lettered", 2.0),
        ("returned", 1.0),
        ("requeued", 1.0),
        ("delayed", 1.0),
        ("evicted", 0.0),
    ] {
        is(&format!("conveyor_buffer_{count}_total buffer=orders stage=parse"), records);
    }
    is("conveyor_buffer_acknowledged_total buffer=orders stage=load", 1.0);
    is("conveyor_buffer_handed_out_total buffer=orders stage=load", 1.0);
    is("conveyor_buffer_refused_total buffer=orders stage=parse limit=source", 1.0);
    is("conveyor_buffer_source_refused_total buffer=orders source=kafka-1", 1.0);
    is("conveyor_buffer_source_accepted_total buffer=orders source=kafka-1", 15.0);
    is("conveyor_buffer_source_held buffer=orders source=kafka-1", 12.0);
    let oldest = "conveyor_buffer_stage_oldest_seconds buffer=orders stage=parse";
    assert_eq!(value(oldest).0, Some(Unit::Seconds));
    assert!(
        value("conveyor_buffer_stage_time_seconds buffer=orders stage=parse quantile=0.99").1 > 0.0
    );
    let waited = "conveyor_buffer_wait_microseconds_total buffer=orders stage=parse";
    assert_eq!(value(waited), &(Some(Unit::Microseconds), 0.0));

    // The next recording goes on from there.
    take(&parse, 5).ack();
    record();
    let found = read(&recorder);
    assert_eq!(found["conveyor_buffer_acknowledged_total buffer=orders stage=parse"].1, 5.0);
}
