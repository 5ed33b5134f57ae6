//! The pipeline on tokio: a task for each source and each worker, with the async calls.
//!
//! Code that waits for a file or for SQLite runs in `block_in_place`, so that tokio moves other
//! tasks to another thread.

use std::sync::Arc;

use conveyor_buffer::{BackpressureSignal, Batch};
use tokio::runtime;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

use crate::error::Error;
use crate::flight::Flight;
use crate::pipeline::{DRAIN_TIMEOUT, LINGER, Pipeline, Step};
use crate::read::{REST, Reader};

/// Reads all rows and drains the buffer.
///
/// # Errors
///
/// The records that remain, if the buffer does not drain in time.
pub fn run(pipeline: &Arc<Pipeline>) -> Result<(), Error> {
    let runtime =
        runtime::Builder::new_multi_thread().enable_time().build().map_err(Error::Runtime)?;
    let ended = runtime.block_on(work(pipeline));
    // Does not wait for tasks that are stuck.
    runtime.shutdown_background();
    ended
}

async fn work(pipeline: &Arc<Pipeline>) -> Result<(), Error> {
    let mut workers = JoinSet::new();
    for _ in 0..pipeline.parse.workers {
        workers.spawn(parse(Arc::clone(pipeline)));
    }
    for _ in 0..pipeline.enrich.workers {
        workers.spawn(enrich(Arc::clone(pipeline)));
    }
    for _ in 0..pipeline.load.workers {
        workers.spawn(load(Arc::clone(pipeline)));
    }
    let mut sources = JoinSet::new();
    for origin in 0..pipeline.origins.len() {
        let pipeline = Arc::clone(pipeline);
        sources.spawn(async move {
            push(&pipeline, origin).await.unwrap_or_else(|error| pipeline.control.fail(error));
        });
    }
    sources.join_all().await;
    pipeline.manager.close();
    if timeout(DRAIN_TIMEOUT, pipeline.manager.drain()).await.is_err() {
        return Err(pipeline.manager.remaining().into());
    }
    workers.join_all().await;
    Ok(())
}

/// A source: pushes its rows at the rate that its signals ask for.
async fn push(pipeline: &Pipeline, origin: usize) -> Result<(), Error> {
    let origin = &pipeline.origins[origin];
    let mut reader = Reader::new(pipeline, origin);
    let mut signals = origin.handle.signals();
    while !pipeline.control.is_stopping() {
        if reader.follow(&signals) == BackpressureSignal::Pause {
            // With a timeout: a resume that comes between the two calls would not be reported if
            // the last report was a resume as well.
            let _ = timeout(REST, signals.changed()).await;
            continue;
        }
        let rows = block_in_place(|| reader.read())?;
        if rows.is_empty() {
            break;
        }
        let count = rows.len();
        reader.note(count, origin.handle.send_batch(&pipeline.parse.handle, rows).await)?;
        if reader.follow(&signals) == BackpressureSignal::SlowDown {
            // Goes on when the signal changes or the rest is over.
            let _ = timeout(REST, signals.changed()).await;
        }
    }
    Ok(())
}

/// A worker of the first stage.
async fn parse(pipeline: Arc<Pipeline>) {
    while let Ok(batch) = pipeline.parse.handle.recv_batch(pipeline.batch).await {
        let parsed = block_in_place(|| pipeline.parse(batch));
        forward(parsed, &pipeline.enrich).await;
    }
}

/// A worker of the second stage.
async fn enrich(pipeline: Arc<Pipeline>) {
    while let Ok(mut batch) = pipeline.enrich.handle.recv_batch(pipeline.batch).await {
        pipeline.enrich(&mut batch);
        forward(batch, &pipeline.load).await;
    }
}

/// A worker of the last stage.
async fn load(pipeline: Arc<Pipeline>) {
    let stage = &pipeline.load.handle;
    while let Ok(batch) = stage.recv_batch_linger(pipeline.batch, LINGER).await {
        block_in_place(|| pipeline.load(batch));
    }
}

/// Forwards a batch. It fits under the caps, since `Pipeline::batch` does, and only the buffer as a
/// whole is ever closed.
async fn forward(batch: Batch<Flight>, next: &Step) {
    if batch.forward(&next.handle).await.is_ok() {
        next.level.note(next.held());
    }
}
