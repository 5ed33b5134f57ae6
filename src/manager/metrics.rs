//! The statistics as metrics, through the `metrics` facade.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::manager::BufferManager;
use crate::record::Envelope;
use crate::stats::{Counts, Quantiles, Refusals, SourceStats, StageStats, Stats};

/// The counters of a stage: name, kind, and description.
type Count = (&'static str, fn(&Counts) -> u64, &'static str);

const COUNTS: [Count; 10] = [
    ("conveyor_buffer_accepted_total", |counts| counts.accepted, "Records that sources pushed."),
    (
        "conveyor_buffer_forwarded_in_total",
        |counts| counts.forwarded_in,
        "Records that came from other stages.",
    ),
    (
        "conveyor_buffer_forwarded_out_total",
        |counts| counts.forwarded_out,
        "Records that went on to other stages.",
    ),
    (
        "conveyor_buffer_acknowledged_total",
        |counts| counts.acknowledged,
        "Records that were acknowledged.",
    ),
    (
        "conveyor_buffer_handed_out_total",
        |counts| counts.handed_out,
        "Records that left the buffer unsettled.",
    ),
    (
        "conveyor_buffer_evicted_total",
        |counts| counts.evicted,
        "Records that newer ones evicted; they count as handed out too.",
    ),
    (
        "conveyor_buffer_dead_lettered_total",
        Counts::dead_lettered,
        "Records that became dead letters.",
    ),
    ("conveyor_buffer_returned_total", |counts| counts.returned, "Returns at once."),
    ("conveyor_buffer_delayed_total", |counts| counts.delayed, "Returns after a delay."),
    ("conveyor_buffer_requeued_total", |counts| counts.requeued, "Returns that counted no retry."),
];

/// The value of a label, and what it stands for.
type Labeled<T, N> = (&'static str, fn(&T) -> N);

/// The limits of a refusal, as values of the label `limit`.
const LIMITS: [Labeled<Refusals, u64>; 10] = [
    ("source", |refusals| refusals.source),
    ("global", |refusals| refusals.global),
    ("stage", |refusals| refusals.stage),
    ("source_bytes", |refusals| refusals.source_bytes),
    ("global_bytes", |refusals| refusals.global_bytes),
    ("guaranteed", |refusals| refusals.guaranteed),
    ("parked_letters", |refusals| refusals.parked_letters),
    ("others_first", |refusals| refusals.others_first),
    ("too_large", |refusals| refusals.too_large),
    ("closed", |refusals| refusals.closed),
];

/// The states of a record in a stage, as values of the label `state`.
const STATES: [Labeled<StageStats, usize>; 5] = [
    ("queued", |stage| stage.queued),
    ("delayed", |stage| stage.delayed),
    ("in_flight", |stage| stage.in_flight),
    ("reserved", |stage| stage.reserved),
    ("parked", |stage| stage.parked),
];

const QUANTILES: [Labeled<Quantiles, f64>; 4] = [
    ("0.5", |time| time.p50.as_secs_f64()),
    ("0.9", |time| time.p90.as_secs_f64()),
    ("0.99", |time| time.p99.as_secs_f64()),
    ("1", |time| time.max.as_secs_f64()),
];

impl<E: Envelope> BufferManager<E> {
    /// Hands [`stats`](Self::stats) to the recorder of the [`metrics`](https://docs.rs/metrics)
    /// facade, labeled with a name for this buffer.
    ///
    /// Call it before each scrape, or every few seconds. The data path does not touch the facade.
    /// Without a recorder the call does nothing of use.
    ///
    /// | metric | kind | labels beside `buffer` |
    /// | --- | --- | --- |
    /// | `conveyor_buffer_held`, `_capacity`, `_dead_letters` | gauge | |
    /// | `conveyor_buffer_held_bytes`, `_capacity_bytes` | gauge | |
    /// | `conveyor_buffer_stage_records` | gauge | `stage`, `state` |
    /// | `conveyor_buffer_stage_capacity` | gauge | `stage` |
    /// | `conveyor_buffer_stage_oldest_seconds` | gauge | `stage` |
    /// | `conveyor_buffer_stage_time_seconds` | gauge | `stage`, `quantile` |
    /// | `conveyor_buffer_accepted_total`, `_forwarded_in_total`, `_forwarded_out_total`, `_acknowledged_total`, `_handed_out_total`, `_evicted_total`, `_dead_lettered_total`, `_returned_total`, `_delayed_total`, `_requeued_total` | counter | `stage` |
    /// | `conveyor_buffer_refused_total` | counter | `stage`, `limit` |
    /// | `conveyor_buffer_waits_total`, `conveyor_buffer_wait_microseconds_total` | counter | `stage` |
    /// | `conveyor_buffer_source_held`, `_source_capacity`, `_source_held_bytes` | gauge | `source` |
    /// | `conveyor_buffer_source_accepted_total`, `_source_refused_total` | counter | `source` |
    ///
    /// The gauges of time are there if the buffer
    /// [measures time](crate::Builder::measure_time), and those of bytes if it has
    /// [byte budgets](crate::Builder::max_total_bytes). The gauges of a stage or a source that was
    /// removed keep their last value: give the recorder an idle timeout, or few names.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    /// use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    ///
    /// let manager = BufferManager::new(BufferSettings::default());
    /// let (stage, source) = (manager.stage("load")?, manager.source("a")?);
    /// source.try_send(&stage, BufferedRecord::new("line", "a", "p", "load"))?;
    ///
    /// let recorder = DebuggingRecorder::new();
    /// metrics::with_local_recorder(&recorder, || manager.record_metrics("orders"));
    /// let metrics = recorder.snapshotter().snapshot().into_vec();
    /// let held = metrics.iter().find(|(key, ..)| key.key().name() == "conveyor_buffer_held");
    /// assert_eq!(held.unwrap().3, DebugValue::Gauge(1.0.into()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_metrics(&self, buffer: &str) {
        describe();
        record(buffer, &self.stats());
    }
}

/// Describes every metric. A recorder keeps the first description.
fn describe() {
    let gauges = [
        ("conveyor_buffer_held", Unit::Count, "Records in the buffer."),
        ("conveyor_buffer_capacity", Unit::Count, "The global cap."),
        ("conveyor_buffer_dead_letters", Unit::Count, "Dead letters that wait to be received."),
        ("conveyor_buffer_held_bytes", Unit::Bytes, "Bytes that records are charged."),
        ("conveyor_buffer_capacity_bytes", Unit::Bytes, "The byte budget of the buffer."),
        ("conveyor_buffer_source_held_bytes", Unit::Bytes, "Bytes that the source is charged."),
        ("conveyor_buffer_stage_records", Unit::Count, "Records in the stage."),
        ("conveyor_buffer_stage_capacity", Unit::Count, "The cap of the stage."),
        (
            "conveyor_buffer_stage_oldest_seconds",
            Unit::Seconds,
            "The age of the record that is next in turn, 0 if none is queued.",
        ),
        (
            "conveyor_buffer_stage_time_seconds",
            Unit::Seconds,
            "How long records waited in the stage.",
        ),
        ("conveyor_buffer_source_held", Unit::Count, "Credits in use by the source."),
        ("conveyor_buffer_source_capacity", Unit::Count, "The cap of the source."),
    ];
    for (name, unit, text) in gauges {
        describe_gauge!(name, unit, text);
    }
    for (name, _, text) in COUNTS {
        describe_counter!(name, Unit::Count, text);
    }
    let counters = [
        ("conveyor_buffer_refused_total", Unit::Count, "Pushes and forwards that were refused."),
        ("conveyor_buffer_waits_total", Unit::Count, "Pushes and forwards that waited."),
        (
            "conveyor_buffer_wait_microseconds_total",
            Unit::Microseconds,
            "How long pushes and forwards waited in all.",
        ),
        ("conveyor_buffer_source_accepted_total", Unit::Count, "Records that the source pushed."),
        ("conveyor_buffer_source_refused_total", Unit::Count, "Pushes that were refused."),
    ];
    for (name, unit, text) in counters {
        describe_counter!(name, unit, text);
    }
}

fn record(buffer: &str, stats: &Stats) {
    let gauge = |name: &'static str, value: usize| {
        gauge!(name, "buffer" => buffer.to_owned()).set(value as f64);
    };
    gauge("conveyor_buffer_held", stats.held);
    gauge("conveyor_buffer_capacity", stats.capacity);
    gauge("conveyor_buffer_dead_letters", stats.dead_letters + stats.parked);
    if let Some(bytes) = stats.bytes {
        gauge("conveyor_buffer_held_bytes", bytes.held);
        gauge("conveyor_buffer_capacity_bytes", bytes.capacity);
    }
    stats.stages.iter().for_each(|stage| record_stage(buffer, stage));
    stats.sources.iter().for_each(|source| record_source(buffer, source));
}

fn record_stage(buffer: &str, stage: &StageStats) {
    let labels = [("buffer", buffer.to_owned()), ("stage", stage.id.clone())];
    let labeled = |name: &'static str, value: &'static str| {
        labels.iter().cloned().chain([(name, value.to_owned())]).collect::<Vec<_>>()
    };
    for (state, read) in STATES {
        gauge!("conveyor_buffer_stage_records", &labeled("state", state)).set(read(stage) as f64);
    }
    gauge!("conveyor_buffer_stage_capacity", &labels).set(stage.capacity as f64);
    if stage.oldest.is_some() || stage.time_in_stage.is_some() {
        let oldest = stage.oldest.unwrap_or_default().as_secs_f64();
        gauge!("conveyor_buffer_stage_oldest_seconds", &labels).set(oldest);
    }
    if let Some(times) = stage.time_in_stage {
        for (quantile, read) in QUANTILES {
            let labels = labeled("quantile", quantile);
            gauge!("conveyor_buffer_stage_time_seconds", &labels).set(read(&times));
        }
    }
    for (name, read, _) in COUNTS {
        counter!(name, &labels).absolute(read(&stage.counts));
    }
    for (limit, read) in LIMITS {
        let labels = labeled("limit", limit);
        counter!("conveyor_buffer_refused_total", &labels).absolute(read(&stage.refusals));
    }
    counter!("conveyor_buffer_waits_total", &labels).absolute(stage.waits.calls);
    let micros = u64::try_from(stage.waits.time.as_micros()).unwrap_or(u64::MAX);
    counter!("conveyor_buffer_wait_microseconds_total", &labels).absolute(micros);
}

fn record_source(buffer: &str, source: &SourceStats) {
    let labels = [("buffer", buffer.to_owned()), ("source", source.id.clone())];
    gauge!("conveyor_buffer_source_held", &labels).set(source.held as f64);
    gauge!("conveyor_buffer_source_capacity", &labels).set(source.capacity as f64);
    if let Some(bytes) = source.bytes {
        gauge!("conveyor_buffer_source_held_bytes", &labels).set(bytes.held as f64);
    }
    counter!("conveyor_buffer_source_accepted_total", &labels).absolute(source.accepted);
    let refused = source.refusals.total();
    counter!("conveyor_buffer_source_refused_total", &labels).absolute(refused);
}
