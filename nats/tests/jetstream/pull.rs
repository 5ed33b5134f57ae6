//! Pulling: how much, in which order, and how it ends.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use conveyor_buffer::RejectReason;
use conveyor_buffer_nats::{PullError, PullOptions, StartError};
use tokio::time::sleep;

use crate::common::{Pipeline, World, manager, number, until, within};

const SECONDS_30: Duration = Duration::from_secs(30);

#[tokio::test]
async fn unacknowledged_messages_never_pass_the_cap_of_the_source() {
    for double_ack in [false, true] {
        let world = World::new().await;
        world.publish(5_000).await;
        let consumer = world.consumer(SECONDS_30).await;
        let options = PullOptions::default().double_ack(double_ack);
        let pipeline = Pipeline::with(&world.context, &consumer, manager(250), options).await;
        until("the buffer is full", async || pipeline.held() == 250).await;
        for round in 0..60 {
            if double_ack {
                // Without the confirmation, the server may still have acknowledgements to count.
                let info = consumer.get_info().await.unwrap();
                assert!(info.num_ack_pending <= 250, "{} are delivered", info.num_ack_pending);
            }
            if round % 2 == 0 {
                let batch = within(pipeline.stage.recv_batch(97)).await.unwrap();
                pipeline.settler.ack(batch).await.unwrap();
            }
            assert!(pipeline.held() <= 250);
            let stats = pipeline.settler.stats();
            assert!(stats.pulled <= stats.acked + 250, "{stats:?}");
        }
        pipeline.stop().await.unwrap();
    }
}

#[tokio::test]
async fn one_request_at_a_time_and_many_pull_everything_in_order() {
    for requests in [1, 2, 5] {
        let world = World::new().await;
        world.publish(5_000).await;
        let consumer = world.consumer(SECONDS_30).await;
        let options = PullOptions::default().requests(requests).max_batch(150);
        let pipeline = Pipeline::with(&world.context, &consumer, manager(1_000), options).await;
        let mut next = 0;
        while next < 5_000 {
            let batch = within(pipeline.stage.recv_batch(100)).await.unwrap();
            for record in &batch {
                assert_eq!(number(record), next, "with {requests} requests");
                assert_eq!(record.stream_sequence(), next as u64 + 1);
                assert_eq!(record.subject(), format!("in.{next}"));
                assert_eq!(record.delivered(), 1);
                next += 1;
            }
            pipeline.settler.ack(batch).await.unwrap();
        }
        world.all_settled(&consumer).await;
        let stats = pipeline.stop().await.unwrap();
        assert_eq!((stats.pulled, stats.acked, stats.redelivered), (5_000, 5_000, 0));
        assert_eq!(stats.in_progress, 0, "nothing was held for long");
    }
}

#[tokio::test]
async fn a_message_that_comes_to_an_idle_puller_is_there_at_once() {
    let world = World::new().await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 100).await;
    // The puller waits for one message and holds one permit only.
    until("a request waits", async || consumer.get_info().await.unwrap().num_waiting == 1).await;
    assert_eq!(pipeline.source.available_credits(), 99);
    for _ in 0..3 {
        world.publish(1).await;
        let batch = tokio::time::timeout(Duration::from_secs(2), pipeline.stage.recv_batch(10));
        let batch = batch.await.expect("at once").unwrap();
        assert_eq!(batch.len(), 1);
        pipeline.settler.ack(batch).await.unwrap();
    }
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn requests_that_expire_are_followed_by_others() {
    let world = World::new().await;
    let consumer = world.consumer(SECONDS_30).await;
    let options = PullOptions::default().idle_wait(Duration::from_millis(100));
    let pipeline = Pipeline::with(&world.context, &consumer, manager(10), options).await;
    until("some requests expired", async || pipeline.settler.stats().requests >= 5).await;
    world.publish(1).await;
    let batch = within(pipeline.stage.recv_batch(10)).await.unwrap();
    pipeline.settler.ack(batch).await.unwrap();
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn after_the_stop_every_delivered_message_is_in_the_buffer() {
    for pause in [0, 1, 3, 10] {
        let world = World::new().await;
        world.publish(3_000).await;
        let consumer = world.consumer(SECONDS_30).await;
        let pipeline = Pipeline::start(&world, &consumer, 10_000).await;
        let stage = pipeline.stage.clone();
        sleep(Duration::from_millis(pause)).await;
        within(pipeline.stop()).await.unwrap();
        let delivered = consumer.get_info().await.unwrap().num_ack_pending;
        assert_eq!(stage.len(), delivered);
        // Nothing asks for more.
        world.publish(10).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(consumer.get_info().await.unwrap().num_ack_pending, delivered);
    }
}

#[tokio::test]
async fn an_idle_puller_stops_at_once() {
    let world = World::new().await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 100).await;
    until("a request waits", async || consumer.get_info().await.unwrap().num_waiting == 1).await;
    let manager = pipeline.manager.clone();
    let started = tokio::time::Instant::now();
    pipeline.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    // No permit is left.
    manager.close();
    within(manager.drain()).await;
}

#[tokio::test]
async fn a_buffer_that_is_closed_stops_the_puller() {
    let world = World::new().await;
    world.publish(500).await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 100).await;
    until("the buffer is full", async || pipeline.held() == 100).await;
    pipeline.manager.close();
    let stats = within(pipeline.ended()).await.unwrap();
    assert_eq!(stats.pulled, 100);
}

#[tokio::test]
async fn a_consumer_that_is_deleted_ends_the_puller_with_an_error_that_names_it() {
    for messages in [0, 20_000] {
        let world = World::new().await;
        world.publish(messages).await;
        let consumer = world.consumer(SECONDS_30).await;
        let pipeline = Pipeline::start(&world, &consumer, 500).await;
        let worker = tokio::spawn({
            let (stage, settler) = (pipeline.stage.clone(), pipeline.settler.clone());
            async move {
                while let Ok(batch) = stage.recv_batch(50).await {
                    sleep(Duration::from_millis(1)).await;
                    settler.ack(batch).await.unwrap();
                }
            }
        });
        let pulled = if messages > 0 { 500 } else { 0 };
        until("it pulls", async || pipeline.settler.stats().pulled >= pulled).await;
        world.stream.delete_consumer("work").await.unwrap();
        let manager = pipeline.manager.clone();
        let error = within(pipeline.ended()).await.unwrap_err();
        assert!(matches!(error, PullError::ConsumerGone { .. }), "{error}");
        assert_eq!(error.to_string(), "consumer work of stream in does not exist any more");
        // Its permits are given back, and the worker ends.
        manager.close();
        within(manager.drain()).await;
        within(worker).await.unwrap();
    }
}

#[tokio::test]
async fn a_stage_of_another_buffer_is_an_error_at_the_start() {
    let world = World::new().await;
    let consumer = world.consumer(SECONDS_30).await;
    let (one, other) = (manager(10), manager(10));
    let error = conveyor_buffer_nats::Puller::new(
        world.context.clone(),
        consumer,
        one.source("in").unwrap(),
        other.stage("work").unwrap(),
        Ok,
        PullOptions::default(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, StartError::Buffer(RejectReason::ForeignStage { .. })), "{error}");
}

#[tokio::test]
async fn requests_keep_within_the_limits_of_the_consumer() {
    let world = World::new().await;
    world.publish(200).await;
    let config = pull::Config {
        max_batch: 7,
        max_expires: Duration::from_secs(1),
        ..pull::Config::default()
    };
    let consumer = world.consumer_with(config).await;
    let pipeline = Pipeline::start(&world, &consumer, 500).await;
    until("all are pulled", async || pipeline.stage.len() == 200).await;
    let stats = pipeline.stop().await.unwrap();
    assert!(stats.requests >= 200 / 7, "{stats:?}");
}

#[tokio::test]
async fn a_puller_waits_while_other_processes_hold_all_that_may_be_delivered() {
    let world = World::new().await;
    world.publish(100).await;
    let config = pull::Config { max_ack_pending: 20, ..pull::Config::default() };
    let consumer = world.consumer_with(config).await;
    let first = Pipeline::start(&world, &consumer, 20).await;
    until("the first holds all", async || first.held() == 20).await;
    let second = Pipeline::start(&world, &consumer, 20).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(second.stage.len(), 0);
    let requests = second.settler.stats().requests;
    assert!(requests < 10, "it does not ask in a loop: {requests} requests");
    let batch = within(first.stage.recv_batch(20)).await.unwrap();
    first.settler.ack(batch).await.unwrap();
    until("the second gets some", async || second.stage.len() + first.stage.len() == 20).await;
    first.stop().await.unwrap();
    second.stop().await.unwrap();
}
