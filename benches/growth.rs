//! One record in and out, from the next source to the next stage each time, with growing numbers of
//! both; and the cost of registering a source or a stage among many.

mod common;

use std::hint::black_box;

use common::Medium;
use conveyor_buffer::{BufferManager, BufferSettings, Source, Stage};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Small stages, of the same size in each benchmark: a thousand of the default size take more than
/// a gigabyte.
const SETTINGS: BufferSettings = BufferSettings {
    max_total_records: 100_000,
    max_per_stage: 100,
    max_per_source: 100,
    backpressure_threshold: 0.8,
};

fn manager() -> BufferManager<Medium> {
    BufferManager::new(SETTINGS)
}

fn sources(manager: &BufferManager<Medium>, number: usize) -> Vec<Source<Medium>> {
    (0..number).map(|n| manager.source(&format!("source-{n}")).unwrap()).collect()
}

fn stages(manager: &BufferManager<Medium>, number: usize) -> Vec<Stage<Medium>> {
    (0..number).map(|n| manager.stage(&format!("stage-{n}")).unwrap()).collect()
}

fn round_robin(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one record in and out, round robin");
    group.throughput(Throughput::Elements(1));
    let numbers = [1, 10, 100, 1_000, 10_000, 100_000].map(|sources| (sources, 1));
    let numbers = numbers.into_iter().chain([10, 100, 1_000].map(|stages| (1, stages)));
    for (sources_number, stages_number) in numbers.chain([(10_000, 100), (100_000, 1_000)]) {
        let manager = manager();
        let sources = sources(&manager, sources_number);
        let stages = stages(&manager, stages_number);
        let mut next = sources.iter().cycle().zip(stages.iter().cycle());
        let id = BenchmarkId::new(format!("{sources_number} sources"), {
            format!("{stages_number} stages")
        });
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                let (source, stage) = next.next().unwrap();
                source.try_send(stage, black_box(Medium::of(0))).unwrap();
                black_box(stage.try_recv_batch(1).unwrap()).ack();
            });
        });
    }
}

fn registering(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registering");
    group.sample_size(10);
    for number in [1, 100, 10_000, 100_000] {
        group.throughput(Throughput::Elements(number as u64));
        group.bench_function(BenchmarkId::new("sources", number), |bencher| {
            bencher.iter_batched_ref(
                manager,
                |manager| sources(manager, number),
                BatchSize::PerIteration,
            );
        });
    }
    for number in [1, 100, 1_000] {
        group.throughput(Throughput::Elements(number as u64));
        group.bench_function(BenchmarkId::new("stages", number), |bencher| {
            bencher.iter_batched_ref(
                manager,
                |manager| stages(manager, number),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, round_robin, registering);
criterion_main!(benches);
