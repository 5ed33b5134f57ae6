//! The calls by name: the cost of the look-ups, among few names and among many.

mod common;

use std::hint::black_box;

use common::{BATCH, Large, Medium, Small, Sourced, source_name};
use conveyor_buffer::{BufferManager, BufferSettings};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pollster::block_on;

const SETTINGS: BufferSettings = BufferSettings {
    max_total_records: 100_000,
    max_per_stage: 1_000,
    max_per_source: 1_000,
    backpressure_threshold: 0.8,
};

fn in_and_out<R: Sourced>(criterion: &mut Criterion) {
    let manager = BufferManager::<R>::new(SETTINGS);
    let bytes = size_of::<R>();

    let mut group = criterion.benchmark_group("by name, one record in and out");
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
        bencher.iter(|| {
            block_on(manager.buffer_for_stage("stage", black_box(R::of(0)))).unwrap();
            black_box(block_on(manager.get_batch("stage", 1)));
        });
    });
    drop(group);

    let mut group = criterion.benchmark_group("by name, 100 records in and out");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut records: Vec<_> = (0..BATCH).map(|_| R::of(0)).collect();
    group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
        bencher.iter(|| {
            let pushed = std::mem::take(&mut records);
            block_on(manager.buffer_batch_for_stage("stage", pushed)).unwrap();
            records = block_on(manager.get_batch("stage", BATCH));
        });
    });
}

fn among_many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("by name, the next source and stage each time");
    group.throughput(Throughput::Elements(1));
    for (sources, stages) in [(1, 1), (10_000, 1), (1, 100), (10_000, 100)] {
        let manager = BufferManager::<Medium>::new(SETTINGS);
        let stages: Vec<String> = (0..stages).map(|n| format!("stage-{n}")).collect();
        (0..sources).for_each(|n| _ = manager.source(source_name(n)).unwrap());
        stages.iter().for_each(|name| _ = manager.stage(name).unwrap());
        let id = BenchmarkId::new(format!("{sources} sources"), format!("{} stages", stages.len()));
        let mut next = (0..sources).cycle().zip(stages.iter().cycle());
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                let (source, stage) = next.next().unwrap();
                block_on(manager.buffer_for_stage(stage, black_box(Medium::of(source)))).unwrap();
                black_box(block_on(manager.get_batch(stage, 1)));
            });
        });
    }
}

fn queries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("by name, queries");
    let manager = BufferManager::<Medium>::new(SETTINGS);
    block_on(manager.buffer_for_stage("stage", Medium::of(0))).unwrap();
    let source = source_name(0);
    group.bench_function("stage", |bencher| bencher.iter(|| manager.stage(black_box("stage"))));
    group.bench_function("source", |bencher| bencher.iter(|| manager.source(black_box(source))));
    group.bench_function("should_backpressure", |bencher| {
        bencher.iter(|| block_on(manager.should_backpressure(black_box(source))));
    });
    group.bench_function("available_credits", |bencher| {
        bencher.iter(|| block_on(manager.available_credits(black_box(source))));
    });
    group.bench_function("get_stage_utilization", |bencher| {
        bencher.iter(|| block_on(manager.get_stage_utilization(black_box("stage"))));
    });
    group.bench_function("get_global_utilization", |bencher| {
        bencher.iter(|| block_on(manager.get_global_utilization()));
    });
}

criterion_group!(
    benches,
    in_and_out::<Small>,
    in_and_out::<Medium>,
    in_and_out::<Large>,
    among_many,
    queries
);
criterion_main!(benches);
