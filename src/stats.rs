//! Statistics: what a buffer holds and what it has done, as numbers and as a table.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::time::Duration;

/// What a buffer holds and what it has done, from [`BufferManager::stats`].
///
/// All numbers are records, unless they say otherwise. The counts never decrease. While no other
/// thread uses the buffer, all numbers are exact, and in each stage
///
/// ```text
/// accepted + forwarded_in = acknowledged + handed_out + forwarded_out + dead-lettered
///                           + queued + delayed + in_flight
/// ```
///
/// While other threads use it, each number is exact for some moment, and the moments differ.
///
/// `Display` prints tables.
///
/// [`BufferManager::stats`]: crate::BufferManager::stats
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::new(BufferSettings::default());
/// let (parse, load) = (manager.stage("parse")?, manager.stage("load")?);
/// let source = manager.source("kafka-1")?;
/// let line = BufferedRecord::new("line", "kafka-1", "logs", "parse");
/// source.try_send_batch(&parse, vec![line; 10])?;
///
/// let mut batch = parse.try_recv_batch(7)?;
/// batch.split_off(5).dead_letter("not a number");
/// batch.split_off(2).try_forward(&load)?;
/// batch.ack();
/// let _batch = load.try_recv_batch(2)?;
///
/// let stats = manager.stats();
/// assert_eq!((stats.held, stats.counts.accepted, stats.counts.acknowledged), (6, 10, 2));
/// let tables = "\
/// 6 of 100000 records held, 2 dead letters and 0 parked
/// stage  held     of  queued  delayed  in flight  reserved  parked
/// load      3  10000       1        0          2         0       0
/// parse     3  10000       3        0          0         0       0
/// stage  accepted  forwarded in  acknowledged  handed out  forwarded out  dead  tried again  refused
/// load          0             3             0           0              0     0            0        0
/// parse        10             0             2           0              3     2            0        0
/// source   held    of  reserved  parked  accepted  refused  waits  waited
/// kafka-1     6  5000         0       0        10        0      0     0ns
/// ";
/// assert_eq!(stats.to_string(), tables);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// The credits in use: of records that are queued, delayed or in unsettled batches, of what is
    /// reserved, and of parked dead letters.
    pub held: usize,
    /// The global cap.
    pub capacity: usize,
    /// The dead letters that wait to be received, without those that are parked.
    pub dead_letters: usize,
    /// The dead letters that are parked, and hold credits and places: see
    /// [`DeadLetters::parked`](crate::DeadLetters::parked).
    pub parked: usize,
    /// The bytes that records are charged, in a buffer with
    /// [byte budgets](crate::Builder::max_total_bytes).
    pub bytes: Option<ByteStats>,
    /// The sums over all stages, including those that were removed.
    pub counts: Counts,
    /// The sums over all stages, including those that were removed.
    pub refusals: Refusals,
    /// The sums over all stages, including those that were removed.
    pub waits: Waits,
    /// Each stage, sorted by name.
    pub stages: Vec<StageStats>,
    /// Each source, sorted by name.
    pub sources: Vec<SourceStats>,
}

/// What a stage holds and what it has done, from [`Stage::stats`](crate::Stage::stats).
///
/// [`Stats`] shows an example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StageStats {
    /// The name of the stage.
    pub id: String,
    /// The records that a worker can take.
    pub queued: usize,
    /// The returned records that are not due yet.
    pub delayed: usize,
    /// The records in unsettled batches.
    pub in_flight: usize,
    /// The places that are reserved: see [`Stage::reserved`](crate::Stage::reserved).
    pub reserved: usize,
    /// The places of parked dead letters.
    pub parked: usize,
    /// The cap of the stage.
    pub capacity: usize,
    /// What became of the records.
    pub counts: Counts,
    /// The pushes and forwards to the stage that were refused.
    pub refusals: Refusals,
    /// The pushes and forwards to the stage that waited.
    pub waits: Waits,
    /// The time since the record that is next in turn was pushed to its first stage, to the
    /// millisecond. `None` if no record is queued, or the buffer does not
    /// [measure time](crate::Builder::measure_time).
    pub oldest: Option<Duration>,
    /// How long records waited in the stage until a worker first took them. Records that were
    /// pushed together count as taken when a worker takes the first of them. `None` if none was
    /// taken, or the buffer does not [measure time](crate::Builder::measure_time).
    pub time_in_stage: Option<Quantiles>,
}

/// What a source holds and what it has done, from [`Source::stats`](crate::Source::stats).
///
/// [`Stats`] shows an example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SourceStats {
    /// The name of the source.
    pub id: String,
    /// The credits in use, including those that are reserved or parked.
    pub held: usize,
    /// The credits that are reserved: see [`Stage::reserved`](crate::Stage::reserved).
    pub reserved: usize,
    /// The credits of parked dead letters.
    pub parked: usize,
    /// The cap of the source.
    pub capacity: usize,
    /// The bytes that its records are charged, in a buffer with
    /// [byte budgets](crate::Builder::max_total_bytes).
    pub bytes: Option<ByteStats>,
    /// The records that the source pushed. Records of a [`Producer`](crate::Producer) count when
    /// they are published.
    pub accepted: u64,
    /// The pushes that were refused.
    pub refusals: Refusals,
    /// The pushes that waited.
    pub waits: Waits,
}

/// How many bytes records are charged, and the budget. The size of each record is rounded up to a
/// multiple of 64.
///
/// # Examples
///
/// ```
/// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
///
/// let manager = BufferManager::builder(BufferSettings::default())
///     .max_total_bytes(1 << 20)
///     .max_source_bytes(1 << 16)
///     .build()?;
/// let (stage, source) = (manager.stage("parse")?, manager.source("a")?);
/// source.try_send(&stage, BufferedRecord::new([0_u8; 1_000], "a", "p", "parse"))?;
///
/// let stats = manager.stats();
/// let bytes = stats.bytes.unwrap();
/// assert!((1_000..1_300).contains(&bytes.held));
/// assert_eq!((bytes.capacity, stats.sources[0].bytes.unwrap().capacity), (1 << 20, 1 << 16));
/// assert_eq!((bytes.held, bytes.held), (manager.held_bytes(), source.held_bytes()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ByteStats {
    /// The bytes in use: of records that are queued, delayed or in unsettled batches, of permits,
    /// and of parked dead letters.
    pub held: usize,
    /// The budget. For a source, it is the smaller of its own and that of the buffer. A limit that
    /// was not set counts as the largest possible budget.
    pub capacity: usize,
}

/// What became of records since the stage, or the buffer, was made.
///
/// [`Stats`] shows an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counts {
    /// Records that sources pushed. A record that comes back
    /// [by name](crate::BufferManager::return_to_buffer) counts again.
    pub accepted: u64,
    /// Records that came from other stages.
    pub forwarded_in: u64,
    /// Records that went on to other stages.
    pub forwarded_out: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records that left the buffer by [`into_records`](crate::Batch::into_records), by
    /// [`get_batch`](crate::BufferManager::get_batch) or by
    /// [`force_send`](crate::Source::force_send).
    pub handed_out: u64,
    /// The part of `handed_out` that [`force_send`](crate::Source::force_send) evicted.
    pub evicted: u64,
    /// Records that became dead letters because they had used up their retries.
    pub retries_exhausted: u64,
    /// Records that became dead letters because a worker decided so.
    pub rejected: u64,
    /// Records that became dead letters because they were too old.
    pub expired: u64,
    /// Records that were returned at once, with a retry counted. A record counts each time.
    pub returned: u64,
    /// Records that were returned after a delay, with a retry counted. A record counts each time.
    pub delayed: u64,
    /// Records that were returned with no retry counted. A record counts each time.
    pub requeued: u64,
}

/// How many calls were refused, by the reason. A batch that is refused counts once.
///
/// Refusals for other reasons, such as an empty name, do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Refusals {
    /// The cap of the source.
    pub source: u64,
    /// The global cap.
    pub global: u64,
    /// The cap of the stage.
    pub stage: u64,
    /// The byte budget of the source.
    pub source_bytes: u64,
    /// The byte budget of the buffer.
    pub global_bytes: u64,
    /// Credits that are guaranteed to other sources.
    pub guaranteed: u64,
    /// Parked dead letters that hold a part of a cap.
    pub parked_letters: u64,
    /// The reservation of a request that waits.
    pub others_first: u64,
    /// A cap that is smaller than the batch.
    pub too_large: u64,
    /// The source, the stage or the buffer was closed.
    pub closed: u64,
}

/// How many calls waited in the queue for credits or places, and for how long in total. A call
/// counts when its wait ends, whether it was granted or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Waits {
    /// The calls that waited.
    pub calls: u64,
    /// The sum of their waits.
    pub time: Duration,
}

/// Quantiles of a time, with an error of at most 1 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Quantiles {
    /// The median.
    pub p50: Duration,
    /// The time that 90 % of the records did not exceed.
    pub p90: Duration,
    /// The time that 99 % of the records did not exceed.
    pub p99: Duration,
    /// The longest time.
    pub max: Duration,
}

/// The sums over stages.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    pub(crate) refusals: Refusals,
    pub(crate) waits: Waits,
}

impl Totals {
    pub(crate) fn add(&mut self, stage: &StageStats) {
        self.counts += stage.counts;
        self.add_requests(stage.refusals, stage.waits);
    }

    pub(crate) fn add_requests(&mut self, refusals: Refusals, waits: Waits) {
        self.refusals += refusals;
        self.waits += waits;
    }
}

impl StageStats {
    /// Returns the places taken: by records, by what is reserved, and by parked dead letters.
    pub fn held(&self) -> usize {
        self.queued + self.delayed + self.in_flight + self.reserved + self.parked
    }
}

impl Counts {
    /// Returns the records that became dead letters, for any reason.
    pub fn dead_lettered(&self) -> u64 {
        self.retries_exhausted + self.rejected + self.expired
    }

    /// Returns the records that went back to their stage, with a retry counted or not.
    pub fn tried_again(&self) -> u64 {
        self.returned + self.delayed + self.requeued
    }
}

impl Refusals {
    /// Returns the sum of all refusals.
    pub fn total(&self) -> u64 {
        let Self { source, global, stage, source_bytes, global_bytes, .. } = self;
        let Self { guaranteed, parked_letters, others_first, too_large, closed, .. } = self;
        let caps = source + global + stage + source_bytes + global_bytes;
        caps + guaranteed + parked_letters + others_first + too_large + closed
    }
}

macro_rules! sum {
    ($type:ident { $($field:ident),* }) => {
        impl Add for $type {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($field: self.$field + other.$field),* }
            }
        }

        impl AddAssign for $type {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }
    };
}

sum!(Counts {
    accepted,
    forwarded_in,
    forwarded_out,
    acknowledged,
    handed_out,
    evicted,
    retries_exhausted,
    rejected,
    expired,
    returned,
    delayed,
    requeued
});
sum!(Refusals {
    source,
    global,
    stage,
    source_bytes,
    global_bytes,
    guaranteed,
    parked_letters,
    others_first,
    too_large,
    closed
});
sum!(Waits { calls, time });

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, capacity, dead_letters, parked, stages, sources, .. } = self;
        writeln!(
            f,
            "{held} of {capacity} records held, {dead_letters} dead letters and {parked} parked"
        )?;
        if let Some(ByteStats { held, capacity }) = self.bytes {
            writeln!(f, "{held} of {capacity} bytes held")?;
        }
        let mut levels = Table::new([
            "stage",
            "held",
            "of",
            "queued",
            "delayed",
            "in flight",
            "reserved",
            "parked",
        ]);
        let mut flow = Table::new([
            "stage",
            "accepted",
            "forwarded in",
            "acknowledged",
            "handed out",
            "forwarded out",
            "dead",
            "tried again",
            "refused",
        ]);
        let mut times = Table::new(["stage", "oldest", "p50", "p90", "p99", "max"]);
        for stage in stages {
            let StageStats { queued, delayed, in_flight, reserved, parked, capacity, .. } = *stage;
            levels.line(
                &stage.id,
                [stage.held(), capacity, queued, delayed, in_flight, reserved, parked],
            );
            let counts = &stage.counts;
            flow.line(
                &stage.id,
                [
                    counts.accepted,
                    counts.forwarded_in,
                    counts.acknowledged,
                    counts.handed_out,
                    counts.forwarded_out,
                    counts.dead_lettered(),
                    counts.tried_again(),
                    stage.refusals.total(),
                ],
            );
            if stage.oldest.is_some() || stage.time_in_stage.is_some() {
                let cell = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), short);
                let at = |time: fn(Quantiles) -> Duration| cell(stage.time_in_stage.map(time));
                let row = [
                    cell(stage.oldest),
                    at(|t| t.p50),
                    at(|t| t.p90),
                    at(|t| t.p99),
                    at(|t| t.max),
                ];
                times.line(&stage.id, row);
            }
        }
        let mut by_source = Table::new([
            "source", "held", "of", "reserved", "parked", "accepted", "refused", "waits", "waited",
        ]);
        let mut by_bytes = Table::new(["source", "bytes", "of"]);
        for source in sources {
            let SourceStats { held, reserved, parked, capacity, accepted, waits, .. } = source;
            let numbers = [*held, *capacity, *reserved, *parked].map(|number| number as u64);
            let counts = [*accepted, source.refusals.total(), waits.calls];
            let cells = numbers.into_iter().chain(counts).map(|number| number.to_string());
            by_source.line(&source.id, cells.chain([short(waits.time)]));
            if let Some(ByteStats { held, capacity }) = source.bytes {
                by_bytes.line(&source.id, [held, capacity]);
            }
        }
        write!(f, "{levels}{flow}{times}{by_source}{by_bytes}")
    }
}

/// Formats a time with at most three decimal places.
fn short(time: Duration) -> String {
    let text = format!("{time:.3?}");
    let number = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let (number, unit) = text.split_at(number.len());
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    format!("{number}{unit}")
}

/// Lines of cells. Names are aligned to the left, numbers to the right.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    fn line(&mut self, id: &str, cells: impl IntoIterator<Item = impl ToString>) {
        let cells = cells.into_iter().map(|cell| cell.to_string());
        self.0.push(std::iter::once(id.to_owned()).chain(cells).collect());
    }
}

/// Prints nothing if the header is the only line.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(lines) = self;
        if lines.len() == 1 {
            return Ok(());
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
        for line in lines {
            write!(f, "{:<width$}", line[0], width = widths[0])?;
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
