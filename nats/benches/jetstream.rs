//! Messages a second through the buffer, beside plain loops on the same consumer settings.
//!
//! `cargo bench -p conveyor-buffer-nats` prints the tables of BENCHMARKS.md in four minutes.
//! `-- --test` runs everything once with few messages.

#[path = "../examples/flights_nats/server.rs"]
mod server;

use std::env;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::Config as StreamConfig;
use async_nats::jetstream::{self, Context};
use conveyor_buffer::{BufferManager, BufferSettings};
use conveyor_buffer_nats::{Delivery, PullOptions, PullStats, Puller, SettleError};
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::server::Server;

/// The size of a request, and of a worker's batch, where rates are measured.
const BATCH: usize = 500;

/// The work of a batch, where there is work.
const WORK: Duration = Duration::from_millis(5);

/// How long a worker waits at most for its batch to be filled, if a batch is work.
const LINGER: Duration = Duration::from_millis(5);

/// The messages, batches and time limit where the work of a batch takes about as long as that.
const FEW: usize = 400;
const FEW_BATCH: usize = 50;
const FEW_WORKERS: usize = 4;
const ACK_WAIT: Duration = Duration::from_secs(1);

/// The interval at which the server is asked whether all is done.
const PAUSE: Duration = Duration::from_millis(2);

const GRACE: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is measured: the rates of each round.
struct Row {
    name: &'static str,
    kind: Kind,
    rates: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Kind {
    Loop(Plain),
    Buffer { requests: usize, workers: usize },
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let quick = env::args().any(|argument| argument == "--test");
    let messages = if quick { 5_000 } else { 100_000 };
    let rounds = if quick { 1 } else { 11 };

    let server = Server::start()?;
    let client = async_nats::connect(server.url()).await?;
    let context = jetstream::new(client);
    let config =
        StreamConfig { name: "in".into(), subjects: vec!["in".into()], ..StreamConfig::default() };
    context.create_stream(config).await?;
    publish(&context, "in", messages).await?;
    let bench = Bench { context, messages };

    println!(
        "{messages} messages of 100 bytes, {rounds} rounds, requests and batches of {BATCH}\n"
    );
    let loops = [
        ("loop of `fetch`", Kind::Loop(Plain::Fetch)),
        ("loop of `batch`", Kind::Loop(Plain::Batch)),
        ("loop over `messages`", Kind::Loop(Plain::Stream)),
    ];
    let buffer = |requests, workers| Kind::Buffer { requests, workers };
    let buffers = [("buffer, 1 request", buffer(1, 1)), ("buffer, 2 requests", buffer(2, 1))];
    bench.compare("no work", Duration::ZERO, rounds, loops.into_iter().chain(buffers)).await?;
    let buffers = [("buffer, 1 worker", buffer(2, 1)), ("buffer, 4 workers", buffer(2, 4))];
    let rows = loops.into_iter().chain(buffers);
    bench.compare("5 ms of work a batch", WORK, rounds.div_ceil(2), rows).await?;
    let works: &[u64] = if quick { &[1_500] } else { &[500, 900, 1_500, 3_000] };
    let works: Vec<_> = works.iter().copied().map(Duration::from_millis).collect();
    bench.near_ack_wait(&works).await
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    context: Context,
    messages: usize,
}

#[derive(Clone, Copy)]
enum Plain {
    Fetch,
    Batch,
    Stream,
}

impl Bench {
    /// Measures all rows in turns, and prints them with their ratios to the loops.
    async fn compare(
        &self,
        title: &str,
        work: Duration,
        rounds: usize,
        rows: impl Iterator<Item = (&'static str, Kind)>,
    ) -> Result<(), Failure> {
        let mut rows: Vec<_> =
            rows.map(|(name, kind)| Row { name, kind, rates: Vec::new() }).collect();
        for _ in 0..rounds {
            for row in &mut rows {
                row.rates.push(match row.kind {
                    Kind::Loop(kind) => self.plain(kind, work).await?,
                    Kind::Buffer { requests, workers } => {
                        self.buffered(requests, workers, work).await?
                    }
                });
            }
        }
        println!("| {title} | messages/s | least | most | times `fetch` | `batch` | `messages` |");
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
        for row in &rows {
            let least = row.rates.iter().copied().fold(f64::INFINITY, f64::min);
            let most = row.rates.iter().copied().fold(0.0, f64::max);
            print!("| {} | {:.0} | {least:.0} | {most:.0} |", row.name, median(row.rates.clone()));
            for other in &rows[..3] {
                let ratios = row.rates.iter().zip(&other.rates).map(|(rate, other)| rate / other);
                print!(" {:.2} |", median(ratios.collect()));
            }
            println!();
        }
        println!();
        Ok(())
    }

    /// Lets the work of a batch take about `ack_wait`, and prints what is delivered again.
    async fn near_ack_wait(&self, works: &[Duration]) -> Result<(), Failure> {
        let config = StreamConfig {
            name: "few".into(),
            subjects: vec!["few".into()],
            ..StreamConfig::default()
        };
        self.context.create_stream(config).await?;
        publish(&self.context, "few", FEW).await?;
        println!(
            "{FEW} messages, {FEW_WORKERS} workers, batches of {FEW_BATCH}, `ack_wait` {ACK_WAIT:?}\n"
        );
        println!("| work of a batch | redelivered to loops | to buffers | in progress sent |");
        println!("| --- | ---: | ---: | ---: |");
        for &work in works {
            let consumer = self.few().await?;
            let loops = (0..FEW_WORKERS).map(|place| slow_loop(&consumer, work, place));
            let redelivered: usize = try_join_all(loops).await?.iter().sum();
            let consumer = self.few().await?;
            let (stats, _) =
                self.through_buffer(&consumer, 2, FEW_WORKERS, FEW_BATCH, FEW, work).await?;
            let (to_buffer, in_progress) = (stats.redelivered, stats.in_progress);
            println!("| {work:?} | {redelivered} | {to_buffer} | {in_progress} |");
        }
        Ok(())
    }

    async fn few(&self) -> Result<PullConsumer, Failure> {
        let config = pull::Config {
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            ..pull::Config::default()
        };
        Ok(self.context.create_consumer_on_stream(config, "few").await?)
    }

    async fn consumer(&self) -> Result<PullConsumer, Failure> {
        let config = pull::Config {
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        Ok(self.context.create_consumer_on_stream(config, "in").await?)
    }

    /// Pulls, works and acknowledges in one loop.
    async fn plain(&self, kind: Plain, work: Duration) -> Result<f64, Failure> {
        let consumer = self.consumer().await?;
        let started = Instant::now();
        let mut left = self.messages;
        if let Plain::Stream = kind {
            let stream = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
            let mut chunks = stream.ready_chunks(BATCH);
            while left > 0 {
                let chunk = chunks.next().await.ok_or("the stream ended")?;
                pause(work).await;
                for message in chunk {
                    message?.ack().await?;
                    left -= 1;
                }
            }
        }
        while left > 0 {
            let messages = match kind {
                Plain::Fetch => consumer.fetch().max_messages(BATCH).messages().await?,
                _ => consumer.batch().max_messages(BATCH).messages().await?,
            };
            let batch: Vec<_> = messages.collect().await;
            pause(work).await;
            for message in batch {
                message?.ack().await?;
                left -= 1;
            }
        }
        all_acknowledged(&consumer, self.messages).await?;
        self.rate(&consumer, started.elapsed()).await
    }

    async fn buffered(
        &self,
        requests: usize,
        workers: usize,
        work: Duration,
    ) -> Result<f64, Failure> {
        let consumer = self.consumer().await?;
        let (_, elapsed) =
            self.through_buffer(&consumer, requests, workers, BATCH, self.messages, work).await?;
        self.rate(&consumer, elapsed).await
    }

    /// Pulls all messages into a buffer, from which workers take batches. Returns the counts, and
    /// the time until the server had all acknowledgements.
    async fn through_buffer(
        &self,
        consumer: &PullConsumer,
        requests: usize,
        workers: usize,
        batch: usize,
        messages: usize,
        work: Duration,
    ) -> Result<(PullStats, Duration), Failure> {
        let settings = BufferSettings { max_per_source: 8 * batch, ..BufferSettings::default() };
        let manager = BufferManager::<Delivery>::new(settings);
        let (stage, source) = (manager.stage("work")?, manager.source("in")?);
        let options = PullOptions::default().max_batch(batch).requests(requests);
        let (context, handle) = (self.context.clone(), consumer.clone());
        let puller = Puller::new(context, handle, source, stage.clone(), Ok, options).await?;
        let settler = puller.settler();
        let (stop, stopped) = oneshot::channel::<()>();
        let started = Instant::now();
        let pulling = tokio::spawn(puller.run(async {
            let _ = stopped.await;
        }));
        let mut tasks = Vec::new();
        let linger = LINGER.min(work);
        for _ in 0..workers {
            let (stage, settler) = (stage.clone(), settler.clone());
            tasks.push(tokio::spawn(async move {
                while let Ok(batch) = stage.recv_batch_linger(batch, linger).await {
                    pause(work).await;
                    settler.ack(batch).await?;
                }
                Ok::<(), SettleError<Delivery>>(())
            }));
        }
        all_acknowledged(consumer, messages).await?;
        let elapsed = started.elapsed();
        drop(stop);
        let stats = pulling.await??;
        settler.shut_down(&manager, GRACE).await;
        for task in tasks {
            task.await??;
        }
        Ok((stats, elapsed))
    }

    async fn rate(&self, consumer: &PullConsumer, elapsed: Duration) -> Result<f64, Failure> {
        self.context.delete_consumer_from_stream(&consumer.cached_info().name, "in").await?;
        Ok(self.messages as f64 / elapsed.as_secs_f64())
    }
}

/// A plain loop whose batches take long. Returns how many messages were delivered to it again.
async fn slow_loop(
    consumer: &PullConsumer,
    work: Duration,
    place: usize,
) -> Result<usize, Failure> {
    let mut redelivered = 0;
    // Loops that go in step acknowledge together before they ask for more.
    sleep(work * place as u32 / FEW_WORKERS as u32).await;
    while consumer.get_info().await?.ack_floor.stream_sequence < FEW as u64 {
        let messages = consumer.fetch().max_messages(FEW_BATCH).messages().await?;
        let batch: Vec<_> = messages.try_collect().await?;
        sleep(if batch.is_empty() { PAUSE } else { work }).await;
        for message in batch {
            redelivered += usize::from(message.info()?.delivered > 1);
            message.ack().await?;
        }
    }
    Ok(redelivered)
}

/// Waits until the server has the acknowledgements of all messages.
async fn all_acknowledged(consumer: &PullConsumer, messages: usize) -> Result<(), Failure> {
    while consumer.get_info().await?.ack_floor.stream_sequence < messages as u64 {
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn pause(work: Duration) {
    if !work.is_zero() {
        sleep(work).await;
    }
}

async fn publish(context: &Context, stream: &'static str, messages: usize) -> Result<(), Failure> {
    let mut waiting = FuturesUnordered::new();
    for _ in 0..messages {
        waiting.push(context.publish(stream, vec![b'x'; 100].into()).await?.into_future());
        if waiting.len() >= 1_000 {
            waiting.next().await.ok_or("one waits")??;
        }
    }
    while let Some(stored) = waiting.next().await {
        stored?;
    }
    Ok(())
}
