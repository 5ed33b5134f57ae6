//! Costs that could grow with numbers: of sources and stages, of names that come and go, of records
//! that came back, and of requests that wait.

mod common;

use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

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

/// Takes records that came back one by one. A batch of `number` was returned.
fn returned(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a returned record, taken alone");
    group.throughput(Throughput::Elements(1));
    for number in [100, 1_000, 10_000, 100_000] {
        let (stage, source) = wide(number);
        group.bench_function(BenchmarkId::from_parameter(number), |bencher| {
            bencher.iter_custom(|records| {
                in_rounds(records, number, |round| {
                    source.try_send_batch(&stage, records_of(number)).unwrap();
                    stage.try_recv_batch(number).unwrap().requeue();
                    let start = Instant::now();
                    for _ in 0..round {
                        black_box(stage.try_recv_batch(1).unwrap()).ack();
                    }
                    let time = start.elapsed();
                    while let Ok(batch) = stage.try_recv_batch(number) {
                        batch.ack();
                    }
                    time
                })
            });
        });
    }
}

/// Grants the requests of a line one by one: each settling makes room for the next.
fn line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a settling that grants the next of a line");
    group.throughput(Throughput::Elements(1));
    // The first grants find nothing in the caches.
    const UNTIMED: usize = 20;
    for number in [100, 10_000, 100_000] {
        let (stage, source) = wide(1);
        group.bench_function(BenchmarkId::from_parameter(number), |bencher| {
            bencher.iter_custom(|grants| {
                in_rounds(grants, number - UNTIMED, |round| {
                    source.try_send(&stage, Medium::of(0)).unwrap();
                    let mut waiting: Vec<_> =
                        (0..number).map(|_| wait(&source, &stage, 1)).collect();
                    let mut time = Duration::ZERO;
                    for (n, request) in waiting.iter_mut().take(UNTIMED + round).enumerate() {
                        let batch = stage.try_recv_batch(1).unwrap();
                        let start = Instant::now();
                        batch.ack();
                        assert!(poll(request.as_mut()).is_ready());
                        time += if n < UNTIMED { Duration::ZERO } else { start.elapsed() };
                    }
                    drop(waiting);
                    stage.try_recv_batch(1).unwrap().ack();
                    time
                })
            });
        });
    }
}

/// Settles a record while `number` requests wait that its room is too small for.
fn crowd(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a settling while many wait that do not fit");
    group.throughput(Throughput::Elements(1));
    for number in [0, 100, 10_000, 100_000] {
        let (stage, source) = wide(100);
        let batch = |records| {
            source.try_send_batch(&stage, records_of(records)).unwrap();
            stage.try_recv_batch(records).unwrap()
        };
        let _held = batch(90);
        let waiting: Vec<_> = (0..number).map(|_| wait(&source, &stage, 60)).collect();
        group.bench_function(BenchmarkId::from_parameter(number), |bencher| {
            bencher.iter(|| match source.try_send(&stage, black_box(Medium::of(0))) {
                Ok(()) => stage.try_recv_batch(1).unwrap().ack(),
                // The first of them has reserved what is free.
                Err(rejected) => drop(black_box(rejected)),
            });
        });
        drop(waiting);
    }
}

/// Reads the level and pushes, after `number` sources came and went.
fn come_and_gone(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("after sources came and went");
    for number in [0, 1_000, 100_000] {
        let manager = manager();
        let stage = manager.stage("stage").unwrap();
        for name in (0..number).map(|n| n.to_string()) {
            let source = manager.source(&name).unwrap();
            source.try_send(&stage, Medium::of(0)).unwrap();
            stage.try_recv_batch(1).unwrap().ack();
            drop(source);
            manager.remove_source(&name).unwrap();
        }
        let source = manager.source("source").unwrap();
        source.try_send(&stage, Medium::of(0)).unwrap();
        group.bench_function(BenchmarkId::new("level", number), |bencher| {
            bencher.iter(|| black_box(manager.len()));
        });
        group.bench_function(BenchmarkId::new("available credits", number), |bencher| {
            bencher.iter(|| black_box(source.available_credits()));
        });
    }
}

/// One stage and one source that hold so many records.
fn wide(records: usize) -> (Stage<Medium>, Source<Medium>) {
    let manager = BufferManager::new(BufferSettings {
        max_total_records: records,
        max_per_stage: records,
        max_per_source: records,
        ..SETTINGS
    });
    (manager.stage("stage").unwrap(), manager.source("source").unwrap())
}

fn records_of(number: usize) -> Vec<Medium> {
    (0..number).map(|_| Medium::of(0)).collect()
}

type Waiting<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A request that has its place in the queue.
fn wait<'a>(source: &'a Source<Medium>, stage: &'a Stage<Medium>, records: usize) -> Waiting<'a> {
    let mut request: Waiting<'a> = Box::pin(async move {
        source.send_batch(stage, records_of(records)).await.unwrap();
    });
    assert!(poll(request.as_mut()).is_pending());
    request
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Sums up rounds of at most `size` calls.
fn in_rounds(calls: u64, size: usize, mut round: impl FnMut(usize) -> Duration) -> Duration {
    let (mut left, mut time) = (calls, Duration::ZERO);
    while left > 0 {
        let calls = left.min(size as u64);
        time += round(calls as usize);
        left -= calls;
    }
    time
}

criterion_group!(benches, round_robin, registering, returned, line, crowd, come_and_gone);
criterion_main!(benches);
