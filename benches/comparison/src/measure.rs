//! Rounds and turns, and the statistics of their times.

use std::time::Duration;

use crate::Effort;
use crate::competitors::Description;

/// Moves so many records, or tries so many pushes, and returns the time that took.
pub type Run = Box<dyn FnMut(u64) -> Duration>;

/// A row of a workload's table, before it is measured.
pub struct Entry {
    pub of: Description,
    /// Distinguishes the rows of one competitor.
    pub variant: &'static str,
    /// Makes an empty buffer, warmed up.
    pub build: Box<dyn Fn() -> Run>,
}

/// A table. The report compares all rows with the first, which is the library's.
pub struct Workload {
    pub id: &'static str,
    pub title: String,
    pub about: &'static str,
    /// What the times are of: a record, a push.
    pub unit: &'static str,
    /// The number of threads that are busy at the same time.
    pub threads: usize,
    pub entries: Vec<Entry>,
}

pub struct Results {
    pub id: &'static str,
    pub title: String,
    pub about: &'static str,
    pub unit: &'static str,
    pub threads: usize,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub of: Description,
    pub variant: &'static str,
    /// Nanoseconds a record, one figure for each round.
    times: Vec<f64>,
}

/// The extremes, the quartiles and the median.
#[derive(Clone, Copy)]
pub struct Spread {
    pub least: f64,
    pub low: f64,
    pub median: f64,
    pub high: f64,
    pub greatest: f64,
}

impl Spread {
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (samples.len() - 1) as f64;
            let (below, part) = (place as usize, place.fract());
            let above = (below + 1).min(samples.len() - 1);
            samples[below] + (samples[above] - samples[below]) * part
        };
        Self { least: at(0.0), low: at(0.25), median: at(0.5), high: at(0.75), greatest: at(1.0) }
    }

    /// Of the reciprocals of the samples.
    pub fn inverse(self) -> Self {
        let Self { least, low, median, high, greatest } = self;
        Self {
            least: greatest.recip(),
            low: high.recip(),
            median: median.recip(),
            high: low.recip(),
            greatest: least.recip(),
        }
    }

    /// Of the ratios of two series of samples, round by round.
    pub fn of_ratios(samples: &[f64], base: &[f64]) -> Self {
        Self::of(samples.iter().zip(base).map(|(sample, base)| sample / base).collect())
    }
}

/// Gives each competitor a turn in each round, on a new buffer each time.
pub fn measure(workload: Workload, effort: Effort) -> Results {
    let Workload { id, title, about, unit, threads, entries } = workload;
    eprintln!("{id}: {title}");
    let records: Vec<u64> = entries.iter().map(|entry| enough(&entry.build, effort.turn)).collect();
    let mut times = vec![Vec::new(); entries.len()];
    for round in 1..=effort.rounds {
        for ((entry, &records), times) in entries.iter().zip(&records).zip(&mut times) {
            let elapsed = (entry.build)()(records);
            times.push(elapsed.as_nanos() as f64 / records as f64);
        }
        eprint!("\r  round {round} of {}", effort.rounds);
    }
    eprintln!();

    let rows: Vec<Row> = entries
        .into_iter()
        .zip(times)
        .map(|(Entry { of, variant, .. }, times)| Row { of, variant, times })
        .collect();
    for row in &rows {
        let (time, ratio) = (row.time().median, row.ratio_to(&rows[0]).median);
        eprintln!("  {:<50} {time:>9.2} ns  {ratio:>6.2}", row.label());
    }
    Results { id, title, about, unit, threads, rows }
}

/// Returns how many records take about as long as `turn`: a multiple of 100.
fn enough(build: &dyn Fn() -> Run, turn: Duration) -> u64 {
    let mut run = build();
    let mut records = 100;
    loop {
        let elapsed = run(records);
        if elapsed >= turn / 4 {
            let wanted = records as f64 * turn.as_secs_f64() / elapsed.as_secs_f64();
            return (wanted as u64).next_multiple_of(100);
        }
        records *= 4;
    }
}

impl Row {
    pub fn label(&self) -> String {
        label(self.of, self.variant)
    }

    /// Nanoseconds a record.
    pub fn time(&self) -> Spread {
        Spread::of(self.times.clone())
    }

    /// The time by that of another row, round by round.
    pub fn ratio_to(&self, base: &Self) -> Spread {
        Spread::of_ratios(&self.times, &base.times)
    }
}

pub fn label(of: Description, variant: &str) -> String {
    if variant.is_empty() { of.name.to_owned() } else { format!("{}, {variant}", of.name) }
}

impl Results {
    /// Returns the row with that label.
    pub fn find(&self, label: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.label() == label)
    }
}
