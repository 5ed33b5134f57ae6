//! Threads that push and threads that take, at the same time: at one stage and at four, on one
//! account and on four.

mod common;

use std::time::Duration;

use common::conveyor::Conveyor;
use common::work::Flow;
use common::{BATCH, Medium};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Records of an iteration: enough that the start of the threads does not count.
const RECORDS: u64 = 10_000;

fn contention(criterion: &mut Criterion) {
    for push in [1, BATCH] {
        let mut group = criterion.benchmark_group(format!("{push} in, up to {BATCH} out"));
        group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
        for (stages, sources) in [(1, 1), (1, 4), (4, 1), (4, 4)] {
            for producers in [1, 2, 4] {
                for workers in [1, 2, 4] {
                    let flow =
                        Flow { producers, workers, sources, stages, push, take: BATCH, work: 0 };
                    let threads = format!("{producers} producers, {workers} workers");
                    let places = format!("{stages} stages, {sources} sources");
                    group.bench_function(BenchmarkId::new(places, threads), |bencher| {
                        bencher.iter_custom(|iterations| {
                            flow.run::<Medium, Conveyor<Medium>>(iterations * RECORDS)
                        });
                    });
                }
            }
        }
    }
}

/// The same by calls that wait, with workers that take what there is and with workers that linger.
fn waiting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("1 in, up to {BATCH} out, waiting"));
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    for threads in [1, 2, 4] {
        let flow = Flow::at_one_stage(threads, threads, 1);
        let mut bench = |how, run: fn(Flow, u64) -> Duration| {
            let threads = format!("{threads} producers, {threads} workers");
            group.bench_function(BenchmarkId::new(how, threads), |bencher| {
                bencher.iter_custom(|iterations| run(flow, iterations * RECORDS));
            });
        };
        bench("as it comes", Flow::run_blocking::<Medium, Conveyor<Medium>>);
        bench("lingering", Flow::run_blocking::<Medium, Conveyor<Medium, true>>);
    }
}

criterion_group!(benches, contention, waiting);
criterion_main!(benches);
