//! Statistics: what a buffer holds, as numbers and as a table.

use std::fmt;

use super::manager::BufferManager;
use super::registry::Registry;
use crate::caps::{Ledger, bytes_of};
use crate::handle::SourceCore;
use crate::record::Envelope;
use crate::settings::share;
use crate::store::StageCore;

/// What a buffer holds, from [`BufferManager::stats`](crate::BufferManager::stats).
///
/// All numbers are records. They are exact if no other thread uses the buffer; otherwise each is
/// exact for some moment during the call, and the moments differ.
///
/// `Display` prints a table.
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
/// parse.try_recv_batch(3)?.try_forward(&load)?;
/// let _batch = load.try_recv_batch(2)?;
///
/// let table = "\
/// 10 of 100000 records held, 0 dead letters and 0 parked
/// stage  held     of  queued  delayed  in flight  reserved  parked
/// load      3  10000       1        0          2         0       0
/// parse     7  10000       7        0          0         0       0
/// source   held    of  reserved  parked
/// kafka-1    10  5000         0       0
/// ";
/// assert_eq!(manager.stats().to_string(), table);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// The credits in use: of records that are queued, delayed or in unsettled batches, of permits,
    /// and of parked dead letters.
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
    /// Each stage, sorted by name.
    pub stages: Vec<StageStats>,
    /// Each source, sorted by name.
    pub sources: Vec<SourceStats>,
}

/// What a stage holds. [`Stats`] shows an example.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
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
    /// The places of permits, and of requests that were granted and not polled since.
    pub reserved: usize,
    /// The places of parked dead letters.
    pub parked: usize,
    /// The cap of the stage.
    pub capacity: usize,
}

/// What a source holds. [`Stats`] shows an example.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SourceStats {
    /// The name of the source.
    pub id: String,
    /// The credits in use, those that are reserved or parked included.
    pub held: usize,
    /// The credits of permits, and of requests that were granted and not polled since.
    pub reserved: usize,
    /// The credits of parked dead letters.
    pub parked: usize,
    /// The cap of the source.
    pub capacity: usize,
    /// The bytes that its records are charged, in a buffer with
    /// [byte budgets](crate::Builder::max_total_bytes).
    pub bytes: Option<ByteStats>,
}

/// How many bytes records are charged, in steps of 64 bytes for each record.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ByteStats {
    /// The bytes in use: of records that are queued, delayed or in unsettled batches, of permits,
    /// and of parked dead letters.
    pub held: usize,
    /// The budget: of a source the smaller of its own and that of the buffer. A buffer without one
    /// has the largest that there is.
    pub capacity: usize,
}

impl ByteStats {
    fn of(held: u32, capacity: u32) -> Self {
        Self { held: bytes_of(held), capacity: bytes_of(capacity) }
    }
}

impl<E: Envelope> BufferManager<E> {
    /// Returns what the buffer holds, by stage and by source.
    ///
    /// The call visits every stage and source. [`Stats`] shows an example.
    pub fn stats(&self) -> Stats {
        let letters = self.dead_letters();
        let (stages, sources) = self.registry().levels();
        Stats {
            held: self.len(),
            capacity: self.capacity(),
            dead_letters: letters.len(),
            parked: letters.parked(),
            bytes: self.admission().bytes().map(|of| ByteStats::of(of.used(), of.capacity())),
            stages,
            sources,
        }
    }

    /// Returns the number of credits in use: of records that are queued, delayed or in unsettled
    /// batches, of [permits](crate::Permit), and of parked dead letters.
    ///
    /// The value is exact if no other thread uses the buffer. The call usually reads one word. If
    /// the buffer is far from its cap, it also visits the sources that have leased credits ahead
    /// of need: at most one for every 200 records of the cap.
    ///
    /// # Examples
    ///
    /// ```
    /// use conveyor_buffer::{BufferManager, BufferSettings, BufferedRecord};
    ///
    /// let settings = BufferSettings { max_total_records: 100, ..BufferSettings::default() };
    /// let manager = BufferManager::new(settings);
    /// let (stage, source) = (manager.stage("filter")?, manager.source("a")?);
    /// source.try_send_batch(&stage, vec![BufferedRecord::new("line", "a", "p", "filter"); 40])?;
    ///
    /// assert_eq!((manager.len(), manager.capacity(), manager.utilization()), (40, 100, 0.4));
    /// assert_eq!((source.len(), source.is_empty(), manager.is_empty()), (40, false, false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.admission().ledger().used() as usize
    }

    /// Returns `true` if no credit is in use. The caveat of [`len`](Self::len) applies.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the maximum number of records in the whole buffer.
    pub fn capacity(&self) -> usize {
        self.admission().ledger().capacity() as usize
    }

    /// Returns how many bytes records are charged, in steps of 64 bytes for each record. Those of
    /// [permits](crate::Permit) and of parked dead letters count. Returns 0 in a buffer without
    /// [byte budgets](crate::Builder::max_total_bytes).
    ///
    /// The caveat of [`len`](Self::len) applies.
    pub fn held_bytes(&self) -> usize {
        self.admission().bytes().map_or(0, |bytes| bytes_of(bytes.used()))
    }

    /// Returns the used share of the global cap, from 0.0 to 1.0, or that of the byte budget if it
    /// is higher. The caveat of [`len`](Self::len) applies.
    pub fn utilization(&self) -> f64 {
        let share_of = |ledger: &Ledger| share(ledger.used(), ledger.capacity());
        let records = share_of(self.admission().ledger());
        self.admission().bytes().map_or(records, |bytes| records.max(share_of(bytes)))
    }
}

impl<E: Envelope> Registry<E> {
    fn levels(&self) -> (Vec<StageStats>, Vec<SourceStats>) {
        let mut stages: Vec<_> = self.all_stages(StageStats::new);
        let mut sources: Vec<_> = self.all_sources(SourceStats::new);
        stages.sort_unstable();
        sources.sort_unstable();
        (stages, sources)
    }
}

impl StageStats {
    fn new<E: Envelope>(stage: &StageCore<E>) -> Self {
        let places = stage.places();
        let parked = places.parked();
        Self {
            id: stage.id().to_string(),
            queued: stage.len() as usize,
            delayed: stage.delayed() as usize,
            in_flight: stage.in_flight().saturating_sub(parked) as usize,
            reserved: places.permitted() as usize,
            parked: parked as usize,
            capacity: places.capacity() as usize,
        }
    }

    /// Returns the places taken: the sum of all fields but the capacity.
    pub fn held(&self) -> usize {
        self.queued + self.delayed + self.in_flight + self.reserved + self.parked
    }
}

impl SourceStats {
    fn new(source: &SourceCore) -> Self {
        let account = source.account();
        let most = source.admission().bytes().map_or(0, Ledger::capacity);
        Self {
            id: source.id().to_string(),
            held: account.used() as usize,
            reserved: account.permitted() as usize,
            parked: account.parked() as usize,
            capacity: account.capacity() as usize,
            bytes: source
                .bytes_account()
                .map(|of| ByteStats::of(of.used(), most.min(of.capacity()))),
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, capacity, dead_letters, parked, .. } = self;
        writeln!(
            f,
            "{held} of {capacity} records held, {dead_letters} dead letters and {parked} parked"
        )?;
        if let Some(ByteStats { held, capacity }) = self.bytes {
            writeln!(f, "{held} of {capacity} bytes held")?;
        }
        let head = ["held", "of", "queued", "delayed", "in flight", "reserved", "parked"];
        let stages = self.stages.iter().map(|stage| {
            let StageStats { queued, delayed, in_flight, reserved, parked, capacity, .. } = *stage;
            let row = [stage.held(), capacity, queued, delayed, in_flight, reserved, parked];
            (stage.id.as_str(), row)
        });
        table(f, "stage", head, stages)?;
        if self.bytes.is_some() {
            let sources = self.sources.iter().map(|source| {
                let SourceStats { held, reserved, parked, capacity, .. } = *source;
                let bytes = source.bytes.unwrap_or_default();
                let row = [held, capacity, reserved, parked, bytes.held, bytes.capacity];
                (source.id.as_str(), row)
            });
            return table(
                f,
                "source",
                ["held", "of", "reserved", "parked", "bytes", "of"],
                sources,
            );
        }
        let sources = self.sources.iter().map(|source| {
            let SourceStats { held, reserved, parked, capacity, .. } = *source;
            (source.id.as_str(), [held, capacity, reserved, parked])
        });
        table(f, "source", ["held", "of", "reserved", "parked"], sources)
    }
}

/// Writes a table with the names to the left and the numbers to the right of their columns.
fn table<'a, const N: usize>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    head: [&str; N],
    rows: impl Iterator<Item = (&'a str, [usize; N])>,
) -> fmt::Result {
    let rows = rows.map(|(id, row)| (id, row.map(|number| number.to_string())));
    let mut lines = vec![(kind, head.map(str::to_owned))];
    lines.extend(rows);
    let longest = |len: &dyn Fn(usize) -> usize| (0..lines.len()).map(len).max().unwrap_or(0);
    let names = longest(&|line| lines[line].0.chars().count());
    let columns: [usize; N] =
        std::array::from_fn(|column| longest(&|line| lines[line].1[column].len()));
    for (id, row) in &lines {
        write!(f, "{id:<names$}")?;
        for (cell, width) in row.iter().zip(columns) {
            write!(f, "  {cell:>width$}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}
