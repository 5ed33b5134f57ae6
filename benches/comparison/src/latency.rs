//! Latency at fixed rates, one producer and one worker.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Effort;
use crate::common::Medium;
use crate::common::latency::{Latencies, run};
use crate::common::work::Competitor;
use crate::competitors::{self, Description, Rows};
use crate::measure::{Spread, label};

/// The loads, in percent of what the slowest competitor sustains.
pub const LOADS: [u32; 3] = [10, 50, 90];

struct Subject {
    of: Description,
    variant: &'static str,
    run: fn(Option<f64>, Duration) -> Latencies,
}

impl Rows<Medium> for Vec<Subject> {
    fn add<C>(&mut self, of: Description, variant: &'static str)
    where
        C: Competitor<Medium, Producer: 'static, Consumer: 'static> + 'static,
    {
        self.push(Subject { of, variant, run: run::<C> });
    }
}

pub struct Latency {
    /// What each competitor sustains, in records a second.
    pub sustained: Vec<(String, f64)>,
    pub loads: Vec<Load>,
}

pub struct Load {
    pub percent: u32,
    /// In records a second, the same for all competitors.
    pub rate: f64,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub of: Description,
    pub variant: &'static str,
    pub push: Times,
    pub through: Times,
}

/// Nanoseconds: medians over the turns, and of p99.9 the figure of each turn.
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub p999: Vec<f64>,
    pub max: f64,
}

pub fn measure(effort: Effort) -> Latency {
    let mut subjects = Vec::new();
    competitors::latency(&mut subjects);

    eprintln!("latency: the highest sustained rate");
    let mut rates = vec![Vec::new(); subjects.len()];
    for _ in 0..effort.loads {
        for (subject, rates) in subjects.iter().zip(&mut rates) {
            rates.push((subject.run)(None, effort.load).rate);
        }
    }
    let sustained: Vec<_> = subjects
        .iter()
        .zip(rates)
        .map(|(subject, rates)| (label(subject.of, subject.variant), Spread::of(rates).median))
        .collect();
    for (name, rate) in &sustained {
        eprintln!("  {name:<40} {rate:>12.0} records/s");
    }
    let slowest = sustained.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);

    let load = |percent| {
        let rate = f64::from(percent) / 100.0 * slowest;
        eprintln!("latency: {percent} %, {rate:.0} records/s");
        Load { percent, rate, rows: measure_load(&subjects, rate, effort) }
    };
    Latency { loads: LOADS.map(load).into(), sustained }
}

fn measure_load(subjects: &[Subject], rate: f64, effort: Effort) -> Vec<Row> {
    let mut turns: Vec<Vec<Latencies>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.loads {
        for (subject, turns) in subjects.iter().zip(&mut turns) {
            turns.push((subject.run)(Some(rate), effort.load));
        }
    }
    let rows = subjects.iter().zip(turns).map(|(subject, turns)| Row {
        of: subject.of,
        variant: subject.variant,
        push: Times::of(turns.iter().map(|turn| &turn.push)),
        through: Times::of(turns.iter().map(|turn| &turn.through)),
    });
    let rows: Vec<Row> = rows.collect();
    for row in &rows {
        let Times { p50, p99, ref p999, .. } = row.through;
        let p999 = Spread::of(p999.clone()).median;
        let label = label(row.of, row.variant);
        eprintln!("  {label:<40} p50 {p50:>8.0}  p99 {p99:>9.0}  p99.9 {p999:>9.0} ns");
    }
    rows
}

impl Times {
    pub fn of<'a>(turns: impl Iterator<Item = &'a Histogram<u64>> + Clone) -> Self {
        let quantile = |quantile: f64| -> Vec<f64> {
            turns.clone().map(|turn| turn.value_at_quantile(quantile) as f64).collect()
        };
        let max = turns.clone().map(|turn| turn.max() as f64).collect();
        Self {
            p50: Spread::of(quantile(0.5)).median,
            p99: Spread::of(quantile(0.99)).median,
            p999: quantile(0.999),
            max: Spread::of(max).median,
        }
    }
}

impl Latency {
    /// p99.9 from push to batch of one competitor by that of the library, turn by turn.
    pub fn ratio(&self, percent: u32, of: Description) -> Option<Spread> {
        let rows = &self.loads.iter().find(|load| load.percent == percent)?.rows;
        let row = rows.iter().find(|row| row.of == of)?;
        Some(Spread::of_ratios(&row.through.p999, &rows[0].through.p999))
    }
}
