//! From a stage into a stream, without duplicates.

use std::time::Duration;

use conveyor_buffer::Envelope;
use conveyor_buffer_nats::Publisher;
use conveyor_buffer_nats::{DeadLetterRoute, Delivery, Outgoing, PublishOptions, PullOptions};
use tokio::time::sleep;

use crate::common::{Pipeline, World, manager, number, until, within};

const SECOND: Duration = Duration::from_secs(1);
const SECONDS_30: Duration = Duration::from_secs(30);

fn encode(record: &Delivery) -> Outgoing {
    Outgoing::new("out.x", record.payload().clone())
}

fn publisher(world: &World, pipeline: &Pipeline, options: PublishOptions) -> Publisher<Delivery> {
    let (stage, settler) = (pipeline.stage.clone(), pipeline.settler.clone());
    Publisher::new(world.context.clone(), stage, settler, encode, options)
}

#[tokio::test]
async fn every_message_is_published_once_and_then_acknowledged() {
    // 16 batches of 500 exceed what a context has in flight by default.
    for concurrency in [1, 16] {
        let world = World::new().await;
        world.add_stream("out").await;
        world.publish(12_000).await;
        let consumer = world.consumer(SECONDS_30).await;
        let pipeline = Pipeline::start(&world, &consumer, 10_000).await;
        let options = PublishOptions::default().concurrency(concurrency);
        let publishing = tokio::spawn(publisher(&world, &pipeline, options).run());
        world.all_settled(&consumer).await;
        pipeline.manager.close();
        let stats = within(publishing).await.unwrap().unwrap();
        assert_eq!((stats.published, stats.duplicates, stats.repeated), (12_000, 0, 0));
        let found = world.payloads("out").await;
        assert_eq!((found.len(), found.values().max()), (12_000, Some(&1)));
        if concurrency == 1 {
            let out = world.context.get_stream("out").await.unwrap();
            for sequence in [1, 777, 12_000] {
                let message = out.get_raw_message(sequence).await.unwrap();
                assert_eq!(message.payload, (sequence - 1).to_string(), "in order");
                let id = message.headers.get("Nats-Msg-Id").unwrap().as_str().to_owned();
                assert_eq!(id, format!("in:{sequence}:out.x"));
            }
        }
        assert_eq!(pipeline.stop().await.unwrap().acked, 12_000);
    }
}

#[tokio::test]
async fn a_redelivery_is_dropped_as_a_duplicate() {
    let world = World::new().await;
    world.add_stream("out").await;
    world.publish(100).await;
    let consumer = world.consumer(SECOND).await;
    let first = Pipeline::start(&world, &consumer, 100).await;
    until("all are there", async || first.stage.len() == 100).await;
    // A process that dies after publishing and before acknowledging.
    let batch = first.stage.try_recv_batch(100).unwrap();
    for record in &batch {
        let id = format!("in:{}:out.x", record.stream_sequence());
        let message = async_nats::jetstream::message::PublishMessage::build()
            .payload(record.payload().clone())
            .message_id(id);
        world.context.send_publish("out.x", message).await.unwrap().await.unwrap();
    }
    drop(batch.into_records());
    first.stop().await.unwrap();

    let second = Pipeline::start(&world, &consumer, 100).await;
    let publishing = tokio::spawn(publisher(&world, &second, PublishOptions::default()).run());
    world.all_settled(&consumer).await;
    second.manager.close();
    let stats = within(publishing).await.unwrap().unwrap();
    assert_eq!((stats.published, stats.duplicates), (0, 100));
    assert_eq!(world.payloads("out").await.values().sum::<usize>(), 100);
    second.stop().await.unwrap();
}

#[tokio::test]
async fn a_missing_stream_is_waited_for_and_no_retry_is_counted() {
    let world = World::new().await;
    world.publish(10).await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 10).await;
    let publisher = publisher(&world, &pipeline, PublishOptions::default());
    let stats = publisher.stats();
    let publishing = tokio::spawn(publisher.run());
    until("it has tried", async || stats.get().repeated >= 4).await;
    assert_eq!(consumer.get_info().await.unwrap().num_ack_pending, 10, "none is acknowledged");
    assert_eq!(pipeline.held(), 10);
    world.add_stream("out").await;
    world.all_settled(&consumer).await;
    pipeline.manager.close();
    assert_eq!(within(publishing).await.unwrap().unwrap().published, 10);
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn a_publisher_that_gives_up_returns_its_batch() {
    let world = World::new().await;
    world.publish(10).await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 10).await;
    until("all are there", async || pipeline.stage.len() == 10).await;
    let options = PublishOptions::default().retry_for(Duration::from_millis(200));
    let error = within(publisher(&world, &pipeline, options).run()).await.unwrap_err();
    assert_eq!(error.subject, "out.x");
    assert_eq!(pipeline.stage.len(), 10);
    assert_eq!(pipeline.settler.stats().acked, 0);
    let batch = pipeline.stage.try_recv_batch(10).unwrap();
    assert!(batch.iter().all(|record| record.retry_count() == 0), "no retry is counted");
    drop(batch);
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_that_can_never_be_published_is_a_dead_letter() {
    let world = World::new().await;
    world.add_stream("out").await;
    world.add_stream("dead").await;
    world.publish(10).await;
    let consumer = world.consumer(SECONDS_30).await;
    let options = PullOptions::default().dead_letters(DeadLetterRoute::Publish("dead.in".into()));
    let pipeline = Pipeline::with(&world.context, &consumer, manager(10), options).await;
    let encode = |record: &Delivery| match number(record) {
        3 => Outgoing::new("out.x", vec![0; 2 << 20]),
        5 => Outgoing::new("out x", "a subject with a space"),
        _ => Outgoing::new("out.x", record.payload().clone()),
    };
    let publisher = Publisher::new(
        world.context.clone(),
        pipeline.stage.clone(),
        pipeline.settler.clone(),
        encode,
        PublishOptions::default(),
    );
    let publishing = tokio::spawn(publisher.run());
    let letters = tokio::spawn({
        let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
        async move { settler.publish_dead_letters(&manager).await }
    });
    world.all_settled(&consumer).await;
    pipeline.manager.close();
    let stats = within(publishing).await.unwrap().unwrap();
    assert_eq!((stats.published, stats.rejected), (8, 2));
    assert_eq!(within(letters).await.unwrap().unwrap(), 2);
    let dead = world.payloads("dead").await;
    assert_eq!(dead.keys().collect::<Vec<_>>(), ["3", "5"]);
    let stream = world.context.get_stream("dead").await.unwrap();
    let mut reasons = Vec::new();
    for sequence in [1, 2] {
        let message = stream.get_raw_message(sequence).await.unwrap();
        reasons.push(message.headers.get("Conveyor-Reason").unwrap().as_str().to_owned());
    }
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "rejected: its subject to publish to is not valid",
            "rejected: larger than the server's max_payload",
        ]
    );
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn an_aborted_publisher_loses_nothing() {
    let world = World::new().await;
    world.add_stream("out").await;
    world.publish(5_000).await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 1_000).await;
    for _ in 0..5 {
        let options = PublishOptions::default().max_batch(100);
        let publishing = tokio::spawn(publisher(&world, &pipeline, options).run());
        sleep(Duration::from_millis(15)).await;
        publishing.abort();
        let _ = publishing.await;
    }
    let publishing = tokio::spawn(publisher(&world, &pipeline, PublishOptions::default()).run());
    world.all_settled(&consumer).await;
    pipeline.manager.close();
    within(publishing).await.unwrap().unwrap();
    let found = world.payloads("out").await;
    assert_eq!((found.len(), found.values().max()), (5_000, Some(&1)));
    pipeline.stop().await.unwrap();
}
