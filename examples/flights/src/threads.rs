//! The pipeline on threads: a thread for each source and each worker, with the blocking calls.

use std::sync::Arc;
use std::thread;

use conveyor_buffer::{BackpressureSignal, Batch};

use crate::error::Error;
use crate::flight::Flight;
use crate::pipeline::{DRAIN_TIMEOUT, LINGER, Origin, Pipeline, Step};
use crate::read::{REST, Reader};

/// Reads all rows and drains the buffer.
///
/// # Errors
///
/// The records that remain, if the buffer does not drain in time.
pub fn run(pipeline: &Arc<Pipeline>) -> Result<(), Error> {
    let steps = [&pipeline.parse, &pipeline.enrich, &pipeline.load];
    let works: [fn(&Pipeline); 3] = [parse, enrich, load];
    let mut workers = Vec::new();
    for (step, work) in steps.into_iter().zip(works) {
        for _ in 0..step.workers {
            let pipeline = Arc::clone(pipeline);
            workers.push(thread::spawn(move || work(&pipeline)));
        }
    }
    thread::scope(|sources| {
        for origin in &pipeline.origins {
            sources.spawn(|| push(pipeline, origin).unwrap_or_else(|e| pipeline.control.fail(e)));
        }
    });
    pipeline.manager.close();
    pipeline.manager.drain_timeout(DRAIN_TIMEOUT)?;
    for worker in workers {
        // A thread that panics ends the program.
        let _ = worker.join();
    }
    Ok(())
}

/// A source: pushes its rows at the rate that its signals ask for.
fn push(pipeline: &Pipeline, origin: &Origin) -> Result<(), Error> {
    let mut reader = Reader::new(pipeline, origin);
    let mut signals = origin.handle.signals();
    while !pipeline.control.is_stopping() {
        if reader.follow(&signals) == BackpressureSignal::Pause {
            // With a timeout: a resume that comes between the two calls would not be reported if
            // the last report was a resume as well.
            signals.changed_timeout(REST);
            continue;
        }
        let rows = reader.read()?;
        if rows.is_empty() {
            break;
        }
        let count = rows.len();
        reader.note(count, origin.handle.send_batch_blocking(&pipeline.parse.handle, rows))?;
        if reader.follow(&signals) == BackpressureSignal::SlowDown {
            signals.changed_timeout(REST);
        }
    }
    Ok(())
}

/// A worker of the first stage.
fn parse(pipeline: &Pipeline) {
    while let Ok(batch) = pipeline.parse.handle.recv_batch_blocking(pipeline.batch) {
        forward(pipeline.parse(batch), &pipeline.enrich);
    }
}

/// A worker of the second stage.
fn enrich(pipeline: &Pipeline) {
    while let Ok(mut batch) = pipeline.enrich.handle.recv_batch_blocking(pipeline.batch) {
        pipeline.enrich(&mut batch);
        forward(batch, &pipeline.load);
    }
}

/// A worker of the last stage.
fn load(pipeline: &Pipeline) {
    let stage = &pipeline.load.handle;
    while let Ok(batch) = stage.recv_batch_linger_blocking(pipeline.batch, LINGER) {
        pipeline.load(batch);
    }
}

/// Forwards a batch. It fits under the caps, since `Pipeline::batch` does, and only the buffer as a
/// whole is ever closed.
fn forward(batch: Batch<Flight>, next: &Step) {
    if batch.forward_blocking(&next.handle).is_ok() {
        next.level.note(next.held());
    }
}
