//! A batch of 100 records is returned to its stage and taken again: whole, in part, and by name.

mod common;

use std::time::{Duration, Instant};

use common::{BATCH, Large, Medium, Small, Sourced};
use conveyor_buffer::{Batch, BufferManager, BufferSettings, Outcome, Settled, Stage};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn returns<R: Sourced>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100 records returned and taken again");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut bench = |how: &str, together: bool, settle: fn(Batch<R>) -> Settled| {
        group.bench_function(BenchmarkId::new(how, size_of::<R>()), |bencher| {
            bencher.iter_custom(|batches| time_returns(batches, together, settle));
        });
    };
    bench("whole, pushed together", true, Batch::return_to_buffer);
    bench("whole, pushed one by one", false, Batch::return_to_buffer);
    bench("dropped", true, |batch| {
        drop(batch);
        Settled::default()
    });
    bench("each settled as a return", true, |batch| batch.settle(|_| Outcome::Return));
    bench("the second half", true, |batch| {
        let mut place = 0;
        batch.settle(|_| {
            place += 1;
            if place <= BATCH / 2 { Outcome::Ack } else { Outcome::Return }
        })
    });
    bench("every other one", true, |batch| {
        let mut place = 0;
        batch.settle(|_| {
            place += 1;
            if place % 2 == 0 { Outcome::Ack } else { Outcome::Return }
        })
    });
}

/// Returns the time of settling batches of 100 and of taking the returned records. Refilling the
/// stage is not timed.
fn time_returns<R: Sourced>(
    batches: u64,
    together: bool,
    settle: fn(Batch<R>) -> Settled,
) -> Duration {
    let manager = BufferManager::<R>::new(BufferSettings::default());
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("source").unwrap());
    let mut timed = Duration::ZERO;
    let mut batch: Option<Batch<R>> = None;
    for _ in 0..batches {
        if batch.as_ref().is_none_or(|batch| batch.len() < BATCH) {
            batch.into_iter().for_each(Batch::ack);
            let records = (0..BATCH).map(|_| R::of(0));
            if together {
                source.try_send_batch(&stage, records.collect()).unwrap();
            } else {
                records.for_each(|record| source.try_send(&stage, record).unwrap());
            }
            batch = stage.try_recv_batch(BATCH).ok();
        }
        let full = batch.take().unwrap();
        let start = Instant::now();
        settle(full);
        batch = take(&stage);
        timed += start.elapsed();
    }
    timed
}

fn take<R: Sourced>(stage: &Stage<R>) -> Option<Batch<R>> {
    stage.try_recv_batch(BATCH).ok()
}

fn by_name(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100 records returned by name and taken again");
    group.throughput(Throughput::Elements(BATCH as u64));
    let manager = BufferManager::<Medium>::new(BufferSettings::default());
    let mut records: Vec<_> = (0..BATCH).map(|_| Medium::of(0)).collect();
    group.bench_function("by name", |bencher| {
        bencher.iter(|| {
            let returned = std::mem::take(&mut records);
            pollster::block_on(manager.return_to_buffer("stage", returned)).unwrap();
            records = pollster::block_on(manager.get_batch("stage", BATCH));
        });
    });
}

criterion_group!(benches, returns::<Small>, returns::<Medium>, returns::<Large>, by_name);
criterion_main!(benches);
