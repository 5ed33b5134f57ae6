//! The pipeline on tokio: a task for each source and each worker, with the async calls.
//!
//! Whatever waits for a file or for SQLite is inside `block_in_place`, as tokio has it: other tasks move
//! to another thread meanwhile.

use std::sync::Arc;

use conveyor_buffer::{BackpressureSignal, Batch};
use tokio::runtime;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

use crate::error::Error;
use crate::flight::Flight;
use crate::pipeline::{LINGER, PATIENCE, Pipeline, Step};
use crate::read::{REST, Reader};

/// Reads everything, and drains the buffer.
///
/// # Errors
///
/// What remains in the buffer, if it does not drain.
pub fn run(pipeline: &Arc<Pipeline>) -> Result<(), Error> {
    let runtime =
        runtime::Builder::new_multi_thread().enable_time().build().map_err(Error::Runtime)?;
    let ended = runtime.block_on(work(pipeline));
    // Tasks that are left are stuck: they are not waited for.
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
    if timeout(PATIENCE, pipeline.manager.drain()).await.is_err() {
        return Err(pipeline.manager.remaining().into());
    }
    workers.join_all().await;
    Ok(())
}

/// A source: pushes its rows as fast as the signals let it.
async fn push(pipeline: &Pipeline, origin: usize) -> Result<(), Error> {
    let origin = &pipeline.origins[origin];
    let mut reader = Reader::new(pipeline, origin);
    let mut signals = origin.handle.signals();
    while !pipeline.control.is_stopping() {
        if reader.follow(&signals) == BackpressureSignal::Pause {
            // With a timeout: a resume that comes between the two calls would not be reported if the
            // last report was a resume as well.
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
            // Whether it has changed or the rest is over: on with the next rows.
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
    while let Ok(batch) = stage.recv_batch_within(pipeline.batch, LINGER).await {
        block_in_place(|| pipeline.load(batch));
    }
}

/// Moves a batch on. It fits, for `Pipeline::batch` does, and stages close with the buffer alone.
async fn forward(batch: Batch<Flight>, next: &Step) {
    if batch.forward(&next.handle).await.is_ok() {
        next.level.note(next.held());
    }
}
