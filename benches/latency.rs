//! Latency of the library alone: of a push, and from the push to the batch, at 10 %, 50 % and 90 %
//! of the highest sustained rate, with one producer and one worker. `benches/comparison/` measures
//! the competitors in the same way.
//!
//! `cargo bench --bench latency`. With `--test`, as for the other benchmarks, it only checks that
//! the program runs.

mod common;

use std::time::Duration;

use common::Medium;
use common::conveyor::Conveyor;
use common::latency::{Latencies, run};
use hdrhistogram::Histogram;

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let duration = Duration::from_millis(if test { 10 } else { 3_000 });
    let latencies = |rate| run::<Conveyor<Medium>>(rate, duration);

    let sustained = latencies(None).rate;
    println!("one producer and one worker sustain {:.2} million records a second", sustained / 1e6);
    for percent in [10, 50, 90] {
        let rate = sustained * f64::from(percent) / 100.0;
        let Latencies { push, through, .. } = latencies(Some(rate));
        println!("at {percent} %, in microseconds:");
        print("push", &push);
        print("push to batch", &through);
    }
}

fn print(what: &str, times: &Histogram<u64>) {
    let [p50, p99, p999] =
        [0.5, 0.99, 0.999].map(|quantile| times.value_at_quantile(quantile) as f64 / 1e3);
    let max = times.max() as f64 / 1e3;
    println!("  {what:<14} p50 {p50:>9.2}  p99 {p99:>9.2}  p99.9 {p999:>9.2}  max {max:>9.2}");
}
