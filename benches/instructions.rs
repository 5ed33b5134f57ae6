//! Instructions of each call, counted by callgrind: the same on every run, even on a busy machine.
//! Needs valgrind and `cargo install gungraun-runner --version 0.20.0 --locked`.
//!
//! `cargo bench --features instructions --bench instructions`

mod common;

use std::hint::black_box;

use common::{BATCH, Medium};
use conveyor_buffer::{Batch, BufferManager, BufferSettings, RejectReason, Source, Stage};
use gungraun::prelude::*;

/// A buffer, and the argument of the call that is counted.
struct Ready<T> {
    source: Source<Medium>,
    stage: Stage<Medium>,
    todo: T,
}

/// A buffer that records have passed through, so that its accounts hold leases.
fn warm<T>(todo: T) -> Ready<T> {
    let manager = BufferManager::new(BufferSettings::default());
    let (source, stage) = (manager.source("source").unwrap(), manager.stage("stage").unwrap());
    for _ in 0..BATCH {
        source.try_send(&stage, Medium::of(0)).unwrap();
        stage.try_recv_batch(1).unwrap().ack();
    }
    Ready { source, stage, todo }
}

fn record() -> Medium {
    Medium::of(0)
}

fn records() -> Vec<Medium> {
    (0..BATCH).map(|_| record()).collect()
}

/// A batch of `records` records that were pushed as one.
fn taken(records: usize) -> Ready<Batch<Medium>> {
    let Ready { source, stage, .. } = warm(());
    source.try_send_batch(&stage, (0..records).map(|_| record()).collect()).unwrap();
    let todo = stage.try_recv_batch(records).unwrap();
    Ready { source, stage, todo }
}

/// A full buffer. The lowest of the caps refuses the next push.
fn full(total: usize, stage: usize, source: usize) -> Ready<Medium> {
    let settings = BufferSettings {
        max_total_records: total,
        max_per_stage: stage,
        max_per_source: source,
        ..BufferSettings::default()
    };
    let manager = BufferManager::new(settings);
    let (source, stage) = (manager.source("source").unwrap(), manager.stage("stage").unwrap());
    while source.try_send(&stage, record()).is_ok() {}
    Ready { source, stage, todo: record() }
}

// The part of each count below that is not the call: moving its arguments and results.
#[library_benchmark]
#[bench::one(warm(record()))]
fn nothing(ready: Ready<Medium>) -> (Source<Medium>, Stage<Medium>) {
    let Ready { source, stage, todo } = ready;
    black_box(todo);
    (source, stage)
}

#[library_benchmark]
#[bench::warm(warm(record()))]
fn push(ready: Ready<Medium>) -> (Source<Medium>, Stage<Medium>) {
    let Ready { source, stage, todo } = ready;
    assert!(source.try_send(&stage, black_box(todo)).is_ok());
    (source, stage)
}

#[library_benchmark]
#[bench::warm(warm(records()))]
fn push_100(ready: Ready<Vec<Medium>>) -> (Source<Medium>, Stage<Medium>) {
    let Ready { source, stage, todo } = ready;
    assert!(source.try_send_batch(&stage, black_box(todo)).is_ok());
    (source, stage)
}

#[library_benchmark]
#[bench::global(full(100, 1_000, 1_000))]
#[bench::stage(full(1_000, 100, 1_000))]
#[bench::source(full(1_000, 1_000, 100))]
fn refusal(ready: Ready<Medium>) -> (Source<Medium>, Stage<Medium>, RejectReason) {
    let Ready { source, stage, todo } = ready;
    let reason = source.try_send(&stage, black_box(todo)).unwrap_err().reason;
    (source, stage, reason)
}

#[library_benchmark]
#[bench::one(taken(1))]
#[bench::hundred(taken(100))]
fn settle(ready: Ready<Batch<Medium>>) -> (Source<Medium>, Stage<Medium>) {
    let Ready { source, stage, todo } = ready;
    black_box(todo).ack();
    (source, stage)
}

#[library_benchmark]
#[bench::warm(warm(record()))]
fn in_and_out(ready: Ready<Medium>) -> (Source<Medium>, Stage<Medium>) {
    let Ready { source, stage, todo } = ready;
    assert!(source.try_send(&stage, black_box(todo)).is_ok());
    black_box(stage.try_recv_batch(1).unwrap()).ack();
    (source, stage)
}

#[library_benchmark]
#[bench::warm(warm(records()))]
fn in_and_out_100(ready: Ready<Vec<Medium>>) -> (Source<Medium>, Stage<Medium>, Vec<Medium>) {
    let Ready { source, stage, todo } = ready;
    assert!(source.try_send_batch(&stage, black_box(todo)).is_ok());
    let records = stage.try_recv_batch(BATCH).unwrap().into_records();
    (source, stage, records)
}

library_benchmark_group!(
    name = instructions,
    benchmarks = [nothing, push, push_100, refusal, settle, in_and_out, in_and_out_100]
);
main!(library_benchmark_groups = instructions);
