//! One thread pushes records and takes them, one at a time and 100 at a time, beside the raw ring
//! that the stages are built on. The raw ring holds no caps and is the limit. The same by the calls
//! that may wait.

mod common;

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use common::conveyor::Conveyor;
use common::work::{STAGE_CAP, batches, one_at_a_time};
use common::{BATCH, Large, Medium, Small, Sourced};
use conveyor_buffer::{BufferManager, BufferSettings};
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

    // The records are reused, so that their construction is not measured.
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

/// Calls that may wait but find room and records: while no thread waits, and while another source
/// waits for room at another stage.
fn blocking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one record in and out, blocking");
    group.throughput(Throughput::Elements(1));
    let manager = BufferManager::<Medium>::new(BufferSettings::default());
    let stage = |id| manager.stage(id).expect("room for a stage");
    let source = |id| manager.source(id).expect("room for a source");
    let (here, calm, elsewhere, noisy) =
        (stage("here"), source("calm"), stage("elsewhere"), source("noisy"));
    let step = || {
        assert!(calm.send_blocking(&here, black_box(Medium::of(0))).is_ok());
        here.recv_batch_blocking(1).expect("a record").ack();
    };

    group.bench_function("while no thread waits", |bencher| bencher.iter(step));
    while noisy.try_send(&elsewhere, Medium::of(1)).is_ok() {}
    thread::scope(|scope| {
        // Refused when the buffer closes.
        scope.spawn(|| assert!(noisy.send_blocking(&elsewhere, Medium::of(1)).is_err()));
        // Long enough for that thread to park.
        thread::sleep(Duration::from_millis(100));
        group.bench_function("while another source waits", |bencher| bencher.iter(step));
        manager.close();
    });
}

criterion_group!(
    benches,
    singles::<Small>,
    singles::<Medium>,
    singles::<Large>,
    together::<Small>,
    together::<Medium>,
    together::<Large>,
    blocking
);
criterion_main!(benches);
