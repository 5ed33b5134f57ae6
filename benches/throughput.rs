//! One thread puts records in and takes them out again, one at a time and 100 at a time, beside the
//! raw ring that the stages stand on. The raw ring holds no caps: it is the limit.

mod common;

use std::hint::black_box;

use common::conveyor::Conveyor;
use common::work::{STAGE_CAP, batches, one_at_a_time};
use common::{BATCH, Large, Medium, Small, Sourced};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_queue::ArrayQueue;

fn singles<R: Sourced>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one record in and out");
    group.throughput(Throughput::Elements(1));
    let bytes = size_of::<R>();

    let ring = ArrayQueue::new(STAGE_CAP);
    group.bench_function(BenchmarkId::new("raw ArrayQueue", bytes), |bencher| {
        bencher.iter(|| {
            assert!(ring.push(black_box(R::of(0))).is_ok());
            black_box(ring.pop());
        });
    });

    let mut run = one_at_a_time::<R, Conveyor<R>>();
    group.bench_function(BenchmarkId::new("conveyor-buffer", bytes), |bencher| {
        bencher.iter_custom(&mut run);
    });
}

fn together<R: Sourced>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100 records in and out");
    group.throughput(Throughput::Elements(BATCH as u64));
    let bytes = size_of::<R>();

    // The records themselves go round, so that making them is not what is measured.
    let ring = ArrayQueue::new(STAGE_CAP);
    let mut records: Vec<_> = (0..BATCH).map(|_| R::of(0)).collect();
    group.bench_function(BenchmarkId::new("raw ArrayQueue", bytes), |bencher| {
        bencher.iter(|| {
            for record in records.drain(..) {
                assert!(ring.push(record).is_ok());
            }
            records.extend(std::iter::from_fn(|| ring.pop()));
        });
    });

    let mut run = batches::<R, Conveyor<R>>();
    group.bench_function(BenchmarkId::new("conveyor-buffer", bytes), |bencher| {
        bencher.iter_custom(|batches| run(batches * BATCH as u64));
    });
}

criterion_group!(
    benches,
    singles::<Small>,
    singles::<Medium>,
    singles::<Large>,
    together::<Small>,
    together::<Medium>,
    together::<Large>
);
criterion_main!(benches);
