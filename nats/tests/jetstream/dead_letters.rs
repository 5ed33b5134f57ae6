//! Dead letters: published with their reason, awaited, and then terminated.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config as StreamConfig, RetentionPolicy};
use conveyor_buffer::{BufferManager, BufferSettings};
use conveyor_buffer_nats::{DeadLetterRoute, Delivery, PullOptions, Puller};
use futures_util::StreamExt;
use tokio::time::sleep;

use crate::common::{Pipeline, World, manager, number, until, within};

const SECONDS_30: Duration = Duration::from_secs(30);

fn retrying(cap: usize, retries: u32) -> BufferManager<Delivery> {
    let settings = BufferSettings {
        max_total_records: cap,
        max_per_stage: cap,
        max_per_source: cap,
        ..BufferSettings::default()
    };
    BufferManager::builder(settings).max_retries(retries).build().unwrap()
}

fn to_dead() -> PullOptions {
    PullOptions::default().dead_letters(DeadLetterRoute::Publish("dead.in".into()))
}

/// Works on batches of 10 in which each number divisible by 100 fails the whole batch, then each
/// record alone.
async fn work(pipeline: &Pipeline, left: impl AsyncFn() -> bool) {
    while left().await {
        let Ok(mut batch) = pipeline.stage.try_recv_batch(10) else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !batch.is_empty() {
            let rest = batch.split_off(1);
            if batch.iter().any(|record| number(record).is_multiple_of(100)) {
                batch.return_to_buffer();
            } else {
                pipeline.settler.ack(batch).await.unwrap();
            }
            batch = rest;
        }
    }
}

#[tokio::test]
async fn a_poison_message_is_published_with_its_reason_and_then_terminated() {
    let retention = RetentionPolicy::WorkQueue;
    let world = World::with_stream(StreamConfig { retention, ..StreamConfig::default() }).await;
    world.add_stream("dead").await;
    world.publish(300).await;
    let mut headers = HeaderMap::new();
    headers.insert("Trace", "abc");
    headers.insert("Nats-Expected-Last-Sequence", "300");
    let poison = world.context.publish_with_headers("in.poison", headers, "500".into());
    poison.await.unwrap().await.unwrap();
    let mut watcher = world.client.subscribe("$JS.ACK.>").await.unwrap();

    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::with(&world.context, &consumer, retrying(50, 2), to_dead()).await;
    let letters = tokio::spawn({
        let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
        async move { settler.publish_dead_letters(&manager).await }
    });
    work(&pipeline, async || {
        let info = consumer.get_info().await.unwrap();
        info.num_pending > 0 || info.num_ack_pending > 0
    })
    .await;
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    pipeline.stop().await.unwrap();
    let report = within(settler.shut_down(&manager, SECONDS_30)).await;
    assert_eq!((report.handed_back, report.remaining.is_empty()), (0, true));
    assert_eq!(within(letters).await.unwrap().unwrap(), 4);

    let mut dead = world.context.get_stream("dead").await.unwrap();
    assert_eq!(dead.info().await.unwrap().state.messages, 4);
    let mut of_poison = None;
    for sequence in 1..=4 {
        let message = dead.get_raw_message(sequence).await.unwrap();
        if message.payload == "500" {
            of_poison = Some(message.headers);
        }
    }
    let headers = of_poison.expect("the poison message");
    let value = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    for (name, expected) in [
        ("Conveyor-Reason", "retries exhausted"),
        ("Conveyor-Stage", "work"),
        ("Conveyor-Source", "in"),
        ("Conveyor-Retries", "2"),
        ("Conveyor-Stream", "in"),
        ("Conveyor-Sequence", "301"),
        ("Conveyor-Subject", "in.poison"),
        ("Conveyor-Delivered", "1"),
        ("Trace", "abc"),
        ("Nats-Msg-Id", "dead:in:301"),
    ] {
        assert_eq!(value(name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(value("Nats-Expected-Last-Sequence"), None);

    // The work queue is empty, and what was terminated was published before.
    let mut stream = world.context.get_stream("in").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
    let mut terminated = 0;
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(200), watcher.next()).await
    {
        terminated += usize::from(message.payload == "+TERM");
    }
    assert_eq!(terminated, 4);
    assert_eq!(settler.stats().terminated, 4);
}

#[tokio::test]
async fn a_letter_that_cannot_be_published_is_not_terminated() {
    let world = World::new().await;
    world.publish(1).await;
    let mut watcher = world.client.subscribe("$JS.ACK.>").await.unwrap();
    let consumer = world.consumer(SECONDS_30).await;
    // No stream listens on the subject yet.
    let pipeline = Pipeline::with(&world.context, &consumer, retrying(10, 0), to_dead()).await;
    let letters = tokio::spawn({
        let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
        async move { settler.publish_dead_letters(&manager).await }
    });
    within(pipeline.stage.recv_batch(10)).await.unwrap().return_to_buffer();
    let early = tokio::time::timeout(Duration::from_millis(500), watcher.next()).await;
    assert!(early.is_err(), "{early:?}");
    world.add_stream("dead").await;
    let message = within(watcher.next()).await.unwrap();
    assert_eq!(message.payload, "+TERM");
    assert_eq!(world.payloads("dead").await.len(), 1);
    pipeline.manager.close();
    assert_eq!(within(letters).await.unwrap().unwrap(), 1);
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_decoded_is_a_dead_letter_too() {
    let world = World::new().await;
    world.add_stream("dead").await;
    world.publish(200).await;
    let consumer = world.consumer(SECONDS_30).await;
    let manager = manager(100);
    let (source, stage) = (manager.source("in").unwrap(), manager.stage("work").unwrap());
    let decode = |delivery: Delivery| match number(&delivery) % 50 {
        0 => Err(delivery.undecodable("divisible\r\nby 50")),
        _ => Ok(delivery),
    };
    let (context, handle) = (world.context.clone(), consumer.clone());
    let puller =
        Puller::new(context, handle, source, stage.clone(), decode, to_dead()).await.unwrap();
    let settler = puller.settler();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let pulling = tokio::spawn(puller.run(async {
        let _ = stopped.await;
    }));
    let mut acked = 0;
    while acked < 196 {
        let batch = within(stage.recv_batch(100)).await.unwrap();
        acked += batch.len();
        settler.ack(batch).await.unwrap();
    }
    world.all_settled(&consumer).await;
    drop(stop);
    let stats = within(pulling).await.unwrap().unwrap();
    assert_eq!((stats.undecodable, stats.terminated, stats.acked), (4, 4, 196));
    let dead = world.context.get_stream("dead").await.unwrap();
    let message = dead.get_raw_message(1).await.unwrap();
    let reason = message.headers.get("Conveyor-Reason").unwrap().as_str().to_owned();
    assert_eq!(reason, "undecodable: divisible  by 50");
    assert_eq!(world.payloads("dead").await.len(), 4);
    // Their credits are free again.
    manager.close();
    within(manager.drain()).await;
}

#[tokio::test]
async fn messages_that_are_being_rejected_count_against_the_cap() {
    let world = World::new().await;
    world.publish(100).await;
    // It takes the publishes and does not answer, so that the rejections wait.
    let _silent = world.client.subscribe("dead.in").await.unwrap();
    world.client.flush().await.unwrap();
    let consumer = world.consumer(SECONDS_30).await;
    let manager = manager(10);
    let (source, stage) = (manager.source("in").unwrap(), manager.stage("work").unwrap());
    let decode = |delivery: Delivery| match number(&delivery) {
        0..5 => Ok(delivery),
        _ => Err(delivery.undecodable("not wanted")),
    };
    let (context, handle) = (world.context.clone(), consumer.clone());
    let pulled = source.clone();
    let puller =
        Puller::new(context, handle, pulled, stage.clone(), decode, to_dead()).await.unwrap();
    let settler = puller.settler();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let pulling = tokio::spawn(puller.run(async {
        let _ = stopped.await;
    }));
    until("the cap is reached", async || settler.stats().pulled == 10).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!((settler.stats().pulled, settler.stats().undecodable), (10, 5));
    assert_eq!(consumer.get_info().await.unwrap().num_ack_pending, 10);
    assert_eq!((stage.len(), source.available_credits()), (5, 0));
    // They are handed back when the publish has failed, and then the puller ends.
    drop(stop);
    let stats = within(pulling).await.unwrap().unwrap();
    assert_eq!((stats.pulled, stats.nacked, stats.unpublished), (10, 5, 5));
    assert_eq!((stage.len(), source.available_credits()), (5, 5));
}

#[tokio::test]
async fn without_a_route_a_dead_letter_is_terminated_and_stays_in_its_stream() {
    let world = World::new().await;
    world.publish(3).await;
    let consumer = world.consumer(SECONDS_30).await;
    let options = PullOptions::default();
    let pipeline = Pipeline::with(&world.context, &consumer, retrying(10, 0), options).await;
    until("all are there", async || pipeline.stage.len() == 3).await;
    pipeline.stage.try_recv_batch(10).unwrap().return_to_buffer();
    pipeline.manager.close();
    let letters = pipeline.settler.publish_dead_letters(&pipeline.manager);
    assert_eq!(within(letters).await.unwrap(), 3);
    world.all_settled(&consumer).await;
    assert_eq!(world.payloads("in").await.len(), 3);
    let stats = pipeline.stop().await.unwrap();
    assert_eq!((stats.terminated, stats.acked), (3, 0));
}
