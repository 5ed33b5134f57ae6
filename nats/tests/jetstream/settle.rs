//! Settling: upstream first, then in the buffer, and never by a drop.

use std::time::Duration;

use async_nats::Subscriber;
use conveyor_buffer::{Envelope, Outcome};
use conveyor_buffer_nats::PullOptions;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use crate::common::{Pipeline, World, manager, number, until, within};

const SECOND: Duration = Duration::from_secs(1);
const SECONDS_30: Duration = Duration::from_secs(30);

/// Returns what was sent to the server about messages: the kind and the stream sequence.
async fn settlements(watcher: &mut Subscriber) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    while let Ok(Some(message)) = timeout(Duration::from_millis(200), watcher.next()).await {
        let sequence = message.subject.split('.').nth(5).unwrap().parse().unwrap();
        found.push((String::from_utf8(message.payload.to_vec()).unwrap(), sequence));
    }
    found
}

#[tokio::test]
async fn an_acknowledged_batch_is_acknowledged_upstream_before_it_is_released() {
    for double_ack in [false, true] {
        let world = World::new().await;
        world.publish(1_000).await;
        let consumer = world.consumer(SECONDS_30).await;
        let options = PullOptions::default().double_ack(double_ack);
        let pipeline = Pipeline::with(&world.context, &consumer, manager(100), options).await;
        let mut left = 1_000;
        while left > 0 {
            let batch = within(pipeline.stage.recv_batch(60)).await.unwrap();
            let records = batch.len();
            let before = pipeline.settler.stats().acked;
            let mut acking = Box::pin(pipeline.settler.ack(batch));
            // As long as one acknowledgement is missing, the buffer holds the batch.
            loop {
                let held = pipeline.stage.in_flight() + pipeline.stage.len();
                let acked = pipeline.settler.stats().acked - before;
                assert!(acked == records as u64 || held >= records, "{acked} of {records}, {held}");
                if timeout(Duration::ZERO, &mut acking).await.is_ok() {
                    break;
                }
            }
            left -= records;
            if double_ack {
                // The server has them.
                let info = consumer.get_info().await.unwrap();
                assert!(info.num_ack_pending <= 100, "{}", info.num_ack_pending);
            }
        }
        if double_ack {
            assert_eq!(consumer.get_info().await.unwrap().num_ack_pending, 0);
        }
        world.all_settled(&consumer).await;
        assert_eq!(pipeline.stop().await.unwrap().acked, 1_000);
    }
}

#[tokio::test]
async fn acknowledgements_that_are_not_confirmed_hand_the_batch_back() {
    let mut world = World::new().await;
    world.publish(10).await;
    let consumer = world.consumer(SECONDS_30).await;
    let options = PullOptions::default().double_ack(true).ack_timeout(Duration::from_millis(300));
    let pipeline = Pipeline::with(&world.context, &consumer, manager(10), options).await;
    until("all are there", async || pipeline.stage.len() == 10).await;
    let batch = within(pipeline.stage.recv_batch(10)).await.unwrap();
    world.server.kill().unwrap();
    let error = within(pipeline.settler.ack(batch)).await.unwrap_err();
    assert_eq!(error.batch.len(), 10);
    assert_eq!((pipeline.stage.in_flight(), pipeline.source.available_credits()), (10, 0));
    assert_eq!(error.to_string(), "10 records are not settled upstream: not settled within 300ms");
    assert!(error.batch.iter().all(|record| !record.is_settled()));
    let stats = pipeline.settler.stats();
    assert_eq!((stats.failed, stats.acked), (10, 0));
    // The same batch can be acknowledged later.
    world.server.start_again().unwrap();
    let mut batch = error.batch;
    loop {
        match within(pipeline.settler.ack(batch)).await {
            Ok(()) => break,
            Err(again) => batch = again.batch,
        }
    }
    // A server that was killed may have forgotten what it had delivered, and deliver it again.
    until("all are settled", async || {
        if let Ok(batch) = pipeline.stage.try_recv_batch(10) {
            let _ = pipeline.settler.ack(batch).await;
        }
        consumer
            .get_info()
            .await
            .is_ok_and(|info| info.num_ack_pending + info.num_pending as usize == 0)
    })
    .await;
}

#[tokio::test]
async fn a_closed_client_hands_the_batch_back() {
    let world = World::new().await;
    world.publish(10).await;
    let consumer = world.consumer(SECOND).await;
    let other = async_nats::connect(world.server.url()).await.unwrap();
    let context = async_nats::jetstream::new(other.clone());
    let handle = context.get_stream("in").await.unwrap().get_consumer("work").await.unwrap();
    let options = PullOptions::default().ack_timeout(SECOND);
    let pipeline = Pipeline::with(&context, &handle, manager(10), options).await;
    until("all are there", async || pipeline.stage.len() == 10).await;
    let batch = within(pipeline.stage.recv_batch(10)).await.unwrap();
    other.drain().await.unwrap();
    until("the client is closed", async || other.publish("x", "".into()).await.is_err()).await;
    let error = within(pipeline.settler.ack(batch)).await.unwrap_err();
    assert_eq!((error.batch.len(), pipeline.stage.in_flight()), (10, 10));
    error.batch.return_to_buffer();
    assert_eq!(pipeline.stage.len(), 10);
    // With room for more it asks for more, and sees that it cannot.
    drop(pipeline.stage.try_recv_batch(10).unwrap().into_records());
    assert!(within(pipeline.ended()).await.is_err(), "a puller without a client ends");
    // Nothing was acknowledged: another process gets all of it.
    let next = Pipeline::start(&world, &consumer, 10).await;
    until("they come again", async || next.stage.len() == 10).await;
    next.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_acknowledged_by_a_drop() {
    let world = World::new().await;
    world.publish(40).await;
    let mut watcher = world.client.subscribe("$JS.ACK.>").await.unwrap();
    let consumer = world.consumer(SECOND * 4).await;
    let pipeline = Pipeline::start(&world, &consumer, 40).await;
    until("all are there", async || pipeline.stage.len() == 40).await;
    // A batch, records that were taken out, a worker that panics, a task that is aborted, and a
    // buffer that is dropped with what it holds.
    drop(pipeline.stage.try_recv_batch(10).unwrap());
    drop(pipeline.stage.try_recv_batch(10).unwrap().into_records());
    let stage = pipeline.stage.clone();
    let panicking = tokio::spawn(async move {
        let _batch = stage.try_recv_batch(10).unwrap();
        panic!("a worker panics, as it should");
    });
    assert!(panicking.await.unwrap_err().is_panic());
    let stage = pipeline.stage.clone();
    let sleeping = tokio::spawn(async move {
        let _batch = stage.try_recv_batch(10).unwrap();
        sleep(SECONDS_30).await;
    });
    sleep(Duration::from_millis(20)).await;
    sleeping.abort();
    assert!(sleeping.await.unwrap_err().is_cancelled());
    pipeline.stop().await.unwrap();
    assert_eq!(settlements(&mut watcher).await, [], "nothing was sent");
    // All 40 are delivered again.
    let next = Pipeline::start(&world, &consumer, 40).await;
    until("they come again", async || next.stage.len() == 40).await;
    let batch = next.stage.try_recv_batch(40).unwrap();
    assert!(batch.iter().all(|record| record.delivered() == 2));
    next.settler.ack(batch).await.unwrap();
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_handed_back_batch_is_delivered_again_after_the_delay() {
    let world = World::new().await;
    world.publish(5).await;
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 10).await;
    until("all are there", async || pipeline.stage.len() == 5).await;
    for (delay, times) in [(None, 2), (Some(SECOND), 3)] {
        let batch = within(pipeline.stage.recv_batch(5)).await.unwrap();
        let started = Instant::now();
        pipeline.settler.nak(batch, delay).await.unwrap();
        if delay.is_some() {
            // All that is held is the permit of the request that waits for the next message.
            assert!(pipeline.held() <= 1, "free here at once");
        }
        until("they come again", async || pipeline.stage.len() == 5).await;
        let elapsed = started.elapsed();
        match delay {
            None => assert!(elapsed < SECOND * 2, "{elapsed:?}"),
            Some(delay) => assert!(elapsed >= delay * 9 / 10, "{elapsed:?}"),
        }
        let batch = within(pipeline.stage.recv_batch(5)).await.unwrap();
        for record in &batch {
            assert_eq!((record.delivered(), record.retry_count()), (times, 0));
        }
        drop(batch);
    }
    let batch = within(pipeline.stage.recv_batch(5)).await.unwrap();
    pipeline.settler.ack(batch).await.unwrap();
    world.all_settled(&consumer).await;
    let stats = pipeline.stop().await.unwrap();
    assert_eq!((stats.nacked, stats.redelivered, stats.acked), (10, 10, 5));
}

#[tokio::test]
async fn some_records_of_a_batch_are_acknowledged_and_the_others_retried_here() {
    let world = World::new().await;
    world.publish(10).await;
    let mut watcher = world.client.subscribe("$JS.ACK.>").await.unwrap();
    let consumer = world.consumer(SECONDS_30).await;
    let pipeline = Pipeline::start(&world, &consumer, 10).await;
    until("all are there", async || pipeline.stage.len() == 10).await;
    let batch = within(pipeline.stage.recv_batch(10)).await.unwrap();
    let acked =
        pipeline.settler.ack_records(&batch, |record| number(record).is_multiple_of(2)).await;
    assert_eq!(acked.unwrap(), 5);
    assert_eq!(batch.len(), 10);
    // A second call sends nothing for those that are settled.
    pipeline.settler.ack_records(&batch, |record| number(record) < 3).await.unwrap();
    batch.settle(|record| if record.is_settled() { Outcome::Ack } else { Outcome::Return });
    let batch = within(pipeline.stage.recv_batch(10)).await.unwrap();
    let left: Vec<_> = batch.iter().map(|record| (number(record), record.retry_count())).collect();
    assert_eq!(left, [(3, 1), (5, 1), (7, 1), (9, 1)]);
    pipeline.settler.ack(batch).await.unwrap();
    let sent = settlements(&mut watcher).await;
    assert!(sent.iter().all(|(kind, _)| kind == "+ACK"), "{sent:?}");
    let mut sequences: Vec<_> = sent.into_iter().map(|(_, sequence)| sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=10).collect::<Vec<_>>(), "each exactly once");
    world.all_settled(&consumer).await;
    pipeline.stop().await.unwrap();
}
