//! The latency of the library alone: how long a push takes, and how long a record waits until a
//! worker has it, at 50 % and at 90 % of what goes through at most. `benches/rivals/` has the same for
//! the rivals.
//!
//! `cargo bench --bench latency`. With `--test`, as for the other benchmarks, it only shows that it
//! runs.

mod common;

use std::time::Duration;

use common::Medium;
use common::conveyor::Conveyor;
use common::latency::{Latencies, PRODUCERS, WORKERS, run};
use hdrhistogram::Histogram;

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let duration = Duration::from_millis(if test { 10 } else { 3_000 });
    let latencies = |rate| run::<Conveyor<Medium>>(rate, duration);

    let sustained = latencies(None).rate;
    println!(
        "{PRODUCERS} producers and {WORKERS} workers sustain {:.2} million records a second",
        sustained / 1e6
    );
    for percent in [50, 90] {
        let rate = sustained * f64::from(percent) / 100.0;
        let Latencies { push, through, .. } = latencies(Some(rate));
        println!("at {percent} %, in microseconds:");
        tell("push", &push);
        tell("push to batch", &through);
    }
}

fn tell(what: &str, times: &Histogram<u64>) {
    let [p50, p99, p999] =
        [0.5, 0.99, 0.999].map(|quantile| times.value_at_quantile(quantile) as f64 / 1e3);
    let max = times.max() as f64 / 1e3;
    println!("  {what:<14} p50 {p50:>9.2}  p99 {p99:>9.2}  p99.9 {p999:>9.2}  max {max:>9.2}");
}
