//! A server with a stream and a consumer, and what the tests do with them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config as StreamConfig, Stream};
use async_nats::jetstream::{self, Context};
use conveyor_buffer::{BufferManager, BufferSettings, Source, Stage};
use conveyor_buffer_nats::{Delivery, PullError, PullOptions, PullStats, Puller, Settler};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::server::Server;

/// No test takes that long, unless something waits forever.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A server with the stream `in` on the subjects `in.>`, and a client.
pub struct World {
    pub server: Server,
    pub client: Client,
    pub context: Context,
    pub stream: Stream,
}

impl World {
    pub async fn new() -> Self {
        Self::with_stream(StreamConfig::default()).await
    }

    pub async fn with_stream(config: StreamConfig) -> Self {
        let server = Server::start().expect("a server");
        let client = async_nats::connect(server.url()).await.expect("a connection");
        let context = jetstream::new(client.clone());
        let config = StreamConfig { name: "in".into(), subjects: vec!["in.>".into()], ..config };
        let stream = context.create_stream(config).await.expect("a stream");
        Self { server, client, context, stream }
    }

    /// Adds a stream with the name and the subjects `name.>`.
    pub async fn add_stream(&self, name: &str) -> Stream {
        let config = StreamConfig {
            name: name.into(),
            subjects: vec![format!("{name}.>")],
            ..StreamConfig::default()
        };
        self.context.create_stream(config).await.expect("another stream")
    }

    /// Publishes the numbers from 0 to `in.n`, each with its number as the payload.
    pub async fn publish(&self, messages: usize) {
        publish(&self.context, 0..messages).await;
    }

    pub async fn consumer(&self, ack_wait: Duration) -> PullConsumer {
        self.consumer_with(pull::Config { ack_wait, ..pull::Config::default() }).await
    }

    /// Creates the durable consumer `work`, which is explicit and has no limit of its own.
    pub async fn consumer_with(&self, config: pull::Config) -> PullConsumer {
        let config = pull::Config {
            durable_name: Some("work".into()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: if config.max_ack_pending == 0 { -1 } else { config.max_ack_pending },
            ..config
        };
        self.stream.create_consumer(config).await.expect("a consumer")
    }

    /// Waits until the server counts no message that is delivered or to be delivered.
    pub async fn all_settled(&self, consumer: &PullConsumer) {
        until("all messages are settled", async || {
            let info = consumer.get_info().await.expect("the consumer");
            info.num_ack_pending == 0 && info.num_pending == 0
        })
        .await;
    }

    /// Returns how often each payload is in a stream.
    pub async fn payloads(&self, stream: &str) -> BTreeMap<String, usize> {
        let mut stream = self.context.get_stream(stream).await.expect("the stream");
        let messages = stream.info().await.expect("its state").state.messages;
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.expect("a reader");
        let mut found = BTreeMap::new();
        let mut batch =
            consumer.fetch().max_messages(messages as usize + 1).messages().await.expect("them");
        while let Some(Ok(message)) = batch.next().await {
            let text = String::from_utf8(message.payload.to_vec()).expect("text");
            *found.entry(text).or_insert(0) += 1;
        }
        assert_eq!(found.values().sum::<usize>(), messages as usize, "all of the stream is read");
        found
    }
}

pub async fn publish(context: &Context, numbers: std::ops::Range<usize>) {
    let mut acknowledgements = FuturesUnordered::new();
    for n in numbers {
        let sent = context.publish(format!("in.{n}"), n.to_string().into()).await;
        acknowledgements.push(async move { sent.expect("sent").await });
        if acknowledgements.len() == 500 {
            acknowledgements.next().await.expect("one").expect("stored");
        }
    }
    while let Some(stored) = acknowledgements.next().await {
        stored.expect("stored");
    }
}

/// A buffer with one stage and one source, and a puller that runs.
pub struct Pipeline {
    pub manager: BufferManager<Delivery>,
    pub stage: Stage<Delivery>,
    pub source: Source<Delivery>,
    pub settler: Settler,
    stop: Option<oneshot::Sender<()>>,
    pulling: JoinHandle<Result<PullStats, PullError>>,
}

impl Pipeline {
    pub async fn start(world: &World, consumer: &PullConsumer, cap: usize) -> Self {
        Self::with(&world.context, consumer, manager(cap), PullOptions::default()).await
    }

    pub async fn with(
        context: &Context,
        consumer: &PullConsumer,
        manager: BufferManager<Delivery>,
        options: PullOptions,
    ) -> Self {
        let stage = manager.stage("work").unwrap();
        let source = manager.source("in").unwrap();
        let (context, consumer) = (context.clone(), consumer.clone());
        let puller =
            Puller::new(context, consumer, source.clone(), stage.clone(), Ok, options).await;
        let puller = puller.expect("the settings fit");
        let settler = puller.settler();
        let (stop, stopped) = oneshot::channel();
        let pulling = tokio::spawn(puller.run(async {
            let _ = stopped.await;
        }));
        Self { manager, stage, source, settler, stop: Some(stop), pulling }
    }

    pub fn held(&self) -> usize {
        self.stage.len() + self.stage.in_flight()
    }

    /// Tells the puller to stop, and waits for it.
    pub async fn stop(mut self) -> Result<PullStats, PullError> {
        self.stop.take();
        self.ended().await
    }

    /// Waits until the puller ends by itself.
    pub async fn ended(self) -> Result<PullStats, PullError> {
        // `self.stop` lives until then.
        timeout(LIMIT, self.pulling).await.expect("the puller ends").expect("without a panic")
    }
}

/// A buffer whose source and stage hold up to `cap` records.
pub fn manager(cap: usize) -> BufferManager<Delivery> {
    BufferManager::new(BufferSettings {
        max_total_records: cap,
        max_per_stage: cap,
        max_per_source: cap,
        ..BufferSettings::default()
    })
}

pub fn number(delivery: &Delivery) -> usize {
    std::str::from_utf8(delivery.payload()).unwrap().parse().unwrap()
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds().await {
        assert!(Instant::now() < deadline, "not reached: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("no test waits for long")
}
