//! A stage as a stream, a source as a sink: under the usual combinators, on several executors and on
//! none; and what is left when one of them is dropped or closed.

mod common;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use conveyor_buffer::{Batch, Batches, RecordSink, RejectReason, Source, Stage, TryRecvError};
use futures_util::sink::Sink;
use futures_util::stream::{self, FusedStream, Stream};
use futures_util::{SinkExt, StreamExt, future, select};

use common::*;

/// Where a case runs: as one task, which may spawn others.
#[derive(Debug, Clone, Copy)]
enum Executor {
    TokioCurrentThread,
    TokioMultiThread,
    Smol,
    /// Each task is a thread that polls its future and parks.
    BlockOn,
}

impl Executor {
    fn run(self, case: impl Future<Output = ()> + Send + 'static) {
        let result = self.spawn_in_it(case);
        match self {
            Self::TokioCurrentThread => {
                tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(result);
            }
            Self::TokioMultiThread => {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
                runtime.unwrap().block_on(result);
            }
            Self::Smol => smol::block_on(result),
            Self::BlockOn => block_on(result),
        }
    }

    /// The task is spawned at the first poll, when the executor runs.
    async fn spawn_in_it(self, case: impl Future<Output = ()> + Send + 'static) {
        self.spawn(case).await;
    }

    /// Runs a task beside this one, and gives its result to whoever waits for it.
    fn spawn<T: Send + 'static>(
        self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send {
        let (sender, receiver) = smol::channel::bounded(1);
        let task = async move {
            let result = task.await;
            sender.send(result).await.expect("somebody waits for the task");
        };
        match self {
            Self::TokioCurrentThread | Self::TokioMultiThread => drop(tokio::spawn(task)),
            Self::Smol => smol::spawn(task).detach(),
            Self::BlockOn => drop(thread::spawn(|| block_on(task))),
        }
        async move { receiver.recv().await.expect("the task did not panic") }
    }
}

/// Makes a test of each case on one executor.
macro_rules! on_executor {
    ($module:ident, $executor:ident, $($case:ident,)*) => {
        mod $module {
            $(
                #[test]
                fn $case() {
                    let on = super::Executor::$executor;
                    on.run(super::$case(on));
                }
            )*
        }
    };
}

/// The same on each of them.
macro_rules! on_each_executor {
    ($($case:ident,)*) => {
        on_executor!(tokio_current_thread, TokioCurrentThread, $($case,)*);
        on_executor!(tokio_multi_thread, TokioMultiThread, $($case,)*);
        on_executor!(smol_executor, Smol, $($case,)*);
        on_executor!(bare_block_on, BlockOn, $($case,)*);
    };
}

on_each_executor! {
    a_stream_gives_what_was_pushed_in_order_and_ends_at_the_close,
    a_stream_waits_for_what_is_pushed_later,
    a_stream_of_a_stage_that_is_closed_ends_when_all_is_settled,
    a_stream_ends_only_when_its_batches_are_settled,
    what_a_stream_did_not_take_stays_in_the_stage,
    a_next_that_is_given_up_takes_nothing,
    batches_are_filtered_and_mapped,
    batches_are_worked_on_concurrently,
    batches_are_settled_out_of_order_by_a_buffer,
    batches_are_gathered_in_chunks,
    ready_chunks_waits_for_one_batch_alone,
    the_streams_of_two_stages_are_merged,
    select_takes_from_two_streams_until_both_end,
    streams_of_one_stage_share_its_records,
    a_sink_waits_for_credits_and_keeps_the_order,
    a_sink_sends_all_of_a_stream,
    a_stream_is_forwarded_to_a_sink,
    a_sink_is_fed_flushed_and_closed,
    a_sink_takes_what_a_function_makes_of_the_input,
    a_sink_sends_to_several_with_fanout,
    a_sink_that_waits_is_told_that_the_buffer_closed,
    a_pipeline_of_streams_and_sinks_loses_nothing,
    streams_and_sinks_that_come_and_go_lose_nothing,
}

/// Settles a batch, and tells what was in it.
fn ack(batch: Batch<Row>) -> Vec<u64> {
    batch.into_records().iter().map(|row| row.id).collect()
}

async fn a_stream_gives_what_was_pushed_in_order_and_ends_at_the_close(_: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    for row in rows("a", 0..10) {
        source.try_send(&stage, row).unwrap();
    }
    manager.close();
    let mut batches = stage.batches(4);
    assert!(!batches.is_terminated());
    let seen: Vec<_> = batches.by_ref().map(ack).collect().await;
    assert_eq!(seen, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    assert!(batches.is_terminated() && batches.size_hint() == (0, Some(0)));
    assert!(batches.next().await.is_none());
    // A later stream ends at once; a `max` of 0 counts as 1.
    assert!(stage.batches(0).next().await.is_none());
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_stream_waits_for_what_is_pushed_later(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let worker = on.spawn({
        let mut batches = stage.batches(0);
        async move {
            let mut seen = Vec::new();
            while let Some(batch) = batches.next().await {
                assert_eq!(batch.len(), 1);
                seen.extend(ack(batch));
            }
            seen
        }
    });
    for row in rows("a", 0..50) {
        source.try_send(&stage, row).unwrap();
        smol::future::yield_now().await;
    }
    manager.close();
    assert_eq!(worker.await, Vec::from_iter(0..50));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_stream_of_a_stage_that_is_closed_ends_when_all_is_settled(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let worker = on.spawn(stage.batches(3).map(ack).collect::<Vec<_>>());
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    stage.close();
    assert_eq!(worker.await.concat(), [0, 1, 2]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_stream_ends_only_when_its_batches_are_settled(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..3)).unwrap();
    manager.close();
    let mut batches = stage.batches(3);
    let batch = batches.next().await.unwrap();
    let mut next = batches.next();
    assert!(futures_util::poll!(&mut next).is_pending());
    // It is told of the return, and after that of the end.
    let task = on.spawn(async move { batch.return_to_buffer() });
    let batch = next.await.expect("the batch came back");
    task.await;
    assert!(futures_util::poll!(batches.next()).is_pending());
    let task = on.spawn(async move { batch.ack() });
    assert!(batches.next().await.is_none());
    task.await;
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn what_a_stream_did_not_take_stays_in_the_stage(_: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..10)).unwrap();
    let seen: Vec<_> = stage.batches(3).take(2).map(ack).collect().await;
    assert_eq!(seen.concat(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(drain(&stage), [6, 7, 8, 9]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_next_that_is_given_up_takes_nothing(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let mut batches = stage.batches(3);
    for id in 0..20 {
        assert!(futures_util::poll!(batches.next()).is_pending());
        let task = on.spawn({
            let (stage, source) = (stage.clone(), source.clone());
            async move { source.try_send(&stage, row("a", id)).unwrap() }
        });
        // Given up while the record may be on its way, or not.
        let given_up = future::select(future::ready(()), batches.next()).await;
        drop(given_up);
        task.await;
        assert_eq!(batches.next().await.map(ack), Some(vec![id]));
    }
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn batches_are_filtered_and_mapped(_: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..12)).unwrap();
    let mut turned_away = 0;
    let seen: Vec<_> = stage
        .batches(2)
        .filter_map(|batch| {
            // Every second batch is returned once, and so comes again.
            let first_time = batch.iter().all(|row| row.retries == 0);
            let wanted = !first_time || batch.iter().any(|row| row.id % 4 == 0);
            let wanted = wanted.then_some(batch);
            turned_away += usize::from(wanted.is_none());
            async move { wanted }
        })
        .map(ack)
        .take(6)
        .collect()
        .await;
    assert_eq!(seen.concat(), Vec::from_iter(0..12));
    assert_eq!(turned_away, 3);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn batches_are_worked_on_concurrently(on: Executor) {
    let (manager, stage, source) = one_of_each(20, 10, 20);
    let next = manager.stage("next").unwrap();
    // The records of a batch reach the next stage when that has room, and others are worked on.
    let worker = on.spawn({
        let (batches, next) = (stage.batches(3), next.clone());
        async move {
            let forward = |batch: Batch<Row>| async { batch.forward(&next).await.unwrap() };
            batches.for_each_concurrent(4, forward).await;
        }
    });
    let last = on.spawn(next.batches(7).map(ack).collect::<Vec<_>>());
    for rows in rows("a", 0..300).chunks(5) {
        source.send_batch(&stage, rows.to_vec()).await.unwrap();
    }
    manager.close();
    worker.await;
    let mut seen = last.await.concat();
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..300));
    assert_nothing_is_held(&manager, &[stage, next], &[source]);
}

async fn batches_are_settled_out_of_order_by_a_buffer(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    source.try_send_batch(&stage, rows("a", 0..40)).unwrap();
    manager.close();
    // Of four in hand, the first to arrive waits for the three behind it, over and over.
    let arrived = Arc::new(AtomicUsize::new(0));
    let work = |batch: Batch<Row>| {
        let turn = arrived.fetch_add(1, SeqCst);
        let arrived = Arc::clone(&arrived);
        let task = on.spawn(async move {
            while turn.is_multiple_of(4) && arrived.load(SeqCst) < turn + 4 {
                smol::future::yield_now().await;
            }
        });
        async move {
            task.await;
            ack(batch)
        }
    };
    let mut seen: Vec<_> = stage.batches(2).map(work).buffer_unordered(4).concat().await;
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..40));
    assert_eq!(arrived.load(SeqCst), 20);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn batches_are_gathered_in_chunks(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let chunks = on.spawn(stage.batches(2).map(ack).chunks(3).collect::<Vec<_>>());
    source.send_batch(&stage, rows("a", 0..10)).await.unwrap();
    manager.close();
    let seen: Vec<_> = chunks.await.iter().map(|chunk| chunk.concat()).collect();
    assert_eq!(seen, [vec![0, 1, 2, 3, 4, 5], vec![6, 7, 8, 9]]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn ready_chunks_waits_for_one_batch_alone(on: Executor) {
    let (manager, stage, source) = one_of_each(100, 100, 100);
    let mut chunks = stage.batches(2).ready_chunks(3);
    let task = on.spawn({
        let (stage, source) = (stage.clone(), source.clone());
        async move { source.send(&stage, row("a", 0)).await.unwrap() }
    });
    let chunk = chunks.next().await.unwrap();
    task.await;
    // These are unsettled batches: a chunk may hold them, since it does not wait for the end.
    assert_eq!((chunk.len(), stage.in_flight()), (1, 1));
    drop(chunk);
    source.try_send_batch(&stage, rows("a", 1..5)).unwrap();
    let chunk = chunks.next().await.unwrap();
    let seen: Vec<_> = chunk.into_iter().map(ack).collect();
    assert_eq!(seen, [vec![0, 1], vec![2, 3], vec![4]]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn the_streams_of_two_stages_are_merged(on: Executor) {
    let (manager, stage, source) = one_of_each(20, 5, 20);
    let other = manager.stage("other").unwrap();
    let merged = stream::select(stage.batches(3), other.batches(2));
    let worker = on.spawn(merged.map(ack).collect::<Vec<_>>());
    for pair in rows("a", 0..200).chunks(2) {
        source.send(&stage, pair[0].clone()).await.unwrap();
        source.send(&other, pair[1].clone()).await.unwrap();
    }
    manager.close();
    let mut seen = worker.await.concat();
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..200));
    assert_nothing_is_held(&manager, &[stage, other], &[source]);
}

async fn select_takes_from_two_streams_until_both_end(on: Executor) {
    let (manager, stage, source) = one_of_each(20, 5, 20);
    let other = manager.stage("other").unwrap();
    let pusher = on.spawn({
        let (manager, stages) = (manager.clone(), [stage.clone(), other.clone()]);
        let source = source.clone();
        async move {
            for row in rows("a", 0..100) {
                let stage = &stages[row.id as usize % 2];
                source.send(stage, row).await.unwrap();
            }
            stages[1].close();
            source.send_batch(&stages[0], rows("a", 100..103)).await.unwrap();
            manager.close();
        }
    });
    let (mut evens, mut odds) = (stage.batches(2), other.batches(2));
    let mut seen = Vec::new();
    loop {
        select! {
            batch = evens.select_next_some() => seen.extend(ack(batch)),
            batch = odds.select_next_some() => seen.extend(ack(batch)),
            complete => break,
        }
    }
    pusher.await;
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..103));
    assert_nothing_is_held(&manager, &[stage, other], &[source]);
}

async fn streams_of_one_stage_share_its_records(on: Executor) {
    let (manager, stage, source) = one_of_each(20, 20, 20);
    let workers: Vec<_> =
        (1..=4).map(|max| on.spawn(stage.batches(max).map(ack).collect::<Vec<_>>())).collect();
    for row in rows("a", 0..500) {
        source.send(&stage, row).await.unwrap();
    }
    manager.close();
    let mut seen = future::join_all(workers).await.concat().concat();
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..500));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_sink_waits_for_credits_and_keeps_the_order(on: Executor) {
    // Room for one record: each has to wait for the one before it to be settled.
    let (manager, stage, source) = one_of_each(1, 1, 1);
    let worker = on.spawn(stage.batches(5).map(ack).collect::<Vec<_>>());
    let mut sink = source.sink(&stage);
    for row in rows("a", 0..100) {
        sink.send(row).await.unwrap();
    }
    manager.close();
    assert_eq!(worker.await.concat(), Vec::from_iter(0..100));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_sink_sends_all_of_a_stream(on: Executor) {
    let (manager, stage, source) = one_of_each(10, 3, 5);
    let worker = on.spawn(stage.batches(2).map(ack).collect::<Vec<_>>());
    let mut sink = source.sink(&stage);
    sink.send_all(&mut stream::iter(rows("a", 0..60)).map(Ok)).await.unwrap();
    // It is open still.
    sink.send_all(&mut stream::iter(rows("a", 60..70)).map(Ok)).await.unwrap();
    manager.close();
    assert_eq!(worker.await.concat(), Vec::from_iter(0..70));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_stream_is_forwarded_to_a_sink(on: Executor) {
    let (manager, stage, source) = one_of_each(10, 3, 5);
    let worker = on.spawn(stage.batches(2).map(ack).collect::<Vec<_>>());
    let mut sink = source.sink(&stage);
    stream::iter(rows("a", 0..60)).map(Ok).forward(&mut sink).await.unwrap();
    // The forward closed the sink, and that alone.
    assert_eq!(sink.send(row("a", 99)).await, Err(RejectReason::Closed));
    source.sink(&stage).send(row("a", 60)).await.unwrap();
    stage.close();
    assert_eq!(worker.await.concat(), Vec::from_iter(0..61));
    let records = stream::iter(rows("a", 0..2)).map(Ok);
    let refused = records.forward(source.sink(&stage)).await;
    assert_eq!(refused, Err(RejectReason::Closed));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_sink_is_fed_flushed_and_closed(_: Executor) {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let mut sink = source.sink(&stage);
    sink.flush().await.unwrap();
    for row in rows("a", 0..3) {
        sink.feed(row).await.unwrap();
    }
    // A block of two, a quarter of the cap, was full; the third record is pending.
    assert_eq!(stage.len(), 2);
    sink.flush().await.unwrap();
    assert_eq!(stage.len(), 3);
    sink.close().await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(sink.feed(row("a", 3)).await, Err(RejectReason::Closed));
    assert_eq!(drain(&stage), [0, 1, 2]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_sink_takes_what_a_function_makes_of_the_input(on: Executor) {
    let (manager, stage, source) = one_of_each(10, 2, 10);
    let worker = on.spawn(stage.batches(2).map(ack).collect::<Vec<_>>());
    let mut sink = source.sink(&stage).with(|id: u64| future::ok::<_, RejectReason>(row("a", id)));
    for id in 0..30 {
        SinkExt::<u64>::send(&mut sink, id).await.unwrap();
    }
    let mut sink = source.sink(&stage).with_flat_map(|ids: std::ops::Range<u64>| {
        stream::iter(rows("a", ids)).map(Ok::<_, RejectReason>)
    });
    sink.send(30..40).await.unwrap();
    manager.close();
    let mut sink = source.sink(&stage).sink_map_err(|reason| reason.to_string());
    let refused = sink.send(row("a", 40)).await;
    assert_eq!(refused, Err("closed: no more records are taken".to_owned()));
    assert_eq!(worker.await.concat(), Vec::from_iter(0..40));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

async fn a_sink_sends_to_several_with_fanout(on: Executor) {
    let (manager, stage, source) = one_of_each(10, 2, 10);
    let other = manager.stage("other").unwrap();
    let workers = [&stage, &other].map(|stage| on.spawn(stage.batches(2).map(ack).collect()));
    let mut sink = source.sink(&stage).fanout(source.sink(&other));
    for row in rows("a", 0..30) {
        sink.send(row).await.unwrap();
    }
    manager.close();
    let seen: Vec<Vec<Vec<_>>> = future::join_all(workers).await;
    assert_eq!(seen[0].concat(), Vec::from_iter(0..30));
    assert_eq!(seen[1].concat(), Vec::from_iter(0..30));
    assert_nothing_is_held(&manager, &[stage, other], &[source]);
}

async fn a_sink_that_waits_is_told_that_the_buffer_closed(on: Executor) {
    type Close = fn(&Manager, &Stage<Row>, &Source<Row>);
    let closes: [Close; 3] = [
        |manager, _, _| manager.close(),
        |_, stage, _| stage.close(),
        |_, _, source| source.close(),
    ];
    for close in closes {
        let (manager, stage, source) = one_of_each(10, 10, 1);
        let mut sink = source.sink(&stage);
        sink.send(row("a", 0)).await.unwrap();
        let mut second = sink.send(row("a", 1));
        assert!(futures_util::poll!(&mut second).is_pending());
        let task = on.spawn({
            let (manager, stage, source) = (manager.clone(), stage.clone(), source.clone());
            async move { close(&manager, &stage, &source) }
        });
        assert_eq!(second.await, Err(RejectReason::Closed));
        task.await;
        assert_eq!(drain(&stage), [0]);
        assert_eq!(sink.send(row("a", 2)).await, Err(RejectReason::Closed));
        assert_nothing_is_held(&manager, &[stage], &[source]);
    }
}

async fn a_pipeline_of_streams_and_sinks_loses_nothing(on: Executor) {
    let manager = Manager::new(caps(12, 5, 6));
    let stages = ["parse", "load"].map(|id| manager.stage(id).unwrap());
    let sources = ["a", "b", "c"].map(|id| manager.source(id).unwrap());
    let pushers: Vec<_> = sources
        .iter()
        .map(|source| {
            let (sink, id) = (source.sink(&stages[0]), source.id().to_owned());
            on.spawn(stream::iter(rows(&id, 0..200)).map(Ok).forward(sink))
        })
        .collect();
    let parsers: Vec<_> = (2..4)
        .map(|max| {
            let (batches, load) = (stages[0].batches(max), stages[1].clone());
            on.spawn(batches.for_each(move |batch| {
                let load = load.clone();
                async move {
                    // What fails comes again, and passes then.
                    let (good, bad) = batch.partition(|row| row.id % 7 != 0 || row.retries > 0);
                    bad.return_to_buffer();
                    good.forward(&load).await.unwrap();
                }
            }))
        })
        .collect();
    let loaders: Vec<_> = (3..5)
        .map(|max| {
            let rows = |batch: Batch<Row>| batch.into_records();
            on.spawn(stages[1].batches(max).map(rows).concat())
        })
        .collect();
    for pusher in pushers {
        pusher.await.unwrap();
    }
    manager.close();
    future::join_all(parsers).await;
    let seen = future::join_all(loaders).await.concat();
    let distinct: BTreeSet<_> = seen.iter().map(|row| (row.source.clone(), row.id)).collect();
    assert_eq!((seen.len(), distinct.len()), (600, 600));
    assert!(seen.iter().all(|row| row.retries == u32::from(row.id % 7 == 0)));
    assert_nothing_is_held(&manager, &stages, &sources);
}

/// Workers take each batch with a stream of its own, which they drop; pushers send each record with a
/// sink of its own. Both give up now and then in the middle of waiting.
async fn streams_and_sinks_that_come_and_go_lose_nothing(on: Executor) {
    let (manager, stage, source) = one_of_each(4, 4, 3);
    let workers: Vec<_> = (0..3)
        .map(|n| {
            let stage = stage.clone();
            on.spawn(async move {
                let mut seen = Vec::new();
                for round in n.. {
                    let mut batches = stage.batches(1 + round % 3);
                    if round % 2 == 0 && futures_util::poll!(batches.next()).is_pending() {
                        // It may be woken before it is dropped.
                        smol::future::yield_now().await;
                        continue;
                    }
                    let Some(batch) = batches.next().await else { break };
                    // Not settled yet when the stream goes.
                    drop(batches);
                    seen.extend(ack(batch));
                }
                seen
            })
        })
        .collect();
    let pushers: Vec<_> = (0..2)
        .map(|n| {
            let (stage, source) = (stage.clone(), source.clone());
            on.spawn(async move {
                for row in rows("a", n * 300..n * 300 + 300) {
                    let mut ahead = source.sink(&stage);
                    let mut fickle = source.sink(&stage);
                    let ready = future::poll_fn(|context| {
                        // Behind the other, and not waited for.
                        let ready = ahead.poll_ready_unpin(context);
                        let _ = fickle.poll_ready_unpin(context);
                        ready
                    });
                    ready.await.unwrap();
                    drop(fickle);
                    ahead.send(row).await.unwrap();
                }
            })
        })
        .collect();
    future::join_all(pushers).await;
    manager.close();
    let mut seen = future::join_all(workers).await.concat();
    seen.sort_unstable();
    assert_eq!(seen, Vec::from_iter(0..600));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

/// Counts how often a task was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Something that is polled by hand.
struct Polled<T> {
    inner: T,
    wakes: Arc<Wakes>,
}

fn by_hand<T>(inner: T) -> Polled<T> {
    Polled { inner, wakes: Arc::default() }
}

impl<T> Polled<T> {
    fn wakes(&self) -> usize {
        self.wakes.0.load(SeqCst)
    }

    fn poll<P>(&mut self, poll: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<P>) -> Poll<P>
    where
        T: Unpin,
    {
        let waker = Waker::from(Arc::clone(&self.wakes));
        poll(Pin::new(&mut self.inner), &mut Context::from_waker(&waker))
    }
}

impl Polled<Batches<Row>> {
    fn next(&mut self) -> Poll<Option<Batch<Row>>> {
        self.poll(Stream::poll_next)
    }
}

impl Polled<RecordSink<Row>> {
    fn ready(&mut self) -> Poll<Result<(), RejectReason>> {
        self.poll(Sink::poll_ready)
    }

    fn close(&mut self) -> Poll<Result<(), RejectReason>> {
        self.poll(Sink::poll_close)
    }
}

#[test]
fn a_stream_that_was_woken_and_is_dropped_wakes_another() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let (mut first, mut second) = (by_hand(stage.batches(1)), by_hand(stage.batches(1)));
    assert!(first.next().is_pending() && second.next().is_pending());
    source.try_send(&stage, row("a", 0)).unwrap();
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    let second_wakes = Arc::clone(&second.wakes);
    drop(first);
    assert_eq!(second_wakes.0.load(SeqCst), 1);
    let Poll::Ready(Some(batch)) = second.next() else { panic!("it was woken for a record") };
    assert_eq!(ack(batch), [0]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_stream_that_was_woken_and_is_dropped_wakes_a_thread() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    for id in 0..100 {
        let mut fickle = by_hand(stage.batches(1));
        assert!(fickle.next().is_pending());
        let worker = thread::spawn({
            let stage = stage.clone();
            move || ack(stage.recv_batch_blocking(1).unwrap())
        });
        source.try_send(&stage, row("a", id)).unwrap();
        assert_eq!(fickle.wakes(), 1);
        drop(fickle);
        assert_eq!(worker.join().unwrap(), [id]);
    }
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_stream_that_found_a_record_by_itself_wakes_nobody_for_it_in_vain() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let (mut first, mut second) = (by_hand(stage.batches(1)), by_hand(stage.batches(1)));
    assert!(first.next().is_pending() && second.next().is_pending());
    source.try_send(&stage, row("a", 0)).unwrap();
    assert_eq!(first.wakes(), 1);
    let Poll::Ready(Some(batch)) = first.next() else { panic!("it was woken for a record") };
    drop(first);
    assert_eq!(second.wakes(), 0);
    // A return is one more reason to wake.
    drop(batch);
    assert_eq!(second.wakes(), 1);
    let Poll::Ready(Some(batch)) = second.next() else { panic!("it was woken for a record") };
    assert_eq!(ack(batch), [0]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_stream_that_waits_is_woken_each_time_and_by_its_last_waker() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let mut batches = by_hand(stage.batches(10));
    for id in 0..3 {
        batches.wakes = Arc::default();
        assert!(batches.next().is_pending());
        // Another task polls it from now on.
        let former = std::mem::take(&mut batches.wakes);
        assert!(batches.next().is_pending());
        source.try_send(&stage, row("a", id)).unwrap();
        assert_eq!((former.0.load(SeqCst), batches.wakes()), (0, 1));
        let Poll::Ready(Some(batch)) = batches.next() else { panic!("it was woken") };
        assert_eq!(ack(batch), [id]);
    }
    assert!(batches.next().is_pending());
    manager.close();
    assert_eq!(batches.wakes(), 2);
    assert!(matches!(batches.next(), Poll::Ready(None)));
    assert!(matches!(batches.next(), Poll::Ready(None)));
    assert!(batches.inner.is_terminated());
}

#[test]
fn a_stream_whose_record_another_took_waits_on() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let mut batches = by_hand(stage.batches(10));
    assert!(batches.next().is_pending());
    for id in 0..3 {
        source.try_send(&stage, row("a", id)).unwrap();
        assert_eq!(drain(&stage), [id]);
        assert_eq!(batches.wakes() as u64, id + 1);
        assert!(batches.next().is_pending());
    }
    source.try_send(&stage, row("a", 9)).unwrap();
    assert_eq!(batches.wakes(), 4);
    let Poll::Ready(Some(batch)) = batches.next() else { panic!("it was woken for a record") };
    assert_eq!(ack(batch), [9]);
    assert_eq!(stage.try_recv_batch(1).unwrap_err(), TryRecvError::Empty);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_sink_that_is_dropped_while_it_waits_leaves_the_line() {
    let (manager, stage, source) = one_of_each(10, 10, 1);
    source.try_send(&stage, row("a", 0)).unwrap();
    let (mut first, mut second) = (by_hand(source.sink(&stage)), by_hand(source.sink(&stage)));
    assert!(first.ready().is_pending() && second.ready().is_pending());
    drop(first);
    take(&stage, 1).ack();
    assert_eq!(second.wakes(), 1);
    assert_eq!(second.ready(), Poll::Ready(Ok(())));
    drop(second);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_sink_that_was_granted_a_credit_and_is_dropped_passes_it_on() {
    for closes in [false, true] {
        let (manager, stage, source) = one_of_each(10, 10, 1);
        source.try_send(&stage, row("a", 0)).unwrap();
        let (mut first, mut second) = (by_hand(source.sink(&stage)), by_hand(source.sink(&stage)));
        assert!(first.ready().is_pending() && second.ready().is_pending());
        take(&stage, 1).ack();
        assert_eq!((first.wakes(), second.wakes()), (1, 0));
        assert_eq!((source.available_credits(), stage.reserved()), (0, 1));
        if closes {
            assert_eq!(first.close(), Poll::Ready(Ok(())));
        } else {
            drop(first);
        }
        assert_eq!(second.wakes(), 1);
        assert_eq!(second.ready(), Poll::Ready(Ok(())));
        second.inner.start_send_unpin(row("a", 1)).unwrap();
        assert_eq!(drain(&stage), [1]);
        assert_nothing_is_held(&manager, &[stage], &[source]);
    }
}

#[test]
fn a_sink_that_is_ready_holds_the_credits_of_a_block_until_it_is_dropped_or_closed() {
    for closes in [false, true] {
        let (manager, stage, source) = one_of_each(10, 10, 10);
        let mut sink = by_hand(source.sink(&stage));
        assert_eq!(source.available_credits(), 10);
        for _ in 0..3 {
            assert_eq!(sink.ready(), Poll::Ready(Ok(())));
            // A block of two: a quarter of the cap.
            assert_eq!((source.available_credits(), stage.reserved()), (8, 2));
        }
        if closes {
            assert_eq!(sink.close(), Poll::Ready(Ok(())));
            assert_eq!(sink.ready(), Poll::Ready(Err(RejectReason::Closed)));
        } else {
            drop(sink);
        }
        assert_eq!(source.available_credits(), 10);
        assert_nothing_is_held(&manager, &[stage], &[source]);
    }
}

#[test]
fn a_sink_that_is_ready_takes_a_record_though_the_buffer_was_closed() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let mut sink = by_hand(source.sink(&stage));
    assert_eq!(sink.ready(), Poll::Ready(Ok(())));
    manager.close();
    // A record may come still: so no worker goes.
    let mut batches = by_hand(stage.batches(1));
    assert!(batches.next().is_pending());
    assert_eq!(sink.ready(), Poll::Ready(Ok(())));
    sink.inner.start_send_unpin(row("a", 0)).unwrap();
    assert_eq!(batches.wakes(), 1);
    assert_eq!(sink.ready(), Poll::Ready(Err(RejectReason::Closed)));
    let Poll::Ready(Some(batch)) = batches.next() else { panic!("it was woken for a record") };
    assert_eq!(ack(batch), [0]);
    assert!(matches!(batches.next(), Poll::Ready(None)));
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_sink_that_is_ready_and_dropped_lets_the_workers_of_a_closed_buffer_go() {
    let (manager, stage, source) = one_of_each(10, 10, 10);
    let mut sink = by_hand(source.sink(&stage));
    assert_eq!(sink.ready(), Poll::Ready(Ok(())));
    manager.close();
    let mut batches = by_hand(stage.batches(1));
    assert!(batches.next().is_pending());
    drop(sink);
    assert_eq!(batches.wakes(), 1);
    assert!(matches!(batches.next(), Poll::Ready(None)));
}

#[test]
fn a_sink_to_a_stage_of_another_buffer_says_so() {
    let (_manager, _, source) = one_of_each(10, 10, 10);
    let (_other, foreign, _) = one_of_each(10, 10, 10);
    let mut sink = source.sink(&foreign);
    let refused = RejectReason::ForeignStage { stage_id: "stage".into() };
    assert_eq!(block_on(sink.send(row("a", 0))), Err(refused.clone()));
    assert_eq!(block_on(sink.send(row("a", 0))), Err(refused));
}

#[test]
fn a_sink_to_a_closed_stage_is_told_so_though_its_source_is_full() {
    let (manager, stage, source) = one_of_each(10, 10, 1);
    source.try_send(&stage, row("a", 0)).unwrap();
    stage.close();
    let mut sink = by_hand(source.sink(&stage));
    assert_eq!(sink.ready(), Poll::Ready(Err(RejectReason::Closed)));
    assert_eq!(drain(&stage), [0]);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_sink_that_is_not_ready_panics_when_it_is_given_a_record() {
    let (manager, stage, source) = one_of_each(10, 10, 1);
    let mut sink = by_hand(source.sink(&stage));
    let message = panic_message(|| sink.inner.start_send_unpin(row("a", 0)));
    assert_eq!(message, "a sink was given a record when it was not ready");
    // It has its turn still.
    source.try_send(&stage, row("a", 1)).unwrap();
    assert!(sink.ready().is_pending());
    panic_message(|| sink.inner.start_send_unpin(row("a", 0)));
    assert_eq!(drain(&stage), [1]);
    assert_eq!((sink.wakes(), sink.ready()), (1, Poll::Ready(Ok(()))));
    drop(sink);
    assert_nothing_is_held(&manager, &[stage], &[source]);
}

#[test]
fn a_record_that_lacks_bytes_waits_in_the_sink_until_there_are_enough() {
    // Each row takes 64 bytes.
    let build = || Manager::builder(caps(10, 10, 10)).max_total_bytes(128).build().unwrap();
    let manager = build();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let mut sink = by_hand(source.sink(&stage));
    for id in 0..3 {
        assert!(sink.ready().is_ready());
        sink.inner.start_send_unpin(row("a", id)).unwrap();
    }
    // The third is not accepted yet, and those before it are published.
    assert_eq!((stage.len(), source.len(), manager.held_bytes()), (2, 2, 128));
    assert!(sink.ready().is_pending());
    assert!(sink.poll(Sink::poll_flush).is_pending());
    take(&stage, 1).ack();
    assert_eq!(sink.wakes(), 1);
    assert_eq!(sink.poll(Sink::poll_flush), Poll::Ready(Ok(())));
    assert_eq!(drain(&stage), [1, 2]);

    // A sink that is dropped drops it, and a close takes it back.
    for closes in [false, true] {
        for id in 0..3 {
            assert!(sink.ready().is_ready());
            sink.inner.start_send_unpin(row("a", id)).unwrap();
        }
        if closes {
            assert!(sink.close().is_pending());
            manager.close();
            assert_eq!(sink.close(), Poll::Ready(Err(RejectReason::Closed)));
        }
        sink = by_hand(source.sink(&stage));
        assert_eq!(drain(&stage), [0, 1]);
    }
    assert_eq!((manager.len(), manager.held_bytes()), (0, 0));

    // A whole stream goes through.
    let manager = build();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let worker = thread::spawn({
        let stage = stage.clone();
        move || {
            let mut seen = Vec::new();
            while let Ok(batch) = stage.recv_batch_blocking(3) {
                seen.extend(ack(batch));
            }
            seen
        }
    });
    let mut sink = source.sink(&stage);
    let mut records = stream::iter((0..100).map(|id| Ok(row("a", id))));
    block_on(sink.send_all(&mut records)).unwrap();
    block_on(sink.close()).unwrap();
    manager.close();
    assert_eq!(worker.join().unwrap(), Vec::from_iter(0..100));

    // A sink waits for the bytes of a permit, too.
    let manager = Manager::builder(caps(10, 10, 10)).max_total_bytes(64).build().unwrap();
    let (stage, source) = (manager.stage("stage").unwrap(), manager.source("a").unwrap());
    let permit = source.try_reserve_bytes(&stage, 1, 64).unwrap();
    let mut sink = by_hand(source.sink(&stage));
    assert!(sink.ready().is_ready());
    sink.inner.start_send_unpin(row("a", 0)).unwrap();
    drop(permit);
    assert_eq!(sink.close(), Poll::Ready(Ok(())));
    assert_eq!(drain(&stage), [0]);
}

#[test]
fn adapters_can_be_moved_sent_and_shown() {
    fn check<T: Send + Sync + Unpin + Debug + 'static>(_: &T) {}

    let (_manager, stage, source) = one_of_each(10, 10, 1);
    let batches = stage.batches(7);
    check(&batches);
    assert_eq!(format!("{batches:?}"), r#"Batches { stage: "stage", max: 7, ended: false }"#);
    let shown = |sink: &RecordSink<Row>| format!("{sink:?}");
    let expected = |closed: bool| {
        format!(r#"RecordSink {{ source: "a", stage: "stage", pending: 0, closed: {closed}, .. }}"#)
    };
    let (mut first, mut second) = (by_hand(source.sink(&stage)), by_hand(source.sink(&stage)));
    check(&first.inner);
    assert!(first.ready().is_ready() && second.ready().is_pending());
    assert_eq!(shown(&first.inner), expected(false));
    assert!(second.close().is_ready());
    assert_eq!(shown(&second.inner), expected(true));
}
