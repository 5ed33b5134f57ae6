//! Shutting down: drain, then hand back what is left.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::{Pipeline, World, until, within};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn workers_have_a_grace_period_for_what_is_in_the_buffer() {
    let world = World::new().await;
    world.publish(200).await;
    let consumer = world.consumer(MINUTE).await;
    let pipeline = Pipeline::start(&world, &consumer, 200).await;
    until("all are there", async || pipeline.stage.len() == 200).await;
    let worker = tokio::spawn({
        let (stage, settler) = (pipeline.stage.clone(), pipeline.settler.clone());
        async move {
            while let Ok(batch) = stage.recv_batch(20).await {
                sleep(Duration::from_millis(20)).await;
                settler.ack(batch).await.unwrap();
            }
        }
    });
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    pipeline.stop().await.unwrap();
    let report = within(settler.shut_down(&manager, MINUTE)).await;
    assert_eq!((report.handed_back, report.remaining.records()), (0, 0));
    assert_eq!(settler.stats().acked, 200);
    within(worker).await.unwrap();
    world.all_settled(&consumer).await;
}

#[tokio::test]
async fn what_is_left_is_handed_back_and_delivered_to_others_at_once() {
    let world = World::new().await;
    world.publish(200).await;
    let consumer = world.consumer(MINUTE).await;
    let pipeline = Pipeline::start(&world, &consumer, 200).await;
    until("all are there", async || pipeline.stage.len() == 200).await;
    // A worker that is too slow for the grace period, and one that is gone.
    let slow = tokio::spawn({
        let (stage, settler) = (pipeline.stage.clone(), pipeline.settler.clone());
        async move {
            let batch = stage.try_recv_batch(30).unwrap();
            sleep(SECOND).await;
            settler.ack(batch).await.unwrap();
        }
    });
    let stuck = tokio::spawn({
        let stage = pipeline.stage.clone();
        async move {
            let _batch = stage.try_recv_batch(20).unwrap();
            sleep(MINUTE).await;
        }
    });
    until("both work", async || pipeline.stage.in_flight() == 50).await;
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    pipeline.stop().await.unwrap();
    let started = Instant::now();
    let report = within(settler.shut_down(&manager, Duration::from_millis(200))).await;
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    assert_eq!((report.handed_back, report.remaining.records()), (150, 50));

    let other = Pipeline::start(&world, &consumer, 200).await;
    until("the other has them", async || other.stage.len() == 150).await;
    assert!(started.elapsed() < SECOND * 5, "long before ack_wait");
    // The slow worker may still settle what it holds.
    within(slow).await.unwrap();
    // What an aborted worker held is handed back by a second call.
    stuck.abort();
    let _ = stuck.await;
    let report = within(settler.shut_down(&manager, Duration::ZERO)).await;
    assert_eq!((report.handed_back, report.remaining.records()), (20, 0));
    until("the other has these too", async || other.stage.len() == 170).await;
    while let Ok(batch) = other.stage.try_recv_batch(100) {
        assert!(batch.iter().all(|record| record.delivered() == 2));
        other.settler.ack(batch).await.unwrap();
    }
    world.all_settled(&consumer).await;
    other.stop().await.unwrap();
}

#[tokio::test]
async fn dead_letters_that_nothing_received_are_handed_back() {
    let world = World::new().await;
    world.publish(5).await;
    let consumer = world.consumer(MINUTE).await;
    let pipeline = Pipeline::start(&world, &consumer, 10).await;
    until("all are there", async || pipeline.stage.len() == 5).await;
    let batch = pipeline.stage.try_recv_batch(10).unwrap();
    batch.settle(|_| conveyor_buffer::Outcome::DeadLetter);
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    pipeline.stop().await.unwrap();
    let report = within(settler.shut_down(&manager, Duration::from_millis(50))).await;
    assert_eq!((report.handed_back, report.remaining.records()), (5, 0));
    let other = Pipeline::start(&world, &consumer, 10).await;
    until("the other has them", async || other.stage.len() == 5).await;
    other.stop().await.unwrap();
}

#[tokio::test]
async fn a_shutdown_without_a_connection_ends() {
    let mut world = World::new().await;
    world.publish(100).await;
    let consumer = world.consumer(MINUTE).await;
    let options = conveyor_buffer_nats::PullOptions::default()
        .double_ack(true)
        .ack_timeout(Duration::from_millis(300));
    let manager = crate::common::manager(100);
    let pipeline = Pipeline::with(&world.context, &consumer, manager, options).await;
    until("all are there", async || pipeline.stage.len() == 100).await;
    world.server.kill().unwrap();
    let started = Instant::now();
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    within(pipeline.stop()).await.unwrap();
    let report = within(settler.shut_down(&manager, Duration::from_millis(100))).await;
    assert_eq!((report.handed_back, report.remaining.records()), (0, 100));
    assert!(started.elapsed() < SECOND * 8, "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_a_shutdown_leaves_in_hands_or_delayed_is_delivered_again_after_ack_wait() {
    let world = World::new().await;
    world.publish(20).await;
    let consumer = world.consumer(SECOND).await;
    let pipeline = Pipeline::start(&world, &consumer, 20).await;
    until("all are there", async || pipeline.stage.len() == 20).await;
    let in_hand = pipeline.stage.try_recv_batch(5).unwrap();
    pipeline.stage.try_recv_batch(5).unwrap().return_after(MINUTE);
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    pipeline.stop().await.unwrap();
    let report = within(settler.shut_down(&manager, Duration::from_millis(50))).await;
    assert_eq!((report.handed_back, report.remaining.records()), (10, 10));
    // The process goes on, and still holds them.
    let other = Pipeline::start(&world, &consumer, 20).await;
    until("the other has all", async || other.stage.len() == 20).await;
    drop(in_hand);
    other.stop().await.unwrap();
}
