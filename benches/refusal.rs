//! A push that each of the three caps refuses, beside one that is accepted.

mod common;

use std::hint::black_box;

use common::conveyor::Conveyor;
use common::work::{accepted, refused};
use common::{BATCH, Medium};
use conveyor_buffer::{BufferManager, BufferSettings};
use criterion::{Criterion, criterion_group, criterion_main};

/// Settings with these caps.
fn settings(total: usize, stage: usize, source: usize) -> BufferSettings {
    BufferSettings {
        max_total_records: total,
        max_per_stage: stage,
        max_per_source: source,
        ..BufferSettings::default()
    }
}

fn each_cap(criterion: &mut Criterion) {
    const FULL: usize = 10_000;
    const ROOM: usize = 100_000;
    let mut group = criterion.benchmark_group("a refusal");
    for (cap, settings) in [
        ("global", settings(FULL, ROOM, ROOM)),
        ("stage", settings(ROOM, FULL, ROOM)),
        ("source", settings(ROOM, ROOM, FULL)),
    ] {
        let manager = BufferManager::<Medium>::new(settings);
        let (stage, source) = (manager.stage("stage").unwrap(), manager.source("source").unwrap());
        source.try_send_batch(&stage, (0..FULL).map(|_| Medium::of(0)).collect()).unwrap();

        group.bench_function(format!("one record, {cap} full"), |bencher| {
            bencher.iter(|| source.try_send(&stage, black_box(Medium::of(0))).unwrap_err());
        });
        let mut records: Vec<_> = (0..BATCH).map(|_| Medium::of(0)).collect();
        group.bench_function(format!("100 records, {cap} full"), |bencher| {
            bencher.iter(|| {
                let refused = source.try_send_batch(&stage, std::mem::take(&mut records));
                records = refused.unwrap_err().records;
            });
        });
    }
}

fn many_sources(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a push, 10000 sources in turn");
    let mut run = accepted::<Medium, Conveyor<Medium>>();
    group.bench_function("accepted", |bencher| bencher.iter_custom(&mut run));
    drop(run);
    let mut run = refused::<Medium, Conveyor<Medium>>();
    group.bench_function("refused, global full", |bencher| bencher.iter_custom(&mut run));
}

criterion_group!(benches, each_cap, many_sources);
criterion_main!(benches);
