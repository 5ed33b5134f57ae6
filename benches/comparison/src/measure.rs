//! Turns in rounds, and what is made of their times.

use std::time::Duration;

use crate::Effort;

/// What moves so many records, or tries so many pushes, and tells how long it took.
pub type Run = Box<dyn FnMut(u64) -> Duration>;

/// What a competitor is and what it keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Description {
    pub name: &'static str,
    /// The package whose version is told.
    pub package: &'static str,
    pub caps: &'static str,
    /// How it is used.
    pub how: &'static str,
}

/// One row of a workload's table.
pub struct Entry {
    pub competitor: Description,
    /// What sets it apart from other rows of the same competitor.
    pub variant: &'static str,
    /// Makes an empty buffer, warm and ready.
    pub build: Box<dyn Fn() -> Run>,
}

/// A table: the first entry is what the others are compared with.
pub struct Workload {
    pub id: &'static str,
    pub title: String,
    pub about: &'static str,
    /// What the times are of: a record, a push.
    pub unit: &'static str,
    pub entries: Vec<Entry>,
}

pub struct Results {
    pub id: &'static str,
    pub title: String,
    pub about: &'static str,
    pub unit: &'static str,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub competitor: Description,
    pub variant: &'static str,
    /// Nanoseconds a record.
    pub time: Spread,
    /// The same by that of the table's first row.
    pub ratio: Spread,
}

/// The median and the quartiles.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
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
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

/// Gives each competitor its turn in each round, on a fresh buffer each time.
pub fn measure(workload: Workload, effort: Effort) -> Results {
    let Workload { id, title, about, unit, entries } = workload;
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

    let base = times[0].clone();
    let rows: Vec<Row> = entries
        .into_iter()
        .zip(times)
        .map(|(Entry { competitor, variant, .. }, times)| Row {
            competitor,
            variant,
            ratio: Spread::of(times.iter().zip(&base).map(|(time, base)| time / base).collect()),
            time: Spread::of(times),
        })
        .collect();
    for row in &rows {
        eprintln!("  {:<50} {:>9.2} ns  {:>6.2}", row.label(), row.time.median, row.ratio.median);
    }
    Results { id, title, about, unit, rows }
}

/// How many records take about so long: a multiple of 100.
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
        match self.variant {
            "" => self.competitor.name.to_owned(),
            variant => format!("{}, {variant}", self.competitor.name),
        }
    }
}

impl Results {
    pub fn find(&self, competitor: &str, variant: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.competitor.name == competitor && row.variant == variant)
    }
}
