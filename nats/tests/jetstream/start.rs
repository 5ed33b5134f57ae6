//! Settings that cannot work are errors at the start.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config as StreamConfig, RetentionPolicy};
use conveyor_buffer_nats::{DeadLetterRoute, PullOptions, Puller, StartError};

use crate::common::{World, manager};

const SECONDS_30: Duration = Duration::from_secs(30);

async fn start(
    world: &World,
    consumer: PullConsumer,
    cap: usize,
    options: PullOptions,
) -> Result<(), StartError> {
    let manager = manager(cap);
    let (source, stage) = (manager.source("in").unwrap(), manager.stage("work").unwrap());
    Puller::new(world.context.clone(), consumer, source, stage, Ok, options).await.map(drop)
}

async fn refusal(world: &World, config: pull::Config, cap: usize, options: PullOptions) -> String {
    let consumer = world.stream.create_consumer(config).await.unwrap();
    start(world, consumer, cap, options).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_consumer_that_does_not_fit_is_refused_with_what_it_should_be() {
    let world = World::new().await;
    let options = PullOptions::default();
    let explicit = pull::Config { ack_policy: AckPolicy::Explicit, ..pull::Config::default() };

    let none = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
    let text = refusal(&world, none, 10, options.clone()).await;
    assert!(text.contains("ack_policy") && text.contains("must be Explicit"), "{text}");

    // The server's own default is 1,000.
    let text = refusal(&world, explicit.clone(), 5_000, options.clone()).await;
    assert!(text.contains("max_ack_pending") && text.contains("is 1000"), "{text}");
    assert!(text.contains("at least 5000") && text.contains("at most 1000"), "{text}");

    let shared = pull::Config { max_ack_pending: 5_000, ..explicit.clone() };
    let text = refusal(&world, shared, 5_000, options.clone().processes(2)).await;
    assert!(text.contains("at least 10000"), "{text}");

    let short = pull::Config { ack_wait: Duration::from_millis(150), ..explicit.clone() };
    let text = refusal(&world, short, 1_000, options.clone()).await;
    assert!(text.contains("ack_wait") && text.contains("is 150ms"), "{text}");
    assert!(text.contains("at least 200ms") && text.contains("at most 750"), "{text}");

    let slow = pull::Config { ack_wait: SECONDS_30, ..explicit.clone() };
    let text = refusal(&world, slow, 1_000, options.clone().rate(50.0)).await;
    assert!(text.contains("at least 40s") && text.contains("at most 750"), "{text}");

    let once = pull::Config { max_deliver: 1, ..explicit };
    let text = refusal(&world, once, 10, options).await;
    assert!(text.contains("max_deliver"), "{text}");
}

#[tokio::test]
async fn settings_changed_since_the_handle_was_made_count() {
    let world = World::new().await;
    let stale = world.consumer(SECONDS_30).await;
    assert!(start(&world, stale.clone(), 2_000, PullOptions::default()).await.is_ok());
    let config = pull::Config {
        durable_name: Some("work".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: SECONDS_30,
        max_ack_pending: 100,
        ..pull::Config::default()
    };
    world.stream.create_consumer(config).await.unwrap();
    let error = start(&world, stale, 2_000, PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, StartError::MaxAckPending { found: 100, cap: 2_000, .. }), "{error}");
}

#[tokio::test]
async fn a_stream_that_deletes_terminated_messages_needs_a_route_for_dead_letters() {
    let retention = RetentionPolicy::WorkQueue;
    let world = World::with_stream(StreamConfig { retention, ..StreamConfig::default() }).await;
    let consumer = world.consumer(SECONDS_30).await;
    let options = PullOptions::default();
    let error = start(&world, consumer.clone(), 10, options.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::DeadLettersDeleted { .. }), "{error}");
    for route in [DeadLetterRoute::Publish("dead.in".into()), DeadLetterRoute::Discard] {
        let options = options.clone().dead_letters(route);
        start(&world, consumer.clone(), 10, options).await.unwrap();
    }
}

#[tokio::test]
async fn a_consumer_that_does_not_exist_is_an_error() {
    let world = World::new().await;
    let consumer = world.consumer(SECONDS_30).await;
    world.stream.delete_consumer("work").await.unwrap();
    let error = start(&world, consumer, 10, PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, StartError::Nats(_)), "{error}");
}
