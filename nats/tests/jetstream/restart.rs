//! A server that is restarted in the middle.

use std::time::Duration;

use conveyor_buffer_nats::{Delivery, Outgoing, PublishOptions, Publisher};
use tokio::time::sleep;

use crate::common::{Pipeline, World, publish, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_started_again_loses_and_repeats_nothing() {
    let mut world = World::new().await;
    world.add_stream("out").await;
    world.publish(6_000).await;
    let consumer = world.consumer(Duration::from_secs(1)).await;
    let pipeline = Pipeline::start(&world, &consumer, 400).await;
    let publisher = Publisher::new(
        world.context.clone(),
        pipeline.stage.clone(),
        pipeline.settler.clone(),
        |record: &Delivery| Outgoing::new("out.x", record.payload().clone()),
        PublishOptions::default().max_batch(50),
    );
    let published = publisher.stats();
    let publishing = tokio::spawn(publisher.run());
    for at in [1_000, 3_000] {
        until("it is in the middle", async || published.get().published >= at).await;
        world.server.kill().unwrap();
        sleep(Duration::from_millis(300)).await;
        world.server.start_again().unwrap();
    }
    world.all_settled(&consumer).await;
    let found = world.payloads("out").await;
    assert_eq!((found.len(), found.values().max()), (6_000, Some(&1)));

    // It also goes on after a restart while it was idle.
    world.server.kill().unwrap();
    world.server.start_again().unwrap();
    until("the client is back", async || world.client.flush().await.is_ok()).await;
    within(publish(&world.context, 6_000..6_100)).await;
    until("they are published", async || {
        world
            .context
            .get_stream("out")
            .await
            .is_ok_and(|out| out.cached_info().state.messages == 6_100)
    })
    .await;
    world.all_settled(&consumer).await;
    pipeline.manager.close();
    within(publishing).await.unwrap().unwrap();
    pipeline.stop().await.unwrap();
}
