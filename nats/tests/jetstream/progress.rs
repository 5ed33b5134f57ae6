//! Long work: *in progress* is sent in time, and only then.

use std::time::Duration;

use conveyor_buffer_nats::PullOptions;
use tokio::time::{Instant, sleep};

use crate::common::{Pipeline, World, manager, number, until, within};

const ACK_WAIT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_is_held_for_longer_than_ack_wait_is_not_delivered_again() {
    let world = World::new().await;
    world.publish(300).await;
    let consumer = world.consumer(ACK_WAIT).await;
    let pipeline = Pipeline::start(&world, &consumer, 300).await;
    until("all are there", async || pipeline.stage.len() == 300).await;
    let started = Instant::now();
    // A third is queued, a third in the hands of a worker, a third was returned.
    let in_hand = pipeline.stage.try_recv_batch(100).unwrap();
    pipeline.stage.try_recv_batch(100).unwrap().return_to_buffer();
    sleep(ACK_WAIT * 7 / 2).await;
    let info = consumer.get_info().await.unwrap();
    assert_eq!((info.num_ack_pending, info.num_redelivered), (300, 0));

    // Each message needs one for each half of `ack_wait`, and no more are sent.
    let halves = started.elapsed().as_millis() as u64 / 500;
    let sent = pipeline.settler.stats().in_progress;
    assert!(sent >= 300 * (halves - 1) && sent <= 300 * (halves + 1), "{sent} in {halves} halves");

    pipeline.settler.ack(in_hand).await.unwrap();
    while let Ok(batch) = pipeline.stage.try_recv_batch(100) {
        pipeline.settler.ack(batch).await.unwrap();
    }
    world.all_settled(&consumer).await;
    // Nothing more is sent for what is settled.
    let sent = pipeline.settler.stats().in_progress;
    sleep(ACK_WAIT).await;
    let stats = pipeline.stop().await.unwrap();
    assert_eq!((stats.in_progress, stats.redelivered, stats.acked), (sent, 0, 300));
}

#[tokio::test]
async fn nothing_is_sent_for_what_is_settled_in_time() {
    let world = World::new().await;
    world.publish(20_000).await;
    let consumer = world.consumer(ACK_WAIT * 4).await;
    let pipeline = Pipeline::start(&world, &consumer, 500).await;
    let mut acked = 0;
    while acked < 20_000 {
        let batch = within(pipeline.stage.recv_batch(100)).await.unwrap();
        acked += batch.len();
        pipeline.settler.ack(batch).await.unwrap();
    }
    world.all_settled(&consumer).await;
    let stats = pipeline.stop().await.unwrap();
    assert_eq!((stats.in_progress, stats.redelivered), (0, 0));
}

#[tokio::test]
async fn nothing_is_sent_for_what_is_settled_and_still_in_hand() {
    let world = World::new().await;
    world.publish(10).await;
    let consumer = world.consumer(ACK_WAIT).await;
    let options = PullOptions::default().progress_every(ACK_WAIT / 2);
    let pipeline = Pipeline::with(&world.context, &consumer, manager(10), options).await;
    until("all are there", async || pipeline.stage.len() == 10).await;
    let batch = pipeline.stage.try_recv_batch(10).unwrap();
    let acked = pipeline.settler.ack_records(&batch, |record| number(record) < 7).await;
    assert_eq!(acked.unwrap(), 7);
    until("some is sent", async || pipeline.settler.stats().in_progress > 0).await;
    sleep(ACK_WAIT / 4).await;
    assert_eq!(pipeline.settler.stats().in_progress, 3, "for the others alone");
    pipeline.settler.ack(batch).await.unwrap();
    world.all_settled(&consumer).await;
    pipeline.stop().await.unwrap();
}

#[tokio::test]
async fn work_near_ack_wait_leads_to_no_redelivery() {
    let world = World::new().await;
    world.publish(400).await;
    let consumer = world.consumer(ACK_WAIT).await;
    let pipeline = Pipeline::start(&world, &consumer, 200).await;
    let mut workers = Vec::new();
    for work in [9, 10, 11, 13] {
        let (stage, settler) = (pipeline.stage.clone(), pipeline.settler.clone());
        workers.push(tokio::spawn(async move {
            while let Ok(batch) = stage.recv_batch(40).await {
                sleep(ACK_WAIT * work / 10).await;
                settler.ack(batch).await.unwrap();
            }
        }));
    }
    world.all_settled(&consumer).await;
    let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
    pipeline.stop().await.unwrap();
    within(settler.shut_down(&manager, ACK_WAIT)).await;
    for worker in workers {
        worker.await.unwrap();
    }
    let stats = settler.stats();
    assert_eq!((stats.redelivered, stats.acked, stats.pulled), (0, 400, 400));
    assert!(stats.in_progress <= 400 * 6, "{stats:?}");
}

#[tokio::test]
async fn progress_goes_on_after_the_puller_has_ended() {
    let world = World::new().await;
    world.publish(10).await;
    let consumer = world.consumer(ACK_WAIT).await;
    let options = PullOptions::default().progress_every(ACK_WAIT / 4);
    let pipeline = Pipeline::with(&world.context, &consumer, manager(10), options).await;
    until("all are there", async || pipeline.stage.len() == 10).await;
    let batch = pipeline.stage.try_recv_batch(10).unwrap();
    let settler = pipeline.settler.clone();
    pipeline.stop().await.unwrap();
    sleep(ACK_WAIT * 2).await;
    let sent = settler.stats().in_progress;
    assert!((60..=80).contains(&sent), "{sent}");
    settler.ack(batch).await.unwrap();
    world.all_settled(&consumer).await;
    assert_eq!(consumer.get_info().await.unwrap().num_redelivered, 0);
}

#[tokio::test]
async fn a_slow_worker_beside_a_fast_one_loses_and_repeats_nothing() {
    let world = World::new().await;
    world.publish(3_000).await;
    let consumer = world.consumer(ACK_WAIT).await;
    // Two processes, as far as the server can tell: a connection and a buffer each.
    let mut pipelines = Vec::new();
    let mut workers = Vec::new();
    for (batch, work) in [(10, ACK_WAIT * 6 / 5), (100, Duration::from_millis(2))] {
        let client = async_nats::connect(world.server.url()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let handle = context.get_stream("in").await.unwrap().get_consumer("work").await.unwrap();
        let options = PullOptions::default().processes(2);
        let pipeline = Pipeline::with(&context, &handle, manager(40), options).await;
        let (stage, settler) = (pipeline.stage.clone(), pipeline.settler.clone());
        workers.push(tokio::spawn(async move {
            while let Ok(batch) = stage.recv_batch(batch).await {
                sleep(work).await;
                settler.ack(batch).await.unwrap();
            }
        }));
        pipelines.push(pipeline);
    }
    world.all_settled(&consumer).await;
    assert_eq!(consumer.get_info().await.unwrap().num_redelivered, 0);
    let mut acked = Vec::new();
    for pipeline in pipelines {
        let (settler, manager) = (pipeline.settler.clone(), pipeline.manager.clone());
        pipeline.stop().await.unwrap();
        within(settler.shut_down(&manager, ACK_WAIT)).await;
        assert_eq!(settler.stats().redelivered, 0);
        acked.push(settler.stats().acked);
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(acked.iter().sum::<u64>(), 3_000);
    assert!(
        acked[0] >= 10 && acked[1] > 2_500,
        "the slow one holds no more than its cap: {acked:?}"
    );
}
