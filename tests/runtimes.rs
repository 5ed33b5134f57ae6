//! The waiting calls on tokio, on smol and on an executor that knows nothing but wakers: the same
//! cases on each. The library brings no runtime, and needs none.

mod common;

use std::time::Duration;

use conveyor_buffer::BackpressureSignal;

use common::waiting::*;
use common::*;

#[test]
fn futures_can_be_sent_to_other_threads() {
    fn is_send<T: Send>(_: T) {}

    let (manager, stage, source) = one_of_each(9, 9, 9);
    source.try_send(&stage, row("a", 0)).unwrap();
    is_send(source.send(&stage, row("a", 1)));
    is_send(source.send_batch(&stage, Vec::new()));
    is_send(source.reserve(&stage, 1));
    is_send(stage.recv_batch(1));
    is_send(stage.recv_batch_linger(1, Duration::ZERO));
    is_send(take(&stage, 1).forward(&stage));
    is_send(manager.drain());
    is_send(source.signals().changed());
    // None was polled: nothing has happened.
    assert_eq!(drain(&stage), [0]);
}

#[test]
fn records_go_through_a_pipeline_of_tiny_stages_in_order() {
    or_abort("a pipeline", || {
        on_every_runtime(|runtime| async move {
            let (manager, parse, a) = one_of_each(6, 2, 4);
            let (load, b) = (manager.stage("load").unwrap(), manager.source("b").unwrap());
            let pushers = [(a, parse.clone()), (b, parse.clone())].map(|(source, stage)| {
                runtime.spawn(async move {
                    for id in (0..100).step_by(2) {
                        if id % 3 == 0 {
                            source.send(&stage, row(source.id(), id)).await.unwrap();
                            source.send(&stage, row(source.id(), id + 1)).await.unwrap();
                        } else {
                            let two = rows(source.id(), id..id + 2);
                            source.send_batch(&stage, two).await.unwrap();
                        }
                    }
                })
            });
            let next = load.clone();
            let parser = runtime.spawn(async move {
                while let Ok(batch) = parse.recv_batch(2).await {
                    batch.forward(&next).await.unwrap();
                }
            });
            let loader = runtime.spawn(async move {
                let mut seen = Vec::new();
                while let Ok(batch) = load.recv_batch_linger(2, Duration::from_millis(1)).await {
                    seen.extend(batch.iter().cloned());
                    batch.ack();
                }
                seen
            });
            for pusher in pushers {
                pusher.join().await;
            }
            manager.close();
            manager.drain().await;
            parser.join().await;
            let seen = loader.join().await;
            for source in ["a", "b"] {
                let of_it = seen.iter().filter(|row| &*row.source == source);
                assert!(ids(of_it).into_iter().eq(0..100), "{source} on {runtime:?}");
            }
        });
    });
}

#[test]
fn whoever_waits_is_told_of_a_close() {
    or_abort("a close", || {
        on_every_runtime(|runtime| async move {
            let (manager, stage, source) = one_of_each(1, 1, 1);
            let idle = manager.stage("idle").unwrap();
            source.send(&stage, row("a", 0)).await.unwrap();
            let (to, from) = (stage.clone(), source.clone());
            let send = runtime.spawn(async move { from.send(&to, row("a", 1)).await });
            let worker = runtime.spawn(async move { idle.recv_batch(1).await.is_err() });
            let drained = runtime.spawn({
                let manager = manager.clone();
                async move { manager.drain().await }
            });
            manager.close();
            let rejected = send.join().await.unwrap_err();
            assert!(rejected.is_closed() && rejected.record.id == 1);
            stage.recv_batch(1).await.unwrap().ack();
            assert!(worker.join().await);
            drained.join().await;
        });
    });
}

#[test]
fn a_source_hears_its_signals() {
    or_abort("a signal", || {
        on_every_runtime(|runtime| async move {
            let (_manager, stage, source) = one_of_each(10, 10, 10);
            let mut signals = source.signals();
            let paused = runtime.spawn(async move {
                while signals.changed().await != BackpressureSignal::Pause {}
                signals
            });
            source.send_batch(&stage, rows("a", 0..10)).await.unwrap();
            let mut signals = paused.join().await;
            let resumed = runtime.spawn(async move {
                while signals.changed().await != BackpressureSignal::Resume {}
            });
            stage.recv_batch(10).await.unwrap().ack();
            resumed.join().await;
        });
    });
}
