//! Latency of the competitors that keep all three caps.

use crate::Effort;
use crate::common::Medium;
use crate::common::conveyor::Conveyor;
use crate::common::latency::{Latencies, run};
use crate::competitors::mutex::Locked;
use crate::competitors::tokio::Tokio;
use crate::measure::Spread;
use crate::workloads::{CONVEYOR, MUTEX, TOKIO};

type Measure = fn(Option<f64>, std::time::Duration) -> Latencies;

const COMPETITORS: [(&str, Measure); 3] = [
    (CONVEYOR.name, run::<Conveyor<Medium>>),
    (MUTEX.name, run::<Locked<Medium>>),
    (TOKIO.name, run::<Tokio<Medium>>),
];

pub struct Latency {
    /// What each competitor sustains, in records a second.
    pub sustained: Vec<(&'static str, f64)>,
    pub loads: Vec<Load>,
}

pub struct Load {
    pub title: String,
    /// In percent.
    pub percent: u32,
    /// Whether all competitors had the same rate, a share of what the slowest sustains. Otherwise each
    /// had that share of what it sustains itself.
    pub same_rate: bool,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub competitor: &'static str,
    pub rate: f64,
    pub push: Times,
    pub through: Times,
}

/// Nanoseconds: medians over the turns.
#[derive(Clone, Copy)]
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub p999: Spread,
    pub max: f64,
}

pub fn measure(effort: Effort) -> Latency {
    eprintln!("latency: what is sustained");
    let mut rates = vec![Vec::new(); COMPETITORS.len()];
    for _ in 0..effort.loads {
        for ((_, run), rates) in COMPETITORS.iter().zip(&mut rates) {
            rates.push(run(None, effort.load).rate);
        }
    }
    let sustained: Vec<_> = COMPETITORS
        .iter()
        .zip(rates)
        .map(|((name, _), rates)| (*name, Spread::of(rates).median))
        .collect();
    for (name, rate) in &sustained {
        eprintln!("  {name:<20} {rate:>12.0} records/s");
    }
    let slowest = sustained.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);

    let mut loads = Vec::new();
    for same_rate in [true, false] {
        for percent in [50, 90] {
            let share = f64::from(percent) / 100.0;
            let rates: Vec<f64> = sustained
                .iter()
                .map(|(_, own)| share * if same_rate { slowest } else { *own })
                .collect();
            let title = if same_rate {
                format!("{percent} % of what the slowest sustains, the same rate for all")
            } else {
                format!("{percent} % of what each sustains itself")
            };
            eprintln!("latency: {title}");
            loads.push(Load { title, percent, same_rate, rows: measure_load(&rates, effort) });
        }
    }
    Latency { sustained, loads }
}

fn measure_load(rates: &[f64], effort: Effort) -> Vec<Row> {
    let mut turns: Vec<Vec<Latencies>> = COMPETITORS.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.loads {
        for (((_, run), rate), turns) in COMPETITORS.iter().zip(rates).zip(&mut turns) {
            turns.push(run(Some(*rate), effort.load));
        }
    }
    let rows =
        COMPETITORS.iter().zip(rates).zip(turns).map(|(((competitor, _), rate), turns)| Row {
            competitor,
            rate: *rate,
            push: Times::of(turns.iter().map(|turn| &turn.push)),
            through: Times::of(turns.iter().map(|turn| &turn.through)),
        });
    let rows: Vec<Row> = rows.collect();
    for row in &rows {
        eprintln!(
            "  {:<20} push p50 {:>8.0}  p99 {:>9.0}  p99.9 {:>9.0} ns",
            row.competitor, row.push.p50, row.push.p99, row.push.p999.median
        );
    }
    rows
}

impl Times {
    fn of<'a>(turns: impl Iterator<Item = &'a hdrhistogram::Histogram<u64>> + Clone) -> Self {
        let quantile = |quantile: f64| {
            Spread::of(turns.clone().map(|turn| turn.value_at_quantile(quantile) as f64).collect())
        };
        let max = Spread::of(turns.clone().map(|turn| turn.max() as f64).collect());
        Self {
            p50: quantile(0.5).median,
            p99: quantile(0.99).median,
            p999: quantile(0.999),
            max: max.median,
        }
    }
}

impl Latency {
    /// The row of a competitor where all had the same rate.
    pub fn at_same_rate(&self, percent: u32, competitor: &str) -> Option<&Row> {
        let load = self.loads.iter().find(|load| load.same_rate && load.percent == percent)?;
        load.rows.iter().find(|row| row.competitor == competitor)
    }
}
