//! One thread puts records in and takes them out again, one at a time and 100 at a time, beside the
//! raw ring that the stages stand on. The raw ring holds no caps: it is the limit.

use std::hint::black_box;

use conveyor_buffer::{BufferManager, BufferSettings, Envelope};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_queue::ArrayQueue;

/// A record of 4 bytes more than its payload: 8, 104 and 328 bytes here.
struct Record<const PAYLOAD: usize> {
    _payload: [u8; PAYLOAD],
    retries: u32,
}

impl<const PAYLOAD: usize> Record<PAYLOAD> {
    fn new() -> Self {
        Self { _payload: [0; PAYLOAD], retries: 0 }
    }
}

impl<const PAYLOAD: usize> Envelope for Record<PAYLOAD> {
    fn source_id(&self) -> &str {
        "source"
    }
    fn retry_count(&self) -> u32 {
        self.retries
    }
    fn increment_retry(&mut self) {
        self.retries += 1;
    }
}

const BATCH: usize = 100;

fn singles<const PAYLOAD: usize>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one record in and out");
    group.throughput(Throughput::Elements(1));
    let bytes = size_of::<Record<PAYLOAD>>();

    let ring = ArrayQueue::new(10_000);
    group.bench_function(BenchmarkId::new("raw ArrayQueue", bytes), |bencher| {
        bencher.iter(|| {
            assert!(ring.push(black_box(Record::<PAYLOAD>::new())).is_ok());
            black_box(ring.pop());
        });
    });

    let manager = BufferManager::<Record<PAYLOAD>>::new(BufferSettings::default());
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("source").unwrap());
    group.bench_function(BenchmarkId::new("conveyor-buffer", bytes), |bencher| {
        bencher.iter(|| {
            source.try_send(&stage, black_box(Record::new())).unwrap();
            black_box(stage.try_recv_batch(1).unwrap()).ack();
        });
    });
}

fn batches<const PAYLOAD: usize>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("100 records in and out");
    group.throughput(Throughput::Elements(BATCH as u64));
    let bytes = size_of::<Record<PAYLOAD>>();

    // The records themselves go round, so that making them is not what is measured.
    let ring = ArrayQueue::new(10_000);
    let mut records: Vec<_> = (0..BATCH).map(|_| Record::<PAYLOAD>::new()).collect();
    group.bench_function(BenchmarkId::new("raw ArrayQueue", bytes), |bencher| {
        bencher.iter(|| {
            for record in records.drain(..) {
                assert!(ring.push(record).is_ok());
            }
            records.extend(std::iter::from_fn(|| ring.pop()));
        });
    });

    let manager = BufferManager::new(BufferSettings::default());
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("source").unwrap());
    group.bench_function(BenchmarkId::new("conveyor-buffer", bytes), |bencher| {
        bencher.iter(|| {
            source.try_send_batch(&stage, std::mem::take(&mut records)).unwrap();
            records = stage.try_recv_batch(BATCH).unwrap().into_records();
        });
    });
}

criterion_group!(
    benches,
    singles::<4>,
    singles::<100>,
    singles::<324>,
    batches::<4>,
    batches::<100>,
    batches::<324>
);
criterion_main!(benches);
