//! Worker processes that are killed at random moments.

use std::env;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream;
use conveyor_buffer_nats::{Delivery, Outgoing, PublishOptions, Publisher, PullOptions};
use tokio::time::sleep;

use crate::common::{Pipeline, World, manager, publish};

/// Set to run another number of rounds than [`ROUNDS`].
const ROUNDS_VARIABLE: &str = "CONVEYOR_NATS_ROUNDS";
const ROUNDS: usize = 20;
const MESSAGES: usize = 1_500;
const ACK_WAIT: Duration = Duration::from_millis(700);

/// Set in a worker process: where the server is.
const URL: &str = "CONVEYOR_NATS_TEST_URL";

/// The worker process: it pulls from `work`, and publishes to `out`, until it is killed.
///
/// It is a test so that this test program can run itself. Without the address it does nothing.
#[tokio::test]
#[ignore = "the worker process of the test below"]
async fn worker_process() {
    let Ok(url) = env::var(URL) else { return };
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let consumer = context.get_stream("in").await.unwrap().get_consumer("work").await.unwrap();
    let options = PullOptions::default().processes(2);
    let pipeline = Pipeline::with(&context, &consumer, manager(300), options).await;
    let publisher = Publisher::new(
        context,
        pipeline.stage.clone(),
        pipeline.settler.clone(),
        |record: &Delivery| Outgoing::new("out.x", record.payload().clone()),
        PublishOptions::default().max_batch(20),
    );
    publisher.run().await.unwrap();
}

/// A worker process. It is killed with -9 when this is dropped.
struct Worker(Child);

impl Worker {
    fn start(url: &str) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "kill::worker_process", "--ignored", "--nocapture"])
            .env(URL, url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_killed_at_random_moments_lose_and_repeat_nothing() {
    let rounds = env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let world = World::new().await;
    let out = world.add_stream("out").await;
    let consumer = world.consumer(ACK_WAIT).await;
    // Not for secrecy: another moment in each run.
    let mut random = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("seed {random}");
    let mut survivor = Worker::start(&world.server.url());
    let mut redelivered = 0;
    for round in 0..rounds {
        let (first, next) = (round * MESSAGES, (round + 1) * MESSAGES);
        let victim = Worker::start(&world.server.url());
        publish(&world.context, first..next).await;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        sleep(Duration::from_micros(random % 250_000)).await;
        // The older one dies, the younger one survives.
        drop(std::mem::replace(&mut survivor, victim));
        redelivered += consumer.get_info().await.unwrap().num_ack_pending;
    }
    world.all_settled(&consumer).await;
    let found = world.payloads("out").await;
    for n in 0..rounds * MESSAGES {
        assert_eq!(found.get(&n.to_string()), Some(&1), "message {n}");
    }
    assert_eq!(out.get_info().await.unwrap().state.messages as usize, rounds * MESSAGES);
    println!("up to {redelivered} messages were in the hands of a worker that was killed");
    assert!(redelivered > 0, "no worker was killed in the middle: the moments are badly chosen");
}
